/* SPDX-License-Identifier: MIT */
#include "refill.h"

#include <errno.h>

#include "arena.h"
#include "bits.h"
#include "holder.h"
#include "purge.h"
#include "shared.h"
#include "spare.h"
#include "sparse.h"
#include "thread.h"

/* ---- The two lists of a bin -------------------------------------------------------------------
 */

static void link_newest(struct fh_pool **newest, struct fh_pool **oldest, struct fh_pool *pool)
{
    pool->previous = NULL;
    pool->next = *newest;
    if (*newest != NULL)
        (*newest)->previous = pool;
    else
        *oldest = pool;
    *newest = pool;
}

static void unlink_pool(struct fh_pool **newest, struct fh_pool **oldest, struct fh_pool *pool)
{
    if (pool->previous != NULL)
        pool->previous->next = pool->next;
    else
        *newest = pool->next;
    if (pool->next != NULL)
        pool->next->previous = pool->previous;
    else
        *oldest = pool->previous;
}

static void enqueue(struct fh_theap *heap, unsigned class_index, struct fh_pool *pool)
{
    struct fh_bin *bin = &heap->bins[class_index];
    link_newest(&bin->queued, &bin->oldest_queued, pool);
    pool->list = FH_LIST_QUEUED;
    bin->queued_count++;
    heap->queued_pools += fh_class_pools(class_index);
    heap->queued_classes |= (uint64_t)1 << class_index;
}

static void dequeue(struct fh_theap *heap, unsigned class_index, struct fh_pool *pool)
{
    struct fh_bin *bin = &heap->bins[class_index];
    unlink_pool(&bin->queued, &bin->oldest_queued, pool);
    pool->list = FH_LIST_NONE;
    bin->queued_count--;
    heap->queued_pools -= fh_class_pools(class_index);
    if (bin->queued == NULL)
        heap->queued_classes &= ~((uint64_t)1 << class_index);
}

static void start_waiting(struct fh_bin *bin, struct fh_pool *pool)
{
    link_newest(&bin->waiting, &bin->oldest_waiting, pool);
    pool->list = FH_LIST_WAITING;
    bin->waiting_count++;
}

static void stop_waiting(struct fh_bin *bin, struct fh_pool *pool)
{
    unlink_pool(&bin->waiting, &bin->oldest_waiting, pool);
    pool->list = FH_LIST_NONE;
    bin->waiting_count--;
}

/* ---- Giving pools up --------------------------------------------------------------------------
 */

/* A pool in none of the heap's lists. */
static void give_up(struct fh_theap *heap, struct fh_pool *pool)
{
    enum fh_pool_event event = fh_pool_give_up(pool, heap->id);
    if (event == FH_POOL_NOW_EMPTY) {
        unsigned pools = fh_load_own_u32(&pool->pools);
        fh_pool_end(pool);
        fh_spare_release(heap, fh_pool_number(heap->region, pool), pools);
    } else {
        fh_shared_settle(heap->region, pool, event);
        if (event == FH_POOL_NOW_SPARSE)
            fh_sparse_given_up(heap->region, pool);
    }
}

static void give_up_oldest_queued(struct fh_theap *heap, unsigned class_index)
{
    struct fh_pool *oldest = heap->bins[class_index].oldest_queued;
    dequeue(heap, class_index, oldest);
    give_up(heap, oldest);
}

/* Of the classes with queued pools, the next lower one, from the lowest to the highest. */
static unsigned next_queued_class(const struct fh_theap *heap, unsigned class_index)
{
    uint64_t lower = heap->queued_classes & fh_low_bits(class_index);
    return fh_log2_floor(lower != 0 ? lower : heap->queued_classes);
}

/* Spans count for what they take. */
static unsigned queued_max(unsigned class_index)
{
    return FH_QUEUED_MAX / fh_class_pools(class_index);
}

static unsigned waiting_max(unsigned class_index)
{
    return FH_WAITING_MAX / fh_class_pools(class_index);
}

/* Has the heap, after so many pools in a row, more of them than one that only frees should? */
static bool hoards(const struct fh_theap *heap)
{
    return heap->queued_in_a_row > FH_QUEUED_POOLS && heap->queued_pools > FH_QUEUED_POOLS;
}

/* A pool with room joins the queue. When there are too many, the oldest of its class leaves it. A
 * thread that frees much and then idles comes by no more; so of a heap from which nothing is taken
 * some leave, of all classes in turn. */
static void enqueue_within_limit(struct fh_theap *heap, struct fh_pool *pool)
{
    unsigned class_index = pool->class_index;
    enqueue(heap, class_index, pool);
    heap->queued_in_a_row++;
    if (heap->bins[class_index].queued_count > queued_max(class_index))
        give_up_oldest_queued(heap, class_index);
    for (int left = FH_QUEUED_GIVEN_UP; FH_UNLIKELY(hoards(heap)) && left > 0; left--) {
        class_index = next_queued_class(heap, class_index);
        give_up_oldest_queued(heap, class_index);
    }
}

static void give_up_oldest_waiting(struct fh_theap *heap, struct fh_bin *bin)
{
    struct fh_pool *oldest = bin->oldest_waiting;
    stop_waiting(bin, oldest);
    give_up(heap, oldest);
}

