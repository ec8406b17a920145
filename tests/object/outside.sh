#!/bin/sh
# What libfreehold-object looks like from outside:  outside.sh ROOT LIBRARY
#
#   * it exports what freehold/object.h declares with FH_API, but for the debug build's two functions
#   * of Freehold it uses what public headers declare
#   * the example in docs/objects.md is tests/object/example.c
set -eu
LC_ALL=C
export LC_ALL
root=$1
library=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# The names declared with FH_API in the headers given, one a line.
declared()
{
    sed '/^#define/d; /^#if defined(__GNUC__)/d' "$@" | tr '\n' ' ' | tr ';' '\n' | grep -E 'FH_API' |
        sed -E 's/.*FH_API//; s/__attribute__.*//; s/\(.*//; s/.*[ *](fh_[a-z0-9_]+) *$/\1/' | sort -u
}

declared "$root/include/freehold/object.h" | grep -v '_at$' >"$scratch/declared"
nm -D --defined-only "$library" | sed 's/.* //; s/@.*//' | sort >"$scratch/exported"
diff "$scratch/declared" "$scratch/exported"

# shellcheck disable=SC2046 # a name a word
declared "$root/include/freehold.h" $(ls "$root"/include/freehold/*.h) >"$scratch/public"
nm -D --undefined-only "$library" | sed 's/.* //; s/@.*//' | grep '^fh_' | sort >"$scratch/used"
[ -z "$(comm -13 "$scratch/public" "$scratch/used")" ] ||
    { echo 'not public:'; comm -13 "$scratch/public" "$scratch/used"; exit 1; }

sed -n '/^static fh_space/,$p' "$root/tests/object/example.c" >"$scratch/example"
sed -n '/^```c$/,/^```$/p' "$root/docs/objects.md" | sed '1d; /^```$/,$d' >"$scratch/documented"
diff "$scratch/example" "$scratch/documented"
