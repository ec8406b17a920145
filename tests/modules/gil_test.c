/* SPDX-License-Identifier: MIT */
/* gil/gil.c: one at a time, each in turn.
 *
 * How long things take is checked with room for a slow and busy machine; who comes first, and how
 * often, is what the tests are about.
 */
#include "modules.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "atomic.h"
#include "freehold/gil.h"
#include "os.h"

enum { MS = 1000, INTERVAL_US = 5 * MS, FAR_US = 20000 * MS };

enum { WORD, QUEUE, DEPTH }; /* of a lock's words, as gil.c has them */
enum { ASKED = 2, HANDED_OVER = 3 };

static fh_gil_lock lock; /* all zeros, as any static one */
static fh_gil gil;
static uint64_t stop, arrived, went;

static void use_own_lock(void)
{
    gil = fh_gil_of(&lock);
}

static void pause_us(long microseconds)
{
    struct timespec pause = {microseconds / 1000000, microseconds % 1000000 * 1000};
    while (nanosleep(&pause, &pause) != 0)
        ;
}

/* Until another thread says so, at most 20 s. */
static void await(const uint64_t *value, uint64_t wanted)
{
    uint64_t until_us = fh_os_now_us() + FAR_US;
    while (fh_load_acquire_u64(value) < wanted) {
        CHECK(fh_os_now_us() < until_us);
        pause_us(100);
    }
}

/* Until so many threads have come to the queue, including those that have left it. */
static void await_queue(uint64_t tickets)
{
    uint64_t until_us = fh_os_now_us() + FAR_US;
    while (fh_load_relaxed_u64(&lock.words[QUEUE]) >> 32 < tickets) {
        CHECK(fh_os_now_us() < until_us);
        pause_us(100);
    }
}

static void count_up(uint64_t *counter)
{
    (void)fh_fetch_add_relaxed_u64(counter, 1);
}

static bool is_free(void)
{
    return lock.words[WORD] == 0 && lock.words[DEPTH] == 0 &&
           lock.words[QUEUE] >> 32 == (uint32_t)lock.words[QUEUE];
}

/* Threads that run until they are told to end. */
struct worker {
    pthread_t thread;
    void (*run)(unsigned number);
    unsigned number;
};

static void *run_worker(void *argument)
{
    const struct worker *worker = argument;
    worker->run(worker->number);
    return NULL;
}

static void start(struct worker *worker, unsigned number, void (*run)(unsigned number))
{
    *worker = (struct worker){.run = run, .number = number};
    CHECK(pthread_create(&worker->thread, NULL, run_worker, worker) == 0);
}

static void finish(struct worker *workers, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        CHECK(pthread_join(workers[i].thread, NULL) == 0);
}

/* ---- One thread --------------------------------------------------------------------------- */

TEST(zeros_are_a_free_lock)
{
    use_own_lock();
    CHECK(!fh_gil_held(&gil));
    fh_gil_acquire(&gil);
    CHECK(fh_gil_held(&gil));
    fh_gil_release(&gil);
    CHECK(!fh_gil_held(&gil) && is_free());
}

TEST(it_is_held_until_released_as_often_as_acquired)
{
    use_own_lock();
    for (int i = 0; i < 100; i++)
        fh_gil_acquire(&gil);
    for (int i = 0; i < 100; i++) {
        CHECK(fh_gil_held(&gil));
        fh_gil_release(&gil);
    }
    CHECK(!fh_gil_held(&gil) && is_free());
}

TEST(save_gives_all_of_it_up_and_restore_brings_it_back)
{
    use_own_lock();
    CHECK(fh_gil_save(&gil) == 0);
    fh_gil_restore(&gil, 0);
    CHECK(is_free());
    for (size_t times = 1; times < 5; times++) {
        fh_gil_acquire(&gil);
        for (size_t i = 1; i < times; i++)
            fh_gil_acquire(&gil);
        CHECK(fh_gil_save(&gil) == times && is_free() && !fh_gil_held(&gil));
        fh_gil_restore(&gil, times);
        for (size_t i = 0; i < times; i++) {
            CHECK(fh_gil_held(&gil));
            fh_gil_release(&gil);
        }
        CHECK(is_free());
    }
}

