/* SPDX-License-Identifier: MIT */
/* CPython's contracts that belong to no one module, or that its tests ask of every allocator: what
 * test_capi.test_mem, _testcapi and test_tracemalloc ask, under the names they have there.
 * docs/cpython.md says where all the others are tested. */
#include "modules.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "freehold/debug.h"
#include "freehold/heap.h"
#include "freehold/options.h"
#include "freehold/trace.h"

enum { TEXT_BYTES = 4096, DOMAINS = 3 };

/* The calls of one domain. */
struct calls {
    fh_domain domain;
    void *(*malloc)(size_t bytes);
    void *(*calloc)(size_t count, size_t bytes);
    void *(*realloc)(void *block, size_t bytes);
    void (*free)(void *block);
};

static const struct calls domains[DOMAINS] = {
    {FH_DOMAIN_RAW, fh_raw_malloc, fh_raw_calloc, fh_raw_realloc, fh_raw_free},
    {FH_DOMAIN_MEM, fh_mem_malloc, fh_mem_calloc, fh_mem_realloc, fh_mem_free},
    {FH_DOMAIN_OBJ, fh_obj_malloc, fh_obj_calloc, fh_obj_realloc, fh_obj_free},
};

/* ---- Under every allocator that has a name ----------------------------------------------------
 *
 * Those with the hooks come last: they stay in place once they are there.
 */

static const char *const plain_names[] = {"freehold", "malloc", "gil"};
static const char *const debug_names[] = {"freehold_debug", "malloc_debug", "gil_debug"};
enum { NAMES = 3 };

static void set_up(const char *name)
{
    CHECK(fh_setup_allocators(name) == 0);
    CHECK(strcmp(fh_current_allocator_name(), name) == 0);
}

static void with_each_name(void (*check)(void))
{
    for (int i = 0; i < NAMES; i++) {
        set_up(plain_names[i]);
        check();
    }
    for (int i = 0; i < NAMES; i++) {
        set_up(debug_names[i]);
        check();
    }
}

/* The same with one more allocator on top, or a heap below. */
static void while_traced(void (*check)(void))
{
    CHECK(fh_trace_start(1) == 0);
    check();
    fh_trace_stop();
}

static void in_each_mode(void (*check)(void))
{
    for (int mode = FH_OBJ_FREE; mode <= FH_OBJ_GIL_LOCK; mode++) {
        const fh_heap_config config = {.struct_bytes = sizeof config, .mode = (fh_obj_mode)mode};
        fh_heap *heap = fh_heap_create(&config);
        CHECK(heap != NULL && fh_heap_set_current(heap) != NULL);
        check();
        CHECK(fh_heap_destroy(heap, 0) == 0);
    }
}

static void check_alloc0(void)
{
    for (int i = 0; i < DOMAINS; i++) {
        const struct calls *calls = &domains[i];
        void *blocks[] = {calls->malloc(0),    calls->malloc(0),    calls->calloc(0, 0),
                          calls->calloc(0, 8), calls->calloc(8, 0), calls->realloc(NULL, 0)};
        for (int j = 0; j < 6; j++) {
            blocks[j] = calls->realloc(blocks[j], 0); /* resized, not freed */
            CHECK(blocks[j] != NULL);
            for (int k = 0; k < j; k++)
                CHECK(blocks[j] != blocks[k]);
        }
        for (int j = 0; j < 6; j++)
            calls->free(blocks[j]);
        calls->free(NULL);
    }
}

TEST(alloc0)
{
    check_alloc0();
    while_traced(check_alloc0);
    in_each_mode(check_alloc0);
    with_each_name(check_alloc0);
    while_traced(check_alloc0);
}

