/* SPDX-License-Identifier: MIT */
/* The intern table. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "builtin.h"
#include "intern.h"
#include "space.h"
#include "spaces.h"

static fh_object *interned(const char *text)
{
    fh_object *string = fh_string_new(text, strlen(text));
    CHECK(string != NULL && fh_string_intern(&string) == 0);
    return string;
}

static struct fh_intern_counts counts_now(void)
{
    return fh_intern_count(fh_space_current());
}

/* ---- One thread -------------------------------------------------------------------------------
 */

static void one_for_equals(void)
{
    fh_object *one = interned("some name"), *other = interned("some name");
    fh_object *third = interned("another name");
    CHECK(one == other && third != one && fh_refcount(one) == 2);
    CHECK(fh_string_intern_state(one) == FH_INTERNED_MORTAL);
    CHECK(fh_string_intern(&one) == 0 && one == other); /* it is already */
    CHECK(fh_space_live_objects() == 2);
    fh_decref(one);
    fh_decref(other);
    fh_decref(third);
}

TEST(interning_equal_strings_gives_one_object)
{
    in_each_mode(one_for_equals);
}

static void made_although_known(void)
{
    fh_object *known = interned("a name"), *temporary = fh_string_new("a name", 6);
    CHECK(temporary != known && fh_string_intern_state(temporary) == FH_NOT_INTERNED);
    CHECK(fh_string_intern(&temporary) == 0 && temporary == known);
    fh_decref(known);
    fh_decref(temporary);
}

TEST(a_temporary_string_is_made_even_if_an_equal_one_is_interned)
{
    in_each_mode(made_although_known);
}

static void leaves(void)
{
    fh_object *string = interned("short-lived");
    CHECK(counts_now().mortal == 1);
    fh_decref(string);
    CHECK(counts_now().mortal == 0 && fh_space_live_objects() == 0);
    string = interned("short-lived");
    CHECK(fh_refcount(string) == 1 && counts_now().mortal == 1);
    fh_decref(string);
}

TEST(a_mortal_string_leaves_the_table_with_its_last_reference)
{
    in_each_mode(leaves);
}

static void stays(void)
{
    fh_object *string = fh_string_new("for ever", 8);
    CHECK(fh_string_intern_immortal(&string) == 0);
    CHECK(fh_string_intern_state(string) == FH_INTERNED_IMMORTAL);
    CHECK(fh_object_is_immortal(string) && fh_space_live_objects() == 0);
    fh_decref(string);
    fh_object *again = interned("for ever");
    CHECK(again == string && counts_now().immortal == 1);
    fh_decref(again);
}

TEST(an_immortal_string_never_leaves_the_table)
{
    in_each_mode(stays);
}

static void upgrade(void)
{
    fh_object *string = interned("mortal first");
    fh_object *other = fh_string_new("mortal first", 12);
    CHECK(fh_string_intern_immortal(&other) == 0 && other == string);
    CHECK(fh_string_intern_state(string) == FH_INTERNED_IMMORTAL);
    CHECK(counts_now().mortal == 0 && counts_now().immortal == 1);
    CHECK(fh_space_live_objects() == 0);
    CHECK(fh_string_intern_immortal(&string) == 0); /* no second time */
    fh_decref(string);
    fh_decref(other);
    fh_object *again = interned("mortal first");
    CHECK(again == string);
    fh_decref(again);
}

TEST(a_mortal_string_becomes_immortal)
{
    in_each_mode(upgrade);
}

static void immortal_equal_to_mortal(void)
{
    fh_object *string = interned("twice"), *other = fh_string_new("twice", 5);
    fh_decref(string);
    CHECK(fh_string_intern_immortal(&other) == 0 && fh_object_is_immortal(other));
    CHECK(counts_now().immortal == 1);
}

TEST(a_string_whose_equal_is_gone_becomes_immortal_itself)
{
    in_each_mode(immortal_equal_to_mortal);
}

static void static_ones(void)
{
    fh_object *string = fh_string_new(NULL, 1);
    fh_string_of(string)->text[0] = 'q';
    CHECK(fh_string_intern(&string) == 0 && string == fh_string_new("q", 1));
    string = fh_string_new(NULL, 0);
    CHECK(fh_string_intern_immortal(&string) == 0 && string == fh_string_new("", 0));
    CHECK(fh_string_new_interned("q", 1) == fh_string_new("q", 1));
    CHECK(fh_space_live_objects() == 0 && counts_now().buckets == 0);
}

