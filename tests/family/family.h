/* SPDX-License-Identifier: MIT */
/* What the tests of the malloc family share: a way to run them, checks, patterns, memory figures.
 *
 * The programs call plain malloc, free, operator new and so on; which library answers is decided by
 * how a program is linked or started. family_main() first makes sure that it is Freehold.
 *
 * Each test is meant to run in a process of its own (`program test_name`, as ctest does it), so a
 * failed check prints where it stands and ends the process: that works in threads, in signal
 * handlers and in children alike. Without a name a program runs all its tests.
 */
#ifndef FAMILY_H
#define FAMILY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

#define FAMILY_SKIPPED 77 /* the exit status by which ctest knows a skipped test */

/* Weak, for the library may come by LD_PRELOAD, after linking. */
extern int fh_owns(const void *address) __attribute__((weak));

struct family_test {
    const char *name;
    void (*run)(void **state);
};

#define TEST(name) static void name(void **cmocka_state __attribute__((unused)))
#define ENTRY(name)                                                                                \
    {                                                                                              \
#name, name                                                                                \
    }

#define CHECK(condition) ((condition) ? (void)0 : family_fail(__FILE__, __LINE__, #condition))

/** The process ends here with a message; callable anywhere, also in a signal handler. */
void family_fail(const char *file, int line, const char *condition) __attribute__((noreturn));

/** The test ends here, and counts as skipped. Only on the thread that runs the tests. */
void family_skip(const char *reason) __attribute__((noreturn));

/** Run the test that argv names, or all; the result is main()'s. The first form makes sure that the
 * allocator under test is in use; FAMILY_PEER=1 in the environment turns that off, so that the
 * tests can be tried on another allocator, to see which expectations are Freehold's own. */
int family_main(const struct family_test *tests, size_t count, int argc, char **argv);
int family_run(const struct family_test *tests, size_t count, int argc, char **argv);

/** True if `block` came from the allocator under test. */
int family_owned(const void *block);

/** Let the rest of a test run in a fresh process of this program, begun after prepare() (or NULL)
 * has changed the surroundings; prepare() may exit with FAMILY_SKIPPED. */
#define IN_FRESH_PROCESS(prepare)                                                                  \
    do {                                                                                           \
        if (family_outside(__func__, (prepare)))                                                   \
            return;                                                                                \
    } while (0)
int family_outside(const char *test, void (*prepare)(void));

/** The wait status of `child`, which is killed and counts as failed after so many seconds. */
int family_wait(int child, unsigned limit_seconds);

/** A pattern in which each byte depends on the seed and on its offset: a prefix can be checked. */
void family_fill(void *block, size_t bytes, uint64_t seed);
int family_intact(const void *block, size_t bytes, uint64_t seed);

/** A number below `limit`, all equally likely, from a state that the caller seeds. */
size_t family_random(uint64_t *state, size_t limit);

/** Between 1 and max_bytes, each power of two as likely as any other. */
size_t family_random_bytes(uint64_t *state, size_t max_bytes);

/** Resident now, and at most so far. */
size_t family_resident_bytes(void);
size_t family_peak_bytes(void);

/** So many steps over the whole family, mostly up to 64 KiB, now and then `max_bytes`; contents and
 * alignment are checked. */
void family_workout(uint64_t seed, size_t steps, size_t max_bytes);

/** Start a thread / wait for it; a refusal fails the test. */
unsigned long family_thread(void *(*run)(void *), void *argument);
void family_join(unsigned long thread);

#ifdef __cplusplus
}
#endif

#endif
