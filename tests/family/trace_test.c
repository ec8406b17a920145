/* SPDX-License-Identifier: MIT */
/* FREEHOLD_TRACE=25 ./server: the malloc family traced from the program's start on. Each test
 * starts its program again with these variables set.
 */
#include "family.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

/* As in freehold/trace.h; weak, for the library may come by LD_PRELOAD. */
struct frame {
    const char *filename;
    unsigned lineno;
    uintptr_t pc;
};

#define WEAK __attribute__((weak))
#if defined(__clang__)
#define KEEP __attribute__((noinline))
#else
#define KEEP __attribute__((noinline, noclone))
#endif

extern int fh_trace_is_tracing(void) WEAK;
extern int fh_trace_limit(void) WEAK;
extern void fh_trace_get_traced_memory(size_t *now, size_t *peak) WEAK;
extern size_t fh_trace_get_traceback(unsigned domain, uintptr_t address, struct frame *out,
                                     size_t max, size_t *total) WEAK;
extern void *_Znwm(size_t bytes) WEAK; /* operator new, operator delete */
extern void _ZdlPv(void *block) WEAK;

#define PATH_FORMAT "/tmp/freehold-trace-test.%d"

static void one_frame(void)
{
    CHECK(setenv("FREEHOLD_TRACE", "1", 1) == 0);
    CHECK(setenv("FREEHOLD_TRACE_FILE", "/dev/null", 1) == 0);
}

static void many_frames(void)
{
    one_frame();
    CHECK(setenv("FREEHOLD_TRACE", "25", 1) == 0);
}

static void to_files(void)
{
    one_frame();
    CHECK(setenv("FREEHOLD_TRACE_FILE", "/tmp/freehold-trace-test.%p", 1) == 0);
    CHECK(setenv("FREEHOLD_TRACE_SIGNAL", "USR2", 1) == 0);
}

static size_t traced(void)
{
    size_t bytes;
    fh_trace_get_traced_memory(&bytes, NULL);
    return bytes;
}

static size_t frames_of(const void *block, struct frame *frames, size_t max)
{
    return fh_trace_get_traceback(0, (uintptr_t)block, frames, max, NULL);
}

/* ---- What is traced ------------------------------------------------------------------------- */

/* Where the block was made lies in the function `from`, which is short. */
static void check_site(const void *block, uintptr_t from)
{
    struct frame frame = {NULL, 0, 0};
    CHECK(block != NULL && frames_of(block, &frame, 1) == 1);
    CHECK(frame.pc > from && frame.pc < from + 200);
}

#define MAKER(name, call)                                                                          \
    KEEP static void *name(size_t bytes)                                                           \
    {                                                                                              \
        void *volatile block = (call);                                                             \
        return block;                                                                              \
    }

static void *posix(size_t alignment, size_t bytes)
{
    void *block;
    return posix_memalign(&block, alignment, bytes) == 0 ? block : NULL;
}

MAKER(by_malloc, malloc(bytes))
MAKER(by_calloc, calloc(1, bytes))
MAKER(by_realloc, realloc(NULL, bytes))
MAKER(by_resizing, realloc(malloc(1), bytes))
MAKER(by_reallocarray, reallocarray(NULL, 1, bytes))
MAKER(by_aligned_alloc, aligned_alloc(64, bytes))
MAKER(by_memalign, memalign(16, bytes))
MAKER(by_valloc, valloc(bytes))
MAKER(by_new, _Znwm == NULL ? malloc(bytes) : _Znwm(bytes))

TEST(every_call_of_the_family_is_traced_to_its_caller)
{
    IN_FRESH_PROCESS(one_frame);
    void *(*const makers[])(size_t) = {by_malloc,   by_calloc,       by_realloc,
                                       by_resizing, by_reallocarray, by_aligned_alloc,
                                       by_memalign, by_valloc,       by_new};
    static const size_t sizes[] = {1, 64, 512, 5000, 100 * KIB, 9 * MIB};
    CHECK(fh_trace_is_tracing() && fh_trace_limit() == 1);
    for (size_t i = 0; i < sizeof makers / sizeof *makers; i++)
        for (size_t j = 0; j < sizeof sizes / sizeof *sizes; j++) {
            size_t before = traced();
            void *block = makers[i](sizes[j]);
            check_site(block, (uintptr_t)makers[i]);
            CHECK(traced() == before + sizes[j]);
            free(block);
            CHECK(traced() == before && frames_of(block, NULL, 0) == 0);
        }
}

