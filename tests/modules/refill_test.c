/* SPDX-License-Identifier: MIT */
/* theap/refill.h: where a heap's blocks come from and where its pools go. */
#include "modules.h"

#include <string.h>

#include "freehold.h"
#include "refill.h"
#include "shared.h"
#include "thread.h"

enum { MANY = 64 };

static struct fh_theap *own_heap(void)
{
    struct fh_theap *heap = fh_theap_of_thread();
    CHECK(!fh_theap_is_busy(heap));
    return heap;
}

static void *take(unsigned class_index)
{
    void *block = fh_raw_malloc(class_index == 0 ? 0 : fh_class_block_bytes(class_index));
    CHECK(block != NULL && fh_theap_pool_of(block)->class_index == class_index);
    return block;
}

static struct fh_bin *bin_of(unsigned class_index)
{
    return &own_heap()->bins[class_index];
}

static void check_all(void)
{
    check_heap(own_heap());
    check_region(fh_region_peek());
}

/* A pool of which the test holds every block, and which is nobody's. */
struct full_pool {
    struct fh_pool *pool;
    uint32_t count;
    void *blocks[FH_POOL_BLOCKS_MAX];
};

/* Fill a fresh pool, and take one more block, which makes it full; that one goes back. */
static void fill_pool(struct full_pool *full, unsigned class_index)
{
    fh_thread_flush(); /* what is shared is adopted first: begin with none current */
    full->count = 0;
    void *block = take(class_index);
    full->pool = fh_theap_pool_of(block);
    while (fh_theap_pool_of(block) == full->pool) {
        full->blocks[full->count++] = block;
        block = take(class_index);
    }
    CHECK(full->count == full->pool->capacity && fh_word_state(full->pool->word) == FH_FULL);
    fh_raw_free(block);
}

static void free_some(struct full_pool *full, uint32_t count)
{
    while (count-- > 0)
        fh_raw_free(full->blocks[--full->count]);
}

static void free_one_elsewhere(void *block)
{
    fh_raw_free(block);
}

static void free_rest_elsewhere(void *argument)
{
    struct full_pool *full = argument;
    free_some(full, full->count);
}

/* ---- Taking ------------------------------------------------------------------------------- */

TEST(the_first_block_of_a_class_starts_a_pool_and_carves_once)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        void *block = take(class_index);
        struct fh_bin *bin = bin_of(class_index);
        CHECK(bin->current == fh_theap_pool_of(block) && bin->queued == NULL);
        CHECK((uintptr_t)block == bin->current->origin + FH_BLOCK_ALIGN_BYTES);
        size_t bytes = bin->current->block_bytes;
        size_t in_page = (FH_CARVE_BYTES + bytes - 1) / bytes;
        CHECK(bin->current->carved ==
                  (in_page > FH_CARVE_BLOCKS_MIN ? in_page : FH_CARVE_BLOCKS_MIN) ||
              bin->current->carved == bin->current->capacity);
    }
    check_all();
}

TEST(a_heap_hands_out_every_block_of_its_pool_before_it_takes_another)
{
    static struct full_pool full;
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        fill_pool(&full, class_index);
        for (uint32_t i = 0; i < full.count; i++)
            memset(full.blocks[i], (int)i, full.pool->block_bytes);
        for (uint32_t i = 0; i < full.count; i++)
            CHECK(*(unsigned char *)full.blocks[i] == (unsigned char)i);
        check_all();
        free_some(&full, full.count);
    }
    fh_thread_flush();
    CHECK(claimed_pools(fh_region_peek()) == 0);
}

TEST(one_block_taken_and_freed_again_and_again_stays_in_its_pool)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fh_pool *pool = fh_theap_pool_of(take(class_index));
        for (uint32_t i = 0; i < 3 * pool->capacity; i++) {
            void *block = take(class_index);
            CHECK(fh_theap_pool_of(block) == pool);
            fh_raw_free(block);
        }
        CHECK(bin_of(class_index)->current == pool);
    }
    check_all();
}

TEST(the_current_pool_stays_even_when_its_last_block_is_freed)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        void *block = take(class_index);
        struct fh_pool *pool = fh_theap_pool_of(block);
        fh_raw_free(block);
        CHECK(bin_of(class_index)->current == pool && fh_word_state(pool->word) == FH_ACTIVE);
    }
    check_all();
}

TEST(blocks_freed_elsewhere_are_taken_before_another_pool)
{
    static struct full_pool full;
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        fh_thread_flush();
        void *first = take(class_index);
        struct fh_pool *pool = fh_theap_pool_of(first);
        for (full.count = 0; full.count < pool->capacity - 1; full.count++)
            full.blocks[full.count] = take(class_index);
        CHECK(pool->carved == pool->capacity && own_heap()->ready[class_index].list == NULL);
        elsewhere(free_one_elsewhere, first);
        CHECK(take(class_index) == first);
        free_some(&full, full.count);
        fh_raw_free(first);
    }
    check_all();
}

