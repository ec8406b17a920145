/* SPDX-License-Identifier: MIT */
/* Opening arenas that nobody has used yet. */
#ifndef FH_ARENA_GROW_H
#define FH_ARENA_GROW_H

#include <stdbool.h>
#include <stddef.h>

#include "region.h"

/* Open `arenas` adjacent arenas, the first aligned to align_arenas arenas, each with `used` already
 * claimed for the caller. False if the system gives no more; nothing is then consumed. */
bool fh_grow(struct fh_region *region, size_t arenas, size_t align_arenas, uint64_t used,
             uint32_t *first);

#endif
