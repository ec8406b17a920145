/* SPDX-License-Identifier: MIT */
/* The calls that are not on the fast path, in terms of blocks in pools and large blocks. */
#include "theap.h"

#include <errno.h>
#include <string.h>

#include "fatal.h"
#include "large.h"
#include "refill.h"
#include "thread.h"

/* ---- Taking -----------------------------------------------------------------------------------
 */

/* A block of a class, in whatever state the thread's heap is. */
static void *take(unsigned class_index, bool *zeroed)
{
    struct fh_theap *heap = fh_theap_of_thread();
    if (FH_LIKELY(!fh_theap_is_busy(heap))) {
        fh_theap_set_busy(heap);
        struct fh_block *own = fh_theap_next_block(heap, class_index, zeroed);
        fh_theap_set_idle(heap);
        return own;
    }
    heap = fh_theap_enter();
    if (heap == NULL)
        return NULL;
    struct fh_block *block = fh_theap_next_block(heap, class_index, zeroed);
    fh_theap_leave(heap);
    return block;
}

static void *or_no_memory(void *memory)
{
    if (FH_UNLIKELY(memory == NULL))
        errno = ENOMEM;
    return memory;
}

static void *tracer_set; /* const struct fh_theap_tracer * */

static const struct fh_theap_tracer *tracer(void)
{
    return fh_load_relaxed_ptr(&tracer_set); /* relaxed: as it was when the program began */
}

/* The tracer is not told, here and in the others of this name. */
static void *malloc_quietly(size_t bytes)
{
    bool zeroed;
    struct fh_theap *heap = fh_theap_of_thread();
    if (FH_UNLIKELY(bytes > FH_BLOCK_MAX_BYTES))
        return or_no_memory(fh_large_malloc(bytes, 1, &zeroed));
    if (FH_UNLIKELY(fh_theap_is_busy(heap)))
        return or_no_memory(take(fh_class_of(bytes), &zeroed));
    return fh_theap_take(heap, fh_class_of(bytes));
}

static FH_COLD void *malloc_watched(size_t bytes, const void *caller)
{
    const struct fh_theap_tracer *told = tracer();
    return told == NULL ? malloc_quietly(bytes) : told->allocate(1, bytes, false, caller);
}

void *fh_theap_malloc_slow(size_t bytes)
{
    bool zeroed;
    struct fh_theap *heap = fh_theap_of_thread();
    if (FH_UNLIKELY(fh_theap_is_busy(heap) || tracer() != NULL))
        return malloc_watched(bytes, FH_THEAP_CALLER());
    if (FH_UNLIKELY(bytes > FH_BLOCK_MAX_BYTES))
        return or_no_memory(fh_large_malloc(bytes, 1, &zeroed));
    return fh_theap_take(heap, fh_class_of(bytes));
}

static void *calloc_large(size_t bytes)
{
    bool zeroed;
    void *memory = fh_large_malloc(bytes, 1, &zeroed);
    if (memory != NULL && !zeroed)
        memset(memory, 0, bytes);
    return or_no_memory(memory);
}

static void *calloc_quietly(size_t bytes)
{
    bool zeroed;
    if (FH_UNLIKELY(bytes > FH_BLOCK_MAX_BYTES))
        return calloc_large(bytes);
    unsigned class_index = fh_class_of(bytes);
    struct fh_block *block = take(class_index, &zeroed);
    if (FH_UNLIKELY(block == NULL))
        return or_no_memory(NULL);
    block->next = NULL; /* the one word that carving wrote, if the rest is zero */
    if (!zeroed)
        memset(block, 0, bytes);
    return block;
}

void *fh_theap_calloc_slow(size_t bytes)
{
    if (FH_UNLIKELY(tracer() != NULL))
        return tracer()->allocate(1, bytes, true, FH_THEAP_CALLER());
    return calloc_quietly(bytes);
}

