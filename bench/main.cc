/* SPDX-License-Identifier: MIT */
/* freehold-bench: the benchmarks, for whichever allocator is preloaded.
 *
 * With --origins it only tells which object each allocation function comes from. A normal run puts
 * the same into the context of its results, and ends with its peak resident memory on stderr.
 * Everything else on the command line is Google Benchmark's; the time that it shows is that of a
 * whole run, and items_per_second the figure to read.
 */
#include "bench.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

namespace bench
{

uint32_t random_words[random_count];
uint16_t random_sizes[random_count];

void register_all();

namespace
{

constexpr const char *functions[] = {"malloc", "free", "calloc", "realloc", "aligned_alloc"};

std::string origin(const char *function)
{
    Dl_info info;
    void *address = dlsym(RTLD_DEFAULT, function);
    if (address == nullptr || dladdr(address, &info) == 0 || info.dli_fname == nullptr)
        return "unknown";
    return info.dli_fname;
}

int print_origins()
{
    for (const char *function : functions)
        printf("%s %s\n", function, origin(function).c_str());
    return 0;
}

/* Google Benchmark takes this option too, but keeps its value to itself. */
void read_min_time(int argc, char **argv)
{
    constexpr const char option[] = "--benchmark_min_time=";
    for (int at = 1; at < argc; at++)
        if (strncmp(argv[at], option, sizeof option - 1) == 0)
            min_seconds = strtod(argv[at] + sizeof option - 1, nullptr);
}

uint64_t next_random(uint64_t &state)
{
    state += 0x9e3779b97f4a7c15u;
    uint64_t mixed = state;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

void print_peak_memory()
{
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    if (status == nullptr)
        return;
    while (fgets(line, sizeof line, status) != nullptr)
        if (strncmp(line, "VmHWM:", 6) == 0)
            fprintf(stderr, "peak_rss_kib %ld\n", strtol(line + 6, nullptr, 10));
    fclose(status);
}

} // namespace

void make_random_numbers()
{
    uint64_t state = 1;
    for (size_t at = 0; at < random_count; at++) {
        const uint64_t number = next_random(state);
        const double fraction = static_cast<double>(number & 0xffffffff) / 4294967296.0;
        random_words[at] = static_cast<uint32_t>(number >> 32);
        random_sizes[at] = static_cast<uint16_t>(exp2(4 + 6 * fraction));
    }
}

} // namespace bench

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--origins") == 0)
        return bench::print_origins();

    bench::read_min_time(argc, argv);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv))
        return 1;
    for (const char *function : bench::functions)
        benchmark::AddCustomContext(std::string("origin_") + function, bench::origin(function));

    bench::make_random_numbers();
    bench::add_calls();
    bench::add_working_sets();
    bench::add_handovers();
    bench::register_all();
    benchmark::RunSpecifiedBenchmarks();
    bench::print_peak_memory();
    return 0;
}
