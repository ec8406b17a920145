/* SPDX-License-Identifier: MIT */
/* theap/thread.h: how a thread comes to its heap, what a handler uses, and where heaps go. */
#include "modules.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "freehold.h"
#include "thread.h"

static struct fh_theap *attached_heap(void)
{
    fh_raw_free(fh_raw_malloc(1));
    return fh_theap_of_thread();
}

static bool is_free(const struct fh_theap *heap)
{
    return fh_hints_has(&fh_region_peek()->hints, FH_HINTS_HEAPS, heap->id - 1);
}

/* ---- Attaching ---------------------------------------------------------------------------- */

TEST(a_thread_begins_with_the_static_busy_heap)
{
    CHECK(fh_theap_of_thread() == &fh_theap_none && fh_theap_is_busy(&fh_theap_none));
    CHECK(fh_theap_is_busy(&fh_theap_gone));
    fh_raw_free(NULL);
    CHECK(fh_theap_of_thread() == &fh_theap_none); /* nothing was needed yet */
}

TEST(the_first_block_attaches_a_heap_that_stays)
{
    struct fh_theap *heap = attached_heap();
    CHECK(heap != &fh_theap_none && !fh_theap_is_busy(heap) && heap->id == 1);
    CHECK(heap->region == fh_region_peek() && !is_free(heap));
    for (size_t bytes = 0; bytes < 3000; bytes += 7)
        fh_raw_free(fh_raw_malloc(bytes));
    CHECK(fh_theap_of_thread() == heap && fh_region_peek()->heaps_opened == 1);
    check_heap(heap);
}

TEST(entering_makes_the_heap_busy_and_leaving_ends_it)
{
    struct fh_theap *heap = fh_theap_enter();
    CHECK(heap == fh_theap_of_thread() && fh_theap_is_busy(heap));
    CHECK(!fh_theap_try_set_busy(heap) && fh_theap_is_busy(heap));
    fh_theap_leave(heap);
    CHECK(!fh_theap_is_busy(heap) && fh_theap_try_set_busy(heap) && fh_theap_is_busy(heap));
    fh_theap_leave(heap);
}

/* ---- Borrowing ---------------------------------------------------------------------------- */

TEST(a_call_inside_a_call_borrows_another_heap_and_returns_it)
{
    struct fh_theap *heap = fh_theap_enter();
    struct fh_theap *borrowed = fh_theap_enter();
    struct fh_theap *deeper = fh_theap_enter();
    CHECK(borrowed != heap && deeper != heap && deeper != borrowed);
    CHECK(!is_free(borrowed) && !is_free(deeper) && fh_theap_is_busy(borrowed));
    CHECK(fh_theap_of_thread() == heap);
    fh_theap_leave(deeper);
    fh_theap_leave(borrowed);
    CHECK(is_free(borrowed) && is_free(deeper) && !is_free(heap));
    CHECK(fh_theap_is_busy(heap));
    fh_theap_leave(heap);
    CHECK(!fh_theap_is_busy(heap));
}

TEST(blocks_taken_and_freed_inside_a_call_leave_the_heap_alone)
{
    void *before = fh_raw_malloc(40);
    static struct fh_theap was;
    struct fh_theap *heap = fh_theap_enter();
    was = *heap;
    uint32_t countdown = fh_theap_pool_of(before)->countdown;
    for (size_t bytes = 0; bytes < 2000; bytes += 13) {
        char *block = fh_raw_malloc(bytes);
        CHECK(block != NULL && fh_theap_pool_of(block)->owner != fh_theap_tag(heap));
        memset(block, 1, bytes);
        fh_raw_free(block);
    }
    void *inside = fh_raw_malloc(40);
    fh_raw_free(before);
    CHECK(memcmp(&was, heap, sizeof was) == 0);
    CHECK(fh_theap_pool_of(before)->countdown == countdown); /* freed as by a stranger */
    fh_theap_leave(heap);
    check_heap(heap);
    fh_raw_free(inside);
    fh_thread_flush();
    CHECK(claimed_pools(fh_region_peek()) == 0);
    check_region(fh_region_peek());
}

