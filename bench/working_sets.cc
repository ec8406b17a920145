/* SPDX-License-Identifier: MIT */
/* Blocks of random sizes that live for a while.
 *
 *   steady    each thread replaces random blocks of its own set
 *   handover  the same, but every few thousand blocks a new thread takes the set over, so that it
 *             frees what a thread now dead has taken (after Larson and Krishnan)
 *
 * An item is a block replaced: one free, one malloc, each of its cache lines written.
 */
#include "bench.h"

#include <vector>

namespace bench
{

namespace
{

struct alignas(cache_line_bytes) working_set {
    std::vector<char *> blocks;
    random_walk random{0};

    void fill(size_t count, int thread)
    {
        random = random_walk(thread);
        blocks.resize(count);
        for (char *&block : blocks) {
            block = take_touched(random.size());
            random.step();
        }
    }
    void replace(int count)
    {
        for (; count > 0; count--) {
            char *&block = blocks[random.below(blocks.size())];
            free(block);
            block = take_touched(random.size());
            random.step();
        }
    }
    void clear()
    {
        for (char *block : blocks)
            free(block);
        blocks.clear();
    }
};

struct steady : workload {
    static constexpr int replaced = 2000;
    const size_t count; /* blocks of each thread */
    std::vector<working_set> sets;

    steady(size_t each_count, int threads) : count(each_count), sets(static_cast<size_t>(threads))
    {
        items_per_round = replaced;
    }
    void prepare(int thread) override
    {
        sets[static_cast<size_t>(thread)].fill(count, thread);
    }
    void run(int thread, int64_t rounds) override
    {
        for (; rounds > 0; rounds--)
            sets[static_cast<size_t>(thread)].replace(replaced);
    }
    void clear(int thread) override
    {
        sets[static_cast<size_t>(thread)].clear();
    }
};

struct handover final : steady {
    static constexpr int life = 5000; /* blocks that a generation replaces */

    handover(size_t each_count, int threads) : steady(each_count, threads)
    {
        items_per_round = life;
    }
    static void *generation(void *set)
    {
        static_cast<working_set *>(set)->replace(life);
        return nullptr;
    }
    void run(int thread, int64_t rounds) override
    {
        for (; rounds > 0; rounds--)
            on_new_thread(generation, &sets[static_cast<size_t>(thread)]);
    }
};

constexpr size_t small_count = 1000;   /* of each thread: fits the caches of a core */
constexpr size_t large_count = 200000; /* of all threads together: about 50 MB, fits none */

} // namespace

void add_working_sets()
{
    add("steady/small", [](int threads) { return std::make_unique<steady>(small_count, threads); });
    add("steady/large", [](int threads) {
        return std::make_unique<steady>(large_count / static_cast<size_t>(threads), threads);
    });
    add("handover/1000",
        [](int threads) { return std::make_unique<handover>(small_count, threads); });
}

} // namespace bench
