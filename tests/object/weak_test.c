/* SPDX-License-Identifier: MIT */
/* Weak references: found or not, called back, and raced with the last drop. */
#include "box.h"

TEST(a_weak_reference_finds_its_object_until_that_goes)
{
    fh_space *spaces[2] = {free_space(), gil_space()};
    for (unsigned i = 0; i < 2; i++) {
        attach(spaces[i]);
        fh_object *box = new_box(NULL);
        fh_object *weakref = fh_weakref_new(box, NULL, NULL);
        CHECK(fh_refcount(box) == 1);
        fh_object *found = fh_weakref_get(weakref);
        CHECK(found == box && fh_refcount(box) == 2);
        fh_decref(box);
        CHECK(ended() == i);
        fh_decref(found);
        errno = 7;
        CHECK(ended() == i + 1 && fh_weakref_get(weakref) == NULL && errno == 7);
        fh_decref(weakref);
        CHECK(fh_space_live_objects() == 0);
        fh_space_detach();
        destroy(spaces[i]);
    }
}

static fh_type plain_type = {.name = "plain", .basic_bytes = sizeof(fh_object)};

TEST(a_type_without_a_place_for_it_cannot_be_weakly_referenced)
{
    attach(free_space());
    fh_object *plain = fh_object_new(&plain_type);
    errno = 0;
    CHECK(fh_weakref_new(plain, NULL, NULL) == NULL && errno == EINVAL);
    fh_decref(plain);
    CHECK(fh_space_live_objects() == 0);
}

TEST(an_immortal_object_is_found_for_ever)
{
    attach(free_space());
    fh_object *box = new_box(NULL);
    fh_object *weakref = fh_weakref_new(box, NULL, NULL);
    fh_object_make_immortal(box);
    CHECK(fh_weakref_get(weakref) == box && fh_weakref_get(weakref) == box);
}

/* ---- Callbacks ---- */

static struct {
    fh_object *weakrefs[8];
    unsigned count;
} called;

static void note(fh_object *weakref, void *context)
{
    CHECK(context == &called);
    CHECK(fh_weakref_get(weakref) == NULL);
    CHECK(ended() == 0); /* before dealloc */
    called.weakrefs[called.count++] = weakref;
}

TEST(callbacks_come_before_dealloc_newest_first_for_weak_references_that_live)
{
    attach(free_space());
    fh_object *box = new_box(NULL);
    fh_object *first = fh_weakref_new(box, note, &called);
    fh_object *gone = fh_weakref_new(box, note, &called);
    fh_object *last = fh_weakref_new(box, note, &called);
    fh_object *silent = fh_weakref_new(box, NULL, NULL);
    fh_decref(gone);
    fh_decref(box);
    CHECK(called.count == 2 && called.weakrefs[0] == last && called.weakrefs[1] == first);
    CHECK(ended() == 1 && fh_refcount(first) == 1);
    fh_decref(first);
    fh_decref(last);
    fh_decref(silent);
    CHECK(fh_space_live_objects() == 0);
}

static void drop_itself(fh_object *weakref, void *context)
{
    (void)context;
    called.count++;
    fh_decref(weakref); /* the test's reference: the call has one of its own */
}

TEST(a_callback_may_drop_its_weak_reference)
{
    attach(free_space());
    fh_object *box = new_box(NULL);
    CHECK(fh_weakref_new(box, drop_itself, NULL) != NULL);
    fh_decref(box);
    CHECK(called.count == 1 && fh_space_live_objects() == 0);
}

TEST(weak_references_may_refer_to_weak_references)
{
    attach(free_space());
    fh_object *box = new_box(NULL);
    fh_object *inner = fh_weakref_new(box, NULL, NULL);
    fh_object *outer = fh_weakref_new(inner, NULL, NULL);
    fh_object *found = fh_weakref_get(outer);
    CHECK(found == inner);
    fh_decref(found);
    fh_decref(inner);
    CHECK(fh_weakref_get(outer) == NULL);
    fh_decref(outer);
    fh_decref(box);
    CHECK(fh_space_live_objects() == 0);
}

