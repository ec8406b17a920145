/* SPDX-License-Identifier: MIT */
/* False sharing: small blocks of different threads in one cache line.
 *
 *   cache-scratch  passive: the main thread takes one block for each thread, most likely from the
 *                  same line. Each thread frees its own, and may get it again from its allocator
 *   cache-thrash   active: the allocator itself may hand parts of one line to several threads
 *
 * Between a malloc and a free each byte of the block is written to many times. Where threads share
 * a line, that takes many times as long.
 */
#include "workloads.h"

enum { SHARED_BLOCK_BYTES = 8, SWEEPS = 1000, ROUNDS = 1300 * 1000 };

static void sweep(volatile unsigned char *block)
{
    for (int sweeps = 0; sweeps < SWEEPS; sweeps++)
        for (int i = 0; i < SHARED_BLOCK_BYTES; i++)
            block[i]++;
}

/* Each byte went round SWEEPS times from 0. */
static void check_sweep(const volatile unsigned char *block)
{
    for (int i = 0; i < SHARED_BLOCK_BYTES; i++)
        if (block[i] != (unsigned char)SWEEPS)
            fail("a block has lost what was written to it");
}

static void write_in_turns(struct worker *self)
{
    for (size_t round = share_of(ROUNDS); round > 0; round--) {
        unsigned char *block = take(self, SHARED_BLOCK_BYTES);
        for (int i = 0; i < SHARED_BLOCK_BYTES; i++)
            block[i] = 0;
        sweep(block);
        check_sweep(block);
        free(block);
    }
}

static void free_first_and_write(struct worker *self)
{
    void **blocks = self->shared;
    give_tagged(blocks[self->index]);
    write_in_turns(self);
}

void run_cache_scratch(void)
{
    static void *blocks[THREADS_MAX];
    struct worker giver;
    worker_init(&giver, THREADS_MAX, NULL);
    for (unsigned i = 0; i < options.threads; i++)
        blocks[i] = take_tagged(&giver, SHARED_BLOCK_BYTES);
    run_team(free_first_and_write, blocks);
    result.operations += giver.operations;
}

void run_cache_thrash(void)
{
    run_team(write_in_turns, NULL);
}
