/* SPDX-License-Identifier: MIT */
/* What an address is: a block of the threads' heaps, of a heap's arenas, a large one, a stranger.
 */
#include "heap.h"

#include "theap.h"

struct fh_pool *fh_address_pool(const void *address)
{
    const struct fh_region *region = fh_region_peek();
    size_t pool_index;
    if (!fh_region_find((uintptr_t)address, &pool_index) ||
        !fh_region_has_arena(region, pool_index >> FH_ARENA_POOL_SHIFT))
        return NULL;
    return fh_theap_pool_of(address);
}

struct fh_heap_part *fh_address_part(const void *address)
{
    const struct fh_classic *classic = fh_classic_of(address);
    return classic == NULL ? NULL : classic->config.user;
}

fh_heap *fh_heap_of(const void *block)
{
    struct fh_heap_part *part = fh_address_part(block);
    if (part != NULL)
        return part->heap;
    const struct fh_large_header *header = fh_large_at(block);
    if (header != NULL)
        return header->heap;
    return fh_address_pool(block) == NULL ? NULL : fh_heap_default();
}

static size_t usable_bytes(const void *block)
{
    const struct fh_classic *classic = fh_classic_of(block);
    if (classic != NULL)
        return fh_classic_usable_bytes(classic, block);
    const struct fh_large_header *header = fh_large_at(block);
    return header != NULL ? fh_large_usable_bytes(header) : fh_theap_usable_bytes(block);
}

size_t fh_address_usable_bytes(const void *block)
{
    const struct fh_pool *pool = fh_address_pool_in_region(block);
    return FH_LIKELY(pool != NULL && fh_pool_is_of_threads(pool))
               ? fh_load_own_u32(&pool->block_bytes)
               : usable_bytes(block);
}

bool fh_address_is_known(const void *address)
{
    return fh_classic_of(address) != NULL || fh_address_pool(address) != NULL;
}

static bool is_small_block(const struct fh_classic *classic, const void *address)
{
    const struct fh_classic_pool *pool = fh_classic_find_pool(classic, address);
    size_t offset = (uintptr_t)address - (uintptr_t)pool - sizeof *pool;
    return pool != NULL && pool->block_bytes != 0 && offset < classic->config.pool_bytes &&
           offset % pool->block_bytes == 0;
}

bool fh_address_is_block(const void *address)
{
    const struct fh_classic *classic = fh_classic_of(address);
    const struct fh_pool *pool = fh_address_pool(address);
    if (classic != NULL)
        return is_small_block(classic, address);
    return fh_large_at(address) != NULL || (pool != NULL && fh_large_starts_block(pool, address));
}

size_t fh_address_alignment(const void *address)
{
    const struct fh_classic *classic = fh_classic_of(address);
    return classic == NULL ? FH_BLOCK_ALIGN_BYTES : classic->config.alignment_bytes;
}
