/* SPDX-License-Identifier: MIT */
/* Lists. */
#include <errno.h>
#include <string.h>

#include "builtin.h"
#include "cache.h"
#include "spaces.h"

/* 1000, 1001, ... */
static fh_object *list_of(size_t count)
{
    fh_object *list = fh_list_new(0);
    CHECK(list != NULL);
    for (size_t i = 0; i < count; i++) {
        fh_object *item = fh_int_new((int64_t)(1000 + i));
        CHECK(fh_list_append(list, item) == 0);
        fh_decref(item);
    }
    return list;
}

static void check_items(fh_object *list, const int *expected, size_t count)
{
    CHECK(fh_list_count(list) == count);
    for (size_t i = 0; i < count; i++)
        CHECK(fh_int_value(fh_list_get(list, i)) == expected[i]);
}

/* ---- Room -------------------------------------------------------------------------------------
 */

static void check_growth(int rule, const size_t *sequence, size_t steps)
{
    CHECK(fh_list_set_growth(rule) == 0);
    fh_object *list = fh_list_new(0);
    for (size_t step = 0, count = 0; step < steps; step++) {
        for (; count < sequence[step]; count++)
            CHECK(fh_list_append(list, fh_int_new(1)) == 0);
        CHECK(fh_list_allocated(list) == sequence[step]);
    }
    fh_decref(list);
}

static void both_growths(void)
{
    const size_t until_38[] = {0, 4, 8, 16, 25, 35, 46, 58, 72, 88};
    const size_t from_39[] = {0, 4, 8, 16, 24, 32, 40, 52, 64, 76};
    check_growth(FH_LIST_GROWTH_38, until_38, 10);
    check_growth(FH_LIST_GROWTH_39, from_39, 10);
    errno = 0;
    CHECK(fh_list_set_growth(2) == -1 && errno == EINVAL);
}

TEST(lists_grow_by_either_of_the_known_sequences)
{
    in_each_mode(both_growths);
}

TEST(without_being_told_lists_grow_by_the_newer_sequence)
{
    fh_space *space = enter_free();
    fh_object *list = list_of(17);
    CHECK(fh_list_allocated(list) == 24);
    fh_decref(list);
    leave(space);
}

static void half(void)
{
    fh_object *list = list_of(16);
    CHECK(fh_list_allocated(list) == 16);
    CHECK(fh_list_delete(list, 8, 16) == 0);
    CHECK(fh_list_allocated(list) == 16 && fh_list_count(list) == 8); /* just half */
    CHECK(fh_list_delete(list, 7, 8) == 0);
    CHECK(fh_list_allocated(list) == 12 && fh_list_count(list) == 7); /* (7 + 0 + 6) & ~3 */
    CHECK(fh_list_delete(list, 0, 7) == 0 && fh_list_allocated(list) == 0);
    fh_decref(list);
}

TEST(a_list_keeps_its_array_as_long_as_half_of_it_is_used)
{
    in_each_mode(half);
}

static void exact(void)
{
    fh_object *list = fh_list_new(5);
    CHECK(fh_list_count(list) == 5 && fh_list_allocated(list) == 5);
    for (size_t i = 0; i < 5; i++)
        CHECK(fh_list_get(list, i) == NULL);
    CHECK(fh_list_set(list, 3, fh_int_new(3)) == 0); /* the others stay NULL */
    CHECK(fh_gc_is_tracked(list));
    fh_decref(list);
    errno = 0;
    CHECK(fh_list_new(PTRDIFF_MAX / 4) == NULL && errno == ENOMEM);
    CHECK(fh_space_live_objects() == 0);
}

TEST(a_new_list_has_room_for_its_items_and_no_more)
{
    in_each_mode(exact);
}

/* ---- Items ------------------------------------------------------------------------------------
 */

static void append_and_get(void)
{
    fh_object *list = list_of(1000);
    for (size_t i = 0; i < 1000; i++)
        CHECK(fh_int_value(fh_list_get(list, i)) == (int64_t)(1000 + i));
    errno = 0;
    CHECK(fh_list_get(list, 1000) == NULL && errno == EINVAL);
    CHECK(fh_space_live_objects() == 1001);
    fh_decref(list);
    CHECK(fh_space_live_objects() == 0);
}

TEST(what_is_appended_is_there_and_goes_with_the_list)
{
    in_each_mode(append_and_get);
}

