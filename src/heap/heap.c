/* SPDX-License-Identifier: MIT */
/* Heaps come and go, and their limits. */
#include "heap.h"

#include <string.h>

#include "bits.h"
#include "os.h"

FH_THREAD_LOCAL struct fh_heap *fh_heap_of_thread;

void *fh_heap_watcher;

static void *newest; /* struct fh_heap *: all that were ever made, by `older` */

enum { DESTROYED, IN_THE_MAKING, LIVE }; /* fh_heap.live */

/* Of heaps that no call goes straight to: an engine that owns nothing. */
static struct fh_classic nobody;

static struct fh_heap default_heap = {.direct = &nobody};

fh_heap *fh_heap_default(void)
{
    return &default_heap;
}

fh_obj_mode fh_heap_get_mode(const fh_heap *heap)
{
    return fh_heap_is_default(heap) ? FH_OBJ_FREE : heap->mode;
}

const fh_gil *fh_heap_get_gil(const fh_heap *heap)
{
    return fh_heap_get_mode(heap) == FH_OBJ_FREE ? NULL : &heap->gil;
}

fh_heap *fh_heap_current(void)
{
    return fh_heap_of_thread == NULL ? &default_heap : fh_heap_of_thread;
}

/* ---- Limits -----------------------------------------------------------------------------------
 */

/* Relaxed, all of it: a count, exact because no addition goes over the limit. */
static bool add_up_to(uint64_t *count, uint64_t more, uint64_t limit)
{
    uint64_t before = fh_load_relaxed_u64(count);
    do {
        if (more > limit || before > limit - more)
            return false;
    } while (!fh_cas_relaxed_u64(count, &before, before + more));
    return true;
}

static void subtract(uint64_t *count, uint64_t less)
{
    (void)fh_fetch_add_relaxed_u64(count, (uint64_t)0 - less);
}

bool fh_heap_reserve(struct fh_heap *heap, size_t bytes)
{
    return heap->limit_bytes == 0 || add_up_to(&heap->reserved_bytes, bytes, heap->limit_bytes);
}

void fh_heap_unreserve(struct fh_heap *heap, size_t bytes)
{
    if (heap->limit_bytes != 0 && bytes != 0)
        subtract(&heap->reserved_bytes, bytes);
}

static bool add_arena(struct fh_heap *heap)
{
    return heap->arenas_max == 0 || add_up_to(&heap->arenas, 1, heap->arenas_max);
}

static void remove_arena(struct fh_heap *heap)
{
    if (heap->arenas_max != 0)
        subtract(&heap->arenas, 1);
}

static bool admit_arena(void *user, size_t bytes)
{
    struct fh_heap *heap = ((struct fh_heap_part *)user)->heap;
    if (!add_arena(heap))
        return false;
    if (!fh_heap_reserve(heap, bytes)) {
        remove_arena(heap);
        return false;
    }
    if (heap->brought_no_source)
        fh_source_count_arena();
    return true;
}

static void arena_is_closed(void *user, size_t bytes)
{
    struct fh_heap *heap = ((struct fh_heap_part *)user)->heap;
    if (heap->brought_no_source)
        fh_source_uncount_arena();
    fh_heap_unreserve(heap, bytes);
    remove_arena(heap);
}

/* ---- Configuration ----------------------------------------------------------------------------
 */

static uint32_t or_default(size_t wanted, uint32_t otherwise)
{
    if (wanted == 0)
        return otherwise;
    return wanted > UINT32_MAX ? UINT32_MAX : (uint32_t)wanted; /* no valid size */
}

static uint32_t spare_arenas(const fh_heap_config *config)
{
    if (config->arena_policy == FH_ARENA_KEEP)
        return FH_CLASSIC_KEEP_ALL;
    if (config->spare_arenas == FH_SPARE_ARENAS_NONE)
        return 0;
    return config->spare_arenas == 0 ? 1 : (uint32_t)config->spare_arenas;
}

/* The clock's numbers come round after 49 days: half of that is for ever. */
static uint32_t decay_ms(const fh_heap_config *config)
{
    bool for_ever = config->arena_policy == FH_ARENA_KEEP || config->decay_ms <= 0 ||
                    config->decay_ms > INT32_MAX;
    return for_ever ? 0 : (uint32_t)config->decay_ms;
}

