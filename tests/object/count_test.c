/* SPDX-License-Identifier: MIT */
/* Reference counts: each transition of fh_object.shared, queues, and threads that hand over. */
#include "box.h"

#include <stdio.h>

/* ---- One thread ---- */

TEST(the_last_local_reference_ends_an_object_at_once)
{
    fh_space *spaces[2] = {free_space(), gil_space()};
    for (unsigned i = 0; i < 2; i++) {
        attach(spaces[i]);
        fh_object *box = new_box(NULL);
        fh_incref(box);
        CHECK(fh_refcount(box) == 2);
        fh_decref(box);
        CHECK(fh_refcount(box) == 1 && ended() == i);
        fh_decref(box);
        CHECK(ended() == i + 1);
        fh_space_detach();
        destroy(spaces[i]);
    }
}

TEST(the_function_forms_accept_null)
{
    fh_object_incref(NULL);
    fh_object_decref(NULL);
    fh_space *space = free_space();
    attach(space);
    fh_object *box = new_box(NULL);
    fh_object_incref(box);
    CHECK(fh_refcount(box) == 2);
    fh_object_decref(box);
    fh_clear(box);
    CHECK(box == NULL && ended() == 1);
}

TEST(a_local_count_at_its_end_spills_into_the_shared_one)
{
    fh_space *space = free_space();
    attach(space);
    fh_object *box = new_box(NULL);
    box->local = UINT32_MAX;
    fh_incref(box);
    CHECK(box->local == 1u << 31 && fh_refcount(box) == (int64_t)UINT32_MAX + 1);
    box->local = 1; /* as if so many had been dropped */
    fh_decref(box);
    CHECK(ended() == 0 && shared_state(box) == FH_SHARED_MERGED);
    CHECK(fh_refcount(box) == (int64_t)1 << 31);
    box->shared = FH_SHARED_ONE | FH_SHARED_MERGED;
    fh_decref(box);
    CHECK(ended() == 1);
}

TEST(a_spilt_count_in_a_gil_space_is_as_good)
{
    fh_space *space = gil_space();
    attach(space);
    fh_object *box = new_box(NULL);
    box->local = UINT32_MAX;
    fh_incref(box);
    fh_incref(box);
    CHECK(fh_refcount(box) == (int64_t)UINT32_MAX + 2);
    box->local = 1;
    box->shared = FH_SHARED_ONE;
    fh_decref(box);
    CHECK(ended() == 0 && fh_refcount(box) == 1);
    fh_decref(box);
    CHECK(ended() == 1);
    fh_space_detach();
    destroy(space);
}

TEST(immortal_objects_are_not_counted)
{
    fh_space *space = free_space();
    attach(space);
    fh_object *box = new_box(NULL);
    fh_object_make_immortal(box);
    CHECK(fh_object_is_immortal(box) && fh_refcount(box) == INT64_MAX);
    for (int i = 0; i < 10; i++)
        fh_decref(box);
    fh_incref(box);
    CHECK(ended() == 0 && fh_refcount(box) == INT64_MAX && fh_object_try_incref(box));
    fh_object_make_immortal(box); /* again: nothing */
    fh_space_detach();
    destroy(space); /* it does not count as living */
}

static void count_unattached(void *box)
{
    fh_incref((fh_object *)box);
}

TEST(counting_in_a_thread_that_is_not_attached_is_named)
{
    fh_space *space = free_space();
    attach(space);
    fh_object *box = new_box(NULL);
    fh_space_detach();
    char text[100];
    snprintf(text, sizeof text, "freehold: fh_incref(%p): the thread is not attached to a space\n",
             (void *)box);
    check_aborts(count_unattached, box, text);
}

/* ---- Each transition ---- */

TEST(another_thread_counts_in_the_shared_word)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *box = new_box(NULL);
    let(&other, take_it, box);
    CHECK(box->local == 1 && box->shared == FH_SHARED_ONE && fh_refcount(box) == 2);
    let(&other, drop_it, box);
    CHECK(box->local == 1 && box->shared == FH_SHARED_INIT);
    fh_decref(box);
    CHECK(ended() == 1);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

TEST(an_owner_that_drops_first_merges)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *box = new_box(NULL);
    let(&other, take_it, box);
    fh_decref(box);
    CHECK(ended() == 0 && box->owner == FH_OWNER_NONE);
    CHECK(box->shared == (FH_SHARED_ONE | FH_SHARED_MERGED));
    let(&other, drop_it, box);
    CHECK(ended() == 1);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

TEST(a_reference_handed_over_and_dropped_there_comes_back_in_the_queue)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *box = new_box(NULL);
    let(&other, drop_it, box);
    CHECK(ended() == 0 && box->shared == FH_SHARED_QUEUED && fh_refcount(box) == 1);
    CHECK(fh_object_attention == 1);
    fh_safe_point();
    CHECK(ended() == 1 && fh_object_attention == 0);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

