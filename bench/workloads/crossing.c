/* SPDX-License-Identifier: MIT */
/* Blocks that another thread frees than took them.
 *
 *   larson    a thread replaces random blocks of its array, starts its successor, to which the
 *             array goes, and ends. The main thread fills the arrays
 *   xmalloc   producers take batches, which are blocks themselves, and consumers free them
 *   mstress   rounds of new threads, which take short-lived blocks and some that they retain, and
 *             exchange blocks through an array that outlives the round
 *   rptest    slots for each thread; at the end of each loop every thread frees the parcel of
 *             blocks that the one before it has made up
 *   handover  each block goes into a random place of a shared array, and what was there is freed
 */
#include "workloads.h"

#include <assert.h>
#include <semaphore.h>
#include <stdatomic.h>

/* ---- larson ---- */

enum { LARSON_SLOTS = 5000, LARSON_GENERATIONS = 4400, LARSON_STEPS = 25 * 1000 };

/* What passes from a thread to its successor. */
struct chain {
    struct worker worker;
    void *slots[LARSON_SLOTS];
    size_t generations;
    sem_t *ended;
};

static size_t larson_bytes(struct worker *self)
{
    return random_between(self, 8, 1000);
}

/* After the post nothing of the chain is touched: the main thread goes on with it. */
static void *live_one_generation(void *argument)
{
    struct chain *chain = argument;
    for (int step = 0; step < LARSON_STEPS; step++) {
        void **slot = &chain->slots[random_below(&chain->worker, LARSON_SLOTS)];
        replace_tagged(&chain->worker, slot, larson_bytes(&chain->worker));
    }
    if (--chain->generations > 0)
        start_detached(live_one_generation, chain);
    else
        sem_post(chain->ended);
    return NULL;
}

static void begin_chain(struct chain *chain, unsigned index, sem_t *ended)
{
    worker_init(&chain->worker, index, NULL);
    chain->generations = share_of(LARSON_GENERATIONS);
    chain->ended = ended;
    for (int i = 0; i < LARSON_SLOTS; i++)
        chain->slots[i] = take_tagged(&chain->worker, larson_bytes(&chain->worker));
    start_detached(live_one_generation, chain);
}

static void end_chain(struct chain *chain)
{
    for (int i = 0; i < LARSON_SLOTS; i++)
        give_tagged(chain->slots[i]);
    result.operations += chain->worker.operations;
}

void run_larson(void)
{
    static sem_t ended; /* who posts may still be at it when the wait is over */
    sem_init(&ended, 0, 0);
    struct chain *chains = map_table(options.threads * sizeof(*chains));
    for (unsigned i = 0; i < options.threads; i++)
        begin_chain(&chains[i], i, &ended);
    for (unsigned i = 0; i < options.threads; i++)
        while (sem_wait(&ended) != 0)
            continue;
    for (unsigned i = 0; i < options.threads; i++)
        end_chain(&chains[i]);
}

/* ---- xmalloc ---- */

enum { XMALLOC_BATCH = 4096, XMALLOC_BATCHES = 2800, XMALLOC_QUEUED_MAX = 16 };

struct batch {
    void *blocks[XMALLOC_BATCH];
};

/* Who has to wait sleeps until the queue is half full or half empty, so that two threads on one
 * core do not switch at every batch. */
struct queue {
    pthread_mutex_t mutex;
    pthread_cond_t filled, drained;
    struct batch *batches[XMALLOC_QUEUED_MAX];
    size_t head, count, to_come; /* to_come: batches that are still to be put in */
    unsigned producers;
    bool is_filling, is_draining;
};

static void queue_put(struct queue *queue, struct batch *batch)
{
    pthread_mutex_lock(&queue->mutex);
    queue->is_draining |= queue->count == XMALLOC_QUEUED_MAX;
    while (queue->is_draining || queue->count == XMALLOC_QUEUED_MAX)
        pthread_cond_wait(&queue->drained, &queue->mutex);
    queue->batches[(queue->head + queue->count++) % XMALLOC_QUEUED_MAX] = batch;
    queue->to_come--;
    if (queue->count >= XMALLOC_QUEUED_MAX / 2 || queue->to_come == 0) {
        queue->is_filling = false;
        pthread_cond_broadcast(&queue->filled);
    }
    pthread_mutex_unlock(&queue->mutex);
}

