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

die() {
    echo "compare.sh: $*" >&2
    exit 1
}

root=$(cd "$(dirname "$0")/.." && pwd)
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

# The first file of that name pattern among this machine's libraries.
library() {
    for folder in "/usr/lib/$(uname -m)-linux-gnu" /usr/lib64 /usr/lib /usr/local/lib; do
        for file in "$folder"/$1; do
            if [ -e "$file" ]; then
                echo "$file"
                return
            fi
        done
    done
}

# The first of the packages that this system knows: their names change with the release.
known_package() {
    for package in "$@"; do
        if apt-cache show "$package" 2>/dev/null | grep -q '^Package:'; then
            echo "$package"
            return
        fi
    done
    echo "$1"
}

has_header() {
    for folder in /usr/include "/usr/include/$(uname -m)-linux-gnu" /usr/local/include; do
        [ ! -e "$folder/$1" ] || return 0
    done
    return 1
}

missing_packages() {
    command -v cmake >/dev/null || echo cmake
    command -v make >/dev/null || echo make
    command -v c++ >/dev/null || echo g++
    command -v python3 >/dev/null || echo python3
    has_header benchmark/benchmark.h || echo libbenchmark-dev
    has_header ck_spinlock.h || echo libck-dev
    [ -n "$(library 'libjemalloc.so.[0-9]*')" ] || echo libjemalloc2
    [ -n "$(library 'libmimalloc.so.[0-9]*')" ] || known_package libmimalloc2.0 libmimalloc3
    [ -n "$(library 'libtcmalloc_minimal.so.[0-9]*')" ] ||
        known_package libtcmalloc-minimal4 libtcmalloc-minimal4t64
    [ -n "$(library 'libtbbmalloc_proxy.so.[0-9]*')" ] || echo libtbbmalloc2
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

missing=$(missing_packages | tr '\n' ' ')
if [ -n "$missing" ]; then
    [ "$install" = yes ] || die "missing packages: $missing"
    command -v apt-get >/dev/null || die "missing, and no apt-get here: $missing"
    echo "compare.sh: installing $missing" >&2
    as_root apt-get update -qq >&2
    # The names may only be known after the update.
    missing=$(missing_packages | tr '\n' ' ')
    # shellcheck disable=SC2086 # one word for each package
    as_root apt-get install -y -qq --no-install-recommends $missing >&2
    missing=$(missing_packages | tr '\n' ' ')
    [ -z "$missing" ] || die "still missing after the installation: $missing"
fi

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

set -- "jemalloc=$(library 'libjemalloc.so.[0-9]*')" \
    glibc= \
    "mimalloc=$(library 'libmimalloc.so.[0-9]*')" \
    "tcmalloc=$(library 'libtcmalloc_minimal.so.[0-9]*')" \
    "tbbmalloc=$(library 'libtbbmalloc_proxy.so.[0-9]*')" \
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
