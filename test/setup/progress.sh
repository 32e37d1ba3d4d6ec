# Sourced by the scripts beside it, which build what takes minutes.

# progress WHAT COMMAND...: a line every 20 s while COMMAND runs; its output only when it fails.
progress() {
	local what=$1 began=$SECONDS log pid
	shift
	log=$(mktemp)
	echo "setup: building $what"
	"$@" >"$log" 2>&1 &
	pid=$!
	# shellcheck disable=SC2064 # this pid, now
	trap "kill $pid 2>/dev/null || true" EXIT # a Ctrl-C does not reach what runs in the background
	while kill -0 "$pid" 2>/dev/null; do
		sleep 1
		(((SECONDS - began) % 20 != 19)) || echo "setup: building $what, $((SECONDS - began + 1)) s"
	done
	local status=0
	wait "$pid" || status=$?
	trap - EXIT
	((status == 0)) || cat "$log"
	rm -f "$log"
	return "$status"
}
