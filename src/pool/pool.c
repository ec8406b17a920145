/* SPDX-License-Identifier: MIT */
#include "pool.h"

#include "bits.h"
#include "fatal.h"
#include "size_class.h"

static uint64_t load_word(const struct fh_pool *pool)
{
    return fh_load_relaxed_u64(&pool->word); /* a guess: each CAS checks it */
}

static void set_live(struct fh_pool *pool, uint32_t live)
{
    fh_store_own_u32(&pool->countdown, live);
    fh_store_own_u32(&pool->live_then, 0);
}

/* Set after the CAS that acquired the pool and cleared before the one that gives it up, both by the
 * owner itself: so whoever finds itself in it is the owner, however stale the read. */
static void set_owner(struct fh_pool *pool, uint64_t heap_tag)
{
    fh_store_own_u64(&pool->owner, heap_tag);
}

void fh_pool_start(struct fh_pool *pool, char *start, unsigned class_index, bool zeroed,
                   uint64_t heap_tag, uint32_t heap_id)
{
    unsigned pools = fh_class_pools(class_index);
    pool->origin = (uintptr_t)start - FH_BLOCK_ALIGN_BYTES;
    fh_store_own_u8(&pool->class_index, (uint8_t)class_index);
    pool->zeroed = zeroed;
    fh_store_own_u32(&pool->block_bytes, (uint32_t)fh_class_block_bytes(class_index));
    fh_store_own_u32(&pool->capacity, fh_class_capacity(class_index));
    fh_store_own_u32(&pool->threshold, pool->capacity / 8 > 1 ? pool->capacity / 8 : 1);
    fh_store_own_u32(&pool->pools, pools);
    pool->local = NULL;
    fh_store_own_u32(&pool->carved, 0);
    pool->frontier = 0;
    pool->tail_purged = zeroed;
    pool->holes = 0;
    set_live(pool, 0);
    pool->sink = &pool->own;
    for (unsigned i = 1; i < pools; i++) {
        pool[i].head_distance = (uint8_t)i;
        fh_store_own_u8(&pool[i].kind, FH_POOL_INSIDE);
    }
    fh_store_own_u8(&pool->kind, FH_POOL_BLOCKS);
    /* Relaxed: nobody has a block of it; who gets one gets it from us. */
    fh_store_relaxed_u64(&pool->word, fh_word(FH_ACTIVE, heap_id, FH_ACTIVE_CREDITS, 0));
    fh_store_own_u64(&pool->home, heap_tag);
    set_owner(pool, heap_tag);
}

void fh_pool_end(struct fh_pool *pool)
{
    for (uint32_t i = 0; i < fh_load_own_u32(&pool->pools); i++)
        fh_store_own_u8(&pool[i].kind, FH_POOL_NONE);
    /* Relaxed: the release of its bits in the arena passes this on. */
    fh_store_relaxed_u64(&pool->word, fh_word(FH_FREE, 0, 0, 0));
}

/* ---- The owner's lists ------------------------------------------------------------------------
 */

/* How many blocks to cut from `address` on: those that begin before the next multiple of
 * FH_CARVE_BYTES. Some of the large ones too, or each malloc of such a block would cut one. */
static uint32_t blocks_to_carve(uintptr_t address, uint32_t block_bytes)
{
    uint32_t bytes = FH_CARVE_BYTES - (uint32_t)(address % FH_CARVE_BYTES);
    uint32_t blocks = (bytes + block_bytes - 1) / block_bytes;
    return blocks < FH_CARVE_BLOCKS_MIN ? FH_CARVE_BLOCKS_MIN : blocks;
}

static char *block_numbered(const struct fh_pool *pool, uint32_t number)
{
    return (char *)pool->origin + FH_BLOCK_ALIGN_BYTES + (size_t)number * pool->block_bytes;
}

/* Link `count` blocks from `number` on. */
static struct fh_block *carve(struct fh_pool *pool, uint32_t number, uint32_t count)
{
    uint32_t block_bytes = pool->block_bytes;
    char *first = block_numbered(pool, number);
    char *last = first + (size_t)(count - 1) * block_bytes;
    for (char *at = first; at < last; at += block_bytes)
        ((struct fh_block *)(void *)at)->next = (struct fh_block *)(void *)(at + block_bytes);
    ((struct fh_block *)(void *)last)->next = NULL;
    fh_store_own_u32(&pool->carved, fh_load_own_u32(&pool->carved) + count);
    fh_store_own_u32(&pool->countdown, fh_load_own_u32(&pool->countdown) + count);
    return (struct fh_block *)(void *)first;
}

