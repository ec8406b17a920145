/* SPDX-License-Identifier: MIT */
/* Freehold: a thread that returns free memory.
 *
 * Without it, free memory goes back to the system when somebody allocates or frees: too much of it
 * at once, and what is old within a few of the calls that come. A program that frees much and then
 * does nothing keeps up to a few MiB, and pages without a block in pools that hold others. With the
 * purger these go back too, within two seconds (plus `decay_ms` over 500); what threads keep at
 * hand for themselves stays.
 *
 * Off unless asked for: by FREEHOLD_PURGER=1, or here. No call of malloc or free ever waits for the
 * thread, whatever it is doing, or whether it is.
 *
 * A child of fork() has no purger, and slow paths return memory there as without one. It may start
 * one of its own; so should a program that becomes a daemon, after its last fork.
 *
 * Not for signal handlers, nor for a child of vfork().
 */
#ifndef FREEHOLD_PURGER_H
#define FREEHOLD_PURGER_H

#include <freehold.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Start it: one thread, "freehold-purger", with all signals blocked. It looks every `interval_ms`
 * (0: 100); when ten looks found nothing it sleeps twice as long each time, up to a second. If it
 * runs already, it goes on at this interval.
 *
 * Returns 0, or -1 with EBUSY if another thread is starting or stopping it just now, else with what
 * pthread_create() says. */
FH_API int fh_purger_start(unsigned interval_ms);

/** Stop it and wait for its end, at most one look. Nothing happens if it does not run, or another
 * thread is starting or stopping it just now. */
FH_API void fh_purger_stop(void);

#ifdef __cplusplus
}
#endif

#endif