TEST(more_drops_of_a_queued_object_take_its_count_below_zero)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *box = new_box(NULL);
    for (int i = 0; i < 3; i++)
        fh_incref(box);
    for (int i = 0; i < 3; i++)
        let(&other, drop_it, box);
    CHECK(box->shared == FH_SHARED_QUEUED - 2 * FH_SHARED_ONE && fh_refcount(box) == 2);
    fh_safe_point();
    CHECK(ended() == 0 && fh_refcount(box) == 1 && shared_state(box) == FH_SHARED_MERGED);
    fh_decref(box);
    CHECK(ended() == 1);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

TEST(an_owner_may_drop_its_last_one_while_the_queue_has_the_object)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *box = new_box(NULL);
    let(&other, drop_it, box); /* the queue's now: local 1 */
    let(&other, take_it, box); /* by a borrowed reference of the queue's */
    fh_decref(box);            /* stolen from the other thread, say */
    CHECK(ended() == 0 && shared_state(box) == FH_SHARED_MERGED && fh_refcount(box) == 1);
    fh_safe_point(); /* the queue's reference was the last */
    CHECK(ended() == 1);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

TEST(a_weak_object_is_queued_and_merged_as_any_other)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *box = new_box(NULL);
    fh_object_may_be_found(box);
    CHECK(box->shared == FH_SHARED_WEAK);
    fh_incref(box);
    let(&other, drop_it, box);
    CHECK(box->shared == FH_SHARED_QUEUED);
    fh_safe_point();
    CHECK(box->shared == (FH_SHARED_ONE | FH_SHARED_MERGED));
    fh_object_may_be_found(box); /* it is already */
    CHECK(fh_object_try_incref(box) && fh_refcount(box) == 2);
    fh_decref(box);
    fh_decref(box);
    CHECK(ended() == 1);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

TEST(in_a_gil_space_whoever_has_the_lock_owns_all_objects)
{
    struct worker other;
    fh_space *space = gil_space();
    attach(space);
    fh_object *box = new_box(NULL);
    fh_space_park();
    begin_worker(&other, space);
    let(&other, take_it, box);
    let(&other, drop_it, box);
    let(&other, drop_it, box); /* ours, stolen */
    CHECK(ended() == 1);
    end_worker(&other);
    fh_space_unpark();
    fh_space_detach();
    destroy(space);
}

/* ---- Owners that do not run ---- */

static void make_box(void *at)
{
    *(fh_object **)at = new_box(NULL);
}

TEST(what_a_parked_thread_owns_is_merged_by_who_drops_it)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *box;
    let(&other, make_box, &box);
    let(&other, park_it, NULL);
    fh_decref(box);
    CHECK(ended() == 1 && fh_object_attention == 0);
    let(&other, unpark_it, NULL);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

static void make_and_leave(void *argument)
{
    void **arguments = argument;
    attach(arguments[0]);
    arguments[1] = new_box(NULL);
    fh_space_detach();
}

TEST(what_a_detached_thread_owned_is_merged_by_who_drops_it)
{
    fh_space *space = free_space();
    attach(space); /* so that the other thread has another slot */
    void *arguments[2] = {space, NULL};
    elsewhere(make_and_leave, arguments);
    fh_decref((fh_object *)arguments[1]);
    CHECK(ended() == 1);
    fh_space_detach();
    destroy(space);
}

static void make_and_end_attached(void *argument)
{
    void **arguments = argument;
    attach(arguments[0]);
    arguments[1] = new_box(NULL);
}

TEST(a_thread_that_ends_attached_is_detached)
{
    fh_space *spaces[2] = {free_space(), gil_space()};
    for (unsigned i = 0; i < 2; i++) {
        void *arguments[2] = {spaces[i], NULL};
        elsewhere(make_and_end_attached, arguments);
        attach(spaces[i]);
        fh_decref((fh_object *)arguments[1]);
        CHECK(ended() == i + 1);
        fh_space_detach();
        destroy(spaces[i]);
    }
}

TEST(what_was_queued_for_a_thread_goes_when_it_parks)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *box = new_box(NULL);
    let(&other, drop_it, box);
    CHECK(ended() == 0);
    fh_space_park();
    CHECK(ended() == 1 && fh_object_attention == 0);
    fh_space_unpark();
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

TEST(a_thread_takes_over_the_objects_of_the_slot_that_it_gets)
{
    fh_space *space = free_space();
    void *arguments[2] = {space, NULL};
    elsewhere(make_and_leave, arguments);
    attach(space);
    fh_object *box = arguments[1];
    CHECK(box->owner == fh_object_this_owner);
    fh_decref(box);
    CHECK(ended() == 1);
    fh_space_detach();
    destroy(space);
}

