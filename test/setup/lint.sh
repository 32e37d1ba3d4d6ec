#!/usr/bin/env bash
# gofmt, go vet and golangci-lint over the whole tree; every one of them runs, also after a complaint
# of the one before. The linter's version is pinned in tools/go.mod and built once.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=test/setup/cache.sh
. test/setup/cache.sh

module=github.com/golangci/golangci-lint/v2
version=$(awk -v m="$module" '$1 == m || $2 == m { print $NF == "indirect" ? $(NF - 2) : $NF }' tools/go.mod)
# A linter refuses code for a newer Go than the one that built it.
name=golangci-lint-$version-$(go env GOVERSION)

build_lint() {
	echo "setup: building golangci-lint $version, about 3 minutes the first time"
	# `go tool` would link it again for every run.
	CGO_ENABLED=0 go -C tools build -ldflags '-s -w' -o "$1/golangci-lint" "$module/cmd/golangci-lint"
}
build_once "$name" build_lint

bad=0
unformatted=$(git ls-files --cached --others --exclude-standard '*.go' | xargs -r gofmt -l)
if [ -n "$unformatted" ]; then
	echo "not formatted; run gofmt -w on:"
	echo "$unformatted"
	bad=1
fi
# With the pump's invariant checks and without: each is a build of its own.
for tags in '' pumpcheck; do
	go vet -tags "$tags" ./... || bad=1
	"$cache/$name/golangci-lint" run --build-tags "$tags" ./... || bad=1
done
exit $bad
