/* SPDX-License-Identifier: MIT */
/* Cycle collection: what is found, what is kept, in which order things happen, and when. */
#include <freehold/gil.h>
#include <freehold/object.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "modules.h"

/* ---- A container with two references, a weak word, and a note of what becomes of it ---- */

struct pair {
    fh_object base;
    fh_object *left, *right;
    void *weak;
};

static unsigned dealloc_count, finalize_count;

static void pair_dealloc(fh_object *self)
{
    struct pair *pair = (struct pair *)self;
    __atomic_fetch_add(&dealloc_count, 1, __ATOMIC_RELAXED);
    fh_xdecref(pair->left);
    fh_xdecref(pair->right);
}

static int pair_traverse(fh_object *self, fh_visit visit, void *context)
{
    struct pair *pair = (struct pair *)self;
    int result = pair->left == NULL ? 0 : visit(pair->left, context);
    return result != 0 || pair->right == NULL ? result : visit(pair->right, context);
}

static void pair_clear(fh_object *self)
{
    struct pair *pair = (struct pair *)self;
    fh_clear(pair->left);
    fh_clear(pair->right);
}

static fh_type pair_type = {
    .name = "pair",
    .basic_bytes = sizeof(struct pair),
    .flags = FH_TYPE_GC,
    .weak_offset = offsetof(struct pair, weak),
    .dealloc = pair_dealloc,
    .traverse = pair_traverse,
    .clear = pair_clear,
};

/* What the finalizer makes a reference to, once. */
static fh_object *saved;
static bool saves_self, saves_left;

static void pair_finalize(fh_object *self)
{
    finalize_count++;
    CHECK(((struct pair *)self)->left != NULL); /* it is whole */
    if (saves_self && saved == NULL)
        saved = fh_new_ref(self);
    if (saves_left && saved == NULL)
        saved = fh_new_ref(((struct pair *)self)->left);
}

static fh_type finalized_type = {
    .name = "finalized pair",
    .basic_bytes = sizeof(struct pair),
    .flags = FH_TYPE_GC,
    .weak_offset = offsetof(struct pair, weak),
    .dealloc = pair_dealloc,
    .traverse = pair_traverse,
    .clear = pair_clear,
    .finalize = pair_finalize,
};

/* Tracked; steals both. */
static fh_object *pair_of(fh_type *type, fh_object *left, fh_object *right)
{
    struct pair *pair = (struct pair *)fh_object_new(type);
    CHECK(pair != NULL);
    pair->left = left;
    pair->right = right;
    fh_gc_track(&pair->base);
    return &pair->base;
}

static fh_object *left_of(fh_object *object)
{
    return ((struct pair *)object)->left;
}

static void set_left(fh_object *object, fh_object *left) /* steals left */
{
    struct pair *pair = (struct pair *)object;
    fh_object *before = pair->left;
    pair->left = left;
    fh_xdecref(before);
}

/* `count` pairs in a ring, each of them referred to by its neighbour alone but for the first, to
 * which the caller has a reference. */
static fh_object *ring_of(fh_type *type, unsigned count)
{
    fh_object *first = pair_of(type, NULL, NULL), *last = fh_new_ref(first);
    for (unsigned i = 1; i < count; i++)
        last = pair_of(type, last, NULL);
    set_left(first, last);
    return first;
}

/* ---- Spaces of both modes: each test that is not about one of them runs in both ---- */

static fh_space *space;

static void open_space(const fh_gil *gil)
{
    fh_space_config config = {.struct_bytes = sizeof(config), .gil = gil};
    space = fh_space_create(&config);
    CHECK(space != NULL && fh_space_attach(space) == 0);
    dealloc_count = finalize_count = 0;
    saved = NULL;
    saves_self = saves_left = false;
}

static void close_space(void)
{
    fh_space_detach();
    CHECK(fh_space_destroy(space) == 0); /* nothing lives any more */
}

static void in_both_modes(void (*run)(void))
{
    open_space(NULL);
    (void)fh_gc_enable(0);
    run();
    close_space();
    open_space(fh_gil_builtin());
    (void)fh_gc_enable(0);
    run();
    close_space();
}

