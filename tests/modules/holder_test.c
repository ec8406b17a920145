/* SPDX-License-Identifier: MIT */
/* theap/holder.h: what becomes of the heaps of threads that end without a word. */
#include "modules.h"

#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "freehold.h"
#include "holder.h"
#include "os.h"
#include "thread.h"

enum { BLOCKS = 3000, BLOCK_BYTES = 100 };

static void *blocks[BLOCKS];

static void use_heap(void)
{
    for (int i = 0; i < BLOCKS; i++)
        CHECK((blocks[i] = fh_raw_malloc(BLOCK_BYTES)) != NULL);
    for (int i = 0; i < BLOCKS; i++)
        fh_raw_free(blocks[i]);
}

static struct fh_theap *left; /* by the thread that is dead */
static pid_t dead;

static void *end_outside_a_call(void *unused)
{
    (void)unused;
    use_heap();
    left = fh_theap_of_thread();
    dead = gettid();
    (void)syscall(SYS_exit, 0);
    return NULL;
}

static void *end_inside_a_call(void *unused)
{
    (void)unused;
    use_heap();
    left = fh_theap_enter();
    dead = gettid();
    (void)syscall(SYS_exit, 0);
    return NULL;
}

/* Who joins may be told a moment before the system has forgotten the thread (so an emulator does).
 */
static void await_death(void)
{
    const struct timespec moment = {0, 1000000};
    for (int i = 0; i < 5000 && !fh_os_thread_is_gone((uint32_t)getpid(), (uint32_t)dead); i++)
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
}

static void let_die(void *(*run)(void *unused))
{
    pthread_t thread;
    if (MODULES_SHADOWED)
        modules_skip("a sanitizer wants to see every thread's end");
    CHECK(pthread_create(&thread, NULL, run, NULL) == 0 && pthread_join(thread, NULL) == 0);
    await_death();
    if (fh_region_peek()->process == NULL)
        modules_skip("the system does not tell of forks");
}

static bool is_free(const struct fh_theap *heap)
{
    return fh_hints_has(&fh_region_peek()->hints, FH_HINTS_HEAPS, heap->id - 1);
}

/* Slow paths, with time between them. */
static void come_by(void)
{
    const struct timespec interval = {0, (FH_PURGE_INTERVAL_MS + 20) * 1000000L};
    for (int i = 0; i < 3; i++) {
        fh_thread_flush();
        fh_raw_free(fh_raw_malloc(FH_ARENA_BYTES / 2 + 1));
        (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &interval, NULL);
    }
    fh_thread_flush();
}

TEST(a_thread_knows_itself)
{
    uint32_t process, thread;
    CHECK(fh_os_identify_thread(&process, &thread));
    CHECK(process == (uint32_t)getpid() && thread == (uint32_t)gettid());
    CHECK(!fh_os_thread_is_gone(process, thread));
    CHECK(!fh_os_thread_is_gone(process + 1, thread));
}

static void check_mistaken_child(void)
{
    uint32_t process, thread;
    CHECK(!fh_os_identify_thread(&process, &thread));
}

TEST(a_child_of_vfork_is_not_taken_for_its_parent)
{
    CHECK(fh_raw_malloc(1) != NULL);
    pid_t child = vfork();
    if (child == 0) {
        check_mistaken_child();
        _exit(0);
    }
    CHECK(child > 0);
}

TEST(a_heap_says_whose_it_is)
{
    CHECK(fh_raw_malloc(1) != NULL);
    struct fh_theap *heap = fh_theap_of_thread();
    CHECK(fh_holder_has_thread(heap) == (heap->region->process != NULL));
    struct fh_theap *busy = fh_theap_enter();
    struct fh_theap *borrowed = fh_theap_enter();
    CHECK(!fh_holder_has_thread(borrowed));
    fh_theap_leave(borrowed);
    fh_theap_leave(busy);
}

