/* SPDX-License-Identifier: MIT */
/* arena/hints.h against a plain set, and among threads. */
#include "modules.h"

#include <string.h>

#include "bits.h"
#include "hints.h"
#include "os.h"

enum { SET = FH_HINTS_ROOM, OTHER_SET = FH_HINTS_HEAPS };

static struct fh_hints new_hints(uint32_t members)
{
    struct fh_hints hints;
    size_t bytes = fh_hints_bytes(members);
    char *memory = fh_os_map(bytes);
    CHECK(memory != NULL);
    fh_hints_place(&hints, memory, members);
    CHECK(hints.members >= members && hints.members < members + 64);
    return hints;
}

static uint64_t word_of(const struct fh_hints *hints, unsigned set, int level, uint32_t index)
{
    return hints->level[level][(size_t)index * FH_HINT_SETS + set];
}

/* A word that is not empty has its bit in the word above. With `exact`, an empty one has none. */
static void check_tree(const struct fh_hints *hints, unsigned set, bool exact)
{
    uint32_t words = hints->members / 64;
    for (int level = 0; level < 2; level++) {
        for (uint32_t index = 0; index < words; index++) {
            bool filled = word_of(hints, set, level, index) != 0;
            bool known = word_of(hints, set, level + 1, index / 64) >> index % 64 & 1;
            CHECK(!filled || known);
            CHECK(!exact || filled == known);
        }
        words = (words + 63) / 64;
    }
}

/* ---- Alone -------------------------------------------------------------------------------- */

TEST(an_empty_set_has_no_next_and_no_previous)
{
    struct fh_hints hints = new_hints(FH_HINT_MEMBERS_MAX);
    for (unsigned set = 0; set < FH_HINT_SETS; set++)
        for (uint32_t from = 0; from < hints.members; from += 4093)
            CHECK(fh_hints_next(&hints, set, from) == FH_HINT_NONE);
    CHECK(fh_hints_previous(&hints, 0, FH_HINT_NONE) == FH_HINT_NONE);
    CHECK(fh_hints_next(&hints, 0, hints.members) == FH_HINT_NONE);
    CHECK(fh_hints_next(&hints, 0, ~0u) == FH_HINT_NONE);
}

static void check_single(const struct fh_hints *hints, uint32_t member)
{
    CHECK(!fh_hints_clear(hints, SET, member));
    fh_hints_set(hints, SET, member);
    fh_hints_set(hints, SET, member);
    CHECK(fh_hints_has(hints, SET, member) && !fh_hints_has(hints, OTHER_SET, member));
    CHECK(fh_hints_next(hints, SET, 0) == member);
    CHECK(fh_hints_next(hints, SET, member) == member);
    CHECK(fh_hints_next(hints, SET, member + 1) == FH_HINT_NONE);
    CHECK(fh_hints_next(hints, OTHER_SET, 0) == FH_HINT_NONE);
    CHECK(fh_hints_previous(hints, SET, FH_HINT_NONE) == member);
    CHECK(fh_hints_previous(hints, SET, member + 1) == member);
    CHECK(fh_hints_previous(hints, SET, member) == FH_HINT_NONE);
    CHECK(fh_hints_clear(hints, SET, member) && !fh_hints_clear(hints, SET, member));
    CHECK(!fh_hints_has(hints, SET, member) && fh_hints_next(hints, SET, 0) == FH_HINT_NONE);
}

TEST(a_single_member_is_found_from_below_and_from_above)
{
    uint32_t sizes[] = {1, 64, 65, 4096, 4097, 70000, FH_HINT_MEMBERS_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct fh_hints hints = new_hints(sizes[i]);
        for (uint32_t member = 0; member < hints.members; member += 61)
            check_single(&hints, member);
        check_single(&hints, hints.members - 1);
        check_tree(&hints, SET, true);
    }
}

struct model {
    bool has[FH_HINT_MEMBERS_MAX];
};

static uint32_t next_in_model(const struct model *model, uint32_t members, uint32_t from)
{
    const bool *found = from < members ? memchr(model->has + from, true, members - from) : NULL;
    return found == NULL ? FH_HINT_NONE : (uint32_t)(found - model->has);
}

