/* SPDX-License-Identifier: MIT */
/* observe/stats.h against what a test itself knows. */
#include "modules.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena.h"
#include "classic.h"
#include "freehold/debug.h"
#include "freehold/heap.h"
#include "freehold/stats.h"
#include "large.h"
#include "os.h"
#include "stats.h"
#include "thread.h"
#include "trace.h"

/* What stats.h says of sums, however the pools changed while they were taken.
 */
static void check_parts(const struct fh_sums *sums)
{
    size_t parts = sums->small_pool_bytes + sums->span_bytes + sums->large_pool_bytes +
                   sums->huge_pool_bytes + sums->classic_bytes;
    CHECK(sums->active_bytes == parts);
    CHECK(sums->mapped_bytes == sums->arena_count * FH_ARENA_BYTES);
    CHECK(sums->mapped_bytes ==
          sums->active_bytes + sums->spare_bytes + sums->retained_bytes + sums->purged_bytes);
    CHECK(sums->allocated_bytes + sums->available_bytes + sums->quantization_bytes ==
          sums->active_bytes - sums->classic_bytes);
    CHECK(sums->large_bytes <= sums->allocated_bytes &&
          sums->large_blocks <= sums->allocated_blocks);
    CHECK(sums->allocated_bytes <= sums->active_bytes && sums->arenas_opened >= sums->arena_count);
}

static void check_equal(const struct fh_sums *sums, size_t blocks, size_t bytes)
{
    check_parts(sums);
    CHECK(sums->allocated_blocks == blocks && sums->allocated_bytes == bytes);
    CHECK(sums->active_bytes >= bytes && sums->mapped_bytes == sums->arena_count * FH_ARENA_BYTES);
    CHECK(sums->active_bytes + sums->retained_bytes <= sums->mapped_bytes);
}

TEST(without_a_region_every_sum_is_zero)
{
    struct fh_sums sums = fh_stats_sum();
    CHECK(is_zero(&sums, sizeof sums) && fh_region_peek() == NULL);
}

/* A flush first, so that nothing is ready in a bin. */
TEST(blocks_are_counted_exactly)
{
    enum { BLOCKS = 2000 };
    static void *blocks[BLOCKS];
    uint64_t state = 6;
    size_t count = 0, bytes = 0;
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = fh_raw_malloc(random_below(&state, FH_BLOCK_MAX_BYTES / 4));
        CHECK(blocks[i] != NULL);
        count++;
        bytes += fh_usable_size(blocks[i]);
        if (random_below(&state, 3) == 0) {
            bytes -= fh_usable_size(blocks[i]);
            count--;
            fh_raw_free(blocks[i]);
            blocks[i] = NULL;
        }
    }
    fh_thread_flush();
    struct fh_sums sums = fh_stats_sum();
    check_equal(&sums, count, bytes);
    for (int i = 0; i < BLOCKS; i++)
        fh_raw_free(blocks[i]);
    fh_thread_flush();
    sums = fh_stats_sum();
    check_equal(&sums, 0, 0);
    CHECK(sums.active_bytes == 0);
}

TEST(ready_blocks_count_as_allocated_and_freed_ones_do_not)
{
    void *block = fh_raw_malloc(16);
    struct fh_sums sums = fh_stats_sum();
    size_t carved = fh_theap_pool_of(block)->carved;
    CHECK(sums.allocated_blocks == carved);
    fh_raw_free(block);
    sums = fh_stats_sum();
    CHECK(sums.allocated_blocks == carved || sums.allocated_blocks == carved - 1);
    CHECK(sums.active_bytes == FH_POOL_BYTES);
}

TEST(large_blocks_are_counted_apart)
{
    char *large = fh_raw_malloc(FH_BLOCK_MAX_BYTES + 1);
    char *huge = fh_raw_malloc(2 * (size_t)FH_ARENA_BYTES - 1);
    struct fh_sums sums = fh_stats_sum();
    CHECK(sums.large_blocks == 2 && sums.allocated_blocks == 2);
    CHECK(sums.large_bytes == fh_usable_size(large) + fh_usable_size(huge));
    CHECK(sums.allocated_bytes == sums.large_bytes);
    CHECK(sums.active_bytes == FH_POOL_BYTES + 2 * (size_t)FH_ARENA_BYTES ||
          sums.active_bytes == fh_usable_size(large) + 2 * (size_t)FH_ARENA_BYTES);
    fh_raw_free(large);
    fh_raw_free(huge);
    sums = fh_stats_sum();
    CHECK(sums.large_blocks == 0 && sums.large_bytes == 0 && sums.allocated_bytes == 0);
}

TEST(free_pools_are_retained_until_they_are_returned)
{
    fh_raw_free(fh_raw_malloc(2 * (size_t)FH_POOL_BYTES));
    fh_thread_flush();
    struct fh_sums sums = fh_stats_sum();
    CHECK(sums.retained_bytes == 2 * (size_t)FH_POOL_BYTES);
    CHECK(fh_trim() == 2 * (size_t)FH_POOL_BYTES);
    sums = fh_stats_sum();
    CHECK(sums.retained_bytes == 0 && sums.active_bytes == 0 && sums.arena_count == 1);
}

static void allocate_once(void *argument)
{
    (void)argument;
    fh_raw_free(fh_raw_malloc(1));
}

