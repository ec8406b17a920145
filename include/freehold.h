/* SPDX-License-Identifier: MIT */
/* Freehold: a lock-free, multi-threaded descendant of CPython's pymalloc.
 *
 * Every function here may be called by any thread at any time, also inside a signal handler that
 * interrupted one of them and in the child of a fork, unless its comment says otherwise. None waits
 * for another thread. Sizes and alignments are in bytes.
 */
#ifndef FREEHOLD_H
#define FREEHOLD_H

#include <stddef.h>
#include <stdint.h>

#define FH_VERSION_MAJOR 0
#define FH_VERSION_MINOR 1
#define FH_VERSION_PATCH 0

#if defined(__GNUC__)
#define FH_API __attribute__((visibility("default")))
#else
#define FH_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- The three domains -----------------------------------------------------------------------
 *
 * Memory with CPython's contracts (PyMem_RawMalloc, PyMem_Malloc, PyObject_Malloc and their
 * families). A domain says what a block is for: raw for anything, mem for buffers, obj for objects.
 * As long as nobody sets an allocator, all three are the same lock-free memory. A block goes back
 * through the domain that it came from. Every block is aligned to 16, or as its heap says
 * (freehold/heap.h). A failure is NULL with errno ENOMEM; nothing else changes.
 */

typedef enum fh_domain { FH_DOMAIN_RAW = 0, FH_DOMAIN_MEM = 1, FH_DOMAIN_OBJ = 2 } fh_domain;

/** A block of at least `bytes`, uninitialised. 0 counts as 1, so that each block is distinct and
 * success is never NULL. Returns NULL with ENOMEM if memory is short or `bytes` > PTRDIFF_MAX. */
FH_API void *fh_raw_malloc(size_t bytes);
FH_API void *fh_mem_malloc(size_t bytes);
FH_API void *fh_obj_malloc(size_t bytes);

/** As fh_raw_malloc(count * bytes), filled with zeros. NULL with ENOMEM if the product overflows.
 */
FH_API void *fh_raw_calloc(size_t count, size_t bytes);
FH_API void *fh_mem_calloc(size_t count, size_t bytes);
FH_API void *fh_obj_calloc(size_t count, size_t bytes);

/** Resize a block, keeping its first min(old, new) bytes.
 *
 * block  a live block; NULL makes this fh_raw_malloc().
 * bytes  0 counts as 1: the block is resized, not freed (as CPython, unlike glibc's realloc).
 *
 * Returns the block, perhaps moved; the old address is then dead. Returns NULL with ENOMEM if
 * memory is short or `bytes` > PTRDIFF_MAX; `block` is then untouched and still the caller's. Any
 * thread may resize any block, but no two the same block at once. */
FH_API void *fh_raw_realloc(void *block, size_t bytes);
FH_API void *fh_mem_realloc(void *block, size_t bytes);
FH_API void *fh_obj_realloc(void *block, size_t bytes);

/** Give a block back, from any thread; NULL does nothing. Preserves errno. A pointer that is not
 * in Freehold's memory is named on stderr and aborts the program. */
FH_API void fh_raw_free(void *block);
FH_API void fh_mem_free(void *block);
FH_API void fh_obj_free(void *block);

/** A block of at least `bytes` of the domain, aligned to `alignment`, a power of two.
 * Returns NULL with EINVAL for any other alignment, for an unknown domain, and for more than 16
 * where an allocator was set, which has no such call; with ENOMEM as fh_raw_malloc(). */
FH_API void *fh_aligned_alloc(fh_domain domain, size_t alignment, size_t bytes);

/** The same of the raw domain. */
FH_API void *fh_raw_aligned_alloc(size_t alignment, size_t bytes);

/** Memory for `count` objects of a type, from mem: NULL with ENOMEM if that is too much.
 * CPython's PyMem_New. */
#define fh_new(type, count) ((type *)fh_new_array((count), sizeof(type)))

/** Resize it; `pointer` is assigned even if the result is NULL, so keep its old value if you
 * need it (CPython's PyMem_Resize). */
#define fh_resize(pointer, type, count)                                                            \
    ((pointer) = (type *)fh_resize_array((pointer), (count), sizeof(type)))

#define fh_del(pointer) fh_mem_free(pointer)

/** What fh_new() and fh_resize() call: fh_mem_malloc() and fh_mem_realloc() of count * bytes,
 * NULL with ENOMEM where the product is more than PTRDIFF_MAX. */
FH_API void *fh_new_array(size_t count, size_t bytes);
FH_API void *fh_resize_array(void *block, size_t count, size_t bytes);

/* ---- Replacing and wrapping a domain ----------------------------------------------------------
 */

/** What a domain's calls go to. Fields and their order are those of CPython's PyMemAllocatorEx.
 * The functions keep the contracts above (but for sizes, which are checked before they are called).
 * Any thread may call them at any time, so long as the program calls the domain from any. */
typedef struct fh_allocator {
    void *context; /* passed to each */
    void *(*malloc)(void *context, size_t bytes);
    void *(*calloc)(void *context, size_t count, size_t bytes);
    void *(*realloc)(void *context, void *block, size_t bytes);
    void (*free)(void *context, void *block);
} fh_allocator;

