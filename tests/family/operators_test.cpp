/* SPDX-License-Identifier: MIT */
/* operator new and delete in all their forms, how they fail, and C++ programs around them. */
#include "family.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <vector>

namespace
{

constexpr std::size_t too_much = static_cast<std::size_t>(PTRDIFF_MAX) + 1;
constexpr std::align_val_t alignment{64};

/* ---- All forms ------------------------------------------------------------------------------ */

/* Called as functions: a compiler may leave out a `new` expression whose block goes unused. */
struct taking {
    bool array, aligned, nothrow;
    void *(*take)(std::size_t bytes);
};

const taking takings[] = {
    {false, false, false, [](std::size_t n) { return ::operator new(n); }},
    {false, false, true, [](std::size_t n) { return ::operator new(n, std::nothrow); }},
    {false, true, false, [](std::size_t n) { return ::operator new(n, alignment); }},
    {false, true, true, [](std::size_t n) { return ::operator new(n, alignment, std::nothrow); }},
    {true, false, false, [](std::size_t n) { return ::operator new[](n); }},
    {true, false, true, [](std::size_t n) { return ::operator new[](n, std::nothrow); }},
    {true, true, false, [](std::size_t n) { return ::operator new[](n, alignment); }},
    {true, true, true, [](std::size_t n) { return ::operator new[](n, alignment, std::nothrow); }},
};

struct freeing {
    bool array, aligned;
    void (*free)(void *block, std::size_t bytes);
};

const freeing freeings[] = {
    {false, false, [](void *p, std::size_t) { ::operator delete(p); }},
    {false, false, [](void *p, std::size_t n) { ::operator delete(p, n); }},
    {false, false, [](void *p, std::size_t) { ::operator delete(p, std::nothrow); }},
    {false, true, [](void *p, std::size_t) { ::operator delete(p, alignment); }},
    {false, true, [](void *p, std::size_t n) { ::operator delete(p, n, alignment); }},
    {false, true, [](void *p, std::size_t) { ::operator delete(p, alignment, std::nothrow); }},
    {true, false, [](void *p, std::size_t) { ::operator delete[](p); }},
    {true, false, [](void *p, std::size_t n) { ::operator delete[](p, n); }},
    {true, false, [](void *p, std::size_t) { ::operator delete[](p, std::nothrow); }},
    {true, true, [](void *p, std::size_t) { ::operator delete[](p, alignment); }},
    {true, true, [](void *p, std::size_t n) { ::operator delete[](p, n, alignment); }},
    {true, true, [](void *p, std::size_t) { ::operator delete[](p, alignment, std::nothrow); }},
};

bool belong_together(const taking &taking, const freeing &freeing)
{
    return taking.array == freeing.array && taking.aligned == freeing.aligned;
}

void take_and_free(const taking &taking, const freeing &freeing, std::size_t bytes)
{
    void *first = taking.take(bytes);
    void *second = taking.take(bytes);
    CHECK(first != nullptr && second != nullptr && first != second);
    CHECK(family_owned(first) && family_owned(second));
    const std::uintptr_t aligned_to = taking.aligned ? 64 : 16;
    CHECK(reinterpret_cast<std::uintptr_t>(first) % aligned_to == 0);
    CHECK(reinterpret_cast<std::uintptr_t>(second) % aligned_to == 0);
    family_fill(first, bytes, 1);
    family_fill(second, bytes, 2);
    CHECK(family_intact(first, bytes, 1));
    freeing.free(first, bytes);
    CHECK(family_intact(second, bytes, 2));
    freeing.free(second, bytes);
}

TEST(every_new_goes_with_every_delete_of_its_kind)
{
    for (const taking &taking : takings) {
        for (const freeing &freeing : freeings) {
            if (!belong_together(taking, freeing))
                continue;
            for (std::size_t bytes = 0; bytes < 1200; bytes++)
                take_and_free(taking, freeing, bytes);
            for (std::size_t bytes : {5 * KIB, 40 * KIB, 100 * KIB, 5 * MIB})
                take_and_free(taking, freeing, bytes);
        }
    }
}

TEST(every_delete_really_frees)
{
    const std::size_t before = family_resident_bytes();
    for (const taking &taking : takings) {
        for (const freeing &freeing : freeings) {
            for (int round = 0; round < 1000 && belong_together(taking, freeing); round++) {
                void *block = taking.take(20000);
                std::memset(block, 1, 20000);
                freeing.free(block, 20000);
            }
        }
    }
    CHECK(family_resident_bytes() < before + 16 * MIB); /* of 480 MB taken */
}

TEST(delete_of_null_does_nothing)
{
    for (const freeing &freeing : freeings)
        freeing.free(nullptr, 0);
}

TEST(every_alignment_of_new_holds)
{
    for (std::size_t align = 1; align <= 4 * MIB; align *= 2) {
        for (std::size_t bytes : {std::size_t{0}, std::size_t{1}, align + 1, std::size_t{100000}}) {
            void *block = ::operator new (bytes, std::align_val_t{align});
            CHECK(reinterpret_cast<std::uintptr_t>(block) % align == 0 && family_owned(block));
            family_fill(block, bytes, 3);
            ::operator delete (block, bytes, std::align_val_t{align});
        }
    }
}

/* ---- Failure -------------------------------------------------------------------------------- */

int handler_calls;

void give_up_at_the_third_call()
{
    if (++handler_calls == 3)
        std::set_new_handler(nullptr);
}

struct own_failure : std::bad_alloc {
};

void throw_own_failure()
{
    handler_calls++;
    throw own_failure();
}

void throw_bad_alloc()
{
    handler_calls++;
    throw std::bad_alloc();
}

template <class Failure> bool throws(const taking &taking, std::size_t bytes)
{
    try {
        taking.take(bytes);
    } catch (const Failure &) {
        return true;
    }
    return false;
}

TEST(new_without_a_handler_throws_bad_alloc)
{
    std::set_new_handler(nullptr);
    for (const taking &taking : takings) {
        for (std::size_t bytes : {too_much, SIZE_MAX, SIZE_MAX - 63, std::size_t{1} << 47}) {
            if (taking.nothrow)
                CHECK(taking.take(bytes) == nullptr);
            else
                CHECK(throws<std::bad_alloc>(taking, bytes));
        }
    }
}

TEST(new_calls_its_handler_again_and_again_until_there_is_none)
{
    for (const taking &taking : takings) {
        handler_calls = 0;
        std::set_new_handler(give_up_at_the_third_call);
        if (taking.nothrow)
            CHECK(taking.take(too_much) == nullptr);
        else
            CHECK(throws<std::bad_alloc>(taking, too_much));
        CHECK(handler_calls == 3);
    }
}

TEST(what_a_handler_throws_reaches_the_caller_of_new)
{
    std::set_new_handler(throw_own_failure);
    handler_calls = 0;
    for (const taking &taking : takings) {
        if (!taking.nothrow)
            CHECK(throws<own_failure>(taking, too_much));
    }
    CHECK(handler_calls == 4);
}

TEST(nothrow_new_gives_null_when_the_handler_throws)
{
    std::set_new_handler(throw_bad_alloc);
    handler_calls = 0;
    for (const taking &taking : takings) {
        if (taking.nothrow)
            CHECK(taking.take(too_much) == nullptr);
    }
    CHECK(handler_calls == 4);
}

TEST(a_new_expression_fails_as_the_language_says)
{
    std::set_new_handler(nullptr);
    volatile std::size_t count = SIZE_MAX / 2;
    bool caught = false;
    try {
        std::unique_ptr<char[]> never(new char[count]);
        CHECK(never[0] == 0); /* not reached */
    } catch (const std::bad_alloc &) {
        caught = true;
    }
    CHECK(caught);
    CHECK(new (std::nothrow) char[count] == nullptr);
    std::unique_ptr<std::string> fine(new std::string(1000, 'x')); /* and life goes on */
    CHECK((*fine)[999] == 'x');
}

std::vector<void *> hoard;

void give_up_half_of_the_hoard()
{
    handler_calls++;
    CHECK(hoard.size() > 1);
    for (std::size_t half = hoard.size() / 2; half > 0; half--) {
        std::free(hoard.back());
        hoard.pop_back();
    }
}

void limit_address_space()
{
    const rlimit limit = {256 * MIB, 256 * MIB};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

TEST(new_succeeds_once_its_handler_has_freed_memory)
{
    IN_FRESH_PROCESS(limit_address_space);
    hoard.reserve(4096);
    while (void *block = std::malloc(100 * KIB))
        hoard.push_back(block);
    CHECK(hoard.size() > 1000 && hoard.size() < 4096);
    std::set_new_handler(give_up_half_of_the_hoard);
    void *block = ::operator new(4 * MIB);
    CHECK(block != nullptr && handler_calls > 0);
    family_fill(block, 4 * MIB, 1);
    ::operator delete(block);
    for (void *kept : hoard)
        std::free(kept);
    hoard.clear();
}

/* ---- Programs ------------------------------------------------------------------------------- */

/* Filled before main(), emptied after it. */
const std::map<int, std::string> global_map = [] {
    std::map<int, std::string> map;
    for (int i = 0; i < 1000; i++)
        map[i] = std::string(static_cast<std::size_t>(i), 'g');
    return map;
}();

TEST(containers_use_the_allocator_before_and_in_main)
{
    CHECK(global_map.size() == 1000 && global_map.at(999).size() == 999);
    CHECK(family_owned(global_map.at(999).data()));
    std::vector<std::string> strings;
    for (int i = 0; i < 10000; i++)
        strings.push_back(std::string(static_cast<std::size_t>(i % 300), 'x') + std::to_string(i));
    CHECK(family_owned(strings.data()) && family_owned(strings[299].data()));
    CHECK(strings[299].size() == 302 && strings[299].compare(299, 3, "299") == 0);
}

/* Destroyed at the thread's end, where it allocates once more. */
struct farewell {
    std::vector<std::string> words;
    ~farewell()
    {
        for (int i = 0; i < 20; i++)
            words.push_back(std::string(100, 'b') + std::to_string(i));
        std::unique_ptr<char[]> large(new char[200 * KIB]);
        family_fill(large.get(), 200 * KIB, 1);
        CHECK(words.size() == 21 && words[1].size() == 101 && family_owned(words[1].data()));
    }
};
thread_local farewell last_words;

void start_and_end_threads(int count)
{
    for (int i = 0; i < count; i++)
        std::thread([] { last_words.words.push_back(std::string(1000, 'a')); }).join();
}

TEST(thread_local_destructors_may_allocate)
{
    start_and_end_threads(500);
    const std::size_t before = family_resident_bytes();
    start_and_end_threads(1500);
    CHECK(family_resident_bytes() < before + 1 * MIB);
}

const family_test tests[] = {
    ENTRY(every_new_goes_with_every_delete_of_its_kind),
    ENTRY(every_delete_really_frees),
    ENTRY(delete_of_null_does_nothing),
    ENTRY(every_alignment_of_new_holds),
    ENTRY(new_without_a_handler_throws_bad_alloc),
    ENTRY(new_calls_its_handler_again_and_again_until_there_is_none),
    ENTRY(what_a_handler_throws_reaches_the_caller_of_new),
    ENTRY(nothrow_new_gives_null_when_the_handler_throws),
    ENTRY(a_new_expression_fails_as_the_language_says),
    ENTRY(new_succeeds_once_its_handler_has_freed_memory),
    ENTRY(containers_use_the_allocator_before_and_in_main),
    ENTRY(thread_local_destructors_may_allocate),
};

} // namespace

int main(int argc, char **argv)
{
    return family_main(tests, sizeof tests / sizeof tests[0], argc, argv);
}