/* ---- The current pool -------------------------------------------------------------------------
 */

/* One live block too many is counted from here on, so that the countdown of the current pool never
 * ends: it would be found empty on every other call of a program that takes and frees one block. */
static void make_current(struct fh_theap *heap, struct fh_pool *pool)
{
    struct fh_bin *bin = &heap->bins[pool->class_index];
    pool->sink = &heap->ready[pool->class_index];
    fh_store_own_u32(&pool->countdown, fh_load_own_u32(&pool->countdown) + 1);
    pool->list = FH_LIST_CURRENT;
    bin->current = pool;
}

static void unmake_current(struct fh_bin *bin)
{
    struct fh_pool *pool = bin->current;
    bin->current = NULL;
    pool->sink = &pool->own;
    pool->list = FH_LIST_NONE;
    fh_store_own_u32(&pool->countdown, fh_load_own_u32(&pool->countdown) - 1);
}

/* Blocks of the current pool: what its owner freed, or else new ones. */
FH_ALWAYS_INLINE struct fh_block *own_blocks_of_current(struct fh_bin *bin)
{
    struct fh_pool *pool = bin->current;
    bin->zeroed = 0;
    struct fh_block *blocks = fh_pool_take_local(pool);
    if (blocks == NULL) {
        bin->zeroed = pool->zeroed;
        blocks = fh_pool_carve(pool);
    }
    return blocks;
}

/* The same, or else what others freed. */
static struct fh_block *blocks_of_current(struct fh_theap *heap, struct fh_bin *bin)
{
    struct fh_block *blocks = own_blocks_of_current(bin);
    if (blocks != NULL)
        return blocks;
    bin->zeroed = 0;
    return fh_pool_collect(bin->current, heap->id);
}

/* The current pool has no block left: it becomes nobody's. Blocks if one came back meanwhile. */
static struct fh_block *leave_current(struct fh_theap *heap, struct fh_bin *bin)
{
    struct fh_pool *pool = bin->current;
    struct fh_sink *ready = pool->sink;
    bin->zeroed = 0;
    pool->sink = &pool->own;
    if (fh_pool_leave_full(pool, fh_theap_tag(heap), heap->id)) {
        bin->current = NULL; /* and is not ours to write to any more */
        return NULL;
    }
    pool->sink = ready;
    struct fh_block *blocks = fh_pool_collect(pool, heap->id);
    if (blocks == NULL)
        fh_pool_is_damaged(pool);
    return blocks;
}

/* ---- Further pools ----------------------------------------------------------------------------
 */

static struct fh_pool *start_pool(struct fh_theap *heap, unsigned class_index)
{
    struct fh_region *region = heap->region;
    struct fh_run run;
    if (!fh_spare_claim(heap, fh_class_pools(class_index), 1, &run))
        return NULL;
    struct fh_pool *pool =
        (struct fh_pool *)(void *)(region->descriptors + (run.pool_index << FH_DESCRIPTOR_SHIFT));
    fh_pool_start(pool, fh_arena_pool_address(region, run.pool_index), class_index, run.zeroed,
                  fh_theap_tag(heap), heap->id);
    return pool;
}

/* A pool with room: queued, shared, or new. */
static struct fh_pool *next_pool(struct fh_theap *heap, unsigned class_index)
{
    struct fh_pool *pool = heap->bins[class_index].queued;
    heap->queued_in_a_row = 0;
    if (pool != NULL) {
        dequeue(heap, class_index, pool);
        return pool;
    }
    pool = fh_shared_adopt(heap, class_index);
    return pool != NULL ? pool : start_pool(heap, class_index);
}

static void tick(struct fh_theap *heap, unsigned class_index)
{
    struct fh_bin *bin = &heap->bins[class_index];
    if (bin->waiting_count >= waiting_max(class_index))
        give_up_oldest_waiting(heap, bin); /* they may have stopped getting frees */
    fh_purge_tick(heap->region);
    fh_sparse_tick(heap->region);
    fh_holder_tick(heap);
}

/* Blocks for the bin, none of which is ready. */
static struct fh_block *find_blocks(struct fh_theap *heap, unsigned class_index)
{
    struct fh_bin *bin = &heap->bins[class_index];
    struct fh_block *blocks = NULL;
    if (bin->current != NULL) {
        blocks = blocks_of_current(heap, bin);
        if (blocks == NULL)
            blocks = leave_current(heap, bin);
    }
    while (blocks == NULL) { /* once, but for pools adopted with nothing on their lists yet */
        struct fh_pool *pool = next_pool(heap, class_index);
        if (pool == NULL)
            return NULL;
        make_current(heap, pool);
        blocks = blocks_of_current(heap, bin);
        if (blocks == NULL)
            blocks = leave_current(heap, bin);
    }
    return blocks;
}

/* The first of the ready blocks, or of those that the current pool has: the common cases, short. */
FH_ALWAYS_INLINE struct fh_block *first_block(struct fh_theap *heap, unsigned class_index)
{
    struct fh_block *block = heap->ready[class_index].list;
    struct fh_bin *bin = &heap->bins[class_index];
    if (block == NULL && FH_LIKELY(bin->current != NULL))
        block = own_blocks_of_current(bin);
    return block;
}