static fh_gc_stats stats_now(void)
{
    fh_gc_stats stats = {.struct_bytes = sizeof(stats)};
    CHECK(fh_gc_get_stats(&stats) == 0);
    return stats;
}

/* ---- What is found ---- */

static void collect_rings(void)
{
    for (unsigned count = 1; count <= 1000; count = count * 3 + 1) {
        dealloc_count = 0;
        fh_decref(ring_of(&pair_type, count));
        CHECK(dealloc_count == 0);
        CHECK(fh_gc_collect(0) == (int64_t)count);
        CHECK(dealloc_count == count);
    }
    CHECK(stats_now().tracked == 0);
}

TEST(cycles_of_one_and_of_many_are_found)
{
    in_both_modes(collect_rings);
}

static void collect_what_hangs_on(void)
{
    fh_object *ring = ring_of(&pair_type, 10);
    fh_object *tail = pair_of(&pair_type, fh_int_new(123456789), fh_string_new("tail", 4));
    ((struct pair *)ring)->right = tail;
    fh_decref(ring);
    CHECK(fh_gc_collect(2) == 11);
    CHECK(dealloc_count == 11 && fh_space_live_objects() == 0);
}

TEST(what_only_a_cycle_refers_to_goes_with_it)
{
    in_both_modes(collect_what_hangs_on);
}

static void collect_lists_and_dicts(void)
{
    fh_object *list = fh_list_new(0), *dict = fh_dict_new(), *key = fh_string_new("key", 3);
    CHECK(fh_list_append(list, list) == 0 && fh_list_append(list, dict) == 0);
    CHECK(fh_dict_set(dict, key, list) == 0 && fh_dict_set(dict, dict, dict) == 0);
    fh_decref(key);
    fh_decref(dict);
    fh_decref(list);
    CHECK(fh_gc_collect(0) == 2);
    CHECK(fh_space_live_objects() == 0);
}

TEST(lists_and_dicts_that_contain_themselves_are_found)
{
    in_both_modes(collect_lists_and_dicts);
}

static void keep_referenced(void)
{
    fh_object *ring = ring_of(&pair_type, 100);
    CHECK(fh_gc_collect(2) == 0 && fh_gc_collect(2) == 0 && dealloc_count == 0);
    fh_object *at = ring;
    for (unsigned i = 0; i < 100; i++)
        at = left_of(at);
    CHECK(at == ring && fh_refcount(ring) == 2);
    fh_decref(ring);
    CHECK(fh_gc_collect(2) == 100);
}

TEST(a_cycle_that_is_referred_to_from_outside_stays)
{
    in_both_modes(keep_referenced);
}

static void keep_referenced_by_untracked(void)
{
    fh_object *ring = ring_of(&pair_type, 2);
    fh_object *holder = pair_of(&pair_type, ring, NULL);
    fh_gc_untrack(holder);
    CHECK(!fh_gc_is_tracked(holder) && fh_gc_is_tracked(ring));
    CHECK(fh_gc_collect(2) == 0);
    set_left(holder, fh_new_ref(holder)); /* the ring and the holder are garbage now */
    CHECK(fh_gc_collect(2) == 2);
    fh_gc_track(holder);
    fh_decref(holder);
    CHECK(fh_gc_collect(2) == 1);
}

TEST(what_is_not_tracked_counts_as_outside)
{
    in_both_modes(keep_referenced_by_untracked);
}

static void collect_a_long_chain(void)
{
    fh_object *first = pair_of(&pair_type, NULL, NULL), *last = fh_new_ref(first);
    struct bound bound = at_most(1000 * 1000);
    unsigned count = 1;
    for (; more(&bound); count++)
        last = pair_of(&pair_type, last, NULL);
    CHECK(fh_gc_collect(2) == 0); /* marked from its end, however deep */
    fh_decref(first);
    CHECK(fh_gc_collect(2) == 0);
    set_left(first, last);
    CHECK(fh_gc_collect(2) == (int64_t)count);
    CHECK(dealloc_count == count);
}

TEST(a_chain_of_a_million_needs_no_stack)
{
    in_both_modes(collect_a_long_chain);
}

