/* SPDX-License-Identifier: MIT */
/* Objects: made, resized, ended; their memory, their finalizers. */
#include "box.h"

/* ---- Making ---- */

static fh_type item_type = {
    .name = "items",
    .basic_bytes = sizeof(fh_var_object),
    .item_bytes = 3,
};

static size_t told_bytes;
static unsigned told_count;

static void note_no_memory(void *context, size_t bytes)
{
    CHECK(context == &told_bytes);
    told_bytes = bytes;
    told_count++;
}

static fh_space *telling_space(void)
{
    fh_space_config config = {
        .struct_bytes = sizeof config, .out_of_memory = note_no_memory, .context = &told_bytes};
    fh_space *space = fh_space_create(&config);
    attach(space);
    return space;
}

TEST(a_new_object_has_one_reference_and_its_type)
{
    attach(free_space());
    fh_object *box = fh_object_new(&box_type);
    CHECK(fh_refcount(box) == 1 && fh_type_of(box) == &box_type);
    CHECK(
        is_zero(&box->type + 1, sizeof(struct box) - sizeof(fh_object))); /* it has a weak_offset */
    fh_decref(box);
}

static size_t alloc_bytes, freed_bytes;
static void *freed_memory;
static _Alignas(16) char own_memory[256];

static void *alloc_own(fh_type *type, size_t bytes)
{
    (void)type;
    alloc_bytes = bytes;
    return bytes <= sizeof own_memory ? own_memory : NULL;
}

static void free_own(fh_type *type, void *memory, size_t bytes)
{
    (void)type;
    freed_memory = memory;
    freed_bytes = bytes;
}

static fh_type own_type = {
    .name = "own",
    .basic_bytes = sizeof(fh_var_object),
    .item_bytes = 3,
    .alloc = alloc_own,
    .free = free_own,
};

TEST(items_round_the_size_up_to_a_pointers)
{
    attach(free_space());
    fh_object *object = fh_object_new_var(&own_type, 3);
    CHECK(object != NULL && ((fh_var_object *)object)->count == 3);
    CHECK(alloc_bytes == sizeof(fh_var_object) + 16);
    fh_decref(object);
    CHECK(freed_memory == own_memory && freed_bytes == alloc_bytes);
}

TEST(what_a_types_own_memory_refuses_is_out_of_memory)
{
    telling_space();
    errno = 0;
    CHECK(fh_object_new_var(&own_type, 200) == NULL && errno == ENOMEM);
    CHECK(told_count == 1 && told_bytes == sizeof(fh_var_object) + 600);
}

TEST(more_bytes_than_there_can_be_are_out_of_memory)
{
    telling_space();
    size_t counts[] = {SIZE_MAX, SIZE_MAX / 3, PTRDIFF_MAX / 3};
    for (unsigned i = 0; i < 3; i++) {
        errno = 0;
        CHECK(fh_object_new_var(&item_type, counts[i]) == NULL && errno == ENOMEM);
    }
    CHECK(told_count == 3);
}

static bool fails;
static fh_allocator plain;

static void *maybe_malloc(void *context, size_t bytes)
{
    (void)context;
    return fails ? NULL : plain.malloc(plain.context, bytes);
}

static void *maybe_calloc(void *context, size_t count, size_t bytes)
{
    (void)context;
    return fails ? NULL : plain.calloc(plain.context, count, bytes);
}

static void *maybe_realloc(void *context, void *block, size_t bytes)
{
    (void)context;
    return fails ? NULL : plain.realloc(plain.context, block, bytes);
}

static void plain_free(void *context, void *block)
{
    (void)context;
    plain.free(plain.context, block);
}

static void fail_domain(fh_domain domain)
{
    fh_allocator failing = {NULL, maybe_malloc, maybe_calloc, maybe_realloc, plain_free};
    fh_get_allocator(domain, &plain);
    CHECK(fh_set_allocator(domain, &failing) == 0);
}

