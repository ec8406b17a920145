/* SPDX-License-Identifier: MIT */
/* Memory as C11 lets it be: the order that each operation names is what counts.
 *
 * The library is compiled with -fsanitize=thread and linked with the functions below instead of
 * ThreadSanitizer's: the compiler makes each plain access and each atomic operation, with its
 * order, a call of one of them. Logical threads have vector clocks. A release leaves the thread's
 * clock with the store, an acquire that reads the store takes it over, and a read-modify-write
 * carries on what the store before it left. Everything else follows from these clocks:
 *
 *   race         two accesses to a byte, one a write and one plain, neither of which happens before
 *                the other: the schedule fails
 *   older value  a load may return one of the last STORES_KEPT stores, unless a later one happens
 *                before the load, or was read by something that does, or both it and the load are
 *                sequentially consistent: a choice of the explorer
 *   late store   a read-modify-write may come before the newest store in the location's order,
 * under the same conditions, unless that is a read-modify-write itself: its own value is then
 * overwritten; a choice too
 *
 * Sequentially consistent operations take place in the order in which they are run. Real memory
 * has the newest value of each location, so that the test itself, which looks when all threads are
 * done, needs nothing of this. What is not shown: a load before the store that it reads from
 * (speculation), and a failing compare-and-swap that reads an older value.
 */
#include "weak.h"

#include <stdint.h>
#include <string.h>

#include "sched.h"

enum {
    STORES_KEPT = 4,
    GRANULE_BYTES = 8,
    TABLE_SHIFT = 17,
    TABLE = 1 << TABLE_SHIFT,
    PLACES_SHIFT = 12,
    PLACES = 1 << PLACES_SHIFT,
};

enum access { PLAIN_READ, PLAIN_WRITE, ATOMIC_READ, ATOMIC_WRITE, ACCESSES };

/* How far a thread has got, as others know it; counted up after each release. */
typedef uint16_t clock_of_thread;

struct clocks {
    clock_of_thread of[THREADS_MAX];
};

/* Where an atomic variable is: its last stores, newest first. */
struct store {
    uint64_t value;
    int thread; /* -1: from before the schedule */
    clock_of_thread clock;
    bool updates;           /* it is a read-modify-write */
    bool consistent;        /* a sequentially consistent operation stored or read it */
    struct clocks released; /* what who acquires it gets to know */
    struct clocks read;     /* when each thread first read it; 0: not yet */
};

struct place {
    const void *at;
    uint32_t schedule; /* of any other than this one it is void */
    unsigned count;
    unsigned behind; /* threads that did not find the newest, as bits */
    struct store stores[STORES_KEPT];
};

/* When each byte was last accessed, by whom and how; 0: never. */
struct granule {
    uintptr_t at;
    uint32_t schedule;
    uint8_t threads; /* as bits */
    clock_of_thread last[THREADS_MAX][ACCESSES][GRANULE_BYTES];
};

static struct place places[PLACES];
static struct granule granules[TABLE];
static uint32_t schedule;
static unsigned place_count, granule_count;
static struct clocks known[THREADS_MAX];
static struct clocks passed[SLOTS];

/* ---- Clocks -----------------------------------------------------------------------------------
 */

void weak_reset(void)
{
    schedule++;
    place_count = granule_count = 0;
    memset(known, 0, sizeof known);
    memset(passed, 0, sizeof passed);
    for (int thread = 0; thread < THREADS_MAX; thread++)
        known[thread].of[thread] = 1;
}

static void learn(struct clocks *clocks, const struct clocks *more)
{
    for (int thread = 0; thread < THREADS_MAX; thread++)
        if (clocks->of[thread] < more->of[thread])
            clocks->of[thread] = more->of[thread];
}

/* What the thread did until now goes with what it releases; what it does from here on does not. */
static void released(int me)
{
    if (++known[me].of[me] == 0)
        fail("too many releases for a clock");
}

void weak_pass_on(int slot)
{
    if (!machine_explores())
        return;
    passed[slot] = known[machine_thread()];
    released(machine_thread());
}

void weak_receive(int slot)
{
    if (machine_explores())
        learn(&known[machine_thread()], &passed[slot]);
}

void weak_join(int thread)
{
    if (machine_explores() && thread < THREADS_MAX)
        learn(&known[machine_thread()], &known[thread]);
}

/* ---- Races ------------------------------------------------------------------------------------
 */

