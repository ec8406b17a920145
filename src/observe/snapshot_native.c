/* SPDX-License-Identifier: MIT */
/* What a native return address stands for: the file that is mapped there, which the system tells
 * without a lock. snapshot_resolve.c has the rest.
 */
#include <errno.h>
#include <string.h>

#include "compiler.h"
#include "snapshot.h"
#include "snapshot_file.h"
#include "trace_place.h"

/* The parts of a file count from where the first of them lies. */
static struct fh_mapping parse(const char *line, const struct fh_mapping *before)
{
    struct fh_mapping mapping = fh_place_mapping(line);
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
static size_t parse_all(char *text, struct fh_mapping *mappings)
{
    size_t count = 0;
    const struct fh_mapping *named = NULL;
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
static const struct fh_mapping *find_mapping(const struct fh_mapping *mappings, size_t count,
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

static void name_frame(fh_frame *frame, const struct fh_mapping *mappings, size_t count)
{
    const struct fh_mapping *mapping = find_mapping(mappings, count, frame->pc);
    if (mapping == mappings + count || frame->pc < mapping->start || *mapping->name == '\0')
        return; /* code that the program made, say */
    frame->filename = mapping->name;
    frame->pc -= mapping->base;
}

static void name_frames(fh_snapshot *snapshot, char *text)
{
    struct fh_mapping *mappings = fh_snapshot_memory((count_lines(text) + 1) * sizeof *mappings);
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