TEST(aligned_blocks_are_traced_too)
{
    IN_FRESH_PROCESS(one_frame);
    size_t before = traced();
    void *block = posix(4096, 100);
    CHECK((uintptr_t)block % 4096 == 0 && frames_of(block, NULL, 0) == 1);
    CHECK(traced() == before + 100);
    free(block);
    CHECK(traced() == before);
}

TEST(a_failed_realloc_leaves_the_trace)
{
    IN_FRESH_PROCESS(one_frame);
    void *block = malloc(100);
    size_t before = traced();
    CHECK(realloc(block, PTRDIFF_MAX / 2) == NULL && errno == ENOMEM);
    CHECK(traced() == before && frames_of(block, NULL, 0) == 1);
    CHECK(realloc(block, 0) == NULL && traced() == before - 100);
}

TEST(nothing_is_traced_unless_it_is_asked_for)
{
    CHECK(unsetenv("FREEHOLD_TRACE") == 0);
    IN_FRESH_PROCESS(NULL);
    void *block = malloc(100);
    CHECK(!fh_trace_is_tracing() && traced() == 0 && frames_of(block, NULL, 0) == 0);
    free(block);
}

KEEP static void *inner(size_t bytes)
{
    void *volatile block = by_malloc(bytes);
    return block;
}

KEEP static void *outer(size_t bytes)
{
    void *volatile block = inner(bytes);
    return block;
}

/* Without frame pointers in this file it takes the unwinder, which static programs do not have. */
TEST(a_traceback_goes_from_the_call_to_main)
{
#if defined(FAMILY_STATIC) || !defined(__x86_64__)
    family_skip("no unwinder");
#endif
    IN_FRESH_PROCESS(many_frames);
    struct frame frames[3];
    void *block = outer(10);
    CHECK(frames_of(block, frames, 3) > 3);
    CHECK(frames[0].pc > (uintptr_t)by_malloc && frames[0].pc < (uintptr_t)by_malloc + 200);
    CHECK(frames[1].pc > (uintptr_t)inner && frames[1].pc < (uintptr_t)inner + 200);
    CHECK(frames[2].pc > (uintptr_t)outer && frames[2].pc < (uintptr_t)outer + 200);
    free(block);
}

/* ---- Threads, handlers, children ------------------------------------------------------------ */

static void *churn(void *seed)
{
    family_workout((uint64_t)(uintptr_t)seed, 20000, 200 * KIB);
    return NULL;
}

/* Blocks of threads that end are traced until they are freed, by whom ever. */
static void *leave_one(void *unused)
{
    (void)unused;
    return malloc(1000);
}

TEST(after_threads_have_ended_only_what_they_left_is_traced)
{
    IN_FRESH_PROCESS(one_frame);
    void *left;
    pthread_t leaving;
    family_join(family_thread(churn, (void *)9)); /* what libc keeps for threads is made now */
    size_t before = traced();
    unsigned long threads[3];
    for (uintptr_t i = 0; i < 3; i++)
        threads[i] = family_thread(churn, (void *)(i + 1));
    for (int i = 0; i < 3; i++)
        family_join(threads[i]);
    CHECK(pthread_create(&leaving, NULL, leave_one, NULL) == 0);
    CHECK(pthread_join(leaving, &left) == 0);
    CHECK(frames_of(left, NULL, 0) == 1);
    free(left);
    CHECK(traced() <= before + 2 * KIB && traced() + 2 * KIB >= before);
}

/* Preloaded, the library comes to life after the constructors of other libraries, which may have
 * started threads. Ours starts before all constructors. */
enum { EARLY_BLOCKS = 100 };

static pthread_t early_thread;
static volatile sig_atomic_t early_state; /* 1: has allocated; 2: may go on */
static void *early_blocks[EARLY_BLOCKS];

