/* SPDX-License-Identifier: MIT */
/* Storms round the ends and beginnings of processes, threads and modules. */
#include "stress.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct exchange exchange;
static atomic_bool team_over;

static void reap(struct watch *watch, const char *kind, pid_t child)
{
    int status = watch_reap(watch, child);
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
        anomaly("%s: child %d of seed %" PRIu64 " found something wrong", kind, (int)child,
                stress_seed);
    atomic_fetch_add(&stress->events, 1);
}

static pid_t spawn_self(const char *child_name, const char *child_argument)
{
    extern char **environ;
    char program[] = "storm", option[] = "--child", name[16], argument[24];
    char *arguments[] = {program, option, name, argument, NULL};
    pid_t child;
    snprintf(name, sizeof(name), "%s", child_name);
    snprintf(argument, sizeof(argument), "%s", child_argument);
    int error = posix_spawn(&child, stress_program, NULL, NULL, arguments, environ);
    if (error != 0)
        anomaly("posix_spawn: %s", strerror(error));
    return error == 0 ? child : -1;
}

/* ---- forks: churning threads ---- */

enum { FORK_WORKERS = 3, FORKERS = 2, FORK_CARDS = 48, CHILD_STEPS = 40, FORK_AT_US = 50 };

static void *churn(void *argument)
{
    struct worker *worker = argument;
    while (!atomic_load(&team_over)) {
        struct card *card = &worker->cards[random_below(&worker->random, worker->card_count)];
        bool large = random_below(&worker->random, 64) == 0;
        card_play(card, &worker->random, large ? worker->max_bytes : 2 * KIB);
        worker->mine = exchange_swap(&exchange, &worker->random, worker->mine);
    }
    return NULL;
}

static void *one_block(void *block)
{
    *(void **)block = malloc(100);
    free(*(void **)block);
    return NULL;
}

/* Starts and joins threads whose first and last act is an allocation. */
static void *starter(void *argument)
{
    void *place;
    struct worker *worker = argument;
    while (!atomic_load(&team_over)) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, one_block, &place) == 0)
            pthread_join(thread, NULL);
        card_play(worker->mine, &worker->random, 5 * MIB);
    }
    return NULL;
}

/* ---- forks: what a child does ---- */

/* A thread that forks. */
struct forker {
    struct worker *workers; /* all: first those that churn, then those that fork */
    struct worker *self;
    struct watch *watch;
    volatile pid_t handlers_child; /* 0: none yet */
};

/* The parent's blocks, of every thread: those that nobody was just handling. */
static void free_parents_blocks(struct forker *forker)
{
    for (unsigned i = 0; i < FORK_WORKERS + FORKERS; i++)
        worker_empty(&forker->workers[i]);
    exchange_empty(&exchange);
}

static void child_steps(struct forker *forker)
{
    struct worker *self = forker->self;
    for (unsigned i = 0; i < CHILD_STEPS; i++)
        card_play(&self->cards[i % FORK_CARDS], &self->random, i == 0 ? 6 * MIB : 4 * KIB);
}

static void child_thread(void)
{
    pthread_t thread;
    void *place;
    if (pthread_create(&thread, NULL, one_block, &place) == 0)
        pthread_join(thread, NULL);
    else
        anomaly("the child cannot start a thread");
}

static _Noreturn void live_as_child(struct forker *forker, bool threads)
{
    uint64_t anomalies = stress->anomalies;
    alarm(BACKSTOP_SECONDS);
    child_steps(forker);
    free_parents_blocks(forker);
    child_steps(forker);
    if (threads)
        child_thread();
    _exit(stress->anomalies != anomalies);
}

/* ---- forks: the ways ---- */

static pid_t by_fork(struct forker *forker)
{
    pid_t child = fork();
    if (child == 0)
        live_as_child(forker, true);
    return child;
}

/* What a signal handler may use: without the functions that a program has libc call before and
 * after a fork. */
static pid_t fork_plainly(void)
{
#if __GLIBC_PREREQ(2, 34)
    return _Fork();
#else
    return fork();
#endif
}

static pid_t by_plain_fork(struct forker *forker)
{
    pid_t child = fork_plainly();
    if (child == 0)
        live_as_child(forker, false);
    return child;
}

/* Without libc: so without threads too. */
static pid_t by_clone(struct forker *forker)
{
    pid_t child = (pid_t)syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L);
    if (child == 0)
        live_as_child(forker, false);
    return child;
}

/* In the parent's memory, with the parent's thread standing still: what it does stays. */
__attribute__((noinline)) static pid_t by_vfork(struct forker *forker)
{
    pid_t child = vfork();
    if (child == 0) {
        watch_child(forker->watch, getpid());
        child_steps(forker);
        _exit(0);
    }
    return child;
}