static struct fh_classic_config classic_config(const fh_heap_config *config)
{
    struct fh_classic_config classic = fh_classic_default_config();
    const fh_geometry *geometry = &config->geometry;
    classic.alignment_bytes = or_default(geometry->alignment_bytes, classic.alignment_bytes);
    classic.threshold_bytes = or_default(geometry->threshold_bytes, classic.threshold_bytes);
    classic.pool_bytes = or_default(geometry->pool_bytes, classic.pool_bytes);
    classic.arena_bytes = or_default(geometry->arena_bytes, classic.arena_bytes);
    classic.spare_arenas = spare_arenas(config);
    classic.decay_ms = decay_ms(config);
    classic.unmaps = config->arena_policy == FH_ARENA_UNMAP;
    classic.source = fh_source_of(&config->arena);
    classic.admit = admit_arena;
    classic.closed = arena_is_closed;
    return classic;
}

static bool is_valid(const fh_heap_config *config)
{
    const fh_gil *gil = config->gil;
    return config->struct_bytes >= sizeof *config && (unsigned)config->mode <= FH_OBJ_GIL_LOCK &&
           (unsigned)config->arena_policy <= FH_ARENA_KEEP &&
           config->spare_arenas >= FH_SPARE_ARENAS_NONE && config->decay_ms >= -1 &&
           (config->arena.alloc == NULL) == (config->arena.free == NULL) &&
           (gil == NULL || (gil->acquire != NULL && gil->release != NULL && gil->held != NULL));
}

/* ---- Records ----------------------------------------------------------------------------------
 */

static size_t record_bytes(uint32_t parts)
{
    return fh_round_up(sizeof(struct fh_heap) + parts * sizeof(struct fh_heap_part),
                       fh_os_page_bytes());
}

/* Of a heap that was destroyed. */
static struct fh_heap *claim_old(uint32_t parts)
{
    /* [heap-record] acquire: the record's size, and that of those made before it. */
    struct fh_heap *heap = fh_load_acquire_ptr(&newest);
    for (; heap != NULL; heap = heap->older) {
        uint64_t destroyed = DESTROYED;
        /* [heap-reuse] acquire: the record as it was left. */
        if (heap->parts_max == parts && fh_load_relaxed_u64(&heap->live) == DESTROYED &&
            fh_cas_acquire_u64(&heap->live, &destroyed, IN_THE_MAKING))
            return heap;
    }
    return NULL;
}

static struct fh_heap *make_record(uint32_t parts)
{
    struct fh_heap *heap = fh_os_map(record_bytes(parts));
    if (heap == NULL)
        return NULL;
    heap->parts_max = parts;
    fh_store_relaxed_u64(&heap->live, IN_THE_MAKING); /* nobody sees it yet */
    void *older = fh_load_relaxed_ptr(&newest);       /* a guess: the CAS checks it */
    do {
        heap->older = older;
        /* [heap-record] release: the record's size and place in the list. */
    } while (!fh_cas_acq_rel_ptr(&newest, &older, heap));
    return heap;
}

static struct fh_heap *claim_record(uint32_t parts)
{
    struct fh_heap *heap = claim_old(parts);
    return heap != NULL ? heap : make_record(parts);
}

static void release_record(struct fh_heap *heap)
{
    /* [heap-reuse] release: the record, as empty as a new one. */
    fh_store_release_u64(&heap->live, DESTROYED);
}

bool fh_heap_each(bool (*visit)(void *context, struct fh_heap *heap), void *context)
{
    struct fh_heap *heap = fh_load_acquire_ptr(&newest); /* [heap-record] acquire */
    for (; heap != NULL; heap = heap->older)
        /* [heap-ready] acquire: its configuration. */
        if (fh_load_acquire_u64(&heap->live) == LIVE && !visit(context, heap))
            return false;
    return true;
}

/* ---- Making -----------------------------------------------------------------------------------
 */

static void fill_in(struct fh_heap *heap, const fh_heap_config *config,
                    const struct fh_classic_config *classic)
{
    heap->mode = config->mode;
    heap->gil = config->gil == NULL ? *fh_gil_builtin() : *config->gil;
    heap->classic = *classic;
    heap->threshold_bytes = classic->threshold_bytes;
    heap->arenas_max = config->arenas_max;
    heap->limit_bytes = config->limit_bytes;
    heap->brought_no_source = config->arena.alloc == NULL;
    heap->direct_below = 0;
    heap->direct = &nobody;
}

