/* SPDX-License-Identifier: MIT */
#include "stats_text.h"

#include <errno.h>
#include <unistd.h>

static struct fh_text text_in(char *to, size_t room)
{
    return (struct fh_text){.fd = -1, .to = to, .room = room};
}

void fh_text_to_fd(struct fh_text *text, int fd, char *buffer, size_t room)
{
    *text = text_in(buffer, room);
    text->fd = fd;
}

void fh_text_to_memory(struct fh_text *text, char *to, size_t room)
{
    *text = text_in(to, room);
    text->to_memory = true;
}

/* Ends: each turn writes something, fails, or was interrupted by a handler of the program's. */
static void flush(struct fh_text *text)
{
    size_t written = 0;
    while (written < text->waiting && text->failed_errno == 0) {
        ssize_t bytes = write(text->fd, text->to + written, text->waiting - written);
        if (bytes > 0)
            written += (size_t)bytes;
        else if (bytes == 0 || errno != EINTR)
            text->failed_errno = bytes == 0 ? EIO : errno;
    }
    text->waiting = 0;
}

static void put_char(struct fh_text *text, char character)
{
    if (text->to_memory) {
        if (text->length + 1 < text->room)
            text->to[text->length] = character;
    } else {
        text->to[text->waiting++] = character;
        if (text->waiting == text->room)
            flush(text);
    }
    text->length++;
    text->column = character == '\n' ? 0 : text->column + 1;
}

void fh_text_put(struct fh_text *text, const char *more)
{
    for (; *more != '\0'; more++)
        put_char(text, *more);
}

void fh_text_indent(struct fh_text *text, size_t column)
{
    while (text->column < column)
        put_char(text, ' ');
}

void fh_text_number(struct fh_text *text, uint64_t number, size_t columns, bool commas)
{
    char digits[32];
    size_t at = sizeof digits - 1;
    unsigned count = 0;
    digits[at] = '\0';
    do {
        if (commas && count != 0 && count % 3 == 0)
            digits[--at] = ',';
        digits[--at] = (char)('0' + number % 10);
        count++;
        number /= 10;
    } while (number != 0);
    size_t width = sizeof digits - 1 - at;
    fh_text_indent(text, text->column + (width < columns ? columns - width : 0));
    fh_text_put(text, &digits[at]);
}

int fh_text_end(struct fh_text *text)
{
    if (!text->to_memory)
        flush(text);
    else if (text->room > 0)
        text->to[text->length < text->room ? text->length : text->room - 1] = '\0';
    if (text->failed_errno == 0)
        return 0;
    errno = text->failed_errno;
    return -1;
}
