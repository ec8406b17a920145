/* SPDX-License-Identifier: MIT */
/* What must hold.
 *
 * Always: no two live blocks overlap, a block's content stays, zeroed ones are zero.
 * At the end of a schedule, each used pool is accounted for: it is part of a live block's run, or
 * at hand in one heap, or holds blocks; and each block of the latter that was ever carved is either
 * live, or free in just one place. Whatever must be found by a hint is. When all was freed, all
 * threads have ended and the rest was purged, everything is back in the arenas.
 */
#include "sched.h"

#include "holder.h"

#include <string.h>

#include "arena.h"
#include "freehold.h"
#include "purge.h"
#include "shared.h"
#include "sparse.h"
#include "thread.h"
#include "weak.h"

/* ---- Blocks that are live ---------------------------------------------------------------------
 */

enum { DENSE_BYTES = 1024, SPARSE_STEP_BYTES = 256, OWN_SLOTS = SLOTS - 24 /* of the checks */ };

struct live_block {
    char *start;
    size_t bytes;
    uint64_t tag;
};

static struct {
    struct live_block blocks[SLOTS];
    uint64_t last_tag;
} live, saved;

void check_reset(void)
{
    memset(&live, 0, sizeof live);
}

void check_save(void)
{
    saved = live;
}

void check_restore(void)
{
    live = saved;
}

static size_t next_word(size_t offset)
{
    return offset + (offset < DENSE_BYTES ? sizeof(uint64_t) : SPARSE_STEP_BYTES);
}

static void fill(const struct live_block *block)
{
    for (size_t at = 0; at + sizeof(uint64_t) <= block->bytes; at = next_word(at))
        memcpy(block->start + at, &block->tag, sizeof block->tag);
}

/* Is the content, as far as `bytes`, what it was filled with? */
static void check_content(const struct live_block *block, size_t bytes)
{
    for (size_t at = 0; at + sizeof(uint64_t) <= bytes; at = next_word(at))
        if (memcmp(block->start + at, &block->tag, sizeof block->tag) != 0)
            fail("the block in slot %zu was written to by others, at byte %zu",
                 (size_t)(block - live.blocks), at);
}

static void check_all_content(void)
{
    for (int slot = 0; slot < SLOTS; slot++)
        if (live.blocks[slot].start != NULL)
            check_content(&live.blocks[slot], live.blocks[slot].bytes);
}

static void check_apart(const char *start, size_t bytes)
{
    for (int slot = 0; slot < SLOTS; slot++) {
        const struct live_block *other = &live.blocks[slot];
        if (other->start != NULL && start < other->start + other->bytes &&
            other->start < start + bytes)
            fail("a block was handed out twice: it overlaps that in slot %d", slot);
    }
}

static void taken(int slot, char *start, size_t bytes)
{
    if (start == NULL) {
        CHECK(scenario_now->may_fail);
        return;
    }
    machine_quietly(true);
    size_t usable_bytes = fh_usable_size(start);
    machine_quietly(false);
    CHECK((uintptr_t)start % FH_BLOCK_ALIGN_BYTES == 0 && usable_bytes >= bytes);
    CHECK(live.blocks[slot].start == NULL);
    check_apart(start, usable_bytes);
    CHECK(machine_shows(start, usable_bytes));
    live.blocks[slot] = (struct live_block){start, usable_bytes, ++live.last_tag};
    fill(&live.blocks[slot]);
    weak_pass_on(slot);
}

void take(int slot, size_t bytes)
{
    taken(slot, fh_raw_malloc(bytes), bytes);
}

void take_zeroed(int slot, size_t bytes)
{
    char *start = fh_raw_calloc(1, bytes);
    if (start != NULL && (start[0] != 0 || memcmp(start, start + 1, bytes - 1) != 0))
        fail("a zeroed block is not zero");
    taken(slot, start, bytes);
}

void take_aligned(int slot, size_t alignment, size_t bytes)
{
    char *start = fh_raw_aligned_alloc(alignment, bytes);
    CHECK((uintptr_t)start % alignment == 0);
    taken(slot, start, bytes);
}

/* The block in a slot, which is the caller's from now on. */
static struct live_block remove_block(int slot)
{
    struct live_block block = live.blocks[slot];
    if (block.start != NULL) {
        weak_receive(slot);
        check_content(&live.blocks[slot], block.bytes);
    }
    live.blocks[slot] = (struct live_block){0};
    return block;
}

void resize(int slot, size_t bytes)
{
    struct live_block block = remove_block(slot);
    if (block.start == NULL)
        return;
    char *moved = fh_raw_realloc(block.start, bytes);
    CHECK(moved != NULL || scenario_now->may_fail);
    if (moved != NULL) {
        struct live_block kept = {moved, bytes, block.tag};
        check_content(&kept, bytes < block.bytes ? bytes : block.bytes);
        taken(slot, moved, bytes);
    } else {
        live.blocks[slot] = block;
        weak_pass_on(slot);
    }
}

