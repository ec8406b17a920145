/* SPDX-License-Identifier: MIT */
/* Dicts. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "builtin.h"
#include "cache.h"
#include "spaces.h"

static fh_dict_stats stats_of(const fh_object *dict)
{
    fh_dict_stats stats = {.struct_bytes = sizeof stats};
    CHECK(fh_dict_get_stats(dict, &stats) == 0);
    return stats;
}

static fh_object *name(int number)
{
    char text[32];
    return fh_string_new(text, (size_t)snprintf(text, sizeof text, "key number %d", number));
}

static void set(fh_object *dict, fh_object *key, int64_t value)
{
    fh_object *integer = fh_int_new(value);
    CHECK(fh_dict_set(dict, key, integer) == 0);
    fh_decref(integer);
    fh_decref(key);
}

/* -1: it is not there. */
static int64_t get(const fh_object *dict, fh_object *key)
{
    fh_object *value = fh_dict_get(dict, key);
    fh_decref(key);
    return value != NULL ? fh_int_value(value) : -1;
}

static int delete (fh_object *dict, fh_object *key)
{
    int result = fh_dict_delete(dict, key);
    fh_decref(key);
    return result;
}

/* ---- Keys -------------------------------------------------------------------------------------
 */

static void kinds_of_keys(void)
{
    fh_object *dict = fh_dict_new(), *list = fh_list_new(0), *other = fh_list_new(0);
    set(dict, fh_string_new("text", 4), 1);
    set(dict, fh_int_new(100000), 2);
    set(dict, fh_new_ref(list), 3);
    set(dict, fh_string_new("", 0), 4);
    CHECK(get(dict, fh_string_new("text", 4)) == 1); /* another object */
    CHECK(get(dict, fh_int_new(100000)) == 2);
    CHECK(get(dict, fh_new_ref(list)) == 3 && get(dict, fh_new_ref(other)) == -1);
    CHECK(get(dict, fh_string_new("", 0)) == 4 && get(dict, fh_string_new("tex", 3)) == -1);
    CHECK(fh_dict_count(dict) == 4 && fh_gc_is_tracked(dict));
    fh_decref(dict);
    fh_decref(list);
    fh_decref(other);
    CHECK(fh_space_live_objects() == 0);
}

TEST(strings_and_integers_are_found_by_their_contents_and_others_by_themselves)
{
    in_each_mode(kinds_of_keys);
}

static void colliding_kinds(void)
{
    fh_object *dict = fh_dict_new(), *text = fh_string_new("collides", 8);
    set(dict, fh_int_new((int64_t)fh_string_hash(text)), 1);
    set(dict, fh_new_ref(text), 2);
    CHECK(fh_dict_count(dict) == 2 && get(dict, fh_new_ref(text)) == 2);
    CHECK(get(dict, fh_int_new((int64_t)fh_string_hash(text))) == 1);
    fh_decref(text);
    fh_decref(dict);
}

TEST(a_string_and_an_integer_of_one_hash_are_two_keys)
{
    in_each_mode(colliding_kinds);
}

static void replace(void)
{
    fh_object *dict = fh_dict_new(), *key = fh_string_new("key", 3), *value = fh_int_new(1000);
    CHECK(fh_dict_set(dict, key, value) == 0);
    CHECK(fh_refcount(key) == 2 && fh_refcount(value) == 2);
    set(dict, fh_string_new("key", 3), 2000); /* the key stays, the value goes */
    CHECK(fh_refcount(key) == 2 && fh_refcount(value) == 1 && fh_dict_count(dict) == 1);
    CHECK(get(dict, fh_new_ref(key)) == 2000);
    CHECK(fh_dict_delete(dict, key) == 0 && fh_refcount(key) == 1);
    errno = 0;
    CHECK(fh_dict_delete(dict, key) == -1 && errno == ENOENT);
    fh_decref(key);
    fh_decref(value);
    fh_decref(dict);
}

TEST(setting_a_key_again_keeps_the_key_and_drops_the_value)
{
    in_each_mode(replace);
}

/* ---- The table --------------------------------------------------------------------------------
 */

