/* SPDX-License-Identifier: MIT */
/* Pools: blocks of one size class, and the word that says whose they are.
 *
 * A pool is FH_POOL_BYTES of an arena, or a few adjacent ones (a span), cut into blocks. Its
 * descriptor lies elsewhere and is type-stable. Only the pool's owner takes blocks; any thread may
 * free one. All that threads must agree on is one 64-bit word, and every transition is one CAS on
 * it:
 *
 *   bits  0-15  credits  remote frees until one of them has something to decide
 *   bits 16-19  state
 *   bits 20-39  owner    a heap's id; 0 for none
 *   bits 44-63  head     newest remotely freed block: its index in the pool + 1; 0 for none
 *
 *   FREE    no pool. All bits zero.
 *   ACTIVE  heap `owner` takes blocks. Credits start at FH_ACTIVE_CREDITS and never run out.
 *   FULL    nobody's: every block was handed out. `owner` is who filled it and may take it back.
 * After `credits` more frees it is worth sharing. SHARED  nobody's, with free blocks: any heap that
 * needs the class may adopt it. There are FH_SHARED_LEVELS such states, for ever fewer live blocks:
 * at the first more than 1/4 of the capacity, at the next more than 1/16, and so on. After
 * `credits` more frees a pool reaches the next level, where it is worth looking for pages without a
 * live block (hole.h); at the last it is empty, and who frees the last block gives the pool back.
 *
 * So the number of blocks on the word's list follows from the state: FH_ACTIVE_CREDITS - credits
 * when ACTIVE, threshold - (capacity - carved) - credits when FULL, carved - live when SHARED, with
 * live = credits + fh_pool_level_end().
 *
 * Always, as the owner sees it, with live = fh_pool_live():
 *   live + length(local) == carved <= capacity
 * where live counts blocks that callers hold, that lie in the heap's bin, and that are on the
 * word's list. docs/design.md has the transitions; tests/model/pool.pml checks them.
 */
#ifndef FH_POOL_POOL_H
#define FH_POOL_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "atomic.h"
#include "config.h"

struct fh_block {
    struct fh_block *next;
};

/* Where an owner's frees of a pool go: to the pool itself, or, of the pool that it allocates from,
 * to the blocks that are ready. */
struct fh_sink {
    struct fh_block *list; /* newest first */
    uint32_t countdown;    /* frees until fh_theap_countdown_ended() has something to decide */
};

enum fh_pool_kind {
    FH_POOL_NONE, /* no block starts here */
    FH_POOL_BLOCKS,
    FH_POOL_INSIDE,  /* a further pool of a span of blocks: head_distance pools after its first */
    FH_POOL_LARGE,   /* one block of some pools */
    FH_POOL_HUGE,    /* one block of some arenas */
    FH_POOL_CLASSIC, /* of an arena of a classic heap, whose own headers say more */
};

enum fh_pool_list { FH_LIST_NONE, FH_LIST_CURRENT, FH_LIST_QUEUED, FH_LIST_WAITING };

struct fh_pool {
    /* Read by every free; written only when the pool changes hands. */
    uint64_t owner;   /* tag of the heap that may use the owner's line below; 0: none */
    uint64_t home;    /* tag of the heap that last was */
    uintptr_t origin; /* address of the first block - 16, so that index * 16 is an offset from it */
    uint8_t kind;
    uint8_t class_index;
    uint8_t head_distance;
    uint8_t zeroed; /* what is not carved yet reads as zero */
    uint32_t block_bytes;
    uint32_t capacity;    /* blocks that fit */
    uint32_t threshold;   /* free blocks that make a full pool worth sharing */
    uint32_t pools;       /* adjacent pools; of a huge block, those it may have touched */
    struct fh_sink *sink; /* `own`; of a heap's current pool, that of the bin. The owner's alone */
    void *classic;        /* the heap of a classic arena; NULL in any other pool */

    /* The owner only. */
    union {
        struct fh_sink own;
        struct {
            struct fh_block *local; /* blocks it freed */
            uint32_t countdown;
        };
    };
    uint32_t live_then; /* live blocks when the countdown has ended, see fh_pool_live() */
    uint32_t carved;    /* blocks that are live or in a list */
    uint32_t
        frontier;     /* blocks before this one were carved, and all but those in holes still are */
    uint8_t list;     /* enum fh_pool_list: where in its heap */
    bool tail_purged; /* pages after the frontier's are not resident */
    struct fh_pool *previous, *next; /* in that list */
    uint64_t holes; /* pages of FH_CARVE_BYTES whose blocks, those that start there, are not carved
                       any more */
    uint64_t usable_bytes; /* of a large or huge block, which nobody owns */

