/* SPDX-License-Identifier: MIT */
/* Spaces: attaching, parking, destroying, stopping the world, forking. */
#include "box.h"

#include <sys/wait.h>
#include <unistd.h>

/* ---- Attaching ---- */

TEST(a_config_of_an_unknown_size_is_refused)
{
    fh_space_config config = {0};
    errno = 0;
    CHECK(fh_space_create(&config) == NULL && errno == EINVAL);
}

TEST(attaching_counts_and_only_one_space_at_a_time)
{
    fh_space *space = free_space(), *other = free_space();
    CHECK(fh_space_current() == NULL);
    fh_space_detach(); /* nothing */
    attach(space);
    attach(space);
    errno = 0;
    CHECK(fh_space_attach(other) == -1 && errno == EBUSY && fh_space_current() == space);
    fh_space_detach();
    CHECK(fh_space_current() == space && fh_this_slot != NULL);
    fh_space_detach();
    CHECK(fh_space_current() == NULL && fh_this_slot == NULL);
    attach(other);
    fh_space_detach();
    destroy(space);
    destroy(other);
}

TEST(parking_counts_and_a_parked_thread_cannot_attach)
{
    fh_space *spaces[2] = {free_space(), gil_space()};
    for (unsigned i = 0; i < 2; i++) {
        attach(spaces[i]);
        fh_space_park();
        fh_space_park();
        errno = 0;
        CHECK(fh_space_attach(spaces[i]) == -1 && errno == EBUSY);
        fh_space_unpark();
        CHECK(fh_this_slot == NULL);
        fh_space_unpark();
        CHECK(fh_this_slot != NULL);
        fh_space_unpark(); /* nothing */
        fh_space_detach();
        destroy(spaces[i]);
    }
}

TEST(attached_is_who_holds_the_lock)
{
    fh_space *space = gil_space();
    CHECK(!fh_gil_held(fh_gil_builtin()));
    attach(space);
    CHECK(fh_gil_held(fh_gil_builtin()));
    fh_space_park();
    CHECK(!fh_gil_held(fh_gil_builtin()));
    fh_space_unpark();
    CHECK(fh_gil_held(fh_gil_builtin()));
    fh_space_detach();
    CHECK(!fh_gil_held(fh_gil_builtin()));
    destroy(space);
}

TEST(a_spaces_heap_is_current_while_attached_and_not_parked)
{
    fh_heap_config configs[3] = {{.struct_bytes = sizeof *configs},
                                 {.struct_bytes = sizeof *configs, .mode = FH_OBJ_GIL_ASSERT},
                                 {.struct_bytes = sizeof *configs, .mode = FH_OBJ_GIL_LOCK}};
    for (unsigned i = 0; i < 3; i++) {
        fh_heap *heap = fh_heap_create(&configs[i]);
        fh_space_config config = {.struct_bytes = sizeof config, .heap = heap};
        fh_space *space = fh_space_create(&config);
        attach(space);
        CHECK(fh_heap_current() == heap);
        fh_object *box = new_box(NULL);
        CHECK(fh_heap_of(box) == heap);
        fh_space_park();
        CHECK(fh_heap_current() == fh_heap_default());
        fh_space_unpark();
        fh_decref(box);
        fh_space_detach();
        CHECK(fh_heap_current() == fh_heap_default());
        destroy(space);
        CHECK(fh_heap_destroy(heap, 0) == 0); /* nothing of the space is left in it */
    }
}

/* ---- Destroying ---- */

TEST(a_space_with_a_thread_or_an_object_is_busy)
{
    fh_space *space = free_space();
    attach(space);
    fh_object *box = new_box(NULL);
    errno = 0;
    CHECK(fh_space_destroy(space) == -1 && errno == EBUSY);
    fh_space_detach();
    errno = 0;
    CHECK(fh_space_destroy(space) == -1 && errno == EBUSY);
    attach(space); /* it is as usable as before */
    CHECK(fh_refcount(box) == 1);
    fh_decref(box);
    fh_space_detach();
    destroy(space);
}