/* ---- Full pools --------------------------------------------------------------------------- */

TEST(a_full_pool_emptied_elsewhere_goes_back_to_its_arena)
{
    static struct full_pool full;
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        fill_pool(&full, class_index);
        fh_thread_flush();
        elsewhere(free_rest_elsewhere, &full);
        CHECK(full.pool->word == 0 && full.pool->kind == FH_POOL_NONE);
        CHECK(claimed_pools(fh_region_peek()) == 0);
    }
    check_all();
}

TEST(a_full_pool_freed_elsewhere_up_to_the_threshold_is_shared_and_then_adopted)
{
    static struct full_pool full;
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        fill_pool(&full, class_index);
        for (uint32_t i = full.pool->threshold; i > 0; i--) {
            CHECK(fh_word_state(full.pool->word) == FH_FULL);
            elsewhere(free_one_elsewhere, full.blocks[--full.count]);
            if (full.pool->threshold > 8 && i > 4) { /* threads are slow: the rest at home, later */
                i = 4;
                while (fh_word_credits(full.pool->word) > 3)
                    CHECK(fh_pool_free_remote(full.pool, full.blocks[--full.count]));
            }
        }
        CHECK(fh_word_is_shared(full.pool->word));
        check_all();
        fh_thread_flush();
        CHECK(fh_theap_pool_of(take(class_index)) == full.pool);
        CHECK(full.pool->owner == fh_theap_tag(own_heap()));
        check_all();
        free_some(&full, full.count);
        fh_thread_flush();
    }
}

TEST(a_full_pool_freed_at_home_waits_until_it_has_enough_free_blocks)
{
    static struct full_pool full;
    unsigned class_index = class_with_threshold();
    if (class_index == FH_CLASSES)
        modules_skip("in this geometry one free block is enough");
    fill_pool(&full, class_index);
    struct fh_bin *bin = bin_of(class_index);
    for (uint32_t freed = 1; freed < full.pool->threshold; freed++) {
        free_some(&full, 1);
        CHECK(full.pool->list == FH_LIST_WAITING && bin->waiting == full.pool);
        check_all();
    }
    free_some(&full, 1);
    CHECK(full.pool->list == FH_LIST_QUEUED && bin->waiting == NULL && bin->queued == full.pool);
    check_all();
}

TEST(a_full_pool_with_enough_free_blocks_is_queued_at_once)
{
    static struct full_pool full;
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        fill_pool(&full, class_index);
        while (fh_word_credits(full.pool->word) > 1)
            CHECK(fh_pool_free_remote(full.pool, full.blocks[--full.count]));
        free_some(&full, 1);
        CHECK(full.pool->list == FH_LIST_QUEUED && bin_of(class_index)->queued == full.pool);
        CHECK(list_length(full.pool->local) == full.pool->threshold);
        check_all();
        free_some(&full, full.count);
        CHECK(full.pool->word == 0 && bin_of(class_index)->queued == NULL); /* empty: gone */
    }
    check_all();
}

TEST(a_queued_pool_is_allocated_from_before_a_new_one_is_claimed)
{
    static struct full_pool full;
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        fill_pool(&full, class_index);
        free_some(&full, full.pool->threshold);
        CHECK(full.pool->list == FH_LIST_QUEUED);
        struct fh_pool *current = bin_of(class_index)->current;
        void *block = take(class_index);
        while (fh_theap_pool_of(block) == current)
            block = take(class_index);
        CHECK(fh_theap_pool_of(block) == full.pool && full.pool->list == FH_LIST_CURRENT);
        check_all();
    }
}

/* ---- Limits ------------------------------------------------------------------------------- */

enum { POOLS = FH_QUEUED_MAX + FH_WAITING_MAX + 4 };

/* Of this class: a span counts as its pools. */
static int queued_max(unsigned class_index)
{
    return FH_QUEUED_MAX / (int)fh_class_pools(class_index);
}

static int waiting_max(unsigned class_index)
{
    return FH_WAITING_MAX / (int)fh_class_pools(class_index);
}

static struct full_pool pools[POOLS];

/* POOLS full pools of a class, filled by this heap. */
static void fill_pools(unsigned class_index)
{
    void *block = take(class_index);
    for (int i = 0; i < POOLS; i++) {
        pools[i].pool = fh_theap_pool_of(block);
        for (pools[i].count = 0; fh_theap_pool_of(block) == pools[i].pool;
             block = take(class_index))
            pools[i].blocks[pools[i].count++] = block;
        CHECK(fh_word_state(pools[i].pool->word) == FH_FULL);
    }
}

