/* SPDX-License-Identifier: MIT */
/* What cuts into the allocator: signal handlers, forks, and pointers that are not its own. */
#include "family.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- Signals -------------------------------------------------------------------------------- */

enum { exchange_slots = 64, signal_seconds = 3, signal_interval_us = 50 };

/* A block that says how long it is, so that whoever finds it can check it. */
struct parcel {
    size_t bytes;
    char rest[];
};

/* Where threads and handlers swap blocks: each frees what others allocated. */
static _Atomic(struct parcel *) exchange[exchange_slots];
static _Atomic size_t handler_runs, handler_hits;
static _Thread_local volatile sig_atomic_t in_allocator;
static atomic_bool stop;

static struct parcel *new_parcel(uint64_t *state, size_t max_bytes)
{
    size_t bytes = sizeof(struct parcel) + family_random_bytes(state, max_bytes);
    in_allocator++;
    struct parcel *parcel = family_random(state, 4) == 0 ? calloc(1, bytes) : malloc(bytes);
    in_allocator--;
    CHECK(parcel != NULL);
    parcel->bytes = bytes;
    family_fill(parcel->rest, bytes - sizeof *parcel, bytes);
    return parcel;
}

static void check_parcel(const struct parcel *parcel)
{
    CHECK(family_intact(parcel->rest, parcel->bytes - sizeof *parcel, parcel->bytes));
}

static struct parcel *resize_parcel(struct parcel *parcel, uint64_t *state)
{
    size_t bytes = sizeof *parcel + family_random_bytes(state, 4 * KIB);
    size_t kept = bytes < parcel->bytes ? bytes : parcel->bytes;
    uint64_t seed = parcel->bytes;
    in_allocator++;
    parcel = realloc(parcel, bytes);
    in_allocator--;
    CHECK(parcel != NULL && family_intact(parcel->rest, kept - sizeof *parcel, seed));
    parcel->bytes = bytes;
    family_fill(parcel->rest, bytes - sizeof *parcel, bytes);
    return parcel;
}

static void drop_parcel(struct parcel *parcel)
{
    if (parcel == NULL)
        return;
    check_parcel(parcel);
    in_allocator++;
    free(parcel);
    in_allocator--;
}

static void swap_parcel(uint64_t *state, size_t max_bytes)
{
    struct parcel *parcel = new_parcel(state, max_bytes);
    if (family_random(state, 3) == 0)
        parcel = resize_parcel(parcel, state);
    size_t slot = family_random(state, exchange_slots);
    drop_parcel(atomic_exchange(&exchange[slot], parcel));
}

static void swap_in_handler(int signal_number)
{
    int kept_errno = errno;
    uint64_t state = (uint64_t)signal_number + atomic_fetch_add(&handler_runs, 1) * 1000003;
    if (in_allocator > 0)
        atomic_fetch_add(&handler_hits, 1);
    for (size_t i = 0; i < 3; i++)
        swap_parcel(&state, 2 * KIB);
    errno = kept_errno;
}

static void *swap_until_stopped(void *argument)
{
    uint64_t state = (uintptr_t)argument;
    while (!atomic_load(&stop))
        swap_parcel(&state, family_random(&state, 500) == 0 ? 200 * KIB : 1 * KIB);
    return NULL;
}

