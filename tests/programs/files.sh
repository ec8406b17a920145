#!/bin/sh
# sort, tar, xz, zstd and openssl, those with threads on two of them: 64 MiB sorted by one key and
# back, packed and unpacked, encrypted and decrypted, come back as they were.
. "$(dirname "$0")/common.sh"
need sort tar
done=

awk 'BEGIN {
    for (i = 1; i <= 2200000; i++)
        printf "%07d %010.0f %s\n", i, i * 2654435761 % 4294967296, i % 3 ? "even" : "odd and longer"
}' >data
before=$(digest <data)

bound_to_library sort --parallel=2 /dev/null
preloaded sort --parallel=2 -S 160M -T . -k 2,2 data >by_second
sort -c -k 2,2 by_second || fail "sort did not sort"
same "sorted there and back" "$before" "$(preloaded sort --parallel=2 -S 64M -T . by_second | digest)"
rm by_second
done="$done sort"

bound_to_library tar -cf archive /dev/null
mkdir tree there
(cd tree && split -l 1500 -a 3 ../data part.)
preloaded tar -cf archive tree
preloaded tar -xf archive -C there
diff -r tree there/tree || fail "tar changed the files"
rm -r tree there archive
done="$done tar"

# there_and_back PROGRAM PACK UNPACK, both with options
there_and_back()
{
    have "$1" || return 0
    bound_to_library "$1" --version
    LD_PRELOAD=$library $2 <data >packed || fail "$2"
    same "$3" "$before" "$(LD_PRELOAD=$library $3 <packed | digest)"
    rm packed
    done="$done $1"
}

there_and_back xz "xz -1 -T2 --block-size=4MiB -c" "xz -T2 -dc"
there_and_back zstd "zstd -3 -T2 -q -c" "zstd -T2 -dqc"

if have openssl; then
    bound_to_library openssl version
    key="-aes-256-ctr -pbkdf2 -iter 1000 -pass pass:test"
    preloaded openssl enc $key <data >sealed
    same "openssl enc" "$before" "$(preloaded openssl enc -d $key <sealed | digest)"
    same "openssl dgst" "$before" "$(preloaded openssl dgst -sha256 -r data | cut -d ' ' -f 1)"
    preloaded openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=test -keyout key -out certificate \
        2>/dev/null
    openssl verify -CAfile certificate certificate >/dev/null || fail "openssl: a bad certificate"
    done="$done openssl"
fi
echo "files: $(wc -c <data) bytes came back as they were from$done"
