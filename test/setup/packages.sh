#!/usr/bin/env bash
# packages.sh [COMMAND...]
# Installs the Debian or Ubuntu packages that the test suite needs and this machine lacks, or of them
# only those that bring the named commands. Where it may not (no root, another system) it names them
# and succeeds: the suite runs what it can and lists the rest. Instant when nothing is missing.
set -euo pipefail
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
only=" $* "

# What must be there (a command, or a file, perhaps with a * for its version), the package that
# brings it, and what the suite does with it. Commands decide, not packages: someone who has
# docker-ce must not get docker.io on top.
needs() {
	cat <<-'LIST'
		dockerd|docker.io|a real Docker engine for the end-to-end tests
		docker|docker.io|the docker command that the end-to-end tests type
		docker-compose|docker-compose|the Compose file of examples/ on the engine that Debian ships
		redis-server|redis-server|the server behind the ambassador
		redis-cli|redis-tools|the client in front of it
		socat|socat|the ambassador of 2013, the baseline
		ip|iproute2|network namespaces that stand for hosts
		iptables|iptables|published ports of those Docker engines
		dnsmasq|dnsmasq-base|a DNS server behind a UDP link
		etcd|etcd-server|an etcd of the old kind (3.4) to discover endpoints in
		etcdctl|etcd-client|what is registered in etcd, as a user types it
		curl|curl|the examples of docs/api.md, typed as they stand
		busybox|busybox-static|a shell in the test images
		haproxy|haproxy|a proxy that the benchmarks compare with
		nginx|nginx|a proxy that the benchmarks compare with, and a web server whose health is checked
		/usr/lib/postgresql/*/bin/initdb|postgresql|PostgreSQL primaries and standbys whose health is checked
		mariadbd|mariadb-server-core|a MySQL server whose health is checked
		/usr/lib/nginx/modules/ngx_stream_module.so|libnginx-mod-stream|nginx as a proxy of streams
		systemd-analyze|systemd|what is wrong with the systemd units, and how much they leave open; the agent under its own
		strace|strace|proof that bulk data is spliced, and counts of system calls
		gcc|gcc|the race detector and runc
		/usr/include/stdlib.h|libc6-dev|the race detector and runc
		/usr/include/seccomp.h|libseccomp-dev|runc for the current Docker engine
		pkg-config|pkg-config|runc for the current Docker engine
	LIST
}

present() {
	case $1 in
	/*) compgen -G "$1" >/dev/null ;;
	*) command -v "$1" >/dev/null 2>&1 ;;
	esac
}

missing() {
	local what package why
	while IFS='|' read -r what package why; do
		case $only in '  ' | *" $what "*) ;; *) continue ;; esac
		present "$what" || printf '%s|%s|%s\n' "$what" "$package" "$why"
	done < <(needs)
}

policy=/usr/sbin/policy-rc.d
saved=$policy.before-legate

# Also tidies up after a run that was killed outright: its file is known by its second line.
restore_policy() {
	if [ -e "$saved" ]; then
		mv -f "$saved" "$policy"
	elif grep -qs '^# legate: ' "$policy"; then
		rm -f "$policy"
	fi
}

# Debian starts the services of what it installs; a policy-rc.d that answers 101 forbids it. It must
# not outlive the install, or the next package that the machine's owner installs stays down as well.
forbid_services() {
	restore_policy
	trap restore_policy EXIT
	trap 'exit 130' INT TERM HUP
	{ [ ! -e "$policy" ] || cp -p "$policy" "$saved"; } &&
		printf '#!/bin/sh\n# legate: for the length of one install\nexit 101\n' >"$policy.new" &&
		chmod 755 "$policy.new" &&
		mv -f "$policy.new" "$policy"
}

# Newer releases ship the docker command apart from the engine.
with_client() {
	case " $* " in *' docker.io '*) ;; *) echo "$*" && return ;; esac
	if ! present docker && apt-cache show docker-cli >/dev/null 2>&1; then echo "$* docker-cli"; else echo "$*"; fi
}

install() {
	local packages
	export DEBIAN_FRONTEND=noninteractive
	forbid_services || return 1
	apt-get update -q
	packages=$(with_client "$@")
	# --no-remove: rather fail than take away a package that somebody chose.
	# shellcheck disable=SC2086
	apt-get install -q -y --no-install-recommends --no-remove $packages
}

list=$(missing)
[ -n "$list" ] || exit 0
packages=$(cut -d'|' -f2 <<<"$list" | sort -u | tr '\n' ' ')

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "setup: missing on this machine, so what needs them is left out:"
	while IFS='|' read -r what package why; do echo "  $what ($package): $why"; done <<<"$list"
	echo "setup: as root on Debian or Ubuntu this would install them: apt-get install $packages"
	exit 0
fi

echo "setup: installing with apt-get, without starting any service:"
while IFS='|' read -r what package why; do echo "  $package: $why"; done <<<"$list"
# shellcheck disable=SC2086
install $packages || echo "setup: apt-get failed; it goes on with what is there"

list=$(missing)
[ -z "$list" ] || echo "setup: still missing: $(cut -d'|' -f1 <<<"$list" | tr '\n' ' ')"
