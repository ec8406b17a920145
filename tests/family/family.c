/* SPDX-License-Identifier: MIT */
/* The shared part of the tests of the malloc family: see family.h.
 *
 * cmocka runs and reports the tests. It comes as a shared library only, so in the fully static
 * programs (FAMILY_STATIC) a plain loop stands in for it.
 */
#include "family.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef FAMILY_STATIC
#include <cmocka.h>
#endif

#define TESTS_MAX         64
#define CHILD_LIMIT       20 /* seconds for a fresh process */
#define WORKOUT_SLOTS     64
#define WORKOUT_FULL_STEP 100 /* each so many steps a block of the largest size */

static const char *fresh_test; /* the test that this process was started for, by family_outside() */
static size_t skipped_count;

void family_fail(const char *file, int line, const char *condition)
{
    char message[512];
    /* snprintf with these formats does not allocate, so this works when malloc does not. */
    int length = snprintf(message, sizeof message, "%s:%d: failed: %s (errno %d)\n", file, line,
                          condition, errno);
    if (length > (int)sizeof message - 1)
        length = (int)sizeof message - 1;
    if (write(STDERR_FILENO, message, (size_t)length) < 0)
        _exit(2);
    _exit(1);
}

/* ---- Running -------------------------------------------------------------------------------- */

#ifdef FAMILY_STATIC

static jmp_buf skip_target;

static void leave_test(void)
{
    longjmp(skip_target, 1);
}

static int run_selected(const struct family_test *tests, size_t count, const char *only)
{
    for (volatile size_t i = 0; i < count; i++) { /* volatile: it outlives the longjmp() */
        if (only != NULL && strcmp(tests[i].name, only) != 0)
            continue;
        printf("%s\n", tests[i].name);
        fflush(stdout);
        void *state = NULL;
        if (setjmp(skip_target) == 0)
            tests[i].run(&state);
    }
    return 0;
}

#else

static void leave_test(void)
{
    skip();
}

static int run_selected(const struct family_test *tests, size_t count, const char *only)
{
    struct CMUnitTest units[TESTS_MAX];
    size_t unit_count = 0;
    for (size_t i = 0; i < count; i++) {
        if (only == NULL || strcmp(tests[i].name, only) == 0)
            units[unit_count++] =
                (struct CMUnitTest){tests[i].name, tests[i].run, NULL, NULL, NULL};
    }
    /* What the macro cmocka_run_group_tests() expands to, with a count of our own. */
    return _cmocka_run_group_tests("family", units, unit_count, NULL, NULL);
}

#endif

void family_skip(const char *reason)
{
    printf("skipped: %s\n", reason);
    fflush(stdout);
    skipped_count++;
    leave_test();
    abort(); /* not reached */
}

static size_t count_selected(const struct family_test *tests, size_t count, const char *only)
{
    size_t selected = 0;
    for (size_t i = 0; i < count; i++)
        selected += only == NULL || strcmp(tests[i].name, only) == 0;
    return selected;
}

int family_run(const struct family_test *tests, size_t count, int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--fresh") == 0)
        fresh_test = argv[2];
    const char *only = argc > 1 ? argv[argc - 1] : NULL;
    size_t selected = count_selected(tests, count, only);
    CHECK(selected > 0 && count <= TESTS_MAX);
    int failed = run_selected(tests, count, only);
    if (failed != 0)
        return 1;
    return skipped_count == selected ? FAMILY_SKIPPED : 0;
}

static int on_a_peer(void)
{
    return getenv("FAMILY_PEER") != NULL;
}

int family_owned(const void *block)
{
    return on_a_peer() || (fh_owns != NULL && fh_owns(block));
}

int family_main(const struct family_test *tests, size_t count, int argc, char **argv)
{
    void *block = malloc(1);
    int on_the_stack = 0;
    CHECK(family_owned(block));
    CHECK(on_a_peer() || !fh_owns(&on_the_stack)); /* or the check above says nothing */
    free(block);
    return family_run(tests, count, argc, argv);
}

/* ---- Processes and threads ------------------------------------------------------------------ */

static void start_again(const char *test)
{
    const char *program = (const char *)getauxval(AT_EXECFN);
    execl(program, program, "--fresh", test, (char *)NULL);
    family_fail(__FILE__, __LINE__, "execv");
}

int family_outside(const char *test, void (*prepare)(void))
{
    if (fresh_test != NULL)
        return 0;
    fflush(NULL);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        if (prepare != NULL)
            prepare();
        start_again(test);
    }
    int status = family_wait(child, CHILD_LIMIT);
    if (WIFEXITED(status) && WEXITSTATUS(status) == FAMILY_SKIPPED)
        family_skip("the fresh process could not be set up; its output says why");
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    return 1;
}

int family_wait(int child, unsigned limit_seconds)
{
    const struct timespec pause = {0, 1000000};
    struct timespec now, start;
    int status = 0;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (;;) {
        pid_t ended = waitpid(child, &status, WNOHANG);
        CHECK(ended >= 0);
        if (ended == child)
            return status;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec - start.tv_sec > (time_t)limit_seconds)
            break;
        nanosleep(&pause, NULL);
    }
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    family_fail(__FILE__, __LINE__, "the child ends within its time limit");
}

unsigned long family_thread(void *(*run)(void *), void *argument)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, run, argument);
    errno = error;
    CHECK(error == 0);
    return thread;
}