TEST(the_process_has_one_lock_and_others_are_apart_from_it)
{
    use_own_lock();
    const fh_gil *of_process = fh_gil_builtin();
    CHECK(of_process != NULL && of_process == fh_gil_builtin() && of_process->ctx != &lock);
    fh_gil_acquire(of_process);
    CHECK(fh_gil_held(of_process) && !fh_gil_held(&gil) && is_free());
    fh_gil copy = *of_process;
    CHECK(fh_gil_held(&copy));
    fh_gil_release(&copy);
    CHECK(!fh_gil_held(of_process));
}

TEST(nobody_gives_way_unasked)
{
    use_own_lock();
    CHECK(fh_gil_check(&gil) == 0);
    fh_gil_acquire(&gil);
    CHECK(fh_gil_check(&gil) == 0 && fh_gil_held(&gil));
    fh_gil_release(&gil);
}

TEST(the_interval_is_five_ms_until_it_is_set)
{
    use_own_lock();
    CHECK(fh_gil_get_switch_interval(&gil) == INTERVAL_US);
    CHECK(fh_gil_set_switch_interval(&gil, 1) == 0 && fh_gil_get_switch_interval(&gil) == 1);
    CHECK(fh_gil_set_switch_interval(&gil, UINT32_MAX) == 0);
    CHECK(fh_gil_get_switch_interval(&gil) == UINT32_MAX);
    CHECK(fh_gil_get_switch_interval(fh_gil_builtin()) == INTERVAL_US);
    errno = 0;
    CHECK(fh_gil_set_switch_interval(&gil, 0) == -1 && errno == EINVAL);
    CHECK(fh_gil_get_switch_interval(&gil) == UINT32_MAX);
}

static void release_what_is_not_mine(void *argument)
{
    (void)argument;
    fh_gil_release(&gil);
}

static void hold_while_another_releases(void *argument)
{
    fh_gil_acquire(&gil);
    elsewhere(release_what_is_not_mine, argument);
}

static void check_is_fatal(void (*run)(void *argument))
{
    char text[128];
    use_own_lock();
    snprintf(text, sizeof text,
             "freehold: fh_gil_release(0x%016lx): not held by the calling thread\n",
             (unsigned long)(uintptr_t)&lock);
    check_aborts(run, NULL, text);
}

TEST(releasing_a_free_lock_is_fatal)
{
    check_is_fatal(release_what_is_not_mine);
}

TEST(releasing_another_threads_lock_is_fatal)
{
    if (MODULES_SHADOWED)
        modules_skip("the sanitizer starts no threads in the child of a fork");
    check_is_fatal(hold_while_another_releases);
}

/* ---- Several ------------------------------------------------------------------------------ */

enum { COUNTING = 4, COUNTS = 20000 };

static uint64_t plain_sum; /* not atomic: the lock protects it */

static void count_under_lock(unsigned number, void *shared)
{
    (void)shared;
    for (int i = 0; i < COUNTS; i++) {
        fh_gil_acquire(&gil);
        if (i % 3 == 0)
            fh_gil_acquire(&gil);
        uint64_t before = plain_sum;
        if (i % 1000 == (int)number)
            pause_us(50);
        plain_sum = before + 1;
        if (i % 3 == 0)
            fh_gil_release(&gil);
        fh_gil_release(&gil);
        CHECK(!fh_gil_held(&gil));
    }
}

/* ThreadSanitizer reports it if the lock does not pass the plain sum on. */
TEST(one_thread_at_a_time_holds_it)
{
    use_own_lock();
    together(COUNTING, count_under_lock, NULL);
    CHECK(plain_sum == (uint64_t)COUNTING * COUNTS && is_free());
}

static void check_often(unsigned number, void *shared)
{
    (void)number;
    (void)shared;
    fh_gil_acquire(&gil);
    for (int i = 0; i < COUNTS; i++) {
        plain_sum++;
        (void)fh_gil_check(&gil);
        CHECK(fh_gil_held(&gil));
    }
    fh_gil_release(&gil);
}

TEST(one_thread_at_a_time_holds_it_when_they_give_way_often)
{
    use_own_lock();
    CHECK(fh_gil_set_switch_interval(&gil, 20) == 0);
    together(COUNTING, check_often, NULL);
    CHECK(plain_sum == (uint64_t)COUNTING * COUNTS && is_free());
}