/** Fill in `out` with what the domain's calls go to now; all NULL for an unknown domain. */
FH_API void fh_get_allocator(fh_domain domain, fh_allocator *out);

/** From now on the domain's calls go to a copy of `allocator`. A call that has begun ends with the
 * one that it began with; none sees parts of both. Blocks that live already will be freed through
 * the new one: unless there are none yet, it has to wrap the one before (fh_get_allocator) and
 * pass on what it does not know. The malloc family does not go through domains. Two threads that
 * set at once leave either. Each distinct allocator takes 48 bytes for ever.
 *
 * Returns 0, or -1 with EINVAL for an unknown domain or a NULL function, ENOMEM if memory is
 * short. Not for signal handlers. */
FH_API int fh_set_allocator(fh_domain domain, const fh_allocator *allocator);

/* ---- Sizes, ownership, memory return --------------------------------------------------------- */

/** How many bytes of a live block may be used, at least what was asked for. 0 for NULL and for
 * memory that is not Freehold's. */
FH_API size_t fh_usable_size(const void *block);

/** 1 if the address lies in memory that Freehold manages, else 0. Never reads what `address` points
 * at; wait-free. CPython's address_in_range. */
FH_API int fh_owns(const void *address);

/** Return every free page to the system now: this thread's caches, all pools that hold no block,
 * and pages without a block in pools that no thread allocates from. Returns how many bytes were
 * returned. Never blocks another thread. */
FH_API size_t fh_trim(void);

/** Give this thread's caches back, so that other threads can use the memory. The thread may go on
 * allocating. Done at thread exit without being asked. */
FH_API void fh_thread_flush(void);

/* ---- Statistics ------------------------------------------------------------------------------ */

/** Sums over all threads. They are read while other threads go on, so each figure is exact only
 * when no other thread is inside the allocator; the equations hold at any time. Much more is in
 * freehold/stats.h.
 *
 *   mapped_bytes = active_bytes + spare_bytes + retained_bytes + purged_bytes
 *   active_bytes = small_pool_bytes + span_bytes + large_pool_bytes + huge_pool_bytes
 *                  + classic_bytes
 *   allocated_bytes + available_bytes + quantization_bytes = active_bytes - classic_bytes
 *
 * Beside mapped_bytes there are metadata_bytes (a lower bound of what is mapped for metadata) and
 * trace_bytes, which no other figure contains. */
typedef struct fh_stats {
    size_t struct_bytes;    /* set by the caller to sizeof(fh_stats); what is beyond stays unset */
    size_t allocated_bytes; /* in blocks that callers hold or that threads keep ready to hand out */
    size_t active_bytes;    /* in pools and spans that hold at least one block, or are a heap's */
    size_t retained_bytes;  /* free, and not yet returned to the system */
    size_t mapped_bytes;    /* address space of all arenas that are open */
    size_t metadata_bytes;  /* descriptors and heaps in use */
    size_t arena_count;     /* arenas that are open */
    size_t heap_count;      /* threads' heaps so far opened: the most threads at once, and a few */

    /* A caller whose struct ends here, from an earlier version, has it filled in up to here. */
    size_t spare_bytes;  /* free runs that threads keep at hand for themselves */
    size_t purged_bytes; /* free, and returned to the system or never touched; also the untouched
                            end of a huge block's last arena */

    size_t small_pool_bytes; /* pools of blocks up to 8 KiB */
    size_t span_bytes;       /* pools side by side for blocks up to 32 KiB */
    size_t large_pool_bytes; /* whole pools of larger blocks */
    size_t huge_pool_bytes;  /* of blocks over 4 MiB: what they may have touched */
    size_t classic_bytes;    /* arenas that heaps made by fh_heap_create() have taken */

    size_t available_bytes; /* in free blocks of pools that hold others */
    size_t
        quantization_bytes;  /* lost behind the last block of a pool, and the end of a large one */
    size_t allocated_blocks; /* that have allocated_bytes together */
    size_t large_blocks;     /* of these, large and huge ones */
    size_t ready_bytes;      /* of allocated_bytes, what the calling thread keeps ready; 0 inside a
                                handler that interrupted a call */

    /* From the kernel; FH_STATS_UNKNOWN if it does not say. A few system calls: some ten
     * microseconds, and about three milliseconds for each GiB that is resident. No page is touched.
     */
    size_t resident_bytes;          /* of mapped_bytes, what is in memory: what smaps calls Rss.
                                       Before Linux 6.7, and without /proc, with pages that were only
                                       ever read */
    size_t metadata_resident_bytes; /* the same of all metadata but trace_bytes */

    size_t reserved_bytes; /* address space from the metadata's begin to the end of the region that
                              arenas are taken from; most of it never touched */
    size_t trace_bytes;    /* tracing's own tables: fh_trace_overhead() */
} fh_stats;

#define FH_STATS_UNKNOWN SIZE_MAX

/** Fill in `out`. Returns 0, or -1 with EINVAL if struct_bytes is not set. */
FH_API int fh_get_stats(fh_stats *out);

/** "0.1.0", as FH_VERSION_MAJOR and so on at the time the library was built. */
FH_API const char *fh_version(void);

#ifdef __cplusplus
}
#endif

#endif
