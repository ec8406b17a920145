/* SPDX-License-Identifier: MIT */
/* The built-in lock, and calls of the caller's: see freehold/gil.h.
 *
 * words[WORD] says who holds the lock. Each change is one atomic operation, so a signal handler
 * finds its thread either holding the lock or not:
 *
 *     0                 free: whoever comes may take it
 *     holder | flags    held by the thread whose thread-local `queued` lies at that address
 *     ASKED | SLEEPING  handed over: held by nobody, and only who asked may take it
 *
 *     SLEEPING  somebody may sleep until the word changes
 *     ASKED     who is next has waited for an interval; it is still waiting, and nobody but a
 *               thread that may take a handed over lock ever clears this
 *
 * words[QUEUE] is two numbers: the next ticket, and the one being served. Who does not get the lock
 * at once takes a ticket and sleeps until that is served. Then it is the only one that watches the
 * word, and its interval begins: with several threads waiting, a holder is asked an interval after
 * it got the lock, and not more often. When it has taken the lock it lets the next one go ahead.
 *
 * A handler may interrupt a thread in the queue. A second ticket would then come after one that
 * moves only when the handler returns, so the handler watches the word without a ticket (`queued`).
 */
#include "freehold/gil.h"

#include <assert.h>
#include <errno.h>

#include "atomic.h"
#include "fatal.h"
#include "os.h"

enum { WORD, QUEUE, DEPTH, INTERVAL }; /* DEPTH: the holder only, how often beyond once */

enum { SLEEPING = 1, ASKED = 2, FLAGS = SLEEPING | ASKED };

enum {
    INTERVAL_US = 5000,
    /* How long a waiter that is not next sleeps at most: the thread that is to wake it may be in a
     * signal handler just then. */
    QUEUE_US = 100000,
    TICKET_SHIFT = 32,
    TICKET_KINDS = 32,
};

static const uint32_t any_kind = UINT32_MAX;

/* Nonzero while the thread is in the queue of some lock. Its address is the thread's name. */
static FH_THREAD_LOCAL uint64_t queued;

static_assert(_Alignof(uint64_t) > FLAGS, "a thread's name leaves room for the flags");

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
enum { LOW_HALF = 1 };
#else
enum { LOW_HALF = 0 };
#endif

/* What the system watches. A name is lost in part, but while it is the same and SLEEPING is set, to
 * sleep is right, whoever holds the lock. */
static const uint32_t *low_half(const uint64_t *word)
{
    return (const uint32_t *)(const void *)word + LOW_HALF;
}

static uint64_t calling_thread(void)
{
    return (uint64_t)(uintptr_t)&queued;
}

static uint64_t holder_of(uint64_t word)
{
    return word & ~(uint64_t)FLAGS;
}

/* Relaxed: a thread that holds the lock reads what it wrote itself, but for the flags. */
static bool is_mine(const fh_gil_lock *lock)
{
    return holder_of(fh_load_relaxed_u64(&lock->words[WORD])) == calling_thread();
}

static void add_depth(fh_gil_lock *lock, uint64_t times)
{
    fh_store_own_u64(&lock->words[DEPTH], fh_load_own_u64(&lock->words[DEPTH]) + times);
}

static uint32_t interval_us(const fh_gil_lock *lock)
{
    uint64_t set = fh_load_relaxed_u64(&lock->words[INTERVAL]); /* a number; passes nothing */
    return set == 0 ? INTERVAL_US : (uint32_t)set;
}

/* ---- The queue ------------------------------------------------------------------------------
 *
 * Relaxed throughout: it passes a turn and no data. What the last holder did comes with the word.
 */

static uint32_t take_ticket(fh_gil_lock *lock)
{
    uint64_t found = fh_load_relaxed_u64(&lock->words[QUEUE]); /* a guess */
    while (!fh_cas_relaxed_u64(&lock->words[QUEUE], &found, found + ((uint64_t)1 << TICKET_SHIFT)))
        ;
    return (uint32_t)(found >> TICKET_SHIFT);
}

/* Tickets start again at 0, and after a fork all that there were count as served. */
static bool is_before(uint32_t ticket, uint32_t other)
{
    return (int32_t)(ticket - other) < 0;
}

