// SPDX-License-Identifier: MIT
// The domains of libfreehold against CPython's own allocator and against locks:
//
//     build/bench/freehold-domains [--python-hooks] [Google Benchmark's options]
//
// Requests are mixed as a real interpreter makes them (object domain of CPython 3.13 that parses,
// compresses and hashes: 3.5 million requests, a seventh of them realloc, 96.6 % of at most 512
// bytes), and a few thousand blocks live at a time. Who takes part is in candidates(); rounds take
// turns, and at the end comes a table of medians and of what they are divided by python's with as
// many threads. With --python-hooks python's are those under CPython's own debug hooks, which
// cannot be taken away again. Without libpython3.11 its rows are left out, and ratios are to "mutex
// around a gil-assert heap".
#include <benchmark/benchmark.h>
#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include <freehold.h>
#include <freehold/debug.h>
#include <freehold/gil.h>
#include <freehold/heap.h>
#include <freehold/trace.h>

namespace
{

// ---- The requests
// --------------------------------------------------------------------------------

constexpr std::size_t kLive = 4096;
constexpr std::size_t kRequests = 1 << 16;

struct Request {
    std::uint32_t bytes;
    std::uint16_t slot;
    bool resizes;
};

class Random
{
  public:
    explicit Random(std::uint64_t seed) : state_(seed)
    {
    }
    std::uint32_t below(std::uint32_t limit)
    {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<std::uint32_t>((state_ >> 32) * limit >> 32);
    }

  private:
    std::uint64_t state_;
};

// How often, in thousands of 3542: sizes rounded up to 16, the rest below 512, larger ones.
std::uint32_t any_size(Random &random)
{
    static const struct {
        std::uint32_t bytes, weight;
    } mix[] = {{32, 1104}, {48, 1136}, {64, 341},  {80, 217},
               {96, 98},   {112, 69},  {128, 141}, {160, 81}};
    std::uint32_t chance = random.below(3542);
    for (const auto &kind : mix) {
        if (chance < kind.weight)
            return kind.bytes - random.below(16);
        chance -= kind.weight;
    }
    if (chance < 235)
        return 1 + random.below(512);
    return 513 << random.below(5); // to 8 KiB
}

const std::vector<Request> &requests()
{
    static const std::vector<Request> all = [] {
        Random random(1);
        std::vector<Request> made(kRequests);
        for (Request &request : made)
            request = {any_size(random), static_cast<std::uint16_t>(random.below(kLive)),
                       random.below(1000) < 135};
        return made;
    }();
    return all;
}

// ---- Who serves them
// -------------------------------------------------------------------------------

using Malloc = void *(*)(std::size_t);
using Realloc = void *(*)(void *, std::size_t);
using Free = void (*)(void *);

struct Python {
    Malloc malloc = nullptr;
    Realloc realloc = nullptr;
    Free free = nullptr;
    void (*setup_debug)() = nullptr;

    Python()
    {
        void *library = dlopen("libpython3.11.so.1.0", RTLD_NOW);
        if (library == nullptr)
            return;
        find(library, "PyObject_Malloc", &malloc);
        find(library, "PyObject_Realloc", &realloc);
        find(library, "PyObject_Free", &free);
        find(library, "PyMem_SetupDebugHooks", &setup_debug);
    }

