/* SPDX-License-Identifier: MIT */
/* Orders of events that chance seldom brings about: what other threads do just before a certain
 * atomic operation of this one. Two files of the library are compiled in here, with a call in front
 * of their operations. */
#include "box.h"

static __thread void (*before)(const void *word); /* of this thread's operations, or NULL */

static void reach(const void *word)
{
    if (before != NULL)
        before(word);
}

/* clang-format off */
#undef at_load_seq_cst
#undef at_store_relaxed
#undef at_store_seq_cst
#undef at_cas_relaxed
#undef at_cas_seq_cst
#define at_load_seq_cst(at)         (reach(at), __atomic_load_n((at), __ATOMIC_SEQ_CST))
#define at_store_relaxed(at, value) (reach(at), __atomic_store_n((at), (value), __ATOMIC_RELAXED))
#define at_store_seq_cst(at, value) (reach(at), __atomic_store_n((at), (value), __ATOMIC_SEQ_CST))
#define at_cas_relaxed(at, expected, desired)                                                      \
    (reach(at), at_cas_(at, expected, desired, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
#define at_cas_seq_cst(at, expected, desired)                                                      \
    (reach(at), at_cas_(at, expected, desired, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
/* clang-format on */

#include "count.c"
#include "stop.c"

static struct worker other, third;
static struct fh_slot *watched;
static fh_object *boxes[2];
static unsigned steps;

static uint32_t state_of(struct fh_slot *slot)
{
    return __atomic_load_n(&slot->state, __ATOMIC_SEQ_CST);
}

static void stop_world(void *unused)
{
    (void)unused;
    CHECK(fh_space_stop(fh_space_current()));
}

static void resume_world(void *unused)
{
    (void)unused;
    fh_space_resume(fh_space_current());
}

/* ---- A slot that is let go again because the world was stopped ---- */

/* While its state is written: PARKED; HELD again, for what was queued; PARKED, for the stop. */
static void drop_stop_and_drop(const void *word)
{
    if (word != &watched->state)
        return;
    if (++steps == 1) {
        let(&other, drop_it, boxes[0]);
    } else if (steps == 2) {
        let(&other, stop_world, NULL);
    } else if (steps == 3) {
        let(&other, resume_world, NULL);
        let(&other, drop_it, boxes[1]);
    }
}

TEST(what_is_queued_for_a_slot_that_goes_back_for_a_stop_is_merged)
{
    fh_space *space = free_space();
    attach(space);
    boxes[0] = new_box(NULL);
    boxes[1] = new_box(NULL);
    begin_worker(&other, space);
    watched = fh_this_slot;
    before = drop_stop_and_drop;
    fh_space_park();
    before = NULL;
    CHECK(steps > 3 && ended() == 2 && watched->queue == NULL);
    CHECK(__atomic_load_n(&fh_object_attention, __ATOMIC_RELAXED) == 0);
    fh_space_unpark();
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

/* ---- A thread that wants to stop the world while another one does ---- */

static void stop_too(void *unused)
{
    (void)unused;
    CHECK(!fh_space_stop(fh_space_current()));
}

static struct fh_slot *slot_of(const fh_object *object)
{
    return fh_slots[__atomic_load_n(&object->owner, __ATOMIC_RELAXED)];
}

/* When `stopping` is set and no slot asked yet: the other one stops at once, and then the third
 * drops an object of the other's. */
static void let_stop_and_drop(const void *word)
{
    if (word != &fh_space_current()->slots || steps++ > 0)
        return;
    other.step = stop_too;
    __atomic_add_fetch(&other.turn, 1, __ATOMIC_RELEASE);
    while (state_of(watched) != FH_SLOT_STOPPED)
        sched_yield();
    let(&third, drop_it, boxes[0]);
    let(&third, park_it, NULL);
}

static void make_box(void *at)
{
    *(fh_object **)at = new_box(NULL);
}

TEST(what_is_queued_while_a_thread_waits_to_stop_the_world_is_merged_at_its_next_safe_point)
{
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    begin_worker(&third, space);
    let(&other, make_box, &boxes[0]);
    let(&third, look, NULL); /* it is there */
    watched = slot_of(boxes[0]);
    before = let_stop_and_drop;
    CHECK(fh_space_stop(space));
    before = NULL;
    CHECK(ended() == 0);
    fh_space_resume(space);
    while ((__atomic_load_n(&other.turn, __ATOMIC_ACQUIRE) & 1) != 0)
        sched_yield();
    let(&other, look, NULL);
    CHECK(ended() == 1);
    let(&third, unpark_it, NULL);
    end_worker(&third);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

/* ---- An object whose only holder makes it immortal while its owner merges ---- */

static void make_immortal(void *object)
{
    fh_object_make_immortal(object);
}

static void make_it_immortal(const void *word)
{
    if (word == &boxes[0]->owner && steps++ == 0)
        let(&other, make_immortal, boxes[0]);
}

TEST(an_object_that_becomes_immortal_while_it_is_merged_stays_so)
{
    fh_space *space = free_space();
    attach(space);
    boxes[0] = new_box(NULL);
    fh_incref(boxes[0]);
    begin_worker(&other, space);
    let(&other, drop_it, boxes[0]); /* the other one has the second reference still */
    before = make_it_immortal;
    fh_safe_point();
    before = NULL;
    CHECK(steps > 0 && fh_object_is_immortal(boxes[0]));
    fh_decref(boxes[0]); /* nothing */
    CHECK(ended() == 0 && fh_space_live_objects() == 0);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}
