/* SPDX-License-Identifier: MIT */
#include "hole.h"

#include "bits.h"

static unsigned pages_of(const struct fh_pool *pool)
{
    return (unsigned)(((size_t)fh_load_own_u32(&pool->pools) << FH_POOL_SHIFT) / FH_CARVE_BYTES);
}

static size_t offset_of(const struct fh_pool *pool, const struct fh_block *block)
{
    return (uintptr_t)block - FH_BLOCK_ALIGN_BYTES - pool->origin;
}

/* ---- Which pages ------------------------------------------------------------------------------
 */

/* How many blocks that touch each page are known not to be live. */
struct tally {
    uint16_t blocks[FH_POOL_PAGES_MAX];
};

static void tally_block(const struct fh_pool *pool, struct tally *tally, size_t offset)
{
    size_t last = (offset + pool->block_bytes - 1) / FH_CARVE_BYTES;
    for (size_t page = offset / FH_CARVE_BYTES; page <= last; page++)
        tally->blocks[page]++;
}

static void tally_hole(const struct fh_pool *pool, struct tally *tally, unsigned page)
{
    uint32_t end = fh_pool_first_in_page(pool, page + 1);
    for (uint32_t number = fh_pool_first_in_page(pool, page); number < end; number++)
        tally_block(pool, tally, (size_t)number * pool->block_bytes);
}

/* How many blocks below the frontier touch the page. */
static uint32_t carved_in(const struct fh_pool *pool, unsigned page)
{
    uint32_t first = page * (uint32_t)FH_CARVE_BYTES / pool->block_bytes;
    uint32_t end = fh_pool_first_in_page(pool, page + 1);
    end = end < pool->frontier ? end : pool->frontier;
    return first < end ? end - first : 0;
}

/* Was it given back, and not handed out since? What no block has touched yet, or none ever will, is
 * the tail; a page inside a block is in the hole that has the block's start. */
static bool is_hole(const struct fh_pool *pool, unsigned page)
{
    uint32_t first = page * (uint32_t)FH_CARVE_BYTES / pool->block_bytes;
    if (first >= pool->frontier)
        return pool->tail_purged;
    bool has_start = fh_pool_first_in_page(pool, page) < fh_pool_first_in_page(pool, page + 1);
    uint32_t start_page = has_start ? page : first * pool->block_bytes / FH_CARVE_BYTES;
    return pool->holes >> start_page & 1;
}

/* May the page be a hole, once no block in it is live? Not if only some of the blocks that touch it
 * are below the frontier. */
static bool may_be_hole(const struct fh_pool *pool, unsigned page)
{
    bool is_carved = fh_pool_first_in_page(pool, page + 1) <= pool->frontier;
    bool is_tail = page * (uint32_t)FH_CARVE_BYTES / pool->block_bytes >= pool->frontier;
    return (is_carved || is_tail) && !is_hole(pool, page);
}

/* Of these pages, those that make up whole pages of the system. */
static uint64_t whole_pages(uint64_t pages, size_t page_bytes)
{
    unsigned group = (unsigned)(page_bytes / FH_CARVE_BYTES);
    if (group <= 1 || group > 64)
        return group <= 1 ? pages : 0;
    uint64_t whole = 0;
    for (uint64_t left = fh_runs_of_ones(pages, group); left != 0; left &= left - 1)
        if (fh_lowest_bit(left) % group == 0)
            whole |= fh_low_bits(group) << fh_lowest_bit(left);
    return whole;
}

uint64_t fh_pool_find_holes(const struct fh_pool *pool, size_t page_bytes)
{
    struct tally tally = {{0}};
    for (const struct fh_block *block = pool->local; block != NULL; block = block->next)
        tally_block(pool, &tally, offset_of(pool, block));
    for (uint64_t left = pool->holes; left != 0; left &= left - 1)
        tally_hole(pool, &tally, fh_lowest_bit(left));
    uint64_t pages = 0;
    for (unsigned page = 0; page < pages_of(pool); page++)
        if (may_be_hole(pool, page) && tally.blocks[page] == carved_in(pool, page))
            pages |= (uint64_t)1 << page;
    return whole_pages(pages, page_bytes);
}

/* ---- Making them ------------------------------------------------------------------------------
 */

void fh_pool_make_holes(struct fh_pool *pool, uint64_t pages)
{
    uint32_t count = 0;
    struct fh_block **link = &pool->local;
    while (*link != NULL) {
        size_t page = offset_of(pool, *link) / FH_CARVE_BYTES;
        bool goes = (pages >> page & 1) != 0;
        count += goes;
        if (goes)
            *link = (*link)->next;
        else
            link = &(*link)->next;
        if (goes)
            pool->holes |= (uint64_t)1 << page;
    }
    fh_store_own_u32(&pool->carved, fh_load_own_u32(&pool->carved) - count);
    pool->zeroed = 0; /* a block may reach from a hole into a page that is none */
    pool->tail_purged = true;
}