static unsigned calls_of(const struct fh_weak_block *block)
{
    unsigned count = 0;
    for (const struct fh_weak_call *call = block->calls; call != NULL; call = call->next)
        count++;
    return count;
}

TEST(an_object_does_not_gather_the_calls_of_weak_references_that_are_gone)
{
    attach(free_space());
    fh_object *box = new_box(NULL);
    fh_object *kept = fh_weakref_new(box, note, &called);
    for (unsigned i = 0; i < 10000; i++)
        fh_decref(fh_weakref_new(box, note, &called));
    CHECK(calls_of(((struct box *)box)->weak) < 100);
    fh_decref(box);
    CHECK(called.count == 1 && called.weakrefs[0] == kept);
    fh_decref(kept);
}

/* ---- By hand: readers inside while the object goes ---- */

TEST(the_last_reader_of_a_buried_object_has_its_memory)
{
    struct fh_weak_word word = {0};
    CHECK(fh_weak_enter(&word) && fh_weak_enter(&word));
    fh_weak_die(&word);
    CHECK(!fh_weak_enter(&word));
    CHECK(!fh_weak_leave(&word)); /* not yet buried */
    CHECK(!fh_weak_bury_word(&word));
    CHECK(fh_weak_leave(&word));
}

TEST(without_readers_who_buries_has_the_memory)
{
    struct fh_weak_word word = {0};
    CHECK(fh_weak_enter(&word) && !fh_weak_leave(&word));
    fh_weak_die(&word);
    CHECK(fh_weak_bury_word(&word));
}

static void drop_and_look(void *box)
{
    fh_decref((fh_object *)box);
}

TEST(an_object_that_goes_while_a_reader_is_inside_keeps_its_memory)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *box = new_box(NULL);
    fh_object *weakref = fh_weakref_new(box, NULL, NULL);
    struct fh_weak_block *block = ((struct box *)box)->weak;
    let(&other, take_it, box);
    fh_decref(box);
    CHECK(fh_weak_enter(&block->word));
    let(&other, drop_and_look, box);
    CHECK(ended() == 1 && !fh_object_try_incref(box)); /* its header is still there */
    CHECK(fh_weak_leave(&block->word));
    fh_obj_free(box);
    fh_decref(weakref);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

/* ---- Against the last drop ---- */

enum { ROUNDS = 20000 };

static struct {
    fh_space *space;
    fh_object *box, *weakref;
    uint32_t ready, done; /* rounds begun and ended */
    uint64_t found, missed;
    unsigned calls;
} race;

static void count_call(fh_object *weakref, void *context)
{
    (void)context;
    CHECK(fh_weakref_get(weakref) == NULL);
    race.calls++;
}

static void dropper(unsigned rounds)
{
    struct bound bound = at_most(rounds);
    while (more(&bound)) {
        race.box = new_box(NULL);
        ((struct box *)race.box)->number = race.ready + 1;
        race.weakref = fh_weakref_new(race.box, count_call, NULL);
        uint32_t round = __atomic_add_fetch(&race.ready, 1, __ATOMIC_RELEASE);
        for (uint32_t i = round % 64; i > 0; i--)
            __asm__ volatile("");
        fh_decref(race.box);
        while (__atomic_load_n(&race.done, __ATOMIC_ACQUIRE) != round) {
            fh_safe_point();
            sched_yield();
        }
        fh_safe_point();
        fh_decref(race.weakref);
    }
    __atomic_store_n(&race.ready, UINT32_MAX, __ATOMIC_RELEASE);
}

static void finder(void)
{
    for (uint32_t round = 1;; round++) {
        uint32_t ready;
        while ((ready = __atomic_load_n(&race.ready, __ATOMIC_ACQUIRE)) < round) {
            fh_safe_point();
            sched_yield();
        }
        if (ready == UINT32_MAX)
            return;
        fh_object *box = fh_weakref_get(race.weakref);
        if (box != NULL) {
            CHECK(((struct box *)box)->number == round);
            fh_decref(box);
            race.found++;
        } else {
            race.missed++;
        }
        __atomic_store_n(&race.done, round, __ATOMIC_RELEASE);
    }
}

