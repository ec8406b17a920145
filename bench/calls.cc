/* SPDX-License-Identifier: MIT */
/* Each function of the family on its own: a call, and the free that belongs to it.
 *
 * Blocks are written to, for memory that nobody touches costs some allocators nothing at all.
 */
#include "bench.h"

#include <string.h>

#include <algorithm>
#include <vector>

namespace bench
{

namespace
{

/* ---- pair: one block, taken and freed ------------------------------------------------------- */

struct pair final : workload {
    static constexpr int calls = 64;
    const size_t bytes;

    explicit pair(size_t block_bytes) : bytes(block_bytes)
    {
        items_per_round = calls;
    }
    void run(int, int64_t rounds) override
    {
        for (int64_t call = rounds * calls; call > 0; call--) {
            char *block = take(bytes);
            block[0] = 1;
            free(block);
        }
    }
};

/* ---- batch: many blocks of one size, freed in some order ------------------------------------ */

enum class order { lifo, fifo, random };

struct batch final : workload {
    const size_t bytes;
    std::vector<uint32_t> sequence; /* in which the blocks are freed; the same for all threads */
    std::vector<std::vector<char *>> blocks;

    batch(size_t count, size_t block_bytes, order of_frees, int threads)
        : bytes(block_bytes), sequence(count),
          blocks(static_cast<size_t>(threads), std::vector<char *>(count))
    {
        items_per_round = static_cast<int64_t>(count);
        for (size_t at = 0; at < count; at++)
            sequence[at] = static_cast<uint32_t>(at);
        if (of_frees == order::lifo)
            std::reverse(sequence.begin(), sequence.end());
        if (of_frees == order::random)
            shuffle();
    }
    void shuffle()
    {
        random_walk random(0);
        for (size_t left = sequence.size(); left > 1; left--, random.step())
            std::swap(sequence[left - 1], sequence[random.below(left)]);
    }
    void run(int thread, int64_t rounds) override
    {
        std::vector<char *> &mine = blocks[static_cast<size_t>(thread)];
        for (; rounds > 0; rounds--) {
            for (char *&block : mine) {
                block = take(bytes);
                block[0] = 1;
            }
            for (uint32_t at : sequence)
                free(mine[at]);
        }
    }
};

/* ---- calloc --------------------------------------------------------------------------------- */

struct zeroed final : workload {
    static constexpr int calls = 16;
    const size_t bytes;

    explicit zeroed(size_t block_bytes) : bytes(block_bytes)
    {
        items_per_round = calls;
    }
    /* Every page is used, so that memory which the system has yet to clear costs its due. */
    void use(char *block) const
    {
        for (size_t at = 0; at < bytes; at += page_bytes) {
            if (block[at] != 0)
                fail("calloc's memory is not zero");
            block[at] = 1;
        }
        benchmark::ClobberMemory();
    }
    void run(int, int64_t rounds) override
    {
        for (int64_t call = rounds * calls; call > 0; call--) {
            char *block = keep(calloc(1, bytes));
            use(block);
            free(block);
        }
    }
};

/* ---- realloc: a block grows to 1 MiB -------------------------------------------------------- */

struct growth final : workload {
    static constexpr size_t final_bytes = size_t{1} << 20;
    const bool doubling;

    explicit growth(bool by_doubling) : doubling(by_doubling)
    {
        items_per_round = 0;
        for (size_t bytes = first_bytes(); bytes < final_bytes; bytes = next_bytes(bytes))
            items_per_round++;
    }
    size_t first_bytes() const
    {
        return doubling ? 16 : page_bytes;
    }
    size_t next_bytes(size_t bytes) const
    {
        return doubling ? 2 * bytes : bytes + page_bytes;
    }
    void grow() const
    {
        size_t old_bytes = first_bytes();
        char *block = take_touched(old_bytes);
        while (old_bytes < final_bytes) {
            const size_t bytes = next_bytes(old_bytes);
            block = keep(realloc(block, bytes));
            if (block[0] != 1)
                fail("realloc lost what was in the block");
            touch(block, old_bytes, bytes, page_bytes);
            old_bytes = bytes;
        }
        free(block);
    }
    void run(int, int64_t rounds) override
    {
        for (; rounds > 0; rounds--)
            grow();
    }
};

/* ---- aligned_alloc -------------------------------------------------------------------------- */

struct aligned final : workload {
    static constexpr size_t count = 16;
    const size_t alignment;

    explicit aligned(size_t of_blocks) : alignment(of_blocks)
    {
        items_per_round = count;
    }
    char *take_one() const
    {
        char *block = keep(aligned_alloc(alignment, 2 * alignment));
        if (reinterpret_cast<uintptr_t>(block) % alignment != 0)
            fail("aligned_alloc's block is not aligned");
        block[0] = 1;
        return block;
    }
    void run(int, int64_t rounds) override
    {
        char *blocks[count];
        for (; rounds > 0; rounds--) {
            for (char *&block : blocks)
                block = take_one();
            for (char *block : blocks)
                free(block);
        }
    }
};

void add_batches(const std::string &name, size_t count, size_t bytes)
{
    static constexpr struct {
        const char *name;
        order value;
    } orders[] = {{"lifo", order::lifo}, {"fifo", order::fifo}, {"random", order::random}};

    for (const auto &each : orders)
        add("batch/" + name + "/" + each.name, [count, bytes, of_frees = each.value](int threads) {
            return std::make_unique<batch>(count, bytes, of_frees, threads);
        });
}

} // namespace

void add_calls()
{
    for (size_t bytes = 16; bytes <= size_t{4} << 20; bytes *= 4)
        add("pair/" + std::to_string(bytes),
            [bytes](int) { return std::make_unique<pair>(bytes); });

    add_batches("1000x64", 1000, 64);
    add_batches("100x4096", 100, 4096);

    for (size_t bytes : {size_t{64}, size_t{4} << 10, size_t{256} << 10})
        add("calloc/" + std::to_string(bytes),
            [bytes](int) { return std::make_unique<zeroed>(bytes); });

    add("realloc/doubling", [](int) { return std::make_unique<growth>(true); });
    add("realloc/steps", [](int) { return std::make_unique<growth>(false); });

    for (size_t alignment : {size_t{64}, size_t{4096}})
        add("aligned/" + std::to_string(alignment),
            [alignment](int) { return std::make_unique<aligned>(alignment); });
}

} // namespace bench
