# `make image` lays out bin/image/linux-ARCH/bin with legate and env (the same program, so that
# `docker exec NAME env` answers although there is no shell) and builds this. For several platforms:
#
#   for arch in amd64 arm64; do
#     CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -tags grpcnotrace -ldflags '-s -w' -o bin/image/linux-$arch/bin/legate ./cmd/legate
#     ln -sfn legate bin/image/linux-$arch/bin/env
#   done
#   docker buildx build --platform linux/amd64,linux/arm64 --tag legate .
FROM scratch
ARG TARGETARCH
ARG VERSION=unknown
LABEL org.opencontainers.image.title="legate" \
      org.opencontainers.image.description="An ambassador for plain Docker hosts: carries TCP, UDP and unix connections to wherever the service is now" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION"
COPY bin/image/linux-$TARGETARCH /
ENV PATH=/bin
# Whether the process serves, never whether its backends do: a restart would not mend those, and
# would cut the connections that still work.
HEALTHCHECK --interval=10s --timeout=3s CMD ["/bin/legate", "status"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/bin/legate"]
CMD ["run"]
