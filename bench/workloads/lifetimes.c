/* SPDX-License-Identifier: MIT */
/* Threads and programs that begin, rest, wait and end, and where the memory is then.
 *
 *   thread-churn  short-lived threads, which leave half of their blocks to whoever waits for them
 *   idle          threads take 500 MB together, free it, and then only wait. After a while the
 *                 process reports its memory. Some blocks, scattered, may survive
 *   blocked       one producer after the other fills memory a few times, and a consumer frees it;
 *                 then the producer waits for ever. At last other threads take as much as one
 *                 producer had. What the waiting ones keep from them shows in the memory
 *   gone          the same, but the producers end; what they took last is freed after that
 *   one           a program of one line
 */
#include "workloads.h"

#include <semaphore.h>
#include <unistd.h>

/* ---- thread-churn ---- */

enum { CHURN_BLOCKS = 64, CHURN_THREADS = 80 * 1000 };

struct brief_life {
    struct worker worker;
    void *blocks[CHURN_BLOCKS];
};

static void live_briefly(struct worker *self)
{
    struct brief_life *life = self->shared;
    for (int i = 0; i < CHURN_BLOCKS; i++)
        life->blocks[i] = take_tagged(self, random_log_size(self, 16, 6));
    for (int i = 0; i < CHURN_BLOCKS; i += 2)
        give_tagged(life->blocks[i]);
}

static void churn(struct worker *self)
{
    struct brief_life *life = map_table(sizeof(*life));
    worker_init(&life->worker, self->index, life);
    for (size_t left = share_of(CHURN_THREADS); left > 0; left--) {
        worker_start(&life->worker, live_briefly);
        pthread_join(life->worker.thread, NULL);
        for (int i = 1; i < CHURN_BLOCKS; i += 2)
            give_tagged(life->blocks[i]);
    }
    self->operations += life->worker.operations;
    unmap_table(life, sizeof(*life));
}

void run_thread_churn(void)
{
    run_team(churn, NULL);
}

/* ---- Hoards: as many blocks as make up a number of bytes ---- */

enum { HOARD_BLOCK_BYTES_MIN = 16, HOARD_DOUBLINGS = 7 }; /* 16 to 2047 bytes */

struct hoard {
    void **blocks;
    size_t count, blocks_max;
};

static struct hoard new_hoard(size_t bytes)
{
    struct hoard hoard = {.blocks_max = bytes / HOARD_BLOCK_BYTES_MIN + 1};
    hoard.blocks = map_table(hoard.blocks_max * sizeof(void *));
    return hoard;
}

static void unmap_hoard(struct hoard *hoard)
{
    unmap_table(hoard->blocks, hoard->blocks_max * sizeof(void *));
}

static void fill_hoard(struct worker *self, struct hoard *hoard, size_t bytes)
{
    for (size_t filled = 0; filled < bytes;) {
        void *block =
            take_tagged(self, random_log_size(self, HOARD_BLOCK_BYTES_MIN, HOARD_DOUBLINGS));
        filled += tagged_bytes(block);
        hoard->blocks[hoard->count++] = block;
    }
}

/* All but `survivors_percent` of the blocks, which nobody will ever free. Returns their bytes. */
static size_t free_hoard(struct worker *self, struct hoard *hoard, double survivors_percent)
{
    const size_t limit = (size_t)(survivors_percent * 10000);
    size_t surviving_bytes = 0;
    for (size_t i = 0; i < hoard->count; i++) {
        if (random_below(self, 1000 * 1000) < limit)
            surviving_bytes += tagged_bytes(hoard->blocks[i]);
        else
            give_tagged(hoard->blocks[i]);
    }
    hoard->count = 0;
    return surviving_bytes;
}

/* ---- idle ---- */

enum { IDLE_BYTES = 500 * 1000 * 1000 };

struct idle {
    pthread_barrier_t filled, freed, measured;
    size_t live_bytes[THREADS_MAX];
    double begin_seconds;
};

static void measure_idle(const struct idle *all)
{
    size_t live_bytes = 0;
    for (unsigned i = 0; i < options.threads; i++)
        live_bytes += all->live_bytes[i];
    result.seconds = now_seconds() - all->begin_seconds;
    rest(options.rest_seconds);
    result.live_kib = (long long)(live_bytes / KIB);
    result.rest_kib = resident_kib();
}

