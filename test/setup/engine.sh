#!/usr/bin/env bash
# Builds the current Docker engine, which Debian does not have, from its Go modules: dockerd and
# docker-proxy, and the runc that it needs (Debian 12's lacks the time namespace). Once; minutes.
set -euo pipefail
# shellcheck source=test/setup/cache.sh
. "$(dirname "$0")/cache.sh"
# shellcheck source=test/setup/progress.sh
. "$(dirname "$0")/progress.sh"

docker=29.8.1
moby=v2.0.0-beta.24 # the module version of Docker 29.8.1
runc=v1.5.1

# Outside any module, so that the product's go.mod neither decides nor learns anything here.
build_engine() {
	local to=$1
	cd "$to" || return 1
	progress "dockerd and docker-proxy $docker" env GOBIN="$to" GOFLAGS= CGO_ENABLED=0 go install \
		-tags 'netgo osusergo exclude_graphdriver_btrfs no_systemd' \
		-ldflags "-s -w -X github.com/moby/moby/v2/dockerversion.Version=$docker" \
		"github.com/moby/moby/v2/cmd/dockerd@$moby" "github.com/moby/moby/v2/cmd/docker-proxy@$moby" || return 1
	# Without the seccomp tag every container would need seccomp=unconfined.
	progress "runc $runc" env GOBIN="$to" GOFLAGS= CGO_ENABLED=1 go install -tags seccomp \
		"github.com/opencontainers/runc@$runc"
}

for need in go gcc pkg-config; do
	command -v "$need" >/dev/null || { echo "setup: no $need, so Docker $docker is not built" && exit 0; }
done
pkg-config --exists libseccomp || { echo "setup: no libseccomp-dev, so Docker $docker is not built" && exit 0; }
build_once "engine-$docker" build_engine || { echo "setup: Docker $docker did not build, so its tests are skipped" && exit 0; }
ln -sfn "engine-$docker" "$cache/engine" # what the tests look for, whatever the version
