SHELL := /bin/bash
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# grpcnotrace: gRPC's trace pages, which nothing serves, are 0.4 MB of templates.
GOBUILD := go build -trimpath -tags grpcnotrace -ldflags '-s -w -X legate/internal/cli.version=$(VERSION)'

.DEFAULT_GOAL := help
.PHONY: help run build test lint bench image clean

help:
	@echo 'make run     build, then start a demo to play with: no Docker, no root'
	@echo 'make build   bin/legate, one static binary'
	@echo 'make test    the whole suite, race detector on; first installs what it lacks, where it may'
	@echo '             SIM=1h: only the simulated kernel; SOAK=30m: only the strain tests, the soak that long'
	@echo 'make lint    gofmt, go vet, golangci-lint'
	@echo 'make bench   what Legate costs beside HAProxy, nginx, socat, Go and no proxy; QUICK=1 to try it'
	@echo '             ONLY=agent: from container to container; ONLY=links: an agent with 1,000 links'
	@echo 'make image   the image legate:latest on the engine of DOCKER_HOST, without a registry'
	@echo 'make clean   remove bin/ (built tools and engines stay in the cache folder)'

run: build
	@exec bin/legate demo

build:
	@CGO_ENABLED=0 $(GOBUILD) -o bin/legate ./cmd/legate

test: build
	@test/setup/packages.sh $(if $(SIM)$(SOAK),ip)
	@$(if $(SIM)$(SOAK),,test/setup/engine.sh && test/setup/servers.sh)
	@go run ./test/run -sim '$(SIM)' -soak '$(SOAK)'

lint:
	@test/setup/lint.sh

# Not rows of the table, and each alone with ONLY=: registry, agent, and links, which agent has, too.
bench: build
	@test/setup/packages.sh haproxy nginx /usr/lib/nginx/modules/ngx_stream_module.so socat strace $(if $(filter-out agent links,$(ONLY)),,dockerd docker ip iptables busybox)
	@$(if $(filter-out registry,$(ONLY)),,test/setup/servers.sh)
	@$(if $(filter-out agent links,$(ONLY)),,test/setup/engine.sh)
	@CGO_ENABLED=0 go build -o bin/bench/ ./test/bench
	@$(if $(filter registry agent links,$(ONLY)),,bin/bench/bench)
	@$(if $(filter-out registry,$(ONLY)),,go test -run '^$$' -bench Registry -benchtime 1x ./test/soak)
	@$(if $(filter-out agent,$(ONLY)),,bin/bench/bench agent)
	@$(if $(filter links,$(ONLY)),bin/bench/bench links)

# The classic builder, which every engine has, does not set TARGETARCH itself.
image:
	@arch=$$(docker version --format '{{.Server.Arch}}') && [ -n "$$arch" ] || \
		{ echo 'error: no Docker engine answers; hint: start Docker or set DOCKER_HOST' >&2; exit 1; }; \
	root=bin/image/linux-$$arch && mkdir -p $$root/bin && \
	CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GOBUILD) -o $$root/bin/legate ./cmd/legate && \
	ln -sfn legate $$root/bin/env && \
	DOCKER_BUILDKIT=0 docker build --quiet --build-arg TARGETARCH=$$arch --build-arg VERSION=$(VERSION) --tag legate:latest .

clean:
	@rm -rf bin