void give(int slot)
{
    fh_raw_free(remove_block(slot).start);
}

void take_all(int first, int end, size_t bytes)
{
    for (int slot = first; slot < end; slot++)
        take(slot, bytes);
}

void give_all(int first, int end)
{
    for (int slot = first; slot < end; slot++)
        give(slot);
}

void flush(void)
{
    fh_thread_flush();
}

void trim(void)
{
    (void)fh_trim();
}

/* ---- Every pool and block accounted for -------------------------------------------------------
 */

enum { POOLS_MAX = 512 };

/* Of one pool: where each of its blocks was seen, and where the pool itself. */
struct seen {
    uint8_t blocks[FH_POOL_BLOCKS_MAX];
    uint32_t free_count;  /* local or on the word's list */
    uint32_t ready_count; /* in its heap's bin */
    uint32_t live_count;
    bool in_heap; /* in one of its lists */
    bool spare;
    bool in_run; /* of a live large or huge block */
};

static struct seen seen[POOLS_MAX];

static const struct fh_pool *pool_numbered(const struct fh_region *region, size_t number)
{
    return (const struct fh_pool *)(const void *)(region->descriptors +
                                                  (number << FH_DESCRIPTOR_SHIFT));
}

static struct seen *seen_of(const struct fh_region *region, const struct fh_pool *pool)
{
    size_t number = fh_pool_number(region, pool);
    CHECK(number < POOLS_MAX);
    return &seen[number];
}

static void see_block(const struct fh_pool *pool, struct seen *at, const void *block)
{
    CHECK(fh_pool_has_block_at(pool, block));
    size_t index = ((uintptr_t)block - pool->origin - FH_BLOCK_ALIGN_BYTES) / pool->block_bytes;
    CHECK(index < pool->frontier);
    if (at->blocks[index]++ != 0)
        fail("block %zu of a pool is in two places", index);
}

static uint32_t see_list(const struct fh_pool *pool, struct seen *at, const struct fh_block *block)
{
    uint32_t length = 0;
    for (; block != NULL; block = block->next, length++)
        see_block(pool, at, block);
    return length;
}

static void see_run(size_t number, size_t pools)
{
    for (size_t i = number; i < number + pools; i++) {
        CHECK(i < POOLS_MAX);
        if (seen[i].in_run || seen[i].spare)
            fail("pool %zu is in two runs", i);
        seen[i].in_run = true;
    }
}

static void see_live_block(const struct fh_region *region, const struct live_block *block)
{
    const struct fh_pool *pool = fh_theap_pool_of(block->start);
    CHECK(pool != NULL);
    struct seen *at = seen_of(region, pool);
    if (pool->kind == FH_POOL_BLOCKS) {
        see_block(pool, at, block->start);
        at->live_count++;
        return;
    }
    CHECK(pool->kind == FH_POOL_LARGE || pool->kind == FH_POOL_HUGE);
    size_t unit = pool->kind == FH_POOL_HUGE ? FH_ARENA_POOLS : 1;
    see_run(fh_pool_number(region, pool), (pool->pools + unit - 1) / unit * unit);
}

static void see_in_heap(const struct fh_theap *heap, const struct fh_pool *pool,
                        unsigned class_index, enum fh_pool_list list)
{
    struct seen *at = seen_of(heap->region, pool);
    CHECK(!at->in_heap);
    at->in_heap = true;
    CHECK(pool->kind == FH_POOL_BLOCKS && pool->class_index == class_index);
    CHECK(fh_word_state(pool->word) == FH_ACTIVE && fh_word_owner(pool->word) == heap->id);
    CHECK(pool->owner == fh_theap_tag(heap) && pool->home == fh_theap_tag(heap));
    CHECK(pool->list == list);
}

static unsigned see_heap_list(const struct fh_theap *heap, const struct fh_pool *pool,
                              const struct fh_pool *oldest, unsigned class_index,
                              enum fh_pool_list list)
{
    unsigned length = 0;
    const struct fh_pool *before = NULL;
    for (; pool != NULL; before = pool, pool = pool->next, length++) {
        see_in_heap(heap, pool, class_index, list);
        CHECK(pool->previous == before && fh_pool_live(pool) > 0);
    }
    CHECK(before == oldest);
    return length;
}

