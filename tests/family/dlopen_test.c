/* SPDX-License-Identifier: MIT */
/* A program that runs on glibc's malloc and loads libfreehold-malloc.so by dlopen(): the two live
 * side by side, and each frees its own blocks. FAMILY_LIBRARY in the environment is its path.
 */
#include "family.h"

#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static struct {
    void *handle;
    void *(*malloc)(size_t bytes);
    void *(*calloc)(size_t count, size_t bytes);
    void *(*realloc)(void *block, size_t bytes);
    void *(*memalign)(size_t alignment, size_t bytes);
    void (*free)(void *block);
    size_t (*malloc_usable_size)(void *block);
    int (*malloc_trim)(size_t pad);
    int (*owns)(const void *address);
} loaded;

/* dlsym() returns an object pointer, which ISO C does not let one cast to a function's. */
static void look_up(void *function, const char *name)
{
    void *address = dlsym(loaded.handle, name);
    CHECK(address != NULL);
    memcpy(function, &address, sizeof address);
}

static void load(void)
{
    const char *path = getenv("FAMILY_LIBRARY");
    CHECK(path != NULL);
    loaded.handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(loaded.handle != NULL);
    look_up(&loaded.malloc, "malloc");
    look_up(&loaded.calloc, "calloc");
    look_up(&loaded.realloc, "realloc");
    look_up(&loaded.memalign, "memalign");
    look_up(&loaded.free, "free");
    look_up(&loaded.malloc_usable_size, "malloc_usable_size");
    look_up(&loaded.malloc_trim, "malloc_trim");
    look_up(&loaded.owns, "fh_owns");
}

static void *take_loaded(size_t step, size_t bytes)
{
    void *block = step % 3 == 0   ? loaded.calloc(1, bytes)
                  : step % 3 == 1 ? loaded.memalign(256, bytes)
                                  : loaded.malloc(bytes);
    CHECK(block != NULL && loaded.owns(block));
    CHECK(loaded.malloc_usable_size(block) >= bytes);
    return block;
}

static void *use_both(void *argument)
{
    enum { slot_count = 100 };
    char *ours[slot_count] = {NULL}, *theirs[slot_count] = {NULL};
    size_t bytes[slot_count] = {0};
    uint64_t state = (uintptr_t)argument;
    for (size_t step = 0; step < 20000; step++) {
        size_t i = family_random(&state, slot_count);
        CHECK(family_intact(ours[i], bytes[i], i) && family_intact(theirs[i], bytes[i], i + 1));
        loaded.free(ours[i]);
        free(theirs[i]);
        bytes[i] = family_random_bytes(&state, step % 100 == 0 ? 1 * MIB : 8 * KIB);
        ours[i] = loaded.realloc(take_loaded(step, bytes[i] / 2 + 1), bytes[i]);
        theirs[i] = malloc(bytes[i]);
        CHECK(loaded.owns(ours[i]) && !loaded.owns(theirs[i]));
        family_fill(ours[i], bytes[i], i);
        family_fill(theirs[i], bytes[i], i + 1);
    }
    for (size_t i = 0; i < slot_count; i++) {
        loaded.free(ours[i]);
        free(theirs[i]);
    }
    return NULL;
}

TEST(two_allocators_live_side_by_side)
{
    unsigned long threads[3];
    load();
    for (uintptr_t i = 0; i < 3; i++)
        threads[i] = family_thread(use_both, (void *)(i + 1));
    for (size_t i = 0; i < 3; i++)
        family_join(threads[i]);
    use_both(NULL);
    loaded.malloc_trim(0);
}

static pthread_barrier_t meeting;

static void *use_then_outlive(void *argument)
{
    use_both(argument);
    pthread_barrier_wait(&meeting); /* here main() closes the library */
    pthread_barrier_wait(&meeting);
    return NULL;
}

TEST(a_thread_may_end_after_the_library_was_closed)
{
    load();
    CHECK(pthread_barrier_init(&meeting, NULL, 2) == 0);
    unsigned long thread = family_thread(use_then_outlive, NULL);
    pthread_barrier_wait(&meeting);
    CHECK(dlclose(loaded.handle) == 0);
    pthread_barrier_wait(&meeting);
    family_join(thread);
}

static const struct family_test tests[] = {
    ENTRY(two_allocators_live_side_by_side),
    ENTRY(a_thread_may_end_after_the_library_was_closed),
};

int main(int argc, char **argv)
{
    return family_run(tests, sizeof tests / sizeof tests[0], argc, argv);
}
