#!/bin/sh
# SPDX-License-Identifier: MIT
# The stress lab: build it, run storms one after the other, and end with a table.
set -eu

storms="sizes producers orphans kills signals jumps forks exits limits objects objects-gil"

usage() {
    cat <<END_OF_USAGE
usage: stress/run.sh [--seconds N] [--count N] [--seed S] [--lib PATH] [--full] [--peers]
                     [name ...]

Runs storms ($storms)
and, if they are named, the stall map (stallmap) and the protocols' models with more threads and
memory than the tests have time for (models; some 20 minutes and 12 GiB). Without names: all storms.

  --seconds N  seconds for each storm (default 30; limits goes on until every n has failed)
  --count N    end a storm after N of its events (children, handlers, faults, ...); without
               --seconds however long it takes, with it an anomaly if the time is too short
  --seed S     what the random numbers come from (default: the time)
  --lib PATH   a library to preload instead of Freehold; "glibc" for none
  --full       stallmap: hold the thread at every instruction; some minutes
  --peers      stallmap: also other allocators, as far as they are installed
  -h, --help   this text

FH_BUILD names the build directory to use; otherwise build/stress is made.
Exit status: 0 all is well, 1 an anomaly, 2 not run.
END_OF_USAGE
}

die() {
    echo "run.sh: $*" >&2
    exit 2
}

root=$(cd "$(dirname "$0")/.." && pwd)
build=${FH_BUILD:-$root/build/stress}
seconds=
count=
seed=$(date +%s)
library=
full=
peers=
names=

while [ $# -gt 0 ]; do
    case $1 in
    --seconds | --count | --seed | --lib)
        [ $# -ge 2 ] || die "$1 needs a value"
        case $1 in
        --seconds) seconds=$2 ;;
        --count) count=$2 ;;
        --seed) seed=$2 ;;
        --lib) library=$2 ;;
        esac
        shift
        ;;
    --full) full=--full ;;
    --peers) peers=yes ;;
    -h | --help)
        usage
        exit 0
        ;;
    -*)
        usage >&2
        exit 2
        ;;
    *)
        case " $storms stallmap models " in
        *" $1 "*) names="$names $1" ;;
        *) die "no storm is called $1; there are: $storms stallmap models" ;;
        esac
        ;;
    esac
    shift
done
: "${names:=$storms}"
[ -n "$seconds$count" ] || seconds=30
for number in "${seconds:-0}" "${count:-0}" "${seed:-none}"; do
    case $number in
    *[!0-9]*) die "not a number: $number" ;;
    esac
done

# ---- Build ---------------------------------------------------------------------------------------

install_packages() {
    echo "installing $*" >&2
    if [ "$(id -u)" = 0 ]; then
        sudo=
    else
        sudo=sudo
    fi
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >&2
}

missing=
command -v cmake >/dev/null 2>&1 || missing="$missing cmake"
command -v make >/dev/null 2>&1 || command -v ninja >/dev/null 2>&1 || missing="$missing make"
command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of packages
    install_packages $missing || die "please install$missing"
fi

build_all() {
    if [ ! -f "$build/CMakeCache.txt" ]; then
        cmake -S "$root" -B "$build" -DFH_TESTS=OFF -DFH_BENCH=OFF -DFH_STRESS=ON || return 1
    fi
    cmake --build "$build" -j 2
}
mkdir -p "$build"
build_all >"$build/stress.log" 2>&1 || {
    cat "$build/stress.log" >&2
    die "the build failed"
}

case $library in
'') library=$build/libfreehold-malloc.so ;;
glibc) library= ;;
*/*) ;;
*) library=$(pwd)/$library ;;
esac
[ -z "$library" ] || [ -f "$library" ] || die "no such library: $library"

# ---- Run -----------------------------------------------------------------------------------------

export STORM_MODULE="$build/stress/stress-module.so" STORM_SEED="$seed"
results=$(mktemp)
child=
# shellcheck disable=SC2317 # see the trap
stop() {
    [ -z "$child" ] || kill "$child" 2>/dev/null || :
    rm -f "$results"
    exit 2
}
trap stop INT TERM
trap 'rm -f "$results"' EXIT

end="${seconds:+--seconds $seconds }${count:+--count $count }"
echo "seed $seed, each storm ${end}with ${library:-glibc}"
# shellcheck disable=SC2086 # a list of names
echo "again: sh stress/run.sh ${end}--seed $seed --lib ${library:-glibc}" $names

run_storm() {
    program=storm
    case $1 in objects*) program=storm-objects ;; esac
    # In the background, so that a signal to this script is not kept waiting.
    # shellcheck disable=SC2086 # a list of options
    env LD_PRELOAD="$library" "$build/stress/$program" $end --seed "$seed" "$1" \
        >"$results.one" &
    child=$!
    status=0
    wait "$child" || status=$?
    child=
    if [ -s "$results.one" ]; then
        cat "$results.one" >>"$results"
    else # it did not come to its end
        printf '%s\t-\t-\t-\tended with status %s\t\n' "$1" "$status" >>"$results"
    fi
    rm -f "$results.one"
    [ "$status" = 0 ] || failed=1
}

# Its exit status speaks of the first library alone.
run_stallmap() {
    set -- "${library:-glibc}"
    if [ -n "$peers" ]; then
        for peer in /usr/lib/*/libjemalloc.so.2 /usr/lib/*/libmimalloc.so.[0-9].[0-9] \
            /usr/lib/*/libtcmalloc_minimal.so.4; do
            [ ! -f "$peer" ] || set -- "$@" "$peer"
        done
        set -- "$@" glibc
    fi
    # shellcheck disable=SC2086 # an option or nothing
    "$build/stress/stallmap" $full --gate "$@" || failed=1
}

# What the tests check for two threads, for three, or with more of everything.
larger_models() {
    cat <<'END_OF_MODELS'
holder -DLOOKERS=4 -DHOLDERS=5
huge -DTHREADS=3 -DARENAS=4
purge -DTHREADS=3
arena -DTHREADS=3 --sample 4
hints -DTHREADS=3 --sample 4
heap -DTHREADS=3 --sample 4
pool -DTHREADS=3 -DBLOCKS=2 -DTHRESHOLD=1 --sample 4
END_OF_MODELS
}

run_models() {
    command -v spin >/dev/null 2>&1 || install_packages spin || die "please install spin"
    larger_models >"$results.models"
    while read -r model options; do
        begun=$(date +%s)
        # shellcheck disable=SC2086 # a list of options
        FH_MODEL_MIB=12000 FH_MODEL_DEPTH=30000000 sh "$root/tests/model/check.sh" \
            "$root/tests/model/$model.pml" $options >"$results.one" 2>&1 </dev/null &
        child=$!
        outcome=holds
        wait "$child" || { outcome=VIOLATED; failed=1; cat "$results.one" >&2; }
        child=
        states=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' "$results.one")
        echo "model $model $options: $outcome, $states states, $(($(date +%s) - begun)) s"
    done <"$results.models"
    rm -f "$results.one" "$results.models"
}

failed=0
for name in $names; do
    if [ "$name" = models ]; then
        run_models
    elif [ "$name" = stallmap ]; then
        run_stallmap
    else
        run_storm "$name"
    fi
done

[ ! -s "$results" ] || {
    echo
    printf 'storm\toperations/s\tevents\tpeak MiB\tanomalies\tnote\n' | cat - "$results" |
        awk -F '\t' '{ printf "%-10s %12s  %-18s %8s  %-9s  %s\n", $1, $2, $3, $4, $5, $6 }'
}
exit "$failed"