static void leave_immortal(void)
{
    static fh_object *immortal; /* outlives the space: counted in no live objects */
    immortal = ring_of(&pair_type, 1);
    fh_object_make_immortal(immortal);
    fh_object *ring = ring_of(&pair_type, 3);
    set_left(immortal, ring);
    CHECK(fh_gc_collect(2) == 0);
    set_left(immortal, NULL);
    CHECK(fh_gc_collect(2) == 3);
    fh_gc_untrack(immortal);
}

TEST(what_an_immortal_object_refers_to_stays)
{
    in_both_modes(leave_immortal);
}

/* ---- Generations ---- */

static void age(void)
{
    fh_object *ring = ring_of(&pair_type, 5);
    CHECK(fh_gc_collect(0) == 0); /* it is in generation 1 now */
    CHECK(stats_now().generations[0].survivors == 5);
    fh_decref(ring);
    CHECK(fh_gc_collect(0) == 0 && fh_gc_collect(1) == 5);
    ring = ring_of(&pair_type, 5);
    CHECK(fh_gc_collect(0) == 0 && fh_gc_collect(1) == 0);
    fh_decref(ring);
    CHECK(fh_gc_collect(0) == 0 && fh_gc_collect(1) == 0 && fh_gc_collect(2) == 5);
    fh_gc_stats stats = stats_now();
    CHECK(stats.generations[0].collections == 4 && stats.generations[1].collections == 3);
    CHECK(stats.generations[2].collections == 1);
    CHECK(stats.generations[1].collected == 5 && stats.generations[2].collected == 5);
}

TEST(what_survives_moves_to_the_next_generation)
{
    in_both_modes(age);
}

static void thin_out(void)
{
    enum { COUNT = 5000 };
    static fh_object *pairs[COUNT];
    for (unsigned i = 0; i < COUNT; i++)
        pairs[i] = ring_of(&pair_type, 1);
    for (int generation = 0; generation < 3; generation++)
        CHECK(fh_gc_collect(generation) == 0);
    uint64_t state = 1;
    for (unsigned left = COUNT; left > 0; left /= 2) { /* some by their cycle, some at once */
        for (unsigned i = 0; i < COUNT; i++)
            if (pairs[i] != NULL && random_below(&state, 2) == 0) {
                if (random_below(&state, 2) == 0)
                    set_left(pairs[i], NULL);
                fh_decref(pairs[i]);
                pairs[i] = NULL;
            }
        CHECK(fh_gc_collect(2) >= 0);
        size_t kept = 0;
        for (unsigned i = 0; i < COUNT; i++)
            kept += pairs[i] != NULL;
        CHECK(stats_now().tracked == kept && fh_space_live_objects() == kept);
    }
    for (unsigned i = 0; i < COUNT; i++)
        fh_xdecref(pairs[i]);
    (void)fh_gc_collect(2);
}

TEST(old_generations_with_holes_are_moved_together)
{
    in_both_modes(thin_out);
}

/* ---- Finalizers ---- */

static void finalize_once(void)
{
    fh_object *ring = ring_of(&finalized_type, 3);
    CHECK(!fh_gc_is_finalized(ring));
    fh_decref(ring);
    CHECK(fh_gc_collect(0) == 3 && finalize_count == 3 && dealloc_count == 3);
    fh_gc_stats stats = stats_now();
    CHECK(stats.finalized == 3 && stats.resurrected == 0);
}

TEST(garbage_is_finalized_once)
{
    in_both_modes(finalize_once);
}

static void resurrect(void)
{
    fh_object *ring = ring_of(&finalized_type, 3);
    ((struct pair *)ring)->right = pair_of(&pair_type, NULL, NULL);
    fh_decref(ring);
    CHECK(fh_gc_collect(0) == 0);
    CHECK(saved != NULL && finalize_count == 3 && dealloc_count == 0);
    CHECK(fh_gc_is_finalized(saved) && fh_gc_is_tracked(saved));
    CHECK(stats_now().resurrected == 4);
    CHECK(left_of(left_of(left_of(saved))) == saved); /* whole, with all it refers to */
    CHECK(fh_refcount(saved) == 2);
    fh_decref(saved);
    CHECK(fh_gc_collect(2) == 4 && finalize_count == 3 && dealloc_count == 4);
}

