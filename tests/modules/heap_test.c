/* SPDX-License-Identifier: MIT */
/* heap/: heaps as objects, by what include/freehold/heap.h promises. */
#include "modules.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "domain.h"
#include "freehold/debug.h"
#include "os.h"
#include "report.h"

enum {
    SMALL_POOL_BYTES = 4 << 10,
    SMALL_ARENA_BYTES = 256 << 10,
    THRESHOLD = 512,
    FOREVER = 10000,
};

static const size_t too_many = (size_t)PTRDIFF_MAX + 1;

/* ---- Heaps ------------------------------------------------------------------------------------
 */

static fh_heap_config config_of(fh_obj_mode mode)
{
    return (fh_heap_config){.struct_bytes = sizeof(fh_heap_config), .mode = mode};
}

/* The geometry of CPython's older releases: small, so that much happens soon. */
static fh_heap_config small_config(fh_obj_mode mode)
{
    fh_heap_config config = config_of(mode);
    config.geometry.pool_bytes = SMALL_POOL_BYTES;
    config.geometry.arena_bytes = SMALL_ARENA_BYTES;
    return config;
}

static fh_heap *new_heap(const fh_heap_config *config)
{
    fh_heap *heap = fh_heap_create(config);
    CHECK(heap != NULL);
    return heap;
}

static fh_heap *heap_of_mode(fh_obj_mode mode)
{
    fh_heap_config config = small_config(mode);
    return new_heap(&config);
}

static fh_heap_stats stats_of(fh_heap *heap)
{
    fh_heap_stats stats = {.struct_bytes = sizeof stats};
    CHECK(fh_heap_get_stats(heap, &stats) == 0);
    return stats;
}

/* All that holds of any heap that nobody is inside of. */
static void check_whole(fh_heap *heap)
{
    fh_heap_stats stats = stats_of(heap);
    CHECK(fh_heap_check(heap, STDERR_FILENO) == 0);
    CHECK(stats.in_use_bytes + stats.available_bytes + stats.free_pools_bytes + stats.header_bytes +
              stats.quantization_bytes + stats.alignment_bytes ==
          stats.arenas_bytes);
    CHECK(stats.arenas_total - stats.arenas_reclaimed == stats.arenas_current);
    CHECK(heap->limit_bytes == 0 ||
          heap->reserved_bytes == stats.arenas_bytes + stats.large_bytes); /* nothing was lost */
    CHECK(stats.live_bytes ==
          stats.in_use_bytes + stats.large_bytes - stats.large_blocks * FH_LARGE_HEADER_BYTES);
}

static void check_empty(fh_heap *heap)
{
    check_whole(heap);
    (void)fh_heap_drain(heap);
    fh_heap_stats stats = stats_of(heap);
    CHECK(stats.live_blocks == 0 && stats.live_bytes == 0 && stats.large_blocks == 0 &&
          stats.large_bytes == 0 && stats.deferred_blocks == 0);
}

/* Nothing lives any more, and there is no trace of it. */
static void end_heap(fh_heap *heap)
{
    check_empty(heap);
    CHECK(fh_heap_destroy(heap, 0) == 0);
}

static void *take(fh_heap *heap, size_t bytes)
{
    void *block = fh_heap_malloc(heap, FH_DOMAIN_OBJ, bytes);
    CHECK(block != NULL && fh_heap_of(block) == heap && fh_owns(block));
    CHECK(fh_usable_size(block) >= bytes);
    memset(block, 0xC5, fh_usable_size(block));
    return block;
}

static void give(fh_heap *heap, void *block)
{
    fh_heap_free(heap, FH_DOMAIN_OBJ, block);
}

static const fh_obj_mode modes[] = {FH_OBJ_FREE, FH_OBJ_GIL_ASSERT, FH_OBJ_GIL_LOCK};

enum { MODES = sizeof modes / sizeof modes[0] };

static void in_each_mode(void (*run)(fh_heap *heap))
{
    for (unsigned i = 0; i < MODES; i++) {
        fh_heap *heap = heap_of_mode(modes[i]);
        run(heap);
        end_heap(heap);
    }
}

/* ---- A source of arenas -----------------------------------------------------------------------
 */

struct source {
    size_t offset_bytes; /* of arenas behind a page's start */
    size_t calls, in_use, limit;
    bool bad;
};

static void *source_alloc(void *context, size_t bytes)
{
    struct source *source = context;
    if (source->in_use == source->limit)
        return NULL;
    char *memory = fh_os_map(bytes + 4 * SMALL_ARENA_BYTES);
    CHECK(memory != NULL);
    source->calls++;
    source->in_use++;
    errno = ENOSYS;
    return memory + source->offset_bytes;
}

static void source_free(void *context, void *memory, size_t bytes)
{
    struct source *source = context;
    source->in_use--;
    fh_os_unmap((char *)memory - source->offset_bytes, bytes + 4 * SMALL_ARENA_BYTES);
    errno = ENOSYS;
}

static fh_arena_allocator allocator_of(struct source *source)
{
    return (fh_arena_allocator){source, source_alloc, source_free};
}

/* ---- Configuration ----------------------------------------------------------------------------
 */

static void check_refused(const fh_heap_config *config)
{
    errno = 0;
    CHECK(fh_heap_create(config) == NULL && errno == EINVAL);
}

TEST(sizes_that_do_not_fit_are_refused)
{
    static const fh_geometry bad[] = {
        {.alignment_bytes = 4},
        {.alignment_bytes = 32},
        {.threshold_bytes = 511},
        {.threshold_bytes = 1024},
        {.pool_bytes = 2 << 10},
        {.pool_bytes = 128 << 10},
        {.pool_bytes = 5000},
        {.arena_bytes = 128 << 10},
        {.arena_bytes = (1 << 20) + 4096},
        {.pool_bytes = 64 << 10, .arena_bytes = 128 << 10},
        {.pool_bytes = 4 << 10, .arena_bytes = 2 << 20},
        {.pool_bytes = 64 << 10, .arena_bytes = 32 << 20},
        {.arena_bytes = (size_t)1 << 33},
        {.arena_bytes = ((size_t)1 << 32) + (1 << 20)},
        {.pool_bytes = ((size_t)1 << 32) + (16 << 10)},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fh_heap_config config = config_of(modes[i % MODES]);
        config.geometry = bad[i];
        check_refused(&config);
    }
}

TEST(configurations_that_cannot_be_are_refused)
{
    fh_heap_config config = config_of(FH_OBJ_FREE);
    config.struct_bytes = 0;
    check_refused(&config);
    config = config_of((fh_obj_mode)3);
    check_refused(&config);
    config = config_of(FH_OBJ_FREE);
    config.arena_policy = (fh_arena_policy)3;
    check_refused(&config);
    config = config_of(FH_OBJ_FREE);
    config.spare_arenas = -2;
    check_refused(&config);
    config = config_of(FH_OBJ_FREE);
    config.decay_ms = -2;
    check_refused(&config);
    config = config_of(FH_OBJ_FREE);
    config.arena.alloc = source_alloc;
    check_refused(&config);
    const fh_gil incomplete = {.held = fh_gil_builtin()->held};
    config = config_of(FH_OBJ_GIL_LOCK);
    config.gil = &incomplete;
    check_refused(&config);
}

TEST(a_new_heap_has_no_arena_and_no_block)
{
    for (unsigned i = 0; i < MODES; i++) {
        fh_heap_config config = config_of(modes[i]);
        fh_heap *heap = new_heap(&config);
        CHECK(stats_of(heap).arenas_total == 0);
        end_heap(heap);
    }
    end_heap(new_heap(NULL));
}

/* ---- Geometries -------------------------------------------------------------------------------
 */

static const fh_geometry geometries[] = {
    {0},
    {.alignment_bytes = 8, .threshold_bytes = 256, .pool_bytes = 4 << 10, .arena_bytes = 256 << 10},
    {.alignment_bytes = 8, .threshold_bytes = 512, .pool_bytes = 4 << 10, .arena_bytes = 256 << 10},
    {.threshold_bytes = 512, .pool_bytes = 4 << 10, .arena_bytes = 256 << 10},
    {.pool_bytes = 16 << 10, .arena_bytes = 1 << 20},
    {.pool_bytes = 64 << 10, .arena_bytes = 256 << 10},
    {.pool_bytes = 64 << 10, .arena_bytes = 16 << 20},
};

enum { GEOMETRIES = sizeof geometries / sizeof geometries[0], SIZES_MAX = 700 };

static size_t or_else(size_t value, size_t otherwise)
{
    return value == 0 ? otherwise : value;
}

static void take_all_sizes(fh_heap *heap, const fh_geometry *geometry)
{
    void *blocks[SIZES_MAX];
    size_t alignment = or_else(geometry->alignment_bytes, 16);
    size_t threshold = or_else(geometry->threshold_bytes, 512);
    for (size_t bytes = 0; bytes < SIZES_MAX; bytes++) {
        blocks[bytes] = take(heap, bytes);
        CHECK((uintptr_t)blocks[bytes] % alignment == 0);
        size_t wanted = bytes == 0 ? 1 : bytes;
        if (bytes <= threshold)
            CHECK(fh_usable_size(blocks[bytes]) ==
                  (wanted + alignment - 1) / alignment * alignment);
        CHECK((stats_of(heap).large_blocks > 0) == (bytes > threshold));
    }
    for (size_t bytes = 0; bytes < SIZES_MAX; bytes++)
        for (size_t i = 0; i < bytes; i += 97)
            CHECK(((unsigned char *)blocks[bytes])[i] == 0xC5);
    check_whole(heap);
    for (size_t bytes = 0; bytes < SIZES_MAX; bytes++)
        give(heap, blocks[bytes]);
}

TEST(every_geometry_serves_every_size)
{
    for (unsigned i = 0; i < GEOMETRIES * MODES; i++) {
        fh_heap_config config = config_of(modes[i % MODES]);
        config.geometry = geometries[i / MODES];
        fh_heap *heap = new_heap(&config);
        take_all_sizes(heap, &config.geometry);
        end_heap(heap);
    }
}

/* ---- The same calls, the same addresses -------------------------------------------------------
 */

struct calls {
    fh_heap *heap;
    struct fh_classic *classic;
    uint64_t seed;
};

enum { KEPT = 500 };

static size_t offset_in_arena(const void *block)
{
    return (uintptr_t)block % SMALL_ARENA_BYTES;
}

static void *taken_alike(struct calls *calls, uint32_t bytes, void **other)
{
    void *block = fh_heap_malloc(calls->heap, FH_DOMAIN_MEM, bytes);
    *other = fh_classic_malloc(calls->classic, bytes);
    CHECK(offset_in_arena(block) == offset_in_arena(*other));
    return block;
}