TEST(without_memory_new_returns_null_after_the_callback_was_told)
{
    telling_space();
    fail_domain(FH_DOMAIN_OBJ);
    fails = true;
    errno = 0;
    CHECK(fh_object_new(&box_type) == NULL && errno == ENOMEM);
    CHECK(told_count == 1 && told_bytes == sizeof(struct box));
    fails = false;
    fh_object *box = fh_object_new(&box_type);
    CHECK(box != NULL && fh_space_live_objects() == 1);
    fh_decref(box);
}

TEST(init_makes_an_object_of_memory_that_the_caller_has)
{
    attach(free_space());
    CHECK(fh_object_init(NULL, &own_type) == NULL &&
          fh_object_init_var(NULL, &own_type, 1) == NULL);
    fh_object *object = fh_object_init_var((fh_var_object *)(void *)own_memory, &own_type, 5);
    CHECK((char *)object == own_memory && fh_refcount(object) == 1);
    CHECK(((fh_var_object *)object)->count == 5);
    fh_decref(object);
    CHECK(freed_memory == own_memory && freed_bytes == sizeof(fh_var_object) + 16);
}

/* ---- Another size ---- */

TEST(resize_keeps_the_object_and_its_items)
{
    attach(free_space());
    fh_object *object = fh_object_new_var(&item_type, 10);
    memset((fh_var_object *)object + 1, 'x', 30);
    object = fh_object_resize(object, 10000);
    CHECK(object != NULL && ((fh_var_object *)object)->count == 10000);
    for (unsigned i = 0; i < 30; i++)
        CHECK(((char *)((fh_var_object *)object + 1))[i] == 'x');
    object = fh_object_resize(object, 1);
    CHECK(((fh_var_object *)object)->count == 1 && fh_refcount(object) == 1);
    fh_decref(object);
    CHECK(fh_space_live_objects() == 0);
}

