/* SPDX-License-Identifier: MIT */
/* pool/size_class.h: what must hold of every size and every class. */
#include "modules.h"

#include "size_class.h"

TEST(every_size_has_the_lowest_class_that_holds_it)
{
    for (size_t bytes = 1; bytes <= FH_BLOCK_MAX_BYTES; bytes++) {
        unsigned class_index = fh_class_of(bytes);
        CHECK(class_index >= 1 && class_index < FH_CLASSES);
        CHECK(fh_class_block_bytes(class_index) >= bytes);
        CHECK(class_index == 1 || fh_class_block_bytes(class_index - 1) < bytes);
    }
    CHECK(fh_class_of(0) == 0 && fh_class_block_bytes(0) == FH_BLOCK_ALIGN_BYTES);
}

TEST(small_classes_are_those_of_pymalloc)
{
    for (unsigned class_index = 1; class_index < FH_SMALL_CLASSES; class_index++)
        CHECK(fh_class_block_bytes(class_index) == class_index * 16u);
    CHECK(fh_class_of(512) == 32 && fh_class_block_bytes(32) == 512);
    CHECK(fh_class_of_small(512) == 32 && fh_class_of_small(0) == 0 && fh_class_of_small(1) == 1);
}

TEST(above_them_there_are_four_classes_a_doubling)
{
    unsigned class_index = FH_SMALL_CLASSES;
    for (size_t power = FH_SMALL_MAX_BYTES; power < FH_BLOCK_MAX_BYTES; power *= 2)
        for (size_t quarter = 1; quarter <= 4; quarter++, class_index++)
            CHECK(fh_class_block_bytes(class_index) == power + quarter * (power / 4));
    CHECK(class_index == FH_CLASSES);
    CHECK(fh_class_block_bytes(FH_CLASSES - 1) == FH_BLOCK_MAX_BYTES);
    CHECK(fh_class_of(FH_BLOCK_MAX_BYTES) == FH_CLASSES - 1);
}

TEST(a_block_wastes_less_than_a_quarter_of_its_request_or_one_step)
{
    for (size_t bytes = 1; bytes <= FH_BLOCK_MAX_BYTES; bytes++) {
        size_t waste = fh_class_block_bytes(fh_class_of(bytes)) - bytes;
        CHECK(waste < FH_BLOCK_ALIGN_BYTES || waste * 4 < bytes);
    }
}

TEST(blocks_of_a_class_fill_its_pools_as_far_as_they_may)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        size_t block_bytes = fh_class_block_bytes(class_index);
        size_t pool_bytes = (size_t)fh_class_pools(class_index) << FH_POOL_SHIFT;
        size_t capacity = fh_class_capacity(class_index);
        CHECK(block_bytes % FH_BLOCK_ALIGN_BYTES == 0);
        CHECK(capacity * block_bytes <= pool_bytes && capacity <= FH_POOL_BLOCKS_MAX);
        CHECK(capacity >= 2); /* full and empty are different states */
        CHECK(capacity == FH_POOL_BLOCKS_MAX || pool_bytes - capacity * block_bytes < block_bytes);
        CHECK(capacity == FH_POOL_BLOCKS_MAX ||
              (pool_bytes - capacity * block_bytes) * 8 < pool_bytes);
    }
}

TEST(a_class_takes_a_span_only_where_a_pool_would_hold_fewer_than_eight_blocks)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES && FH_SPAN_POOLS > 1; class_index++) {
        bool one_is_enough = FH_POOL_BYTES / fh_class_block_bytes(class_index) >= 8;
        CHECK(fh_class_pools(class_index) == (one_is_enough ? 1u : FH_SPAN_POOLS));
        CHECK(fh_class_capacity(class_index) >= 8);
    }
}

TEST(an_aligned_request_has_the_lowest_class_that_is_a_multiple)
{
    for (size_t alignment = 1; alignment <= FH_BLOCK_MAX_BYTES; alignment *= 2)
        for (size_t bytes = 0; bytes <= FH_BLOCK_MAX_BYTES; bytes += bytes < 600 ? 1 : 97) {
            unsigned class_index = fh_class_of_aligned(bytes, alignment);
            CHECK(class_index < FH_CLASSES);
            CHECK(fh_class_block_bytes(class_index) >= bytes);
            CHECK(fh_class_block_bytes(class_index) % alignment == 0);
            for (unsigned lower = 1; lower < class_index; lower++)
                CHECK(fh_class_block_bytes(lower) < bytes ||
                      fh_class_block_bytes(lower) % alignment != 0);
        }
}

TEST(spans_are_aligned_as_their_blocks_need)
{
    /* A block's address is a multiple of the largest power of two in its size if the pool's start
     * is, which is a multiple of FH_POOL_BYTES whatever the span. */
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        size_t block_bytes = fh_class_block_bytes(class_index);
        CHECK((block_bytes & -block_bytes) <= FH_POOL_BYTES);
    }
}
