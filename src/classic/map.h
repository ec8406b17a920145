/* SPDX-License-Identifier: MIT */
/* From any address to the classic heap that has an arena there.
 *
 * Address space in granules, found through a tree of three levels. An arena is at least as large as
 * a granule and may begin anywhere, so at most two have a part of one granule: one that ends in it
 * and one that begins in it. Each has a word of the granule's entry, which says where, and whose it
 * is:
 *
 *   lower   bytes [0, end) of the granule
 *   upper   bytes [start, granule's end)
 *
 * A word is complete in itself and changes in one store. Nodes are made when first needed, and
 * never freed. Any thread may look, wait-free; several may add and remove at once.
 */
#ifndef FH_CLASSIC_MAP_H
#define FH_CLASSIC_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct fh_classic;

/* `bytes` at `start` belong to `heap`; at least 256 KiB, and nobody's else. False if there is no
 * memory for a node, or the address is beyond what the tree spans. */
bool fh_map_add(uintptr_t start, size_t bytes, struct fh_classic *heap);

/* They no longer do. */
void fh_map_remove(uintptr_t start, size_t bytes);

/* Whose is it? NULL: nobody's. Never reads what is at `address`. */
struct fh_classic *fh_map_find(uintptr_t address);

/* Does one arena of this heap hold all of a range? A power of two of bytes that is aligned to it,
 * at most 256 KiB. Never reads what is there. */
bool fh_map_has_all(uintptr_t start, size_t bytes, const struct fh_classic *heap);

#endif
