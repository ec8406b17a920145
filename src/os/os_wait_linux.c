/* SPDX-License-Identifier: MIT */
/* Waiting for another thread: for the GIL, and for nothing else in this library but the purger,
 * which waits for time to pass. Apart from os_linux.c, so that tests can tell who can reach it. */
#include "os.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { US_PER_S = 1000000 };

uint64_t fh_os_now_us(void)
{
    struct timespec now = {0, 0};
    int saved_errno = errno;
    (void)clock_gettime(CLOCK_MONOTONIC, &now); /* read in user space; cannot fail here */
    errno = saved_errno;
    return (uint64_t)now.tv_sec * US_PER_S + (uint64_t)now.tv_nsec / 1000;
}

void fh_os_wait(const uint32_t *word, uint32_t value, uint32_t kinds, uint64_t until_us)
{
    struct timespec until = {(time_t)(until_us / US_PER_S), (long)(until_us % US_PER_S) * 1000};
    int saved_errno = errno;
    /* With the monotonic clock, unless told otherwise. */
    (void)syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value, &until, NULL, kinds);
    errno = saved_errno;
}

void fh_os_wake(const uint32_t *word, uint32_t kinds)
{
    int saved_errno = errno;
    (void)syscall(SYS_futex, word, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, NULL, NULL, kinds);
    errno = saved_errno;
}
