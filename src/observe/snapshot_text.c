/* SPDX-License-Identifier: MIT */
/* A statistic as CPython prints it. By hand: the C library's printf follows the locale, and may be
 * interrupted in the middle.
 */
#include <stdbool.h>
#include <string.h>

#include "snapshot.h"

enum { DIGITS_MAX = 20, FRACTION_BITS = 58, KIBI = 1024 };

/* Text that is counted, and kept as far as it fits. */
struct text {
    char *to;
    size_t bytes; /* that fit, with the final 0 */
    size_t length;
};

static void add_char(struct text *text, char character)
{
    if (text->length + 1 < text->bytes)
        text->to[text->length] = character;
    text->length++;
}

static void add(struct text *text, const char *more)
{
    for (; *more != '\0'; more++)
        add_char(text, *more);
}

static void add_number(struct text *text, uint64_t number, unsigned base)
{
    char digits[DIGITS_MAX];
    unsigned count = 0;
    do
        digits[count++] = "0123456789abcdef"[number % base];
    while ((number /= base) != 0);
    while (count > 0)
        add_char(text, digits[--count]);
}

static size_t end(struct text *text)
{
    if (text->bytes > 0)
        text->to[text->length < text->bytes ? text->length : text->bytes - 1] = '\0';
    return text->length;
}

/* ---- Sizes -------------------------------------------------------------------------------------
 */

/* number / 2^FRACTION_BITS, ties to even, as printf rounds. */
static uint64_t round_fraction(uint64_t number)
{
    uint64_t half = (uint64_t)1 << (FRACTION_BITS - 1);
    uint64_t whole = number >> FRACTION_BITS;
    uint64_t rest = number & ((half << 1) - 1);
    return whole + (rest > half || (rest == half && whole % 2 == 1));
}

/* value >= 0 with no decimal, or below 100 with one: what is below the point is exact in so many
 * bits then. */
static void add_rounded(struct text *text, double value, unsigned decimals)
{
    uint64_t scale = decimals == 0 ? 1 : 10;
    uint64_t whole = (uint64_t)value;
    double rest = (value - (double)whole) * (double)((uint64_t)1 << FRACTION_BITS);
    uint64_t odd = decimals == 0 ? whole % 2 : 0; /* decides a tie */
    uint64_t rounded = round_fraction((odd << FRACTION_BITS) + (uint64_t)rest * scale) - odd;
    whole += rounded / scale;
    add_number(text, whole, 10);
    if (decimals == 0)
        return;
    add_char(text, '.');
    add_number(text, rounded % scale, 10);
}

static void add_size(struct text *text, double size)
{
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB"};
    unsigned unit = 0;
    while (unit < 4 && size >= 10 * KIBI) {
        size /= KIBI;
        unit++;
    }
    add_rounded(text, size, size < 100 && unit > 0);
    add(text, units[unit]);
}

static void add_sign(struct text *text, int64_t number)
{
    add_char(text, number < 0 ? '-' : '+');
}

static uint64_t magnitude(int64_t number)
{
    return number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
}

/* ---- Statistics --------------------------------------------------------------------------------
 */

static void add_frame(struct text *text, const fh_frame *frame)
{
    add(text, frame->filename);
    add(text, frame->pc != 0 && frame->lineno == 0 ? "+0x" : ":");
    if (frame->pc != 0 && frame->lineno == 0)
        add_number(text, frame->pc, 16);
    else
        add_number(text, frame->lineno, 10);
}

static void add_average(struct text *text, const fh_statistic *statistic)
{
    if (statistic->count == 0)
        return;
    add(text, ", average=");
    add_size(text, (double)statistic->bytes / (double)statistic->count);
}

static void add_bytes(struct text *text, const fh_statistic *statistic)
{
    add_frame(text, &statistic->frames[statistic->frame_count - 1]);
    add(text, ": size=");
    add_size(text, (double)statistic->bytes);
}

static void add_count(struct text *text, const fh_statistic *statistic)
{
    add(text, ", count=");
    add_number(text, statistic->count, 10);
}

size_t fh_statistic_format(const fh_statistic *statistic, char *to, size_t bytes)
{
    struct text text = {to, bytes, 0};
    add_bytes(&text, statistic);
    add_count(&text, statistic);
    add_average(&text, statistic);
    return end(&text);
}

size_t fh_statistic_format_diff(const fh_statistic *statistic, char *to, size_t bytes)
{
    struct text text = {to, bytes, 0};
    add_bytes(&text, statistic);
    add(&text, " (");
    add_sign(&text, statistic->bytes_diff);
    add_size(&text, (double)magnitude(statistic->bytes_diff));
    add(&text, ")");
    add_count(&text, statistic);
    add(&text, " (");
    add_sign(&text, statistic->count_diff);
    add_number(&text, magnitude(statistic->count_diff), 10);
    add(&text, ")");
    add_average(&text, statistic);
    return end(&text);
}