TEST(a_full_pool_of_the_busy_heap_is_not_taken_back)
{
    static void *blocks[FH_POOL_BLOCKS_MAX + 1];
    const size_t bytes = FH_BLOCK_MAX_BYTES;
    blocks[0] = fh_raw_malloc(bytes);
    struct fh_pool *pool = fh_theap_pool_of(blocks[0]);
    for (uint32_t i = 1; i <= pool->capacity; i++)
        blocks[i] = fh_raw_malloc(bytes);
    CHECK(fh_word_state(pool->word) == FH_FULL);
    struct fh_theap *heap = fh_theap_enter();
    fh_raw_free(blocks[0]);
    CHECK(pool->owner == 0 && fh_word_state(pool->word) != FH_ACTIVE);
    fh_theap_leave(heap);
    check_region(fh_region_peek());
}

static volatile sig_atomic_t handled;

static void allocate_in_handler(int signal_number)
{
    (void)signal_number;
    for (size_t bytes = 1; bytes < 1000; bytes *= 3) {
        char *block = fh_raw_malloc(bytes);
        CHECK(block != NULL);
        memset(block, 2, bytes);
        fh_raw_free(block);
    }
    handled = handled + 1;
}

TEST(a_handler_that_interrupts_a_call_allocates)
{
    struct sigaction action = {0};
    action.sa_handler = allocate_in_handler;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    struct fh_theap *heap = fh_theap_enter();
    CHECK(raise(SIGUSR1) == 0 && handled == 1);
    fh_theap_leave(heap);
    CHECK(raise(SIGUSR1) == 0 && handled == 2);
    check_heap(heap);
}

struct storm {
    pthread_t target;
    uint64_t over;
};

static void *send_signals(void *argument)
{
    struct storm *storm = argument;
    while (fh_load_seq_cst_u64(&storm->over) == 0)
        CHECK(pthread_kill(storm->target, SIGUSR1) == 0);
    return NULL;
}

TEST(handlers_at_any_moment_of_any_call_leave_everything_right)
{
    struct sigaction action = {0};
    struct storm storm = {pthread_self(), 0};
    void *blocks[64] = {NULL};
    pthread_t sender;
    uint64_t state = 3;
    action.sa_handler = allocate_in_handler;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    CHECK(pthread_create(&sender, NULL, send_signals, &storm) == 0);
    for (struct bound bound = at_most(SIZE_MAX); handled < 1000 && more(&bound);) {
        void **slot = &blocks[random_below(&state, 64)];
        fh_raw_free(*slot);
        *slot = fh_raw_malloc(random_below(&state, 1024));
    }
    fh_store_release_u64(&storm.over, 1);
    CHECK(pthread_join(sender, NULL) == 0);
    for (int i = 0; i < 64; i++)
        fh_raw_free(blocks[i]);
    check_heap(fh_theap_of_thread());
    fh_thread_flush();
    CHECK(handled > 0);
    CHECK(claimed_pools(fh_region_peek()) == 0);
    check_region(fh_region_peek());
}

/* ---- Exit --------------------------------------------------------------------------------- */

static void note_heap(void *argument)
{
    struct fh_theap **heap = argument;
    *heap = attached_heap();
}

TEST(a_heap_is_free_after_its_thread_and_serves_the_next_one)
{
    struct fh_theap *first, *second;
    struct fh_theap *mine = attached_heap();
    elsewhere(note_heap, &first);
    CHECK(first != mine && is_free(first) && fh_theap_is_busy(first));
    check_heap(first);
    elsewhere(note_heap, &second);
    CHECK(second == first && is_free(first) && fh_region_peek()->heaps_opened == 2);
}

