/* SPDX-License-Identifier: MIT */
/* Getting and setting a domain's allocator.
 *
 * Allocators that were ever set are kept in a list, each once: a call may have read the pointer
 * just before it was changed, and a hook may hold on to the one that it wraps.
 */
#include "domain.h"

#include <errno.h>
#include <string.h>

#include "heap.h"
#include "theap.h"

struct known_allocator {
    fh_allocator allocator; /* first: pointers to it go about */
    struct known_allocator *next;
};

void *fh_domain_allocators[FH_DOMAINS];

FH_THREAD_LOCAL uint32_t fh_domain_defers;

static void *known_allocators; /* struct known_allocator *, newest first */

/* ---- The bottom --------------------------------------------------------------------------------
 *
 * What the calls go to where nobody set an allocator: the thread's current heap, or the threads'
 * heaps. Here they come from an allocator on top; without one they are in domain.c.
 */

static void *bottom_malloc(void *context, size_t bytes)
{
    (void)context;
    return fh_bottom_malloc(bytes);
}

static void *bottom_calloc(void *context, size_t count, size_t bytes)
{
    size_t product;
    (void)context;
    if (!__builtin_mul_overflow(count, bytes, &product))
        return fh_bottom_calloc(product);
    errno = ENOMEM;
    return NULL;
}

static void *bottom_realloc(void *context, void *block, size_t bytes)
{
    (void)context;
    return fh_bottom_realloc(block, bytes);
}

static void bottom_free(void *context, void *block)
{
    (void)context;
    if (FH_UNLIKELY(fh_domain_defers))
        fh_heap_give_deferred(block);
    else
        fh_bottom_free(block);
}

const fh_allocator fh_domain_bottom = {NULL, bottom_malloc, bottom_calloc, bottom_realloc,
                                       bottom_free};

/* The raw domain's: it has no heaps. */

static void *raw_malloc(void *context, size_t bytes)
{
    (void)context;
    return fh_theap_malloc(bytes);
}

static void *raw_calloc(void *context, size_t count, size_t bytes)
{
    size_t product;
    (void)context;
    if (!__builtin_mul_overflow(count, bytes, &product))
        return fh_theap_calloc(product);
    errno = ENOMEM;
    return NULL;
}

static void *raw_realloc(void *context, void *block, size_t bytes)
{
    (void)context;
    return block == NULL ? fh_theap_malloc(bytes) : fh_theap_realloc(block, bytes == 0 ? 1 : bytes);
}

static void raw_free(void *context, void *block)
{
    (void)context;
    fh_theap_free(block);
}

static const fh_allocator raw_bottom = {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free};

static const fh_allocator *bottom_of(fh_domain domain)
{
    return domain == FH_DOMAIN_RAW ? &raw_bottom : &fh_domain_bottom;
}

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

/* ---- A domain's pointer -----------------------------------------------------------------------
 *
 * As long as there are no heaps, NULL stands for the bottom, and a call is as short as can be. From
 * the first heap on mem's and obj's lead to fh_domain_bottom, or, if somebody set an allocator,
 * have a bit that says so for the day when it is taken away again. All in one word, so that no
 * thread ever finds a domain on a bottom that does not know its heaps' blocks.
 */

static bool knows_heaps(void *pointer)
{
    return pointer == &fh_domain_bottom || ((uintptr_t)pointer & FH_DOMAIN_HEAPS) != 0;
}

/* The same with heaps. */
static void *with_heaps(void *pointer)
{
    return pointer == NULL ? (void *)(uintptr_t)&fh_domain_bottom
                           : (void *)((uintptr_t)pointer | FH_DOMAIN_HEAPS);
}

static void know_heaps(fh_domain domain)
{
    void *pointer = fh_load_relaxed_ptr(&fh_domain_allocators[domain]); /* the CAS checks it */
    do {
        if (knows_heaps(pointer))
            return;
        /* Nothing of its own to pass: what was found in the word is passed on as it was. */
    } while (!fh_cas_acq_rel_ptr(&fh_domain_allocators[domain], &pointer, with_heaps(pointer)));
}

void fh_domain_know_heaps(void)
{
    know_heaps(FH_DOMAIN_MEM);
    know_heaps(FH_DOMAIN_OBJ);
}

/* NULL for the bottom. */
static void set(fh_domain domain, struct known_allocator *entry)
{
    void *found = fh_load_relaxed_ptr(&fh_domain_allocators[domain]); /* the CAS checks it */
    void *next;
    do {
        next = knows_heaps(found) ? with_heaps(entry) : entry;
        /* [allocator] release: the entry, which may be another thread's. */
    } while (!fh_cas_acq_rel_ptr(&fh_domain_allocators[domain], &found, next));
}

/* ---- The interface ----------------------------------------------------------------------------
 */

const fh_allocator *fh_domain_allocator(fh_domain domain)
{
    /* [allocator] acquire: what it points at. */
    void *found = fh_load_acquire_ptr(&fh_domain_allocators[domain]);
    if (found == NULL)
        return bottom_of(domain);
    return (const fh_allocator *)((uintptr_t)found & ~(uintptr_t)FH_DOMAIN_HEAPS);
}

bool fh_domain_is_own(fh_domain domain)
{
    return fh_domain_allocator(domain) == bottom_of(domain);
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
    if (!are_equal(allocator, bottom_of(domain)) && (entry = know(allocator)) == NULL)
        return -1;
    set(domain, entry);
    return 0;
}

int fh_domain_set_own(fh_domain domain)
{
    return fh_set_allocator(domain, bottom_of(domain));
}
