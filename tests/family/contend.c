/* SPDX-License-Identifier: MIT */
/* Threads that do nothing but allocate, for strace: whatever system call they make between the two
 * getppid() is the allocator's. So a futex there is a lock. (run.sh, stage `library`)
 *
 * They begin before the first mark and wait by spinning. Between the marks lie each thread's first
 * call and its last, and what the allocator does when a thread ends; what libc does to start and
 * end a thread does not.
 */
#include "family.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { THREADS = 4, SLOTS = 64, STEPS = 30000, HUGE_STEP = 512, TRIM_STEP = 8192 };

static _Atomic(char *) exchange[SLOTS]; /* each frees what others allocated */
static atomic_uint ready, drained;
static atomic_bool begin, end;
static pthread_key_t last_key;

static char *take(uint64_t *state, size_t bytes)
{
    switch (family_random(state, 4)) {
    case 0:
        return calloc(1, bytes);
    case 1:
        return aligned_alloc(256, (bytes + 255) / 256 * 256);
    case 2:
        return realloc(malloc(bytes), 2 * bytes);
    default:
        return malloc(bytes);
    }
}

static void contend(uint64_t state)
{
    for (size_t step = 1; step <= STEPS; step++) {
        size_t most = step % HUGE_STEP == 0 ? 6 * MIB : 32 * KIB;
        char *block = take(&state, family_random_bytes(&state, most));
        CHECK(block != NULL);
        block[0] = 1;
        free(atomic_exchange(&exchange[family_random(&state, SLOTS)], block));
        if (step % TRIM_STEP == 0)
            malloc_trim(0);
    }
}

/* The allocator's key is older than this one, so that its destructor has run. */
static void stay(void *argument)
{
    (void)argument;
    atomic_fetch_add(&drained, 1);
    while (!atomic_load(&end))
        ;
}

static void *run(void *argument)
{
    atomic_fetch_add(&ready, 1);
    while (!atomic_load(&begin))
        ;
    contend((uintptr_t)argument);
    CHECK(pthread_setspecific(last_key, argument) == 0);
    return NULL;
}

static void mark(void)
{
    (void)syscall(SYS_getppid);
}

int main(void)
{
    unsigned long threads[THREADS];
    free(malloc(1));
    CHECK(pthread_key_create(&last_key, stay) == 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        threads[i] = family_thread(run, (void *)(i + 1));
    while (atomic_load(&ready) < THREADS)
        ;
    mark();
    atomic_store(&begin, true);
    while (atomic_load(&drained) < THREADS)
        ;
    mark();
    atomic_store(&end, true);
    for (size_t i = 0; i < THREADS; i++)
        family_join(threads[i]);
    return 0;
}
