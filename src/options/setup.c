/* SPDX-License-Identifier: MIT */
#include "setup.h"

#include <errno.h>

#include "debug.h"
#include "domain.h"
#include "heap.h"
#include "freehold/options.h"

/* What a domain goes to, below the debug hooks. */
enum bottom { BOTTOM_OWN, BOTTOM_LIBC, BOTTOM_HEAP, BOTTOM_OTHER };

struct arrangement {
    const char *name;
    enum bottom bottom; /* of mem and obj; raw never goes to the heap */
    bool debug;
};

/* The first of its kind is the one that fh_current_allocator_name() returns. */
static const struct arrangement arrangements[] = {
    {"freehold", BOTTOM_OWN, false}, {"freehold_debug", BOTTOM_OWN, true},
    {"malloc", BOTTOM_LIBC, false},  {"malloc_debug", BOTTOM_LIBC, true},
    {"gil", BOTTOM_HEAP, false},     {"gil_debug", BOTTOM_HEAP, true},
    {"pymalloc", BOTTOM_OWN, false}, {"pymalloc_debug", BOTTOM_OWN, true},
    {"default", BOTTOM_OWN, false},  {"debug", BOTTOM_OWN, true},
    {"off", BOTTOM_OWN, false},      {"", BOTTOM_OWN, false},
};

enum { ARRANGEMENTS = sizeof arrangements / sizeof arrangements[0] };

/* ---- The heap of all threads ------------------------------------------------------------------
 */

static void *process_heap; /* fh_heap *, made when first asked for */

static fh_heap *find_process_heap(void)
{
    /* [process-heap] acquire: the heap, from the CAS below. */
    return fh_load_acquire_ptr(&process_heap);
}

static fh_obj_mode mode_wanted(void)
{
    const struct fh_options *options = fh_options_get();
    uint64_t number = options->values[FH_OPTION_OBJ_MODE].number;
    if (number == FH_OBJ_MODE_UNSAID)
        return FH_OBJ_GIL_LOCK;
    return (fh_obj_mode)(number - FH_OBJ_MODE_FIRST);
}

/* NULL if memory is short. */
static fh_heap *make_process_heap(void)
{
    const fh_heap_config config = {.struct_bytes = sizeof config, .mode = mode_wanted()};
    void *expected = NULL;
    fh_heap *heap = find_process_heap();
    if (heap != NULL)
        return heap;
    heap = fh_heap_create(&config);
    /* [process-heap] release: the heap. */
    if (heap != NULL && !fh_cas_acq_rel_ptr(&process_heap, &expected, heap))
        (void)fh_heap_destroy(heap, 0); /* another thread was first */
    return find_process_heap();
}

/* ---- Setting up -------------------------------------------------------------------------------
 */

static int use_heap(fh_domain domain)
{
    fh_allocator allocator;
    fh_heap *heap = make_process_heap();
    if (heap == NULL || fh_heap_get_allocator(heap, domain, &allocator) != 0)
        return -1;
    return fh_set_allocator(domain, &allocator);
}

static int use(fh_domain domain, enum bottom bottom)
{
    if (bottom == BOTTOM_LIBC)
        return fh_set_allocator(domain, &fh_libc_allocator);
    if (bottom == BOTTOM_HEAP && domain != FH_DOMAIN_RAW)
        return use_heap(domain);
    return fh_domain_set_own(domain);
}

static int is_lock_held(void *context)
{
    const fh_heap *heap = context;
    return heap->gil.held(heap->gil.ctx);
}

/* In the mode gil-assert the hooks are the only ones who look whether the caller holds the lock. */
static int check_lock(enum bottom bottom)
{
    fh_heap *heap = find_process_heap();
    bool asserts = bottom == BOTTOM_HEAP && heap->mode == FH_OBJ_GIL_ASSERT;
    if (heap == NULL)
        return 0; /* nor was there any before */
    if (fh_debug_set_gil_check(FH_DOMAIN_MEM, asserts ? is_lock_held : NULL, heap) != 0)
        return -1;
    return fh_debug_set_gil_check(FH_DOMAIN_OBJ, asserts ? is_lock_held : NULL, heap);
}

