/* SPDX-License-Identifier: MIT */
/* Allocation before main() and after it. The blocks are taken at each stage of the program's start;
 * the tests look at them afterwards.
 */
#include "family.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { block_bytes = 1000 };

struct early {
    void *plain;
    void *zeroed;
    void *large;
};

/* The first call ever is free(NULL), as far as this program can tell. */
static void allocate_early(struct early *early)
{
    free(NULL);
    early->zeroed = calloc(1, block_bytes);
    early->plain = malloc(block_bytes / 2);
    early->plain = realloc(early->plain, block_bytes);
    early->large = malloc(3 * MIB);
    free(malloc(100));
    memset(early->plain, 0x5a, block_bytes);
    memset(early->large, 0x5a, 3 * MIB);
}

static int all_bytes_are(const void *block, size_t bytes, unsigned char value)
{
    const unsigned char *from = block;
    return from[0] == value && memcmp(from, from + 1, bytes - 1) == 0;
}

static void check_early(struct early *early)
{
    CHECK(family_owned(early->plain) && family_owned(early->zeroed) && family_owned(early->large));
    CHECK(all_bytes_are(early->plain, block_bytes, 0x5a));
    CHECK(all_bytes_are(early->zeroed, block_bytes, 0));
    CHECK(all_bytes_are(early->large, 3 * MIB, 0x5a));
    early->plain = realloc(early->plain, 100 * KIB);
    CHECK(early->plain != NULL && all_bytes_are(early->plain, block_bytes, 0x5a));
    free(early->plain);
    free(early->zeroed);
    free(early->large);
}

/* ---- The stages ----------------------------------------------------------------------------- */

static struct early from_preinit, from_constructor;

static void allocate_in_preinit(void)
{
    allocate_early(&from_preinit);
}

static void (*const preinit)(void)
    __attribute__((section(".preinit_array"), used)) = allocate_in_preinit;

__attribute__((constructor(101))) static void allocate_in_constructor(void)
{
    allocate_early(&from_constructor);
}

/* A failed check here turns the exit status of every test of this program. */
__attribute__((destructor)) static void allocate_in_destructor(void)
{
    family_workout(1, 300, 1 * MIB);
}

/* ---- The tests ------------------------------------------------------------------------------ */

TEST(a_preinit_function_may_allocate)
{
    check_early(&from_preinit);
}

TEST(a_constructor_may_allocate)
{
    check_early(&from_constructor);
}

static void allocate_at_exit(void)
{
    family_workout(2, 300, 1 * MIB);
    _exit(0);
}

TEST(an_atexit_handler_may_allocate)
{
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(atexit(allocate_at_exit) == 0);
        exit(3); /* stays 3 unless the handler gets to its end */
    }
    int status = family_wait(child, 5);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static const struct family_test tests[] = {
    ENTRY(a_preinit_function_may_allocate),
    ENTRY(a_constructor_may_allocate),
    ENTRY(an_atexit_handler_may_allocate),
};

int main(int argc, char **argv)
{
    return family_main(tests, sizeof tests / sizeof tests[0], argc, argv);
}