static void see_that_it_is_not_mine(void *argument)
{
    (void)argument;
    CHECK(!fh_gil_held(&gil) && fh_gil_save(&gil) == 0 && fh_gil_check(&gil) == 0);
}

TEST(held_is_about_the_calling_thread)
{
    use_own_lock();
    fh_gil_acquire(&gil);
    elsewhere(see_that_it_is_not_mine, NULL);
    CHECK(fh_gil_held(&gil));
    fh_gil_release(&gil);
}

static void take_once(unsigned number)
{
    (void)number;
    fh_gil_acquire(&gil);
    (void)fh_fetch_or_release_u64(&arrived, 1);
    fh_gil_release(&gil);
}

TEST(a_deep_holder_that_saves_lets_others_in)
{
    struct worker worker;
    use_own_lock();
    fh_gil_acquire(&gil);
    fh_gil_acquire(&gil);
    start(&worker, 0, take_once);
    await_queue(1);
    CHECK(fh_load_acquire_u64(&arrived) == 0);
    size_t times = fh_gil_save(&gil);
    await(&arrived, 1);
    fh_gil_restore(&gil, times);
    CHECK(times == 2 && fh_gil_held(&gil));
    finish(&worker, 1);
    CHECK(fh_gil_save(&gil) == 2 && is_free());
}

/* ---- Giving way --------------------------------------------------------------------------- */

TEST(a_waiter_asks_after_an_interval_and_the_holder_gives_way)
{
    struct worker worker;
    use_own_lock();
    CHECK(fh_gil_set_switch_interval(&gil, 50 * MS) == 0);
    fh_gil_acquire(&gil);
    fh_gil_acquire(&gil);
    uint64_t before_us = fh_os_now_us();
    start(&worker, 0, take_once);
    while (fh_gil_check(&gil) == 0)
        CHECK(fh_os_now_us() < before_us + FAR_US);
    CHECK(fh_os_now_us() - before_us >= 50 * MS);
    CHECK(fh_load_acquire_u64(&arrived) == 1); /* it had the lock meanwhile */
    CHECK(fh_gil_held(&gil) && fh_gil_save(&gil) == 2);
    finish(&worker, 1);
    CHECK(is_free());
}

/* Releases and comes back at once, again and again. */
TEST(who_releases_after_a_request_does_not_get_it_back_first)
{
    use_own_lock();
    CHECK(fh_gil_set_switch_interval(&gil, 500) == 0);
    for (int i = 0; i < 100; i++) {
        struct worker worker;
        fh_store_release_u64(&arrived, 0);
        fh_gil_acquire(&gil);
        start(&worker, 0, take_once);
        while ((fh_load_relaxed_u64(&lock.words[WORD]) & ASKED) == 0)
            pause_us(100);
        fh_gil_release(&gil);
        fh_gil_acquire(&gil);
        CHECK(fh_load_acquire_u64(&arrived) == 1);
        fh_gil_release(&gil);
        finish(&worker, 1);
    }
    CHECK(is_free());
}

/* The same for a thread that never checks, but releases often: for the most part the lock is back
 * with it before the woken waiter runs. */
static void barge(unsigned number)
{
    (void)number;
    while (fh_load_relaxed_u64(&stop) == 0) {
        fh_gil_acquire(&gil);
        plain_sum++;
        fh_gil_release(&gil);
    }
}

TEST(a_waiter_gets_it_from_threads_that_come_back_at_once)
{
    struct worker workers[2];
    use_own_lock();
    for (unsigned i = 0; i < 2; i++)
        start(&workers[i], i, barge);
    for (int i = 0; i < 50; i++) {
        fh_gil_acquire(&gil);
        uint64_t before = plain_sum;
        pause_us(10);
        CHECK(plain_sum == before);
        fh_gil_release(&gil);
        pause_us(1000);
    }
    fh_store_release_u64(&stop, 1);
    finish(workers, 2);
    CHECK(is_free());
}

/* ---- Fairness ----------------------------------------------------------------------------- */

enum { WORKERS_MAX = 16 };

static uint64_t turns[WORKERS_MAX], held_us[WORKERS_MAX];

