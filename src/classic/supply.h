/* SPDX-License-Identifier: MIT */
/* Where a classic heap's arenas come from, and how their addresses are found again.
 *
 * From the region, as runs of its pools, unless the caller brings a source or an arena is larger
 * than the region's: each descriptor of such a run names the heap, so that a look-up is one
 * comparison and one load. Arenas of any other source are found through the map (map.h).
 */
#ifndef FH_CLASSIC_SUPPLY_H
#define FH_CLASSIC_SUPPLY_H

#include "classic.h"

/* Settle where the arenas of a new heap come from. */
void fh_supply_choose(struct fh_classic *heap);

/* Memory for one arena, to be found from now on; NULL if there is none. */
void *fh_supply_arena(struct fh_classic *heap);

/* Give it back. Nobody may use it any more. */
void fh_supply_return(struct fh_classic *heap, void *memory);

#endif
