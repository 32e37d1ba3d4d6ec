# Sourced by the scripts beside it: where built tools and engines are kept, and how one gets there.
# Outside the tree, so that a fresh clone and `make clean` do not pay minutes for them again.
cache=${LEGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/legate}

# build_once NAME FUNCTION: calls FUNCTION with a new folder to build into, unless $cache/NAME is
# there. The folder gets its name only when FUNCTION succeeded, so half a build is never used; the
# lock lets a second run wait for the first one instead of building it, too.
build_once() {
	local name=$1 build=$2 began=$SECONDS
	[ ! -d "$cache/$name" ] || return 0
	mkdir -p "$cache"
	exec 9>"$cache/$name.lock"
	flock 9
	if [ ! -d "$cache/$name" ]; then
		rm -rf "$cache/$name.new"
		mkdir "$cache/$name.new"
		"$build" "$cache/$name.new" || return 1
		mv "$cache/$name.new" "$cache/$name"
		echo "setup: $name built in $((SECONDS - began)) s, kept in $cache"
	fi
	exec 9>&-
}
