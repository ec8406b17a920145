/* SPDX-License-Identifier: MIT */
/* freehold/purger.h: with the purger an idle program's free memory goes back, without it nothing
 * runs; starting, stopping and forking as promised. */
#include "modules.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "freehold.h"
#include "freehold/purger.h"
#include "purge.h"

enum { IDLE_MS = 2000, WAIT_MS = 20000, STEP_MS = 10 };

static void sleep_ms(long ms)
{
    const struct timespec duration = {ms / 1000, ms % 1000 * 1000000};
    (void)nanosleep(&duration, NULL);
}

/* A line of a thread's status file that begins so, without that; false if it has ended. */
static bool read_status(const char *thread, const char *begins, char out[64])
{
    char name[300], line[256];
    snprintf(name, sizeof name, "/proc/self/task/%s/status", thread);
    FILE *file = fopen(name, "r");
    bool found = false;
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL)
        if ((found = strncmp(line, begins, strlen(begins)) == 0))
            snprintf(out, 64, "%.*s", (int)strcspn(line + strlen(begins), "\n"),
                     line + strlen(begins));
    if (file != NULL)
        (void)fclose(file);
    return found;
}

/* How many threads of that name there are; the blocked signals of the last. */
static unsigned purgers(char blocked[64])
{
    unsigned count = 0;
    char name[64];
    DIR *threads = opendir("/proc/self/task");
    CHECK(threads != NULL);
    for (struct dirent *thread; (thread = readdir(threads)) != NULL;) {
        if (read_status(thread->d_name, "Name:\t", name) && strcmp(name, "freehold-purger") == 0)
            count += read_status(thread->d_name, "SigBlk:\t", blocked);
    }
    (void)closedir(threads);
    return count;
}

/* A new thread has its name soon. */
static bool are_purgers(unsigned wanted)
{
    char blocked[64];
    for (int ms = 0; purgers(blocked) != wanted; ms += STEP_MS) {
        if (ms > WAIT_MS)
            return false;
        sleep_ms(STEP_MS);
    }
    return true;
}

/* Does it become true within two seconds, but for a machine that has other things to do? */
static bool soon(bool (*is_so)(void))
{
    for (int ms = 0; !is_so(); ms += STEP_MS) {
        if (ms > WAIT_MS)
            return false;
        sleep_ms(STEP_MS);
    }
    return true;
}

static bool nothing_is_retained(void)
{
    return fh_region_retained_pools(fh_region_peek()) == 0;
}

/* Free and resident memory, which nobody who comes by returns. */
static void leave_memory(void)
{
    void *block = fh_raw_malloc(8 * (size_t)FH_POOL_BYTES * FH_SPARE_POOLS);
    CHECK(block != NULL);
    fh_raw_free(block);
    CHECK(!nothing_is_retained());
}

TEST(without_it_nothing_runs_and_memory_stays)
{
    char blocked[64];
    fh_purge_configure(100, 1 << 20);
    leave_memory();
    sleep_ms(IDLE_MS / 4);
    CHECK(purgers(blocked) == 0 && !nothing_is_retained());
    fh_purger_stop(); /* which there is none of */
}

TEST(with_it_free_pools_go_back_once_they_are_old)
{
    fh_purge_configure(100, 1 << 20);
    leave_memory();
    CHECK(fh_purger_start(0) == 0 && soon(nothing_is_retained));
    leave_memory();
    CHECK(soon(nothing_is_retained));
    fh_purger_stop();
    leave_memory();
    sleep_ms(IDLE_MS / 4);
    CHECK(!nothing_is_retained());
}

TEST(it_finds_what_is_freed_while_it_sleeps_long)
{
    fh_purge_configure(100, 1 << 20);
    CHECK(fh_purger_start(1) == 0);
    leave_memory();
    sleep_ms(IDLE_MS); /* with nothing to do it slows down */
    leave_memory();
    CHECK(soon(nothing_is_retained));
    fh_purger_stop();
}

TEST(memory_that_shall_never_go_back_stays)
{
    fh_purge_configure(UINT64_MAX, 1 << 20);
    leave_memory();
    CHECK(fh_purger_start(1) == 0);
    sleep_ms(IDLE_MS / 4);
    CHECK(!nothing_is_retained());
    fh_purger_stop();
}

/* ---- Idle threads -----------------------------------------------------------------------------
 */

enum { THREADS = 8, BLOCKS = 20000, KEPT_EVERY = 100 };

static pthread_barrier_t stage;

/* Of blocks of all sizes one in a hundred lives on. Then idle, with no call. */
static void burst(unsigned number, void *shared)
{
    uint64_t state = number + 1;
    void **blocks = malloc(BLOCKS * sizeof *blocks);
    (void)shared;
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t bytes = 1 + random_below(&state, FH_BLOCK_MAX_BYTES / 16);
        CHECK((blocks[i] = fh_raw_malloc(bytes)) != NULL);
        memset(blocks[i], 1, bytes);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        if (i % KEPT_EVERY != 0)
            fh_raw_free(blocks[i]);
    free(blocks);
    pthread_barrier_wait(&stage);
    pthread_barrier_wait(&stage);
}

