/* SPDX-License-Identifier: MIT */
/* observe/trace*.c and observe/snapshot*.c. What CPython's test_tracemalloc says of the same, it
 * says here with the same numbers and texts. */
#include "modules.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "atomic.h"
#include "freehold/trace.h"
#include "debug.h"
#include "trace_frames.h"
#include "trace_intern.h"
#include "trace_place.h"
#include "trace_report.h"

/* ---- Frames for tests -------------------------------------------------------------------------
 */

struct frames {
    fh_frame frames[3];
    size_t count, total;
};

static size_t give_frames(void *context, fh_frame *out, size_t max, size_t *total)
{
    const struct frames *from = context;
    for (size_t i = 0; i < from->count && i < max; i++)
        out[i] = from->frames[i];
    *total = from->total;
    return from->count;
}

static struct frames ab = {{{"a.py", 2, 0}, {"b.py", 4, 0}}, 2, 3};

static void start(int limit, struct frames *frames)
{
    CHECK(fh_trace_set_frames(frames == NULL ? NULL : give_frames, frames) == 0);
    CHECK(fh_trace_start(limit) == 0);
}

static size_t traced(void)
{
    size_t bytes;
    fh_trace_get_traced_memory(&bytes, NULL);
    return bytes;
}

static size_t peak(void)
{
    size_t bytes;
    fh_trace_get_traced_memory(NULL, &bytes);
    return bytes;
}

static size_t count_traces(void)
{
    fh_snapshot *snapshot = fh_snapshot_take();
    CHECK(snapshot != NULL);
    size_t count = fh_snapshot_trace_count(snapshot);
    fh_snapshot_free(snapshot);
    return count;
}

static bool has_trace(unsigned domain, const void *block)
{
    return fh_trace_get_traceback(domain, (uintptr_t)block, NULL, 0, NULL) > 0;
}

/* ---- Starting and stopping --------------------------------------------------------------------
 */

TEST(the_number_of_frames_has_limits)
{
    const int wrong[] = {0, -1, 65536, 1 << 30};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        errno = 0;
        CHECK(fh_trace_start(wrong[i]) == -1 && errno == EINVAL && !fh_trace_is_tracing());
    }
    CHECK(fh_trace_limit() == 1);
    CHECK(fh_trace_start(65535) == 0 && fh_trace_is_tracing() && fh_trace_limit() == 65535);
    CHECK(fh_trace_start(7) == 0 && fh_trace_limit() == 65535);
    fh_trace_stop();
    CHECK(!fh_trace_is_tracing());
}

TEST(off_nothing_stands_in_the_domains_way)
{
    fh_allocator before, now;
    fh_get_allocator(FH_DOMAIN_OBJ, &before);
    start(1, NULL);
    fh_get_allocator(FH_DOMAIN_OBJ, &now);
    CHECK(now.malloc != before.malloc);
    fh_trace_stop();
    fh_get_allocator(FH_DOMAIN_OBJ, &now);
    CHECK(memcmp(&now, &before, sizeof now) == 0);
}

TEST(all_calls_of_all_domains_are_traced)
{
    start(1, &ab);
    void *blocks[] = {fh_raw_malloc(10),        fh_mem_malloc(20),    fh_obj_malloc(30),
                      fh_raw_calloc(2, 20),     fh_mem_calloc(1, 50), fh_obj_calloc(60, 1),
                      fh_raw_realloc(NULL, 70), fh_mem_malloc(0)};
    CHECK(traced() == 280 && peak() == 280 && count_traces() == 8);
    CHECK(has_trace(FH_DOMAIN_RAW, blocks[0]) && has_trace(FH_DOMAIN_MEM, blocks[1]));
    CHECK(has_trace(FH_DOMAIN_OBJ, blocks[2]) && !has_trace(FH_DOMAIN_RAW, blocks[2]));
    for (int i = 0; i < 8; i++) {
        void (*const release[])(void *) = {fh_raw_free, fh_mem_free, fh_obj_free};
        release[i % 3 == 0 || i == 6 ? 0 : i == 7 ? 1 : i % 3](blocks[i]);
    }
    CHECK(traced() == 0 && peak() == 280 && count_traces() == 0);
    fh_trace_stop();
}

TEST(the_peak_is_exact_and_can_be_reset)
{
    start(1, &ab);
    void *large = fh_obj_malloc(100000);
    void *small = fh_obj_malloc(50);
    fh_obj_free(large);
    CHECK(traced() == 50 && peak() == 100050);
    fh_trace_reset_peak();
    CHECK(traced() == 50 && peak() == 50);
    fh_obj_free(fh_obj_malloc(1000));
    CHECK(traced() == 50 && peak() == 1050);
    CHECK(fh_trace_clear() == 0 && traced() == 0 && peak() == 0 && !has_trace(2, small));
    fh_obj_free(small);
    CHECK(traced() == 0);
    fh_trace_stop();
    fh_trace_reset_peak();
    CHECK(traced() == 0 && peak() == 0);
}

TEST(a_resized_block_keeps_one_trace)
{
    struct frames first = {{{"first.c", 1, 0}}, 1, 1}, second = {{{"second.c", 2, 0}}, 1, 1};
    fh_frame frame;
    start(1, &first);
    void *block = fh_mem_malloc(100);
    CHECK(fh_trace_set_frames(give_frames, &second) == 0);
    block = fh_mem_realloc(block, 10000);
    CHECK(traced() == 10000 && count_traces() == 1);
    CHECK(fh_trace_get_traceback(FH_DOMAIN_MEM, (uintptr_t)block, &frame, 1, NULL) == 1);
    CHECK(strcmp(frame.filename, "second.c") == 0 && frame.lineno == 2 && frame.pc == 0);
    errno = 0;
    CHECK(fh_mem_realloc(block, (size_t)PTRDIFF_MAX + 1) == NULL && errno == ENOMEM);
    CHECK(fh_mem_realloc(block, PTRDIFF_MAX) == NULL && errno == ENOMEM);
    CHECK(traced() == 10000 && has_trace(FH_DOMAIN_MEM, block));
    block = fh_mem_realloc(block, 5);
    CHECK(traced() == 5 && count_traces() == 1);
    fh_mem_free(block);
    CHECK(traced() == 0);
    fh_trace_stop();
}

TEST(blocks_from_before_get_a_trace_when_they_are_resized)
{
    void *block = fh_raw_malloc(100);
    void *other = fh_raw_malloc(100);
    start(1, &ab);
    block = fh_raw_realloc(block, 200);
    CHECK(traced() == 200);
    fh_raw_free(other);
    CHECK(traced() == 200);
    fh_trace_stop();
    fh_raw_free(block);
    CHECK(fh_trace_start(1) == 0 && traced() == 0 && count_traces() == 0);
    fh_trace_stop();
}

TEST(a_block_of_a_program_s_free_list_can_be_stamped_again)
{
    struct frames second = {{{"second.c", 2, 0}}, 1, 1};
    fh_frame frame;
    start(1, &ab);
    void *block = fh_obj_malloc(48);
    CHECK(fh_trace_set_frames(give_frames, &second) == 0);
    fh_trace_touch(block);
    CHECK(fh_trace_get_traceback(FH_DOMAIN_OBJ, (uintptr_t)block, &frame, 1, NULL) == 1);
    CHECK(strcmp(frame.filename, "second.c") == 0 && traced() == 48 && count_traces() == 1);
    fh_trace_touch(&frame); /* not traced */
    CHECK(count_traces() == 1);
    fh_obj_free(block);
    fh_trace_stop();
    fh_trace_touch(block);
}

/* ---- Frames -----------------------------------------------------------------------------------
 */

TEST(a_traceback_has_as_many_frames_as_asked_for_and_knows_the_depth)
{
    fh_frame frames[4];
    size_t total;
    start(1, &ab);
    void *block = fh_obj_malloc(1);
    CHECK(fh_trace_get_traceback(FH_DOMAIN_OBJ, (uintptr_t)block, frames, 4, &total) == 1);
    CHECK(strcmp(frames[0].filename, "a.py") == 0 && frames[0].lineno == 2 && total == 3);
    fh_obj_free(block);
    fh_trace_stop();
    start(25, &ab);
    block = fh_obj_malloc(1);
    CHECK(fh_trace_get_traceback(FH_DOMAIN_OBJ, (uintptr_t)block, frames, 1, &total) == 2);
    CHECK(fh_trace_get_traceback(FH_DOMAIN_OBJ, (uintptr_t)block, frames, 4, NULL) == 2);
    CHECK(strcmp(frames[1].filename, "b.py") == 0 && frames[1].lineno == 4 && total == 3);
    CHECK(fh_trace_get_traceback(FH_DOMAIN_OBJ, 5, frames, 4, NULL) == 0);
    fh_obj_free(block);
    fh_trace_stop();
}

