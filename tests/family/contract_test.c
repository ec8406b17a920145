/* SPDX-License-Identifier: MIT */
/* What each function of the malloc family promises, case by case.
 *
 * The C and POSIX standards come first; where they leave a choice, what glibc does is expected.
 */
#include "family.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOO_MUCH ((size_t)PTRDIFF_MAX + 1)

/* C23; glibc 2.36 has neither, and declares neither. */
extern void free_sized(void *block, size_t bytes) __attribute__((weak));
extern void free_aligned_sized(void *block, size_t alignment, size_t bytes) __attribute__((weak));
/* Gone from glibc's headers; old programs still bind to it. */
extern void cfree(void *block) __attribute__((weak));

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *block, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);
extern void *__libc_valloc(size_t bytes);
extern void *__libc_pvalloc(size_t bytes);
extern void __libc_free(void *block);

static int is_aligned(const void *block, size_t alignment)
{
    return (uintptr_t)block % alignment == 0;
}

static size_t page_bytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

/* NULL with ENOMEM; the caller has just set errno to 0. */
#define CHECK_NO_MEMORY(call) (errno = 0, CHECK((call) == NULL), CHECK(errno == ENOMEM))

TEST(malloc_of_zero_gives_a_distinct_block)
{
    void *first = malloc(0);
    void *second = malloc(0);
    CHECK(first != NULL && second != NULL && first != second);
    CHECK(family_owned(first) && family_owned(second));
    free(first);
    free(second);
}

TEST(calloc_of_zero_gives_a_distinct_block)
{
    void *first = calloc(0, 8);
    void *second = calloc(8, 0);
    CHECK(first != NULL && second != NULL && first != second);
    free(first);
    free(second);
}

TEST(more_than_ptrdiff_max_is_refused_with_enomem)
{
    void *block = NULL;
    const size_t sizes[] = {TOO_MUCH, TOO_MUCH + 4096, SIZE_MAX - 4096, SIZE_MAX - 15, SIZE_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        CHECK_NO_MEMORY(malloc(sizes[i]));
        CHECK_NO_MEMORY(calloc(1, sizes[i]));
        CHECK_NO_MEMORY(realloc(NULL, sizes[i]));
        CHECK_NO_MEMORY(reallocarray(NULL, 1, sizes[i]));
        CHECK_NO_MEMORY(aligned_alloc(64, sizes[i]));
        CHECK_NO_MEMORY(memalign(4096, sizes[i]));
        CHECK_NO_MEMORY(valloc(sizes[i]));
        CHECK_NO_MEMORY(pvalloc(sizes[i]));
        CHECK(posix_memalign(&block, 64, sizes[i]) == ENOMEM && block == NULL);
    }
}

TEST(what_the_address_space_cannot_hold_is_refused_with_enomem)
{
    CHECK_NO_MEMORY(malloc(PTRDIFF_MAX));
    CHECK_NO_MEMORY(malloc((size_t)1 << 47));
    CHECK_NO_MEMORY(calloc((size_t)1 << 31, (size_t)1 << 31));
    CHECK_NO_MEMORY(aligned_alloc((size_t)1 << 47, 1));
    CHECK_NO_MEMORY(memalign((size_t)1 << 62, (size_t)1 << 62));
}

TEST(calloc_refuses_a_product_that_overflows)
{
    CHECK_NO_MEMORY(calloc(SIZE_MAX, SIZE_MAX));
    CHECK_NO_MEMORY(calloc(SIZE_MAX / 2 + 1, 2)); /* 0 modulo 2^64 */
    CHECK_NO_MEMORY(calloc((size_t)1 << 32, ((size_t)1 << 32) + 1));
    CHECK_NO_MEMORY(calloc(SIZE_MAX / 16 + 2, 16)); /* 16 modulo 2^64 */
}

TEST(reallocarray_refuses_a_product_that_overflows_and_keeps_the_block)
{
    char *block = malloc(100);
    family_fill(block, 100, 1);
    CHECK_NO_MEMORY(reallocarray(block, SIZE_MAX / 2 + 1, 2));
    CHECK_NO_MEMORY(reallocarray(block, SIZE_MAX / 16 + 2, 16));
    CHECK_NO_MEMORY(reallocarray(NULL, SIZE_MAX, SIZE_MAX));
    CHECK(family_intact(block, 100, 1));
    free(block);
}

TEST(reallocarray_resizes_to_the_product)
{
    char *block = reallocarray(NULL, 10, 10);
    CHECK(block != NULL && malloc_usable_size(block) >= 100);
    family_fill(block, 100, 2);
    block = reallocarray(block, 1000, 100);
    CHECK(block != NULL && malloc_usable_size(block) >= 100000);
    CHECK(family_intact(block, 100, 2));
    free(block);
}