static void check_overflow(const struct calls *calls)
{
    const size_t too_many = (size_t)PTRDIFF_MAX + 1;
    char *block = calls->malloc(20);
    memset(block, 'x', 20);
    errno = 0;
    CHECK(calls->malloc(too_many) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(calls->calloc(too_many / 2 + 1, 2) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(calls->calloc(2, SIZE_MAX / 2 + 2) == NULL && errno == ENOMEM); /* the product is 2 */
    errno = 0;
    CHECK(calls->realloc(NULL, too_many) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(calls->realloc(block, too_many) == NULL && errno == ENOMEM);
    for (int i = 0; i < 20; i++)
        CHECK(block[i] == 'x');
    calls->free(block);
}

static void check_overflows(void)
{
    for (int i = 0; i < DOMAINS; i++)
        check_overflow(&domains[i]);
}

TEST(overflow)
{
    check_overflows();
    while_traced(check_overflows);
    in_each_mode(check_overflows);
    with_each_name(check_overflows);
}

/* ---- Hooks ------------------------------------------------------------------------------------
 */

/* What a wrapper was asked for last. */
struct seen {
    fh_allocator wrapped;
    size_t malloc_bytes, calloc_count, calloc_bytes, realloc_bytes;
    void *realloc_block, *freed;
};

static void *seen_malloc(void *context, size_t bytes)
{
    struct seen *seen = context;
    seen->malloc_bytes = bytes;
    return seen->wrapped.malloc(seen->wrapped.context, bytes);
}

static void *seen_calloc(void *context, size_t count, size_t bytes)
{
    struct seen *seen = context;
    seen->calloc_count = count;
    seen->calloc_bytes = bytes;
    return seen->wrapped.calloc(seen->wrapped.context, count, bytes);
}

static void *seen_realloc(void *context, void *block, size_t bytes)
{
    struct seen *seen = context;
    seen->realloc_block = block;
    seen->realloc_bytes = bytes;
    return seen->wrapped.realloc(seen->wrapped.context, block, bytes);
}

static void seen_free(void *context, void *block)
{
    struct seen *seen = context;
    seen->freed = block;
    seen->wrapped.free(seen->wrapped.context, block);
}

static void check_setallocators_of(const struct calls *calls)
{
    struct seen seen = {.malloc_bytes = 0};
    const fh_allocator hooks = {&seen, seen_malloc, seen_calloc, seen_realloc, seen_free};
    fh_get_allocator(calls->domain, &seen.wrapped);
    CHECK(fh_set_allocator(calls->domain, &hooks) == 0);
    void *block = calls->malloc(42);
    CHECK(block != NULL && seen.malloc_bytes == 42);
    void *resized = calls->realloc(block, 200);
    CHECK(resized != NULL && seen.realloc_block == block && seen.realloc_bytes == 200);
    calls->free(resized);
    CHECK(seen.freed == resized);
    block = calls->calloc(2, 5);
    CHECK(block != NULL && seen.calloc_count == 2 && seen.calloc_bytes == 5);
    calls->free(block);
    CHECK(seen.freed == block);
    CHECK(calls->calloc(2, SIZE_MAX / 2 + 2) == NULL && seen.calloc_bytes == 5); /* not asked */
    CHECK(fh_set_allocator(calls->domain, &seen.wrapped) == 0);
    calls->free(calls->malloc(7));
    CHECK(seen.malloc_bytes == 42);
}

static void check_setallocators(void)
{
    for (int i = 0; i < DOMAINS; i++)
        check_setallocators_of(&domains[i]);
}

TEST(setallocators)
{
    in_each_mode(check_setallocators);
    with_each_name(check_setallocators);
    while_traced(check_setallocators);
}

/* PyMemAllocatorEx and PyObjectArenaAllocator, as CPython's headers have them. */
struct python_allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t nelem, size_t elsize);
    void *(*realloc)(void *ctx, void *ptr, size_t new_size);
    void (*free)(void *ctx, void *ptr);
};

struct python_arenas {
    void *ctx;
    void *(*alloc)(void *ctx, size_t size);
    void (*free)(void *ctx, void *ptr, size_t size);
};

#define SAME_PLACE(mine, field, python, its)                                                       \
    CHECK(offsetof(mine, field) == offsetof(struct python, its) &&                                 \
          _Generic(((mine *)0)->field, __typeof__(((struct python *)0)->its) : 1, default : 0))

TEST(the_structs_are_cpythons)
{
    CHECK(sizeof(fh_allocator) == sizeof(struct python_allocator));
    SAME_PLACE(fh_allocator, context, python_allocator, ctx);
    SAME_PLACE(fh_allocator, malloc, python_allocator, malloc);
    SAME_PLACE(fh_allocator, calloc, python_allocator, calloc);
    SAME_PLACE(fh_allocator, realloc, python_allocator, realloc);
    SAME_PLACE(fh_allocator, free, python_allocator, free);
    CHECK(sizeof(fh_arena_allocator) == sizeof(struct python_arenas));
    SAME_PLACE(fh_arena_allocator, context, python_arenas, ctx);
    SAME_PLACE(fh_arena_allocator, alloc, python_arenas, alloc);
    SAME_PLACE(fh_arena_allocator, free, python_arenas, free);
    CHECK(FH_DOMAIN_RAW == 0 && FH_DOMAIN_MEM == 1 && FH_DOMAIN_OBJ == 2);
}

/* ---- No memory --------------------------------------------------------------------------------
 *
 * set_nomemory(start, stop): from one call on, up to another, malloc, calloc and realloc fail.
 */

static struct {
    fh_allocator below[DOMAINS];
    unsigned calls, start, stop;
} mem_hooks;

static bool fails(void)
{
    mem_hooks.calls++;
    return mem_hooks.calls > mem_hooks.start && mem_hooks.calls <= mem_hooks.stop;
}

static void *failing_malloc(void *context, size_t bytes)
{
    const fh_allocator *below = context;
    return fails() ? NULL : below->malloc(below->context, bytes);
}

static void *failing_calloc(void *context, size_t count, size_t bytes)
{
    const fh_allocator *below = context;
    return fails() ? NULL : below->calloc(below->context, count, bytes);
}

static void *failing_realloc(void *context, void *block, size_t bytes)
{
    const fh_allocator *below = context;
    return fails() ? NULL : below->realloc(below->context, block, bytes);
}

static void passing_free(void *context, void *block)
{
    const fh_allocator *below = context;
    below->free(below->context, block);
}

static void install_mem_hooks(void)
{
    for (int i = 0; i < DOMAINS; i++) {
        fh_allocator *below = &mem_hooks.below[i];
        fh_get_allocator((fh_domain)i, below);
        const fh_allocator hooks = {below, failing_malloc, failing_calloc, failing_realloc,
                                    passing_free};
        CHECK(fh_set_allocator((fh_domain)i, &hooks) == 0);
    }
}

static void set_nomemory(unsigned start, unsigned stop)
{
    mem_hooks.calls = 0;
    mem_hooks.start = start;
    mem_hooks.stop = stop;
}

static bool is_traced(fh_domain domain, const void *block)
{
    return fh_trace_get_traceback(domain, (uintptr_t)block, NULL, 0, NULL) > 0;
}

/* Many calls, of which some get nothing: whatever the failure hits, all blocks stay whole. */
static unsigned count_failures(const struct calls *calls)
{
    enum { BLOCKS = 40, BYTES = 30 };
    unsigned char *blocks[BLOCKS];
    unsigned failures = 0;
    for (unsigned i = 0; i < BLOCKS; i++) {
        blocks[i] = i % 2 == 0 ? calls->malloc(BYTES) : calls->calloc(1, BYTES);
        failures += blocks[i] == NULL;
        if (blocks[i] == NULL)
            continue;
        memset(blocks[i], (int)i, BYTES);
        unsigned char *resized = calls->realloc(blocks[i], 10 * BYTES);
        failures += resized == NULL;
        blocks[i] = resized == NULL ? blocks[i] : resized;
        CHECK(!fh_trace_is_tracing() || is_traced(calls->domain, blocks[i]));
    }
    for (unsigned i = 0; i < BLOCKS; i++) {
        for (unsigned at = 0; blocks[i] != NULL && at < BYTES; at++)
            CHECK(blocks[i][at] == i);
        calls->free(blocks[i]);
    }
    return failures;
}

static void check_nomemory(void)
{
    for (int i = 0; i < DOMAINS; i++) {
        for (unsigned start = 0; start < 12; start++) {
            set_nomemory(start, start + 1);
            CHECK(count_failures(&domains[i]) == 1);
            set_nomemory(start, start + 7);
            CHECK(count_failures(&domains[i]) == 7);
        }
        set_nomemory(3, ~0u);
        CHECK(count_failures(&domains[i]) == 40 - 1); /* three calls: one block, resized, and one */
        set_nomemory(0, 0);
    }
}

static void check_nomemory_traced(void)
{
    size_t bytes;
    check_nomemory();
    fh_trace_get_traced_memory(&bytes, NULL);
    CHECK(bytes == 0);
}

TEST(nomemory)
{
    install_mem_hooks();
    check_nomemory();
    while_traced(check_nomemory_traced);
}

/* The hooks copy a block that grows. Without memory for the copy they ask the allocator below. */
static void check_nomemory_in_debug(void)
{
    for (int i = 0; i < DOMAINS; i++) {
        for (unsigned start = 0; start < 12; start++) {
            set_nomemory(start, start + 2);
            unsigned failures = count_failures(&domains[i]);
            CHECK(failures == 1 || failures == 2);
        }
        set_nomemory(0, 0);
    }
}

TEST(nomemory_below_the_hooks)
{
    install_mem_hooks();
    CHECK(fh_debug_setup() == 0);
    check_nomemory_in_debug();
    while_traced(check_nomemory_in_debug);
}

/* ---- Reports ----------------------------------------------------------------------------------
 */

/* What `tell` writes to stderr in a child, which must end by abort(). */
static void hear(void (*tell)(void *), void *argument, char *text)
{
    int ends[2], status = 0;
    size_t used = 0;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        alarm(30);
        dup2(ends[1], STDERR_FILENO);
        tell(argument);
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t got = 1; got > 0 && used < TEXT_BYTES - 1; used += (size_t)got) {
        got = read(ends[0], text + used, TEXT_BYTES - 1 - used);
        CHECK(got >= 0);
    }
    text[used] = '\0';
    drop_emulators_line(text);
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    close(ends[0]);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* The report has `part` in it, and its last line is this. */
static void check_report(void (*tell)(void *), void *argument, const char *part, const char *last)
{
    char text[TEXT_BYTES], line[TEXT_BYTES];
    hear(tell, argument, text);
    snprintf(line, sizeof line, "Fatal Python error: %s\n", last);
    const char *end = strstr(text, "Fatal Python error: ");
    if (end == NULL || strcmp(end, line) != 0 || strstr(text, part) == NULL)
        fprintf(stderr, "expected: %s... %sgot:\n%s", part, line, text);
    CHECK(end != NULL && strcmp(end, line) == 0 && strstr(text, part) != NULL);
}

static void overflow_and_free(void *argument)
{
    const struct calls *calls = argument;
    char *block = calls->malloc(16);
    block[16] = 'x';
    calls->free(block);
}

static void overflow_and_resize(void *argument)
{
    const struct calls *calls = argument;
    char *block = calls->malloc(16);
    block[16] = 'x';
    block = calls->realloc(block, 100);
}

static void check_buffer_overflow(void)
{
    for (int i = 0; i < DOMAINS; i++) {
        void *calls = (void *)(uintptr_t)&domains[i];
        check_report(overflow_and_free, calls, "at tail+0: 0x78 *** OUCH\n",
                     "_PyMem_DebugRawFree: bad trailing pad byte");
        check_report(overflow_and_resize, calls, "at tail+0: 0x78 *** OUCH\n",
                     "_PyMem_DebugRawRealloc: bad trailing pad byte");
    }
}

static void with_each_debug_name(void (*check)(void))
{
    CHECK(fh_debug_set_fatal_handler(NULL, NULL, "Fatal Python error") == 0);
    for (int i = 0; i < NAMES; i++) {
        set_up(debug_names[i]);
        check();
    }
}

TEST(buffer_overflow)
{
    with_each_debug_name(check_buffer_overflow);
}

/* Of every domain by every other. */
struct mix_up {
    const struct calls *made, *freed;
};

static void mix_up(void *argument)
{
    const struct mix_up *pair = argument;
    pair->freed->free(pair->made->malloc(16));
}

static void check_mix_up(int made, int freed)
{
    struct mix_up pair = {&domains[made], &domains[freed]};
    char part[64], last[128];
    snprintf(part, sizeof part, "API '%c'\n    16 bytes originally requested\n", "rmo"[made]);
    snprintf(last, sizeof last,
             "_PyMem_DebugRawFree: bad ID: Allocated using API '%c', verified using API '%c'",
             "rmo"[made], "rmo"[freed]);
    check_report(mix_up, &pair, part, last);
}

static void check_api_misuse(void)
{
    for (int made = 0; made < DOMAINS; made++)
        for (int freed = 0; freed < DOMAINS; freed++)
            if (made != freed)
                check_mix_up(made, freed);
}

TEST(api_misuse)
{
    with_each_debug_name(check_api_misuse);
}

/* Of several things wrong with one block the first is named: letter, bytes before, bytes after. */
enum wrong { LETTER = 1, BEFORE = 2, AFTER = 4 };

static void spoil_and_free(void *argument)
{
    const enum wrong *wrong = argument;
    char *block = fh_mem_malloc(16);
    if (*wrong & LETTER)
        block[-8] = 'A';
    if (*wrong & BEFORE)
        block[-1] = 'B';
    if (*wrong & AFTER)
        block[16 + 7] = 'C';
    fh_mem_free(block);
}

static void check_spoilt(enum wrong wrong, const char *last)
{
    static const char *const ouches[] = {"at p-1: 0x42 *** OUCH\n", "at tail+7: 0x43 *** OUCH\n"};
    if (wrong & BEFORE)
        check_report(spoil_and_free, &wrong, ouches[0], last);
    if (wrong & AFTER)
        check_report(spoil_and_free, &wrong, ouches[1], last);
    check_report(spoil_and_free, &wrong, wrong & LETTER ? "API 'A'\n" : "API 'm'\n", last);
}

static void check_the_order(void)
{
    for (int others = 0; others < 8; others += 2)
        check_spoilt(
            (enum wrong)(LETTER | others),
            "_PyMem_DebugRawFree: bad ID: Allocated using API 'A', verified using API 'm'");
    check_spoilt(BEFORE, "_PyMem_DebugRawFree: bad leading pad byte");
    check_spoilt(BEFORE | AFTER, "_PyMem_DebugRawFree: bad leading pad byte");
    check_spoilt(AFTER, "_PyMem_DebugRawFree: bad trailing pad byte");
}

TEST(what_is_wrong_is_named_in_cpythons_order)
{
    with_each_debug_name(check_the_order);
}

/* ---- Without the GIL --------------------------------------------------------------------------
 */

static int held = 1;

static int is_held(void *context)
{
    return *(const int *)context;
}

struct unheld {
    const struct calls *calls;
    void *block;
};

static void malloc_unheld(void *argument)
{
    (void)((const struct unheld *)argument)->calls->malloc(10);
}

static void calloc_unheld(void *argument)
{
    (void)((const struct unheld *)argument)->calls->calloc(1, 10);
}

static void realloc_unheld(void *argument)
{
    const struct unheld *unheld = argument;
    (void)unheld->calls->realloc(unheld->block, 20);
}

static void free_unheld(void *argument)
{
    const struct unheld *unheld = argument;
    unheld->calls->free(unheld->block);
}

static void check_unheld(struct unheld *unheld)
{
    static const struct {
        void (*tell)(void *);
        const char *name;
    } cases[] = {{malloc_unheld, "Malloc"},
                 {calloc_unheld, "Calloc"},
                 {realloc_unheld, "Realloc"},
                 {free_unheld, "Free"}};
    for (int i = 0; i < 4; i++) {
        char text[TEXT_BYTES], expected[256];
        snprintf(expected, sizeof expected,
                 "Fatal Python error: _PyMem_Debug%s: Python memory allocator called without "
                 "holding the GIL\n",
                 cases[i].name);
        hear(cases[i].tell, unheld, text);
        CHECK(strcmp(text, expected) == 0); /* no word of the block */
    }
}

static void check_without_gil(const struct calls *calls)
{
    held = 1;
    struct unheld with_block = {calls, calls->malloc(10)}, without = {calls, NULL};
    CHECK(with_block.block != NULL);
    held = 0;
    check_unheld(&with_block);
    check_unheld(&without); /* NULL does not help */
    fh_raw_free(fh_raw_realloc(fh_raw_calloc(1, 1), 2));
    held = 1;
    calls->free(with_block.block);
}

static void check_all_without_gil(void)
{
    check_without_gil(&domains[FH_DOMAIN_MEM]);
    check_without_gil(&domains[FH_DOMAIN_OBJ]);
}

TEST(malloc_without_gil)
{
    for (int i = 0; i < NAMES - 1; i++) { /* a heap asks its own lock */
        CHECK(fh_debug_set_fatal_handler(NULL, NULL, "Fatal Python error") == 0);
        set_up(debug_names[i]);
        CHECK(fh_debug_set_gil_check(FH_DOMAIN_MEM, is_held, &held) == 0);
        CHECK(fh_debug_set_gil_check(FH_DOMAIN_OBJ, is_held, &held) == 0);
        check_all_without_gil();
    }
}

/* ---- Freed memory -----------------------------------------------------------------------------
 */

static const void *pointer_in(const void *memory)
{
    const void *pointer;
    memcpy(&pointer, memory, sizeof pointer);
    return pointer;
}

static void check_is_freed(void)
{
    for (int i = 0; i < DOMAINS; i++) {
        char *block = domains[i].malloc(sizeof(void *));
        CHECK(fh_debug_is_ptr_freed(pointer_in(block)) == 1);                  /* uninitialised */
        CHECK(fh_debug_is_ptr_freed(pointer_in(block + sizeof(void *))) == 1); /* forbidden */
        memcpy(block, &(void *){block}, sizeof(void *));
        CHECK(fh_debug_is_ptr_freed(pointer_in(block)) == 0);
        domains[i].free(block);
        block = domains[i].calloc(1, sizeof(void *));
        CHECK(fh_debug_is_ptr_freed(pointer_in(block)) == 1); /* null */
        domains[i].free(block);
    }
}

TEST(is_freed)
{
    with_each_debug_name(check_is_freed);
}

/* ---- Typed allocation -------------------------------------------------------------------------
 */

TEST(new_resize_del)
{
    struct pair {
        double one, other;
    };
    struct pair *none = fh_new(struct pair, 0);
    struct pair *other = fh_new(struct pair, 0);
    CHECK(none != NULL && other != NULL && none != other);
    struct pair *pairs = NULL;
    CHECK(fh_resize(pairs, struct pair, 3) != NULL); /* as fh_new() */
    pairs[2].other = 2.5;
    fh_mem_free(none); /* fh_del() is no more than this */
    none = fh_mem_malloc(3 * sizeof *none);
    fh_del(none);
    errno = 0;
    CHECK(fh_new(struct pair, PTRDIFF_MAX / sizeof *pairs + 1) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(fh_new(struct pair, (size_t)-1) == NULL && errno == ENOMEM); /* a negative count */
    struct pair *kept = pairs;
    errno = 0;
    CHECK(fh_resize(pairs, struct pair, PTRDIFF_MAX / sizeof *pairs + 1) == NULL);
    CHECK(errno == ENOMEM && pairs == NULL && kept[2].other == 2.5);
    CHECK(fh_resize(kept, struct pair, 0) != NULL && kept != NULL);
    fh_del(kept);
    fh_del(other);
}

/* ---- Tracemalloc ------------------------------------------------------------------------------
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

struct tracked {
    unsigned domain;
    size_t bytes;
    struct frames frames;
};

/* The traces of these, and of nothing else. */
static fh_snapshot *snapshot_of(const struct tracked *tracked, size_t count, int limit)
{
    struct frames frames;
    CHECK(fh_trace_set_frames(give_frames, &frames) == 0 && fh_trace_start(limit) == 0);
    for (size_t i = 0; i < count; i++) {
        frames = tracked[i].frames;
        CHECK(fh_trace_track(tracked[i].domain, i + 1, tracked[i].bytes) == 0);
    }
    fh_snapshot *snapshot = fh_snapshot_take();
    CHECK(snapshot != NULL && fh_snapshot_trace_count(snapshot) == count);
    fh_trace_stop();
    CHECK(fh_trace_set_frames(NULL, NULL) == 0);
    return snapshot;
}

/* Of the snapshot filtered, which is freed: how many traces, and how many bytes they have. */
static void check_left(fh_snapshot *filtered, size_t traces, size_t bytes)
{
    size_t count, sum = 0;
    CHECK(filtered != NULL && fh_snapshot_trace_count(filtered) == traces);
    fh_statistic *statistics = fh_snapshot_statistics(filtered, FH_BY_FILENAME, 0, &count);
    CHECK(statistics != NULL);
    for (size_t i = 0; i < count; i++)
        sum += statistics[i].bytes;
    CHECK(sum == bytes);
    fh_statistics_free(statistics);
    fh_snapshot_free(filtered);
}

#define FRAMES_AB(line)                                                                            \
    {                                                                                              \
        {{"a.py", (line), 0}, {"b.py", 4, 0}}, 2, 3                                                \
    }

static const struct tracked fixture[] = {
    {0, 10, FRAMES_AB(2)},
    {0, 10, FRAMES_AB(2)},
    {0, 10, FRAMES_AB(2)},
    {1, 2, FRAMES_AB(5)},
    {2, 66, {{{"b.py", 1, 0}}, 1, 1}},
    {3, 7, {{{"<unknown>", 0, 0}}, 1, 1}},
};

TEST(filter_traces)
{
    fh_snapshot *snapshot = snapshot_of(fixture, 6, 2);
    const fh_filter not_b = {0, "b.py", -1, 0, -1};
    const fh_filter lines[] = {{1, "a.py", 2, 0, -1}, {1, "a.py", 5, 0, -1}};
    fh_snapshot *without_b = fh_snapshot_filter(snapshot, &not_b, 1);
    check_left(fh_snapshot_filter(without_b, lines, 2), 4, 32);
    check_left(without_b, 5, 39);
    check_left(fh_snapshot_filter(snapshot, NULL, 0), 6, 105);
    check_left(snapshot, 6, 105); /* filtering left it alone */
}

TEST(filter_traces_domain)
{
    fh_snapshot *snapshot = snapshot_of(fixture, 6, 2);
    const fh_filter a_of_1 = {0, "a.py", -1, 0, 1}, only_a_of_1 = {1, "a.py", -1, 0, 1};
    const fh_filter not_3 = {0, NULL, -1, 0, 3}, only_3 = {1, NULL, -1, 0, 3};
    check_left(fh_snapshot_filter(snapshot, &a_of_1, 1), 5, 103);
    check_left(fh_snapshot_filter(snapshot, &only_a_of_1, 1), 1, 2);
    check_left(fh_snapshot_filter(snapshot, &not_3, 1), 5, 98);
    check_left(fh_snapshot_filter(snapshot, &only_3, 1), 1, 7);
    fh_snapshot_free(snapshot);
}

/* Does the filter keep a trace with these frames? */
static bool keeps(const struct frames *frames, int inclusive, const char *pattern, long lineno,
                  int all_frames)
{
    const struct tracked one = {9, 1, *frames};
    const fh_filter filter = {inclusive, pattern, lineno, all_frames, -1};
    fh_snapshot *snapshot = snapshot_of(&one, 1, 3);
    fh_snapshot *filtered = fh_snapshot_filter(snapshot, &filter, 1);
    size_t count = fh_snapshot_trace_count(filtered);
    fh_snapshot_free(filtered);
    fh_snapshot_free(snapshot);
    return count == 1;
}

static bool keeps_frame(const char *name, unsigned line, int inclusive, const char *pattern,
                        long lineno)
{
    const struct frames frames = {{{name, line, 0}}, 1, 1};
    return keeps(&frames, inclusive, pattern, lineno, 0);
}

/* No line, a line, and line 0, which is one too. */
TEST(filter_match)
{
    static const unsigned lines[] = {0, 5, 10};
    static const long wanted[] = {-1, 5, 0};
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < 3; j++) {
            bool same = wanted[j] == -1 || wanted[j] == (long)lines[i];
            CHECK(keeps_frame("abc", lines[i], 1, "abc", wanted[j]) == same);
            CHECK(keeps_frame("abc", lines[i], 0, "abc", wanted[j]) == !same);
            CHECK(!keeps_frame("12356", lines[i], 1, "abc", wanted[j]));
            CHECK(keeps_frame("12356", lines[i], 0, "abc", wanted[j]));
        }
    }
}

