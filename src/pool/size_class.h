/* SPDX-License-Identifier: MIT */
/* Size classes: how many bytes a block of a request has. Pure functions.
 *
 *   class 0        16 bytes, for requests of none: their blocks are distinct without a test
 *   class 1..32    16, 32, … 512: pymalloc's classes
 *   class 33..56   640, 768, 896, 1024, 1280, … 32768: four per doubling
 *
 * A class's block is a multiple of 16; blocks of 2^n bytes lie at multiples of 2^n, and blocks that
 * are a multiple of an alignment at multiples of it, since a pool starts at a multiple of its size.
 */
#ifndef FH_POOL_SIZE_CLASS_H
#define FH_POOL_SIZE_CLASS_H

#include "bits.h"
#include "config.h"

/* bytes <= FH_SMALL_MAX_BYTES */
FH_ALWAYS_INLINE size_t fh_class_of_small(size_t bytes)
{
    return (bytes + FH_BLOCK_ALIGN_BYTES - 1) >> FH_BLOCK_ALIGN_SHIFT;
}

/* FH_SMALL_MAX_BYTES < bytes <= FH_BLOCK_MAX_BYTES */
FH_ALWAYS_INLINE unsigned fh_class_of_medium(size_t bytes)
{
    unsigned doubling = fh_log2_floor(bytes - 1); /* 2^doubling < bytes <= 2^(doubling + 1) */
    unsigned quarter = (unsigned)((bytes - 1) >> (doubling - 2)) & 3;
    return FH_SMALL_CLASSES + 4 * (doubling - FH_SMALL_SHIFT) + quarter;
}

/* bytes <= FH_BLOCK_MAX_BYTES */
FH_ALWAYS_INLINE unsigned fh_class_of(size_t bytes)
{
    return bytes <= FH_SMALL_MAX_BYTES ? (unsigned)fh_class_of_small(bytes)
                                       : fh_class_of_medium(bytes);
}

FH_ALWAYS_INLINE size_t fh_class_block_bytes(unsigned class_index)
{
    if (class_index < FH_SMALL_CLASSES)
        return class_index == 0 ? FH_BLOCK_ALIGN_BYTES : (size_t)class_index * FH_BLOCK_ALIGN_BYTES;
    unsigned medium = class_index - FH_SMALL_CLASSES;
    return (size_t)(5 + medium % 4) << (FH_SMALL_SHIFT + medium / 4 - 2);
}

/* The lowest class whose blocks hold `bytes` and lie at multiples of `alignment`, a power of two;
 * both at most FH_BLOCK_MAX_BYTES. */
unsigned fh_class_of_aligned(size_t bytes, size_t alignment);

/* Adjacent pools of a class, and how many of its blocks fit them. */
unsigned fh_class_pools(unsigned class_index);
unsigned fh_class_capacity(unsigned class_index);

#endif