static void make_calls(void *argument)
{
    struct calls *calls = argument;
    void *ours[KEPT] = {0};
    void *theirs[KEPT] = {0};
    for (unsigned i = 0; i < 20000; i++) {
        uint32_t at = random_below(&calls->seed, KEPT);
        give(calls->heap, ours[at]);
        (void)fh_classic_free(calls->classic, theirs[at]);
        ours[at] = taken_alike(calls, random_below(&calls->seed, THRESHOLD + 1), &theirs[at]);
    }
    for (unsigned i = 0; i < KEPT; i++) {
        give(calls->heap, ours[i]);
        (void)fh_classic_free(calls->classic, theirs[i]);
    }
}

/* Arenas are at other places, aligned to their size; what lies in them is the same. */
TEST(a_heap_with_the_lock_is_the_classic_engine_whichever_threads_call)
{
    struct fh_classic_config classic = fh_classic_default_config();
    classic.pool_bytes = SMALL_POOL_BYTES;
    classic.arena_bytes = SMALL_ARENA_BYTES;
    if (SMALL_ARENA_BYTES > (int)FH_ARENA_BYTES)
        modules_skip("the region has no arenas of that size");
    struct calls calls = {heap_of_mode(FH_OBJ_GIL_ASSERT), fh_classic_create(&classic), 7};
    CHECK(calls.classic != NULL);
    make_calls(&calls);
    elsewhere(make_calls, &calls);
    make_calls(&calls);
    end_heap(calls.heap);
    fh_classic_destroy(calls.classic);
}

/* ---- Contracts --------------------------------------------------------------------------------
 */

static void no_bytes(fh_heap *heap)
{
    void *one = take(heap, 0);
    void *other = take(heap, 0);
    void *zeroed = fh_heap_calloc(heap, FH_DOMAIN_OBJ, 0, 8);
    CHECK(one != other && zeroed != NULL && zeroed != one && fh_heap_of(zeroed) == heap);
    one = fh_heap_realloc(heap, FH_DOMAIN_OBJ, one, 0);
    CHECK(one != NULL && one != other);
    give(heap, one);
    give(heap, other);
    give(heap, zeroed);
    give(heap, NULL);
}

TEST(no_bytes_count_as_one)
{
    in_each_mode(no_bytes);
}

