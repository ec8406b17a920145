/* SPDX-License-Identifier: MIT */
/* operator new and delete, in C, by their mangled names: a C++ file would make every C program under
 * the preload load libstdc++.
 *
 * What only C++ can do when memory is short (call the new_handler, throw bad_alloc) is found through
 * weak references, present in any program that has operator new to call. The nothrow forms are left to
 * libstdc++, whose versions call the ones here inside a try block.
 *
 * Built with -fexceptions: a bad_alloc passes through these frames.
 */
#include <stdlib.h>

#include "heap.h"

#define EXPORT __attribute__((visibility("default")))

typedef void (*new_handler)(void);

/* std::get_new_handler() and std::__throw_bad_alloc() */
extern new_handler _ZSt15get_new_handlerv(void) FH_WEAK;
extern FH_NORETURN void _ZSt17__throw_bad_allocv(void) FH_WEAK;

/* Short of memory: let the handler free some, as long as there is one; it may throw. */
static FH_COLD void handle_no_memory(void)
{
    new_handler handler = _ZSt15get_new_handlerv != NULL ? _ZSt15get_new_handlerv() : NULL;
    if (handler != NULL) {
        handler();
        return;
    }
    if (_ZSt17__throw_bad_allocv != NULL)
        _ZSt17__throw_bad_allocv();
    abort();
}

static FH_COLD void *new_aligned(size_t bytes, size_t alignment)
{
    void *memory;
    while ((memory = fh_heap_aligned(alignment, bytes)) == NULL)
        handle_no_memory();
    return memory;
}

FH_ALWAYS_INLINE void *new_plain(size_t bytes)
{
    void *memory = fh_heap_malloc(bytes);
    return FH_LIKELY(memory != NULL) ? memory : new_aligned(bytes, 1);
}

/* size_t is `m` in a mangled name, std::align_val_t `St11align_val_t`. */
#define DEFINE_NEW(name)                                                                           \
    EXPORT void *name(size_t bytes);                                                               \
    void *name(size_t bytes)                                                                       \
    {                                                                                              \
        return new_plain(bytes);                                                                   \
    }
#define DEFINE_NEW_ALIGNED(name)                                                                   \
    EXPORT void *name(size_t bytes, size_t alignment);                                             \
    void *name(size_t bytes, size_t alignment)                                                     \
    {                                                                                              \
        return new_aligned(bytes, alignment);                                                      \
    }
/* The further arguments of a delete are promises of the caller's that we need not rely on. */
#define DEFINE_DELETE(name, ...)                                                                   \
    EXPORT void name(__VA_ARGS__);                                                                 \
    void name(__VA_ARGS__)                                                                         \
    {                                                                                              \
        fh_heap_free(memory);                                                                      \
    }

DEFINE_NEW(_Znwm)
DEFINE_NEW(_Znam)
DEFINE_NEW_ALIGNED(_ZnwmSt11align_val_t)
DEFINE_NEW_ALIGNED(_ZnamSt11align_val_t)

#pragma GCC diagnostic ignored "-Wunused-parameter"
DEFINE_DELETE(_ZdlPv, void *memory)
DEFINE_DELETE(_ZdaPv, void *memory)
DEFINE_DELETE(_ZdlPvm, void *memory, size_t bytes)
DEFINE_DELETE(_ZdaPvm, void *memory, size_t bytes)
DEFINE_DELETE(_ZdlPvSt11align_val_t, void *memory, size_t alignment)
DEFINE_DELETE(_ZdaPvSt11align_val_t, void *memory, size_t alignment)
DEFINE_DELETE(_ZdlPvmSt11align_val_t, void *memory, size_t bytes, size_t alignment)
DEFINE_DELETE(_ZdaPvmSt11align_val_t, void *memory, size_t bytes, size_t alignment)