/* At most two intervals: the system may have taken the processor away for long. */
static uint64_t since(uint64_t before_us)
{
    uint64_t passed_us = fh_os_now_us() - before_us;
    return passed_us < 2 * INTERVAL_US ? passed_us : 2 * INTERVAL_US;
}

/* Holds the lock all the time, but for giving way. */
static void work(unsigned number)
{
    fh_gil_acquire(&gil);
    count_up(&arrived);
    uint64_t since_us = fh_os_now_us();
    while (fh_load_relaxed_u64(&stop) == 0) {
        uint64_t turn_us = since(since_us);
        if (fh_gil_check(&gil) != 0) {
            held_us[number] += turn_us;
            count_up(&turns[number]);
            since_us = fh_os_now_us();
        }
    }
    fh_gil_release(&gil);
}

static void work_together(struct worker *workers, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        start(&workers[i], i, work);
    await(&arrived, count);
}

static void stop_working(struct worker *workers, unsigned count)
{
    fh_store_release_u64(&stop, 1);
    finish(workers, count);
    CHECK(is_free());
}

TEST(two_busy_threads_share_it_evenly)
{
    struct worker workers[2];
    use_own_lock();
    work_together(workers, 2);
    await(&turns[0], 100); /* a second */
    stop_working(workers, 2);
    uint64_t all_us = held_us[0] + held_us[1];
    for (int i = 0; i < 2; i++)
        CHECK(held_us[i] * 100 >= all_us * 40 && held_us[i] * 100 <= all_us * 60);
    CHECK(turns[0] - turns[1] + 1 <= 2); /* 1 more, as many, or 1 less */
}

/* How many turns each has had, at a moment when all of them wait. */
static void copy_turns(uint64_t *copies)
{
    fh_gil_acquire(&gil);
    for (int i = 0; i < WORKERS_MAX; i++)
        copies[i] = fh_load_relaxed_u64(&turns[i]);
    fh_gil_release(&gil);
}

/* In the order of coming. Not always equally often: a thread that gave way may lose its processor
 * before it comes back. */
TEST(sixteen_busy_threads_have_their_turns)
{
    struct worker workers[WORKERS_MAX];
    uint64_t before[WORKERS_MAX], after[WORKERS_MAX], fewest = UINT64_MAX, most = 0;
    use_own_lock();
    CHECK(fh_gil_set_switch_interval(&gil, 1 * MS) == 0);
    work_together(workers, WORKERS_MAX);
    copy_turns(before);
    pause_us(1000 * MS);
    copy_turns(after);
    stop_working(workers, WORKERS_MAX);
    for (int i = 0; i < WORKERS_MAX; i++) {
        uint64_t had = after[i] - before[i];
        fewest = had < fewest ? had : fewest;
        most = had > most ? had : most;
    }
    CHECK(fewest >= 2 && most <= 2 * fewest);
}

TEST(a_thread_that_blocked_gets_it_back_within_a_few_intervals)
{
    struct worker worker;
    uint64_t waits[20];
    use_own_lock();
    work_together(&worker, 1);
    fh_gil_acquire(&gil);
    for (int i = 0; i < 20; i++) {
        size_t times = fh_gil_save(&gil);
        pause_us(100); /* the blocking call */
        uint64_t turn = fh_load_relaxed_u64(&turns[0]);
        uint64_t before_us = fh_os_now_us();
        fh_gil_restore(&gil, times);
        waits[i] = fh_os_now_us() - before_us;
        CHECK(fh_load_relaxed_u64(&turns[0]) - turn <= 2);
    }
    fh_gil_release(&gil);
    stop_working(&worker, 1);
    unsigned soon = 0;
    for (int i = 0; i < 20; i++)
        soon += waits[i] <= 4 * INTERVAL_US;
    CHECK(soon >= 10); /* on a busy machine not all */
}

enum { TURNS = 4 };

/* How long until one of two busy threads has had some turns. */
static uint64_t turns_us(uint32_t microseconds)
{
    struct worker workers[2];
    CHECK(fh_gil_set_switch_interval(&gil, microseconds) == 0);
    fh_store_relaxed_u64(&stop, 0);
    fh_store_relaxed_u64(&arrived, 0);
    work_together(workers, 2);
    fh_store_relaxed_u64(&turns[0], 0);
    uint64_t before_us = fh_os_now_us();
    await(&turns[0], TURNS);
    uint64_t passed_us = fh_os_now_us() - before_us;
    stop_working(workers, 2);
    return passed_us;
}

