/* SPDX-License-Identifier: MIT */
#include "supply.h"

#include <errno.h>

#include "arena.h"
#include "bits.h"
#include "limit.h"
#include "map.h"
#include "os.h"

/* ---- Choosing ---------------------------------------------------------------------------------
 */

static void *map_arena(void *ctx, size_t bytes)
{
    (void)ctx;
    return fh_os_map(bytes);
}

static void unmap_arena(void *ctx, void *memory, size_t bytes)
{
    (void)ctx;
    fh_os_unmap(memory, bytes);
}

void fh_supply_choose(struct fh_classic *heap)
{
    if (heap->config.source.alloc != NULL)
        return;
    size_t bytes = heap->config.arena_bytes;
    const struct fh_region *region = fh_region_get();
    if (region == NULL || bytes < FH_POOL_BYTES || bytes > FH_ARENA_BYTES) {
        heap->config.source = (struct fh_classic_source){NULL, map_arena, unmap_arena};
        return;
    }
    heap->region_base = region->base;
    heap->region_bytes = region->bytes;
    heap->descriptors = region->descriptors;
}

/* ---- From the region --------------------------------------------------------------------------
 */

static struct fh_pool *descriptor_of(const struct fh_region *region, size_t pool_index)
{
    return (struct fh_pool *)(void *)(region->descriptors + (pool_index << FH_DESCRIPTOR_SHIFT));
}

/* Own stores: whoever holds a block got it after this, and others may see either. */
static void describe(struct fh_pool *pool, struct fh_classic *heap, unsigned pools)
{
    for (unsigned i = 0; i < pools; i++) {
        fh_store_own_ptr(&pool[i].classic, heap);
        fh_store_own_u8(&pool[i].kind, heap == NULL ? FH_POOL_NONE : FH_POOL_CLASSIC);
    }
}

static unsigned pools_of(const struct fh_classic *heap)
{
    return heap->config.arena_bytes >> FH_POOL_SHIFT;
}

static void *claim_run(struct fh_classic *heap)
{
    struct fh_region *region = fh_region_peek();
    struct fh_run run;
    unsigned pools = pools_of(heap);
    /* The program's function is not asked: this heap is being changed, and perhaps locked. */
    if (!fh_arena_claim(region, pools, pools, &run) &&
        !(fh_limit_make_room(region, pools) && fh_arena_claim(region, pools, pools, &run)))
        return NULL;
    describe(descriptor_of(region, run.pool_index), heap, pools);
    return fh_arena_pool_address(region, run.pool_index);
}

static void release_run(const struct fh_classic *heap, const void *memory)
{
    struct fh_region *region = fh_region_peek();
    size_t pool_index;
    if (!fh_region_find((uintptr_t)memory, &pool_index))
        return; /* cannot be: it was claimed there */
    describe(descriptor_of(region, pool_index), NULL, pools_of(heap));
    fh_arena_release(region, pool_index, pools_of(heap));
}

/* ---- From a source ----------------------------------------------------------------------------
 */

static void *ask_source(struct fh_classic *heap)
{
    const struct fh_classic_source *source = &heap->config.source;
    size_t bytes = heap->config.arena_bytes;
    void *memory = source->alloc(source->ctx, bytes);
    if (memory == NULL)
        return NULL;
    if (fh_map_add((uintptr_t)memory, bytes, heap))
        return memory;
    source->free(source->ctx, memory, bytes);
    return NULL;
}

static void return_to_source(const struct fh_classic *heap, void *memory)
{
    const struct fh_classic_source *source = &heap->config.source;
    fh_map_remove((uintptr_t)memory, heap->config.arena_bytes);
    source->free(source->ctx, memory, heap->config.arena_bytes);
}

/* ---- Either -----------------------------------------------------------------------------------
 */

static bool is_admitted(const struct fh_classic *heap)
{
    const struct fh_classic_config *config = &heap->config;
    return config->admit == NULL || config->admit(config->user, config->arena_bytes);
}

static void report_closed(const struct fh_classic *heap)
{
    if (heap->config.closed != NULL)
        heap->config.closed(heap->config.user, heap->config.arena_bytes);
}

/* Whole pages of it; the rest is not worth more. */
static void return_pages(void *memory, size_t bytes)
{
    size_t page_bytes = fh_os_page_bytes();
    uintptr_t start = fh_round_up((uintptr_t)memory, page_bytes);
    uintptr_t end = ((uintptr_t)memory + bytes) & ~(uintptr_t)(page_bytes - 1);
    if (start < end)
        (void)fh_os_purge((void *)start, end - start);
}

void *fh_supply_arena(struct fh_classic *heap)
{
    if (!is_admitted(heap))
        return NULL;
    void *memory = heap->config.source.alloc == NULL ? claim_run(heap) : ask_source(heap);
    if (memory == NULL)
        report_closed(heap);
    return memory;
}

void fh_supply_return(struct fh_classic *heap, void *memory)
{
    int saved_errno = errno; /* a source may change it, and to free must not */
    if (heap->config.unmaps)
        return_pages(memory, heap->config.arena_bytes);
    if (heap->config.source.alloc == NULL)
        release_run(heap, memory);
    else
        return_to_source(heap, memory);
    report_closed(heap);
    errno = saved_errno;
}

/* Where no arena is open yet, there may be no descriptors either. */
static struct fh_classic *find_in_region(uintptr_t address)
{
    const struct fh_region *region = fh_region_peek();
    size_t pool_index;
    if (!fh_region_find(address, &pool_index) ||
        !fh_region_has_arena(region, pool_index >> FH_ARENA_POOL_SHIFT))
        return NULL;
    return fh_load_own_ptr(&descriptor_of(region, pool_index)->classic);
}

/* A heap with a source looks in the map alone: a source may hand out the region's memory, whose
 * descriptors then say something else. */
bool fh_classic_owns(const struct fh_classic *heap, const void *address)
{
    return heap == (heap->config.source.alloc == NULL ? find_in_region((uintptr_t)address)
                                                      : fh_map_find((uintptr_t)address));
}

const struct fh_classic_pool *fh_classic_find_pool(const struct fh_classic *heap,
                                                   const void *address)
{
    const struct fh_classic_pool *pool = fh_classic_pool_of(heap, address);
    bool is_there = heap->config.source.alloc == NULL
                        ? heap == find_in_region((uintptr_t)address)
                        : fh_map_has_all((uintptr_t)pool, heap->config.pool_bytes, heap);
    return is_there ? pool : NULL;
}

struct fh_classic *fh_classic_of(const void *address)
{
    struct fh_classic *heap = find_in_region((uintptr_t)address);
    return heap != NULL ? heap : fh_map_find((uintptr_t)address);
}