static void *allocate_early(void *unused)
{
    for (size_t i = 0; i < EARLY_BLOCKS; i++)
        free(malloc(64));
    early_state = 1;
    while (early_state != 2)
        sched_yield();
    for (size_t i = 0; i < EARLY_BLOCKS; i++)
        early_blocks[i] = malloc(1000 + 64 * i);
    return unused;
}

static void start_early(int argc, char **argv)
{
    if (argc != 3 || strcmp(argv[2], "a_thread_that_began_before_tracing_did_is_traced") != 0)
        return;
    CHECK(pthread_create(&early_thread, NULL, allocate_early, NULL) == 0);
    while (early_state != 1)
        sched_yield();
}

__attribute__((section(".preinit_array"),
               used)) static void (*const at_the_very_start)(int argc, char **argv) = start_early;

/* It may still have some blocks ready. */
TEST(a_thread_that_began_before_tracing_did_is_traced)
{
    IN_FRESH_PROCESS(one_frame);
    size_t traced_count = 0;
    early_state = 2;
    CHECK(pthread_join(early_thread, NULL) == 0);
    for (size_t i = 0; i < EARLY_BLOCKS; i++)
        traced_count += frames_of(early_blocks[i], NULL, 0);
    CHECK(traced_count >= EARLY_BLOCKS - 10);
    for (size_t i = 0; i < EARLY_BLOCKS; i++) {
        free(early_blocks[i]);
        CHECK(frames_of(early_blocks[i], NULL, 0) == 0);
    }
}

static void *volatile handed;
static volatile sig_atomic_t interrupts;

static void take_and_free(int number)
{
    (void)number;
    void *old = handed;
    handed = malloc((size_t)(interrupts % 700));
    free(old);
    interrupts++;
}

TEST(handlers_allocate_while_calls_are_traced)
{
    IN_FRESH_PROCESS(many_frames);
    const struct itimerval often = {{0, 200}, {0, 200}}, never = {{0, 0}, {0, 0}};
    CHECK(signal(SIGALRM, take_and_free) != SIG_ERR);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    size_t before = traced();
    for (int round = 0; round < 100 && interrupts < 300; round++)
        family_workout((uint64_t)round, 2000, 4 * KIB);
    CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
    free(handed);
    CHECK(interrupts > 0 && traced() == before);
}

TEST(a_child_has_traces_of_its_own_blocks_alone)
{
    IN_FRESH_PROCESS(one_frame);
    void *parents = malloc(100000);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(fh_trace_is_tracing() && traced() < 50000 && frames_of(parents, NULL, 0) == 0);
        size_t before = traced();
        void *own = malloc(1000);
        CHECK(traced() == before + 1000);
        free(parents);
        free(own);
        CHECK(traced() == before);
        _exit(0);
    }
    CHECK(family_wait(child, 10) == 0);
    CHECK(frames_of(parents, NULL, 0) == 1);
    free(parents);
}

/* ---- Reports -------------------------------------------------------------------------------- */

/* The report of that process, which is then gone; "" if there is none. */
static const char *report_of(pid_t process)
{
    static char text[1 << 16], path[64];
    snprintf(path, sizeof path, PATH_FORMAT, (int)process);
    text[0] = '\0';
    int file = open(path, O_RDONLY);
    ssize_t got = file < 0 ? 0 : read(file, text, sizeof text - 1);
    CHECK(got >= 0 && (file < 0 || (close(file) == 0 && unlink(path) == 0)));
    text[got] = '\0';
    return text;
}

static void *volatile leaked;

KEEP static void leak_much(void)
{
    leaked = malloc(3 * MIB);
    *(volatile char *)leaked = 1;
}

static void check_report(const char *report, pid_t process)
{
    char title[64];
    snprintf(title, sizeof title, "freehold: process %d, ", (int)process);
    CHECK(strncmp(report, title, strlen(title)) == 0);
    const char *first = strstr(report, "#1: ");
    CHECK(first != NULL && strstr(report, "Total allocated size: ") != NULL);
    const char *site = strstr(report, " in leak_much+0x");
    CHECK(site != NULL && site < strchr(first, '\n'));
    CHECK(strstr(first, ": 3072.0 KiB in 1 block\n") != NULL);
}