static void growth(void)
{
    fh_object *dict = fh_dict_new();
    for (int i = 0; i < 5; i++)
        set(dict, name(i), i);
    CHECK(stats_of(dict).slots == 8);
    set(dict, name(5), 5); /* the sixth: 6/8 >= 2/3, to more than 4 * 6 */
    CHECK(stats_of(dict).slots == 32);
    for (int i = 6; i < 21; i++)
        set(dict, name(i), i);
    CHECK(stats_of(dict).slots == 32);
    set(dict, name(21), 21); /* 22/32 >= 2/3, to more than 88 */
    CHECK(stats_of(dict).slots == 128);
    for (int i = 0; i < 22; i++)
        CHECK(get(dict, name(i)) == i);
    fh_decref(dict);
}

TEST(at_two_thirds_a_table_grows_to_four_times_what_is_used)
{
    in_each_mode(growth);
}

TEST(beyond_50000_a_table_grows_to_twice_what_is_used)
{
    fh_space *space = enter_free();
    fh_object *dict = fh_dict_new();
    size_t slots = 8, grown_at = 0;
    for (int i = 0; i < 100000; i++) {
        set(dict, fh_int_new(i), i);
        if (stats_of(dict).slots != slots) {
            slots = stats_of(dict).slots;
            grown_at = (size_t)i + 1;
        }
    }
    CHECK(grown_at > 50000 && slots > 2 * grown_at && slots <= 4 * grown_at);
    fh_decref(dict);
    leave(space);
}

static void dummies(void)
{
    fh_object *dict = fh_dict_new();
    for (int i = 0; i < 4; i++)
        set(dict, name(i), i);
    CHECK(delete (dict, name(1)) == 0 && delete (dict, name(2)) == 0);
    fh_dict_stats stats = stats_of(dict);
    CHECK(stats.used == 2 && stats.dummies == 2 && fh_dict_count(dict) == 2);
    CHECK(get(dict, name(0)) == 0 && get(dict, name(3)) == 3 && get(dict, name(1)) == -1);
    set(dict, name(1), 10); /* on the dummy that its look-up passes first */
    CHECK(stats_of(dict).dummies <= 2 && get(dict, name(1)) == 10);
    for (int i = 10; i < 14; i++)
        set(dict, name(i), i); /* grows, or the dummies were enough */
    CHECK(fh_dict_count(dict) == 7 && get(dict, name(0)) == 0 && get(dict, name(13)) == 13);
    fh_decref(dict);
}

TEST(a_deleted_key_leaves_a_dummy_that_a_new_one_may_take)
{
    in_each_mode(dummies);
}

static void churn(void)
{
    fh_object *dict = fh_dict_new();
    for (int i = 0; i < 1000; i++) {
        set(dict, name(i), i);
        if (i >= 3)
            CHECK(delete (dict, name(i - 3)) == 0);
    }
    fh_dict_stats stats = stats_of(dict);
    CHECK(stats.used == 3 && stats.slots <= 32 && stats.used + stats.dummies < stats.slots);
    for (int i = 997; i < 1000; i++)
        CHECK(get(dict, name(i)) == i);
    fh_decref(dict);
}

TEST(dummies_go_when_a_table_is_made_anew_so_a_small_dict_stays_small)
{
    in_each_mode(churn);
}

enum { KEYS = 300, STEPS = 20000 };

/* Against an array. */
static void compare(void)
{
    static int64_t expected[KEYS];
    fh_object *dict = fh_dict_new();
    uint64_t random = 7;
    size_t count = 0;
    memset(expected, -1, sizeof expected);
    for (struct bound bound = at_most(STEPS); more(&bound);) {
        int number = (int)random_below(&random, KEYS);
        fh_object *key = number % 2 == 0 ? name(number) : fh_int_new(number * 1024);
        switch (random_below(&random, 3)) {
        case 0:
            CHECK(get(dict, key) == expected[number]);
            break;
        case 1:
            count += expected[number] == -1;
            expected[number] = (int64_t)bound.step;
            set(dict, key, expected[number]);
            break;
        default:
            CHECK((delete (dict, key) == 0) == (expected[number] != -1));
            count -= expected[number] != -1;
            expected[number] = -1;
        }
        CHECK(fh_dict_count(dict) == count);
    }
    fh_decref(dict);
    CHECK(fh_space_live_objects() == 0);
}

TEST(a_dict_does_what_an_array_would)
{
    in_each_mode(compare);
}