static pid_t by_spawn(struct forker *forker)
{
    char argument[24];
    snprintf(argument, sizeof(argument), "%" PRIu64, random_next(&forker->self->random));
    return spawn_self("spawned", argument);
}

int child_spawned(const char *argument)
{
    struct random random = random_of(strtoull(argument, NULL, 10));
    struct card *cards = cards_new(FORK_CARDS);
    alarm(BACKSTOP_SECONDS);
    for (unsigned i = 0; i < 4 * CHILD_STEPS; i++)
        card_play(&cards[i % FORK_CARDS], &random, i % 64 == 0 ? 6 * MIB : 4 * KIB);
    child_thread();
    return 0;
}

/* ---- forks: out of a handler that interrupted the allocator ---- */

static _Thread_local struct forker *own_forker;

static void on_fork_signal(int number)
{
    struct forker *forker = own_forker;
    (void)number;
    if (forker == NULL || forker->handlers_child != 0 || stress_inside == INSIDE_NONE)
        return;
    pid_t child = fork_plainly();
    if (child == 0)
        live_as_child(forker, false);
    forker->handlers_child = child;
}

static pid_t by_fork_in_handler(struct forker *forker)
{
    struct worker *self = forker->self;
    int timer = -1;
    struct itimerspec times = {{0, FORK_AT_US * 1000}, {0, FORK_AT_US * 1000}};
    struct sigevent event = {.sigev_signo = SIGUSR1, .sigev_notify = SIGEV_THREAD_ID};
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    forker->handlers_child = 0;
    own_forker = forker;
    if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) != 0)
        return -1;
    syscall(SYS_timer_settime, timer, 0, &times, NULL);
    while (forker->handlers_child == 0)
        card_play(&self->cards[random_below(&self->random, FORK_CARDS)], &self->random, 16 * KIB);
    syscall(SYS_timer_delete, timer);
    return forker->handlers_child;
}

/* ---- forks: all ways in turn ---- */

static const struct {
    const char *name;
    pid_t (*make)(struct forker *);
    unsigned share; /* of all: a program's start costs as much as several forks */
} ways[] = {{"fork", by_fork, 6},
            {"_Fork", by_plain_fork, 2},
            {"_Fork in a handler", by_fork_in_handler, 4},
            {"clone", by_clone, 4},
            {"vfork", by_vfork, 3},
            {"posix_spawn", by_spawn, 1}};
enum { WAYS = sizeof(ways) / sizeof(ways[0]), SHARES = 20 };

static _Atomic uint64_t way_counts[WAYS];

static size_t way_of(struct random *random)
{
    size_t share = random_below(random, SHARES), way = 0;
    for (; share >= ways[way].share; way++)
        share -= ways[way].share;
    return way;
}

static void *fork_often(void *argument)
{
    struct worker *worker = argument;
    struct forker forker = {worker - worker->index, worker, NULL, 0};
    while (!stress_over()) {
        size_t way = way_of(&worker->random);
        forker.watch = watch_open(ways[way].name);
        pid_t child = ways[way].make(&forker);
        if (child > 0)
            reap(forker.watch, ways[way].name, child);
        else
            anomaly("%s makes no child: %s", ways[way].name, strerror(errno));
        atomic_fetch_add(&way_counts[way], 1);
    }
    return NULL;
}

static void note_ways(void)
{
    size_t length = 0;
    for (size_t way = 0; way < WAYS && length < sizeof(stress->note); way++)
        length += (size_t)snprintf(stress->note + length, sizeof(stress->note) - length,
                                   "%s%" PRIu64 " %s", way == 0 ? "" : ", ",
                                   (uint64_t)way_counts[way], ways[way].name);
}

void storm_forks(void)
{
    struct sigaction action = {.sa_handler = on_fork_signal, .sa_flags = SA_RESTART};
    struct worker *workers = workers_new(FORK_WORKERS + FORKERS, FORK_CARDS, MIB);
    exchange = exchange_new(64);
    sigaction(SIGUSR1, &action, NULL);
    for (unsigned i = 0; i < FORK_WORKERS; i++)
        worker_start(&workers[i], i == 0 ? starter : churn);
    workers_run(workers + FORK_WORKERS, FORKERS, fork_often);
    atomic_store(&team_over, true);
    for (unsigned i = 0; i < FORK_WORKERS; i++)
        worker_join(&workers[i]);
    for (unsigned i = 0; i < FORK_WORKERS + FORKERS; i++)
        worker_empty(&workers[i]);
    exchange_empty(&exchange);
    note_ways();
    expect_resident_below(32 * MIB, "the parent has freed everything");
}

/* ---- exits ---- */

enum {
    EXIT_KEYS = 6,
    EXIT_THREADS = 4,
    EXIT_CARDS = 16,
    MODULE_BLOCK_BYTES = 500,
    EXIT_CHILD_EVERY = 64
};

static pthread_key_t keys[EXIT_KEYS];

