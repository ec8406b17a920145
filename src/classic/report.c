/* SPDX-License-Identifier: MIT */
#include "report.h"

#include <string.h>

enum { HEADER_BYTES = sizeof(struct fh_classic_pool) };

/* ---- Geometry ---------------------------------------------------------------------------------
 */

unsigned fh_classic_classes(const struct fh_classic *heap)
{
    return heap->config.threshold_bytes / heap->config.alignment_bytes;
}

size_t fh_classic_class_bytes(const struct fh_classic *heap, unsigned class_index)
{
    return (class_index + 1) * (size_t)heap->config.alignment_bytes;
}

static unsigned class_of(const struct fh_classic *heap, const struct fh_classic_pool *pool)
{
    return pool->block_bytes / heap->config.alignment_bytes - 1;
}

static uint32_t capacity_of(const struct fh_classic *heap, const struct fh_classic_pool *pool)
{
    return (heap->config.pool_bytes - HEADER_BYTES) / pool->block_bytes;
}

static struct fh_classic_pool *first_pool(const struct fh_classic *heap,
                                          const struct fh_classic_arena *arena)
{
    uintptr_t pool_bytes = heap->config.pool_bytes;
    return (struct fh_classic_pool *)((arena->address + pool_bytes - 1) & heap->pool_mask);
}

static struct fh_classic_pool *next_pool(const struct fh_classic *heap,
                                         struct fh_classic_pool *pool)
{
    return (struct fh_classic_pool *)(void *)((char *)pool + heap->config.pool_bytes);
}

/* ---- Every pool that was ever used ------------------------------------------------------------
 */

struct walk {
    const struct fh_classic *heap;
    uint32_t arena_index;
    struct fh_classic_pool *pool; /* NULL: the arena's first comes next */
};

/* The next one, or NULL at the end. */
static struct fh_classic_pool *walk_on(struct walk *walk)
{
    const struct fh_classic *heap = walk->heap;
    for (; walk->arena_index < heap->arenas_capacity; walk->arena_index++, walk->pool = NULL) {
        const struct fh_classic_arena *arena = &heap->arenas[walk->arena_index];
        if (arena->address == 0)
            continue;
        walk->pool = walk->pool == NULL ? first_pool(heap, arena) : next_pool(heap, walk->pool);
        if ((char *)walk->pool < arena->fresh)
            return walk->pool;
    }
    return NULL;
}

/* ---- Sums -------------------------------------------------------------------------------------
 */

static void add_pool(const struct fh_classic *heap, const struct fh_classic_pool *pool,
                     struct fh_classic_totals *totals)
{
    if (pool->live_count == 0)
        return;
    struct fh_classic_class *class = &totals->classes[class_of(heap, pool)];
    uint32_t capacity = capacity_of(heap, pool);
    size_t block_bytes = pool->block_bytes;
    class->pools++;
    class->live_blocks += pool->live_count;
    class->free_blocks += capacity - pool->live_count;
    totals->live_blocks += pool->live_count;
    totals->in_use_bytes += pool->live_count * block_bytes;
    totals->available_bytes += (capacity - pool->live_count) * block_bytes;
    totals->header_bytes += HEADER_BYTES;
    totals->quantization_bytes += (heap->config.pool_bytes - HEADER_BYTES) % block_bytes;
}

static void add_arena(const struct fh_classic *heap, const struct fh_classic_arena *arena,
                      struct fh_classic_totals *totals)
{
    if (arena->address == 0)
        return;
    totals->free_pools += arena->free_count;
    if ((arena->address & ~heap->pool_mask) != 0)
        totals->alignment_bytes += heap->config.pool_bytes;
}

