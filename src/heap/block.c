/* SPDX-License-Identifier: MIT */
/* Blocks of heaps: taken, freed and resized, in each mode. */
#include "heap.h"

#include <string.h>

#include "theap.h"

static void *no_memory(void)
{
    errno = ENOMEM;
    return NULL;
}

/* A lock that the caller brought may change errno, which a free must not. */

static void lock(const struct fh_heap *heap)
{
    if (heap->mode != FH_OBJ_GIL_LOCK)
        return;
    int saved_errno = errno;
    fh_gil_acquire(&heap->gil);
    errno = saved_errno;
}

static void unlock(const struct fh_heap *heap)
{
    if (heap->mode != FH_OBJ_GIL_LOCK)
        return;
    int saved_errno = errno;
    fh_gil_release(&heap->gil);
    errno = saved_errno;
}

/* ---- Taking -----------------------------------------------------------------------------------
 */

struct request {
    size_t bytes;
    void *block;
};

static bool take_in(void *context, struct fh_classic *classic)
{
    struct request *request = context;
    request->block = fh_classic_malloc(classic, request->bytes);
    return request->block == NULL;
}

/* In the part that is at hand; if it can have no more memory, in any that has some left. */
static void *take_free(struct fh_heap *heap, size_t bytes)
{
    struct request request = {.bytes = bytes};
    struct fh_heap_part *part = fh_part_enter(heap);
    if (part != NULL) {
        request.block = fh_classic_malloc(fh_part_classic(part), bytes);
        fh_part_leave(part);
    }
    if (FH_UNLIKELY(request.block == NULL))
        (void)fh_part_each_again(heap, take_in, &request);
    return request.block;
}

static void *take_holding(struct fh_heap *heap, size_t bytes)
{
    struct fh_classic *classic = fh_part_classic(&heap->parts[0]);
    lock(heap);
    if (heap->mode == FH_OBJ_GIL_LOCK)
        fh_classic_drain_if_any(classic);
    void *block = fh_classic_malloc(classic, bytes);
    unlock(heap);
    return block;
}

struct large_request {
    struct fh_heap *heap;
    struct fh_large_header *header; /* to be resized; NULL: a new one */
    size_t bytes;
    bool zeroed;
    void *block;
};

static bool take_or_resize(struct large_request *request)
{
    request->block = request->header == NULL
                         ? fh_large_take(request->heap, request->bytes, request->zeroed)
                         : fh_large_resize_block(request->header, request->bytes);
    return request->block != NULL;
}

static bool trim_in(void *context, struct fh_classic *classic)
{
    (void)fh_classic_drain(classic);
    fh_classic_trim(classic);
    return !take_or_resize(context);
}

/* Where the limit stands against a large block, arenas without a block go. */
static void *serve_large(struct large_request *request)
{
    struct fh_heap *heap = request->heap;
    if (take_or_resize(request) || heap->limit_bytes == 0)
        return request->block;
    lock(heap);
    (void)fh_part_each_again(heap, trim_in, request);
    unlock(heap);
    return request->block;
}

static void *take_large(struct fh_heap *heap, size_t bytes, bool zeroed)
{
    struct large_request request = {.heap = heap, .bytes = bytes, .zeroed = zeroed};
    return serve_large(&request);
}

static void *take_small(struct fh_heap *heap, size_t bytes)
{
    return heap->mode == FH_OBJ_FREE ? take_free(heap, bytes) : take_holding(heap, bytes);
}

void *fh_heap_take_slow(struct fh_heap *heap, size_t bytes)
{
    if (fh_heap_is_default(heap))
        return fh_theap_malloc(bytes);
    if (FH_UNLIKELY(bytes > PTRDIFF_MAX))
        return no_memory();
    void *block =
        bytes > heap->threshold_bytes ? take_large(heap, bytes, false) : take_small(heap, bytes);
    return FH_LIKELY(block != NULL) ? block : no_memory();
}

static void *take_any(struct fh_heap *heap, size_t bytes)
{
    return heap == NULL ? fh_theap_malloc(bytes) : fh_heap_take(heap, bytes);
}

void *fh_heap_take_zeroed(struct fh_heap *heap, size_t bytes)
{
    if (fh_heap_is_default(heap))
        return fh_theap_calloc(bytes);
    if (bytes > heap->threshold_bytes) {
        void *large = bytes > PTRDIFF_MAX ? NULL : take_large(heap, bytes, true);
        return large != NULL ? large : no_memory();
    }
    void *block = fh_heap_take(heap, bytes);
    return block == NULL ? NULL : memset(block, 0, bytes);
}

/* ---- Freeing ----------------------------------------------------------------------------------
 */

static void give_free(struct fh_heap_part *part, void *block)
{
    struct fh_classic *classic = fh_part_classic(part);
    if (!fh_part_try_enter(part)) {
        fh_classic_defer(classic, block);
        return;
    }
    fh_classic_free_own(classic, block);
    fh_part_leave(part);
}

static void give_holding(struct fh_heap_part *part, void *block)
{
    struct fh_classic *classic = fh_part_classic(part);
    lock(part->heap);
    if (part->heap->mode == FH_OBJ_GIL_LOCK)
        fh_classic_drain_if_any(classic);
    fh_classic_free_own(classic, block);
    unlock(part->heap);
}

