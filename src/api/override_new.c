/* SPDX-License-Identifier: MIT */
/* operator new and delete, in C, by their mangled names: a C++ file would make every C program
 * under the preload load libstdc++.
 *
 * What only C++ can do when memory is short (call the new_handler, throw bad_alloc) is found
 * through weak references, or, where libstdc++ was loaded later, with the module that called. The
 * nothrow forms are left to libstdc++, whose versions call the ones here inside a try block.
 *
 * Built with -fexceptions: a bad_alloc passes through these frames.
 */
#include <dlfcn.h>
#include <link.h>
#include <stdlib.h>

#include "theap.h"

#define EXPORT __attribute__((visibility("default")))

typedef void (*new_handler)(void);

typedef new_handler get_new_handler(void);
typedef void throw_bad_alloc(void);

/* std::get_new_handler() and std::__throw_bad_alloc() */
extern get_new_handler _ZSt15get_new_handlerv FH_WEAK;
extern throw_bad_alloc _ZSt17__throw_bad_allocv FH_WEAK;

/* Weak, so that a static program does not take in the loader. */
extern __typeof__(dladdr1) dladdr1 FH_WEAK;
extern __typeof__(dlsym) dlsym FH_WEAK;

typedef void *open_module(const char *name, int flags);

/* The function of this name that the module around `caller` would find. dlopen is looked up too:
 * naming it here would make the linker warn about every static program. */
static FH_COLD void *symbol_for(const void *caller, const char *name)
{
    Dl_info info;
    void *map = NULL;
    if (dladdr1 == NULL || dladdr1(caller, &info, &map, RTLD_DL_LINKMAP) == 0)
        return NULL;
    open_module *open;
    *(void **)&open = dlsym(RTLD_DEFAULT, "dlopen");
    if (open == NULL)
        return NULL;
    const char *module = ((struct link_map *)map)->l_name;
    void *handle = open(module[0] == '\0' ? NULL : module, RTLD_LAZY | RTLD_NOLOAD);
    return handle == NULL ? NULL : dlsym(handle, name); /* the caller is loaded while it runs */
}

/* Short of memory: let the handler free some, as long as there is one; it may throw. */
static FH_COLD void handle_no_memory(const void *caller)
{
    get_new_handler *get = _ZSt15get_new_handlerv;
    throw_bad_alloc *give_up = _ZSt17__throw_bad_allocv;
    if (get == NULL)
        *(void **)&get = symbol_for(caller, "_ZSt15get_new_handlerv");
    if (give_up == NULL)
        *(void **)&give_up = symbol_for(caller, "_ZSt17__throw_bad_allocv");
    new_handler handler = get != NULL ? get() : NULL;
    if (handler != NULL) {
        handler();
        return;
    }
    if (give_up != NULL)
        give_up();
    abort();
}

static FH_COLD void *new_aligned(size_t bytes, size_t alignment, const void *caller)
{
    void *memory;
    while ((memory = fh_theap_aligned_for(alignment, bytes, caller)) == NULL)
        handle_no_memory(caller);
    return memory;
}

/* Not through fh_theap_malloc_slow(), which would take operator new for its caller. */
FH_ALWAYS_INLINE void *new_plain(size_t bytes, const void *caller)
{
    struct fh_theap *heap = fh_theap_of_thread();
    if (FH_UNLIKELY(bytes >= heap->fast_below))
        return new_aligned(bytes, 1, caller);
    void *memory = fh_theap_take_at(heap, fh_theap_ready_offset(bytes));
    return FH_LIKELY(memory != NULL) ? memory : new_aligned(bytes, 1, caller);
}

/* size_t is `m` in a mangled name, std::align_val_t `St11align_val_t`. */
#define DEFINE_NEW(name)                                                                           \
    EXPORT void *name(size_t bytes);                                                               \
    void *name(size_t bytes)                                                                       \
    {                                                                                              \
        return new_plain(bytes, __builtin_return_address(0));                                      \
    }
#define DEFINE_NEW_ALIGNED(name)                                                                   \
    EXPORT void *name(size_t bytes, size_t alignment);                                             \
    void *name(size_t bytes, size_t alignment)                                                     \
    {                                                                                              \
        return new_aligned(bytes, alignment, __builtin_return_address(0));                         \
    }
/* The further arguments of a delete are promises of the caller's that we need not rely on. */
#define DEFINE_DELETE(name, ...)                                                                   \
    EXPORT void name(__VA_ARGS__);                                                                 \
    void name(__VA_ARGS__)                                                                         \
    {                                                                                              \
        fh_theap_free(memory);                                                                     \
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
