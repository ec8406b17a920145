/* SPDX-License-Identifier: MIT */
/* freehold/limit.h: the limit holds whatever threads do, nothing is refused that could be had, and
 * the program's function is asked as promised; where the option `limit` has its number from. */
#include "modules.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bits.h"
#include "cgroup.h"
#include "freehold.h"
#include "freehold/heap.h"
#include "freehold/limit.h"
#include "option_value.h"
#include "purge.h"

enum { ARENAS = 4, MANY = 4096 };

static const size_t pool_bytes = FH_POOL_BYTES;
static const size_t arena_bytes = FH_ARENA_BYTES;
static const size_t limit_bytes = ARENAS * (size_t)FH_ARENA_BYTES;

static bool is_refused(const void *memory)
{
    int error = errno;
    errno = 0;
    return memory == NULL && error == ENOMEM;
}

/* Blocks of so many bytes until one is refused; how many. */
static size_t fill(void **blocks, size_t most, size_t bytes)
{
    size_t count = 0;
    while (count < most && (blocks[count] = fh_raw_malloc(bytes)) != NULL)
        count++;
    CHECK(count < most && is_refused(blocks[count]));
    return count;
}

static void free_all(void **blocks, size_t count)
{
    while (count > 0)
        fh_raw_free(blocks[--count]);
}

static void *blocks_here[MANY];

/* ---- What is refused --------------------------------------------------------------------------
 */

TEST(there_is_no_limit_until_one_is_set)
{
    CHECK(fh_get_limit() == 0 && fh_limit_used() == 0);
    void *block = fh_raw_malloc(3 * arena_bytes);
    CHECK(block != NULL && fh_limit_used() == 3 * arena_bytes);
    CHECK(fh_set_limit(limit_bytes, NULL, NULL) == 0 && fh_get_limit() == limit_bytes);
    CHECK(is_refused(fh_raw_malloc(arena_bytes + 1)));
    CHECK(fh_set_limit(0, NULL, NULL) == 0 && fh_get_limit() == 0);
    CHECK(fh_raw_malloc(arena_bytes + 1) != NULL);
    fh_raw_free(block);
}

TEST(as_many_blocks_as_fit_are_handed_out_and_not_one_more)
{
    const size_t sizes[] = {
        16, 1000, FH_BLOCK_MAX_BYTES, pool_bytes, 2 * pool_bytes, arena_bytes, 2 * arena_bytes};
    static void *many[1 << 21];
    CHECK(fh_set_limit(limit_bytes, NULL, NULL) == 0);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t count = fill(many, sizeof many / sizeof many[0], sizes[i]);
        CHECK(fh_limit_used() <= limit_bytes && fh_limit_used() + 2 * arena_bytes > limit_bytes);
        CHECK(FH_ARENA_POOLS < 16 || count * sizes[i] > limit_bytes / 2);
        if (sizes[i] >= pool_bytes)
            CHECK(count == limit_bytes / sizes[i]);
        free_all(many, count);
        check_region(fh_region_peek());
    }
}

TEST(every_way_to_allocate_says_enomem)
{
    void *memory = NULL;
    CHECK(fh_set_limit(limit_bytes, NULL, NULL) == 0);
    size_t count = fill(blocks_here, MANY, pool_bytes);
    for (size_t bytes = FH_BLOCK_MAX_BYTES / 2; bytes <= 2 * arena_bytes; bytes *= 2) {
        CHECK(is_refused(fh_raw_malloc(bytes)) && is_refused(fh_raw_calloc(2, bytes)));
        CHECK(is_refused(fh_raw_realloc(NULL, bytes)));
        CHECK(is_refused(fh_raw_aligned_alloc(4096, bytes)));
        CHECK(is_refused(fh_mem_malloc(bytes)) && is_refused(fh_obj_calloc(1, bytes)));
    }
    memset(blocks_here[0], 7, pool_bytes);
    memory = fh_raw_realloc(blocks_here[0], 2 * arena_bytes);
    CHECK(is_refused(memory)); /* and the block is still there */
    CHECK(*(char *)blocks_here[0] == 7 && ((char *)blocks_here[0])[pool_bytes - 1] == 7);
    CHECK(fh_limit_used() == limit_bytes);
    free_all(blocks_here, count);
}

