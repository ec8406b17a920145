/* SPDX-License-Identifier: MIT */
/* Giving free pools back to the system. */
#ifndef FH_ARENA_PURGE_H
#define FH_ARENA_PURGE_H

#include <stddef.h>
#include <stdint.h>

#include "region.h"

/* Return the pages of free pools that have been free for age_ms, at most `runs` runs of them. Returns
 * the bytes returned. Any thread, any time; several at once share the work. */
size_t fh_purge(struct fh_region *region, uint32_t age_ms, unsigned runs);

/* To be called now and then from slow paths: if it is time, one caller purges a bounded amount. */
void fh_purge_tick(struct fh_region *region);

#endif