/* The one part of the gil modes; those of a free heap come as they are needed. */
static bool make_part(struct fh_heap *heap)
{
    if (heap->mode == FH_OBJ_FREE)
        return true;
    if (!fh_part_make(heap, &heap->parts[0]))
        return false;
    fh_store_relaxed_u64(&heap->parts_count, 1); /* nobody else sees the heap yet */
    if (heap->mode == FH_OBJ_GIL_ASSERT) {
        heap->direct = fh_part_classic(&heap->parts[0]);
        heap->direct_below = heap->threshold_bytes + 1;
    }
    return true;
}

static struct fh_heap *refuse(int error)
{
    errno = error;
    return NULL;
}

struct fh_heap *fh_heap_make(const fh_heap_config *wanted)
{
    static const fh_heap_config all_zeros = {.struct_bytes = sizeof all_zeros};
    const fh_heap_config *config = wanted == NULL ? &all_zeros : wanted;
    if (!is_valid(config))
        return refuse(EINVAL);
    struct fh_classic_config classic = classic_config(config);
    if (!fh_classic_is_valid(&classic))
        return refuse(EINVAL);
    struct fh_heap *heap = claim_record(config->mode == FH_OBJ_FREE ? FH_HEAP_PARTS_MAX : 1);
    if (heap == NULL)
        return refuse(ENOMEM);
    fill_in(heap, config, &classic);
    if (!make_part(heap)) {
        release_record(heap);
        return refuse(ENOMEM);
    }
    /* [heap-ready] release: its configuration. */
    fh_store_release_u64(&heap->live, LIVE);
    return heap;
}

/* ---- Destroying -------------------------------------------------------------------------------
 */

static bool is_part_empty(void *context, struct fh_classic *classic)
{
    (void)context;
    (void)fh_classic_drain(classic);
    return fh_classic_is_unused(classic);
}

static bool is_no_block(void *context, struct fh_large_header *header)
{
    (void)context, (void)header;
    return false;
}

/* In a part that somebody stopped in there may be some. */
static bool has_busy_part(const struct fh_heap *heap)
{
    uint64_t count = fh_load_relaxed_u64(&heap->parts_count); /* nobody else is inside */
    for (uint64_t index = 0; index < count; index++)
        if (fh_part_is_busy(&heap->parts[index]))
            return true;
    return false;
}

static bool has_blocks(struct fh_heap *heap)
{
    return has_busy_part(heap) || !fh_part_each(heap, is_part_empty, NULL) ||
           !fh_large_each(&heap->large, is_no_block, NULL);
}

/* False if somebody stopped in the part, in a call or before a fork: what it was about to do is not
 * known, so it stays as it is. */
static bool end_part(struct fh_heap *heap, struct fh_heap_part *part)
{
    bool enters = heap->mode == FH_OBJ_FREE;
    if (fh_part_classic(part) == NULL)
        return !fh_part_is_busy(part);
    if (enters && !fh_part_try_enter(part))
        return false;
    fh_classic_destroy(fh_part_classic(part));
    fh_store_own_ptr(&part->classic, NULL);
    if (enters)
        fh_part_leave(part);
    return true;
}

static bool end_parts(struct fh_heap *heap)
{
    bool all = true;
    uint64_t count = fh_load_relaxed_u64(&heap->parts_count); /* nobody else is inside */
    for (uint64_t index = 0; index < count; index++)
        all &= end_part(heap, &heap->parts[index]);
    return all;
}

/* A record with a part that stays is not used again. */
static void end(struct fh_heap *heap)
{
    fh_store_relaxed_u64(&heap->live, IN_THE_MAKING); /* as nobody else uses it */
    bool all = end_parts(heap);
    fh_large_end(&heap->large);
    /* Relaxed: release_record() passes them on. */
    fh_store_relaxed_u64(&heap->parts_count, 0);
    fh_store_relaxed_u64(&heap->reserved_bytes, 0);
    fh_store_relaxed_u64(&heap->arenas, 0);
    if (all)
        release_record(heap);
}

static void tell_watcher(struct fh_heap *heap)
{
    const struct fh_heap_watcher *watcher = fh_load_relaxed_ptr(&fh_heap_watcher); /* a constant */
    if (watcher != NULL)
        watcher->ends(heap);
}

int fh_heap_destroy(fh_heap *heap, unsigned flags)
{
    if (fh_heap_is_default(heap) || (flags & ~(unsigned)FH_DESTROY_FORCE) != 0) {
        errno = EINVAL;
        return -1;
    }
    tell_watcher(heap);
    if ((flags & FH_DESTROY_FORCE) == 0 && has_blocks(heap)) {
        errno = EBUSY;
        return -1;
    }
    if (fh_heap_of_thread == heap)
        fh_heap_of_thread = NULL;
    end(heap);
    return 0;
}
