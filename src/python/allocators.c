/* SPDX-License-Identifier: MIT */
/* Freehold's domains as CPython's allocators.
 *
 * This is in the path of each object that a program makes, so the library's fast paths are compiled
 * in here instead of being called: as short as the malloc family, and one compare more, for those
 * who wrap Freehold's domains at run time (debug.h, trace.h).
 */
#include "bridge.h"

#include <errno.h>

#include "domain.h"
#include "freehold/heap.h"
#include "heap.h"
#include "theap.h"

/* ---- The lock-free memory ---------------------------------------------------------------------
 *
 * CPython has checked sizes before it calls: no product overflows.
 */

#define DEFINE_DOMAIN(name, DOMAIN)                                                                \
    static void *name##_malloc(void *context, size_t bytes)                                        \
    {                                                                                              \
        (void)context;                                                                             \
        return fh_domain_is_replaced(DOMAIN) ? fh_##name##_malloc(bytes) : fh_theap_malloc(bytes); \
    }                                                                                              \
                                                                                                   \
    static void *name##_calloc(void *context, size_t count, size_t bytes)                          \
    {                                                                                              \
        (void)context;                                                                             \
        return fh_domain_is_replaced(DOMAIN) ? fh_##name##_calloc(count, bytes)                    \
                                             : fh_theap_calloc(count * bytes);                     \
    }                                                                                              \
                                                                                                   \
    static void *name##_realloc(void *context, void *block, size_t bytes)                          \
    {                                                                                              \
        (void)context;                                                                             \
        return fh_##name##_realloc(block, bytes);                                                  \
    }                                                                                              \
                                                                                                   \
    static void name##_free(void *context, void *block)                                            \
    {                                                                                              \
        (void)context;                                                                             \
        if (fh_domain_is_replaced(DOMAIN))                                                         \
            fh_##name##_free(block);                                                               \
        else                                                                                       \
            fh_theap_free(block);                                                                  \
    }

DEFINE_DOMAIN(raw, FH_DOMAIN_RAW)
DEFINE_DOMAIN(mem, FH_DOMAIN_MEM)
DEFINE_DOMAIN(obj, FH_DOMAIN_OBJ)

const PyMemAllocatorEx fh_python_allocators[3] = {
    {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free},
    {NULL, mem_malloc, mem_calloc, mem_realloc, mem_free},
    {NULL, obj_malloc, obj_calloc, obj_realloc, obj_free},
};

/* ---- One heap under the GIL -------------------------------------------------------------------
 *
 * Freehold's own domains lead to the same heap by way of an allocator, so that hooks and tracing
 * can wrap it. While that is what a domain's pointer says, calls go to the heap at once.
 */

static void *mem_plain, *obj_plain; /* what the pointers are without anybody on top */

FH_ALWAYS_INLINE bool is_plain(fh_domain domain, const void *plain)
{
    return FH_LIKELY(fh_load_own_ptr(&fh_domain_allocators[domain]) == plain);
}

FH_ALWAYS_INLINE void give(struct fh_heap *heap, void *block)
{
    if (FH_LIKELY(fh_classic_owns_in_region(heap->direct, block)))
        fh_classic_free_own(heap->direct, block);
    else
        fh_heap_give(block);
}

/* fh_heap_take() without errno, which CPython does not ask for: so all of it ends in jumps. */
FH_ALWAYS_INLINE void *take(struct fh_heap *heap, size_t bytes)
{
    return FH_LIKELY(bytes < heap->direct_below) ? fh_classic_malloc(heap->direct, bytes)
                                                 : fh_heap_take_slow(heap, bytes);
}

#define DEFINE_HEAP_DOMAIN(name, DOMAIN)                                                           \
    static void *name##_heap_malloc(void *context, size_t bytes)                                   \
    {                                                                                              \
        return is_plain(DOMAIN, name##_plain) ? take(context, bytes) : fh_##name##_malloc(bytes);  \
    }                                                                                              \
                                                                                                   \
    static void *name##_heap_calloc(void *context, size_t count, size_t bytes)                     \
    {                                                                                              \
        return is_plain(DOMAIN, name##_plain) ? fh_heap_take_zeroed(context, count * bytes)        \
                                              : fh_##name##_calloc(count, bytes);                  \
    }                                                                                              \
                                                                                                   \
    static void *name##_heap_realloc(void *context, void *block, size_t bytes)                     \
    {                                                                                              \
        return is_plain(DOMAIN, name##_plain) ? fh_heap_resize(context, block, bytes)              \
                                              : fh_##name##_realloc(block, bytes);                 \
    }                                                                                              \
                                                                                                   \
    static void name##_heap_free(void *context, void *block)                                       \
    {                                                                                              \
        if (is_plain(DOMAIN, name##_plain))                                                        \
            give(context, block);                                                                  \
        else                                                                                       \
            fh_##name##_free(block);                                                               \
    }

DEFINE_HEAP_DOMAIN(mem, FH_DOMAIN_MEM)
DEFINE_HEAP_DOMAIN(obj, FH_DOMAIN_OBJ)

/* The interpreter's lock, as far as a gil-assert heap asks: it never acquires or releases it. */

static int is_held(void *context)
{
    (void)context;
    return PyGILState_Check();
}

static void acquire(void *context)
{
    (void)context;
    Py_FatalError("Freehold does not acquire the interpreter's lock");
}

static void release(void *context)
{
    (void)context;
    Py_FatalError("Freehold does not release the interpreter's lock");
}

static struct fh_heap *new_heap(void)
{
    const fh_gil gil = {.held = is_held, .acquire = acquire, .release = release};
    const fh_heap_config config = {
        .struct_bytes = sizeof config, .mode = FH_OBJ_GIL_ASSERT, .gil = &gil};
    return fh_heap_create(&config);
}

/* Lead Freehold's own domain to the heap: what its pointer is then, NULL without memory. */
static void *lead(fh_domain domain, struct fh_heap *heap)
{
    fh_allocator allocator;
    if (fh_heap_get_allocator(heap, domain, &allocator) != 0 ||
        fh_set_allocator(domain, &allocator) != 0)
        return NULL;
    return fh_load_relaxed_ptr(&fh_domain_allocators[domain]); /* this thread has just written it */
}

int fh_python_make_heap(PyMemAllocatorEx out[3])
{
    struct fh_heap *heap = new_heap();
    if (heap == NULL || (mem_plain = lead(FH_DOMAIN_MEM, heap)) == NULL ||
        (obj_plain = lead(FH_DOMAIN_OBJ, heap)) == NULL)
        return -1;
    out[0] = fh_python_allocators[0];
    out[1] =
        (PyMemAllocatorEx){heap, mem_heap_malloc, mem_heap_calloc, mem_heap_realloc, mem_heap_free};
    out[2] =
        (PyMemAllocatorEx){heap, obj_heap_malloc, obj_heap_calloc, obj_heap_realloc, obj_heap_free};
    return 0;
}
