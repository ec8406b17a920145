/* SPDX-License-Identifier: MIT */
/* The work of freehold-objects, compiled for either side: on the object library, and on CPython
 * through its C API (WORK_ON_CPYTHON). What differs is in the side's header; the loops are the
 * same.
 *
 *     freehold-objects-<side> MODE THREADS CASE SECONDS
 *
 * prints how many operations all threads did in a second, and how many in a second of processor
 * time. Each thread has data of its own.
 */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(WORK_ON_CPYTHON)
#include "side_cpython.h"
#else
#include "side_freehold.h"
#endif

enum { BATCH = 1000, THREADS_MAX = 64, TEXT_BYTES = 64 };

_Noreturn static void fail(const char *what)
{
    fprintf(stderr, "freehold-objects: %s\n", what);
    exit(1);
}

static object *made(object *result)
{
    if (result == NULL)
        fail("out of memory");
    return result;
}

/* What a thread works on: made before the clock runs. */
struct worker {
    pthread_t thread;
    object *batch[BATCH];
    object *values[BATCH]; /* integers */
    object *keys[BATCH];   /* strings */
    char text[TEXT_BYTES];
    size_t step; /* differs from call to call */
    size_t operations;
    double seconds, processor_seconds; /* that they took */
};

/* ---- The cases: each does its work once and returns how many operations that was ---- */

static size_t ints(struct worker *self)
{
    for (size_t i = 0; i < BATCH; i++)
        self->batch[i] = made(make_int((long)(i * 7919 + 100000)));
    for (size_t i = 0; i < BATCH; i++)
        drop(self->batch[i]);
    safe_point();
    return BATCH;
}

static size_t strings(struct worker *self)
{
    for (size_t i = 0; i < BATCH; i++)
        self->batch[i] = made(make_string(self->text, 2 + i * 7 % (TEXT_BYTES - 2)));
    for (size_t i = 0; i < BATCH; i++)
        drop(self->batch[i]);
    safe_point();
    return BATCH;
}

static object *list_of(struct worker *self, size_t count)
{
    object *list = made(make_list());
    for (size_t i = 0; i < count; i++)
        if (list_append(list, self->values[i]) != 0)
            fail("list");
    return list;
}

static size_t lists_of(struct worker *self, size_t count)
{
    drop(list_of(self, count));
    safe_point();
    return count;
}

static size_t lists10(struct worker *self)
{
    return lists_of(self, 10);
}

static size_t lists1000(struct worker *self)
{
    return lists_of(self, 1000);
}

static object *dict_of(struct worker *self, size_t count)
{
    object *dict = made(make_dict());
    for (size_t i = 0; i < count; i++)
        if (dict_set(dict, self->keys[i], self->values[i]) != 0)
            fail("dict");
    return dict;
}

/* Insert all, look each up, delete half of them. */
static size_t dicts_of(struct worker *self, size_t count)
{
    object *dict = dict_of(self, count);
    for (size_t i = 0; i < count; i++)
        if (dict_get(dict, self->keys[i]) != self->values[i])
            fail("a wrong value");
    for (size_t i = 0; i < count; i += 2)
        if (dict_delete(dict, self->keys[i]) != 0)
            fail("no such key");
    drop(dict);
    safe_point();
    return count * 5 / 2;
}

static size_t dicts8(struct worker *self)
{
    return dicts_of(self, 8);
}

static size_t dicts1000(struct worker *self)
{
    return dicts_of(self, 1000);
}

/* A tree whose nodes refer to their parents: garbage of one cycle once its root is dropped. */
static object *grow_tree(object *parent, unsigned depth)
{
    object *node = made(make_node(parent));
    for (unsigned side = 0; side < 2 && depth > 0; side++)
        node_set_child(node, side, grow_tree(node, depth - 1));
    return node;
}

static size_t trees(struct worker *self)
{
    (void)self;
    enum { DEPTH = 5 };
    drop(grow_tree(NULL, DEPTH));
    safe_point();
    return (2u << DEPTH) - 1;
}