static FH_COLD struct fh_block *first_of_further_blocks(struct fh_theap *heap, unsigned class_index)
{
    tick(heap, class_index);
    return find_blocks(heap, class_index);
}

struct fh_block *fh_theap_next_block(struct fh_theap *heap, unsigned class_index, bool *zeroed)
{
    bool was_ready = heap->ready[class_index].list != NULL; /* perhaps freed by somebody */
    struct fh_block *block = first_block(heap, class_index);
    if (FH_UNLIKELY(block == NULL))
        block = first_of_further_blocks(heap, class_index);
    if (FH_UNLIKELY(block == NULL))
        return NULL;
    heap->ready[class_index].list = block->next;
    *zeroed = !was_ready && heap->bins[class_index].zeroed;
    return block;
}

void *fh_theap_refill(struct fh_theap *heap, unsigned class_index)
{
    bool zeroed;
    struct fh_block *block = fh_theap_next_block(heap, class_index, &zeroed);
    fh_theap_set_idle(heap);
    fh_theap_hide_if_traced();
    if (FH_UNLIKELY(block == NULL))
        errno = ENOMEM;
    return block;
}

void *fh_theap_refill_at(struct fh_theap *heap, size_t offset)
{
    return fh_theap_refill(heap, (unsigned)(offset / sizeof heap->ready[0]));
}

/* ---- Frees that change a pool's place ---------------------------------------------------------
 */

void fh_theap_countdown_ended(struct fh_theap *heap, struct fh_pool *pool)
{
    struct fh_bin *bin = &heap->bins[pool->class_index];
    if (pool->list == FH_LIST_WAITING) {
        stop_waiting(bin, pool);
        fh_store_own_u32(&pool->countdown, pool->live_then);
        fh_store_own_u32(&pool->live_then, 0);
        enqueue_within_limit(heap, pool);
    } else if (pool->list == FH_LIST_QUEUED) {
        dequeue(heap, pool->class_index, pool);
        give_up(heap, pool); /* empty */
    }
    fh_theap_leave(heap);
}

/* The heap took a full pool back, with one free block or more. */
static void place_taken_back(struct fh_theap *heap, struct fh_pool *pool)
{
    struct fh_bin *bin = &heap->bins[pool->class_index];
    uint32_t freed = pool->capacity - fh_pool_live(pool);
    if (freed >= pool->threshold) {
        enqueue_within_limit(heap, pool);
        return;
    }
    fh_store_own_u32(&pool->countdown, pool->threshold - freed);
    fh_store_own_u32(&pool->live_then, pool->capacity - pool->threshold);
    start_waiting(bin, pool);
}

/* May the heap hold one more pool of this kind? If not, the free goes onto the pool's word, which
 * costs the same, and the pool stays everybody's. */
static bool may_take_back(const struct fh_theap *heap, const struct fh_pool *pool)
{
    const struct fh_bin *bin = &heap->bins[pool->class_index];
    uint64_t word = fh_load_relaxed_u64(&pool->word); /* a guess: the CAS checks it */
    if (fh_word_state(word) != FH_FULL || fh_word_owner(word) != heap->id)
        return false;
    if (fh_word_credits(word) == 1)
        return bin->queued_count < queued_max(pool->class_index);
    return bin->waiting_count < waiting_max(pool->class_index);
}

void fh_theap_free_home(struct fh_theap *heap, struct fh_pool *pool, struct fh_block *block)
{
    if (!fh_theap_is_busy(heap) && may_take_back(heap, pool)) {
        fh_theap_set_busy(heap);
        bool taken = fh_pool_take_back(pool, fh_theap_tag(heap), heap->id, block);
        if (taken)
            place_taken_back(heap, pool);
        fh_theap_leave(heap);
        if (taken)
            return;
    }
    if (!fh_pool_free_remote(pool, block))
        fh_theap_free_other(pool, block);
}

void fh_theap_free_deciding(struct fh_pool *pool, struct fh_block *block)
{
    struct fh_region *region = fh_region_peek();
    enum fh_pool_event event = fh_pool_free_deciding(pool, block);
    if (event == FH_POOL_NOW_EMPTY)
        fh_shared_remove(region, pool);
    fh_shared_settle(region, pool, event);
}

void fh_theap_drain_class(struct fh_theap *heap, unsigned class_index)
{
    struct fh_bin *bin = &heap->bins[class_index];
    struct fh_block **slot = &heap->ready[class_index].list;
    struct fh_block *ready = *slot;
    *slot = NULL;
    struct fh_pool *pool = bin->current;
    if (pool != NULL) {
        if (ready != NULL)
            fh_pool_put_back(pool, ready);
        unmake_current(bin);
        give_up(heap, pool);
    }
    while ((pool = bin->queued) != NULL) {
        dequeue(heap, class_index, pool);
        give_up(heap, pool);
    }
    while (bin->oldest_waiting != NULL)
        give_up_oldest_waiting(heap, bin);
}
