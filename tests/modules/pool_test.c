/* SPDX-License-Identifier: MIT */
/* pool/pool.h: every transition of the word, the owner's lists, and random walks through both. */
#include "modules.h"

#include <stdio.h>
#include <string.h>

#include "pool.h"
#include "size_class.h"

/* Two heaps, as pools know them. */
enum { TAG = 0x1000, ID = 5, OTHER_TAG = 0x2000, OTHER_ID = 0xABCDE };

static const uint64_t active_word = (uint64_t)FH_ACTIVE << FH_WORD_STATE_SHIFT |
                                    (uint64_t)ID << FH_WORD_OWNER_SHIFT | FH_ACTIVE_CREDITS;

/* A pool and the blocks that the test has taken from it. */
struct fixture {
    struct fh_pool *pool;
    struct fh_block *bin; /* taken together, not yet handed out */
    struct fh_block *held[FH_POOL_BLOCKS_MAX];
    uint32_t held_count;
};

static struct fixture new_fixture(unsigned class_index)
{
    static struct fh_pool *descriptors;
    static char *memory;
    struct fixture fixture = {0};
    if (descriptors == NULL) {
        descriptors = new_descriptors();
        memory = new_pool_memory();
    }
    memset(descriptors, 0, FH_SPAN_POOLS * sizeof *descriptors);
    fixture.pool = descriptors;
    fh_pool_start(fixture.pool, memory, class_index, false, TAG, ID);
    return fixture;
}

/* One block, as a heap takes it: from the bin, else the local list, else new, else what others
 * freed. */
static bool take(struct fixture *at)
{
    if (at->bin == NULL)
        at->bin = fh_pool_take_local(at->pool);
    if (at->bin == NULL)
        at->bin = fh_pool_carve(at->pool);
    if (at->bin == NULL)
        at->bin = fh_pool_collect(at->pool, ID);
    if (at->bin == NULL)
        return false;
    at->held[at->held_count++] = at->bin;
    at->bin = at->bin->next;
    return true;
}

static void take_all(struct fixture *at)
{
    while (take(at))
        ;
    CHECK(at->held_count == at->pool->capacity);
}

static struct fh_block *held_block(struct fixture *at)
{
    CHECK(at->held_count > 0);
    return at->held[--at->held_count];
}

static void free_locally(struct fixture *at)
{
    struct fh_block *block = held_block(at);
    block->next = at->pool->local;
    at->pool->local = block;
    at->pool->countdown--;
}

static enum fh_pool_event free_remotely(struct fixture *at)
{
    struct fh_block *block = held_block(at);
    if (fh_pool_free_remote(at->pool, block))
        return FH_POOL_NOTHING;
    return fh_pool_free_deciding(at->pool, block);
}

static enum fh_pool_event give_up(struct fixture *at)
{
    if (at->bin != NULL)
        fh_pool_put_back(at->pool, at->bin);
    at->bin = NULL;
    return fh_pool_give_up(at->pool, ID);
}

/* A full pool that remembers heap ID. */
static struct fixture new_full(unsigned class_index)
{
    struct fixture at = new_fixture(class_index);
    take_all(&at);
    CHECK(fh_pool_leave_full(at.pool, TAG, ID));
    return at;
}

/* Shared, with exactly `threshold` free blocks. */
static struct fixture new_shared(unsigned class_index)
{
    struct fixture at = new_full(class_index);
    for (uint32_t i = 1; i < at.pool->threshold; i++)
        CHECK(free_remotely(&at) == FH_POOL_NOTHING);
    CHECK(free_remotely(&at) == FH_POOL_NOW_SHARED);
    return at;
}

/* A state with fewer live blocks has a higher level. */
static unsigned level_of(const struct fixture *at, uint32_t live)
{
    unsigned level = 0;
    while (level < FH_SHARED_LEVELS - 1 && live * 4u << 2 * level <= at->pool->capacity)
        level++;
    return level;
}

static enum fh_pool_event shared_event(const struct fixture *at, uint32_t live)
{
    return level_of(at, live) == 0 ? FH_POOL_NOW_SHARED : FH_POOL_NOW_SPARSE;
}

static void check_shared(const struct fixture *at)
{
    uint64_t word = at->pool->word;
    CHECK(fh_word_state(word) == FH_SHARED + level_of(at, at->held_count));
    CHECK(fh_word_shared_live(word, at->pool->capacity) == at->held_count);
}

