/* SPDX-License-Identifier: MIT */
/* Every atomic operation of the project, named by its order.
 *
 * Three back ends, chosen when the library is built:
 *   ck     Concurrency Kit's ck_pr: release builds on x86-64, whose loads acquire, whose stores
 * release and whose read-modify-writes are full barriers c11    the compiler's __atomic builtins
 * with exactly the order named: sanitizers, other processors sched  c11, with each operation a
 * point at which a deterministic scheduler may switch threads
 *
 * Families, each for uint64_t, uint32_t and void * as far as used:
 *   fh_load_<order>, fh_store_<order>
 *   fh_cas_<order>(at, &expected, desired)   true if it stored; else expected is what was found,
 * and a reader of that must not follow pointers in it (relaxed) fh_fetch_{or,and,add}_<order> the
 * value before fh_load_own, fh_store_own                a field that one thread writes at a time
 * and others may glance at: never torn, orders nothing, costs nothing fh_load_settled written
 * before any caller can hold a block, and never with another value after: whoever passes a block on
 * passes it on
 *
 * A use says in brackets which edge of docs/concurrency.md it belongs to, or why relaxed is enough.
 */
#ifndef FH_BASE_ATOMIC_H
#define FH_BASE_ATOMIC_H

#include <stdbool.h>
#include <stdint.h>

#include "compiler.h"

#if defined(FH_ATOMICS_CK)
#include "atomic_ck.h"
#else
#include "atomic_c11.h"
#endif

#endif
