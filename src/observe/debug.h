/* SPDX-License-Identifier: MIT */
/* The debug hooks inside: what debug.c (hooks), debug_report.c (texts) and debug_quarantine.c
 * share.
 *
 * A block under the hooks, from its head on, which is where the wrapped allocator's block starts:
 *
 *   live  | n | letter, 7 * FORBIDDEN | n bytes | 8 * FORBIDDEN | serial number, if they are on |
 *   held  | DEAD, letter, n in 6 bytes | DEAD from here to the end, in quarantine                |
 *   dead  | DEAD; the wrapped allocator's, which uses the first word                             |
 *
 *   live -- free, or realloc that moves it --> held, or dead if it is too large
 *   held -- leaves the quarantine, checked --> dead
 *
 * The second word decides: whoever changes it from the guard to DEAD by a CAS frees the block, and
 * nobody else does.
 */
#ifndef FH_OBSERVE_DEBUG_H
#define FH_OBSERVE_DEBUG_H

#include <string.h>

#include "domain.h"
#include "freehold/debug.h"
#include "freehold/gil.h"
#include "theap.h"

enum {
    FH_DEBUG_WORD = 8,
    FH_DEBUG_HEAD = 2 * FH_DEBUG_WORD,
    FH_DEBUG_WRAPS_MAX = 16, /* fits the low bits of a block's address */
};

static_assert(sizeof(size_t) == FH_DEBUG_WORD, "the layout is in words of eight bytes");
static_assert((int)FH_DEBUG_HEAD == (int)FH_BLOCK_ALIGN_BYTES, "blocks stay aligned");
static_assert((int)FH_DEBUG_WRAPS_MAX <= (int)FH_BLOCK_ALIGN_BYTES, "an index fits below a block");

#define FH_DEBUG_BYTES(byte) ((uint64_t)(byte)*UINT64_C(0x0101010101010101))
#define FH_DEBUG_DEAD        FH_DEBUG_BYTES(FH_DEADBYTE)
#define FH_DEBUG_FORBIDDEN   FH_DEBUG_BYTES(FH_FORBIDDENBYTE)

/* An allocator that the hooks wrap for a domain; the context of the hooks. Never changed once a
 * hook can see it. */
struct fh_debug_wrap {
    fh_allocator wrapped;
    uint64_t guard; /* the second word of a live block, as it is in memory */
    fh_domain domain;
    char letter;
    bool is_own; /* Freehold's memory: it can be asked about addresses */
};

/* The wrap of an index that fh_debug_wrap_index() returned. */
const struct fh_debug_wrap *fh_debug_wrap_at(unsigned index);
unsigned fh_debug_wrap_index(const struct fh_debug_wrap *wrap);

/* Does any wrap have an allocator that cannot be asked about addresses? */
bool fh_debug_wraps_others(void);

/* Switches, 0 or 1. */
extern uint64_t fh_debug_on FH_HIDDEN;
extern uint64_t fh_debug_strict FH_HIDDEN;
extern uint64_t fh_debug_serials_on FH_HIDDEN; /* settled by the first setup */

FH_ALWAYS_INLINE bool fh_debug_is_on(void)
{
    return fh_load_own_u64(&fh_debug_on) != 0;
}

/* What the hooks add to n: 24 bytes, or 32 with serial numbers. */
FH_ALWAYS_INLINE size_t fh_debug_extra_bytes(void)
{
    return FH_DEBUG_HEAD + FH_DEBUG_WORD * (fh_load_own_u64(&fh_debug_serials_on) + 1);
}

/* The same as below for an address of an allocator that is not Freehold's own; of those that build
 * on its memory, only what has gone back is known not to be readable. */
size_t fh_debug_readable_of_others(const char *head);

/* How many bytes from `head` on may be read: 0 for none, PTRDIFF_MAX if nobody knows. */
FH_ALWAYS_INLINE size_t fh_debug_readable_bytes(const struct fh_debug_wrap *wrap, const char *head)
{
    return wrap->is_own ? fh_address_usable_bytes(head) : fh_debug_readable_of_others(head);
}