TEST(strings_of_no_or_one_byte_need_no_place_in_the_table)
{
    in_each_mode(static_ones);
}

static void new_interned(void)
{
    fh_object *one = fh_string_new_interned("directly", 8);
    fh_object *other = fh_string_new_interned("directly", 8), *third = interned("directly");
    CHECK(one == other && one == third && fh_refcount(one) == 3);
    CHECK(memcmp(fh_string_text(one), "directly", 9) == 0);
    fh_decref(one);
    fh_decref(other);
    fh_decref(third);
    CHECK(fh_space_live_objects() == 0);
}

TEST(an_interned_string_is_found_or_made_without_a_temporary_one)
{
    in_each_mode(new_interned);
}

/* ---- Growing and pruning ----------------------------------------------------------------------
 */

enum { MANY = 20000 };

static fh_object *numbered(unsigned number)
{
    char text[32];
    snprintf(text, sizeof text, "string number %u", number);
    return interned(text);
}

static void grow(void)
{
    static fh_object *strings[MANY];
    for (unsigned i = 0; i < MANY; i++) {
        strings[i] = numbered(i);
        fh_safe_point();
    }
    struct fh_intern_counts counts = counts_now();
    CHECK(counts.mortal == MANY && counts.buckets >= MANY / 4 && counts.longest_chain < 32);
    for (unsigned i = 0; i < MANY; i++) {
        fh_object *again = numbered(i);
        CHECK(again == strings[i]);
        fh_decref(again);
        fh_decref(strings[i]);
        fh_safe_point();
    }
    counts = counts_now();
    CHECK(counts.mortal == 0 && counts.dead < MANY);
}

TEST(the_table_grows_so_that_chains_stay_short)
{
    in_each_mode(grow);
}

static void come_and_go(void)
{
    for (unsigned i = 0; i < 10 * MANY; i++) {
        fh_decref(numbered(i));
        fh_safe_point();
    }
    struct fh_intern_counts counts = counts_now();
    CHECK(counts.mortal == 0 && counts.dead < 4000 && counts.buckets <= 1024);
}

TEST(strings_that_come_and_go_leave_no_more_than_some_nodes)
{
    in_each_mode(come_and_go);
}

TEST(in_the_gil_modes_nothing_is_left_of_a_string_that_goes)
{
    fh_space *space = enter_gil();
    for (unsigned i = 0; i < 100; i++)
        fh_decref(numbered(i));
    CHECK(counts_now().dead == 0);
    leave(space);
}

/* ---- Several threads --------------------------------------------------------------------------
 */

enum { NAMES = 1000, THREADS = 4 };

static fh_object *names[THREADS][NAMES];

static void intern_names(unsigned number, void *space)
{
    CHECK(fh_space_attach(space) == 0);
    for (unsigned i = 0; i < NAMES; i++) {
        names[number][i] = numbered(i);
        fh_safe_point();
    }
    fh_space_detach();
}

TEST(threads_that_intern_the_same_strings_get_the_same_objects)
{
    fh_space *space = fh_space_create(NULL);
    together(THREADS, intern_names, space);
    CHECK(fh_space_attach(space) == 0);
    CHECK(fh_space_live_objects() == NAMES && counts_now().mortal == NAMES);
    for (unsigned i = 0; i < NAMES; i++) {
        CHECK(fh_refcount(names[0][i]) == THREADS);
        for (unsigned number = 0; number < THREADS; number++) {
            CHECK(names[number][i] == names[0][i]);
            fh_decref(names[number][i]);
        }
    }
    fh_safe_point();
    CHECK(fh_space_live_objects() == 0 && counts_now().mortal == 0);
    leave(space);
}

static void intern_for_good(unsigned number, void *space)
{
    CHECK(fh_space_attach(space) == 0);
    for (unsigned i = 0; i < NAMES; i++) {
        char text[32];
        snprintf(text, sizeof text, "string number %u", i);
        fh_object *string = fh_string_new(text, strlen(text));
        CHECK((number + i) % 3 == 0 ? fh_string_intern(&string) == 0
                                    : fh_string_intern_immortal(&string) == 0);
        names[number][i] = string;
        fh_safe_point();
    }
    fh_space_detach();
}

TEST(threads_that_make_the_same_strings_immortal_get_the_same_objects)
{
    fh_space *space = fh_space_create(NULL);
    together(THREADS, intern_for_good, space);
    CHECK(fh_space_attach(space) == 0);
    for (unsigned i = 0; i < NAMES; i++)
        for (unsigned number = 0; number < THREADS; number++) {
            CHECK(names[number][i] == names[0][i]);
            fh_decref(names[number][i]);
        }
    CHECK(fh_space_live_objects() == 0);
    CHECK(counts_now().immortal == NAMES && counts_now().mortal == 0);
    leave(space);
}