TEST(the_interval_sets_how_often_they_take_turns)
{
    use_own_lock();
    uint64_t at_100_ms = turns_us(100 * MS);
    CHECK(at_100_ms >= (2 * TURNS - 2) * 100 * MS); /* as many of the other thread between them */
    bool sooner = false;
    for (int tries = 0; tries < 20 && !sooner; tries++) /* on a busy machine not at once */
        sooner = turns_us(1 * MS) < at_100_ms / 2;
    CHECK(sooner);
}

/* ---- Waiting in turn ---------------------------------------------------------------------- */

static unsigned order[WORKERS_MAX], order_length;

static void take_place(unsigned number)
{
    fh_gil_acquire(&gil);
    order[order_length++] = number;
    count_up(&went);
    fh_gil_release(&gil);
}

/* No interval ends here, so each must be woken. */
TEST(waiters_are_served_in_the_order_of_coming)
{
    struct worker workers[WORKERS_MAX];
    use_own_lock();
    CHECK(fh_gil_set_switch_interval(&gil, UINT32_MAX) == 0);
    fh_gil_acquire(&gil);
    for (unsigned i = 0; i < WORKERS_MAX; i++) {
        start(&workers[i], i, take_place);
        await_queue(i + 1);
    }
    fh_gil_release(&gil);
    finish(workers, WORKERS_MAX);
    CHECK(order_length == WORKERS_MAX && is_free());
    for (unsigned i = 0; i < WORKERS_MAX; i++)
        CHECK(order[i] == i);
}

TEST(who_is_next_is_woken_and_does_not_look_by_chance)
{
    unsigned soon = 0;
    use_own_lock();
    for (unsigned round = 0; round < 11; round++) {
        struct worker workers[2];
        fh_gil_acquire(&gil);
        for (unsigned i = 0; i < 2; i++) {
            start(&workers[i], i, take_place);
            await_queue(2 * round + i + 1);
        }
        uint64_t before_us = fh_os_now_us();
        fh_gil_release(&gil);
        finish(workers, 2);
        soon += fh_os_now_us() - before_us < 50 * MS;
        order_length = 0;
    }
    CHECK(soon >= 6 && is_free());
}

/* As if the thread that asked did not run just then. */
TEST(a_lock_that_was_handed_over_is_for_who_asked)
{
    struct worker workers[2];
    use_own_lock();
    CHECK(fh_gil_set_switch_interval(&gil, UINT32_MAX) == 0);
    fh_gil_acquire(&gil);
    for (unsigned i = 0; i < 2; i++) {
        start(&workers[i], i, take_place);
        await_queue(i + 1);
    }
    fh_store_release_u64(&lock.words[WORD], HANDED_OVER);
    fh_os_wake((const uint32_t *)(const void *)&lock.words[WORD], UINT32_MAX);
    pause_us(20 * MS);
    CHECK(fh_load_relaxed_u64(&lock.words[WORD]) == HANDED_OVER && fh_load_relaxed_u64(&went) == 0);
    fh_store_release_u64(&lock.words[WORD], 0);
    fh_os_wake((const uint32_t *)(const void *)&lock.words[WORD], UINT32_MAX);
    finish(workers, 2);
    CHECK(order_length == 2 && is_free());
}

TEST(tickets_may_start_again)
{
    lock.words[QUEUE] = (uint64_t)(UINT32_MAX - 3) << 32 | (UINT32_MAX - 3);
    struct worker workers[WORKERS_MAX];
    use_own_lock();
    fh_gil_acquire(&gil);
    for (unsigned i = 0; i < WORKERS_MAX; i++) {
        start(&workers[i], i, take_place);
        while (fh_load_relaxed_u64(&lock.words[QUEUE]) >> 32 != (uint32_t)(UINT32_MAX - 3 + i + 1))
            pause_us(100);
    }
    fh_gil_release(&gil);
    finish(workers, WORKERS_MAX);
    CHECK(is_free());
    for (unsigned i = 0; i < WORKERS_MAX; i++)
        CHECK(order[i] == i);
}

