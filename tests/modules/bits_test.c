/* SPDX-License-Identifier: MIT */
/* base/bits.h against definitions a bit at a time. */
#include "modules.h"

#include "bits.h"

TEST(rounding_up_gives_the_next_multiple)
{
    for (size_t power = 1; power <= 4096; power *= 2)
        for (size_t value = 0; value < 10000; value++) {
            size_t rounded = fh_round_up(value, power);
            CHECK(rounded % power == 0 && rounded >= value && rounded - value < power);
        }
}

TEST(powers_of_two_are_those_with_one_bit)
{
    CHECK(!fh_is_power_of_two(0));
    for (unsigned i = 0; i < 64; i++)
        CHECK(fh_is_power_of_two((size_t)1 << i));
    for (size_t value = 1; value < 100000; value++)
        CHECK(fh_is_power_of_two(value) == (__builtin_popcountl(value) == 1));
}

TEST(the_logarithm_is_the_highest_bit_and_the_lowest_bit_the_first)
{
    for (unsigned high = 0; high < 64; high++)
        for (unsigned low = 0; low <= high; low++) {
            uint64_t word = (uint64_t)1 << high | (uint64_t)1 << low;
            CHECK(fh_log2_floor(word) == high);
            CHECK(fh_lowest_bit(word) == low);
        }
    CHECK(fh_log2_floor(~(uint64_t)0) == 63);
}

TEST(low_bits_count_from_none_to_all)
{
    for (unsigned count = 0; count <= 64; count++) {
        uint64_t word = fh_low_bits(count);
        CHECK(__builtin_popcountll(word) == (int)count);
        CHECK(count == 0 || fh_log2_floor(word) == count - 1);
    }
}

TEST(test_and_clear_takes_one_bit_and_says_whether_it_was_there)
{
    uint64_t word = 0xFFFF0000FFFF0200u;
    CHECK(FH_TEST_AND_CLEAR_BIT(&word, 9) && word == 0xFFFF0000FFFF0000u);
    CHECK(!FH_TEST_AND_CLEAR_BIT(&word, 9) && word == 0xFFFF0000FFFF0000u);
    CHECK(FH_TEST_AND_CLEAR_BIT(&word, 63) && word == 0x7FFF0000FFFF0000u);
}

static uint64_t runs_by_definition(uint64_t word, unsigned count)
{
    uint64_t starts = 0;
    for (unsigned start = 0; start + count <= 64; start++) {
        uint64_t run = fh_low_bits(count) << start;
        if ((word & run) == run)
            starts |= (uint64_t)1 << start;
    }
    return starts;
}

static void check_runs(uint64_t word)
{
    for (unsigned count = 1; count <= 64; count++)
        CHECK(fh_runs_of_ones(word, count) == runs_by_definition(word, count));
}

TEST(runs_of_ones_are_those_of_the_definition)
{
    uint64_t state = 1;
    check_runs(0);
    check_runs(~(uint64_t)0);
    for (unsigned first = 0; first < 64; first++)
        for (unsigned length = 1; first + length <= 64; length += 3)
            check_runs(fh_low_bits(length) << first);
    for (int i = 0; i < 3000; i++) {
        uint64_t word = (uint64_t)random_below(&state, ~0u) << 32 | random_below(&state, ~0u);
        check_runs(i % 3 == 0 ? word : word | word << 1 | word >> 7);
    }
}