static void *aligned_quietly(size_t alignment, size_t bytes)
{
    bool zeroed;
    if (alignment <= FH_BLOCK_ALIGN_BYTES)
        return malloc_quietly(bytes);
    if (alignment > FH_BLOCK_MAX_BYTES || bytes > FH_BLOCK_MAX_BYTES)
        return or_no_memory(fh_large_malloc(bytes == 0 ? 1 : bytes, alignment, &zeroed));
    unsigned class_index = fh_class_of_aligned(bytes, alignment);
    struct fh_theap *heap = fh_theap_of_thread();
    if (FH_LIKELY(!fh_theap_is_busy(heap)))
        return fh_theap_take(heap, class_index);
    return or_no_memory(take(class_index, &zeroed));
}

void *fh_theap_aligned_for(size_t alignment, size_t bytes, const void *caller)
{
    if (FH_UNLIKELY(tracer() != NULL))
        return tracer()->allocate(alignment, bytes, false, caller);
    return aligned_quietly(alignment, bytes);
}

void *fh_theap_aligned(size_t alignment, size_t bytes)
{
    return fh_theap_aligned_for(alignment, bytes, FH_THEAP_CALLER());
}

/* ---- Finding a block's pool -------------------------------------------------------------------
 */

struct fh_pool *fh_theap_pool_of(const void *memory)
{
    size_t pool_index;
    if (!fh_region_find((uintptr_t)memory, &pool_index))
        return NULL;
    char *descriptors = fh_region_peek()->descriptors;
    struct fh_pool *pool =
        (struct fh_pool *)(void *)(descriptors + (pool_index << FH_DESCRIPTOR_SHIFT));
    if (fh_load_own_u8(&pool->kind) == FH_POOL_INSIDE)
        pool -= pool->head_distance;
    return pool;
}

static size_t usable_bytes(const struct fh_pool *pool)
{
    switch (fh_load_own_u8(&pool->kind)) {
    case FH_POOL_BLOCKS:
        return pool->block_bytes;
    case FH_POOL_LARGE:
    case FH_POOL_HUGE:
        return fh_load_own_u64(&pool->usable_bytes);
    default:
        return 0;
    }
}

size_t fh_theap_usable_bytes_slow(const void *memory)
{
    const struct fh_pool *pool = fh_theap_pool_of(memory);
    return pool == NULL ? 0 : usable_bytes(pool);
}

/* ---- Freeing ----------------------------------------------------------------------------------
 */

/* Why an address in a pool is none that can be freed or resized here. */
static const char *not_live(const struct fh_pool *pool)
{
    return fh_load_own_u8(&pool->kind) == FH_POOL_CLASSIC
               ? "not a live block of this domain, but in a heap with a lock"
               : "not a live block (freed twice?)";
}

static void free_large(struct fh_pool *pool, void *memory)
{
    if ((uintptr_t)memory != pool->origin + FH_BLOCK_ALIGN_BYTES)
        fh_fatal_pointer("free", memory, "inside a block, not its start");
    fh_large_free(pool);
}

void fh_theap_free_other(struct fh_pool *pool, void *memory)
{
    switch (fh_load_own_u8(&pool->kind)) {
    case FH_POOL_BLOCKS:
        fh_theap_free_deciding(pool, memory);
        return;
    case FH_POOL_INSIDE:
        fh_theap_free_in_pool(pool - pool->head_distance, memory);
        return;
    case FH_POOL_LARGE:
    case FH_POOL_HUGE:
        free_large(pool, memory);
        return;
    default:
        fh_fatal_pointer("free", memory, not_live(pool));
    }
}

static void free_quietly(void *memory)
{
    struct fh_pool *pool = fh_theap_pool_of(memory);
    if (pool == NULL)
        fh_fatal_pointer("free", memory, "not memory of this allocator");
    fh_theap_free_in_pool(pool, memory);
}

