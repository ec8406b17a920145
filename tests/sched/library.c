/* SPDX-License-Identifier: MIT */
/* The files of the library that keep state in static variables, with a door to it: each
 * schedule starts from the same state. The system's thread keys are those of the logical threads.
 */
#define pthread_key_create  sched_key_create
#define pthread_key_delete  sched_key_delete
#define pthread_setspecific sched_setspecific

#include <pthread.h>

#include "library.h"

#include "allocator.c"
#include "region.c"
#include "thread.c"

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