TEST(a_block_larger_than_the_limit_is_refused_at_once)
{
    fh_purge_configure(FH_NEVER, MANY);
    fh_raw_free(fh_raw_malloc(2 * arena_bytes));
    uint32_t retained = fh_region_retained_pools(fh_region_peek());
    CHECK(retained == 2 * FH_ARENA_POOLS && fh_set_limit(limit_bytes, NULL, NULL) == 0);
    CHECK(is_refused(fh_raw_malloc(limit_bytes + 1)));
    CHECK(fh_region_retained_pools(fh_region_peek()) == retained); /* nothing was purged for it */
    CHECK(is_refused(fh_raw_malloc(PTRDIFF_MAX)) && is_refused(fh_raw_malloc(SIZE_MAX)));
    CHECK(fh_region_retained_pools(fh_region_peek()) == retained);
}

TEST(below_what_is_in_use_nothing_new_is_had_but_frees_and_shrinking_work)
{
    char *huge = fh_raw_malloc(3 * arena_bytes);
    char *large = fh_raw_malloc(2 * pool_bytes);
    memset(large, 1, 2 * pool_bytes);
    CHECK(fh_set_limit(arena_bytes, NULL, NULL) == 0);
    CHECK(fh_limit_used() > fh_get_limit() && is_refused(fh_raw_malloc(pool_bytes)));
    CHECK(fh_raw_realloc(huge, arena_bytes + 1) == huge);
    CHECK(fh_raw_realloc(large, pool_bytes) == large && is_zero(huge, 1));
    CHECK(is_refused(fh_raw_malloc(2 * pool_bytes)) && fh_limit_used() > arena_bytes);
    fh_raw_free(huge);
    CHECK(large[pool_bytes - 1] == 1 && fh_raw_malloc(pool_bytes) != NULL);
    CHECK(fh_limit_used() <= arena_bytes);
}

TEST(a_huge_block_grows_in_place_up_to_the_limit)
{
    fh_raw_free(fh_raw_malloc(2 * limit_bytes)); /* the arenas are there */
    char *huge = fh_raw_malloc(2 * arena_bytes);
    CHECK(fh_set_limit(limit_bytes, NULL, NULL) == 0);
    CHECK((huge = fh_raw_realloc(huge, limit_bytes)) != NULL && fh_limit_used() == limit_bytes);
    CHECK(is_refused(fh_raw_realloc(huge, limit_bytes + 1)));
    CHECK(fh_usable_size(huge) == limit_bytes);
    fh_raw_free(huge);
}

/* ---- What is given back first -----------------------------------------------------------------
 */

TEST(free_memory_goes_back_rather_than_that_a_call_fails)
{
    fh_purge_configure(FH_NEVER, MANY);
    for (size_t i = 0; i < ARENAS; i++)
        blocks_here[i] = fh_raw_malloc(arena_bytes);
    CHECK(fh_set_limit(limit_bytes, NULL, NULL) == 0 && fh_limit_used() == limit_bytes);
    free_all(blocks_here, ARENAS);
    fh_thread_flush(); /* what may be kept at hand */
    CHECK(fh_region_retained_pools(fh_region_peek()) == ARENAS * FH_ARENA_POOLS);
    /* Beside it, in arenas that are not resident. */
    char *whole = fh_raw_aligned_alloc(2 * limit_bytes, limit_bytes);
    CHECK(whole != NULL && fh_limit_used() == limit_bytes);
    memset(whole, 1, limit_bytes);
    fh_raw_free(whole);
    CHECK(fill(blocks_here, MANY, pool_bytes) == ARENAS * FH_ARENA_POOLS);
}

TEST(what_the_thread_keeps_at_hand_goes_back_as_well)
{
    for (size_t bytes = 1; bytes <= FH_BLOCK_MAX_BYTES; bytes += bytes / 4 + 1)
        fh_raw_free(fh_raw_malloc(bytes));  /* a current pool for each class */
    fh_raw_free(fh_raw_malloc(pool_bytes)); /* a spare run */
    CHECK(fh_region_pools_in_use(fh_region_peek()) > 1);
    CHECK(fh_set_limit(limit_bytes, NULL, NULL) == 0);
    CHECK(fh_raw_malloc(limit_bytes) != NULL && fh_limit_used() == limit_bytes);
    CHECK(is_refused(fh_raw_malloc(1)));
}

