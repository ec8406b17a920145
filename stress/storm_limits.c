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
static atomic_size_t writable_max_bytes = SIZE_MAX, map_max_bytes = SIZE_MAX;
static atomic_uint one_in; /* 0, or every call fails as rarely */
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
    bool writable = (protection & PROT_WRITE) != 0;
    if (bytes > atomic_load(writable ? &writable_max_bytes : &map_max_bytes)) {
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
        all &= fill(i, BY_ALIGNED_ALLOC, (i - 23) * 3 * MIB / 2);
    return all;
}

static bool resize_all_sizes(void)
{
    static const struct {
        size_t card, bytes;
    } sizes[] = {{0, 5000}, {1, 300 * KIB}, {2, 6 * MIB}, {16, 400 * KIB},   {17, MIB},
                 {18, 20},  {24, 7 * MIB},  {25, 100},    {26, 5 * MIB / 2}, {27, 20 * MIB}};
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

/* ---- Every n ----------------------------------------------------------------------------------
 */

/* Besides, what the system refuses always. Large mappings that are writable: then an allocator that
 * reserves much has to commit by mprotect. All large mappings, under a limit on address space that
 * is not reached: then it has to make do with small ones, and to unmap what it cannot use. */
enum refusal { NONE, LARGE_WRITABLE, LARGE, REFUSALS };

static const char *const refusal_names[] = {"", ", no large writable map", ", no large map"};

enum {
    REFUSED_FROM_BYTES = 64 * MIB,
    ALL_THE_REST = 1000 * 1000,
    LIMIT_MIB = 6 * 1024,
    RECOVERED_BYTES = 8 * MIB, /* may be resident when all is free again, beyond the first state */
};

/* The status of a child in which no call was there to fail any more. */
enum { NOTHING_FAILED = 77 };

static void refuse(enum refusal refusal)
{
    struct rlimit limit = {(rlim_t)LIMIT_MIB * MIB, (rlim_t)LIMIT_MIB * MIB};
    atomic_store(&writable_max_bytes, refusal == NONE ? SIZE_MAX : REFUSED_FROM_BYTES);
    atomic_store(&map_max_bytes, refusal == LARGE ? REFUSED_FROM_BYTES : SIZE_MAX);
    if (refusal == LARGE && setrlimit(RLIMIT_AS, &limit) != 0)
        anomaly("no limit: %s", strerror(errno));
}

static void arm(enum call call, int number, int count)
{
    atomic_store(&countdown, number);
    atomic_store(&failures_left, count);
    atomic_store(&stress_scarce, true);
    atomic_store(&failing_call, (int)call);
}

static void disarm(void)
{
    atomic_store(&failing_call, -1);
    atomic_store(&stress_scarce, false); /* from here on NULL is wrong */
}

static void expect_recovery(size_t resident_before)
{
    if (!scenario())
        anomaly("no recovery");
    shadow_rest();
    size_t resident = stress_resident_bytes();
    if (resident > resident_before + RECOVERED_BYTES)
        anomaly("no recovery of memory: %zu KiB more than before",
                (resident - resident_before) / KIB);
}

/* "call n count refusal": the n-th call fails, and those after it, `count` in all. */
int child_limits(const char *argument)
{
    int call, number, count, refusal;
    alarm(BACKSTOP_SECONDS);
    if (sscanf(argument, "%d %d %d %d", &call, &number, &count, &refusal) != 4)
        return 2;
    cards = cards_new(SCENARIO_CARDS);
    random_numbers = random_of(1);
    size_t resident = stress_resident_bytes();
    refuse((enum refusal)refusal);
    arm((enum call)call, number, count);
    (void)scenario();
    bool failed = atomic_load(&failures) != 0;
    disarm();
    expect_recovery(resident);
    _exit(stress->anomalies != 0 ? 1 : failed ? 0 : NOTHING_FAILED);
}

static int run_child(const char *child, const char *argument_text)
{
    extern char **environ;
    char program[] = "storm", option[] = "--child", name[16], argument[64];
    char *arguments[] = {program, option, name, argument, NULL};
    struct watch *watch = watch_open(argument_text);
    snprintf(name, sizeof(name), "%s", child);
    snprintf(argument, sizeof(argument), "%s", argument_text);
    pid_t process;
    int error = posix_spawn(&process, stress_program, NULL, NULL, arguments, environ);
    if (error != 0) {
        anomaly("no child: %s", strerror(error));
        _exit(1);
    }
    int status = watch_reap(watch, process);
    atomic_fetch_add(&stress->operations, 1);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

/* A call, how many of it fail, and what is refused besides. All have their n-th call fail before
 * any has its next, and several at once. */
struct series {
    enum call call;
    int count;
    enum refusal refusal;
    atomic_int last; /* the last n that failed; -1: not known yet */
};

enum { CALLS_AND_ANY = ANY_CALL + 1, SERIES = CALLS_AND_ANY * 2 * REFUSALS, JOBS = 2 };

static struct series all_series[SERIES];
static atomic_int next_ticket;

static void fail_one(struct series *series, int number)
{
    char argument[64];
    snprintf(argument, sizeof(argument), "%d %d %d %d", (int)series->call, number, series->count,
             (int)series->refusal);
    int status = run_child("limits", argument), unknown = -1;
    if (status == NOTHING_FAILED) {
        atomic_compare_exchange_strong(&series->last, &unknown, number - 1);
        return;
    }
    if (status != 0)
        anomaly("%s %d fails%s%s: status %d (storm --child limits '%s')", call_names[series->call],
                number, series->count > 1 ? ", and all after it" : "",
                refusal_names[series->refusal], status, argument);
    atomic_fetch_add(&stress->events, 1);
}

static bool all_known(void)
{
    bool known = true;
    for (size_t i = 0; i < SERIES; i++)
        known = known && atomic_load(&all_series[i].last) >= 0;
    return known;
}

/* However long it takes: what was not run is not known. */
static void *fail_each(void *unused)
{
    while (!all_known() && !stress_counted()) {
        int ticket = atomic_fetch_add(&next_ticket, 1);
        struct series *series = &all_series[ticket % SERIES];
        if (atomic_load(&series->last) < 0)
            fail_one(series, ticket / SERIES + 1);
    }
    return unused;
}

static void make_series(void)
{
    for (int i = 0; i < SERIES; i++)
        all_series[i] = (struct series){(enum call)(i % CALLS_AND_ANY),
                                        i / CALLS_AND_ANY % 2 == 0 ? 1 : ALL_THE_REST,
                                        (enum refusal)(i / CALLS_AND_ANY / 2), -1};
}

static void note_series(void)
{
    int most[CALLS_AND_ANY] = {0};
    size_t length = (size_t)snprintf(stress->note, sizeof(stress->note), "%s",
                                     all_known() ? "every n:" : "not every n;");
    for (size_t i = 0; i < SERIES; i++)
        if (all_series[i].last > most[all_series[i].call])
            most[all_series[i].call] = all_series[i].last;
    for (int call = 0; call < CALLS_AND_ANY; call++)
        length +=
            (size_t)snprintf(stress->note + length, sizeof(stress->note) - length, "%s %s 1 to %d",
                             call == 0 ? "" : ",", call_names[call], most[call]);
    for (int call = 0; call < CALLS_AND_ANY && all_known() && stress_freehold(); call++)
        if (most[call] == 0)
            anomaly("no %s was there to fail", call_names[call]);
}

/* ---- Address space that runs out ---------------------------------------------------------------
 */

enum { CROWD = 4, CROWD_CARDS = 512, CROWD_STEPS = 3000, CROWDS_MIN = 4 };

static const size_t crowd_limits_mib[] = {320, 384, 512, 1024, 2048};
enum { CROWD_LIMITS = sizeof(crowd_limits_mib) / sizeof(crowd_limits_mib[0]) };

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

static size_t fill_until_null(void)
{
    size_t count = 0;
    for (size_t bytes = 64 * MIB; bytes >= KIB; bytes /= 2)
        while (count < SCENARIO_CARDS * 64 &&
               card_fill(&cards[count], &random_numbers, BY_MALLOC, bytes))
            count++;
    EXPECT(stress->refusals > 0);
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
    size_t filled = fill_until_null();
    atomic_store(&one_in, 0);
    for (unsigned i = 0; i < CROWD; i++)
        worker_empty(&workers[i]);
    while (filled > 0)
        card_empty(&cards[--filled]);
}

/* The limit has to be there before the allocator reserves anything: so this starts itself again. */
static void start_again_limited(rlim_t bytes, const char *argument)
{
    struct rlimit limit = {bytes, bytes};
    if (setrlimit(RLIMIT_AS, &limit) == 0)
        execl(stress_program, "storm", "--child", "crowded", argument, (char *)NULL);
    anomaly("no limit: %s", strerror(errno));
}

/* "chance mib" */
int child_crowded(const char *argument)
{
    unsigned chance, mib;
    struct rlimit limit;
    if (sscanf(argument, "%u %u", &chance, &mib) != 2)
        return 2;
    rlim_t bytes = (rlim_t)mib * MIB;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur != bytes) {
        start_again_limited(bytes, argument);
        return 1;
    }
    alarm(BACKSTOP_SECONDS);
    cards = cards_new(SCENARIO_CARDS * 64);
    random_numbers = random_of(2);
    size_t resident = stress_resident_bytes();
    crowd_together(chance);
    shadow_rest();
    malloc_trim(0);
    atomic_store(&stress_scarce, false); /* still under the limit, but all is free */
    expect_recovery(resident);
    return stress->anomalies != 0;
}

static void crowd(struct random *random)
{
    char argument[24], seed[24];
    snprintf(argument, sizeof(argument), "%zu %zu",
             random_below(random, 2) * (2 + random_below(random, 30)),
             crowd_limits_mib[random_below(random, CROWD_LIMITS)]);
    snprintf(seed, sizeof(seed), "%" PRIu64, random_next(random));
    setenv("STORM_SEED", seed, 1);
    int status = run_child("crowded", argument);
    atomic_fetch_add(&stress->events, 1);
    if (status != 0)
        anomaly("address space runs out: status %d (STORM_SEED=%s storm --child crowded '%s')",
                status, seed, argument);
}

/* First each n; what is left of the time goes to the crowds. */
void storm_limits(void)
{
    struct random random = random_of(1);
    struct worker *jobs = workers_new(JOBS, 0, 0);
    make_series();
    atomic_store(&stress_endless, true);
    workers_run(jobs, JOBS, fail_each);
    atomic_store(&stress_endless, false);
    for (unsigned i = 0; i < CROWDS_MIN || !stress_over(); i++)
        crowd(&random);
    note_series();
}