static int arrange(enum bottom bottom, bool debug)
{
    for (int domain = 0; domain < FH_DOMAINS; domain++)
        if (use((fh_domain)domain, bottom) != 0)
            return -1;
    if (!debug)
        return 0;
    return check_lock(bottom) == 0 ? fh_debug_setup() : -1;
}

static const struct arrangement *arrangement_named(const char *name)
{
    for (size_t i = 0; i < ARRANGEMENTS; i++)
        if (fh_slice_is(fh_slice_of(name), arrangements[i].name))
            return &arrangements[i];
    return NULL;
}

int fh_setup_allocators(const char *name)
{
    const struct arrangement *arrangement = name == NULL ? NULL : arrangement_named(name);
    if (arrangement != NULL)
        return arrange(arrangement->bottom, arrangement->debug);
    errno = EINVAL;
    return -1;
}

int fh_setup_from_options(const struct fh_options *options)
{
    const char *name = fh_malloc_words[options->values[FH_OPTION_MALLOC].number];
    const struct arrangement *arrangement = arrangement_named(name);
    bool wants_heap = options->values[FH_OPTION_OBJ_MODE].number != FH_OBJ_MODE_UNSAID;
    enum bottom bottom = arrangement->bottom;
    if (bottom == BOTTOM_OWN && wants_heap)
        bottom = BOTTOM_HEAP;
    if (bottom == BOTTOM_OWN && !arrangement->debug)
        return 0;
    return arrange(bottom, arrangement->debug);
}

/* ---- Looking ----------------------------------------------------------------------------------
 */

static bool are_equal(const fh_allocator *one, const fh_allocator *other)
{
    return one->context == other->context && one->malloc == other->malloc &&
           one->calloc == other->calloc && one->realloc == other->realloc &&
           one->free == other->free;
}

static bool is_of_heap(const fh_allocator *allocator, fh_domain domain)
{
    fh_allocator heaps;
    fh_heap *heap = find_process_heap();
    return heap != NULL && fh_heap_get_allocator(heap, domain, &heaps) == 0 &&
           are_equal(allocator, &heaps);
}

static enum bottom bottom_of(const fh_allocator *allocator, fh_domain domain)
{
    if (are_equal(allocator, &fh_libc_allocator))
        return BOTTOM_LIBC;
    return is_of_heap(allocator, domain) ? BOTTOM_HEAP : BOTTOM_OTHER;
}

/* What the hooks wrap, if this allocator is theirs; else NULL. */
static const struct fh_debug_wrap *wrap_of(const fh_allocator *allocator)
{
    for (unsigned i = 0; i < FH_DEBUG_WRAPS_MAX; i++)
        if (allocator->context == fh_debug_wrap_at(i))
            return fh_debug_wrap_at(i);
    return NULL;
}

static enum bottom look(fh_domain domain, bool *debug)
{
    *debug = false;
    if (fh_domain_is_own(domain))
        return BOTTOM_OWN;
    const fh_allocator *now = fh_domain_allocator(domain);
    const struct fh_debug_wrap *wrap = wrap_of(now);
    if (wrap == NULL)
        return bottom_of(now, domain);
    *debug = fh_debug_is_on();
    return wrap->is_own ? BOTTOM_OWN : bottom_of(&wrap->wrapped, domain);
}

static const char *name_of(enum bottom bottom, bool debug)
{
    for (size_t i = 0; i < ARRANGEMENTS; i++)
        if (arrangements[i].bottom == bottom && arrangements[i].debug == debug)
            return arrangements[i].name;
    return NULL;
}

const char *fh_current_allocator_name(void)
{
    bool debug[FH_DOMAINS];
    enum bottom raw = look(FH_DOMAIN_RAW, &debug[FH_DOMAIN_RAW]);
    enum bottom mem = look(FH_DOMAIN_MEM, &debug[FH_DOMAIN_MEM]);
    enum bottom obj = look(FH_DOMAIN_OBJ, &debug[FH_DOMAIN_OBJ]);
    bool fits = raw == mem || (raw == BOTTOM_OWN && mem == BOTTOM_HEAP);
    if (mem != obj || !fits || debug[FH_DOMAIN_RAW] != debug[FH_DOMAIN_MEM] ||
        debug[FH_DOMAIN_MEM] != debug[FH_DOMAIN_OBJ])
        return NULL;
    return name_of(mem, debug[FH_DOMAIN_MEM]);
}