TEST(a_large_block_grows_over_what_was_retained)
{
    if (FH_ARENA_POOLS < 16)
        modules_skip("an arena has too few pools");
    fh_purge_configure(FH_NEVER, MANY);
    char *large = fh_raw_aligned_alloc(arena_bytes, 4 * pool_bytes);
    void *beside = fh_raw_aligned_alloc(arena_bytes, FH_ARENA_POOLS * pool_bytes);
    fh_raw_free(beside);
    CHECK(fh_limit_used() == (FH_ARENA_POOLS + 4) * pool_bytes);
    CHECK(fh_set_limit((FH_ARENA_POOLS + 4) * pool_bytes, NULL, NULL) == 0);
    CHECK(fh_raw_realloc(large, 32 * pool_bytes) == large);
    CHECK(fh_limit_used() <= fh_get_limit());
}

/* ---- The program's function -------------------------------------------------------------------
 */

static struct {
    unsigned calls;
    size_t bytes;
    void *to_free;
    fh_limit_answer answer;
} asked;

static fh_limit_answer answer(void *context, size_t bytes)
{
    CHECK(context == &asked);
    asked.calls++;
    asked.bytes = bytes;
    fh_raw_free(asked.to_free);
    asked.to_free = NULL;
    errno = EBADF;
    return asked.answer;
}

static void fill_up_and_ask(fh_limit_answer answered)
{
    CHECK(fh_set_limit(limit_bytes, answer, &asked) == 0);
    asked.answer = FH_LIMIT_REFUSE;
    CHECK(fill(blocks_here, MANY, arena_bytes) == ARENAS && asked.calls == 1);
    asked.calls = 0;
    asked.answer = answered;
}

TEST(refuse_fails_the_call)
{
    fill_up_and_ask(FH_LIMIT_REFUSE);
    CHECK(is_refused(fh_raw_malloc(1)) && asked.calls == 1 && asked.bytes == pool_bytes);
    CHECK(is_refused(fh_raw_malloc(2 * pool_bytes)) && asked.bytes == 2 * pool_bytes);
    CHECK(is_refused(fh_raw_malloc(arena_bytes + 1)) && asked.bytes == 2 * arena_bytes);
    CHECK(is_refused(fh_raw_malloc(2 * limit_bytes)) && asked.bytes == 2 * limit_bytes);
    CHECK(asked.calls == 4 && fh_limit_used() == limit_bytes);
}

TEST(retry_tries_again_sixteen_times)
{
    fill_up_and_ask(FH_LIMIT_RETRY);
    CHECK(is_refused(fh_raw_malloc(1)) && asked.calls == 16);
    CHECK(is_refused(fh_raw_malloc(2 * limit_bytes)) && asked.calls == 32);
    asked.to_free = blocks_here[0];
    errno = EDOM;
    CHECK(fh_raw_malloc(1) != NULL && asked.calls == 33 && errno == EDOM);
    CHECK(fh_limit_used() <= limit_bytes);
}

static fh_limit_answer raise_limit(void *context, size_t bytes)
{
    CHECK(fh_set_limit(fh_get_limit() + bytes, raise_limit, context) == 0);
    return FH_LIMIT_RETRY;
}

TEST(a_function_may_raise_the_limit)
{
    CHECK(fh_set_limit(limit_bytes, raise_limit, NULL) == 0);
    for (size_t i = 0; i < 2 * ARENAS; i++)
        CHECK(fh_raw_malloc(arena_bytes) != NULL);
    CHECK(fh_limit_used() == 2 * limit_bytes && fh_get_limit() == 2 * limit_bytes);
}

TEST(accept_goes_over_the_limit_once)
{
    const size_t sizes[] = {1, 3 * pool_bytes, 2 * arena_bytes, 2 * limit_bytes};
    fill_up_and_ask(FH_LIMIT_ACCEPT);
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t before = fh_limit_used();
        CHECK(fh_raw_malloc(sizes[i]) != NULL && asked.calls == i + 1);
        CHECK(fh_limit_used() >= before + fh_round_up(sizes[i], pool_bytes));
    }
    asked.answer = FH_LIMIT_REFUSE;
    CHECK(is_refused(fh_raw_malloc(arena_bytes)) && is_refused(fh_raw_malloc(2 * arena_bytes)));
}

