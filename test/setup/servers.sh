#!/usr/bin/env bash
# Builds the registries that the tests start and that Debian does not have: Consul, and a current
# etcd (Debian's is 3.4, which is tested as well). Once; minutes.
set -euo pipefail
# shellcheck source=test/setup/cache.sh
. "$(dirname "$0")/cache.sh"
# shellcheck source=test/setup/progress.sh
. "$(dirname "$0")/progress.sh"

consul=v1.15.4     # later ones do not build outside their own tree
consul_api=v1.25.1 # the one that it needs; its own go.mod replaces it
etcd=v3.7.3

# build_module MODULE@VERSION TO [MODULE@VERSION...]: the program of a module that cannot be installed
# by `go install`, since it replaces modules of its own; in a module of its own, so that the product's
# go.mod neither decides nor learns anything here.
build_module() {
	local module=${1%@*} version=$1 to=$2 work
	shift 2
	work=$(mktemp -d)
	(
		set -e
		cd "$work"
		export GOFLAGS=
		go mod init build
		go get -tool "$version"
		for also in "$@"; do go get "$also"; done
		CGO_ENABLED=0 go build -ldflags '-s -w' -o "$to" "$module"
	) || { rm -rf "$work" && return 1; }
	rm -rf "$work"
}

build_servers() {
	progress "consul $consul" build_module "github.com/hashicorp/consul@$consul" "$1/consul" "github.com/hashicorp/consul/api@$consul_api" || return 1
	progress "etcd $etcd" build_module "go.etcd.io/etcd/server/v3@$etcd" "$1/etcd"
}

name=servers-consul-$consul-etcd-$etcd
build_once "$name" build_servers || { echo "setup: Consul and etcd did not build, so their tests are skipped" && exit 0; }
ln -sfn "$name" "$cache/servers" # what the tests look for, whatever the versions
