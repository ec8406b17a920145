/* SPDX-License-Identifier: MIT */
/* Pools and blocks: what malloc and free do when their few instructions in classic.h do not do. */
#include "classic.h"

#include <errno.h>
#include <string.h>

#include "bits.h"
#include "os.h"
#include "supply.h"
#include "usable.h"

enum { HEADER_BYTES = sizeof(struct fh_classic_pool) };

/* A handler that interrupts the holder here must not look into the heap. */

static void begin_change(struct fh_classic *heap)
{
    heap->changes++;
    FH_SIGNAL_FENCE();
}

static void end_change(struct fh_classic *heap)
{
    FH_SIGNAL_FENCE();
    heap->changes--;
}

/* ---- Taking -----------------------------------------------------------------------------------
 */

/* List the blocks that begin before the next page does, lowest first: whoever needs the first of
 * them touches this page anyway. CPython lists one at a time, which hands out the same, since a
 * block that was freed comes before all of these. */
static struct fh_block *carve(struct fh_classic_pool *pool)
{
    uint32_t offset = pool->carve_offset;
    uint32_t page_end = (uint32_t)fh_round_up(offset + 1, FH_CARVE_BYTES);
    struct fh_block *first = (struct fh_block *)(void *)((char *)pool + offset);
    struct fh_block **tail = &first;
    do {
        struct fh_block *block = (struct fh_block *)(void *)((char *)pool + offset);
        *tail = block;
        tail = &block->next;
        offset += pool->block_bytes;
    } while (offset < page_end && offset <= pool->carve_max);
    *tail = offset <= pool->carve_max ? FH_CLASSIC_MORE : NULL;
    pool->carve_offset = offset;
    return first;
}

/* A pool without blocks becomes one of this size. */
static void prepare(const struct fh_classic *heap, struct fh_classic_pool *pool, size_t slot,
                    uint32_t block_bytes)
{
    pool->slot = (uint16_t)slot;
    pool->block_bytes = (uint16_t)block_bytes;
    pool->carve_offset = HEADER_BYTES;
    pool->carve_max = heap->config.pool_bytes - block_bytes;
    pool->free_list = FH_CLASSIC_MORE;
}

/* The class has no pool with a free block. */
static struct fh_classic_pool *start_pool(struct fh_classic *heap, size_t slot)
{
    struct fh_classic_pool *pool = fh_usable_take(heap);
    if (pool == NULL)
        return NULL;
    uint32_t block_bytes = (uint32_t)(slot << FH_CLASSIC_SLOT_SHIFT) + heap->config.alignment_bytes;
    if (pool->block_bytes != block_bytes) /* else its list is as good as it was */
        prepare(heap, pool, slot, block_bytes);
    pool->live_count = 0;
    pool->next = &heap->none;
    heap->used[slot] = pool;
    return pool;
}

/* Before the heap grows by an arena, what was freed without the lock comes back. */
static struct fh_classic_pool *next_pool(struct fh_classic *heap, size_t slot)
{
    if (heap->usable == NULL && fh_classic_drain(heap) > 0 && heap->used[slot] != &heap->none)
        return heap->used[slot];
    return start_pool(heap, slot);
}

void *fh_classic_malloc_slow(struct fh_classic *heap, size_t slot)
{
    struct fh_classic_pool *pool = heap->used[slot];
    begin_change(heap);
    if (pool == &heap->none)
        pool = next_pool(heap, slot);
    if (pool != NULL && pool->free_list == FH_CLASSIC_MORE)
        pool->free_list = carve(pool);
    end_change(heap);
    return pool == NULL ? NULL : fh_classic_take_first(heap, pool, slot);
}

/* ---- Freeing ----------------------------------------------------------------------------------
 */

bool fh_classic_free_slow(struct fh_classic *heap, void *memory)
{
    if (!fh_classic_owns(heap, memory))
        return false;
    fh_classic_free_own(heap, memory);
    return true;
}

static void unlink_used(struct fh_classic *heap, struct fh_classic_pool *pool)
{
    struct fh_classic_pool **used = &heap->used[pool->slot];
    if (*used == pool)
        *used = pool->next;
    else
        pool->previous->next = pool->next;
    pool->next->previous = pool->previous; /* `none` has the field too; nobody reads it there */
}

void fh_classic_is_empty(struct fh_classic *heap, struct fh_classic_pool *pool)
{
    begin_change(heap);
    unlink_used(heap, pool);
    fh_usable_give(heap, pool);
    end_change(heap);
}

void fh_classic_defer(struct fh_classic *heap, void *memory)
{
    struct fh_block *block = memory;
    uint64_t head = fh_load_relaxed_u64(&heap->deferred); /* a guess: the CAS checks it */
    do {
        block->next = (struct fh_block *)(uintptr_t)head;
        /* [deferred-free] release: passes block->next and this thread's last use of the block to
         * fh_classic_drain(). */
    } while (!fh_cas_release_u64(&heap->deferred, &head, (uintptr_t)block));
}

bool fh_classic_free_deferred(void *memory)
{
    struct fh_classic *heap = fh_classic_of(memory);
    if (heap == NULL)
        return false;
    fh_classic_defer(heap, memory);
    return true;
}

