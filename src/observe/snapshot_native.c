/* SPDX-License-Identifier: MIT */
/* What a native return address stands for: the file that is mapped there, which the system tells
 * without a lock. snapshot_resolve.c has the rest.
 */
#include <errno.h>
#include <string.h>

#include "compiler.h"
#include "snapshot.h"
#include "snapshot_file.h"
#include "trace_intern.h"

/* A line of /proc/self/maps. */
struct mapping {
    uintptr_t start, end;
    uintptr_t base; /* what pc counts from */
    const char *name;
};

enum { NOT_MOVED_BELOW_SHIFT = 32 };

static uintptr_t parse_hex(const char **at)
{
    uintptr_t number = 0;
    for (;; ++*at) {
        char c = **at;
        if (c >= '0' && c <= '9')
            number = number << 4 | (uintptr_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            number = number << 4 | (uintptr_t)(c - 'a' + 10);
        else
            return number;
    }
}

/* Behind so many words and the spaces after them, or at the line's end. */
static const char *skip_words(const char *at, int words)
{
    for (; words > 0; words--) {
        while (*at != ' ' && *at != '\0')
            at++;
        while (*at == ' ')
            at++;
    }
    return at;
}

/* "start-end access offset device inode   name". Programs that are not moved when they are loaded
 * lie low; their addresses are what their files say. */
static struct mapping parse(const char *line, const struct mapping *before)
{
    struct mapping mapping;
    mapping.start = parse_hex(&line);
    line++;
    mapping.end = parse_hex(&line);
    mapping.name = skip_words(line + 1, 4);
    mapping.base = mapping.start >> NOT_MOVED_BELOW_SHIFT == 0 ? 0 : mapping.start;
    if (before != NULL && strcmp(before->name, mapping.name) == 0) {
        mapping.name = before->name; /* so that equal names are the same pointer */
        mapping.base = before->base;
    }
    return mapping;
}

static size_t count_lines(const char *text)
{
    size_t count = 0;
    for (; (text = strchr(text, '\n')) != NULL; text++)
        count++;
    return count;
}

/* Each line of `text` becomes a string. */
static size_t parse_all(char *text, struct mapping *mappings)
{
    size_t count = 0;
    const struct mapping *named = NULL;
    for (char *end; (end = strchr(text, '\n')) != NULL; text = end + 1) {
        *end = '\0';
        mappings[count] = parse(text, named);
        if (*mappings[count].name != '\0')
            named = &mappings[count];
        count++;
    }
    return count;
}

/* They are in ascending order. */
static const struct mapping *find_mapping(const struct mapping *mappings, size_t count,
                                          uintptr_t address)
{
    size_t low = 0;
    while (low < count) {
        size_t middle = low + (count - low) / 2;
        if (address >= mappings[middle].end)
            low = middle + 1;
        else
            count = middle;
    }
    return &mappings[low];
}

static void name_frame(fh_frame *frame, const struct mapping *mappings, size_t count)
{
    const struct mapping *mapping = find_mapping(mappings, count, frame->pc);
    if (mapping == mappings + count || frame->pc < mapping->start || *mapping->name == '\0')
        return; /* code that the program made, say */
    frame->filename = mapping->name;
    frame->pc -= mapping->base;
}

static void name_frames(fh_snapshot *snapshot, char *text)
{
    struct mapping *mappings = fh_snapshot_memory((count_lines(text) + 1) * sizeof *mappings);
    if (mappings == NULL)
        return;
    size_t count = parse_all(text, mappings);
    for (size_t i = 0; i < snapshot->frame_count; i++)
        if (snapshot->frames[i].pc != 0)
            name_frame(&snapshot->frames[i], mappings, count);
    fh_snapshot_release(mappings);
}

static bool has_native_frames(const fh_snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->frame_count; i++)
        if (snapshot->frames[i].pc != 0)
            return true;
    return false;
}

void fh_snapshot_name_modules(fh_snapshot *snapshot)
{
    int saved_errno = errno;
    size_t bytes;
    char *text = has_native_frames(snapshot) ? fh_read_file("/proc/self/maps", &bytes) : NULL;
    if (text != NULL) {
        fh_snapshot_release(snapshot->names);
        snapshot->names = text;
        snapshot->name_bytes = bytes;
        name_frames(snapshot, text);
    }
    errno = saved_errno;
}
