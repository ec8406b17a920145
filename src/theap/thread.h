/* SPDX-License-Identifier: MIT */
/* Heaps and threads: a heap of one's own, a borrowed one, giving them back. */
#ifndef FH_THEAP_THREAD_H
#define FH_THEAP_THREAD_H

#include "theap.h"

/* The heap whose id is index + 1. */
static inline struct fh_theap *fh_theap_at(const struct fh_region *region, uint64_t index)
{
    return (struct fh_theap *)(void *)(region->heaps + index * FH_THEAP_BYTES);
}

/* A heap for the rest of this call, busy: the thread's own, made now if it has none yet, or a
 * borrowed one where that is in use or gone. NULL if memory is short. */
struct fh_theap *fh_theap_enter(void);

/* The end of the call. */
void fh_theap_leave(struct fh_theap *heap);

/* With a tracer, between calls: the thread's heap is hidden, and its pointer points at one that is
 * always busy. Show it for a call; true if it has to be hidden afterwards, which fh_theap_hide() is
 * told. Without a tracer fh_theap_show() changes nothing. */
bool fh_theap_show(void);
void fh_theap_hide(bool was_hidden);

/* Give all pools of a busy heap to whoever needs them. */
void fh_theap_drain(struct fh_theap *heap);

/* The same, and the heap itself too: to whoever needs one. */
void fh_theap_release(struct fh_theap *heap);

#endif
