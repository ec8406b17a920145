/* SPDX-License-Identifier: MIT */
/* What a space says of itself. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "spaces.h"

static fh_type_stats stats_of(const fh_type *type)
{
    fh_type_stats stats[64];
    size_t count = fh_space_get_types(stats, 64);
    for (size_t i = 0; i < count && i < 64; i++)
        if (stats[i].type == type)
            return stats[i];
    return (fh_type_stats){0};
}

static void counts_of_types(void)
{
    fh_object *list = fh_list_new(0), *integer = fh_int_new(1000), *gone = fh_int_new(1001);
    fh_decref(gone);
    fh_int_new(1); /* there already */
    CHECK(stats_of(&fh_int_type).live == 1 && stats_of(&fh_int_type).made == 2);
    CHECK(stats_of(&fh_list_type).live == 1 && stats_of(&fh_dict_type).type == NULL);
    CHECK(fh_space_live_objects() == 2 && fh_space_get_types(NULL, 0) == 2);
    fh_decref(list);
    fh_decref(integer);
    CHECK(fh_space_live_objects() == 0 && stats_of(&fh_list_type).made == 1);
}

TEST(objects_are_counted_by_type)
{
    in_each_mode(counts_of_types);
}

static void drop(void *object)
{
    fh_decref(object);
}

TEST(what_another_thread_drops_is_counted_as_gone)
{
    fh_space *space = enter_free();
    attached_elsewhere(drop, fh_string_new("handed over", 11));
    fh_safe_point();
    CHECK(stats_of(&fh_string_type).made == 1 && stats_of(&fh_string_type).live == 0);
    leave(space);
}

static fh_free_list some_list = {.name = "FhSomeObjects", .object_bytes = 48, .cap = 10};
static fh_slab some_slab = {.name = "FhSlabObjects", .object_bytes = 12};

static const char *text_now(void)
{
    static char text[8192];
    int ends[2];
    CHECK(pipe(ends) == 0 && fh_space_write_stats(ends[1]) == 0);
    close(ends[1]);
    ssize_t bytes = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    CHECK(bytes > 0);
    text[bytes] = 0;
    return text;
}

/* Is it there as a line of its own? */
static void check_line(const char *text, const char *line)
{
    size_t bytes = strlen(line);
    for (; text != NULL; text = strchr(text, '\n')) {
        text += *text == '\n';
        if (strncmp(text, line, bytes) == 0 && text[bytes] == '\n')
            return;
    }
    fprintf(stderr, "no line: %s\n", line);
    CHECK(text != NULL);
}

static void all_parts(void)
{
    for (int i = 0; i < 10; i++)
        CHECK(fh_free_list_give(&some_list, fh_obj_malloc(48)) == 1);
    void *from_slab = fh_slab_take(&some_slab);
    fh_object *mortal = fh_string_new_interned("a mortal one", 12), *list = fh_list_new(0);
    const char *text = text_now();
    check_line(text, "list                                   1                   1");
    check_line(text, "           10 free FhSomeObjects * 48 bytes each =                  480");
    check_line(text, "     1 blocks of FhSlabObjects * 1000 bytes each =                1,000");
    check_line(text, "           81 free FhSlabObjects * 12 bytes each =                  972");
    check_line(text, "# strings interned, mortal         =                    1");
    check_line(text, "# strings interned, immortal       =                    0");
    check_line(text, "# buckets                          =                  256");
    check_line(text, "# strings in the longest chain     =                    1");
    check_line(text, "# containers tracked               =                    1");
    fh_slab_give(&some_slab, from_slab);
    fh_decref(mortal);
    fh_decref(list);
}

TEST(the_text_tells_of_types_free_lists_slabs_interned_strings_and_collections)
{
    in_each_mode(all_parts);
}

static void to_nowhere(void)
{
    errno = 0;
    CHECK(fh_space_write_stats(-1) == -1 && errno == EBADF);
}

TEST(a_text_that_cannot_be_written_is_an_error)
{
    in_each_mode(to_nowhere);
}