static void refuse_too_much(fh_heap *heap)
{
    static const size_t sizes[] = {(size_t)PTRDIFF_MAX, (size_t)PTRDIFF_MAX + 1, SIZE_MAX,
                                   SIZE_MAX - 63};
    void *small = take(heap, 100);
    void *large = take(heap, 1000);
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        errno = 0;
        CHECK(fh_heap_malloc(heap, FH_DOMAIN_OBJ, sizes[i]) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(fh_heap_calloc(heap, FH_DOMAIN_OBJ, 1, sizes[i]) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(fh_heap_realloc(heap, FH_DOMAIN_OBJ, small, sizes[i]) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(fh_heap_realloc(heap, FH_DOMAIN_OBJ, large, sizes[i]) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(fh_heap_realloc(heap, FH_DOMAIN_OBJ, NULL, sizes[i]) == NULL && errno == ENOMEM);
    }
    errno = 0;
    CHECK(fh_heap_calloc(heap, FH_DOMAIN_OBJ, too_many / 2, 5) == NULL && errno == ENOMEM);
    CHECK(*(unsigned char *)small == 0xC5 && *(unsigned char *)large == 0xC5);
    CHECK(stats_of(heap).live_blocks == 2);
    check_whole(heap);
    give(heap, small);
    give(heap, large);
}

TEST(more_than_there_can_be_is_refused_and_nothing_changes)
{
    in_each_mode(refuse_too_much);
}

static void calloc_is_clean(fh_heap *heap)
{
    static const size_t sizes[] = {1, 16, 100, 512, 513, 5000, 100000};
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        void *dirty = take(heap, sizes[i]);
        give(heap, dirty);
        void *block = fh_heap_calloc(heap, FH_DOMAIN_MEM, 1, sizes[i]);
        CHECK(block != NULL && fh_heap_of(block) == heap && is_zero(block, sizes[i]));
        give(heap, block);
    }
}

TEST(calloc_gives_zeros)
{
    in_each_mode(calloc_is_clean);
}

static void fill(unsigned char *block, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        block[i] = (unsigned char)(i * 7 + bytes);
}

static void check_kept(const unsigned char *block, size_t bytes, size_t kept)
{
    for (size_t i = 0; i < kept; i++)
        CHECK(block[i] == (unsigned char)(i * 7 + bytes));
}

static void resize_between(fh_heap *heap, size_t from, size_t to)
{
    unsigned char *block = take(heap, from);
    fill(block, from);
    block = fh_heap_realloc(heap, FH_DOMAIN_OBJ, block, to);
    CHECK(block != NULL && fh_heap_of(block) == heap && fh_usable_size(block) >= to);
    check_kept(block, from, from < to ? from : to);
    CHECK(stats_of(heap).live_blocks == 1);
    CHECK(stats_of(heap).large_blocks == (to > THRESHOLD));
    give(heap, block);
}

static void resize_all(fh_heap *heap)
{
    static const size_t sizes[] = {1,     8,     16,     17,     100,    400,   511,
                                   512,   513,   600,    1000,   4096,   32700, 32704,
                                   33000, 66000, 200000, 400000, 5 << 20};
    enum { SIZES = sizeof sizes / sizeof sizes[0] };
    for (unsigned from = 0; from < SIZES; from++)
        for (unsigned to = 0; to < SIZES; to++)
            resize_between(heap, sizes[from], sizes[to]);
}

TEST(realloc_keeps_what_fits_across_the_threshold_and_back)
{
    in_each_mode(resize_all);
}

static void resize_in_place(fh_heap *heap)
{
    void *block = take(heap, 100); /* 112 bytes */
    CHECK(fh_heap_realloc(heap, FH_DOMAIN_OBJ, block, 112) == block);
    CHECK(fh_heap_realloc(heap, FH_DOMAIN_OBJ, block, 85) == block);
    void *moved = fh_heap_realloc(heap, FH_DOMAIN_OBJ, block, 84);
    CHECK(moved != block && fh_usable_size(moved) == 96);
    give(heap, moved);
}

TEST(realloc_stays_in_place_as_cpython_does)
{
    in_each_mode(resize_in_place);
}

TEST(errno_stays_as_it_was_when_all_is_well)
{
    for (unsigned i = 0; i < MODES; i++) {
        struct source source = {.limit = FOREVER};
        fh_heap_config config = small_config(modes[i]);
        config.arena = allocator_of(&source);
        config.spare_arenas = FH_SPARE_ARENAS_NONE;
        fh_heap *heap = new_heap(&config);
        void *block = take(heap, 20);
        void *large = take(heap, 2000);
        errno = 77;
        give(heap, large);
        give(heap, block);
        CHECK(errno == 77 && source.in_use == 0);
        end_heap(heap);
    }
}

TEST(an_unknown_domain_is_refused_and_raw_has_no_heaps)
{
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    errno = 0;
    CHECK(fh_heap_malloc(heap, (fh_domain)3, 8) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(fh_heap_calloc(heap, (fh_domain)-1, 8, 8) == NULL && errno == EINVAL);
    void *raw = fh_heap_malloc(heap, FH_DOMAIN_RAW, 100);
    CHECK(raw != NULL && fh_heap_of(raw) == fh_heap_default());
    fh_raw_free(raw);
    end_heap(heap);
}

/* ---- Whose block it is ------------------------------------------------------------------------
 */

TEST(each_address_has_one_heap_or_none)
{
    fh_heap *one = heap_of_mode(FH_OBJ_GIL_ASSERT);
    fh_heap *other = heap_of_mode(FH_OBJ_FREE);
    int local = 0;
    CHECK(fh_heap_of(&local) == NULL && fh_heap_of(NULL) == NULL && fh_heap_of(&too_many) == NULL);
    for (size_t bytes = 1; bytes < 300000; bytes += bytes / 3 + 1) {
        void *a = take(one, bytes);
        void *b = take(other, bytes);
        void *c = fh_raw_malloc(bytes);
        CHECK(fh_heap_of(a) == one && fh_heap_of(b) == other);
        CHECK(fh_heap_of(c) == fh_heap_default());
        fh_heap_free(other, FH_DOMAIN_MEM, a); /* any heap is right */
        fh_heap_free(NULL, FH_DOMAIN_MEM, b);
        fh_heap_free(one, FH_DOMAIN_MEM, c);
    }
    end_heap(one);
    end_heap(other);
}

/* All addresses of blocks of the threads' heaps that could be taken for large ones. */
TEST(nothing_but_a_large_block_is_taken_for_one)
{
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    for (size_t bytes = 513; bytes < 100000; bytes += bytes / 5) {
        char *large = take(heap, bytes);
        struct fh_large_header *header = fh_large_at(large);
        CHECK(header != NULL && header->heap == heap);
        CHECK(fh_large_usable_bytes(header) == (bytes + 15) / 16 * 16);
        for (size_t at = 16; at < bytes; at += 16)
            CHECK(fh_large_at(large + at) == NULL);
        CHECK(fh_large_at(large - 64) == NULL && fh_large_at(large - 16) == NULL);
        char copy[64];
        memcpy(copy, large - sizeof copy, sizeof copy);
        char *plain = fh_raw_malloc(bytes + sizeof copy);
        memcpy(plain, copy, sizeof copy); /* a header from elsewhere */
        CHECK(fh_large_at(plain + sizeof copy) == NULL);
        fh_raw_free(plain);
        give(heap, large);
        CHECK(fh_large_at(large) == NULL);
    }
    for (size_t bytes = 1; bytes < 2000; bytes += 7) {
        char *block = fh_raw_calloc(1, bytes);
        for (size_t at = 0; at < bytes; at += 16)
            CHECK(fh_large_at(block + at) == NULL);
        fh_raw_free(block);
    }
    end_heap(heap);
}

TEST(a_realloc_stays_in_the_blocks_own_heap)
{
    fh_heap *one = heap_of_mode(FH_OBJ_GIL_ASSERT);
    fh_heap *other = heap_of_mode(FH_OBJ_GIL_LOCK);
    void *block = take(one, 50);
    block = fh_heap_realloc(other, FH_DOMAIN_OBJ, block, 400);
    CHECK(fh_heap_of(block) == one);
    block = fh_heap_realloc(other, FH_DOMAIN_OBJ, block, 4000);
    CHECK(fh_heap_of(block) == one);
    block = fh_heap_realloc(NULL, FH_DOMAIN_OBJ, block, 40);
    CHECK(fh_heap_of(block) == one);
    void *made = fh_heap_realloc(other, FH_DOMAIN_OBJ, NULL, 40);
    CHECK(fh_heap_of(made) == other);
    void *plain = fh_heap_realloc(one, FH_DOMAIN_OBJ, fh_raw_malloc(10), 1000);
    CHECK(fh_heap_of(plain) == fh_heap_default());
    fh_obj_free(block);
    fh_mem_free(made);
    fh_mem_free(plain);
    end_heap(one);
    end_heap(other);
}

static void *freed_block;

static void free_as_raw(void *unused)
{
    (void)unused;
    fh_raw_free(freed_block);
}

static void free_by_heap(void *heap)
{
    fh_heap_free(heap, FH_DOMAIN_OBJ, freed_block);
}

static void resize_as_raw(void *unused)
{
    (void)unused;
    (void)fh_raw_realloc(freed_block, 10);
}

TEST(the_raw_domain_names_a_block_of_a_heap)
{
    char text[160];
    fh_heap *heap = heap_of_mode(FH_OBJ_GIL_ASSERT);
    if (SMALL_ARENA_BYTES > (int)FH_ARENA_BYTES)
        modules_skip("its arenas are not in the region");
    freed_block = take(heap, 50);
    snprintf(
        text, sizeof text,
        "freehold: free(0x%016lx): not a live block of this domain, but in a heap with a lock\n",
        (unsigned long)freed_block);
    check_aborts(free_as_raw, NULL, text);
    snprintf(text, sizeof text,
             "freehold: realloc(0x%016lx): not a live block of this domain, but in a heap with a "
             "lock\n",
             (unsigned long)freed_block);
    check_aborts(resize_as_raw, NULL, text);
    give(heap, freed_block);
    end_heap(heap);
}

TEST(a_strangers_address_is_named)
{
    static int stranger;
    char text[160];
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    freed_block = &stranger;
    snprintf(text, sizeof text, "freehold: free(0x%016lx): not memory of this allocator\n",
             (unsigned long)freed_block);
    check_aborts(free_by_heap, heap, text);
    check_aborts(free_by_heap, NULL, text);
    end_heap(heap);
}

/* ---- The current heap -------------------------------------------------------------------------
 */

TEST(without_heaps_the_domains_have_no_detour)
{
    CHECK(fh_heap_current() == fh_heap_default() && fh_heap_default() != NULL);
    CHECK(fh_heap_set_current(NULL) == fh_heap_default());
    CHECK(fh_heap_set_current(fh_heap_default()) == fh_heap_default());
    void *block = fh_heap_malloc(NULL, FH_DOMAIN_OBJ, 100);
    CHECK(fh_heap_of(block) == fh_heap_default());
    fh_obj_free(block);
    block = fh_heap_malloc(fh_heap_default(), FH_DOMAIN_OBJ, 100);
    CHECK(fh_heap_of(block) == fh_heap_default());
    fh_obj_free(block);
    for (int domain = 0; domain < FH_DOMAINS; domain++)
        CHECK(!fh_domain_is_replaced((fh_domain)domain));
}

static void be_current(fh_heap *heap)
{
    void *before = fh_obj_malloc(10);
    CHECK(fh_heap_set_current(heap) == fh_heap_default() && fh_heap_current() == heap);
    for (size_t bytes = 0; bytes < 3000; bytes += 100) {
        void *obj = fh_obj_malloc(bytes);
        void *mem = fh_mem_calloc(2, bytes);
        void *raw = fh_raw_malloc(bytes);
        CHECK(fh_heap_of(obj) == heap && fh_heap_of(mem) == heap);
        CHECK(is_zero(mem, 2 * bytes));
        CHECK(fh_heap_of(raw) == fh_heap_default());
        obj = fh_obj_realloc(obj, bytes + 500);
        CHECK(fh_heap_of(obj) == heap && fh_usable_size(obj) >= bytes + 500);
        fh_mem_free(obj);
        fh_obj_free(mem);
        fh_raw_free(raw);
    }
    int *array = fh_new(int, 100);
    CHECK(fh_heap_of(array) == heap);
    CHECK(fh_heap_set_current(NULL) == heap && fh_heap_current() == fh_heap_default());
    void *after = fh_mem_malloc(10);
    CHECK(fh_heap_of(before) == fh_heap_default() && fh_heap_of(after) == fh_heap_default());
    fh_del(array); /* where it came from, whatever is current */
    CHECK(fh_heap_set_current(heap) == fh_heap_default());
    fh_mem_free(before);
    fh_mem_free(after);
    (void)fh_heap_set_current(NULL);
}

TEST(the_current_heap_serves_mem_and_obj)
{
    in_each_mode(be_current);
}

static void check_default_elsewhere(void *heap)
{
    CHECK(fh_heap_current() == fh_heap_default());
    void *block = fh_obj_malloc(10);
    CHECK(fh_heap_of(block) == fh_heap_default());
    fh_obj_free(block);
    CHECK(fh_heap_set_current(heap) == fh_heap_default());
}

TEST(what_is_current_is_a_matter_of_each_thread)
{
    fh_heap *one = heap_of_mode(FH_OBJ_FREE);
    fh_heap *other = heap_of_mode(FH_OBJ_FREE);
    (void)fh_heap_set_current(one);
    elsewhere(check_default_elsewhere, other);
    CHECK(fh_heap_current() == one);
    CHECK(fh_heap_set_current(other) == one && fh_heap_set_current(one) == other);
    end_heap(one);
    CHECK(fh_heap_current() == fh_heap_default());
    end_heap(other);
}

TEST(alignment_is_kept_whatever_is_current)
{
    for (unsigned i = 0; i < MODES; i++) {
        fh_heap_config config = small_config(modes[i]);
        config.geometry.alignment_bytes = 8;
        fh_heap *heap = new_heap(&config);
        (void)fh_heap_set_current(heap);
        for (size_t alignment = 1; alignment <= 65536; alignment *= 2) {
            void *block = fh_aligned_alloc(FH_DOMAIN_OBJ, alignment, 24);
            CHECK(block != NULL && (uintptr_t)block % alignment == 0);
            CHECK((fh_heap_of(block) == heap) == (alignment <= 8));
            block = fh_obj_realloc(block, 100);
            fh_obj_free(block);
        }
        errno = 0;
        CHECK(fh_aligned_alloc(FH_DOMAIN_OBJ, 24, 24) == NULL && errno == EINVAL);
        end_heap(heap);
    }
}

/* ---- With allocators --------------------------------------------------------------------------
 */

struct hook {
    fh_allocator wrapped;
    unsigned calls;
};

static struct hook *called(void *context)
{
    struct hook *hook = context;
    __atomic_fetch_add(&hook->calls, 1, __ATOMIC_RELAXED);
    return hook;
}

static void *hook_malloc(void *context, size_t bytes)
{
    struct hook *hook = called(context);
    return hook->wrapped.malloc(hook->wrapped.context, bytes);
}

static void *hook_calloc(void *context, size_t count, size_t bytes)
{
    struct hook *hook = called(context);
    return hook->wrapped.calloc(hook->wrapped.context, count, bytes);
}

static void *hook_realloc(void *context, void *block, size_t bytes)
{
    struct hook *hook = called(context);
    return hook->wrapped.realloc(hook->wrapped.context, block, bytes);
}

static void hook_free(void *context, void *block)
{
    struct hook *hook = called(context);
    hook->wrapped.free(hook->wrapped.context, block);
}

static void wrap(fh_domain domain, struct hook *hook)
{
    fh_get_allocator(domain, &hook->wrapped);
    const fh_allocator allocator = {hook, hook_malloc, hook_calloc, hook_realloc, hook_free};
    CHECK(fh_set_allocator(domain, &allocator) == 0);
}

TEST(a_wrapper_set_before_the_first_heap_passes_calls_on_to_it)
{
    struct hook hook = {.calls = 0};
    wrap(FH_DOMAIN_OBJ, &hook);
    fh_heap *heap = heap_of_mode(FH_OBJ_GIL_ASSERT);
    (void)fh_heap_set_current(heap);
    void *block = fh_obj_realloc(fh_obj_malloc(20), 200);
    CHECK(hook.calls == 2 && fh_heap_of(block) == heap);
    void *zeroed = fh_obj_calloc(1, 20);
    CHECK(hook.calls == 3 && fh_heap_of(zeroed) == heap && is_zero(zeroed, 20));
    CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &hook.wrapped) == 0);
    CHECK(fh_domain_is_own(FH_DOMAIN_OBJ));
    fh_obj_free(block); /* the bottom knows of heaps now */
    fh_obj_free(zeroed);
    CHECK(hook.calls == 3);
    wrap(FH_DOMAIN_OBJ, &hook);
    block = fh_obj_malloc(10);
    CHECK(hook.calls == 4 && fh_heap_of(block) == heap);
    fh_obj_free(block);
    CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &hook.wrapped) == 0);
    end_heap(heap);
}

/* One thread sets an allocator and takes it away again; all free blocks of a heap meanwhile. */
static void set_and_restore(unsigned number, void *heap)
{
    static struct hook hook;
    const fh_allocator allocator = {&hook, hook_malloc, hook_calloc, hook_realloc, hook_free};
    struct bound bound = at_most(3000);
    if (number == 0)
        hook.wrapped = fh_domain_bottom;
    while (more(&bound)) {
        if (number == 0)
            CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &allocator) == 0);
        fh_obj_free(take(heap, 40));
        if (number == 0)
            CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &fh_domain_bottom) == 0);
    }
}

/* A thread has set an allocator before the first heap, and takes it away just after it was made. */
static void restore_then_free(unsigned number, void *unused)
{
    (void)unused;
    if (number == 0) {
        CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &fh_domain_bottom) == 0);
        return;
    }
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    for (unsigned i = 0; i < 100; i++)
        fh_obj_free(take(heap, 40));
    end_heap(heap);
}

static void race_with_first_heap(void)
{
    static struct hook hook;
    wrap(FH_DOMAIN_OBJ, &hook);
    hook.wrapped = fh_domain_bottom;
    together(2, restore_then_free, NULL);
}

TEST(no_thread_finds_a_domain_that_has_forgotten_its_heaps)
{
    for (unsigned i = 0; i < 30; i++)
        in_child(race_with_first_heap);
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    together(3, set_and_restore, heap);
    end_heap(heap);
}