static void resurrect_self(void)
{
    saves_self = true;
    resurrect();
}

static void resurrect_another(void)
{
    saves_left = true;
    resurrect();
}

TEST(a_finalizer_may_resurrect_its_object)
{
    in_both_modes(resurrect_self);
}

TEST(a_finalizer_may_resurrect_another_of_the_cycle)
{
    in_both_modes(resurrect_another);
}

static void resurrect_one_of_two(void)
{
    saves_self = true;
    fh_decref(ring_of(&finalized_type, 2));
    fh_decref(ring_of(&pair_type, 7));
    CHECK(fh_gc_collect(0) == 7);
    CHECK(dealloc_count == 7 && fh_space_live_objects() == 2);
    fh_decref(saved);
    CHECK(fh_gc_collect(2) == 2);
}

TEST(other_cycles_go_while_one_is_resurrected)
{
    in_both_modes(resurrect_one_of_two);
}

/* ---- Weak references ---- */

static unsigned call_count, calls_before_finalizers;
static fh_object *called_for;

static void note_call(fh_object *weakref, void *context)
{
    CHECK(context == &call_count);
    CHECK(fh_weakref_get(weakref) == NULL);
    called_for = weakref;
    call_count++;
    calls_before_finalizers += finalize_count == 0 && dealloc_count == 0;
}

static void clear_weak_references(void)
{
    call_count = calls_before_finalizers = 0;
    fh_object *ring = ring_of(&finalized_type, 2);
    fh_object *outside = fh_weakref_new(ring, note_call, &call_count);
    fh_object *inside = fh_weakref_new(left_of(ring), note_call, &call_count);
    CHECK(outside != NULL && inside != NULL);
    ((struct pair *)ring)->right = inside; /* goes as garbage together with what it is about */
    fh_object *got = fh_weakref_get(outside);
    CHECK(got == ring);
    fh_decref(got);
    fh_decref(ring);
    CHECK(fh_gc_collect(0) >= 2);
    CHECK(call_count == 1 && called_for == outside && calls_before_finalizers == 1);
    CHECK(finalize_count == 2 && dealloc_count == 2);
    CHECK(fh_weakref_get(outside) == NULL);
    fh_decref(outside);
    CHECK(call_count == 1);
}

TEST(callbacks_of_living_weak_references_come_before_finalizers)
{
    in_both_modes(clear_weak_references);
}

static void clear_weak_of_resurrected(void)
{
    call_count = 0;
    saves_self = true;
    fh_object *ring = ring_of(&finalized_type, 2);
    fh_object *weak = fh_weakref_new(ring, NULL, NULL);
    fh_decref(ring);
    CHECK(fh_gc_collect(0) == 0 && saved != NULL);
    CHECK(fh_weakref_get(weak) == NULL); /* as in CPython: cleared before the finalizer */
    fh_decref(weak);
    fh_decref(saved);
    CHECK(fh_gc_collect(2) == 2);
}

TEST(weak_references_do_not_find_what_is_resurrected)
{
    in_both_modes(clear_weak_of_resurrected);
}

/* ---- When ---- */

static void check_settings(void)
{
    unsigned thresholds[3];
    fh_gc_get_thresholds(thresholds);
    CHECK(thresholds[0] == 700 && thresholds[1] == 10 && thresholds[2] == 10);
    CHECK(fh_gc_enable(1) == 0 && fh_gc_enable(1) == 1 && fh_gc_enable(0) == 1);
    fh_gc_set_thresholds((const unsigned[]){5, 6, 7});
    fh_gc_get_thresholds(thresholds);
    CHECK(thresholds[0] == 5 && thresholds[1] == 6 && thresholds[2] == 7);
    CHECK(fh_gc_collect(3) == -1 && errno == EINVAL && fh_gc_collect(-1) == -1);
    fh_gc_stats stats = {.struct_bytes = 0};
    CHECK(fh_gc_get_stats(&stats) == -1 && errno == EINVAL);
}

TEST(settings_are_what_was_set)
{
    in_both_modes(check_settings);
}

static uint64_t collections_of(int generation)
{
    return stats_now().generations[generation].collections;
}

static void make_garbage(unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        fh_decref(ring_of(&pair_type, 1));
        fh_safe_point();
    }
}

