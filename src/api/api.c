/* SPDX-License-Identifier: MIT */
/* The part of freehold.h that is about the allocator as a whole. */
#include "freehold.h"

#include <errno.h>

#include "grow.h"
#include "theap.h"
#include "holder.h"
#include "purge.h"
#include "stats.h"
#include "thread.h"

#define STRING(token)                #token
#define VERSION(major, minor, patch) STRING(major) "." STRING(minor) "." STRING(patch)

const char *fh_version(void)
{
    return VERSION(FH_VERSION_MAJOR, FH_VERSION_MINOR, FH_VERSION_PATCH);
}

int fh_owns(const void *address)
{
    size_t pool_index;
    return fh_region_find((uintptr_t)address, &pool_index);
}

size_t fh_usable_size(const void *block)
{
    return fh_theap_usable_bytes(block);
}

void fh_thread_flush(void)
{
    struct fh_theap *heap = fh_theap_of_thread();
    if (fh_theap_is_busy(heap))
        return; /* there is none, or it is in use below this handler */
    heap = fh_theap_enter();
    fh_theap_drain(heap);
    fh_theap_leave(heap);
}

size_t fh_trim(void)
{
    struct fh_region *region = fh_region_peek();
    if (region == NULL)
        return 0;
    fh_thread_flush();
    fh_holder_release_dead(region);
    size_t bytes = fh_purge(region, 0, ~0u);
    (void)fh_grow_vacate(region);
    return bytes;
}

int fh_get_stats(fh_stats *out)
{
    if (out == NULL || out->struct_bytes < sizeof *out) {
        errno = EINVAL;
        return -1;
    }
    struct fh_sums sums = fh_stats_sum();
    out->allocated_bytes = sums.allocated_bytes;
    out->active_bytes = sums.active_bytes;
    out->retained_bytes = sums.retained_bytes;
    out->mapped_bytes = sums.mapped_bytes;
    out->metadata_bytes = sums.metadata_bytes;
    out->arena_count = sums.arena_count;
    out->heap_count = sums.heap_count;
    return 0;
}