TEST(a_pool_in_use_again_is_not_retained)
{
    fh_raw_free(fh_raw_malloc(2 * (size_t)FH_POOL_BYTES));
    fh_thread_flush();
    void *block = fh_raw_malloc(2 * (size_t)FH_POOL_BYTES);
    struct fh_sums sums = fh_stats_sum();
    CHECK(sums.retained_bytes == 0 && sums.active_bytes == 2 * (size_t)FH_POOL_BYTES);
    fh_raw_free(block);
}

TEST(heaps_are_counted_once_however_many_threads_used_them)
{
    allocate_once(NULL);
    CHECK(fh_stats_sum().heap_count == 1);
    for (int i = 0; i < 5; i++)
        elsewhere(allocate_once, NULL);
    struct fh_sums sums = fh_stats_sum();
    CHECK(sums.heap_count == 2 && sums.metadata_bytes >= 2 * FH_THEAP_BYTES);
}

/* ---- Parts
 * ----------------------------------------------------------------------------------
 */

TEST(each_kind_of_memory_is_in_a_part_of_its_own)
{
    void *small = fh_raw_malloc(16);
    struct fh_sums sums = fh_stats_sum();
    check_parts(&sums);
    CHECK(sums.small_pool_bytes == FH_POOL_BYTES && sums.active_bytes == FH_POOL_BYTES);
    void *medium = fh_raw_malloc(FH_BLOCK_MAX_BYTES);
    void *large = fh_raw_malloc(FH_BLOCK_MAX_BYTES + 1);
    void *huge = fh_raw_malloc(FH_ARENA_BYTES + 1);
    sums = fh_stats_sum();
    check_parts(&sums);
    size_t pools = fh_class_pools(FH_CLASSES - 1);
    CHECK(sums.small_pool_bytes + sums.span_bytes == (1 + pools) * FH_POOL_BYTES);
    CHECK(sums.span_bytes == (pools == 1 ? 0 : pools * FH_POOL_BYTES));
    CHECK(sums.large_pool_bytes == FH_POOL_BYTES);
    CHECK(sums.huge_pool_bytes == FH_ARENA_BYTES + FH_POOL_BYTES);
    CHECK(sums.large_blocks == 2);
    fh_raw_free(small);
    fh_raw_free(medium);
    fh_raw_free(large);
    fh_raw_free(huge);
    fh_thread_flush();
    sums = fh_stats_sum();
    check_parts(&sums);
    CHECK(sums.active_bytes == 0 && sums.spare_bytes == 0 && sums.allocated_blocks == 0);
}

TEST(runs_that_a_thread_keeps_at_hand_are_spare_until_it_gives_them_back)
{
    fh_raw_free(fh_raw_malloc(2 * (size_t)FH_POOL_BYTES));
    struct fh_sums sums = fh_stats_sum();
    check_parts(&sums);
    CHECK(sums.spare_bytes == 2 * (size_t)FH_POOL_BYTES && sums.active_bytes == 0);
    fh_thread_flush();
    sums = fh_stats_sum();
    check_parts(&sums);
    CHECK(sums.spare_bytes == 0 && sums.retained_bytes == 2 * (size_t)FH_POOL_BYTES);
    (void)fh_trim();
    sums = fh_stats_sum();
    check_parts(&sums);
    CHECK(sums.purged_bytes == sums.mapped_bytes);
}

TEST(arenas_of_classic_heaps_are_a_part)
{
    struct fh_classic_config config = fh_classic_default_config();
    struct fh_classic *heap = fh_classic_create(&config);
    CHECK(heap != NULL && fh_classic_malloc(heap, 16) != NULL);
    struct fh_sums sums = fh_stats_sum();
    check_parts(&sums);
    bool in_region = config.arena_bytes <= FH_ARENA_BYTES;
    CHECK(sums.classic_bytes == (in_region ? config.arena_bytes : 0));
    CHECK(sums.allocated_blocks == 0);
    fh_classic_destroy(heap);
    CHECK(fh_stats_sum().classic_bytes == 0);
}

TEST(the_parts_of_a_random_program_add_up_at_each_step)
{
    enum { BLOCKS = 64 };
    void *blocks[BLOCKS] = {NULL};
    uint64_t state = 17;
    for (struct bound bound = at_most(4000); more(&bound);) {
        static const uint32_t sizes[] = {100, FH_BLOCK_MAX_BYTES, 3 * FH_POOL_BYTES,
                                         2 * FH_ARENA_BYTES};
        uint32_t most = sizes[random_below(&state, 64) == 0 ? 3 : random_below(&state, 3)];
        void **slot = &blocks[random_below(&state, BLOCKS)];
        if (random_below(&state, 4) == 0)
            *slot = fh_raw_realloc(*slot, random_below(&state, most));
        else {
            fh_raw_free(*slot);
            *slot = fh_raw_malloc(random_below(&state, most));
        }
        struct fh_sums sums = fh_stats_sum();
        check_parts(&sums);
    }
    for (int i = 0; i < BLOCKS; i++)
        fh_raw_free(blocks[i]);
}

/* ---- Classes
 * --------------------------------------------------------------------------------
 */

