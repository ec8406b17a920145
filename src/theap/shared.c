/* SPDX-License-Identifier: MIT */
#include "shared.h"

#include "arena.h"
#include "bits.h"
#include "sparse.h"

enum { ARENAS_SEARCHED = 64, POOLS_TRIED = 64 };

size_t fh_pool_number(const struct fh_region *region, const struct fh_pool *pool)
{
    return (size_t)((const char *)pool - region->descriptors) >> FH_DESCRIPTOR_SHIFT;
}

static struct fh_pool *pool_numbered(const struct fh_region *region, size_t number)
{
    return (struct fh_pool *)(void *)(region->descriptors + (number << FH_DESCRIPTOR_SHIFT));
}

void fh_shared_add(struct fh_region *region, struct fh_pool *pool)
{
    size_t number = fh_pool_number(region, pool);
    uint32_t arena = (uint32_t)(number >> FH_ARENA_POOL_SHIFT);
    uint64_t bit = (uint64_t)1 << number % FH_ARENA_POOLS;
    /* Another may adopt the pool meanwhile; a hint for a wrong class is a stale hint. */
    unsigned class_index = fh_load_own_u8(&pool->class_index);
    /* [shared-hint] seq_cst: after the word's transition; the other end is in remove_bit(). */
    (void)fh_fetch_or_seq_cst_u64(&region->arenas[arena].shared[class_index], bit);
    fh_hints_set(&region->hints, class_index, arena);
}

static void forget_arena(struct fh_region *region, unsigned class_index, uint32_t arena)
{
    (void)fh_hints_clear(&region->hints, class_index, arena);
    /* [shared-hint] seq_cst, as below. */
    if (fh_load_seq_cst_u64(&region->arenas[arena].shared[class_index]) != 0)
        fh_hints_set(&region->hints, class_index, arena);
}

/* Take one hint away, and the arena's when it was the last. */
static void remove_bit(struct fh_region *region, unsigned class_index, size_t number)
{
    uint32_t arena = (uint32_t)(number >> FH_ARENA_POOL_SHIFT);
    uint64_t *word = &region->arenas[arena].shared[class_index];
    uint64_t bit = (uint64_t)1 << number % FH_ARENA_POOLS;
    /* [shared-hint] seq_cst: the hint goes before the second look at what it is about. */
    uint64_t before = fh_fetch_and_seq_cst_u64(word, ~bit);
    if ((before & ~bit) == 0)
        forget_arena(region, class_index, arena);
}

void fh_shared_remove(struct fh_region *region, struct fh_pool *pool)
{
    remove_bit(region, pool->class_index, fh_pool_number(region, pool));
}

void fh_shared_settle(struct fh_region *region, struct fh_pool *pool, enum fh_pool_event event)
{
    if (event == FH_POOL_NOW_SHARED || event == FH_POOL_NOW_SPARSE) {
        fh_shared_add(region, pool);
        if (event == FH_POOL_NOW_SPARSE)
            fh_sparse_add(region, pool);
    } else if (event == FH_POOL_NOW_EMPTY) {
        unsigned pools = fh_load_own_u32(&pool->pools);
        fh_pool_end(pool);
        fh_arena_release(region, fh_pool_number(region, pool), pools);
    }
}

/* The pool was not shared when we tried. Take the stale hint away; look again. */
static void forget_stale(struct fh_region *region, unsigned class_index, size_t number)
{
    struct fh_pool *pool = pool_numbered(region, number);
    remove_bit(region, class_index, number);
    /* The second look, at what fh_shared_add() speaks of. Relaxed: if its hint came before ours was
     * taken away, remove_bit() has acquired the word. */
    if (fh_word_is_shared(fh_load_relaxed_u64(&pool->word)))
        fh_shared_add(region, pool);
}

/* Try the pool behind a hint. */
static struct fh_pool *adopt(struct fh_theap *heap, unsigned class_index, size_t number)
{
    struct fh_region *region = heap->region;
    struct fh_pool *pool = pool_numbered(region, number);
    if (!fh_pool_adopt(pool, fh_theap_tag(heap), heap->id)) {
        forget_stale(region, class_index, number);
        return NULL;
    }
    remove_bit(region, class_index, number);
    if (FH_LIKELY(pool->class_index == class_index)) {
        fh_sparse_adopted(region, pool);
        return pool;
    }
    /* Only now may the class be read, and it is another: the hint was of the pool's earlier life.
     */
    fh_shared_remove(region, pool);
    fh_shared_settle(region, pool, fh_pool_give_up(pool, heap->id));
    return NULL;
}

static struct fh_pool *adopt_in(struct fh_theap *heap, unsigned class_index, uint32_t arena,
                                int *tries)
{
    uint64_t *word = &heap->region->arenas[arena].shared[class_index];
    uint64_t hints = fh_load_relaxed_u64(word); /* hints */
    if (hints == 0)
        forget_arena(heap->region, class_index, arena);
    for (; hints != 0 && *tries > 0; hints &= hints - 1, --*tries) {
        size_t number = ((size_t)arena << FH_ARENA_POOL_SHIFT) + fh_lowest_bit(hints);
        struct fh_pool *pool = adopt(heap, class_index, number);
        if (pool != NULL)
            return pool;
    }
    return NULL;
}

struct fh_pool *fh_shared_adopt(struct fh_theap *heap, unsigned class_index)
{
    const struct fh_hints *hints = &heap->region->hints;
    int tries = POOLS_TRIED;
    uint32_t arena = fh_hints_next(hints, class_index, 0);
    for (int looked = 0; arena != FH_HINT_NONE && looked < ARENAS_SEARCHED; looked++) {
        struct fh_pool *pool = adopt_in(heap, class_index, arena, &tries);
        if (pool != NULL)
            return pool;
        arena = fh_hints_next(hints, class_index, arena + 1);
    }
    return NULL;
}