/* ---- Signals ------------------------------------------------------------------------------ */

static uint64_t handled;

static void use_in_handler(int signal_number)
{
    (void)signal_number;
    int before = fh_gil_held(&gil);
    fh_gil_acquire(&gil);
    CHECK(fh_gil_held(&gil));
    plain_sum++;
    (void)fh_gil_check(&gil);
    fh_gil_release(&gil);
    CHECK(fh_gil_held(&gil) == before);
    count_up(&handled);
}

static void handle(void (*handler)(int signal_number))
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
}

TEST(a_handler_of_the_holder_may_acquire)
{
    use_own_lock();
    handle(use_in_handler);
    fh_gil_acquire(&gil);
    CHECK(raise(SIGUSR1) == 0 && handled == 1);
    CHECK(fh_gil_held(&gil));
    fh_gil_release(&gil);
    CHECK(is_free());
}

TEST(a_handler_of_a_waiter_may_acquire)
{
    struct worker workers[3];
    use_own_lock();
    handle(use_in_handler);
    fh_gil_acquire(&gil);
    for (unsigned i = 0; i < 3; i++) {
        start(&workers[i], i, take_place);
        await_queue(i + 1);
    }
    CHECK(pthread_kill(workers[0].thread, SIGUSR1) == 0); /* watches the word */
    CHECK(pthread_kill(workers[2].thread, SIGUSR1) == 0); /* waits for its turn */
    pause_us(20 * MS);
    CHECK(handled == 0);
    fh_gil_release(&gil);
    finish(workers, 3);
    CHECK(handled == 2 && order_length == 3 && is_free());
}

static uint64_t counts[3];

static void count_until_stopped(unsigned number)
{
    while (fh_load_relaxed_u64(&stop) == 0) {
        fh_gil_acquire(&gil);
        plain_sum++;
        (void)fh_gil_check(&gil);
        fh_gil_release(&gil);
        counts[number]++;
    }
}

/* While it takes the lock, holds it, waits for it, gives way. */
TEST(handlers_may_come_at_any_moment)
{
    struct worker workers[3];
    uint64_t sent = 0;
    use_own_lock();
    handle(use_in_handler);
    CHECK(fh_gil_set_switch_interval(&gil, 50) == 0);
    for (unsigned i = 0; i < 3; i++)
        start(&workers[i], i, count_until_stopped);
    for (struct bound bound = at_most(20000); more(&bound);) {
        CHECK(pthread_kill(workers[sent % 3].thread, SIGUSR1) == 0);
        sent++;
        while (fh_load_acquire_u64(&handled) < sent) /* or several would be one */
            pause_us(1);
    }
    fh_store_release_u64(&stop, 1);
    finish(workers, 3);
    CHECK(is_free() && sent > 10);
    CHECK(plain_sum == counts[0] + counts[1] + counts[2] + sent);
}

/* ---- fork --------------------------------------------------------------------------------- */

static void hold_until_stopped(unsigned number)
{
    (void)number;
    fh_gil_acquire(&gil);
    fh_gil_acquire(&gil);
    fh_store_release_u64(&arrived, 1);
    await(&stop, 1);
    fh_gil_release(&gil);
    fh_gil_release(&gil);
}

static void use_in_child(void)
{
    CHECK(!fh_gil_held(&gil));
    fh_gil_after_fork_child(&gil);
    CHECK(!fh_gil_held(&gil) && is_free());
    fh_gil_acquire(&gil);
    CHECK(fh_gil_save(&gil) == 1 && is_free());
}

TEST(in_a_child_what_another_thread_held_is_free)
{
    struct worker workers[3];
    use_own_lock();
    start(&workers[0], 0, hold_until_stopped);
    await(&arrived, 1);
    start(&workers[1], 1, take_once);
    start(&workers[2], 2, take_once);
    await_queue(2);
    in_child(use_in_child);
    fh_store_release_u64(&stop, 1);
    finish(workers, 3);
    CHECK(is_free());
}

static void go_on_in_child(void)
{
    CHECK(fh_gil_held(&gil));
    fh_gil_after_fork_child(&gil);
    CHECK(fh_gil_held(&gil) && fh_gil_check(&gil) == 0);
    CHECK(fh_gil_save(&gil) == 3 && is_free());
}

