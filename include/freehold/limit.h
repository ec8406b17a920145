/* SPDX-License-Identifier: MIT */
/* Freehold: a limit on the memory that the process takes.
 *
 * What counts is what pools take: all that are in use, by whichever thread and for blocks of any
 * size, and free ones that are still resident, in whole pools of 64 KiB; blocks of more than 4 MiB
 * take multiples of 4 MiB. Metadata (less than 1 % of it) does not count, nor does what a program
 * maps for itself.
 *
 * A claim that would take the process over the limit is not made: so the limit is kept at every
 * moment, whatever threads do at once. Before a call fails it gives back what it can: its thread's
 * caches, and all free pools. Then it asks the program, if there is a function, and then it fails
 * as it would if the system had no more memory: malloc returns NULL with ENOMEM, realloc too, and
 * keeps the block. A block that has to move to grow needs room for both. Frees always work, and so
 * does making a block smaller in place. What other threads keep at hand (up to 1 MiB each, and a
 * pool or a few for each size that they use) counts, and nobody can give it back for them.
 *
 * The option `limit` sets one for a whole program: FREEHOLD_LIMIT=512M.
 *
 * Any thread may call these functions at any time, also in a signal handler. None waits for another
 * thread. A child of fork() has its parent's limit, for itself.
 */
#ifndef FREEHOLD_LIMIT_H
#define FREEHOLD_LIMIT_H

#include <stddef.h>

#include <freehold.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fh_limit_answer {
    FH_LIMIT_REFUSE = 0, /* the call fails */
    FH_LIMIT_RETRY =
        1, /* try again: memory was freed, or the limit raised. At most 16 times a call */
    FH_LIMIT_ACCEPT = 2 /* this once without a limit */
} fh_limit_answer;

/** Asked before a call fails for the limit: `bytes` is what it wants to claim, in whole pools.
 *
 * Called on the thread that allocates, in the middle of its call, so where a signal handler might
 * stand: with whatever locks the program has taken. It may allocate and free, but not in heaps of
 * the gil modes (heap.h), as the call may be inside one; at the limit its own calls fail without
 * asking it again. It must return. Any other answer is FH_LIMIT_REFUSE. Arenas of heaps made by
 * fh_heap_create() are refused without asking. */
typedef fh_limit_answer fh_limit_function(void *context, size_t bytes);

/** From now on no more than so many bytes may be taken; 0: as many as the system gives. If more are
 * taken already, all claims are refused until enough is freed. `function` (NULL: always refuse) is
 * called with `context`. All three change as one: no call sees parts of two settings. Each distinct
 * setting takes 40 bytes for ever.
 *
 * Returns 0, or -1 with ENOMEM if memory is short; nothing has changed then. */
FH_API int fh_set_limit(size_t bytes, fh_limit_function *function, void *context);

/** The limit in force, 0 for none. */
FH_API size_t fh_get_limit(void);

/** How much counts now: never more than the limit, unless that was lowered, or a function accepted
 * more. */
FH_API size_t fh_limit_used(void);

#ifdef __cplusplus
}
#endif

#endif