TEST(a_thread_that_finds_its_slot_borrowed_takes_another)
{
    fh_space *space = free_space();
    attach(space);
    struct fh_slot *first = fh_this_slot;
    fh_object *box = new_box(NULL);
    fh_space_park();
    __atomic_store_n(&first->state, FH_SLOT_BORROWED_PARKED, __ATOMIC_SEQ_CST);
    fh_space_unpark();
    CHECK(fh_this_slot != first && first->state == FH_SLOT_BORROWED);
    __atomic_store_n(&first->state, FH_SLOT_FREE, __ATOMIC_SEQ_CST); /* as its borrower does */
    fh_decref(box);                                                  /* another slot's now */
    CHECK(ended() == 1);
    fh_space_detach();
    destroy(space);
}

/* ---- Short of memory ---- */

static fh_allocator plain_raw;

static void *no_malloc(void *context, size_t bytes)
{
    (void)context, (void)bytes;
    return NULL;
}

static void *plain_calloc(void *context, size_t count, size_t bytes)
{
    (void)context;
    return plain_raw.calloc(plain_raw.context, count, bytes);
}

static void *plain_realloc(void *context, void *block, size_t bytes)
{
    (void)context;
    return plain_raw.realloc(plain_raw.context, block, bytes);
}

static void plain_free(void *context, void *block)
{
    (void)context;
    plain_raw.free(plain_raw.context, block);
}

static void drop_many(void *argument)
{
    fh_object **boxes = argument;
    fh_get_allocator(FH_DOMAIN_RAW, &plain_raw);
    fh_allocator failing = {NULL, no_malloc, plain_calloc, plain_realloc, plain_free};
    CHECK(fh_set_allocator(FH_DOMAIN_RAW, &failing) == 0);
    for (unsigned i = 0; i < 16; i++)
        fh_decref(boxes[i]);
    CHECK(fh_this_slot->stranded_count == 0);
    fh_decref(boxes[16]);
    CHECK(fh_this_slot->stranded_count == 1);
    CHECK(fh_set_allocator(FH_DOMAIN_RAW, &plain_raw) == 0);
}

TEST(without_memory_sixteen_drops_are_queued_and_what_is_lost_is_counted)
{
    struct worker other;
    fh_object *boxes[17];
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    for (unsigned i = 0; i < 17; i++)
        boxes[i] = new_box(NULL);
    let(&other, drop_many, boxes);
    fh_safe_point();
    CHECK(ended() == 16 && fh_refcount(boxes[16]) == 1);
    fh_decref(boxes[16]); /* nobody does in earnest */
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

/* ---- Many threads ---- */

enum { THREADS = 4, MAILS = 64 };

static struct {
    fh_space *space;
    fh_object *mails[MAILS];
    uint64_t made;
} post;

/* Exchange objects through mailboxes: made here, counted there, dropped wherever. */
static void exchange(unsigned number, void *shared)
{
    (void)shared;
    uint64_t seed = number + 1, made = 0;
    struct bound bound = at_most(200000);
    attach(post.space);
    while (more(&bound)) {
        fh_object *mine = NULL;
        if (random_below(&seed, 2) == 0) {
            mine = new_box(NULL);
            made++;
            for (uint32_t i = random_below(&seed, 3); i > 0; i--)
                fh_incref(mine), fh_decref(mine);
        }
        fh_object *other =
            __atomic_exchange_n(&post.mails[random_below(&seed, MAILS)], mine, __ATOMIC_ACQ_REL);
        if (other != NULL) {
            fh_incref(other);
            fh_decref(other);
            fh_decref(other);
        }
        fh_safe_point();
        if (random_below(&seed, 1000) == 0)
            fh_space_park(), fh_space_unpark();
        if (random_below(&seed, 1000) == 0)
            fh_space_detach(), attach(post.space);
    }
    fh_space_detach();
    __atomic_fetch_add(&post.made, made, __ATOMIC_RELAXED);
}

static void storm(fh_space *space)
{
    post.space = space;
    together(THREADS, exchange, NULL);
    attach(space);
    for (unsigned i = 0; i < MAILS; i++)
        fh_xdecref(post.mails[i]);
    CHECK(ended() == post.made);
    CHECK(fh_object_attention == 0);
    fh_space_detach();
    destroy(space);
}

TEST(threads_that_hand_over_objects_lose_none)
{
    storm(free_space());
}

TEST(threads_under_a_lock_lose_none_either)
{
    storm(gil_space());
}

/* All threads take and drop references of one object that the first made. */
static void share(unsigned number, void *shared)
{
    fh_object *box = shared;
    struct bound bound = at_most(100000);
    attach(post.space);
    while (more(&bound)) {
        fh_incref(box);
        fh_incref(box);
        fh_decref(box);
        fh_decref(box);
        if (number % 2 == 0)
            fh_safe_point();
    }
    fh_decref(box); /* one of those made for it below */
    fh_space_detach();
}

TEST(the_last_of_many_threads_ends_an_object)
{
    post.space = free_space();
    attach(post.space);
    fh_object *box = new_box(NULL);
    for (unsigned i = 1; i < THREADS; i++)
        fh_incref(box);
    fh_space_detach();
    together(THREADS, share, box);
    attach(post.space);
    fh_safe_point();
    CHECK(ended() == 1);
    fh_space_detach();
    destroy(post.space);
}