/* NULL when all has been taken out. */
static struct batch *queue_get(struct queue *queue)
{
    struct batch *batch = NULL;
    pthread_mutex_lock(&queue->mutex);
    queue->is_filling |= queue->count == 0 && queue->to_come > 0;
    while (queue->is_filling || (queue->count == 0 && queue->to_come > 0))
        pthread_cond_wait(&queue->filled, &queue->mutex);
    if (queue->count > 0) {
        batch = queue->batches[queue->head];
        queue->head = (queue->head + 1) % XMALLOC_QUEUED_MAX;
        queue->count--;
    }
    if (queue->count <= XMALLOC_QUEUED_MAX / 2) {
        queue->is_draining = false;
        pthread_cond_broadcast(&queue->drained);
    }
    pthread_mutex_unlock(&queue->mutex);
    return batch;
}

static size_t batches_of_producer(const struct queue *queue)
{
    const size_t batches = scaled(XMALLOC_BATCHES) / queue->producers;
    return batches < 1 ? 1 : batches;
}

static void produce(struct worker *self, struct queue *queue)
{
    for (size_t left = batches_of_producer(queue); left > 0; left--) {
        struct batch *batch = take(self, sizeof(*batch));
        for (int i = 0; i < XMALLOC_BATCH; i++)
            batch->blocks[i] = take_tagged(self, random_between(self, 8, 512));
        queue_put(queue, batch);
    }
}

static void consume(struct queue *queue)
{
    for (struct batch *batch; (batch = queue_get(queue)) != NULL; free(batch))
        for (int i = 0; i < XMALLOC_BATCH; i++)
            give_tagged(batch->blocks[i]);
}

static void produce_or_consume(struct worker *self)
{
    struct queue *queue = self->shared;
    if (self->index < queue->producers)
        produce(self, queue);
    else
        consume(queue);
}

void run_xmalloc(void)
{
    static struct queue queue = {.mutex = PTHREAD_MUTEX_INITIALIZER,
                                 .filled = PTHREAD_COND_INITIALIZER,
                                 .drained = PTHREAD_COND_INITIALIZER};
    queue.producers = options.threads / 2;
    queue.to_come = queue.producers * batches_of_producer(&queue);
    run_team(produce_or_consume, &queue);
}

/* ---- mstress ---- */

enum {
    MSTRESS_ROUNDS = 100,
    MSTRESS_TAKES = 300 * 1000, /* of a round */
    MSTRESS_RETAIN_EACH = 6,    /* one block in so many lives to the end of the round */
    MSTRESS_TRANSFERS = 1000,
};

struct stress {
    unsigned round;
    _Atomic(uint64_t *) transfers[MSTRESS_TRANSFERS];
};

struct bag {
    uint64_t **blocks;
    size_t count;
};

/* 1 to 8 words mostly, and up to 1 MiB seldom. */
static size_t heavy_tailed_words(struct worker *self)
{
    const size_t words = random_between(self, 1, 8);
    const size_t chance = random_below(self, 10000);
    if (chance < 1)
        return words * 16 * 1024;
    if (chance < 100)
        return words * 128;
    return chance < 1000 ? words * 16 : words;
}

/* The first word is the count of words, and each further one says where it is. */
static uint64_t *take_words(struct worker *self)
{
    const size_t words = heavy_tailed_words(self);
    uint64_t *block = take(self, words * sizeof(*block));
    block[0] = words;
    for (size_t i = 1; i < words; i++)
        block[i] = (uintptr_t)block + i;
    return block;
}

static void give_words(uint64_t *block)
{
    if (block == NULL)
        return;
    if (block[0] == 0)
        fail("a block is somebody else's too");
    for (size_t i = 1; i < block[0]; i++)
        if (block[i] != (uintptr_t)block + i)
            fail("a block has lost a word");
    block[0] = 0;
    free(block);
}

static void bag_add(struct bag *bag, uint64_t *block)
{
    bag->blocks[bag->count++] = block;
}

static uint64_t *bag_remove(struct bag *bag, size_t at)
{
    uint64_t *block = bag->blocks[at];
    bag->blocks[at] = bag->blocks[--bag->count];
    return block;
}

/* Room for all that a thread takes in a round. */
static size_t bag_table_bytes(void)
{
    return share_of(MSTRESS_TAKES) * sizeof(uint64_t *);
}

static void bag_drop(struct bag *bag)
{
    while (bag->count > 0)
        give_words(bag_remove(bag, bag->count - 1));
    unmap_table(bag->blocks, bag_table_bytes());
}

static struct bag new_bag(void)
{
    return (struct bag){.blocks = map_table(bag_table_bytes())};
}

static void pass_one_on(struct worker *self, struct bag *bag, _Atomic(uint64_t *) *transfers)
{
    uint64_t *mine = bag_remove(bag, random_below(self, bag->count));
    uint64_t *theirs = atomic_exchange(&transfers[random_below(self, MSTRESS_TRANSFERS)], mine);
    if (theirs != NULL)
        bag_add(bag, theirs);
}