/* A document: a dict of lists of new integers and strings; each fourth is one of a cycle. */
static size_t mixed(struct worker *self)
{
    enum { LISTS = 6, ITEMS = 8 };
    object *document = made(make_dict());
    for (size_t i = 0; i < LISTS; i++) {
        object *list = made(make_list());
        for (size_t k = 0; k < ITEMS; k++) {
            object *item = k % 2 == 0 ? made(make_int((long)(k + 1000 * i + 1000)))
                                      : made(make_string(self->text, 5 + 3 * k));
            (void)list_append(list, item);
            drop(item);
        }
        if (i == 0 && self->step++ % 4 == 0)
            (void)list_append(list, document);
        (void)dict_set(document, self->keys[i], list);
        drop(list);
    }
    drop(document);
    safe_point();
    return 1 + LISTS * (1 + ITEMS);
}

static const struct {
    const char *name;
    size_t (*run)(struct worker *self);
} cases[] = {
    {"ints", ints},     {"strings", strings},     {"lists10", lists10}, {"lists1000", lists1000},
    {"dicts8", dicts8}, {"dicts1000", dicts1000}, {"trees", trees},     {"mixed", mixed},
};

/* ---- Running ---- */

static size_t (*run_case)(struct worker *self);
static pthread_barrier_t start;
static double seconds_to_run;

static double now_seconds(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void prepare(struct worker *self)
{
    char key[32];
    memset(self->text, 'x', sizeof(self->text));
    for (size_t i = 0; i < BATCH; i++) {
        self->values[i] = made(make_int((long)(1000000 + i)));
        self->keys[i] = made(make_string(key, (size_t)sprintf(key, "key %zu", i)));
    }
}

static void finish(struct worker *self)
{
    for (size_t i = 0; i < BATCH; i++) {
        drop(self->values[i]);
        drop(self->keys[i]);
    }
}

static void run_for(struct worker *self, double seconds)
{
    enum { CALLS = 64 }; /* between two looks at the clock */
    double begin = now_seconds(CLOCK_MONOTONIC), begin_cpu = now_seconds(CLOCK_THREAD_CPUTIME_ID);
    self->operations = 0;
    do {
        for (size_t i = 0; i < CALLS; i++)
            self->operations += run_case(self);
        self->seconds = now_seconds(CLOCK_MONOTONIC) - begin;
    } while (self->seconds < seconds);
    self->processor_seconds = now_seconds(CLOCK_THREAD_CPUTIME_ID) - begin_cpu;
}

static void *run_worker(void *argument)
{
    struct worker *self = argument;
    side_attach();
    prepare(self);
    run_for(self, seconds_to_run / 10);
    side_wait(&start);
    run_for(self, seconds_to_run);
    finish(self);
    side_detach();
    return NULL;
}

/* All threads' speeds are added, each by its own clock. */
static void run_all(unsigned thread_count)
{
    double speed = 0, processor_speed = 0;
    struct worker *workers = calloc(thread_count, sizeof(*workers));
    pthread_barrier_init(&start, NULL, thread_count);
    for (unsigned i = 0; i < thread_count; i++)
        if (workers == NULL ||
            pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]) != 0)
            fail("no threads");
    for (unsigned i = 0; i < thread_count; i++) {
        pthread_join(workers[i].thread, NULL);
        speed += (double)workers[i].operations / workers[i].seconds;
        processor_speed += (double)workers[i].operations / workers[i].processor_seconds;
    }
    printf("%.0f %.0f\n", speed, processor_speed);
    free(workers);
}

int main(int count, char **arguments)
{
    unsigned thread_count = count == 5 ? (unsigned)atoi(arguments[2]) : 0;
    seconds_to_run = count == 5 ? atof(arguments[4]) : 0;
    for (size_t i = 0; count == 5 && i < sizeof(cases) / sizeof(cases[0]); i++)
        if (strcmp(cases[i].name, arguments[3]) == 0)
            run_case = cases[i].run;
    if (run_case == NULL || thread_count == 0 || thread_count > THREADS_MAX ||
        seconds_to_run <= 0 || !side_open(arguments[1]))
        fail("usage: MODE THREADS CASE SECONDS");
    run_all(thread_count);
    return side_close() ? 0 : 1;
}
