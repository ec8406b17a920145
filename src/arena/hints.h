/* SPDX-License-Identifier: MIT */
/* Hint sets: which of many things is worth a look?
 *
 * A set of small integers as a tree of 64-bit words: a leaf bit per member, and above it a bit per
 * word that may have one set. Finding the lowest member from a given one on is three loads when the
 * hints are true, and a finite scan when they are not.
 *
 *     level 2          1 word     bit j: level 1's word j may be nonzero
 *     level 1         64 words    bit k: level 0's word k may be nonzero
 *     level 0       4096 words    bit i: member i
 *
 * Whoever empties a word clears the bit above it, then looks at the word again and sets the bit
 * back if somebody filled it meanwhile. Whoever fills a word looks at the bit above afterwards.
 * Each side writes its own word before it reads the other's, all four accesses sequentially
 * consistent, so at least one of them sees the other ([hints] in docs/concurrency.md). A thread
 * killed between clearing and looking leaves a bit missing until the next fill below it.
 *
 * The trees of all sets are interleaved word by word, so that a small program's hints share a page.
 */
#ifndef FH_ARENA_HINTS_H
#define FH_ARENA_HINTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config.h"

/* One set for the pools of each class (members: arenas with such a pool), and these. */
enum fh_hint_set {
    FH_HINTS_ROOM = FH_CLASSES, /* arenas with a free pool */
    FH_HINTS_EMPTY,             /* arenas of which every pool is free */
    FH_HINTS_DIRTY,             /* arenas with a free pool that is resident */
    FH_HINTS_SPARSE,            /* arenas with a pool that may have pages to return */
    FH_HINTS_VACANT, /* extra arenas without memory, see grow.h; level 0 is the truth here too */
    FH_HINTS_HEAPS,  /* heap ids nobody holds; here level 0 is the truth, not a hint */
    FH_HINT_SETS
};

enum {
    FH_HINT_MEMBERS_MAX = 1 << 18,
    FH_HINT_NONE = FH_HINT_MEMBERS_MAX,
};

struct fh_hints {
    uint64_t *level[3]; /* level[n] of set s: words s, s + FH_HINT_SETS, … */
    uint32_t members;   /* a multiple of 64 */
};

/* Bytes of zeroed memory for all sets with `members` members. */
size_t fh_hints_bytes(uint32_t members);

/* Lay the sets out in zeroed memory. */
void fh_hints_place(struct fh_hints *hints, void *memory, uint32_t members);

/* Put `member` in; harmless if it is. */
void fh_hints_set(const struct fh_hints *hints, unsigned set, uint32_t member);

/* Take `member` out; true if this call did. */
bool fh_hints_clear(const struct fh_hints *hints, unsigned set, uint32_t member);

bool fh_hints_has(const struct fh_hints *hints, unsigned set, uint32_t member);

/* The lowest member >= from, or FH_HINT_NONE. */
uint32_t fh_hints_next(const struct fh_hints *hints, unsigned set, uint32_t from);

/* The highest member < below, or FH_HINT_NONE. */
uint32_t fh_hints_previous(const struct fh_hints *hints, unsigned set, uint32_t below);

#endif