TEST(filter_match_filename)
{
    static const char *const names[] = {"abc", "12356", "<unknown>"};
    for (int i = 0; i < 3; i++) {
        CHECK(keeps_frame(names[i], 0, 1, "abc", -1) == (i == 0));
        CHECK(keeps_frame(names[i], 0, 0, "abc", -1) == (i != 0));
    }
}

static bool joker(const char *name, const char *pattern)
{
    return keeps_frame(name, 0, 1, pattern, -1);
}

TEST(filter_match_filename_joker)
{
    static const char *const match[][2] = {
        {"", ""},          {"", "*"},         {"abc", "abc"},          {"abc", "a*"},
        {"abc", "abc*"},   {"abc", "a*c"},    {"abcdcx", "a*cx"},      {"abcde", "a*c*e"},
        {"a.pyc", "a.py"}, {"a.py", "a.pyc"}, {"abcbdefeg", "a*bd*eg"}};
    static const char *const differ[][2] = {
        {"abc", ""},          {"", "abc"},       {"abc", "abcd"},         {"abc", "def"},
        {"abc", "b*"},        {"abc", "abcd*"},  {"abb", "a*c"},          {"abcdce", "a*cx"},
        {"abcdd", "a*c*e"},   {"aBC", "ABc"},    {"aBcDe", "Ab*dE"},      {"a.pyc", "a.PY"},
        {"a.py", "a.PYC"},    {"a/b", "a\\b"},   {"a\\b", "a/b"},         {"a/b\\c", "a\\b/c"},
        {"a/b/c", "a\\b\\c"}, {"a.pyo", "a.py"}, {"abcbdefef", "a*bd*eg"}};
    for (size_t i = 0; i < sizeof match / sizeof *match; i++)
        CHECK(joker(match[i][0], match[i][1]));
    for (size_t i = 0; i < sizeof differ / sizeof *differ; i++)
        CHECK(!joker(differ[i][0], differ[i][1]));
}

