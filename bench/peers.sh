# SPDX-License-Identifier: MIT
# Sourced by compare.sh and report.sh: the peers that Debian has, and how what is missing is installed.
# The script that sources this says who it is in $me, and whether it may install ("yes") in $install.

die() {
    echo "$me: $*" >&2
    exit 1
}

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

# package_of COMMAND PACKAGE: the package, unless the command is there.
package_of() { command -v "$1" >/dev/null || echo "$2"; }

# The library of a peer, if it is here.
peer() {
    case $1 in
    jemalloc) library 'libjemalloc.so.[0-9]*' ;;
    mimalloc) library 'libmimalloc.so.[0-9]*' ;;
    tcmalloc) library 'libtcmalloc_minimal.so.[0-9]*' ;;
    tbbmalloc) library 'libtbbmalloc_proxy.so.[0-9]*' ;;
    esac
}

missing_peers() {
    [ -n "$(peer jemalloc)" ] || echo libjemalloc2
    [ -n "$(peer mimalloc)" ] || known_package libmimalloc2.0 libmimalloc3
    [ -n "$(peer tcmalloc)" ] || known_package libtcmalloc-minimal4 libtcmalloc-minimal4t64
    [ -n "$(peer tbbmalloc)" ] || echo libtbbmalloc2
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        env DEBIAN_FRONTEND=noninteractive "$@"
    else
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

# Installing a server would start it: while apt-get runs, the usual policy file says no.
policy=
forbid_starting() {
    [ ! -e /usr/sbin/policy-rc.d ] || return 0
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
}

allow_starting() {
    [ -z "$policy" ] || as_root rm -f "$policy"
    policy=
}

apt_install() {
    trap allow_starting EXIT
    trap 'exit 130' INT TERM HUP
    forbid_starting
    as_root apt-get install -y -qq --no-install-recommends "$@" >&2 || true
    allow_starting
    trap - EXIT INT TERM HUP
}

# install_missing FUNCTION: whatever packages it prints, one a line. What remains missing: in $missing.
install_missing() {
    missing=$("$1" | tr '\n' ' ')
    [ -n "$missing" ] || return 0
    [ "$install" = yes ] || return 0
    command -v apt-get >/dev/null || return 0
    echo "$me: installing $missing" >&2
    as_root apt-get update -qq >&2 || true
    # The names may only be known after the update.
    missing=$("$1" | tr '\n' ' ')
    # shellcheck disable=SC2086 # one word for each package
    apt_install $missing
    missing=$("$1" | tr '\n' ' ')
}