TEST(in_gil_mode_making_containers_collects)
{
    open_space(fh_gil_builtin());
    for (unsigned i = 0; i < 700; i++)
        fh_decref(ring_of(&pair_type, 1));
    CHECK(collections_of(0) == 0 && dealloc_count == 0);
    fh_decref(ring_of(&pair_type, 1));
    CHECK(collections_of(0) == 1 && dealloc_count == 700);
    for (unsigned i = 0; i < 12 * 701; i++)
        fh_decref(ring_of(&pair_type, 1));
    CHECK(collections_of(1) == 1);
    (void)fh_gc_collect(2);
    close_space();
}

TEST(in_free_mode_safe_points_collect)
{
    open_space(NULL);
    for (unsigned i = 0; i < 100 * 1000; i++)
        fh_decref(ring_of(&pair_type, 1));
    CHECK(collections_of(0) == 0 && dealloc_count == 0); /* nobody came to a safe point */
    fh_safe_point();
    CHECK(collections_of(0) == 1 && dealloc_count > 0);
    (void)fh_gc_collect(2);
    close_space();
}

static void collect_nothing_by_itself(void)
{
    make_garbage(10000);
    CHECK(collections_of(0) == 0); /* it is off */
    (void)fh_gc_enable(1);
    fh_gc_set_thresholds((const unsigned[]){0, 10, 10});
    make_garbage(10000);
    CHECK(collections_of(0) == 0);
    fh_gc_set_thresholds((const unsigned[]){100, 2, 2});
    make_garbage(10000);
    CHECK(collections_of(0) > 0 && collections_of(1) > 0 && collections_of(2) > 0);
    (void)fh_gc_collect(2);
}

TEST(off_and_threshold_zero_mean_never)
{
    in_both_modes(collect_nothing_by_itself);
}

static void full_collections_wait(void)
{
    enum { COUNT = 20000 };
    static fh_object *kept[COUNT];
    for (unsigned i = 0; i < COUNT; i++)
        kept[i] = pair_of(&pair_type, NULL, NULL);
    (void)fh_gc_collect(2);
    (void)fh_gc_enable(1);
    fh_gc_set_thresholds((const unsigned[]){10, 1, 1});
    make_garbage(5000);
    CHECK(collections_of(1) > 2);
    CHECK(collections_of(2) == 1); /* nothing long-lived has come */
    (void)fh_gc_enable(0);
    for (unsigned i = 0; i < COUNT; i++)
        fh_decref(kept[i]);
    (void)fh_gc_collect(2);
}

TEST(full_collections_wait_until_a_quarter_is_new)
{
    in_both_modes(full_collections_wait);
}

static void collect_inside(fh_object *self)
{
    finalize_count++;
    (void)self;
    CHECK(fh_gc_collect(2) == -1 && errno == EBUSY);
    (void)fh_gc_enable(1);
    fh_gc_set_thresholds((const unsigned[]){1, 1, 1});
    for (unsigned i = 0; i < 50; i++) /* makes containers that would be due */
        fh_decref(ring_of(&pair_type, 2));
    (void)fh_gc_enable(0);
}

static void collect_recursively(void)
{
    finalized_type.finalize = collect_inside;
    fh_decref(ring_of(&finalized_type, 2));
    CHECK(fh_gc_collect(0) == 2 && finalize_count == 2);
    CHECK(fh_gc_collect(2) == 200);
}

TEST(a_collection_inside_of_one_is_refused)
{
    in_both_modes(collect_recursively);
}

/* ---- Without memory ---- */

static fh_allocator below;
static bool fails;

static void *scarce_malloc(void *context, size_t bytes)
{
    (void)context;
    return fails ? NULL : below.malloc(below.context, bytes);
}

static void *scarce_calloc(void *context, size_t count, size_t bytes)
{
    (void)context;
    return fails ? NULL : below.calloc(below.context, count, bytes);
}

static void *scarce_realloc(void *context, void *block, size_t bytes)
{
    (void)context;
    return fails ? NULL : below.realloc(below.context, block, bytes);
}

static void scarce_free(void *context, void *block)
{
    (void)context;
    below.free(below.context, block);
}