static size_t blocks_of_all_classes(void)
{
    fh_class_stats classes[FH_CLASSES];
    size_t live = 0;
    CHECK(fh_stats_classes(classes, FH_CLASSES) == FH_CLASSES);
    for (unsigned i = 0; i < FH_CLASSES; i++) {
        const fh_class_stats *class = &classes[i];
        size_t blocks = class->live_blocks + class->free_blocks;
        CHECK(class->block_bytes == fh_class_block_bytes(i));
        CHECK(blocks == class->pools * fh_class_capacity(i));
        CHECK(blocks * class->block_bytes <= class->pool_bytes);
        live += class->live_blocks;
    }
    return live;
}

/* Without a flush, at any moment: what is ready in bins is known. */
TEST(a_single_threads_live_blocks_are_known_exactly)
{
    enum { BLOCKS = 300 };
    static void *blocks[BLOCKS];
    uint64_t state = 3;
    size_t live = 0;
    for (struct bound bound = at_most(3000); more(&bound);) {
        void **slot = &blocks[random_below(&state, BLOCKS)];
        if (*slot == NULL) {
            *slot = fh_raw_malloc(random_below(&state, FH_BLOCK_MAX_BYTES));
            live++;
        } else {
            fh_raw_free(*slot);
            *slot = NULL;
            live--;
        }
        CHECK(fh_allocated_blocks() == live && blocks_of_all_classes() == live);
    }
    void *large = fh_raw_malloc(FH_POOL_BYTES);
    CHECK(fh_allocated_blocks() == live + 1 && blocks_of_all_classes() == live);
    fh_raw_free(large);
    for (int i = 0; i < BLOCKS; i++)
        fh_raw_free(blocks[i]);
    CHECK(fh_allocated_blocks() == 0);
}

static void free_it(void *block)
{
    fh_raw_free(block);
}

TEST(blocks_that_another_thread_freed_are_free)
{
    void *blocks[10];
    for (int i = 0; i < 10; i++)
        blocks[i] = fh_raw_malloc(100);
    for (int i = 0; i < 4; i++)
        elsewhere(free_it, blocks[i]);
    CHECK(fh_allocated_blocks() == 6 && blocks_of_all_classes() == 6);
    for (int i = 4; i < 10; i++)
        fh_raw_free(blocks[i]);
    CHECK(fh_allocated_blocks() == 0);
}

TEST(inside_a_call_nothing_is_known_to_be_ready)
{
    void *block = fh_raw_malloc(16);
    struct fh_theap *heap = fh_theap_of_thread();
    fh_stats stats = {.struct_bytes = sizeof stats};
    CHECK(fh_get_stats(&stats) == 0 && stats.allocated_bytes - stats.ready_bytes == 16);
    fh_theap_set_busy(heap);
    CHECK(fh_get_stats(&stats) == 0 && stats.ready_bytes == 0);
    CHECK(fh_allocated_blocks() == stats.allocated_blocks && fh_theap_is_busy(heap));
    fh_theap_set_idle(heap);
    fh_raw_free(block);
}

TEST(as_many_classes_are_filled_in_as_there_is_room_for)
{
    fh_class_stats classes[2];
    memset(classes, 7, sizeof classes);
    CHECK(fh_stats_classes(NULL, 0) == FH_CLASSES);
    CHECK(fh_stats_classes(classes, 1) == FH_CLASSES);
    CHECK(classes[0].block_bytes == 16 && classes[1].block_bytes != 16);
}

/* ---- Against the kernel
 * ---------------------------------------------------------------------- */

/* Sums over what smaps lists in [start, end). */
struct listed {
    size_t mapped_bytes;
    size_t resident_bytes;
};

static struct listed smaps_between(uintptr_t start, uintptr_t end)
{
    struct listed listed = {0, 0};
    char line[512];
    bool inside = false;
    FILE *file = fopen("/proc/self/smaps", "r");
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file) != NULL) {
        unsigned long first, last, kib;
        if (sscanf(line, "%lx-%lx ", &first, &last) == 2) {
            inside = first < end && last > start;
            uintptr_t from = first > start ? first : start;
            listed.mapped_bytes += inside ? (last < end ? last : end) - from : 0;
        } else if (inside && sscanf(line, "Rss: %lu kB", &kib) == 1) {
            listed.resident_bytes += kib * 1024;
        }
    }
    fclose(file);
    return listed;
}

static struct listed smaps_of_region(void)
{
    const struct fh_region *region = fh_region_peek();
    return smaps_between((uintptr_t)region, region->base + region->bytes);
}

/* Pages of the metadata that may have been read and never written: of the sets
 * of hints, most. mincore() cannot tell them. */
enum { READ_METADATA_PAGES = 32 };

/* Twice, since the first look may itself have touched a page: it has not, if
 * both agree. */
static void check_against_kernel(void)
{
    fh_stats stats = {.struct_bytes = sizeof stats};
    struct listed before = smaps_of_region();
    CHECK(fh_get_stats(&stats) == 0);
    struct listed after = smaps_of_region();
    CHECK(before.resident_bytes == after.resident_bytes);
    if (stats.resident_bytes == FH_STATS_UNKNOWN)
        modules_skip("this system does not say what is resident");
    struct fh_resident exact;
    size_t resident_bytes = stats.resident_bytes + stats.metadata_resident_bytes;
    if (fh_stats_resident_by(FH_RESIDENT_SCAN, fh_region_peek(), &exact))
        CHECK(resident_bytes == before.resident_bytes);
    CHECK(resident_bytes >= before.resident_bytes);
    CHECK(resident_bytes - before.resident_bytes <= READ_METADATA_PAGES * fh_os_page_bytes());
    CHECK(stats.reserved_bytes == before.mapped_bytes);
    size_t in_use = stats.active_bytes + stats.spare_bytes + stats.retained_bytes;
    CHECK(stats.resident_bytes <= in_use && stats.mapped_bytes <= before.mapped_bytes);
}