TEST(without_frames_the_place_is_unknown)
{
    struct frames none = {{{NULL, 0, 0}}, 0, 0};
    fh_frame frame;
    start(3, &none);
    void *block = fh_raw_malloc(1);
    CHECK(fh_trace_get_traceback(0, (uintptr_t)block, &frame, 1, NULL) == 1);
    CHECK(strcmp(frame.filename, "<unknown>") == 0 && frame.lineno == 0 && frame.pc == 0);
    fh_raw_free(block);
    fh_trace_stop();
}

static size_t deep_frames(void *context, fh_frame *out, size_t max, size_t *total)
{
    (void)context;
    for (size_t i = 0; i < max; i++)
        out[i] = (fh_frame){"deep.c", (unsigned)i, 0};
    fh_obj_free(fh_obj_malloc(99)); /* allowed, and not traced */
    *total = 1u << 20;
    return max;
}

TEST(a_traceback_may_be_as_long_as_the_limit)
{
    static fh_frame frames[FH_TRACE_FRAMES_MAX];
    size_t total;
    CHECK(fh_trace_set_frames(deep_frames, NULL) == 0);
    CHECK(fh_trace_start(FH_TRACE_FRAMES_MAX) == 0);
    void *block = fh_obj_malloc(1);
    CHECK(fh_trace_get_traceback(FH_DOMAIN_OBJ, (uintptr_t)block, frames, FH_TRACE_FRAMES_MAX,
                                 &total) == FH_TRACE_FRAMES_MAX);
    CHECK(total == FH_TRACE_FRAMES_MAX && frames[65534].lineno == 65534);
    CHECK(traced() == 1 && count_traces() == 1);
    fh_obj_free(block);
    fh_trace_stop();
}

static FH_NOINLINE void *allocate_here(size_t bytes)
{
    void *block = fh_obj_malloc(bytes);
    __asm__ volatile("" : : "r"(block) : "memory"); /* no jump in the place of the call */
    return block;
}

static FH_NOINLINE void *allocate_elsewhere(size_t bytes)
{
    void *block = fh_obj_malloc(bytes + 1);
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}

static uintptr_t pc_of(const void *block)
{
    fh_frame frames[32];
    size_t count = fh_trace_get_traceback(FH_DOMAIN_OBJ, (uintptr_t)block, frames, 32, NULL);
    CHECK(count >= 1 && count <= 32 && frames[count - 1].pc != 0 && frames[0].lineno == 0);
    return frames[0].pc;
}

TEST(native_frames_tell_call_sites_apart)
{
    start(32, NULL);
    void *blocks[3] = {NULL};
    for (int i = 0; i < 2; i++)
        blocks[i] = allocate_here(10);
    blocks[2] = allocate_elsewhere(10);
    CHECK(pc_of(blocks[0]) == pc_of(blocks[1]));
#if defined(__OPTIMIZE__) && !MODULES_SHADOWED
    CHECK(pc_of(blocks[0]) != pc_of(blocks[2]));
    CHECK(pc_of(blocks[0]) - (uintptr_t)allocate_here < 64);
#endif
    for (int i = 0; i < 3; i++)
        fh_obj_free(blocks[i]);
    fh_trace_stop();
}

