/* SPDX-License-Identifier: MIT */
/* latency: how long single calls take, from the median to the worst.
 *
 * Many more threads than cores replace blocks in their slots, mostly small ones; of each eight
 * blocks one goes through a shared array, so that another thread frees it. Each malloc and each
 * free is timed. What interrupts a call is a part of its time: the last digits of the distribution
 * show the scheduler as well.
 *
 * Times are counted in a histogram of 64 buckets for each power of two, so a percentile is at most
 * 1/64 too high. The clock's own time, some 10 ns, is in every figure.
 */
#include "workloads.h"

#include <stdatomic.h>
#include <time.h>

/* ---- The clock ---- */

#if defined(__x86_64__)
/* The cycle counter, which costs less than a call to the clock. */
static inline uint64_t ticks(void)
{
    unsigned processor;
    return __builtin_ia32_rdtscp(&processor);
}
#else
static inline uint64_t ticks(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
#endif

/* ---- The histogram ---- */

enum { BUCKET_BITS = 6, BUCKETS_PER_DOUBLING = 1 << BUCKET_BITS, BUCKETS = 64 << BUCKET_BITS };

struct histogram {
    uint64_t counts[BUCKETS];
    uint64_t largest;
};

static unsigned bucket_of(uint64_t value)
{
    if (value < BUCKETS_PER_DOUBLING)
        return (unsigned)value;
    const unsigned shift = 63 - BUCKET_BITS - (unsigned)__builtin_clzll(value);
    return (shift << BUCKET_BITS) + (unsigned)(value >> shift);
}

/* The largest value that belongs to it. */
static uint64_t bucket_end(unsigned bucket)
{
    if (bucket < BUCKETS_PER_DOUBLING)
        return bucket;
    const unsigned shift = (bucket >> BUCKET_BITS) - 1;
    return (((uint64_t)(bucket & (BUCKETS_PER_DOUBLING - 1)) + BUCKETS_PER_DOUBLING + 1) << shift) -
           1;
}

/* A thread that moved to another core may read a counter that is a little behind. */
static void count_time(struct histogram *histogram, uint64_t begin, uint64_t end)
{
    const uint64_t spent = end > begin ? end - begin : 0;
    histogram->counts[bucket_of(spent)]++;
    if (spent > histogram->largest)
        histogram->largest = spent;
}

static void add_histogram(struct histogram *sum, const struct histogram *part)
{
    for (int i = 0; i < BUCKETS; i++)
        sum->counts[i] += part->counts[i];
    if (part->largest > sum->largest)
        sum->largest = part->largest;
}

/* The least value that `share` of all values do not exceed, within a bucket. */
static double percentile(const struct histogram *histogram, double share)
{
    uint64_t total = 0, seen = 0;
    for (int i = 0; i < BUCKETS; i++)
        total += histogram->counts[i];
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += histogram->counts[i];
        if ((double)seen >= share * (double)total)
            return (double)(bucket_end(i) < histogram->largest ? bucket_end(i)
                                                               : histogram->largest);
    }
    return (double)histogram->largest;
}

/* ---- The workload ---- */

enum { LATENCY_SLOTS = 500, LATENCY_PLACES = 4096, LATENCY_STEPS = 19 * 1000 * 1000 };

struct shared {
    _Atomic(void *) places[LATENCY_PLACES];
    struct histogram histograms[THREADS_MAX]; /* only those of threads that run are ever touched */
};

/* 16 to 511 bytes mostly; one in sixteen to 8 KiB, one in five hundred to 256 KiB. */
static size_t mixed_bytes(struct worker *self)
{
    const size_t chance = random_below(self, 512);
    if (chance == 0)
        return random_log_size(self, 8 * KIB, 5);
    return chance < 32 ? random_log_size(self, 512, 4) : random_skewed_size(self, 16, 5);
}

static void *take_timed(struct worker *self, struct histogram *histogram)
{
    const size_t bytes = mixed_bytes(self);
    const uint64_t begin = ticks();
    void *block = malloc(bytes);
    count_time(histogram, begin, ticks());
    self->operations++;
    if (block == NULL)
        fail("malloc failed");
    return tag_block(block, bytes);
}

static void give_timed(void *block, struct histogram *histogram)
{
    if (block == NULL)
        return;
    untag_block(block);
    const uint64_t begin = ticks();
    free(block);
    count_time(histogram, begin, ticks());
}

static void replace_timed(struct worker *self)
{
    struct shared *shared = self->shared;
    struct histogram *histogram = &shared->histograms[self->index];
    void **slots = map_table(LATENCY_SLOTS * sizeof(void *));
    for (size_t left = share_of(LATENCY_STEPS); left > 0; left--) {
        void **slot = &slots[random_below(self, LATENCY_SLOTS)];
        if (left % 8 == 0)
            *slot = atomic_exchange(&shared->places[random_below(self, LATENCY_PLACES)], *slot);
        give_timed(*slot, histogram);
        *slot = take_timed(self, histogram);
    }
    for (int i = 0; i < LATENCY_SLOTS; i++)
        give_timed(slots[i], histogram);
    unmap_table(slots, LATENCY_SLOTS * sizeof(void *));
}

static void report(const struct histogram *all, double ns_per_tick)
{
    result.latency = (struct latency){
        .p50 = ns_per_tick * percentile(all, 0.5),
        .p99 = ns_per_tick * percentile(all, 0.99),
        .p99_9 = ns_per_tick * percentile(all, 0.999),
        .p99_99 = ns_per_tick * percentile(all, 0.9999),
        .max = ns_per_tick * (double)all->largest,
    };
}

void run_latency(void)
{
    static struct histogram all;
    struct shared *shared = map_table(sizeof(*shared));
    const double begin_seconds = now_seconds();
    const uint64_t begin_ticks = ticks();
    run_team(replace_timed, shared);
    const double ticks_spent = (double)(ticks() - begin_ticks);
    const double ns_per_tick = 1e9 * (now_seconds() - begin_seconds) / ticks_spent;
    for (int i = 0; i < LATENCY_PLACES; i++)
        give_tagged(shared->places[i]);
    for (unsigned i = 0; i < options.threads; i++)
        add_histogram(&all, &shared->histograms[i]);
    report(&all, ns_per_tick);
}
