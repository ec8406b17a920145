/* SPDX-License-Identifier: MIT */
/* How cost grows: here the steps are always the same, and --scale says how much there is.
 *
 *   heap     so many MiB of live blocks, replaced at random: what more memory costs a call
 *   classes  so many sizes, from 16 bytes to 32 KiB, replaced at random: what more of them cost
 *
 * Neither is part of a comparison of times, for a larger scale is not more work. The time is that
 * of the steps alone; memory is what is resident after them.
 */
#include "workloads.h"

enum { GROWTH_STEPS = 4 * 1000 * 1000 };

struct growth {
    size_t slots;
    size_t (*bytes)(struct worker *self);
};

static void step_through(struct worker *self, const struct growth *growth, void **slots)
{
    const double start = now_seconds();
    self->operations = 0;
    for (size_t step = GROWTH_STEPS; step > 0; step--)
        replace_tagged(self, &slots[random_below(self, growth->slots)], growth->bytes(self));
    result.seconds = now_seconds() - start;
    result.rest_kib = resident_kib();
}

static void measure_growth(struct worker *self)
{
    const struct growth *growth = self->shared;
    void **slots = map_table(growth->slots * sizeof(void *));
    size_t live_bytes = 0;
    for (size_t i = 0; i < growth->slots; i++)
        slots[i] = take_tagged(self, growth->bytes(self));
    step_through(self, growth, slots);
    for (size_t i = 0; i < growth->slots; i++) {
        live_bytes += tagged_bytes(slots[i]);
        give_tagged(slots[i]);
    }
    result.live_kib = (long long)(live_bytes / KIB);
    unmap_table(slots, growth->slots * sizeof(void *));
}

static size_t heap_bytes(struct worker *self)
{
    return random_between(self, 16, 1008); /* 512 on average */
}

void run_heap(void)
{
    struct growth growth = {scaled(MIB / 512), heap_bytes};
    run_team(measure_growth, &growth);
}

/* The sizes of pymalloc up to 512 bytes, then four for each doubling, as most allocators have. */
enum { SIZES = 32 + 4 * 6, SIZES_SLOTS = 4000 };

static size_t nth_size(size_t n)
{
    if (n < 32)
        return 16 * (n + 1);
    const size_t base = (size_t)512 << (n - 32) / 4;
    return base + base / 4 * ((n - 32) % 4 + 1);
}

static size_t class_bytes(struct worker *self)
{
    const size_t sizes = scaled(1) < SIZES ? scaled(1) : SIZES;
    return nth_size(random_below(self, sizes) * SIZES / sizes);
}

void run_classes(void)
{
    struct growth growth = {SIZES_SLOTS, class_bytes};
    run_team(measure_growth, &growth);
}
