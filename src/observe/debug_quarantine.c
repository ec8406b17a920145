/* SPDX-License-Identifier: MIT */
/* Freed blocks that are held back for a while.
 *
 * A ring of slots, each a block's address with the index of its wrap in the low bits, or NULL. A
 * slot stands for a granule of bytes. A block takes as many slots in a row as it has granules: it
 * is put in the last of them, and whatever is in any of them leaves. So the blocks there are the
 * last ones that were put, and have no more bytes than all slots together stand for.
 *
 * One fetch-and-add gives a thread its slots. If it stops before it has used them, it withholds the
 * one block in its hands, and perhaps later drives out a newer one.
 */
#include "bits.h"
#include "debug.h"

enum {
    GRANULE_SHIFT_MIN = 8,
    SLOTS_SHIFT_MAX = 12,
    SLOTS_MAX = 1 << SLOTS_SHIFT_MAX,
    SHARE_SHIFT = 3, /* no block is larger than an eighth of the whole */
    SHIFT_MIN = GRANULE_SHIFT_MIN + SHARE_SHIFT,
    SHIFT_MAX = 40,
    SHIFT_DEFAULT = 20,
    AHEAD = 6, /* slots between the one that is prefetched and the one that is used */
};

static void *slots[SLOTS_MAX];
static uint64_t granules_put FH_CACHE_LINE_ALIGNED; /* by all blocks ever */
static uint64_t shift_set FH_CACHE_LINE_ALIGNED; /* the whole is 1 << shift_set - 1; 0: default */

/* Its log2, or 0 for none. */
static unsigned shift_of_whole(void)
{
    uint64_t set = fh_load_own_u64(&shift_set);
    return set == 0 ? SHIFT_DEFAULT : (unsigned)set - 1;
}

static unsigned granule_shift(unsigned shift)
{
    return shift > GRANULE_SHIFT_MIN + SLOTS_SHIFT_MAX ? shift - SLOTS_SHIFT_MAX
                                                       : GRANULE_SHIFT_MIN;
}

void fh_quarantine_limit(size_t bytes)
{
    unsigned shift = bytes < (size_t)1 << SHIFT_MIN ? 0 : fh_log2_floor(bytes);
    fh_store_own_u64(&shift_set, (shift < SHIFT_MAX ? shift : SHIFT_MAX) + 1);
    fh_quarantine_flush();
}

bool fh_quarantine_takes(size_t total_bytes)
{
    return total_bytes <= (size_t)1 << shift_of_whole() >> SHARE_SHIFT;
}

/* ---- Leaving ----------------------------------------------------------------------------------
 */

static const char *first_changed(const char *at, const char *end)
{
    while (at < end && (unsigned char)*at == FH_DEADBYTE)
        at++;
    return at;
}

/* The n of a block as it left the caller's hands; SIZE_MAX if its head was written to. */
static size_t bytes_of(const struct fh_debug_wrap *wrap, const char *head)
{
    size_t bytes =
        (size_t)(FH_DEBUG_BIG_ENDIAN(fh_debug_load(head)) & fh_low_bits(FH_DEBUG_MARK_SIZE_BITS));
    bool marked = fh_debug_load(head) == fh_debug_mark(wrap->letter, bytes);
    size_t readable = fh_debug_readable_bytes(wrap, head);
    return marked && bytes + fh_debug_extra_bytes() <= readable ? bytes : SIZE_MAX;
}

static size_t check(const struct fh_debug_wrap *wrap, const char *head)
{
    size_t bytes = bytes_of(wrap, head);
    if (FH_UNLIKELY(bytes == SIZE_MAX))
        fh_debug_die_of_write(wrap, head + FH_DEBUG_HEAD, 0, NULL);
    const char *end = head + bytes + fh_debug_extra_bytes();
    const char *from = head + FH_DEBUG_WORD;
    /* each byte is the one a word before it, and the first word is DEAD */
    if (FH_UNLIKELY(fh_debug_load(from) != FH_DEBUG_DEAD ||
                    memcmp(from, from + FH_DEBUG_WORD, (size_t)(end - from) - FH_DEBUG_WORD) != 0))
        fh_debug_die_of_write(wrap, head + FH_DEBUG_HEAD, bytes, first_changed(from, end));
    return bytes;
}

