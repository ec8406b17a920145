/* SPDX-License-Identifier: MIT */
/* Sources of arenas. The shared arenas stand here as a source like any other, for callers that wrap
 * it; a heap that has just them takes runs of pools itself (classic/supply.h).
 *
 * What was set is in a record that never changes and stays for ever, so that a heap sees one source
 * and not parts of two.
 */
#include "heap.h"

#include <string.h>

#include "theap.h"

enum { ALIGN_BYTES = FH_CLASSIC_POOL_BYTES_MAX };

static void *set_last;        /* const fh_arena_allocator *; NULL: the shared arenas */
static uint64_t arenas_count; /* of all heaps that brought no source */

static void *shared_alloc(void *context, size_t bytes)
{
    (void)context;
    return fh_theap_aligned(ALIGN_BYTES, bytes);
}

static void shared_free(void *context, void *memory, size_t bytes)
{
    (void)context, (void)bytes;
    fh_theap_free(memory);
}

static bool is_shared(const fh_arena_allocator *source)
{
    return source->alloc == shared_alloc && source->free == shared_free;
}

void fh_get_arena_allocator(fh_arena_allocator *out)
{
    /* [arena-source] acquire: the record. */
    const fh_arena_allocator *set = fh_load_acquire_ptr(&set_last);
    *out = set == NULL ? (fh_arena_allocator){NULL, shared_alloc, shared_free} : *set;
}

static int refuse(int error)
{
    errno = error;
    return -1;
}

int fh_set_arena_allocator(const fh_arena_allocator *allocator)
{
    fh_arena_allocator *record = NULL;
    if (allocator == NULL || allocator->alloc == NULL || allocator->free == NULL)
        return refuse(EINVAL);
    if (fh_load_relaxed_u64(&arenas_count) != 0) /* of the caller's heaps: it knows of them */
        return refuse(EBUSY);
    if (!is_shared(allocator)) {
        record = fh_theap_malloc(sizeof *record);
        if (record == NULL)
            return refuse(ENOMEM);
        *record = *allocator;
    }
    /* [arena-source] release: the record. */
    fh_store_release_ptr(&set_last, record);
    return 0;
}

struct fh_classic_source fh_source_of(const fh_arena_allocator *brought)
{
    fh_arena_allocator source = *brought;
    if (source.alloc == NULL)
        fh_get_arena_allocator(&source);
    if (is_shared(&source))
        return (struct fh_classic_source){0};
    return (struct fh_classic_source){source.context, source.alloc, source.free};
}

/* Relaxed, both: a count. */
void fh_source_count_arena(void)
{
    (void)fh_fetch_add_relaxed_u64(&arenas_count, 1);
}

void fh_source_uncount_arena(void)
{
    (void)fh_fetch_add_relaxed_u64(&arenas_count, UINT64_MAX);
}
