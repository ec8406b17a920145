/* SPDX-License-Identifier: MIT */
#include "option_value.h"

#include <string.h>

struct unit {
    const char *name;
    uint64_t factor;
};

#define KIB ((uint64_t)1 << 10)
#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define TIB ((uint64_t)1 << 40)

static const struct unit count_units[] = {{"", 1}, {NULL, 0}};
static const struct unit size_units[] = {{"", 1},      {"b", 1},     {"k", KIB},   {"kb", KIB},
                                         {"kib", KIB}, {"m", MIB},   {"mb", MIB},  {"mib", MIB},
                                         {"g", GIB},   {"gb", GIB},  {"gib", GIB}, {"t", TIB},
                                         {"tb", TIB},  {"tib", TIB}, {NULL, 0}};
static const struct unit time_units[] = {
    {"", 1}, {"ms", 1}, {"s", 1000}, {"min", 60000}, {NULL, 0}};

static const char *const switch_words[] = {"0",    "1",  "off", "on", "false",
                                           "true", "no", "yes", NULL};

/* ---- Reading ----------------------------------------------------------------------------------
 */

/* The digits at the beginning; `rest` is what follows them. False if there are none, or too many.
 */
static bool parse_digits(struct fh_slice from, uint64_t *number, struct fh_slice *rest)
{
    size_t length = 0;
    *number = 0;
    for (; length < from.length && from.at[length] >= '0' && from.at[length] <= '9'; length++)
        if (__builtin_mul_overflow(*number, (uint64_t)10, number) ||
            __builtin_add_overflow(*number, (uint64_t)(from.at[length] - '0'), number))
            return false;
    *rest = (struct fh_slice){from.at + length, from.length - length};
    return length > 0;
}

static bool parse_with_unit(const struct unit *units, struct fh_slice from, uint64_t *number)
{
    struct fh_slice rest;
    if (!parse_digits(from, number, &rest))
        return false;
    while (units->name != NULL && !fh_slice_is_word(rest, units->name))
        units++;
    return units->name != NULL && !__builtin_mul_overflow(*number, units->factor, number);
}

static bool parse_word(const char *const *words, struct fh_slice from, uint64_t *number)
{
    for (*number = 0; words[*number] != NULL; ++*number)
        if (fh_slice_is(from, words[*number]))
            return true;
    return false;
}

static bool parse_switch(struct fh_slice from, uint64_t *number)
{
    for (size_t i = 0; switch_words[i] != NULL; i++) {
        *number = i % 2;
        if (fh_slice_is_word(from, switch_words[i]))
            return true;
    }
    return false;
}

static bool parse_cgroup(struct fh_slice from, uint64_t *number)
{
    static const char word[] = "cgroup";
    enum { LENGTH = sizeof word - 1, ALL_PERCENT = 100 };
    struct fh_slice rest;
    uint64_t percent = ALL_PERCENT;
    if (from.length < LENGTH || !fh_slice_is_word((struct fh_slice){from.at, LENGTH}, word))
        return false;
    if (from.length > LENGTH) {
        struct fh_slice digits = {from.at + LENGTH + 1, from.length - LENGTH - 1};
        if (from.at[LENGTH] != ':' || !parse_digits(digits, &percent, &rest) || rest.length > 0)
            return false;
    }
    *number = FH_OF_CGROUP | percent;
    return percent > 0 && percent <= ALL_PERCENT;
}

static bool parse_number(const struct fh_range *range, struct fh_slice from, uint64_t *number)
{
    switch (range->kind) {
    case FH_KIND_WORD:
        return parse_word(range->words, from, number);
    case FH_KIND_SIZE:
        return parse_with_unit(size_units, from, number) && *number <= range->maximum;
    case FH_KIND_LIMIT:
        return parse_cgroup(from, number) ||
               (parse_with_unit(size_units, from, number) && *number <= range->maximum);
    case FH_KIND_TIME:
        *number = FH_NEVER;
        return fh_slice_is(from, "-1") ||
               (parse_with_unit(time_units, from, number) && *number <= range->maximum);
    case FH_KIND_COUNT:
        return parse_with_unit(count_units, from, number) && *number <= range->maximum;
    default:
        return parse_switch(from, number);
    }
}

bool fh_value_parse(const struct fh_range *range, struct fh_slice from, struct fh_value *out)
{
    struct fh_value value = {0, ""};
    if (range->kind != FH_KIND_TEXT) {
        if (!parse_number(range, from, &value.number))
            return false;
    } else {
        if (from.length >= sizeof value.text)
            return false;
        memcpy(value.text, from.at, from.length);
    }
    *out = value;
    return true;
}

/* ---- Writing ----------------------------------------------------------------------------------
 */

static void add_size(uint64_t bytes, struct fh_text *text)
{
    static const char letters[] = "\0kMGT";
    size_t power = 0;
    while (bytes != 0 && bytes % KIB == 0 && power + 2 < sizeof letters) {
        bytes /= KIB;
        power++;
    }
    fh_text_add_number(text, bytes);
    if (power > 0)
        fh_text_add_char(text, letters[power]);
}

static void add_limit(uint64_t limit, struct fh_text *text)
{
    if ((limit & FH_OF_CGROUP) == 0) {
        add_size(limit, text);
        return;
    }
    fh_text_add(text, "cgroup:");
    fh_text_add_number(text, limit & ~FH_OF_CGROUP);
}

static void add_time(uint64_t ms, struct fh_text *text)
{
    if (ms == FH_NEVER) {
        fh_text_add(text, "-1");
        return;
    }
    fh_text_add_number(text, ms);
    fh_text_add(text, "ms");
}

void fh_value_add(const struct fh_range *range, const struct fh_value *value, struct fh_text *text)
{
    switch (range->kind) {
    case FH_KIND_WORD:
        fh_text_add(text, range->words[value->number]);
        break;
    case FH_KIND_TEXT:
        fh_text_add(text, value->text);
        break;
    case FH_KIND_SIZE:
        add_size(value->number, text);
        break;
    case FH_KIND_TIME:
        add_time(value->number, text);
        break;
    case FH_KIND_LIMIT:
        add_limit(value->number, text);
        break;
    default:
        fh_text_add_number(text, value->number);
    }
}

static void add_words(const char *const *words, struct fh_text *text)
{
    fh_text_add(text, "one of");
    for (; *words != NULL; words++) {
        fh_text_add_char(text, ' ');
        fh_text_add(text, *words);
    }
}

void fh_range_add(const struct fh_range *range, struct fh_text *text)
{
    switch (range->kind) {
    case FH_KIND_WORD:
        add_words(range->words, text);
        break;
    case FH_KIND_TEXT:
        fh_text_add(text, "a text of up to 255 bytes");
        break;
    case FH_KIND_COUNT:
        fh_text_add(text, "a number from 0 to ");
        fh_text_add_number(text, range->maximum);
        break;
    case FH_KIND_SIZE:
        fh_text_add(text, "a size, as in 4096, 64k or 8M");
        break;
    case FH_KIND_TIME:
        fh_text_add(text, "a time, as in 500, 500ms or 5s, or -1 for never");
        break;
    case FH_KIND_SWITCH:
        fh_text_add(text, "1 or 0, on or off");
        break;
    case FH_KIND_LIMIT:
        fh_text_add(text,
                    "a size, 0 for none; or cgroup:80, percent of memory.max, if there is one");
        break;
    }
}
