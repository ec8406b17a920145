/* SPDX-License-Identifier: MIT */
/* The comparison bench: what its benchmark files share.
 *
 * The binary knows no allocator. It calls malloc and its family as any program does, and each
 * allocator is preloaded into a process of its own, so that all of them run the same machine code.
 *
 * A workload is what one benchmark does; a team of threads runs it in rounds:
 *
 *   prepare (each thread) -> barrier -> run (timed) -> barrier -> clear (each thread)
 *
 * The time of a run is that from the first thread's start to the last one's end, and its figure is
 * that time for each item, whichever thread did it: the wall's time, or processor time for a team
 * of one. Nothing here spins, so that sixteen threads on two cores measure the allocator and not
 * who holds the processor.
 */
#ifndef FREEHOLD_BENCH_H
#define FREEHOLD_BENCH_H

#include <benchmark/benchmark.h>

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <functional>
#include <memory>
#include <string>

namespace bench
{

constexpr size_t cache_line_bytes = 64;
constexpr size_t page_bytes = 4096;

struct workload {
    int64_t items_per_round = 1; /* what one round of one thread counts for */

    virtual ~workload() = default;
    virtual void prepare(int thread)
    {
        (void)thread;
    }
    virtual void run(int thread, int64_t rounds) = 0;
    virtual void clear(int thread)
    {
        (void)thread;
    }
};

/* How long a benchmark runs at least: --benchmark_min_time. */
extern double min_seconds;

/* Makes the workload for a team of `threads`; called anew for each run. */
using workload_maker = std::function<std::unique_ptr<workload>(int threads)>;

/* Add `name`/threads:N for each N of the bench. The part of the name before the first slash is the
 * benchmark's group. */
void add(const std::string &name, const workload_maker &make);

/* Each adds the benchmarks of one file. */
void add_calls();
void add_working_sets();
void add_handovers();

/* Run body(argument) on a new thread with a small stack, and wait for its end. The stack is small
 * so that the C library's cache of stacks holds those of the largest team. */
void on_new_thread(void *(*body)(void *), void *argument);

[[noreturn]] void fail(const char *what);

/* The random numbers are made once, before any clock runs, and are the same for all allocators. */
constexpr size_t random_count = size_t{1} << 18;

extern uint32_t random_words[random_count];
extern uint16_t random_sizes[random_count]; /* 16 to 1024 bytes, log-uniform */

void make_random_numbers();

/* A thread's walk through the random numbers; each thread starts somewhere else. */
struct random_walk {
    size_t at;

    explicit random_walk(int thread) : at(static_cast<size_t>(thread) * 10007 % random_count)
    {
    }
    void step()
    {
        at = (at + 1) % random_count;
    }
    size_t below(size_t limit) const
    {
        return static_cast<size_t>(uint64_t{random_words[at]} * limit >> 32);
    }
    size_t size() const
    {
        return random_sizes[at];
    }
};

/* The compiler must believe that the block escapes, or it may drop the call that made it. */
inline char *keep(void *block)
{
    if (block == nullptr)
        fail("an allocation failed");
    benchmark::DoNotOptimize(block);
    return static_cast<char *>(block);
}

inline char *take(size_t bytes)
{
    return keep(malloc(bytes));
}

/* Write to each cache line (or page) of the block's bytes from `begin` on. */
inline void touch(char *block, size_t begin, size_t end, size_t step)
{
    for (size_t at = begin; at < end; at += step)
        block[at] = 1;
    benchmark::ClobberMemory();
}

inline char *take_touched(size_t bytes)
{
    char *block = take(bytes);
    touch(block, 0, bytes, cache_line_bytes);
    return block;
}

} // namespace bench

#endif
