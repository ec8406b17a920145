/* SPDX-License-Identifier: MIT */
/* Freehold: heaps of one's own, for the mem and the obj domain.
 *
 * A heap has its own arenas, in which only its blocks lie: one for each interpreter, request or
 * document, that can be counted, walked through, limited, and given back as a whole. Blocks up to
 * its threshold (512 bytes) come from pymalloc's own algorithms, larger ones from Freehold's other
 * memory and are accounted to the heap. The raw domain and the malloc family know nothing of heaps.
 *
 * Three modes say who may call:
 *
 *   free        any thread at any time, also a signal handler that interrupted such a call. No call
 *               waits: a thread that is stopped inside a call withholds a part of the heap's free
 *               memory, and nothing else. So do, in the child of a fork, calls that other threads
 *               were inside of.
 *
 *   gil-assert  the caller holds the heap's lock. Blocks up to the threshold: no atomic operation,
 *               no thread-local variable, and the same addresses for the same calls, whichever
 *               threads make them. Nothing checks that the lock is held but the debug hooks. Not
 *               for signal handlers.
 *
 *   gil-lock    the library takes the heap's lock around each call. Not for signal handlers that
 *               may interrupt the holder.
 *
 * The heap that a thread has made its current one serves its calls of fh_mem_malloc(),
 * fh_obj_malloc() and their families, unless somebody set another allocator that does not pass
 * calls on. A block goes back to where it came from, whatever the current heap is then, and by any
 * of the functions of mem, obj and heaps that free. (With an allocator in front, such as the debug
 * hooks, what fh_obj_malloc() gave goes back by fh_obj_free(): fh_heap_*() do not pass through it.)
 */
#ifndef FREEHOLD_HEAP_H
#define FREEHOLD_HEAP_H

#include <stddef.h>
#include <stdint.h>

#include <freehold.h>
#include <freehold/gil.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fh_heap fh_heap;

/* ---- Arena sources --------------------------------------------------------------------------- */

/** Where arenas come from. Fields and their order are those of CPython's PyObjectArenaAllocator.
 * `alloc` returns `bytes` of memory at any address aligned to 16, or NULL; both may be called by
 * any thread that calls the heap, and must not call it. */
typedef struct fh_arena_allocator {
    void *context;
    void *(*alloc)(void *context, size_t bytes);
    void (*free)(void *context, void *memory, size_t bytes);
} fh_arena_allocator;

/** What heaps without a source of their own use: Freehold's shared arenas at first. */
FH_API void fh_get_arena_allocator(fh_arena_allocator *out);

/** The source of heaps made from now on that bring none. Takes 24 bytes for ever. Returns 0, or -1:
 * EINVAL for a NULL function, EBUSY while a heap that brought none has an arena, ENOMEM. Not for
 * signal handlers. */
FH_API int fh_set_arena_allocator(const fh_arena_allocator *allocator);

/* ---- Making one ------------------------------------------------------------------------------ */

typedef enum fh_obj_mode {
    FH_OBJ_FREE = 0,
    FH_OBJ_GIL_ASSERT = 1,
    FH_OBJ_GIL_LOCK = 2,
} fh_obj_mode;

/** Zero: as CPython from 3.10 on. */
typedef struct fh_geometry {
    unsigned alignment_bytes; /* 16; or 8 */
    unsigned threshold_bytes; /* 512; or 256: larger blocks come from outside the arenas */
    size_t pool_bytes;        /* 16 KiB; a power of two, 4 KiB to 64 KiB */
    size_t arena_bytes;       /* 1 MiB; a power of two from 256 KiB on, 4 to 256 pools */
} fh_geometry;

/** What becomes of an arena without a block, beyond the spare ones. */
typedef enum fh_arena_policy {
    FH_ARENA_PURGE = 0, /* back to its source; the shared arenas keep its pages for half a second */
    FH_ARENA_UNMAP = 1, /* the same, but its pages go back to the system first */
    FH_ARENA_KEEP = 2,  /* it stays the heap's */
} fh_arena_policy;

enum { FH_SPARE_ARENAS_NONE = -1 };

/** All zeros but for struct_bytes: a free heap as CPython's in all else. */
typedef struct fh_heap_config {
    size_t struct_bytes; /* set by the caller to sizeof(fh_heap_config) */
    fh_obj_mode mode;
    const fh_gil *gil; /* of the gil modes; NULL: fh_gil_builtin(). A copy is kept */
    fh_geometry geometry;
    fh_arena_policy arena_policy;
    int spare_arenas; /* empty arenas kept, for each part of a free heap: 0 means 1, as in CPython;
                         FH_SPARE_ARENAS_NONE none */
    int64_t decay_ms; /* a spare arena goes back once it was empty for so long, when the heap looks:
                         0 and -1 never. It looks when a pool is taken or becomes empty, and on
                         fh_heap_drain() */
    /* Limits. A call of a free heap that reaches one looks for memory in all parts; it is refused
     * although there is some if that is in parts whose callers do not get on meanwhile, as when
     * they have no processor. */
    size_t arenas_max;        /* arenas at once; 0: no limit (CPython's WITH_MEMORY_LIMITS) */
    size_t limit_bytes;       /* arenas and large blocks together; 0: no limit */
    fh_arena_allocator arena; /* zero: what fh_set_arena_allocator() said */
} fh_heap_config;

/** A heap; it takes no arena before its first block. NULL for `config` is all zeros. Returns NULL
 * with EINVAL if sizes do not fit each other, with ENOMEM if memory is short. */
FH_API fh_heap *fh_heap_create(const fh_heap_config *config);