TEST(filter_match_trace)
{
    static const struct frames traces[] = {{{{"a.py", 2, 0}, {"b.py", 3, 0}}, 2, 2},
                                           {{{"b.py", 4, 0}, {"b.py", 5, 0}}, 2, 2},
                                           {{{"c.py", 5, 0}, {"<unknown>", 0, 0}}, 2, 2},
                                           {{{"<unknown>", 0, 0}}, 1, 1}};
    static const bool b_somewhere[] = {true, true, false, false};
    static const bool b_recent[] = {false, true, false, false};
    static const bool unknown_somewhere[] = {false, false, true, true};
    static const bool unknown_recent[] = {false, false, false, true};
    for (int i = 0; i < 4; i++) {
        for (int inclusive = 0; inclusive < 2; inclusive++) {
            CHECK(keeps(&traces[i], inclusive, "b.py", -1, 1) == (b_somewhere[i] == inclusive));
            CHECK(keeps(&traces[i], inclusive, "b.py", -1, 0) == (b_recent[i] == inclusive));
            CHECK(keeps(&traces[i], inclusive, "<unknown>", -1, 1) ==
                  (unknown_somewhere[i] == inclusive));
            CHECK(keeps(&traces[i], inclusive, "<unknown>", -1, 0) ==
                  (unknown_recent[i] == inclusive));
        }
    }
}