static void run_timer(suseconds_t interval_us)
{
    const struct itimerval timer = {{0, interval_us}, {0, interval_us}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void sleep_until(time_t seconds)
{
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += seconds;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR)
        ;
}

TEST(handlers_that_interrupt_the_allocator_may_allocate)
{
    IN_FRESH_PROCESS(NULL); /* a deadlock then ends with a time limit */
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = swap_in_handler;
    action.sa_flags = SA_RESTART;
    sigset_t timer_only;
    sigemptyset(&timer_only);
    sigaddset(&timer_only, SIGALRM);
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    unsigned long threads[2];
    for (uintptr_t i = 0; i < 2; i++)
        threads[i] = family_thread(swap_until_stopped, (void *)(i + 1));
    /* The timer's signals go to the two that work. */
    CHECK(pthread_sigmask(SIG_BLOCK, &timer_only, NULL) == 0);
    run_timer(signal_interval_us);
    sleep_until(signal_seconds);
    run_timer(0);
    atomic_store(&stop, true);
    for (size_t i = 0; i < 2; i++)
        family_join(threads[i]);
    for (size_t i = 0; i < exchange_slots; i++)
        drop_parcel(atomic_load(&exchange[i]));
    printf("%zu handlers, %zu inside the allocator\n", handler_runs, handler_hits);
    CHECK(handler_runs > 1000 && handler_hits > 100);
}

/* ---- Forks ---------------------------------------------------------------------------------- */

enum { busy_threads = 2, forks = 300, bare_forks = 100, child_seconds = 5, child_blocks = 200 };

static unsigned long busy[busy_threads];

static void start_to_be_busy(void)
{
    for (uintptr_t i = 0; i < busy_threads; i++)
        busy[i] = family_thread(swap_until_stopped, (void *)(i + 1));
}

static void stop_being_busy(void)
{
    atomic_store(&stop, true);
    for (size_t i = 0; i < busy_threads; i++)
        family_join(busy[i]);
}

static void *work_in_child(void *argument)
{
    family_workout((uintptr_t)argument, 50, 256 * KIB);
    return NULL;
}

/* `mine` are the forking thread's blocks; what lies in the exchange is mostly the other threads'.
 */
static void live_as_child(char **mine, int may_start_threads)
{
    alarm(child_seconds);
    for (size_t i = 0; i < child_blocks; i++) {
        CHECK(family_intact(mine[i], i * 10, i));
        free(mine[i]);
    }
    for (size_t i = 0; i < exchange_slots; i++)
        drop_parcel(atomic_load(&exchange[i]));
    family_workout(1, 50, 256 * KIB);
    if (may_start_threads)
        family_join(family_thread(work_in_child, NULL));
    _exit(0);
}

static pid_t plain_fork(void)
{
    return fork();
}

static pid_t bare_fork(void)
{
    return _Fork();
}

static pid_t raw_clone(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
}

static void fork_while_busy(pid_t (*divide)(void), size_t times, int may_start_threads)
{
    char *mine[child_blocks];
    start_to_be_busy();
    for (size_t round = 0; round < times; round++) {
        for (size_t i = 0; i < child_blocks; i++) {
            mine[i] = malloc(i * 10);
            family_fill(mine[i], i * 10, i);
        }
        pid_t child = divide();
        CHECK(child >= 0);
        if (child == 0)
            live_as_child(mine, may_start_threads);
        int status = family_wait(child, child_seconds + 1);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        for (size_t i = 0; i < child_blocks; i++)
            free(mine[i]);
    }
    stop_being_busy();
}

TEST(children_of_a_busy_process_allocate_free_and_start_threads)
{
    fork_while_busy(plain_fork, forks, 1);
}

/* Neither runs the handlers of pthread_atfork(); libc's own state may be half-way, so no threads.
 */
TEST(children_made_without_fork_handlers_allocate_and_free)
{
    IN_FRESH_PROCESS(NULL);
    fork_while_busy(bare_fork, bare_forks, 0);
    atomic_store(&stop, false);
    fork_while_busy(raw_clone, bare_forks, 0);
}

/* ---- Wild pointers -------------------------------------------------------------------------- */

enum { message_max = 1024 };

static void free_wild(void *pointer)
{
    free(pointer);
}

static void resize_wild(void *pointer)
{
    void *block = realloc(pointer, 100);
    CHECK(block == NULL); /* not reached */
}

/* In a child: SIGABRT, and the address in its words on stderr. */
static void check_abort(void (*misuse)(void *), void *pointer)
{
    char message[message_max] = "";
    int ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        signal(SIGABRT, SIG_DFL); /* cmocka catches it */
        dup2(ends[1], STDERR_FILENO);
        misuse(pointer);
        _exit(0);
    }
    close(ends[1]);
    int status = family_wait(child, child_seconds);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(read(ends[0], message, message_max - 1) > 0);
    close(ends[0]);
    const char *address = strstr(message, "0x"); /* padded with zeros or not */
    CHECK(address != NULL && strtoul(address, NULL, 16) == (unsigned long)(uintptr_t)pointer);
}

static char in_data[64] = {1};

static void check_abort_everywhere(void (*misuse)(void *))
{
    _Alignas(16) char on_stack[64] = {1};
    char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(mapped != MAP_FAILED);
    check_abort(misuse, on_stack + 16);
    check_abort(misuse, in_data + 16);
    check_abort(misuse, mapped + 64);
    CHECK(munmap(mapped, 4096) == 0);
    check_abort(misuse, mapped + 64);                       /* nothing is mapped there now */
    check_abort(misuse, (void *)(uintptr_t)0x10);           /* nor there */
    check_abort(misuse, (void *)(uintptr_t)0x7ffffffff000); /* nor ever there */
}

TEST(a_wild_pointer_given_to_free_is_named_and_aborts)
{
    check_abort_everywhere(free_wild);
}

TEST(a_wild_pointer_given_to_realloc_is_named_and_aborts)
{
    check_abort_everywhere(resize_wild);
}

static const struct family_test tests[] = {
    ENTRY(handlers_that_interrupt_the_allocator_may_allocate),
    ENTRY(children_of_a_busy_process_allocate_free_and_start_threads),
    ENTRY(children_made_without_fork_handlers_allocate_and_free),
    ENTRY(a_wild_pointer_given_to_free_is_named_and_aborts),
    ENTRY(a_wild_pointer_given_to_realloc_is_named_and_aborts),
};

int main(int argc, char **argv)
{
    return family_main(tests, sizeof tests / sizeof tests[0], argc, argv);
}