TEST(resize_refuses_what_is_shared_or_has_no_items)
{
    attach(free_space());
    fh_object *object = fh_object_new_var(&item_type, 10), *box = new_box(NULL);
    fh_incref(object);
    errno = 0;
    CHECK(fh_object_resize(object, 20) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(fh_object_resize(box, 20) == NULL && errno == EINVAL);
    CHECK(fh_refcount(object) == 2 && ((fh_var_object *)object)->count == 10);
}

TEST(resize_gives_a_string_another_hash_and_refuses_interned_ones)
{
    attach(free_space());
    fh_object *string = fh_string_new("freehold of objects", 19);
    uint64_t hash = fh_string_hash(string);
    string = fh_object_resize(string, 8);
    CHECK(strcmp(fh_string_text(string), "freehold") == 0 && fh_string_hash(string) != hash);
    CHECK(fh_string_intern(&string) == 0);
    errno = 0;
    CHECK(fh_object_resize(string, 4) == NULL && errno == EINVAL && fh_string_bytes(string) == 8);
    fh_decref(string);
    fh_space_detach();
}

TEST(resize_without_memory_leaves_the_object_as_it_was)
{
    telling_space();
    fh_object *object = fh_object_new_var(&item_type, 10);
    fail_domain(FH_DOMAIN_OBJ);
    fails = true;
    errno = 0;
    CHECK(fh_object_resize(object, 100000) == NULL && errno == ENOMEM && told_count == 1);
    CHECK(fh_object_resize(object, SIZE_MAX / 2) == NULL && errno == ENOMEM && told_count == 2);
    CHECK(((fh_var_object *)object)->count == 10 && fh_refcount(object) == 1);
    fails = false;
    fh_decref(object);
}

/* ---- The end ---- */

TEST(a_million_nested_objects_end_without_deep_recursion)
{
    fh_space *spaces[2] = {free_space(), gil_space()};
    for (unsigned i = 0; i < 2; i++) {
        attach(spaces[i]);
        uint64_t before = ended();
        fh_object *chain = NULL;
        for (unsigned j = 0; j < 1000000; j++)
            chain = new_box(chain);
        fh_decref(chain);
        CHECK(ended() - before == 1000000 && fh_space_live_objects() == 0);
        fh_space_detach();
        destroy(spaces[i]);
    }
}

static void end_elsewhere(void *argument)
{
    fh_space *space = ((void **)argument)[0];
    attach(space);
    fh_decref((fh_object *)((void **)argument)[1]);
    fh_space_detach();
}

TEST(nor_do_those_that_a_thread_ends_for_a_parked_one)
{
    fh_space *space = free_space();
    attach(space);
    fh_object *chain = NULL;
    for (unsigned j = 0; j < 100000; j++)
        chain = new_box(chain);
    fh_space_park();
    void *arguments[2] = {space, chain};
    elsewhere(end_elsewhere, arguments);
    CHECK(ended() == 100000);
    fh_space_unpark();
    fh_space_detach();
    destroy(space);
}

/* ---- Finalizers ---- */

static fh_object *saved;
static unsigned finalized, finalized_ended;
static bool saves;

static void finalize(fh_object *self)
{
    finalized++;
    CHECK(fh_refcount(self) == 1 && !saved);
    if (saves)
        saved = fh_new_ref(self);
}

static void end_finalized(fh_object *self)
{
    (void)self;
    finalized_ended++;
}

static fh_type final_type = {
    .name = "final",
    .basic_bytes = sizeof(struct box),
    .weak_offset = offsetof(struct box, weak),
    .dealloc = end_finalized,
    .finalize = finalize,
};

TEST(a_finalizer_runs_once_before_dealloc)
{
    attach(free_space());
    fh_decref(fh_object_new(&final_type));
    CHECK(finalized == 1 && finalized_ended == 1 && fh_space_live_objects() == 0);
}

TEST(a_finalizer_may_make_its_object_live_on_and_does_not_run_again)
{
    fh_space *spaces[2] = {free_space(), gil_space()};
    for (unsigned i = 0; i < 2; i++) {
        attach(spaces[i]);
        saves = true;
        fh_decref(fh_object_new(&final_type));
        CHECK(finalized == i + 1 && finalized_ended == i && fh_refcount(saved) == 1);
        fh_clear(saved);
        CHECK(finalized == i + 1 && finalized_ended == i + 1);
        fh_space_detach();
        destroy(spaces[i]);
    }
}

TEST(a_weak_reference_still_finds_what_its_finalizer_keeps)
{
    attach(free_space());
    fh_object *object = fh_object_new(&final_type);
    fh_object *weakref = fh_weakref_new(object, NULL, NULL);
    saves = true;
    fh_decref(object);
    object = fh_weakref_get(weakref);
    CHECK(object != NULL && object == saved);
    fh_decref(object);
    fh_clear(saved);
    CHECK(finalized == 1 && finalized_ended == 1 && fh_weakref_get(weakref) == NULL);
    fh_decref(weakref);
}

static void take_and_drop(void *object)
{
    fh_decref((fh_object *)object);
}

TEST(an_object_that_another_thread_ends_is_finalized_there)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *object = fh_object_new(&final_type);
    let(&other, take_it, object);
    fh_decref(object);
    saves = true;
    let(&other, take_and_drop, object);
    CHECK(finalized == 1 && finalized_ended == 0 && fh_refcount(object) == 1);
    fh_clear(saved);
    CHECK(finalized == 1 && finalized_ended == 1);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

TEST(types_with_a_finalizer_or_containers_are_not_made_in_place)
{
    attach(free_space());
    errno = 0;
    CHECK(fh_object_init((fh_object *)(void *)own_memory, &final_type) == NULL && errno == EINVAL);
}

/* ---- Types ---- */

TEST(objects_of_more_types_than_are_counted_apart_still_count)
{
    enum { TYPES = FH_OBJECT_TYPES_MAX + 100 };
    static fh_type types[TYPES];
    static fh_object *objects[TYPES];
    attach(free_space());
    for (unsigned i = 0; i < TYPES; i++) {
        types[i] = (fh_type){.name = "one of many", .basic_bytes = sizeof(fh_object)};
        objects[i] = fh_object_new(&types[i]);
    }
    CHECK(fh_space_live_objects() == TYPES && fh_types_count() == FH_OBJECT_TYPES_MAX);
    for (unsigned i = 0; i < TYPES; i++)
        fh_decref(objects[i]);
    CHECK(fh_space_live_objects() == 0);
}
