/* SPDX-License-Identifier: MIT */
/* Heaps whose threads are dead.
 *
 * A thread that exits gives its heap back in leave_thread(). One that is killed alone, leaves by
 * the bare system call, or was one of the parent's other threads when a process forked, does not.
 * So each heap says whose own it is, in one word, `holder`:
 *
 *     thread (22 bits)   the system's number of it; 0: nobody's, borrowed, or unclear
 *     process (16 bits)  region->process at that time
 *     turn (26 bits)     how often the heap has been held, so that a holder who is gone is not
 * taken for a later one of the same number
 *
 * Every now and then a thread in a slow path looks at some heaps. A heap whose holder is dead, and
 * whose holder was outside any call when it died, is taken over by a CAS on the word, drained, and
 * released. If it died inside a call the heap's lists may be half changed: it is set aside.
 *
 * Dead is a thread of this process whom the system does not know, and any thread of the process
 * that this one was forked from, but for the one that forked. That one still has the heap it had.
 * So nobody is taken for dead after a fork until it has come by and said so (region->survivor).
 */
#ifndef FH_THEAP_HOLDER_H
#define FH_THEAP_HOLDER_H

#include "theap.h"

/* This busy heap is the calling thread's own from now on. */
void fh_holder_set(struct fh_theap *heap);

/* It is nobody's any more. */
void fh_holder_clear(struct fh_theap *heap);

/* Does its holder still have a name? For tests. */
bool fh_holder_has_thread(const struct fh_theap *heap);

/* To be called now and then from slow paths, with the busy heap of the call: looks for dead
 * threads, a bounded number, once after each time that fh_purge_tick() found it to be time. */
void fh_holder_tick(struct fh_theap *heap);

/* Release the heaps of all threads that are dead now. */
void fh_holder_release_dead(struct fh_region *region);

#endif
