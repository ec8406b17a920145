/* SPDX-License-Identifier: MIT */
/* Teams of threads, and how a workload becomes benchmarks. */
#include "bench.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace bench
{

double min_seconds = 0.05;

namespace
{

constexpr int thread_counts[] = {1, 2, 16};
constexpr size_t small_stack_bytes = 256 * 1024;

struct entry {
    std::string name;
    workload_maker make;
};

std::vector<entry> entries;

double now_seconds(clockid_t clock)
{
    timespec now;
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct instant {
    double wall_seconds, cpu_seconds; /* the latter spent by the whole process */

    static instant now()
    {
        return {now_seconds(CLOCK_MONOTONIC), now_seconds(CLOCK_PROCESS_CPUTIME_ID)};
    }
};

struct member {
    instant begin, end;
};

struct team {
    workload &work;
    int64_t rounds;
    pthread_barrier_t barrier;
    std::vector<member> members;

    team(workload &of, int threads, int64_t each_rounds)
        : work(of), rounds(each_rounds), barrier(), members(static_cast<size_t>(threads))
    {
        if (pthread_barrier_init(&barrier, nullptr, static_cast<unsigned>(threads)) != 0)
            fail("no barrier");
    }
    ~team()
    {
        pthread_barrier_destroy(&barrier);
    }
    team(const team &) = delete;
    team &operator=(const team &) = delete;
};

void take_part(team &all, int thread)
{
    member &self = all.members[static_cast<size_t>(thread)];
    all.work.prepare(thread);
    pthread_barrier_wait(&all.barrier);
    self.begin = instant::now();
    all.work.run(thread, all.rounds);
    self.end = instant::now();
    pthread_barrier_wait(&all.barrier); /* clearing up must not slow those still running */
    all.work.clear(thread);
}

/* From the first start to the last end. The threads read the clocks themselves: a waiting main
 * thread would read them late when there are more threads than cores. */
instant elapsed(const std::vector<member> &members)
{
    member whole = members[0];
    for (const member &each : members) {
        whole.begin.wall_seconds = std::min(whole.begin.wall_seconds, each.begin.wall_seconds);
        whole.begin.cpu_seconds = std::min(whole.begin.cpu_seconds, each.begin.cpu_seconds);
        whole.end.wall_seconds = std::max(whole.end.wall_seconds, each.end.wall_seconds);
        whole.end.cpu_seconds = std::max(whole.end.cpu_seconds, each.end.cpu_seconds);
    }
    return {whole.end.wall_seconds - whole.begin.wall_seconds,
            whole.end.cpu_seconds - whole.begin.cpu_seconds};
}

/* The caller is thread 0, so that a team of one creates no thread. */
instant run_team(workload &work, int threads, int64_t rounds)
{
    team all(work, threads, rounds);
    std::vector<std::thread> others;
    for (int thread = 1; thread < threads; thread++)
        others.emplace_back([&all, thread] { take_part(all, thread); });
    take_part(all, 0);
    for (std::thread &other : others)
        other.join();
    return elapsed(all.members);
}

/* Runs with more and more rounds, until one has spent enough processor time on the work. Google
 * Benchmark would go by the wall clock, and take a single round for enough when the machine holds
 * it up for that long. */
instant run_long_enough(const workload_maker &make, int threads, int64_t &items)
{
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    const double enough_seconds = min_seconds * std::min(threads, cores);
    for (int64_t rounds = 1;;) {
        std::unique_ptr<workload> work = make(threads);
        const instant spent = run_team(*work, threads, rounds);
        items = rounds * threads * work->items_per_round;
        if (spent.cpu_seconds >= enough_seconds)
            return spent;
        const double factor = 1.2 * enough_seconds / std::max(spent.cpu_seconds, 1e-9);
        rounds = std::max(
            rounds + 1, static_cast<int64_t>(static_cast<double>(rounds) * std::min(factor, 20.0)));
    }
}

/* A lone thread is timed by what the process spends, which a busy machine disturbs least. Threads
 * that may hold each other up are timed by the clock on the wall. */
void run_benchmark(benchmark::State &state, const workload_maker &make, int threads)
{
    int64_t items = 0;
    for (auto _ : state) {
        const instant spent = run_long_enough(make, threads, items);
        state.SetIterationTime(threads == 1 ? spent.cpu_seconds : spent.wall_seconds);
    }
    state.SetItemsProcessed(items);
}

} // namespace

void add(const std::string &name, const workload_maker &make)
{
    entries.push_back({name, make});
}

/* All of one thread first: allocators may treat a process that never had a second thread better,
 * and programs of one thread are what those figures speak of. */
void register_all()
{
    for (int threads : thread_counts)
        for (const entry &each : entries)
            benchmark::RegisterBenchmark(
                (each.name + "/threads:" + std::to_string(threads)).c_str(),
                [&each, threads](benchmark::State &state) {
                    run_benchmark(state, each.make, threads);
                })
                ->UseManualTime()
                ->Iterations(1);
}

void on_new_thread(void *(*body)(void *), void *argument)
{
    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, small_stack_bytes);
    if (pthread_create(&thread, &attributes, body, argument) != 0)
        fail("no thread");
    pthread_attr_destroy(&attributes);
    pthread_join(thread, nullptr);
}

void fail(const char *what)
{
    fprintf(stderr, "freehold-bench: %s\n", what);
    abort();
}

} // namespace bench
