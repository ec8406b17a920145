/* SPDX-License-Identifier: MIT */
/* Many blocks are taken in a row, and many freed in a row.
 *
 *   sh6      blocks pile up, size after size; a full pile loses its newest half, newest first, then
 *            its oldest half, oldest first, then all, from both ends in turns
 *   sh8      the same in several threads, with random sizes; every fourth block goes to a shared
 *            array, and the thread that finds it there frees it
 *   batches  a whole batch of one size, and then the whole batch is freed in the same order
 */
#include "workloads.h"

#include <stdatomic.h>
#include <string.h>

/* ---- sh6 and sh8 ---- */

enum { PILE_MAX = 20 * 1000, SHARED_SLOTS = 1024 };

struct pile {
    void **blocks; /* oldest first */
    size_t count;
    unsigned bursts;
};

static void free_newest_half(struct pile *pile)
{
    const size_t left = pile->count / 2;
    while (pile->count > left)
        give_tagged(pile->blocks[--pile->count]);
}

static void free_oldest_half(struct pile *pile)
{
    const size_t freed = pile->count / 2;
    for (size_t i = 0; i < freed; i++)
        give_tagged(pile->blocks[i]);
    pile->count -= freed;
    memmove(pile->blocks, pile->blocks + freed, pile->count * sizeof(void *));
}

static void free_from_both_ends(struct pile *pile)
{
    for (size_t oldest = 0; oldest < pile->count; oldest++) {
        give_tagged(pile->blocks[oldest]);
        if (oldest < --pile->count)
            give_tagged(pile->blocks[pile->count]);
        else
            break;
    }
    pile->count = 0;
}

static void burst(struct pile *pile)
{
    static void (*const ways[])(struct pile *) = {free_newest_half, free_oldest_half,
                                                  free_from_both_ends};
    ways[pile->bursts++ % 3](pile);
}

static void put(struct pile *pile, void *block)
{
    if (pile->count == PILE_MAX)
        burst(pile);
    pile->blocks[pile->count++] = block;
}

static struct pile new_pile(void)
{
    return (struct pile){.blocks = map_table(PILE_MAX * sizeof(void *))};
}

static void drop_pile(struct pile *pile)
{
    free_from_both_ends(pile);
    unmap_table(pile->blocks, PILE_MAX * sizeof(void *));
}

enum { SH6_BYTES_MAX = 1000, SH6_PASSES = 2000, SH6_PASS_BYTES_PER_SIZE = 64 * 1024 };

/* About as many bytes of each size, so many more small blocks than large ones. */
static void pile_up(struct worker *self, struct pile *pile)
{
    for (size_t bytes = TAGGED_BYTES_MIN; bytes <= SH6_BYTES_MAX; bytes += 8)
        for (size_t left = 1 + SH6_PASS_BYTES_PER_SIZE / (bytes + 64); left > 0; left--)
            put(pile, take_tagged(self, bytes));
}

static void do_sh6(struct worker *self)
{
    struct pile pile = new_pile();
    for (size_t pass = share_of(SH6_PASSES); pass > 0; pass--)
        pile_up(self, &pile);
    drop_pile(&pile);
}

void run_sh6(void)
{
    run_team(do_sh6, NULL);
}

enum { SH8_BLOCKS = 46 * 1000 * 1000 };

static void do_sh8(struct worker *self)
{
    _Atomic(void *) *shared = self->shared;
    struct pile pile = new_pile();
    for (size_t left = share_of(SH8_BLOCKS); left > 0; left--) {
        void *block = take_tagged(self, random_skewed_size(self, 16, 7));
        if (left % 4 == 0)
            give_tagged(atomic_exchange(&shared[random_below(self, SHARED_SLOTS)], block));
        else
            put(&pile, block);
    }
    drop_pile(&pile);
}

void run_sh8(void)
{
    static _Atomic(void *) shared[SHARED_SLOTS];
    run_team(do_sh8, shared);
    for (int i = 0; i < SHARED_SLOTS; i++)
        give_tagged(shared[i]);
}

/* ---- batches ---- */

enum { BATCH_SHORT = 100, BATCH_LONG = 10 * 1000 };

/* Of each size, and each length of batches: fewer of the larger ones, which take the kernel's time
 * where their pages come and go with each batch. */
static size_t batches_count(size_t batch_count, size_t bytes)
{
    return share_of((size_t)1800 * 1000 * 1000 / (bytes + 256) / batch_count);
}

static void do_batches_of(struct worker *self, void **batch, size_t batch_count, size_t bytes)
{
    for (size_t left = batches_count(batch_count, bytes); left > 0; left--) {
        for (size_t i = 0; i < batch_count; i++)
            batch[i] = take_tagged(self, bytes);
        for (size_t i = 0; i < batch_count; i++)
            give_tagged(batch[i]);
    }
}

static void do_batches(struct worker *self)
{
    static const size_t sizes[] = {16, 64, 256, 1024, 8192};
    void **batch = map_table(BATCH_LONG * sizeof(void *));
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        do_batches_of(self, batch, BATCH_SHORT, sizes[i]);
        do_batches_of(self, batch, BATCH_LONG, sizes[i]);
    }
    unmap_table(batch, BATCH_LONG * sizeof(void *));
}

void run_batches(void)
{
    run_team(do_batches, NULL);
}
