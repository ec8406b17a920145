/* SPDX-License-Identifier: MIT */
/* freehold-workloads: the list of workloads, the command line and the result.
 *
 *   freehold-workloads --list
 *   freehold-workloads NAME [--threads N] [--scale X] [--seed S] [--survivors PERCENT]
 *                           [--rest SECONDS]
 *
 * Scale 1 takes about two seconds on two cores under glibc, idle less and one next to nothing; the
 * threads share the same work, however many they are. heap and classes take other scales. The last
 * line of the output is one JSON object: workload, threads, scale, seconds, operations (calls that
 * allocate), and what only some workloads measure (else null): rest_kib and live_kib, resident
 * memory and requested bytes of live blocks at one moment; latency_ns. The exit status is 2 for a
 * bad command line, 1 for a failure.
 */
#include "workloads.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct workload {
    const char *name;
    void (*run)(void);
    unsigned threads, threads_min, threads_max;
    const char *description;
};

static const struct workload workloads[] = {
    {"larson", run_larson, 2, 1, THREADS_MAX,
     "server threads replace blocks of 8-1000 bytes and hand their arrays to successor threads"},
    {"xmalloc", run_xmalloc, 2, 2, THREADS_MAX,
     "half of the threads take batches of blocks, the other half frees them"},
    {"mstress", run_mstress, 4, 1, THREADS_MAX,
     "rounds of new threads; sizes with heavy tails, some blocks retained, some passed on"},
    {"rptest", run_rptest, 2, 1, THREADS_MAX,
     "slots of 16-16000 bytes for each thread, and a parcel for the next thread in each loop"},
    {"handover", run_handover, 2, 1, THREADS_MAX,
     "each block of 16-256 bytes is freed by whichever thread finds it in a shared array"},
    {"cache-scratch", run_cache_scratch, 2, 1, THREADS_MAX,
     "passive false sharing: blocks of one thread's line, freed by others, are written to"},
    {"cache-thrash", run_cache_thrash, 2, 1, THREADS_MAX,
     "active false sharing: threads take blocks of 8 bytes and write to them"},
    {"alloc-test", run_alloc_test, 1, 1, THREADS_MAX,
     "random slots, some used more than others, are filled and emptied; skewed sizes to 1 KiB"},
    {"steady", run_steady, 1, 1, THREADS_MAX,
     "a fixed number of live blocks of 16-255 bytes, replaced at random; memory at the end"},
    {"medium", run_medium, 2, 1, THREADS_MAX,
     "random slots of 8 KiB to 1 MiB, each page written to"},
    {"large", run_large, 1, 1, THREADS_MAX,
     "random slots of 5-25 MiB, every sixteenth page written to"},
    {"sh6", run_sh6, 1, 1, THREADS_MAX,
     "rising sizes to 1000 bytes; bursts of frees, newest first, oldest first, or from both ends"},
    {"sh8", run_sh8, 2, 1, THREADS_MAX,
     "as sh6 with skewed random sizes to 2 KiB, and every fourth block freed by another thread"},
    {"batches", run_batches, 1, 1, THREADS_MAX,
     "a batch of blocks of one size is taken, then freed; five sizes, batches of 100 and 10000"},
    {"arithmetic", run_arithmetic, 1, 1, THREADS_MAX,
     "a polynomial's powers: lists of terms, coefficients of any length, all of them tiny blocks"},
    {"logic", run_logic, 1, 1, THREADS_MAX,
     "queens on a board: lists that share their ends, freed by reference count"},
    {"tree", run_tree, 2, 1, THREADS_MAX,
     "binary trees are built and dropped beside one that stays"},
    {"strings", run_strings, 1, 1, THREADS_MAX,
     "a hash map of strings that grow by realloc and are deleted"},
    {"latency", run_latency, 64, 1, THREADS_MAX,
     "a mix of sizes in many threads, each malloc and each free timed"},
    {"thread-churn", run_thread_churn, 2, 1, THREADS_MAX,
     "threads start, take 64 blocks, free half of them and end"},
    {"idle", run_idle, 8, 1, THREADS_MAX,
     "500 MB in blocks of 16-2047 bytes, freed but for --survivors PERCENT; memory after --rest S"},
    {"blocked", run_blocked, 2, 1, THREADS_MAX,
     "producers fill, then wait for ever; others free, and take as much: memory of it all"},
    {"gone", run_gone, 2, 1, THREADS_MAX, "as blocked, but the producers end"},
    {"one", run_one, 1, 1, 1, "one block, and the end: what it costs to start"},
    {"heap", run_heap, 1, 1, 1, "as many MiB of live blocks as --scale says, replaced at random"},
    {"classes", run_classes, 1, 1, 1, "as many sizes as --scale says, replaced at random"},
};

