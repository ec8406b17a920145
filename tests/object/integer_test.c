/* SPDX-License-Identifier: MIT */
/* Integers. */
#include "builtin.h"
#include "cache.h"
#include "spaces.h"

static void small_ones(void)
{
    for (int64_t value = -5; value <= 256; value++) {
        fh_object *integer = fh_int_new(value);
        CHECK(fh_int_value(integer) == value && fh_type_of(integer) == &fh_int_type);
        CHECK(fh_int_new(value) == integer && fh_object_is_immortal(integer));
        CHECK(fh_refcount(integer) == INT64_MAX);
        fh_decref(integer); /* nothing */
    }
    CHECK(fh_space_live_objects() == 0);
}

TEST(from_minus_5_to_256_there_is_one_immortal_object_each)
{
    in_each_mode(small_ones);
}

TEST(small_integers_are_the_same_in_all_spaces)
{
    fh_space *space = enter_free();
    fh_object *seven = fh_int_new(7);
    leave(space);
    space = enter_gil();
    CHECK(fh_int_new(7) == seven);
    leave(space);
}

static void others(void)
{
    const int64_t values[] = {-6, 257, INT64_MIN, INT64_MAX, -1000000};
    for (unsigned i = 0; i < sizeof values / sizeof values[0]; i++) {
        fh_object *one = fh_int_new(values[i]), *other = fh_int_new(values[i]);
        CHECK(one != other && fh_int_value(one) == values[i] && fh_int_value(other) == values[i]);
        CHECK(fh_refcount(one) == 1 && !fh_object_is_immortal(one));
        CHECK(fh_space_live_objects() == 2);
        fh_decref(one);
        fh_decref(other);
    }
}

TEST(other_integers_are_objects_of_their_own)
{
    in_each_mode(others);
}

static void reuse(void)
{
    fh_object *one = fh_int_new(1000);
    fh_decref(one);
    CHECK(fh_free_list_length(&fh_int_list) >= 1);
    CHECK(fh_int_new(2000) == one && fh_int_value(one) == 2000);
    fh_decref(one);
}

TEST(the_memory_of_the_last_dropped_integer_is_the_next_one)
{
    in_each_mode(reuse);
}

enum { MANY = 5000 };

static void beyond_the_cap(void)
{
    static fh_object *integers[MANY];
    for (int i = 0; i < MANY; i++)
        integers[i] = fh_int_new(i + 1000);
    for (int i = 0; i < MANY; i++) {
        CHECK(fh_int_value(integers[i]) == i + 1000);
        fh_decref(integers[i]);
    }
    CHECK(fh_free_list_length(&fh_int_list) == fh_int_list.cap && fh_int_list.cap < MANY);
    CHECK(fh_free_list_clear(&fh_int_list) == fh_int_list.cap);
}

TEST(no_more_integers_are_kept_than_the_cap_says)
{
    in_each_mode(beyond_the_cap);
}

static void drop(void *integer)
{
    CHECK(fh_int_value(integer) == 4711);
    fh_decref(integer);
}

TEST(an_integer_may_be_dropped_by_another_thread)
{
    fh_space *space = enter_free();
    attached_elsewhere(drop, fh_int_new(4711));
    fh_safe_point();
    CHECK(fh_space_live_objects() == 0);
    leave(space);
}
