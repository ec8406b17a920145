/* SPDX-License-Identifier: MIT */
/* Arrays of slots, each thread's its own: a random slot's block is freed and another one taken.
 *
 *   alloc-test  an empty slot is filled and a full one emptied; low slots come up more often
 *   steady      all slots stay full; reports the memory with them
 *   medium      8 KiB to 1 MiB, each page written to
 *   large       5 to 25 MiB, every sixteenth page written to: about what a sparse table needs, and
 *               little enough that the kernel's zeroing of pages does not hide the rest
 */
#include "workloads.h"

static void **map_slots(size_t count)
{
    return map_table(count * sizeof(void *));
}

static void empty_slots(void **slots, size_t count)
{
    for (size_t i = 0; i < count; i++)
        give_tagged(slots[i]);
    unmap_table(slots, count * sizeof(void *));
}

/* ---- alloc-test ---- */

enum { ALLOC_TEST_SLOTS = 1 << 16, ALLOC_TEST_STEPS = 76 * 1000 * 1000 };

static void toggle(struct worker *self, void **slot)
{
    if (*slot == NULL) {
        *slot = take_tagged(self, random_skewed_size(self, 8, 7));
    } else {
        give_tagged(*slot);
        *slot = NULL;
    }
}

static void toggle_slots(struct worker *self)
{
    void **slots = map_slots(ALLOC_TEST_SLOTS);
    for (size_t step = share_of(ALLOC_TEST_STEPS); step > 0; step--)
        toggle(self, &slots[random_below(self, random_between(self, 1, ALLOC_TEST_SLOTS))]);
    empty_slots(slots, ALLOC_TEST_SLOTS);
}

void run_alloc_test(void)
{
    run_team(toggle_slots, NULL);
}

/* ---- steady ---- */

enum { STEADY_SLOTS = 200 * 1000, STEADY_STEPS = 15 * 1000 * 1000 };

struct steady {
    pthread_barrier_t filled, measured;
    size_t live_bytes[THREADS_MAX];
};

static size_t sum_of_slots(void *const *slots, size_t count)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += tagged_bytes(slots[i]);
    return bytes;
}

static size_t steady_bytes(struct worker *self)
{
    return random_log_size(self, 16, 4);
}

static void measure_steady(const struct steady *all)
{
    size_t live_bytes = 0;
    for (unsigned i = 0; i < options.threads; i++)
        live_bytes += all->live_bytes[i];
    result.live_kib = (long long)(live_bytes / KIB);
    result.rest_kib = resident_kib();
}

static void replace_slots(struct worker *self)
{
    struct steady *all = self->shared;
    void **slots = map_slots(STEADY_SLOTS);
    for (size_t i = 0; i < STEADY_SLOTS; i++)
        slots[i] = take_tagged(self, steady_bytes(self));
    for (size_t step = share_of(STEADY_STEPS); step > 0; step--) {
        void **slot = &slots[random_below(self, STEADY_SLOTS)];
        replace_tagged(self, slot, steady_bytes(self));
    }
    all->live_bytes[self->index] = sum_of_slots(slots, STEADY_SLOTS);
    pthread_barrier_wait(&all->filled);
    if (self->index == 0)
        measure_steady(all);
    pthread_barrier_wait(&all->measured);
    empty_slots(slots, STEADY_SLOTS);
}

void run_steady(void)
{
    static struct steady all;
    barrier_init(&all.filled, options.threads);
    barrier_init(&all.measured, options.threads);
    run_team(replace_slots, &all);
}

/* ---- medium and large ---- */

struct span {
    size_t slots, steps, step_bytes; /* a byte is written every step_bytes */
    size_t (*bytes)(struct worker *self);
};

static size_t medium_bytes(struct worker *self)
{
    return random_log_size(self, 8 * KIB, 7);
}

static size_t large_bytes(struct worker *self)
{
    return random_between(self, 5 * MIB, 25 * MIB);
}

static void touch(unsigned char *block, size_t step_bytes)
{
    const size_t end = tagged_bytes(block) - 1; /* the tag is in the first page and the last byte */
    for (size_t at = step_bytes; at < end; at += step_bytes)
        block[at] = (unsigned char)at;
}

static void replace_and_touch(struct worker *self)
{
    const struct span *span = self->shared;
    void **slots = map_slots(span->slots);
    for (size_t step = share_of(span->steps); step > 0; step--) {
        void **slot = &slots[random_below(self, span->slots)];
        replace_tagged(self, slot, span->bytes(self));
        touch(*slot, span->step_bytes);
    }
    empty_slots(slots, span->slots);
}

void run_medium(void)
{
    struct span span = {64, 700 * 1000, PAGE_BYTES, medium_bytes};
    run_team(replace_and_touch, &span);
}

void run_large(void)
{
    struct span span = {12, 19 * 1000, 16 * PAGE_BYTES, large_bytes};
    run_team(replace_and_touch, &span);
}
