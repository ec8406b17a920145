/* SPDX-License-Identifier: MIT */
/* The malloc family, as glibc has it: C, POSIX, and what programs have come to expect.
 *
 * Where the standards leave a choice this does what glibc does: realloc(p, 0) frees and returns
 * NULL, an alignment holds for size 0 too, errno is set on every failure. All of it is in this one
 * object, so that a static program never takes in libc's own. The `__libc_` names are glibc's
 * second names for the same functions, which some programs bind to.
 */
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bits.h"
#include "fatal.h"
#include "freehold.h"
#include "freehold/stats.h"
#include "theap.h"
#include "os.h"
#include "stats.h"

#define EXPORT __attribute__((visibility("default")))

/* glibc's second name for a function of ours. */
#define ALSO(second, first)                                                                        \
    EXPORT extern __typeof__(first) second __attribute__((alias(#first))) FH_COPY_ATTRIBUTES(first)

/* C23's; glibc 2.36 does not declare them. */
void free_sized(void *memory, size_t bytes);
void free_aligned_sized(void *memory, size_t alignment, size_t bytes);
void cfree(void *memory);

/* That it is here, for the tracer. */
extern const char fh_malloc_family_is_here FH_HIDDEN;
const char fh_malloc_family_is_here = 1;

static void *fail(int error)
{
    errno = error;
    return NULL;
}

/* ---- C ----------------------------------------------------------------------------------------
 */

EXPORT void *malloc(size_t bytes)
{
    return fh_theap_malloc(bytes);
}

EXPORT void free(void *memory)
{
    fh_theap_free(memory);
}

EXPORT void *calloc(size_t count, size_t bytes)
{
    size_t product;
    if (FH_UNLIKELY(__builtin_mul_overflow(count, bytes, &product)))
        return fail(ENOMEM);
    return fh_theap_calloc(product);
}

EXPORT void *realloc(void *memory, size_t bytes)
{
    if (memory == NULL)
        return fh_theap_malloc(bytes);
    if (bytes != 0)
        return fh_theap_realloc(memory, bytes);
    fh_theap_free(memory);
    return NULL;
}

EXPORT void *reallocarray(void *memory, size_t count, size_t bytes)
{
    size_t product;
    if (__builtin_mul_overflow(count, bytes, &product))
        return fail(ENOMEM);
    return realloc(memory, product);
}

/* The size is a promise of the caller's that we need not rely on. */
EXPORT void free_sized(void *memory, size_t bytes)
{
    (void)bytes;
    fh_theap_free(memory);
}

EXPORT void free_aligned_sized(void *memory, size_t alignment, size_t bytes)
{
    (void)alignment;
    (void)bytes;
    fh_theap_free(memory);
}

EXPORT void cfree(void *memory)
{
    fh_theap_free(memory);
}

/* ---- Alignment --------------------------------------------------------------------------------
 */

/* C17 has any size; the alignment must be a power of two, else EINVAL (glibc since 2.38). */
EXPORT void *aligned_alloc(size_t alignment, size_t bytes)
{
    if (!fh_is_power_of_two(alignment))
        return fail(EINVAL);
    return fh_theap_aligned(alignment, bytes);
}

/* glibc's memalign rounds any alignment up to a power of two. */
EXPORT void *memalign(size_t alignment, size_t bytes)
{
    if (alignment > SIZE_MAX / 2 + 1)
        return fail(EINVAL);
    size_t power = FH_BLOCK_ALIGN_BYTES;
    while (power < alignment)
        power *= 2;
    return fh_theap_aligned(power, bytes);
}

/* Returns the error, and leaves errno alone. */
EXPORT int posix_memalign(void **memory, size_t alignment, size_t bytes)
{
    if (!fh_is_power_of_two(alignment) || alignment % sizeof(void *) != 0)
        return EINVAL;
    int saved_errno = errno;
    void *block = fh_theap_aligned_for(alignment, bytes, FH_THEAP_CALLER());
    errno = saved_errno;
    if (block == NULL)
        return ENOMEM;
    *memory = block;
    return 0;
}

EXPORT void *valloc(size_t bytes)
{
    return fh_theap_aligned(fh_os_page_bytes(), bytes);
}

EXPORT void *pvalloc(size_t bytes)
{
    size_t page_bytes = fh_os_page_bytes();
    if (bytes > PTRDIFF_MAX)
        return fail(ENOMEM);
    return fh_theap_aligned(page_bytes, fh_round_up(bytes, page_bytes));
}

/* ---- What glibc tells about its heap ----------------------------------------------------------
 */

EXPORT size_t malloc_usable_size(void *memory)
{
    return fh_theap_usable_bytes(memory);
}

/* 1 if any memory went back to the system. `pad` is about glibc's one growing heap; there is none.
 */
EXPORT int malloc_trim(size_t pad)
{
    (void)pad;
    return fh_trim() != 0;
}

/* glibc's parameters are accepted and mean nothing here; 0 says that a parameter is unknown. */
EXPORT int mallopt(int parameter, int value)
{
    (void)value;
    return parameter == M_MXFAST || (parameter <= M_TRIM_THRESHOLD && parameter >= M_ARENA_MAX);
}

static size_t free_blocks_of(const fh_class_stats *classes, size_t *bytes)
{
    size_t blocks = 0;
    *bytes = 0;
    for (size_t i = 0; i < FH_CLASSES; i++) {
        blocks += classes[i].free_blocks;
        *bytes += classes[i].free_blocks * classes[i].block_bytes;
    }
    return blocks;
}

/* As glibc splits it: hblks and hblkhd are blocks of whole pools, and the memory they take; all
 * other fields are about the rest. arena: from the system, of which uordblks is in blocks and
 * fordblks is not; ordblks: free blocks; keepcost: what malloc_trim() would give back. */
EXPORT struct mallinfo2 mallinfo2(void)
{
    struct fh_sums sums = fh_stats_sum();
    fh_class_stats classes[FH_CLASSES];
    size_t free_bytes;
    (void)fh_stats_classes(classes, FH_CLASSES);
    struct mallinfo2 info = {0};
    info.arena = sums.small_pool_bytes + sums.span_bytes + sums.spare_bytes + sums.retained_bytes;
    info.ordblks = free_blocks_of(classes, &free_bytes);
    info.hblks = sums.large_blocks;
    info.hblkhd = sums.large_pool_bytes + sums.huge_pool_bytes;
    info.uordblks = sums.allocated_bytes - sums.large_bytes;
    info.fordblks = info.arena - info.uordblks;
    info.keepcost = sums.retained_bytes;
    return info;
}

static int clipped(size_t value)
{
    return value > INT32_MAX ? INT32_MAX : (int)value;
}

EXPORT struct mallinfo mallinfo(void)
{
    struct mallinfo2 wide = mallinfo2();
    struct mallinfo info = {0};
    info.arena = clipped(wide.arena);
    info.ordblks = clipped(wide.ordblks);
    info.hblks = clipped(wide.hblks);
    info.hblkhd = clipped(wide.hblkhd);
    info.uordblks = clipped(wide.uordblks);
    info.fordblks = clipped(wide.fordblks);
    info.keepcost = clipped(wide.keepcost);
    return info;
}

EXPORT void malloc_stats(void)
{
    (void)fh_malloc_stats(STDERR_FILENO); /* refused: nobody listens */
}

/* As glibc lists its free chunks. */
static void print_sizes(FILE *stream, const fh_class_stats *classes)
{
    fprintf(stream, "<sizes>\n");
    for (size_t i = 0; i < FH_CLASSES; i++)
        if (classes[i].free_blocks != 0)
            fprintf(stream, "  <size from=\"%zu\" to=\"%zu\" total=\"%zu\" count=\"%zu\"/>\n",
                    classes[i].block_bytes, classes[i].block_bytes,
                    classes[i].free_blocks * classes[i].block_bytes, classes[i].free_blocks);
    fprintf(stream, "</sizes>\n");
}

static void print_totals(FILE *stream, size_t free_blocks, size_t free_bytes)
{
    fprintf(stream,
            "<total type=\"fast\" count=\"0\" size=\"0\"/>\n"
            "<total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n",
            free_blocks, free_bytes);
}

static void print_system(FILE *stream, const struct fh_sums *sums)
{
    fprintf(stream,
            "<system type=\"current\" size=\"%zu\"/>\n"
            "<aspace type=\"total\" size=\"%zu\"/>\n",
            sums->active_bytes + sums->spare_bytes + sums->retained_bytes, sums->mapped_bytes);
}

/* All threads' heaps as one. Not for signal handlers: stdio. */
EXPORT int malloc_info(int options, FILE *stream)
{
    if (options != 0)
        return EINVAL;
    struct fh_sums sums = fh_stats_sum();
    fh_class_stats classes[FH_CLASSES];
    size_t free_bytes;
    (void)fh_stats_classes(classes, FH_CLASSES);
    size_t free_blocks = free_blocks_of(classes, &free_bytes);
    fprintf(stream, "<malloc version=\"1\">\n<heap nr=\"0\">\n");
    print_sizes(stream, classes);
    print_totals(stream, free_blocks, free_bytes);
    print_system(stream, &sums);
    fprintf(stream, "</heap>\n");
    print_totals(stream, free_blocks, free_bytes);
    fprintf(stream, "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n", sums.large_blocks,
            sums.large_pool_bytes + sums.huge_pool_bytes);
    print_system(stream, &sums);
    fprintf(stream, "</malloc>\n");
    return ferror(stream) != 0 ? -1 : 0;
}

/* ---- glibc's second names ---------------------------------------------------------------------
 */

ALSO(__libc_malloc, malloc);
ALSO(__libc_free, free);
ALSO(__libc_cfree, cfree);
ALSO(__libc_calloc, calloc);
ALSO(__libc_realloc, realloc);
ALSO(__libc_reallocarray, reallocarray);
ALSO(__libc_memalign, memalign);
ALSO(__libc_valloc, valloc);
ALSO(__libc_pvalloc, pvalloc);
ALSO(__posix_memalign, posix_memalign);
ALSO(__libc_mallopt, mallopt);