enum { KEPT = 100 };

static void leave_blocks(void *argument)
{
    void **kept = argument;
    for (size_t i = 0; i < KEPT; i++)
        kept[i] = fh_raw_malloc(i * 10);
}

TEST(blocks_outlive_their_thread_and_their_pools_go_back_with_the_last)
{
    void *kept[KEPT];
    elsewhere(leave_blocks, kept);
    check_region(fh_region_peek());
    for (size_t i = 0; i < KEPT; i++) {
        CHECK(fh_theap_pool_of(kept[i])->owner == 0);
        memset(kept[i], 1, i * 10);
        fh_raw_free(kept[i]);
    }
    CHECK(claimed_pools(fh_region_peek()) == 0);
    check_region(fh_region_peek());
}

static pthread_key_t late_key;

static void allocate_late(void *value)
{
    static int round;
    (void)value;
    void *block = fh_raw_malloc(100);
    CHECK(block != NULL);
    fh_raw_free(block);
    if (++round < PTHREAD_DESTRUCTOR_ITERATIONS)
        CHECK(pthread_setspecific(late_key, &round) == 0);
    else
        CHECK(fh_theap_of_thread() == &fh_theap_gone);
}

static void exit_with_destructor(void *argument)
{
    note_heap(argument); /* the library's key is older: its destructor comes first */
    CHECK(pthread_key_create(&late_key, allocate_late) == 0);
    CHECK(pthread_setspecific(late_key, &late_key) == 0);
}

TEST(calls_after_the_heap_is_given_back_borrow_one)
{
    struct fh_theap *heap;
    elsewhere(exit_with_destructor, &heap);
    CHECK(is_free(heap) && claimed_pools(fh_region_peek()) == 0);
    CHECK(fh_region_peek()->heaps_opened == 1);
}

static void exit_inside_a_call(void *argument)
{
    struct fh_theap **heap = argument;
    *heap = fh_theap_enter();
}

TEST(a_heap_that_is_busy_at_exit_is_set_aside)
{
    struct fh_theap *aside, *next;
    elsewhere(exit_inside_a_call, &aside);
    CHECK(!is_free(aside));
    elsewhere(note_heap, &next);
    CHECK(next != aside && is_free(next));
}

static uint64_t ids_held[FH_THEAPS_MAX / 64 + 1];

static void come_and_go(unsigned number, void *shared)
{
    (void)number;
    (void)shared;
    struct fh_theap *heap = attached_heap();
    uint64_t bit = (uint64_t)1 << heap->id % 64;
    uint64_t *word = &ids_held[heap->id / 64];
    CHECK((fh_fetch_or_seq_cst_u64(word, bit) & bit) == 0);
    void *block = fh_raw_malloc(200);
    fh_raw_free(block);
    CHECK((fh_fetch_and_seq_cst_u64(word, ~bit) & bit) != 0);
}

TEST(threads_alive_at_once_have_heaps_of_their_own)
{
    for (struct bound bound = at_most(300); more(&bound);)
        together(4, come_and_go, NULL);
    CHECK(fh_region_peek()->heaps_opened <= 8);
    CHECK(claimed_pools(fh_region_peek()) == 0);
    check_region(fh_region_peek());
}

TEST(when_all_heaps_are_held_a_call_fails_and_succeeds_again_later)
{
    if (FH_THEAPS_MAX > 1000)
        modules_skip("so many heaps are more than a test wants to touch");
    struct fh_theap *held[1000];
    size_t count = 0;
    while ((held[count] = fh_theap_enter()) != NULL)
        count++;
    CHECK(count == FH_THEAPS_MAX);
    errno = 0;
    CHECK(fh_raw_malloc(1) == NULL && errno == ENOMEM);
    fh_theap_leave(held[count - 1]);
    void *block = fh_raw_malloc(1);
    CHECK(block != NULL);
    fh_raw_free(block);
}