/* ---- Words ------------------------------------------------------------------------------------
 */

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define FH_DEBUG_BIG_ENDIAN(word) __builtin_bswap64(word)
#else
#define FH_DEBUG_BIG_ENDIAN(word) (word)
#endif

/* At any alignment. */
FH_ALWAYS_INLINE uint64_t fh_debug_load(const void *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

FH_ALWAYS_INLINE void fh_debug_store(void *at, uint64_t word)
{
    memcpy(at, &word, sizeof word);
}

/* The word that other threads may look at: the second of a head. */
FH_ALWAYS_INLINE uint64_t *fh_debug_guard_at(const char *head)
{
    return (uint64_t *)(uintptr_t)(head + FH_DEBUG_WORD);
}

/* The first word of a block in quarantine, as it is in memory. */
FH_ALWAYS_INLINE uint64_t fh_debug_mark(char letter, size_t bytes)
{
    return FH_DEBUG_BIG_ENDIAN((uint64_t)FH_DEADBYTE << 56 | (uint64_t)(unsigned char)letter << 48 |
                               bytes);
}

enum { FH_DEBUG_MARK_SIZE_BITS = 48 };

/* ---- debug_block.c ----------------------------------------------------------------------------
 */

void *fh_debug_malloc(const struct fh_debug_wrap *wrap, size_t bytes);
void *fh_debug_calloc(const struct fh_debug_wrap *wrap, size_t count, size_t bytes);
void *fh_debug_realloc(const struct fh_debug_wrap *wrap, char *data, size_t bytes);
void fh_debug_free(const struct fh_debug_wrap *wrap, char *data);

/* Is this a good block of that wrap? */
bool fh_debug_is_made_by(const struct fh_debug_wrap *wrap, const char *data);

/* ---- debug_report.c ---------------------------------------------------------------------------
 */

/* Describe the block, of which so many bytes may be read from its head on; then end the program. */
FH_NORETURN FH_COLD void fh_debug_die(const char *function, const char *data, size_t readable_bytes,
                                      const char *message);

/* The same of a live block with the wrong letter. */
FH_NORETURN FH_COLD void fh_debug_die_of_letter(const char *function, const char *data,
                                                size_t readable_bytes, char letter);

/* Describe a block of n bytes that was freed and then written to, at `at`, or where n was (NULL);
 * then end the program. */
FH_NORETURN FH_COLD void fh_debug_die_of_write(const struct fh_debug_wrap *wrap, const char *data,
                                               size_t bytes, const char *at);

/* End the program if this thread does not hold the lock; NULL: none is needed. */
void fh_debug_check_lock(const fh_gil *gil, const char *function);

/* End the program if somebody checks who holds the interpreter's lock and this thread does not. */
void fh_debug_check_gil(fh_domain domain, const char *function);

/* From now on the hooks of mem or obj check that the calling thread holds this lock; NULL: they
 * check nothing. What the lock's `ctx` points at must stay. Returns 0, or -1 with EINVAL for
 * another domain, ENOMEM if memory is short. */
int fh_debug_check_gil_of(const fh_gil *gil, fh_domain domain);

/* ---- debug_quarantine.c -----------------------------------------------------------------------
 */

void fh_quarantine_limit(size_t bytes);

/* Are blocks of so many bytes, with all around them, held back? */
bool fh_quarantine_takes(size_t total_bytes);

/* Hold back a block that is all DEAD and has n bytes; others may leave for it. */
void fh_quarantine_put(const struct fh_debug_wrap *wrap, char *head, size_t bytes);

/* Empty it; returns the bytes that left. */
size_t fh_quarantine_flush(void);

/* The heap is about to be destroyed: what is there of it leaves. No other thread may use it. */
void fh_quarantine_forget_heap(struct fh_heap *heap);

#endif
