/* SPDX-License-Identifier: MIT */
/* Allocation in poor surroundings: little address space, calls that the kernel refuses, no /proc,
 * no descriptors. Each test starts its program again inside them, so that the allocator is
 * initialised there too.
 */
#include "family.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static void set_limit(int resource, size_t value)
{
    const struct rlimit limit = {value, value};
    CHECK(setrlimit((__rlimit_resource_t)resource, &limit) == 0);
}

/* Preparations run before the program starts again; this is how they say that they cannot. */
static void cannot(const char *what)
{
    printf("cannot %s: %s\n", what, strerror(errno));
    fflush(stdout);
    _exit(FAMILY_SKIPPED);
}

/* ---- Little address space ------------------------------------------------------------------- */

#define LIMIT_BYTES (256 * MIB) /* ulimit -v 262144 */

static void limit_address_space(void)
{
    set_limit(RLIMIT_AS, LIMIT_BYTES);
}

/* A chain of touched blocks, as long as memory allows; returns their total. */
static size_t fill_up(void **chain, size_t bytes)
{
    size_t total = 0;
    for (;;) {
        errno = 0;
        void **block = malloc(bytes);
        if (block == NULL)
            break;
        memset(block, 0xa5, bytes);
        *block = *chain;
        *chain = block;
        total += bytes;
    }
    CHECK(errno == ENOMEM);
    return total;
}

static void free_chain(void **chain)
{
    while (*chain != NULL) {
        void *next = *(void **)*chain;
        free(*chain);
        *chain = next;
    }
}

static size_t fill_up_and_free(size_t bytes)
{
    void *chain = NULL;
    size_t total = fill_up(&chain, bytes);
    CHECK(malloc(1 * GIB) == NULL && errno == ENOMEM);
    free_chain(&chain);
    return total;
}

TEST(under_a_limit_on_address_space_a_large_part_is_usable)
{
    IN_FRESH_PROCESS(limit_address_space);
    CHECK(fill_up_and_free(64 * KIB) >= LIMIT_BYTES / 2);
}

