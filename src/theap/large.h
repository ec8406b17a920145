/* SPDX-License-Identifier: MIT */
/* Large blocks take whole pools, huge ones whole arenas. No heap owns them: any thread claims,
 * resizes and frees them, straight from and to the arenas. */
#ifndef FH_THEAP_LARGE_H
#define FH_THEAP_LARGE_H

#include "theap.h"

/* bytes > 0, alignment a power of two. *zeroed: every byte reads as zero. NULL if memory is short.
 */
void *fh_large_malloc(size_t bytes, size_t alignment, bool *zeroed);

void fh_large_free(struct fh_pool *pool);

/* Resize in place; false if that is not possible, and nothing is then changed. */
bool fh_large_resize(struct fh_pool *pool, size_t bytes);

/* Move the content of a huge block into another, without copying; false if that is not possible. */
bool fh_large_move(struct fh_pool *from, struct fh_pool *to, size_t bytes);

#endif