static void *filled(size_t bytes)
{
    void *block = fh_raw_malloc(bytes);
    CHECK(block != NULL);
    return memset(block, 1, bytes);
}

TEST(what_is_resident_is_what_the_kernel_says)
{
    enum { BLOCKS = 5000 };
    static void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = filled((size_t)i % 600);
    check_against_kernel();
    void *large = filled(5 * (size_t)FH_POOL_BYTES);
    char *huge = fh_raw_malloc(3 * (size_t)FH_ARENA_BYTES + 1);
    check_against_kernel();
    memset(huge + FH_ARENA_BYTES, 1, FH_ARENA_BYTES);
    check_against_kernel();
    for (int i = 0; i < BLOCKS; i += 2)
        fh_raw_free(blocks[i]);
    fh_raw_free(huge);
    check_against_kernel();
    for (int i = 1; i < BLOCKS; i += 2)
        fh_raw_free(blocks[i]);
    fh_raw_free(large);
    check_against_kernel();
    CHECK(fh_trim() > 0);
    check_against_kernel();
    fh_stats stats = {.struct_bytes = sizeof stats};
    CHECK(fh_get_stats(&stats) == 0 && stats.resident_bytes == 0);
}

TEST(arenas_of_classic_heaps_are_resident_as_they_are_used)
{
    struct fh_classic_config config = fh_classic_default_config();
    struct fh_classic *heap = fh_classic_create(&config);
    CHECK(heap != NULL);
    for (int i = 0; i < 20000; i++)
        CHECK(fh_classic_malloc(heap, 100) != NULL);
    void *block = filled(10);
    check_against_kernel();
    fh_classic_destroy(heap);
    check_against_kernel();
    (void)fh_trim();
    check_against_kernel();
    fh_raw_free(block);
}

static void allocate_some(void *argument)
{
    (void)argument;
    for (int i = 0; i < 100; i++)
        fh_raw_free(filled(1000));
}

TEST(heaps_of_threads_are_resident_metadata)
{
    void *block = filled(10);
    for (int i = 0; i < 5; i++)
        elsewhere(allocate_some, NULL);
    check_against_kernel();
    fh_raw_free(block);
}

/* The page of zeros is nobody's memory, but mincore() does not tell it from
 * others. */
TEST(pages_that_were_only_read_count_for_mincore_alone)
{
    enum { READ = 11 };
    size_t page_bytes = fh_os_page_bytes();
    volatile char *huge = fh_raw_malloc(3 * (size_t)FH_ARENA_BYTES + READ * page_bytes);
    struct fh_resident before, after;
    const struct fh_region *region = fh_region_peek();
    if (!fh_stats_resident_by(FH_RESIDENT_MINCORE, region, &before))
        modules_skip("mincore() does not say");
    CHECK(before.arena_bytes == 0);
    for (size_t i = 0; i < READ; i++)
        CHECK(huge[i * page_bytes] == 0);
    CHECK(fh_stats_resident_by(FH_RESIDENT_MINCORE, region, &after));
    CHECK(after.arena_bytes == before.arena_bytes + READ * page_bytes);
    CHECK(after.metadata_bytes == before.metadata_bytes);
    if (!fh_stats_resident_by(FH_RESIDENT_SCAN, region, &after))
        modules_skip("this kernel cannot tell the page of zeros");
    CHECK(after.arena_bytes == 0);
    CHECK(after.arena_bytes + after.metadata_bytes == smaps_of_region().resident_bytes);
}

/* With 512 MiB of addresses the region is small, and arenas are mapped one by
 * one beside it. */
TEST(arenas_outside_the_region_are_counted_and_vacated_ones_are_not)
{
    struct rlimit limit = {(rlim_t)512 << 20, (rlim_t)512 << 20};
    if (MODULES_SHADOWED)
        modules_skip("the sanitizer needs more addresses than the limit leaves");
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    void *blocks[512];
    size_t count = 0, bytes = FH_ARENA_POOLS * (size_t)FH_POOL_BYTES;
    while (count < 512 && (blocks[count] = fh_raw_malloc(bytes)) != NULL)
        memset(blocks[count++], 1, 1);
    const struct fh_region *region = fh_region_peek();
    struct fh_sums sums = fh_stats_sum();
    check_parts(&sums);
    struct fh_resident resident;
    size_t page_bytes = fh_os_page_bytes();
    CHECK(sums.arena_count ==
          fh_load_relaxed_u64(&region->arenas_opened) + fh_load_relaxed_u64(&region->extra_opened));
    if (fh_stats_resident(region, &resident))
        CHECK(resident.arena_bytes == count * page_bytes);
    for (size_t i = 0; i < count; i++)
        fh_raw_free(blocks[i]);
    (void)fh_trim();
    sums = fh_stats_sum();
    check_parts(&sums);
    CHECK(sums.arena_count == fh_load_relaxed_u64(&region->arenas_opened));
    if (fh_stats_resident(region, &resident))
        CHECK(resident.arena_bytes == 0);
}