void fh_classic_sum(const struct fh_classic *heap, struct fh_classic_totals *totals)
{
    memset(totals, 0, sizeof *totals);
    totals->arenas_total = heap->arenas_total;
    totals->arenas_current = heap->arenas_current;
    totals->arenas_highwater = heap->arenas_highwater;
    totals->arenas_bytes = heap->arenas_current * (size_t)heap->config.arena_bytes;
    for (uint32_t i = 0; i < heap->arenas_capacity; i++)
        add_arena(heap, &heap->arenas[i], totals);
    totals->free_pools_bytes = totals->free_pools * heap->config.pool_bytes;
    struct walk walk = {.heap = heap};
    for (struct fh_classic_pool *pool; (pool = walk_on(&walk)) != NULL;)
        add_pool(heap, pool, totals);
}

/* ---- CPython's text ---------------------------------------------------------------------------
 */

struct line {
    char text[96];
    size_t bytes;
    fh_classic_write *write;
    void *ctx;
};

static void put_text(struct line *line, const char *text)
{
    for (; *text != '\0' && line->bytes < sizeof line->text; text++)
        line->text[line->bytes++] = *text;
}

static void put_spaces(struct line *line, size_t until_bytes)
{
    while (line->bytes < until_bytes && line->bytes < sizeof line->text)
        line->text[line->bytes++] = ' ';
}

/* Right-aligned in so many columns; with a comma before each three digits if so wished. */
static void put_number(struct line *line, uint64_t number, size_t columns, bool commas)
{
    char digits[32];
    size_t at = sizeof digits;
    digits[--at] = '\0';
    unsigned count = 0;
    do {
        if (commas && count != 0 && count % 3 == 0)
            digits[--at] = ',';
        digits[--at] = (char)('0' + number % 10);
        count++;
        number /= 10;
    } while (number != 0);
    size_t width = sizeof digits - 1 - at;
    put_spaces(line, line->bytes + (width < columns ? columns - width : 0));
    put_text(line, &digits[at]);
}

static void end_line(struct line *line)
{
    line->text[line->bytes < sizeof line->text ? line->bytes++ : sizeof line->text - 1] = '\n';
    line->write(line->ctx, line->text, line->bytes);
    line->bytes = 0;
}

static void text_line(struct line *line, const char *text)
{
    put_text(line, text);
    end_line(line);
}

/* After the label: "=", in column 35, and the value in 21 columns. */
static void put_value(struct line *line, uint64_t value)
{
    put_spaces(line, 35);
    put_text(line, "=");
    put_number(line, value, 21, true);
    end_line(line);
}

static void value_line(struct line *line, const char *label, uint64_t value)
{
    put_text(line, label);
    put_value(line, value);
}

/* "2 arenas * 1048576 bytes/arena" */
static void product_line(struct line *line, uint64_t count, const char *of, uint64_t bytes,
                         const char *unit)
{
    put_number(line, count, 0, false);
    put_text(line, of);
    put_number(line, bytes, 0, false);
    put_text(line, unit);
    put_value(line, count * bytes);
}

static void heading(const struct fh_classic *heap, struct line *line)
{
    put_text(line, "Small block threshold = ");
    put_number(line, heap->config.threshold_bytes, 0, false);
    put_text(line, ", in ");
    put_number(line, fh_classic_classes(heap), 0, false);
    text_line(line, " size classes.");
    text_line(line, "");
    text_line(line, "class   size   num pools   blocks in use  avail blocks");
    text_line(line, "-----   ----   ---------   -------------  ------------");
}

static void class_lines(const struct fh_classic *heap, const struct fh_classic_totals *totals,
                        struct line *line)
{
    for (unsigned i = 0; i < fh_classic_classes(heap); i++) {
        const struct fh_classic_class *class = &totals->classes[i];
        if (class->pools == 0)
            continue;
        put_number(line, i, 5, false);
        put_number(line, fh_classic_class_bytes(heap, i), 7, false);
        put_number(line, class->pools, 12, false);
        put_number(line, class->live_blocks, 16, false);
        put_number(line, class->free_blocks, 14, false);
        end_line(line);
    }
    text_line(line, "");
}