/* The blocks of the lowest hole. */
static FH_COLD struct fh_block *carve_hole(struct fh_pool *pool)
{
    if (pool->holes == 0)
        return NULL;
    unsigned page = fh_lowest_bit(pool->holes);
    pool->holes &= pool->holes - 1;
    uint32_t first = fh_pool_first_in_page(pool, page);
    return carve(pool, first, fh_pool_first_in_page(pool, page + 1) - first);
}

struct fh_block *fh_pool_carve(struct fh_pool *pool)
{
    uint32_t number = pool->frontier;
    uint32_t left = pool->capacity - number;
    if (FH_UNLIKELY(left == 0))
        return carve_hole(pool);
    uint32_t count = blocks_to_carve((uintptr_t)block_numbered(pool, number), pool->block_bytes);
    count = count < left ? count : left;
    pool->frontier = number + count;
    return carve(pool, number, count);
}

struct fh_block *fh_pool_collect(struct fh_pool *pool, uint32_t heap_id)
{
    uint64_t word = load_word(pool);
    do {
        if (word >> FH_WORD_HEAD_SHIFT == 0)
            return NULL;
        /* [remote-free] acquire: the blocks' links, and their last users are done with them. */
    } while (
        !fh_cas_acquire_u64(&pool->word, &word, fh_word(FH_ACTIVE, heap_id, FH_ACTIVE_CREDITS, 0)));
    return fh_word_list(pool, word);
}

void fh_pool_put_back(struct fh_pool *pool, struct fh_block *blocks)
{
    uint32_t count = 1;
    struct fh_block *last = blocks;
    for (; last->next != NULL; last = last->next)
        count++;
    last->next = pool->local;
    pool->local = blocks;
    fh_store_own_u32(&pool->countdown, fh_load_own_u32(&pool->countdown) - count);
}

uint32_t fh_pool_first_in_page(const struct fh_pool *pool, unsigned page)
{
    uint32_t number = (page * (uint32_t)FH_CARVE_BYTES + pool->block_bytes - 1) / pool->block_bytes;
    return number < pool->capacity ? number : pool->capacity;
}

/* ---- Transitions of the word ------------------------------------------------------------------
 */

bool fh_pool_leave_full(struct fh_pool *pool, uint64_t heap_tag, uint32_t heap_id)
{
    uint64_t word = fh_word(FH_ACTIVE, heap_id, FH_ACTIVE_CREDITS, 0);
    set_owner(pool, 0);
    /* [pool-hand-over] release: the owner's line, to the acquires in fh_pool_adopt() and
     * fh_pool_take_back(). */
    if (fh_cas_acq_rel_u64(&pool->word, &word, fh_word(FH_FULL, heap_id, pool->threshold, 0)))
        return true;
    set_owner(pool, heap_tag);
    return false;
}

bool fh_pool_take_back(struct fh_pool *pool, uint64_t heap_tag, uint32_t heap_id,
                       struct fh_block *block)
{
    uint64_t word = load_word(pool);
    do {
        if (fh_word_state(word) != FH_FULL || fh_word_owner(word) != heap_id)
            return false;
        /* [remote-free] acquire; [pool-hand-over] acquire, though only from this heap itself. */
    } while (
        !fh_cas_acq_rel_u64(&pool->word, &word, fh_word(FH_ACTIVE, heap_id, FH_ACTIVE_CREDITS, 0)));
    uint32_t freed = pool->threshold - fh_word_credits(word) + 1;
    block->next = fh_word_list(pool, word);
    pool->local = block;
    set_live(pool, pool->capacity - freed);
    set_owner(pool, heap_tag);
    return true;
}

bool fh_pool_adopt(struct fh_pool *pool, uint64_t heap_tag, uint32_t heap_id)
{
    uint64_t word = load_word(pool);
    do {
        if (!fh_word_is_shared(word))
            return false;
        /* [remote-free] acquire; [pool-hand-over] acquire: the last owner's line. */
    } while (
        !fh_cas_acq_rel_u64(&pool->word, &word, fh_word(FH_ACTIVE, heap_id, FH_ACTIVE_CREDITS, 0)));
    pool->local = fh_word_list(pool, word);
    set_live(pool, fh_word_shared_live(word, pool->capacity));
    fh_store_own_u64(&pool->home, heap_tag);
    set_owner(pool, heap_tag);
    return true;
}

