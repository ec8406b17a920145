/* SPDX-License-Identifier: MIT */
/* A program as a user may have it, for check.py to start in one environment or another:
 *
 *   program WORD...
 *
 * prints something for each word, a line each; `twice` ends it, if the debug hooks are on.
 */
#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <freehold.h>
#include <freehold/debug.h>
#include <freehold/gil.h>
#include <freehold/limit.h>
#include <freehold/options.h>
#include <freehold/purger.h>
#include <freehold/trace.h>

/* Blocks of all domains, with their contents checked. */
static void work(void)
{
    char *blocks[1000];
    for (size_t i = 0; i < 1000; i++) {
        blocks[i] = i % 2 == 0 ? fh_mem_malloc(i) : fh_obj_calloc(1, i);
        if (blocks[i] == NULL)
            exit(3);
        memset(blocks[i], (int)i, i);
        blocks[i] = i % 2 == 0 ? fh_mem_realloc(blocks[i], 2 * i) : blocks[i];
    }
    for (size_t i = 0; i < 1000; i++) {
        if (i > 0 && (blocks[i][0] != (char)i || blocks[i][i - 1] != (char)i))
            exit(4);
        i % 2 == 0 ? fh_mem_free(blocks[i]) : fh_obj_free(blocks[i]);
    }
    puts("worked");
}

static void owner(void)
{
    void *raw = fh_raw_malloc(100);
    void *obj = fh_obj_malloc(100);
    printf("raw %s, obj %s\n", fh_owns(raw) ? "owned" : "strange",
           fh_owns(obj) ? "owned" : "strange");
    fh_obj_free(obj);
    fh_raw_free(raw);
}

static void name(void)
{
    const char *text = fh_current_allocator_name();
    puts(text == NULL ? "none" : text);
}

static void twice(void)
{
    void *volatile block = fh_mem_malloc(10);
    fflush(stdout);
    fh_mem_free(block);
    fh_mem_free(block);
}

static void lock(void)
{
    fh_gil_acquire(fh_gil_builtin());
}

static void serial(void)
{
    fh_obj_free(fh_obj_malloc(1));
    puts(fh_debug_serial() != 0 ? "numbered" : "unnumbered");
}

/* In the child, so that each option is told by who did not read it. */
static void options(void)
{
    static const char *const names[] = {"malloc", "obj_mode", "trace", "decay_ms", "retain_min"};
    int status = 0;
    fflush(stdout);
    pid_t child = fork();
    for (size_t i = 0; child == 0 && i < sizeof names / sizeof names[0]; i++) {
        char value[64];
        if (fh_option_get(names[i], value, sizeof value) < 0)
            _exit(5);
        printf("%s=%s\n", names[i], value);
    }
    if (child == 0)
        exit(0);
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        exit(6);
}

static void traced(void)
{
    printf("%d frames\n", fh_trace_is_tracing() ? fh_trace_limit() : 0);
}

static void limit(void)
{
    char value[64];
    if (fh_option_get("limit", value, sizeof value) < 0)
        exit(7);
    printf("limit %s, %zu bytes\n", value, fh_get_limit());
}

/* Blocks of a MiB up to the limit; then one goes, and another comes. */
static void fill(void)
{
    enum { BLOCK_BYTES = 1 << 20, BLOCKS_MAX = 1 << 10 };
    static void *blocks[BLOCKS_MAX];
    size_t count = 0;
    while (count < BLOCKS_MAX && (blocks[count] = fh_raw_malloc(BLOCK_BYTES)) != NULL)
        count++;
    if (count == 0 || count == BLOCKS_MAX || errno != ENOMEM || fh_limit_used() > fh_get_limit())
        exit(8);
    fh_raw_free(blocks[0]);
    if ((blocks[0] = fh_raw_malloc(BLOCK_BYTES)) == NULL || fh_limit_used() > fh_get_limit())
        exit(9);
    puts("filled");
    while (count > 0)
        fh_raw_free(blocks[--count]);
}

static int count_threads(void)
{
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (tasks == NULL)
        exit(10);
    for (const struct dirent *task; (task = readdir(tasks)) != NULL;)
        count += task->d_name[0] != '.';
    closedir(tasks);
    return count;
}

static void threads(void)
{
    printf("%d threads\n", count_threads());
}

/* As a daemon comes to be: the parent is gone, the child goes on, in its own time. */
static void daemonize(void)
{
    int ends[2];
    char go = 0;
    fflush(stdout);
    if (pipe(ends) != 0)
        exit(11);
    pid_t child = fork();
    if (child > 0)
        _exit(write(ends[1], &go, 1) == 1 ? 0 : 12);
    if (child < 0 || read(ends[0], &go, 1) != 1 || setsid() < 0)
        exit(13);
    int before = count_threads();
    if (fh_purger_start(0) != 0)
        exit(14);
    printf("%d threads, then %d\n", before, count_threads());
    fh_purger_stop();
}

/* The kernel's flags of the mapping that this address is in. */
static const char *flags_at(const void *address, char *line, size_t line_bytes)
{
    unsigned long start, end;
    const char *flags = NULL;
    bool inside = false;
    FILE *maps = fopen("/proc/self/smaps", "r");
    if (maps == NULL)
        exit(15);
    while (flags == NULL && fgets(line, (int)line_bytes, maps) != NULL) {
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = (uintptr_t)address - start < end - start;
        if (inside && strncmp(line, "VmFlags:", 8) == 0)
            flags = line;
    }
    fclose(maps);
    return flags == NULL ? "" : flags;
}

static void pages(void)
{
    char line[512];
    void *block = fh_raw_malloc(100);
    const char *flags = flags_at(block, line, sizeof line);
    bool huge = strstr(flags, " hg") != NULL, small = strstr(flags, " nh") != NULL;
    puts(huge ? "huge pages" : small ? "small pages" : "as the system has it");
    fh_raw_free(block);
}

static const struct {
    const char *word;
    void (*run)(void);
} words[] = {{"work", work},     {"owner", owner},     {"name", name},
             {"twice", twice},   {"serial", serial},   {"options", options},
             {"traced", traced}, {"lock", lock},       {"limit", limit},
             {"fill", fill},     {"threads", threads}, {"daemonize", daemonize},
             {"pages", pages}};

static int run(const char *word)
{
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(words[i].word, word) != 0)
            continue;
        words[i].run();
        return 0;
    }
    return 2;
}

int main(int argc, char **argv)
{
    int status = 0;
    for (int i = 1; i < argc && status == 0; i++)
        status = run(argv[i]);
    return status;
}