/* Neighbours in the queue differ, so that a wake concerns one thread in 32. */
static uint32_t kind_of(uint32_t ticket)
{
    return (uint32_t)1 << ticket % TICKET_KINDS;
}

static void await_turn(fh_gil_lock *lock, uint32_t ticket)
{
    for (;;) {
        uint32_t served = (uint32_t)fh_load_relaxed_u64(&lock->words[QUEUE]);
        if (!is_before(served, ticket))
            return;
        fh_os_wait(low_half(&lock->words[QUEUE]), served, kind_of(ticket),
                   fh_os_now_us() + QUEUE_US);
    }
}

static void leave_queue(fh_gil_lock *lock, uint32_t ticket)
{
    uint32_t next = ticket + 1;
    uint64_t found = fh_load_relaxed_u64(&lock->words[QUEUE]); /* a guess */
    uint64_t left;
    do {
        if (is_before(ticket, (uint32_t)found))
            return;
        left = found >> TICKET_SHIFT << TICKET_SHIFT | next;
    } while (!fh_cas_relaxed_u64(&lock->words[QUEUE], &found, left));
    if (left >> TICKET_SHIFT != next)
        fh_os_wake(low_half(&lock->words[QUEUE]), kind_of(next));
}

/* ---- The word ------------------------------------------------------------------------------- */

static bool may_take(uint64_t word, bool asked)
{
    return holder_of(word) == 0 && (asked || (word & ASKED) == 0);
}

/* Take the lock if it is free, or handed over and we have asked. */
static bool try_take(fh_gil_lock *lock, uint64_t *found, bool asked)
{
    if (!may_take(*found, asked))
        return false;
    /* Who else sleeps on the word was woken when it became free, and will say so again.
     * [gil] acquire: what the last holder did, from give_up(). */
    return fh_cas_acquire_u64(&lock->words[WORD], found, calling_thread());
}

/* Sleep until the word is not what it was, with our flags set in it. */
static void await_change(fh_gil_lock *lock, uint64_t found, bool asked, uint64_t until_us)
{
    uint64_t flags = asked && holder_of(found) != 0 ? SLEEPING | ASKED : SLEEPING;
    uint64_t flagged = found | flags;
    /* Relaxed: a request. The release that finds it is a read-modify-write of the same word. */
    if (flagged == found || fh_cas_relaxed_u64(&lock->words[WORD], &found, flagged))
        fh_os_wait(low_half(&lock->words[WORD]), (uint32_t)flagged, any_kind, until_us);
}

/* As the only one from the queue, or without a ticket. */
static void take_when_possible(fh_gil_lock *lock)
{
    uint64_t until_us = fh_os_now_us() + interval_us(lock);
    bool asked = false;
    for (;;) {
        uint64_t found = fh_load_relaxed_u64(&lock->words[WORD]); /* a guess */
        if (try_take(lock, &found, asked))
            return;
        await_change(lock, found, asked, until_us);
        if (fh_os_now_us() >= until_us) {
            until_us = fh_os_now_us() + interval_us(lock);
            asked = true;
        }
    }
}

FH_COLD static void take_in_turn(fh_gil_lock *lock)
{
    if (queued != 0) {
        take_when_possible(lock);
        return;
    }
    queued = 1;
    FH_SIGNAL_FENCE(); /* before a handler could find us with a ticket */
    uint32_t ticket = take_ticket(lock);
    await_turn(lock, ticket);
    take_when_possible(lock);
    leave_queue(lock, ticket);
    FH_SIGNAL_FENCE();
    queued = 0;
}

static void acquire_once(fh_gil_lock *lock)
{
    uint64_t found = 0;
    /* [gil] acquire: what the last holder did, from give_up(). */
    if (!fh_cas_acquire_u64(&lock->words[WORD], &found, calling_thread()))
        take_in_turn(lock);
}

/* Once and for all: the depth is 0. Fails only when a flag has been set, and there are two. */
static void give_up(fh_gil_lock *lock)
{
    uint64_t found = calling_thread(); /* a guess: nobody waits */
    uint64_t left = 0;
    /* [gil] release: what this holder did, to try_take() and acquire_once(). */
    while (!fh_cas_release_u64(&lock->words[WORD], &found, left))
        left = (found & ASKED) != 0 ? ASKED | SLEEPING : 0;
    if ((found & SLEEPING) != 0)
        fh_os_wake(low_half(&lock->words[WORD]), any_kind);
}

