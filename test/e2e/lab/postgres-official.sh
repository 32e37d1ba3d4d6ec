#!/bin/sh
# Stands in for docker-entrypoint.sh of the image postgres on Docker Hub, as far as examples/ rely on it: the same
# variables, places and owner of files. Any other command is run as it is.
set -e
[ "$1" = postgres ] || exec "$@"

if [ "$(id -u)" = 0 ]; then
	mkdir -p "$PGDATA"
	chmod 700 "$PGDATA"
	chown -R nobody "$PGDATA"
	# shellcheck disable=SC2016
	exec su -s /bin/sh nobody -c 'exec "$0" "$@"' -- docker-entrypoint.sh "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
	echo "${POSTGRES_PASSWORD:?}" >/tmp/password
	initdb --no-sync --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=trust -D "$PGDATA" >/dev/null
	echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
	echo "listen_addresses = '*'" >>"$PGDATA/postgresql.conf"
	echo "unix_socket_directories = '/tmp'" >>"$PGDATA/postgresql.conf"
	echo "create database $POSTGRES_USER" | postgres --single -D "$PGDATA" postgres >/dev/null
	for script in /docker-entrypoint-initdb.d/*.sh; do
		# shellcheck disable=SC1090
		[ ! -e "$script" ] || . "$script"
	done
fi
exec "$@"