/* Takes and frees, also more than there is. */
static fh_limit_answer allocate(void *context, size_t bytes)
{
    unsigned *calls = context;
    ++*calls;
    fh_raw_free(blocks_here[0]);
    char *block = fh_raw_malloc(100);
    CHECK(block != NULL && fh_limit_used() <= limit_bytes);
    memset(block, 1, 100);
    CHECK(fh_raw_malloc(limit_bytes) == NULL && *calls == 1);
    block = fh_raw_realloc(block, FH_BLOCK_MAX_BYTES);
    fh_raw_free(block);
    blocks_here[0] = NULL;
    return bytes > 0 ? FH_LIMIT_RETRY : FH_LIMIT_REFUSE;
}

TEST(a_function_may_allocate_and_is_not_asked_by_itself)
{
    const size_t sizes[] = {1, 1000, FH_BLOCK_MAX_BYTES, pool_bytes, arena_bytes / 2};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned calls = 0;
        CHECK(fh_set_limit(limit_bytes, NULL, NULL) == 0);
        size_t count = fill(blocks_here, MANY, arena_bytes);
        CHECK(count == ARENAS && fh_set_limit(limit_bytes, allocate, &calls) == 0);
        void *block = fh_raw_malloc(sizes[i]);
        CHECK(block != NULL && calls == 1 && fh_limit_used() <= limit_bytes);
        fh_raw_free(block);
        free_all(blocks_here, count);
        check_heap(fh_theap_of_thread());
        check_region(fh_region_peek());
    }
}

/* ---- Several threads --------------------------------------------------------------------------
 */

struct slot {
    unsigned char *block;
    size_t bytes;
};

static size_t random_bytes(uint64_t *state)
{
    switch (random_below(state, 8)) {
    case 0:
        return arena_bytes + 1 + random_below(state, (uint32_t)arena_bytes);
    case 1:
    case 2:
        return FH_BLOCK_MAX_BYTES + 1 + random_below(state, (uint32_t)(arena_bytes / 2));
    default:
        return 1 + random_below(state, FH_BLOCK_MAX_BYTES);
    }
}

static void check_used(void)
{
    CHECK(fh_limit_used() <= limit_bytes);
}

static void empty_slot(struct slot *slot)
{
    if (slot->block != NULL)
        CHECK(slot->block[0] == (unsigned char)slot->bytes &&
              slot->block[slot->bytes - 1] == (unsigned char)slot->bytes);
    fh_raw_free(slot->block);
    slot->block = NULL;
}

static void fill_slot(struct slot *slot, size_t bytes, unsigned *refused)
{
    unsigned char *block = fh_raw_realloc(slot->block, bytes);
    *refused += block == NULL;
    if (block != NULL)
        *slot = (struct slot){block, bytes};
    if (slot->block != NULL)
        slot->block[0] = slot->block[slot->bytes - 1] = (unsigned char)slot->bytes;
}

/* `shared`: how many calls were refused to all. */
static void walk(unsigned number, void *shared)
{
    enum { SLOTS = 200, STEPS = 30000 };
    struct slot slots[SLOTS] = {{NULL, 0}};
    uint64_t state = number + 1;
    unsigned refused = 0;
    for (struct bound bound = at_most(STEPS); more(&bound);) {
        struct slot *slot = &slots[random_below(&state, SLOTS)];
        if (random_below(&state, 3) == 0)
            empty_slot(slot);
        else
            fill_slot(slot, random_bytes(&state), &refused);
        check_used();
    }
    for (size_t i = 0; i < SLOTS; i++)
        empty_slot(&slots[i]);
    check_used();
    (void)fh_fetch_add_relaxed_u64(shared, refused);
}

TEST(no_moment_is_over_the_limit_whatever_four_threads_allocate)
{
    uint64_t refused = 0;
    CHECK(fh_set_limit(limit_bytes, NULL, NULL) == 0);
    for (int round = 0; round < 2; round++) {
        together(4, walk, &refused);
        check_region(fh_region_peek());
        CHECK(fh_region_pools_in_use(fh_region_peek()) == 0);
        CHECK(fill(blocks_here, MANY, arena_bytes) == ARENAS); /* all of it can be had again */
        free_all(blocks_here, ARENAS);
        fh_thread_flush();
    }
    CHECK(refused > 0);
}

/* With only so much that one of them must be refused, one is not: there are no claims that fail for
 * each other. */
static void claim_one(unsigned number, void *shared)
{
    uint64_t *claimed = shared;
    void *block = fh_raw_malloc(number == 0 ? 2 * pool_bytes : pool_bytes);
    if (block != NULL)
        (void)fh_fetch_add_relaxed_u64(claimed, 1);
}