static void attach_and_detach(void *space)
{
    attach(space);
    fh_decref(new_box(NULL));
    fh_space_detach();
}

TEST(later_spaces_use_the_slots_of_earlier_ones)
{
    for (unsigned i = 0; i < 100; i++) {
        fh_space *space = free_space();
        attach(space);
        elsewhere(attach_and_detach, space);
        fh_space_detach();
        destroy(space);
    }
    CHECK(fh_slots_count() <= 4);
}

static void attach_together(unsigned number, void *space)
{
    (void)number;
    struct bound bound = at_most(2000);
    while (more(&bound)) {
        attach(space);
        fh_object *box = new_box(NULL);
        CHECK(box->owner == fh_object_this_owner);
        fh_decref(box);
        fh_space_detach();
    }
}

TEST(threads_that_attach_at_once_have_slots_of_their_own)
{
    fh_space *space = free_space();
    together(4, attach_together, space);
    CHECK(fh_slots_count() <= 6);
    destroy(space);
}

/* ---- Stopping ---- */

static struct {
    fh_space *space;
    uint32_t ends, steps, stops;
    uint32_t is_stopped;
} world;

/* Runs, parks, leaves and comes back, and must not do anything while the world is stopped. */
static void live(unsigned number, void *shared)
{
    (void)shared;
    uint64_t seed = number + 1;
    attach(world.space);
    while (__atomic_load_n(&world.ends, __ATOMIC_RELAXED) == 0) {
        CHECK(__atomic_load_n(&world.is_stopped, __ATOMIC_RELAXED) == 0);
        fh_decref(new_box(NULL));
        __atomic_fetch_add(&world.steps, 1, __ATOMIC_RELAXED);
        CHECK(__atomic_load_n(&world.is_stopped, __ATOMIC_RELAXED) == 0);
        uint32_t what = random_below(&seed, 50);
        if (what == 0)
            fh_space_park(), fh_space_unpark();
        else if (what == 1)
            fh_space_detach(), attach(world.space);
        else
            fh_safe_point();
    }
    fh_space_detach();
}

static void stop_it(void)
{
    struct bound bound = at_most(2000);
    while (__atomic_load_n(&world.steps, __ATOMIC_RELAXED) == 0)
        sched_yield();
    attach(world.space);
    while (more(&bound)) {
        if (!fh_space_stop(world.space))
            continue;
        __atomic_store_n(&world.is_stopped, 1, __ATOMIC_RELAXED);
        uint32_t steps = __atomic_load_n(&world.steps, __ATOMIC_RELAXED);
        for (volatile unsigned i = 0; i < 1000; i++)
            ;
        CHECK(__atomic_load_n(&world.steps, __ATOMIC_RELAXED) == steps);
        __atomic_store_n(&world.is_stopped, 0, __ATOMIC_RELAXED);
        fh_space_resume(world.space);
        world.stops++;
        fh_safe_point();
    }
    fh_space_detach();
    __atomic_store_n(&world.ends, 1, __ATOMIC_RELAXED);
}

static void live_or_stop(unsigned number, void *shared)
{
    if (number == 0)
        stop_it();
    else
        live(number, shared);
}

TEST(nobody_runs_while_the_world_is_stopped)
{
    world.space = free_space();
    together(4, live_or_stop, NULL);
    CHECK(world.stops > 0 && world.steps > 0);
    CHECK(fh_object_attention == 0);
    destroy(world.space);
}

static void stop_often(unsigned number, void *shared)
{
    (void)number, (void)shared;
    struct bound bound = at_most(500);
    attach(world.space);
    while (more(&bound)) {
        if (fh_space_stop(world.space)) {
            CHECK(__atomic_exchange_n(&world.is_stopped, 1, __ATOMIC_RELAXED) == 0);
            __atomic_store_n(&world.is_stopped, 0, __ATOMIC_RELAXED);
            fh_space_resume(world.space);
            __atomic_fetch_add(&world.stops, 1, __ATOMIC_RELAXED);
        }
        fh_safe_point();
    }
    fh_space_detach();
}

