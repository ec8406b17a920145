#!/bin/sh
# SPDX-License-Identifier: MIT
# Python in one command: python3 under allocators, on ten workloads, after bursts and as a web service.
set -eu

usage() {
    cat <<'END'
usage: bench/python.sh [options] [name=path.so ...]

Runs python3 with pymalloc, with malloc from glibc, jemalloc, mimalloc, tcmalloc, Freehold and each
name=path.so (preloaded, PYTHONMALLOC=malloc), under freehold-python in each of its modes, and with
`import freehold`; in turns, and writes python.md and python.json. A name=path.so replaces the usual
allocator of that name; put versions in the names, as in mimalloc-3.1=path.so.

  --quick        one round of fewer passes, in five minutes on two cores
  --rounds N     rounds (default 5; some twenty-five minutes)
  --only RE      only workloads whose name matches
  --ways RE      only ways whose name matches, and pymalloc
  --out DIR      where the report goes (default <build>/python-report)
  --python PATH  the interpreter (default: /usr/bin/python3, or else the first python3)
  --no-install   leave out what is not here instead of installing it
  --no-build     use what is in the build directory as it is
  --seed N       of the order of runs (default: random; the report says it)
  --timeout S    seconds after which a run counts as hung (default 120)
  --list         only say what would run
  -h, --help     this text

FH_BUILD names the build directory to use; otherwise build/bench is made.
END
}

root=$(cd "$(dirname "$0")/.." && pwd)
me=python.sh
. "$root/bench/peers.sh"
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE
build=${FH_BUILD:-$root/build/bench}
python=
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
    --rounds | --only | --ways | --seed | --timeout | --out | --python)
        [ $# -ge 2 ] || die "$1 needs a value"
        case $1 in
        --out) out=$2 ;;
        --python) python=$2 ;;
        *) add_option "$1=$2" ;;
        esac
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

# Debian's own python3, where there is one, for its development files are what the launcher is built with.
[ -n "$python" ] || python=$([ -x /usr/bin/python3 ] && echo /usr/bin/python3 || echo python3)

missing_tools() {
    package_of python3 python3
    package_of cc gcc
    has_header stdio.h || echo libc6-dev
    [ "$wants_build" = yes ] || return 0
    package_of cmake cmake
    package_of make make
    package_of c++ g++
}

has_python_headers() {
    for file in /usr/include/python3*/Python.h /usr/local/include/python3*/Python.h; do
        [ ! -e "$file" ] || return 0
    done
    return 1
}

missing_anything() {
    missing_tools
    package_of wrk wrk
    has_python_headers || echo libpython3-dev # without them neither freehold-python nor the module
    has_header ck_pr.h || echo libck-dev      # without it Freehold's atomic operations are C11's
    missing_peers
}

install_missing missing_anything
[ -z "$missing" ] || echo "$me: going on without $missing" >&2
missing=$(missing_tools | tr '\n' ' ')
[ -z "$missing" ] || die "cannot do without $missing"

# ---- Build ---------------------------------------------------------------------------------------

build_all() {
    mkdir -p "$build"
    echo "$me: building in $build" >&2
    set -- "$build" # again, for it may have been made before a package was there
    [ -f "$build/CMakeCache.txt" ] || set -- -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release \
        -DFH_TESTS=OFF -DFH_STRESS=OFF
    cmake "$@" >"$build/configure.log" 2>&1 || {
        tail -n 20 "$build/configure.log" >&2
        die "cmake failed"
    }
    cmake --build "$build" --parallel "$(nproc)" >"$build/python-build.log" 2>&1 || {
        tail -n 20 "$build/python-build.log" >&2
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
for name in jemalloc mimalloc tcmalloc; do
    path=$(peer $name)
    [ -z "$path" ] || is_replaced $name || set -- "$@" "$name=$path"
done
if [ -f "$build/libfreehold-malloc.so" ]; then
    is_replaced freehold-preload || set -- "$@" "freehold-preload=$build/libfreehold-malloc.so"
else
    echo "$me: without freehold-preload: there is no $build/libfreehold-malloc.so" >&2
fi
while IFS= read -r word; do
    [ -z "$word" ] || set -- "$@" "$word"
done <<END
$extra
$options
END

exec python3 "$root/bench/python/run.py" --python "$python" --build "$build" \
    --out "${out:-$build/python-report}" "$@"
