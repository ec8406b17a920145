/* SPDX-License-Identifier: MIT */
/* Spare runs: free pools that a heap keeps at hand, so that a need that goes up and down is not
 * felt by the arenas, whose words all threads share. Few and small: FH_SPARE_RUNS runs of
 * FH_SPARE_POOLS pools together. To the arenas they are in use. Adjacent ones become one; a smaller
 * need takes the front of a larger run, and a block that grows takes the run behind it.
 */
#ifndef FH_THEAP_SPARE_H
#define FH_THEAP_SPARE_H

#include "arena.h"
#include "theap.h"

/* As fh_arena_claim(), first from what the busy heap has at hand. At the limit all that the heap
 * keeps is given up before it fails, and the program's function is asked (freehold/limit.h), which
 * may allocate: no list of the heap's may be half changed. */
bool fh_spare_claim(struct fh_theap *heap, unsigned pools, unsigned align_pools,
                    struct fh_run *run);

/* As fh_arena_extend(), the same way. */
bool fh_spare_extend(struct fh_theap *heap, size_t pool_index, unsigned pools, unsigned more);

/* As fh_arena_release(), for a busy heap: keeps the run at hand if it is not too large. */
void fh_spare_release(struct fh_theap *heap, size_t pool_index, unsigned pools);

/* Give all of them back. */
void fh_spare_drain(struct fh_theap *heap);

#endif