/* ---- The built-in lock's callbacks ---------------------------------------------------------- */

static int lock_held(void *ctx)
{
    return is_mine(ctx);
}

static void lock_acquire(void *ctx)
{
    if (is_mine(ctx))
        add_depth(ctx, 1);
    else
        acquire_once(ctx);
}

static void lock_release(void *ctx)
{
    fh_gil_lock *lock = ctx;
    if (FH_UNLIKELY(!is_mine(lock)))
        fh_fatal_pointer("fh_gil_release", lock, "not held by the calling thread");
    uint64_t depth = fh_load_own_u64(&lock->words[DEPTH]);
    if (depth == 0)
        give_up(lock);
    else
        fh_store_own_u64(&lock->words[DEPTH], depth - 1);
}

/* There is one thread: nothing need be atomic, or in any order. */
static void lock_after_fork_child(void *ctx)
{
    fh_gil_lock *lock = ctx;
    uint64_t tickets = fh_load_relaxed_u64(&lock->words[QUEUE]) >> TICKET_SHIFT;
    bool mine = is_mine(lock);
    if (!mine)
        fh_store_own_u64(&lock->words[DEPTH], 0);
    fh_store_relaxed_u64(&lock->words[QUEUE], tickets << TICKET_SHIFT | tickets);
    fh_store_relaxed_u64(&lock->words[WORD], mine ? calling_thread() : 0);
}

/* ---- The API -------------------------------------------------------------------------------- */

static fh_gil_lock process_lock;

static const fh_gil process_gil = {&process_lock, lock_held, lock_acquire, lock_release,
                                   lock_after_fork_child};

static bool is_built_in(const fh_gil *gil)
{
    return gil->release == lock_release;
}

const fh_gil *fh_gil_builtin(void)
{
    return &process_gil;
}

fh_gil fh_gil_of(fh_gil_lock *lock)
{
    fh_gil gil = process_gil;
    gil.ctx = lock;
    return gil;
}

void fh_gil_acquire(const fh_gil *gil)
{
    gil->acquire(gil->ctx);
}

void fh_gil_release(const fh_gil *gil)
{
    gil->release(gil->ctx);
}

int fh_gil_held(const fh_gil *gil)
{
    return gil->held(gil->ctx);
}

FH_COLD static int give_way(const fh_gil *gil)
{
    size_t times = fh_gil_save(gil);
    fh_gil_restore(gil, times);
    return times != 0;
}

int fh_gil_check(const fh_gil *gil)
{
    if (!is_built_in(gil))
        return 0;
    const fh_gil_lock *lock = gil->ctx;
    uint64_t word = fh_load_relaxed_u64(&lock->words[WORD]); /* a glance, repeated soon */
    return FH_UNLIKELY((word & ASKED) != 0) ? give_way(gil) : 0;
}

static size_t save_callers(const fh_gil *gil)
{
    size_t times = 0;
    for (; gil->held(gil->ctx); times++)
        gil->release(gil->ctx);
    return times;
}

size_t fh_gil_save(const fh_gil *gil)
{
    fh_gil_lock *lock = gil->ctx;
    if (!is_built_in(gil))
        return save_callers(gil);
    if (!is_mine(lock))
        return 0;
    size_t times = (size_t)fh_load_own_u64(&lock->words[DEPTH]) + 1;
    fh_store_own_u64(&lock->words[DEPTH], 0);
    give_up(lock);
    return times;
}

void fh_gil_restore(const fh_gil *gil, size_t times)
{
    for (; times > 0; times--)
        gil->acquire(gil->ctx);
}

int fh_gil_set_switch_interval(const fh_gil *gil, uint32_t microseconds)
{
    if (!is_built_in(gil) || microseconds == 0) {
        errno = EINVAL;
        return -1;
    }
    fh_gil_lock *lock = gil->ctx;
    fh_store_relaxed_u64(&lock->words[INTERVAL], microseconds); /* as interval_us() */
    return 0;
}

uint32_t fh_gil_get_switch_interval(const fh_gil *gil)
{
    return is_built_in(gil) ? interval_us(gil->ctx) : 0;
}

void fh_gil_after_fork_child(const fh_gil *gil)
{
    if (gil->after_fork_child != NULL)
        gil->after_fork_child(gil->ctx);
}