static void arena_lines(const struct fh_classic *heap, const struct fh_classic_totals *totals,
                        struct line *line)
{
    value_line(line, "# arenas allocated total", totals->arenas_total);
    value_line(line, "# arenas reclaimed", totals->arenas_total - totals->arenas_current);
    value_line(line, "# arenas highwater mark", totals->arenas_highwater);
    value_line(line, "# arenas allocated current", totals->arenas_current);
    product_line(line, totals->arenas_current, " arenas * ", heap->config.arena_bytes,
                 " bytes/arena");
    text_line(line, "");
}

static void byte_lines(const struct fh_classic *heap, const struct fh_classic_totals *totals,
                       struct line *line)
{
    value_line(line, "# bytes in allocated blocks", totals->in_use_bytes);
    value_line(line, "# bytes in available blocks", totals->available_bytes);
    product_line(line, totals->free_pools, " unused pools * ", heap->config.pool_bytes, " bytes");
    value_line(line, "# bytes lost to pool headers", totals->header_bytes);
    value_line(line, "# bytes lost to quantization", totals->quantization_bytes);
    value_line(line, "# bytes lost to arena alignment", totals->alignment_bytes);
    value_line(line, "Total",
               totals->in_use_bytes + totals->available_bytes + totals->free_pools_bytes +
                   totals->header_bytes + totals->quantization_bytes + totals->alignment_bytes);
}

void fh_classic_stats_text(const struct fh_classic *heap, fh_classic_write *write, void *ctx)
{
    struct fh_classic_totals totals;
    struct line line = {.write = write, .ctx = ctx};
    fh_classic_sum(heap, &totals);
    heading(heap, &line);
    class_lines(heap, &totals, &line);
    arena_lines(heap, &totals, &line);
    byte_lines(heap, &totals, &line);
}

/* ---- Which blocks of a pool are live ----------------------------------------------------------
 */

enum { BLOCKS_MAX = FH_CLASSIC_POOL_BYTES_MAX / 8 };

struct blocks {
    uint64_t live[BLOCKS_MAX / 64];
    uint32_t carved;
};

static bool is_live(const struct blocks *blocks, uint32_t index)
{
    return (blocks->live[index / 64] >> index % 64 & 1) != 0;
}

static void *block_at(struct fh_classic_pool *pool, uint32_t index)
{
    return (char *)pool + HEADER_BYTES + (size_t)index * pool->block_bytes;
}

static bool is_block(const struct fh_block *link)
{
    return link != NULL && link != FH_CLASSIC_MORE;
}

/* Mark what was carved and is not on the free list. False if the list leads astray or in circles.
 */
static bool find_live(const struct fh_classic_pool *pool, struct blocks *blocks)
{
    memset(blocks->live, 0, sizeof blocks->live);
    blocks->carved = (pool->carve_offset - HEADER_BYTES) / pool->block_bytes;
    for (uint32_t i = 0; i < blocks->carved; i++)
        blocks->live[i / 64] |= (uint64_t)1 << i % 64;
    for (const struct fh_block *block = pool->free_list; is_block(block); block = block->next) {
        uintptr_t offset = (uintptr_t)block - (uintptr_t)pool - HEADER_BYTES;
        uintptr_t index = offset / pool->block_bytes;
        if (offset % pool->block_bytes != 0 || index >= blocks->carved ||
            !is_live(blocks, (uint32_t)index))
            return false;
        blocks->live[index / 64] &= ~((uint64_t)1 << index % 64);
    }
    return true;
}

static bool visit_pool(struct fh_classic_pool *pool, fh_classic_visitor *visit, void *ctx)
{
    struct blocks blocks;
    if (pool->live_count == 0 || !find_live(pool, &blocks))
        return true;
    for (uint32_t i = 0; i < blocks.carved; i++)
        if (is_live(&blocks, i) && !visit(ctx, block_at(pool, i), pool->block_bytes))
            return false;
    return true;
}