static void walk(void)
{
    fh_object *dict = fh_dict_new(), *key, *value;
    bool seen[100] = {false};
    for (int i = 0; i < 100; i++)
        set(dict, fh_int_new(1000 + i), i);
    for (int i = 0; i < 100; i += 2)
        CHECK(delete (dict, fh_int_new(1000 + i)) == 0);
    size_t position = 0, count = 0;
    while (fh_dict_next(dict, &position, &key, &value)) {
        int64_t number = fh_int_value(value);
        CHECK(fh_int_value(key) == 1000 + number && number % 2 == 1 && !seen[number]);
        seen[number] = true;
        count++;
    }
    CHECK(count == 50 && !fh_dict_next(dict, &position, &key, &value));
    fh_decref(dict);
}

TEST(going_through_a_dict_shows_each_key_once_and_no_dummy)
{
    in_each_mode(walk);
}

/* ---- What dropping may do ---------------------------------------------------------------------
 */

/* An object that uses a dict when it goes. */
static fh_object *watched;
static int witness_count;

static void testify(fh_object *self)
{
    (void)self;
    witness_count++;
    if (watched == NULL)
        return;
    fh_dict_stats stats = stats_of(watched);
    fh_object *key, *value;
    size_t position = 0, count = 0;
    while (fh_dict_next(watched, &position, &key, &value)) {
        CHECK(key != self && value != self);
        count++;
    }
    CHECK(count == stats.used && stats.used == fh_dict_count(watched));
    set(watched, name(1000 + witness_count), 1); /* may make another table */
}

static fh_type witness_type = {
    .name = "witness", .basic_bytes = sizeof(fh_object), .dealloc = testify};

static void add_witness(fh_object *dict, int number)
{
    fh_object *key = fh_object_new(&witness_type), *value = fh_object_new(&witness_type);
    CHECK(fh_dict_set(dict, key, value) == 0);
    fh_decref(key);
    fh_object *as_value = fh_object_new(&witness_type), *by_name = name(number);
    CHECK(fh_dict_set(dict, by_name, as_value) == 0);
    fh_decref(by_name);
    fh_decref(as_value);
    fh_decref(value);
}

static void drop_when_consistent(int pairs)
{
    fh_object *dict = fh_dict_new(), *key, *value;
    for (int i = 0; i < pairs; i++)
        add_witness(dict, i);
    witness_count = 0;
    watched = dict;
    set(dict, name(0), 5); /* replaces a witness */
    CHECK(witness_count == 1);
    size_t position = 0;
    while (fh_dict_next(dict, &position, &key, &value))
        if (key->type == &witness_type)
            break;
    CHECK(fh_dict_delete(dict, key) == 0 && witness_count == 3);
    fh_dict_type.clear(dict);
    CHECK(witness_count == 3 * pairs);
    CHECK(fh_dict_count(dict) == (size_t)(3 * pairs - 3)); /* what they put in meanwhile */
    watched = NULL;
    fh_decref(dict);
    CHECK(fh_space_live_objects() == 0);
}

static void drop_from_small_and_large(void)
{
    drop_when_consistent(2);
    drop_when_consistent(20);
}

TEST(what_leaves_a_dict_is_dropped_when_the_dict_is_consistent)
{
    in_each_mode(drop_from_small_and_large);
}

/* ---- Headers, and memory ----------------------------------------------------------------------
 */

static void headers(void)
{
    static fh_object *dicts[200];
    fh_object *dict = fh_dict_new();
    for (int i = 0; i < 6; i++)
        set(dict, name(i), i);
    fh_decref(dict);
    CHECK(fh_dict_new() == dict && fh_dict_count(dict) == 0 && get(dict, name(0)) == -1);
    CHECK(stats_of(dict).slots == 8);
    fh_decref(dict);
    for (int i = 0; i < 200; i++)
        dicts[i] = fh_dict_new();
    for (int i = 0; i < 200; i++)
        fh_decref(dicts[i]);
    CHECK(fh_free_list_length(&fh_dict_list) == 80);
}

TEST(the_headers_of_80_dicts_are_kept)
{
    in_each_mode(headers);
}

static fh_allocator before;
static bool refuses;

static void *refuse_calloc(void *context, size_t count, size_t bytes)
{
    (void)context;
    return refuses ? NULL : before.calloc(before.context, count, bytes);
}

