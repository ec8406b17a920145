#!/bin/sh
# redis-server with two I/O threads: eight clients fill, overwrite and delete keys of every
# type, and each value comes back as it was written; a dump that a forked child writes while clients
# go on writing, and one of a quiet server, load with the same contents; the shutdown is clean.
. "$(dirname "$0")/common.sh"
need redis-server python3

bound_to_library redis-server --version

server=
stop_server()
{
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    rm -rf "$work"
}
trap stop_server EXIT

start_server()
{
    LD_PRELOAD=$library redis-server --port 0 --unixsocket "$work/socket" --dir "$work" --save "" \
        --io-threads 2 --io-threads-do-reads yes --dbfilename dump.rdb >>log 2>&1 &
    server=$!
    python3 "$here/redis_check.py" "$work/socket" wait || fail "no server: $(tail -n 20 log)"
    grep -qF "$library" "/proc/$server/maps" || fail "the library is not in the server"
}

stop_cleanly()
{
    python3 "$here/redis_check.py" "$work/socket" shutdown
    wait "$server" || fail "the server left with $?: $(tail -n 20 log)"
    server=
}

check()
{
    python3 "$here/redis_check.py" "$work/socket" "$@" || fail "$*: $(tail -n 20 log)"
}

start_server
check fill
check save-while-writing
stop_cleanly

start_server
check verify-dump
check fill
quiet=$(check contents)
check save
stop_cleanly

start_server
same "contents after a reload" "$quiet" "$(check contents)"
stop_cleanly

if grep -qiE 'crashed|BUG REPORT|ASSERTION' log; then
    fail "$(tail -n 40 log)"
fi
echo "redis: $quiet the same after two dumps by forked children and two reloads"
