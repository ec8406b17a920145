/* SPDX-License-Identifier: MIT */
#include "stats_heaps.h"

#include "heap.h"
#include "report.h"

static const struct fh_stats_heap nothing_known = {
    .small_blocks = SIZE_MAX,
    .small_bytes = SIZE_MAX,
    .arenas_bytes = SIZE_MAX,
    .large_blocks = SIZE_MAX,
    .large_bytes = SIZE_MAX,
};

/* ---- The gil modes ----------------------------------------------------------------------------
 */

static void look_as_holder(struct fh_heap *heap, struct fh_stats_heap *out)
{
    fh_heap_stats stats = {.struct_bytes = sizeof stats};
    if (!fh_gil_held(&heap->gil) || fh_classic_is_changing(fh_part_classic(&heap->parts[0])) ||
        fh_heap_get_stats(heap, &stats) != 0)
        return;
    out->small_blocks = stats.live_blocks - stats.large_blocks;
    out->small_bytes = stats.in_use_bytes;
    out->arenas_bytes = stats.arenas_bytes;
    out->large_blocks = stats.large_blocks;
    out->large_bytes = stats.large_bytes;
}

/* ---- Free heaps -------------------------------------------------------------------------------
 */

static bool add_part(void *context, struct fh_classic *classic)
{
    struct fh_stats_heap *out = context;
    struct fh_classic_totals totals;
    fh_classic_sum(classic, &totals);
    out->small_blocks += totals.live_blocks;
    out->small_bytes += totals.in_use_bytes;
    out->arenas_bytes += totals.arenas_bytes;
    return true;
}

/* Each part is entered, so nobody else is in it meanwhile. */
static void look_into_parts(struct fh_heap *heap, struct fh_stats_heap *out)
{
    out->small_blocks = 0;
    out->small_bytes = 0;
    out->arenas_bytes = 0;
    (void)fh_part_each(heap, add_part, out);
}

/* ---- All --------------------------------------------------------------------------------------
 */

struct visit {
    void (*visit)(void *context, const struct fh_stats_heap *heap);
    void *context;
};

static bool visit_heap(void *context, struct fh_heap *heap)
{
    static const char *const modes[] = {"free", "gil-assert", "gil-lock"};
    const struct visit *visit = context;
    struct fh_stats_heap out = nothing_known;
    out.address = heap;
    out.mode = modes[heap->mode];
    if (heap->mode == FH_OBJ_FREE)
        look_into_parts(heap, &out);
    else
        look_as_holder(heap, &out);
    visit->visit(visit->context, &out);
    return true;
}

void fh_stats_each_heap(void (*visit)(void *context, const struct fh_stats_heap *heap),
                        void *context)
{
    struct visit state = {visit, context};
    (void)fh_heap_each(visit_heap, &state);
}