TEST(no_more_than_so_many_pools_are_queued_and_the_oldest_is_shared)
{
    const unsigned class_index = FH_CLASSES - 1;
    fill_pools(class_index);
    struct fh_bin *bin = bin_of(class_index);
    for (int i = 0; i < POOLS; i++) {
        free_some(&pools[i], pools[i].pool->threshold);
        int queued = i + 1 < queued_max(class_index) ? i + 1 : queued_max(class_index);
        CHECK(bin->queued_count == queued || bin->waiting_count > 0);
        check_all();
    }
    CHECK(bin->queued_count == queued_max(class_index));
    unsigned shared = 0;
    for (int i = 0; i < POOLS; i++)
        shared += fh_word_is_shared(pools[i].pool->word);
    CHECK((int)shared == POOLS - queued_max(class_index));
}

TEST(no_more_than_so_many_pools_wait_and_the_others_stay_full)
{
    unsigned class_index = class_with_threshold();
    if (class_index == FH_CLASSES)
        modules_skip("in this geometry no pool waits");
    fill_pools(class_index);
    struct fh_bin *bin = bin_of(class_index);
    for (int i = 0; i < POOLS; i++) {
        free_some(&pools[i], 1);
        CHECK(bin->waiting_count ==
              (i < waiting_max(class_index) ? i + 1 : waiting_max(class_index)));
    }
    for (int i = 0; i < POOLS; i++) {
        bool waits = i < waiting_max(class_index);
        CHECK(!waits || pools[i].pool->list == FH_LIST_WAITING);
        CHECK(fh_word_state(pools[i].pool->word) == (waits ? FH_ACTIVE : FH_FULL));
    }
    check_all();
}

TEST(pools_that_stop_waiting_join_the_queue_within_its_limit)
{
    unsigned class_index = class_with_threshold();
    if (class_index == FH_CLASSES)
        modules_skip("in this geometry no pool waits");
    fill_pools(class_index);
    struct fh_bin *bin = bin_of(class_index);
    for (int i = 0; i < waiting_max(class_index); i++)
        free_some(&pools[i], 1);
    for (int i = 0; i < waiting_max(class_index); i++) {
        free_some(&pools[i], pools[i].pool->threshold - 1);
        CHECK(bin->queued_count == (i < queued_max(class_index) ? i + 1 : queued_max(class_index)));
        CHECK(i < queued_max(class_index) ||
              fh_word_is_shared(pools[i - queued_max(class_index)].pool->word));
        check_all();
    }
    CHECK(bin->waiting_count == 0);
}

TEST(each_refill_lets_the_oldest_of_too_many_waiting_pools_go)
{
    unsigned class_index = class_with_threshold();
    if (class_index == FH_CLASSES)
        modules_skip("in this geometry no pool waits");
    fill_pools(class_index);
    struct fh_bin *bin = bin_of(class_index);
    for (int i = 0; i < waiting_max(class_index); i++)
        free_some(&pools[i], 1);
    while (bin->waiting_count == waiting_max(class_index))
        (void)take(class_index);
    CHECK(bin->waiting_count == waiting_max(class_index) - 1);
    CHECK(fh_word_state(pools[0].pool->word) == FH_FULL && pools[0].pool->list == FH_LIST_NONE);
    CHECK(fh_word_owner(pools[0].pool->word) == 0);
    check_all();
}

enum { HOARDED_CLASSES = 20, HOARDED_EACH = 4, HOARDED = HOARDED_CLASSES * HOARDED_EACH };

static struct full_pool hoard[HOARDED];

/* Full pools of many classes, small ones. */
static void fill_hoard(void)
{
    for (unsigned i = 0; i < HOARDED; i++)
        fill_pool(&hoard[i], 1 + i % HOARDED_CLASSES);
    fh_thread_flush();
}

TEST(a_heap_that_only_frees_keeps_few_pools_of_all_classes_together)
{
    if (HOARDED <= (int)FH_QUEUED_POOLS)
        modules_skip("in this geometry it may keep more");
    fill_hoard();
    for (unsigned i = 0; i < HOARDED; i++)
        free_some(&hoard[i], hoard[i].pool->threshold);
    CHECK(own_heap()->queued_pools <= FH_QUEUED_POOLS);
    check_all();
}

TEST(a_heap_from_which_pools_are_taken_meanwhile_keeps_more)
{
    if (HOARDED <= (int)FH_QUEUED_POOLS)
        modules_skip("in this geometry it may keep more");
    fill_hoard();
    for (unsigned i = 0; i < HOARDED; i++) {
        free_some(&hoard[i], hoard[i].pool->threshold);
        own_heap()->queued_in_a_row = 0; /* as the next pool for a bin does */
    }
    CHECK(own_heap()->queued_pools > FH_QUEUED_POOLS);
    check_all();
}