TEST(a_heap_as_allocator_serves_all_threads)
{
    for (unsigned i = 0; i < MODES; i++) {
        fh_heap *heap = heap_of_mode(modes[i]);
        fh_allocator before, allocator;
        CHECK(fh_heap_get_allocator(heap, FH_DOMAIN_MEM, &allocator) == 0);
        fh_get_allocator(FH_DOMAIN_MEM, &before);
        void *old = fh_mem_malloc(30);
        CHECK(fh_set_allocator(FH_DOMAIN_MEM, &allocator) == 0);
        void *block = fh_mem_malloc(30);
        void *large = fh_mem_calloc(3, 1000);
        CHECK(fh_heap_of(block) == heap && fh_heap_of(large) == heap);
        CHECK(is_zero(large, 3000));
        block = fh_mem_realloc(block, 300);
        CHECK(fh_heap_of(block) == heap);
        fh_mem_free(old); /* of before: passed on */
        fh_mem_free(block);
        errno = 0;
        CHECK(fh_mem_calloc(SIZE_MAX / 2, 3) == NULL && errno == ENOMEM);
        CHECK(fh_set_allocator(FH_DOMAIN_MEM, &before) == 0);
        fh_mem_free(large);
        end_heap(heap);
    }
}

TEST(heaps_as_allocators_know_their_domains)
{
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    fh_allocator allocator;
    errno = 0;
    CHECK(fh_heap_get_allocator(heap, (fh_domain)3, &allocator) == -1 && errno == EINVAL);
    CHECK(fh_heap_get_allocator(heap, FH_DOMAIN_RAW, &allocator) == 0);
    void *block = allocator.malloc(allocator.context, 10);
    CHECK(fh_heap_of(block) == fh_heap_default());
    allocator.free(allocator.context, block);
    CHECK(fh_heap_get_allocator(NULL, FH_DOMAIN_OBJ, &allocator) == 0);
    block = allocator.calloc(allocator.context, 10, 10);
    CHECK(fh_heap_of(block) == fh_heap_default());
    block = allocator.realloc(allocator.context, block, 1000);
    allocator.free(allocator.context, block);
    end_heap(heap);
}

/* ---- Without the lock -------------------------------------------------------------------------
 */

static void defer(void *block)
{
    fh_obj_free_deferred(block);
}

static void defer_and_drain(fh_heap *heap)
{
    enum { BLOCKS = 100 };
    void *blocks[BLOCKS];
    for (unsigned i = 0; i < BLOCKS; i++)
        blocks[i] = take(heap, i % 2 == 0 ? 48 : 100);
    for (unsigned i = 0; i < BLOCKS; i++)
        elsewhere(defer, blocks[i]);
    fh_heap_stats stats = stats_of(heap);
    CHECK(stats.deferred_blocks == BLOCKS && stats.live_blocks == BLOCKS);
    CHECK(fh_heap_drain(heap) == BLOCKS);
    CHECK(stats_of(heap).live_blocks == 0 && fh_heap_drain(heap) == 0);
    void *large = take(heap, 5000);
    fh_obj_free_deferred(large);
    fh_obj_free_deferred(NULL);
    fh_obj_free_deferred(fh_raw_malloc(100));
    CHECK(stats_of(heap).large_blocks == 0);
}

TEST(what_is_freed_without_the_lock_comes_back_on_drain)
{
    fh_heap *heap = heap_of_mode(FH_OBJ_GIL_ASSERT);
    defer_and_drain(heap);
    end_heap(heap);
    heap = heap_of_mode(FH_OBJ_GIL_LOCK);
    defer_and_drain(heap);
    end_heap(heap);
}

TEST(what_is_freed_without_the_lock_comes_back_before_another_arena)
{
    fh_heap_config config = small_config(FH_OBJ_GIL_ASSERT);
    config.arenas_max = 1;
    fh_heap *heap = new_heap(&config);
    for (unsigned i = 0; i < 5000; i++)
        fh_obj_free_deferred(take(heap, 500));
    CHECK(stats_of(heap).arenas_total == 1);
    end_heap(heap);
}

TEST(the_next_call_with_the_lock_frees_what_was_deferred)
{
    fh_heap *heap = heap_of_mode(FH_OBJ_GIL_LOCK);
    fh_obj_free_deferred(take(heap, 40));
    CHECK(stats_of(heap).deferred_blocks == 1);
    give(heap, take(heap, 60));
    CHECK(stats_of(heap).deferred_blocks == 0 && stats_of(heap).live_blocks == 0);
    end_heap(heap);
}

/* ---- Destroying -------------------------------------------------------------------------------
 */

TEST(a_heap_with_blocks_is_destroyed_by_force_alone)
{
    for (unsigned i = 0; i < 2 * MODES; i++) {
        struct source source = {.limit = FOREVER};
        fh_heap_config config = small_config(modes[i / 2]);
        config.arena = allocator_of(&source);
        fh_heap *heap = new_heap(&config);
        void *block = i % 2 == 0 ? take(heap, 20) : take(heap, 2000);
        errno = 0;
        CHECK(fh_heap_destroy(heap, 0) == -1 && errno == EBUSY);
        CHECK(fh_heap_of(block) == heap && *(unsigned char *)block == 0xC5);
        errno = 0;
        CHECK(fh_heap_destroy(heap, 2) == -1 && errno == EINVAL);
        for (unsigned more_blocks = 0; more_blocks < 8000; more_blocks++)
            (void)take(heap, more_blocks % 800);
        CHECK(source.in_use > 1 && stats_of(heap).large_blocks > 1000);
        CHECK(fh_heap_destroy(heap, FH_DESTROY_FORCE) == 0 && source.in_use == 0);
        CHECK(fh_heap_of(block) != heap);
    }
    errno = 0;
    CHECK(fh_heap_destroy(NULL, FH_DESTROY_FORCE) == -1 && errno == EINVAL);
    errno = 0;
    CHECK(fh_heap_destroy(fh_heap_default(), FH_DESTROY_FORCE) == -1 && errno == EINVAL);
}

TEST(after_a_heap_is_destroyed_its_memory_serves_others)
{
    fh_heap *first = heap_of_mode(FH_OBJ_FREE);
    size_t bytes_before = 0;
    for (unsigned i = 0; i < 300; i++) {
        fh_heap *heap = i == 0 ? first : heap_of_mode(modes[i % MODES]);
        for (unsigned blocks = 0; blocks < 1000; blocks++)
            (void)take(heap, blocks % 600);
        check_whole(heap);
        CHECK(fh_heap_destroy(heap, FH_DESTROY_FORCE) == 0);
        fh_stats stats = {.struct_bytes = sizeof stats};
        CHECK(fh_get_stats(&stats) == 0);
        if (i == 10)
            bytes_before = stats.mapped_bytes;
        CHECK(i < 10 || stats.mapped_bytes == bytes_before);
    }
}

TEST(addresses_of_a_destroyed_heap_are_the_next_ones)
{
    struct source source = {.limit = FOREVER};
    for (unsigned i = 0; i < 50; i++) {
        fh_heap_config config = small_config(modes[i % MODES]);
        if (i % 2 == 0)
            config.arena = allocator_of(&source);
        fh_heap *heap = new_heap(&config);
        void *block = take(heap, 64);
        void *large = take(heap, 640);
        CHECK(fh_heap_of(block) == heap && fh_heap_of(large) == heap);
        CHECK(fh_heap_destroy(heap, FH_DESTROY_FORCE) == 0);
        CHECK(fh_heap_of(block) != heap && fh_heap_of(large) != heap);
    }
    CHECK(source.in_use == 0);
}

/* ---- Limits, policies, sources ----------------------------------------------------------------
 */

static size_t take_until_refused(fh_heap *heap, size_t bytes, void **last)
{
    size_t count = 0;
    for (void *block; (block = fh_heap_malloc(heap, FH_DOMAIN_OBJ, bytes)) != NULL; count++) {
        *(void **)block = *last;
        *last = block;
        CHECK(count < 1000000);
    }
    return count;
}

static void give_list(fh_heap *heap, void *last)
{
    for (void *next; last != NULL; last = next) {
        next = *(void **)last;
        give(heap, last);
    }
}

TEST(no_more_arenas_than_were_allowed)
{
    for (unsigned i = 0; i < MODES; i++) {
        fh_heap_config config = small_config(modes[i]);
        config.arenas_max = 3;
        fh_heap *heap = new_heap(&config);
        void *list = NULL;
        errno = 0;
        size_t count = take_until_refused(heap, 512, &list);
        CHECK(errno == ENOMEM && stats_of(heap).arenas_current == 3);
        CHECK(count == stats_of(heap).live_blocks && count > 3 * SMALL_ARENA_BYTES / 600);
        give(heap, take(heap, 600)); /* large blocks are no arenas */
        void *freed = list;
        list = *(void **)list;
        give(heap, freed);
        CHECK(take(heap, 512) == freed); /* the last one to be had */
        give(heap, freed);
        give_list(heap, list);
        end_heap(heap);
    }
}

TEST(arenas_and_large_blocks_share_the_limit)
{
    for (unsigned i = 0; i < MODES; i++) {
        fh_heap_config config = small_config(modes[i]);
        config.limit_bytes = 4 * SMALL_ARENA_BYTES;
        fh_heap *heap = new_heap(&config);
        void *small = take(heap, 16);
        void *list = NULL;
        size_t large_bytes = 10000 + FH_LARGE_HEADER_BYTES;
        size_t count = take_until_refused(heap, 10000, &list);
        CHECK(count == 3 * SMALL_ARENA_BYTES / large_bytes);
        CHECK(stats_of(heap).large_bytes == count * large_bytes);
        check_whole(heap);
        errno = 0;
        CHECK(fh_heap_realloc(heap, FH_DOMAIN_OBJ, list, 30000) == NULL && errno == ENOMEM);
        size_t rest = 3 * SMALL_ARENA_BYTES - count * large_bytes - FH_LARGE_HEADER_BYTES;
        rest = rest / 16 * 16;
        CHECK(fh_heap_malloc(heap, FH_DOMAIN_OBJ, rest + 16) == NULL);
        void *last = take(heap, rest); /* all there is */
        give(heap, last);
        give_list(heap, list);
        give(heap, small);
        check_whole(heap);
        /* The empty arena, which was kept, goes when there is no other way. */
        last = take(heap, config.limit_bytes - FH_LARGE_HEADER_BYTES);
        CHECK(stats_of(heap).arenas_current == 0);
        CHECK(fh_heap_malloc(heap, FH_DOMAIN_OBJ, 1) == NULL);
        last = fh_heap_realloc(heap, FH_DOMAIN_OBJ, last, 1000);
        give(heap, take(heap, 1));
        give(heap, last);
        end_heap(heap);
    }
}

/* Two arenas full of blocks; then all are freed. */
static size_t arenas_left(fh_heap *heap)
{
    void *list = NULL;
    while (stats_of(heap).arenas_current < 3) {
        void **block = take(heap, 512);
        *block = list;
        list = block;
    }
    give_list(heap, list);
    return stats_of(heap).arenas_current;
}