TEST(realloc_of_null_is_malloc)
{
    void *block = realloc(NULL, 100);
    CHECK(block != NULL && family_owned(block));
    void *empty = realloc(NULL, 0);
    CHECK(empty != NULL && empty != block);
    free(block);
    free(empty);
}

TEST(realloc_to_zero_frees_the_block_and_returns_null)
{
    const size_t sizes[] = {1, 1000, 100 * KIB, 5 * MIB};
    size_t before = family_resident_bytes();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (size_t freed = 0, round = 0; freed < 256 * MIB && round < 20000; round++) {
            char *block = malloc(sizes[i]);
            memset(block, 1, sizes[i]);
            freed += sizes[i];
            CHECK((round % 2 == 0 ? realloc(block, 0) : reallocarray(block, 0, 8)) == NULL);
        }
    }
    CHECK(family_resident_bytes() < before + 32 * MIB); /* of a good 500 MiB taken */
}

TEST(a_failed_realloc_leaves_the_block_alone)
{
    const size_t sizes[] = {1, 100, 5000, 100 * KIB, 5 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *block = malloc(sizes[i]);
        family_fill(block, sizes[i], i);
        CHECK_NO_MEMORY(realloc(block, TOO_MUCH));
        CHECK_NO_MEMORY(realloc(block, SIZE_MAX));
        CHECK_NO_MEMORY(realloc(block, (size_t)1 << 47));
        CHECK(family_intact(block, sizes[i], i));
        free(block);
    }
}

TEST(free_preserves_errno)
{
    const size_t sizes[] = {0, 1, 100, 5000, 40 * KIB, 100 * KIB, 5 * MIB, 64 * MIB, 300 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        void *block = malloc(sizes[i]);
        void *aligned = memalign(4096, sizes[i]);
        CHECK(block != NULL && aligned != NULL);
        errno = 1234;
        free(block);
        free(aligned);
        CHECK(errno == 1234);
    }
    errno = 1234;
    free(NULL);
    CHECK(errno == 1234);
}

TEST(free_sized_and_free_aligned_sized_free)
{
    CHECK(free_sized != NULL && free_aligned_sized != NULL);
    size_t before = family_resident_bytes();
    errno = 1234;
    for (size_t round = 0; round < 2000; round++) {
        size_t bytes = round * 97;
        char *block = malloc(bytes);
        char *aligned = aligned_alloc(128, bytes);
        family_fill(block, bytes, round);
        family_fill(aligned, bytes, round);
        free_sized(block, bytes);
        free_aligned_sized(aligned, 128, bytes);
    }
    free_sized(NULL, 0);
    free_aligned_sized(NULL, 16, 0);
    CHECK(errno == 1234);
    CHECK(family_resident_bytes() < before + 32 * MIB); /* of 370 MiB taken */
}

TEST(cfree_frees)
{
    CHECK(cfree != NULL);
    size_t before = family_resident_bytes();
    for (size_t round = 0; round < 20000; round++) {
        char *block = calloc(1, 10000);
        family_fill(block, 10000, round);
        cfree(block);
    }
    cfree(NULL);
    CHECK(family_resident_bytes() < before + 32 * MIB);
}

TEST(posix_memalign_reports_by_its_result_alone)
{
    int marker = 0;
    void *block = &marker;
    const size_t bad[] = {0, 1, 2, 4, 3, 7, 12, 24, 48, 4095, SIZE_MAX};
    errno = 1234;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        CHECK(posix_memalign(&block, bad[i], 100) == EINVAL);
    CHECK(posix_memalign(&block, 64, TOO_MUCH) == ENOMEM);
    CHECK(posix_memalign(&block, 64, (size_t)1 << 47) == ENOMEM);
    CHECK(block == &marker && errno == 1234);
    CHECK(posix_memalign(&block, 64, 100) == 0);
    CHECK(block != &marker && errno == 1234 && is_aligned(block, 64));
    free(block);
}

TEST(alignment_holds_for_size_zero)
{
    for (size_t alignment = 8; alignment <= 64 * KIB; alignment *= 2) {
        void *posix = NULL;
        CHECK(posix_memalign(&posix, alignment, 0) == 0);
        void *standard = aligned_alloc(alignment, 0);
        void *old = memalign(alignment, 0);
        CHECK(posix != NULL && standard != NULL && old != NULL);
        CHECK(posix != standard && standard != old && old != posix);
        CHECK(is_aligned(posix, alignment) && is_aligned(standard, alignment));
        CHECK(is_aligned(old, alignment));
        free(posix);
        free(standard);
        free(old);
    }
}

