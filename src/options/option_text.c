/* SPDX-License-Identifier: MIT */
#include "option_text.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { QUOTED_MAX = 60 };

/* ---- Slices -----------------------------------------------------------------------------------
 */

char fh_lower(char character)
{
    return character >= 'A' && character <= 'Z' ? (char)(character - 'A' + 'a') : character;
}

char fh_upper(char character)
{
    return character >= 'a' && character <= 'z' ? (char)(character - 'a' + 'A') : character;
}

struct fh_slice fh_slice_of(const char *text)
{
    return (struct fh_slice){text, strlen(text)};
}

bool fh_slice_is(struct fh_slice slice, const char *text)
{
    return slice.length == strlen(text) && memcmp(slice.at, text, slice.length) == 0;
}

bool fh_slice_is_word(struct fh_slice slice, const char *word)
{
    if (slice.length != strlen(word))
        return false;
    for (size_t i = 0; i < slice.length; i++)
        if (fh_lower(slice.at[i]) != fh_lower(word[i]))
            return false;
    return true;
}

/* ---- Texts ------------------------------------------------------------------------------------
 */

void fh_text_add_char(struct fh_text *text, char more)
{
    if (text->used + 1 < text->room) {
        text->at[text->used] = more;
        text->at[text->used + 1] = '\0';
    }
    text->used++;
}

void fh_text_add(struct fh_text *text, const char *more)
{
    for (; *more != '\0'; more++)
        fh_text_add_char(text, *more);
}

void fh_text_add_number(struct fh_text *text, uint64_t number)
{
    char digits[21]; /* of 2^64 - 1, and the 0 */
    char *first = digits + sizeof digits - 1;
    *first = '\0';
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    fh_text_add(text, first);
}

void fh_text_add_quoted(struct fh_text *text, struct fh_slice slice)
{
    fh_text_add_char(text, '`');
    for (size_t i = 0; i < slice.length && i < QUOTED_MAX; i++)
        fh_text_add_char(text, slice.at[i] < ' ' || slice.at[i] == 0x7f ? '?' : slice.at[i]);
    fh_text_add(text, slice.length > QUOTED_MAX ? "...`" : "`");
}

void fh_text_pad(struct fh_text *text, size_t line_start, size_t column)
{
    do
        fh_text_add_char(text, ' ');
    while (text->used < line_start + column);
}

void fh_text_cut(struct fh_text *text, size_t used)
{
    text->used = used;
    if (used < text->room)
        text->at[used] = '\0';
}

void fh_text_write(const struct fh_text *text, int file)
{
    int saved_errno = errno;
    size_t length = text->room == 0 || fh_text_fits(text) ? text->used : text->room - 1;
    size_t done = 0;
    while (text->room != 0 && done < length) {
        ssize_t written = write(file, text->at + done, length - done);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            break;
        done += (size_t)written;
    }
    errno = saved_errno;
}