TEST(create_snapshot)
{
    static const struct tracked one = {0, 5, {{{"a.py", 2, 0}}, 1, 10}};
    fh_snapshot *snapshot = snapshot_of(&one, 1, 5);
    size_t count;
    CHECK(fh_snapshot_limit(snapshot) == 5);
    fh_statistic *statistics = fh_snapshot_statistics(snapshot, FH_BY_TRACEBACK, 0, &count);
    CHECK(count == 1 && statistics->bytes == 5 && statistics->frame_count == 1);
    CHECK(strcmp(statistics->frames->filename, "a.py") == 0 && statistics->frames->lineno == 2);
    fh_statistics_free(statistics);
    fh_snapshot_free(snapshot);
}

TEST(get_tracemalloc_memory)
{
    CHECK(fh_trace_start(1) == 0);
    for (uintptr_t i = 0; i < 1000; i++)
        CHECK(fh_trace_track(9, i, 123) == 0);
    size_t bytes = fh_trace_overhead();
    CHECK(bytes > 0 && fh_trace_clear() == 0);
    CHECK(fh_trace_overhead() <= bytes + 192); /* what a clear takes for ever */
    fh_trace_stop();
}

/* Other libraries choose their domains, and what they number need not be an address. */
TEST(track_any_domain)
{
    static const unsigned numbers[] = {3, 389047, 0x7fffffff, 0x80000000, 0xffffffff};
    static const uintptr_t addresses[] = {0, 1, 7, (uintptr_t)1 << 47, UINTPTR_MAX};
    size_t sum = 0, now;
    CHECK(fh_trace_start(1) == 0);
    for (size_t i = 0; i < 25; i++) {
        CHECK(fh_trace_track(numbers[i / 5], addresses[i % 5], 100 + i) == 0);
        sum += 100 + i;
    }
    fh_trace_get_traced_memory(&now, NULL);
    CHECK(now == sum);
    fh_snapshot *snapshot = fh_snapshot_take();
    for (int i = 0; i < 5; i++) {
        const fh_filter filter = {1, NULL, -1, 0, (long)numbers[i]};
        check_left(fh_snapshot_filter(snapshot, &filter, 1), 5, 510 + 25 * (size_t)i);
    }
    fh_snapshot_free(snapshot);
    for (size_t i = 0; i < 25; i++) {
        CHECK(fh_trace_get_traceback(numbers[i / 5], addresses[i % 5], NULL, 0, NULL) > 0);
        CHECK(fh_trace_untrack(numbers[i / 5], addresses[i % 5]) == 0);
    }
    fh_trace_get_traced_memory(&now, NULL);
    CHECK(now == 0);
    fh_trace_stop();
}

