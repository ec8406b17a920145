/* SPDX-License-Identifier: MIT */
/* Storms of scarcity: the n-th system call fails, for every n; and the address space runs out.
 *
 * The program's own mmap() and the like stand before libc's for every library in the process, so
 * that the allocator's calls come here, but not libc's own. They are counted, and fail with ENOMEM
 * when it is their turn. Each n has a process of its own, in which the allocator is as new as it
 * can be. An allocator that makes its system calls without libc does not notice any of this.
 */
#include "stress.h"

#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- The calls that fail ----------------------------------------------------------------------
 */

enum call { MMAP, MUNMAP, MREMAP, MADVISE, MPROTECT, CALLS, ANY_CALL = CALLS };

static const char *const call_names[] = {"mmap", "munmap", "mremap", "madvise", "mprotect", "any"};

static atomic_int failing_call = -1; /* which, or none */
static atomic_int countdown;         /* so many more succeed */
static atomic_int failures_left;
static atomic_uint failures;
static atomic_size_t map_max_bytes = SIZE_MAX; /* larger writable mappings are refused */
static atomic_uint one_in;                     /* 0, or every call fails as rarely */
static _Atomic uint64_t dice = 1;

static bool fails_by_number(enum call call)
{
    int failing = atomic_load(&failing_call);
    if (failing != (int)call && failing != (int)ANY_CALL)
        return false;
    return atomic_fetch_sub(&countdown, 1) <= 1 && atomic_fetch_sub(&failures_left, 1) > 0;
}

static bool fails_by_chance(void)
{
    unsigned chance = atomic_load(&one_in);
    struct random random = {atomic_fetch_add(&dice, 0x9e3779b97f4a7c15u) ^ stress_seed};
    return chance != 0 && random_below(&random, chance) == 0;
}

static bool fails(enum call call)
{
    if (!fails_by_number(call) && !fails_by_chance())
        return false;
    atomic_fetch_add(&failures, 1);
    errno = ENOMEM;
    return true;
}

void *mmap(void *start, size_t bytes, int protection, int flags, int file, off_t offset)
{
    if (fails(MMAP))
        return MAP_FAILED;
    if ((protection & PROT_WRITE) != 0 && bytes > atomic_load(&map_max_bytes)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, start, bytes, protection, flags, file, offset);
}

void *mmap64(void *start, size_t bytes, int protection, int flags, int file, off64_t offset)
{
    return mmap(start, bytes, protection, flags, file, offset);
}

int munmap(void *start, size_t bytes)
{
    return fails(MUNMAP) ? -1 : (int)syscall(SYS_munmap, start, bytes);
}

void *mremap(void *start, size_t bytes, size_t new_bytes, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    void *to = va_arg(arguments, void *); /* read only if the flags say that it is there */
    va_end(arguments);
    if (fails(MREMAP))
        return MAP_FAILED;
    return (void *)syscall(SYS_mremap, start, bytes, new_bytes, flags, to);
}

int madvise(void *start, size_t bytes, int advice)
{
    return fails(MADVISE) ? -1 : (int)syscall(SYS_madvise, start, bytes, advice);
}

int mprotect(void *start, size_t bytes, int protection)
{
    return fails(MPROTECT) ? -1 : (int)syscall(SYS_mprotect, start, bytes, protection);
}

/* ---- What is tried while they fail ------------------------------------------------------------
 */

enum { SCENARIO_CARDS = 64 };

static struct card *cards;
static struct random random_numbers;

static bool fill(size_t i, enum how how, size_t bytes)
{
    card_empty(&cards[i]);
    return card_fill(&cards[i], &random_numbers, how, bytes);
}

static bool resize(size_t i, size_t bytes)
{
    return cards[i].block != NULL && card_resize(&cards[i], &random_numbers, bytes);
}