/* ---- Texts
 * -----------------------------------------------------------------------------------
 */

static char *read_all(int fd)
{
    static char text[1 << 16];
    size_t length = 0;
    for (ssize_t bytes; (bytes = read(fd, text + length, sizeof text - 1 - length)) > 0;)
        length += (size_t)bytes;
    CHECK(length < sizeof text - 1);
    text[length] = '\0';
    return text;
}

/* What `write_to` writes. */
static char *text_of(int (*write_to)(int fd))
{
    FILE *file = tmpfile();
    CHECK(file != NULL && write_to(fileno(file)) == 0);
    CHECK(lseek(fileno(file), 0, SEEK_SET) == 0);
    char *text = read_all(fileno(file));
    fclose(file);
    return text;
}

static const char golden[] = "Small block threshold = 32768, in 57 size classes.\n"
                             "\n"
                             "class   size   num pools   blocks in use  avail blocks\n"
                             "-----   ----   ---------   -------------  ------------\n"
                             "    0     16           1               1          4095\n"
                             "    7    112           1               3           582\n"
                             "   32    512           2             200            56\n"
                             "   56  32768           1               1             7\n"
                             "\n"
                             "# arenas allocated total           =                    1\n"
                             "# arenas reclaimed                 =                    0\n"
                             "# arenas highwater mark            =                    1\n"
                             "# arenas allocated current         =                    1\n"
                             "1 arenas * 4194304 bytes/arena     =            4,194,304\n"
                             "\n"
                             "# bytes in allocated blocks        =              237,920\n"
                             "# bytes in available blocks        =              388,752\n"
                             "54 unused pools * 65536 bytes      =            3,538,944\n"
                             "# bytes lost to pool headers       =                    0\n"
                             "# bytes lost to quantization       =               28,688\n"
                             "# bytes lost to arena alignment    =                    0\n"
                             "Total                              =            4,194,304\n"
                             "\n"
                             "1 large blocks                     =              102,400\n";

TEST(the_text_has_cpythons_form)
{
    if (FH_ARENA_POOLS != 64)
        modules_skip("the figures are those of the normal geometry");
    (void)fh_raw_malloc(0);
    for (int i = 0; i < 3; i++)
        (void)fh_raw_malloc(100);
    for (int i = 0; i < 200; i++)
        (void)fh_raw_malloc(511);
    (void)fh_raw_malloc(FH_BLOCK_MAX_BYTES);
    (void)fh_raw_malloc(100000);
    const char *text = text_of(fh_malloc_stats);
    if (strcmp(text, golden) != 0)
        fputs(text, stderr);
    CHECK(strcmp(text, golden) == 0);
}

/* Above the last line, each has a value that is part of it. */
TEST(the_lines_of_bytes_add_up_to_the_total)
{
    struct fh_classic_config config = fh_classic_default_config();
    struct fh_classic *heap = fh_classic_create(&config);
    CHECK(heap != NULL && fh_classic_malloc(heap, 16) != NULL);
    for (size_t i = 0; i < 1000; i++)
        (void)fh_raw_malloc(i * 13);
    (void)fh_raw_malloc(2 * (size_t)FH_ARENA_BYTES);
    char *line = strstr(text_of(fh_malloc_stats), "# bytes in allocated blocks");
    size_t sum = 0, value = 0;
    for (bool is_total = false; !is_total; sum += is_total ? 0 : value) {
        is_total = strncmp(line, "Total", 5) == 0;
        value = 0;
        for (line = strchr(line, '=') + 1; *line != '\n'; line++)
            value = *line >= '0' && *line <= '9' ? value * 10 + (size_t)(*line - '0') : value;
        line++;
    }
    CHECK(sum == value && value == fh_stats_sum().mapped_bytes);
    fh_classic_destroy(heap);
}

TEST(what_cannot_be_written_is_refused)
{
    int full = open("/dev/full", O_WRONLY);
    CHECK(fh_malloc_stats(-1) == -1 && errno == EBADF);
    CHECK(fh_stats_json(-1) == -1 && errno == EBADF);
    CHECK(full < 0 || (fh_stats_json(full) == -1 && errno == ENOSPC));
}

/* ---- JSON
 * ------------------------------------------------------------------------------------
 */

static const char python_checks[] =
    "import json, sys\n"
    "d = json.load(sys.stdin)\n"
    "p = d['process']\n"
    "assert list(d) == ['version', 'pid', 'process', 'classes', 'heaps', "
    "'domains'], list(d)\n"
    "assert p['mapped_bytes'] == p['active_bytes'] + p['spare_bytes'] + "
    "p['retained_bytes']"
    " + p['purged_bytes']\n"
    "assert p['active_bytes'] - p['classic_bytes'] == p['small_pool_bytes'] + "
    "p['span_bytes']"
    " + p['large_pool_bytes'] + p['huge_pool_bytes'] == p['allocated_bytes']"
    " + p['available_bytes'] + p['quantization_bytes']\n"
    "assert sum(c['pool_bytes'] for c in d['classes']) == "
    "p['small_pool_bytes'] + p['span_bytes']\n"
    "live = sum(c['live_blocks'] for c in d['classes']) + p['large_blocks']\n"
    "assert live == int(sys.argv[1]), live\n"
    "assert d['heaps'][0]['name'] == 'default'\n"
    "assert [x['name'] for x in d['domains']] == ['raw', 'mem', 'obj']\n"
    "assert [x['allocator'] for x in d['domains']] == [sys.argv[2]] * 3\n"
    "assert all(x['blocks'] is None and x['bytes'] is None for x in "
    "d['domains'])\n"
    "assert all(type(v) is int or v is None for v in p.values())\n";