static struct granule *granule_of(uintptr_t at)
{
    uintptr_t key = at / GRANULE_BYTES;
    size_t slot = key * 0x9E3779B97F4A7C15u >> (64 - TABLE_SHIFT);
    while (granules[slot].schedule == schedule && granules[slot].at != key)
        slot = (slot + 1) % TABLE;
    if (granules[slot].schedule == schedule)
        return &granules[slot];
    if (++granule_count > TABLE / 4 * 3)
        fail("more memory is accessed than weak.c has room for");
    memset(&granules[slot], 0, sizeof granules[slot]);
    granules[slot].at = key;
    granules[slot].schedule = schedule;
    return &granules[slot];
}

static bool conflict(enum access one, enum access other)
{
    static const bool conflicts[ACCESSES][ACCESSES] = {
        [PLAIN_READ] = {[PLAIN_WRITE] = true, [ATOMIC_WRITE] = true},
        [PLAIN_WRITE] = {true, true, true, true},
        [ATOMIC_READ] = {[PLAIN_WRITE] = true},
        [ATOMIC_WRITE] = {[PLAIN_READ] = true, [PLAIN_WRITE] = true},
    };
    return conflicts[one][other];
}

static void tell_race(int me, enum access now, int other, enum access before, uintptr_t at)
{
    static const char *const words[] = {"reads", "writes", "reads (atomically)",
                                        "writes (atomically)"};
    char name[64];
    machine_describe((const void *)at, name, sizeof name);
    fail("race: thread %d %s and thread %d %s, unordered: %s", other, words[before], me, words[now],
         name);
}

static void check_against(const struct granule *granule, int me, int other, unsigned first,
                          unsigned end, enum access now)
{
    clock_of_thread past = known[me].of[other];
    for (enum access before = 0; before < ACCESSES; before++) {
        if (!conflict(now, before))
            continue;
        for (unsigned byte = first; byte < end; byte++)
            if (granule->last[other][before][byte] > past)
                tell_race(me, now, other, before, granule->at * GRANULE_BYTES + byte);
    }
}

static void access_granule(uintptr_t at, unsigned bytes, enum access now)
{
    int me = machine_thread();
    struct granule *granule = granule_of(at);
    unsigned first = at % GRANULE_BYTES;
    unsigned others = granule->threads & ~(1u << me);
    for (int other = 0; others != 0; other++, others >>= 1)
        if ((others & 1) != 0)
            check_against(granule, me, other, first, first + bytes, now);
    granule->threads |= (uint8_t)(1u << me);
    for (unsigned byte = first; byte < first + bytes; byte++)
        granule->last[me][now][byte] = known[me].of[me];
}

static void access_bytes(const void *start, size_t bytes, enum access now)
{
    if (!machine_explores() || !machine_maps(start))
        return;
    uintptr_t at = (uintptr_t)start;
    while (bytes > 0) {
        size_t here = GRANULE_BYTES - at % GRANULE_BYTES;
        here = here < bytes ? here : bytes;
        access_granule(at, (unsigned)here, now);
        at += here;
        bytes -= here;
    }
}

/* ---- Stores that may still be seen ------------------------------------------------------------
 */

static struct place *place_of(const void *at, uint64_t value)
{
    size_t slot = ((uintptr_t)at >> 2) * 0x9E3779B97F4A7C15u >> (64 - PLACES_SHIFT);
    while (places[slot].schedule == schedule && places[slot].at != at)
        slot = (slot + 1) % PLACES;
    struct place *place = &places[slot];
    if (place->schedule == schedule && place->stores[0].value == value)
        return place;
    /* New to this schedule, or written to by other means than atomic operations, which checking for
     * races is enough for. */
    if (place->schedule != schedule && ++place_count > PLACES / 4 * 3)
        fail("more atomic variables are used than weak.c has room for");
    *place = (struct place){.at = at, .schedule = schedule, .count = 1};
    place->stores[0] = (struct store){.value = value, .thread = -1};
    return place;
}

/* May the thread not go past this store to an older one? */
static bool hides_older(const struct store *store, int me, bool consistent)
{
    if (store->thread < 0 || known[me].of[store->thread] >= store->clock ||
        (consistent && store->consistent))
        return true;
    for (int thread = 0; thread < THREADS_MAX; thread++)
        if (store->read.of[thread] != 0 && known[me].of[thread] >= store->read.of[thread])
            return true;
    return false;
}

/* How many older values a load may return. */
static unsigned older_values(const struct place *place, int me, bool consistent)
{
    unsigned older = 0;
    while (older + 1 < place->count && !hides_older(&place->stores[older], me, consistent))
        older++;
    return older;
}

/* May a read-modify-write come before the newest store? */
static bool store_may_be_late(const struct place *place, int me, bool consistent)
{
    return place->count > 1 && !place->stores[0].updates &&
           !hides_older(&place->stores[0], me, consistent);
}