TEST(under_a_limit_on_address_space_memory_is_usable_again_and_at_every_size)
{
    IN_FRESH_PROCESS(limit_address_space);
    size_t first = fill_up_and_free(64 * KIB);
    const size_t sizes[] = {64 * KIB, 48, 1000, 20000, 300 * KIB, 64 * KIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        CHECK(fill_up_and_free(sizes[i]) >= first / 10 * 7);
    family_workout(1, 600, 8 * MIB);
}

TEST(under_a_limit_on_address_space_a_failed_realloc_keeps_the_block)
{
    IN_FRESH_PROCESS(limit_address_space);
    char *block = malloc(1 * MIB);
    family_fill(block, 1 * MIB, 1);
    CHECK(realloc(block, 1 * GIB) == NULL && errno == ENOMEM);
    void *chain = NULL;
    fill_up(&chain, 64 * KIB);
    CHECK(realloc(block, 128 * MIB) == NULL && errno == ENOMEM);
    CHECK(calloc(64, MIB) == NULL && errno == ENOMEM);
    void *aligned = NULL;
    CHECK(posix_memalign(&aligned, 4096, 128 * MIB) == ENOMEM && aligned == NULL);
    CHECK(family_intact(block, 1 * MIB, 1));
    free_chain(&chain);
    block = realloc(block, 16 * MIB);
    CHECK(block != NULL && family_intact(block, 1 * MIB, 1));
    free(block);
}

enum { hungry_threads = 4 };
static pthread_barrier_t all_full;
static size_t filled_bytes[hungry_threads];

static void *fill_up_together(void *argument)
{
    size_t *filled = argument;
    void *chain = NULL;
    *filled = fill_up(&chain, 16 * KIB);
    pthread_barrier_wait(&all_full);
    free_chain(&chain);
    pthread_barrier_wait(&all_full);
    family_workout(*filled, 600, 1 * MIB);
    return NULL;
}

TEST(under_a_limit_on_address_space_threads_share_what_there_is)
{
    IN_FRESH_PROCESS(limit_address_space);
    unsigned long threads[hungry_threads];
    size_t total = 0;
    CHECK(pthread_barrier_init(&all_full, NULL, hungry_threads) == 0);
    for (size_t i = 0; i < hungry_threads; i++) /* their stacks take 8 MiB each */
        threads[i] = family_thread(fill_up_together, &filled_bytes[i]);
    for (size_t i = 0; i < hungry_threads; i++) {
        family_join(threads[i]);
        total += filled_bytes[i];
    }
    CHECK(total >= LIMIT_BYTES / 4);
    CHECK(fill_up_and_free(64 * KIB) >= total / 10 * 8);
}

/* ---- Refused system calls ------------------------------------------------------------------- */

/* The 32-bit halves of a 64-bit call argument, as a filter sees them (little endian). */
#define ARGUMENT_LOW(n)  (offsetof(struct seccomp_data, args) + 8 * (n))
#define ARGUMENT_HIGH(n) (ARGUMENT_LOW(n) + 4)

#define LOAD(offset)             BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (offset))
#define IF(test, value, yes, no) BPF_JUMP(BPF_JMP | (test) | BPF_K, (value), (yes), (no))
#define ALLOW                    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define FAIL(error)              BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error))

static void install(struct sock_filter *filter, size_t count)
{
    const struct sock_fprog program = {(unsigned short)count, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        cannot("give up privileges");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        cannot("install a seccomp filter");
}

static void refuse_madvise_and_mremap(void)
{
    struct sock_filter filter[] = {
        LOAD(offsetof(struct seccomp_data, nr)),
        IF(BPF_JEQ, SYS_madvise, 1, 0),
        IF(BPF_JEQ, SYS_mremap, 0, 1),
        FAIL(EPERM),
        ALLOW,
    };
    install(filter, sizeof filter / sizeof filter[0]);
}

/* As vm.overcommit_memory=2 does: a large mapping is refused as soon as it is private and writable,
 * MAP_NORESERVE or not; address space alone (PROT_NONE) costs nothing. */
static void refuse_to_overcommit(void)
{
    struct sock_filter filter[] = {
        LOAD(offsetof(struct seccomp_data, nr)),
        IF(BPF_JEQ, SYS_mmap, 1, 0),
        IF(BPF_JEQ, SYS_mprotect, 0, 6),
        LOAD(ARGUMENT_LOW(2)), /* protection */
        IF(BPF_JSET, PROT_WRITE, 0, 4),
        LOAD(ARGUMENT_HIGH(1)), /* length */
        IF(BPF_JEQ, 0, 0, 3),
        LOAD(ARGUMENT_LOW(1)),
        IF(BPF_JGE, 1U << 30, 1, 0),
        ALLOW,
        FAIL(ENOMEM),
    };
    install(filter, sizeof filter / sizeof filter[0]);
}

static void refuse_both(void)
{
    refuse_to_overcommit();
    refuse_madvise_and_mremap();
}

static void *work_out(void *argument)
{
    family_workout((uintptr_t)argument, 300, 5 * MIB);
    return NULL;
}

static void work_out_everywhere(void)
{
    unsigned long threads[3];
    family_workout(1, 400, 20 * MIB);
    for (uintptr_t i = 0; i < 3; i++)
        threads[i] = family_thread(work_out, (void *)(i + 2));
    for (size_t i = 0; i < 3; i++)
        family_join(threads[i]);
    malloc_trim(0);
    family_workout(5, 300, 5 * MIB);
}

TEST(without_madvise_and_mremap_all_goes_on)
{
    IN_FRESH_PROCESS(refuse_madvise_and_mremap);
    CHECK(madvise(NULL, 0, MADV_DONTNEED) == -1 && errno == EPERM);
    CHECK(mremap(NULL, 0, 0, 0) == MAP_FAILED && errno == EPERM);
    work_out_everywhere();
}

TEST(without_madvise_and_mremap_free_preserves_errno)
{
    IN_FRESH_PROCESS(refuse_madvise_and_mremap);
    for (size_t bytes = 1; bytes < 512 * MIB; bytes *= 4) {
        char *block = malloc(bytes);
        CHECK(block != NULL);
        memset(block, 1, bytes < MIB ? bytes : MIB);
        errno = 1234;
        free(block);
        CHECK(errno == 1234);
    }
}

TEST(without_madvise_calloc_is_still_zero)
{
    IN_FRESH_PROCESS(refuse_madvise_and_mremap);
    for (size_t round = 0; round < 6; round++) {
        for (size_t bytes = 1000; bytes < 20 * MIB; bytes *= 3) {
            char *block = calloc(1, bytes);
            CHECK(block != NULL && block[0] == 0 && memcmp(block, block + 1, bytes - 1) == 0);
            memset(block, 0xa5, bytes);
            free(block);
            malloc_trim(0);
        }
    }
}

TEST(under_strict_overcommit_all_goes_on)
{
    IN_FRESH_PROCESS(refuse_to_overcommit);
    CHECK(mmap(NULL, 2 * GIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
               -1, 0) == MAP_FAILED);
    CHECK(errno == ENOMEM);
    work_out_everywhere();
}

TEST(under_strict_overcommit_a_gigabyte_may_be_held)
{
    IN_FRESH_PROCESS(refuse_to_overcommit);
    static char *blocks[256];
    for (size_t i = 0; i < 256; i++) {
        blocks[i] = malloc(4 * MIB);
        CHECK(blocks[i] != NULL);
        family_fill(blocks[i], 64, i);
    }
    for (size_t i = 0; i < 256; i++) {
        CHECK(family_intact(blocks[i], 64, i));
        free(blocks[i]);
    }
}

TEST(under_strict_overcommit_without_madvise_and_mremap_all_goes_on)
{
    IN_FRESH_PROCESS(refuse_both);
    work_out_everywhere();
}

/* ---- Nothing to look things up in ----------------------------------------------------------- */

static void hide_proc(void)
{
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        cannot("make a mount namespace");
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0)
        cannot("make mounts private");
    if (mount("none", "/proc", "tmpfs", 0, NULL) != 0)
        cannot("mount over /proc");
}

TEST(without_proc_all_goes_on)
{
    IN_FRESH_PROCESS(hide_proc);
    CHECK(access("/proc/self", F_OK) != 0);
    work_out_everywhere();
}

static void take_descriptors(void)
{
    set_limit(RLIMIT_NOFILE, 3);
}

TEST(without_a_free_descriptor_all_goes_on)
{
#ifdef FAMILY_STATIC /* otherwise the program would not even find its libraries */
    IN_FRESH_PROCESS(take_descriptors);
#else
    take_descriptors();
#endif
    CHECK(dup(0) == -1 && errno == EMFILE);
    work_out_everywhere();
}

static const struct family_test tests[] = {
    ENTRY(under_a_limit_on_address_space_a_large_part_is_usable),
    ENTRY(under_a_limit_on_address_space_memory_is_usable_again_and_at_every_size),
    ENTRY(under_a_limit_on_address_space_a_failed_realloc_keeps_the_block),
    ENTRY(under_a_limit_on_address_space_threads_share_what_there_is),
    ENTRY(without_madvise_and_mremap_all_goes_on),
    ENTRY(without_madvise_and_mremap_free_preserves_errno),
    ENTRY(without_madvise_calloc_is_still_zero),
    ENTRY(under_strict_overcommit_all_goes_on),
    ENTRY(under_strict_overcommit_a_gigabyte_may_be_held),
    ENTRY(under_strict_overcommit_without_madvise_and_mremap_all_goes_on),
    ENTRY(without_proc_all_goes_on),
    ENTRY(without_a_free_descriptor_all_goes_on),
};

int main(int argc, char **argv)
{
    return family_main(tests, sizeof tests / sizeof tests[0], argc, argv);
}
