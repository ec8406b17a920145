/* SPDX-License-Identifier: MIT */
/* base/atomic.h on the compiler's builtins; with FH_ATOMICS_SCHED each operation is a yield point.
 */
#ifndef FH_BASE_ATOMIC_C11_H
#define FH_BASE_ATOMIC_C11_H

#if defined(FH_ATOMICS_SCHED)
/* Supplied by the explorer in tests/sched; the scheduler may run another thread inside. */
void fh_sched_point(const void *at, const char *operation);
#define FH_ATOMIC_POINT(at, operation) fh_sched_point((at), (operation))
#else
#define FH_ATOMIC_POINT(at, operation) ((void)0)
#endif

#define FH_DEFINE_LOAD(name, type, order)                                                          \
    FH_ALWAYS_INLINE type name(type const *at)                                                     \
    {                                                                                              \
        FH_ATOMIC_POINT(at, #name);                                                                \
        return __atomic_load_n(at, order);                                                         \
    }
#define FH_DEFINE_STORE(name, type, order)                                                         \
    FH_ALWAYS_INLINE void name(type *at, type value)                                               \
    {                                                                                              \
        FH_ATOMIC_POINT(at, #name);                                                                \
        __atomic_store_n(at, value, order);                                                        \
    }
#define FH_DEFINE_CAS(name, type, order)                                                           \
    FH_ALWAYS_INLINE bool name(type *at, type *expected, type desired)                             \
    {                                                                                              \
        FH_ATOMIC_POINT(at, #name);                                                                \
        return __atomic_compare_exchange_n(at, expected, desired, false, order, __ATOMIC_RELAXED); \
    }
#define FH_DEFINE_FETCH(name, builtin, type, order)                                                \
    FH_ALWAYS_INLINE type name(type *at, type operand)                                             \
    {                                                                                              \
        FH_ATOMIC_POINT(at, #name);                                                                \
        return builtin(at, operand, order);                                                        \
    }
/* Not yield points: no other thread's step depends on when these happen. */
#define FH_DEFINE_QUIET_LOAD(name, type)                                                           \
    FH_ALWAYS_INLINE type name(type const *at)                                                     \
    {                                                                                              \
        return __atomic_load_n(at, __ATOMIC_RELAXED);                                              \
    }
#define FH_DEFINE_QUIET_STORE(name, type)                                                          \
    FH_ALWAYS_INLINE void name(type *at, type value)                                               \
    {                                                                                              \
        __atomic_store_n(at, value, __ATOMIC_RELAXED);                                             \
    }

FH_DEFINE_LOAD(fh_load_relaxed_u64, uint64_t, __ATOMIC_RELAXED)
FH_DEFINE_LOAD(fh_load_acquire_u64, uint64_t, __ATOMIC_ACQUIRE)
FH_DEFINE_LOAD(fh_load_seq_cst_u64, uint64_t, __ATOMIC_SEQ_CST)
FH_DEFINE_STORE(fh_store_relaxed_u64, uint64_t, __ATOMIC_RELAXED)
FH_DEFINE_STORE(fh_store_release_u64, uint64_t, __ATOMIC_RELEASE)
FH_DEFINE_CAS(fh_cas_relaxed_u64, uint64_t, __ATOMIC_RELAXED)
FH_DEFINE_CAS(fh_cas_acquire_u64, uint64_t, __ATOMIC_ACQUIRE)
FH_DEFINE_CAS(fh_cas_release_u64, uint64_t, __ATOMIC_RELEASE)
FH_DEFINE_CAS(fh_cas_acq_rel_u64, uint64_t, __ATOMIC_ACQ_REL)
FH_DEFINE_FETCH(fh_fetch_add_relaxed_u64, __atomic_fetch_add, uint64_t, __ATOMIC_RELAXED)
FH_DEFINE_FETCH(fh_fetch_or_relaxed_u64, __atomic_fetch_or, uint64_t, __ATOMIC_RELAXED)
FH_DEFINE_FETCH(fh_fetch_or_release_u64, __atomic_fetch_or, uint64_t, __ATOMIC_RELEASE)
FH_DEFINE_FETCH(fh_fetch_or_seq_cst_u64, __atomic_fetch_or, uint64_t, __ATOMIC_SEQ_CST)
FH_DEFINE_FETCH(fh_fetch_and_acquire_u64, __atomic_fetch_and, uint64_t, __ATOMIC_ACQUIRE)
FH_DEFINE_FETCH(fh_fetch_and_relaxed_u64, __atomic_fetch_and, uint64_t, __ATOMIC_RELAXED)
FH_DEFINE_FETCH(fh_fetch_and_release_u64, __atomic_fetch_and, uint64_t, __ATOMIC_RELEASE)
FH_DEFINE_FETCH(fh_fetch_and_seq_cst_u64, __atomic_fetch_and, uint64_t, __ATOMIC_SEQ_CST)

FH_DEFINE_LOAD(fh_load_relaxed_u32, uint32_t, __ATOMIC_RELAXED)
FH_DEFINE_STORE(fh_store_relaxed_u32, uint32_t, __ATOMIC_RELAXED)
FH_DEFINE_CAS(fh_cas_relaxed_u32, uint32_t, __ATOMIC_RELAXED)

FH_DEFINE_LOAD(fh_load_acquire_ptr, void *, __ATOMIC_ACQUIRE)
FH_DEFINE_LOAD(fh_load_relaxed_ptr, void *, __ATOMIC_RELAXED)
FH_DEFINE_STORE(fh_store_relaxed_ptr, void *, __ATOMIC_RELAXED)
FH_DEFINE_STORE(fh_store_release_ptr, void *, __ATOMIC_RELEASE)
FH_DEFINE_CAS(fh_cas_acq_rel_ptr, void *, __ATOMIC_ACQ_REL)

FH_DEFINE_QUIET_LOAD(fh_load_own_u8, uint8_t)
FH_DEFINE_QUIET_STORE(fh_store_own_u8, uint8_t)
FH_DEFINE_QUIET_LOAD(fh_load_own_u32, uint32_t)
FH_DEFINE_QUIET_STORE(fh_store_own_u32, uint32_t)
FH_DEFINE_QUIET_LOAD(fh_load_own_u64, uint64_t)
FH_DEFINE_QUIET_STORE(fh_store_own_u64, uint64_t)
FH_DEFINE_QUIET_LOAD(fh_load_own_ptr, void *)
FH_DEFINE_QUIET_STORE(fh_store_own_ptr, void *)
FH_DEFINE_QUIET_LOAD(fh_load_settled_u64, uint64_t)
FH_DEFINE_QUIET_LOAD(fh_load_settled_ptr, void *)

#undef FH_DEFINE_LOAD
#undef FH_DEFINE_STORE
#undef FH_DEFINE_CAS
#undef FH_DEFINE_FETCH
#undef FH_DEFINE_QUIET_LOAD
#undef FH_DEFINE_QUIET_STORE

#endif