enum { FH_DESTROY_FORCE = 1 };

/** Give back all that the heap has, in time proportional to its arenas and large blocks. Returns 0,
 * or -1: EBUSY, and nothing is changed, while blocks live unless `flags` has FH_DESTROY_FORCE;
 * EINVAL for the default heap and unknown flags. A part in which a thread stopped for ever is left
 * as it is. No other thread may use the heap or its blocks, or have it as its
 * current one; the calling thread's current heap is the default again if it was this one. Under the
 * debug hooks what is in quarantine of it goes first, and no other thread may be inside of a free,
 * which may let go of anybody's blocks. */
FH_API int fh_heap_destroy(fh_heap *heap, unsigned flags);

/** What all threads use that have set nothing else. It is always there: no configuration, no lock,
 * no limit, and cannot be walked through. Everywhere below, NULL means it too. */
FH_API fh_heap *fh_heap_default(void);

/** The calling thread's mem and obj calls go to this heap from now on. Returns the one before. */
FH_API fh_heap *fh_heap_set_current(fh_heap *heap);
FH_API fh_heap *fh_heap_current(void);

/** How the heap was made; the default heap is free. */
FH_API fh_obj_mode fh_heap_get_mode(const fh_heap *heap);

/** Its lock, as long as the heap lives; NULL of a free heap. */
FH_API const fh_gil *fh_heap_get_gil(const fh_heap *heap);

/** Whose block it is: the default heap for all of Freehold's other memory, NULL for a stranger.
 * Never reads what is there; of an address in Freehold's memory it may read the 64 bytes before. */
FH_API fh_heap *fh_heap_of(const void *block);

/* ---- Blocks ----------------------------------------------------------------------------------
 *
 * Contracts as in freehold.h, with the heap's alignment; large blocks are aligned to 16. In the gil
 * modes by the rules above. Of the raw domain, which has no heaps, as of the default heap; NULL
 * with EINVAL of an unknown domain.
 */

FH_API void *fh_heap_malloc(fh_heap *heap, fh_domain domain, size_t bytes);
FH_API void *fh_heap_calloc(fh_heap *heap, fh_domain domain, size_t count, size_t bytes);

/** The block stays in its own heap, whatever `heap` is; NULL for `block` makes it
 * fh_heap_malloc(). */
FH_API void *fh_heap_realloc(fh_heap *heap, fh_domain domain, void *block, size_t bytes);

/** `heap` is where the block is looked for first; any is right. A stranger's address is named on
 * stderr and aborts the program. */
FH_API void fh_heap_free(fh_heap *heap, fh_domain domain, void *block);

/** By a thread that does not hold the lock of the block's heap, also in a signal handler: put the
 * block on the list of those that a holder frees: by its next call in a gil-lock heap; by
 * fh_heap_drain(), or before the heap takes another arena, in a gil-assert heap. Large blocks, and
 * those of other heaps, are freed at once. Lock-free. */
FH_API void fh_obj_free_deferred(void *block);

/** By the holder: free what is on that list now; of a free heap, what waits in its parts. Returns
 * how many blocks that were. */
FH_API size_t fh_heap_drain(fh_heap *heap);

/** The heap as an allocator, for fh_set_allocator(): the domain's calls then go to it from every
 * thread, whatever is current. 0, or -1 with EINVAL for an unknown domain. */
FH_API int fh_heap_get_allocator(fh_heap *heap, fh_domain domain, fh_allocator *out);

/* ---- Looking ---------------------------------------------------------------------------------
 *
 * By the holder of the lock; of a free heap, while no other thread calls it. Not of the default
 * heap: -1 with EINVAL.
 */

/** Call `visit` for each live block, with its usable bytes, until it returns other than 0, which is
 * then the result; else 0. `visit` must not call the heap. */
FH_API int fh_heap_visit_blocks(fh_heap *heap,
                                int (*visit)(void *context, void *block, size_t bytes),
                                void *context);

/** Look at all that must hold of the heap's memory, and write a line to the file descriptor for
 * each thing that does not. Returns how many that were. Parts of a free heap that a thread stopped
 * in, or that were busy when the process was forked, are left out. */
FH_API int fh_heap_check(fh_heap *heap, int fd);

/** Exact when the rule above is kept. in_use + available + free_pools + headers + quantization +
 * alignment bytes add up to arenas_bytes; arenas_bytes + large_bytes is what the limit is about. */
typedef struct fh_heap_stats {
    size_t struct_bytes; /* set by the caller to sizeof(fh_heap_stats) */
    size_t live_blocks;  /* small and large */
    size_t live_bytes;   /* in them: the size classes' bytes, and what large blocks may use */
    size_t arenas_total, arenas_reclaimed, arenas_highwater, arenas_current; /* sums over a free
                                                                               heap's parts */
    size_t arenas_bytes, in_use_bytes, available_bytes, free_pools_bytes, header_bytes,
        quantization_bytes, alignment_bytes;
    size_t large_blocks, large_bytes; /* large_bytes with the header of each */
    size_t deferred_blocks; /* freed without the lock and not yet drained; they count as live */
} fh_heap_stats;

/** Fill in `out`. Returns 0, or -1 with EINVAL if struct_bytes is not set. */
FH_API int fh_heap_get_stats(fh_heap *heap, fh_heap_stats *out);

/** CPython's _debugmallocstats text of the heap's arenas, to the letter, of each part of a free
 * heap in turn. 0, or -1 with EINVAL. */
FH_API int fh_heap_write_stats(fh_heap *heap, int fd);

#ifdef __cplusplus
}
#endif

#endif
