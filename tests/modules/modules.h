/* SPDX-License-Identifier: MIT */
/* What the module tests share: a way to run them, checks, threads, a region of one's own, and the
 * invariants of pools, heaps and regions as functions.
 *
 * A test is meant to run in a process of its own (`modules_pool name`, as ctest does it); without a
 * name a program runs all its tests, each in a fresh process. A failed check prints where it stands
 * and ends the process, so it works in threads, children and signal handlers alike.
 *
 * Loops of unknown length ask more(): it ends them after so many steps or after a second, whichever
 * is first, since a sanitizer may slow them down twentyfold.
 */
#ifndef MODULES_H
#define MODULES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "theap.h"

/* ThreadSanitizer and AddressSanitizer map memory of their own, so limits on it hit them first. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define MODULES_SHADOWED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define MODULES_SHADOWED 1
#endif
#endif
#if !defined(MODULES_SHADOWED)
#define MODULES_SHADOWED 0
#endif

/* ---- Running ------------------------------------------------------------------------------ */

#define TEST(name)                                                                                 \
    static void name(void);                                                                        \
    __attribute__((constructor)) static void name##_is_a_test(void)                                \
    {                                                                                              \
        modules_add(#name, name);                                                                  \
    }                                                                                              \
    static void name(void)

#define CHECK(condition) ((condition) ? (void)0 : modules_fail(__FILE__, __LINE__, #condition))

/* Called by TEST(). */
void modules_add(const char *name, void (*run)(void));
void modules_fail(const char *file, int line, const char *condition) __attribute__((noreturn));

/* The test ends here and counts as skipped. On the thread that runs the tests only. */
void modules_skip(const char *reason) __attribute__((noreturn));

/* ---- Bounded loops, random numbers, threads, children ------------------------------------- */

struct bound {
    size_t step, steps;
    uint64_t ends_ms;
};

struct bound at_most(size_t steps);
bool more(struct bound *bound);

/* Below `limit`, from a state that the caller seeds. */
uint32_t random_below(uint64_t *state, uint32_t limit);

/* Run `run` on so many threads, which begin at one moment, each with its number; wait for all. */
void together(unsigned threads, void (*run)(unsigned number, void *shared), void *shared);

/* The same on one other thread. */
void elsewhere(void (*run)(void *argument), void *argument);

/* Do `during`, and before its first atomic operation all of `meanwhile`, as if another thread had
 * run just then; then the same with the second operation, and so on, and at last after all. `begin`
 * comes before each, `check` after it. Without FH_ATOMICS=sched only: `meanwhile` before it and
 * after it. */
void at_every_point(void (*begin)(void), void (*during)(void), void (*meanwhile)(void),
                    void (*check)(void));

/* Shorten a text from a program's stderr by what an emulator wrote there of the program's end. */
void drop_emulators_line(char *text);

/* In a child, `run` must end in abort() after writing exactly `text` to stderr. */
void check_aborts(void (*run)(void *argument), void *argument, const char *text);

/* In a child, `run` must come to its end. */
void in_child(void (*run)(void));

/* ---- Regions and pools of one's own ------------------------------------------------------- */

/* A region of so many arenas, and so many extra ones, beside the published one. Its base is a
 * multiple of `arenas` rounded up to a power of two. With `commits`, nothing of it may be touched
 * before it is committed. All of it may be retained, however much is free. */
struct fh_region *new_region(uint32_t arenas, uint32_t extra, bool commits);

/* Descriptors and memory for one pool or span. */
struct fh_pool *new_descriptors(void);
char *new_pool_memory(void);

/* How many pools of all its arenas are claimed. */
size_t claimed_pools(const struct fh_region *region);

bool is_zero(const void *memory, size_t bytes);

/* The highest class of which a full pool must have several free blocks before it is shared;
 * FH_CLASSES if there is none (tiny geometry). */
unsigned class_with_threshold(void);

/* ---- Invariants --------------------------------------------------------------------------- */

unsigned list_length(const struct fh_block *blocks);

/* Of a pool that no other thread uses now: every list is as long as the counts and the word say,
 * and holds only distinct blocks that were carved. */
void check_pool(const struct fh_pool *pool);

/* How many of its blocks are handed out or ready, by its counts and its word. */
unsigned blocks_out(const struct fh_pool *pool);

/* Of a heap that no thread is inside of: lists, limits, and all its pools. */
void check_heap(const struct fh_theap *heap);

/* Of a region that no thread is inside of: every hint that must be there is, every pool holds. */
void check_region(const struct fh_region *region);

#endif
