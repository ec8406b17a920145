/* SPDX-License-Identifier: MIT */
/* The debug hooks as allocators: how they are put in place, switched and set.
 *
 * Each allocator that they ever wrapped for a domain has a record for ever, the context of the
 * hooks there: a call that has begun ends with the one that it began with.
 */
#include <errno.h>

#include "bits.h"
#include "debug.h"

static struct fh_debug_wrap wraps[FH_DEBUG_WRAPS_MAX];
static void *ready[FH_DEBUG_WRAPS_MAX]; /* the wrap of that number, once it may be used */
static uint64_t wraps_given;

/* Each read by itself: what one says does not depend on what another says. */
uint64_t fh_debug_on;
uint64_t fh_debug_strict;
uint64_t fh_debug_serials_on;

static uint64_t last_serial;

/* ---- Wraps ------------------------------------------------------------------------------------
 */

const struct fh_debug_wrap *fh_debug_wrap_at(unsigned index)
{
    return &wraps[index];
}

unsigned fh_debug_wrap_index(const struct fh_debug_wrap *wrap)
{
    return (unsigned)(wrap - wraps);
}

/* NULL if it is not there yet. */
static const struct fh_debug_wrap *ready_wrap(unsigned index)
{
    /* [debug-wrap] acquire: the wrap. */
    return fh_load_acquire_ptr(&ready[index]);
}

bool fh_debug_wraps_others(void)
{
    for (unsigned i = 0; i < FH_DEBUG_WRAPS_MAX; i++)
        if (ready_wrap(i) != NULL && !ready_wrap(i)->is_own)
            return true;
    return false;
}

static bool is_wrap_of(const struct fh_debug_wrap *wrap, fh_domain domain,
                       const fh_allocator *allocator)
{
    return wrap != NULL && wrap->domain == domain && wrap->wrapped.context == allocator->context &&
           wrap->wrapped.malloc == allocator->malloc && wrap->wrapped.calloc == allocator->calloc &&
           wrap->wrapped.realloc == allocator->realloc && wrap->wrapped.free == allocator->free;
}

static const struct fh_debug_wrap *new_wrap(fh_domain domain, const fh_allocator *allocator,
                                            bool is_own)
{
    uint64_t index = fh_load_relaxed_u64(&wraps_given); /* a guess: the CAS checks it */
    do {
        if (index == FH_DEBUG_WRAPS_MAX)
            return NULL;
    } while (!fh_cas_relaxed_u64(&wraps_given, &index, index + 1)); /* a number that is ours now */
    struct fh_debug_wrap *wrap = &wraps[index];
    wrap->wrapped = *allocator;
    wrap->domain = domain;
    wrap->letter = "rmo"[domain];
    wrap->is_own = is_own;
    wrap->guard = FH_DEBUG_BIG_ENDIAN((FH_DEBUG_FORBIDDEN & fh_low_bits(56)) |
                                      (uint64_t)(unsigned char)wrap->letter << 56);
    /* [debug-wrap] release: the wrap. */
    fh_store_release_ptr(&ready[index], wrap);
    return wrap;
}

static const struct fh_debug_wrap *wrap_of(fh_domain domain, const fh_allocator *allocator,
                                           bool is_own)
{
    for (unsigned i = 0; i < FH_DEBUG_WRAPS_MAX; i++)
        if (is_wrap_of(ready_wrap(i), domain, allocator))
            return ready_wrap(i);
    return new_wrap(domain, allocator, is_own);
}

/* ---- The hooks --------------------------------------------------------------------------------
 */

static const struct fh_debug_wrap *checked(const void *context, const char *function)
{
    const struct fh_debug_wrap *wrap = context;
    if (wrap->domain == FH_DOMAIN_RAW || !fh_debug_is_on())
        return wrap;
    fh_debug_check_lock(fh_domain_gil(&wrap->wrapped), function);
    if (fh_domain_defers == 0)
        fh_debug_check_gil(wrap->domain, function);
    return wrap;
}

static void *hook_malloc(void *context, size_t bytes)
{
    return fh_debug_malloc(checked(context, "_PyMem_DebugMalloc"), bytes);
}