TEST(aligned_alloc_refuses_what_is_no_power_of_two)
{
    /* C17 asks for a failure; glibc does so since 2.38, and rounded up before. */
    const size_t bad[] = {0, 3, 12, 24, 100, 4097, SIZE_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        errno = 0;
        CHECK(aligned_alloc(bad[i], 100) == NULL && errno == EINVAL);
    }
}

TEST(aligned_alloc_takes_a_size_that_is_no_multiple)
{
    void *block = aligned_alloc(4096, 100);
    CHECK(block != NULL && is_aligned(block, 4096));
    free(block);
}

TEST(small_alignments_still_give_the_alignment_of_malloc)
{
    for (size_t alignment = 1; alignment <= 16; alignment *= 2) {
        void *standard = aligned_alloc(alignment, 40);
        void *old = memalign(alignment, 40);
        CHECK(standard != NULL && is_aligned(standard, 16));
        CHECK(old != NULL && is_aligned(old, 16));
        free(standard);
        free(old);
    }
}

TEST(memalign_rounds_its_alignment_up_to_a_power_of_two)
{
    const size_t cases[][2] = {{0, 16}, {3, 16}, {24, 32}, {33, 64}, {100, 128}, {4097, 8192}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        void *block = memalign(cases[i][0], 100);
        CHECK(block != NULL && is_aligned(block, cases[i][1]));
        CHECK(family_owned(block));
        free(block);
    }
    errno = 0; /* there is no power of two above */
    CHECK(memalign(SIZE_MAX / 2 + 2, 100) == NULL && errno == EINVAL);
}

TEST(valloc_and_pvalloc_align_to_a_page)
{
    const size_t page = page_bytes();
    const size_t sizes[] = {0, 1, page - 1, page, page + 1, 100 * KIB, 5 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        void *plain = valloc(sizes[i]);
        void *whole = pvalloc(sizes[i]);
        CHECK(plain != NULL && is_aligned(plain, page));
        CHECK(whole != NULL && is_aligned(whole, page));
        CHECK(malloc_usable_size(whole) >= (sizes[i] + page - 1) / page * page);
        free(plain);
        free(whole);
    }
}

TEST(malloc_usable_size_of_null_is_zero)
{
    CHECK(malloc_usable_size(NULL) == 0);
}

TEST(the_libc_names_are_the_same_functions)
{
    void *blocks[] = {__libc_malloc(100),       __libc_calloc(10, 10), __libc_realloc(NULL, 100),
                      __libc_memalign(64, 100), __libc_valloc(100),    __libc_pvalloc(100)};
    CHECK(is_aligned(blocks[3], 64) && is_aligned(blocks[4], page_bytes()));
    CHECK(is_aligned(blocks[5], page_bytes()));
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        CHECK(blocks[i] != NULL && family_owned(blocks[i]));
        CHECK(malloc_usable_size(blocks[i]) >= 100);
        if (i % 2 == 0)
            free(blocks[i]);
        else
            __libc_free(blocks[i]);
    }
    __libc_free(NULL);
    void *block = malloc(100); /* and the other way round */
    block = __libc_realloc(block, 200);
    CHECK(block != NULL && family_owned(block));
    __libc_free(block);
    CHECK(__libc_realloc(malloc(1), 0) == NULL);
}

TEST(blocks_that_libc_hands_out_are_freed_like_any_other)
{
    char *line = NULL;
    size_t capacity = 0;
    char *copy = strdup("a string");
    char *printed = NULL;
    CHECK(copy != NULL && asprintf(&printed, "%0200d", 7) == 200);
    FILE *text = fmemopen(printed, 200, "r");
    CHECK(text != NULL && getline(&line, &capacity, text) == 200);
    CHECK(fclose(text) == 0);
    char *folder = realpath("/", NULL);
    CHECK(family_owned(copy) && family_owned(printed) && family_owned(line));
    CHECK(folder != NULL && family_owned(folder));
    line = realloc(line, 100000);
    CHECK(line != NULL && strncmp(line, "0000", 4) == 0);
    free(copy);
    free(printed);
    free(line);
    free(folder);
}

/* ---- Tuning and figures --------------------------------------------------------------------- */

TEST(malloc_trim_gives_free_memory_back)
{
    enum { count = 100000, bytes = 640 };
    static char *blocks[count];
    size_t before = family_resident_bytes();
    for (size_t i = 0; i < count; i++) {
        blocks[i] = malloc(bytes);
        memset(blocks[i], 1, bytes);
    }
    CHECK(family_resident_bytes() > before + 60 * MIB);
    for (size_t i = 0; i < count; i++)
        free(blocks[i]);
    int returned = malloc_trim(0);
    CHECK(returned == 0 || returned == 1);
    CHECK(family_resident_bytes() < before + 4 * MIB);
}

