#!/bin/sh
# Tells Consul where a container's port is published, or that it is so no longer.
#
#   register.sh add SERVICE CONTAINER PORT
#   register.sh remove SERVICE CONTAINER
#
# Run it on the container's host. HOST_ADDRESS is the IPv4 address of this host for the others, CONSUL_HTTP_ADDR is where
# Consul is. It needs nothing but Docker: the consul command is taken from its image.
set -eu

fail() {
	echo "error: $1" >&2
	echo "hint: $2" >&2
	exit "${3:-1}"
}

# In the host's network, so that it reaches Consul as the host does.
consul() { docker run --rm --network host -e CONSUL_HTTP_ADDR hashicorp/consul:1.21 "$@"; }

case "${1:-} $#" in
'add 4' | 'remove 3') ;;
*) fail "this is not how to call it: $0 $*" "$0 add SERVICE CONTAINER PORT, or $0 remove SERVICE CONTAINER" 2 ;;
esac
service=$2 container=$3
[ -n "${HOST_ADDRESS:-}" ] || fail "HOST_ADDRESS is not set" "export HOST_ADDRESS=192.168.1.52, with the address of this host" 2
[ -n "${CONSUL_HTTP_ADDR:-}" ] || fail "CONSUL_HTTP_ADDR is not set" "export CONSUL_HTTP_ADDR=192.168.1.52:8500, with the address of Consul" 2
# Two hosts may have a container of one name.
id=$service-$HOST_ADDRESS-$container

if [ "$1" = remove ]; then
	consul services deregister -id "$id"
	exit
fi
published=$(docker port "$container" "$4/tcp") || fail "port $4 of container $container is not published" "docker run -P, and see docker ps"
# Perhaps two lines, 0.0.0.0:49153 and one for IPv6, whose port may be another one.
port=$(echo "$published" | head -n 1)
port=${port##*:}
consul services register -name "$service" -id "$id" -address "$HOST_ADDRESS" -port "$port"
echo "$service: $HOST_ADDRESS:$port ($container)"
