/* SPDX-License-Identifier: MIT */
/* Small protocols with right and with wrong orders, for the program that knows them (weak.c): each
 * wrong one must be found out, each right one must pass. */
#include "sched.h"

#include "atomic.h"
#include "os.h"

/* Variables in memory that starts afresh with each schedule; a line apart. */
static uint64_t *words;

enum { FLAG = 8, OTHER_FLAG = 16, SEEN = 24, OTHER_SEEN = 32 };

static void map_words(void)
{
    words = fh_os_map(4096);
}

/* ---- A message --------------------------------------------------------------------------------
 */

static void send(void)
{
    words[0] = 7;
    fh_store_release_u64(&words[FLAG], 1);
}

static void send_relaxed(void)
{
    words[0] = 7;
    fh_store_relaxed_u64(&words[FLAG], 1);
}

static void receive(void)
{
    if (fh_load_acquire_u64(&words[FLAG]) != 0)
        words[SEEN] = words[0];
}

static void receive_relaxed(void)
{
    if (fh_load_relaxed_u64(&words[FLAG]) != 0)
        words[SEEN] = words[0];
}

/* A read-modify-write in between passes on what was released before it. */
static void count_relaxed(void)
{
    (void)fh_fetch_add_relaxed_u64(&words[FLAG], 2);
}

static void receive_counted(void)
{
    if ((fh_load_acquire_u64(&words[FLAG]) & 1) != 0)
        words[SEEN] = words[0];
}

/* A store in between does not. */
static void overwrite_relaxed(void)
{
    if (fh_load_relaxed_u64(&words[FLAG]) == 1)
        fh_store_relaxed_u64(&words[FLAG], 3);
}

SCENARIO(orders_message, .setup = map_words, .program = {send, receive});
SCENARIO(orders_message_counted, .setup = map_words,
         .program = {send, receive_counted, count_relaxed});
SCENARIO(orders_broken_send, .setup = map_words, .program = {send_relaxed, receive},
         .found = "race: thread 0 writes and thread 1 reads");
SCENARIO(orders_broken_receive, .setup = map_words, .program = {send, receive_relaxed},
         .found = "race: thread 0 writes and thread 1 reads");
SCENARIO(orders_broken_overwrite, .setup = map_words,
         .program = {send, receive_counted, overwrite_relaxed},
         .found = "race: thread 0 writes and thread 1 reads");

/* ---- A message without a race -----------------------------------------------------------------
 */

static void send_atomically(void)
{
    fh_store_relaxed_u64(&words[0], 7);
    fh_store_release_u64(&words[FLAG], 1);
}

static void receive_atomically(void)
{
    if (fh_load_acquire_u64(&words[FLAG]) != 0)
        words[SEEN] = fh_load_relaxed_u64(&words[0]);
    else
        words[SEEN] = 7;
}

static void receive_unordered(void)
{
    if (fh_load_relaxed_u64(&words[FLAG]) != 0)
        words[SEEN] = fh_load_relaxed_u64(&words[0]);
    else
        words[SEEN] = 7;
}

static void check_message(void)
{
    CHECK(words[SEEN] == 7);
}

SCENARIO(orders_atomic_message, .setup = map_words,
         .program = {send_atomically, receive_atomically}, .check = check_message);
SCENARIO(orders_broken_atomic_message, .setup = map_words,
         .program = {send_atomically, receive_unordered}, .check = check_message,
         .found = "words[SEEN] == 7");

/* ---- Values do not go back --------------------------------------------------------------------
 */

static void count_to_two(void)
{
    fh_store_relaxed_u64(&words[FLAG], 1);
    fh_store_relaxed_u64(&words[FLAG], 2);
}

static void look_twice(void)
{
    words[SEEN] = fh_load_relaxed_u64(&words[FLAG]);
    words[OTHER_SEEN] = fh_load_relaxed_u64(&words[FLAG]);
}

static void check_upward(void)
{
    CHECK(words[SEEN] <= words[OTHER_SEEN]);
}

SCENARIO(orders_one_word, .setup = map_words, .program = {count_to_two, look_twice},
         .check = check_upward);

/* ---- Each writes its own word, then reads the other's -----------------------------------------
 */

static void write_then_read(void)
{
    (void)fh_fetch_or_seq_cst_u64(&words[FLAG], 1);
    words[SEEN] = fh_load_seq_cst_u64(&words[OTHER_FLAG]);
}

static void write_then_read_other(void)
{
    (void)fh_fetch_or_seq_cst_u64(&words[OTHER_FLAG], 1);
    words[OTHER_SEEN] = fh_load_seq_cst_u64(&words[FLAG]);
}

static void release_then_read_other(void)
{
    (void)fh_fetch_or_release_u64(&words[OTHER_FLAG], 1);
    words[OTHER_SEEN] = fh_load_seq_cst_u64(&words[FLAG]);
}

static void write_then_acquire_other(void)
{
    (void)fh_fetch_or_seq_cst_u64(&words[OTHER_FLAG], 1);
    words[OTHER_SEEN] = fh_load_acquire_u64(&words[FLAG]);
}

static void check_one_saw(void)
{
    CHECK(words[SEEN] + words[OTHER_SEEN] > 0);
}

SCENARIO(orders_both_look, .setup = map_words, .program = {write_then_read, write_then_read_other},
         .check = check_one_saw);
SCENARIO(orders_broken_write, .setup = map_words,
         .program = {write_then_read, release_then_read_other}, .check = check_one_saw,
         .found = "words[SEEN] + words[OTHER_SEEN] > 0");
SCENARIO(orders_broken_look, .setup = map_words,
         .program = {write_then_read, write_then_acquire_other}, .check = check_one_saw,
         .found = "words[SEEN] + words[OTHER_SEEN] > 0");

/* ---- A first value that comes late ------------------------------------------------------------
 */

static void open_word(void)
{
    fh_store_relaxed_u64(&words[0], 1);
    fh_store_release_u64(&words[FLAG], 1);
}

static void claim_bit(void)
{
    if (fh_load_acquire_u64(&words[FLAG]) != 0)
        words[SEEN] = 2 & ~fh_fetch_or_release_u64(&words[0], 2);
}

static void claim_bit_relaxed(void)
{
    if (fh_load_relaxed_u64(&words[FLAG]) != 0)
        words[SEEN] = 2 & ~fh_fetch_or_release_u64(&words[0], 2);
}

static void check_claimed(void)
{
    CHECK((words[0] & 2) == words[SEEN]);
}

SCENARIO(orders_open, .setup = map_words, .program = {open_word, claim_bit},
         .check = check_claimed);
SCENARIO(orders_broken_open, .setup = map_words, .program = {open_word, claim_bit_relaxed},
         .check = check_claimed, .found = "(words[0] & 2) == words[SEEN]");