static size_t arenas_left_with(int spare_arenas, fh_arena_policy policy)
{
    fh_heap_config config = small_config(FH_OBJ_GIL_ASSERT);
    config.spare_arenas = spare_arenas;
    config.arena_policy = policy;
    fh_heap *heap = new_heap(&config);
    size_t left = arenas_left(heap);
    end_heap(heap);
    return left;
}

TEST(as_many_empty_arenas_stay_as_were_wanted)
{
    CHECK(arenas_left_with(0, FH_ARENA_PURGE) == 1);
    CHECK(arenas_left_with(1, FH_ARENA_PURGE) == 1);
    CHECK(arenas_left_with(2, FH_ARENA_UNMAP) == 2);
    CHECK(arenas_left_with(FH_SPARE_ARENAS_NONE, FH_ARENA_PURGE) == 0);
    CHECK(arenas_left_with(FH_SPARE_ARENAS_NONE, FH_ARENA_UNMAP) == 0);
    CHECK(arenas_left_with(FH_SPARE_ARENAS_NONE, FH_ARENA_KEEP) == 3);
    CHECK(arenas_left_with(0, FH_ARENA_KEEP) == 3);
}

TEST(unmap_gives_the_pages_back_first)
{
    fh_heap_config config = small_config(FH_OBJ_GIL_ASSERT);
    config.arena_policy = FH_ARENA_UNMAP;
    config.spare_arenas = FH_SPARE_ARENAS_NONE;
    fh_heap *heap = new_heap(&config);
    unsigned char *block = take(heap, 500);
    unsigned char vector[1];
    char *page = (char *)((uintptr_t)block & ~((uintptr_t)fh_os_page_bytes() - 1));
    give(heap, block);
    int result = mincore(page, fh_os_page_bytes(), vector);
    CHECK(result != 0 || MODULES_SHADOWED || (vector[0] & 1) == 0);
    end_heap(heap);
}

