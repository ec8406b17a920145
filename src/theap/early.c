/* SPDX-License-Identifier: MIT */
/* Allocation before the loader is done.
 *
 * While glibc's loader still relocates, the main thread's thread-local variables are all zeros; it
 * copies their first values afterwards. Only an ifunc resolver of the program can call malloc that
 * early, and it would find no heap at all, not even fh_theap_none. So this library has a resolver
 * too, which runs when the library itself is relocated, before the program is: it gives the
 * variable its first value. (What the loader copies later is that value again: a heap that the main
 * thread made in between stays behind, with the few blocks of that time, which are freed as any
 * other thread's are.)
 */
#include "theap.h"

/* A sanitizer's code calls into its run-time library, which is not relocated yet. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define IS_INSTRUMENTED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define IS_INSTRUMENTED 1
#endif
#endif

#if defined(__GLIBC__) && defined(__PIC__) && !defined(IS_INSTRUMENTED)

static void nothing(void)
{
}

/* Called by the loader; it must not call anything that is not in this file. */
__attribute__((used)) static void (*when_relocated(void))(void)
{
    if (fh_theap_current == NULL)
        fh_theap_current = &fh_theap_none;
    return nothing;
}

FH_HIDDEN void fh_relocated(void) __attribute__((ifunc("when_relocated")));

/* The reference that makes the loader ask. */
void (*const fh_early_relocated)(void) FH_HIDDEN __attribute__((used)) = fh_relocated;

#endif
