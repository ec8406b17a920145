/* SPDX-License-Identifier: MIT */
/* For ThreadSanitizer: two threads that tell each other in relaxed order whose turn it is, so that
 * what one wrote comes to the other by the library's own orders or not at all. Each test is about
 * orders that no other test would miss. */
#include "box.h"

static struct {
    fh_space *space;
    fh_object *box, *weakref;
    uint32_t turn;
    void (*run[2])(void);
} play;

static void run_one(unsigned number, void *unused)
{
    (void)unused;
    play.run[number]();
}

static void run_both(void (*first)(void), void (*second)(void))
{
    play.run[0] = first;
    play.run[1] = second;
    together(2, run_one, NULL);
}

static void go(uint32_t turn)
{
    __atomic_store_n(&play.turn, turn, __ATOMIC_RELAXED);
}

static void await(uint32_t turn)
{
    while (__atomic_load_n(&play.turn, __ATOMIC_RELAXED) != turn)
        sched_yield();
}

/* What was written before go_with() is there after await_with(). */
static void go_with(uint32_t turn)
{
    __atomic_store_n(&play.turn, turn, __ATOMIC_RELEASE);
}

static void await_with(uint32_t turn)
{
    while (__atomic_load_n(&play.turn, __ATOMIC_ACQUIRE) != turn)
        sched_yield();
}

static void number_of(fh_object *self)
{
    CHECK(((struct box *)self)->number == 1);
}

static fh_type numbered_type = {.name = "numbered",
                                .basic_bytes = sizeof(struct box),
                                .weak_offset = offsetof(struct box, weak),
                                .dealloc = number_of};

/* ---- Counts ---- */

static void make_and_drop_last(void)
{
    attach(play.space);
    play.box = fh_object_new(&numbered_type);
    go_with(1);
    await(2);
    fh_decref(play.box);
    fh_space_detach();
}

static void write_and_drop_first(void)
{
    attach(play.space);
    await_with(1);
    fh_incref(play.box);
    ((struct box *)play.box)->number = 1;
    fh_decref(play.box);
    go(2);
    fh_space_detach();
}

TEST(what_another_thread_wrote_before_its_drop_is_seen_by_the_owner_who_drops_last)
{
    play.space = free_space();
    run_both(make_and_drop_last, write_and_drop_first);
    destroy(play.space);
}

static void write_and_merge(void)
{
    attach(play.space);
    play.box = fh_object_new(&numbered_type);
    go_with(1);
    await(2);
    ((struct box *)play.box)->number = 1;
    fh_decref(play.box);
    go(3);
    fh_space_detach();
}

static void take_and_drop_last(void)
{
    attach(play.space);
    await_with(1);
    fh_incref(play.box);
    go(2);
    await(3);
    fh_decref(play.box);
    fh_space_detach();
}

TEST(what_the_owner_wrote_before_its_last_drop_is_seen_by_who_drops_last)
{
    play.space = free_space();
    run_both(write_and_merge, take_and_drop_last);
    destroy(play.space);
}

/* ---- Weak references ---- */

static void make_box_and_block(void)
{
    attach(play.space);
    play.box = new_box(NULL);
    go_with(1);
    await(2);
    play.weakref = fh_weakref_new(play.box, NULL, NULL);
    go(3);
    await(4);
    fh_decref(play.box);
    go(5);
    await(6);
    fh_decref(play.weakref); /* the block's last */
    fh_object *box = new_box(NULL);
    fh_object *weakref = fh_weakref_new(box, NULL, NULL); /* the same memory, as like as not */
    fh_decref(weakref);
    fh_decref(box);
    fh_space_detach();
}

static void use_block(void)
{
    attach(play.space);
    await_with(1);
    go(2);
    await(3);
    fh_object *weakref = fh_weakref_new(play.box, NULL, NULL);
    fh_object *found = fh_weakref_get(weakref);
    CHECK(found == play.box);
    fh_decref(found);
    go(4);
    await(5);
    CHECK(fh_weakref_get(weakref) == NULL);
    fh_decref(weakref);
    go(6);
    fh_space_detach();
}

TEST(a_weak_block_comes_whole_and_goes_after_its_last_use)
{
    play.space = free_space();
    run_both(make_box_and_block, use_block);
    destroy(play.space);
}

static void never(fh_object *weakref, void *unused)
{
    (void)weakref, (void)unused;
}

static void add_many_calls(void)
{
    fh_object *weakrefs[40];
    attach(play.space);
    play.box = new_box(NULL);
    fh_decref(fh_weakref_new(play.box, NULL, NULL));
    go_with(1);
    await(2);
    for (unsigned i = 0; i < 40; i++)
        weakrefs[i] = fh_weakref_new(play.box, never, NULL);
    for (unsigned i = 0; i < 40; i++)
        fh_decref(weakrefs[i]);
    go(3);
    fh_decref(play.box);
    fh_space_detach();
}

static void add_a_call(void)
{
    attach(play.space);
    await_with(1);
    fh_object *weakref = fh_weakref_new(play.box, never, NULL);
    go(2);
    await(3);
    fh_decref(weakref);
    fh_space_detach();
}

TEST(callbacks_come_whole_to_another_thread_that_prunes_them)
{
    play.space = free_space();
    run_both(add_many_calls, add_a_call);
    destroy(play.space);
}

