/* SPDX-License-Identifier: MIT */
/* Freehold's tracing: who holds how much memory, as CPython's tracemalloc tells it.
 *
 * While tracing is on, each block of the three domains has a trace: its size and the traceback of
 * the call that made it. A snapshot is a copy of all traces, to be filtered, grouped, compared and
 * kept in a file. While tracing is off, nothing of it is on any path.
 *
 * Any thread may call everything here at any time, unless a comment says otherwise, and none waits
 * for another. Starting and stopping go through fh_set_allocator() and are for one thread at a
 * time; what is traced while that happens may be either. Native frames are the one exception to
 * "none waits": with FREEHOLD_TRACE=2 or more the compiler's run-time library unwinds, and in a
 * program that registers unwind tables as it runs (__register_frame(), as compilers of code in
 * memory do) libgcc before 13 takes a lock for each look-up, and sorts the tables under it with
 * malloc: a traced call may then wait for another thread, or for ever. FREEHOLD_TRACE=1 unwinds
 * nothing. A block is traced under the number of its domain (fh_domain: 0, 1, 2); other numbers are
 * the program's own. A block for whose trace no memory is left is not traced; the call that makes
 * it does not fail for that. Nor is one that a signal handler makes when it interrupts a traced
 * call. As with any allocator that is set, fh_aligned_alloc() of more than 16 fails with EINVAL
 * while tracing is on.
 */
#ifndef FREEHOLD_TRACE_H
#define FREEHOLD_TRACE_H

#include <freehold.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { FH_TRACE_FRAMES_MAX = 65535 };

/** One call in a traceback. Tracebacks begin with the most recent call.
 *
 * filename  ends with a 0 byte, never NULL; "<unknown>" where nothing is known. Of a native
 *           frame in a snapshot, the file that holds the code.
 * lineno    0 where it is not known.
 * pc        0, except for native frames: the return address; in a snapshot, counted from where the
 *           file `filename` begins in memory, so that it is the same in each run. */
typedef struct fh_frame {
    const char *filename;
    unsigned lineno;
    uintptr_t pc;
} fh_frame;

/* ---- Tracing --------------------------------------------------------------------------------- */

/** Trace all blocks that are made from now on, with up to `frames` frames each.
 *
 * Returns 0, also if tracing was on already (nothing changes then); -1 with EINVAL unless
 * 1 <= frames <= FH_TRACE_FRAMES_MAX, with ENOMEM if memory is short. Not for signal handlers. */
FH_API int fh_trace_start(int frames);

/** Forget all traces and trace no more. The memory of the traces is kept for the next start. Not
 * for signal handlers. */
FH_API void fh_trace_stop(void);

FH_API int fh_trace_is_tracing(void);

/** How many frames a trace has at most: what the last fh_trace_start() that did something asked
 * for, 1 before. */
FH_API int fh_trace_limit(void);

/** Forget all traces, and begin at 0 bytes. Does nothing while tracing is off. Each call takes 192
 * bytes for ever, as fh_trace_start() does. Returns 0, or -1 with ENOMEM, and then nothing is
 * forgotten. */
FH_API int fh_trace_clear(void);

/** The bytes of all traced blocks as asked for, and the most they ever were; both 0 while tracing
 * is off. Either pointer may be NULL. With other threads at work, as of some moment during the
 * call. */
FH_API void fh_trace_get_traced_memory(size_t *current_bytes, size_t *peak_bytes);

/** From now on the peak is the most since now. */
FH_API void fh_trace_reset_peak(void);

/** How many bytes the traces take, beside the blocks. */
FH_API size_t fh_trace_overhead(void);

/** Note memory of another allocator: `bytes` at `address`, under a number of the program's own.
 * A trace that is there already is replaced. Returns 0; -1 with ENOMEM if memory is short; -2 if
 * tracing is off. */
FH_API int fh_trace_track(unsigned domain, uintptr_t address, size_t bytes);

/** Forget it; no harm if there is none. Returns 0, or -2 if tracing is off. */
FH_API int fh_trace_untrack(unsigned domain, uintptr_t address);

/** The traceback of a traced block: fills in up to `max` frames, and how many calls deep the stack
 * was (`total`, may be NULL: at least the number of frames, if the provider of frames knows). The
 * file names stay for ever. Native frames have "<unknown>" and a pc. Returns how many frames the
 * trace has, which may be more than `max`; 0 if there is no trace. */
FH_API size_t fh_trace_get_traceback(unsigned domain, uintptr_t address, fh_frame *out, size_t max,
                                     size_t *total);

/** A traced block is being used for something new, as from a free list of the program's: its
 * traceback becomes that of this call. Does nothing if it has no trace. No thread may free the
 * block at the same time. CPython's _PyTraceMalloc_NewReference. */
FH_API void fh_trace_touch(const void *block);

/** Who fills in the frames of the calling thread's stack: up to `max`, most recent first, and
 * `*total`, how many there are in all (max at least 1; *total is 0 before). Returns how many it
 * filled in; 0 for none. File names are copied. Called by whichever thread makes a block, in the
 * middle of that; it may allocate from the domains, which is not traced then. */