static void race_one(unsigned number, void *shared)
{
    (void)shared;
    attach(race.space);
    if (number == 0)
        dropper(ROUNDS);
    else
        finder();
    fh_space_detach();
}

TEST(a_get_that_races_with_the_last_drop_gets_all_or_nothing)
{
    race.space = free_space();
    together(2, race_one, NULL);
    uint64_t rounds = race.found + race.missed;
    CHECK(rounds > 0 && ended() == rounds && race.calls == rounds);
    destroy(race.space);
}

/* Several get and drop, all by one weak reference, while its object's holders change. */
static void juggle(unsigned number, void *shared)
{
    (void)shared;
    struct bound bound = at_most(50000);
    attach(race.space);
    while (more(&bound)) {
        fh_object *box = fh_weakref_get(race.weakref);
        if (box == NULL)
            break;
        CHECK(((struct box *)box)->number == 42);
        fh_decref(box);
        fh_safe_point();
        if (number == 0 && race.box != NULL && bound.step == 20000)
            fh_clear(race.box); /* the only lasting one */
    }
    fh_space_detach();
}

TEST(many_getters_and_one_that_lets_go)
{
    race.space = free_space();
    attach(race.space);
    race.box = new_box(NULL);
    ((struct box *)race.box)->number = 42;
    race.weakref = fh_weakref_new(race.box, NULL, NULL);
    fh_space_detach();
    together(4, juggle, NULL);
    attach(race.space);
    fh_xdecref(race.box);
    fh_safe_point();
    CHECK(ended() == 1 && fh_weakref_get(race.weakref) == NULL);
    fh_decref(race.weakref);
    fh_space_detach();
    destroy(race.space);
}

/* ---- Short of memory ---- */

static fh_allocator plain;
static unsigned left;

static void *few_malloc(void *context, size_t bytes)
{
    (void)context;
    return left == 0 ? NULL : (left--, plain.malloc(plain.context, bytes));
}

static void *few_calloc(void *context, size_t count, size_t bytes)
{
    (void)context;
    return left == 0 ? NULL : (left--, plain.calloc(plain.context, count, bytes));
}

static void *few_realloc(void *context, void *block, size_t bytes)
{
    (void)context;
    return left == 0 ? NULL : (left--, plain.realloc(plain.context, block, bytes));
}

static void plain_free(void *context, void *block)
{
    (void)context;
    plain.free(plain.context, block);
}

static unsigned told_count;

static void tell_of_bytes(void *context, size_t bytes)
{
    (void)context;
    told_count += bytes > 0;
}

TEST(without_memory_for_its_parts_a_weak_reference_is_not_made)
{
    fh_space_config config = {.struct_bytes = sizeof config, .out_of_memory = tell_of_bytes};
    attach(fh_space_create(&config));
    fh_object *warm = new_box(NULL);
    fh_decref(fh_weakref_new(warm, note, &called));
    fh_object *box = new_box(NULL), *weakref = NULL;
    fh_get_allocator(FH_DOMAIN_RAW, &plain);
    fh_allocator few = {NULL, few_malloc, few_calloc, few_realloc, plain_free};
    CHECK(fh_set_allocator(FH_DOMAIN_RAW, &few) == 0);
    unsigned needed = 0;
    for (;; needed++) {
        left = needed;
        errno = 0;
        weakref = fh_weakref_new(box, note, &called);
        if (weakref != NULL)
            break;
        CHECK(errno == ENOMEM && fh_space_live_objects() == 2 && needed < 10);
        CHECK(told_count == needed + 1);
    }
    CHECK(needed >= 2); /* the box's block once, then a call and the weak reference's block */
    fh_decref(box);
    CHECK(called.count == 1);
    fh_decref(weakref);
    fh_decref(warm);
}