/* Runs when other destructors may have run already, the allocator's among them. Comes back as long
 * as glibc lets it: four times. */
static void on_thread_exit(void *argument)
{
    struct worker *worker = argument;
    for (unsigned i = 0; i < 2 * EXIT_CARDS; i++)
        card_play(&worker->cards[random_below(&worker->random, worker->card_count)],
                  &worker->random, 4 * KIB);
    pthread_setspecific(keys[random_below(&worker->random, EXIT_KEYS)], worker);
}

static _Atomic uint64_t modules_loaded;

static void use_module(struct worker *worker)
{
    const char *path = getenv("STORM_MODULE");
    void *module = dlopen(path == NULL ? "" : path, RTLD_NOW | RTLD_LOCAL);
    void *(*block_of)(size_t) = (void *(*)(size_t))(uintptr_t)dlsym(module, "stress_module_block");
    if (block_of == NULL) {
        anomaly("STORM_MODULE is not stress-module.so: %s", path == NULL ? "not set" : path);
        _exit(1);
    }
    char *block = block_of(MODULE_BLOCK_BYTES);
    card_play(worker->mine, &worker->random, 64 * KIB);
    dlclose(module);
    EXPECT(block != NULL && block[0] == 1 && block[MODULE_BLOCK_BYTES - 1] == 1);
    free(block);
    atomic_fetch_add(&modules_loaded, 1);
}

static void *exiting_thread(void *argument)
{
    struct worker *worker = argument;
    for (unsigned i = 0; i < 1 + random_below(&worker->random, EXIT_KEYS); i++)
        pthread_setspecific(keys[i], worker);
    if (random_below(&worker->random, 4) != 0) /* else the destructors' calls are its first */
        card_play(&worker->cards[0], &worker->random, 4 * KIB);
    if (random_below(&worker->random, 4) == 0)
        use_module(worker);
    atomic_fetch_add(&stress->events, 1);
    return NULL;
}

static void make_keys(void)
{
    for (unsigned i = 0; i < EXIT_KEYS; i++)
        if (pthread_key_create(&keys[i], on_thread_exit) != 0)
            anomaly("pthread_key_create");
}

/* A program that allocates in its constructors, its atexit functions and its destructors, and that
 * leaves by exit() while other threads are at work. */
static struct worker *exit_workers;

static void at_exit(void)
{
    struct worker *worker = &exit_workers[EXIT_THREADS];
    for (unsigned i = 0; i < 4 * EXIT_CARDS; i++)
        card_play(&worker->cards[i % EXIT_CARDS], &worker->random, 64 * KIB);
}

static void *block_of_start;

/* In the children of this storm alone: in those of the limits storm the first call is to be one
 * that the storm makes. */
__attribute__((constructor)) static void at_start(void)
{
    if (getenv("STORM_EXITS") != NULL)
        block_of_start = calloc(1, 3000);
}

__attribute__((destructor)) static void at_end(void)
{
    free(block_of_start);
    if (getenv("STORM_EXITS") != NULL)
        free(malloc(2000));
}

int child_exits(const char *argument)
{
    alarm(BACKSTOP_SECONDS);
    (void)argument;
    EXPECT(block_of_start != NULL);
    exchange = exchange_new(16);
    exit_workers = workers_new(EXIT_THREADS + 1, EXIT_CARDS, MIB);
    make_keys();
    atexit(at_exit);
    at_quick_exit(at_exit);
    for (unsigned i = 0; i < EXIT_THREADS; i++)
        worker_start(&exit_workers[i], churn);
    at_exit();
    stress_pause_us((unsigned)random_below(&exit_workers[0].random, 2000));
    if (stress->anomalies == 0 && stress_seed % 2 == 0)
        quick_exit(0);
    exit(stress->anomalies != 0);
}

static void start_child(struct random *random)
{
    char seed[24];
    struct watch *watch = watch_open("exit");
    snprintf(seed, sizeof(seed), "%" PRIu64, random_next(random));
    setenv("STORM_SEED", seed, 1);
    setenv("STORM_EXITS", "1", 1);
    pid_t child = spawn_self("exits", "-");
    if (child > 0)
        reap(watch, "exit", child);
}

void storm_exits(void)
{
    struct random random = random_of(1000);
    struct worker *workers = workers_new(EXIT_THREADS, EXIT_CARDS, 64 * KIB);
    make_keys();
    for (uint64_t round = 0; !stress_over(); round++) {
        workers_run(workers, EXIT_THREADS, exiting_thread);
        if (round % EXIT_CHILD_EVERY == 0)
            start_child(&random);
    }
    for (unsigned i = 0; i < EXIT_THREADS; i++)
        worker_empty(&workers[i]);
    snprintf(stress->note, sizeof(stress->note), "%" PRIu64 " modules loaded and unloaded",
             (uint64_t)modules_loaded);
    expect_resident_below(24 * MIB, "all threads have exited");
}