static void check_word(const struct fixture *at, enum fh_pool_state state, uint32_t owner)
{
    CHECK(fh_word_state(at->pool->word) == state && fh_word_owner(at->pool->word) == owner);
    check_pool(at->pool);
    CHECK(blocks_out(at->pool) == at->held_count + list_length(at->bin));
}

/* ---- The word ----------------------------------------------------------------------------- */

TEST(a_word_holds_each_of_its_fields_at_its_limits)
{
    uint64_t state = 1;
    const uint32_t limit = 1 << 20;
    for (int i = 0; i < 10000; i++) {
        uint32_t owner = i == 0 ? limit - 1 : random_below(&state, limit);
        uint32_t credits = i == 0 ? 0xFFFF : random_below(&state, 0x10000);
        uint32_t head = i == 0 ? limit - 1 : random_below(&state, limit);
        enum fh_pool_state in = (enum fh_pool_state)random_below(&state, 4);
        uint64_t word = fh_word(in, owner, credits, head);
        CHECK(fh_word_state(word) == in && fh_word_owner(word) == owner);
        CHECK(fh_word_credits(word) == credits && word >> FH_WORD_HEAD_SHIFT == head);
    }
    CHECK(fh_word(FH_FREE, 0, 0, 0) == 0); /* zero-filled descriptors are free pools */
}

TEST(every_block_of_every_class_fits_the_word_as_its_head)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_fixture(class_index);
        uint64_t word = fh_word(FH_SHARED, 0, 77, 1);
        for (uint32_t i = 0; i < at.pool->capacity; i++) {
            uintptr_t address =
                at.pool->origin + FH_BLOCK_ALIGN_BYTES + (size_t)i * at.pool->block_bytes;
            struct fh_block *block = (struct fh_block *)address;
            uint64_t after = fh_word_push(at.pool, word, block);
            CHECK(after == fh_word(FH_SHARED, 0, 76, fh_pool_index_of(at.pool, block)));
            CHECK(fh_word_list(at.pool, after) == block);
            CHECK(fh_pool_has_block_at(at.pool, block));
            CHECK(!fh_pool_has_block_at(at.pool, (char *)block + 1));
        }
    }
}

TEST(addresses_outside_a_pool_are_no_blocks_of_it)
{
    struct fixture at = new_fixture(3);
    uintptr_t first = at.pool->origin + FH_BLOCK_ALIGN_BYTES;
    uintptr_t end = first + (size_t)at.pool->capacity * at.pool->block_bytes;
    CHECK(!fh_pool_has_block_at(at.pool, (void *)(first - at.pool->block_bytes)));
    CHECK(!fh_pool_has_block_at(at.pool, (void *)end));
    CHECK(!fh_pool_has_block_at(at.pool, NULL));
}

/* ---- From free to active, and the owner's lists ------------------------------------------- */

TEST(a_started_pool_is_active_and_has_touched_nothing)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_fixture(class_index);
        CHECK(at.pool->word == active_word && at.pool->owner == TAG && at.pool->home == TAG);
        CHECK(at.pool->block_bytes == fh_class_block_bytes(class_index));
        CHECK(at.pool->carved == 0 && fh_pool_live(at.pool) == 0 && at.pool->local == NULL);
        CHECK(at.pool->threshold >= 1 && at.pool->threshold <= (at.pool->capacity + 7) / 8);
        for (unsigned i = 1; i < at.pool->pools; i++)
            CHECK(at.pool[i].kind == FH_POOL_INSIDE && at.pool[i].head_distance == i);
        check_word(&at, FH_ACTIVE, ID);
    }
}

TEST(carving_cuts_each_block_once_and_a_few_at_least_but_no_more_than_a_page)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_fixture(class_index);
        uintptr_t expected = at.pool->origin + FH_BLOCK_ALIGN_BYTES;
        struct fh_block *blocks;
        while ((blocks = fh_pool_carve(at.pool)) != NULL) {
            uintptr_t page = (uintptr_t)blocks / FH_CARVE_BYTES;
            for (int cut = 1; blocks != NULL; blocks = blocks->next, at.held_count++, cut++) {
                CHECK((uintptr_t)blocks == expected);
                CHECK((uintptr_t)blocks / FH_CARVE_BYTES == page || cut <= FH_CARVE_BLOCKS_MIN);
                expected += at.pool->block_bytes;
            }
            check_word(&at, FH_ACTIVE, ID);
        }
        CHECK(at.pool->carved == at.pool->capacity && at.held_count == at.pool->capacity);
    }
}

