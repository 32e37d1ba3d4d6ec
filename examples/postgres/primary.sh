# shellcheck shell=sh
# The image of PostgreSQL sources this when it has made a new database: the standby may copy it.
# Without this line only a client on the server's own localhost may.
echo 'host replication app samenet scram-sha-256' >>"$PGDATA/pg_hba.conf"