static size_t allocated_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* The older form counts in int. */
static long allocated_bytes_as_int(void)
{
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
    struct mallinfo info = mallinfo();
#pragma GCC diagnostic pop
    return (long)info.uordblks + info.hblkhd;
}

TEST(mallinfo_and_mallinfo2_follow_what_is_allocated)
{
    static void *small[10000];
    size_t before = allocated_bytes();
    long before_as_int = allocated_bytes_as_int();
    void *large = malloc(10 * MIB);
    for (size_t i = 0; i < 10000; i++)
        small[i] = malloc(1000);
    CHECK(allocated_bytes() >= before + 19 * MIB && allocated_bytes() < before + 40 * MIB);
    CHECK(allocated_bytes_as_int() >= before_as_int + (long)(19 * MIB));
    free(large);
    for (size_t i = 0; i < 10000; i++)
        free(small[i]);
    CHECK(allocated_bytes() < before + 4 * MIB);
    CHECK(allocated_bytes_as_int() < before_as_int + (long)(4 * MIB));
}

TEST(malloc_stats_writes_to_stderr)
{
    char text[256];
    FILE *file = tmpfile();
    CHECK(file != NULL);
    fflush(stderr);
    int kept = dup(STDERR_FILENO);
    CHECK(kept >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
    malloc_stats();
    fflush(stderr);
    CHECK(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    ssize_t length = pread(fileno(file), text, sizeof text, 0);
    fclose(file);
    CHECK(length > 10 && memchr(text, '\n', (size_t)length) != NULL);
}

TEST(malloc_info_writes_an_xml_document)
{
    char *text = NULL;
    size_t length = 0;
    FILE *file = open_memstream(&text, &length);
    CHECK(file != NULL && malloc_info(0, file) == 0 && fclose(file) == 0);
    CHECK(strncmp(text, "<malloc version=\"", 17) == 0);
    CHECK(length > 30 && strcmp(text + length - 10, "</malloc>\n") == 0);
    free(text);
}

TEST(malloc_info_refuses_options)
{
    CHECK(malloc_info(1, stderr) != 0);
}

TEST(mallopt_takes_the_parameters_of_glibc)
{
    CHECK(mallopt(M_TRIM_THRESHOLD, 128 * 1024) == 1);
    CHECK(mallopt(M_TOP_PAD, 64 * 1024) == 1);
    CHECK(mallopt(M_MMAP_MAX, 1000) == 1);
    CHECK(mallopt(M_ARENA_MAX, 1) == 1);
    CHECK(mallopt(M_MMAP_THRESHOLD, 1024 * 1024) == 1);
    family_workout(1, 600, 2 * MIB);
}

static const struct family_test tests[] = {
    ENTRY(malloc_of_zero_gives_a_distinct_block),
    ENTRY(calloc_of_zero_gives_a_distinct_block),
    ENTRY(more_than_ptrdiff_max_is_refused_with_enomem),
    ENTRY(what_the_address_space_cannot_hold_is_refused_with_enomem),
    ENTRY(calloc_refuses_a_product_that_overflows),
    ENTRY(reallocarray_refuses_a_product_that_overflows_and_keeps_the_block),
    ENTRY(reallocarray_resizes_to_the_product),
    ENTRY(realloc_of_null_is_malloc),
    ENTRY(realloc_to_zero_frees_the_block_and_returns_null),
    ENTRY(a_failed_realloc_leaves_the_block_alone),
    ENTRY(free_preserves_errno),
    ENTRY(free_sized_and_free_aligned_sized_free),
    ENTRY(cfree_frees),
    ENTRY(posix_memalign_reports_by_its_result_alone),
    ENTRY(alignment_holds_for_size_zero),
    ENTRY(aligned_alloc_refuses_what_is_no_power_of_two),
    ENTRY(aligned_alloc_takes_a_size_that_is_no_multiple),
    ENTRY(small_alignments_still_give_the_alignment_of_malloc),
    ENTRY(memalign_rounds_its_alignment_up_to_a_power_of_two),
    ENTRY(valloc_and_pvalloc_align_to_a_page),
    ENTRY(malloc_usable_size_of_null_is_zero),
    ENTRY(the_libc_names_are_the_same_functions),
    ENTRY(blocks_that_libc_hands_out_are_freed_like_any_other),
    ENTRY(malloc_trim_gives_free_memory_back),
    ENTRY(mallinfo_and_mallinfo2_follow_what_is_allocated),
    ENTRY(malloc_stats_writes_to_stderr),
    ENTRY(malloc_info_writes_an_xml_document),
    ENTRY(malloc_info_refuses_options),
    ENTRY(mallopt_takes_the_parameters_of_glibc),
};

int main(int argc, char **argv)
{
    return family_main(tests, sizeof tests / sizeof tests[0], argc, argv);
}