size_t fh_classic_drain(struct fh_classic *heap)
{
    if (fh_load_relaxed_u64(&heap->deferred) == 0) /* nothing yet; what comes now comes next time */
        return 0;
    size_t freed = 0;
    /* [deferred-free] acquire: takes the whole list, with the links that the CAS passed. Only whole
     * lists are ever taken, so a block that comes back meanwhile confuses nobody. */
    uint64_t head = fh_fetch_and_acquire_u64(&heap->deferred, 0);
    for (struct fh_block *block = (struct fh_block *)(uintptr_t)head, *next; block != NULL;
         block = next) {
        next = block->next;
        freed += fh_classic_free(heap, block);
    }
    return freed;
}

size_t fh_classic_deferred_count(const struct fh_classic *heap)
{
    size_t count = 0;
    /* [deferred-free] acquire: the links, as in fh_classic_drain(). */
    uint64_t head = fh_load_acquire_u64(&heap->deferred);
    for (const struct fh_block *block = (const struct fh_block *)(uintptr_t)head; block != NULL;
         block = block->next)
        count++;
    return count;
}

/* ---- Resizing ---------------------------------------------------------------------------------
 */

size_t fh_classic_usable_bytes(const struct fh_classic *heap, const void *block)
{
    const struct fh_classic_pool *pool = fh_classic_find_pool(heap, block);
    return pool == NULL ? 0 : pool->block_bytes;
}

enum fh_classic_outcome fh_classic_realloc(struct fh_classic *heap, void **block, size_t bytes)
{
    size_t old_bytes = fh_classic_usable_bytes(heap, *block);
    if (old_bytes == 0)
        return FH_CLASSIC_FOREIGN;
    if (bytes <= old_bytes && 4 * bytes > 3 * old_bytes)
        return FH_CLASSIC_RESIZED;
    void *moved = fh_classic_serves(heap, bytes) ? fh_classic_malloc(heap, bytes) : NULL;
    if (moved == NULL) /* to shrink is only an economy */
        return bytes <= old_bytes ? FH_CLASSIC_RESIZED : FH_CLASSIC_ELSEWHERE;
    memcpy(moved, *block, bytes < old_bytes ? bytes : old_bytes);
    (void)fh_classic_free(heap, *block);
    *block = moved;
    return FH_CLASSIC_RESIZED;
}

/* ---- Heaps ------------------------------------------------------------------------------------
 */

struct fh_classic_config fh_classic_default_config(void)
{
    return (struct fh_classic_config){
        .alignment_bytes = 16,
        .threshold_bytes = 512,
        .pool_bytes = 16 << 10,
        .arena_bytes = 1 << 20,
        .spare_arenas = 1,
    };
}

bool fh_classic_is_valid(const struct fh_classic_config *config)
{
    const struct fh_classic_source *source = &config->source;
    return (config->alignment_bytes == 8 || config->alignment_bytes == 16) &&
           (config->threshold_bytes == 256 || config->threshold_bytes == 512) &&
           fh_is_power_of_two(config->pool_bytes) && fh_is_power_of_two(config->arena_bytes) &&
           config->pool_bytes >= FH_CLASSIC_POOL_BYTES_MIN &&
           config->pool_bytes <= FH_CLASSIC_POOL_BYTES_MAX &&
           config->arena_bytes >= FH_CLASSIC_ARENA_BYTES_MIN &&
           config->arena_bytes / config->pool_bytes >= FH_CLASSIC_POOLS_MIN &&
           config->arena_bytes / config->pool_bytes <= FH_CLASSIC_POOLS_MAX &&
           (source->alloc == NULL) == (source->free == NULL);
}

static size_t heap_bytes(void)
{
    return fh_round_up(sizeof(struct fh_classic), fh_os_page_bytes());
}

static void fill_in(struct fh_classic *heap, const struct fh_classic_config *config)
{
    heap->config = *config;
    heap->slot_mask = ~(size_t)((config->alignment_bytes >> FH_CLASSIC_SLOT_SHIFT) - 1);
    heap->pool_mask = ~((uintptr_t)config->pool_bytes - 1);
    heap->threshold_bytes = config->threshold_bytes;
    for (size_t slot = 0; slot < FH_CLASSIC_SLOTS; slot++)
        heap->used[slot] = &heap->none;
}

struct fh_classic *fh_classic_create(const struct fh_classic_config *config)
{
    if (!fh_classic_is_valid(config)) {
        errno = EINVAL;
        return NULL;
    }
    struct fh_classic *heap = fh_os_map(heap_bytes());
    if (heap == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    fill_in(heap, config);
    fh_supply_choose(heap);
    return heap;
}

bool fh_classic_is_unused(const struct fh_classic *heap)
{
    for (uint32_t i = 0; i < heap->arenas_capacity; i++)
        if (heap->arenas[i].address != 0 &&
            heap->arenas[i].free_count != heap->arenas[i].pool_count)
            return false;
    return true;
}

void fh_classic_decay(struct fh_classic *heap)
{
    begin_change(heap);
    fh_usable_decay(heap);
    end_change(heap);
}

void fh_classic_trim(struct fh_classic *heap)
{
    begin_change(heap);
    fh_usable_release_empty(heap);
    end_change(heap);
}

void fh_classic_destroy(struct fh_classic *heap)
{
    fh_usable_release_all(heap);
    fh_os_unmap(heap, heap_bytes());
}