static void give_small(struct fh_heap_part *part, void *block)
{
    if (part->heap->mode == FH_OBJ_FREE)
        give_free(part, block);
    else
        give_holding(part, block);
}

static FH_NOINLINE void give_any(void *block)
{
    struct fh_heap_part *part = fh_address_part(block);
    struct fh_large_header *header = part == NULL ? fh_large_at(block) : NULL;
    if (part != NULL)
        give_small(part, block);
    else if (header != NULL)
        fh_large_give(header);
    else
        fh_theap_free(block);
}

/* Most blocks' pools say by themselves whose they are. */
void fh_heap_give(void *block)
{
    struct fh_pool *pool = fh_address_pool_in_region(block);
    if (FH_LIKELY(pool != NULL && fh_pool_is_of_threads(pool)))
        fh_theap_free_in_pool(pool, block);
    else if (pool != NULL && fh_load_own_u8(&pool->kind) == FH_POOL_CLASSIC)
        give_small(((struct fh_classic *)fh_load_own_ptr(&pool->classic))->config.user, block);
    else
        give_any(block);
}

void fh_heap_give_deferred(void *block)
{
    struct fh_heap_part *part = fh_address_part(block);
    if (part != NULL && part->heap->mode != FH_OBJ_FREE)
        fh_classic_defer(fh_part_classic(part), block);
    else
        fh_heap_give(block);
}

/* ---- Resizing ---------------------------------------------------------------------------------
 */

static void *move(struct fh_heap *heap, void *block, size_t old_bytes, size_t bytes)
{
    int saved_errno = errno;
    void *moved = take_any(heap, bytes);
    if (moved == NULL && bytes <= old_bytes) { /* to shrink is only an economy */
        errno = saved_errno;
        return block;
    }
    if (moved == NULL)
        return NULL;
    memcpy(moved, block, old_bytes < bytes ? old_bytes : bytes);
    fh_heap_give(block);
    return moved;
}

/* In place if that wastes no more than a quarter of the block, as CPython does. Its size is settled
 * as long as it lives, so no lock is needed to look. */
static void *resize_small(struct fh_heap_part *part, void *block, size_t bytes)
{
    size_t old_bytes = fh_classic_usable_bytes(fh_part_classic(part), block);
    if (bytes <= old_bytes && 4 * bytes > 3 * old_bytes)
        return block;
    return move(part->heap, block, old_bytes, bytes);
}

static void *resize_large(struct fh_large_header *header, size_t bytes)
{
    void *block = header + 1;
    size_t old_bytes = fh_large_usable_bytes(header);
    if (bytes <= header->heap->threshold_bytes)
        return move(header->heap, block, old_bytes, bytes);
    struct large_request request = {.heap = header->heap, .header = header, .bytes = bytes};
    void *resized = serve_large(&request);
    if (resized != NULL)
        return resized;
    return bytes <= old_bytes ? block : no_memory();
}

void *fh_heap_resize(struct fh_heap *heap, void *block, size_t wanted_bytes)
{
    size_t bytes = wanted_bytes == 0 ? 1 : wanted_bytes;
    if (block == NULL)
        return take_any(heap, wanted_bytes);
    if (bytes > PTRDIFF_MAX)
        return no_memory();
    struct fh_heap_part *part = fh_address_part(block);
    if (part != NULL)
        return resize_small(part, block, bytes);
    struct fh_large_header *header = fh_large_at(block);
    return header != NULL ? resize_large(header, bytes) : fh_theap_realloc(block, bytes);
}

/* ---- The interface ----------------------------------------------------------------------------
 */

/* Has the domain heaps? If not, what it gets is the default heap's. */
static bool has_heaps(fh_domain domain)
{
    return domain == FH_DOMAIN_MEM || domain == FH_DOMAIN_OBJ;
}

static void *take_of_others(fh_domain domain, size_t bytes, bool zeroed)
{
    if ((unsigned)domain > FH_DOMAIN_OBJ) {
        errno = EINVAL;
        return NULL;
    }
    return zeroed ? fh_theap_calloc(bytes) : fh_theap_malloc(bytes);
}

void *fh_heap_malloc(fh_heap *heap, fh_domain domain, size_t bytes)
{
    if (FH_UNLIKELY(heap == NULL || !has_heaps(domain)))
        return take_of_others(domain, bytes, false);
    return fh_heap_take(heap, bytes);
}

void *fh_heap_calloc(fh_heap *heap, fh_domain domain, size_t count, size_t bytes)
{
    size_t product;
    if (__builtin_mul_overflow(count, bytes, &product))
        return no_memory();
    if (FH_UNLIKELY(heap == NULL || !has_heaps(domain)))
        return take_of_others(domain, product, true);
    return fh_heap_take_zeroed(heap, product);
}

void *fh_heap_realloc(fh_heap *heap, fh_domain domain, void *block, size_t bytes)
{
    return block == NULL ? fh_heap_malloc(heap, domain, bytes) : fh_heap_resize(heap, block, bytes);
}

void fh_heap_free(fh_heap *heap, fh_domain domain, void *block)
{
    (void)domain;
    if (FH_LIKELY(heap != NULL && fh_classic_owns_in_region(heap->direct, block)))
        fh_classic_free_own(heap->direct, block);
    else
        fh_heap_give(block);
}
