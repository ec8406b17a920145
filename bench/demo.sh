#!/bin/sh
# Freehold's main job in one command: real servers under glibc, jemalloc, mimalloc and Freehold in turn.
#
#   sh bench/demo.sh            about five minutes
#   sh bench/demo.sh --quick    about a minute
#   sh bench/demo.sh --help     all options
#
# For a fresh Debian or Ubuntu: installs what is missing, builds Freehold in build/release, runs redis-server
# and varnishd under a bounded load, checks every reply, and prints speed and memory as one table. Returns 0
# only if every run succeeded, all data came back right and no server logged an error. Ends all it started.

set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build/release
PATH=$PATH:/usr/sbin:/sbin
export PATH DEBIAN_FRONTEND=noninteractive PYTHONDONTWRITEBYTECODE=1

work=
driver=
policy=
keep=no
wants_build=yes

say() { printf '%s\n' "demo: $*"; }

fail() {
    printf '%s\n' "demo: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "needs root or sudo for: $*"
    fi
}

# shellcheck disable=SC2317 # the traps call it
# Ends the driver, which ends its servers, and then any server whose driver could not.
end_processes() {
    if [ -n "$driver" ] && kill -TERM "$driver" 2>/dev/null; then
        wait "$driver" || true
    fi
    [ -f "$work/pids" ] || return 0
    while read -r pid; do
        if grep -qsF "$work" "/proc/$pid/cmdline"; then
            kill -KILL "-$pid" 2>/dev/null || true
        fi
    done <"$work/pids"
}

# shellcheck disable=SC2317 # the traps call it
cleanup() {
    status=$?
    trap - EXIT INT TERM HUP
    [ -z "$policy" ] || as_root rm -f "$policy"
    if [ -n "$work" ]; then
        end_processes
        if [ "$keep" = yes ] || { [ "$status" -ne 0 ] && [ "$status" -lt 128 ]; }; then
            say "logs are in $work"
        else
            rm -rf "$work"
        fi
    fi
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# What this script must know of the options; the driver reads them all.
read_options() {
    while [ $# -gt 0 ]; do
        case $1 in
        --keep) keep=yes ;;
        --allocators)
            [ $# -gt 1 ] || fail "--allocators needs a list"
            shift
            look_for_freehold "$1"
            ;;
        --allocators=*) look_for_freehold "${1#*=}" ;;
        esac
        shift
    done
}

look_for_freehold() {
    case $1 in
    *freehold*) wants_build=yes ;;
    *) wants_build=no ;;
    esac
}

has_library() { ldconfig -p | grep -q "$1"; }

has_header() { [ -e "/usr/include/$1" ] || [ -e "/usr/local/include/$1" ]; }

# The packages that are missing, one a line.
missing_packages() {
    command -v python3 >/dev/null || echo python3
    command -v redis-server >/dev/null || echo redis-server
    command -v redis-benchmark >/dev/null || echo redis-tools
    command -v varnishd >/dev/null || echo varnish
    command -v wrk >/dev/null || echo wrk
    has_library 'libjemalloc\.so\.2' || echo libjemalloc2
    has_library 'libmimalloc\.so' || echo libmimalloc
    command -v gcc >/dev/null || echo gcc # varnishd compiles its configuration
    has_header stdio.h || echo libc6-dev
    [ "$wants_build" = yes ] || return 0
    command -v cmake >/dev/null || echo cmake
    command -v make >/dev/null || echo make
    has_header ck_pr.h || echo libck-dev
}

# libmimalloc's package is named after its version, which differs from release to release.
mimalloc_package() {
    apt-cache search --names-only '^libmimalloc[0-9.]+$' | sort -V | sed -n '$s/ .*//p'
}

# Installing a server would start it: the usual policy file says no, for as long as apt-get runs.
install_packages() {
    say "installing: $*"
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        policy=/usr/sbin/policy-rc.d
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    as_root apt-get update -qq
    packages=
    for package in "$@"; do
        [ "$package" != libmimalloc ] || package=$(mimalloc_package)
        packages="$packages $package"
    done
    # shellcheck disable=SC2086 # one word for each package
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages \
        >"$work/apt.log" 2>&1 || {
        tail -n 20 "$work/apt.log" >&2
        fail "apt-get could not install:$packages"
    }
    if [ -n "$policy" ]; then
        as_root rm -f "$policy"
        policy=
    fi
}

build_freehold() {
    say "building Freehold in $build"
    if ! {
        cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DFH_TESTS=OFF -DFH_BENCH=OFF &&
            cmake --build "$build" -j "$(nproc)"
    } >"$work/build.log" 2>&1; then
        tail -n 30 "$work/build.log" >&2
        fail "the build failed"
    fi
}

read_options "$@"
work=$(mktemp -d "${TMPDIR:-/tmp}/freehold-demo.XXXXXX")
missing=$(missing_packages)
# shellcheck disable=SC2086 # one word for each package
[ -z "$missing" ] || install_packages $missing
[ "$wants_build" = no ] || build_freehold

# In the background, for a shell runs its traps only between commands, or while it waits.
python3 "$root/bench/demo/demo.py" --work "$work" --freehold "$build/libfreehold-malloc.so" "$@" &
driver=$!
status=0
wait "$driver" || status=$?
driver=
exit "$status"
