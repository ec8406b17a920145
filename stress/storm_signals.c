/* SPDX-License-Identifier: MIT */
/* Storms of signals: handlers that interrupt the allocator, each other too, and use it. */
#include "stress.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    WORKERS = 3,
    CARDS = 48,
    DEPTH_MAX = 6,
    HANDLER_STEPS = 3,
    EXCHANGE_CARDS = 64,
    JUMP_EVERY = 64,
    LIFE_STEPS = 200 * 1000,
    TIMER_MIN_NS = 25 * 1000,
    JUMPS_MAX = 4000,         /* each may cost a heap */
    PAIRS_AFTER = 100 * 1000, /* interrupted calls after which all pairs must have been there */
};

static struct exchange exchange;
static atomic_bool jumping, team_over;
static _Atomic uint64_t interrupted;

/* What a thread's handlers use, one card a level. */
struct handlers {
    struct random random[DEPTH_MAX];
    struct card *cards[DEPTH_MAX];
    bool was_inside[DEPTH_MAX];
    volatile sig_atomic_t depth;
    atomic_bool awaited; /* a signal is on its way: no other is sent, lest they pile up the stack */
    sigjmp_buf again;
};

static _Thread_local struct handlers *own_handlers;
static _Thread_local char crash_stack[32 * KIB];

/* Only out of calls of the allocator, at every level: anything else is not ready for it. There a
 * card says that it has no block, so what a jump loses is a block that nobody knows. */
static bool may_jump(const struct handlers *handlers, int depth)
{
    for (int level = 0; level <= depth; level++)
        if (!handlers->was_inside[level])
            return false;
    return true;
}

static void jump(struct handlers *handlers)
{
    atomic_fetch_add(&stress->events, 1);
    handlers->depth = 0;
    stress_inside = INSIDE_NONE;
    stress_below = INSIDE_NONE;
    atomic_store(&handlers->awaited, false);
    siglongjmp(handlers->again, 1);
}

static void on_signal(int number)
{
    struct handlers *handlers = own_handlers;
    (void)number;
    if (handlers == NULL || handlers->depth >= DEPTH_MAX)
        return;
    int depth = handlers->depth++;
    atomic_store(&handlers->awaited, depth + 1 == DEPTH_MAX); /* until this one is done */
    sig_atomic_t was_inside = stress_inside, was_below = stress_below;
    stress_below = was_inside;
    struct random *random = &handlers->random[depth];
    handlers->was_inside[depth] = was_inside != 0;
    atomic_fetch_add(&interrupted, was_inside != 0);
    for (unsigned i = 0; i < HANDLER_STEPS; i++) {
        card_check(handlers->cards[depth]);
        card_play(handlers->cards[depth], random, random_below(random, 64) == 0 ? MIB : 2 * KIB);
        handlers->cards[depth] = exchange_swap(&exchange, random, handlers->cards[depth]);
    }
    if (!jumping)
        atomic_fetch_add(&stress->events, 1);
    else if (random_below(random, JUMP_EVERY) == 0 && may_jump(handlers, depth))
        jump(handlers);
    stress_inside = was_inside;
    stress_below = was_below;
    handlers->depth = depth;
    if (depth + 1 == DEPTH_MAX)
        atomic_store(&handlers->awaited, false);
}

static void handlers_open(struct handlers *handlers, unsigned worker_index)
{
    for (unsigned level = 0; level < DEPTH_MAX; level++) {
        handlers->random[level] = random_of(1000 + worker_index * DEPTH_MAX + level);
        handlers->cards[level] = cards_new(1);
    }
}

static void live(struct worker *worker, struct handlers *handlers)
{
    static _Thread_local volatile unsigned steps;
    steps = 0;
    (void)sigsetjmp(handlers->again, 1);
    while (steps++ < LIFE_STEPS && !atomic_load(&team_over)) {
        struct card *card = &worker->cards[random_below(&worker->random, worker->card_count)];
        card_check(card);
        card_play(card, &worker->random, steps % 64 == 0 ? MIB : 2 * KIB);
    }
}

/* SIGUSR1 to this thread every so often. By system call: libc's timers allocate. */
static int start_timer(struct worker *worker)
{
    int timer = -1;
    long interval_ns = TIMER_MIN_NS + (long)random_below(&worker->random, TIMER_MIN_NS);
    struct itimerspec times = {{0, interval_ns}, {0, interval_ns}};
    struct sigevent event = {.sigev_signo = SIGUSR1, .sigev_notify = SIGEV_THREAD_ID};
    event._sigev_un._tid = worker->tid;
    if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer) == 0)
        syscall(SYS_timer_settime, timer, 0, &times, NULL);
    return timer;
}