TEST(of_claims_at_once_some_are_made)
{
    for (struct bound bound = at_most(200); more(&bound);) {
        uint64_t claimed = 0;
        CHECK(fh_set_limit(fh_limit_used() + 2 * pool_bytes, NULL, NULL) == 0);
        together(3, claim_one, &claimed);
        CHECK(claimed >= 1);
        CHECK(fh_set_limit(0, NULL, NULL) == 0);
    }
}

/* ---- Setting ----------------------------------------------------------------------------------
 */

struct setting {
    fh_limit_function *function;
    size_t bytes;
};

static uint64_t asked_count;

static fh_limit_answer first_function(void *context, size_t bytes);
static fh_limit_answer second_function(void *context, size_t bytes);

static struct setting settings[] = {{first_function, 1}, {second_function, 1 + FH_POOL_BYTES}};

static fh_limit_answer first_function(void *context, size_t bytes)
{
    CHECK(context == &settings[0] && bytes > 0);
    (void)fh_fetch_add_relaxed_u64(&asked_count, 1);
    return FH_LIMIT_REFUSE;
}

static fh_limit_answer second_function(void *context, size_t bytes)
{
    CHECK(context == &settings[1] && bytes > 0);
    (void)fh_fetch_add_relaxed_u64(&asked_count, 1);
    return FH_LIMIT_REFUSE;
}

static void set_or_ask(unsigned number, void *shared)
{
    (void)shared;
    for (struct bound bound = at_most(2000); more(&bound);) {
        struct setting *setting = &settings[(number + bound.step) % 2];
        if (number < 2)
            CHECK(fh_set_limit(setting->bytes, setting->function, setting) == 0);
        else
            CHECK(fh_raw_malloc(arena_bytes) == NULL);
    }
}

TEST(a_function_is_called_with_its_own_context_while_others_set)
{
    CHECK(fh_set_limit(1, first_function, &settings[0]) == 0);
    together(4, set_or_ask, NULL);
    CHECK(asked_count > 0);
}

/* The settings of a program that comes back to some take no memory after the first time. */
TEST(many_limits_may_be_set)
{
    for (size_t bytes = 1; bytes <= 1000; bytes++)
        CHECK(fh_set_limit(bytes * pool_bytes, NULL, NULL) == 0 &&
              fh_get_limit() == bytes * pool_bytes);
    CHECK(fh_set_limit(3 * pool_bytes, NULL, NULL) == 0);
    CHECK(fh_get_limit() == 3 * pool_bytes);
}

static void check_in_child(void)
{
    CHECK(fh_get_limit() == limit_bytes && is_refused(fh_raw_malloc(arena_bytes)));
    fh_raw_free(blocks_here[0]);
    CHECK(fh_raw_malloc(arena_bytes) != NULL && fh_limit_used() == limit_bytes);
}

TEST(a_child_has_the_limit_for_itself)
{
    CHECK(fh_set_limit(limit_bytes, NULL, NULL) == 0);
    CHECK(fill(blocks_here, MANY, arena_bytes) == ARENAS);
    in_child(check_in_child);
    CHECK(is_refused(fh_raw_malloc(arena_bytes)) && fh_limit_used() == limit_bytes);
}

/* ---- Heaps with a lock ------------------------------------------------------------------------
 */

TEST(arenas_of_heaps_count_and_are_refused)
{
    if (FH_ARENA_POOLS < 16)
        modules_skip("the arenas of heaps do not fit the region's");
    static void *blocks[1 << 16];
    size_t count = 0;
    const fh_heap_config config = {.struct_bytes = sizeof config, .mode = FH_OBJ_FREE};
    fh_heap *heap = fh_heap_create(&config);
    CHECK(heap != NULL && fh_set_limit(2 * limit_bytes, NULL, NULL) == 0);
    while (count < 1 << 16 && (blocks[count] = fh_heap_malloc(heap, FH_DOMAIN_OBJ, 512)) != NULL)
        count++;
    CHECK(count < 1 << 16 && is_refused(blocks[count]) && fh_limit_used() <= 2 * limit_bytes);
    while (count > 0)
        fh_heap_free(heap, FH_DOMAIN_OBJ, blocks[--count]);
    CHECK(fh_heap_destroy(heap, 0) == 0);
    CHECK(fh_raw_malloc(limit_bytes) != NULL);
}