TEST(blocks_of_a_power_of_two_lie_at_its_multiples)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_fixture(class_index);
        uintptr_t alignment = at.pool->block_bytes & -at.pool->block_bytes;
        take_all(&at);
        for (uint32_t i = 0; i < at.held_count; i++)
            CHECK((uintptr_t)at.held[i] % alignment == 0);
    }
}

TEST(the_owners_free_blocks_come_back_newest_first)
{
    struct fixture at = new_fixture(2);
    take(&at);
    take(&at);
    struct fh_block *first = at.held[1], *second = at.held[0];
    free_locally(&at);
    free_locally(&at);
    check_word(&at, FH_ACTIVE, ID);
    struct fh_block *blocks = fh_pool_take_local(at.pool);
    CHECK(blocks == second && blocks->next == first && first->next == NULL);
    CHECK(fh_pool_take_local(at.pool) == NULL);
}

TEST(the_current_pool_keeps_its_extra_live_block_when_its_list_is_taken)
{
    struct fixture at = new_fixture(2);
    take(&at);
    at.pool->list = FH_LIST_CURRENT;
    at.pool->countdown++;
    free_locally(&at);
    check_pool(at.pool);
    CHECK(fh_pool_take_local(at.pool) != NULL);
    CHECK(fh_pool_live(at.pool) == at.pool->carved + 1);
    check_pool(at.pool);
}

TEST(blocks_put_back_are_on_the_local_list_with_those_already_there)
{
    struct fixture at = new_fixture(1);
    take(&at);
    take(&at);
    uint32_t in_bin = list_length(at.bin);
    free_locally(&at);
    fh_pool_put_back(at.pool, at.bin);
    at.bin = NULL;
    CHECK(list_length(at.pool->local) == in_bin + 1);
    check_word(&at, FH_ACTIVE, ID);
}

/* ---- Active ------------------------------------------------------------------------------- */

TEST(a_block_freed_elsewhere_returns_on_collect)
{
    struct fixture at = new_fixture(1);
    take(&at);
    take(&at);
    struct fh_block *freed = at.held[1];
    CHECK(free_remotely(&at) == FH_POOL_NOTHING);
    CHECK(fh_word_credits(at.pool->word) == FH_ACTIVE_CREDITS - 1);
    check_word(&at, FH_ACTIVE, ID);
    at.bin = fh_pool_collect(at.pool, ID);
    CHECK(at.bin == NULL || at.bin == freed);
    CHECK(at.bin == freed && freed->next == NULL && at.pool->word == active_word);
    CHECK(fh_pool_collect(at.pool, ID) == NULL);
}

TEST(an_active_pools_credits_last_for_all_its_blocks)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_fixture(class_index);
        take_all(&at);
        while (at.held_count > 0)
            CHECK(free_remotely(&at) == FH_POOL_NOTHING);
        check_word(&at, FH_ACTIVE, ID);
        CHECK(list_length(fh_pool_collect(at.pool, ID)) == at.pool->capacity);
    }
}

TEST(a_pool_with_no_block_left_becomes_full_and_remembers_its_heap)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_full(class_index);
        CHECK(at.pool->owner == 0 && at.pool->home == TAG);
        CHECK(fh_word_credits(at.pool->word) == at.pool->threshold);
        check_word(&at, FH_FULL, ID);
    }
}

TEST(a_pool_with_a_remote_block_does_not_become_full)
{
    struct fixture at = new_fixture(4);
    take_all(&at);
    CHECK(free_remotely(&at) == FH_POOL_NOTHING);
    uint64_t before = at.pool->word;
    CHECK(!fh_pool_leave_full(at.pool, TAG, ID));
    CHECK(at.pool->word == before && at.pool->owner == TAG);
    check_word(&at, FH_ACTIVE, ID);
}

static void give_up_damaged(void *pool)
{
    (void)fh_pool_give_up(pool, ID);
}

TEST(a_word_that_counts_a_block_and_names_none_is_reported)
{
    char text[200];
    struct fixture at = new_fixture(4);
    take(&at);
    at.pool->word--; /* as if the 16 bytes before the first block had been freed */
    (void)snprintf(text, sizeof text,
                   "freehold: free(0x%016lx): the pool here is damaged: an address inside one of "
                   "its blocks was freed\n",
                   (unsigned long)(at.pool->origin + FH_BLOCK_ALIGN_BYTES));
    check_aborts(give_up_damaged, at.pool, text);
}

