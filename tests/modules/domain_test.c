/* SPDX-License-Identifier: MIT */
/* domain/domain.c: CPython's contract, where C leaves a choice. */
#include "modules.h"

#include <errno.h>
#include <string.h>

#include "freehold.h"

static const size_t too_many = (size_t)PTRDIFF_MAX + 1;

TEST(no_bytes_are_a_block_too_and_each_is_distinct)
{
    void *blocks[100];
    for (int i = 0; i < 100; i++) {
        blocks[i] =
            i % 2 == 0 ? fh_raw_malloc(0) : fh_raw_calloc(i % 4 == 1 ? 0 : 5, i % 4 == 1 ? 5 : 0);
        CHECK(blocks[i] != NULL && fh_usable_size(blocks[i]) >= 1);
        for (int j = 0; j < i; j++)
            CHECK(blocks[i] != blocks[j]);
    }
    for (int i = 0; i < 100; i++)
        fh_raw_free(blocks[i]);
}

TEST(more_than_half_the_address_space_is_refused)
{
    void *block = fh_raw_malloc(100);
    const size_t sizes[] = {too_many, SIZE_MAX, SIZE_MAX - 15};
    for (int i = 0; i < 3; i++) {
        errno = 0;
        CHECK(fh_raw_malloc(sizes[i]) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(fh_raw_calloc(1, sizes[i]) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(fh_raw_realloc(block, sizes[i]) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(fh_raw_realloc(NULL, sizes[i]) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(fh_raw_aligned_alloc(64, sizes[i]) == NULL && errno == ENOMEM);
    }
    fh_raw_free(block); /* still the caller's */
}

TEST(a_product_that_overflows_is_refused)
{
    errno = 0;
    CHECK(fh_raw_calloc(SIZE_MAX / 2 + 1, 2) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(fh_raw_calloc((size_t)1 << 32, (size_t)1 << 32) == NULL && errno == ENOMEM);
}

TEST(resizing_nothing_allocates)
{
    char *block = fh_raw_realloc(NULL, 1000);
    CHECK(block != NULL && fh_usable_size(block) >= 1000);
    memset(block, 1, 1000);
    fh_raw_free(block);
}

TEST(resizing_to_nothing_does_not_free)
{
    char *block = fh_raw_malloc(100);
    block = fh_raw_realloc(block, 0);
    CHECK(block != NULL && fh_usable_size(block) >= 1);
    block[0] = 1;
    fh_raw_free(block);
}

TEST(only_powers_of_two_are_alignments)
{
    for (size_t alignment = 0; alignment < 3000; alignment++) {
        bool power = alignment != 0 && (alignment & (alignment - 1)) == 0;
        errno = 0;
        void *block = fh_raw_aligned_alloc(alignment, 10);
        CHECK((block != NULL) == power && errno == (power ? 0 : EINVAL));
        CHECK(!power || (uintptr_t)block % alignment == 0);
        fh_raw_free(block);
    }
}

TEST(success_and_free_leave_errno_alone)
{
    errno = 1234;
    fh_raw_free(NULL);
    for (size_t bytes = 0; bytes < 3 * (size_t)FH_ARENA_BYTES; bytes = bytes * 2 + 1) {
        void *block = fh_raw_malloc(bytes);
        block = fh_raw_realloc(block, bytes / 3 + 1);
        block = fh_raw_realloc(block, bytes + 100);
        CHECK(block != NULL);
        fh_raw_free(block);
        fh_raw_free(fh_raw_calloc(3, bytes / 3));
        fh_raw_free(fh_raw_aligned_alloc(256, bytes));
    }
    (void)fh_trim();
    CHECK(errno == 1234);
}