static void see_bin(const struct fh_theap *heap, unsigned class_index)
{
    const struct fh_bin *bin = &heap->bins[class_index];
    CHECK(bin->current != NULL || heap->ready[class_index].list == NULL);
    if (bin->current != NULL) {
        see_in_heap(heap, bin->current, class_index, FH_LIST_CURRENT);
        struct seen *at = seen_of(heap->region, bin->current);
        at->ready_count = see_list(bin->current, at, heap->ready[class_index].list);
    }
    unsigned queued =
        see_heap_list(heap, bin->queued, bin->oldest_queued, class_index, FH_LIST_QUEUED);
    unsigned waiting =
        see_heap_list(heap, bin->waiting, bin->oldest_waiting, class_index, FH_LIST_WAITING);
    CHECK(queued == bin->queued_count && queued <= FH_QUEUED_MAX);
    CHECK(waiting == bin->waiting_count && waiting <= FH_WAITING_MAX);
}

static void see_heap(const struct fh_region *region, const struct fh_theap *heap)
{
    bool held = machine_holds_heap(heap->id) || fh_holder_has_thread(heap);
    CHECK(held != fh_hints_has(&region->hints, FH_HINTS_HEAPS, heap->id - 1));
    CHECK(held != fh_theap_is_busy(heap));
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++)
        if (heap->bins[class_index].current != NULL || heap->bins[class_index].queued != NULL ||
            heap->bins[class_index].waiting != NULL || heap->ready[class_index].list != NULL)
            see_bin(heap, class_index);
    uint32_t spare_pools = 0;
    for (uint32_t i = 0; i < heap->spare_runs; i++) {
        see_run(heap->spares[i].pool_index, heap->spares[i].pools);
        spare_pools += heap->spares[i].pools;
    }
    CHECK(spare_pools == heap->spare_pools);
}

/* ---- Pools ------------------------------------------------------------------------------------
 */

/* How many blocks the word's list must hold, see pool/pool.h. */
static uint32_t remote_count(const struct fh_pool *pool)
{
    uint32_t credits = fh_word_credits(pool->word);
    switch (fh_word_state(pool->word)) {
    case FH_ACTIVE:
        return FH_ACTIVE_CREDITS - credits;
    case FH_FULL:
        CHECK(credits >= 1 && credits <= pool->threshold);
        return pool->threshold - (pool->capacity - pool->carved) - credits;
    case FH_FREE:
        fail("a pool with blocks is free");
    default:
        CHECK(credits >= 1);
        CHECK(fh_word_shared_live(pool->word, pool->capacity) <= pool->capacity - pool->threshold);
        return pool->carved - fh_word_shared_live(pool->word, pool->capacity);
    }
}

static void check_local(const struct fh_pool *pool, struct seen *at)
{
    uint32_t local_count = see_list(pool, at, pool->local);
    uint32_t extra = pool->list == FH_LIST_CURRENT;
    CHECK(fh_pool_live(pool) - extra + local_count == pool->carved);
    at->free_count += local_count;
}

static void check_blocks(const struct fh_pool *pool, struct seen *at)
{
    at->free_count = see_list(pool, at, fh_word_list(pool, pool->word));
    CHECK(at->free_count == remote_count(pool));
    bool active = fh_word_state(pool->word) == FH_ACTIVE;
    CHECK(active == at->in_heap && active == (pool->owner != 0));
    if (active)
        check_local(pool, at);
    if (at->free_count + at->ready_count + at->live_count != pool->carved)
        fail("of %u blocks, %u are free, %u ready and %u live: some are lost", pool->carved,
             at->free_count, at->ready_count, at->live_count);
}

static void check_hint(const struct fh_region *region, unsigned set, uint32_t member)
{
    if (fh_hints_next(&region->hints, set, member) != member ||
        fh_hints_next(&region->hints, set, 0) > member)
        fail("hint set %u does not lead to arena %u", set, member);
}

static void check_used_pool(const struct fh_region *region, size_t number)
{
    const struct fh_pool *pool = pool_numbered(region, number);
    struct seen *at = &seen[number];
    if (at->in_run)
        return;
    if (pool->kind != FH_POOL_BLOCKS)
        fail("pool %zu is lost: in use, and nobody's", number);
    check_blocks(pool, at);
    if (fh_word_is_shared(pool->word)) {
        uint32_t arena = (uint32_t)(number >> FH_ARENA_POOL_SHIFT);
        CHECK(region->arenas[arena].shared[pool->class_index] >> number % FH_ARENA_POOLS & 1);
        check_hint(region, pool->class_index, arena);
    }
}

static void check_free_pool(const struct fh_region *region, size_t number)
{
    const struct fh_pool *pool = pool_numbered(region, number);
    CHECK(pool->kind == FH_POOL_NONE || pool->kind == FH_POOL_INSIDE);
    CHECK(pool->word == 0 && pool->owner == 0);
    if (seen[number].in_run || seen[number].in_heap || seen[number].live_count != 0)
        fail("pool %zu is free, and in use", number);
}

