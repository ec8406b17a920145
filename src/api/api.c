/* SPDX-License-Identifier: MIT */
/* The part of freehold.h that is about the allocator as a whole. */
#include "freehold.h"

#include "grow.h"
#include "heap.h"
#include "theap.h"
#include "holder.h"
#include "purge.h"
#include "sparse.h"
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
    return fh_region_find((uintptr_t)address, &pool_index) || fh_classic_of(address) != NULL;
}

size_t fh_usable_size(const void *block)
{
    return fh_address_usable_bytes(block);
}

static void drain_own_heap(void)
{
    struct fh_theap *heap = fh_theap_of_thread();
    if (fh_theap_is_busy(heap))
        return; /* there is none, or it is in use below this handler */
    heap = fh_theap_enter();
    fh_theap_drain(heap);
    fh_theap_leave(heap);
}

void fh_thread_flush(void)
{
    bool was_hidden = fh_theap_show();
    drain_own_heap();
    fh_theap_hide(was_hidden);
}

size_t fh_trim(void)
{
    struct fh_region *region = fh_region_peek();
    if (region == NULL)
        return 0;
    fh_thread_flush();
    fh_holder_release_dead(region);
    size_t bytes = fh_sparse_trim(region);
    bytes += fh_purge(region, 0, ~0u);
    (void)fh_grow_vacate(region);
    return bytes;
}