bool fh_classic_visit(const struct fh_classic *heap, fh_classic_visitor *visit, void *ctx)
{
    struct walk walk = {.heap = heap};
    for (struct fh_classic_pool *pool; (pool = walk_on(&walk)) != NULL;)
        if (!visit_pool(pool, visit, ctx))
            return false;
    return true;
}

/* ---- Checking ---------------------------------------------------------------------------------
 */

struct findings {
    fh_classic_reporter *report;
    void *ctx;
    size_t count;
};

static void expect(struct findings *findings, bool holds, const char *what, const void *where)
{
    if (holds)
        return;
    findings->count++;
    if (findings->report != NULL)
        findings->report(findings->ctx, what, where);
}

static bool header_is_sane(const struct fh_classic *heap, const struct fh_classic_pool *pool,
                           uint32_t arena_index)
{
    uint32_t bytes = pool->block_bytes;
    return pool->arena_index == arena_index && bytes != 0 &&
           bytes % heap->config.alignment_bytes == 0 && bytes <= heap->threshold_bytes &&
           pool->carve_max == heap->config.pool_bytes - bytes &&
           pool->slot == (((bytes - 1) >> FH_CLASSIC_SLOT_SHIFT) & heap->slot_mask) &&
           pool->carve_offset <= heap->config.pool_bytes &&
           (pool->carve_offset - HEADER_BYTES) % bytes == 0;
}

static void check_pool(const struct fh_classic *heap, struct fh_classic_pool *pool,
                       uint32_t arena_index, struct findings *findings)
{
    struct blocks blocks;
    bool sane = header_is_sane(heap, pool, arena_index);
    expect(findings, sane, "a pool's header is damaged", pool);
    if (!sane)
        return;
    bool listed = find_live(pool, &blocks);
    expect(findings, listed, "a pool's free list is damaged", pool);
    uint32_t live_count = 0;
    for (size_t i = 0; i < BLOCKS_MAX / 64; i++)
        live_count += (uint32_t)__builtin_popcountll(blocks.live[i]);
    expect(findings, !listed || live_count == pool->live_count,
           "a pool's live count and its free list disagree", pool);
    expect(findings, pool->free_list != NULL || pool->live_count == capacity_of(heap, pool),
           "a pool that is not full has no block at hand", pool);
    expect(findings,
           fh_classic_of(pool) == heap && fh_classic_owns(heap, next_pool(heap, pool) - 1),
           "a pool is not found by its addresses", pool);
}

static void check_pools(const struct fh_classic *heap, struct findings *findings)
{
    struct walk walk = {.heap = heap};
    for (struct fh_classic_pool *pool; (pool = walk_on(&walk)) != NULL;)
        check_pool(heap, pool, walk.arena_index, findings);
}

/* Pools with live blocks and free ones, by class: they must be those in the class's list. */
static size_t count_used(const struct fh_classic *heap, uint32_t block_bytes)
{
    size_t count = 0;
    struct walk walk = {.heap = heap};
    for (struct fh_classic_pool *pool; (pool = walk_on(&walk)) != NULL;)
        count +=
            pool->block_bytes == block_bytes && pool->live_count != 0 && pool->free_list != NULL;
    return count;
}

static void check_used(const struct fh_classic *heap, unsigned class_index,
                       struct findings *findings)
{
    uint32_t bytes = (uint32_t)fh_classic_class_bytes(heap, class_index);
    size_t left = count_used(heap, bytes);
    const struct fh_classic_pool *previous = NULL;
    const struct fh_classic_pool *pool =
        heap->used[(bytes - 1) >> FH_CLASSIC_SLOT_SHIFT & heap->slot_mask];
    for (; pool != &heap->none && left > 0; previous = pool, pool = pool->next, left--) {
        bool belongs = fh_classic_owns(heap, pool) && pool->block_bytes == bytes &&
                       pool->live_count != 0 && pool->free_list != NULL &&
                       (previous == NULL || pool->previous == previous);
        expect(findings, belongs, "a pool is in a list where it does not belong", pool);
        if (!belongs)
            return;
    }
    expect(findings, left == 0 && pool == &heap->none, "a class's list is too short or too long",
           pool);
}

