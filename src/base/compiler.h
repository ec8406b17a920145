/* SPDX-License-Identifier: MIT */
/* What differs between compilers, in one place. */
#ifndef FH_BASE_COMPILER_H
#define FH_BASE_COMPILER_H

#define FH_LIKELY(condition)   __builtin_expect(!!(condition), 1)
#define FH_UNLIKELY(condition) __builtin_expect(!!(condition), 0)

#define FH_ALWAYS_INLINE __attribute__((always_inline)) static inline
#define FH_NOINLINE      __attribute__((noinline))
/* Off the fast path: kept away from it in the binary too. */
#define FH_COLD     __attribute__((noinline, cold))
#define FH_NORETURN __attribute__((noreturn))
#define FH_WEAK     __attribute__((weak))

/* A variable of ours in another file: no detour through the global offset table. */
#define FH_HIDDEN __attribute__((visibility("hidden")))

#define FH_CACHE_LINE_ALIGNED __attribute__((aligned(64)))

/* Initial-exec: one load from the thread pointer and never a call of __tls_get_addr, which may
 * allocate. */
#define FH_THREAD_LOCAL __thread __attribute__((tls_model("initial-exec")))

/* Keeps the compiler from moving memory accesses across. For a signal handler of the same thread
 * only: the processor itself shows a thread its own accesses in order. */
#define FH_SIGNAL_FENCE() __atomic_signal_fence(__ATOMIC_SEQ_CST)

/* The compiler does not know that a variable has the value that it had. */
#define FH_HIDE_VALUE(variable) __asm__("" : "+r"(variable))

/* Clear one bit, known at compile time, of *word; true if it was set. One instruction on x86-64,
 * where a signal handler of this thread sees it done or not; elsewhere it may see the bit still
 * set, which is no worse for who only asks whether. Nothing for other threads. */
#if defined(__x86_64__)
#define FH_TEST_AND_CLEAR_BIT(word, bit)                                                           \
    __extension__({                                                                                \
        _Bool was_set;                                                                             \
        __asm__ __volatile__("btrq %2, %0"                                                         \
                             : "+m"(*(word)), "=@ccc"(was_set)                                     \
                             : "i"(bit)                                                            \
                             : "memory");                                                          \
        was_set;                                                                                   \
    })
#else
#define FH_TEST_AND_CLEAR_BIT(word, bit)                                                           \
    __extension__({                                                                                \
        _Bool was_set = (*(word) >> (bit)&1) != 0;                                                 \
        *(word) &= ~((__typeof__(*(word)))1 << (bit));                                             \
        FH_SIGNAL_FENCE();                                                                         \
        was_set;                                                                                   \
    })
#endif

/* An alias with all that the compiler knows of its target. */
#if defined(__has_attribute)
#if __has_attribute(copy)
#define FH_COPY_ATTRIBUTES(target) __attribute__((copy(target)))
#endif
#endif
#if !defined(FH_COPY_ATTRIBUTES)
#define FH_COPY_ATTRIBUTES(target)
#endif

#endif