TEST(of_those_who_stop_the_world_at_once_one_does)
{
    world.space = free_space();
    together(3, stop_often, NULL);
    CHECK(world.stops > 0 && fh_object_attention == 0);
    destroy(world.space);
}

TEST(a_parked_thread_is_not_waited_for)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    let(&other, park_it, NULL);
    CHECK(fh_space_stop(space));
    fh_space_resume(space);
    let(&other, unpark_it, NULL);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

static void make_chain(void *at)
{
    *(fh_object **)at = new_box(new_box(NULL));
}

static void make_alone(void *at)
{
    *(fh_object **)at = new_box(NULL);
}

TEST(queues_of_all_slots_can_be_drained_while_the_world_is_stopped)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *box = NULL;
    let(&other, make_chain, &box);
    fh_decref(box); /* queued: the other one does not look */
    CHECK(ended() == 0);
    let(&other, park_it, NULL); /* it merges them itself */
    CHECK(ended() == 2);
    let(&other, unpark_it, NULL);
    let(&other, make_alone, &box);
    struct fh_slot *slot = fh_slots[box->owner];
    fh_decref(box);
    CHECK(slot->queue != NULL && slot->asked == 1);
    fh_space_drain_all(space); /* as if it were stopped: it does not touch objects now */
    fh_object_run_later();
    CHECK(ended() == 3 && slot->queue == NULL);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

/* ---- Leaving, and code of types meanwhile ---- */

static void attach_as_library(fh_object *self)
{
    fh_space *space = fh_space_current();
    CHECK(space != NULL && fh_space_attach(space) == 0);
    fh_space_detach();
    fh_space_park(); /* counts for nothing here */
    fh_space_unpark();
    CHECK(fh_this_slot != NULL);
    end_box(self);
}

static fh_type library_type = {.name = "library",
                               .basic_bytes = sizeof(struct box),
                               .weak_offset = offsetof(struct box, weak),
                               .dealloc = attach_as_library};

TEST(what_ends_while_its_thread_leaves_may_attach_and_detach)
{
    struct worker other;
    fh_space *space = free_space();
    begin_worker(&other, space);
    for (unsigned i = 0; i < 2; i++) {
        attach(space);
        struct box *outer = (struct box *)fh_object_new(&library_type);
        let(&other, drop_it, &outer->base); /* queued: it ends when this thread leaves */
        CHECK(ended() == i);
        if (i == 1)
            fh_space_park();
        if (i == 1)
            fh_space_unpark();
        fh_space_detach();
        CHECK(ended() == i + 1 && fh_space_current() == NULL && fh_this_slot == NULL);
    }
    end_worker(&other);
    destroy(space);
}

/* For sanitizers: the last thread to go does not look at the space once it may be destroyed. */
static void leave_at_last(unsigned number, void *shared)
{
    fh_space *space = shared;
    if (number == 0)
        attach_and_detach(space);
    else
        while (ended() == 0 || fh_space_destroy(space) != 0)
            sched_yield();
}

TEST(a_space_may_be_destroyed_as_soon_as_it_is_not_busy)
{
    struct bound bound = at_most(200);
    while (more(&bound)) {
        __atomic_store_n(&boxes_ended, 0, __ATOMIC_RELAXED);
        together(2, leave_at_last, free_space());
    }
}

/* ---- fork ---- */