    /* Everybody. */
    uint64_t word FH_CACHE_LINE_ALIGNED;

    uint64_t unused FH_CACHE_LINE_ALIGNED; /* keeps the next descriptor's first line apart */
};

static_assert(offsetof(struct fh_pool, own) == FH_CACHE_LINE_BYTES,
              "the owner has a line of its own");
static_assert(sizeof(struct fh_pool) == FH_DESCRIPTOR_BYTES, "descriptors are found by a shift");

enum fh_pool_state { FH_FREE, FH_ACTIVE, FH_FULL, FH_SHARED };

enum {
    FH_SHARED_LEVELS = 4, /* states from FH_SHARED on */
    FH_LEVEL_SHIFT = 2,   /* from one to the next a quarter is left */
};

enum {
    FH_WORD_STATE_SHIFT = 16,
    FH_WORD_OWNER_SHIFT = 20,
    FH_WORD_HEAD_SHIFT = 44,
};

enum { FH_ACTIVE_CREDITS = 0x8000 };

/* What a transition leaves to its caller. */
enum fh_pool_event {
    FH_POOL_NOTHING,
    FH_POOL_NOW_SHARED, /* set its hint */
    FH_POOL_NOW_SPARSE, /* the same, and so few blocks are live that there may be holes */
    FH_POOL_NOW_EMPTY,  /* the caller alone holds the pool: clear its hint, give it back */
};

FH_ALWAYS_INLINE uint64_t fh_word(enum fh_pool_state state, uint32_t owner, uint32_t credits,
                                  uint32_t head)
{
    return (uint64_t)head << FH_WORD_HEAD_SHIFT | (uint64_t)owner << FH_WORD_OWNER_SHIFT |
           (uint64_t)state << FH_WORD_STATE_SHIFT | credits;
}

FH_ALWAYS_INLINE enum fh_pool_state fh_word_state(uint64_t word)
{
    return (enum fh_pool_state)(word >> FH_WORD_STATE_SHIFT & 15);
}

FH_ALWAYS_INLINE bool fh_word_is_shared(uint64_t word)
{
    return fh_word_state(word) >= FH_SHARED;
}

FH_ALWAYS_INLINE uint32_t fh_word_owner(uint64_t word)
{
    return (uint32_t)(word >> FH_WORD_OWNER_SHIFT) & 0xFFFFF;
}

FH_ALWAYS_INLINE uint32_t fh_word_credits(uint64_t word)
{
    return (uint16_t)word;
}

/* The list as the owner's lists are: linked by addresses, ending in NULL. */
FH_ALWAYS_INLINE struct fh_block *fh_word_list(const struct fh_pool *pool, uint64_t word)
{
    uint64_t head = word >> FH_WORD_HEAD_SHIFT;
    if (FH_UNLIKELY(head == 0))
        return NULL;
    return (struct fh_block *)(pool->origin + (head << FH_BLOCK_ALIGN_SHIFT));
}

/* With `block` in front of the list, and one credit used. */
FH_ALWAYS_INLINE uint64_t fh_word_push(const struct fh_pool *pool, uint64_t word,
                                       const struct fh_block *block)
{
    enum { HEAD_BITS = 64 - FH_WORD_HEAD_SHIFT };
    uint64_t head = ((uintptr_t)block - pool->origin) /* index * 16 */
                    << (FH_WORD_HEAD_SHIFT - FH_BLOCK_ALIGN_SHIFT);
    return (word << HEAD_BITS >> HEAD_BITS) + head - 1;
}

FH_ALWAYS_INLINE uint32_t fh_pool_index_of(const struct fh_pool *pool, const struct fh_block *block)
{
    return block == NULL ? 0
                         : (uint32_t)(((uintptr_t)block - pool->origin) >> FH_BLOCK_ALIGN_SHIFT);
}

FH_ALWAYS_INLINE uint32_t fh_pool_live(const struct fh_pool *pool)
{
    return fh_load_own_u32(&pool->countdown) + fh_load_own_u32(&pool->live_then);
}

/* How many blocks are live at the end of a level, 0 for the first: the next level's most. */
FH_ALWAYS_INLINE uint32_t fh_pool_level_end(uint32_t capacity, unsigned level)
{
    return level == FH_SHARED_LEVELS - 1 ? 0 : capacity >> FH_LEVEL_SHIFT * (level + 1);
}