static bool fill_all_sizes(void)
{
    bool all = true;
    for (size_t i = 0; i < 16; i++)
        all &= fill(i, BY_MALLOC, (size_t)16 << (i % 12));
    for (size_t i = 16; i < 24; i++)
        all &= fill(i, BY_CALLOC, (i - 15) * 100 * KIB);
    for (size_t i = 24; i < 30; i++)
        all &= fill(i, BY_ALIGNED_ALLOC, (i - 23) * 3 * MIB);
    return all;
}

static bool resize_all_sizes(void)
{
    static const struct {
        size_t card, bytes;
    } sizes[] = {{0, 5000}, {1, 300 * KIB}, {2, 9 * MIB},   {16, 400 * KIB}, {17, MIB},
                 {18, 20},  {24, 12 * MIB}, {25, 40 * MIB}, {26, 5 * MIB},   {27, 100}};
    bool all = true;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        all &= resize(sizes[i].card, sizes[i].bytes);
    return all;
}

static void *allocate_once(void *unused)
{
    void *block = malloc(1000);
    if (block == NULL && errno != ENOMEM)
        anomaly("NULL with errno %d in a new thread", errno);
    free(block);
    return unused;
}

/* False if anything failed. Whatever failed must have left everything else as it was. */
static bool scenario(void)
{
    struct worker thread = {0}; /* with a small stack: libc has one of an ended thread */
    bool all = fill_all_sizes();
    all &= resize_all_sizes();
    bool started = worker_start(&thread, allocate_once);
    if (started)
        worker_join(&thread);
    for (size_t i = 0; i < SCENARIO_CARDS; i += 2)
        card_empty(&cards[i]);
    malloc_trim(0);
    all &= fill_all_sizes();
    for (size_t i = 0; i < SCENARIO_CARDS; i++)
        card_empty(&cards[i]);
    malloc_trim(0);
    return all && started;
}

/* The status of a child in which no call was there to fail any more. */
enum { NOTHING_FAILED = 77 };

/* "call n count refuse": the n-th call fails, and those after it, `count` in all. */
int child_limits(const char *argument)
{
    int call, number, count, refuse;
    alarm(20);
    if (sscanf(argument, "%d %d %d %d", &call, &number, &count, &refuse) != 4)
        return 2;
    cards = cards_new(SCENARIO_CARDS);
    random_numbers = random_of(1);
    atomic_store(&map_max_bytes, refuse ? 64 * MIB : SIZE_MAX);
    atomic_store(&countdown, number);
    atomic_store(&failures_left, count);
    atomic_store(&stress_scarce, true);
    atomic_store(&failing_call, call);
    (void)scenario();
    atomic_store(&failing_call, -1);
    atomic_store(&stress_scarce, false); /* from here on NULL is wrong */
    if (!scenario() || !scenario())
        anomaly("no recovery");
    bool failed = atomic_load(&failures) != 0;
    _exit(stress->anomalies != 0 ? 1 : failed ? 0 : NOTHING_FAILED);
}

