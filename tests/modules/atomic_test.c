/* SPDX-License-Identifier: MIT */
/* base/atomic.h: each operation of whichever back end does what its name says, alone and among
 * threads. */
#include "modules.h"

#include "atomic.h"

#define CHECK_LOAD_STORE(suffix, type, load, store)                                                \
    do {                                                                                           \
        type at = (type)0;                                                                         \
        store(&at, (type)(~(uintptr_t)5));                                                         \
        CHECK(at == (type)(~(uintptr_t)5) && load(&at) == at);                                     \
    } while (0)

TEST(what_was_stored_is_loaded)
{
    CHECK_LOAD_STORE(u64, uint64_t, fh_load_relaxed_u64, fh_store_relaxed_u64);
    CHECK_LOAD_STORE(u64, uint64_t, fh_load_acquire_u64, fh_store_release_u64);
    CHECK_LOAD_STORE(u64, uint64_t, fh_load_seq_cst_u64, fh_store_release_u64);
    CHECK_LOAD_STORE(u32, uint32_t, fh_load_relaxed_u32, fh_store_relaxed_u32);
    CHECK_LOAD_STORE(ptr, void *, fh_load_relaxed_ptr, fh_store_relaxed_ptr);
    CHECK_LOAD_STORE(ptr, void *, fh_load_acquire_ptr, fh_store_relaxed_ptr);
    CHECK_LOAD_STORE(u8, uint8_t, fh_load_own_u8, fh_store_own_u8);
    CHECK_LOAD_STORE(u32, uint32_t, fh_load_own_u32, fh_store_own_u32);
    CHECK_LOAD_STORE(u64, uint64_t, fh_load_own_u64, fh_store_own_u64);
    CHECK_LOAD_STORE(u64, uint64_t, fh_load_settled_u64, fh_store_own_u64);
    CHECK_LOAD_STORE(ptr, void *, fh_load_settled_ptr, fh_store_relaxed_ptr);
}

/* What is found goes to `expected`, and nothing is stored, if it was something else. */
#define CHECK_CAS(cas, type)                                                                       \
    do {                                                                                           \
        type at = (type)7;                                                                         \
        type expected = (type)8;                                                                   \
        CHECK(!cas(&at, &expected, (type)9) && at == (type)7 && expected == (type)7);              \
        CHECK(cas(&at, &expected, (type)9) && at == (type)9 && expected == (type)7);               \
    } while (0)

TEST(compare_and_swap_stores_only_over_what_was_expected)
{
    CHECK_CAS(fh_cas_relaxed_u64, uint64_t);
    CHECK_CAS(fh_cas_acquire_u64, uint64_t);
    CHECK_CAS(fh_cas_release_u64, uint64_t);
    CHECK_CAS(fh_cas_acq_rel_u64, uint64_t);
    CHECK_CAS(fh_cas_relaxed_u32, uint32_t);
    CHECK_CAS(fh_cas_acq_rel_ptr, void *);
}

#define CHECK_FETCH(fetch, combine)                                                                \
    do {                                                                                           \
        uint64_t at = 0xF0F000000000F0F0u;                                                         \
        uint64_t before = at;                                                                      \
        CHECK(fetch(&at, 0xFF000000000000FFu) == before);                                          \
        CHECK(at == (before combine 0xFF000000000000FFu));                                         \
    } while (0)

TEST(fetches_return_the_value_before)
{
    CHECK_FETCH(fh_fetch_or_release_u64, |);
    CHECK_FETCH(fh_fetch_or_seq_cst_u64, |);
    CHECK_FETCH(fh_fetch_and_acquire_u64, &);
    CHECK_FETCH(fh_fetch_and_release_u64, &);
    CHECK_FETCH(fh_fetch_and_seq_cst_u64, &);
    CHECK_FETCH(fh_fetch_add_relaxed_u64, +);
}

/* ---- Among threads ------------------------------------------------------------------------ */

enum { COUNTING = 4, COUNTS = 20000 };

static uint64_t counter, added, toggled;

static void count(unsigned number, void *shared)
{
    uint64_t bit = (uint64_t)1 << (number * 13);
    (void)shared;
    for (int i = 0; i < COUNTS; i++) {
        uint64_t found = fh_load_relaxed_u64(&counter);
        while (!fh_cas_relaxed_u64(&counter, &found, found + 1))
            ;
        (void)fh_fetch_add_relaxed_u64(&added, 3);
        CHECK((fh_fetch_or_seq_cst_u64(&toggled, bit) & bit) == 0);
        CHECK((fh_fetch_and_seq_cst_u64(&toggled, ~bit) & bit) != 0);
    }
}

TEST(no_update_is_lost)
{
    together(COUNTING, count, NULL);
    CHECK(counter == (uint64_t)COUNTING * COUNTS && added == 3 * counter && toggled == 0);
}

static uint64_t message[4]; /* plain: passed on by the word */
static uint64_t turn;       /* 0: to be written, 1: to be read */

enum { MESSAGES = 20000 };

/* ThreadSanitizer reports the plain accesses unless the orders pass them on. */
static void pass_messages(unsigned number, void *shared)
{
    size_t passed = 0;
    (void)shared;
    for (struct bound bound = at_most(SIZE_MAX); passed < MESSAGES && more(&bound);) {
        if (fh_load_acquire_u64(&turn) != number)
            continue;
        for (size_t i = 0; i < 4; i++) {
            CHECK(message[i] == passed * 2 + number);
            message[i]++;
        }
        passed++;
        fh_store_release_u64(&turn, 1 - number);
    }
}

TEST(a_release_passes_plain_writes_to_the_acquire)
{
    together(2, pass_messages, NULL);
    CHECK(message[0] > 2);
}

enum { ROUNDS = 20000, PATIENCE = 100 };

static uint64_t flags[2][ROUNDS];
static uint64_t rounds[2]; /* how far each is */
static bool saw[2][ROUNDS];

/* Each raises its flag of the round and then looks at the other's. They wait for each other a
 * little, so that their rounds meet. */
static void raise_and_look(unsigned number, void *shared)
{
    (void)shared;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        fh_store_relaxed_u64(&rounds[number], round);
        for (int i = 0; i < PATIENCE && fh_load_relaxed_u64(&rounds[1 - number]) < round; i++)
            ;
        (void)fh_fetch_or_seq_cst_u64(&flags[number][round], 1);
        saw[number][round] = fh_load_seq_cst_u64(&flags[1 - number][round]) == 1;
    }
}

TEST(of_two_that_write_and_then_read_one_sees_the_other)
{
    together(2, raise_and_look, NULL);
    for (int round = 0; round < ROUNDS; round++)
        CHECK(saw[0][round] || saw[1][round]);
}
