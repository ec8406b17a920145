/* SPDX-License-Identifier: MIT */
/* Text, piece by piece, into a file descriptor or into memory. By hand: the C library's printf
 * follows the locale, may allocate, and may be interrupted in the middle. */
#ifndef FH_OBSERVE_STATS_TEXT_H
#define FH_OBSERVE_STATS_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fh_text {
    int fd;   /* if not to_memory */
    char *to; /* memory for the text, or for what waits to be written; with room for so much */
    size_t room;
    bool to_memory;
    size_t length;    /* of all that was put, whether there was room or not */
    int failed_errno; /* of the first write() that failed; nothing is written after it */
    size_t column;    /* since the last newline */
    size_t waiting;   /* bytes in it that are not written yet */
};

/* room > 0. What fits there is written at once, so that it stays in one piece. */
void fh_text_to_fd(struct fh_text *text, int fd, char *buffer, size_t room);
void fh_text_to_memory(struct fh_text *text, char *to, size_t room);

void fh_text_put(struct fh_text *text, const char *more);

/* Spaces up to a column. */
void fh_text_indent(struct fh_text *text, size_t column);

/* Right-aligned in so many columns; with a comma before each three digits if so wished. */
void fh_text_number(struct fh_text *text, uint64_t number, size_t columns, bool commas);

/* Write what waits. Returns 0, or -1 with errno. */
int fh_text_end(struct fh_text *text);

#endif