/* ---- Slots ---- */

static void hold_new_slot(void)
{
    attach(play.space);
    go(1);
    await(2);
    fh_space_detach();
}

static void look_for_slot(void)
{
    await(1);
    fh_space *other = free_space();
    attach(other);
    go(2);
    fh_space_detach();
    destroy(other);
}

TEST(a_new_slot_comes_whole_to_who_looks_for_an_unused_one)
{
    play.space = free_space();
    attach(play.space); /* so that the next one needs a new slot */
    run_both(hold_new_slot, look_for_slot);
    fh_space_detach();
    destroy(play.space);
}

static void leave_a_space(void)
{
    fh_space *space = free_space();
    attach(space);
    fh_decref(new_box(NULL));
    fh_space_detach();
    destroy(space);
    go(1);
}

static void make_a_space(void)
{
    await(1);
    leave_a_space();
}

TEST(a_slot_comes_whole_from_a_space_that_was_destroyed)
{
    run_both(leave_a_space, make_a_space);
}

/* ---- Who comes while the world is stopped ---- */

static void (*look_at_slots)(fh_space *space);

static void look_while_stopped(void)
{
    attach(play.space);
    struct fh_slot *first = __atomic_load_n(&play.space->slots, __ATOMIC_RELAXED);
    CHECK(fh_space_stop(play.space));
    go(1);
    while (__atomic_load_n(&play.space->slots, __ATOMIC_RELAXED) == first)
        sched_yield();
    look_at_slots(play.space);
    fh_space_resume(play.space);
    fh_space_detach();
}

static void come_while_stopped(void)
{
    await(1);
    attach(play.space);
    fh_space_detach();
}

static void look_while_another_comes(void (*look_at)(fh_space *space))
{
    look_at_slots = look_at;
    play.space = free_space();
    run_both(look_while_stopped, come_while_stopped);
    destroy(play.space);
}

TEST(free_lists_of_slots_that_come_meanwhile_are_looked_at_whole)
{
    look_while_another_comes(fh_free_lists_clear_all);
}

static void count_interned(fh_space *space)
{
    (void)fh_intern_count(space);
}

TEST(interned_strings_of_slots_that_come_meanwhile_are_counted)
{
    look_while_another_comes(count_interned);
}

/* ---- Recycling ---- */

enum { BATCHES = 20, OBJECTS = BATCHES * FH_SLAB_BATCH_COUNT };

static fh_slab slab = {.name = "orders", .object_bytes = 24};
static void *objects[OBJECTS];

static void give_batches(void)
{
    attach(play.space);
    for (unsigned i = 0; i < OBJECTS; i++)
        CHECK((objects[i] = fh_slab_take(&slab)) != NULL);
    for (unsigned i = 0; i < OBJECTS; i++)
        fh_slab_give(&slab, objects[i]);
    go(1);
    await(2);
    fh_space_detach();
}

static void take_batches(void)
{
    attach(play.space);
    await(1);
    for (unsigned i = 0; i < OBJECTS; i++)
        CHECK(fh_slab_take(&slab) != NULL);
    go(2);
    fh_space_detach();
}

TEST(batches_of_slabs_come_whole)
{
    play.space = free_space();
    run_both(give_batches, take_batches);
    destroy(play.space);
}

static fh_free_list late_list;
static uint32_t late_index;

static void fill_in_and_use(void)
{
    attach(play.space);
    late_list = (fh_free_list){.name = "late", .object_bytes = 32, .cap = 2};
    CHECK(fh_free_list_take(&late_list) == NULL);
    __atomic_store_n(&late_index, late_list.index, __ATOMIC_RELAXED);
    go(1);
    await(2);
    fh_space_detach();
}

static void find_by_index(void)
{
    await(1);
    const fh_free_list *found = fh_free_list_at(__atomic_load_n(&late_index, __ATOMIC_RELAXED));
    CHECK(found == &late_list && found->cap == 2);
    go(2);
}

TEST(a_free_list_comes_whole_to_who_finds_it_by_its_index)
{
    play.space = free_space();
    run_both(fill_in_and_use, find_by_index);
    destroy(play.space);
}

/* ---- Statistics ---- */

enum { TYPES = FH_TYPE_CHUNK + 1 };

static fh_type types[TYPES];

static void make_of_many_types(void)
{
    attach(play.space);
    for (unsigned i = 0; i < TYPES; i++) {
        types[i] = (fh_type){.name = "one of many", .basic_bytes = sizeof(struct box)};
        fh_decref(fh_object_new(&types[i]));
    }
    go(1);
    await(2);
    fh_space_detach();
}

static void count_types(void)
{
    fh_type_stats stats[TYPES + FH_TYPE_INDEX_FIRST_FREE];
    attach(play.space);
    await(1);
    size_t count = fh_space_get_types(stats, TYPES + FH_TYPE_INDEX_FIRST_FREE);
    CHECK(count >= TYPES);
    for (size_t i = 0; i < count; i++)
        CHECK(stats[i].live == 0 && stats[i].type->name != NULL);
    go(2);
    fh_space_detach();
}

TEST(types_and_their_counts_come_whole)
{
    play.space = free_space();
    run_both(make_of_many_types, count_types);
    destroy(play.space);
}