static void set(void)
{
    fh_object *list = list_of(2), *item = fh_int_new(5000);
    CHECK(fh_list_set(list, 1, fh_new_ref(item)) == 0 && fh_refcount(item) == 2);
    errno = 0;
    CHECK(fh_list_set(list, 2, fh_new_ref(item)) == -1 && errno == EINVAL);
    CHECK(fh_refcount(item) == 2); /* stolen all the same */
    check_items(list, (const int[]){1000, 5000}, 2);
    CHECK(fh_list_set(list, 1, fh_int_new(1)) == 0 && fh_refcount(item) == 1);
    fh_decref(item);
    fh_decref(list);
}

TEST(setting_an_item_steals_the_reference_and_drops_the_old_one)
{
    in_each_mode(set);
}

static void insert(void)
{
    fh_object *list = fh_list_new(0);
    const size_t places[] = {0, 0, 1, 100, 2};
    for (size_t i = 0; i < 5; i++) {
        fh_object *item = fh_int_new((int64_t)(1000 + i));
        CHECK(fh_list_insert(list, places[i], item) == 0);
        fh_decref(item);
    }
    check_items(list, (const int[]){1001, 1002, 1004, 1000, 1003}, 5);
    fh_decref(list);
}

TEST(inserting_moves_what_is_behind_and_appends_beyond_the_end)
{
    in_each_mode(insert);
}

static void delete_some(void)
{
    fh_object *list = list_of(6);
    CHECK(fh_list_delete(list, 1, 3) == 0);
    check_items(list, (const int[]){1000, 1003, 1004, 1005}, 4);
    CHECK(fh_list_delete(list, 2, 2) == 0 && fh_list_count(list) == 4);
    CHECK(fh_list_delete(list, 3, 4) == 0);
    check_items(list, (const int[]){1000, 1003, 1004}, 3);
    errno = 0;
    CHECK(fh_list_delete(list, 2, 4) == -1 && errno == EINVAL);
    CHECK(fh_list_delete(list, 2, 1) == -1 && fh_list_count(list) == 3);
    CHECK(fh_space_live_objects() == 4);
    fh_decref(list);

    list = list_of(100); /* more than fit on the stack */
    CHECK(fh_list_delete(list, 1, 99) == 0);
    check_items(list, (const int[]){1000, 1099}, 2);
    CHECK(fh_space_live_objects() == 3);
    fh_decref(list);
}

TEST(deleting_closes_the_gap_and_drops_the_items)
{
    in_each_mode(delete_some);
}

/* ---- What dropping may do ---------------------------------------------------------------------
 */

/* An object that looks at a list when it goes. */
struct witness {
    fh_object base;
    int number;
};

static fh_object *watched;
static size_t seen_count;
static int order[8], order_count;

static void testify(fh_object *self)
{
    order[order_count++ % 8] = ((struct witness *)self)->number;
    if (watched == NULL)
        return;
    seen_count = fh_list_count(watched);
    CHECK(seen_count <= fh_list_allocated(watched));
    for (size_t i = 0; i < seen_count; i++)
        CHECK(fh_list_get(watched, i) != self);
    CHECK(fh_list_append(watched, fh_int_new(0)) == 0);
}

static fh_type witness_type = {
    .name = "witness", .basic_bytes = sizeof(struct witness), .dealloc = testify};

static fh_object *list_of_witnesses(int count)
{
    fh_object *list = fh_list_new((size_t)count);
    for (int i = 0; i < count; i++) {
        fh_object *item = fh_object_new(&witness_type);
        ((struct witness *)item)->number = i;
        CHECK(fh_list_set(list, (size_t)i, item) == 0);
    }
    order_count = 0;
    return list;
}

static void drop_when_consistent(void)
{
    fh_object *list = watched = list_of_witnesses(5);
    CHECK(fh_list_delete(list, 0, 2) == 0);
    CHECK(order_count == 2 && seen_count == 4); /* the other three, and one appended */
    CHECK(fh_list_count(list) == 5);
    CHECK(fh_list_set(list, 0, fh_int_new(1)) == 0 && order_count == 3);
    fh_list_type.clear(list);
    CHECK(order_count == 5 && fh_list_count(list) == 2);
    watched = NULL;
    fh_decref(list);
}

TEST(what_leaves_a_list_is_dropped_when_the_list_is_consistent)
{
    in_each_mode(drop_when_consistent);
}

static void from_the_rear(void)
{
    fh_object *list = list_of_witnesses(4);
    watched = NULL;
    fh_decref(list);
    for (int i = 0; i < 4; i++)
        CHECK(order[i] == 3 - i);
}

TEST(a_list_that_goes_drops_its_items_from_the_rear)
{
    in_each_mode(from_the_rear);
}

