/* SPDX-License-Identifier: MIT */
/* Cells and chunks as slots use them between collections, and the collector's settings. */
#include "gc_phases.h"

#include <errno.h>
#include <string.h>

#include "begin.h"

static const unsigned built_in_thresholds[FH_GC_GENERATIONS] = {700, 10, 10};

/* ---- Chunks ---- */

/* Where an allocator was set, the raw domain aligns to 16 alone: then it is cut out of two. */
static void *chunk_memory(void **memory)
{
    *memory = fh_raw_aligned_alloc(FH_GC_CHUNK_BYTES, FH_GC_CHUNK_BYTES);
    if (*memory == NULL && errno == EINVAL)
        *memory = fh_raw_malloc(2 * FH_GC_CHUNK_BYTES);
    uintptr_t end = (uintptr_t)*memory + FH_GC_CHUNK_BYTES - 1;
    return (void *)(end & ~(uintptr_t)(FH_GC_CHUNK_BYTES - 1));
}

static struct fh_gc_chunk *make_chunk(struct fh_gc_slot *slot)
{
    void *memory;
    struct fh_gc_chunk *chunk = chunk_memory(&memory);
    if (memory == NULL)
        return NULL;
    memset(chunk, 0, FH_GC_CHUNK_BYTES);
    chunk->memory = memory;
    chunk->young_of = slot;
    return chunk;
}

/* In front of the slot's free ones. */
static void free_cell(struct fh_gc_slot *slot, uintptr_t *cell)
{
    at_store_relaxed(cell, slot->free_cells | 1);
    slot->free_cells = (uintptr_t)cell | 1;
}

/* The lowest cell first to be taken. */
static bool add_chunk(struct fh_gc_slot *slot)
{
    struct fh_gc_chunk *chunk = make_chunk(slot);
    if (chunk == NULL)
        return false;
    for (uint32_t i = FH_GC_CHUNK_CELLS; i-- > 0;)
        free_cell(slot, &chunk->cells[i]);
    chunk->next = slot->chunks[0];
    slot->chunks[0] = chunk;
    return true;
}

/* What other threads emptied since somebody last looked. A hole that is not seen because has_holes
 * was cleared meanwhile waits for the next one, or for a collection. */
static void find_holes(struct fh_gc_slot *slot, struct fh_gc_chunk *chunk)
{
    if (at_load_relaxed(&chunk->has_holes) == 0)
        return;
    at_store_relaxed(&chunk->has_holes, 0);
    for (uint32_t i = FH_GC_CHUNK_CELLS; i-- > 0;)
        if (at_load_relaxed(&chunk->cells[i]) == 0)
            free_cell(slot, &chunk->cells[i]);
}

enum { CHUNKS_AT_ONCE = 8 };

/* A few chunks at a time, from where the last search ended, so that containers that others drop
 * leave no more holes than there are cells, even if nothing is ever collected. */
static bool search_holes(struct fh_gc_slot *slot)
{
    struct fh_gc_chunk *chunk = slot->searched != NULL ? slot->searched : slot->chunks[0];
    for (unsigned i = 0; i < CHUNKS_AT_ONCE && chunk != NULL && slot->free_cells <= 1; i++) {
        find_holes(slot, chunk);
        chunk = chunk->next;
    }
    slot->searched = chunk;
    return slot->free_cells > 1;
}

void fh_gc_slot_destroy(struct fh_gc_slot *slot)
{
    for (unsigned g = 0; g < FH_GC_GENERATIONS; g++)
        for (struct fh_gc_chunk *chunk = slot->chunks[g], *next; chunk != NULL; chunk = next) {
            next = chunk->next;
            fh_raw_free(chunk->memory);
        }
    memset(slot, 0, sizeof(*slot));
}

/* ---- Containers come ---- */

/* At a slot's limit. In free mode its holder collects at its next safe point; the limit moves on,
 * so that what it makes until then does not come here each time. */
static void over_limit(struct fh_slot *slot)
{
    struct fh_gc *gc = &slot->space->gc;
    int64_t limit = fh_gc_limit(gc);
    if (slot->gc.made_count < limit) {
        slot->gc.limit_count = limit;
        return;
    }
    if (!fh_space_is_free(slot->space)) {
        fh_gc_collect_due(slot);
        return;
    }
    slot->gc.limit_count = slot->gc.made_count + limit;
    slot->gc.is_due = true;
    fh_space_ask_look(slot->space);
}

bool fh_gc_enroll_slowly(struct fh_slot *slot, fh_object *object, uintptr_t flags)
{
    struct fh_gc_slot *gc = &slot->gc;
    if (gc->made_count + 1 > gc->limit_count)
        over_limit(slot);
    if (gc->free_cells <= 1 && !search_holes(gc) && !add_chunk(gc))
        return false;
    gc->made_count++;
    fh_gc_take_cell(gc, object, flags);
    return true;
}