static void fill_free_and_rest(struct worker *self)
{
    struct idle *all = self->shared;
    const size_t bytes = share_of(IDLE_BYTES);
    struct hoard hoard = new_hoard(bytes);
    fill_hoard(self, &hoard, bytes);
    pthread_barrier_wait(&all->filled);
    all->live_bytes[self->index] = free_hoard(self, &hoard, options.survivors_percent);
    unmap_hoard(&hoard);
    pthread_barrier_wait(&all->freed);
    if (self->index == 0)
        measure_idle(all);
    pthread_barrier_wait(&all->measured);
}

void run_idle(void)
{
    static struct idle all;
    barrier_init(&all.filled, options.threads);
    barrier_init(&all.freed, options.threads);
    barrier_init(&all.measured, options.threads);
    all.begin_seconds = now_seconds();
    run_team(fill_free_and_rest, &all);
}

/* ---- blocked and gone ---- */

/* If nothing of what producers keep is ever used again, that is a gigabyte in the end. */
enum { PRODUCERS = 40, PRODUCER_BYTES = 24 * 1000 * 1000, PRODUCER_FILLS = 4 };

struct producer {
    struct worker worker;
    struct hoard hoard;
    bool shall_end;
    sem_t filled, freed;
};

static struct producer producers[PRODUCERS];

static size_t producer_bytes(void)
{
    return scaled(PRODUCER_BYTES);
}

static void wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0)
        continue;
}

static void produce(struct worker *self)
{
    struct producer *producer = self->shared;
    for (int fills = PRODUCER_FILLS; fills > 0; fills--) {
        fill_hoard(self, &producer->hoard, producer_bytes());
        sem_post(&producer->filled);
        if (fills > 1)
            wait_for(&producer->freed);
    }
    while (!producer->shall_end)
        pause();
}

static void start_producer(struct producer *producer, unsigned index, bool shall_end)
{
    worker_init(&producer->worker, index, producer);
    producer->hoard = new_hoard(producer_bytes());
    producer->shall_end = shall_end;
    sem_init(&producer->filled, 0, 0);
    sem_init(&producer->freed, 0, 0);
    worker_start(&producer->worker, produce);
}

/* The consumer frees what one producer has filled, each time. */
static void consume_all_of(struct worker *self, struct producer *producer)
{
    for (int fills = PRODUCER_FILLS; fills > 0; fills--) {
        wait_for(&producer->filled);
        if (fills == 1 && producer->shall_end)
            pthread_join(producer->worker.thread, NULL);
        free_hoard(self, &producer->hoard, 0);
        sem_post(&producer->freed);
    }
    result.operations += producer->worker.operations;
    unmap_hoard(&producer->hoard);
}

static void consume(struct worker *self)
{
    const bool shall_end = *(const bool *)self->shared;
    for (unsigned i = 0; i < PRODUCERS; i++) {
        start_producer(&producers[i], i, shall_end);
        consume_all_of(self, &producers[i]);
    }
}

struct last {
    pthread_barrier_t filled, measured;
};

static void fill_again(struct worker *self)
{
    struct last *all = self->shared;
    const size_t bytes = producer_bytes() / options.threads;
    struct hoard hoard = new_hoard(bytes);
    fill_hoard(self, &hoard, bytes);
    pthread_barrier_wait(&all->filled);
    if (self->index == 0)
        result.rest_kib = resident_kib();
    pthread_barrier_wait(&all->measured);
    free_hoard(self, &hoard, 0);
    unmap_hoard(&hoard);
}

static void run_producers(bool shall_end)
{
    static struct last all;
    struct worker consumer;
    worker_init(&consumer, PRODUCERS, &shall_end);
    worker_start(&consumer, consume);
    worker_finish(&consumer);
    barrier_init(&all.filled, options.threads);
    barrier_init(&all.measured, options.threads);
    run_team(fill_again, &all);
    result.live_kib = (long long)(producer_bytes() / KIB);
}

void run_blocked(void)
{
    run_producers(false);
}

void run_gone(void)
{
    run_producers(true);
}

/* ---- one ---- */

void run_one(void)
{
    struct worker self;
    worker_init(&self, 0, NULL);
    give_tagged(take_tagged(&self, 16));
    result.operations = self.operations;
}
