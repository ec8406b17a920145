/* SPDX-License-Identifier: MIT */
/* Getting and setting a domain's allocator.
 *
 * Allocators that were ever set are kept in a list, each once: a call may have read the pointer
 * just before it was changed, and a hook may hold on to the one that it wraps.
 */
#include "domain.h"

#include <errno.h>
#include <string.h>

#include "theap.h"

struct known_allocator {
    fh_allocator allocator; /* first: pointers to it go about */
    struct known_allocator *next;
};

void *fh_domain_allocators[FH_DOMAINS];

static void *known_allocators; /* struct known_allocator *, newest first */

/* ---- The heap as an allocator ------------------------------------------------------------------
 */

static void *heap_malloc(void *context, size_t bytes)
{
    (void)context;
    return fh_theap_malloc(bytes);
}

static void *heap_calloc(void *context, size_t count, size_t bytes)
{
    size_t product;
    (void)context;
    if (!__builtin_mul_overflow(count, bytes, &product))
        return fh_theap_calloc(product);
    errno = ENOMEM;
    return NULL;
}

static void *heap_realloc(void *context, void *block, size_t bytes)
{
    (void)context;
    return block == NULL ? fh_theap_malloc(bytes) : fh_theap_realloc(block, bytes == 0 ? 1 : bytes);
}

static void heap_free(void *context, void *block)
{
    (void)context;
    fh_theap_free(block);
}

static const fh_allocator heap_allocator = {NULL, heap_malloc, heap_calloc, heap_realloc,
                                            heap_free};

/* ---- Those that were set ----------------------------------------------------------------------
 */

static bool are_equal(const fh_allocator *one, const fh_allocator *other)
{
    return one->context == other->context && one->malloc == other->malloc &&
           one->calloc == other->calloc && one->realloc == other->realloc &&
           one->free == other->free;
}

/* In the list from `from` up to `end`. */
static struct known_allocator *find(struct known_allocator *from, const struct known_allocator *end,
                                    const fh_allocator *allocator)
{
    while (from != end && !are_equal(&from->allocator, allocator))
        from = from->next;
    return from == end ? NULL : from;
}

/* The list's entry for it, made now if there is none; NULL if memory is short. */
static struct known_allocator *know(const fh_allocator *allocator)
{
    /* [allocator] acquire: the entries, from the CAS below. */
    void *first = fh_load_acquire_ptr(&known_allocators);
    struct known_allocator *entry = find(first, NULL, allocator);
    if (entry != NULL)
        return entry;
    entry = fh_theap_malloc(sizeof *entry);
    if (entry == NULL)
        return NULL;
    entry->allocator = *allocator;
    do {
        entry->next = first;
        /* [allocator] release: the entry. */
    } while (!fh_cas_acq_rel_ptr(&known_allocators, &first, entry));
    return entry;
}

static bool is_complete(const fh_allocator *allocator)
{
    return allocator != NULL && allocator->malloc != NULL && allocator->calloc != NULL &&
           allocator->realloc != NULL && allocator->free != NULL;
}

/* ---- The interface ----------------------------------------------------------------------------
 */

const fh_allocator *fh_domain_allocator(fh_domain domain)
{
    /* [allocator] acquire: what it points at. */
    const fh_allocator *allocator = fh_load_acquire_ptr(&fh_domain_allocators[domain]);
    return allocator == NULL ? &heap_allocator : allocator;
}

void fh_get_allocator(fh_domain domain, fh_allocator *out)
{
    memset(out, 0, sizeof *out);
    if ((unsigned)domain < FH_DOMAINS)
        *out = *fh_domain_allocator(domain);
}

int fh_set_allocator(fh_domain domain, const fh_allocator *allocator)
{
    struct known_allocator *entry = NULL;
    if ((unsigned)domain >= FH_DOMAINS || !is_complete(allocator)) {
        errno = EINVAL;
        return -1;
    }
    if (!are_equal(allocator, &heap_allocator) && (entry = know(allocator)) == NULL)
        return -1;
    /* [allocator] release: the entry, which may be another thread's. */
    fh_store_release_ptr(&fh_domain_allocators[domain], entry);
    return 0;
}