static void check_child(pid_t child)
{
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* As threads that are gone may have left it: the slot borrowed, something in another one's queue,
 * and a slot asked that is not counted yet. */
TEST(a_parked_thread_may_fork_whatever_others_were_doing_with_slots)
{
    struct worker other;
    fh_space *space = free_space();
    begin_worker(&other, space);
    attach(space);
    fh_object *box = new_box(NULL), *mine = new_box(NULL);
    struct fh_slot *slot = fh_this_slot;
    let(&other, take_it, mine);
    fh_space_park();
    pid_t child = fork();
    if (child == 0) {
        slot->state = FH_SLOT_BORROWED_PARKED;
        slot->asked = 1;
        fh_space_after_fork_child(space);
        fh_space_unpark();
        CHECK(fh_this_slot == slot);
        CHECK(__atomic_load_n(&fh_object_attention, __ATOMIC_RELAXED) == slot->asked);
        fh_decref(box);
        CHECK(ended() == 1);
        _exit(0);
    }
    check_child(child);
    fh_space_unpark();
    fh_decref(box);
    let(&other, drop_it, mine);
    fh_decref(mine);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

static void drop_for_ever(unsigned number, void *shared)
{
    fh_object **boxes = shared;
    uint64_t seed = number + 1;
    attach(world.space);
    while (__atomic_load_n(&world.ends, __ATOMIC_RELAXED) == 0) {
        fh_object *old =
            __atomic_exchange_n(&boxes[random_below(&seed, 8)], new_box(NULL), __ATOMIC_ACQ_REL);
        fh_xdecref(old);
        fh_safe_point();
        __atomic_fetch_add(&world.steps, 1, __ATOMIC_RELAXED);
    }
    fh_space_detach();
}

static void use_in_child(fh_object **boxes)
{
    fh_space_after_fork_child(world.space);
    for (unsigned i = 0; i < 8; i++)
        fh_xdecref(__atomic_exchange_n(&boxes[i], NULL, __ATOMIC_RELAXED));
    uint64_t before = ended();
    fh_decref(new_box(new_box(NULL)));
    CHECK(ended() == before + 2);
    CHECK(fh_space_stop(world.space)); /* nobody is waited for */
    fh_space_resume(world.space);
    attach_and_detach(world.space);
    _exit(0);
}

static void fork_some(fh_object **boxes)
{
    struct bound bound = at_most(20);
    attach(world.space);
    while (more(&bound)) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0)
            use_in_child(boxes);
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == 0);
        fh_safe_point();
    }
    fh_space_detach();
    __atomic_store_n(&world.ends, 1, __ATOMIC_RELAXED);
}

static void fork_or_drop(unsigned number, void *shared)
{
    if (number == 0)
        fork_some(shared);
    else
        drop_for_ever(number, shared);
}

TEST(the_child_of_a_fork_goes_on_alone)
{
    static fh_object *boxes[8];
    world.space = free_space();
    together(3, fork_or_drop, boxes);
    attach(world.space);
    for (unsigned i = 0; i < 8; i++)
        fh_xdecref(boxes[i]);
    fh_space_detach();
    destroy(world.space);
}

TEST(the_child_of_a_fork_holds_the_lock_as_its_parent_did)
{
    fh_space *space = gil_space();
    attach(space);
    fh_object *box = new_box(NULL);
    pid_t child = fork();
    if (child == 0) {
        fh_space_after_fork_child(space);
        fh_decref(box);
        CHECK(ended() == 1);
        fh_space_detach();
        destroy(space);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    fh_decref(box);
    fh_space_detach();
    destroy(space);
}

TEST(a_space_with_a_parked_thread_is_busy_in_a_gil_mode_too)
{
    struct worker other;
    fh_space *space = gil_space();
    begin_worker(&other, space);
    let(&other, park_it, NULL);
    attach(space);
    fh_space_detach();
    errno = 0;
    CHECK(fh_space_destroy(space) == -1 && errno == EBUSY);
    let(&other, unpark_it, NULL);
    end_worker(&other);
    destroy(space);
}

TEST(a_thread_that_is_not_attached_may_fork_if_no_other_is)
{
    fh_space *space = free_space();
    attach_and_detach(space);
    pid_t child = fork();
    if (child == 0) {
        fh_space_after_fork_child(space);
        attach_and_detach(space);
        destroy(space);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    destroy(space);
}