static void wait_ms(long ms)
{
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

TEST(a_spare_arena_goes_when_its_time_is_over)
{
    for (unsigned i = 0; i < MODES; i++) {
        fh_heap_config config = small_config(modes[i]);
        config.spare_arenas = 2;
        config.decay_ms = 60;
        fh_heap *heap = new_heap(&config);
        CHECK(arenas_left(heap) <= 2);
        wait_ms(150);
        (void)fh_heap_drain(heap); /* the heap looks */
        CHECK(stats_of(heap).arenas_current == 0);
        check_whole(heap);
        CHECK(arenas_left(heap) <= 2);
        wait_ms(150);
        void *block = take(heap, 40);
        CHECK(stats_of(heap).arenas_current == 1);
        give(heap, block);
        end_heap(heap);
    }
}

TEST(arenas_come_from_the_heaps_source_and_go_back)
{
    for (unsigned i = 0; i < MODES; i++) {
        struct source source = {.limit = FOREVER, .offset_bytes = 16 + 48 * i};
        fh_heap_config config = small_config(modes[i]);
        config.arena = allocator_of(&source);
        fh_heap *heap = new_heap(&config);
        CHECK(source.calls == 0);
        CHECK(arenas_left(heap) == 1 && source.in_use == 1 && source.calls == 3);
        check_whole(heap);
        end_heap(heap);
        CHECK(source.in_use == 0);
    }
}

/* With n arenas to be had, for every n: what fails leaves no trace. */
TEST(a_source_that_fails_is_no_disaster)
{
    for (unsigned i = 0; i < MODES; i++)
        for (size_t limit = 0; limit < 6; limit++) {
            struct source source = {.limit = limit};
            fh_heap_config config = small_config(modes[i]);
            config.arena = allocator_of(&source);
            fh_heap *heap = new_heap(&config);
            void *list = NULL;
            errno = 0;
            size_t count = take_until_refused(heap, 400, &list);
            CHECK(errno == ENOMEM && stats_of(heap).arenas_current == limit);
            CHECK((count > 0) == (limit > 0));
            errno = 0;
            CHECK(fh_heap_calloc(heap, FH_DOMAIN_OBJ, 1, 400) == NULL && errno == ENOMEM);
            check_whole(heap);
            if (list != NULL) { /* small to small fails, to large does not */
                void *next = *(void **)list;
                errno = 0;
                CHECK(fh_heap_realloc(heap, FH_DOMAIN_OBJ, list, 500) == NULL && errno == ENOMEM);
                CHECK(fh_heap_of(list) == heap && *(void **)list == next);
                errno = 77;
                CHECK(fh_heap_realloc(heap, FH_DOMAIN_OBJ, list, 20) == list && errno == 77);
                list = fh_heap_realloc(heap, FH_DOMAIN_OBJ, list, 5000);
                CHECK(list != NULL && *(void **)list == next);
            }
            give_list(heap, list);
            end_heap(heap);
            CHECK(source.in_use == 0);
        }
}

static struct source default_source = {.limit = FOREVER};

TEST(the_default_source_may_change_while_nobody_uses_it)
{
    fh_arena_allocator shared, now;
    const fh_arena_allocator other = allocator_of(&default_source);
    const fh_arena_allocator bad = {&default_source, source_alloc, NULL};
    fh_get_arena_allocator(&shared);
    CHECK(shared.alloc != NULL && shared.free != NULL);
    errno = 0;
    CHECK(fh_set_arena_allocator(&bad) == -1 && errno == EINVAL);
    errno = 0;
    CHECK(fh_set_arena_allocator(NULL) == -1 && errno == EINVAL);
    fh_heap *before = heap_of_mode(FH_OBJ_FREE);
    CHECK(fh_set_arena_allocator(&other) == 0);
    fh_get_arena_allocator(&now);
    CHECK(now.context == &default_source && now.alloc == source_alloc);
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    void *of_before = take(before, 10);
    CHECK(default_source.calls == 0);
    void *block = take(heap, 10);
    CHECK(default_source.in_use == 1);
    errno = 0;
    CHECK(fh_set_arena_allocator(&shared) == -1 && errno == EBUSY);
    give(heap, block);
    give(before, of_before);
    end_heap(heap);
    end_heap(before);
    CHECK(default_source.in_use == 0 && fh_set_arena_allocator(&shared) == 0);
    fh_get_arena_allocator(&now);
    CHECK(now.alloc == shared.alloc);
}

static fh_arena_allocator wrapped_source;

static void *counting_alloc(void *context, size_t bytes)
{
    ++*(unsigned *)context;
    return wrapped_source.alloc(wrapped_source.context, bytes);
}

static void counting_free(void *context, void *memory, size_t bytes)
{
    --*(unsigned *)context;
    wrapped_source.free(wrapped_source.context, memory, bytes);
}

TEST(the_shared_source_can_be_wrapped)
{
    unsigned count = 0;
    fh_get_arena_allocator(&wrapped_source);
    for (unsigned i = 0; i < GEOMETRIES * MODES; i++) {
        fh_heap_config config = config_of(modes[i % MODES]);
        config.geometry = geometries[i / MODES];
        if (config.geometry.arena_bytes > 1 << 20 && FH_ARENA_BYTES < 1 << 20)
            continue; /* the tiny region has no room for it */
        config.arena = (fh_arena_allocator){&count, counting_alloc, counting_free};
        fh_heap *heap = new_heap(&config);
        void *block = take(heap, 100);
        void *large = take(heap, 1000);
        CHECK(count == 1);
        check_whole(heap);
        give(heap, block);
        give(heap, large);
        end_heap(heap);
        CHECK(count == 0);
    }
}

/* ---- Looking ----------------------------------------------------------------------------------
 */

struct seen {
    unsigned count;
    size_t bytes;
    unsigned stop_at;
};

static int see(void *context, void *block, size_t bytes)
{
    struct seen *seen = context;
    CHECK(fh_usable_size(block) == bytes && *(unsigned char *)block == 0xC5);
    memset(block, 0xAA, bytes);
    seen->bytes += bytes;
    return ++seen->count == seen->stop_at ? -5 : 0;
}

static void see_all(fh_heap *heap)
{
    enum { BLOCKS = 3000 };
    static void *blocks[BLOCKS];
    struct seen seen = {0};
    for (unsigned i = 0; i < BLOCKS; i++)
        blocks[i] = take(heap, i % 700);
    for (unsigned i = 0; i < BLOCKS; i += 3) {
        give(heap, blocks[i]);
        blocks[i] = NULL;
    }
    CHECK(fh_heap_visit_blocks(heap, see, &seen) == 0);
    fh_heap_stats stats = stats_of(heap);
    CHECK(seen.count == BLOCKS / 3 * 2 && seen.count == stats.live_blocks);
    CHECK(seen.bytes == stats.live_bytes && stats.large_blocks > 0);
    for (unsigned i = 0; i < BLOCKS; i++)
        give(heap, blocks[i]);
}

TEST(every_live_block_is_visited_once)
{
    in_each_mode(see_all);
}

TEST(a_visit_ends_when_it_is_told_to)
{
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    void *blocks[4] = {take(heap, 10), take(heap, 1000), take(heap, 20), take(heap, 2000)};
    for (unsigned stop_at = 1; stop_at <= 4; stop_at++) {
        struct seen seen = {.stop_at = stop_at};
        for (unsigned i = 0; i < 4; i++)
            memset(blocks[i], 0xC5, 10);
        CHECK(fh_heap_visit_blocks(heap, see, &seen) == -5 && seen.count == stop_at);
    }
    for (unsigned i = 0; i < 4; i++)
        give(heap, blocks[i]);
    end_heap(heap);
}

TEST(the_default_heap_cannot_be_looked_into)
{
    struct seen seen = {0};
    fh_heap_stats stats = {.struct_bytes = sizeof stats};
    for (int i = 0; i < 2; i++) {
        fh_heap *heap = i == 0 ? NULL : fh_heap_default();
        errno = 0;
        CHECK(fh_heap_visit_blocks(heap, see, &seen) == -1 && errno == EINVAL);
        errno = 0;
        CHECK(fh_heap_check(heap, STDERR_FILENO) == -1 && errno == EINVAL);
        errno = 0;
        CHECK(fh_heap_get_stats(heap, &stats) == -1 && errno == EINVAL);
        errno = 0;
        CHECK(fh_heap_write_stats(heap, STDERR_FILENO) == -1 && errno == EINVAL);
        CHECK(fh_heap_drain(heap) == 0);
    }
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    stats.struct_bytes = 8;
    errno = 0;
    CHECK(fh_heap_get_stats(heap, &stats) == -1 && errno == EINVAL);
    end_heap(heap);
}

static size_t read_back(int fd, char *text, size_t bytes)
{
    CHECK(lseek(fd, 0, SEEK_SET) == 0);
    ssize_t count = read(fd, text, bytes - 1);
    CHECK(count >= 0);
    text[count] = '\0';
    return (size_t)count;
}

static int new_file(void)
{
    FILE *file = tmpfile();
    CHECK(file != NULL);
    return fileno(file);
}

TEST(damage_is_found_and_written_down)
{
    char text[4096];
    fh_heap *heap = heap_of_mode(FH_OBJ_GIL_ASSERT);
    int fd = new_file();
    char *block = take(heap, 64);
    char *next = take(heap, 64);
    char *large = take(heap, 640);
    CHECK(next == block + 64 && fh_heap_check(heap, fd) == 0 && read_back(fd, text, 4096) == 0);
    give(heap, next);
    memset(next, 0x11, 8); /* a use after free: of the link */
    CHECK(fh_heap_check(heap, fd) > 0);
    CHECK(read_back(fd, text, sizeof text) > 0 && strstr(text, "free list is damaged") != NULL);
    CHECK(strncmp(text, "freehold: heap 0x", 17) == 0);
    struct fh_large_header *header = fh_large_at(large);
    header->mark++;
    CHECK(fh_heap_check(heap, fd) > 1);
    (void)read_back(fd, text, sizeof text);
    CHECK(strstr(text, "a large block's header is damaged") != NULL);
    CHECK(fh_heap_destroy(heap, FH_DESTROY_FORCE) == 0);
}

static size_t text_of_engine(struct fh_classic *classic, int fd)
{
    (void)classic;
    return (size_t)lseek(fd, 0, SEEK_END);
}

TEST(the_text_of_the_figures_is_the_engines)
{
    static char text[65536];
    for (unsigned i = 0; i < MODES; i++) {
        fh_heap *heap = heap_of_mode(modes[i]);
        void *block = take(heap, 64);
        int fd = new_file();
        CHECK(fh_heap_write_stats(heap, fd) == 0);
        CHECK(text_of_engine(NULL, fd) == read_back(fd, text, sizeof text));
        CHECK(strncmp(text, "Small block threshold = 512, in 32 size classes.\n", 49) == 0);
        CHECK(strstr(text, "    3     64           1               1            62\n") != NULL);
        CHECK(strstr(text, "1 arenas * 262144 bytes/arena      =              262,144\n") != NULL);
        give(heap, block);
        end_heap(heap);
    }
}

static bool count_heap(void *context, struct fh_heap *heap)
{
    unsigned *count = context;
    CHECK(stats_of(heap).live_blocks == 0);
    return ++*count < 3;
}

TEST(each_live_heap_is_found)
{
    unsigned count = 0;
    fh_heap *heaps[5];
    CHECK(fh_heap_each(count_heap, &count) && count == 0);
    heaps[0] = heap_of_mode(FH_OBJ_FREE);
    heaps[1] = heap_of_mode(FH_OBJ_GIL_LOCK);
    CHECK(fh_heap_each(count_heap, &count) && count == 2);
    end_heap(heaps[1]);
    count = 0;
    CHECK(fh_heap_each(count_heap, &count) && count == 1);
    heaps[1] = heap_of_mode(FH_OBJ_GIL_ASSERT); /* in the place of the last */
    for (unsigned i = 2; i < 5; i++)
        heaps[i] = heap_of_mode(modes[i % MODES]);
    count = 0;
    CHECK(!fh_heap_each(count_heap, &count) && count == 3);
    for (unsigned i = 0; i < 5; i++)
        end_heap(heaps[i]);
}

/* ---- Threads ----------------------------------------------------------------------------------
 */

enum { THREADS = 4, SLOTS = 64 };

struct shared {
    fh_heap *heap;
    void *slots[SLOTS]; /* blocks on their way between threads */
};

static void *exchange(void **slot, void *block)
{
    return __atomic_exchange_n(slot, block, __ATOMIC_ACQ_REL);
}

static void check_and_give(fh_heap *heap, unsigned char *block)
{
    if (block == NULL)
        return;
    size_t bytes = fh_usable_size(block);
    CHECK(bytes >= 2 && block[0] == block[bytes - 1]);
    give(heap, block);
}

static uint32_t some_bytes(uint64_t *seed)
{
    uint32_t bytes = 2 + random_below(seed, THRESHOLD - 1);
    return random_below(seed, 20) == 0 ? bytes + 1000 + random_below(seed, 40000) : bytes;
}

static unsigned char *marked(uint64_t *seed, unsigned char *block)
{
    size_t bytes = fh_usable_size(block);
    block[0] = block[bytes - 1] = (unsigned char)random_below(seed, 256);
    return block;
}

static unsigned char *perhaps_resized(fh_heap *heap, uint64_t *seed, unsigned char *block)
{
    if (random_below(seed, 4) != 0)
        return block;
    unsigned char *resized = fh_heap_realloc(heap, FH_DOMAIN_OBJ, block, some_bytes(seed));
    return resized == NULL ? block : resized;
}

static void pass_blocks_round(unsigned number, void *argument)
{
    struct shared *shared = argument;
    uint64_t seed = number + 1;
    struct bound bound = at_most(30000);
    while (more(&bound)) {
        unsigned char *block = fh_heap_malloc(shared->heap, FH_DOMAIN_OBJ, some_bytes(&seed));
        if (block == NULL)
            continue; /* there is a limit */
        block = marked(&seed, perhaps_resized(shared->heap, &seed, block));
        void **slot = &shared->slots[random_below(&seed, SLOTS)];
        check_and_give(shared->heap, exchange(slot, block));
    }
}

static void pass_round_in(const fh_heap_config *config, size_t limit_bytes)
{
    static struct shared shared;
    memset(&shared, 0, sizeof shared);
    shared.heap = new_heap(config);
    together(THREADS, pass_blocks_round, &shared);
    check_whole(shared.heap);
    (void)fh_heap_drain(shared.heap);
    fh_heap_stats stats = stats_of(shared.heap);
    size_t live = 0;
    for (unsigned i = 0; i < SLOTS; i++)
        live += shared.slots[i] != NULL;
    CHECK(stats.live_blocks == live && stats.deferred_blocks == 0);
    CHECK(limit_bytes == 0 || stats.arenas_bytes + stats.large_bytes <= limit_bytes);
    for (unsigned i = 0; i < SLOTS; i++)
        check_and_give(shared.heap, shared.slots[i]);
    end_heap(shared.heap);
}

TEST(threads_pass_blocks_round_in_a_free_heap)
{
    fh_heap_config config = small_config(FH_OBJ_FREE);
    pass_round_in(&config, 0);
}

TEST(threads_pass_blocks_round_in_a_heap_that_takes_its_lock)
{
    fh_gil_lock memory = {{0}};
    const fh_gil gil = fh_gil_of(&memory);
    fh_heap_config config = small_config(FH_OBJ_GIL_LOCK);
    config.gil = &gil;
    pass_round_in(&config, 0);
}

TEST(threads_that_race_for_a_limit_do_not_exceed_it)
{
    fh_heap_config config = small_config(FH_OBJ_FREE);
    config.arenas_max = 3;
    pass_round_in(&config, 0);
    config.arenas_max = 0;
    config.limit_bytes = 3 * SMALL_ARENA_BYTES + 100000;
    config.spare_arenas = FH_SPARE_ARENAS_NONE;
    pass_round_in(&config, config.limit_bytes);
}

struct race {
    fh_heap *heap;
    uint64_t taken;
};

enum { LARGE_EACH = 4032, LARGE_OF_ALL = 1000 };

static void take_what_there_is(unsigned number, void *argument)
{
    struct race *race = argument;
    (void)number;
    while (fh_heap_malloc(race->heap, FH_DOMAIN_MEM, LARGE_EACH) != NULL)
        __atomic_fetch_add(&race->taken, 1, __ATOMIC_RELAXED);
}

TEST(a_limit_is_reached_exactly_however_many_race)
{
    fh_heap_config config = small_config(FH_OBJ_FREE);
    config.limit_bytes = LARGE_OF_ALL * (LARGE_EACH + FH_LARGE_HEADER_BYTES) + 100;
    struct race race = {new_heap(&config), 0};
    together(THREADS, take_what_there_is, &race);
    CHECK(race.taken == LARGE_OF_ALL);
    check_whole(race.heap);
    CHECK(fh_heap_destroy(race.heap, FH_DESTROY_FORCE) == 0);
}

static void use_own_heap(unsigned number, void *unused)
{
    (void)unused;
    uint64_t seed = number + 1;
    struct bound bound = at_most(200);
    while (more(&bound)) {
        fh_heap_config config = small_config(modes[random_below(&seed, 2)]);
        fh_heap *heap = new_heap(&config);
        CHECK(fh_heap_set_current(heap) == fh_heap_default());
        for (unsigned i = 0; i < 200; i++) {
            void *block = fh_obj_malloc(some_bytes(&seed));
            CHECK(fh_heap_of(block) == heap);
            if (random_below(&seed, 2) == 0)
                fh_obj_free(block);
        }
        check_whole(heap);
        CHECK(fh_heap_destroy(heap, FH_DESTROY_FORCE) == 0);
        CHECK(fh_heap_current() == fh_heap_default());
    }
}

TEST(threads_make_and_destroy_heaps)
{
    together(THREADS, use_own_heap, NULL);
    unsigned count = 0;
    CHECK(fh_heap_each(count_heap, &count) && count == 0);
}

static void defer_all(unsigned number, void *argument)
{
    void **blocks = argument;
    for (unsigned i = number; i < 4000; i += THREADS)
        fh_obj_free_deferred(blocks[i]);
}

TEST(threads_without_the_lock_free_what_another_made)
{
    static void *blocks[4000];
    fh_heap *heap = heap_of_mode(FH_OBJ_GIL_ASSERT);
    for (unsigned i = 0; i < 4000; i++)
        blocks[i] = take(heap, i % 1000);
    together(THREADS, defer_all, blocks);
    CHECK(stats_of(heap).large_blocks == 0);
    (void)fh_heap_drain(heap);
    CHECK(stats_of(heap).live_blocks == 0);
    end_heap(heap);
}

/* ---- Stopped threads, signals, fork -----------------------------------------------------------
 */

/* As if a thread had stopped in it: the part is entered and never left. */
TEST(a_thread_that_stopped_withholds_its_part_alone)
{
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    void *block = take(heap, 40);
    struct fh_heap_part *part = fh_part_enter(heap);
    CHECK(part != NULL && part == fh_address_part(block));
    void *other = take(heap, 40);
    CHECK(fh_address_part(other) != part);
    give(heap, other);
    give(heap, block); /* deferred */
    void *large = take(heap, 4000);
    give(heap, large);
    CHECK(fh_classic_deferred_count(fh_part_classic(part)) == 1);
    fh_part_leave(part);
    CHECK(stats_of(heap).deferred_blocks == 1 && fh_heap_drain(heap) == 1);
    end_heap(heap);
}

/* A source of one arena, and of a caller who leaves a part when the source is asked for so many. */
static struct {
    struct fh_heap_part *busy;
    unsigned calls, leaves_at;
    char memory[SMALL_ARENA_BYTES] __attribute__((aligned(SMALL_POOL_BYTES)));
} only;

static void *only_alloc(void *context, size_t bytes)
{
    (void)context;
    CHECK(bytes == sizeof only.memory);
    if (++only.calls == only.leaves_at)
        fh_part_leave(only.busy);
    return only.calls == 1 ? only.memory : NULL;
}

static void only_free(void *context, void *memory, size_t bytes)
{
    (void)context, (void)bytes;
    CHECK(memory == only.memory);
}

/* A heap whose part with the arena is busy. */
static fh_heap *heap_with_busy_arena(unsigned leaves_at)
{
    fh_heap_config config = small_config(FH_OBJ_FREE);
    config.arena = (fh_arena_allocator){NULL, only_alloc, only_free};
    fh_heap *heap = new_heap(&config);
    only.calls = 0;
    only.leaves_at = leaves_at;
    give(heap, take(heap, 40));
    only.busy = fh_part_enter(heap);
    CHECK(only.busy != NULL && only.calls == 1);
    return heap;
}

/* The second call is for the part that is entered first, the third for the same in the pass over
 * all, in which the busy part was already met. */
TEST(a_part_that_was_busy_is_asked_again_once_its_caller_gets_on)
{
    fh_heap *heap = heap_with_busy_arena(3);
    void *block = take(heap, 40);
    CHECK(only.calls == 3 && fh_address_part(block) == only.busy);
    give(heap, block);
    end_heap(heap);
}

TEST(a_part_whose_caller_stopped_is_not_asked_for_ever)
{
    fh_heap *heap = heap_with_busy_arena(0);
    errno = 0;
    CHECK(fh_heap_malloc(heap, FH_DOMAIN_OBJ, 40) == NULL && errno == ENOMEM);
    CHECK(only.calls < 1000);
    fh_part_leave(only.busy);
    end_heap(heap);
}

TEST(a_heap_with_a_limit_is_sound_although_somebody_stopped_in_it)
{
    fh_heap_config config = small_config(FH_OBJ_FREE);
    config.limit_bytes = 1 << 20;
    fh_heap *heap = new_heap(&config);
    give(heap, take(heap, 40));
    struct fh_heap_part *part = fh_part_enter(heap);
    CHECK(part != NULL && fh_heap_check(heap, STDERR_FILENO) == 0);
    CHECK(fh_heap_reserve(heap, 100)); /* and before a large block was there */
    CHECK(fh_heap_check(heap, STDERR_FILENO) == 0);
    fh_heap_unreserve(heap, 100);
    struct fh_large_header *header = fh_large_at(take(heap, 4000));
    uint64_t mark = header->mark;
    header->mark = 0; /* and while one was freed */
    CHECK(fh_heap_check(heap, STDERR_FILENO) == 0);
    header->mark = mark;
    give(heap, header + 1);
    fh_part_leave(part);
    check_whole(heap);
    fh_heap_unreserve(heap, 100);
    CHECK(fh_heap_check(heap, new_file()) == 1);
    CHECK(fh_heap_reserve(heap, 100));
    end_heap(heap);
}

TEST(a_heap_that_somebody_stopped_in_can_be_destroyed)
{
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    void *block = take(heap, 40);
    CHECK(fh_part_enter(heap) != NULL);
    errno = 0;
    CHECK(fh_heap_destroy(heap, 0) == -1 && errno == EBUSY);
    CHECK(fh_heap_destroy(heap, FH_DESTROY_FORCE) == 0);
    fh_heap *next = heap_of_mode(FH_OBJ_FREE);
    CHECK(next != heap && fh_heap_of(block) == heap); /* not known to be free */
    end_heap(next);
}

TEST(as_many_calls_at_once_as_there_can_be_parts)
{
    static struct fh_heap_part *parts[FH_HEAP_PARTS_MAX];
    fh_heap *heap = heap_of_mode(FH_OBJ_FREE);
    for (unsigned i = 0; i < FH_HEAP_PARTS_MAX; i++)
        CHECK((parts[i] = fh_part_enter(heap)) != NULL);
    CHECK(fh_part_enter(heap) == NULL);
    errno = 0;
    CHECK(fh_heap_malloc(heap, FH_DOMAIN_OBJ, 10) == NULL && errno == ENOMEM);
    fh_part_leave(parts[77]);
    void *block = take(heap, 10);
    CHECK(fh_address_part(block) == parts[77]);
    give(heap, block);
    for (unsigned i = 0; i < FH_HEAP_PARTS_MAX; i++)
        if (i != 77)
            fh_part_leave(parts[i]);
    end_heap(heap);
}

static fh_heap *point_heap;
static void *point_blocks[8];

static void begin_at_point(void)
{
    point_heap = heap_of_mode(FH_OBJ_FREE);
    for (unsigned i = 0; i < 8; i++)
        point_blocks[i] = take(point_heap, i % 2 == 0 ? 100 : 1000);
}

static void call_each(unsigned first)
{
    void *made = take(point_heap, 100);
    void *large = take(point_heap, 1500);
    give(point_heap, point_blocks[first]);
    give(point_heap, point_blocks[first + 1]);
    point_blocks[first + 2] =
        fh_heap_realloc(point_heap, FH_DOMAIN_OBJ, point_blocks[first + 2], 300);
    point_blocks[first + 3] =
        fh_heap_realloc(point_heap, FH_DOMAIN_OBJ, point_blocks[first + 3], 3000);
    CHECK(point_blocks[first + 2] != NULL && point_blocks[first + 3] != NULL);
    give(point_heap, made);
    give(point_heap, large);
}

static void call_interrupted(void)
{
    call_each(0);
}

static void call_in_handler(void)
{
    call_each(4);
}

static void check_after_point(void)
{
    check_whole(point_heap);
    (void)fh_heap_drain(point_heap);
    CHECK(stats_of(point_heap).live_blocks == 4);
    give(point_heap, point_blocks[2]);
    give(point_heap, point_blocks[3]);
    give(point_heap, point_blocks[6]);
    give(point_heap, point_blocks[7]);
    end_heap(point_heap);
}

TEST(a_handler_may_use_the_free_heap_that_it_interrupted)
{
    at_every_point(begin_at_point, call_interrupted, call_in_handler, check_after_point);
}

static fh_heap *signal_heap;
static volatile sig_atomic_t handled;

static void on_signal(int number)
{
    (void)number;
    int saved_errno = errno;
    void *block = fh_heap_malloc(signal_heap, FH_DOMAIN_OBJ, 100);
    CHECK(block != NULL);
    fh_heap_free(signal_heap, FH_DOMAIN_OBJ, block);
    void *large = fh_heap_malloc(signal_heap, FH_DOMAIN_OBJ, 5000);
    CHECK(large != NULL);
    fh_heap_free(signal_heap, FH_DOMAIN_OBJ, large);
    handled = handled + 1;
    errno = saved_errno;
}

TEST(a_timer_may_interrupt_a_free_heap_at_any_instruction)
{
    struct sigaction action = {.sa_handler = on_signal};
    timer_t timer;
    struct itimerspec every = {{.tv_nsec = 200000}, {.tv_nsec = 200000}};
    uint64_t seed = 5;
    signal_heap = heap_of_mode(FH_OBJ_FREE);
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(timer_create(CLOCK_MONOTONIC, NULL, &timer) == 0);
    CHECK(timer_settime(timer, 0, &every, NULL) == 0);
    struct bound bound = at_most(2000000);
    while (more(&bound) && handled < 300) {
        void *block = fh_heap_malloc(signal_heap, FH_DOMAIN_OBJ, some_bytes(&seed));
        CHECK(block != NULL);
        fh_heap_free(signal_heap, FH_DOMAIN_OBJ, block);
    }
    CHECK(timer_delete(timer) == 0 && handled > 0);
    (void)fh_heap_drain(signal_heap);
    end_heap(signal_heap);
}

static struct shared fork_shared;

static void use_in_child(void)
{
    uint64_t seed = 9;
    for (unsigned i = 0; i < 2000; i++)
        give(fork_shared.heap, take(fork_shared.heap, some_bytes(&seed)));
    for (unsigned i = 0; i < SLOTS; i++)
        check_and_give(fork_shared.heap, exchange(&fork_shared.slots[i], NULL));
    CHECK(fh_heap_destroy(fork_shared.heap, FH_DESTROY_FORCE) == 0);
    end_heap(heap_of_mode(FH_OBJ_FREE));
}

static void fork_or_go_on(unsigned number, void *shared)
{
    if (number != 0) {
        pass_blocks_round(number, shared);
        return;
    }
    struct bound bound = at_most(20);
    while (more(&bound))
        in_child(use_in_child);
}

TEST(a_child_goes_on_with_a_heap_that_others_were_inside_of)
{
    fork_shared.heap = heap_of_mode(FH_OBJ_FREE);
    together(3, fork_or_go_on, &fork_shared);
    for (unsigned i = 0; i < SLOTS; i++)
        check_and_give(fork_shared.heap, fork_shared.slots[i]);
    (void)fh_heap_drain(fork_shared.heap);
    end_heap(fork_shared.heap);
}

/* ---- The lock ---------------------------------------------------------------------------------
 */

struct watched_lock {
    unsigned depth, acquired;
};

static int watched_held(void *ctx)
{
    return ((struct watched_lock *)ctx)->depth > 0;
}

static void watched_acquire(void *ctx)
{
    struct watched_lock *lock = ctx;
    lock->depth++;
    lock->acquired++;
}

static void watched_release(void *ctx)
{
    struct watched_lock *lock = ctx;
    CHECK(lock->depth-- > 0);
}

TEST(each_call_takes_the_lock_and_gives_it_back)
{
    struct watched_lock lock = {0};
    fh_gil gil = {&lock, watched_held, watched_acquire, watched_release, NULL};
    fh_heap_config config = small_config(FH_OBJ_GIL_LOCK);
    config.gil = &gil;
    fh_heap *heap = new_heap(&config);
    gil.acquire = NULL; /* it has a copy */
    void *block = fh_heap_malloc(heap, FH_DOMAIN_OBJ, 10);
    CHECK(lock.acquired == 1 && lock.depth == 0);
    block = fh_heap_realloc(heap, FH_DOMAIN_OBJ, block, 100);
    CHECK(lock.acquired >= 2 && lock.depth == 0);
    unsigned acquired = lock.acquired;
    fh_obj_free(block);
    CHECK(lock.acquired == acquired + 1 && lock.depth == 0);
    fh_obj_free_deferred(fh_heap_malloc(heap, FH_DOMAIN_OBJ, 10));
    CHECK(lock.acquired == acquired + 2 && lock.depth == 0);
    end_heap(heap);
    gil.acquire = watched_acquire;
    config.mode = FH_OBJ_GIL_ASSERT;
    acquired = lock.acquired;
    heap = new_heap(&config);
    give(heap, take(heap, 10));
    end_heap(heap);
    CHECK(lock.acquired == acquired);
}

static void errno_acquire(void *ctx)
{
    (void)ctx;
    errno = 5;
}

TEST(a_lock_that_changes_errno_is_not_heard_of_by_who_frees)
{
    struct watched_lock lock = {.depth = 1};
    const fh_gil gil = {&lock, watched_held, errno_acquire, errno_acquire, NULL};
    fh_heap_config config = small_config(FH_OBJ_GIL_LOCK);
    config.gil = &gil;
    fh_heap *heap = new_heap(&config);
    void *block = take(heap, 40);
    errno = 77;
    give(heap, block);
    CHECK(errno == 77);
    end_heap(heap);
}

/* ---- Under the debug hooks --------------------------------------------------------------------
 */

static void use_under_hooks(fh_heap *heap)
{
    void *blocks[600];
    (void)fh_heap_set_current(heap);
    for (size_t bytes = 0; bytes < 600; bytes++) {
        blocks[bytes] = bytes % 2 == 0 ? fh_obj_malloc(bytes) : fh_mem_calloc(1, bytes);
        CHECK(blocks[bytes] != NULL && fh_heap_of(blocks[bytes]) != NULL);
    }
    CHECK(stats_of(heap).live_blocks == 600);
    for (size_t bytes = 0; bytes < 600; bytes += 2)
        blocks[bytes] = fh_obj_realloc(blocks[bytes], 600 - bytes);
    for (size_t bytes = 0; bytes < 600; bytes++)
        bytes % 2 == 0 ? fh_obj_free(blocks[bytes]) : fh_mem_free(blocks[bytes]);
    void *block = fh_obj_malloc(24);
    fh_obj_free_deferred(block);
    (void)fh_debug_flush();
    (void)fh_heap_drain(heap);
    check_empty(heap);
    (void)fh_heap_set_current(NULL);
}

static void use_bare_under_hooks(fh_heap *heap)
{
    void *small = take(heap, 40); /* not of the hooks, yet freed by way of them */
    void *large = take(heap, 4000);
    fh_obj_free(small);
    large = fh_obj_realloc(large, 5000);
    CHECK(large != NULL);
    fh_obj_free(large);
    (void)fh_debug_flush();
    (void)fh_heap_drain(heap);
    check_empty(heap);
}

static void use_hooks(fh_heap_config config)
{
    for (unsigned i = 0; i < MODES; i++) {
        config.mode = modes[i];
        fh_heap *heap = new_heap(&config);
        fh_gil_acquire(fh_gil_builtin()); /* the hooks look */
        use_under_hooks(heap);
        use_bare_under_hooks(heap);
        fh_gil_release(fh_gil_builtin());
        end_heap(heap);
    }
}

static struct source hook_source = {.limit = FOREVER, .offset_bytes = 48};

static void use_hooks_of_each_kind(void)
{
    fh_heap_config config = small_config(FH_OBJ_FREE);
    use_hooks(config);
    config.geometry.alignment_bytes = 8;
    use_hooks(config);
    config.arena = allocator_of(&hook_source);
    use_hooks(config);
}

TEST(hooks_before_the_first_heap)
{
    CHECK(fh_debug_setup() == 0);
    use_hooks_of_each_kind();
}

TEST(hooks_after_the_first_heap)
{
    fh_heap *heap = heap_of_mode(FH_OBJ_GIL_ASSERT);
    (void)fh_heap_set_current(heap);
    void *before = fh_obj_malloc(50);
    CHECK(fh_debug_setup() == 0);
    fh_gil_acquire(fh_gil_builtin());
    fh_obj_free(before); /* as what it is */
    fh_gil_release(fh_gil_builtin());
    use_hooks_of_each_kind();
    CHECK(fh_debug_teardown() == 0);
    end_heap(heap);
}

static void overflow(void)
{
    fh_gil_acquire(fh_gil_builtin());
    char *block = fh_obj_malloc(20);
    block[20] = 1;
    fh_obj_free(block);
}

static void call_without_lock(void)
{
    fh_obj_free(fh_obj_malloc(20));
}

static void call_allocator_without_lock(void)
{
    fh_allocator allocator;
    CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &fh_domain_bottom) == 0);
    CHECK(fh_heap_get_allocator(fh_heap_current(), FH_DOMAIN_OBJ, &allocator) == 0);
    (void)fh_heap_set_current(NULL);
    CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &allocator) == 0 && fh_debug_setup() == 0);
    call_without_lock();
}

