/* SPDX-License-Identifier: MIT */
/* freehold-objects: the object library against CPython, which does the same work through its C API.
 *
 * Each figure comes from processes of their own, one for each side and case; the sides take turns,
 * so that a machine that gets slower does so for all. A figure is the median of the rounds: times
 * of one thread are processor time, what two threads do at once is by the clock on the wall. Where
 * CPython's side was not built, its columns stay empty.
 */
#include <libgen.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROUNDS_MAX = 99, PATH_BYTES = 4096 };

static const char *const cases[] = {"ints",   "strings",   "lists10", "lists1000",
                                    "dicts8", "dicts1000", "trees",   "mixed"};
enum { CASES = sizeof(cases) / sizeof(cases[0]) };

static const struct {
    const char *name, *program, *mode;
    unsigned threads;
} sides[] = {
    {"cpython", "cpython", "cpython", 1},      {"gil", "freehold", "gil", 1},
    {"gil_heap", "freehold", "gil-heap", 1},   {"free", "freehold", "free", 1},
    {"free_2_threads", "freehold", "free", 2},
};
enum { CPYTHON, GIL, GIL_HEAP, FREE, FREE_2, SIDES };

/* Operations a second. */
struct speeds {
    double wall[ROUNDS_MAX], processor[ROUNDS_MAX];
};

static struct speeds speeds[CASES][SIDES];
static double seconds = 0.5;
static unsigned rounds = 5;
static const char *only_case, *json_path;
static char folder[PATH_BYTES];

static void find_folder(void)
{
    ssize_t length = readlink("/proc/self/exe", folder, sizeof(folder) - 1);
    if (length > 0)
        (void)dirname(folder);
}

static bool has_program(const char *program)
{
    char path[2 * PATH_BYTES];
    (void)snprintf(path, sizeof(path), "%s/freehold-objects-%s", folder, program);
    return access(path, X_OK) == 0;
}

static bool measure(size_t which, size_t side, unsigned round)
{
    char command[2 * PATH_BYTES];
    struct speeds *to = &speeds[which][side];
    (void)snprintf(command, sizeof(command), "\"%s/freehold-objects-%s\" %s %u %s %g", folder,
                   sides[side].program, sides[side].mode, sides[side].threads, cases[which],
                   seconds);
    FILE *output = popen(command, "r");
    if (output == NULL)
        return false;
    bool is_read = fscanf(output, "%lf %lf", &to->wall[round], &to->processor[round]) == 2;
    return pclose(output) == 0 && is_read;
}

static int by_size(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static double median(const double *values)
{
    double sorted[ROUNDS_MAX];
    memcpy(sorted, values, sizeof(sorted));
    qsort(sorted, rounds, sizeof(*sorted), by_size);
    return rounds % 2 != 0 ? sorted[rounds / 2] : (sorted[rounds / 2 - 1] + sorted[rounds / 2]) / 2;
}

/* Nanoseconds an operation takes; 0 if the side was left out. */
static double ns_of(size_t which, size_t side)
{
    double speed = median(speeds[which][side].processor);
    return speed > 0 ? 1e9 / speed : 0;
}

static double scaling_of(size_t which)
{
    return median(speeds[which][FREE_2].wall) / median(speeds[which][FREE].wall);
}

static bool is_wanted(size_t which)
{
    return only_case == NULL || strcmp(only_case, cases[which]) == 0;
}

/* ---- Output ---- */

static void print_side(size_t which, size_t side)
{
    double cpython = ns_of(which, CPYTHON), ns = ns_of(which, side);
    if (cpython > 0)
        printf("  %7.2f %5.2f", ns, ns / cpython);
    else
        printf("  %7.2f      ", ns);
}

static void print_table(void)
{
    printf("%-10s %8s  %13s  %13s  %13s  %9s\n", "ns", "cpython", "gil", "gil-heap", "free",
           "2 threads");
    for (size_t which = 0; which < CASES; which++) {
        if (!is_wanted(which))
            continue;
        printf("%-10s %8.2f", cases[which], ns_of(which, CPYTHON));
        for (size_t side = GIL; side <= FREE; side++)
            print_side(which, side);
        printf("  x %7.2f\n", scaling_of(which));
    }
}

static void write_rounds(FILE *file, const char *name, const double *values)
{
    fprintf(file, "\"%s\": [", name);
    for (unsigned round = 0; round < rounds; round++)
        fprintf(file, "%s%.0f", round == 0 ? "" : ", ", values[round]);
    fprintf(file, "]");
}

/* Operations a second, of each round. */
static void write_json(FILE *file)
{
    fprintf(file, "{\"seconds\": %g, \"cases\": [", seconds);
    const char *comma = "";
    for (size_t which = 0; which < CASES; which++)
        for (size_t side = 0; side < SIDES && is_wanted(which); side++) {
            if (median(speeds[which][side].wall) <= 0)
                continue;
            fprintf(file, "%s\n{\"case\": \"%s\", \"side\": \"%s\", ", comma, cases[which],
                    sides[side].name);
            write_rounds(file, "speed", speeds[which][side].wall);
            fprintf(file, ", ");
            write_rounds(file, "processor_speed", speeds[which][side].processor);
            fprintf(file, "}");
            comma = ",";
        }
    fprintf(file, "\n]}\n");
}

/* ---- Running ---- */

static bool run_round(unsigned round)
{
    for (size_t which = 0; which < CASES; which++)
        for (size_t side = 0; side < SIDES && is_wanted(which); side++)
            if (has_program(sides[side].program) && !measure(which, side, round)) {
                fprintf(stderr, "freehold-objects: %s failed for %s\n", cases[which],
                        sides[side].name);
                return false;
            }
    return true;
}

static int usage(void)
{
    fprintf(stderr,
            "usage: freehold-objects [--seconds S] [--rounds N] [--case NAME] [--json FILE]\n"
            "S: of each run (0.5); N: at most 99 (5). Cases:");
    for (size_t which = 0; which < CASES; which++)
        fprintf(stderr, " %s", cases[which]);
    fprintf(stderr, "\n");
    return 2;
}

static bool read_options(int count, char **arguments)
{
    int i = 1;
    for (; i + 1 < count; i += 2) {
        if (strcmp(arguments[i], "--seconds") == 0)
            seconds = atof(arguments[i + 1]);
        else if (strcmp(arguments[i], "--rounds") == 0)
            rounds = (unsigned)atoi(arguments[i + 1]);
        else if (strcmp(arguments[i], "--case") == 0)
            only_case = arguments[i + 1];
        else if (strcmp(arguments[i], "--json") == 0)
            json_path = arguments[i + 1];
        else
            return false;
    }
    bool is_known = false;
    for (size_t which = 0; which < CASES; which++)
        is_known |= is_wanted(which);
    return i == count && is_known && seconds > 0 && rounds > 0 && rounds <= ROUNDS_MAX;
}

int main(int count, char **arguments)
{
    if (!read_options(count, arguments))
        return usage();
    find_folder();
    for (unsigned round = 0; round < rounds; round++)
        if (!run_round(round))
            return 1;
    print_table();
    FILE *file = json_path == NULL ? NULL : fopen(json_path, "w");
    if (file != NULL)
        write_json(file);
    if (file != NULL ? fclose(file) != 0 : json_path != NULL) {
        perror(json_path);
        return 1;
    }
    return 0;
}
