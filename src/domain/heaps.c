/* SPDX-License-Identifier: MIT */
/* What of heaps concerns the domains: which one a thread's calls go to, and heaps as allocators. */
#include "domain.h"

#include <errno.h>
#include <string.h>

fh_heap *fh_heap_create(const fh_heap_config *config)
{
    struct fh_heap *heap = fh_heap_make(config);
    if (heap != NULL)
        fh_domain_know_heaps(); /* before there is a block of it to be freed */
    return heap;
}

fh_heap *fh_heap_set_current(fh_heap *heap)
{
    struct fh_heap *before = fh_heap_current();
    fh_heap_of_thread = fh_heap_is_default(heap) ? NULL : heap;
    return before;
}

/* ---- A heap as an allocator -------------------------------------------------------------------
 */

static void *heap_malloc(void *context, size_t bytes)
{
    return fh_heap_take(context, bytes);
}

static void *heap_calloc(void *context, size_t count, size_t bytes)
{
    size_t product;
    if (!__builtin_mul_overflow(count, bytes, &product))
        return fh_heap_take_zeroed(context, product);
    errno = ENOMEM;
    return NULL;
}

static void *heap_realloc(void *context, void *block, size_t bytes)
{
    return fh_heap_resize(context, block, bytes);
}

static void heap_free(void *context, void *block)
{
    if (FH_UNLIKELY(fh_domain_defers))
        fh_heap_give_deferred(block);
    else
        fh_heap_free(context, FH_DOMAIN_OBJ, block);
}

/* The raw domain has no heaps: it gets what the default one has. */
int fh_heap_get_allocator(fh_heap *heap, fh_domain domain, fh_allocator *out)
{
    if ((unsigned)domain >= FH_DOMAINS || out == NULL) {
        errno = EINVAL;
        return -1;
    }
    bool has_heaps = heap != NULL && domain != FH_DOMAIN_RAW;
    *out = (fh_allocator){has_heaps ? heap : fh_heap_default(), heap_malloc, heap_calloc,
                          heap_realloc, heap_free};
    return 0;
}

const fh_gil *fh_domain_gil(const fh_allocator *allocator)
{
    const struct fh_heap *heap = NULL;
    if (allocator->malloc == fh_domain_bottom.malloc)
        heap = fh_heap_of_thread;
    else if (allocator->malloc == heap_malloc)
        heap = allocator->context;
    bool must_be_held = heap != NULL && heap->mode == FH_OBJ_GIL_ASSERT && fh_domain_defers == 0;
    return must_be_held && !fh_heap_is_default(heap) ? &heap->gil : NULL;
}

/* ---- Without the lock -------------------------------------------------------------------------
 */

/* An allocator that stands in front, such as the debug hooks, has its own idea of where a block
 * begins: it frees the block, and what comes of that further down is deferred. */
void fh_obj_free_deferred(void *block)
{
    if (fh_domain_is_own(FH_DOMAIN_OBJ)) {
        fh_heap_give_deferred(block);
        return;
    }
    fh_domain_defers++;
    fh_obj_free(block);
    fh_domain_defers--;
}