/* In a child, under the hooks, with a gil-assert heap as the current one. */
static void check_named(void (*run)(void), const char *what)
{
    static char text[65536];
    fh_heap *heap = heap_of_mode(FH_OBJ_GIL_ASSERT);
    int fd = new_file();
    CHECK(fh_debug_setup() == 0);
    (void)fh_heap_set_current(heap);
    pid_t child = fork();
    if (child == 0) {
        CHECK(dup2(fd, STDERR_FILENO) == STDERR_FILENO);
        run();
        _exit(0);
    }
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(read_back(fd, text, sizeof text) > 0 && strstr(text, what) != NULL);
    end_heap(heap);
}

TEST(hooks_see_what_is_written_beyond_a_heaps_block)
{
    check_named(overflow, "bad trailing pad byte");
}

TEST(hooks_see_a_call_without_the_lock_of_the_heap)
{
    check_named(call_without_lock, "called without holding the GIL");
    check_named(call_allocator_without_lock, "called without holding the GIL");
}

/* ---- The quarantine ---------------------------------------------------------------------------
 */

static void flush(void *unused)
{
    (void)unused;
    CHECK(fh_debug_flush() > 0);
}

/* Its lock is held here, so that there it can neither be used nor waited for. */
TEST(what_leaves_the_quarantine_elsewhere_is_left_to_the_holder)
{
    CHECK(fh_debug_setup() == 0);
    for (unsigned i = 1; i < MODES; i++) {
        fh_heap *heap = heap_of_mode(modes[i]);
        (void)fh_heap_set_current(heap);
        fh_gil_acquire(fh_gil_builtin());
        fh_obj_free(fh_obj_malloc(40));
        elsewhere(flush, NULL);
        CHECK(stats_of(heap).deferred_blocks == 1 && fh_heap_drain(heap) == 1);
        fh_gil_release(fh_gil_builtin());
        end_heap(heap);
    }
}

