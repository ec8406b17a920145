/* SPDX-License-Identifier: MIT */
/* The statistics as CPython's text, and at the program's end. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bits.h"
#include "freehold/stats.h"
#include "size_class.h"
#include "stats.h"
#include "stats_text.h"

/* ---- CPython's text ---------------------------------------------------------------------------
 */

static void put_line(struct fh_text *text, const char *line)
{
    fh_text_put(text, line);
    fh_text_put(text, "\n");
}

/* After the label: "=", in column 35, and the value in 21 columns. */
static void put_value(struct fh_text *text, uint64_t value)
{
    fh_text_indent(text, 35);
    fh_text_put(text, "=");
    fh_text_number(text, value, 21, true);
    fh_text_put(text, "\n");
}

static void value_line(struct fh_text *text, const char *label, uint64_t value)
{
    fh_text_put(text, label);
    put_value(text, value);
}

/* "2 arenas * 4194304 bytes/arena" */
static void product_line(struct fh_text *text, uint64_t count, const char *of, uint64_t bytes,
                         const char *unit)
{
    fh_text_number(text, count, 0, false);
    fh_text_put(text, of);
    fh_text_number(text, bytes, 0, false);
    fh_text_put(text, unit);
    put_value(text, count * bytes);
}

static void heading(struct fh_text *text)
{
    fh_text_put(text, "Small block threshold = ");
    fh_text_number(text, FH_BLOCK_MAX_BYTES, 0, false);
    fh_text_put(text, ", in ");
    fh_text_number(text, FH_CLASSES, 0, false);
    put_line(text, " size classes.");
    put_line(text, "");
    put_line(text, "class   size   num pools   blocks in use  avail blocks");
    put_line(text, "-----   ----   ---------   -------------  ------------");
}

static void class_line(struct fh_text *text, const struct fh_sums *sums,
                       const struct fh_ready *ready, unsigned class_index)
{
    fh_class_stats class = fh_stats_class(sums, ready, class_index);
    if (class.pools == 0)
        return;
    fh_text_number(text, class_index, 5, false);
    fh_text_number(text, class.block_bytes, 7, false);
    fh_text_number(text, class.pools, 12, false);
    fh_text_number(text, class.live_blocks, 16, false);
    fh_text_number(text, class.free_blocks, 14, false);
    fh_text_put(text, "\n");
}

static void class_lines(struct fh_text *text, const struct fh_sums *sums,
                        const struct fh_ready *ready)
{
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++)
        class_line(text, sums, ready, class_index);
    put_line(text, "");
}

static void arena_lines(struct fh_text *text, const struct fh_sums *sums)
{
    value_line(text, "# arenas allocated total", sums->arenas_opened);
    value_line(text, "# arenas reclaimed", sums->arenas_opened - sums->arena_count);
    value_line(text, "# arenas highwater mark", sums->arenas_opened);
    value_line(text, "# arenas allocated current", sums->arena_count);
    product_line(text, sums->arena_count, " arenas * ", FH_ARENA_BYTES, " bytes/arena");
    put_line(text, "");
}

static void byte_lines(struct fh_text *text, const struct fh_sums *sums,
                       const struct fh_ready *ready)
{
    size_t unused_bytes = sums->spare_bytes + sums->retained_bytes + sums->purged_bytes;
    size_t idle_bytes = fh_stats_ready_bytes(sums, ready);
    value_line(text, "# bytes in allocated blocks", sums->allocated_bytes - idle_bytes);
    value_line(text, "# bytes in available blocks", sums->available_bytes + idle_bytes);
    product_line(text, unused_bytes >> FH_POOL_SHIFT, " unused pools * ", FH_POOL_BYTES, " bytes");
    value_line(text, "# bytes lost to pool headers", 0);
    value_line(text, "# bytes lost to quantization", sums->quantization_bytes);
    value_line(text, "# bytes lost to arena alignment", 0);
    if (sums->classic_bytes != 0)
        product_line(text, sums->classic_bytes >> FH_POOL_SHIFT, " pools of heaps * ",
                     FH_POOL_BYTES, " bytes");
    value_line(text, "Total", sums->mapped_bytes);
    if (sums->large_blocks == 0)
        return;
    put_line(text, "");
    fh_text_number(text, sums->large_blocks, 0, false);
    value_line(text, " large blocks", sums->large_bytes);
}

int fh_stats_write_text(int fd, char *buffer, size_t room)
{
    struct fh_text text;
    struct fh_sums sums = fh_stats_sum();
    struct fh_ready ready = fh_stats_ready();
    fh_text_to_fd(&text, fd, buffer, room);
    heading(&text);
    class_lines(&text, &sums, &ready);
    arena_lines(&text, &sums);
    byte_lines(&text, &sums, &ready);
    return fh_text_end(&text);
}

int fh_malloc_stats(int fd)
{
    char buffer[FH_STATS_BUFFER_BYTES];
    return fh_stats_write_text(fd, buffer, sizeof buffer);
}

/* ---- At exit ----------------------------------------------------------------------------------
 *
 * Programs close stderr in exit handlers of their own, which run before this one as it was there
 * first (coreutils do, to hear of write errors). So a second descriptor of the same file is kept,
 * and used if the first is closed by then and the second is still that file: a program may close
 * all that it does not know, and open another under this number. Several processes may end at once:
 * each writes all it has in one piece.
 */

enum { KEPT_FD_MIN = 100, KEPT_FD_NONE = -1 };

static int kept_fd = KEPT_FD_NONE;
static struct stat kept_file;
static char at_exit_buffer[1 << 14];

static void keep_stderr(void)
{
    if (fstat(STDERR_FILENO, &kept_file) == 0)
        kept_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, KEPT_FD_MIN);
}

static int stderr_at_exit(void)
{
    struct stat now;
    if (fcntl(STDERR_FILENO, F_GETFD) >= 0 || kept_fd < 0 || fstat(kept_fd, &now) != 0)
        return STDERR_FILENO;
    bool same = now.st_dev == kept_file.st_dev && now.st_ino == kept_file.st_ino;
    return same ? kept_fd : STDERR_FILENO;
}

static void write_text_at_exit(void)
{
    /* Refused: nobody listens. */
    (void)fh_stats_write_text(stderr_at_exit(), at_exit_buffer, sizeof at_exit_buffer);
}

static void write_json_at_exit(void)
{
    /* As above. */
    (void)fh_stats_write_json(stderr_at_exit(), at_exit_buffer, sizeof at_exit_buffer);
}

void fh_stats_start(const char *value)
{
    if (value == NULL || value[0] == '\0')
        return;
    int saved_errno = errno;
    keep_stderr();
    (void)atexit(strcmp(value, "json") == 0 ? write_json_at_exit : write_text_at_exit);
    errno = saved_errno;
}