/* Python must read it, and find what it holds to be so. */
static void check_json(size_t live_blocks, const char *allocator)
{
    char command[128];
    if (system("python3 -c '' 2>/dev/null") != 0)
        modules_skip("there is no python3");
    CHECK(setenv("PYTHON_CHECKS", python_checks, 1) == 0);
    (void)snprintf(command, sizeof command, "python3 -c \"$PYTHON_CHECKS\" %zu %s", live_blocks,
                   allocator);
    FILE *python = popen(command, "w");
    CHECK(python != NULL && fh_stats_json(fileno(python)) == 0);
    CHECK(pclose(python) == 0);
}

TEST(json_before_there_is_a_region_is_read_by_python)
{
    check_json(0, "freehold");
    CHECK(fh_region_peek() == NULL);
}

TEST(json_is_read_by_python_and_its_parts_add_up)
{
    size_t count = 0;
    for (size_t i = 0; i < 500; i++)
        count += fh_raw_malloc(i * i) != NULL;
    void *block = fh_raw_malloc(3 * (size_t)FH_ARENA_BYTES);
    fh_raw_free(fh_raw_malloc(5));
    check_json(count + (block != NULL), "freehold");
    fh_raw_free(block);
}

TEST(json_names_the_debug_hooks)
{
    CHECK(fh_debug_setup() == 0);
    check_json(fh_allocated_blocks(), "debug");
}

static void *other_malloc(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    return NULL;
}

static void *other_calloc(void *context, size_t count, size_t bytes)
{
    return other_malloc(context, count * bytes);
}

static void *other_realloc(void *context, void *block, size_t bytes)
{
    (void)block;
    return other_malloc(context, bytes);
}

static void other_free(void *context, void *block)
{
    (void)context;
    (void)block;
}

TEST(json_knows_an_allocator_for_a_stranger)
{
    static const fh_allocator other = {NULL, other_malloc, other_calloc, other_realloc, other_free};
    for (int domain = 0; domain < 3; domain++)
        CHECK(fh_set_allocator((fh_domain)domain, &other) == 0);
    check_json(fh_allocated_blocks(), "other");
}

/* ---- Heaps in JSON
 * ---------------------------------------------------------------------------
 */

static const char *heap_in_json(const fh_heap *heap)
{
    static char text[1 << 15];
    char address[64];
    CHECK(fh_stats_json_text(text, sizeof text) < sizeof text);
    (void)snprintf(address, sizeof address, "{\"name\":\"heap\",\"address\":%zu,", (size_t)heap);
    const char *found = strstr(text, address);
    return found == NULL ? "" : found + strlen(address);
}

