/* SPDX-License-Identifier: MIT */
/* Storms of threads alone: who allocates, who frees, and who is gone by then. */
#include "stress.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct exchange exchange;

/* One step: play with a card of one's own; now and then let another thread have it. */
static void step(struct worker *worker)
{
    struct random *random = &worker->random;
    size_t i = random_below(random, worker->card_count);
    size_t max_bytes = random_below(random, 64) == 0 ? worker->max_bytes : 16 * KIB;
    card_play(&worker->cards[i], random, max_bytes);
}

static void swap_step(struct worker *worker)
{
    worker->mine = exchange_swap(&exchange, &worker->random, worker->mine);
    card_check(worker->mine);
    card_play(worker->mine, &worker->random, 4 * KIB);
}

/* ---- sizes ---- */

enum { SIZES_THREADS = 16, SIZES_CARDS = 64, SIZES_MAX_BYTES = 24 * MIB };

/* One block through many sizes, up and down. */
static void realloc_chain(struct worker *worker)
{
    struct random *random = &worker->random;
    struct card *card = &worker->cards[random_below(random, worker->card_count)];
    size_t bytes = 1 + random_below(random, 64);
    card_empty(card);
    (void)card_fill(card, random, BY_MALLOC, bytes);
    while (bytes < worker->max_bytes && random_below(random, 24) != 0) {
        bytes += bytes / (1 + random_below(random, 4)) + 1;
        (void)card_resize(card, random, bytes);
    }
    while (bytes > 1 && random_below(random, 8) != 0) {
        bytes -= random_below(random, bytes);
        (void)card_resize(card, random, bytes);
    }
    card_empty(card);
    atomic_fetch_add(&stress->events, 1);
}

static void *sizes_worker(void *argument)
{
    struct worker *worker = argument;
    for (uint64_t i = 1; !stress_over(); i++) {
        step(worker);
        if (i % 16 == 0)
            swap_step(worker);
        if (i % 512 == 0)
            realloc_chain(worker);
    }
    worker_empty(worker);
    return NULL;
}

void storm_sizes(void)
{
    exchange = exchange_new(256);
    struct worker *workers = workers_new(SIZES_THREADS, SIZES_CARDS, SIZES_MAX_BYTES);
    workers_run(workers, SIZES_THREADS, sizes_worker);
    exchange_empty(&exchange);
    expect_resident_below(32 * MIB, "all blocks of 16 ended threads are free");
}

/* ---- producers ---- */

enum { TEAM = 6, QUEUE_CARDS = 4096, PRODUCER_MAX_BYTES = 8 * KIB, TURN_MS = 400 };

static atomic_uint producers; /* threads below this index allocate, the others free */
static atomic_bool team_over;

/* A slot is filled only while empty and emptied only while full, so what is live is bounded. */
static void *producer_or_consumer(void *argument)
{
    struct worker *worker = argument;
    while (!atomic_load(&team_over)) {
        bool produces = worker->index < atomic_load(&producers);
        size_t bytes = random_bytes(&worker->random, PRODUCER_MAX_BYTES);
        if (produces && worker->mine->block == NULL)
            (void)card_fill(worker->mine, &worker->random, BY_MALLOC, bytes);
        else if (!produces)
            card_empty(worker->mine);
        worker->mine = exchange_swap(&exchange, &worker->random, worker->mine);
    }
    worker_empty(worker);
    return NULL;
}

/* Blow-up: what one thread freed must serve another, while the first is idle. */
static void turn_the_team(uint64_t turn)
{
    static const unsigned split[] = {1, TEAM - 1, TEAM / 2, TEAM, 0};
    atomic_store(&producers, split[turn % (sizeof(split) / sizeof(split[0]))]);
    stress_pause_us(TURN_MS * 1000);
    atomic_fetch_add(&stress->events, 1);
}

void storm_producers(void)
{
    exchange = exchange_new(QUEUE_CARDS);
    struct worker *workers = workers_new(TEAM, 0, PRODUCER_MAX_BYTES);
    unsigned started = 0;
    while (started < TEAM && worker_start(&workers[started], producer_or_consumer))
        started++;
    size_t before = stress_resident_bytes(), peak = 0;
    for (uint64_t turn = 0; !stress_over(); turn++) {
        turn_the_team(turn);
        size_t resident = stress_resident_bytes();
        peak = resident > peak ? resident : peak;
    }
    atomic_store(&team_over, true);
    while (started > 0)
        worker_join(&workers[--started]);
    size_t live = (size_t)stress->peak_live_bytes, more = peak > before ? peak - before : 0;
    snprintf(stress->note, sizeof(stress->note), "%zu MiB resident for at most %zu MiB live",
             more / MIB, live / MIB);
    if (more > 2 * live + 32 * MIB)
        anomaly("memory grows: %zu MiB resident for %zu MiB live", more / MIB, live / MIB);
    exchange_empty(&exchange);
    expect_resident_below(24 * MIB, "producers and consumers are gone");
}

/* ---- orphans ---- */

enum { ORPHAN_THREADS = 8, ORPHAN_CARDS = 48, ORPHAN_STEPS = 400 };

/* Leaves its blocks to whoever plays this part next, and to the other threads. */
static void *short_life(void *argument)
{
    struct worker *worker = argument;
    for (unsigned i = 0; i < ORPHAN_STEPS; i++) {
        size_t any = random_below(&worker->random, worker->card_count);
        card_play(&worker->cards[any], &worker->random, worker->max_bytes);
        if (i % 8 == 0)
            swap_step(worker);
    }
    return NULL;
}

