#!/bin/sh
# Check one Promela model exhaustively:  check.sh MODEL [OPTION...] [-DNAME[=VALUE]...]
#
#   --progress   look for cycles without progress, under any scheduling, instead of for violated asserts
#   --fair       the same, but every process that can go on does at some time
#   --mutant     the definitions break the model: the check passes if the search finds that
#   --sample N   for models too large to be exhausted: N minutes at most, a few bits for each state (4 GiB
#                in all), so that some states are taken for others and not looked at
#
# FH_MODEL_MIB is the memory that the search may take (2000 without it; with it states are compressed,
# which takes a quarter longer), FH_MODEL_DEPTH its longest run of steps (2000000).
#
# Exit status: 0 as it should be, 1 not so, 77 spin or a C compiler is not installed.
set -eu

command -v spin > /dev/null || exit 77
compiler=${CC:-cc}
command -v "$compiler" > /dev/null || exit 77

model=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
shift
search='-DSAFETY'
run=''
mutant=no
sample=''
definitions=''
while [ $# -gt 0 ]; do
    argument=$1
    shift
    case $argument in
    --sample)
        sample=$1
        shift
        ;;
    --progress) search='-DNP' run='-l' ;;
    --fair) search='-DNP' run='-l -f' ;;
    --mutant) mutant=yes ;;
    -D*) definitions="$definitions $argument" ;;
    *) echo "check.sh: what is $argument?" >&2; exit 1 ;;
    esac
done

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM
cp "$model" "$scratch"
cd "$scratch"
model=$(basename "$model")

# shellcheck disable=SC2086 # the lists are meant to be split
spin -a $definitions "$model"
# The order of commuting steps is left out (partial order reduction) only where spin can prove that it
# may be: not where processes are held up by `provided`.
if grep -q provided "$model"; then
    search="$search -DNOREDUCE"
fi
if [ -n "$sample" ]; then
    search="$search -DBITSTATE"
    run="$run -w35 -Q$sample"
elif [ -n "${FH_MODEL_MIB:-}" ]; then
    search="$search -DCOLLAPSE"
fi
# To optimize takes longer than it saves, unless the search does.
optimize=-O0
[ -z "$sample${FH_MODEL_MIB:-}" ] || optimize=-O2
# shellcheck disable=SC2086
"$compiler" $optimize -w $search -DMEMLIM="${FH_MODEL_MIB:-2000}" -o pan pan.c
# shellcheck disable=SC2086
./pan -m"${FH_MODEL_DEPTH:-2000000}" -n $run > out 2>&1 || true

grep -E '^pan:|errors:|states, stored|total actual|elapsed' out || true
# A search that stopped at a violation is not complete either, but has found what matters.
if [ -z "$sample" ] && grep -q 'errors: 0' out && grep -q -E 'Search not completed|max search depth|MEMLIM|out of memory' out; then
    echo 'check.sh: the search is not complete' >&2
    exit 1
fi
if [ $mutant = no ]; then
    grep -q 'errors: 0' out && exit 0
    cat out
    echo "check.sh: the model is violated; spin -t -p $definitions prints how:" >&2
    spin -t -p $definitions "$model" 2>&1 | tail -n 120 || true
    exit 1
fi
if grep -q -E '^pan:[0-9]+: (assertion violated|non-progress cycle|invalid end state)' out; then
    exit 0
fi
cat out
echo 'check.sh: this mutant should have been found out' >&2
exit 1