/* The live blocks of a pool whose word says that it is shared. */
FH_ALWAYS_INLINE uint32_t fh_word_shared_live(uint64_t word, uint32_t capacity)
{
    return fh_word_credits(word) + fh_pool_level_end(capacity, fh_word_state(word) - FH_SHARED);
}

/* A free by anyone but the owner. False, with nothing done, if this is the free that has something
 * to decide: then fh_pool_free_deciding(). Or if the pool has no credits at all, as none has that
 * does not hold blocks. */
FH_ALWAYS_INLINE bool fh_pool_free_remote(struct fh_pool *pool, struct fh_block *block)
{
    uint64_t word = fh_load_relaxed_u64(&pool->word); /* a guess: the CAS checks it */
    uint64_t after;
    do {
        if (FH_UNLIKELY(fh_word_credits(word) <= 1))
            return false;
        after = fh_word_push(pool, word, block);
        block->next = fh_word_list(pool, word);
        /* [remote-free] release: passes block->next and this thread's last use of the block to the
         * acquires in fh_pool_collect(), fh_pool_take_back(), fh_pool_adopt() and
         * fh_pool_free_deciding(). */
    } while (FH_UNLIKELY(!fh_cas_release_u64(&pool->word, &word, after)));
    return true;
}

/* A free that may change the pool's state. */
enum fh_pool_event fh_pool_free_deciding(struct fh_pool *pool, struct fh_block *block);

/* Heaps are strangers here. A heap has an id for the word, and for the pool's first line a tag,
 * which is whatever a thread can compare fastest (see theap/heap.h); never 0. */

/* A free pool, just claimed from its arena, becomes the owner's. `pools` descriptors are written.
 */
void fh_pool_start(struct fh_pool *pool, char *start, unsigned class_index, bool zeroed,
                   uint64_t heap_tag, uint32_t heap_id);

/* An empty pool that the caller alone holds becomes no pool, ready to go back to its arena. */
void fh_pool_end(struct fh_pool *pool);

/* Owner: cut the next page's worth of blocks, or those of a hole. NULL if all are cut. They count
 * as live. */
struct fh_block *fh_pool_carve(struct fh_pool *pool);

/* Owner: take the local list. NULL if empty. They count as live from now on, and so need not be
 * counted: live + length(local) == carved. One more is counted for the current pool, see
 * theap/refill.c. */
FH_ALWAYS_INLINE struct fh_block *fh_pool_take_local(struct fh_pool *pool)
{
    struct fh_block *blocks = pool->local;
    if (FH_UNLIKELY(blocks == NULL))
        return NULL;
    pool->local = NULL;
    uint32_t one_more = pool->list == FH_LIST_CURRENT;
    fh_store_own_u32(&pool->countdown, fh_load_own_u32(&pool->carved) + one_more);
    fh_store_own_u32(&pool->live_then, 0);
    return blocks;
}

/* The first block that starts in this page of FH_CARVE_BYTES of the pool, or in a later one. */
uint32_t fh_pool_first_in_page(const struct fh_pool *pool, unsigned page);

/* Owner: take the remotely freed blocks. NULL if there are none. They go on counting as live. */
struct fh_block *fh_pool_collect(struct fh_pool *pool, uint32_t heap_id);

/* Owner: put back blocks that were taken but not handed out. */
void fh_pool_put_back(struct fh_pool *pool, struct fh_block *blocks);

/* ACTIVE to FULL. False, with nothing changed, if a remote free came in between. */
bool fh_pool_leave_full(struct fh_pool *pool, uint64_t heap_tag, uint32_t heap_id);

/* FULL, last owned by this heap, to ACTIVE, with `block`, which the caller frees, on the local
 * list. False if the pool is in any other state; nothing is then done. */
bool fh_pool_take_back(struct fh_pool *pool, uint64_t heap_tag, uint32_t heap_id,
                       struct fh_block *block);

/* SHARED, at any level, to ACTIVE. False if it is not SHARED (any more). */
bool fh_pool_adopt(struct fh_pool *pool, uint64_t heap_tag, uint32_t heap_id);

/* Owner: ACTIVE to FULL, SHARED or EMPTY, whichever its blocks make it. The pool must be in no
 * list, none of its blocks in a bin. */
enum fh_pool_event fh_pool_give_up(struct fh_pool *pool, uint32_t heap_id);

/* The word of an owner's pool changed without a block on its list, which no free does. */
FH_NORETURN FH_COLD void fh_pool_is_damaged(const struct fh_pool *pool);

/* Is this the address of a block? For checks off the fast path; the pool must hold blocks. */
bool fh_pool_has_block_at(const struct fh_pool *pool, const void *address);

#endif
