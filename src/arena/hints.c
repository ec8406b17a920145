/* SPDX-License-Identifier: MIT */
#include "hints.h"

#include "atomic.h"
#include "bits.h"

static_assert((int)FH_ARENAS_MAX <= (int)FH_HINT_MEMBERS_MAX, "an arena is a member");
static_assert((int)FH_THEAPS_MAX <= (int)FH_HINT_MEMBERS_MAX, "a heap id is a member");

static uint32_t words_above(uint32_t words)
{
    return (words + 63) / 64;
}

size_t fh_hints_bytes(uint32_t members)
{
    uint32_t words = words_above(members);
    return (words + words_above(words) + 1) * FH_HINT_SETS * sizeof(uint64_t);
}

void fh_hints_place(struct fh_hints *hints, void *memory, uint32_t members)
{
    uint32_t words = words_above(members);
    hints->level[2] = memory;
    hints->level[1] = hints->level[2] + FH_HINT_SETS;
    hints->level[0] = hints->level[1] + (size_t)words_above(words) * FH_HINT_SETS;
    hints->members = words * 64;
}

static uint64_t *word_at(const struct fh_hints *hints, unsigned set, int level, uint32_t index)
{
    return &hints->level[level][(size_t)index * FH_HINT_SETS + set];
}

/* [hints] seq_cst: what was filled below is written before the bit here is read; the other end is
 * the clear and the second look in fh_hints_clear(). */
static void mark(uint64_t *word, uint64_t bit)
{
    if ((fh_load_seq_cst_u64(word) & bit) == 0)
        (void)fh_fetch_or_seq_cst_u64(word, bit);
}

void fh_hints_set(const struct fh_hints *hints, unsigned set, uint32_t member)
{
    uint32_t index = member;
    for (int level = 0; level <= 2; level++) {
        mark(word_at(hints, set, level, index / 64), (uint64_t)1 << index % 64);
        index /= 64;
    }
}

bool fh_hints_clear(const struct fh_hints *hints, unsigned set, uint32_t member)
{
    uint64_t bit = (uint64_t)1 << member % 64;
    /* [hints] seq_cst, see mark(). For [heap-id] also an acquire: what the heap's last holder left.
     */
    uint64_t before = fh_fetch_and_seq_cst_u64(word_at(hints, set, 0, member / 64), ~bit);
    bool cleared = (before & bit) != 0;
    bool empty = (before & ~bit) == 0;
    uint32_t index = member / 64;
    for (int level = 1; level <= 2 && empty; level++) {
        bit = (uint64_t)1 << index % 64;
        before = fh_fetch_and_seq_cst_u64(word_at(hints, set, level, index / 64), ~bit);
        empty = (before & ~bit) == 0;
        if (fh_load_seq_cst_u64(word_at(hints, set, level - 1, index)) != 0) {
            /* Filled meanwhile, perhaps before the bit was cleared: put it back, and those above.
             */
            for (; level <= 2; level++, index /= 64)
                mark(word_at(hints, set, level, index / 64), (uint64_t)1 << index % 64);
            break;
        }
        index /= 64;
    }
    return cleared;
}

bool fh_hints_has(const struct fh_hints *hints, unsigned set, uint32_t member)
{
    /* seq_cst: callers have just changed what the hint is about; see mark(). */
    return fh_load_seq_cst_u64(word_at(hints, set, 0, member / 64)) >> member % 64 & 1;
}

/* The lowest set bit of a word at `level`, at or after bit `index` of the whole level; the search
 * stays inside that one word. */
static bool next_in_word(const struct fh_hints *hints, unsigned set, int level, uint32_t *index)
{
    uint64_t word = fh_load_relaxed_u64(word_at(hints, set, level, *index / 64)); /* a hint */
    word &= ~(uint64_t)0 << *index % 64;
    if (word == 0)
        return false;
    *index = *index / 64 * 64 + fh_lowest_bit(word);
    return true;
}

uint32_t fh_hints_next(const struct fh_hints *hints, unsigned set, uint32_t from)
{
    while (from < hints->members) {
        uint32_t index = from;
        if (next_in_word(hints, set, 0, &index))
            return index;
        index = from / 64 + 1; /* the next word below, if level 1 or else level 2 knows of one */
        if (index >= hints->members / 64)
            break;
        if (!next_in_word(hints, set, 1, &index)) {
            index = index / 64 + 1;
            if (index > 63 || !next_in_word(hints, set, 2, &index))
                break;
            index *= 64;
        }
        if (index >= hints->members / 64)
            break;
        from = index * 64;
    }
    return FH_HINT_NONE;
}

/* The same downward, from bit `index` on. */
static bool previous_in_word(const struct fh_hints *hints, unsigned set, int level, uint32_t *index)
{
    uint64_t word = fh_load_relaxed_u64(word_at(hints, set, level, *index / 64)); /* a hint */
    word &= fh_low_bits(*index % 64 + 1);
    if (word == 0)
        return false;
    *index = *index / 64 * 64 + fh_log2_floor(word);
    return true;
}

uint32_t fh_hints_previous(const struct fh_hints *hints, unsigned set, uint32_t below)
{
    if (below > hints->members)
        below = hints->members;
    while (below > 0) {
        uint32_t index = below - 1;
        if (previous_in_word(hints, set, 0, &index))
            return index;
        if (index < 64)
            break;
        index = index / 64 - 1; /* the next word below, if level 1 or else level 2 knows of one */
        if (!previous_in_word(hints, set, 1, &index)) {
            if (index < 64)
                break;
            index = index / 64 - 1;
            if (!previous_in_word(hints, set, 2, &index))
                break;
            index = index * 64 + 63;
        }
        below = index * 64 + 64;
    }
    return FH_HINT_NONE;
}
