/* SPDX-License-Identifier: MIT */
/* Blocks that are freed by another thread than took them, and threads that come and go.
 *
 *   queue  half of the threads take blocks, the other half frees them; a single thread hands
 *          batches to itself. An item is a block.
 *   churn  threads that live for a few blocks, and leave half of them to whoever waits for their
 *          end. An item is a thread.
 */
#include "bench.h"

#include <array>
#include <condition_variable>
#include <mutex>
#include <vector>

namespace bench
{

namespace
{

constexpr size_t batch_count = 256;
constexpr size_t queue_depth = 16;

using block_batch = std::array<char *, batch_count>;

/* A bounded queue of batches between two threads. Whoever has to wait sleeps until the queue is
 * half full or half empty, so that the two do not switch at every batch. */
struct block_queue {
    std::mutex mutex;
    std::condition_variable filled, drained;
    std::array<block_batch, queue_depth> batches;
    size_t head = 0, count = 0;
    bool closed = false;

    void push(const block_batch &batch, bool is_last)
    {
        std::unique_lock<std::mutex> lock(mutex);
        if (count == queue_depth)
            drained.wait(lock, [this] { return count <= queue_depth / 2; });
        batches[(head + count) % queue_depth] = batch;
        count++;
        closed = is_last;
        if (closed || count >= queue_depth / 2)
            filled.notify_one();
    }
    void pop(block_batch &batch)
    {
        std::unique_lock<std::mutex> lock(mutex);
        if (count == 0)
            filled.wait(lock, [this] { return closed || count >= queue_depth / 2; });
        batch = batches[head];
        head = (head + 1) % queue_depth;
        count--;
        if (count <= queue_depth / 2)
            drained.notify_one();
    }
};

struct producer_consumer final : workload {
    const int threads;
    std::vector<block_queue> queues; /* one for each pair of threads */

    explicit producer_consumer(int team_threads)
        : threads(team_threads), queues(static_cast<size_t>(team_threads + 1) / 2)
    {
        items_per_round = batch_count / (threads > 1 ? 2 : 1);
    }
    static void produce(block_queue &queue, random_walk &random, bool is_last)
    {
        block_batch batch;
        for (char *&block : batch) {
            block = take_touched(random.size());
            random.step();
        }
        queue.push(batch, is_last);
    }
    static void consume(block_queue &queue)
    {
        block_batch batch;
        queue.pop(batch);
        for (char *block : batch)
            free(block);
    }
    void run(int thread, int64_t rounds) override
    {
        block_queue &queue = queues[static_cast<size_t>(thread) / 2];
        const bool produces = thread % 2 == 0, consumes = threads == 1 || !produces;
        random_walk random(thread);
        for (; rounds > 0; rounds--) {
            if (produces)
                produce(queue, random, rounds == 1);
            if (consumes)
                consume(queue);
        }
    }
};

struct churn final : workload {
    static constexpr size_t count = 64;

    struct brief_life {
        random_walk random;
        char *blocks[count];
    };
    static void *live(void *argument)
    {
        brief_life &life = *static_cast<brief_life *>(argument);
        for (char *&block : life.blocks) {
            block = take_touched(life.random.size());
            life.random.step();
        }
        for (size_t at = 0; at < count; at += 2)
            free(life.blocks[at]);
        return nullptr;
    }
    void run(int thread, int64_t rounds) override
    {
        brief_life life{random_walk(thread), {}};
        for (; rounds > 0; rounds--) {
            on_new_thread(live, &life);
            for (size_t at = 1; at < count; at += 2)
                free(life.blocks[at]);
        }
    }
};

} // namespace

void add_handovers()
{
    add("queue/256", [](int threads) { return std::make_unique<producer_consumer>(threads); });
    add("churn/64", [](int) { return std::make_unique<churn>(); });
}

} // namespace bench