/* The other signal's handlers go on running while the thread exits. */
static void *signalled_worker(void *argument)
{
    struct worker *worker = argument;
    stack_t alternate = {.ss_sp = crash_stack, .ss_size = sizeof(crash_stack)};
    sigaltstack(&alternate, NULL); /* so that a stack that overflows is reported too */
    own_handlers = worker->extra;
    atomic_store(&worker->tid, (int)syscall(SYS_gettid));
    int timer = start_timer(worker);
    live(worker, worker->extra);
    syscall(SYS_timer_delete, timer);
    atomic_store(&worker->done, true);
    return NULL;
}

static void replace_if_done(struct worker *worker)
{
    if (!atomic_load(&worker->done))
        return;
    worker_join(worker);
    struct handlers *handlers = worker->extra;
    atomic_store(&handlers->awaited, false); /* it may have been lost with the thread */
    atomic_store(&worker->done, false);
    atomic_store(&worker->tid, 0);
    worker_start(worker, signalled_worker);
}

static void send_signal(struct worker *worker)
{
    struct handlers *handlers = worker->extra;
    int tid = atomic_load(&worker->tid);
    if (tid != 0 && !atomic_exchange(&handlers->awaited, true))
        syscall(SYS_tgkill, getpid(), tid, SIGUSR2);
}

/* SIGUSR2 to random threads at random moments, also while a handler of SIGUSR1 runs. */
static void pester(struct worker *workers)
{
    struct random random = random_of(2000);
    uint64_t jumps_max = stress_count == 0 ? JUMPS_MAX : stress_count;
    while (!stress_over() && (!atomic_load(&jumping) || stress->events < jumps_max)) {
        struct worker *worker = &workers[random_below(&random, WORKERS)];
        replace_if_done(worker);
        send_signal(worker);
        stress_pause_us((unsigned)random_below(&random, 50));
    }
}

/* Every call is to be made inside every other. */
static void note_pairs(void)
{
    uint64_t least = UINT64_MAX;
    int outer = IN_MALLOC, inner = IN_MALLOC;
    for (int below = IN_MALLOC; below < INSIDE_COUNT; below++)
        for (int call = IN_MALLOC; call < INSIDE_COUNT; call++)
            if (stress->pairs[below][call] < least) {
                least = stress->pairs[below][call];
                outer = below;
                inner = call;
            }
    snprintf(stress->note, sizeof(stress->note),
             "%" PRIu64 " interrupted the allocator; rarest: %s inside %s, %" PRIu64 " times",
             (uint64_t)interrupted, inside_names[inner], inside_names[outer], least);
    if (least == 0 && interrupted > PAIRS_AFTER)
        anomaly("never: %s inside %s", inside_names[inner], inside_names[outer]);
}

static void storm(bool jumps)
{
    struct worker *workers = workers_new(WORKERS, CARDS, MIB);
    static struct handlers handlers[WORKERS];
    /* The timer's signal does not interrupt its own handler: if a handler took longer than its
     * interval, they would pile up the stack. The other one does, see awaited. */
    struct sigaction by_timer = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    struct sigaction nested = {.sa_handler = on_signal, .sa_flags = SA_NODEFER | SA_RESTART};
    exchange = exchange_new(EXCHANGE_CARDS);
    atomic_store(&jumping, jumps);
    sigaction(SIGUSR1, &by_timer, NULL);
    sigaction(SIGUSR2, &nested, NULL);
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i].extra = &handlers[i];
        handlers_open(&handlers[i], i);
        worker_start(&workers[i], signalled_worker);
    }
    pester(workers);
    atomic_store(&team_over, true);
    for (unsigned i = 0; i < WORKERS; i++) {
        worker_join(&workers[i]);
        worker_empty(&workers[i]);
        for (unsigned level = 0; level < DEPTH_MAX; level++)
            card_empty(handlers[i].cards[level]);
    }
    exchange_empty(&exchange);
    note_pairs();
}

void storm_signals(void)
{
    storm(false);
    expect_resident_below(32 * MIB, "threads that were signalled have ended");
}

void storm_jumps(void)
{
    storm(true);
}
