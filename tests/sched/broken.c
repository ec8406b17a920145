/* SPDX-License-Identifier: MIT */
/* Scenarios that are wrong on purpose: small protocols with the well-known mistakes, and misuse of the
 * library that the checks must see. `explore --broken` passes if each is found out, and its schedule
 * fails again. */
#include "sched.h"

#include "arena.h"
#include "atomic.h"
#include "freehold.h"

/* Variables of the protocols; reset by whoever starts a schedule, since the machine does not know
 * them: each program begins with a step, so the first to run is the first to pass here. */
static uint64_t words[8];
static uint64_t found[4];

static void clear_words(void)
{
    for (unsigned i = 0; i < 8; i++)
        words[i] = 0;
    for (unsigned i = 0; i < 4; i++)
        found[i] = 0;
}

/* ---- A lost update ---------------------------------------------------------------------------- */

static void increment(void)
{
    uint64_t value = fh_load_relaxed_u64(&words[0]);
    fh_store_relaxed_u64(&words[0], value + 1);
}

static void check_two(void)
{
    uint64_t value = words[0];
    clear_words();
    CHECK(value == 2);
}

SCENARIO(broken_lost_update, .program = {increment, increment}, .check = check_two,
         .found = "value == 2");

/* A handler between the two halves. */
static void handle_increment(void)
{
    increment();
}

static void nothing(void)
{
}

SCENARIO(broken_handler, .program = {increment, nothing}, .handler = handle_increment,
         .check = check_two, .found = "value == 2");

/* ---- A bug that takes two preemptions --------------------------------------------------------- */

static void twice_0(void)
{
    fh_store_relaxed_u64(&words[0], 1);
    fh_store_relaxed_u64(&words[0], 2);
    fh_store_relaxed_u64(&words[0], 0);
}

static void twice_1(void)
{
    uint64_t first = fh_load_relaxed_u64(&words[0]);
    uint64_t second = fh_load_relaxed_u64(&words[0]);
    found[0] = first == 1 && second == 2;
}

static void check_not_both(void)
{
    bool both = found[0] != 0;
    clear_words();
    CHECK(!both);
}

SCENARIO(broken_two_preemptions, .program = {twice_0, twice_1}, .check = check_not_both,
         .found = "!both");

/* ---- A stack whose pop believes an old link (ABA) --------------------------------------------- */

/* words[0] is the head; words[n] is what is below n. Blocks 1 and 2 are on it at first. */
static void fill_stack(void)
{
    if (fh_load_relaxed_u64(&words[3]) == 0) {
        words[0] = 1;
        words[1] = 2;
        words[2] = 0;
        words[3] = 1;
    }
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
    fill_stack();
    found[0] = pop();
    found[1] = pop();
}

static void pop_two_push_one(void)
{
    fill_stack();
    uint64_t block = pop();
    found[2] = pop();
    if (block != 0)
        push(block);
}

static void check_distinct(void)
{
    bool twice = found[2] != 0 && (found[0] == found[2] || found[1] == found[2]);
    clear_words();
    CHECK(!twice);
}

SCENARIO(broken_old_link, .program = {pop_two, pop_two_push_one}, .check = check_distinct,
         .found = "!twice");

/* ---- A hint that is cleared without a second look --------------------------------------------- */

static void clear_hint(void)
{
    if (fh_load_relaxed_u64(&words[0]) == 0) /* the thing is not there … */
        (void)fh_fetch_and_seq_cst_u64(&words[1], 0);
}

static void set_hint(void)
{
    fh_store_relaxed_u64(&words[0], 1);
    fh_store_relaxed_u64(&words[1], 1);
}

static void check_hinted(void)
{
    bool hinted = words[0] == 0 || words[1] == 1;
    clear_words();
    CHECK(hinted);
}

SCENARIO(broken_hint, .program = {clear_hint, set_hint}, .check = check_hinted,
         .found = "hinted");

/* ---- A lock ----------------------------------------------------------------------------------- */

static void with_lock(void)
{
    uint64_t free_lock = 0;
    while (!fh_cas_acquire_u64(&words[0], &free_lock, 1))
        free_lock = 0;
    fh_store_release_u64(&words[0], 0);
}

SCENARIO(broken_lock, .program = {with_lock, with_lock}, .found = "waits for another");

/* ---- Misuse that the checks must see ---------------------------------------------------------- */

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
static void write_late(void)
{
    char *block = fh_raw_malloc(BLOCK_BYTES);
    fh_raw_free(block);
    (void)fh_load_relaxed_u64(&words[0]);
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