/* ---- Headers ----------------------------------------------------------------------------------
 */

static void headers(void)
{
    static fh_object *lists[200];
    fh_object *list = fh_list_new(3);
    fh_decref(list);
    CHECK(fh_list_new(0) == list && fh_list_count(list) == 0 && fh_list_allocated(list) == 0);
    fh_decref(list);
    for (int i = 0; i < 200; i++)
        lists[i] = fh_list_new(1);
    for (int i = 0; i < 200; i++)
        fh_decref(lists[i]);
    CHECK(fh_free_list_length(&fh_list_list) == 80);
}

TEST(the_headers_of_80_lists_are_kept)
{
    in_each_mode(headers);
}

/* ---- Arrays -----------------------------------------------------------------------------------
 */

static void check_kept(size_t fours, size_t eights, size_t sixteens)
{
    CHECK(fh_free_list_length(&fh_items_lists[0]) == fours);
    CHECK(fh_free_list_length(&fh_items_lists[1]) == eights);
    CHECK(fh_free_list_length(&fh_items_lists[2]) == sixteens);
}

static void keep_arrays(void)
{
    static fh_object *lists[100];
    for (int i = 0; i < 100; i++)
        lists[i] = list_of(2);
    check_kept(0, 0, 0);
    for (int i = 0; i < 100; i++)
        fh_decref(lists[i]);
    check_kept(80, 0, 0);
    fh_object *list = list_of(10);
    check_kept(80, 1, 0);
    fh_decref(list);
    check_kept(80, 1, 1);
    list = list_of(3);
    check_kept(79, 1, 1);
    CHECK(fh_list_delete(list, 0, 3) == 0);
    check_kept(80, 1, 1);
    fh_decref(list);
    fh_gc_collect(2);
    check_kept(0, 0, 0);
}

TEST(arrays_of_4_8_and_16_items_are_kept_80_of_each_until_a_full_collection)
{
    in_each_mode(keep_arrays);
}

/* ---- Short of memory --------------------------------------------------------------------------
 */

static fh_allocator before;
static bool refuses;
static unsigned resize_count;

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

static void *refuse_realloc(void *context, void *block, size_t bytes)
{
    (void)context;
    resize_count++;
    return refuses ? NULL : before.realloc(before.context, block, bytes);
}

static void pass_free(void *context, void *block)
{
    (void)context;
    before.free(before.context, block);
}

static void fail_to_grow(void)
{
    fh_object *list = list_of(4), *item = fh_int_new(9000);
    refuses = true;
    errno = 0;
    CHECK(fh_list_append(list, item) == -1 && errno == ENOMEM);
    CHECK(fh_list_insert(list, 0, item) == -1 && fh_refcount(item) == 1);
    check_items(list, (const int[]){1000, 1001, 1002, 1003}, 4);
    refuses = false;
    CHECK(fh_list_append(list, item) == 0 && fh_list_count(list) == 5);
    refuses = true; /* an array that cannot shrink just stays */
    CHECK(fh_list_delete(list, 1, 5) == 0 && fh_list_allocated(list) == 8);
    refuses = false;
    fh_decref(item);
    fh_decref(list);
}

TEST(a_list_is_as_it_was_when_memory_is_short)
{
    fh_get_allocator(FH_DOMAIN_MEM, &before);
    fh_allocator refusing = {NULL, refuse_malloc, refuse_calloc, refuse_realloc, pass_free};
    CHECK(fh_set_allocator(FH_DOMAIN_MEM, &refusing) == 0);
    in_each_mode(fail_to_grow);
}

static void count_moves(void)
{
    resize_count = 0;
    fh_object *list = list_of(1000);
    CHECK(resize_count == 7); /* to 256, 512, ... 8192, 10240 bytes */
    while (fh_list_count(list) < 4096)
        CHECK(fh_list_append(list, list) == 0);
    CHECK(resize_count <= 7 + 8); /* at most each quarter of 8192, 16384, 32768 */
    CHECK(fh_list_delete(list, 5, 4096) == 0 && fh_list_allocated(list) == 8);
    check_items(list, (const int[]){1000, 1001, 1002, 1003, 1004}, 5);
    fh_decref(list);
}

TEST(a_list_that_grows_moves_now_and_then)
{
    fh_get_allocator(FH_DOMAIN_MEM, &before);
    fh_allocator counting = {NULL, refuse_malloc, refuse_calloc, refuse_realloc, pass_free};
    CHECK(fh_set_allocator(FH_DOMAIN_MEM, &counting) == 0);
    in_each_mode(count_moves);
}
