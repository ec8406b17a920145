/* SPDX-License-Identifier: MIT */
#include "size_class.h"

unsigned fh_class_of_aligned(size_t bytes, size_t alignment)
{
    unsigned class_index = fh_class_of(bytes < alignment ? alignment : bytes);
    while ((fh_class_block_bytes(class_index) & (alignment - 1)) != 0)
        class_index++; /* ends: every power of two is a class */
    return class_index;
}

unsigned fh_class_pools(unsigned class_index)
{
    return fh_class_block_bytes(class_index) <= FH_SINGLE_POOL_MAX_BYTES ? 1 : FH_SPAN_POOLS;
}

unsigned fh_class_capacity(unsigned class_index)
{
    size_t bytes = (size_t)fh_class_pools(class_index) << FH_POOL_SHIFT;
    size_t blocks = bytes / fh_class_block_bytes(class_index);
    return blocks < FH_POOL_BLOCKS_MAX ? (unsigned)blocks : FH_POOL_BLOCKS_MAX;
}