static void orphans_generation(struct worker *workers)
{
    for (unsigned i = 0; i < ORPHAN_THREADS; i++) {
        struct worker *worker = &workers[i];
        if (worker->lives > 0)
            worker_join(worker);
        if (!worker_start(worker, short_life))
            return;
        atomic_fetch_add(&stress->events, 1);
    }
}

void storm_orphans(void)
{
    exchange = exchange_new(128);
    struct worker *workers = workers_new(ORPHAN_THREADS, ORPHAN_CARDS, 2 * KIB);
    while (!stress_over())
        orphans_generation(workers);
    for (unsigned i = 0; i < ORPHAN_THREADS; i++) {
        worker_join(&workers[i]);
        worker_empty(&workers[i]);
    }
    exchange_empty(&exchange);
    expect_resident_below(24 * MIB, "every block of every ended thread is free");
}

/* ---- kills ---- */

enum {
    KILL_THREADS = 3,
    KILL_CARDS = 32,
    KILLS_MAX = 2000,
    RETRY_US = 10,
    RETRIES_MAX = 200 * 1000,
    DRAIN_MS = 500
};

/* What a killed thread may withhold. Inside a call: its heap, which is a few pools of each class it
 * uses, and its spare pools. Outside: next to nothing, once its end is noticed. */
enum { WITHHELD_INSIDE_BYTES = 4 * MIB, WITHHELD_OUTSIDE_BYTES = MIB / 2 };

static atomic_bool kills_inside; /* else outside */

static void leave_raw(int number)
{
    (void)number;
    if ((stress_inside != INSIDE_NONE) == atomic_load(&kills_inside))
        syscall(SYS_exit, 0);
}

static void *killed_worker(void *argument)
{
    struct worker *worker = argument;
    stress_hand = &worker->hand;
    atomic_store(&worker->tid, (int)syscall(SYS_gettid));
    for (;;)
        card_play(&worker->cards[random_below(&worker->random, worker->card_count)],
                  &worker->random, random_below(&worker->random, 32) == 0 ? MIB : 4 * KIB);
    return NULL;
}

/* A block that was inside a call is lost with its thread: neither card nor hand has it. */
static void kill_worker(struct worker *worker, struct random *random)
{
    while (atomic_load(&worker->tid) == 0)
        stress_pause_us(RETRY_US);
    stress_pause_us((unsigned)random_below(random, 2000));
    for (unsigned i = 0; !worker_try_join(worker); i++) { /* until it is where it is to be killed */
        syscall(SYS_tgkill, getpid(), atomic_load(&worker->tid), SIGUSR1);
        stress_pause_us((unsigned)random_below(random, RETRY_US));
        if (i == RETRIES_MAX) {
            anomaly("hang: a thread is in one call for ever, since others were killed");
            _exit(1);
        }
    }
    atomic_store(&worker->tid, 0);
    hand_empty(&worker->hand);
    worker_empty(worker);
}

/* What is resident when no thread is left, after time enough to notice it. */
static size_t resident_at_rest(void)
{
    size_t least = SIZE_MAX;
    for (unsigned ms = 0; ms < DRAIN_MS; ms += 50) {
        stress_pause_us(50 * 1000);
        free(malloc(100 * KIB));
        malloc_trim(0);
        size_t resident = stress_resident_bytes();
        least = resident < least ? resident : least;
    }
    return least;
}

static size_t kill_many(struct worker *workers, struct random *random, uint64_t max, double end)
{
    size_t kills = 0;
    for (unsigned i = 0; i < KILL_THREADS; i++)
        worker_start(&workers[i], killed_worker);
    for (; kills + KILL_THREADS < max && stress_seconds_left() > end; kills++) {
        struct worker *worker = &workers[random_below(random, KILL_THREADS)];
        kill_worker(worker, random);
        atomic_fetch_add(&stress->events, 1);
        worker_start(worker, killed_worker);
    }
    for (unsigned i = 0; i < KILL_THREADS; i++)
        kill_worker(&workers[i], random);
    atomic_fetch_add(&stress->events, KILL_THREADS);
    return kills + KILL_THREADS;
}

/* Half a storm. */
static void kills_storm(struct worker *workers, struct random *random, bool inside, double end)
{
    size_t before = resident_at_rest();
    uint64_t max = stress_count == 0 ? KILLS_MAX : stress_count;
    atomic_store(&kills_inside, inside);
    size_t kills = kill_many(workers, random, inside ? max - max / 2 : max / 2, end);
    size_t resident = resident_at_rest(), more = resident > before ? resident - before : 0;
    size_t bound = inside ? WITHHELD_INSIDE_BYTES : WITHHELD_OUTSIDE_BYTES;
    size_t length = strlen(stress->note);
    snprintf(stress->note + length, sizeof(stress->note) - length,
             "%s%zu killed %s calls: %.3f MiB kept by each", length == 0 ? "" : ", ", kills,
             inside ? "inside" : "outside", (double)more / (double)kills / MIB);
    if (stress_freehold() && more > kills * bound + 16 * MIB)
        anomaly("killed threads keep too much: %s", stress->note);
}

void storm_kills(void)
{
    struct random random = random_of(1000);
    struct worker *workers = workers_new(KILL_THREADS, KILL_CARDS, MIB);
    struct sigaction action = {.sa_handler = leave_raw};
    sigaction(SIGUSR1, &action, NULL);
    kills_storm(workers, &random, false, stress_seconds_left() / 2);
    kills_storm(workers, &random, true, 0);
}