static unsigned choose_older(struct place *place, int me, unsigned most)
{
    if (most == 0)
        return 0;
    unsigned older = machine_choose_older(place->at, most, (place->behind >> me & 1) != 0);
    if (older > 0)
        place->behind |= 1u << me;
    return older;
}

static bool is_consistent(int order)
{
    return order == __ATOMIC_SEQ_CST;
}

static bool acquires(int order)
{
    return order == __ATOMIC_ACQUIRE || order == __ATOMIC_CONSUME || order == __ATOMIC_ACQ_REL ||
           order == __ATOMIC_SEQ_CST;
}

static bool releases(int order)
{
    return order == __ATOMIC_RELEASE || order == __ATOMIC_ACQ_REL || order == __ATOMIC_SEQ_CST;
}

static uint64_t read_store(struct store *store, int me, int order)
{
    if (store->read.of[me] == 0)
        store->read.of[me] = known[me].of[me];
    store->consistent = store->consistent || is_consistent(order);
    if (acquires(order))
        learn(&known[me], &store->released);
    return store->value;
}

/* A new store, `older` places from the newest. */
static void add_store(struct place *place, unsigned older, struct store store)
{
    if (place->count < STORES_KEPT)
        place->count++;
    for (unsigned i = place->count - 1; i > older; i--)
        place->stores[i] = place->stores[i - 1];
    place->stores[older] = store;
}

static struct store new_store(int me, uint64_t value, int order)
{
    struct store store = {.value = value, .thread = me, .clock = known[me].of[me]};
    store.consistent = is_consistent(order);
    if (releases(order))
        store.released = known[me];
    return store;
}

/* ---- Atomic operations ------------------------------------------------------------------------
 */

/* Each thread has one of its own, though all have the same address. */
static bool is_private(const void *at)
{
    return at == (const void *)&fh_theap_current;
}

static bool is_shown(const void *at)
{
    return machine_explores() && !is_private(at);
}

static uint64_t load(const void *at, size_t bytes, uint64_t newest, int order)
{
    if (!is_shown(at))
        return newest;
    int me = machine_thread();
    access_bytes(at, bytes, ATOMIC_READ);
    struct place *place = place_of(at, newest);
    unsigned older = choose_older(place, me, older_values(place, me, is_consistent(order)));
    return read_store(&place->stores[older], me, order);
}

static void note_store(const void *at, size_t bytes, uint64_t newest, uint64_t value, int order)
{
    if (!is_shown(at))
        return;
    int me = machine_thread();
    access_bytes(at, bytes, ATOMIC_WRITE);
    add_store(place_of(at, newest), 0, new_store(me, value, order));
    if (releases(order))
        released(me);
}

/* The value that a read-modify-write finds, and whether it comes before the newest store. */
static uint64_t find(const void *at, size_t bytes, uint64_t newest, int order, unsigned *older)
{
    *older = 0;
    if (!is_shown(at))
        return newest;
    int me = machine_thread();
    access_bytes(at, bytes, ATOMIC_WRITE);
    struct place *place = place_of(at, newest);
    *older = choose_older(place, me, store_may_be_late(place, me, is_consistent(order)));
    return place->stores[*older].value;
}

/* Returns the newest value there is then, which is what memory shall have. */
static uint64_t update(const void *at, uint64_t newest, uint64_t value, int order, unsigned older)
{
    if (!is_shown(at))
        return value;
    int me = machine_thread();
    struct place *place = place_of(at, newest);
    struct store *before = &place->stores[older];
    (void)read_store(before, me, order);
    struct store store = new_store(me, value, order);
    store.updates = true;
    learn(&store.released, &before->released);
    add_store(place, older, store);
    if (releases(order))
        released(me);
    return place->stores[0].value;
}

static void fail_to_update(const void *at, uint64_t newest, int order, unsigned older)
{
    if (is_shown(at))
        (void)read_store(&place_of(at, newest)->stores[older], machine_thread(), order);
}

/* ---- What the compiler calls ------------------------------------------------------------------
 */