static uint32_t previous_in_model(const struct model *model, uint32_t below)
{
    const bool *found = memrchr(model->has, true, below);
    return found == NULL ? FH_HINT_NONE : (uint32_t)(found - model->has);
}

/* Mostly within a few words of each 4096 members, sometimes anywhere. */
static uint32_t random_member(uint64_t *state, uint32_t members)
{
    uint32_t somewhere = random_below(state, members);
    if (random_below(state, 4) == 0)
        return somewhere;
    return (somewhere / 4096 * 4096 + random_below(state, 3) * 200 + random_below(state, 8)) %
           members;
}

static void compare_with_model(uint32_t members, unsigned set, uint64_t seed)
{
    static struct model model;
    struct fh_hints hints = new_hints(members);
    memset(&model, 0, sizeof model);
    for (struct bound bound = at_most(30000); more(&bound);) {
        uint32_t member = random_member(&seed, members);
        uint32_t from = random_member(&seed, members);
        if (random_below(&seed, 2) == 0)
            fh_hints_set(&hints, set, member);
        else
            CHECK(fh_hints_clear(&hints, set, member) == model.has[member]);
        model.has[member] = fh_hints_has(&hints, set, member);
        CHECK(fh_hints_next(&hints, set, from) == next_in_model(&model, members, from));
        CHECK(fh_hints_previous(&hints, set, from) == previous_in_model(&model, from));
    }
    check_tree(&hints, set, true);
}

TEST(random_operations_agree_with_a_plain_set)
{
    compare_with_model(64, 0, 1);
    compare_with_model(4160, FH_HINTS_EMPTY, 2);
    compare_with_model(FH_HINT_MEMBERS_MAX, FH_HINT_SETS - 1, 3);
}

TEST(a_bit_left_behind_above_an_empty_word_does_no_harm)
{
    struct fh_hints hints = new_hints(20000);
    fh_hints_set(&hints, SET, 130);
    fh_hints_set(&hints, SET, 15000);
    /* As a thread leaves it that is killed in between. */
    hints.level[0][130 / 64 * FH_HINT_SETS + SET] = 0;
    CHECK(fh_hints_next(&hints, SET, 0) == 15000);
    CHECK(fh_hints_previous(&hints, SET, 15000) == FH_HINT_NONE);
    hints.level[0][15000 / 64 * FH_HINT_SETS + SET] = 0;
    CHECK(fh_hints_next(&hints, SET, 0) == FH_HINT_NONE);
}

TEST(the_next_set_repairs_a_bit_that_is_missing_above)
{
    struct fh_hints hints = new_hints(20000);
    fh_hints_set(&hints, SET, 15000);
    hints.level[1][15000 / 4096 * FH_HINT_SETS + SET] = 0;
    hints.level[2][SET] = 0;
    fh_hints_set(&hints, SET, 15000);
    CHECK(fh_hints_next(&hints, SET, 0) == 15000);
    check_tree(&hints, SET, true);
}

/* ---- Among threads ------------------------------------------------------------------------ */

enum { MEMBERS = 20000, CLUSTER = 300 };

struct shared_set {
    struct fh_hints hints;
    bool has[4][MEMBERS]; /* what each thread did last to its own members */
};

/* Each thread has every fourth member, so all words and the bits above are everybody's. */
static void change_own(unsigned number, void *argument)
{
    struct shared_set *shared = argument;
    uint64_t state = number + 1;
    for (struct bound bound = at_most(60000); more(&bound);) {
        uint32_t cluster = random_below(&state, 3) * 8192;
        uint32_t member = (cluster + random_below(&state, CLUSTER)) / 4 * 4 + number;
        bool *has = &shared->has[number][member];
        if (*has)
            CHECK(fh_hints_clear(&shared->hints, SET, member));
        else
            fh_hints_set(&shared->hints, SET, member);
        *has = !*has;
        /* Nobody else changes it, so it must be found now. */
        CHECK(!*has || fh_hints_next(&shared->hints, SET, member) == member);
    }
}

