/* SPDX-License-Identifier: MIT */
/* The debug build: all references, all objects, and negative counts. */
#include "box.h"

#include <stdio.h>
#include <unistd.h>

TEST(every_reference_is_counted)
{
    fh_space *spaces[2] = {free_space(), gil_space()};
    for (unsigned i = 0; i < 2; i++) {
        attach(spaces[i]);
        CHECK(fh_ref_total() == 0);
        fh_object *inner = new_box(NULL);
        fh_object *outer = new_box(fh_new_ref(inner));
        CHECK(fh_ref_total() == 3);
        fh_object *weakref = fh_weakref_new(outer, NULL, NULL);
        fh_object *found = fh_weakref_get(weakref);
        CHECK(found == outer && fh_ref_total() == 5);
        fh_decref(found);
        fh_decref(outer);
        fh_decref(inner);
        CHECK(fh_ref_total() == 1); /* the weak reference itself */
        fh_decref(weakref);
        CHECK(fh_ref_total() == 0);
        fh_object_make_immortal(new_box(NULL));
        CHECK(fh_ref_total() == 0);
        fh_space_detach();
    }
}

static void drop_some(void *box)
{
    fh_decref((fh_object *)box);
    fh_decref((fh_object *)box);
}

TEST(references_of_all_threads_add_up)
{
    struct worker other;
    fh_space *space = free_space();
    attach(space);
    begin_worker(&other, space);
    fh_object *box = new_box(NULL);
    for (unsigned i = 0; i < 3; i++)
        fh_incref(box);
    let(&other, drop_some, box);
    CHECK(fh_ref_total() == 2);
    fh_safe_point();
    CHECK(fh_ref_total() == 2 && fh_refcount(box) == 2);
    fh_decref(box);
    fh_decref(box);
    CHECK(fh_ref_total() == 0 && ended() == 1);
    end_worker(&other);
    fh_space_detach();
    destroy(space);
}

TEST(all_live_objects_are_written_with_count_type_and_address)
{
    char text[200] = "", expected[200];
    int ends[2];
    attach(free_space());
    fh_object *first = new_box(NULL), *gone = new_box(NULL), *second = new_box(NULL);
    fh_incref(second);
    fh_decref(gone);
    CHECK(pipe(ends) == 0 && fh_ref_write_all(ends[1]) == 0);
    CHECK(read(ends[0], text, sizeof text - 1) > 0);
    snprintf(expected, sizeof expected, "%p [2] box\n%p [1] box\n", (void *)second, (void *)first);
    CHECK(strcmp(text, expected) == 0);
}

/* Memory that stays, so that what is left of an object can be looked at. */
static _Alignas(16) char memory[128];

static void keep_memory(fh_type *type, void *at, size_t bytes)
{
    (void)type, (void)at, (void)bytes;
}

static fh_type kept_type = {
    .name = "kept",
    .basic_bytes = sizeof(fh_object),
    .free = keep_memory,
};

enum { NEGATIVE_LINE = __LINE__ + 7 };

static void drop_too_often(void *object)
{
    attach(free_space());
    CHECK(fh_object_init(object, &kept_type) == object);
    fh_decref((fh_object *)object);
    fh_decref((fh_object *)object);
}

TEST(a_negative_count_is_named_with_the_line_that_dropped_it)
{
    char text[600];
    void *object = memory;
    snprintf(text, sizeof text,
             "%s:%d: fh_decref: Assertion failed: object has negative ref count\n"
             "object address  : %p\nobject refcount : -1\nobject type     : %p\n"
             "object type name: kept\n\nFatal Freehold error: fh_object_assert_failed\n",
             __FILE__, NEGATIVE_LINE, object, (void *)&kept_type);
    check_aborts(drop_too_often, object, text);
}

enum { FREED_LINE = __LINE__ + 6 };

static void drop_dead_bytes(void *object)
{
    attach(free_space());
    memset(object, 0xdd, sizeof(fh_object));
    fh_decref((fh_object *)object);
}

TEST(freed_memory_is_named_as_such)
{
    char text[600];
    void *object = memory;
    snprintf(text, sizeof text,
             "%s:%d: fh_decref: Assertion failed: object has negative ref count\n"
             "<object at %p is freed>\n\nFatal Freehold error: fh_object_assert_failed\n",
             __FILE__, FREED_LINE, object);
    check_aborts(drop_dead_bytes, object, text);
}
