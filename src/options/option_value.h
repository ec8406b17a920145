/* SPDX-License-Identifier: MIT */
/* What the value of an option may look like, by its kind. Pure functions.
 *
 *   word     one of a list
 *   text     anything that is not too long
 *   count    digits
 *   size     digits, then nothing or b, k, m, g, t (also kb, kib, ...): powers of 1024
 *   time     digits, then nothing or ms, s, min; or -1 for never
 *   switch   1, on, true, yes, or 0, off, false, no
 *   limit    a size, or cgroup, or cgroup:80, the number being percent
 *
 * Letters may be of either case, but for text and words.
 */
#ifndef FH_OPTIONS_OPTION_VALUE_H
#define FH_OPTIONS_OPTION_VALUE_H

#include "option_text.h"

enum fh_kind {
    FH_KIND_WORD,
    FH_KIND_TEXT,
    FH_KIND_COUNT,
    FH_KIND_SIZE,
    FH_KIND_TIME,
    FH_KIND_SWITCH,
    FH_KIND_LIMIT
};

#define FH_NEVER UINT64_MAX

/* In a limit's number: the rest of it is percent of the control group's. */
#define FH_OF_CGROUP ((uint64_t)1 << 63)

enum { FH_VALUE_TEXT_BYTES = 256 };

struct fh_value {
    uint64_t number;                /* a word's place in its list; a time in ms, or FH_NEVER */
    char text[FH_VALUE_TEXT_BYTES]; /* of a text alone */
};

/* Which values an option takes. */
struct fh_range {
    enum fh_kind kind;
    const char *const *words; /* up to a NULL */
    uint64_t maximum;         /* of a number; FH_NEVER is beside it */
};

/* False, and nothing is changed, if `from` is no such value. */
bool fh_value_parse(const struct fh_range *range, struct fh_slice from, struct fh_value *out);

/* As it could be given again. */
void fh_value_add(const struct fh_range *range, const struct fh_value *value, struct fh_text *text);

/* What values there are: "a size: 4096, 64k, 8M". */
void fh_range_add(const struct fh_range *range, struct fh_text *text);

#endif
