/* SPDX-License-Identifier: MIT */
/* The three domains: where their calls go.
 *
 * Each domain has one pointer. NULL, as all are at first: calls go straight to the thread's heap.
 * Else it points at an allocator that is never changed after it was published, so that a call sees
 * one that belongs together, whoever sets another one meanwhile.
 */
#ifndef FH_DOMAIN_DOMAIN_H
#define FH_DOMAIN_DOMAIN_H

#include <stdbool.h>

#include "atomic.h"
#include "freehold.h"

enum { FH_DOMAINS = 3 };

/* const fh_allocator *[] */
extern void *fh_domain_allocators[FH_DOMAINS] FH_HIDDEN;

/* Is there another allocator than the heap? A guess: it may be set at any time. */
FH_ALWAYS_INLINE bool fh_domain_is_replaced(fh_domain domain)
{
    return FH_UNLIKELY(fh_load_own_ptr(&fh_domain_allocators[domain]) != NULL);
}

/* The allocator to call, which stays for ever. */
const fh_allocator *fh_domain_allocator(fh_domain domain);

#endif