/* Append the remotely freed blocks to the local list, by a walk over them. */
static void collect_to_local(struct fh_pool *pool, uint32_t heap_id)
{
    struct fh_block *blocks = fh_pool_collect(pool, heap_id);
    if (blocks == NULL)
        fh_pool_is_damaged(pool);
    fh_pool_put_back(pool, blocks);
}

void fh_pool_is_damaged(const struct fh_pool *pool)
{
    fh_fatal_pointer("free", (const char *)pool->origin + FH_BLOCK_ALIGN_BYTES,
                     "the pool here is damaged: an address inside one of its blocks was freed");
}

/* Shared, with so many live blocks, at least one. */
static uint64_t word_shared(const struct fh_pool *pool, uint32_t live, uint32_t head)
{
    unsigned level = 0;
    while (live <= fh_pool_level_end(pool->capacity, level))
        level++;
    return fh_word((enum fh_pool_state)(FH_SHARED + level), 0,
                   live - fh_pool_level_end(pool->capacity, level), head);
}

/* The word for an owner's pool that it gives up, with every known free block on the local list. */
static uint64_t word_given_up(const struct fh_pool *pool)
{
    uint32_t live = fh_pool_live(pool);
    uint32_t available = pool->capacity - live;
    uint32_t head = fh_pool_index_of(pool, pool->local);
    if (live == 0)
        return fh_word(FH_FREE, 0, 0, 0);
    if (available >= pool->threshold)
        return word_shared(pool, live, head);
    return fh_word(FH_FULL, 0, pool->threshold - available, head);
}

static enum fh_pool_event event_of(uint64_t word)
{
    switch (fh_word_state(word)) {
    case FH_FREE:
        return FH_POOL_NOW_EMPTY;
    case FH_FULL:
        return FH_POOL_NOTHING;
    case FH_SHARED:
        return FH_POOL_NOW_SHARED;
    default:
        return FH_POOL_NOW_SPARSE;
    }
}

enum fh_pool_event fh_pool_give_up(struct fh_pool *pool, uint32_t heap_id)
{
    const uint64_t nothing_remote = fh_word(FH_ACTIVE, heap_id, FH_ACTIVE_CREDITS, 0);
    uint64_t word = nothing_remote;
    uint64_t after = word_given_up(pool);
    set_owner(pool, 0);
    /* [pool-hand-over] release: the owner's line and the local list. Fails only when another thread
     * freed a block meanwhile. */
    while (!fh_cas_acq_rel_u64(&pool->word, &word, after)) {
        collect_to_local(pool, heap_id);
        after = word_given_up(pool);
        word = nothing_remote;
    }
    return event_of(after);
}

/* What the free that uses up the last credit makes of the pool. */
static uint64_t word_decided(const struct fh_pool *pool, uint64_t word,
                             const struct fh_block *block)
{
    uint32_t live = fh_word_state(word) == FH_FULL ? pool->capacity - pool->threshold
                                                   : fh_word_shared_live(word, pool->capacity) - 1;
    return live == 0 ? fh_word(FH_FREE, 0, 0, 0)
                     : word_shared(pool, live, fh_pool_index_of(pool, block));
}

enum fh_pool_event fh_pool_free_deciding(struct fh_pool *pool, struct fh_block *block)
{
    uint64_t word = load_word(pool);
    uint64_t after;
    enum fh_pool_event event;
    do {
        bool decides = fh_word_credits(word) == 1;
        block->next = fh_word_list(pool, word);
        after = decides ? word_decided(pool, word, block) : fh_word_push(pool, word, block);
        event = decides ? event_of(after) : FH_POOL_NOTHING;
        /* [remote-free] release as in fh_pool_free_remote(); acquire, because who empties the pool
         * gives away everybody's blocks. */
    } while (!fh_cas_acq_rel_u64(&pool->word, &word, after));
    return event;
}

bool fh_pool_has_block_at(const struct fh_pool *pool, const void *address)
{
    size_t offset = (uintptr_t)address - pool->origin - FH_BLOCK_ALIGN_BYTES;
    return offset % pool->block_bytes == 0 && offset / pool->block_bytes < pool->capacity;
}
