/* SPDX-License-Identifier: MIT */
/* Threads that come and go, hand blocks on, or stop for ever: nothing is lost with them. */
#include "family.h"

#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Destructors ---------------------------------------------------------------------------- */

enum { ending_threads = 5000, settled_threads = 1000 };

static pthread_key_t last_key;
static _Atomic size_t destructor_calls;

struct last_state {
    size_t iterations_left;
    char *kept; /* from one iteration to the next */
};

/* Sets its key again, so that it runs in every iteration of glibc's loop: before the library's own
 * destructor, after it, and when nobody will come to clean up any more. */
static void allocate_once_more(void *argument)
{
    struct last_state *state = argument;
    destructor_calls++;
    for (size_t i = 0; i < 20; i++)
        free(malloc(i * 100));
    CHECK(family_intact(state->kept, 1000, 1));
    free(state->kept);
    if (--state->iterations_left == 0) {
        free(state);
        return;
    }
    state->kept = malloc(1000);
    family_fill(state->kept, 1000, 1);
    CHECK(pthread_setspecific(last_key, state) == 0);
}

static void *leave_a_state(void *argument)
{
    struct last_state *state = malloc(sizeof *state);
    state->iterations_left = PTHREAD_DESTRUCTOR_ITERATIONS;
    state->kept = malloc(1000);
    family_fill(state->kept, 1000, 1);
    CHECK(pthread_setspecific(last_key, state) == 0);
    return argument;
}

TEST(destructors_after_the_librarys_own_allocate_without_growth)
{
    size_t before = 0;
    free(malloc(100000)); /* the library has made its own key by now, with a lower number */
    CHECK(pthread_key_create(&last_key, allocate_once_more) == 0);
    for (size_t i = 0; i < ending_threads; i++) {
        if (i == settled_threads)
            before = family_resident_bytes();
        family_join(family_thread(leave_a_state, NULL));
    }
    CHECK(destructor_calls == (size_t)ending_threads * PTHREAD_DESTRUCTOR_ITERATIONS);
    CHECK(family_resident_bytes() < before + 1 * MIB);
}

/* ---- Blocks left behind --------------------------------------------------------------------- */

enum { churn_threads = 10000, churn_settled = 2000, at_once = 4, left_each = 50 };

struct leaving {
    char *blocks[left_each];
    size_t bytes[left_each];
    uint64_t seed;
};
static struct leaving leavings[2][at_once];

/* Frees what a thread of the batch before left behind, and leaves as much. */
static void *inherit_and_leave(void *argument)
{
    struct leaving *mine = argument;
    struct leaving *inherited = mine < leavings[1] ? mine + at_once : mine - at_once;
    for (size_t i = 0; i < left_each; i++) {
        CHECK(family_intact(inherited->blocks[i], inherited->bytes[i], i));
        free(inherited->blocks[i]);
        inherited->bytes[i] = 0;
        mine->bytes[i] = family_random_bytes(&mine->seed, i == 0 ? 100 * KIB : 2 * KIB);
        mine->blocks[i] = malloc(mine->bytes[i]);
        CHECK(mine->blocks[i] != NULL);
        family_fill(mine->blocks[i], mine->bytes[i], i);
    }
    return NULL;
}

TEST(ten_thousand_threads_leave_no_trace)
{
    size_t before = 0;
    unsigned long running[at_once];
    for (size_t started = 0; started < churn_threads; started += at_once) {
        if (started == churn_settled)
            before = family_resident_bytes();
        for (size_t i = 0; i < at_once; i++) {
            struct leaving *leaving = &leavings[started / at_once % 2][i];
            leaving->seed = started + i;
            running[i] = family_thread(inherit_and_leave, leaving);
        }
        for (size_t i = 0; i < at_once; i++)
            family_join(running[i]);
    }
    /* What is live differs by a few hundred KiB from batch to batch. */
    CHECK(family_resident_bytes() < before + 2 * MIB);
}

/* ---- An owner that stops for ever ----------------------------------------------------------- */

#define HANDED_BYTES ((size_t)200000000)
enum { handed_block_bytes = 64 };

struct chain {
    struct chain *next;
    char rest[handed_block_bytes - sizeof(void *)];
};
static struct chain *handed;
static sem_t handed_over, never;

static struct chain *take_chain(void)
{
    struct chain *first = NULL;
    for (size_t bytes = 0; bytes < HANDED_BYTES; bytes += handed_block_bytes) {
        struct chain *block = malloc(sizeof *block);
        CHECK(block != NULL);
        memset(block->rest, 0x5a, sizeof block->rest);
        block->next = first;
        first = block;
    }
    return first;
}

static void free_chain(struct chain *first)
{
    while (first != NULL) {
        struct chain *next = first->next;
        free(first);
        first = next;
    }
}

static void *produce_and_stop(void *argument)
{
    handed = take_chain();
    sem_post(&handed_over);
    while (sem_wait(&never) != 0)
        ;
    return argument;
}

TEST(blocks_of_a_thread_that_stopped_for_ever_are_used_again)
{
    CHECK(sem_init(&handed_over, 0, 0) == 0 && sem_init(&never, 0, 0) == 0);
    unsigned long producer = family_thread(produce_and_stop, NULL);
    while (sem_wait(&handed_over) != 0)
        ;
    free_chain(handed);
    struct chain *own = take_chain(); /* as much again, in the same memory */
    CHECK(family_peak_bytes() <= HANDED_BYTES / 100 * 105 + 10000000);
    free_chain(own);
    sem_post(&never); /* the test is over; let the thread end in good order */
    family_join(producer);
}

/* ---- Small stacks --------------------------------------------------------------------------- */

static void *allocate_on_a_small_stack(void *argument)
{
    char *blocks[16];
    for (size_t round = 0; round < 50; round++) {
        for (size_t i = 0; i < 16; i++) {
            size_t bytes = (size_t)1 << (i + round % 8);
            blocks[i] = i % 4 == 0 ? memalign(4096, bytes) : calloc(1, bytes);
            CHECK(blocks[i] != NULL);
            blocks[i] = realloc(blocks[i], bytes * 2);
            CHECK(blocks[i] != NULL);
            blocks[i][2 * bytes - 1] = 1;
        }
        for (size_t i = 0; i < 16; i++)
            free(blocks[i]);
    }
    malloc_trim(0);
    return argument;
}

TEST(the_smallest_stack_is_enough)
{
    pthread_attr_t attributes;
    pthread_t threads[8];
    size_t stack_bytes = (size_t)sysconf(_SC_THREAD_STACK_MIN);
    CHECK(pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstacksize(&attributes, stack_bytes) == 0);
    for (size_t i = 0; i < 8; i++)
        CHECK(pthread_create(&threads[i], &attributes, allocate_on_a_small_stack, NULL) == 0);
    for (size_t i = 0; i < 8; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(pthread_attr_destroy(&attributes) == 0);
}

static const struct family_test tests[] = {
    ENTRY(destructors_after_the_librarys_own_allocate_without_growth),
    ENTRY(ten_thousand_threads_leave_no_trace),
    ENTRY(blocks_of_a_thread_that_stopped_for_ever_are_used_again),
    ENTRY(the_smallest_stack_is_enough),
};

int main(int argc, char **argv)
{
    return family_main(tests, sizeof tests / sizeof tests[0], argc, argv);
}
