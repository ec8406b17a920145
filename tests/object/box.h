/* SPDX-License-Identifier: MIT */
/* What tests of objects share: spaces of both modes, and a type whose objects refer to one other
 * and note their end. */
#ifndef BOX_H
#define BOX_H

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <freehold/object.h>

#include "modules.h"

#include "count.h"
#include "end.h"
#include "space.h"
#include "weak.h"

struct box {
    fh_object base;
    struct fh_weak_block *weak;
    fh_object *held; /* dropped at the end */
    uint64_t number;
};

static uint64_t boxes_ended; /* by any thread */

static void end_box(fh_object *self)
{
    struct box *box = (struct box *)self;
    fh_object *held = box->held;
    box->held = NULL;
    __atomic_fetch_add(&boxes_ended, 1, __ATOMIC_RELAXED);
    if (held != NULL)
        fh_decref(held);
}

static fh_type box_type = {
    .name = "box",
    .basic_bytes = sizeof(struct box),
    .weak_offset = offsetof(struct box, weak),
    .dealloc = end_box,
};

/* `held`, or NULL, is stolen. */
static inline fh_object *new_box(fh_object *held)
{
    struct box *box = (struct box *)fh_object_new(&box_type);
    CHECK(box != NULL);
    box->held = held;
    return &box->base;
}

static inline uint64_t ended(void)
{
    return __atomic_load_n(&boxes_ended, __ATOMIC_RELAXED);
}

static inline fh_space *free_space(void)
{
    fh_space *space = fh_space_create(NULL);
    CHECK(space != NULL);
    return space;
}

static inline fh_space *gil_space(void)
{
    fh_space_config config = {.struct_bytes = sizeof config, .gil = fh_gil_builtin()};
    fh_space *space = fh_space_create(&config);
    CHECK(space != NULL);
    return space;
}

static inline void attach(fh_space *space)
{
    CHECK(fh_space_attach(space) == 0);
}

/* No object is left, and no thread. */
static inline void destroy(fh_space *space)
{
    CHECK(fh_space_destroy(space) == 0);
}

static inline int64_t shared_state(const fh_object *object)
{
    return __atomic_load_n(&object->shared, __ATOMIC_RELAXED) & FH_SHARED_STATE;
}

/* ---- Another thread that does things when it is told, attached to the space ---- */

struct worker {
    fh_space *space;
    void (*step)(void *argument);
    void *argument;
    uint32_t turn; /* odd: the worker's */
    uint32_t ends;
    pthread_t thread;
};

static inline void *work(void *argument)
{
    struct worker *worker = argument;
    attach(worker->space);
    while (__atomic_load_n(&worker->ends, __ATOMIC_ACQUIRE) == 0) {
        if ((__atomic_load_n(&worker->turn, __ATOMIC_ACQUIRE) & 1) == 0) {
            sched_yield();
            continue;
        }
        worker->step(worker->argument);
        __atomic_add_fetch(&worker->turn, 1, __ATOMIC_RELEASE);
    }
    if (worker->space == fh_space_current())
        fh_space_detach();
    return NULL;
}

static inline void begin_worker(struct worker *worker, fh_space *space)
{
    memset(worker, 0, sizeof *worker);
    worker->space = space;
    CHECK(pthread_create(&worker->thread, NULL, work, worker) == 0);
}

static inline void let(struct worker *worker, void (*step)(void *argument), void *argument)
{
    worker->step = step;
    worker->argument = argument;
    __atomic_add_fetch(&worker->turn, 1, __ATOMIC_RELEASE);
    while ((__atomic_load_n(&worker->turn, __ATOMIC_ACQUIRE) & 1) != 0)
        sched_yield();
}

static inline void end_worker(struct worker *worker)
{
    __atomic_store_n(&worker->ends, 1, __ATOMIC_RELEASE);
    CHECK(pthread_join(worker->thread, NULL) == 0);
}

static void drop_it(void *object)
{
    fh_decref((fh_object *)object);
}

static void take_it(void *object)
{
    fh_incref((fh_object *)object);
}

static void park_it(void *unused)
{
    (void)unused;
    fh_space_park();
}

static void unpark_it(void *unused)
{
    (void)unused;
    fh_space_unpark();
}

static void look(void *unused)
{
    (void)unused;
    fh_safe_point();
}

/* Of these, a test uses what it needs. */
static inline void box_h_is_used(void)
{
    (void)drop_it, (void)take_it, (void)park_it, (void)unpark_it, (void)look;
}

#endif