/* ---- Draining ----------------------------------------------------------------------------- */

TEST(a_drained_class_leaves_its_heap_nothing_and_its_pools_to_all)
{
    unsigned class_index = 7;
    fill_pools(class_index);
    free_some(&pools[0], 1);
    free_some(&pools[1], pools[1].pool->threshold);
    struct fh_theap *heap = fh_theap_enter();
    fh_theap_drain_class(heap, class_index);
    fh_theap_leave(heap);
    const struct fh_bin *bin = bin_of(class_index);
    CHECK(bin->current == NULL && bin->queued_count == 0 && bin->waiting_count == 0);
    CHECK(heap->ready[class_index].list == NULL);
    CHECK(fh_word_is_shared(pools[1].pool->word));
    check_all();
}

TEST(draining_a_heap_without_live_blocks_gives_every_pool_back)
{
    void *blocks[FH_CLASSES];
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++)
        blocks[class_index] = take(class_index);
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++)
        fh_raw_free(blocks[class_index]);
    fh_thread_flush();
    CHECK(claimed_pools(fh_region_peek()) == 0);
    check_all();
}

/* ---- A random walk ------------------------------------------------------------------------ */

enum { SLOTS = 3000, CLASSES_WALKED = 5, STEPS = 150000 };

struct slot {
    char *block;
    size_t bytes;
    char fill;
};

static void check_slot(const struct slot *slot)
{
    CHECK(slot->block[0] == slot->fill && slot->block[slot->bytes - 1] == slot->fill);
}

static size_t walked_bytes(uint64_t *state)
{
    static const size_t sizes[CLASSES_WALKED] = {16, 112, 512, 768, FH_BLOCK_MAX_BYTES};
    uint32_t which = random_below(state, 32);
    return sizes[which == 0 ? 4 : which % 4];
}

/* What is up goes down: the number of blocks swings between a few and many, so pools fill and
 * empty. */
static void walk_step(struct slot *slots, size_t step, uint64_t *state)
{
    bool growing = step / 5000 % 2 == 0;
    struct slot *slot = &slots[random_below(state, SLOTS)];
    if (slot->block != NULL) {
        check_slot(slot);
        if (growing && random_below(state, 3) != 0)
            return;
        fh_raw_free(slot->block);
        slot->block = NULL;
    } else if (growing || random_below(state, 8) == 0) {
        slot->bytes = walked_bytes(state);
        slot->fill = (char)random_below(state, 256);
        slot->block = fh_raw_malloc(slot->bytes);
        if (slot->block != NULL) /* the tiny geometry has an end */
            memset(slot->block, slot->fill, slot->bytes);
    }
}

TEST(a_random_walk_keeps_every_pool_and_list_right)
{
    static struct slot slots[SLOTS];
    uint64_t state = 9;
    for (struct bound bound = at_most(STEPS); more(&bound);) {
        walk_step(slots, bound.step, &state);
        if (bound.step % 1000 == 0)
            check_all();
    }
    for (int i = 0; i < SLOTS; i++)
        fh_raw_free(slots[i].block);
    fh_thread_flush();
    CHECK(claimed_pools(fh_region_peek()) == 0);
    check_all();
}

/* ---- Among threads ------------------------------------------------------------------------ */

enum { EXCHANGED = 256 };

static void *exchanged[EXCHANGED]; /* each: NULL or a block, whose first word is its own address */

/* Every thread allocates and swaps its blocks for whatever lies there; so most are freed elsewhere.
 */
static void swap_blocks(unsigned number, void *shared)
{
    uint64_t state = number + 1;
    (void)shared;
    for (struct bound bound = at_most(60000); more(&bound);) {
        uint32_t bytes = 8 + random_below(&state, random_below(&state, 16) == 0 ? 3000 : 200);
        void **block = fh_raw_malloc(bytes);
        if (block != NULL)
            *block = block;
        void **at = &exchanged[random_below(&state, EXCHANGED)];
        void **other = __atomic_exchange_n(at, block, __ATOMIC_ACQ_REL);
        CHECK(other == NULL || *other == other);
        if (other != NULL)
            *other = NULL;
        fh_raw_free(other);
        if (random_below(&state, 4000) == 0)
            fh_thread_flush();
    }
}

TEST(threads_that_free_each_others_blocks_lose_none_and_share_none)
{
    together(4, swap_blocks, NULL);
    check_region(fh_region_peek());
    for (int i = 0; i < EXCHANGED; i++)
        fh_raw_free(exchanged[i]);
    fh_thread_flush();
    CHECK(claimed_pools(fh_region_peek()) == 0);
    check_region(fh_region_peek());
}
