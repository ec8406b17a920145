/* SPDX-License-Identifier: MIT */
/* The allocator's own code under a scheduler that decides every switch.
 *
 * A scenario is a short program for each of two or three logical threads. Each is a context with a
 * stack and a heap pointer of its own, inside one real thread: before every atomic operation the
 * library calls fh_sched_point(), and there, and nowhere else, another may go on. So an execution
 * is determined by its schedule, the list of what was chosen otherwise than to go on, and can be
 * repeated.
 *
 *     explore.c   which schedules are run, and how a failing one is told
 *     machine.c   logical threads, signals, memory and a clock that start afresh for each schedule
 *     check.c     what must hold: while a schedule runs, at its end, when all was given back
 *     scenarios.c what the threads do
 *     broken.c    scenarios that are wrong on purpose: each must be found out
 *     weak.c      memory in which the named orders count
 *     orders.c    small protocols with right and wrong orders, for weak.c
 *
 * The programs `narrow` and `wide` explore every interleaving of whole atomic operations
 * (sequential consistency) up to a bound. `weak` and `weak_wide` are for the orders: there an
 * access that nothing orders is a race, and a load may return an older value. tests/rules/weaken.py
 * takes the orders away one by one and sees that these programs notice.
 */
#ifndef SCHED_H
#define SCHED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "theap.h"

enum { THREADS_MAX = 3, SLOTS = 64, STEPS_MAX = 20000 };

/* Blocks of which POOL_BLOCKS fill a pool. */
enum { POOL_BLOCKS = FH_POOL_BLOCKS_MAX, BLOCK_BYTES = FH_POOL_BYTES / POOL_BLOCKS };

/* ---- Scenarios --------------------------------------------------------------------------------
 */

struct scenario {
    const char *name;
    void (*setup)(void);                /* once, not explored; acts as thread 0 unless it asks */
    void (*program[THREADS_MAX])(void); /* NULL: no such thread */
    void (*handler)(void);              /* of a signal that interrupts thread 0 once, anywhere */
    void (*check)(void);                /* at the end of each schedule in which nobody was frozen */
    size_t limit_bytes; /* of address space; 0: eight arenas and room for extra ones */
    bool reserves;      /* writable reservations are refused */
    bool may_fail;      /* memory may be short */
    const char *found;  /* broken on purpose: what must be said of it */
};

#define SCENARIO(identifier, ...)                                                                  \
    static const struct scenario scenario_##identifier = {.name = #identifier, __VA_ARGS__};       \
    __attribute__((constructor)) static void add_##identifier(void)                                \
    {                                                                                              \
        scenario_add(&scenario_##identifier);                                                      \
    }                                                                                              \
    static_assert(sizeof #identifier > 1, "a scenario has a name")

void scenario_add(const struct scenario *scenario);
extern const struct scenario *scenario_now;

/* For setup: be another logical thread from here on. */
void be_thread(int thread);

/* ---- What programs do -------------------------------------------------------------------------
 */

/* Blocks are known by slots, so that threads can pass them on. A slot that is empty is given in
 * vain, so that a program may free what another one may or may not have taken yet. */
void take(int slot, size_t bytes);
void take_zeroed(int slot, size_t bytes);
void take_aligned(int slot, size_t alignment, size_t bytes);
void resize(int slot, size_t bytes);
void give(int slot);
void take_all(int first, int end, size_t bytes);
void give_all(int first, int end);

void flush(void);          /* give the thread's caches back */
void trim(void);           /* the same, and free pages to the system */
void exit_thread(void);    /* as a thread's end does; later calls are those of other destructors */
void start_thread(void);   /* after these: another one, in the same context */
void die(void);            /* end without a word */
void be_elsewhere(void);   /* this thread is of another process, which shares the memory */
void fork_here(void);      /* this is the child now: the others are dead */
void pass_ms(uint32_t ms); /* on the clock, for everybody */

/* ---- The machine (machine.c) ------------------------------------------------------------------
 */

enum choice_kind { GO_ON, SWITCH, SIGNAL, FREEZE, OLDER };

struct choice {
    enum choice_kind kind;
    int thread; /* who goes on; -1: nobody is left; OLDER: how many stores before the newest */
};

/* What may be chosen at a step; the first is what happens unless something else is wanted. */
struct situation {
    struct choice choices[2 * THREADS_MAX + 2];
    unsigned count;
    bool free;      /* whatever is chosen counts as nothing */
    const void *at; /* what is to be accessed; NULL: a thread has ended, or a mere instruction */
    const char *operation; /* NULL: a thread has ended, or is to be the first */
};

void machine_prepare(const struct scenario *scenario); /* fresh memory, setup */
void machine_reset(void);                              /* as after setup */
void machine_run(void);             /* one schedule, by choices of explorer_choose() */
void machine_check_untouched(void); /* nothing outside what was said to be in use was written */
bool machine_shows(const void *start, size_t bytes); /* may all of it be used? */
void machine_end_threads(void); /* those that have not ended themselves end, one after the other */

int machine_thread(void); /* who runs; THREADS_MAX: nobody, it is the test itself */
bool machine_froze(void);
unsigned machine_steps(void);
bool machine_holds_heap(uint32_t id); /* does a logical thread hold it? */
void machine_quietly(bool quiet);     /* the test's own look at the library is no step */

/* For weak.c. */
bool machine_explores(void);            /* is a logical thread at work, not the test? */
bool machine_maps(const void *address); /* is it in the memory of the library and the blocks? */
/* So many stores before the newest, at most. `again`: this thread was behind here before, and may
 * well stay so. */
unsigned machine_choose_older(const void *at, unsigned most, bool again);

/* Steps of the test itself are counted from here on; too many fail. */
void machine_count_steps(void);

void machine_describe(const void *address, char *text, size_t text_bytes);

/* ---- The explorer (explore.c) -----------------------------------------------------------------
 */

struct choice explorer_choose(const struct situation *situation);
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

#define CHECK(condition)                                                                           \
    ((condition) ? (void)0 : fail("%s:%d: %s", __FILE_NAME__, __LINE__, #condition))

/* ---- Checks (check.c) -------------------------------------------------------------------------
 */

void check_reset(void); /* forget all blocks */
void check_save(void);  /* remember them as they are after setup */
void check_restore(void);
void check_end(void); /* everybody is done, nobody was frozen; gives everything back */
void check_survivors(
    void); /* somebody was frozen: the blocks are intact, and a newcomer can work */

#endif
