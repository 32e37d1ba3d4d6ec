#!/bin/sh
# Serves PostgreSQL, with a new cluster at the first start. Nothing is synced to the disk: it need not
# outlive the machine.
set -e
data=/data/postgres
settings="-c listen_addresses=* -c unix_socket_directories=/tmp -c fsync=off -c full_page_writes=off
	-c shared_buffers=16MB -c jit=off -c wal_retrieve_retry_interval=200ms -c cluster_name=$NAME"

# A new primary, set up with a server of its own that nobody else can reach.
create() {
	initdb --no-sync --username=postgres --encoding=UTF8 --locale=C --auth-local=trust --auth-host=scram-sha-256 -D $data >/dev/null
	echo 'host replication replica all scram-sha-256
host all all all scram-sha-256' >>$data/pg_hba.conf
	{
		echo "create user legate password 'secret';"
		echo "create user replica replication password 'secret';"
		echo "create user app password 'secret';"
		echo "create table writes (at timestamptz default now());"
		echo "grant insert on writes to app;"
	} | postgres --single -D $data -c fsync=off postgres >/dev/null
}

copy() {
	until pg_basebackup --no-sync --checkpoint=fast --write-recovery-conf -D $data \
		-d "host=$STANDBY_OF user=replica password=secret"; do
		rm -rf $data
		sleep 0.2
	done
}

if [ ! -e $data/PG_VERSION ]; then
	if [ -n "$STANDBY_OF" ]; then copy; else create; fi
fi
# shellcheck disable=SC2086
exec postgres -D $data $settings