TEST(a_pool_given_up_without_a_live_block_is_empty)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_fixture(class_index);
        take(&at);
        take(&at);
        free_locally(&at);
        CHECK(free_remotely(&at) == FH_POOL_NOTHING);
        CHECK(give_up(&at) == FH_POOL_NOW_EMPTY && at.pool->word == 0 && at.pool->owner == 0);
        fh_pool_end(at.pool);
        for (unsigned i = 0; i < at.pool->pools; i++)
            CHECK(at.pool[i].kind == FH_POOL_NONE);
    }
}

TEST(a_pool_given_up_with_room_is_shared)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_fixture(class_index);
        take_all(&at);
        for (uint32_t i = 0; i < at.pool->threshold; i++) {
            if (i % 2 == 0)
                free_locally(&at);
            else
                CHECK(free_remotely(&at) == FH_POOL_NOTHING);
        }
        CHECK(give_up(&at) == FH_POOL_NOW_SHARED);
        check_shared(&at);
        check_word(&at, FH_SHARED, 0);
    }
}

TEST(a_pool_given_up_below_the_threshold_is_full_and_remembers_nobody)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_fixture(class_index);
        take_all(&at);
        for (uint32_t i = 1; i < at.pool->threshold; i++)
            free_locally(&at);
        CHECK(give_up(&at) == FH_POOL_NOTHING);
        CHECK(fh_word_credits(at.pool->word) == 1);
        check_word(&at, FH_FULL, 0);
        struct fh_block *block = at.held[0];
        CHECK(!fh_pool_take_back(at.pool, TAG, ID, block));
        CHECK(free_remotely(&at) == FH_POOL_NOW_SHARED);
        check_word(&at, FH_SHARED, 0);
    }
}

TEST(a_pool_given_up_before_all_is_carved_counts_the_rest_as_free)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_fixture(class_index);
        take(&at);
        enum fh_pool_event event = give_up(&at);
        CHECK(event == FH_POOL_NOW_SPARSE && fh_word_credits(at.pool->word) == 1);
        check_shared(&at);
        CHECK(free_remotely(&at) == FH_POOL_NOW_EMPTY && at.pool->word == 0);
    }
}

/* ---- Full --------------------------------------------------------------------------------- */

TEST(a_full_pool_counts_frees_until_the_threshold_and_is_then_shared)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_full(class_index);
        for (uint32_t i = 1; i < at.pool->threshold; i++) {
            CHECK(free_remotely(&at) == FH_POOL_NOTHING);
            CHECK(fh_word_credits(at.pool->word) == at.pool->threshold - i);
            check_word(&at, FH_FULL, ID);
        }
        CHECK(free_remotely(&at) == FH_POOL_NOW_SHARED);
        check_shared(&at);
        check_word(&at, FH_SHARED, 0);
    }
}

TEST(only_the_last_of_all_frees_makes_a_full_pool_empty)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_full(class_index);
        unsigned shared = 0;
        while (at.held_count > 1) {
            enum fh_pool_event event = free_remotely(&at);
            CHECK(event != FH_POOL_NOW_EMPTY);
            shared += event == FH_POOL_NOW_SHARED;
        }
        CHECK(shared == 1);
        CHECK(free_remotely(&at) == FH_POOL_NOW_EMPTY && at.pool->word == 0);
    }
}

TEST(who_filled_a_pool_takes_it_back_with_what_others_freed)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_full(class_index);
        for (uint32_t i = 1; i < at.pool->threshold; i++)
            CHECK(free_remotely(&at) == FH_POOL_NOTHING);
        CHECK(fh_pool_take_back(at.pool, TAG, ID, held_block(&at)));
        CHECK(at.pool->word == active_word && at.pool->owner == TAG);
        CHECK(list_length(at.pool->local) == at.pool->threshold);
        check_word(&at, FH_ACTIVE, ID);
    }
}

TEST(nobody_else_takes_a_full_pool_back)
{
    struct fixture at = new_full(5);
    uint64_t before = at.pool->word;
    CHECK(!fh_pool_take_back(at.pool, OTHER_TAG, OTHER_ID, at.held[0]));
    CHECK(!fh_pool_adopt(at.pool, OTHER_TAG, OTHER_ID));
    CHECK(at.pool->word == before && at.pool->owner == 0);
}

