/* SPDX-License-Identifier: MIT */
#include "cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "option_value.h"

enum { FILE_BYTES = 4096 };

/* The beginning of a file, with a final 0; false if it cannot be read. */
static bool read_file(const char *path, char out[FILE_BYTES])
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    ssize_t got = read(file, out, FILE_BYTES - 1);
    (void)close(file);
    if (got < 0)
        return false;
    out[got] = '\0';
    return true;
}

/* The group's path, from its line "0::/path" of /proc/self/cgroup, into `path`. */
static bool find_group(const char *root, struct fh_text *path)
{
    char name[PATH_MAX], lines[FILE_BYTES];
    struct fh_text file = {name, sizeof name, 0};
    fh_text_add(&file, root);
    fh_text_add(&file, "/proc/self/cgroup");
    if (!fh_text_fits(&file) || !read_file(name, lines))
        return false;
    const char *line = lines;
    while (line != NULL && strncmp(line, "0::/", 4) != 0) {
        line = strchr(line, '\n');
        line = line == NULL ? NULL : line + 1;
    }
    for (line = line == NULL ? "" : line + 3; *line != '\0' && *line != '\n'; line++)
        fh_text_add_char(path, *line);
    return path->used > 0 && fh_text_fits(path);
}

/* What one group says. */
static uint64_t max_of(const char *root, const char *path)
{
    static const struct fh_range number = {FH_KIND_COUNT, NULL, UINT64_MAX};
    char name[2 * PATH_MAX], digits[FILE_BYTES];
    struct fh_text file = {name, sizeof name, 0};
    struct fh_value value;
    fh_text_add(&file, root);
    fh_text_add(&file, "/sys/fs/cgroup");
    fh_text_add(&file, path);
    fh_text_add(&file, "/memory.max");
    if (!fh_text_fits(&file) || !read_file(name, digits))
        return UINT64_MAX;
    struct fh_slice text = {digits, strcspn(digits, "\n")};
    return fh_value_parse(&number, text, &value) ? value.number : UINT64_MAX; /* "max" */
}

uint64_t fh_cgroup_memory_max(const char *root)
{
    int saved_errno = errno;
    char room[PATH_MAX];
    struct fh_text path = {room, sizeof room, 0};
    uint64_t least = UINT64_MAX;
    bool found = find_group(root, &path);
    while (found && path.used > 0) { /* a group, then the one above it; the last is the root, "" */
        uint64_t max = max_of(root, room);
        least = max < least ? max : least;
        fh_text_cut(&path, (size_t)(strrchr(room, '/') - room));
    }
    if (found && max_of(root, "") < least)
        least = max_of(root, "");
    errno = saved_errno;
    return least;
}

uint64_t fh_cgroup_resolve(uint64_t limit)
{
    if ((limit & FH_OF_CGROUP) == 0)
        return limit;
    uint64_t max = fh_cgroup_memory_max("");
    uint64_t bytes = max / 100 * (limit & ~FH_OF_CGROUP);
    if (max == UINT64_MAX)
        return 0;
    return bytes == 0 ? 1 : bytes; /* 0 would be no limit */
}