static void *of_parent;

static void trace_in_child(void)
{
    size_t before, now;
    CHECK(fh_trace_is_tracing());
    fh_trace_get_traced_memory(&before, NULL);
    void *block = fh_obj_malloc(12345);
    fh_trace_get_traced_memory(&now, NULL);
    CHECK(now == before + 12345);
    CHECK(is_traced(FH_DOMAIN_OBJ, block));
    fh_mem_free(of_parent);
    fh_trace_get_traced_memory(&now, NULL);
    CHECK(now == 12345);
}

TEST(fork_while_tracing)
{
    size_t now;
    CHECK(fh_trace_start(1) == 0);
    of_parent = fh_mem_malloc(77);
    in_child(trace_in_child);
    fh_trace_get_traced_memory(&now, NULL);
    CHECK(now == 77);
    fh_mem_free(of_parent);
    fh_trace_stop();
}

/* ---- tracemalloc itself -----------------------------------------------------------------------
 *
 * Its statistics, comparisons and filters are Python code, which takes any traces: the same ones,
 * by chance, must give the same lines there and here.
 */

enum { ROUNDS = 25, TRACES_MAX = 40, FILTERS_MAX = 3, FILTER_LISTS = 20 };

static const char python_begins[] =
    "import sys, tracemalloc\n"
    "from tracemalloc import Snapshot, Filter, DomainFilter\n"
    "if sys.version_info < (3, 9): sys.exit()\n" /* traces were something else */
    "def show(older, newer, filter_lists):\n"
    "    old, new = Snapshot(older, 3), Snapshot(newer, 3)\n"
    "    for group, ways in ('lineno', 2), ('filename', 2), ('traceback', 1):\n"
    "        for cumulative in range(ways):\n"
    "            for line in old.statistics(group, cumulative): print(line)\n"
    "            for line in new.compare_to(old, group, cumulative): print(line)\n"
    "    for filters in filter_lists:\n"
    "        left = old.filter_traces(filters).traces\n"
    "        print(len(left), sum(trace.size for trace in left))\n";