void family_join(unsigned long thread)
{
    CHECK(pthread_join(thread, NULL) == 0);
}

/* ---- Contents ------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9U;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebU;
    return value ^ (value >> 31);
}

void family_fill(void *block, size_t bytes, uint64_t seed)
{
    unsigned char *to = block;
    uint64_t start = mix(seed);
    for (size_t offset = 0; offset < bytes; offset += sizeof start) {
        uint64_t word = start + offset * 0x9e3779b97f4a7c15U;
        memcpy(to + offset, &word, bytes - offset < sizeof word ? bytes - offset : sizeof word);
    }
}

int family_intact(const void *block, size_t bytes, uint64_t seed)
{
    const unsigned char *from = block;
    uint64_t start = mix(seed);
    size_t offset = 0;
    for (; offset + sizeof start <= bytes; offset += sizeof start) {
        uint64_t word;
        memcpy(&word, from + offset, sizeof word);
        if (word != start + offset * 0x9e3779b97f4a7c15U)
            return 0;
    }
    uint64_t last = start + offset * 0x9e3779b97f4a7c15U;
    return memcmp(from + offset, &last, bytes - offset) == 0;
}

size_t family_random(uint64_t *state, size_t limit)
{
    *state += 0x9e3779b97f4a7c15U;
    return (size_t)(mix(*state) % limit);
}

size_t family_random_bytes(uint64_t *state, size_t max_bytes)
{
    size_t bits = 0;
    while (bits < 63 && (size_t)2 << bits <= max_bytes)
        bits++;
    size_t low = (size_t)1 << family_random(state, bits + 1);
    size_t bytes = low + family_random(state, low);
    return bytes < max_bytes ? bytes : max_bytes;
}

/* ---- Memory figures ------------------------------------------------------------------------- */

/* The figure of a line "Name:   123 kB", read without the allocator, which must not be disturbed.
 */
static size_t read_figure(const char *path, const char *name)
{
    char text[8192];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(file >= 0);
    size_t length = 0;
    ssize_t part;
    while ((part = read(file, text + length, sizeof text - 1 - length)) > 0)
        length += (size_t)part;
    close(file);
    text[length] = '\0';
    const char *line = strstr(text, name);
    CHECK(line != NULL);
    return strtoul(line + strlen(name), NULL, 10) * KIB;
}

size_t family_resident_bytes(void)
{
    /* Counted page by page; the quick counters in status are off by some pages for each CPU. */
    return read_figure("/proc/self/smaps_rollup", "\nRss:");
}

size_t family_peak_bytes(void)
{
    return read_figure("/proc/self/status", "\nVmHWM:");
}

/* ---- The workout ---------------------------------------------------------------------------- */

struct slot {
    void *block;
    size_t bytes;
    uint64_t seed;
};

static void *take(size_t kind, size_t bytes, size_t alignment)
{
    void *block = NULL;
    switch (kind) {
    case 0:
        return calloc(1, bytes);
    case 1:
        return memalign(alignment, bytes);
    case 2:
        return posix_memalign(&block, alignment, bytes) == 0 ? block : NULL;
    default:
        return malloc(bytes);
    }
}

static size_t least_alignment(void)
{
    return on_a_peer() ? 8 : 16; /* some give 8 to blocks below 16 bytes */
}

static void fill_slot(struct slot *slot, size_t bytes, uint64_t *state)
{
    size_t kind = family_random(state, 5);
    size_t alignment = (size_t)16 << family_random(state, 12);
    slot->block = take(kind, bytes, alignment);
    CHECK(slot->block != NULL);
    CHECK((uintptr_t)slot->block % (kind == 1 || kind == 2 ? alignment : least_alignment()) == 0);
    CHECK(malloc_usable_size(slot->block) >= bytes);
    if (kind == 0) {
        const char *zeros = slot->block;
        CHECK(zeros[0] == 0 && memcmp(zeros, zeros + 1, bytes - 1) == 0);
    }
    slot->bytes = bytes;
    slot->seed = *state;
    family_fill(slot->block, bytes, slot->seed);
}

static void empty_slot(struct slot *slot)
{
    CHECK(slot->block == NULL || family_intact(slot->block, slot->bytes, slot->seed));
    free(slot->block);
    slot->block = NULL;
}

static void resize_slot(struct slot *slot, size_t bytes)
{
    void *block = realloc(slot->block, bytes);
    CHECK(block != NULL);
    CHECK(family_intact(block, bytes < slot->bytes ? bytes : slot->bytes, slot->seed));
    slot->block = block;
    slot->bytes = bytes;
    family_fill(block, bytes, slot->seed);
}

void family_workout(uint64_t seed, size_t steps, size_t max_bytes)
{
    struct slot slots[WORKOUT_SLOTS] = {{NULL, 0, 0}};
    for (size_t step = 0; step < steps; step++) {
        struct slot *slot = &slots[family_random(&seed, WORKOUT_SLOTS)];
        size_t bytes =
            step % WORKOUT_FULL_STEP == 0 ? max_bytes : family_random_bytes(&seed, 64 * KIB);
        if (slot->block != NULL && step % 3 == 0) {
            resize_slot(slot, bytes);
        } else {
            empty_slot(slot);
            fill_slot(slot, bytes, &seed);
        }
        if (bytes == max_bytes) /* one of these at a time */
            empty_slot(slot);
    }
    for (size_t i = 0; i < WORKOUT_SLOTS; i++)
        empty_slot(&slots[i]);
}
