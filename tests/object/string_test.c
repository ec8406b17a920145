/* SPDX-License-Identifier: MIT */
/* Strings. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "builtin.h"
#include "spaces.h"

static void contents(void)
{
    char text[600];
    for (size_t bytes = 0; bytes < sizeof text; bytes++) {
        memset(text, (int)(bytes % 251 + 1), bytes);
        fh_object *string = fh_string_new(text, bytes);
        CHECK(fh_string_bytes(string) == bytes && fh_type_of(string) == &fh_string_type);
        CHECK(memcmp(fh_string_text(string), text, bytes) == 0);
        CHECK(fh_string_text(string)[bytes] == 0);
        fh_decref(string);
    }
    CHECK(fh_space_live_objects() == 0);
}

TEST(a_string_holds_its_bytes_and_a_0)
{
    in_each_mode(contents);
}

static void zeros_inside(void)
{
    fh_object *string = fh_string_new("a\0b\0", 4);
    CHECK(fh_string_bytes(string) == 4 && memcmp(fh_string_text(string), "a\0b\0", 5) == 0);
    fh_decref(string);
}

TEST(a_string_may_have_any_bytes)
{
    in_each_mode(zeros_inside);
}

static void static_ones(void)
{
    fh_object *empty = fh_string_new("", 0);
    CHECK(fh_string_new("x", 0) == empty && fh_object_is_immortal(empty));
    CHECK(fh_string_bytes(empty) == 0 && fh_string_text(empty)[0] == 0);
    for (int byte = 0; byte < 256; byte++) {
        char text[2] = {(char)byte, 'x'};
        fh_object *string = fh_string_new(text, 1);
        CHECK(fh_string_new(text, 1) == string && fh_object_is_immortal(string));
        CHECK(fh_string_bytes(string) == 1 && fh_string_text(string)[0] == (char)byte);
        CHECK(fh_string_text(string)[1] == 0);
        CHECK(fh_string_intern_state(string) == FH_INTERNED_IMMORTAL);
        fh_decref(string);
    }
    CHECK(fh_space_live_objects() == 0);
}

TEST(strings_of_no_or_one_byte_are_there_once_and_interned)
{
    in_each_mode(static_ones);
}

static void filled_in_later(void)
{
    fh_object *string = fh_string_new(NULL, 5), *other = fh_string_new("hello", 5);
    memcpy(fh_string_of(string)->text, "hello", 5);
    CHECK(strcmp(fh_string_text(string), "hello") == 0);
    CHECK(fh_string_hash(string) == fh_string_hash(other));
    fh_object *one_byte = fh_string_new(NULL, 1);
    CHECK(!fh_object_is_immortal(one_byte));
    fh_decref(string);
    fh_decref(other);
    fh_decref(one_byte);
}

TEST(without_a_text_the_bytes_are_the_callers_to_fill_in)
{
    in_each_mode(filled_in_later);
}

static void too_much(void)
{
    errno = 0;
    CHECK(fh_string_new(NULL, PTRDIFF_MAX) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(fh_string_new(NULL, SIZE_MAX - 8) == NULL && errno == ENOMEM);
}

TEST(a_string_of_more_bytes_than_there_can_be_is_refused)
{
    in_each_mode(too_much);
}

/* ---- Hashes -----------------------------------------------------------------------------------
 */

static void equal_hashes(void)
{
    char text[64];
    for (size_t bytes = 0; bytes < sizeof text; bytes++) {
        for (size_t i = 0; i < bytes; i++)
            text[i] = (char)('a' + i % 26);
        fh_object *one = fh_string_new(text, bytes), *other = fh_string_new(text, bytes);
        CHECK(fh_string_hash(one) == fh_string_hash(other) && fh_string_hash(one) != 0);
        CHECK(fh_string_hash(one) == fh_string_hash_of(text, bytes));
        fh_decref(one);
        fh_decref(other);
    }
}

TEST(equal_strings_have_equal_hashes)
{
    in_each_mode(equal_hashes);
}

static int by_value(const void *left, const void *right)
{
    uint64_t one = *(const uint64_t *)left, other = *(const uint64_t *)right;
    return (one > other) - (one < other);
}

TEST(each_bit_of_each_byte_changes_the_hash)
{
    static uint64_t hashes[1 + 40 * 8];
    for (size_t bytes = 1; bytes <= 40; bytes++) {
        char text[40] = {0};
        size_t count = 0;
        hashes[count++] = fh_string_hash_of(text, bytes);
        for (size_t bit = 0; bit < bytes * 8; bit++) {
            text[bit / 8] = (char)(1u << bit % 8);
            hashes[count++] = fh_string_hash_of(text, bytes);
            text[bit / 8] = 0;
        }
        qsort(hashes, count, sizeof hashes[0], by_value);
        for (size_t i = 1; i < count; i++)
            CHECK(hashes[i] != hashes[i - 1]);
    }
}

/* Of so many strings in as many buckets, 1/e of the buckets stay empty if hashes are random. */
static void check_spread(unsigned shift)
{
    static unsigned char taken[1 << 14];
    unsigned empty = 0;
    memset(taken, 0, sizeof taken);
    for (unsigned i = 0; i < sizeof taken; i++) {
        char text[32];
        int bytes = snprintf(text, sizeof text, "name%u", i);
        taken[fh_string_hash_of(text, (size_t)bytes) >> shift & (sizeof taken - 1)] = 1;
    }
    for (unsigned i = 0; i < sizeof taken; i++)
        empty += !taken[i];
    CHECK(empty > 0.35 * sizeof taken && empty < 0.385 * sizeof taken);
}

TEST(the_low_and_the_high_bits_of_hashes_spread_similar_names)
{
    check_spread(0);
    check_spread(32);
    check_spread(50);
}

static uint64_t hash_in_child(const char *seed)
{
    uint64_t hash = 0;
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        setenv("FREEHOLD_OBJECT_SEED", seed, 1);
        hash = fh_string_hash_of("key", 3);
        _exit(write(ends[1], &hash, sizeof hash) != sizeof hash);
    }
    CHECK(child > 0 && read(ends[0], &hash, sizeof hash) == sizeof hash);
    CHECK(waitpid(child, NULL, 0) == child);
    close(ends[0]);
    close(ends[1]);
    return hash;
}

TEST(the_seed_of_the_environment_decides_the_hashes)
{
    CHECK(hash_in_child("1") == hash_in_child("1"));
    CHECK(hash_in_child("1") != hash_in_child("2"));
    CHECK(hash_in_child("") != hash_in_child("1")); /* the process's own */
}
