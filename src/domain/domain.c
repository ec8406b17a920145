/* SPDX-License-Identifier: MIT */
/* The calls of the three domains. Where C leaves a choice they do what CPython does; the malloc
 * family (api/override.c) does what glibc does.
 *
 * All three are the same memory until somebody sets an allocator; the test for that is one compare
 * with memory and one branch.
 */
#include "domain.h"

#include <errno.h>

#include "bits.h"
#include "theap.h"

static void *no_memory(void)
{
    errno = ENOMEM;
    return NULL;
}

/* ---- With an allocator that was set -----------------------------------------------------------
 *
 * Sizes are checked before it is called, as CPython does.
 */

static FH_COLD void *replaced_malloc(fh_domain domain, size_t bytes)
{
    const fh_allocator *allocator = fh_domain_allocator(domain);
    return bytes > PTRDIFF_MAX ? no_memory() : allocator->malloc(allocator->context, bytes);
}

static FH_COLD void *replaced_calloc(fh_domain domain, size_t count, size_t bytes)
{
    const fh_allocator *allocator = fh_domain_allocator(domain);
    if (bytes != 0 && count > PTRDIFF_MAX / bytes)
        return no_memory();
    return allocator->calloc(allocator->context, count, bytes);
}

static FH_COLD void *replaced_realloc(fh_domain domain, void *block, size_t bytes)
{
    const fh_allocator *allocator = fh_domain_allocator(domain);
    return bytes > PTRDIFF_MAX ? no_memory() : allocator->realloc(allocator->context, block, bytes);
}

static FH_COLD void replaced_free(fh_domain domain, void *block)
{
    const fh_allocator *allocator = fh_domain_allocator(domain);
    allocator->free(allocator->context, block);
}

/* ---- With heaps, and perhaps an allocator -----------------------------------------------------
 *
 * Out of the way of the calls without either, but not cold.
 */

/* Does nobody's allocator stand in front of the bottom? Never so of raw, whose pointer is then
 * NULL. */
static inline bool leads_to_bottom(fh_domain domain)
{
    return FH_LIKELY(fh_load_own_ptr(&fh_domain_allocators[domain]) == &fh_domain_bottom);
}

static FH_NOINLINE void *other_malloc(fh_domain domain, size_t bytes)
{
    return leads_to_bottom(domain) ? fh_bottom_malloc(bytes) : replaced_malloc(domain, bytes);
}

static FH_NOINLINE void *other_calloc(fh_domain domain, size_t count, size_t bytes)
{
    size_t product;
    if (!leads_to_bottom(domain))
        return replaced_calloc(domain, count, bytes);
    return __builtin_mul_overflow(count, bytes, &product) ? no_memory() : fh_bottom_calloc(product);
}

static FH_NOINLINE void *other_realloc(fh_domain domain, void *block, size_t bytes)
{
    return leads_to_bottom(domain) ? fh_bottom_realloc(block, bytes)
                                   : replaced_realloc(domain, block, bytes);
}

static FH_NOINLINE void other_free(fh_domain domain, void *block)
{
    if (leads_to_bottom(domain))
        fh_bottom_free(block);
    else
        replaced_free(domain, block);
}

/* ---- Any domain -------------------------------------------------------------------------------
 */

FH_ALWAYS_INLINE void *domain_malloc(fh_domain domain, size_t bytes)
{
    return fh_domain_is_replaced(domain) ? other_malloc(domain, bytes) : fh_theap_malloc(bytes);
}

FH_ALWAYS_INLINE void *domain_calloc(fh_domain domain, size_t count, size_t bytes)
{
    size_t product;
    if (fh_domain_is_replaced(domain))
        return other_calloc(domain, count, bytes);
    return __builtin_mul_overflow(count, bytes, &product) ? no_memory() : fh_theap_calloc(product);
}