static size_t resident_bytes(void)
{
    fh_stats stats = {.struct_bytes = sizeof stats};
    CHECK(fh_get_stats(&stats) == 0 && stats.resident_bytes != FH_STATS_UNKNOWN);
    return stats.resident_bytes;
}

static size_t before_bytes;

/* Free pools are all gone; what is left is live, or some thread's. */
static bool is_small(void)
{
    return nothing_is_retained() && resident_bytes() < before_bytes;
}

static void watch(unsigned number, void *shared)
{
    if (number < THREADS - 1) {
        burst(number, shared);
        return;
    }
    pthread_barrier_wait(&stage);
    before_bytes = resident_bytes();
    CHECK(!nothing_is_retained());
    CHECK(fh_purger_start(0) == 0 && soon(is_small));
    pthread_barrier_wait(&stage);
}

TEST(memory_of_idle_threads_goes_back_without_a_call)
{
    if (FH_ARENA_POOLS < 16)
        modules_skip("the region is too small, and heaps keep much of it at hand");
    CHECK(pthread_barrier_init(&stage, NULL, THREADS) == 0);
    fh_purge_configure(500, 1 << 20);
    together(THREADS, watch, NULL);
    fh_purger_stop();
    check_region(fh_region_peek());
}

/* ---- Starting and stopping --------------------------------------------------------------------
 */

TEST(there_is_one_however_often_it_is_started)
{
    char blocked[64];
    CHECK(fh_purger_start(50) == 0 && fh_purger_start(20) == 0 && are_purgers(1));
    CHECK(purgers(blocked) == 1);
    fh_purger_stop();
    CHECK(purgers(blocked) == 0);
    fh_purger_stop();
    for (int i = 0; i < 20; i++) {
        CHECK(fh_purger_start(1 + (unsigned)i % 3) == 0);
        fh_purger_stop();
    }
    CHECK(purgers(blocked) == 0);
}

TEST(it_takes_no_signal)
{
    char blocked[64];
    sigset_t before, after;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &before) == 0 && fh_purger_start(0) == 0);
    CHECK(are_purgers(1) && purgers(blocked) == 1);
    uint64_t bits = strtoull(blocked, NULL, 16);
    for (int signal = 1; signal < 32; signal++)
        if (signal != SIGKILL && signal != SIGSTOP)
            CHECK(bits >> (signal - 1) & 1);
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &after) == 0);
    for (int signal = 1; signal < 32; signal++)
        CHECK(sigismember(&before, signal) == sigismember(&after, signal));
    fh_purger_stop();
}

static void start_and_stop(unsigned number, void *shared)
{
    uint64_t state = number;
    (void)shared;
    for (struct bound bound = at_most(1000); more(&bound);) {
        if (random_below(&state, 2) == 0)
            CHECK(fh_purger_start(1) == 0 || errno == EBUSY);
        else
            fh_purger_stop();
        fh_raw_free(fh_raw_malloc(random_below(&state, FH_BLOCK_MAX_BYTES)));
    }
}

TEST(threads_that_start_and_stop_at_once_leave_one_or_none)
{
    char blocked[64];
    together(4, start_and_stop, NULL);
    CHECK(purgers(blocked) <= 1);
    CHECK(fh_purger_start(0) == 0 && are_purgers(1));
    fh_purger_stop();
    CHECK(purgers(blocked) == 0);
}

TEST(a_system_that_gives_no_thread_is_an_error_and_no_more)
{
    if (MODULES_SHADOWED)
        modules_skip("the sanitizer's own memory comes first");
    void *block = fh_raw_malloc(1);
    const struct rlimit none = {1 << 20, RLIM_INFINITY};
    struct rlimit before;
    CHECK(getrlimit(RLIMIT_AS, &before) == 0 && setrlimit(RLIMIT_AS, &none) == 0);
    int got = fh_purger_start(0);
    int error = errno;
    CHECK(setrlimit(RLIMIT_AS, &before) == 0);
    CHECK(got == -1 && (error == EAGAIN || error == ENOMEM));
    CHECK(fh_purger_start(0) == 0 && are_purgers(1));
    fh_purger_stop();
    fh_raw_free(block);
}

/* ---- fork -------------------------------------------------------------------------------------
 */

static void check_child(void)
{
    char blocked[64];
    CHECK(purgers(blocked) == 0);
    fh_purger_stop(); /* nobody's end to wait for */
    leave_memory();
    CHECK(fh_purger_start(0) == 0 && are_purgers(1) && soon(nothing_is_retained));
    fh_purger_stop();
    CHECK(purgers(blocked) == 0);
}

static void check_child_without(void)
{
    char blocked[64];
    leave_memory();
    CHECK(purgers(blocked) == 0);
}

TEST(a_child_has_none_and_may_start_one)
{
    fh_purge_configure(100, 1 << 20);
    CHECK(fh_purger_start(1) == 0);
    for (int i = 0; i < 5; i++) {
        leave_memory(); /* so that it is at work */
        in_child(check_child_without);
    }
    if (!MODULES_SHADOWED) /* ThreadSanitizer: no thread after a fork from several */
        in_child(check_child);
    CHECK(are_purgers(1) && soon(nothing_is_retained));
    fh_purger_stop();
}