TEST(threads_that_share_words_lose_no_member)
{
    static struct shared_set shared;
    shared.hints = new_hints(MEMBERS);
    together(4, change_own, &shared);
    check_tree(&shared.hints, SET, false);
    uint32_t next = fh_hints_next(&shared.hints, SET, 0);
    for (uint32_t member = 0; member < MEMBERS; member++) {
        bool has = shared.has[member % 4][member];
        CHECK(has == (next == member));
        if (has)
            next = fh_hints_next(&shared.hints, SET, member + 1);
    }
    CHECK(next == FH_HINT_NONE);
}

/* One member each, in one word: it is emptied and filled all the time. In between a search from
 * afar may miss them; in the end it must not. */
static void toggle_own(unsigned number, void *argument)
{
    struct fh_hints *hints = argument;
    for (int i = 0; i < 500; i++) {
        CHECK(fh_hints_clear(hints, SET, 9000 + number));
        fh_hints_set(hints, SET, 9000 + number);
        CHECK(fh_hints_next(hints, SET, 9000 + number) == 9000 + number);
    }
}

TEST(a_word_emptied_and_filled_at_once_is_found_in_the_end)
{
    struct fh_hints hints = new_hints(MEMBERS);
    for (uint32_t i = 0; i < 3; i++)
        fh_hints_set(&hints, SET, 9000 + i);
    for (struct bound bound = at_most(300); more(&bound);) {
        together(3, toggle_own, &hints);
        CHECK(fh_hints_next(&hints, SET, 0) == 9000);
        CHECK(fh_hints_previous(&hints, SET, FH_HINT_NONE) == 9002);
    }
    check_tree(&hints, SET, false);
}

struct tickets {
    struct fh_hints hints;
    uint64_t held; /* bit n: ticket n is with somebody */
    size_t taken;
};

static void take_and_return(unsigned number, void *argument)
{
    struct tickets *tickets = argument;
    (void)number;
    for (struct bound bound = at_most(40000); more(&bound);) {
        uint32_t ticket = fh_hints_next(&tickets->hints, OTHER_SET, 0);
        if (ticket == FH_HINT_NONE || !fh_hints_clear(&tickets->hints, OTHER_SET, ticket))
            continue;
        uint64_t bit = (uint64_t)1 << ticket % 64;
        CHECK((fh_fetch_or_seq_cst_u64(&tickets->held, bit) & bit) == 0);
        __atomic_fetch_add(&tickets->taken, 1, __ATOMIC_RELAXED);
        CHECK((fh_fetch_and_seq_cst_u64(&tickets->held, ~bit) & bit) != 0);
        fh_hints_set(&tickets->hints, OTHER_SET, ticket);
    }
}

TEST(who_takes_a_bit_out_holds_it_alone)
{
    static struct tickets tickets;
    const uint32_t numbers[] = {0, 65, 4098};
    tickets.hints = new_hints(8192);
    for (int i = 0; i < 3; i++)
        fh_hints_set(&tickets.hints, OTHER_SET, numbers[i]);
    together(4, take_and_return, &tickets);
    CHECK(tickets.taken > 0);
    for (int i = 0; i < 3; i++)
        CHECK(fh_hints_next(&tickets.hints, OTHER_SET, numbers[i]) == numbers[i]);
}

/* ---- At every point ----------------------------------------------------------------------- */

static struct fh_hints watched;

static void begin_with_one(void)
{
    watched = new_hints(MEMBERS);
    fh_hints_set(&watched, SET, 9000);
}

static void clear_it(void)
{
    CHECK(fh_hints_clear(&watched, SET, 9000));
}

static void set_neighbour(void)
{
    fh_hints_set(&watched, SET, 9001);
}

static void set_cousin(void)
{
    fh_hints_set(&watched, SET, 9001 + 64); /* another word below the same one */
}

static void check_found(void)
{
    uint32_t found = fh_hints_next(&watched, SET, 0);
    CHECK(found == 9001 || found == 9001 + 64);
    check_tree(&watched, SET, false);
}

TEST(a_member_set_amid_a_clear_is_found)
{
    at_every_point(begin_with_one, clear_it, set_neighbour, check_found);
    at_every_point(begin_with_one, clear_it, set_cousin, check_found);
    at_every_point(begin_with_one, set_neighbour, clear_it, check_found);
    at_every_point(begin_with_one, set_cousin, clear_it, check_found);
}
