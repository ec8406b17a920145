/* SPDX-License-Identifier: MIT */
/* The purger: a thread that does every so often what slow paths do in passing, and as much of it as
 * there is. All that it does others may do at the same time, so nobody needs it, or waits for it,
 * but for who stops it.
 *
 *   idle -- start --> starting --> running -- stop --> stopping -- joined --> idle
 *
 * A failed start goes back to idle; so does a child of fork(), which has no such thread. One that
 * starts or stops it in between does nothing: nobody waits there either.
 */
#include "freehold/purger.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>

#include "holder.h"
#include "os.h"
#include "purge.h"
#include "sparse.h"

enum { IDLE, STARTING, RUNNING, STOPPING };

enum {
    INTERVAL_MS = 100,
    SLEEP_MAX_MS = 1000,
    QUIET_ROUNDS = 10, /* with nothing returned, before it sleeps longer */
    CALM_ROUNDS = 5,   /* and before it looks at shared pools that are not said to be sparse */
    DEAD_ROUNDS = 10,  /* it asks for dead threads in one of so many: a system call for each heap */
    STACK_BYTES = 1 << 17,
    ANY_KIND = 1,
    US_PER_MS = 1000
};

static uint64_t state;
static pthread_t thread; /* while it is running or stopping */
static uint32_t interval_ms;
static uint32_t stops;   /* how many there have been: what the thread sleeps on */
static bool knows_forks; /* of who is starting */

/* ---- The thread -------------------------------------------------------------------------------
 */

static size_t look(uint64_t round, unsigned quiet_rounds)
{
    struct fh_region *region = fh_region_peek();
    if (region == NULL)
        return 0;
    if (round % DEAD_ROUNDS == 0)
        fh_holder_release_dead(region);
    size_t bytes = fh_purge_old(region) + fh_sparse_old(region);
    /* Some pools have lost more blocks since anybody looked at their pages. */
    if (quiet_rounds == CALM_ROUNDS && fh_purge_decay_ms() <= UINT32_MAX)
        bytes += fh_sparse_trim(region);
    return bytes;
}

/* How long to sleep after so many rounds in which nothing was returned. */
static uint32_t next_sleep_ms(uint32_t sleep_ms, unsigned quiet_rounds)
{
    uint32_t shortest_ms = fh_load_relaxed_u32(&interval_ms); /* a number by itself */
    if (quiet_rounds < QUIET_ROUNDS || shortest_ms >= SLEEP_MAX_MS || sleep_ms < shortest_ms)
        return shortest_ms;
    return 2 * sleep_ms < SLEEP_MAX_MS ? 2 * sleep_ms : SLEEP_MAX_MS;
}

/* `argument`: how many stops there were before it was started. */
static void *run(void *argument)
{
    uint32_t stops_before = (uint32_t)(uintptr_t)argument;
    uint32_t sleep_ms = 0;
    unsigned quiet_rounds = 0;
    (void)pthread_setname_np(pthread_self(), "freehold-purger");
    /* Relaxed: a number by itself, which a system call waits for. */
    for (uint64_t round = 1; fh_load_relaxed_u32(&stops) == stops_before; round++) {
        quiet_rounds = look(round, quiet_rounds) > 0 ? 0 : quiet_rounds + 1;
        sleep_ms = next_sleep_ms(sleep_ms, quiet_rounds);
        fh_os_wait(&stops, stops_before, ANY_KIND, fh_os_now_us() + (uint64_t)sleep_ms * US_PER_MS);
    }
    return NULL;
}

/* ---- Starting and stopping --------------------------------------------------------------------
 */

/* All that may be done here: a thread that were made now might find the C library's locks taken. */
static void forget_after_fork(void)
{
    fh_store_relaxed_u64(&state, IDLE); /* relaxed: there is no other thread */
}

/* 0 or an error number. */
static int watch_forks(void)
{
    int error = knows_forks ? 0 : pthread_atfork(NULL, NULL, forget_after_fork);
    knows_forks = error == 0;
    return error;
}

static int create_with(const pthread_attr_t *attributes)
{
    sigset_t all, before;
    void *stops_before = (void *)(uintptr_t)fh_load_relaxed_u32(&stops); /* ours: no stop now */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, attributes, run, stops_before);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static int create(void)
{
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error != 0)
        return error;
    (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
    error = create_with(&attributes);
    (void)pthread_attr_destroy(&attributes);
    /* A program whose thread-local memory alone is larger than that. */
    return error == EINVAL ? create_with(NULL) : error;
}

int fh_purger_start(unsigned wanted_ms)
{
    uint64_t found = IDLE;
    fh_store_relaxed_u32(&interval_ms, wanted_ms == 0 ? INTERVAL_MS : wanted_ms); /* by itself */
    /* [purger] acquire: `thread`, which who stopped the last one has read. */
    if (!fh_cas_acquire_u64(&state, &found, STARTING)) {
        errno = EBUSY;
        return found == RUNNING ? 0 : -1;
    }
    int error = watch_forks();
    if (error == 0)
        error = create();
    /* [purger] release: `thread`, and knows_forks. */
    fh_store_release_u64(&state, error == 0 ? RUNNING : IDLE);
    errno = error;
    return error == 0 ? 0 : -1;
}

void fh_purger_stop(void)
{
    uint64_t found = RUNNING;
    /* [purger] acquire: `thread`. */
    if (!fh_cas_acquire_u64(&state, &found, STOPPING))
        return;
    fh_store_relaxed_u32(&stops,
                         fh_load_relaxed_u32(&stops) + 1); /* as in run(); nobody else stops */
    fh_os_wake(&stops, ANY_KIND);
    (void)pthread_join(thread, NULL);
    /* [purger] release: `thread` is read. */
    fh_store_release_u64(&state, IDLE);
}
