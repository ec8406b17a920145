/* SPDX-License-Identifier: MIT */
#include "os.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static void *map(size_t bytes, int protection)
{
    int saved_errno = errno;
    void *start = mmap(NULL, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    errno = saved_errno;
    return start == MAP_FAILED ? NULL : start;
}

void *fh_os_map(size_t bytes)
{
    return map(bytes, PROT_READ | PROT_WRITE);
}

void *fh_os_reserve(size_t bytes)
{
    return map(bytes, PROT_NONE);
}

bool fh_os_commit(void *start, size_t bytes)
{
    int saved_errno = errno;
    bool done = mprotect(start, bytes, PROT_READ | PROT_WRITE) == 0;
    errno = saved_errno;
    return done;
}

bool fh_os_unmap(void *start, size_t bytes)
{
    int saved_errno = errno;
    bool done = munmap(start, bytes) == 0;
    errno = saved_errno;
    return done;
}

bool fh_os_purge(void *start, size_t bytes)
{
    int saved_errno = errno;
    bool done = madvise(start, bytes, MADV_DONTNEED) == 0;
    errno = saved_errno;
    return done;
}

static void advise(void *start, size_t bytes, int advice)
{
    int saved_errno = errno;
    (void)madvise(start, bytes, advice); /* refused: nothing depends on it */
    errno = saved_errno;
}

void fh_os_hide_from_core(void *start, size_t bytes)
{
    advise(start, bytes, MADV_DONTDUMP);
}

void fh_os_show_in_core(void *start, size_t bytes)
{
    advise(start, bytes, MADV_DODUMP);
}

void fh_os_prefer_small_pages(void *start, size_t bytes)
{
    advise(start, bytes, MADV_NOHUGEPAGE);
}

void fh_os_prefer_huge_pages(void *start, size_t bytes)
{
    advise(start, bytes, MADV_HUGEPAGE);
}

bool fh_os_move(void *from, void *to, size_t bytes)
{
    int saved_errno = errno;
    int flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    bool done = mremap(from, bytes, bytes, flags, to) == to;
    errno = saved_errno;
    return done;
}

size_t fh_os_page_bytes(void)
{
    unsigned long bytes = getauxval(AT_PAGESZ);
    return bytes == 0 ? 4096 : bytes;
}

uint32_t fh_os_now_ms(void)
{
    struct timespec now = {0, 0};
    /* Read in user space. It cannot fail, so errno stays as it is. */
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint32_t)now.tv_sec * 1000u + (uint32_t)(now.tv_nsec / 1000000);
}

/* The C library's own idea, without a system call: the clock of a thread is made of its number. */
static uint32_t thread_as_libc_knows_it(void)
{
    clockid_t clock;
    if (pthread_getcpuclockid(pthread_self(), &clock) != 0)
        return 0;
    return ~((uint32_t)clock >> 3 | 7u << 29);
}

bool fh_os_identify_thread(uint32_t *process, uint32_t *thread)
{
    *process = (uint32_t)getpid();
    *thread = (uint32_t)gettid();
    return *thread == thread_as_libc_knows_it();
}

bool fh_os_thread_is_gone(uint32_t process, uint32_t thread)
{
    int saved_errno = errno;
    bool gone = process == (uint32_t)getpid() && tgkill((pid_t)process, (pid_t)thread, 0) != 0 &&
                errno == ESRCH;
    errno = saved_errno;
    return gone;
}

bool fh_os_wipe_on_fork(void *start, size_t bytes)
{
    int saved_errno = errno;
    bool done = madvise(start, bytes, MADV_WIPEONFORK) == 0;
    errno = saved_errno;
    return done;
}

size_t fh_os_address_space_limit_bytes(void)
{
    struct rlimit limit;
    int saved_errno = errno;
    bool known = getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY;
    errno = saved_errno;
    return known ? (size_t)limit.rlim_cur : SIZE_MAX;
}