static void stress(struct worker *self)
{
    struct stress *all = self->shared;
    worker_reseed(self, all->round * THREADS_MAX + self->index);
    struct bag passing = new_bag(), retained = new_bag();
    for (size_t left = share_of(MSTRESS_TAKES); left > 0; left--) {
        bag_add(left % MSTRESS_RETAIN_EACH == 0 ? &retained : &passing, take_words(self));
        if (passing.count > 0 && random_below(self, 4) != 0)
            give_words(bag_remove(&passing, random_below(self, passing.count)));
        if (passing.count > 0 && random_below(self, 4) == 0)
            pass_one_on(self, &passing, all->transfers);
    }
    bag_drop(&passing);
    bag_drop(&retained);
}

static void drop_transfers(_Atomic(uint64_t *) *transfers, int step)
{
    for (int i = 0; i < MSTRESS_TRANSFERS; i += step)
        give_words(atomic_exchange(&transfers[i], NULL));
}

void run_mstress(void)
{
    static struct stress all;
    for (; all.round < MSTRESS_ROUNDS; all.round++) {
        run_team(stress, &all);
        drop_transfers(all.transfers, 2);
    }
    drop_transfers(all.transfers, 1);
}

/* ---- rptest ---- */

enum {
    RPTEST_SLOTS = 4096,
    RPTEST_STRIDE = 1031, /* odd, so that it comes to every slot */
    RPTEST_LOOPS = 2000,
    RPTEST_STEPS = 6000, /* of a loop */
    RPTEST_PARCEL = 512,
};

static_assert(RPTEST_STRIDE % 2 == 1 && (RPTEST_SLOTS & (RPTEST_SLOTS - 1)) == 0,
              "the stride and the number of slots have no common factor");

/* A parcel that is written in one loop is read in the next, so two in turns need one barrier. */
struct parcels {
    pthread_barrier_t loop_end;
    void *blocks[2][THREADS_MAX][RPTEST_PARCEL];
};

static void post(void **slots, size_t *at, void **parcel)
{
    for (int i = 0; i < RPTEST_PARCEL; i++) {
        *at = (*at + RPTEST_STRIDE) % RPTEST_SLOTS;
        parcel[i] = slots[*at];
        slots[*at] = NULL;
    }
}

static void free_parcel(void *const *parcel)
{
    for (int i = 0; i < RPTEST_PARCEL; i++)
        give_tagged(parcel[i]);
}

static void loop_once(struct worker *self, void **slots, size_t *at)
{
    for (int step = 0; step < RPTEST_STEPS; step++) {
        *at = (*at + RPTEST_STRIDE) % RPTEST_SLOTS;
        replace_tagged(self, &slots[*at], random_between(self, 16, 16000));
    }
}

static void do_rptest(struct worker *self)
{
    struct parcels *parcels = self->shared;
    const unsigned before = (self->index + options.threads - 1) % options.threads;
    void **slots = map_table(RPTEST_SLOTS * sizeof(void *));
    size_t at = 0;
    for (size_t left = share_of(RPTEST_LOOPS); left > 0; left--) {
        loop_once(self, slots, &at);
        post(slots, &at, parcels->blocks[left % 2][self->index]);
        pthread_barrier_wait(&parcels->loop_end);
        free_parcel(parcels->blocks[left % 2][before]);
    }
    for (int i = 0; i < RPTEST_SLOTS; i++)
        give_tagged(slots[i]);
    unmap_table(slots, RPTEST_SLOTS * sizeof(void *));
}

void run_rptest(void)
{
    struct parcels *parcels = map_table(sizeof(*parcels));
    barrier_init(&parcels->loop_end, options.threads);
    run_team(do_rptest, parcels);
}

/* ---- handover ---- */

enum { HANDOVER_PLACES = 16 * 1024, HANDOVER_BLOCKS = 64 * 1000 * 1000 };

static void hand_over(struct worker *self)
{
    _Atomic(void *) *places = self->shared;
    for (size_t left = share_of(HANDOVER_BLOCKS); left > 0; left--) {
        void *block = take_tagged(self, random_between(self, 16, 256));
        give_tagged(atomic_exchange(&places[random_below(self, HANDOVER_PLACES)], block));
    }
}

void run_handover(void)
{
    static _Atomic(void *) places[HANDOVER_PLACES];
    run_team(hand_over, places);
    for (int i = 0; i < HANDOVER_PLACES; i++)
        give_tagged(places[i]);
}