enum { WORKLOAD_COUNT = sizeof(workloads) / sizeof(workloads[0]) };

/* ---- The command line ---- */

static _Noreturn void refuse(const char *what, const char *argument)
{
    dprintf(STDERR_FILENO, "freehold-workloads: %s: %s\n", what, argument);
    dprintf(STDERR_FILENO,
            "usage: freehold-workloads --list\n"
            "       freehold-workloads NAME [--threads N] [--scale X] [--seed S]\n"
            "                               [--survivors PERCENT] [--rest SECONDS]\n");
    _exit(2);
}

static void list(void)
{
    for (int i = 0; i < WORKLOAD_COUNT; i++)
        dprintf(STDOUT_FILENO, "%s\t%s (threads: %u)\n", workloads[i].name,
                workloads[i].description, workloads[i].threads);
}

static const struct workload *find(const char *name)
{
    for (int i = 0; i < WORKLOAD_COUNT; i++)
        if (strcmp(workloads[i].name, name) == 0)
            return &workloads[i];
    refuse("no such workload", name);
}

static double number(const char *text, double least, double most)
{
    char *end;
    const double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= least && value <= most))
        refuse("not a number in range", text);
    return value;
}

static uint64_t whole_number(const char *text, uint64_t most)
{
    char *end;
    const uint64_t value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || value > most)
        refuse("not a whole number in range", text);
    return value;
}

static void set_option(const char *name, const char *value)
{
    if (strcmp(name, "--threads") == 0)
        options.threads = (unsigned)whole_number(value, THREADS_MAX);
    else if (strcmp(name, "--scale") == 0)
        options.scale = number(value, 1e-6, 1e6);
    else if (strcmp(name, "--seed") == 0)
        options.seed = whole_number(value, UINT64_MAX);
    else if (strcmp(name, "--survivors") == 0)
        options.survivors_percent = number(value, 0, 100);
    else if (strcmp(name, "--rest") == 0)
        options.rest_seconds = number(value, 0, 3600);
    else
        refuse("no such option", name);
}

static const struct workload *parse(int count, char **arguments)
{
    if (count < 2)
        refuse("missing", "NAME");
    const struct workload *workload = find(arguments[1]);
    options.threads = workload->threads;
    for (int i = 2; i < count; i += 2) {
        if (i + 1 == count)
            refuse("an option without its value", arguments[i]);
        set_option(arguments[i], arguments[i + 1]);
    }
    if (options.threads < workload->threads_min || options.threads > workload->threads_max)
        refuse("not with so many threads", workload->name);
    return workload;
}

/* ---- The result ---- */

/* Appends to the line; what does not fit is cut off, which nothing here comes near to. */
struct line {
    char text[1024];
    size_t length;
};

#define APPEND(line, ...)                                                                          \
    ((line)->length += (size_t)snprintf((line)->text + (line)->length,                             \
                                        sizeof((line)->text) - (line)->length, __VA_ARGS__))

static void append_kib(struct line *line, const char *name, long long kib)
{
    if (kib < 0)
        APPEND(line, ",\"%s\":null", name);
    else
        APPEND(line, ",\"%s\":%lld", name, kib);
}

static void append_latency(struct line *line, const struct latency *latency)
{
    if (latency->max < 0)
        APPEND(line, ",\"latency_ns\":null");
    else
        APPEND(line,
               ",\"latency_ns\":{\"p50\":%.0f,\"p99\":%.0f,\"p99_9\":%.0f,\"p99_99\":%.0f,"
               "\"max\":%.0f}",
               latency->p50, latency->p99, latency->p99_9, latency->p99_99, latency->max);
}

static void print_result(const struct workload *workload)
{
    static struct line line;
    APPEND(&line, "{\"workload\":\"%s\",\"threads\":%u,\"scale\":%g", workload->name,
           options.threads, options.scale);
    APPEND(&line, ",\"seconds\":%.4f,\"operations\":%llu", result.seconds,
           (unsigned long long)result.operations);
    append_kib(&line, "rest_kib", result.rest_kib);
    append_kib(&line, "live_kib", result.live_kib);
    append_latency(&line, &result.latency);
    APPEND(&line, "}\n");
    if (write(STDOUT_FILENO, line.text, line.length) != (ssize_t)line.length)
        fail("the result could not be written");
}

int main(int argument_count, char **arguments)
{
    if (argument_count == 2 && strcmp(arguments[1], "--list") == 0) {
        list();
        return 0;
    }
    const struct workload *workload = parse(argument_count, arguments);
    const double begin = now_seconds();
    workload->run();
    if (result.seconds < 0)
        result.seconds = now_seconds() - begin;
    print_result(workload);
    return 0;
}