static const char *const some_names[] = {"a.py", "b.py", "b/c.py", "<unknown>", "ab.pyc"};
static const char *const some_patterns[] = {"a.py",  "*.py",  "?.py",     "[ab].py", "[!a]*",
                                            "b.pyc", "b*c*",  "<*>",      "ab.py",   "*[a-c].p?",
                                            "[a",    "a*.py", "*/*.py[c]"};

static size_t some_bytes(uint64_t *state)
{
    if (random_below(state, 3) != 0)
        return random_below(state, 4); /* often the same */
    return (size_t)random_below(state, 1u << 31) >> random_below(state, 31)
                                                        << random_below(state, 12);
}

static size_t make_traces(uint64_t *state, struct tracked *tracked)
{
    size_t count = 1 + random_below(state, TRACES_MAX);
    for (size_t i = 0; i < count; i++) {
        struct frames *frames = &tracked[i].frames;
        tracked[i].domain = random_below(state, 4);
        tracked[i].bytes = some_bytes(state);
        frames->count = 1 + random_below(state, 3);
        frames->total = frames->count + random_below(state, 2);
        for (size_t at = 0; at < frames->count; at++)
            frames->frames[at] =
                (fh_frame){some_names[random_below(state, 5)], random_below(state, 3), 0};
    }
    return count;
}

static size_t make_filters(uint64_t *state, fh_filter *filters)
{
    size_t count = random_below(state, FILTERS_MAX + 1);
    for (size_t i = 0; i < count; i++) {
        filters[i].inclusive = (int)random_below(state, 2);
        filters[i].pattern = some_patterns[random_below(state, 13)];
        filters[i].lineno = (long)random_below(state, 4) - 1;
        filters[i].all_frames = (int)random_below(state, 2);
        filters[i].domain = (long)random_below(state, 5) - 1;
        if (filters[i].domain >= 0 && random_below(state, 2) == 0) { /* a DomainFilter */
            filters[i].pattern = NULL;
            filters[i].lineno = -1;
        }
    }
    return count;
}

static void write_traces(FILE *script, const struct tracked *tracked, size_t count)
{
    fputs("[", script);
    for (size_t i = 0; i < count; i++) {
        const struct frames *frames = &tracked[i].frames;
        fprintf(script, "(%u,%zu,(", tracked[i].domain, tracked[i].bytes);
        for (size_t at = 0; at < frames->count; at++)
            fprintf(script, "('%s',%u),", frames->frames[at].filename, frames->frames[at].lineno);
        fprintf(script, "),%zu),", frames->total);
    }
    fputs("],", script);
}

