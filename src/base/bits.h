/* SPDX-License-Identifier: MIT */
/* Arithmetic on powers of two and on words of bits. Pure functions. */
#ifndef FH_BASE_BITS_H
#define FH_BASE_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compiler.h"

FH_ALWAYS_INLINE size_t fh_round_up(size_t value, size_t power_of_two)
{
    return (value + power_of_two - 1) & ~(power_of_two - 1);
}

FH_ALWAYS_INLINE bool fh_is_power_of_two(size_t value)
{
    return value != 0 && (value & (value - 1)) == 0;
}

/* value > 0 */
FH_ALWAYS_INLINE unsigned fh_log2_floor(uint64_t value)
{
    return 63u - (unsigned)__builtin_clzll(value);
}

/* word != 0 */
FH_ALWAYS_INLINE unsigned fh_lowest_bit(uint64_t word)
{
    return (unsigned)__builtin_ctzll(word);
}

/* The lowest `count` bits, count in 0..64. */
FH_ALWAYS_INLINE uint64_t fh_low_bits(unsigned count)
{
    return count >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << count) - 1;
}

/* The start positions of all runs of `count` one bits in `word`, count in 1..64: bit i of the
 * result is set if bits i .. i + count - 1 are. Doubles the length already proven, so at most 7
 * steps. */
FH_ALWAYS_INLINE uint64_t fh_runs_of_ones(uint64_t word, unsigned count)
{
    unsigned proven = 1;
    while (proven < count && word != 0) {
        unsigned step = count - proven < proven ? count - proven : proven;
        word &= word >> step;
        proven += step;
    }
    return word;
}

#endif