TEST(a_pool_that_is_not_full_is_not_taken_back)
{
    struct fixture at = new_fixture(5);
    take(&at);
    CHECK(!fh_pool_take_back(at.pool, TAG, ID, at.held[0]));
    at = new_shared(5);
    CHECK(!fh_pool_take_back(at.pool, TAG, ID, at.held[0]));
    check_word(&at, FH_SHARED, 0);
}

/* ---- Shared ------------------------------------------------------------------------------- */

TEST(a_shared_pool_goes_to_whoever_adopts_it_first)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_shared(class_index);
        CHECK(fh_pool_adopt(at.pool, OTHER_TAG, OTHER_ID));
        CHECK(!fh_pool_adopt(at.pool, TAG, ID));
        CHECK(at.pool->owner == OTHER_TAG && at.pool->home == OTHER_TAG);
        CHECK(list_length(at.pool->local) == at.pool->threshold);
        check_word(&at, FH_ACTIVE, OTHER_ID);
    }
}

TEST(a_pool_that_is_not_shared_is_not_adopted)
{
    struct fixture at = new_fixture(5);
    CHECK(!fh_pool_adopt(at.pool, OTHER_TAG, OTHER_ID) && at.pool->word == active_word);
    at.pool->word = 0;
    CHECK(!fh_pool_adopt(at.pool, OTHER_TAG, OTHER_ID) && at.pool->word == 0);
}

TEST(a_shared_pool_counts_frees_tells_of_each_level_and_is_empty_after_the_last)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_shared(class_index);
        while (at.held_count > 1) {
            unsigned before = level_of(&at, at.held_count);
            bool sparser = level_of(&at, at.held_count - 1) > before;
            CHECK(free_remotely(&at) == (sparser ? FH_POOL_NOW_SPARSE : FH_POOL_NOTHING));
            check_shared(&at);
        }
        check_pool(at.pool);
        CHECK(free_remotely(&at) == FH_POOL_NOW_EMPTY && at.pool->word == 0);
    }
}

TEST(an_adopted_pool_goes_on_being_carved_where_it_was_left)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        struct fixture at = new_fixture(class_index);
        take(&at);
        CHECK(give_up(&at) == FH_POOL_NOW_SPARSE);
        CHECK(fh_pool_adopt(at.pool, TAG, ID));
        take_all(&at);
        check_word(&at, FH_ACTIVE, ID);
        CHECK(fh_pool_leave_full(at.pool, TAG, ID));
    }
}

/* ---- Random walks ------------------------------------------------------------------------- */

/* What a transition must say, by the count of blocks that are out. */
static enum fh_pool_event event_expected(const struct fixture *at, enum fh_pool_state before)
{
    uint32_t available = at->pool->capacity - at->held_count;
    if (before == FH_FULL && available == at->pool->threshold)
        return shared_event(at, at->held_count);
    if (before < FH_SHARED)
        return FH_POOL_NOTHING;
    if (at->held_count == 0)
        return FH_POOL_NOW_EMPTY;
    return level_of(at, at->held_count) > before - FH_SHARED ? FH_POOL_NOW_SPARSE : FH_POOL_NOTHING;
}

static enum fh_pool_event give_up_expected(const struct fixture *at)
{
    uint32_t available = at->pool->capacity - at->held_count;
    if (at->held_count == 0)
        return FH_POOL_NOW_EMPTY;
    return available >= at->pool->threshold ? shared_event(at, at->held_count) : FH_POOL_NOTHING;
}

static void step_taking(struct fixture *at, uint64_t *state)
{
    for (uint32_t left = 1 + random_below(state, at->pool->capacity); left > 0; left--) {
        if (!take(at)) {
            CHECK(at->held_count == at->pool->capacity);
            CHECK(fh_pool_leave_full(at->pool, TAG, ID));
            return;
        }
    }
}

static void shuffle_held(struct fixture *at, uint64_t *state)
{
    uint32_t other = random_below(state, at->held_count);
    struct fh_block *last = at->held[at->held_count - 1];
    at->held[at->held_count - 1] = at->held[other];
    at->held[other] = last;
}

