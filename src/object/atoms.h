/* SPDX-License-Identifier: MIT */
/* Every atomic operation of the object library, named by its order: C11's, by the compiler's
 * builtins, on any word. at_cas_* returns true if it stored; else *expected is what was found
 * there.
 *
 * Relaxed ones move a value that orders nothing else. The others say, where they are used, what
 * travels and where the other end is. */
#ifndef FH_OBJECT_ATOMS_H
#define FH_OBJECT_ATOMS_H

#define at_load_relaxed(at) __atomic_load_n((at), __ATOMIC_RELAXED)
#define at_load_acquire(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)
#define at_load_seq_cst(at) __atomic_load_n((at), __ATOMIC_SEQ_CST)

#define at_store_relaxed(at, value) __atomic_store_n((at), (value), __ATOMIC_RELAXED)
#define at_store_release(at, value) __atomic_store_n((at), (value), __ATOMIC_RELEASE)
#define at_store_seq_cst(at, value) __atomic_store_n((at), (value), __ATOMIC_SEQ_CST)

#define at_cas_(at, expected, desired, order, failed)                                              \
    __atomic_compare_exchange_n((at), (expected), (desired), 0, (order), (failed))
#define at_cas_relaxed(at, expected, desired)                                                      \
    at_cas_(at, expected, desired, __ATOMIC_RELAXED, __ATOMIC_RELAXED)
#define at_cas_acquire(at, expected, desired)                                                      \
    at_cas_(at, expected, desired, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)
#define at_cas_release(at, expected, desired)                                                      \
    at_cas_(at, expected, desired, __ATOMIC_RELEASE, __ATOMIC_RELAXED)
#define at_cas_acq_rel(at, expected, desired)                                                      \
    at_cas_(at, expected, desired, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
#define at_cas_seq_cst(at, expected, desired)                                                      \
    at_cas_(at, expected, desired, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

#define at_exchange_seq_cst(at, value) __atomic_exchange_n((at), (value), __ATOMIC_SEQ_CST)
#define at_exchange_acquire(at, value) __atomic_exchange_n((at), (value), __ATOMIC_ACQUIRE)
#define at_exchange_acq_rel(at, value) __atomic_exchange_n((at), (value), __ATOMIC_ACQ_REL)

#define at_fetch_add_relaxed(at, value) __atomic_fetch_add((at), (value), __ATOMIC_RELAXED)
#define at_fetch_add_acq_rel(at, value) __atomic_fetch_add((at), (value), __ATOMIC_ACQ_REL)
#define at_fetch_sub_relaxed(at, value) __atomic_fetch_sub((at), (value), __ATOMIC_RELAXED)
#define at_fetch_sub_acq_rel(at, value) __atomic_fetch_sub((at), (value), __ATOMIC_ACQ_REL)
#define at_fetch_or_relaxed(at, value)  __atomic_fetch_or((at), (value), __ATOMIC_RELAXED)
#define at_fetch_or_acq_rel(at, value)  __atomic_fetch_or((at), (value), __ATOMIC_ACQ_REL)
#define at_fetch_and_acq_rel(at, value) __atomic_fetch_and((at), (value), __ATOMIC_ACQ_REL)

#endif
