/* SPDX-License-Identifier: MIT */
/* What a space has, as numbers and as text. Counts of types can be read at any time; the text also
 * looks into lists and chains, for which it stops the world.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "space.h"

/* ---- Types --------------------------------------------------------------------------------------
 */

/* What could not be counted by its type. */
static const fh_type other_types = {.name = "(other types)"};

static fh_type_stats stats_of(fh_space *space, uint32_t index)
{
    fh_type_stats stats = {.type = index != 0 ? at_load_acquire(&fh_types[index]) : &other_types};
    uint64_t gone = 0;
    for (struct fh_slot *slot = at_load_acquire(&space->slots); slot != NULL; slot = slot->next) {
        /* Acquire, here and above: from whoever listed the slot, the type, the counts. */
        struct fh_type_counts *counts = at_load_acquire(&slot->counts[index / FH_TYPE_CHUNK]);
        if (counts == NULL)
            continue;
        stats.made += at_load_relaxed(&counts[index % FH_TYPE_CHUNK].made);
        gone += at_load_relaxed(&counts[index % FH_TYPE_CHUNK].gone);
    }
    stats.live = stats.made > gone ? (size_t)(stats.made - gone) : 0;
    return stats;
}

static size_t get_types(fh_space *space, fh_type_stats *out, size_t max)
{
    size_t found = 0;
    uint32_t count = fh_types_count();
    for (uint32_t index = 0; index < count; index++) {
        fh_type_stats stats = stats_of(space, index);
        if (stats.made == 0)
            continue;
        if (found < max)
            out[found] = stats;
        found++;
    }
    return found;
}

size_t fh_space_get_types(fh_type_stats *out, size_t max)
{
    return get_types(fh_this_slot->space, out, max);
}

size_t fh_space_live_objects(void)
{
    size_t live = 0;
    uint32_t count = fh_types_count();
    for (uint32_t index = 0; index < count; index++)
        live += stats_of(fh_this_slot->space, index).live;
    return live;
}

/* ---- Text ---------------------------------------------------------------------------------------
 *
 * Kept in memory until it is whole, so that it is written at once. Where memory is short the text
 * ends, and `failed` says so.
 */

struct text {
    char *start;
    size_t bytes, room;
    bool failed;
};

static bool reserve(struct text *text, size_t bytes)
{
    if (text->room - text->bytes > bytes)
        return true;
    size_t room = (text->room + bytes) * 2;
    char *start = fh_raw_realloc(text->start, room);
    text->failed |= start == NULL;
    if (start == NULL)
        return false;
    text->start = start;
    text->room = room;
    return true;
}

static __attribute__((format(printf, 2, 3))) void print(struct text *text, const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    size_t bytes = length < 0 ? 0 : (size_t)length;
    if (bytes >= sizeof line)
        bytes = sizeof line - 1;
    if (!reserve(text, bytes))
        return;
    memcpy(text->start + text->bytes, line, bytes);
    text->bytes += bytes;
}

enum { NUMBER_CHARS = 32 };

/* With a comma before each three digits, as CPython prints them. */
static const char *with_commas(char number[NUMBER_CHARS], uint64_t value)
{
    char *at = number + NUMBER_CHARS - 1;
    unsigned digits = 0;
    *at = 0;
    do {
        if (digits > 0 && digits % 3 == 0)
            *--at = ',';
        *--at = (char)('0' + value % 10);
        value /= 10;
        digits++;
    } while (value > 0);
    return at;
}

static void print_value(struct text *text, const char *label, uint64_t value)
{
    char number[NUMBER_CHARS];
    print(text, "%-35s=%21s\n", label, with_commas(number, value));
}

/* "10 free PyDictObjects * 48 bytes each =                  480" */
static void print_product(struct text *text, const char *what, size_t count, const char *name,
                          size_t bytes)
{
    char label[160], number[NUMBER_CHARS];
    snprintf(label, sizeof label, "%zu %s %s * %zu bytes each", count, what, name, bytes);
    print(text, "%48s =%21s\n", label, with_commas(number, count * bytes));
}

/* ---- The parts ----------------------------------------------------------------------------------
 */

static void print_types(struct text *text, fh_space *space)
{
    uint32_t count = fh_types_count();
    print(text, "%-24s %15s %19s\n", "type", "objects", "made");
    print(text, "%-24s %15s %19s\n", "----", "-------", "----");
    for (uint32_t index = 0; index < count; index++) {
        fh_type_stats stats = stats_of(space, index);
        if (stats.made > 0)
            print(text, "%-24s %15zu %19llu\n", stats.type->name, stats.live,
                  (unsigned long long)stats.made);
    }
}

static void print_free_lists(struct text *text, fh_space *space)
{
    const fh_free_list *list;
    print(text, "\n");
    for (uint32_t i = 1; i < FH_OBJECT_LISTS_MAX && (list = fh_free_list_at(i)) != NULL; i++)
        print_product(text, "free", fh_free_list_length_all(space, i), list->name,
                      list->object_bytes);
}

static void print_slabs(struct text *text, fh_space *space)
{
    const fh_slab *slab;
    for (uint32_t i = 1; i < FH_OBJECT_SLABS_MAX && (slab = fh_slab_at(i)) != NULL; i++) {
        struct fh_slab_counts counts = fh_slab_count_all(space, i);
        print_product(text, "blocks of", counts.blocks, slab->name,
                      slab->block_bytes != 0 ? slab->block_bytes : FH_SLAB_BLOCK_BYTES);
        print_product(text, "free", counts.kept, slab->name, slab->object_bytes);
    }
}

static void print_interned(struct text *text, fh_space *space)
{
    struct fh_intern_counts counts = fh_intern_count(space);
    print(text, "\n");
    print_value(text, "# strings interned, mortal", counts.mortal);
    print_value(text, "# strings interned, immortal", counts.immortal);
    print_value(text, "# strings gone, yet to be unlinked", counts.dead);
    print_value(text, "# buckets", counts.buckets);
    print_value(text, "# strings in the longest chain", counts.longest_chain);
}

static void print_collections(struct text *text, const fh_gc_stats *stats)
{
    char label[64];
    print(text, "\n");
    for (int i = 0; i < 3; i++) {
        snprintf(label, sizeof label, "# collections of generation %d", i);
        print_value(text, label, stats->generations[i].collections);
        print_value(text, "# objects collected", stats->generations[i].collected);
    }
    print_value(text, "# containers tracked", stats->tracked);
}

static void print_space(struct text *text, fh_space *space)
{
    while (!fh_space_stop(space)) /* ends: each round is another thread's stop of the world */
        ;
    print_types(text, space);
    print_free_lists(text, space);
    print_slabs(text, space);
    print_interned(text, space);
    fh_space_resume(space);
}

static int write_text(int fd, const struct text *text)
{
    ssize_t written = write(fd, text->start, text->bytes);
    if (written >= 0 && (size_t)written < text->bytes)
        errno = EIO;
    return written >= 0 && (size_t)written == text->bytes ? 0 : -1;
}

int fh_space_write_stats(int fd)
{
    struct text text = {0};
    fh_gc_stats stats = {.struct_bytes = sizeof stats};
    print_space(&text, fh_this_slot->space);
    if (fh_gc_get_stats(&stats) == 0)
        print_collections(&text, &stats);
    int result = text.failed ? -1 : write_text(fd, &text);
    fh_raw_free(text.start);
    return result;
}