TEST(a_snapshot_names_the_file_of_native_frames)
{
    char path[256] = "";
    CHECK(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
    start(1, NULL);
    void *block = allocate_here(10);
    fh_snapshot *snapshot = fh_snapshot_take();
    size_t count;
    fh_statistic *statistics = fh_snapshot_statistics(snapshot, FH_BY_LINENO, 0, &count);
    CHECK(count == 1 && strcmp(statistics[0].frames[0].filename, path) == 0);
    CHECK(statistics[0].frames[0].pc != 0);
    char text[512], expected[512];
    fh_statistic_format(&statistics[0], text, sizeof text);
    snprintf(expected, sizeof expected, "%s+0x%zx: size=10 B, count=1, average=10 B", path,
             (size_t)statistics[0].frames[0].pc);
    CHECK(strcmp(text, expected) == 0);
    fh_statistics_free(statistics);
    fh_snapshot_free(snapshot);
    fh_obj_free(block);
    fh_trace_stop();
}

/* Debug information is there if the build has it. */
TEST(native_frames_get_their_source_lines)
{
    if (MODULES_SHADOWED)
        modules_skip("LeakSanitizer fails on the thread-local memory of libdw");
    start(1, NULL);
    void *block = allocate_here(10);
    fh_snapshot *snapshot = fh_snapshot_take();
    size_t count;
    errno = 0;
    long resolved = fh_snapshot_resolve(snapshot);
    if (resolved == -1 && errno == ENOSYS)
        modules_skip("no libdw");
    CHECK(resolved == 0 || resolved == 1);
    fh_statistic *statistics = fh_snapshot_statistics(snapshot, FH_BY_LINENO, 0, &count);
    const fh_frame *frame = &statistics[0].frames[0];
    CHECK(count == 1 && (frame->lineno > 0) == (resolved == 1) &&
          (frame->pc == 0) == (resolved == 1));
    CHECK(resolved == 0 || strstr(frame->filename, ".c") != NULL);
    CHECK(fh_snapshot_resolve(snapshot) == 0);
    fh_statistics_free(statistics);
    fh_snapshot_free(snapshot);
    fh_obj_free(block);
    fh_trace_stop();
}

/* ---- As CPython's TestCAPI --------------------------------------------------------------------
 */

enum { DOMAIN = 5 };
static const uintptr_t address = 0x123456;

static void check_tracked(size_t bytes)
{
    size_t total;
    fh_frame frames[3];
    CHECK(fh_trace_get_traceback(DOMAIN, address, frames, 3, &total) == 2 && total == 3);
    CHECK(strcmp(frames[0].filename, "a.py") == 0 && frames[1].lineno == 4);
    CHECK(traced() == bytes && count_traces() == 1);
}

TEST(track)
{
    start(2, &ab);
    CHECK(fh_trace_track(DOMAIN, address, 123) == 0);
    check_tracked(123);
    CHECK(fh_trace_get_traceback(DOMAIN + 1, address, NULL, 0, NULL) == 0);
    fh_trace_stop();
}

TEST(track_already_tracked)
{
    start(2, &ab);
    for (size_t bytes = 300; bytes > 0; bytes -= 50) {
        CHECK(fh_trace_track(DOMAIN, address, bytes) == 0);
        check_tracked(bytes);
    }
    CHECK(peak() == 300);
    fh_trace_stop();
}

TEST(untrack)
{
    start(2, &ab);
    CHECK(fh_trace_track(DOMAIN, address, 5) == 0);
    CHECK(fh_trace_untrack(DOMAIN, address) == 0);
    CHECK(fh_trace_get_traceback(DOMAIN, address, NULL, 0, NULL) == 0 && traced() == 0);
    CHECK(fh_trace_untrack(DOMAIN, address) == 0); /* not there: no error */
    fh_trace_stop();
}

TEST(stop_track)
{
    start(2, &ab);
    fh_trace_stop();
    CHECK(fh_trace_track(DOMAIN, address, 5) == -2);
    CHECK(fh_trace_get_traceback(DOMAIN, address, NULL, 0, NULL) == 0);
    errno = 0;
    CHECK(fh_snapshot_take() == NULL && errno == ENODATA);
}

TEST(stop_untrack)
{
    start(2, &ab);
    CHECK(fh_trace_track(DOMAIN, address, 5) == 0);
    fh_trace_stop();
    CHECK(fh_trace_untrack(DOMAIN, address) == -2);
    start(2, &ab);
    CHECK(count_traces() == 0 && traced() == 0);
    fh_trace_stop();
}

/* tracemalloc_track_race, with twice eight threads */
static void track_and_untrack(unsigned number, void *unused)
{
    (void)unused;
    struct bound bound = at_most(20000);
    for (size_t i = number; more(&bound); i++) {
        CHECK(fh_trace_track(DOMAIN, address, 100 + number) == 0);
        if (i % 3 == 0)
            CHECK(fh_trace_untrack(DOMAIN, address) == 0);
    }
}

static void race_again(unsigned number, void *unused)
{
    together(4, track_and_untrack, unused);
    (void)number;
}

TEST(many_threads_track_one_address)
{
    start(2, &ab);
    together(4, race_again, NULL);
    CHECK(fh_trace_track(DOMAIN, address, 7) == 0);
    check_tracked(7);
    CHECK(fh_trace_untrack(DOMAIN, address) == 0);
    CHECK(traced() == 0 && count_traces() == 0);
    fh_trace_stop();
}

/* ---- Many traces ------------------------------------------------------------------------------
 */

TEST(the_table_grows_and_finds_everything)
{
    enum { MANY = 200000 };
    start(1, &ab);
    for (uintptr_t i = 0; i < MANY; i++)
        CHECK(fh_trace_track((unsigned)i % 7 + 3, i * 48, i % 100) == 0);
    CHECK(count_traces() == MANY && traced() == MANY / 100 * 4950);
    size_t overhead = fh_trace_overhead();
    CHECK(overhead > MANY * 32u && overhead < MANY * 32u * 8);
    for (uintptr_t i = 0; i < MANY; i++)
        CHECK(has_trace((unsigned)i % 7 + 3, (void *)(i * 48)));
    for (uintptr_t i = 0; i < MANY; i += 2)
        CHECK(fh_trace_untrack((unsigned)i % 7 + 3, i * 48) == 0);
    CHECK(count_traces() == MANY / 2);
    CHECK(fh_trace_clear() == 0 && count_traces() == 0);
    for (int round = 0; round < 20; round++) { /* the slots are used again */
        for (uintptr_t i = 0; i < MANY / 4; i++)
            CHECK(fh_trace_track(9, i * 16 + (uintptr_t)round, 1) == 0);
        CHECK(fh_trace_clear() == 0);
    }
    CHECK(fh_trace_overhead() < overhead + (64 << 10));
    fh_trace_stop();
}

/* It goes back to its smaller levels; what lies in the larger ones is still found. */
TEST(few_traces_of_many_are_found_wherever_they_are)
{
    enum { MANY = 100000, KEPT = 100 };
    start(1, &ab);
    for (uintptr_t i = 0; i < MANY; i++)
        CHECK(fh_trace_track(9, i * 64, 1) == 0);
    for (uintptr_t i = 0; i < MANY; i++)
        if (i % (MANY / KEPT) != 0)
            CHECK(fh_trace_untrack(9, i * 64) == 0);
    for (uintptr_t i = 0; i < MANY; i++) { /* each looks anew where to go */
        CHECK(fh_trace_track(10, i * 64, 2) == 0 && traced() == KEPT + 2);
        CHECK(fh_trace_untrack(10, i * 64) == 0);
    }
    CHECK(count_traces() == KEPT && traced() == KEPT);
    for (uintptr_t i = 0; i < MANY; i += MANY / KEPT)
        CHECK(has_trace(9, (void *)(i * 64)) && fh_trace_untrack(9, i * 64) == 0);
    CHECK(count_traces() == 0 && traced() == 0);
    fh_trace_stop();
}

TEST(equal_tracebacks_and_names_are_kept_once)
{
    uint64_t one[] = {1, 2, 3}, other[] = {1, 2, 4};
    uint32_t index = fh_intern_traceback(one, 3, 3);
    CHECK(index != 0 && fh_intern_traceback(one, 3, 3) == index);
    CHECK(fh_intern_traceback(one, 3, 4) != index && fh_intern_traceback(one, 2, 3) != index);
    CHECK(fh_intern_traceback(other, 3, 3) != index);
    CHECK(memcmp(fh_interned_traceback(index)->payload, one, sizeof one) == 0);
    uint32_t name = fh_intern_name("some.c");
    CHECK(name != 0 && fh_intern_name("some.c") == name && fh_intern_name("some.h") != name);
    CHECK(strcmp(fh_interned_name(name), "some.c") == 0);
    CHECK(strcmp(fh_interned_name(fh_intern_name("")), "") == 0);
    CHECK(strcmp(fh_interned_name(0), "<unknown>") == 0);
}

/* ---- Threads ----------------------------------------------------------------------------------
 */

enum { HELD = 64 };

struct storm {
    uint64_t handed[256]; /* blocks between threads; mem */
    uint64_t done;
};

static size_t thread_frames(void *context, fh_frame *out, size_t max, size_t *total)
{
    static const char *const names[] = {"one.c", "two.c", "three.c"};
    uintptr_t place = (uintptr_t)&place >> 4;
    (void)context;
    out[0] = (fh_frame){names[place % 3], (unsigned)place % 50, 0};
    *total = max;
    return 1;
}

static void storm_once(struct storm *storm, uint64_t *state, void **held)
{
    void **mine = &held[random_below(state, HELD)];
    if (*mine == NULL)
        *mine = fh_obj_malloc(random_below(state, 600));
    else if (random_below(state, 3) == 0)
        *mine = fh_obj_realloc(*mine, random_below(state, 900));
    else {
        fh_obj_free(*mine);
        *mine = NULL;
    }
    uint64_t *place = &storm->handed[random_below(state, 256)];
    uint64_t taken = fh_load_relaxed_u64(place);
    uint64_t given = (uintptr_t)fh_mem_malloc(40);
    if (fh_cas_acq_rel_u64(place, &taken, given))
        fh_mem_free((void *)(uintptr_t)taken);
    else
        fh_mem_free((void *)(uintptr_t)given);
}

static void storm_member(unsigned number, void *shared)
{
    struct storm *storm = shared;
    uint64_t state = number;
    void *held[HELD] = {NULL};
    struct bound bound = at_most(200000);
    while (more(&bound))
        storm_once(storm, &state, held);
    for (int i = 0; i < HELD; i++)
        fh_obj_free(held[i]);
    (void)fh_fetch_add_relaxed_u64(&storm->done, 1);
}

/* Snapshots and look-ups while the others go on. */
static void watch(struct storm *storm)
{
    while (fh_load_relaxed_u64(&storm->done) < 3) {
        fh_snapshot *snapshot = fh_snapshot_take();
        size_t count;
        CHECK(snapshot != NULL);
        fh_statistic *statistics = fh_snapshot_statistics(snapshot, FH_BY_TRACEBACK, 0, &count);
        CHECK(statistics != NULL && count <= 150);
        for (size_t i = 0; i < count; i++)
            CHECK(statistics[i].bytes <= statistics[i].count * 900);
        fh_statistics_free(statistics);
        fh_snapshot_free(snapshot);
    }
}

static void storm_or_watch(unsigned number, void *shared)
{
    if (number == 3)
        watch(shared);
    else
        storm_member(number, shared);
}

TEST(after_a_storm_nothing_is_left)
{
    static struct storm storm;
    CHECK(fh_trace_set_frames(thread_frames, NULL) == 0 && fh_trace_start(4) == 0);
    together(4, storm_or_watch, &storm);
    for (int i = 0; i < 256; i++)
        fh_mem_free((void *)(uintptr_t)storm.handed[i]);
    CHECK(traced() == 0 && count_traces() == 0 && peak() > 0);
    fh_trace_stop();
}

static void start_and_stop(unsigned number, void *shared)
{
    struct storm *storm = shared;
    if (number < 3) {
        storm_member(number, shared);
        return;
    }
    for (unsigned i = 0; fh_load_relaxed_u64(&storm->done) < 3; i++) {
        CHECK(fh_trace_start(1 + (int)i % 3) == 0);
        if (i % 3 == 0)
            CHECK(fh_trace_clear() == 0);
        fh_trace_stop();
    }
}

TEST(tracing_may_start_and_stop_at_any_moment)
{
    static struct storm storm;
    CHECK(fh_trace_set_frames(thread_frames, NULL) == 0);
    together(4, start_and_stop, &storm);
    for (int i = 0; i < 256; i++)
        fh_mem_free((void *)(uintptr_t)storm.handed[i]);
    start(1, NULL);
    CHECK(traced() == 0 && count_traces() == 0);
    fh_trace_stop();
}

/* ---- At every point ----------------------------------------------------------------------------
 */

static size_t bytes_in_snapshot(void)
{
    size_t count, bytes = 0;
    fh_snapshot *snapshot = fh_snapshot_take();
    fh_statistic *statistics = fh_snapshot_statistics(snapshot, FH_BY_FILENAME, 0, &count);
    for (size_t i = 0; i < count; i++)
        bytes += statistics[i].bytes;
    fh_statistics_free(statistics);
    fh_snapshot_free(snapshot);
    return bytes;
}

static void begin_tracked(void)
{
    fh_trace_stop();
    start(1, &ab);
    CHECK(fh_trace_track(DOMAIN, address, 5) == 0);
}

static void begin_untracked(void)
{
    begin_tracked();
    CHECK(fh_trace_untrack(DOMAIN, address) == 0);
}

static void track_10(void)
{
    CHECK(fh_trace_track(DOMAIN, address, 10) == 0);
}

static void track_20(void)
{
    CHECK(fh_trace_track(DOMAIN, address, 20) == 0);
}

static void untrack_it(void)
{
    CHECK(fh_trace_untrack(DOMAIN, address) == 0);
}

static void clear(void)
{
    CHECK(fh_trace_clear() == 0);
}

static void clear_and_track_20(void)
{
    clear();
    track_20();
}

static void look(void)
{
    size_t bytes = bytes_in_snapshot();
    CHECK(bytes == 0 || bytes == 5 || bytes == 10);
    CHECK(count_traces() <= 1);
}

/* One trace or none, the sum is that of the traces, and nothing is left behind. */
static void check_one_at_most(void)
{
    CHECK(count_traces() <= 1 && traced() == bytes_in_snapshot() && peak() >= traced());
    CHECK(traced() == 0 || traced() == 5 || traced() == 10 || traced() == 20);
    untrack_it();
    CHECK(traced() == 0 && count_traces() == 0);
}

static void check_one(void)
{
    CHECK(count_traces() == 1 && (traced() == 10 || traced() == 20));
    check_one_at_most();
}

static void check_none(void)
{
    CHECK(count_traces() == 0 && traced() == 0);
}

TEST(one_address_may_be_tracked_twice_at_any_point)
{
    at_every_point(begin_untracked, track_10, track_20, check_one);
    at_every_point(begin_tracked, track_10, track_20, check_one);
    fh_trace_stop();
}

TEST(a_trace_may_go_away_at_any_point)
{
    at_every_point(begin_untracked, track_10, untrack_it, check_one_at_most);
    at_every_point(begin_tracked, track_10, untrack_it, check_one_at_most);
    at_every_point(begin_tracked, untrack_it, track_20, check_one_at_most);
    at_every_point(begin_tracked, untrack_it, untrack_it, check_none);
    at_every_point(begin_tracked, untrack_it, look, check_none);
    fh_trace_stop();
}

TEST(all_may_be_forgotten_at_any_point)
{
    at_every_point(begin_untracked, track_10, clear, check_one_at_most);
    at_every_point(begin_tracked, track_10, clear, check_one_at_most);
    at_every_point(begin_untracked, track_10, clear_and_track_20, check_one);
    at_every_point(begin_tracked, track_10, clear_and_track_20, check_one);
    at_every_point(begin_tracked, untrack_it, clear, check_none);
    at_every_point(begin_tracked, clear, clear, check_none);
    fh_trace_stop();
}

/* The line of these traces says how many bytes they must have. */
static struct frames lined = {{{"line.c", 0, 0}}, 1, 1};

static void track_lined(unsigned bytes)
{
    lined.frames[0].lineno = bytes;
    CHECK(fh_trace_track(DOMAIN, address, bytes) == 0);
}

static void begin_lined(void)
{
    fh_trace_stop();
    start(1, &lined);
    track_lined(5);
}

static void track_anew(void)
{
    untrack_it();
    track_lined(30);
}

static void look_at_lines(void)
{
    size_t count;
    fh_snapshot *snapshot = fh_snapshot_take();
    fh_statistic *statistics = fh_snapshot_statistics(snapshot, FH_BY_LINENO, 0, &count);
    CHECK(count <= 1 && (count == 0 || statistics[0].bytes == statistics[0].frames[0].lineno));
    fh_statistics_free(statistics);
    fh_snapshot_free(snapshot);
}

static void nothing(void)
{
}

TEST(a_snapshot_holds_no_mixed_trace)
{
    at_every_point(begin_lined, look_at_lines, track_anew, nothing);
    fh_trace_stop();
}

/* ---- As CPython's TestSnapshot ----------------------------------------------------------------
 */

struct fixture {
    unsigned domain;
    size_t bytes;
    struct frames frames;
};

#define IN_AB                                                                                      \
    {                                                                                              \
        {{"a.py", 2, 0}, {"b.py", 4, 0}}, 2, 3                                                     \
    }
#define IN_A5                                                                                      \
    {                                                                                              \
        {{"a.py", 5, 0}, {"b.py", 4, 0}}, 2, 3                                                     \
    }
#define IN_B                                                                                       \
    {                                                                                              \
        {{"b.py", 1, 0}}, 1, 1                                                                     \
    }
#define IN_C                                                                                       \
    {                                                                                              \
        {{"c.py", 578, 0}}, 1, 1                                                                   \
    }
#define IN_UNKNOWN                                                                                 \
    {                                                                                              \
        {{"<unknown>", 0, 0}}, 1, 1                                                                \
    }

static const struct fixture older_fixture[] = {
    {0, 10, IN_AB}, {0, 10, IN_AB}, {0, 10, IN_AB},
    {1, 2, IN_A5},  {2, 66, IN_B},  {3, 7, IN_UNKNOWN},
};

static const struct fixture newer_fixture[] = {
    {0, 10, IN_AB}, {0, 10, IN_AB}, {0, 10, IN_AB}, {2, 2, IN_A5}, {2, 5000, IN_A5}, {4, 400, IN_C},
};

static fh_snapshot *create(const struct fixture *fixture)
{
    struct frames frames;
    start(2, &frames);
    for (uintptr_t i = 0; i < 6; i++) {
        frames = fixture[i].frames;
        CHECK(fh_trace_track(fixture[i].domain, i + 1, fixture[i].bytes) == 0);
    }
    fh_snapshot *snapshot = fh_snapshot_take();
    CHECK(snapshot != NULL && fh_snapshot_trace_count(snapshot) == 6);
    CHECK(fh_snapshot_limit(snapshot) == 2);
    fh_trace_stop();
    CHECK(fh_trace_set_frames(NULL, NULL) == 0);
    return snapshot;
}

static void check_lines(const fh_statistic *statistics, size_t count, const char *const *lines,
                        bool diff)
{
    for (size_t i = 0; i < count; i++) {
        char text[256];
        size_t length = diff ? fh_statistic_format_diff(&statistics[i], text, sizeof text)
                             : fh_statistic_format(&statistics[i], text, sizeof text);
        if (lines[i] == NULL || strcmp(text, lines[i]) != 0)
            fprintf(stderr, "expected: %s\ngot:      %s\n", lines[i], text);
        CHECK(lines[i] != NULL && strcmp(text, lines[i]) == 0 && strlen(text) == length);
    }
    CHECK(lines[count] == NULL);
}

static void check_statistics(const fh_snapshot *snapshot, fh_group group, int cumulative,
                             const char *const *lines)
{
    size_t count;
    fh_statistic *statistics = fh_snapshot_statistics(snapshot, group, cumulative, &count);
    CHECK(statistics != NULL);
    check_lines(statistics, count, lines, false);
    fh_statistics_free(statistics);
}

static void check_diff(const fh_snapshot *newer, const fh_snapshot *older, fh_group group,
                       int cumulative, const char *const *lines)
{
    size_t count;
    fh_statistic *statistics = fh_snapshot_compare(newer, older, group, cumulative, &count);
    CHECK(statistics != NULL);
    check_lines(statistics, count, lines, true);
    fh_statistics_free(statistics);
}

static const char *const by_line[] = {
    "b.py:1: size=66 B, count=1, average=66 B", "a.py:2: size=30 B, count=3, average=10 B",
    "<unknown>:0: size=7 B, count=1, average=7 B", "a.py:5: size=2 B, count=1, average=2 B", NULL};

TEST(snapshot_group_by_line)
{
    fh_snapshot *older = create(older_fixture);
    fh_snapshot *newer = create(newer_fixture);
    const char *const diff[] = {"a.py:5: size=5002 B (+5000 B), count=2 (+1), average=2501 B",
                                "c.py:578: size=400 B (+400 B), count=1 (+1), average=400 B",
                                "b.py:1: size=0 B (-66 B), count=0 (-1)",
                                "<unknown>:0: size=0 B (-7 B), count=0 (-1)",
                                "a.py:2: size=30 B (+0 B), count=3 (+0), average=10 B",
                                NULL};
    check_statistics(older, FH_BY_LINENO, 0, by_line);
    check_diff(newer, older, FH_BY_LINENO, 0, diff);
    fh_snapshot_free(older);
    fh_snapshot_free(newer);
}

TEST(snapshot_group_by_file)
{
    fh_snapshot *older = create(older_fixture);
    fh_snapshot *newer = create(newer_fixture);
    const char *const lines[] = {"b.py:0: size=66 B, count=1, average=66 B",
                                 "a.py:0: size=32 B, count=4, average=8 B",
                                 "<unknown>:0: size=7 B, count=1, average=7 B", NULL};
    const char *const diff[] = {"a.py:0: size=5032 B (+5000 B), count=5 (+1), average=1006 B",
                                "c.py:0: size=400 B (+400 B), count=1 (+1), average=400 B",
                                "b.py:0: size=0 B (-66 B), count=0 (-1)",
                                "<unknown>:0: size=0 B (-7 B), count=0 (-1)", NULL};
    check_statistics(older, FH_BY_FILENAME, 0, lines);
    check_diff(newer, older, FH_BY_FILENAME, 0, diff);
    fh_snapshot_free(older);
    fh_snapshot_free(newer);
}

TEST(snapshot_group_by_traceback)
{
    fh_snapshot *older = create(older_fixture);
    fh_snapshot *newer = create(newer_fixture);
    const char *const lines[] = {"b.py:1: size=66 B, count=1, average=66 B",
                                 "b.py:4: size=30 B, count=3, average=10 B",
                                 "<unknown>:0: size=7 B, count=1, average=7 B",
                                 "b.py:4: size=2 B, count=1, average=2 B", NULL};
    const char *const diff[] = {"b.py:4: size=5002 B (+5000 B), count=2 (+1), average=2501 B",
                                "c.py:578: size=400 B (+400 B), count=1 (+1), average=400 B",
                                "b.py:1: size=0 B (-66 B), count=0 (-1)",
                                "<unknown>:0: size=0 B (-7 B), count=0 (-1)",
                                "b.py:4: size=30 B (+0 B), count=3 (+0), average=10 B",
                                NULL};
    check_statistics(older, FH_BY_TRACEBACK, 0, lines);
    check_diff(newer, older, FH_BY_TRACEBACK, 0, diff);
    fh_snapshot_free(older);
    fh_snapshot_free(newer);
}

TEST(snapshot_group_by_cumulative)
{
    fh_snapshot *snapshot = create(older_fixture);
    const char *const files[] = {"b.py:0: size=98 B, count=5, average=20 B",
                                 "a.py:0: size=32 B, count=4, average=8 B",
                                 "<unknown>:0: size=7 B, count=1, average=7 B", NULL};
    const char *const lines[] = {
        "b.py:1: size=66 B, count=1, average=66 B", "b.py:4: size=32 B, count=4, average=8 B",
        "a.py:2: size=30 B, count=3, average=10 B", "<unknown>:0: size=7 B, count=1, average=7 B",
        "a.py:5: size=2 B, count=1, average=2 B",   NULL};
    const char *const nothing[] = {"b.py:0: size=98 B (+0 B), count=5 (+0), average=20 B",
                                   "a.py:0: size=32 B (+0 B), count=4 (+0), average=8 B",
                                   "<unknown>:0: size=7 B (+0 B), count=1 (+0), average=7 B", NULL};
    size_t count;
    check_statistics(snapshot, FH_BY_FILENAME, 1, files);
    check_statistics(snapshot, FH_BY_LINENO, 1, lines);
    check_diff(snapshot, snapshot, FH_BY_FILENAME, 1, nothing);
    errno = 0;
    CHECK(fh_snapshot_statistics(snapshot, FH_BY_TRACEBACK, 1, &count) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(fh_snapshot_compare(snapshot, snapshot, (fh_group)3, 0, &count) == NULL &&
          errno == EINVAL && count == 0);
    fh_snapshot_free(snapshot);
}

/* ---- Sizes ------------------------------------------------------------------------------------
 */

static void check_size(size_t bytes, int64_t diff, const char *expected)
{
    static const fh_frame frame = {"x", 1, 0};
    const fh_statistic statistic = {&frame, 1, bytes, 0, diff, 0};
    char text[128], wanted[128];
    fh_statistic_format_diff(&statistic, text, sizeof text);
    snprintf(wanted, sizeof wanted, "x:1: size=%s, count=0 (+0)", expected);
    if (strcmp(text, wanted) != 0)
        fprintf(stderr, "expected: %s\ngot:      %s\n", wanted, text);
    CHECK(strcmp(text, wanted) == 0);
}

TEST(sizes_are_written_as_cpython_writes_them)
{
    check_size(0, 0, "0 B (+0 B)");
    check_size(10239, -10239, "10239 B (-10239 B)");
    check_size(10240, -10240, "10.0 KiB (-10.0 KiB)");
    check_size(10291, 10292, "10.0 KiB (+10.1 KiB)");
    check_size(10496, 10752, "10.2 KiB (+10.5 KiB)");  /* 10.25: to even */
    check_size(11008, 102348, "10.8 KiB (+99.9 KiB)"); /* 10.75: to even */
    check_size(102399, 102400, "100.0 KiB (+100 KiB)");
    check_size(10 * 1048576 - 1, 10 * 1048576, "10240 KiB (+10.0 MiB)");
    check_size(103424, 103936, "101 KiB (+102 KiB)"); /* 101.5: to even */
    check_size((size_t)3 << 40, -((int64_t)3 << 40), "3072 GiB (-3072 GiB)");
    check_size((size_t)20 << 40, -((int64_t)20 << 50), "20.0 TiB (-20480 TiB)");
    check_size(SIZE_MAX, INT64_MIN, "16777216 TiB (-8388608 TiB)");
}

/* The same by printf, whose numbers are exact. */
TEST(sizes_are_rounded_as_printf_rounds)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    uint64_t state = 1;
    for (int i = 0; i < 20000; i++) {
        size_t bytes = (size_t)(((uint64_t)random_below(&state, 1u << 31) << 18) +
                                random_below(&state, 1u << 18)) >>
                       random_below(&state, 48);
        size_t unit = 0;
        double size = (double)bytes;
        for (; unit < 4 && size >= 10240; unit++)
            size /= 1024;
        char expected[128];
        snprintf(expected, sizeof expected, "%.*f %s (+0 B)", unit > 0 && size < 100, size,
                 units[unit]);
        check_size(bytes, 0, expected);
    }
}

TEST(averages_are_rounded_as_printf_rounds)
{
    static const fh_frame frame = {"x", 1, 0};
    uint64_t state = 2;
    for (int i = 0; i < 20000; i++) {
        size_t count = 1 + random_below(&state, 64);
        size_t bytes = random_below(&state, (uint32_t)(1000 * count));
        const fh_statistic statistic = {&frame, 1, bytes, count, 0, 0};
        char text[128], expected[128];
        fh_statistic_format(&statistic, text, sizeof text);
        snprintf(expected, sizeof expected, ", average=%.0f B", (double)bytes / (double)count);
        CHECK(strcmp(strstr(text, ", average"), expected) == 0);
    }
}

TEST(a_text_that_does_not_fit_is_cut)
{
    static const fh_frame frame = {"abc", 12, 0};
    const fh_statistic statistic = {&frame, 1, 5, 1, 0, 0};
    char text[64];
    size_t length = fh_statistic_format(&statistic, NULL, 0);
    CHECK(length == strlen("abc:12: size=5 B, count=1, average=5 B"));
    for (size_t room = 1; room < sizeof text; room++) {
        memset(text, 'x', sizeof text);
        CHECK(fh_statistic_format(&statistic, text, room) == length);
        CHECK(strlen(text) == (length < room ? length : room - 1));
        CHECK(room == sizeof text || text[room] == 'x');
    }
}

/* ---- As CPython's TestFilters -----------------------------------------------------------------
 */

static size_t kept(const fh_snapshot *snapshot, const fh_filter *filters, size_t count)
{
    fh_snapshot *filtered = fh_snapshot_filter(snapshot, filters, count);
    CHECK(filtered != NULL);
    size_t traces = fh_snapshot_trace_count(filtered);
    fh_snapshot_free(filtered);
    return traces;
}

static size_t kept_by(const fh_snapshot *snapshot, int inclusive, const char *pattern, long lineno,
                      int all_frames, long domain)
{
    const fh_filter filter = {inclusive, pattern, lineno, all_frames, domain};
    return kept(snapshot, &filter, 1);
}

TEST(one_filter_keeps_or_drops)
{
    fh_snapshot *snapshot = create(older_fixture);
    CHECK(kept(snapshot, NULL, 0) == 6);
    CHECK(kept_by(snapshot, 1, "b.py", -1, 0, -1) == 1);
    CHECK(kept_by(snapshot, 0, "b.py", -1, 0, -1) == 5);
    CHECK(kept_by(snapshot, 1, "b.py", -1, 1, -1) == 5);
    CHECK(kept_by(snapshot, 0, "b.py", -1, 1, -1) == 1);
    CHECK(kept_by(snapshot, 1, "a.py", 5, 0, -1) == 1);
    CHECK(kept_by(snapshot, 0, "a.py", 5, 0, -1) == 5);
    CHECK(kept_by(snapshot, 1, "b.py", 4, 1, -1) == 4);
    CHECK(kept_by(snapshot, 0, "b.py", 4, 1, -1) == 2);
    CHECK(kept_by(snapshot, 1, "<unknown>", 0, 0, -1) == 1);
    CHECK(kept_by(snapshot, 1, "a.py", 0, 0, -1) == 0);
    CHECK(kept_by(snapshot, 1, "?.py", -1, 0, -1) == 5);
    fh_snapshot_free(snapshot);
}

TEST(filters_by_domain)
{
    fh_snapshot *snapshot = create(older_fixture);
    CHECK(kept_by(snapshot, 1, NULL, -1, 0, 0) == 3);
    CHECK(kept_by(snapshot, 0, NULL, -1, 0, 0) == 3);
    CHECK(kept_by(snapshot, 1, NULL, -1, 0, 9) == 0);
    CHECK(kept_by(snapshot, 0, NULL, -1, 0, 9) == 6);
    CHECK(kept_by(snapshot, 1, "a.py", -1, 0, 0) == 3);
    CHECK(kept_by(snapshot, 1, "a.py", -1, 0, 1) == 1);
    CHECK(kept_by(snapshot, 1, "a.py", -1, 0, 2) == 0);
    CHECK(kept_by(snapshot, 0, "a.py", -1, 0, 0) == 3);
    CHECK(kept_by(snapshot, 0, "a.py", -1, 0, 1) == 5);
    CHECK(kept_by(snapshot, 0, "a.py", -1, 0, 2) == 6);
    fh_snapshot_free(snapshot);
}

TEST(any_inclusive_filter_and_every_exclusive_one)
{
    fh_snapshot *snapshot = create(older_fixture);
    const fh_filter a = {1, "a.py", -1, 0, -1}, b = {1, "b.py", -1, 0, -1};
    const fh_filter not_line_5 = {0, "a.py", 5, 0, -1}, not_unknown = {0, "<*>", -1, 0, -1};
    CHECK(kept(snapshot, (fh_filter[]){a, b}, 2) == 5);
    CHECK(kept(snapshot, (fh_filter[]){a, not_line_5}, 2) == 3);
    CHECK(kept(snapshot, (fh_filter[]){not_line_5, a, b}, 3) == 4);
    CHECK(kept(snapshot, (fh_filter[]){not_line_5, not_unknown}, 2) == 4);
    fh_snapshot_free(snapshot);
}

TEST(a_filtered_snapshot_outlives_its_origin)
{
    fh_snapshot *snapshot = create(older_fixture);
    const fh_filter filter = {0, "b.py", -1, 1, -1};
    fh_snapshot *filtered = fh_snapshot_filter(snapshot, &filter, 1);
    fh_snapshot_free(snapshot);
    check_statistics(filtered, FH_BY_LINENO, 0,
                     (const char *const[]){"<unknown>:0: size=7 B, count=1, average=7 B", NULL});
    fh_snapshot_free(filtered);
}

static bool name_matches(const char *pattern, const char *name)
{
    struct frames frames = {{{name, 1, 0}}, 1, 1};
    start(1, &frames);
    CHECK(fh_trace_track(9, 1, 1) == 0);
    fh_snapshot *snapshot = fh_snapshot_take();
    size_t count = kept_by(snapshot, 1, pattern, -1, 0, -1);
    fh_snapshot_free(snapshot);
    fh_trace_stop();
    return count == 1;
}

TEST(patterns_are_those_of_fnmatch)
{
    CHECK(name_matches("abc", "abc") && name_matches("a*", "abc") && name_matches("*", ""));
    CHECK(name_matches("*/b.c", "x/y/b.c") && name_matches("**c", "abc") && name_matches("", ""));
    CHECK(!name_matches("abc", "abcd") && !name_matches("abcd", "abc") && !name_matches("?", ""));
    CHECK(name_matches("a*b*c", "axxbxxbyyc") && !name_matches("a*b*c", "axxbxxbyyd"));
    CHECK(name_matches("[abc]x", "bx") && !name_matches("[!abc]x", "bx"));
    CHECK(name_matches("[!abc]x", "dx") && name_matches("[a-c]x", "bx"));
    CHECK(name_matches("[]x]", "]") && name_matches("[!]]", "x") && !name_matches("[!]]", "]"));
    CHECK(name_matches("[a-]", "-") && name_matches("[abc", "[abc") && name_matches("[", "["));
    CHECK(!name_matches("[c-a]", "b") && name_matches("\\*", "\\x") && !name_matches("A", "a"));
    CHECK(name_matches("a.pyc", "a.py") && name_matches("a.py", "a.pyc"));
    CHECK(name_matches("a*.pyc", "abc.py") && !name_matches("a.pyo", "a.py"));
}

/* ---- Files ------------------------------------------------------------------------------------
 */

static const char *file_path(void)
{
    static char path[64];
    if (path[0] == '\0') {
        const char *folder = getenv("TMPDIR");
        snprintf(path, sizeof path, "%.30s/fh-trace-XXXXXX", folder == NULL ? "/tmp" : folder);
        int file = mkstemp(path);
        CHECK(file >= 0 && close(file) == 0);
    }
    return path;
}

static size_t read_file(char *to, size_t room)
{
    int file = open(file_path(), O_RDONLY);
    ssize_t got = read(file, to, room);
    CHECK(file >= 0 && got > 0 && (size_t)got < room && close(file) == 0);
    return (size_t)got;
}

static void write_file(const char *from, size_t bytes)
{
    int file = open(file_path(), O_WRONLY | O_TRUNC);
    CHECK(file >= 0 && write(file, from, bytes) == (ssize_t)bytes && close(file) == 0);
}

TEST(a_dumped_snapshot_is_loaded_as_it_was)
{
    fh_snapshot *older = create(older_fixture);
    CHECK(fh_snapshot_dump(older, file_path()) == 0);
    fh_snapshot *loaded = fh_snapshot_load(file_path());
    size_t count;
    CHECK(loaded != NULL && fh_snapshot_trace_count(loaded) == 6 && fh_snapshot_limit(loaded) == 2);
    check_statistics(loaded, FH_BY_LINENO, 0, by_line);
    CHECK(kept_by(loaded, 1, NULL, -1, 0, 0) == 3);
    fh_statistic *diff = fh_snapshot_compare(loaded, older, FH_BY_TRACEBACK, 0, &count);
    CHECK(diff != NULL && count == 4);
    for (size_t i = 0; i < count; i++)
        CHECK(diff[i].bytes_diff == 0 && diff[i].count_diff == 0);
    fh_statistics_free(diff);
    fh_snapshot_free(older);
    CHECK(fh_snapshot_dump(loaded, file_path()) == 0);
    fh_snapshot_free(loaded);
    unlink(file_path());
}

TEST(an_empty_snapshot_is_one_too)
{
    size_t count;
    start(1, NULL);
    fh_snapshot *snapshot = fh_snapshot_take();
    CHECK(fh_snapshot_dump(snapshot, file_path()) == 0);
    fh_snapshot *loaded = fh_snapshot_load(file_path());
    CHECK(loaded != NULL && fh_snapshot_trace_count(loaded) == 0);
    fh_statistic *statistics = fh_snapshot_statistics(loaded, FH_BY_LINENO, 1, &count);
    CHECK(statistics != NULL && count == 0);
    fh_statistics_free(statistics);
    fh_snapshot_free(loaded);
    fh_snapshot_free(snapshot);
    fh_trace_stop();
    unlink(file_path());
}

TEST(a_damaged_file_is_refused)
{
    char good[4096], bad[4096];
    fh_snapshot *snapshot = create(older_fixture);
    CHECK(fh_snapshot_dump(snapshot, file_path()) == 0);
    fh_snapshot_free(snapshot);
    size_t bytes = read_file(good, sizeof good - 8);
    for (size_t length = 0; length < bytes; length++) {
        write_file(good, length);
        errno = 0;
        CHECK(fh_snapshot_load(file_path()) == NULL && errno == EINVAL);
    }
    write_file(good, bytes + 1);
    CHECK(fh_snapshot_load(file_path()) == NULL && errno == EINVAL);
    for (size_t i = 0; i < 8 * bytes; i += 3) {
        memcpy(bad, good, bytes);
        bad[i / 8] = (char)(bad[i / 8] ^ 1 << i % 8);
        write_file(bad, bytes);
        errno = 0;
        CHECK(fh_snapshot_load(file_path()) == NULL && (errno == EINVAL || errno == ENOTSUP));
    }
    unlink(file_path());
    errno = 0;
    CHECK(fh_snapshot_load(file_path()) == NULL && errno == ENOENT);
    errno = 0;
    CHECK(fh_snapshot_load("/") == NULL && errno == EISDIR);
}

/* What a file says of itself may be anything, with the right checksum too. */
static void forge(char *file, size_t bytes)
{
    uint64_t sum = bytes - 64, header = 64;
    memset(file + 56, 0, 8);
    for (size_t i = 64; i < bytes; i++)
        sum = (sum ^ (unsigned char)file[i]) * 0x100000001b3u;
    for (size_t i = 0; i < 64; i++)
        header = (header ^ (unsigned char)file[i]) * 0x100000001b3u;
    sum ^= header;
    memcpy(file + 56, &sum, 8);
}

TEST(a_forged_file_is_refused_or_harmless)
{
    char good[4096], bad[4096];
    uint64_t state = 3;
    fh_snapshot *snapshot = create(older_fixture);
    CHECK(fh_snapshot_dump(snapshot, file_path()) == 0);
    fh_snapshot_free(snapshot);
    size_t bytes = read_file(good, sizeof good), loaded_count = 0;
    memcpy(bad, good, bytes);
    forge(bad, bytes);
    CHECK(memcmp(good, bad, bytes) == 0); /* it is the right checksum */
    struct bound bound = at_most(20000);
    while (more(&bound)) {
        memcpy(bad, good, bytes);
        for (uint32_t changes = random_below(&state, 3); changes < 3; changes++)
            bad[8 + random_below(&state, (uint32_t)bytes - 8)] = (char)random_below(&state, 256);
        forge(bad, bytes);
        write_file(bad, bytes);
        fh_snapshot *loaded = fh_snapshot_load(file_path());
        size_t count;
        loaded_count += loaded != NULL;
        if (loaded != NULL)
            fh_statistics_free(fh_snapshot_statistics(loaded, FH_BY_TRACEBACK, 0, &count));
        fh_snapshot_free(loaded);
    }
    CHECK(loaded_count > 0);
    unlink(file_path());
}

/* ---- Under the debug hooks --------------------------------------------------------------------
 */

enum { REPORT_BYTES = 8192 };

/* What the hooks say of the block. */
static const char *description(const void *block)
{
    static char text[REPORT_BYTES];
    int ends[2];
    CHECK(pipe(ends) == 0);
    fh_debug_dump_address(ends[1], block);
    ssize_t got = read(ends[0], text, sizeof text - 1);
    CHECK(got > 0 && close(ends[0]) == 0 && close(ends[1]) == 0);
    text[got] = '\0';
    return text;
}

#define AB_TRACEBACK                                                                               \
    "Memory block allocated at (most recent call first):\n"                                        \
    "  File \"a.py\", line 2\n  File \"b.py\", line 4\n\n"

static void check_described(void)
{
    void *(*const make[])(size_t) = {fh_raw_malloc, fh_mem_malloc, fh_obj_malloc};
    void (*const release[])(void *) = {fh_raw_free, fh_mem_free, fh_obj_free};
    for (int domain = 0; domain < 3; domain++) {
        void *block = make[domain](10);
        CHECK(strstr(description(block), AB_TRACEBACK) != NULL);
        release[domain](block);
    }
}

TEST(a_debug_report_has_the_traceback_if_tracing_came_first)
{
    start(2, &ab);
    CHECK(fh_debug_setup() == 0);
    check_described();
}

TEST(a_debug_report_has_the_traceback_if_tracing_came_second)
{
    CHECK(fh_debug_setup() == 0);
    start(2, &ab);
    check_described();
}

TEST(without_tracing_a_debug_report_says_how_to_have_it)
{
    CHECK(fh_debug_setup() == 0);
    void *block = fh_mem_malloc(10);
    CHECK(strstr(description(block), "Enable tracemalloc to get") != NULL);
    start(2, &ab);
    CHECK(strstr(description(block), "allocat") == NULL); /* made before: no trace */
    fh_trace_stop();
    fh_mem_free(block);
}

TEST(a_native_traceback_names_file_and_function)
{
    CHECK(fh_debug_setup() == 0);
    start(1, NULL);
    void *block = fh_mem_malloc(10);
    const char *text = description(block);
    CHECK(strstr(text, "allocated at (most recent call first):\n  File \"/") != NULL);
    CHECK(strstr(text, "modules_trace") != NULL && strstr(text, ", at 0x") != NULL);
    const char *in =
        MODULES_SHADOWED ? " in " : " in a_native_traceback_names_file_and_function+0x";
    CHECK(strstr(text, in) != NULL); /* a sanitizer has no jumps: it may be our own function */
    fh_mem_free(block);
    fh_trace_stop();
}

/* ---- The chain of frame pointers ---------------------------------------------------------------
 */

enum { CHAIN_STACK_BYTES = 1 << 21, FIRST_RETURN = 0x10000 };

static uintptr_t chain_page_bytes;

/* What begins a frame, as code with frame pointers leaves it on the stack. */
static void put_frame(char *at, const char *next, uintptr_t return_address)
{
    const uintptr_t words[] = {(uintptr_t)next, return_address};
    memcpy(at, words, sizeof words);
}

static uint32_t length_of_chain(const char *first)
{
    const struct fh_call_site site = {(const void *const *)(const void *)first,
                                      (void *)(uintptr_t)FIRST_RETURN};
    const struct fh_interned *traceback = fh_interned_traceback(fh_traceback_of(site, 16));
    for (uint32_t i = 0; i < traceback->count; i++)
        CHECK(traceback->payload[i] == FIRST_RETURN + i);
    return traceback->count;
}

/* Frames at the far end of this thread's stack: two pages of it, and one that cannot be read, as
 * above a coroutine's stack. */
static void *follow_chains(void *stack)
{
    char *first = stack, *second = first + chain_page_bytes + 64, *third = second + 64;
    char *guard = first + 2 * chain_page_bytes;
    put_frame(first, second, 1);
    put_frame(second, third, FIRST_RETURN + 1);
    put_frame(guard + 64, NULL, FIRST_RETURN + 3);
    put_frame(guard - 8, guard + 64, FIRST_RETURN + 3);
    put_frame(third, guard + 64, FIRST_RETURN + 2);
    CHECK(length_of_chain(first) == 4);
    CHECK(mprotect(guard, chain_page_bytes, PROT_NONE) == 0);
    errno = 77;
    CHECK(length_of_chain(first) == 3 && errno == 77);
    put_frame(third, guard - 8, FIRST_RETURN + 2); /* half of it can be read */
    CHECK(length_of_chain(first) == 3);
    put_frame(first, guard + 64, 1);
    CHECK(length_of_chain(first) == 1);
    return NULL;
}

/* An emulator may not know the call. */
static bool kernel_reads_for_us(void)
{
    char from = 1, to = 0;
    const struct iovec source = {&from, 1}, target = {&to, 1};
    return process_vm_readv(getpid(), &target, 1, &source, 1, 0) == 1 && to == 1;
}

TEST(frames_are_followed_as_far_as_they_can_be_read)
{
    if (!kernel_reads_for_us())
        modules_skip("no process_vm_readv() here: the walk ends with the page");
    pthread_t thread;
    pthread_attr_t attributes;
    chain_page_bytes = (uintptr_t)sysconf(_SC_PAGESIZE);
    void *stack =
        mmap(NULL, CHAIN_STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(stack != MAP_FAILED && pthread_attr_init(&attributes) == 0);
    CHECK(pthread_attr_setstack(&attributes, stack, CHAIN_STACK_BYTES) == 0);
    CHECK(pthread_create(&thread, &attributes, follow_chains, stack) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* ---- Places ------------------------------------------------------------------------------------
 */

TEST(an_address_is_found_in_its_file_and_function)
{
    char file[FH_PLACE_NAME_BYTES], name[FH_PLACE_NAME_BYTES];
    size_t distance = 0;
    uintptr_t pc = (uintptr_t)thread_frames + 1;
    CHECK(fh_place_file(&pc, file) && strstr(file, "modules_trace") != NULL);
    CHECK(fh_place_function(file, pc, name, &distance));
    CHECK(strcmp(name, "thread_frames") == 0 && distance == 1);
    CHECK(!fh_place_function(file, (uintptr_t)1 << 40, name, &distance));
}

TEST(an_address_of_no_file_is_left_as_it_is)
{
    char file[FH_PLACE_NAME_BYTES];
    uintptr_t nowhere = 4096, heap = (uintptr_t)fh_raw_malloc(1);
    CHECK(!fh_place_file(&nowhere, file) && nowhere == 4096);
    uintptr_t before = heap;
    CHECK(!fh_place_file(&heap, file) && heap == before);
    fh_raw_free((void *)before);
}

/* Whatever byte of an ELF file is another, and wherever it ends, nothing outside it is read. */
TEST(a_damaged_file_has_no_function_or_some)
{
    char name[FH_PLACE_NAME_BYTES];
    unsigned char image[4096];
    size_t distance;
    int self = open("/proc/self/exe", O_RDONLY), copy = open(file_path(), O_RDWR | O_CREAT, 0600);
    CHECK(self >= 0 && copy >= 0 && read(self, image, sizeof image) == sizeof image);
    uint64_t state = 7;
    struct bound bound = at_most(2000);
    while (more(&bound)) {
        size_t bytes = 1 + random_below(&state, sizeof image), at = random_below(&state, 128);
        unsigned char kept = image[at];
        image[at] = (unsigned char)random_below(&state, 256);
        CHECK(ftruncate(copy, 0) == 0 && pwrite(copy, image, bytes, 0) == (ssize_t)bytes);
        (void)fh_place_function(file_path(), random_below(&state, 1 << 20), name, &distance);
        image[at] = kept;
    }
    CHECK(close(self) == 0 && close(copy) == 0 && unlink(file_path()) == 0);
    CHECK(!fh_place_function(file_path(), 1, name, &distance));
}

/* ---- A lock under the debug hooks -------------------------------------------------------------
 */

static int says(void *context)
{
    return *(const int *)context;
}

static void read_report(int end, char *text, size_t room)
{
    size_t used = 0;
    ssize_t got = 1;
    while (got > 0 && used + 1 < room && strstr(text, "Total") == NULL) {
        got = read(end, text + used, room - 1 - used);
        used += got > 0 ? (size_t)got : 0;
        text[used] = '\0';
    }
    CHECK(used > 0);
}

/* What the hooks end the program with when that domain is used. */
static void check_unheld(void *(*make)(size_t))
{
    int ends[2], status;
    char text[1024] = "";
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(dup2(ends[1], STDERR_FILENO) >= 0);
        (void)make(1);
        _exit(0);
    }
    CHECK(close(ends[1]) == 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    read_report(ends[0], text, sizeof text);
    CHECK(strstr(text, "allocator called without holding the GIL\n") != NULL);
}

TEST(the_hooks_ask_the_lock_that_they_are_given)
{
    static int held = 1;
    const fh_gil gil = {.ctx = &held, .held = says};
    CHECK(fh_debug_setup() == 0 && fh_debug_check_gil_of(&gil, FH_DOMAIN_OBJ) == 0);
    fh_obj_free(fh_obj_malloc(1));
    held = 0;
    check_unheld(fh_obj_malloc);
    fh_mem_free(fh_mem_malloc(1)); /* of another domain */
    CHECK(fh_debug_check_gil_of(&gil, FH_DOMAIN_MEM) == 0);
    check_unheld(fh_mem_malloc);
    errno = 0;
    CHECK(fh_debug_check_gil_of(&gil, FH_DOMAIN_RAW) == -1 && errno == EINVAL);
    CHECK(fh_debug_check_gil_of(NULL, FH_DOMAIN_OBJ) == 0);
    fh_obj_free(fh_obj_malloc(1));
}

/* ---- Reports -----------------------------------------------------------------------------------
 */

TEST(a_report_shows_the_top_lines)
{
    int ends[2];
    char text[1024] = "", expected[1024];
    struct frames frames = {{{"site.c", 7, 0}}, 1, 1}, others = {{{"rest.c", 1, 0}}, 1, 1};
    start(1, &frames);
    void *block = fh_obj_malloc(20480);
    CHECK(fh_trace_set_frames(give_frames, &others) == 0);
    void *more[] = {fh_obj_malloc(1000), fh_mem_malloc(24)};
    CHECK(pipe(ends) == 0);
    fh_trace_report(ends[1], 1, false);
    read_report(ends[0], text, sizeof text);
    (void)snprintf(expected, sizeof expected,
                   "freehold: process %d, what holds most memory: top 1 lines\n"
                   "#1: site.c:7: 20.0 KiB in 1 block\n"
                   "1 other: 1.0 KiB in 2 blocks\n"
                   "Total allocated size: 21.0 KiB in 3 blocks\n",
                   (int)getpid());
    CHECK(strcmp(text, expected) == 0);
    fh_obj_free(block);
    fh_obj_free(more[0]);
    fh_mem_free(more[1]);
    fh_trace_stop();
}

TEST(with_more_frames_a_report_shows_tracebacks)
{
    int ends[2];
    char text[1024] = "";
    start(2, &ab);
    void *block = fh_obj_malloc(512);
    CHECK(pipe(ends) == 0);
    fh_trace_report(ends[1], 10, false);
    read_report(ends[0], text, sizeof text);
    CHECK(strstr(text, "top 1 tracebacks\n#1: a.py:2: 0.5 KiB in 1 block\n    b.py:4\nTotal") !=
          NULL);
    fh_obj_free(block);
    fh_trace_stop();
}

/* ---- From the environment ----------------------------------------------------------------------
 */

static void set(const char *name, const char *value)
{
    CHECK(setenv(name, value, 1) == 0);
}

TEST(what_the_environment_says_wrongly_is_named)
{
    int ends[2];
    char text[1024] = "";
    CHECK(unsetenv("FREEHOLD_TRACE") == 0);
    fh_trace_start_from_environment();
    CHECK(!fh_trace_is_tracing());
    CHECK(pipe(ends) == 0 && dup2(ends[1], STDERR_FILENO) >= 0);
    static const char *const wrong[] = {"0", "65536", "12x", "-1", "99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        set("FREEHOLD_TRACE", wrong[i]);
        fh_trace_start_from_environment();
        CHECK(!fh_trace_is_tracing());
        ssize_t got = read(ends[0], text, sizeof text - 1);
        CHECK(got > 0 && memmem(text, (size_t)got, "in range [1; 65535]", 19) != NULL);
    }
}

TEST(the_environment_starts_tracing)
{
    int ends[2];
    char text[8192] = "";
    CHECK(pipe(ends) == 0 && dup2(ends[1], STDERR_FILENO) >= 0);
    set("FREEHOLD_TRACE", "25");
    set("FREEHOLD_TRACE_SIGNAL", "SIGUSR2");
    set("FREEHOLD_TRACE_TOP", "3");
    fh_trace_start_from_environment();
    CHECK(fh_trace_is_tracing() && fh_trace_limit() == 25);
    void *block = fh_obj_malloc(100);
    CHECK(raise(SIGUSR2) == 0);
    read_report(ends[0], text, sizeof text);
    CHECK(strstr(text, "top 1 tracebacks") != NULL && strstr(text, "0.1 KiB in 1 block") != NULL);
    CHECK(strstr(text, " in the_environment_starts_tracing+0x") != NULL);
    fh_obj_free(block);
}

TEST(a_signal_with_an_action_keeps_it)
{
    int ends[2];
    char text[512] = "";
    struct sigaction now;
    CHECK(pipe(ends) == 0 && dup2(ends[1], STDERR_FILENO) >= 0);
    CHECK(signal(SIGUSR1, SIG_IGN) != SIG_ERR);
    set("FREEHOLD_TRACE", "1");
    set("FREEHOLD_TRACE_SIGNAL", "USR1");
    fh_trace_start_from_environment();
    CHECK(sigaction(SIGUSR1, NULL, &now) == 0 && now.sa_handler == SIG_IGN);
    CHECK(read(ends[0], text, sizeof text - 1) > 0 && strstr(text, "keeps it") != NULL);
}

TEST(reports_go_to_the_file_that_is_named)
{
    char path[256], text[4096] = "";
    (void)snprintf(path, sizeof path, "%s.%%p", file_path());
    set("FREEHOLD_TRACE", "1");
    set("FREEHOLD_TRACE_SIGNAL", "12");
    set("FREEHOLD_TRACE_FILE", path);
    fh_trace_start_from_environment();
    CHECK(raise(12) == 0);
    (void)snprintf(path, sizeof path, "%s.%d", file_path(), (int)getpid());
    int file = open(path, O_RDONLY);
    CHECK(file >= 0 && read(file, text, sizeof text - 1) > 0 && unlink(path) == 0);
    CHECK(strstr(text, "what holds most memory") != NULL);
    CHECK(setenv("FREEHOLD_TRACE_FILE", "/dev/null", 1) == 0);
    fh_trace_stop();
}
