/* SPDX-License-Identifier: MIT */
/* base/atomic.h on Concurrency Kit, for x86-64 only.
 *
 * There a load is an acquire, a store a release and a locked instruction a full barrier, and each
 * ck_pr operation keeps the compiler from moving memory accesses across it. So the orders differ in
 * name only; the c11 back end is where a wrong name shows.
 */
#ifndef FH_BASE_ATOMIC_CK_H
#define FH_BASE_ATOMIC_CK_H

#include <ck_pr.h>

#if !defined(__x86_64__)
#error "ck_pr leaves orders to fences on this processor; build with FH_ATOMICS=c11"
#endif

#define FH_DEFINE_LOAD(name, type, read)                                                           \
    FH_ALWAYS_INLINE type name(type const *at)                                                     \
    {                                                                                              \
        return read(at);                                                                           \
    }
#define FH_DEFINE_STORE(name, type, write)                                                         \
    FH_ALWAYS_INLINE void name(type *at, type value)                                               \
    {                                                                                              \
        write(at, value);                                                                          \
    }
#define FH_DEFINE_CAS(name, type, cas)                                                             \
    FH_ALWAYS_INLINE bool name(type *at, type *expected, type desired)                             \
    {                                                                                              \
        return cas(at, *expected, desired, expected);                                              \
    }
/* ck's or and and return nothing; a CAS loop does, and fails only when somebody else succeeded. */
#define FH_DEFINE_FETCH(name, operator)                                                            \
    FH_ALWAYS_INLINE uint64_t name(uint64_t *at, uint64_t operand)                                 \
    {                                                                                              \
        uint64_t before = ck_pr_load_64(at);                                                       \
        while (!ck_pr_cas_64_value(at, before, before operator operand, &before))                  \
            ;                                                                                      \
        return before;                                                                             \
    }
#define FH_DEFINE_PLAIN(suffix, type)                                                              \
    FH_ALWAYS_INLINE type fh_load_own_##suffix(type const *at)                                     \
    {                                                                                              \
        return *at;                                                                                \
    }                                                                                              \
    FH_ALWAYS_INLINE void fh_store_own_##suffix(type *at, type value)                              \
    {                                                                                              \
        *at = value;                                                                               \
    }                                                                                              \
    FH_ALWAYS_INLINE type fh_load_settled_##suffix(type const *at)                                 \
    {                                                                                              \
        return *at;                                                                                \
    }

FH_DEFINE_LOAD(fh_load_relaxed_u64, uint64_t, ck_pr_load_64)
FH_DEFINE_LOAD(fh_load_acquire_u64, uint64_t, ck_pr_load_64)
FH_DEFINE_LOAD(fh_load_seq_cst_u64, uint64_t, ck_pr_load_64) /* its other side is a locked RMW */
FH_DEFINE_STORE(fh_store_relaxed_u64, uint64_t, ck_pr_store_64)
FH_DEFINE_STORE(fh_store_release_u64, uint64_t, ck_pr_store_64)
FH_DEFINE_CAS(fh_cas_relaxed_u64, uint64_t, ck_pr_cas_64_value)
FH_DEFINE_CAS(fh_cas_acquire_u64, uint64_t, ck_pr_cas_64_value)
FH_DEFINE_CAS(fh_cas_release_u64, uint64_t, ck_pr_cas_64_value)
FH_DEFINE_CAS(fh_cas_acq_rel_u64, uint64_t, ck_pr_cas_64_value)
FH_DEFINE_FETCH(fh_fetch_or_relaxed_u64, |)
FH_DEFINE_FETCH(fh_fetch_or_release_u64, |)
FH_DEFINE_FETCH(fh_fetch_or_seq_cst_u64, |)
FH_DEFINE_FETCH(fh_fetch_and_acquire_u64, &)
FH_DEFINE_FETCH(fh_fetch_and_relaxed_u64, &)
FH_DEFINE_FETCH(fh_fetch_and_release_u64, &)
FH_DEFINE_FETCH(fh_fetch_and_seq_cst_u64, &)

FH_ALWAYS_INLINE uint64_t fh_fetch_add_relaxed_u64(uint64_t *at, uint64_t operand)
{
    return ck_pr_faa_64(at, operand);
}

FH_DEFINE_LOAD(fh_load_relaxed_u32, uint32_t, ck_pr_load_32)
FH_DEFINE_STORE(fh_store_relaxed_u32, uint32_t, ck_pr_store_32)
FH_DEFINE_CAS(fh_cas_relaxed_u32, uint32_t, ck_pr_cas_32_value)

FH_DEFINE_PLAIN(u8, uint8_t)
FH_DEFINE_PLAIN(u32, uint32_t)
FH_DEFINE_PLAIN(u64, uint64_t)
FH_DEFINE_PLAIN(ptr, void *)

/* ck's pointer operations take the address of the pointer as void *. */
FH_ALWAYS_INLINE void *fh_load_acquire_ptr(void *const *at)
{
    return ck_pr_load_ptr(at);
}

FH_ALWAYS_INLINE void *fh_load_relaxed_ptr(void *const *at)
{
    return ck_pr_load_ptr(at);
}

FH_ALWAYS_INLINE void fh_store_relaxed_ptr(void **at, void *value)
{
    ck_pr_store_ptr(at, value);
}

FH_ALWAYS_INLINE void fh_store_release_ptr(void **at, void *value)
{
    ck_pr_store_ptr(at, value);
}

FH_ALWAYS_INLINE bool fh_cas_acq_rel_ptr(void **at, void **expected, void *desired)
{
    return ck_pr_cas_ptr_value(at, *expected, desired, expected);
}

#undef FH_DEFINE_LOAD
#undef FH_DEFINE_STORE
#undef FH_DEFINE_CAS
#undef FH_DEFINE_FETCH
#undef FH_DEFINE_PLAIN

#endif
