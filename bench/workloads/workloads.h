/* SPDX-License-Identifier: MIT */
/* freehold-workloads: whole programs that allocate as programs do. What its files share.
 *
 * The binary knows no allocator: it calls malloc and its family, and the one to be measured is
 * preloaded. A workload does a fixed amount of work, with its own random numbers from a fixed seed,
 * so that its time can be compared; --scale multiplies the amount. Its own tables come from mmap()
 * or are static, so the allocator sees the pattern alone.
 *
 * Most blocks are tagged: the first eight bytes and the last one say whose they are, which is
 * checked when the block is freed. An overlap, a block handed out twice and lost contents end the
 * program with status 1, as does an allocation that fails.
 */
#ifndef FREEHOLD_WORKLOADS_H
#define FREEHOLD_WORKLOADS_H

#include <pthread.h>
#include <stdalign.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

enum { CACHE_LINE_BYTES = 64, PAGE_BYTES = 4096, THREADS_MAX = 256 };

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)

/* ---- What main() was asked for, and what a workload reports ---- */

struct options {
    unsigned threads;
    double scale;
    uint64_t seed;
    double survivors_percent; /* idle: how many of its blocks stay live */
    double rest_seconds;      /* idle: how long it rests before it looks at its memory */
};

struct latency {
    double p50, p99, p99_9, p99_99, max; /* nanoseconds */
};

/* Each figure that is below 0 was not measured. */
struct result {
    double seconds;      /* measured by main() where the workload does not */
    uint64_t operations; /* calls that allocate: malloc, calloc, realloc */
    long long rest_kib;  /* resident memory of the process at the workload's moment of interest */
    long long live_kib;  /* what the blocks that live at that moment were asked for with */
    struct latency latency;
};

extern struct options options;
extern struct result result;

/* `count` by the scale, at least 1. */
size_t scaled(size_t count);

/* One thread's part of what all threads together shall do: scaled(count) by their number. So the
 * work, and about the time, is the same for any number of threads. */
size_t share_of(size_t count);

/* ---- Workers ---- */

/* One thread of a workload. */
struct worker {
    alignas(CACHE_LINE_BYTES) uint64_t random; /* state of its random numbers, never 0 */
    uint64_t operations;
    unsigned index;
    void (*body)(struct worker *self);
    void *shared; /* whatever the workload passes to all of them */
    pthread_t thread;
};

void worker_init(struct worker *self, unsigned index, void *shared);

/* Go on with other random numbers; worker_init() begins with stream `index`. */
void worker_reseed(struct worker *self, unsigned stream);

/* Start a thread that runs body(self); worker_finish() waits for its end and counts what it did. */
void worker_start(struct worker *self, void (*body)(struct worker *self));
void worker_finish(struct worker *self);

/* As many workers as there shall be threads, from start to end. A team of one is the calling
 * thread, so that the process stays one without threads. */
void run_team(void (*body)(struct worker *self), void *shared);

/* Start a thread that nobody waits for. */
void start_detached(void *(*body)(void *), void *argument);

void barrier_init(pthread_barrier_t *barrier, unsigned threads);

/* ---- Time and memory ---- */

double now_seconds(void);
void rest(double seconds);

/* Resident memory of the process, from the kernel, without an allocation. */
long long resident_kib(void);

/* Zero-filled memory for the workload's own tables. */
void *map_table(size_t bytes);
void unmap_table(void *table, size_t bytes);

_Noreturn void fail(const char *what);

/* ---- Random numbers ---- */

static inline uint32_t random_word(struct worker *self)
{
    uint64_t x = self->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    self->random = x;
    return (uint32_t)((x * UINT64_C(0x2545f4914f6cdd1d)) >> 32);
}

/* 0 to limit - 1; limit is at most 2^32. */
static inline size_t random_below(struct worker *self, size_t limit)
{
    return (size_t)(((uint64_t)random_word(self) * limit) >> 32);
}

static inline size_t random_between(struct worker *self, size_t first, size_t last)
{
    return first + random_below(self, last - first + 1);
}

/* A doubling of `least` chosen evenly among `doublings`, then a size within it: each doubling is as
 * frequent as the others. */
static inline size_t random_log_size(struct worker *self, size_t least, size_t doublings)
{
    const size_t base = least << random_below(self, doublings);
    return base + random_below(self, base);
}

/* The same, but each doubling is half as frequent as the one below it. */
static inline size_t random_skewed_size(struct worker *self, size_t least, unsigned doublings)
{
    const uint32_t coins = random_word(self) | UINT32_C(1) << (doublings - 1);
    const size_t base = least << __builtin_ctz(coins);
    return base + random_below(self, base);
}

/* ---- Blocks ---- */

static inline void *take(struct worker *self, size_t bytes)
{
    self->operations++;
    void *block = malloc(bytes);
    if (block == NULL)
        fail("malloc failed");
    return block;
}

struct tag {
    uint32_t bytes;
    uint32_t check;
};

enum { TAGGED_BYTES_MIN = sizeof(struct tag) };

static inline uint32_t tag_check(const void *block, uint32_t bytes)
{
    return ((uint32_t)((uintptr_t)block >> 3) ^ bytes) * UINT32_C(2654435761) | 1;
}

/* Tag a block of at least TAGGED_BYTES_MIN bytes. Returns it. */
static inline void *tag_block(void *pointer, size_t bytes)
{
    unsigned char *block = pointer;
    struct tag *tag = pointer;
    tag->bytes = (uint32_t)bytes;
    tag->check = tag_check(block, tag->bytes);
    if (bytes > sizeof(*tag))
        block[bytes - 1] = (unsigned char)tag->check;
    return block;
}

static inline size_t tagged_bytes(const void *block)
{
    return ((const struct tag *)block)->bytes;
}

/* Check the tag and make it invalid, so that somebody else's block at the same place is noticed. */
static inline void untag_block(void *pointer)
{
    const unsigned char *block = pointer;
    struct tag *tag = pointer;
    if (tag->check != tag_check(block, tag->bytes))
        fail("a block has lost its tag");
    if (tag->bytes > sizeof(*tag) && block[tag->bytes - 1] != (unsigned char)tag->check)
        fail("a block has lost its last byte");
    tag->check = 0;
}

static inline void *take_tagged(struct worker *self, size_t bytes)
{
    return tag_block(take(self, bytes), bytes);
}

/* Free a tagged block, or do nothing if it is NULL. */
static inline void give_tagged(void *block)
{
    if (block == NULL)
        return;
    untag_block(block);
    free(block);
}

static inline void replace_tagged(struct worker *self, void **slot, size_t bytes)
{
    give_tagged(*slot);
    *slot = take_tagged(self, bytes);
}

/* ---- The workloads; main.c says what each is ---- */

void run_larson(void);
void run_xmalloc(void);
void run_mstress(void);
void run_rptest(void);
void run_handover(void);

void run_cache_scratch(void);
void run_cache_thrash(void);

void run_alloc_test(void);
void run_steady(void);
void run_medium(void);
void run_large(void);

void run_sh6(void);
void run_sh8(void);
void run_batches(void);

void run_arithmetic(void);
void run_logic(void);
void run_tree(void);
void run_strings(void);

void run_latency(void);

void run_thread_churn(void);
void run_idle(void);
void run_blocked(void);
void run_gone(void);
void run_one(void);

void run_heap(void);
void run_classes(void);

#endif