static void make_raw_scarce(void)
{
    const fh_allocator scarce = {NULL, scarce_malloc, scarce_calloc, scarce_realloc, scarce_free};
    fh_get_allocator(FH_DOMAIN_RAW, &below);
    CHECK(fh_set_allocator(FH_DOMAIN_RAW, &scarce) == 0);
    fails = true;
}

static void run_out_of_cells(void)
{
    enum { COUNT = 100 * 1000 };
    unsigned count = 1;
    fh_object *object = NULL, *last = ring_of(&pair_type, 1);
    make_raw_scarce();
    while (count < COUNT && (object = fh_object_new(&pair_type)) != NULL) {
        set_left(object, last);
        ((struct pair *)object)->right = fh_new_ref(object);
        fh_gc_track(object);
        last = object;
        count++;
    }
    CHECK(object == NULL && errno == ENOMEM && fh_space_live_objects() == count);
    fh_decref(last);
    CHECK(fh_gc_collect(1) == (int64_t)count); /* needs no memory, and gives cells back */
    CHECK(dealloc_count == count);
    fh_decref(pair_of(&pair_type, NULL, NULL));
    fails = false;
    CHECK(fh_set_allocator(FH_DOMAIN_RAW, &below) == 0);
}

TEST(without_memory_containers_cannot_be_made_but_garbage_is_collected)
{
    in_both_modes(run_out_of_cells);
}

/* ---- Threads, in free mode ---- */

/* Hands objects over by a mailbox. */
struct mail {
    fh_object *object;
    unsigned made, done;
};

static void wait_for(unsigned *flag)
{
    while (__atomic_load_n(flag, __ATOMIC_ACQUIRE) == 0) {
        if (fh_space_current() != NULL)
            fh_safe_point();
        (void)sched_yield();
    }
}

static void raise_flag(unsigned *flag)
{
    __atomic_store_n(flag, 1, __ATOMIC_RELEASE);
}

static void drop_from_elsewhere(unsigned number, void *shared)
{
    struct mail *mail = shared;
    CHECK(fh_space_attach(space) == 0);
    if (number == 0) {
        mail->object = ring_of(&pair_type, 3);
        raise_flag(&mail->made);
        wait_for(&mail->done);
        fh_safe_point();
        CHECK(fh_gc_collect(2) >= 0);
    } else {
        wait_for(&mail->made);
        fh_object *object = mail->object;
        fh_gc_untrack(left_of(object));
        fh_gc_track(left_of(object));
        fh_decref(object);
        raise_flag(&mail->done);
    }
    fh_space_detach();
}

TEST(cycles_whose_last_outside_reference_another_thread_drops_are_found)
{
    open_space(NULL);
    fh_space_park();
    struct mail mail = {NULL, 0, 0};
    together(2, drop_from_elsewhere, &mail);
    fh_space_unpark();
    (void)fh_gc_collect(2);
    CHECK(dealloc_count == 3);
    close_space();
}

/* Each drops what the other made, without any collection: the holes are used again. */
static void trade(unsigned number, void *shared)
{
    fh_object **boxes = shared;
    struct bound bound = at_most(200 * 1000);
    CHECK(fh_space_attach(space) == 0);
    while (more(&bound)) {
        fh_object *mine = pair_of(&pair_type, NULL, NULL);
        fh_object *got = __atomic_exchange_n(&boxes[bound.step % 64], mine, __ATOMIC_ACQ_REL);
        fh_xdecref(got);
        fh_safe_point();
    }
    (void)number;
    fh_space_detach();
}

TEST(containers_dropped_by_others_leave_no_holes_for_ever)
{
    open_space(NULL);
    (void)fh_gc_enable(0);
    fh_space_park();
    static fh_object *boxes[64];
    memset(boxes, 0, sizeof(boxes));
    fh_stats before = {.struct_bytes = sizeof(before)}, after = {.struct_bytes = sizeof(after)};
    together(3, trade, boxes);
    CHECK(fh_get_stats(&before) == 0);
    together(3, trade, boxes);
    together(3, trade, boxes);
    CHECK(fh_get_stats(&after) == 0);
    CHECK(after.allocated_bytes < before.allocated_bytes + 1024 * 1024);
    fh_space_unpark();
    for (unsigned i = 0; i < 64; i++)
        fh_xdecref(boxes[i]);
    (void)fh_gc_collect(2);
    close_space();
}