static void free_one(struct fixture *at, uint64_t *state)
{
    enum fh_pool_state before = fh_word_state(at->pool->word);
    bool local = random_below(state, 2) == 0;
    shuffle_held(at, state);
    if (before == FH_ACTIVE && local) {
        free_locally(at);
        return;
    }
    struct fh_block *block = at->held[at->held_count - 1];
    if (local && fh_pool_take_back(at->pool, TAG, ID, block)) {
        at->held_count--;
        return;
    }
    enum fh_pool_event event = free_remotely(at);
    CHECK(event == event_expected(at, before));
}

/* Mostly a few, at times many or all. */
static uint32_t frees_of_a_step(const struct fixture *at, uint64_t *state)
{
    uint32_t held = at->held_count;
    switch (random_below(state, 16)) {
    case 0:
        return held;
    case 1:
    case 2:
        return random_below(state, held + 1);
    default:
        return random_below(state, held / 8 + 1);
    }
}

static void step(struct fixture *at, uint64_t *state)
{
    switch (fh_word_state(at->pool->word)) {
    case FH_ACTIVE:
        if (random_below(state, 3) == 0)
            step_taking(at, state);
        else if (random_below(state, 8) == 0)
            CHECK(give_up(at) == give_up_expected(at));
        break;
    case FH_FREE:
    case FH_FULL:
        break;
    default:
        if (random_below(state, 4) == 0)
            CHECK(fh_pool_adopt(at->pool, TAG, ID));
    }
    for (uint32_t left = frees_of_a_step(at, state); left > 0; left--)
        free_one(at, state);
}

enum { STEPS = 600 };

TEST(random_walks_keep_every_count_and_come_to_every_state)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        unsigned visits[FH_SHARED + FH_SHARED_LEVELS] = {0};
        uint64_t state = class_index;
        struct fixture at = new_fixture(class_index);
        for (int i = 0; i < STEPS; i++) {
            step(&at, &state);
            visits[fh_word_state(at.pool->word)]++;
            if (at.pool->word == 0)
                at = new_fixture(class_index);
            check_word(&at, fh_word_state(at.pool->word), fh_word_owner(at.pool->word));
        }
        CHECK(visits[FH_FREE] > 0 && visits[FH_ACTIVE] > 0);
        CHECK(visits[FH_FULL] > 0 && visits[FH_SHARED] > 0 && visits[FH_SHARED + 1] > 0);
    }
}

/* ---- Among threads ------------------------------------------------------------------------ */

enum { FREERS = 3 };

struct handing {
    struct fixture at;
    uint64_t next; /* index of the next block to free */
    uint64_t shared_events, empty_events;
};

static void free_until_none(struct handing *handing)
{
    for (;;) {
        uint64_t index = __atomic_fetch_add(&handing->next, 1, __ATOMIC_RELAXED);
        if (index >= handing->at.held_count)
            return;
        struct fh_block *block = handing->at.held[index];
        enum fh_pool_event event = FH_POOL_NOTHING;
        if (!fh_pool_free_remote(handing->at.pool, block))
            event = fh_pool_free_deciding(handing->at.pool, block);
        if (event == FH_POOL_NOW_SHARED)
            __atomic_fetch_add(&handing->shared_events, 1, __ATOMIC_RELAXED);
        if (event == FH_POOL_NOW_EMPTY)
            __atomic_fetch_add(&handing->empty_events, 1, __ATOMIC_RELAXED);
    }
}

static void free_with_others(unsigned number, void *shared)
{
    (void)number;
    free_until_none(shared);
}

TEST(of_threads_that_free_a_full_pool_one_shares_and_one_empties_it)
{
    static struct handing handing;
    for (struct bound bound = at_most(200); more(&bound);) {
        unsigned class_index = (unsigned)(bound.step * 7 % FH_CLASSES);
        handing = (struct handing){.at = new_full(class_index)};
        together(FREERS, free_with_others, &handing);
        CHECK(handing.shared_events == 1 && handing.empty_events == 1);
        CHECK(handing.at.pool->word == 0);
    }
}

/* The owner collects and gives up while others free. */
static void own_or_free(unsigned number, void *shared)
{
    struct handing *handing = shared;
    struct fh_pool *pool = handing->at.pool;
    if (number > 0) {
        free_until_none(handing);
        return;
    }
    for (int i = 0; i < 20; i++) {
        struct fh_block *blocks = fh_pool_collect(pool, ID);
        if (blocks != NULL)
            fh_pool_put_back(pool, blocks);
    }
    enum fh_pool_event event = fh_pool_give_up(pool, ID);
    __atomic_fetch_add(&handing->shared_events, event == FH_POOL_NOW_SHARED, __ATOMIC_RELAXED);
    __atomic_fetch_add(&handing->empty_events, event == FH_POOL_NOW_EMPTY, __ATOMIC_RELAXED);
}

