/* SPDX-License-Identifier: MIT */
/* What all storms share: random numbers, cards, the shadow map, anomalies, the live line.
 *
 * A storm is a function that drives threads or processes until stress_over(). All its randomness
 * comes from the seed, the storm's name and the thread's number, so a seed reproduces what each
 * thread does; only the interleaving is the machine's.
 *
 * Blocks are held by cards. Filling, resizing and emptying a card checks everything that can be
 * checked from outside: the shadow map (was any byte of this block handed out already?), alignment,
 * calloc's zeros, and a pattern that is written when the block comes and compared when it goes.
 * Cards and shadow are mapped memory: the storms themselves never depend on the allocator under
 * test.
 *
 * Everything here may be called in signal handlers and in forked children.
 */
#ifndef STRESS_H
#define STRESS_H

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KIB = 1024, MIB = 1024 * 1024 };

/* ---- Random numbers ---- */

struct random {
    uint64_t state;
};

struct random random_of(uint64_t stream); /* the run's seed, this storm, this stream */
uint64_t random_next(struct random *random);
size_t random_below(struct random *random, size_t limit);
size_t random_bytes(struct random *random,
                    size_t max); /* every power of two as likely as another */

/* ---- Cards ---- */

/* A block, or none. Whoever holds the card may use all of it. In a forked child a card that another
 * thread held still tells the truth: block is set last and cleared first. */
struct card {
    _Atomic(unsigned char *) block; /* NULL: none */
    size_t bytes;
    uint64_t tag; /* what the pattern in the block is made of */
};

enum how { BY_MALLOC, BY_CALLOC, BY_ALIGNED_ALLOC, HOW_COUNT };

struct card *cards_new(size_t count);

/* The card must be empty. False: the allocator said NULL, with ENOMEM. */
bool card_fill(struct card *card, struct random *random, enum how how, size_t bytes);
/* False: the allocator said NULL; the card is as before. */
bool card_resize(struct card *card, struct random *random, size_t bytes);
/* What a thread has between a card and a call. A thread that is to be killed says where that is, so
 * that what it had can be freed by hand_empty(). */
struct hand {
    _Atomic(unsigned char *) block;
    size_t bytes;
};
extern _Thread_local struct hand *stress_hand; /* NULL: nowhere */
void hand_empty(struct hand *hand);

void card_empty(struct card *card); /* an empty card stays empty */
void card_check(const struct card *card);

/* Any of the above at random, with blocks of up to max_bytes. */
void card_play(struct card *card, struct random *random, size_t max_bytes);

/* All cards are empty: the shadow map's pages go back, so that they do not count as resident. */
void shadow_rest(void);

/* The allocator's calls. INSIDE_NONE: in none of them. */
enum { INSIDE_NONE, IN_MALLOC, IN_CALLOC, IN_ALIGNED_ALLOC, IN_REALLOC, IN_FREE, INSIDE_COUNT };
extern const char *const inside_names[INSIDE_COUNT];

/* Which call the calling thread is inside, as its signal handlers see it. */
extern _Thread_local volatile sig_atomic_t stress_inside;

/* In a handler: which call it interrupted. Handlers set it, and set it back. */
extern _Thread_local volatile sig_atomic_t stress_below;

/* NULL is a legal answer of the allocator from now on, as memory is scarce. */
extern atomic_bool stress_scarce;

/* ---- The run ---- */

struct stress {
    _Atomic uint64_t operations;
    _Atomic uint64_t events; /* handlers, forks, kills, ...: what the storm's name is about */
    _Atomic uint64_t anomalies;
    _Atomic int64_t live_bytes; /* in cards */
    _Atomic uint64_t peak_live_bytes;
    _Atomic uint64_t peak_resident_bytes;
    _Atomic uint64_t refusals;                          /* NULLs */
    _Atomic uint64_t pairs[INSIDE_COUNT][INSIDE_COUNT]; /* calls, by the call they interrupted */
    char note[200];                                     /* for the table */
};

extern struct stress *stress; /* shared with forked children */
extern const char *stress_program;
extern const char *stress_event_name;
extern uint64_t stress_seed;
extern atomic_bool stress_endless; /* the storm ends when it is done, not when time is over */
extern uint64_t stress_count;      /* end after so many events; 0: by time alone */

bool stress_over(void);    /* by time or by number */
bool stress_counted(void); /* by number */
double stress_seconds_left(void);
size_t stress_resident_bytes(void);
void stress_pause_us(unsigned us);
bool stress_freehold(void); /* this is the allocator under test; else some bounds do not count */

/* Say what is wrong, on stderr, and count it. The run goes on, unless there are too many. */
void anomaly(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define EXPECT(condition)                                                                          \
    ((condition) ? (void)0 : anomaly("%s:%d: not true: %s", __FILE__, __LINE__, #condition))

/* ---- Child processes ---- */

/* A child that does not end in time is an anomaly, and is killed. Time is what this process sees of
 * it, so that a machine that stood still is not taken for a hang. Watch from before the child is
 * made: if it is the call that hangs, this process has hung. */
enum { CHILD_SECONDS = 10, BACKSTOP_SECONDS = 600 /* of a child whose parent is gone */ };
struct watch;
struct watch *watch_open(const char *what); /* any thread */
void watch_child(struct watch *watch, int child);
int watch_reap(struct watch *watch, int child); /* its status, as waitpid gives it */

/* ---- Threads ---- */

struct worker {
    unsigned index;
    unsigned lives; /* how many threads have played this part */
    struct random random;
    struct card *cards;
    size_t card_count;
    struct hand hand;
    struct card *mine; /* one more, for an exchange */
    size_t max_bytes;
    void *extra;
    unsigned long thread;
    _Atomic int tid; /* 0: not running, or not ready for signals */
    atomic_bool done;
};

typedef void *(*worker_main)(void *worker);

struct worker *workers_new(unsigned count, size_t card_count, size_t max_bytes);
bool worker_start(struct worker *worker, worker_main run); /* false: no memory for a thread */
void worker_join(struct worker *worker);
bool worker_try_join(struct worker *worker);
void workers_run(struct worker *workers, unsigned count, worker_main run); /* start, join */
void worker_empty(struct worker *worker);

/* Cards that change hands. Gives one, gets another. */
struct exchange {
    _Atomic(struct card *) *slots;
    size_t count;
};
struct exchange exchange_new(size_t count);
struct card *exchange_swap(struct exchange *exchange, struct random *random, struct card *mine);
void exchange_empty(struct exchange *exchange);

/* All memory is free again: after malloc_trim(0) at most `bytes` more may be resident than before.
 */
void expect_resident_below(size_t bytes, const char *what);

/* ---- The storms ---- */

void storm_sizes(void);
void storm_producers(void);
void storm_orphans(void);
void storm_kills(void);
void storm_signals(void);
void storm_jumps(void);
void storm_forks(void);
void storm_exits(void);
void storm_limits(void);
void storm_objects(void); /* these two in storm-objects alone, which has the object library */
void storm_objects_gil(void);

/* Programs that storms start: "storm --child NAME ARGUMENT". Their exit status is 0 if all is well.
 */
int child_spawned(const char *argument);
int child_exits(const char *argument);
int child_limits(const char *argument);
int child_crowded(const char *argument);

#endif