static void *pass_malloc(void *context, size_t bytes)
{
    (void)context;
    return before.malloc(before.context, bytes);
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

static void fail_to_grow(void)
{
    fh_object *dict = fh_dict_new(), *key = name(5), *value = fh_int_new(5000);
    for (int i = 0; i < 5; i++)
        set(dict, name(i), i);
    refuses = true;
    errno = 0;
    CHECK(fh_dict_set(dict, key, value) == -1 && errno == ENOMEM);
    CHECK(fh_refcount(key) == 1 && fh_refcount(value) == 1 && fh_dict_count(dict) == 5);
    set(dict, name(4), 44); /* needs no memory */
    CHECK(get(dict, name(4)) == 44 && get(dict, fh_new_ref(key)) == -1);
    refuses = false;
    CHECK(fh_dict_set(dict, key, value) == 0 && get(dict, key) == 5000);
    fh_decref(value);
    fh_decref(dict);
}

TEST(a_dict_is_as_it_was_when_memory_is_short)
{
    fh_get_allocator(FH_DOMAIN_MEM, &before);
    fh_allocator refusing = {NULL, pass_malloc, refuse_calloc, pass_realloc, pass_free};
    CHECK(fh_set_allocator(FH_DOMAIN_MEM, &refusing) == 0);
    in_each_mode(fail_to_grow);
}

/* ---- What look-ups cost -----------------------------------------------------------------------
 */

enum { SLOTS = 1 << 17 };

static void fill_to(fh_object *dict, int *count, double fill)
{
    for (; (double)*count < fill * SLOTS; ++*count)
        set(dict, name(*count), *count);
    CHECK(stats_of(dict).slots == SLOTS);
}

/* Measured hits and misses at one fill, against the formulas for random probing. */
static void compare_probes(fh_object *dict, int count)
{
    fh_dict_stats old = stats_of(dict);
    CHECK(fh_dict_count_probes(dict, 1) == 0);
    for (int i = 0; i < count; i += 2)
        CHECK(get(dict, name(i)) == i);
    for (int i = 0; i < count; i += 2)
        CHECK(get(dict, name(-1 - i)) == -1);
    CHECK(fh_dict_count_probes(dict, 0) == 0);
    fh_dict_stats new = stats_of(dict);
    double hit = (double)(new.hit_probes - old.hit_probes) / (double)(new.hits - old.hits);
    double miss = (double)(new.miss_probes - old.miss_probes) / (double)(new.misses - old.misses);
    printf("fill %.3f: hits %.3f slots, formula %.3f; misses %.3f, formula %.3f\n",
           (double)count / SLOTS, hit, new.expected_hit, miss, new.expected_miss);
    CHECK(hit > 0.93 * new.expected_hit &&hit < 1.07 * new.expected_hit);
    CHECK(miss > 0.93 * new.expected_miss &&miss < 1.07 * new.expected_miss);
}

TEST(look_ups_look_at_as_many_slots_as_the_formulas_say)
{
    fh_space *space = enter_free();
    fh_object *dict = fh_dict_new();
    int count = 0;
    fill_to(dict, &count, 0.34); /* the table that the last fills need is there */
    for (double fill = 0.35; fill < 0.66; fill += 0.05) {
        fill_to(dict, &count, fill);
        compare_probes(dict, count);
    }
    fh_decref(dict);
    leave(space);
}

TEST(probes_are_counted_on_request_alone)
{
    fh_space *space = enter_free();
    fh_object *dict = fh_dict_new();
    set(dict, name(1), 1);
    CHECK(get(dict, name(1)) == 1 && stats_of(dict).hits == 0);
    CHECK(fh_dict_count_probes(dict, 1) == 0);
    CHECK(get(dict, name(1)) == 1 && get(dict, name(2)) == -1);
    CHECK(stats_of(dict).hits == 1 && stats_of(dict).misses == 1);
    CHECK(stats_of(dict).hit_probes == 1 && stats_of(dict).miss_probes >= 1);
    CHECK(fh_dict_count_probes(dict, 0) == 0 && get(dict, name(1)) == 1);
    CHECK(stats_of(dict).hits == 1);
    fh_decref(dict);
    leave(space);
}

TEST(dict_statistics_fill_in_as_much_as_the_caller_has_room_for)
{
    fh_space *space = enter_free();
    fh_object *dict = fh_dict_new();
    fh_dict_stats stats = {.struct_bytes = offsetof(fh_dict_stats, hits), .hits = 77};
    set(dict, name(1), 1);
    CHECK(fh_dict_get_stats(dict, &stats) == 0 && stats.used == 1 && stats.hits == 77);
    stats.struct_bytes = 0;
    CHECK(fh_dict_get_stats(dict, &stats) == -1 && errno == EINVAL);
    fh_decref(dict);
    leave(space);
}