static void check_arena(const struct fh_classic *heap, uint32_t index, struct findings *findings)
{
    const struct fh_classic_arena *arena = &heap->arenas[index];
    char *first = (char *)first_pool(heap, arena);
    size_t touched = (size_t)(arena->fresh - first) / heap->config.pool_bytes;
    size_t free_count = arena->pool_count - touched;
    expect(findings,
           touched <= arena->pool_count &&
               first + (size_t)arena->pool_count * heap->config.pool_bytes <=
                   (char *)arena->address + heap->config.arena_bytes,
           "an arena's pools lie outside of it", arena);
    for (const struct fh_classic_pool *pool = arena->empty;
         pool != NULL && free_count <= arena->pool_count; pool = pool->next, free_count++)
        expect(findings, pool->live_count == 0 && pool->arena_index == index,
               "a pool with live blocks, or of another arena, is listed as empty", pool);
    expect(findings, free_count == arena->free_count, "an arena's count of free pools is wrong",
           arena);
    const char *last = (const char *)arena->address + heap->config.arena_bytes - 1;
    expect(findings, fh_classic_owns(heap, (void *)arena->address) && fh_classic_of(last) == heap,
           "an arena is not found by its addresses", arena);
}

/* Returns how many are usable, by their own counts. */
static size_t check_arenas(const struct fh_classic *heap, struct findings *findings)
{
    size_t current = 0;
    size_t usable = 0;
    for (uint32_t i = 0; i < heap->arenas_capacity; i++)
        if (heap->arenas[i].address != 0) {
            check_arena(heap, i, findings);
            current++;
            usable += heap->arenas[i].free_count != 0;
        }
    expect(findings, current == heap->arenas_current, "the count of arenas is wrong", heap);
    for (const struct fh_classic_arena *arena = heap->unused;
         arena != NULL && current <= heap->arenas_capacity; arena = arena->next)
        current++;
    expect(findings, current == heap->arenas_capacity, "an arena's record is lost", heap);
    return usable;
}

static void check_order(const struct fh_classic *heap, size_t usable, struct findings *findings)
{
    const struct fh_classic_arena *previous = NULL;
    const struct fh_classic_arena *arena = heap->usable;
    for (; arena != NULL && usable > 0; previous = arena, arena = arena->next, usable--) {
        uint32_t count = arena->free_count;
        bool is_last = arena->next == NULL || arena->next->free_count != count;
        expect(findings,
               arena->previous == previous && count != 0 &&
                   (previous == NULL || previous->free_count <= count),
               "the usable arenas are out of order", arena);
        expect(findings, (heap->last_with[count] == arena) == is_last,
               "the last arena with so many free pools is another one", arena);
    }
    expect(findings, arena == NULL && usable == 0, "a usable arena is not listed", heap);
    for (uint32_t count = 0; count <= FH_CLASSIC_POOLS_MAX; count++)
        expect(findings,
               heap->last_with[count] == NULL || heap->last_with[count]->free_count == count,
               "an arena stands for a count that it does not have", heap->last_with[count]);
}

size_t fh_classic_check(const struct fh_classic *heap, fh_classic_reporter *report, void *ctx)
{
    struct findings findings = {.report = report, .ctx = ctx};
    check_pools(heap, &findings);
    for (unsigned i = 0; i < fh_classic_classes(heap); i++)
        check_used(heap, i, &findings);
    check_order(heap, check_arenas(heap, &findings), &findings);
    return findings.count;
}
