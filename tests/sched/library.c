/* SPDX-License-Identifier: MIT */
/* The files of the library that keep state in static variables, with a door to it: each
 * schedule starts from the same state. The system's thread keys are those of the logical threads.
 */
#define pthread_key_create  sched_key_create
#define pthread_key_delete  sched_key_delete
#define pthread_setspecific sched_setspecific

#include <pthread.h>

#include "freehold/trace.h"
#include "library.h"
#include "stats.h"

#include "allocator.c"
#include "region.c"
#include "thread.c"

/* Of files that are left out. */

size_t fh_trace_overhead(void)
{
    return 0;
}

bool fh_stats_resident(const struct fh_region *region, struct fh_resident *resident)
{
    (void)region;
    memset(resident, 0, sizeof *resident);
    return true;
}

/* Of heaps as objects, which there are none of: what the bottom of the domains refers to. */

FH_THREAD_LOCAL struct fh_heap *fh_heap_of_thread;

void *fh_heap_take_slow(struct fh_heap *heap, size_t bytes)
{
    (void)heap;
    return fh_theap_malloc(bytes);
}

void *fh_heap_take_zeroed(struct fh_heap *heap, size_t bytes)
{
    (void)heap;
    return fh_theap_calloc(bytes);
}

void *fh_heap_resize(struct fh_heap *heap, void *block, size_t bytes)
{
    (void)heap;
    return block == NULL ? fh_theap_malloc(bytes) : fh_theap_realloc(block, bytes == 0 ? 1 : bytes);
}

void fh_heap_give(void *block)
{
    fh_theap_free(block);
}

void fh_heap_give_deferred(void *block)
{
    fh_theap_free(block);
}

size_t fh_address_usable_bytes(const void *block)
{
    return fh_theap_usable_bytes(block);
}

struct fh_classic *fh_classic_of(const void *address)
{
    (void)address;
    return NULL;
}

void *fh_classic_malloc_slow(struct fh_classic *heap, size_t slot)
{
    (void)heap, (void)slot;
    return NULL;
}

void fh_classic_is_empty(struct fh_classic *heap, struct fh_classic_pool *pool)
{
    (void)heap, (void)pool;
}

void library_save(struct library_state *state)
{
    state->base = fh_region_base;
    state->bytes = fh_region_bytes;
    state->descriptors = fh_region_descriptors;
    state->region = published;
    state->exit_key_plus_1 = exit_key_plus_1;
    memcpy(state->allocators, fh_domain_allocators, sizeof state->allocators);
    state->known_allocators = known_allocators;
}

void library_restore(const struct library_state *state)
{
    fh_region_base = state->base;
    fh_region_bytes = state->bytes;
    fh_region_descriptors = state->descriptors;
    published = state->region;
    exit_key_plus_1 = state->exit_key_plus_1;
    memcpy(fh_domain_allocators, state->allocators, sizeof state->allocators);
    known_allocators = state->known_allocators;
}

void library_forget_allocators(void)
{
    memset(fh_domain_allocators, 0, sizeof fh_domain_allocators);
    while (known_allocators != NULL) {
        struct known_allocator *entry = known_allocators;
        known_allocators = entry->next;
        fh_theap_free(entry);
    }
}