static void flush_if_any(void *unused)
{
    (void)unused;
    (void)fh_debug_flush();
}

TEST(what_is_in_quarantine_goes_with_its_heap)
{
    CHECK(fh_debug_setup() == 0);
    for (unsigned i = 0; i < 2 * MODES; i++) {
        fh_heap *heap = heap_of_mode(modes[i % MODES]);
        fh_gil_acquire(fh_gil_builtin());
        char *others = fh_obj_malloc(50);
        (void)fh_heap_set_current(heap);
        fh_obj_free(fh_obj_malloc(40));
        fh_obj_free(fh_obj_malloc(4000));
        fh_obj_free(others);
        CHECK(fh_heap_destroy(heap, i < MODES ? 0 : FH_DESTROY_FORCE) == 0);
        CHECK(fh_debug_flush() >= 50); /* others' blocks stayed */
        fh_gil_release(fh_gil_builtin());
        elsewhere(flush_if_any, NULL);
    }
}

static void free_without_lock(void *block)
{
    fh_obj_free_deferred(block);
}

static int is_held(void *gil)
{
    return fh_gil_held(gil);
}

/* Neither the heap's own check nor the one that the program plugged in minds. */
TEST(hooks_let_those_without_the_lock_free_deferred)
{
    void *gil = (void *)(uintptr_t)fh_gil_builtin();
    fh_heap *heap = heap_of_mode(FH_OBJ_GIL_ASSERT);
    (void)fh_heap_set_current(heap);
    CHECK(fh_debug_setup() == 0 && fh_debug_set_gil_check(FH_DOMAIN_OBJ, is_held, gil) == 0);
    fh_gil_acquire(fh_gil_builtin());
    void *block = fh_obj_malloc(40);
    elsewhere(free_without_lock, block);
    (void)fh_debug_flush();
    CHECK(fh_heap_drain(heap) == 1);
    fh_gil_release(fh_gil_builtin());
    end_heap(heap);
}

/* ---- Addresses that are no blocks -------------------------------------------------------------
 */

enum { GUARD_BYTES = 128 << 10, ODD_BYTES = 4 << 10 };

/* Nothing can be read for long before and behind it, and it begins and ends inside a pool. */
static void *guarded_alloc(void *context, size_t bytes)
{
    char *memory = mmap(NULL, bytes + (size_t)(2 * GUARD_BYTES), PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    char *start =
        (char *)(((uintptr_t)memory + GUARD_BYTES / 2) & ~(uintptr_t)(GUARD_BYTES / 2 - 1));
    start += ODD_BYTES;
    CHECK(mprotect(start, bytes, PROT_READ | PROT_WRITE) == 0);
    *(char **)context = start;
    return start;
}

static void guarded_free(void *context, void *memory, size_t bytes)
{
    CHECK(memory == *(char **)context && mprotect(memory, bytes, PROT_NONE) == 0);
}

TEST(where_an_arena_has_no_whole_pool_there_is_no_block)
{
    char *start = NULL;
    fh_heap_config config = small_config(FH_OBJ_FREE);
    config.geometry.pool_bytes = 16 << 10;
    config.arena = (fh_arena_allocator){&start, guarded_alloc, guarded_free};
    fh_heap *heap = new_heap(&config);
    void *block = take(heap, 40);
    char *end = start + SMALL_ARENA_BYTES;
    CHECK(fh_heap_of(start) == heap && fh_address_is_block(block));
    CHECK(!fh_address_is_block(start + 64) && fh_usable_size(start + 64) == 0);
    CHECK(!fh_address_is_block(end - 64) && fh_usable_size(end - 64) == 0);
    fh_debug_dump_address(new_file(), start + 64);
    give(heap, block);
    end_heap(heap);
}