/* The names and types are the compiler's. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#if defined(__clang__)
#pragma GCC diagnostic ignored "-Wreserved-identifier"
#endif

#define DEFINE_PLAIN(bytes)                                                                        \
    void __tsan_read##bytes(void *at)                                                              \
    {                                                                                              \
        access_bytes(at, bytes, PLAIN_READ);                                                       \
    }                                                                                              \
    void __tsan_write##bytes(void *at)                                                             \
    {                                                                                              \
        access_bytes(at, bytes, PLAIN_WRITE);                                                      \
    }                                                                                              \
    void __tsan_unaligned_read##bytes(void *at)                                                    \
    {                                                                                              \
        access_bytes(at, bytes, PLAIN_READ);                                                       \
    }                                                                                              \
    void __tsan_unaligned_write##bytes(void *at)                                                   \
    {                                                                                              \
        access_bytes(at, bytes, PLAIN_WRITE);                                                      \
    }

DEFINE_PLAIN(1)
DEFINE_PLAIN(2)
DEFINE_PLAIN(4)
DEFINE_PLAIN(8)
DEFINE_PLAIN(16)

void __tsan_read_range(void *at, size_t bytes)
{
    access_bytes(at, bytes, PLAIN_READ);
}

void __tsan_write_range(void *at, size_t bytes)
{
    access_bytes(at, bytes, PLAIN_WRITE);
}

void __tsan_init(void)
{
}

void __tsan_func_entry(void *caller)
{
    (void)caller;
}

void __tsan_func_exit(void)
{
}

void __tsan_atomic_signal_fence(int order)
{
    (void)order; /* about handlers of the same thread */
}

#define DEFINE_FETCH(bits, name, operator)                                                         \
    uint##bits##_t __tsan_atomic##bits##_fetch_##name(volatile uint##bits##_t *at,                 \
                                                      uint##bits##_t operand, int order)           \
    {                                                                                              \
        unsigned older;                                                                            \
        uint##bits##_t newest = *at;                                                               \
        uint##bits##_t found =                                                                     \
            (uint##bits##_t)find((const void *)at, sizeof *at, newest, order, &older);             \
        uint##bits##_t value = (uint##bits##_t)(found operator operand);                           \
        *at = (uint##bits##_t)update((const void *)at, newest, value, order, older);               \
        return found;                                                                              \
    }

#define DEFINE_ATOMIC(bits)                                                                        \
    uint##bits##_t __tsan_atomic##bits##_load(const volatile uint##bits##_t *at, int order)        \
    {                                                                                              \
        return (uint##bits##_t)load((const void *)at, sizeof *at, *at, order);                     \
    }                                                                                              \
    void __tsan_atomic##bits##_store(volatile uint##bits##_t *at, uint##bits##_t value, int order) \
    {                                                                                              \
        note_store((const void *)at, sizeof *at, *at, value, order);                               \
        *at = value;                                                                               \
    }                                                                                              \
    int __tsan_atomic##bits##_compare_exchange_strong(                                             \
        volatile uint##bits##_t *at, uint##bits##_t *expected, uint##bits##_t desired, int order,  \
        int order_of_failure)                                                                      \
    {                                                                                              \
        unsigned older;                                                                            \
        uint##bits##_t newest = *at;                                                               \
        uint##bits##_t found =                                                                     \
            (uint##bits##_t)find((const void *)at, sizeof *at, newest, order, &older);             \
        if (found != *expected) {                                                                  \
            fail_to_update((const void *)at, newest, order_of_failure, older);                     \
            *expected = found;                                                                     \
            return 0;                                                                              \
        }                                                                                          \
        *at = (uint##bits##_t)update((const void *)at, newest, desired, order, older);             \
        return 1;                                                                                  \
    }                                                                                              \
    uint##bits##_t __tsan_atomic##bits##_compare_exchange_val(                                     \
        volatile uint##bits##_t *at, uint##bits##_t expected, uint##bits##_t desired, int order,   \
        int order_of_failure)                                                                      \
    {                                                                                              \
        (void)__tsan_atomic##bits##_compare_exchange_strong(at, &expected, desired, order,         \
                                                            order_of_failure);                     \
        return expected;                                                                           \
    }                                                                                              \
    DEFINE_FETCH(bits, add, +)                                                                     \
    DEFINE_FETCH(bits, or, |)                                                                      \
    DEFINE_FETCH(bits, and, &)

DEFINE_ATOMIC(8)
DEFINE_ATOMIC(32)
DEFINE_ATOMIC(64)

/* The linker puts these in the place of libc's (--wrap), for which the compiler makes no calls of
 * the above. */
void *__real_memset(void *start, int value, size_t bytes);
void *__real_memcpy(void *to, const void *from, size_t bytes);
int __real_memcmp(const void *one, const void *other, size_t bytes);

void *__wrap_memset(void *start, int value, size_t bytes)
{
    access_bytes(start, bytes, PLAIN_WRITE);
    return __real_memset(start, value, bytes);
}

void *__wrap_memcpy(void *to, const void *from, size_t bytes)
{
    access_bytes(from, bytes, PLAIN_READ);
    access_bytes(to, bytes, PLAIN_WRITE);
    return __real_memcpy(to, from, bytes);
}

int __wrap_memcmp(const void *one, const void *other, size_t bytes)
{
    access_bytes(one, bytes, PLAIN_READ);
    access_bytes(other, bytes, PLAIN_READ);
    return __real_memcmp(one, other, bytes);
}
