/* SPDX-License-Identifier: MIT */
/* Freehold: an interpreter lock, one's own or the one built in.
 *
 * One thread at a time holds such a lock. It is the one part of Freehold in which threads wait for
 * each other, and nothing else in Freehold uses it unless a heap is made with it.
 *
 * The built-in lock is recursive, and fair in the way of CPython's: a thread that has waited for a
 * switch interval (5 ms) and is the next in turn asks the holder to give way. A holder that runs
 * for long looks with fh_gil_check() now and then. Once asked, the next release hands over: nobody
 * gets the lock, the releasing thread least of all, before the thread that asked. Who waits is
 * served in the order of coming. A thread that finds the lock free just takes it.
 *
 * Any thread may call any function here, unless its comment says otherwise. In a signal handler
 * fh_gil_held() always works. The other functions work there with the built-in lock, whether the
 * handler interrupted the holder, a thread that waits for the lock, or none of these; a handler
 * leaves the lock as it found it. Leaving a handler that interrupted one of these functions by
 * siglongjmp leaves the lock unusable. So does ending a thread that holds it or waits for it.
 * All of them preserve errno, except where they report an error in it.
 */
#ifndef FREEHOLD_GIL_H
#define FREEHOLD_GIL_H

#include <stddef.h>
#include <stdint.h>

#include <freehold.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Locks ----------------------------------------------------------------------------------- */

/** A lock, seen from outside: the caller's, made of callbacks, or one of the built-in kind. Each
 * callback gets `ctx`. */
typedef struct fh_gil {
    void *ctx;
    int (*held)(void *ctx);              /* 1 if the calling thread holds it, else 0 */
    void (*acquire)(void *ctx);          /* wait until the calling thread holds it */
    void (*release)(void *ctx);          /* of one acquire, by the same thread */
    void (*after_fork_child)(void *ctx); /* see fh_gil_after_fork_child(); may be NULL */
} fh_gil;

/** The memory of one built-in lock. All zeros is a free lock; it needs no other initialisation and
 * no end. It may go once no thread uses it any more. Only threads of one process may share it. */
typedef struct fh_gil_lock {
    uint64_t words[8];
} fh_gil_lock;

/** The process's own lock, of the built-in kind. Never NULL, always the same. */
FH_API const fh_gil *fh_gil_builtin(void);

/** A built-in lock in the caller's memory, for instance one for each interpreter. The result may be
 * copied; all copies stand for that lock, which must stay where it is. */
FH_API fh_gil fh_gil_of(fh_gil_lock *lock);

/* ---- Holding one ----------------------------------------------------------------------------- */

/** Wait until the calling thread holds the lock. The built-in lock is recursive: each acquire needs
 * a release. A caller's lock does whatever its callback does. */
FH_API void fh_gil_acquire(const fh_gil *gil);

/** Undo one acquire of the calling thread. When it was the last, the lock is free, or handed over
 * if it was asked for. Releasing a built-in lock that the thread does not hold is named on stderr
 * and aborts the program. */
FH_API void fh_gil_release(const fh_gil *gil);

/** 1 if the calling thread holds the lock, else 0. */
FH_API int fh_gil_held(const fh_gil *gil);

/** For a holder that runs for long, to be called often: give way if that was asked for. Another
 * thread has then had the lock, and the calling thread holds it again, as many times as before.
 *
 * Returns 1 if it gave way. Returns 0 if not: nobody asked, the thread does not hold the lock, or
 * it is a caller's lock, whose owner has means of its own. Costs one look at the lock then. */
FH_API int fh_gil_check(const fh_gil *gil);

/* ---- Around a call that may block ------------------------------------------------------------ */

/** Give the lock up entirely, however many times the calling thread acquired it.
 *
 * Returns how many times that was, for fh_gil_restore(); 0 if the thread does not hold the lock,
 * and nothing is done then. A caller's lock is released until its `held` says 0. */
FH_API size_t fh_gil_save(const fh_gil *gil);

/** Acquire the lock as many times as fh_gil_save() said; 0 does nothing. */
FH_API void fh_gil_restore(const fh_gil *gil, size_t times);

/* ---- The switch interval --------------------------------------------------------------------- */

/** How long a thread waits before it asks the holder to give way: 5000 unless set. Threads that
 * wait already may first go on with the interval of before.
 *
 * Returns 0, or -1 with errno EINVAL if `microseconds` is 0 or it is not a built-in lock. */
FH_API int fh_gil_set_switch_interval(const fh_gil *gil, uint32_t microseconds);

/** The interval in microseconds; 0 if it is not a built-in lock. */
FH_API uint32_t fh_gil_get_switch_interval(const fh_gil *gil);

/* ---- fork ------------------------------------------------------------------------------------ */

/** To be called in the child of a fork before it uses the lock in any other way, since other
 * threads of the parent may have held it. The lock then is as often held by the calling thread as
 * it was at the fork, and free if it was not. For a caller's lock this is its callback, if it has
 * one. Freehold never calls it by itself. */
FH_API void fh_gil_after_fork_child(const fh_gil *gil);

#ifdef __cplusplus
}
#endif

#endif