static void write_filters(FILE *script, const fh_filter *filters, size_t count)
{
    fputs("[", script);
    for (const fh_filter *filter = filters; filter < filters + count; filter++) {
        if (filter->pattern == NULL)
            fprintf(script, "DomainFilter(%d,%ld),", filter->inclusive, filter->domain);
        else
            fprintf(script,
                    "Filter(%d,'%s',%ld if %ld >= 0 else None,%d,%ld if %ld >= 0 else None),",
                    filter->inclusive, filter->pattern, filter->lineno, filter->lineno,
                    filter->all_frames, filter->domain, filter->domain);
    }
    fputs("],", script);
}

struct round {
    struct tracked older[TRACES_MAX], newer[TRACES_MAX];
    size_t older_count, newer_count;
    fh_filter filters[FILTER_LISTS][FILTERS_MAX];
    size_t filter_counts[FILTER_LISTS];
};

static const struct round *make_round(uint64_t *state)
{
    static struct round round;
    round.older_count = make_traces(state, round.older);
    round.newer_count = make_traces(state, round.newer);
    for (int i = 0; i < FILTER_LISTS; i++)
        round.filter_counts[i] = make_filters(state, round.filters[i]);
    return &round;
}

static void write_script(FILE *script)
{
    uint64_t state = 1;
    fputs(python_begins, script);
    for (int i = 0; i < ROUNDS; i++) {
        const struct round *round = make_round(&state);
        fputs("show(", script);
        write_traces(script, round->older, round->older_count);
        write_traces(script, round->newer, round->newer_count);
        fputs("[", script);
        for (int j = 0; j < FILTER_LISTS; j++)
            write_filters(script, round->filters[j], round->filter_counts[j]);
        fputs("])\n", script);
    }
}

static void expect(FILE *python, const char *line)
{
    char theirs[256] = "";
    CHECK(fgets(theirs, sizeof theirs, python) != NULL);
    theirs[strcspn(theirs, "\n")] = '\0';
    if (strcmp(theirs, line) != 0)
        fprintf(stderr, "tracemalloc: %s\nfreehold:    %s\n", theirs, line);
    CHECK(strcmp(theirs, line) == 0);
}

static void expect_statistics(FILE *python, fh_statistic *statistics, size_t count, bool diff)
{
    char line[256];
    CHECK(statistics != NULL);
    for (size_t i = 0; i < count; i++) {
        if (diff)
            fh_statistic_format_diff(&statistics[i], line, sizeof line);
        else
            fh_statistic_format(&statistics[i], line, sizeof line);
        expect(python, line);
    }
    fh_statistics_free(statistics);
}

static void expect_groups(FILE *python, const fh_snapshot *older, const fh_snapshot *newer)
{
    static const struct {
        fh_group group;
        int cumulative;
    } ways[] = {{FH_BY_LINENO, 0},
                {FH_BY_LINENO, 1},
                {FH_BY_FILENAME, 0},
                {FH_BY_FILENAME, 1},
                {FH_BY_TRACEBACK, 0}};
    for (int i = 0; i < 5; i++) {
        size_t count;
        fh_statistic *statistics =
            fh_snapshot_statistics(older, ways[i].group, ways[i].cumulative, &count);
        expect_statistics(python, statistics, count, false);
        statistics = fh_snapshot_compare(newer, older, ways[i].group, ways[i].cumulative, &count);
        expect_statistics(python, statistics, count, true);
    }
}

static void expect_left(FILE *python, const fh_snapshot *snapshot, const fh_filter *filters,
                        size_t filter_count)
{
    char line[64];
    size_t count, bytes = 0;
    fh_snapshot *left = fh_snapshot_filter(snapshot, filters, filter_count);
    fh_statistic *statistics = fh_snapshot_statistics(left, FH_BY_LINENO, 0, &count);
    for (size_t i = 0; i < count; i++)
        bytes += statistics[i].bytes;
    snprintf(line, sizeof line, "%zu %zu", fh_snapshot_trace_count(left), bytes);
    expect(python, line);
    fh_statistics_free(statistics);
    fh_snapshot_free(left);
}

static void expect_round(FILE *python, const struct round *round)
{
    fh_snapshot *older = snapshot_of(round->older, round->older_count, 3);
    fh_snapshot *newer = snapshot_of(round->newer, round->newer_count, 3);
    expect_groups(python, older, newer);
    for (int i = 0; i < FILTER_LISTS; i++)
        expect_left(python, older, round->filters[i], round->filter_counts[i]);
    fh_snapshot_free(older);
    fh_snapshot_free(newer);
}

/* python3 with the script; NULL if it is not there, or too old. */
static FILE *run_python(void)
{
    char path[] = "/tmp/fh-cpython-XXXXXX", command[64];
    int file = mkstemp(path);
    FILE *script = file < 0 ? NULL : fdopen(file, "w");
    CHECK(script != NULL);
    write_script(script);
    CHECK(fclose(script) == 0);
    snprintf(command, sizeof command, "python3 %s 2>&1; rm %s", path, path);
    FILE *python = popen(command, "r");
    CHECK(python != NULL);
    int first = fgetc(python);
    (void)ungetc(first, python);
    return first == EOF || first == 's' ? NULL : python; /* "sh: ... not found" */
}

TEST(statistics_and_filters_are_tracemallocs)
{
    uint64_t state = 1;
    FILE *python = run_python();
    if (python == NULL)
        modules_skip("no python3 with a tracemalloc of today");
    for (int i = 0; i < ROUNDS; i++)
        expect_round(python, make_round(&state));
    CHECK(fgetc(python) == EOF && pclose(python) == 0);
}