/* Returns how it counts in region->pool_counts. */
static uint64_t check_arena(const struct fh_region *region, uint32_t index)
{
    const struct fh_arena *arena = &region->arenas[index];
    const uint64_t all = fh_low_bits(FH_ARENA_POOLS);
    CHECK((arena->used & ~all) == 0 && (arena->dirty & ~all) == 0);
    CHECK((arena->regretted & (arena->used | arena->dirty)) == 0);
    if (arena->used != all)
        check_hint(region, FH_HINTS_ROOM, index);
    if (arena->used == 0)
        check_hint(region, FH_HINTS_EMPTY, index);
    if ((arena->dirty & ~arena->used) != 0)
        check_hint(region, FH_HINTS_DIRTY, index);
    CHECK((arena->sparse & ~all) == 0);
    if (arena->sparse != 0)
        check_hint(region, FH_HINTS_SPARSE, index);
    for (unsigned pool = 0; pool < FH_ARENA_POOLS; pool++) {
        size_t number = ((size_t)index << FH_ARENA_POOL_SHIFT) + pool;
        if (arena->used >> pool & 1)
            check_used_pool(region, number);
        else
            check_free_pool(region, number);
    }
    return (uint64_t)__builtin_popcountll(arena->used) << 32 |
           (uint64_t)__builtin_popcountll(arena->dirty & ~arena->used);
}

static void check_vacant(const struct fh_region *region, uint32_t index)
{
    CHECK(region->arenas[index].used == fh_low_bits(FH_ARENA_POOLS));
    CHECK(fh_hints_has(&region->hints, FH_HINTS_VACANT, index));
}

static void check_region(const struct fh_region *region)
{
    memset(seen, 0, sizeof seen);
    for (int slot = 0; slot < SLOTS; slot++)
        if (live.blocks[slot].start != NULL)
            see_live_block(region, &live.blocks[slot]);
    for (uint64_t id = 0; id < region->heaps_opened; id++)
        see_heap(region, (struct fh_theap *)(void *)(region->heaps + id * FH_THEAP_BYTES));
    uint64_t pool_counts = 0, sparse_pools = 0;
    for (size_t i = fh_region_next_arena(region, 0); i < region->arenas_max;
         i = fh_region_next_arena(region, i + 1)) {
        sparse_pools += (uint64_t)__builtin_popcountll(region->arenas[i].sparse);
        if (region->arenas[i].start == 0)
            check_vacant(region, (uint32_t)i);
        else
            pool_counts += check_arena(region, (uint32_t)i);
    }
    CHECK(region->pool_counts == pool_counts && region->sparse_pools == sparse_pools);
}

/* ---- The end ----------------------------------------------------------------------------------
 */

/* Hints that are left are those a purge finds, and takes away. */
static void check_sparse_hints_go(struct fh_region *region)
{
    (void)fh_sparse_trim(region);
    CHECK(region->sparse_pools == 0);
    CHECK(fh_hints_next(&region->hints, FH_HINTS_SPARSE, 0) == FH_HINT_NONE);
}

static void check_nothing_in_use(const struct fh_region *region)
{
    for (size_t i = fh_region_next_arena(region, 0); i < region->arenas_max;
         i = fh_region_next_arena(region, i + 1))
        if (region->arenas[i].start != 0 &&
            (region->arenas[i].used != 0 || region->arenas[i].dirty != 0))
            fail("arena %zu is not free and clean though all was given back: used %llx, dirty %llx",
                 i, (unsigned long long)region->arenas[i].used,
                 (unsigned long long)region->arenas[i].dirty);
}

void check_end(void)
{
    machine_quietly(true);
    const struct fh_region *region = fh_region_peek();
    if (scenario_now->check != NULL)
        scenario_now->check();
    check_all_content();
    if (region != NULL) {
        check_region(region);
        give_all(0, SLOTS);
        machine_end_threads();
        fh_holder_release_dead(fh_region_get());
        (void)fh_purge(fh_region_get(), 0, ~0u);
        check_region(region);
        check_nothing_in_use(region);
        check_sparse_hints_go(fh_region_get());
    }
    machine_quietly(false);
}

void check_survivors(void)
{
    check_all_content();
    machine_count_steps();
    if (!scenario_now->may_fail) {
        take_all(OWN_SLOTS, OWN_SLOTS + FH_POOL_BLOCKS_MAX + 1, BLOCK_BYTES);
        take(SLOTS - 2, FH_POOL_BYTES);
        take(SLOTS - 1, 2 * FH_ARENA_BYTES);
        give_all(OWN_SLOTS, SLOTS);
    }
    exit_thread();
    check_all_content();
}