TEST(the_living_keep_their_heaps)
{
    use_heap();
    struct fh_theap *heap = fh_theap_of_thread();
    come_by();
    (void)fh_trim();
    CHECK(fh_theap_of_thread() == heap && !is_free(heap) && fh_holder_has_thread(heap));
    check_heap(heap);
}

TEST(a_trim_takes_the_heap_of_a_dead_thread)
{
    CHECK(fh_raw_malloc(1) != NULL);
    let_die(end_outside_a_call);
    CHECK(!is_free(left) && claimed_pools(fh_region_peek()) > 1);
    (void)fh_trim();
    CHECK(is_free(left) && claimed_pools(fh_region_peek()) == 1);
    check_region(fh_region_peek());
}

TEST(slow_paths_take_it_too)
{
    void *block = fh_raw_malloc(1);
    let_die(end_outside_a_call);
    come_by();
    CHECK(is_free(left));
    fh_raw_free(block);
    fh_thread_flush();
    CHECK(claimed_pools(fh_region_peek()) == 0);
    check_region(fh_region_peek());
}

TEST(the_heap_of_a_thread_that_died_inside_a_call_is_set_aside)
{
    CHECK(fh_raw_malloc(1) != NULL);
    let_die(end_inside_a_call);
    (void)fh_trim();
    CHECK(!is_free(left) && !fh_holder_has_thread(left) && fh_theap_is_busy(left));
}

TEST(dead_threads_blocks_outlive_them)
{
    CHECK(fh_raw_malloc(1) != NULL);
    let_die(end_outside_a_call);
    (void)fh_trim();
    struct fh_theap *mine = fh_theap_of_thread();
    CHECK(mine != left);
    use_heap();
    check_heap(mine);
    check_region(fh_region_peek());
}

/* ---- fork ------------------------------------------------------------------------------------ */

static struct fh_theap *parents_other;

static void *stay(void *unused)
{
    (void)unused;
    use_heap();
    __atomic_store_n(&parents_other, fh_theap_of_thread(), __ATOMIC_RELEASE);
    (void)pause();
    return NULL;
}

static void start_other(void)
{
    pthread_t other;
    CHECK(fh_raw_malloc(1) != NULL);
    if (MODULES_SHADOWED)
        modules_skip("a sanitizer does not let a busy process fork");
    CHECK(pthread_create(&other, NULL, stay, NULL) == 0);
    while (__atomic_load_n(&parents_other, __ATOMIC_ACQUIRE) == NULL)
        CHECK(usleep(1000) == 0);
    if (fh_region_peek()->process == NULL)
        modules_skip("the system does not tell of forks");
}

static void drain_parents_heaps(void)
{
    struct fh_theap *heap = fh_theap_of_thread();
    (void)fh_trim(); /* nobody has said yet who survived */
    CHECK(!is_free(parents_other));
    come_by();
    (void)fh_trim();
    CHECK(is_free(parents_other) && fh_theap_of_thread() == heap && !is_free(heap));
    check_region(fh_region_peek());
}

TEST(a_child_takes_the_heaps_of_its_parents_other_threads)
{
    start_other();
    in_child(drain_parents_heaps);
    CHECK(!is_free(parents_other)); /* here it is alive */
}

static void look_before_the_survivor(unsigned number, void *heap)
{
    (void)number;
    use_heap();
    come_by();
    (void)fh_trim();
    CHECK(!is_free(parents_other) && !is_free(heap));
}

static void let_another_look_first(void)
{
    struct fh_theap *heap = fh_theap_of_thread();
    together(1, look_before_the_survivor, heap);
    CHECK(fh_theap_of_thread() == heap && !is_free(heap));
    drain_parents_heaps();
}

TEST(until_the_survivor_has_come_by_nobody_is_dead)
{
    start_other();
    in_child(let_another_look_first);
}

static void fork_again(void)
{
    in_child(drain_parents_heaps);
}

TEST(a_child_of_a_child_does_so_too)
{
    start_other();
    in_child(fork_again);
}