TEST(an_owner_that_gives_up_amid_remote_frees_loses_no_block)
{
    static struct handing handing;
    for (struct bound bound = at_most(300); more(&bound);) {
        handing = (struct handing){.at = new_fixture((unsigned)(bound.step * 11 % FH_CLASSES))};
        take_all(&handing.at);
        together(FREERS, own_or_free, &handing);
        CHECK(handing.empty_events == 1 && handing.shared_events <= 1);
        CHECK(handing.at.pool->word == 0 && handing.at.pool->owner == 0);
    }
}

/* Adopters take what is shared, empty it as far as they can and give it up again. */
static void adopt_or_free(unsigned number, void *shared)
{
    struct handing *handing = shared;
    struct fh_pool *pool = handing->at.pool;
    if (number == 0) {
        free_until_none(handing);
        return;
    }
    while (fh_word_state(fh_load_relaxed_u64(&pool->word)) != FH_FREE) {
        uint32_t id = ID + number;
        if (!fh_pool_adopt(pool, TAG + number, id))
            continue;
        CHECK(pool->owner == TAG + number); /* and nobody else's */
        enum fh_pool_event event = fh_pool_give_up(pool, id);
        CHECK(event != FH_POOL_NOTHING);
        __atomic_fetch_add(&handing->empty_events, event == FH_POOL_NOW_EMPTY, __ATOMIC_RELAXED);
    }
}

TEST(adopters_and_freers_empty_a_shared_pool_once)
{
    static struct handing handing;
    for (struct bound bound = at_most(200); more(&bound);) {
        handing = (struct handing){.at = new_shared((unsigned)(bound.step * 13 % FH_CLASSES))};
        together(3, adopt_or_free, &handing);
        CHECK(handing.empty_events == 1 && handing.at.pool->word == 0);
    }
}

/* ---- At every point ----------------------------------------------------------------------- */

static struct fixture watched;
static enum fh_pool_event events[2]; /* of who gave up, and of who freed */

static void begin_with_two_out(void)
{
    watched = new_fixture(1);
    take(&watched);
    take(&watched);
    events[0] = events[1] = FH_POOL_NOTHING;
}

static void begin_exhausted(void)
{
    watched = new_fixture(1);
    take_all(&watched);
}

static void begin_full(void)
{
    watched = new_full(1);
}

static void begin_almost_empty(void)
{
    begin_with_two_out();
    CHECK(free_remotely(&watched) == FH_POOL_NOTHING && give_up(&watched) == FH_POOL_NOW_SPARSE);
}

static void give_up_watched(void)
{
    events[0] = give_up(&watched);
}

static void free_watched(void)
{
    events[1] = free_remotely(&watched);
}

static void leave_watched(void)
{
    (void)fh_pool_leave_full(watched.pool, TAG, ID);
}

static void take_back_watched(void)
{
    struct fh_block *block = held_block(&watched);
    if (!fh_pool_take_back(watched.pool, TAG, ID, block))
        watched.held[watched.held_count++] = block;
}

static void adopt_watched(void)
{
    (void)fh_pool_adopt(watched.pool, OTHER_TAG, OTHER_ID);
}

static void check_watched(void)
{
    check_word(&watched, fh_word_state(watched.pool->word), fh_word_owner(watched.pool->word));
}

static void check_given_up(void)
{
    CHECK(events[0] == FH_POOL_NOW_SHARED || events[0] == FH_POOL_NOW_SPARSE);
    CHECK(events[1] == FH_POOL_NOTHING || events[1] == FH_POOL_NOW_SPARSE);
    check_watched();
}

TEST(a_free_amid_any_transition_of_the_owner_is_counted)
{
    at_every_point(begin_with_two_out, give_up_watched, free_watched, check_given_up);
    at_every_point(begin_exhausted, leave_watched, free_watched, check_watched);
    at_every_point(begin_full, take_back_watched, free_watched, check_watched);
    at_every_point(begin_full, free_watched, take_back_watched, check_watched);
    at_every_point(begin_almost_empty, adopt_watched, free_watched, check_watched);
    at_every_point(begin_almost_empty, free_watched, adopt_watched, check_watched);
}
