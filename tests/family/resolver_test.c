/* SPDX-License-Identifier: MIT */
/* Allocation in the resolver of an indirect function: the dynamic linker is still relocating this
 * program, and thread-local storage does not hold its initial values yet. (In a static program it
 * does not even exist, so no allocator could answer there.)
 */
#include "family.h"

#include <stdlib.h>
#include <string.h>

enum { block_bytes = 1000 };

static size_t resolver_runs;
static unsigned char *plain, *zeroed;

static int the_answer(void)
{
    return 42;
}

/* A compiler may not see that the attribute below uses it. */
__attribute__((used)) static int (*resolve_answer(void))(void)
{
    if (resolver_runs++ > 0)
        return the_answer;
    free(NULL);
    free(malloc(100));
    zeroed = calloc(1, block_bytes);
    plain = realloc(malloc(1), block_bytes);
    family_fill(plain, block_bytes, 1);
    return the_answer;
}

static int resolved_answer(void) __attribute__((ifunc("resolve_answer")));

TEST(an_ifunc_resolver_may_allocate)
{
    CHECK(resolved_answer() == 42 && resolver_runs > 0);
    CHECK(family_owned(plain) && family_owned(zeroed));
    CHECK(family_intact(plain, block_bytes, 1));
    CHECK(zeroed[0] == 0 && memcmp(zeroed, zeroed + 1, block_bytes - 1) == 0);
}

TEST(blocks_of_an_ifunc_resolver_are_resized_and_freed_later)
{
    plain = realloc(plain, 100 * KIB);
    CHECK(plain != NULL && family_intact(plain, block_bytes, 1));
    free(plain);
    free(zeroed);
    family_workout(1, 600, 1 * MIB);
}

static const struct family_test tests[] = {
    ENTRY(an_ifunc_resolver_may_allocate),
    ENTRY(blocks_of_an_ifunc_resolver_are_resized_and_freed_later),
};

int main(int argc, char **argv)
{
    return family_main(tests, sizeof tests / sizeof tests[0], argc, argv);
}