static void *hook_calloc(void *context, size_t count, size_t bytes)
{
    return fh_debug_calloc(checked(context, "_PyMem_DebugCalloc"), count, bytes);
}

static void *hook_realloc(void *context, void *block, size_t bytes)
{
    return fh_debug_realloc(checked(context, "_PyMem_DebugRealloc"), block, bytes);
}

static void hook_free(void *context, void *block)
{
    fh_debug_free(checked(context, "_PyMem_DebugFree"), block);
}

/* ---- On and off -------------------------------------------------------------------------------
 */

static int refuse(int error)
{
    errno = error;
    return -1;
}

/* Is this a block of the hooks around some allocator of the domain? NULL asks for any such hooks.
 */
static bool is_hooked(fh_domain domain, const char *block)
{
    for (unsigned i = 0; i < FH_DEBUG_WRAPS_MAX; i++) {
        const struct fh_debug_wrap *wrap = ready_wrap(i);
        if (wrap != NULL && wrap->domain == domain &&
            (block == NULL || fh_debug_is_made_by(wrap, block)))
            return true;
    }
    return false;
}

/* Does this allocator wrap the hooks, so that its blocks come from them? Tried with a block. */
static bool is_above(fh_domain domain, const fh_allocator *allocator)
{
    char *block = is_hooked(domain, NULL) ? allocator->malloc(allocator->context, 1) : NULL;
    bool above = block != NULL && is_hooked(domain, block);
    if (block != NULL)
        allocator->free(allocator->context, block);
    return above;
}

static int wrap_domain(fh_domain domain)
{
    fh_allocator now;
    bool is_own = fh_domain_is_own(domain);
    fh_get_allocator(domain, &now);
    is_own = is_own && fh_domain_is_own(domain); /* still */
    if (now.malloc == hook_malloc || (!is_own && is_above(domain, &now)))
        return 0;
    const struct fh_debug_wrap *wrap = wrap_of(domain, &now, is_own);
    if (wrap == NULL)
        return refuse(ENOMEM);
    const fh_allocator hooks = {(void *)(uintptr_t)wrap, hook_malloc, hook_calloc, hook_realloc,
                                hook_free};
    return fh_set_allocator(domain, &hooks);
}

static const struct fh_heap_watcher watcher = {fh_quarantine_forget_heap};

int fh_debug_setup(void)
{
    fh_store_relaxed_ptr(&fh_heap_watcher, (void *)(uintptr_t)&watcher); /* a constant */
    fh_store_own_u64(&fh_debug_on, 1);
    for (int domain = 0; domain < FH_DOMAINS; domain++)
        if (wrap_domain((fh_domain)domain) != 0)
            return -1;
    return 0;
}

int fh_debug_teardown(void)
{
    if (fh_debug_wraps_others())
        return refuse(EBUSY);
    fh_store_own_u64(&fh_debug_on, 0);
    fh_quarantine_flush();
    return 0;
}

int fh_debug_is_enabled(void)
{
    return fh_debug_is_on();
}

int fh_debug_configure(const fh_debug_config *config)
{
    if (config == NULL || config->struct_bytes < sizeof *config)
        return refuse(EINVAL);
    bool serials = config->serial_numbers != 0;
    bool is_settled = fh_load_relaxed_u64(&wraps_given) != 0; /* by an earlier call */
    if (is_settled && serials != fh_load_own_u64(&fh_debug_serials_on))
        return refuse(EBUSY);
    fh_store_own_u64(&fh_debug_serials_on, serials);
    fh_store_own_u64(&fh_debug_strict, config->strict != 0);
    fh_quarantine_limit(config->quarantine_bytes);
    return 0;
}

size_t fh_debug_flush(void)
{
    return fh_quarantine_flush();
}

/* ---- Serial numbers ---------------------------------------------------------------------------
 */

uint64_t fh_debug_serial(void)
{
    return fh_load_relaxed_u64(&last_serial); /* a number */
}

FH_NOINLINE uint64_t fh_debug_bump_serial(void)
{
    return fh_fetch_add_relaxed_u64(&last_serial, 1) + 1; /* distinct; orders nothing */
}
