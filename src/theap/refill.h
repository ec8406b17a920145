/* SPDX-License-Identifier: MIT */
/* Where a heap's blocks come from, and where its pools go. */
#ifndef FH_THEAP_REFILL_H
#define FH_THEAP_REFILL_H

#include "theap.h"

/* Of a busy heap: a block of the class, or NULL if memory is short. *zeroed: the block reads as
 * zero but for its first word. */
struct fh_block *fh_theap_next_block(struct fh_theap *heap, unsigned class_index, bool *zeroed);

/* A free by no owner that has something to decide. */
void fh_theap_free_deciding(struct fh_pool *pool, struct fh_block *block);

/* Give all pools of one class to whoever needs them. */
void fh_theap_drain_class(struct fh_theap *heap, unsigned class_index);

#endif