/* ---- Handlers ---------------------------------------------------------------------------------
 */

static void *during_block, *meanwhile_block;

static void at_the_limit(void)
{
    (void)fh_trim(); /* what is retained could be had */
    CHECK(fh_set_limit(fh_limit_used() + pool_bytes, NULL, NULL) == 0);
}

static void take_during(void)
{
    during_block = fh_raw_malloc(pool_bytes);
}

static void take_meanwhile(void)
{
    meanwhile_block = fh_raw_malloc(2 * pool_bytes);
}

static void check_one_pool(void)
{
    CHECK(meanwhile_block == NULL && during_block != NULL);
    CHECK(fh_limit_used() <= fh_get_limit());
    fh_raw_free(during_block);
    CHECK(fh_set_limit(0, NULL, NULL) == 0);
}

TEST(a_handler_is_refused_as_anybody)
{
    fh_raw_free(fh_raw_malloc(arena_bytes));
    at_every_point(at_the_limit, take_during, take_meanwhile, check_one_pool);
}

/* ---- The control group ------------------------------------------------------------------------
 */

static char root[64];

static void put_file(const char *path, const char *text)
{
    char name[256];
    snprintf(name, sizeof name, "%s%s", root, path);
    for (char *slash = strchr(name + strlen(root) + 1, '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        CHECK(mkdir(name, 0700) == 0 || errno == EEXIST);
        *slash = '/';
    }
    FILE *file = fopen(name, "w");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void remove_root(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root);
    CHECK(system(command) == 0);
}

TEST(the_least_limit_of_the_groups_above_counts)
{
    strcpy(root, "/tmp/freehold-limit-XXXXXX");
    CHECK(mkdtemp(root) != NULL && fh_cgroup_memory_max(root) == UINT64_MAX);
    put_file("/proc/self/cgroup", "4:memory:/old\n0::/a/b\n");
    CHECK(fh_cgroup_memory_max(root) == UINT64_MAX);
    put_file("/sys/fs/cgroup/a/b/memory.max", "max\n");
    CHECK(fh_cgroup_memory_max(root) == UINT64_MAX);
    put_file("/sys/fs/cgroup/a/memory.max", "1048576\n");
    CHECK(fh_cgroup_memory_max(root) == 1048576);
    put_file("/sys/fs/cgroup/a/b/memory.max", "2097152\n");
    CHECK(fh_cgroup_memory_max(root) == 1048576);
    put_file("/sys/fs/cgroup/memory.max", "4096\n"); /* as a container sees its own */
    CHECK(fh_cgroup_memory_max(root) == 4096);
    put_file("/proc/self/cgroup", "0::/\n");
    CHECK(fh_cgroup_memory_max(root) == 4096);
    put_file("/proc/self/cgroup", "4:memory:/old\n");
    CHECK(fh_cgroup_memory_max(root) == UINT64_MAX);
    remove_root();
}

static bool parses(const char *text, uint64_t number, const char *again)
{
    const struct fh_range range = {FH_KIND_LIMIT, NULL, PTRDIFF_MAX};
    struct fh_value value;
    char room[32];
    struct fh_text shown = {room, sizeof room, 0};
    if (!fh_value_parse(&range, fh_slice_of(text), &value))
        return false;
    fh_value_add(&range, &value, &shown);
    return value.number == number && strcmp(room, again) == 0;
}

TEST(a_limit_is_a_size_or_a_part_of_the_groups)
{
    CHECK(parses("512M", (uint64_t)512 << 20, "512M") && parses("0", 0, "0"));
    CHECK(parses("1000", 1000, "1000") && parses("2g", (uint64_t)2 << 30, "2G"));
    CHECK(parses("cgroup", FH_OF_CGROUP | 100, "cgroup:100"));
    CHECK(parses("CGroup:80", FH_OF_CGROUP | 80, "cgroup:80"));
    static const char *const wrong[] = {"",         "cgroup:",    "cgroup:0", "cgroup:101",
                                        "cgroup80", "cgroup:80%", "cgro",     "cgroup:99999999999",
                                        "-1",       "16E",        "M"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(!parses(wrong[i], 0, ""));
    CHECK(fh_cgroup_resolve(12345) == 12345);
    uint64_t max = fh_cgroup_memory_max("");
    CHECK(fh_cgroup_resolve(FH_OF_CGROUP | 50) == (max == UINT64_MAX ? 0 : max / 100 * 50));
}