TEST(at_exit_the_top_sites_are_reported)
{
    IN_FRESH_PROCESS(to_files);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        leak_much();
        exit(0);
    }
    CHECK(family_wait(child, 10) == 0);
    check_report(report_of(child), child);
    _exit(0);
}

TEST(on_a_signal_the_top_sites_are_reported)
{
    IN_FRESH_PROCESS(to_files);
    leak_much();
    CHECK(raise(SIGUSR2) == 0);
    check_report(report_of(getpid()), getpid());
    _exit(0);
}

static void all_sites_to_files(void)
{
    to_files();
    CHECK(setenv("FREEHOLD_TRACE_TOP", "1000", 1) == 0);
}

TEST(a_report_blames_the_program_for_nothing_of_the_library)
{
    IN_FRESH_PROCESS(all_sites_to_files);
    leak_much();
    CHECK(raise(SIGUSR2) == 0);
    const char *report = report_of(getpid());
    check_report(report, getpid());
    CHECK(strstr(report, " in fh_") == NULL);
    _exit(0);
}

/* libfreehold.so as well, as where a program is linked with it. */
static void preload_both(void)
{
    static char both[8192];
    const char *one = getenv("LD_PRELOAD"), *name = one == NULL ? NULL : strstr(one, "-malloc.so");
    if (name == NULL || strpbrk(one, ": ") != NULL)
        _exit(FAMILY_SKIPPED); /* this way the library is not preloaded */
    int length = snprintf(both, sizeof both, "%s:", one);
    char *other = both + length;
    snprintf(other, sizeof both - (size_t)length, "%.*s.so", (int)(name - one), one);
    CHECK(access(other, R_OK) == 0 && setenv("LD_PRELOAD", both, 1) == 0);
    to_files();
}

TEST(two_libraries_in_a_process_start_once)
{
    IN_FRESH_PROCESS(preload_both);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        leak_much();
        exit(0);
    }
    CHECK(family_wait(child, 10) == 0);
    const char *report = report_of(child);
    check_report(report, child);
    CHECK(strstr(report + 1, "freehold: process") == NULL);
    _exit(0);
}

/* In the middle of calls, in several threads: each report is whole. */
TEST(reports_come_while_threads_allocate)
{
    IN_FRESH_PROCESS(to_files);
    unsigned long threads[2];
    leak_much();
    for (uintptr_t i = 0; i < 2; i++)
        threads[i] = family_thread(churn, (void *)(i + 1));
    for (int i = 0; i < 5; i++) {
        CHECK(pthread_kill((pthread_t)threads[i % 2], SIGUSR2) == 0 || i > 0);
        usleep(2000);
    }
    for (int i = 0; i < 2; i++)
        family_join(threads[i]);
    CHECK(strstr(report_of(getpid()), "Total allocated size: ") != NULL);
    _exit(0);
}

int main(int argc, char **argv)
{
    const struct family_test tests[] = {
        ENTRY(every_call_of_the_family_is_traced_to_its_caller),
        ENTRY(aligned_blocks_are_traced_too),
        ENTRY(a_failed_realloc_leaves_the_trace),
        ENTRY(nothing_is_traced_unless_it_is_asked_for),
        ENTRY(a_traceback_goes_from_the_call_to_main),
        ENTRY(after_threads_have_ended_only_what_they_left_is_traced),
        ENTRY(a_thread_that_began_before_tracing_did_is_traced),
        ENTRY(handlers_allocate_while_calls_are_traced),
        ENTRY(a_child_has_traces_of_its_own_blocks_alone),
        ENTRY(at_exit_the_top_sites_are_reported),
        ENTRY(on_a_signal_the_top_sites_are_reported),
        ENTRY(a_report_blames_the_program_for_nothing_of_the_library),
        ENTRY(two_libraries_in_a_process_start_once),
        ENTRY(reports_come_while_threads_allocate),
    };
    return family_main(tests, sizeof tests / sizeof *tests, argc, argv);
}
