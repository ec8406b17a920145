/* SPDX-License-Identifier: MIT */
/* Opening arenas that nobody has used yet, and giving up the addresses of extra ones. */
#ifndef FH_ARENA_GROW_H
#define FH_ARENA_GROW_H

#include <stdbool.h>
#include <stddef.h>

#include "region.h"

/* Open `arenas` adjacent arenas, the first aligned to align_arenas arenas, each with `used` already
 * claimed for the caller; where the system gives no more, extra arenas that are empty are vacated
 * first. False if the system gives no more; nothing is then consumed. */
bool fh_grow(struct fh_region *region, size_t arenas, size_t align_arenas, uint64_t used,
             uint32_t *first);

/* Unmap the extra arenas that are empty; new ones may then lie elsewhere, or be larger. Returns how
 * many. */
size_t fh_grow_vacate(struct fh_region *region);

#endif