/* ---- The public calls about one object ---- */

void fh_gc_track(fh_object *object)
{
    fh_gc_set_flag(object, FH_GC_TRACKED);
}

void fh_gc_untrack(fh_object *object)
{
    fh_gc_unset_flag(object, FH_GC_TRACKED);
}

int fh_gc_is_tracked(const fh_object *object)
{
    return fh_gc_is_container(object) && fh_gc_has_flag(object, FH_GC_TRACKED);
}

int fh_gc_is_finalized(const fh_object *object)
{
    return fh_type_has_head(object->type) && fh_gc_has_flag(object, FH_GC_FINALIZED);
}

/* ---- Settings: changed while the world is stopped, since all slots' limits follow ---- */

static const unsigned *thresholds_of(const struct fh_gc *gc)
{
    return gc->has_thresholds ? gc->thresholds : built_in_thresholds;
}

int64_t fh_gc_limit(const struct fh_gc *gc)
{
    int64_t threshold = thresholds_of(gc)[0];
    if (gc->is_off || threshold == 0)
        return INT64_MAX / 4;
    return gc->is_shared && gc->rarity > 1 ? threshold * gc->rarity : threshold;
}

static void stop_to_set(fh_space *space)
{
    while (!fh_space_stop(space))
        ; /* it was another's stop */
}

static void go_on_as_set(fh_space *space)
{
    for (struct fh_slot *slot = at_load_acquire(&space->slots); slot != NULL; slot = slot->next)
        slot->gc.limit_count = fh_gc_limit(&space->gc), slot->gc.is_due = false;
    fh_space_resume(space);
}

int fh_gc_enable(int on)
{
    fh_space *space = fh_slot_needed("fh_gc_enable", NULL)->space;
    stop_to_set(space);
    int was_on = !space->gc.is_off;
    space->gc.is_off = !on;
    go_on_as_set(space);
    return was_on;
}

void fh_gc_set_thresholds(const unsigned thresholds[3])
{
    fh_space *space = fh_slot_needed("fh_gc_set_thresholds", NULL)->space;
    stop_to_set(space);
    memcpy(space->gc.thresholds, thresholds, sizeof(space->gc.thresholds));
    space->gc.has_thresholds = 1;
    go_on_as_set(space);
}

void fh_gc_get_thresholds(unsigned thresholds[3])
{
    fh_space *space = fh_slot_needed("fh_gc_get_thresholds", NULL)->space;
    memcpy(thresholds, thresholds_of(&space->gc), sizeof(space->gc.thresholds));
}

/* CPython's rule: the oldest generation due, but the oldest of all only if as much as a quarter of
 * what lived through its last collection has come since. */
unsigned fh_gc_generation_due(const struct fh_gc *gc)
{
    const unsigned *thresholds = thresholds_of(gc);
    if (gc->younger_count[2] > thresholds[2] && gc->long_lived_pending >= gc->long_lived_total / 4)
        return 2;
    return gc->younger_count[1] > thresholds[1] ? 1 : 0;
}

/* ---- Figures ---- */

static size_t tracked_in(const struct fh_gc_chunk *chunk)
{
    size_t count = 0;
    uint32_t end = fh_gc_cells_in_use(chunk);
    for (uint32_t i = 0; i < end; i++)
        count += fh_gc_has_object(chunk->cells[i]) &&
                 fh_gc_has_flag((fh_object *)chunk->cells[i], FH_GC_TRACKED);
    return count;
}

static size_t tracked_by(const struct fh_gc_slot *slot)
{
    size_t count = 0;
    for (unsigned g = 0; g < FH_GC_GENERATIONS; g++)
        for (struct fh_gc_chunk *chunk = slot->chunks[g]; chunk != NULL; chunk = chunk->next)
            count += tracked_in(chunk);
    return count;
}

int fh_gc_get_stats(fh_gc_stats *out)
{
    if (out == NULL || out->struct_bytes < sizeof(out->struct_bytes)) {
        errno = EINVAL;
        return -1;
    }
    fh_space *space = fh_slot_needed("fh_gc_get_stats", NULL)->space;
    stop_to_set(space);
    fh_gc_stats stats = space->gc.stats;
    for (struct fh_slot *slot = at_load_acquire(&space->slots); slot != NULL; slot = slot->next)
        stats.tracked += tracked_by(&slot->gc);
    fh_space_resume(space);
    stats.struct_bytes = out->struct_bytes;
    memcpy(out, &stats, out->struct_bytes < sizeof(stats) ? out->struct_bytes : sizeof(stats));
    return 0;
}
