/* SPDX-License-Identifier: MIT */
/* Freehold's statistics: by size class, as CPython's text, and as JSON.
 *
 * Everything here may be called by any thread at any time, also in a signal handler. Nothing waits,
 * allocates, or uses stdio. The time is proportional to the pools in use. What other threads do
 * meanwhile is counted or not; fh_get_stats() says which sums hold all the same.
 *
 * Blocks count as live that callers hold, and those that other threads than the caller keep ready
 * to hand out: per thread and class at most what one pool holds, and one more. Of a program whose
 * other threads have ended, or called fh_thread_flush(), the figures are exact.
 */
#ifndef FREEHOLD_STATS_H
#define FREEHOLD_STATS_H

#include <stddef.h>

#include <freehold.h>

#ifdef __cplusplus
extern "C" {
#endif

/** pool_bytes = (live_blocks + free_blocks) * block_bytes + what is lost at the pools' ends. */
typedef struct fh_class_stats {
    size_t block_bytes;
    size_t pools; /* that hold blocks of the class; a span of several is one */
    size_t live_blocks;
    size_t free_blocks; /* in these pools, and ready in the calling thread's bins */
    size_t pool_bytes;
} fh_class_stats;

/** Fill in the first `count` of the size classes, from the smallest up; the first two both have 16
 * bytes, and the first serves requests of none. Returns how many classes there are, so that a call
 * with 0 asks for that. */
FH_API size_t fh_stats_classes(fh_class_stats *out, size_t count);

/** How many blocks of the default heap are live, large ones too: CPython's
 * sys.getallocatedblocks(). */
FH_API size_t fh_allocated_blocks(void);

/** Write what CPython's sys._debugmallocstats() says of pymalloc, of the default heap, with its
 * classes, arenas and pools. Two lines more than CPython has, if there is something to say: pools
 * that heaps made by fh_heap_create() have taken (before the total), and large blocks (after it).
 * Such heaps have fh_heap_write_stats(). Returns 0, or -1 with write()'s errno. */
FH_API int fh_malloc_stats(int fd);

/** Write all statistics as one JSON object and a newline:
 *
 *   version, pid
 *   process   the fields of fh_stats, under their names; null for what is unknown
 *   classes   of each size class, the fields of fh_class_stats
 *   heaps     of the default heap (large blocks of others are its blocks, too) and of each made
 *             by fh_heap_create(): name ("default", "heap"), address, mode, live small blocks and
 *             the bytes in them, arenas' bytes, large blocks and their bytes. null for what this
 *             thread cannot know: in the gil modes all, unless it holds the lock, and also in a
 *             handler that interrupted a call which takes or gives back a pool; of a free heap
 *             large blocks, and what is in parts that other threads are in is left out
 *   domains   of raw, mem and obj: name, the allocator that serves it ("freehold", "debug" for the
 *             debug hooks, "other"), and its blocks and bytes: null, since domains share one memory
 *
 * Keys stay what they are; later versions may add some. All numbers are integers, bytes as bytes.
 * No other thread may destroy a heap meanwhile, of whichever mode.
 * Returns 0, or -1 with write()'s errno. */
FH_API int fh_stats_json(int fd);

/** The same into memory, as snprintf() does: at most `bytes` with a final 0. Returns the length of
 * all of it, which may be more than fits; it may differ from one call to the next. */
FH_API size_t fh_stats_json_text(char *to, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