TEST(in_a_child_what_the_forking_thread_held_is_still_its_own)
{
    struct worker workers[2];
    use_own_lock();
    for (int i = 0; i < 3; i++)
        fh_gil_acquire(&gil);
    for (unsigned i = 0; i < 2; i++)
        start(&workers[i], i, take_once);
    await_queue(2);
    pause_us(2L * INTERVAL_US); /* asked, too */
    in_child(go_on_in_child);
    CHECK(fh_gil_save(&gil) == 3);
    finish(workers, 2);
    CHECK(is_free());
}

static void fork_in_handler(int signal_number)
{
    (void)signal_number;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        alarm(30);
        fh_gil_after_fork_child(&gil);
        return; /* to waiting for the turn, in a queue without anybody */
    }
    count_up(&handled);
}

static pid_t parent;

static void leave_if_child(unsigned number)
{
    (void)number;
    fh_gil_acquire(&gil);
    if (getpid() != parent)
        _exit(fh_gil_save(&gil) == 1 && is_free() ? 0 : 1);
    fh_gil_release(&gil);
}

TEST(in_a_child_of_a_waiter_the_wait_ends)
{
    struct worker workers[3];
    int status;
    use_own_lock();
    parent = getpid();
    handle(fork_in_handler);
    fh_gil_acquire(&gil);
    for (unsigned i = 0; i < 3; i++) {
        start(&workers[i], i, leave_if_child);
        await_queue(i + 1);
    }
    for (unsigned i = 0; i < 2; i++) { /* the one that is next, and one behind it */
        CHECK(pthread_kill(workers[i].thread, SIGUSR1) == 0);
        await(&handled, i + 1);
        CHECK(waitpid(-1, &status, 0) > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    fh_gil_release(&gil);
    finish(workers, 3);
    CHECK(is_free());
}

/* ---- The caller's lock -------------------------------------------------------------------- */

struct callers_lock {
    int depth, acquired, released, forked;
};

static int callers_held(void *ctx)
{
    return ((struct callers_lock *)ctx)->depth > 0;
}

static void callers_acquire(void *ctx)
{
    struct callers_lock *callers = ctx;
    callers->depth++;
    callers->acquired++;
}

static void callers_release(void *ctx)
{
    struct callers_lock *callers = ctx;
    callers->depth--;
    callers->released++;
}

static void callers_fork(void *ctx)
{
    ((struct callers_lock *)ctx)->forked++;
}

TEST(a_callers_lock_is_called)
{
    struct callers_lock callers = {0, 0, 0, 0};
    fh_gil its = {&callers, callers_held, callers_acquire, callers_release, callers_fork};
    CHECK(!fh_gil_held(&its));
    fh_gil_acquire(&its);
    fh_gil_acquire(&its);
    CHECK(fh_gil_held(&its) && callers.depth == 2);
    CHECK(fh_gil_check(&its) == 0 && callers.released == 0);
    CHECK(fh_gil_save(&its) == 2 && callers.depth == 0);
    CHECK(fh_gil_save(&its) == 0 && callers.released == 2);
    fh_gil_restore(&its, 2);
    CHECK(callers.depth == 2 && callers.acquired == 4);
    fh_gil_release(&its);
    CHECK(callers.depth == 1);
    fh_gil_after_fork_child(&its);
    CHECK(callers.forked == 1);
    its.after_fork_child = NULL;
    fh_gil_after_fork_child(&its);
    errno = 0;
    CHECK(fh_gil_set_switch_interval(&its, 1) == -1 && errno == EINVAL);
    CHECK(fh_gil_get_switch_interval(&its) == 0);
}

/* ---- errno -------------------------------------------------------------------------------- */

TEST(waiting_leaves_errno_alone)
{
    struct worker worker;
    use_own_lock();
    CHECK(fh_gil_set_switch_interval(&gil, 100) == 0);
    work_together(&worker, 1);
    errno = 1234;
    for (int i = 0; i < 10; i++) {
        fh_gil_acquire(&gil); /* waits, with time-outs */
        fh_gil_release(&gil);
    }
    CHECK(errno == 1234);
    stop_working(&worker, 1);
}
