/* SPDX-License-Identifier: MIT */
/* Scenarios that are wrong on purpose: small protocols with the well-known mistakes, and misuse of
 * the library that the checks must see. `explore --broken` passes if each is found out, and its
 * schedule fails again. */
#include "sched.h"

#include "arena.h"
#include "atomic.h"
#include "freehold.h"
#include "os.h"

/* The protocols' variables, in memory that starts afresh with each schedule. */
static uint64_t *words;

static void map_words(void)
{
    words = fh_os_map(4096);
}

/* ---- A lost update ----------------------------------------------------------------------------
 */

static void increment(void)
{
    uint64_t value = fh_load_relaxed_u64(&words[0]);
    fh_store_relaxed_u64(&words[0], value + 1);
}

static void check_two(void)
{
    CHECK(words[0] == 2);
}

SCENARIO(broken_lost_update, .setup = map_words, .program = {increment, increment},
         .check = check_two, .found = "words[0] == 2");

static void check_one_or_two(void)
{
    CHECK(words[0] == 2 || words[1] == 0);
}

static void increment_and_note(void)
{
    increment();
    words[1] = 1;
}

static void nothing(void)
{
}

SCENARIO(broken_handler, .setup = map_words, .program = {increment, nothing},
         .handler = increment_and_note, .check = check_one_or_two, .found = "words[0] == 2");

/* ---- A bug that takes two preemptions ---------------------------------------------------------
 */

static void count_up(void)
{
    fh_store_relaxed_u64(&words[0], 1);
    fh_store_relaxed_u64(&words[0], 2);
    fh_store_relaxed_u64(&words[0], 0);
}

static void look_twice(void)
{
    uint64_t first = fh_load_relaxed_u64(&words[0]);
    uint64_t second = fh_load_relaxed_u64(&words[0]);
    words[1] = first == 1 && second == 2;
}

static void check_not_both(void)
{
    bool both = words[1] != 0;
    CHECK(!both);
}

SCENARIO(broken_two_preemptions, .setup = map_words, .program = {count_up, look_twice},
         .check = check_not_both, .found = "!both");

/* ---- A stack whose pop believes an old link (ABA) ---------------------------------------------
 */

/* words[0] is the head, words[n] what is below n; words[4] and on say who popped what. */
static void fill_stack(void)
{
    map_words();
    words[0] = 1;
    words[1] = 2;
}

static uint64_t pop(void)
{
    uint64_t head = fh_load_acquire_u64(&words[0]);
    uint64_t below;
    do {
        if (head == 0)
            return 0;
        below = fh_load_relaxed_u64(&words[head]);
    } while (!fh_cas_acquire_u64(&words[0], &head, below));
    return head;
}

static void push(uint64_t block)
{
    uint64_t head = fh_load_relaxed_u64(&words[0]);
    do
        fh_store_relaxed_u64(&words[block], head);
    while (!fh_cas_release_u64(&words[0], &head, block));
}

static void pop_two(void)
{
    words[4] = pop();
    words[5] = pop();
}

static void pop_two_push_one(void)
{
    uint64_t block = pop();
    words[6] = pop();
    if (block != 0)
        push(block);
}

static void check_distinct(void)
{
    bool twice = words[6] != 0 && (words[4] == words[6] || words[5] == words[6]);
    CHECK(!twice);
}

SCENARIO(broken_old_link, .setup = fill_stack, .program = {pop_two, pop_two_push_one},
         .check = check_distinct, .found = "!twice");

/* ---- A hint that is cleared without a second look ---------------------------------------------
 */

static void clear_hint(void)
{
    if (fh_load_relaxed_u64(&words[0]) == 0) /* there is nothing to hint at … */
        (void)fh_fetch_and_seq_cst_u64(&words[1], 0);
}

static void set_hint(void)
{
    fh_store_relaxed_u64(&words[0], 1);
    fh_store_relaxed_u64(&words[1], 1);
}

static void check_hinted(void)
{
    bool hinted = words[1] == 1;
    CHECK(hinted);
}

SCENARIO(broken_hint, .setup = map_words, .program = {clear_hint, set_hint}, .check = check_hinted,
         .found = "hinted");

/* ---- A lock -----------------------------------------------------------------------------------
 */

static void with_lock(void)
{
    uint64_t free_lock = 0;
    while (!fh_cas_acquire_u64(&words[0], &free_lock, 1))
        free_lock = 0;
    fh_store_release_u64(&words[0], 0);
}

SCENARIO(broken_lock, .setup = map_words, .program = {with_lock, with_lock},
         .found = "waits for another");

/* A step that only the thread itself can take, and that others count on: fails if it never comes
 * back, and in no other case. */
static void half_done(void)
{
    fh_store_relaxed_u64(&words[0], 1);
    fh_store_relaxed_u64(&words[0], 0);
}

static void count_on_it(void)
{
    for (int tries = 0; tries < 100; tries++)
        if (fh_load_relaxed_u64(&words[0]) == 0)
            return;
    if (machine_froze())
        fail("a frozen thread is in the way");
}

SCENARIO(broken_when_frozen, .setup = map_words, .program = {half_done, count_on_it},
         .found = "a frozen thread is in the way");

/* ---- Misuse that the checks must see ----------------------------------------------------------
 */

static void some_blocks(void)
{
    take_all(0, POOL_BLOCKS, BLOCK_BYTES);
    take(POOL_BLOCKS, BLOCK_BYTES);
}

static void give_first(void)
{
    give(0);
}

static void lose_a_pool(void)
{
    struct fh_run run;
    CHECK(fh_arena_claim(fh_region_get(), 1, 1, &run));
}

SCENARIO(broken_lost_pool, .setup = some_blocks, .program = {give_first, lose_a_pool},
         .found = "is lost: in use, and nobody's");

static void lose_a_block(void)
{
    (void)fh_raw_malloc(BLOCK_BYTES);
}

SCENARIO(broken_lost_block, .setup = some_blocks, .program = {lose_a_block, give_first},
         .found = "some are lost");

static char *shared_block;

static void take_a_block(void)
{
    shared_block = fh_raw_malloc(BLOCK_BYTES);
}

static void free_it_and_again(void)
{
    fh_raw_free(shared_block);
}

SCENARIO(broken_double_free, .setup = take_a_block,
         .program = {free_it_and_again, free_it_and_again}, .found = "broken_double_free:");

/* Writes to a block after it was freed, when another thread may have it. */
static uint64_t anything;

static void write_late(void)
{
    char *block = fh_raw_malloc(BLOCK_BYTES);
    fh_raw_free(block);
    (void)fh_load_relaxed_u64(&anything);
    block[BLOCK_BYTES - 8] ^= 1;
}

static void take_twice(void)
{
    take(20, BLOCK_BYTES);
    take(21, BLOCK_BYTES);
}

static void one_free_block(void)
{
    take_all(0, POOL_BLOCKS - 1, BLOCK_BYTES);
    flush();
}

static void free_and_write(void)
{
    exit_thread();
    start_thread();
    write_late();
    exit_thread();
    write_late();
}

SCENARIO(broken_late_write, .setup = one_free_block, .program = {free_and_write, take_twice},
         .found = "was written to by others");
