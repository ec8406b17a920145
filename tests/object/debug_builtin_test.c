/* SPDX-License-Identifier: MIT */
/* The library's own types in the debug build: all their references are counted. */
#include "builtin.h"
#include "spaces.h"

static void all_types(void)
{
    int64_t before = fh_ref_total();
    fh_object *list = fh_list_new(0), *dict = fh_dict_new(), *key = fh_string_new("key", 3);
    fh_object *integer = fh_int_new(1000);
    CHECK(fh_ref_total() == before + 4);
    CHECK(fh_list_append(list, integer) == 0 && fh_dict_set(dict, key, list) == 0);
    CHECK(fh_ref_total() == before + 7);
    fh_decref(list);
    fh_decref(key);
    fh_decref(integer);
    fh_decref(dict);
    CHECK(fh_ref_total() == before && fh_space_live_objects() == 0);
}

TEST(the_references_to_objects_of_the_own_types_are_counted)
{
    in_each_mode(all_types);
}

static void recycled(void)
{
    int64_t before = fh_ref_total();
    for (int i = 0; i < 3000; i++) {
        fh_object *list = fh_list_new(1);
        CHECK(fh_list_set(list, 0, fh_int_new(i)) == 0);
        fh_decref(list);
    }
    CHECK(fh_ref_total() == before);
}

TEST(recycled_memory_is_an_object_like_any_other)
{
    in_each_mode(recycled);
}

static void interned(void)
{
    int64_t before = fh_ref_total();
    fh_object *mortal = fh_string_new_interned("mortal", 6);
    fh_object *kept = fh_string_new("kept", 4), *upgraded = fh_string_new_interned("upgraded", 8);
    CHECK(fh_string_intern_immortal(&kept) == 0 && fh_ref_total() == before + 2);
    CHECK(fh_string_intern_immortal(&upgraded) == 0);
    fh_decref(kept);
    fh_decref(upgraded);
    fh_decref(mortal);
    CHECK(fh_ref_total() - before <= 1); /* the table's, of the upgraded one, in free mode */
}

TEST(the_intern_table_may_keep_strings)
{
    in_each_mode(interned);
}