static unsigned parked, unpark;

static void park_for_long(unsigned number, void *shared)
{
    (void)shared;
    CHECK(fh_space_attach(space) == 0);
    if (number == 0) {
        fh_object *ring = ring_of(&finalized_type, 4);
        fh_decref(ring);
        fh_space_park();
        raise_flag(&parked);
        wait_for(&unpark);
        fh_space_unpark();
    } else {
        wait_for(&parked);
        CHECK(fh_gc_collect(2) == 4); /* would wait for ever, if it waited */
        CHECK(finalize_count == 4 && dealloc_count == 4);
        raise_flag(&unpark);
    }
    fh_space_detach();
}

TEST(parked_threads_are_not_waited_for_and_their_garbage_is_found)
{
    open_space(NULL);
    fh_space_park();
    parked = unpark = 0;
    together(2, park_for_long, NULL);
    fh_space_unpark();
    close_space();
}

/* In a place whose old object goes, if there is one. Any thread's place. */
static void keep(fh_object **place, fh_object *object)
{
    fh_object *before = __atomic_exchange_n(place, object, __ATOMIC_ACQ_REL);
    fh_xdecref(before);
}

/* Cycles through objects of two threads: each thread adds to the other's. */
static void tie_together(unsigned number, void *shared)
{
    fh_object **boxes = shared;
    struct bound bound = at_most(20 * 1000);
    uint64_t state = number + 1;
    CHECK(fh_space_attach(space) == 0);
    while (more(&bound)) {
        fh_object **box = &boxes[random_below(&state, 64)];
        fh_object *mine = ring_of(&pair_type, 1 + random_below(&state, 4));
        fh_object *got = __atomic_exchange_n(box, NULL, __ATOMIC_ACQ_REL);
        if (got != NULL) { /* alone with it: tie the two rings into one */
            ((struct pair *)mine)->right = got;
            if (((struct pair *)got)->right == NULL)
                ((struct pair *)got)->right = fh_new_ref(mine);
        }
        if (random_below(&state, 8) == 0)
            fh_decref(mine);
        else
            keep(box, mine);
        fh_safe_point();
    }
    fh_space_detach();
}

TEST(threads_whose_cycles_run_through_each_others_objects_collect_all)
{
    open_space(NULL);
    fh_gc_set_thresholds((const unsigned[]){50, 3, 3});
    fh_space_park();
    static fh_object *boxes[64];
    memset(boxes, 0, sizeof(boxes));
    together(4, tie_together, boxes);
    fh_space_unpark();
    CHECK(dealloc_count > 0);
    for (unsigned i = 0; i < 64; i++)
        fh_xdecref(boxes[i]);
    (void)fh_gc_collect(2);
    CHECK(stats_now().tracked == 0 && fh_space_live_objects() == 0);
    close_space();
}

static void churn_alone(unsigned number, void *shared)
{
    (void)number, (void)shared;
    struct bound bound = at_most(100 * 1000);
    CHECK(fh_space_attach(space) == 0);
    fh_object *kept = NULL;
    while (more(&bound)) {
        fh_object *ring = ring_of(&pair_type, 3);
        ((struct pair *)ring)->right = fh_list_new(0);
        CHECK(fh_list_append(((struct pair *)ring)->right, ring) == 0);
        if (bound.step % 16 == 0)
            keep(&kept, ring);
        else
            fh_decref(ring);
        fh_safe_point();
    }
    fh_xdecref(kept);
    fh_space_detach();
}

TEST(threads_that_come_and_go_with_data_of_their_own_leave_nothing)
{
    open_space(NULL);
    fh_space_park();
    for (unsigned round = 0; round < 3; round++)
        together(3, churn_alone, NULL);
    fh_space_unpark();
    (void)fh_gc_collect(2);
    fh_gc_stats stats = stats_now();
    CHECK(stats.tracked == 0 && fh_space_live_objects() == 0);
    CHECK(stats.generations[0].collections > 0 && stats.stop_ns >= stats.stop_ns_max);
    close_space();
}
