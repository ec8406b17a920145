/* SPDX-License-Identifier: MIT */
#include "fatal.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE_BYTES = 256, ADDRESS_DIGITS = 16 };

static char *append(char *to, char *end, const char *text)
{
    while (*text != '\0' && to < end)
        *to++ = *text++;
    return to;
}

static char *append_address(char *to, char *end, const void *address)
{
    char digits[2 + ADDRESS_DIGITS + 1] = "0x";
    for (int i = 0; i < ADDRESS_DIGITS; i++)
        digits[2 + i] =
            "0123456789abcdef"[(uintptr_t)address >> (4 * (ADDRESS_DIGITS - 1 - i)) & 15];
    return append(to, end, digits);
}

void fh_fatal_pointer(const char *function, const void *address, const char *what)
{
    char line[LINE_BYTES];
    char *end = line + sizeof line - 1;
    char *to = append(line, end, "freehold: ");
    to = append(to, end, function);
    to = append(to, end, "(");
    to = append_address(to, end, address);
    to = append(to, end, "): ");
    to = append(to, end, what);
    *to++ = '\n';
    if (write(STDERR_FILENO, line, (size_t)(to - line)) < 0)
        abort(); /* nobody listens; the end is the same */
    abort();
}