  private:
    template <typename Function>
    static void find(void *library, const char *name, Function *function)
    {
        void *found = dlsym(library, name);
        std::memcpy(function, &found, sizeof found);
    }
};

Python python;
std::mutex mutex;
fh_heap *assert_heap, *lock_heap, *free_heap;

fh_heap *make(fh_obj_mode mode)
{
    fh_heap_config config = {};
    config.struct_bytes = sizeof config;
    config.mode = mode;
    return fh_heap_create(&config);
}

struct OfPython {
    static void *malloc(std::size_t bytes)
    {
        return python.malloc(bytes);
    }
    static void *realloc(void *block, std::size_t bytes)
    {
        return python.realloc(block, bytes);
    }
    static void free(void *block)
    {
        python.free(block);
    }
};

// The object domain as it is: Freehold's own memory, a current heap, hooks, tracing.
struct OfDomain {
    static void *malloc(std::size_t bytes)
    {
        return fh_obj_malloc(bytes);
    }
    static void *realloc(void *block, std::size_t bytes)
    {
        return fh_obj_realloc(block, bytes);
    }
    static void free(void *block)
    {
        fh_obj_free(block);
    }
};

template <fh_heap **heap> struct OfHeap {
    static void *malloc(std::size_t bytes)
    {
        return fh_heap_malloc(*heap, FH_DOMAIN_OBJ, bytes);
    }
    static void *realloc(void *block, std::size_t bytes)
    {
        return fh_heap_realloc(*heap, FH_DOMAIN_OBJ, block, bytes);
    }
    static void free(void *block)
    {
        fh_heap_free(*heap, FH_DOMAIN_OBJ, block);
    }
};

template <typename Inner> struct UnderMutex {
    static void *malloc(std::size_t bytes)
    {
        std::lock_guard<std::mutex> lock(mutex);
        return Inner::malloc(bytes);
    }
    static void *realloc(void *block, std::size_t bytes)
    {
        std::lock_guard<std::mutex> lock(mutex);
        return Inner::realloc(block, bytes);
    }
    static void free(void *block)
    {
        std::lock_guard<std::mutex> lock(mutex);
        Inner::free(block);
    }
};

// ---- The work
// ------------------------------------------------------------------------------------

void touch(void *block)
{
    if (block != nullptr)
        *static_cast<volatile char *>(block) = 1; // as whoever asked for it would
}

template <typename Serves> void serve(std::vector<void *> &live, const Request &request)
{
    void *&place = live[request.slot];
    if (request.resizes) {
        place = Serves::realloc(place, request.bytes);
    } else {
        Serves::free(place);
        place = Serves::malloc(request.bytes);
    }
    touch(place);
}

template <typename Serves> void mix(benchmark::State &state)
{
    std::vector<void *> live(kLive);
    const std::vector<Request> &all = requests();
    std::size_t next = static_cast<std::size_t>(state.thread_index()) * 4099 % kRequests;
    for (auto _ : state) {
        serve<Serves>(live, all[next]);
        next = (next + 1) % kRequests;
    }
    for (void *block : live)
        Serves::free(block);
}

struct Candidate {
    std::string name;
    void (*run)(benchmark::State &);
    std::vector<int> threads;
    std::function<void()> before, after;
};

void nothing()
{
}

std::vector<Candidate> candidates()
{
    const std::vector<int> one = {1}, several = {1, 2, 16};
    auto current = [] { (void)fh_heap_set_current(assert_heap); };
    auto none = [] { (void)fh_heap_set_current(nullptr); };
    // Hooks that are off still pass calls on, so what the domain had before is put back.
    static fh_allocator before;
    auto remember = [] { fh_get_allocator(FH_DOMAIN_OBJ, &before); };
    auto restore = [] { (void)fh_set_allocator(FH_DOMAIN_OBJ, &before); };
    auto trace = [=] {
        remember();
        (void)fh_trace_start(1);
    };
    auto untrace = [=] {
        fh_trace_stop();
        restore();
    };
    auto hooks = [=] {
        remember();
        (void)fh_debug_setup();
    };
    auto quarantine = [](std::size_t bytes) {
        fh_debug_config config = {};
        config.struct_bytes = sizeof config;
        config.quarantine_bytes = bytes;
        (void)fh_debug_configure(&config);
    };
    auto hooks_alone = [=] {
        quarantine(0);
        hooks();
    };
    auto unhook = [=] {
        quarantine(1 << 20);
        (void)fh_debug_teardown();
        restore();
    };
    std::vector<Candidate> all = {
        {"free, no heap", mix<OfDomain>, several, nothing, nothing},
        {"free heap", mix<OfHeap<&free_heap>>, several, nothing, nothing},
        {"gil-assert heap", mix<OfHeap<&assert_heap>>, one, nothing, nothing},
        {"gil-assert heap, current", mix<OfDomain>, one, current, none},
        {"gil-lock heap", mix<OfHeap<&lock_heap>>, several, nothing, nothing},
        {"mutex, gil-assert heap", mix<UnderMutex<OfHeap<&assert_heap>>>, several, nothing,
         nothing},
        {"free, traced, 1 frame", mix<OfDomain>, one, trace, untrace},
        {"free, hooks, no quarantine", mix<OfDomain>, one, hooks_alone, unhook},
        {"free, hooks", mix<OfDomain>, one, hooks, unhook},
    };
    if (python.malloc != nullptr) {
        all.push_back({"python", mix<OfPython>, one, nothing, nothing});
        all.push_back({"mutex, python", mix<UnderMutex<OfPython>>, several, nothing, nothing});
    }
    return all;
}

// ---- The report
// ----------------------------------------------------------------------------------

constexpr int kRounds = 5;

using Times = std::map<std::string, std::vector<double>>; // ns, by "name/threads"

class Collector : public benchmark::ConsoleReporter
{
  public:
    Times times;
    void ReportRuns(const std::vector<Run> &runs) override
    {
        for (const Run &run : runs)
            times[run.run_name.function_name + "/" + std::to_string(run.threads)].push_back(
                run.GetAdjustedRealTime());
    }
    bool ReportContext(const Context &) override
    {
        return true;
    }
};

double median(std::vector<double> values)
{
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

void print_row(const Times &times, const std::string &name, int threads)
{
    auto found = times.find(name + "/" + std::to_string(threads));
    if (found == times.end())
        return;
    const std::string base = threads == 1 && times.count("python/1") ? "python/1"
                             : python.malloc != nullptr
                                 ? "mutex, python/" + std::to_string(threads)
                                 : "mutex, gil-assert heap/" + std::to_string(threads);
    double middle = median(found->second);
    auto ends = std::minmax_element(found->second.begin(), found->second.end());
    std::printf("| %-26s | %7d | %8.1f | %6.1f to %6.1f | %6.2f |\n", name.c_str(), threads, middle,
                *ends.first, *ends.second, middle / median(times.at(base)));
}

void print_table(const Times &times, const std::vector<Candidate> &all)
{
    std::printf(
        "\n| %-26s | threads | ns each |     least, most | ratio |\n|---|--:|--:|--:|--:|\n",
        "who serves");
    for (int threads : {1, 2, 16})
        for (const Candidate &candidate : all)
            print_row(times, candidate.name, threads);
    std::printf(
        "\nns each: the clock divided by the requests of all threads; median of %d rounds.\n"
        "ratio: 1 thread, to python; more, to a mutex around it.\n",
        kRounds);
}

void run_round(const std::vector<Candidate> &all, Collector &collector)
{
    for (const Candidate &candidate : all) {
        benchmark::ClearRegisteredBenchmarks();
        for (int threads : candidate.threads)
            benchmark::RegisterBenchmark(candidate.name.c_str(), candidate.run)
                ->Threads(threads)
                ->UseRealTime();
        candidate.before();
        benchmark::RunSpecifiedBenchmarks(&collector);
        candidate.after();
    }
}

} // namespace

int main(int argc, char **argv)
{
    benchmark::Initialize(&argc, argv);
    if (argc > 1 && std::strcmp(argv[1], "--python-hooks") == 0 && python.setup_debug != nullptr)
        python.setup_debug();
    assert_heap = make(FH_OBJ_GIL_ASSERT);
    lock_heap = make(FH_OBJ_GIL_LOCK);
    free_heap = make(FH_OBJ_FREE);
    if (assert_heap == nullptr || lock_heap == nullptr || free_heap == nullptr)
        return 1;
    const std::vector<Candidate> all = candidates();
    Collector collector;
    for (int round = 0; round < kRounds; round++)
        run_round(all, collector);
    print_table(collector.times, all);
    return 0;
}
