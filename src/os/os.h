/* SPDX-License-Identifier: MIT */
/* What the allocator needs from the system: address space, pages, a clock.
 *
 * Everything here may be called by any thread and in a signal handler, takes no lock in user space,
 * allocates nothing and leaves errno alone. Addresses and sizes are multiples of fh_os_page_bytes()
 * unless said otherwise. Each call may be refused (limits, strict overcommit, sandboxes); the
 * caller then goes on without.
 */
#ifndef FH_OS_OS_H
#define FH_OS_OS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Private zero-filled pages, made when first touched; NULL if refused. Not counted against the
 * system's commit limit where the system lets us choose. */
void *fh_os_map(size_t bytes);

/* Address space only: nothing may be touched before fh_os_commit(). NULL if refused. */
void *fh_os_reserve(size_t bytes);

/* Make reserved pages usable; harmless when they are already, and keeps what is in them. */
bool fh_os_commit(void *start, size_t bytes);

/* Give address space back. The system may refuse even this (too many mappings): false, and it is
 * then kept as it is. */
bool fh_os_unmap(void *start, size_t bytes);

/* Give the pages back and keep the addresses: they read as zeros from now on. False if refused, and
 * their content is then unchanged. */
bool fh_os_purge(void *start, size_t bytes);

/* Advice, which the system may ignore. Leave the range out of core dumps: what is reserved and
 * untouched would make them huge and slow. Put it back in. Do not use huge pages: it is touched
 * sparsely. Use them. */
void fh_os_hide_from_core(void *start, size_t bytes);
void fh_os_show_in_core(void *start, size_t bytes);
void fh_os_prefer_small_pages(void *start, size_t bytes);
void fh_os_prefer_huge_pages(void *start, size_t bytes);

/* Move the pages of [from, from + bytes) to [to, to + bytes), whose own pages are lost, without
 * copying; what stays at `from` reads as zeros. False if refused, and nothing is then changed. */
bool fh_os_move(void *from, void *to, size_t bytes);

/* 4096, 16384, 65536, …: found at run time, so that one binary serves all kernels. */
size_t fh_os_page_bytes(void);

/* Milliseconds since some fixed moment, at a resolution of a few. Wraps after 49 days. */
uint32_t fh_os_now_ms(void);

/* Who the calling thread is, as fh_os_thread_is_gone() wants to know it. False if that is unclear:
 * in a child of vfork or of a raw clone, where the C library takes the thread for another. */
bool fh_os_identify_thread(uint32_t *process, uint32_t *thread);

/* Has this thread of this process ended, however it did? False if we are not in that process. */
bool fh_os_thread_is_gone(uint32_t process, uint32_t thread);

/* Pages that read as zeros in the child of a fork, whoever forks. False if refused. */
bool fh_os_wipe_on_fork(void *start, size_t bytes);

/* The process's limit on address space in bytes (RLIMIT_AS), or SIZE_MAX. */
size_t fh_os_address_space_limit_bytes(void);

/* ---- Waiting: os_wait_linux.c, for the GIL and the purger alone ----------------------------- */

/* Microseconds of a clock that never goes back. */
uint64_t fh_os_now_us(void);

/* Sleep while *word is `value`, at most until fh_os_now_us() is `until_us`. May return before for
 * no reason. `kinds` are bits, not all 0, that say which wakes concern the sleeper. */
void fh_os_wait(const uint32_t *word, uint32_t value, uint32_t kinds, uint64_t until_us);

/* Wake all who sleep on `word` and have one of these kinds. Does not read *word, which may be gone.
 */
void fh_os_wake(const uint32_t *word, uint32_t kinds);

#endif