void fh_theap_free_outside(void *memory)
{
    if (memory == NULL)
        return;
    if (FH_UNLIKELY(tracer() != NULL))
        tracer()->release(memory);
    else
        free_quietly(memory);
}

/* ---- Resizing ---------------------------------------------------------------------------------
 */

static FH_NORETURN FH_COLD void fatal_realloc(const struct fh_pool *pool, const void *memory)
{
    bool classic = pool != NULL && fh_load_own_u8(&pool->kind) == FH_POOL_CLASSIC;
    fh_fatal_pointer("realloc", memory,
                     classic ? not_live(pool) : "not a live block of this allocator");
}

/* Does a block of this pool, as it is, serve for `bytes`, without wasting more than half? */
static bool fits(const struct fh_pool *pool, size_t bytes)
{
    return bytes <= pool->block_bytes && bytes >= pool->block_bytes / 2;
}

static void *move(struct fh_pool *pool, void *memory, size_t old_bytes, size_t bytes)
{
    void *moved = malloc_quietly(bytes);
    if (moved == NULL)
        return NULL;
    size_t kept = old_bytes < bytes ? old_bytes : bytes;
    if (kept <= FH_ARENA_BYTES || !fh_large_move(pool, fh_theap_pool_of(moved), kept))
        memcpy(moved, memory, kept);
    fh_theap_free_in_pool(pool, memory);
    return moved;
}

static void *resize_quietly(void *memory, size_t bytes)
{
    struct fh_pool *pool = fh_theap_pool_of(memory);
    size_t old_bytes = pool == NULL ? 0 : usable_bytes(pool);
    if (FH_UNLIKELY(old_bytes == 0))
        fatal_realloc(pool, memory);
    bool in_pool = fh_load_own_u8(&pool->kind) == FH_POOL_BLOCKS;
    if (in_pool
            ? fits(pool, bytes)
            : bytes > FH_BLOCK_MAX_BYTES && bytes <= PTRDIFF_MAX && fh_large_resize(pool, bytes))
        return memory;
    void *moved = bytes > PTRDIFF_MAX ? NULL : move(pool, memory, old_bytes, bytes);
    if (moved == NULL && bytes <= old_bytes)
        return memory; /* to shrink is only an economy */
    return or_no_memory(moved);
}

void *fh_theap_realloc(void *memory, size_t bytes)
{
    if (FH_UNLIKELY(tracer() != NULL))
        return tracer()->resize(memory, bytes, FH_THEAP_CALLER());
    return resize_quietly(memory, bytes);
}

/* ---- With a tracer ----------------------------------------------------------------------------
 */

/* A thread whose heap was not hidden yet, for it was there before the tracer, hides it now. */
static bool show(void)
{
    bool was_hidden = fh_theap_show();
    return was_hidden || !fh_theap_is_busy(fh_theap_of_thread());
}

void fh_theap_hide_if_traced(void)
{
    if (FH_UNLIKELY(tracer() != NULL))
        fh_theap_hide(true);
}

void fh_theap_set_tracer(const struct fh_theap_tracer *fresh)
{
    fh_region_watch();
    fh_store_relaxed_ptr(&tracer_set, (void *)(uintptr_t)fresh); /* relaxed: it never changes */
    fh_theap_hide(true);
}

void *fh_theap_untraced_allocate(size_t alignment, size_t bytes, bool zeroed)
{
    bool hides = show();
    void *memory = zeroed ? calloc_quietly(bytes) : aligned_quietly(alignment, bytes);
    fh_theap_hide(hides);
    return memory;
}

void *fh_theap_untraced_resize(void *memory, size_t bytes)
{
    bool hides = show();
    void *resized = resize_quietly(memory, bytes);
    fh_theap_hide(hides);
    return resized;
}

void fh_theap_untraced_release(void *memory)
{
    bool hides = show();
    free_quietly(memory);
    fh_theap_hide(hides);
}
