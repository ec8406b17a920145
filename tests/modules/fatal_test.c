/* SPDX-License-Identifier: MIT */
/* base/fatal.h: what a program with a bad pointer writes before it ends. The reports of free and
 * realloc themselves are in heap_test.c. */
#include "modules.h"

#include <string.h>
#include <unistd.h>

#include "fatal.h"

struct report {
    const char *function;
    const void *address;
    const char *what;
};

static void end_with(void *argument)
{
    const struct report *report = argument;
    fh_fatal_pointer(report->function, report->address, report->what);
}

TEST(a_report_names_the_function_the_address_and_the_reason)
{
    struct report zero = {"free", NULL, "nothing"};
    struct report high = {"realloc", (void *)(uintptr_t)0x0123456789abcdef, "too high"};
    check_aborts(end_with, &zero, "freehold: free(0x0000000000000000): nothing\n");
    check_aborts(end_with, &high, "freehold: realloc(0x0123456789abcdef): too high\n");
}

TEST(a_long_report_is_cut_and_still_a_line)
{
    char reason[400];
    char line[257] = "freehold: f(0x0000000000000010): ";
    memset(reason, 'x', sizeof reason - 1);
    reason[sizeof reason - 1] = '\0';
    memset(line + strlen(line), 'x', 255 - strlen(line));
    line[255] = '\n';
    line[256] = '\0';
    struct report report = {"f", (void *)(uintptr_t)16, reason};
    check_aborts(end_with, &report, line);
}

static void end_unheard(void *argument)
{
    close(STDERR_FILENO);
    end_with(argument);
}

TEST(a_report_nobody_can_read_aborts_too)
{
    struct report report = {"free", NULL, "nothing"};
    check_aborts(end_unheard, &report, "");
}
