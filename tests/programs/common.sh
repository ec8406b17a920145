# Shared by the scripts of this folder; sourced first, with the script's own arguments.
#
# Each script runs a real program with the malloc library that is its first argument preloaded,
# checks the program's results, and prints one closing line. It leaves with 0, with 77 (skipped: the
# program is not installed) or with another status. What is not preloaded is only there to check.
#
# Afterwards: $library is an absolute path, the working directory a new one that exit removes.

set -eu
LC_ALL=C
export LC_ALL
unset LD_PRELOAD

name=$(basename "$0" .sh)
here=$(cd "$(dirname "$0")" && pwd)

fail()
{
    echo "$name: FAILED: $*" >&2
    exit 1
}

skip()
{
    echo "$name: skipped: $*"
    exit 77
}

[ $# -ge 1 ] && [ -f "$1" ] || fail "usage: $0 MALLOC_LIBRARY.so"
library=$(readlink -f "$1")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP INT TERM # through the trap above
cd "$work"

have()
{
    command -v "$1" >/dev/null 2>&1
}

need()
{
    for program in "$@"; do
        have "$program" || skip "$program is not installed"
    done
}

preloaded()
{
    LD_PRELOAD=$library "$@"
}

digest()
{
    sha256sum "$@" | cut -d ' ' -f 1
}

# same WHAT EXPECTED ACTUAL
same()
{
    [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}

# bound_to_library COMMAND...: runs it preloaded and asks the dynamic linker where each file of each
# of its processes found the malloc family. Without this, a program with an allocator of its own
# would pass every check here and prove nothing. A program that is not position-independent may lend
# its jump through its own table as "the" address of malloc: good if that table has the library's.
bound_to_library()
{
    mkdir bindings
    preloaded env LD_BIND_NOW=1 LD_DEBUG=bindings LD_DEBUG_OUTPUT="$work/bindings/of" "$@" \
        >/dev/null 2>bindings.errors </dev/null || fail "$*: $(cat bindings.errors)"
    awk -v library="$library" '
        BEGIN {
            count = split("malloc calloc realloc free posix_memalign aligned_alloc memalign" \
                          " malloc_usable_size", names)
            for (i = 1; i <= count; i++)
                family[names[i]] = 1
        }
        $2 == "binding" && $3 == "file" {
            symbol = substr($11, 2, length($11) - 2)
            if (!(symbol in family))
                next
            if ($7 == library) {
                anywhere[FILENAME, symbol] = 1
                bound[FILENAME, $4, symbol] = 1
            } else {
                other[FILENAME SUBSEP $7 SUBSEP symbol] = $4 " has " symbol " from " $7
            }
        }
        END {
            for (i = 1; i < ARGC; i++)
                if (!((ARGV[i], "malloc") in anywhere) || !((ARGV[i], "free") in anywhere)) {
                    print ARGV[i] ": no binding of malloc or free"
                    bad = 1
                }
            for (key in other)
                if (!(key in bound)) {
                    print other[key]
                    bad = 1
                }
            exit bad
        }' bindings/* >bindings.wrong || fail "$*: $(sort -u bindings.wrong)"
    rm -r bindings bindings.errors bindings.wrong
}
