/* SPDX-License-Identifier: MIT */
/* A program with an interpreter lock: its objects come from a heap that trusts whoever holds the
 * lock, and so needs none of its own. Three threads interpret; each gives the lock up around what
 * may block, and when another has waited for long. A fourth one has no lock, and hands over what it
 * wants to be rid of. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <freehold.h>
#include <freehold/gil.h>
#include <freehold/heap.h>

enum { INTERPRETERS = 3, STEPS = 20000, KEPT = 100 };

struct object {
    struct object *next;
    long value;
};

static const fh_gil *gil;
static fh_heap *heap;
static long sum;               /* the lock's holder */
static struct object *dropped; /* the lock's holder, until there is nobody else */

/* A call that may block: others interpret meanwhile. */
static void block_for_a_while(void)
{
    const struct timespec moment = {0, 100000};
    size_t times = fh_gil_save(gil);
    (void)nanosleep(&moment, NULL);
    fh_gil_restore(gil, times);
}

static struct object *interpret(int step, struct object *kept)
{
    struct object *object = fh_obj_malloc(sizeof *object);
    if (object == NULL)
        abort();
    *object = (struct object){kept, step};
    sum += object->value;
    if (step % KEPT != KEPT - 1) {
        fh_obj_free(object);
        return kept;
    }
    return object;
}

static void drop(struct object *list)
{
    while (list != NULL) {
        struct object *next = list->next;
        list->next = dropped;
        dropped = list;
        list = next;
    }
}

static void *run_interpreter(void *unused)
{
    struct object *kept = NULL;
    (void)fh_heap_set_current(heap);
    fh_gil_acquire(gil);
    for (int step = 0; step < STEPS; step++) {
        kept = interpret(step, kept);
        (void)fh_gil_check(gil);
        if (step % 1000 == 0)
            block_for_a_while();
    }
    drop(kept);
    fh_gil_release(gil);
    return unused;
}

/* Knows nothing of the lock, and needs none to give objects back. */
static void *run_finalizer(void *list)
{
    struct object *next;
    for (struct object *object = list; object != NULL; object = next) {
        next = object->next;
        fh_obj_free_deferred(object);
    }
    return NULL;
}

static int run_thread(pthread_t *thread, void *(*run)(void *argument), void *argument)
{
    return pthread_create(thread, NULL, run, argument);
}

int main(void)
{
    const fh_heap_config config = {.struct_bytes = sizeof config, .mode = FH_OBJ_GIL_ASSERT};
    fh_heap_stats stats = {.struct_bytes = sizeof stats};
    pthread_t threads[INTERPRETERS], finalizer;
    gil = fh_gil_builtin();
    heap = fh_heap_create(&config);
    if (heap == NULL)
        return EXIT_FAILURE;
    for (int i = 0; i < INTERPRETERS; i++)
        if (run_thread(&threads[i], run_interpreter, NULL) != 0)
            return EXIT_FAILURE;
    for (int i = 0; i < INTERPRETERS; i++)
        (void)pthread_join(threads[i], NULL);
    if (run_thread(&finalizer, run_finalizer, dropped) != 0)
        return EXIT_FAILURE;
    (void)pthread_join(finalizer, NULL);

    fh_gil_acquire(gil);
    printf("sum %ld\n", sum);
    printf("freed without the lock: %zu\n", fh_heap_drain(heap));
    (void)fh_heap_get_stats(heap, &stats);
    printf("live: %zu\n", stats.live_blocks);
    fh_gil_release(gil);
    return fh_heap_destroy(heap, 0) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
