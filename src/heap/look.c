/* SPDX-License-Identifier: MIT */
/* Looking at heaps: figures, CPython's text, every block, and whether all is well. Nothing here
 * allocates. */
#include "heap.h"

#include <string.h>
#include <unistd.h>

#include "report.h"

static int refuse(void)
{
    errno = EINVAL;
    return -1;
}

/* ---- Every block ------------------------------------------------------------------------------
 */

struct visit {
    int (*visit)(void *context, void *block, size_t bytes);
    void *context;
    int result;
};

static bool visit_block(void *context, void *block, size_t bytes)
{
    struct visit *visit = context;
    visit->result = visit->visit(visit->context, block, bytes);
    return visit->result == 0;
}

static bool visit_part(void *context, struct fh_classic *classic)
{
    return fh_classic_visit(classic, visit_block, context);
}

static bool visit_large(void *context, struct fh_large_header *header)
{
    return visit_block(context, header + 1, fh_large_usable_bytes(header));
}

int fh_heap_visit_blocks(fh_heap *heap, int (*visit)(void *context, void *block, size_t bytes),
                         void *context)
{
    struct visit state = {visit, context, 0};
    if (fh_heap_is_default(heap) || visit == NULL)
        return refuse();
    (void)(fh_part_each(heap, visit_part, &state) &&
           fh_large_each(&heap->large, visit_large, &state));
    return state.result;
}

/* ---- Figures ----------------------------------------------------------------------------------
 */

static void add(fh_heap_stats *stats, const struct fh_classic_totals *totals)
{
    stats->live_blocks += totals->live_blocks;
    stats->live_bytes += totals->in_use_bytes;
    stats->arenas_total += totals->arenas_total;
    stats->arenas_reclaimed += totals->arenas_total - totals->arenas_current;
    stats->arenas_highwater += totals->arenas_highwater;
    stats->arenas_current += totals->arenas_current;
    stats->arenas_bytes += totals->arenas_bytes;
    stats->in_use_bytes += totals->in_use_bytes;
    stats->available_bytes += totals->available_bytes;
    stats->free_pools_bytes += totals->free_pools_bytes;
    stats->header_bytes += totals->header_bytes;
    stats->quantization_bytes += totals->quantization_bytes;
    stats->alignment_bytes += totals->alignment_bytes;
}

static bool add_part(void *context, struct fh_classic *classic)
{
    fh_heap_stats *stats = context;
    struct fh_classic_totals totals;
    fh_classic_sum(classic, &totals);
    add(stats, &totals);
    stats->deferred_blocks += fh_classic_deferred_count(classic);
    return true;
}

static bool add_large(void *context, struct fh_large_header *header)
{
    fh_heap_stats *stats = context;
    stats->live_blocks++;
    stats->live_bytes += fh_large_usable_bytes(header);
    stats->large_blocks++;
    stats->large_bytes += header->bytes;
    return true;
}

int fh_heap_get_stats(fh_heap *heap, fh_heap_stats *out)
{
    if (fh_heap_is_default(heap) || out == NULL || out->struct_bytes < sizeof *out)
        return refuse();
    fh_heap_stats stats = {.struct_bytes = out->struct_bytes};
    (void)fh_part_each(heap, add_part, &stats);
    (void)fh_large_each(&heap->large, add_large, &stats);
    *out = stats;
    return 0;
}

/* ---- Texts ------------------------------------------------------------------------------------
 */

/* What the descriptor takes; the rest is nobody's loss but the reader's. */
static void write_text(void *context, const char *text, size_t bytes)
{
    const int *fd = context;
    while (bytes > 0) {
        ssize_t written = write(*fd, text, bytes);
        if (written <= 0)
            return;
        text += written;
        bytes -= (size_t)written;
    }
}

static bool write_part(void *context, struct fh_classic *classic)
{
    fh_classic_stats_text(classic, write_text, context);
    return true;
}

int fh_heap_write_stats(fh_heap *heap, int fd)
{
    if (fh_heap_is_default(heap))
        return refuse();
    (void)fh_part_each(heap, write_part, &fd);
    return 0;
}

/* ---- Checking ---------------------------------------------------------------------------------
 */

struct check {
    struct fh_heap *heap;
    int fd;
    size_t count;
    size_t bytes; /* of arenas and large blocks */
};

static void put_address(char *text, const void *address)
{
    for (unsigned i = 0; i < 16; i++)
        text[i] = "0123456789abcdef"[(uintptr_t)address >> (60 - 4 * i) & 15];
}

/* "freehold: heap 0x…: a pool's header is damaged: 0x…" */
static void write_finding(const struct check *check, const char *what, const void *where)
{
    char heap[] = "freehold: heap 0x0123456789abcdef: ";
    char place[] = ": 0x0123456789abcdef\n";
    int fd = check->fd;
    put_address(strchr(heap, 'x') + 1, check->heap);
    put_address(strchr(place, 'x') + 1, where);
    write_text(&fd, heap, sizeof heap - 1);
    write_text(&fd, what, strlen(what));
    write_text(&fd, place, sizeof place - 1);
}

static void report(void *context, const char *what, const void *where)
{
    struct check *check = context;
    check->count++;
    write_finding(check, what, where);
}

static bool check_part(void *context, struct fh_classic *classic)
{
    struct check *check = context;
    (void)fh_classic_check(classic, report, check);
    check->bytes += (size_t)classic->arenas_current * classic->config.arena_bytes;
    return true;
}

/* Without its mark it is being freed, by a thread that stopped there. */
static bool check_large(void *context, struct fh_large_header *header)
{
    struct check *check = context;
    bool is_block = header->mark == 0 || fh_large_at(header + 1) == header;
    if (!is_block || header->heap != check->heap)
        report(check, "a large block's header is damaged", header);
    else
        check->bytes += header->bytes;
    return true;
}

/* It may be more than was found: what is in parts that somebody stopped in was not looked at, and a
 * large block counts from before it is there until after it is gone. */
static void check_limit(struct check *check)
{
    const struct fh_heap *heap = check->heap;
    if (heap->limit_bytes == 0 || check->count != 0)
        return;
    if (fh_load_relaxed_u64(&heap->reserved_bytes) < check->bytes) /* nobody else is inside */
        report(check, "fewer bytes count to the limit than there are", heap);
}

int fh_heap_check(fh_heap *heap, int fd)
{
    struct check check = {.heap = heap, .fd = fd};
    if (fh_heap_is_default(heap))
        return refuse();
    (void)fh_part_each(heap, check_part, &check);
    (void)fh_large_each(&heap->large, check_large, &check);
    check_limit(&check);
    return (int)check.count;
}

/* ---- Deferred blocks --------------------------------------------------------------------------
 */

static bool drain_part(void *context, struct fh_classic *classic)
{
    size_t *count = context;
    *count += fh_classic_drain(classic);
    fh_classic_decay(classic);
    return true;
}

size_t fh_heap_drain(fh_heap *heap)
{
    size_t count = 0;
    if (!fh_heap_is_default(heap))
        (void)fh_part_each(heap, drain_part, &count);
    return count;
}