static int run_child(const char *child, const char *argument_text)
{
    extern char **environ;
    char program[] = "storm", option[] = "--child", name[16], argument[64];
    char *arguments[] = {program, option, name, argument, NULL};
    pid_t process;
    int status;
    snprintf(name, sizeof(name), "%s", child);
    snprintf(argument, sizeof(argument), "%s", argument_text);
    int error = posix_spawn(&process, stress_program, NULL, NULL, arguments, environ);
    if (error != 0 || waitpid(process, &status, 0) != process) {
        anomaly("no child: %s", strerror(error));
        return 1;
    }
    atomic_fetch_add(&stress->operations, 1);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/* Every n until nothing fails. Returns it. */
static int fail_each(enum call call, int count, int refuse)
{
    char argument[64];
    for (int number = 1; !stress_over(); number++) {
        snprintf(argument, sizeof(argument), "%d %d %d %d", call, number, count, refuse);
        int status = run_child("limits", argument);
        if (status == NOTHING_FAILED)
            return number - 1;
        if (status != 0)
            anomaly("%s %d fails%s%s: status %d (storm --child limits '%s')", call_names[call],
                    number, count > 1 ? ", and more" : "", refuse ? ", small maps only" : "",
                    status, argument);
        atomic_fetch_add(&stress->events, 1);
    }
    return -1;
}

/* ---- Address space that runs out ---------------------------------------------------------------
 */

enum { CROWD = 4, CROWD_CARDS = 512, CROWD_STEPS = 3000, CROWD_LIMIT_BYTES = 1024 * MIB };

static void *crowd_worker(void *argument)
{
    struct worker *worker = argument;
    for (unsigned i = 0; i < CROWD_STEPS; i++) {
        struct card *card = &worker->cards[random_below(&worker->random, worker->card_count)];
        if (card->block == NULL || random_below(&worker->random, 4) == 0)
            card_play(card, &worker->random, i % 16 == 0 ? 8 * MIB : 64 * KIB);
    }
    return NULL;
}

static size_t nulls_until_full(void)
{
    size_t count = 0;
    for (size_t bytes = 64 * MIB; bytes >= KIB; bytes /= 2)
        while (count < SCENARIO_CARDS * 64 &&
               card_fill(&cards[count], &random_numbers, BY_MALLOC, bytes))
            count++;
    return count;
}

/* Threads that want more than there is; with a chance, calls fail at random too. Then all is freed.
 */
static void crowd_together(unsigned chance)
{
    struct worker *workers = workers_new(CROWD, CROWD_CARDS, MIB);
    atomic_store(&stress_scarce, true);
    atomic_store(&one_in, chance);
    workers_run(workers, CROWD, crowd_worker);
    size_t filled = nulls_until_full();
    atomic_store(&one_in, 0);
    for (unsigned i = 0; i < CROWD; i++)
        worker_empty(&workers[i]);
    while (filled > 0)
        card_empty(&cards[--filled]);
}

/* The limit has to be there before the allocator reserves anything: so this starts itself again. */
static void start_again_limited(const char *argument)
{
    struct rlimit limit = {CROWD_LIMIT_BYTES, CROWD_LIMIT_BYTES};
    if (setrlimit(RLIMIT_AS, &limit) == 0)
        execl(stress_program, "storm", "--child", "crowded", argument, (char *)NULL);
    anomaly("no limit: %s", strerror(errno));
}

int child_crowded(const char *argument)
{
    unsigned chance = (unsigned)strtoul(argument, NULL, 10);
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur != CROWD_LIMIT_BYTES) {
        start_again_limited(argument);
        return 1;
    }
    alarm(15);
    cards = cards_new(SCENARIO_CARDS * 64);
    random_numbers = random_of(2);
    crowd_together(chance);
    malloc_trim(0);
    atomic_store(&stress_scarce, false); /* still under the limit, but all is free */
    if (!scenario())
        anomaly("no recovery under the limit");
    return stress->anomalies != 0;
}

static void crowd(struct random *random)
{
    char argument[24], seed[24];
    snprintf(argument, sizeof(argument), "%zu",
             random_below(random, 2) * (2 + random_below(random, 30)));
    snprintf(seed, sizeof(seed), "%" PRIu64, random_next(random));
    setenv("STORM_SEED", seed, 1);
    int status = run_child("crowded", argument);
    atomic_fetch_add(&stress->events, 1);
    if (status != 0)
        anomaly("address space runs out: status %d (STORM_SEED=%s storm --child crowded %s)",
                status, seed, argument);
}

/* First each n; what is left of the time goes to the crowds. */
void storm_limits(void)
{
    struct random random = random_of(1);
    bool complete = true;
    for (int count = 1; count <= 1000; count += 999)
        for (int refuse = 0; refuse <= 1; refuse++)
            for (int call = 0; call <= ANY_CALL; call++) {
                int last = fail_each((enum call)call, count, refuse);
                complete = complete && last >= 0;
            }
    do
        crowd(&random);
    while (!stress_over());
    snprintf(stress->note, sizeof(stress->note), "%s",
             complete ? "every n until nothing fails" : "not every n: more seconds are needed");
}
