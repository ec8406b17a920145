#!/bin/sh
# SPDX-License-Identifier: MIT
# What README.md says to a user of Python, done to the letter:
#
#   readme_test.sh README.md BUILD
#
# The lines are the first block marked sh under the heading "## With Python". They name the build
# folder `build`, and begin with making it, which is done by now: that line must be there, and is
# left out.
set -eu

readme=$(realpath "$1")
build=$(realpath "$2")

lines=$(awk '/^## /                  { is_here = ($0 == "## With Python") }
             is_here && /^```/ && on { exit }
             on                      { print }
             is_here && /^```sh$/    { on = 1 }' "$readme")
if [ -z "$lines" ]; then
    echo 'README.md has no block under "## With Python"'
    exit 77
fi
if ! printf '%s\n' "$lines" | grep -q '^cmake -B build'; then
    echo 'the block does not begin with the build' >&2
    exit 1
fi

folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
cd "$folder"
ln -s "$build" build
printf 'print("a program")\n' >program.py
printf '%s\n' "$lines" | grep -v '^cmake -B build' >lines.sh
sh -eux lines.sh