/* Of a heap whose lock this thread may not hold: the block may be anybody's. */
static void free_deferred(const struct fh_debug_wrap *wrap, void *head)
{
    fh_domain_defers++;
    wrap->wrapped.free(wrap->wrapped.context, head);
    fh_domain_defers--;
}

/* Returns how many bytes that gives. */
static size_t leave(void *slot)
{
    if (slot == NULL)
        return 0;
    uintptr_t index = (uintptr_t)slot % FH_BLOCK_ALIGN_BYTES;
    const struct fh_debug_wrap *wrap = fh_debug_wrap_at((unsigned)index);
    char *head = (char *)slot - index;
    size_t total = check(wrap, head) + fh_debug_extra_bytes();
    fh_debug_store(head, FH_DEBUG_DEAD);
    free_deferred(wrap, head);
    return total;
}

/* ---- Slots ------------------------------------------------------------------------------------
 */

/* Returns what was there. */
static void *put_in(void **at, void *slot)
{
    void *before = fh_load_relaxed_ptr(at); /* a guess: the CAS checks it */
    /* [quarantine] acq_rel: the block that goes in and the one that comes out, all DEAD. */
    while (!fh_cas_acq_rel_ptr(at, &before, slot))
        ; /* another thread put or took one */
    return before;
}

static void *take_from(void **at)
{
    void *slot = fh_load_relaxed_ptr(at); /* a guess: the CAS checks it */
    /* [quarantine] acquire: the block as whoever freed it left it. */
    while (slot != NULL && !fh_cas_acq_rel_ptr(at, &slot, NULL))
        ; /* another thread put or took one */
    return slot;
}

/* ---- The interface ----------------------------------------------------------------------------
 */

void fh_quarantine_put(const struct fh_debug_wrap *wrap, char *head, size_t bytes)
{
    unsigned set = shift_of_whole();
    unsigned shift = set < SHIFT_MIN ? SHIFT_MIN : set; /* none any more, since it was asked */
    unsigned granule = granule_shift(shift);
    size_t mask = ((size_t)1 << (shift - granule)) - 1;
    size_t total = bytes + fh_debug_extra_bytes();
    size_t granules = fh_round_up(total, (size_t)1 << granule) >> granule;
    /* relaxed: numbers that are ours now; the slots pass blocks on */
    size_t first = fh_fetch_add_relaxed_u64(&granules_put, granules);
    size_t last = first + granules - 1;
    fh_debug_store(head, fh_debug_mark(wrap->letter, bytes));
    for (size_t number = first; number < last; number++)
        leave(take_from(&slots[number & mask]));
    /* What leaves some calls later: its memory has not been used for long. */
    __builtin_prefetch(fh_load_relaxed_ptr(&slots[(last + AHEAD) & mask]), 1);
    leave(put_in(&slots[last & mask], head + fh_debug_wrap_index(wrap)));
}

size_t fh_quarantine_flush(void)
{
    size_t bytes = 0;
    for (size_t i = 0; i < SLOTS_MAX; i++)
        bytes += leave(take_from(&slots[i]));
    return bytes;
}

void fh_quarantine_forget_heap(struct fh_heap *heap)
{
    for (size_t i = 0; i < SLOTS_MAX; i++) {
        uintptr_t slot = (uintptr_t)fh_load_relaxed_ptr(&slots[i]); /* only asked about */
        if (slot != 0 && fh_heap_of((const void *)(slot - slot % FH_BLOCK_ALIGN_BYTES)) == heap)
            leave(take_from(&slots[i]));
    }
}