static bool begins_with(const char *text, const char *beginning)
{
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

TEST(json_has_the_figures_of_a_free_heap)
{
    fh_heap *heap = fh_heap_create(NULL);
    CHECK(heap != NULL);
    CHECK(begins_with(heap_in_json(heap), "\"mode\":\"free\",\"small_blocks\":0,\"small_bytes\":0,"
                                          "\"arenas_bytes\":0,\"large_blocks\":null,"));
    for (int i = 0; i < 3; i++)
        CHECK(fh_heap_malloc(heap, FH_DOMAIN_OBJ, 100) != NULL);
    CHECK(begins_with(heap_in_json(heap),
                      "\"mode\":\"free\",\"small_blocks\":3,\"small_bytes\":336,"
                      "\"arenas_bytes\":1048576,\"large_blocks\":null,\"large_bytes\":null}"));
    CHECK(fh_heap_destroy(heap, FH_DESTROY_FORCE) == 0);
}

TEST(json_has_the_figures_of_a_gil_heap_for_the_holder_alone)
{
    fh_heap_config config = {.struct_bytes = sizeof config, .mode = FH_OBJ_GIL_LOCK};
    fh_heap *heap = fh_heap_create(&config);
    CHECK(heap != NULL && fh_heap_malloc(heap, FH_DOMAIN_OBJ, 100) != NULL);
    CHECK(fh_heap_malloc(heap, FH_DOMAIN_OBJ, 1000) != NULL);
    CHECK(begins_with(heap_in_json(heap), "\"mode\":\"gil-lock\",\"small_blocks\":null,"
                                          "\"small_bytes\":null,\"arenas_bytes\":null,"));
    fh_gil_acquire(fh_gil_builtin());
    CHECK(begins_with(heap_in_json(heap),
                      "\"mode\":\"gil-lock\",\"small_blocks\":1,\"small_bytes\":112,"
                      "\"arenas_bytes\":1048576,\"large_blocks\":1,"));
    fh_gil_release(fh_gil_builtin());
    CHECK(fh_heap_destroy(heap, FH_DESTROY_FORCE) == 0);
}

TEST(a_destroyed_heap_is_not_in_json)
{
    fh_heap *heap = fh_heap_create(NULL);
    CHECK(heap != NULL && heap_in_json(heap)[0] != '\0');
    CHECK(fh_heap_destroy(heap, 0) == 0 && heap_in_json(heap)[0] == '\0');
}

TEST(json_into_memory_is_cut_to_the_room_there_is)
{
    static char whole[1 << 15], cut[1 << 15];
    (void)fh_raw_malloc(1);
    size_t length = fh_stats_json_text(whole, sizeof whole);
    CHECK(length < sizeof whole && strlen(whole) == length && whole[length - 1] == '\n');
    CHECK(fh_stats_json_text(NULL, 0) == length);
    memset(cut, 7, sizeof cut);
    CHECK(fh_stats_json_text(cut, 100) == length && strlen(cut) == 99 && cut[100] == 7);
    CHECK(memcmp(whole, cut, 99) == 0);
    CHECK(fh_stats_json_text(cut, length + 1) == length && strcmp(whole, cut) == 0);
    CHECK(strcmp(text_of(fh_stats_json), whole) == 0);
}

static char handlers_text[1 << 15];

static void write_in_handler(int signal)
{
    (void)signal;
    errno = 77;
    CHECK(fh_stats_json_text(handlers_text, sizeof handlers_text) < sizeof handlers_text);
    CHECK(fh_allocated_blocks() > 0 && errno == 77);
}

TEST(a_handler_that_interrupted_a_call_may_write_json)
{
    void *block = fh_raw_malloc(1);
    struct fh_theap *heap = fh_theap_of_thread();
    CHECK(signal(SIGUSR1, write_in_handler) != SIG_ERR);
    fh_theap_set_busy(heap);
    CHECK(raise(SIGUSR1) == 0);
    CHECK(fh_theap_is_busy(heap) && strstr(handlers_text, "\"ready_bytes\":0,") != NULL);
    fh_theap_set_idle(heap);
    fh_raw_free(block);
}

enum { HANDLERS_ARENA_BYTES = 256 << 10 };

static void *alloc_with_signal(void *context, size_t bytes)
{
    static char memory[HANDLERS_ARENA_BYTES] __attribute__((aligned(16)));
    (void)context;
    CHECK(bytes == sizeof memory && raise(SIGUSR1) == 0);
    return memory;
}

static void free_nothing(void *context, void *memory, size_t bytes)
{
    (void)context, (void)memory, (void)bytes;
}

static void check_handlers_figures(fh_obj_mode mode)
{
    fh_heap_config config = {.struct_bytes = sizeof config, .mode = mode};
    config.geometry.arena_bytes = HANDLERS_ARENA_BYTES;
    config.arena = (fh_arena_allocator){NULL, alloc_with_signal, free_nothing};
    fh_heap *heap = fh_heap_create(&config);
    CHECK(heap != NULL && fh_heap_malloc(heap, FH_DOMAIN_OBJ, 100) != NULL);
    CHECK(strstr(handlers_text, "\"mode\":\"gil") != NULL);
    CHECK(strstr(strstr(handlers_text, "\"mode\":\"gil"), "\"small_blocks\":null") != NULL);
    CHECK(strstr(heap_in_json(heap), "\"small_blocks\":1,") != NULL);
    CHECK(raise(SIGUSR1) == 0); /* not inside a call */
    CHECK(strstr(handlers_text, "\"small_blocks\":1,") != NULL);
    CHECK(fh_heap_destroy(heap, FH_DESTROY_FORCE) == 0);
}

TEST(a_handler_does_not_look_into_a_gil_heap_that_it_interrupted)
{
    void *block = fh_raw_malloc(1);
    CHECK(signal(SIGUSR1, write_in_handler) != SIG_ERR);
    fh_gil_acquire(fh_gil_builtin());
    check_handlers_figures(FH_OBJ_GIL_ASSERT);
    check_handlers_figures(FH_OBJ_GIL_LOCK);
    fh_gil_release(fh_gil_builtin());
    fh_raw_free(block);
}

/* ---- The struct of an earlier version
 * -------------------------------------------------------- */

TEST(a_shorter_struct_is_filled_in_as_far_as_it_goes)
{
    fh_stats stats;
    (void)fh_raw_malloc(100);
    memset(&stats, 7, sizeof stats);
    stats.struct_bytes = offsetof(fh_stats, spare_bytes);
    CHECK(fh_get_stats(&stats) == 0);
    CHECK(stats.heap_count == 1 && stats.arena_count == 1);
    CHECK(stats.struct_bytes == offsetof(fh_stats, spare_bytes));
    const unsigned char *beyond = (const unsigned char *)&stats.spare_bytes;
    for (const unsigned char *at = beyond; at < (const unsigned char *)(&stats + 1); at++)
        CHECK(*at == 7);
    stats.struct_bytes--;
    CHECK(fh_get_stats(&stats) == -1 && errno == EINVAL);
}

/* ---- At exit
 * ---------------------------------------------------------------------------------
 */

static const char *asked_for;
static void (*before_exit)(void);

static void close_stderr(void)
{
    close(STDERR_FILENO);
}

/* As a program that becomes a daemon: whatever it opens next must stay as it
 * is. */
static void close_all(void)
{
    for (int fd = STDERR_FILENO; fd < 200; fd++)
        close(fd);
    for (int fd = STDERR_FILENO + 1; fd < 200; fd++)
        CHECK(dup2(STDOUT_FILENO, fd) == fd);
}

static void nothing(void)
{
}

/* What a child writes to stderr that asks for `value` and ends after `last`;
 * what it wrote to stdout, in front. */
static char *written_at_exit(const char *value, void (*last)(void))
{
    int ends[2];
    asked_for = value;
    before_exit = last;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        int null = open("/dev/null", O_WRONLY);
        CHECK(dup2(ends[1], STDERR_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0);
        close(ends[1]);
        (void)fh_raw_malloc(1000);
        fh_stats_start(asked_for);
        before_exit();
        exit(0);
    }
    close(ends[1]);
    char *text = read_all(ends[0]);
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(ends[0]);
    return text;
}

TEST(what_the_environment_asks_for_is_written_at_exit)
{
    CHECK(strncmp(written_at_exit("json", nothing), "{\"version\":\"", 12) == 0);
    CHECK(strncmp(written_at_exit("1", nothing), "Small block threshold = ", 24) == 0);
    CHECK(strcmp(written_at_exit("", nothing), "") == 0);
    CHECK(strcmp(written_at_exit(NULL, nothing), "") == 0);
}

TEST(it_is_written_although_the_program_closed_stderr)
{
    CHECK(strncmp(written_at_exit("1", close_stderr), "Small block threshold = ", 24) == 0);
    CHECK(strncmp(written_at_exit("json", close_stderr), "{\"version\":\"", 12) == 0);
}

TEST(it_is_not_written_into_a_file_that_the_program_opened_since)
{
    CHECK(strcmp(written_at_exit("1", close_all), "") == 0);
}

/* ---- Among threads
 * ------------------------------------------------------------------------ */

enum { HELD = 40 };

static uint64_t allocating; /* threads that still allocate */

static void read_or_allocate(unsigned number, void *shared)
{
    uint64_t state = number;
    void *blocks[HELD] = {NULL};
    (void)shared;
    if (number == 0) {
        while (fh_load_seq_cst_u64(&allocating) != 0) {
            struct fh_sums sums = fh_stats_sum();
            CHECK(sums.allocated_bytes <= sums.mapped_bytes && sums.heap_count <= 8);
            check_parts(&sums);
            size_t live_blocks = fh_allocated_blocks();
            sums = fh_stats_sum(); /* nothing is unmapped here, but more may have been mapped */
            CHECK(live_blocks <= sums.mapped_bytes / FH_BLOCK_ALIGN_BYTES);
        }
        return;
    }
    for (struct bound bound = at_most(20000); more(&bound);) {
        void **slot = &blocks[random_below(&state, HELD)];
        fh_raw_free(*slot);
        uint32_t most = random_below(&state, 50) == 0 ? 3 * FH_POOL_BYTES : 500;
        *slot = fh_raw_malloc(random_below(&state, most));
    }
    for (int i = 0; i < HELD; i++)
        fh_raw_free(blocks[i]);
    (void)__atomic_fetch_sub(&allocating, 1, __ATOMIC_SEQ_CST);
}

TEST(sums_taken_while_others_allocate_stay_within_what_is_mapped)
{
    allocating = 2;
    together(3, read_or_allocate, NULL);
    struct fh_sums sums = fh_stats_sum();
    CHECK(sums.allocated_blocks == 0 && sums.active_bytes == 0);
}

static void look_or_use_a_heap(unsigned number, void *heap)
{
    static char text[1 << 15];
    uint64_t state = number;
    void *blocks[HELD] = {NULL};
    if (number == 0) {
        while (fh_load_seq_cst_u64(&allocating) != 0)
            CHECK(fh_stats_json_text(text, sizeof text) < sizeof text);
        return;
    }
    for (struct bound bound = at_most(5000); more(&bound);) {
        void **slot = &blocks[random_below(&state, HELD)];
        fh_heap_free(heap, FH_DOMAIN_OBJ, *slot);
        *slot = fh_heap_malloc(heap, FH_DOMAIN_OBJ, random_below(&state, 700));
        CHECK(*slot != NULL);
    }
    for (int i = 0; i < HELD; i++)
        fh_heap_free(heap, FH_DOMAIN_OBJ, blocks[i]);
    (void)__atomic_fetch_sub(&allocating, 1, __ATOMIC_SEQ_CST);
}

TEST(json_of_a_free_heap_may_be_written_while_others_use_it)
{
    fh_heap *heap = fh_heap_create(NULL);
    CHECK(heap != NULL);
    allocating = 2;
    together(3, look_or_use_a_heap, heap);
    (void)fh_heap_drain(heap); /* what was freed into a part that somebody was in */
    CHECK(
        begins_with(heap_in_json(heap), "\"mode\":\"free\",\"small_blocks\":0,\"small_bytes\":0,"));
    CHECK(fh_heap_destroy(heap, 0) == 0);
}

/* With FREEHOLD_TRACE the threads' heaps are hidden between calls. */
TEST(figures_are_exact_while_the_malloc_family_is_traced)
{
    enum { BLOCKS = 1000 };
    static void *blocks[BLOCKS];
    fh_stats stats = {.struct_bytes = sizeof stats};
    fh_trace_malloc_family();
    size_t before = fh_allocated_blocks();
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = fh_raw_malloc(64);
    CHECK(fh_allocated_blocks() == before + BLOCKS);
    for (int i = 0; i < BLOCKS; i++)
        fh_raw_free(blocks[i]);
    CHECK(fh_allocated_blocks() == before);
    CHECK(fh_get_stats(&stats) == 0 && stats.ready_bytes > 0);
}
