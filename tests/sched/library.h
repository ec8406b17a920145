/* SPDX-License-Identifier: MIT */
#ifndef SCHED_LIBRARY_H
#define SCHED_LIBRARY_H

#include <pthread.h>
#include <stdint.h>

/* The library's static variables. */
struct library_state {
    uint64_t base, bytes;
    void *descriptors, *region;
    uint32_t exit_key_plus_1;
    void *allocators[3], *known_allocators;
};

void library_save(struct library_state *state);
void library_restore(const struct library_state *state);

/* The library keeps each allocator that was set for ever; this frees them. */
void library_forget_allocators(void);

/* Instead of pthread's. */
int sched_key_create(pthread_key_t *key, void (*destructor)(void *value));
int sched_key_delete(pthread_key_t key);
int sched_setspecific(pthread_key_t key, const void *value);

#endif
