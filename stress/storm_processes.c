/* SPDX-License-Identifier: MIT */
/* Storms round the ends and beginnings of processes, threads and modules. */
#include "stress.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HANG_SECONDS = 5 };

static struct exchange exchange;
static atomic_bool team_over;

/* What came of a child that kills itself by SIGALRM if it hangs. */
static void reap(pid_t child, const char *kind)
{
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
        anomaly("%s: the child hung for %d s", kind, HANG_SECONDS);
    else if (WIFSIGNALED(status))
        anomaly("%s: the child died of signal %d", kind, WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        anomaly("%s: the child found something wrong", kind);
    atomic_fetch_add(&stress->events, 1);
}

/* ---- forks: churning threads ---- */

enum { FORK_WORKERS = 3, FORK_CARDS = 48, CHILD_STEPS = 40 };

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

struct family {
    struct worker *workers;
    struct random random;
};

/* The parent's blocks, of every thread: those that nobody was just handling. */
static void free_parents_blocks(struct family *family)
{
    for (unsigned i = 0; i < FORK_WORKERS; i++)
        worker_empty(&family->workers[i]);
    exchange_empty(&exchange);
}

static void child_steps(struct family *family)
{
    struct card *cards = family->workers[FORK_WORKERS].cards;
    for (unsigned i = 0; i < CHILD_STEPS; i++)
        card_play(&cards[i % FORK_CARDS], &family->random, i == 0 ? 6 * MIB : 4 * KIB);
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

static _Noreturn void live_as_child(struct family *family, bool threads)
{
    uint64_t anomalies = stress->anomalies;
    alarm(HANG_SECONDS);
    child_steps(family);
    free_parents_blocks(family);
    child_steps(family);
    if (threads)
        child_thread();
    _exit(stress->anomalies != anomalies);
}

static void by_fork(struct family *family)
{
    pid_t child = fork();
    if (child == 0)
        live_as_child(family, true);
    reap(child, "fork");
}

/* Without what libc does before and after: so without threads too. */
static void by_clone(struct family *family)
{
    pid_t child = (pid_t)syscall(SYS_clone, (long)SIGCHLD, 0L, 0L, 0L, 0L);
    if (child == 0)
        live_as_child(family, false);
    reap(child, "clone");
}

/* In the parent's memory, with the parent's thread standing still: what it does stays. */
__attribute__((noinline)) static void by_vfork(struct family *family)
{
    pid_t child = vfork();
    if (child == 0) {
        child_steps(family);
        _exit(0);
    }
    reap(child, "vfork");
}

static void by_spawn(struct family *family)
{
    extern char **environ;
    char program[] = "storm", option[] = "--child", name[] = "spawned", argument[24];
    char *arguments[] = {program, option, name, argument, NULL};
    pid_t child;
    snprintf(argument, sizeof(argument), "%" PRIu64, random_next(&family->random));
    int error = posix_spawn(&child, stress_program, NULL, NULL, arguments, environ);
    if (error == 0)
        reap(child, "posix_spawn");
    else
        anomaly("posix_spawn: %s", strerror(error));
}

int child_spawned(const char *argument)
{
    struct random random = random_of(strtoull(argument, NULL, 10));
    struct card *cards = cards_new(FORK_CARDS);
    alarm(HANG_SECONDS);
    for (unsigned i = 0; i < 4 * CHILD_STEPS; i++)
        card_play(&cards[i % FORK_CARDS], &random, i % 64 == 0 ? 6 * MIB : 4 * KIB);
    child_thread();
    return 0;
}

void storm_forks(void)
{
    /* fork and clone most often: a program's start costs as much as several of them. */
    static void (*const ways[])(struct family *) = {by_fork,  by_clone, by_vfork, by_fork,
                                                    by_clone, by_fork,  by_spawn};
    exchange = exchange_new(64);
    struct worker *workers = workers_new(FORK_WORKERS + 1, FORK_CARDS, MIB);
    struct family family = {workers, random_of(1000)};
    for (unsigned i = 0; i < FORK_WORKERS; i++)
        worker_start(&workers[i], i == 0 ? starter : churn);
    for (size_t i = 0; !stress_over(); i++)
        ways[i % (sizeof(ways) / sizeof(ways[0]))](&family);
    atomic_store(&team_over, true);
    for (unsigned i = 0; i < FORK_WORKERS; i++)
        worker_join(&workers[i]);
    for (unsigned i = 0; i <= FORK_WORKERS; i++)
        worker_empty(&workers[i]);
    exchange_empty(&exchange);
    expect_resident_below(32 * MIB, "the parent has freed everything");
}

/* ---- exits ---- */

enum { EXIT_KEYS = 6, EXIT_THREADS = 4, EXIT_CARDS = 16, MODULE_BLOCK_BYTES = 500 };

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

static void use_module(struct worker *worker)
{
    const char *path = getenv("STORM_MODULE");
    void *module = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (module == NULL)
        return;
    void *(*block_of)(size_t) = (void *(*)(size_t))(uintptr_t)dlsym(module, "stress_module_block");
    char *block = block_of == NULL ? NULL : block_of(MODULE_BLOCK_BYTES);
    card_play(worker->mine, &worker->random, 64 * KIB);
    dlclose(module);
    EXPECT(block != NULL && block[0] == 1 && block[MODULE_BLOCK_BYTES - 1] == 1);
    free(block);
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

__attribute__((constructor)) static void at_start(void)
{
    block_of_start = calloc(1, 3000);
}

__attribute__((destructor)) static void at_end(void)
{
    free(block_of_start);
    free(malloc(2000));
}

int child_exits(const char *argument)
{
    alarm(HANG_SECONDS);
    (void)argument;
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
    extern char **environ;
    char program[] = "storm", option[] = "--child", name[] = "exits", none[] = "-", seed[24];
    char *arguments[] = {program, option, name, none, NULL};
    pid_t child;
    snprintf(seed, sizeof(seed), "%" PRIu64, random_next(random));
    setenv("STORM_SEED", seed, 1);
    int error = posix_spawn(&child, stress_program, NULL, NULL, arguments, environ);
    if (error == 0)
        reap(child, "exit");
    else
        anomaly("posix_spawn: %s", strerror(error));
}

void storm_exits(void)
{
    struct random random = random_of(1000);
    struct worker *workers = workers_new(EXIT_THREADS, EXIT_CARDS, 64 * KIB);
    make_keys();
    for (uint64_t round = 0; !stress_over(); round++) {
        workers_run(workers, EXIT_THREADS, exiting_thread);
        if (round % 64 == 0)
            start_child(&random);
    }
    for (unsigned i = 0; i < EXIT_THREADS; i++)
        worker_empty(&workers[i]);
    expect_resident_below(24 * MIB, "all threads have exited");
}
