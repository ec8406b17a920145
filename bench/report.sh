#!/bin/sh
# SPDX-License-Identifier: MIT
# The whole comparison in one command: allocators on synthetic workloads and real programs, as a report.
set -eu

usage() {
    cat <<'END'
usage: bench/report.sh [options] [name=path.so ...]

Runs the workloads of freehold-workloads and real programs (redis, memcached, nginx, sqlite, gcc, git,
python, node, perl, xz) under glibc, jemalloc, mimalloc, tcmalloc, tbbmalloc, Freehold, and each
name=path.so, in turns, and writes report.md, report.json and plots. A name=path.so replaces the usual
allocator of that name; put versions in the names, as in mimalloc-3.1=path.so.

  --quick        one small round, in ten minutes on two cores
  --rounds N     rounds (default 5; some 45 minutes)
  --only RE      only workloads whose name matches
  --out DIR      where the report goes (default <build>/report)
  --no-install   leave out what is not here instead of installing it
  --no-build     use what is in the build directory as it is
  --seed N       of the order of runs (default: random; the report says it)
  --timeout S    seconds after which a run counts as hung (default 300; quick: 120)
  --list         only say what would run
  -h, --help     this text

FH_BUILD names the build directory to use; otherwise build/bench is made.
END
}

root=$(cd "$(dirname "$0")/.." && pwd)
me=report.sh
. "$root/bench/peers.sh"
PATH=$PATH:/usr/sbin:/sbin
PYTHONDONTWRITEBYTECODE=1
export PATH PYTHONDONTWRITEBYTECODE
build=${FH_BUILD:-$root/build/bench}
out=
install=yes
wants_build=yes
extra=
options=

add_option() {
    options="$options
$1"
}

while [ $# -gt 0 ]; do
    case $1 in
    --rounds | --only | --seed | --timeout | --out)
        [ $# -ge 2 ] || die "$1 needs a value"
        if [ "$1" = --out ]; then out=$2; else add_option "$1=$2"; fi
        shift
        ;;
    --quick | --list) add_option "$1" ;;
    --no-install) install=no ;;
    --no-build) wants_build=no ;;
    -h | --help)
        usage
        exit 0
        ;;
    [!-]*=*)
        [ -f "${1#*=}" ] || die "no such library: ${1#*=}"
        extra="$extra
$1"
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift
done

# ---- Packages ------------------------------------------------------------------------------------

missing_tools() {
    package_of python3 python3
    package_of cc gcc
    has_header stdio.h || echo libc6-dev
    [ "$wants_build" = yes ] || return 0
    package_of cmake cmake
    package_of make make
    package_of c++ g++
}

missing_programs() {
    package_of redis-server redis-server
    package_of redis-benchmark redis-tools
    package_of memcached memcached
    package_of nginx nginx
    package_of wrk wrk
    package_of sqlite3 sqlite3
    package_of gcc gcc
    package_of git git
    package_of node nodejs
    package_of perl perl
    package_of xz xz-utils
    has_header ck_pr.h || echo libck-dev # without it Freehold's atomic operations are C11's
}

missing_anything() {
    missing_tools
    missing_programs
    missing_peers
}

install_missing missing_anything
[ -z "$missing" ] || echo "report.sh: going on without $missing" >&2
missing=$(missing_tools | tr '\n' ' ')
[ -z "$missing" ] || die "cannot do without $missing"

# ---- Build ---------------------------------------------------------------------------------------

build_all() {
    mkdir -p "$build"
    echo "report.sh: building in $build" >&2
    set -- "$build" # again, for it may have been made before a package was there
    [ -f "$build/CMakeCache.txt" ] || set -- -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release \
        -DFH_TESTS=OFF -DFH_STRESS=OFF
    cmake "$@" >"$build/configure.log" 2>&1 || {
        tail -n 20 "$build/configure.log" >&2
        die "cmake failed"
    }
    cmake --build "$build" --parallel "$(nproc)" --target freehold-malloc freehold-workloads \
        >"$build/report-build.log" 2>&1 || {
        tail -n 20 "$build/report-build.log" >&2
        die "the build in $build failed"
    }
}

[ "$wants_build" = no ] || build_all
[ -d "$build" ] || die "no such folder: $build"
build=$(cd "$build" && pwd)

# ---- Run -----------------------------------------------------------------------------------------

# Whether the command line has an allocator of that name, which then replaces the usual one.
is_replaced() {
    case $extra in *"
$1="*) return 0 ;; esac
    return 1
}

set --
is_replaced glibc || set -- glibc=
for name in jemalloc mimalloc tcmalloc tbbmalloc; do
    path=$(peer $name)
    [ -z "$path" ] || is_replaced $name || set -- "$@" "$name=$path"
done
if [ -f "$build/libfreehold-malloc.so" ]; then
    is_replaced freehold || set -- "$@" "freehold=$build/libfreehold-malloc.so"
else
    echo "report.sh: without freehold: there is no $build/libfreehold-malloc.so" >&2
fi
while IFS= read -r word; do
    [ -z "$word" ] || set -- "$@" "$word"
done <<END
$extra
$options
END

exec python3 "$root/bench/report.py" --build "$build" --out "${out:-$build/report}" "$@"
