#!/bin/sh
# SPDX-License-Identifier: MIT
# Compare allocators: build what is needed, then run bench/compare.py, which measures and reports.
set -eu

usage() {
    cat <<'END'
usage: bench/compare.sh [options] [name=path.so ...]

Runs freehold-bench under glibc, jemalloc, mimalloc, tcmalloc, tbbmalloc, two reference points (one
global spin lock; bare free lists), Freehold, and each name=path.so, one process at a time in turns.

  --rounds N     turns for each allocator (default 5)
  --min-time S   seconds for each benchmark (default 0.05)
  --filter RE    only benchmarks whose name matches
  --out DIR      where table.md, results.json and plot.svg go (default <build>/compare)
  --quick        one round of 0.01 s a benchmark: shows that it works, not who is faster
  --no-install   name missing packages instead of installing them
  -h, --help     this text

FH_BUILD names the build directory to use; otherwise build/bench is made.
END
}

root=$(cd "$(dirname "$0")/.." && pwd)
me=compare.sh
. "$root/bench/peers.sh"
build=${FH_BUILD:-$root/build/bench}
rounds=5
min_time=0.05
filter=.
out=
install=yes
extra=

while [ $# -gt 0 ]; do
    case $1 in
    --rounds | --min-time | --filter | --out)
        [ $# -ge 2 ] || die "$1 needs a value"
        case $1 in
        --rounds) rounds=$2 ;;
        --min-time) min_time=$2 ;;
        --filter) filter=$2 ;;
        --out) out=$2 ;;
        esac
        shift
        ;;
    --quick)
        rounds=1
        min_time=0.01
        ;;
    --no-install) install=no ;;
    -h | --help)
        usage
        exit 0
        ;;
    *=*)
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

missing_packages() {
    package_of cmake cmake
    package_of make make
    package_of c++ g++
    package_of python3 python3
    has_header benchmark/benchmark.h || echo libbenchmark-dev
    has_header ck_spinlock.h || echo libck-dev
    missing_peers
}

install_missing missing_packages
[ -z "$missing" ] || die "missing packages: $missing"

# ---- Build ---------------------------------------------------------------------------------------

if [ ! -f "$build/CMakeCache.txt" ]; then
    mkdir -p "$build"
    set -- -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release
else
    set -- "$build" # again, for it may have been made before a package was there
fi
cmake "$@" >"$build/configure.log" 2>&1 || {
    cat "$build/configure.log" >&2
    die "cmake failed"
}
build=$(cd "$build" && pwd)
cmake --build "$build" --target bench-all >"$build/bench-build.log" 2>&1 || {
    cat "$build/bench-build.log" >&2
    die "the build in $build failed"
}

# ---- Compare -------------------------------------------------------------------------------------

freehold=$build/libfreehold-malloc.so
out=${out:-$build/compare}

set -- "jemalloc=$(peer jemalloc)" glibc= "mimalloc=$(peer mimalloc)" "tcmalloc=$(peer tcmalloc)" \
    "tbbmalloc=$(peer tbbmalloc)" \
    "spinlock=$build/bench/libbench-spinlock.so" \
    "freelist=$build/bench/libbench-freelist.so"
if [ -f "$freehold" ]; then
    set -- "$@" "freehold=$freehold"
else
    echo "compare.sh: skipping freehold: there is no $freehold" >&2
fi
while IFS= read -r pair; do
    [ -z "$pair" ] || set -- "$@" "$pair"
done <<END
$extra
END

exec python3 "$root/bench/compare.py" --binary "$build/bench/freehold-bench" --rounds "$rounds" \
    --min-time "$min_time" --filter "$filter" --out "$out" "$@"