static fh_object *shared_string;

static void intern_one_object(unsigned number, void *space)
{
    (void)number;
    CHECK(fh_space_attach(space) == 0);
    fh_object *string = shared_string; /* with a reference of ours */
    CHECK(fh_string_intern(&string) == 0 && string == shared_string);
    fh_decref(string);
    fh_space_detach();
}

TEST(threads_may_intern_one_object_at_once)
{
    fh_space *space = fh_space_create(NULL);
    for (struct bound bound = at_most(300); more(&bound);) {
        CHECK(fh_space_attach(space) == 0);
        shared_string = fh_string_new("one object", 10);
        for (unsigned i = 0; i < THREADS; i++)
            fh_incref(shared_string);
        fh_decref(shared_string);
        fh_space_detach();
        together(THREADS, intern_one_object, space);
    }
    CHECK(fh_space_attach(space) == 0 && fh_space_live_objects() == 0);
    leave(space);
}

/* Few names, which come and go all the time: found alive or not at all. */
static void storm(unsigned number, void *space)
{
    uint64_t random = number;
    fh_object *kept[8] = {NULL};
    CHECK(fh_space_attach(space) == 0);
    for (struct bound bound = at_most(100000); more(&bound);) {
        char text[32];
        unsigned name = random_below(&random, 20), place = random_below(&random, 8);
        int bytes = snprintf(text, sizeof text, "name %u", name);
        fh_object *string = fh_string_new(text, (size_t)bytes);
        CHECK(fh_string_intern(&string) == 0);
        CHECK(strcmp(fh_string_text(string), text) == 0);
        CHECK(fh_string_intern_state(string) == FH_INTERNED_MORTAL);
        fh_object *again = fh_string_new_interned(text, (size_t)bytes);
        CHECK(again == string); /* it lives, so there is no other */
        fh_decref(again);
        fh_xdecref(kept[place]);
        kept[place] = string;
        fh_safe_point();
    }
    for (unsigned i = 0; i < 8; i++)
        fh_xdecref(kept[i]);
    fh_space_detach();
}

TEST(a_string_whose_last_reference_goes_meanwhile_is_found_alive_or_not_at_all)
{
    fh_space *space = fh_space_create(NULL);
    together(THREADS, storm, space);
    CHECK(fh_space_attach(space) == 0);
    fh_safe_point();
    CHECK(fh_space_live_objects() == 0 && counts_now().mortal == 0);
    leave(space);
}

/* ---- Short of memory --------------------------------------------------------------------------
 */

static fh_allocator before;
static bool refuses;

static void *refuse_malloc(void *context, size_t bytes)
{
    (void)context;
    return refuses ? NULL : before.malloc(before.context, bytes);
}

static void *refuse_calloc(void *context, size_t count, size_t bytes)
{
    (void)context;
    return refuses ? NULL : before.calloc(before.context, count, bytes);
}

static void *pass_realloc(void *context, void *block, size_t bytes)
{
    (void)context;
    return before.realloc(before.context, block, bytes);
}

static void pass_free(void *context, void *block)
{
    (void)context;
    before.free(before.context, block);
}

static void fail_to_intern(void)
{
    fh_object *string = fh_string_new("a name", 6), *same = string;
    refuses = true;
    errno = 0;
    CHECK(fh_string_intern_immortal(&string) == -1 && errno == ENOMEM && string == same);
    CHECK(!fh_object_is_immortal(string) && fh_refcount(string) == 1);
    errno = 0;
    CHECK(fh_string_intern(&string) == -1 && errno == ENOMEM && string == same);
    CHECK(fh_string_intern_state(string) == FH_NOT_INTERNED);
    CHECK(fh_string_new_interned("a name", 6) == NULL && fh_space_live_objects() == 1);
    refuses = false;
    CHECK(fh_string_intern(&string) == 0 && string == same);
    fh_decref(string);
    CHECK(fh_space_live_objects() == 0);
}

TEST(a_string_is_as_it_was_when_memory_is_short)
{
    fh_get_allocator(FH_DOMAIN_RAW, &before);
    fh_allocator refusing = {NULL, refuse_malloc, refuse_calloc, pass_realloc, pass_free};
    CHECK(fh_set_allocator(FH_DOMAIN_RAW, &refusing) == 0);
    in_each_mode(fail_to_intern);
}