typedef size_t (*fh_frames_function)(void *context, fh_frame *out, size_t max, size_t *total);

/** Ask `function` for frames from now on; NULL for the native ones, as at first: the caller's
 * address and what is found by following frame pointers, or with FREEHOLD_TRACE the unwinder.
 * Returns 0, or -1 with ENOMEM. Each call takes 16 bytes for ever. */
FH_API int fh_trace_set_frames(fh_frames_function function, void *context);

/* ---- Snapshots -------------------------------------------------------------------------------
 *
 * A snapshot does not change. Any number of threads may read one at once; the last one frees it.
 * Functions that return a pointer return NULL if they fail: with ENOMEM, if nothing else is said.
 */

typedef struct fh_snapshot fh_snapshot;

/** All traces of now. Those that are made or forgotten meanwhile may be in it or not; each is
 * whole. Fails with ENODATA if tracing is off. */
FH_API fh_snapshot *fh_snapshot_take(void);

/** NULL does nothing. */
FH_API void fh_snapshot_free(fh_snapshot *snapshot);

FH_API size_t fh_snapshot_trace_count(const fh_snapshot *snapshot);

/** What fh_trace_limit() was. */
FH_API int fh_snapshot_limit(const fh_snapshot *snapshot);

/** Give native frames the source file and line in which their call stands, as far as the files they
 * lie in have debug information. Loads libdw (elfutils) for it, which takes locks and memory from
 * malloc: not for signal handlers, and only before others read the snapshot. Returns how many
 * frames got a line; -1 with ENOSYS if there is no libdw. */
FH_API long fh_snapshot_resolve(fh_snapshot *snapshot);

/** Which traces to keep.
 *
 * inclusive   1: keep those that match; 0: drop them.
 * pattern     of the file name: * any characters, ? one, [abc-z] one of those, [!abc-z] any other;
 * a name that ends in .pyc counts as .py. NULL: any name. lineno      of the line, or -1 for any.
 * all_frames  1: some frame matches; 0: the most recent one does.
 * domain      and the trace is of this one; -1 for any. */
typedef struct fh_filter {
    int inclusive;
    const char *pattern;
    long lineno;
    int all_frames;
    long domain;
} fh_filter;

/** A snapshot of those traces that an inclusive filter keeps, if there are any such filters, and
 * that no other filter drops. */
FH_API fh_snapshot *fh_snapshot_filter(const fh_snapshot *snapshot, const fh_filter *filters,
                                       size_t filter_count);

/** Write it to a file. Returns 0, or -1 with the errno of open(2) or write(2), or ENOMEM; an
 * unfinished file is then left. */
FH_API int fh_snapshot_dump(const fh_snapshot *snapshot, const char *path);

/** Read it back. Fails with the errno of open(2) or read(2), with EINVAL if the file is not a whole
 * snapshot as it was written, with ENOTSUP if it is of another version or byte order. */
FH_API fh_snapshot *fh_snapshot_load(const char *path);

/* ---- Statistics of a snapshot ---------------------------------------------------------------- */

typedef enum fh_group {
    FH_BY_LINENO = 0,    /* file and line of the most recent frame */
    FH_BY_FILENAME = 1,  /* its file; lineno is 0 in the result */
    FH_BY_TRACEBACK = 2, /* all frames */
} fh_group;

/** What the traces of one group hold. The frames lie in the snapshots, which must live as long. */
typedef struct fh_statistic {
    const fh_frame *frames;
    size_t frame_count;
    size_t bytes;
    size_t count;
    int64_t bytes_diff; /* 0 without a comparison */
    int64_t count_diff;
} fh_statistic;

/** Sums by group, greatest first: by bytes, then count, then frames from the oldest. `cumulative`:
 * a trace counts for each of its frames, not for the most recent only; not with FH_BY_TRACEBACK
 * (EINVAL). `*count` is set to how many there are. Give it to fh_statistics_free(). */
FH_API fh_statistic *fh_snapshot_statistics(const fh_snapshot *snapshot, fh_group group,
                                            int cumulative, size_t *count);

/** The same of the newer snapshot, with what has changed since the older one; groups that are gone
 * have 0 bytes. Greatest first: by |bytes_diff|, bytes, |count_diff|, count, then frames. */
FH_API fh_statistic *fh_snapshot_compare(const fh_snapshot *newer, const fh_snapshot *older,
                                         fh_group group, int cumulative, size_t *count);

/** NULL does nothing. */
FH_API void fh_statistics_free(fh_statistic *statistics);

/** A statistic as CPython prints it, "b.py:1: size=66 B, count=1, average=66 B"; the oldest frame
 * stands for all. A native frame without a line is `file+0x1234`. Writes at most `bytes` with the
 * final 0, and returns how long the whole text is without it, as snprintf(). */
FH_API size_t fh_statistic_format(const fh_statistic *statistic, char *text, size_t bytes);

/** One from fh_snapshot_compare(): "a.py:5: size=5002 B (+5000 B), count=2 (+1), average=2501 B".
 */
FH_API size_t fh_statistic_format_diff(const fh_statistic *statistic, char *text, size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
