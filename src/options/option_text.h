/* SPDX-License-Identifier: MIT */
/* A text under construction in somebody's memory. What does not fit is left out, but counted, and
 * the end is always a 0 byte. No locale, no stdio, no malloc.
 */
#ifndef FH_OPTIONS_OPTION_TEXT_H
#define FH_OPTIONS_OPTION_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fh_text {
    char *at;
    size_t room; /* with the final 0; may be 0 */
    size_t used; /* how long the text would be; cut if used >= room */
};

/* A part of a longer text. */
struct fh_slice {
    const char *at;
    size_t length;
};

struct fh_slice fh_slice_of(const char *text);

/* Byte by byte; `_word` does not tell upper from lower case in ASCII. */
bool fh_slice_is(struct fh_slice slice, const char *text);
bool fh_slice_is_word(struct fh_slice slice, const char *word);

char fh_lower(char character);
char fh_upper(char character);

void fh_text_add(struct fh_text *text, const char *more);
void fh_text_add_char(struct fh_text *text, char more);
void fh_text_add_number(struct fh_text *text, uint64_t number);

/* In the environment's own words, as far as they can be shown; cut when they are long. */
void fh_text_add_quoted(struct fh_text *text, struct fh_slice slice);

/* Spaces up to `column` of the line that began at `line_start`; at least one. */
void fh_text_pad(struct fh_text *text, size_t line_start, size_t column);

/* Shorten it again. */
void fh_text_cut(struct fh_text *text, size_t used);

static inline bool fh_text_fits(const struct fh_text *text)
{
    return text->used < text->room;
}

/* Write what there is. Preserves errno; that nobody listens is no error. */
void fh_text_write(const struct fh_text *text, int file);

#endif
