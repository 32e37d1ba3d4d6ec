#!/bin/sh
# Tells etcd where a container's port is published, or that it is so no longer.
#
#   register.sh add SERVICE CONTAINER PORT
#   register.sh remove SERVICE CONTAINER
#
# Run it on the container's host. HOST_ADDRESS is the IPv4 address of this host for the others, ETCDCTL_ENDPOINTS is where
# etcd is. It needs nothing but Docker: the etcdctl command is taken from etcd's image.
set -eu

fail() {
	echo "error: $1" >&2
	echo "hint: $2" >&2
	exit "${3:-1}"
}

# In the host's network, so that it reaches etcd as the host does.
etcdctl() { docker run --rm --network host -e ETCDCTL_ENDPOINTS quay.io/coreos/etcd:v3.6.5 etcdctl "$@"; }

case "${1:-} $#" in
'add 4' | 'remove 3') ;;
*) fail "this is not how to call it: $0 $*" "$0 add SERVICE CONTAINER PORT, or $0 remove SERVICE CONTAINER" 2 ;;
esac
service=$2 container=$3
[ -n "${HOST_ADDRESS:-}" ] || fail "HOST_ADDRESS is not set" "export HOST_ADDRESS=192.168.1.52, with the address of this host" 2
[ -n "${ETCDCTL_ENDPOINTS:-}" ] || fail "ETCDCTL_ENDPOINTS is not set" "export ETCDCTL_ENDPOINTS=192.168.1.52:2379, with the address of etcd" 2
# Two hosts may have a container of one name.
key=/services/$service/$HOST_ADDRESS-$container

if [ "$1" = remove ]; then
	[ "$(etcdctl del "$key")" = 1 ] || fail "etcd has no $key" "etcdctl get --prefix /services/$service"
	exit
fi
published=$(docker port "$container" "$4/tcp") || fail "port $4 of container $container is not published" "docker run -P, and see docker ps"
# Perhaps two lines, 0.0.0.0:49153 and one for IPv6, whose port may be another one.
port=$(echo "$published" | head -n 1)
port=${port##*:}
etcdctl put "$key" "$HOST_ADDRESS:$port" >/dev/null
echo "/services/$service: $HOST_ADDRESS:$port ($container)"