FH_ALWAYS_INLINE void *domain_realloc(fh_domain domain, void *block, size_t bytes)
{
    if (fh_domain_is_replaced(domain))
        return other_realloc(domain, block, bytes);
    return block == NULL ? fh_theap_malloc(bytes) : fh_theap_realloc(block, bytes == 0 ? 1 : bytes);
}

FH_ALWAYS_INLINE void domain_free(fh_domain domain, void *block)
{
    if (fh_domain_is_replaced(domain))
        other_free(domain, block);
    else
        fh_theap_free(block);
}

/* ---- Each domain ------------------------------------------------------------------------------
 */

void *fh_raw_malloc(size_t bytes)
{
    return domain_malloc(FH_DOMAIN_RAW, bytes);
}

void *fh_raw_calloc(size_t count, size_t bytes)
{
    return domain_calloc(FH_DOMAIN_RAW, count, bytes);
}

void *fh_raw_realloc(void *block, size_t bytes)
{
    return domain_realloc(FH_DOMAIN_RAW, block, bytes);
}

void fh_raw_free(void *block)
{
    domain_free(FH_DOMAIN_RAW, block);
}

void *fh_mem_malloc(size_t bytes)
{
    return domain_malloc(FH_DOMAIN_MEM, bytes);
}

void *fh_mem_calloc(size_t count, size_t bytes)
{
    return domain_calloc(FH_DOMAIN_MEM, count, bytes);
}

void *fh_mem_realloc(void *block, size_t bytes)
{
    return domain_realloc(FH_DOMAIN_MEM, block, bytes);
}

void fh_mem_free(void *block)
{
    domain_free(FH_DOMAIN_MEM, block);
}

void *fh_obj_malloc(size_t bytes)
{
    return domain_malloc(FH_DOMAIN_OBJ, bytes);
}

void *fh_obj_calloc(size_t count, size_t bytes)
{
    return domain_calloc(FH_DOMAIN_OBJ, count, bytes);
}

void *fh_obj_realloc(void *block, size_t bytes)
{
    return domain_realloc(FH_DOMAIN_OBJ, block, bytes);
}

void fh_obj_free(void *block)
{
    domain_free(FH_DOMAIN_OBJ, block);
}

/* ---- Arrays -----------------------------------------------------------------------------------
 */

void *fh_new_array(size_t count, size_t bytes)
{
    size_t product;
    return __builtin_mul_overflow(count, bytes, &product) ? no_memory() : fh_mem_malloc(product);
}

void *fh_resize_array(void *block, size_t count, size_t bytes)
{
    size_t product;
    return __builtin_mul_overflow(count, bytes, &product) ? no_memory()
                                                          : fh_mem_realloc(block, product);
}

/* ---- Alignment --------------------------------------------------------------------------------
 */

static void *invalid(void)
{
    errno = EINVAL;
    return NULL;
}

/* Heaps have no blocks of larger alignment; such are of the threads' heaps. */
static void *bottom_aligned(size_t alignment, size_t bytes)
{
    const struct fh_heap *heap = fh_heap_of_thread;
    bool is_of_heap = heap != NULL && alignment <= heap->classic.alignment_bytes;
    return is_of_heap ? fh_bottom_malloc(bytes) : fh_theap_aligned(alignment, bytes);
}

void *fh_aligned_alloc(fh_domain domain, size_t alignment, size_t bytes)
{
    if ((unsigned)domain >= FH_DOMAINS || !fh_is_power_of_two(alignment))
        return invalid();
    if (!fh_domain_is_replaced(domain))
        return fh_theap_aligned(alignment, bytes);
    if (leads_to_bottom(domain))
        return bottom_aligned(alignment, bytes);
    return alignment <= FH_BLOCK_ALIGN_BYTES ? replaced_malloc(domain, bytes) : invalid();
}

void *fh_raw_aligned_alloc(size_t alignment, size_t bytes)
{
    return fh_aligned_alloc(FH_DOMAIN_RAW, alignment, bytes);
}
