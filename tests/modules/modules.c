/* SPDX-License-Identifier: MIT */
/* The shared part of the module tests: see modules.h. */
#include "modules.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "arena.h"
#include "os.h"
#include "shared.h"

enum { TESTS_MAX = 96, THREADS_MAX = 8, SKIPPED = 77, BOUND_MS = 1000 };

struct test {
    const char *name;
    void (*run)(void);
};

static struct test tests[TESTS_MAX];
static size_t test_count;
static bool skipped;

/* ---- Running ------------------------------------------------------------------------------ */

void modules_add(const char *name, void (*run)(void))
{
    CHECK(test_count < TESTS_MAX);
    tests[test_count++] = (struct test){name, run};
}

void modules_fail(const char *file, int line, const char *condition)
{
    fprintf(stderr, "%s:%d: failed: %s (errno %d)\n", file, line, condition, errno);
    _exit(1);
}

void modules_skip(const char *reason)
{
    printf("skipped: %s\n", reason);
    skipped = true;
    skip();
    abort(); /* not reached */
}

static void run_given(void **state)
{
    const struct test *test = *state;
    test->run();
}

static int run_in_cmocka(const struct test *test)
{
    struct CMUnitTest unit = {test->name, run_given, NULL, NULL, (void *)(uintptr_t)test};
    /* What the macro cmocka_run_group_tests() expands to, with a count of our own. */
    int failed = _cmocka_run_group_tests("modules", &unit, 1, NULL, NULL);
    return failed != 0 ? 1 : skipped ? SKIPPED : 0;
}

static int run_afresh(const struct test *test)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", test->name, test->name, (char *)NULL);
        _exit(2);
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return !WIFEXITED(status) || (WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != SKIPPED);
}

int main(int argc, char **argv)
{
    int failed = 0;
    for (size_t i = 0; i < test_count; i++) {
        if (argc == 1)
            failed |= run_afresh(&tests[i]);
        else if (strcmp(tests[i].name, argv[1]) == 0)
            return run_in_cmocka(&tests[i]);
    }
    CHECK(argc == 1 && test_count > 0); /* or there is no test of that name */
    return failed;
}

/* ---- Bounded loops, random numbers, threads, children ------------------------------------- */

static uint64_t now_ms(void)
{
    struct timespec now;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

struct bound at_most(size_t steps)
{
    return (struct bound){.steps = steps, .ends_ms = now_ms() + BOUND_MS};
}

bool more(struct bound *bound)
{
    if (bound->step % 32 == 31 && now_ms() >= bound->ends_ms)
        return false;
    return bound->step++ < bound->steps;
}

uint32_t random_below(uint64_t *state, uint32_t limit)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*state >> 32) * limit >> 32);
}

struct member {
    unsigned number;
    void (*run)(unsigned number, void *shared);
    void *shared;
    pthread_barrier_t *begin;
};

static void *run_member(void *argument)
{
    struct member *member = argument;
    pthread_barrier_wait(member->begin);
    member->run(member->number, member->shared);
    return NULL;
}

void together(unsigned threads, void (*run)(unsigned number, void *shared), void *shared)
{
    pthread_t ids[THREADS_MAX];
    struct member members[THREADS_MAX];
    pthread_barrier_t begin;
    CHECK(threads <= THREADS_MAX && pthread_barrier_init(&begin, NULL, threads) == 0);
    for (unsigned i = 0; i < threads; i++) {
        members[i] = (struct member){i, run, shared, &begin};
        CHECK(pthread_create(&ids[i], NULL, run_member, &members[i]) == 0);
    }
    for (unsigned i = 0; i < threads; i++)
        CHECK(pthread_join(ids[i], NULL) == 0);
    pthread_barrier_destroy(&begin);
}

struct call {
    void (*run)(void *argument);
    void *argument;
};

static void run_call(unsigned number, void *shared)
{
    const struct call *call = shared;
    (void)number;
    call->run(call->argument);
}

void elsewhere(void (*run)(void *argument), void *argument)
{
    struct call call = {run, argument};
    together(1, run_call, &call);
}

/* ---- At every point ----------------------------------------------------------------------- */

#if defined(FH_ATOMICS_SCHED)

static size_t points_left;         /* atomic operations before the one that is interrupted */
static void (*meanwhile_do)(void); /* NULL: nothing, or it has been done */

void fh_sched_point(const void *at, const char *operation)
{
    (void)at;
    (void)operation;
    void (*run)(void) = meanwhile_do;
    if (run == NULL || points_left-- > 0)
        return;
    meanwhile_do = NULL;
    run();
}

void at_every_point(void (*begin)(void), void (*during)(void), void (*meanwhile)(void),
                    void (*check)(void))
{
    bool met = true;
    for (size_t point = 0; met; point++) {
        begin();
        points_left = point;
        meanwhile_do = meanwhile;
        during();
        met = meanwhile_do == NULL;
        meanwhile_do = NULL;
        CHECK(met || point > 0);
        if (!met)
            meanwhile();
        check();
    }
}

#else

void at_every_point(void (*begin)(void), void (*during)(void), void (*meanwhile)(void),
                    void (*check)(void))
{
    begin();
    meanwhile();
    during();
    check();
    begin();
    during();
    meanwhile();
    check();
}

#endif

/* Fork; the child runs and leaves with 0. What it writes to stderr goes to `text` unless that is
 * NULL. Returns the wait status. */
static int run_child(void (*run)(void *argument), void *argument, char *text, size_t text_bytes)
{
    int ends[2];
    int status = 0;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        alarm(30);
        if (text != NULL)
            dup2(ends[1], STDERR_FILENO);
        run(argument);
        _exit(0);
    }
    close(ends[1]);
    ssize_t got;
    for (size_t used = 0; text != NULL && used < text_bytes - 1; used += (size_t)got) {
        got = read(ends[0], text + used, text_bytes - 1 - used);
        if (got <= 0)
            break;
    }
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    close(ends[0]);
    return status;
}

void drop_emulators_line(char *text)
{
    char *line = strstr(text, "qemu: uncaught target signal");
    if (line != NULL)
        *line = '\0';
}

void check_aborts(void (*run)(void *argument), void *argument, const char *text)
{
    char written[512] = "";
    int status = run_child(run, argument, written, sizeof written);
    drop_emulators_line(written);
    if (strcmp(written, text) != 0)
        fprintf(stderr, "expected: %sgot: %s\n", text, written);
    CHECK(strcmp(written, text) == 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void run_plain(void *argument)
{
    const struct test *test = argument;
    test->run();
}

void in_child(void (*run)(void))
{
    struct test test = {NULL, run};
    int status = run_child(run_plain, &test, NULL, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- Regions and pools of one's own ------------------------------------------------------- */

static void *new_zeros(size_t bytes)
{
    void *memory = fh_os_map(fh_round_up(bytes, fh_os_page_bytes()));
    CHECK(memory != NULL);
    return memory;
}

static uintptr_t new_aligned(size_t bytes, size_t alignment, bool commits)
{
    void *memory = commits ? fh_os_reserve(bytes + alignment) : fh_os_map(bytes + alignment);
    CHECK(memory != NULL);
    return fh_round_up((uintptr_t)memory, alignment);
}

static size_t power_of_two_at_least(size_t value)
{
    size_t power = 1;
    while (power < value)
        power *= 2;
    return power;
}

struct fh_region *new_region(uint32_t arenas, uint32_t extra, bool commits)
{
    struct fh_region *region = new_zeros(sizeof *region);
    size_t page_bytes = fh_os_page_bytes();
    size_t all = arenas + extra;
    size_t extra_entries = power_of_two_at_least(2 * all);
    region->bytes = (size_t)arenas << FH_ARENA_SHIFT;
    region->base =
        new_aligned(region->bytes, power_of_two_at_least(arenas) << FH_ARENA_SHIFT, commits);
    size_t descriptor_bytes = all * FH_ARENA_POOLS * FH_DESCRIPTOR_BYTES + page_bytes;
    region->descriptors = (char *)new_aligned(descriptor_bytes, page_bytes, commits);
    size_t record_bytes = all * sizeof(struct fh_arena) + page_bytes;
    region->arenas = (struct fh_arena *)new_aligned(record_bytes, page_bytes, commits);
    region->extra = extra == 0 ? NULL : new_zeros(extra_entries * sizeof(uint64_t));
    region->extra_mask = (uint32_t)extra_entries - 1;
    region->region_arenas = arenas;
    region->arenas_max = (uint32_t)all;
    region->commits = commits;
    region->page_bytes = page_bytes;
    region->retain_pools = ~(uint64_t)0 >> 1;
    fh_hints_place(&region->hints, new_zeros(fh_hints_bytes((uint32_t)all)), (uint32_t)all);
    return region;
}

struct fh_pool *new_descriptors(void)
{
    return new_zeros(FH_SPAN_POOLS * sizeof(struct fh_pool));
}

char *new_pool_memory(void)
{
    size_t bytes = (size_t)FH_SPAN_POOLS << FH_POOL_SHIFT;
    return (char *)new_aligned(bytes, bytes, false);
}

size_t claimed_pools(const struct fh_region *region)
{
    size_t claimed = 0;
    for (size_t i = fh_region_next_arena(region, 0); i < region->arenas_max;
         i = fh_region_next_arena(region, i + 1))
        claimed += (size_t)__builtin_popcountll(fh_load_relaxed_u64(&region->arenas[i].used));
    return claimed;
}

bool is_zero(const void *memory, size_t bytes)
{
    const char *at = memory;
    return bytes == 0 || (at[0] == 0 && memcmp(at, at + 1, bytes - 1) == 0);
}

unsigned class_with_threshold(void)
{
    for (unsigned class_index = FH_CLASSES; class_index-- > 0;)
        if (fh_class_capacity(class_index) / 8 > 1)
            return class_index;
    return FH_CLASSES;
}

/* ---- Invariants --------------------------------------------------------------------------- */

unsigned list_length(const struct fh_block *blocks)
{
    unsigned length = 0;
    for (; blocks != NULL; blocks = blocks->next)
        length++;
    return length;
}

static const struct fh_pool *descriptor(const struct fh_region *region, size_t pool_index)
{
    return (const struct fh_pool *)(const void *)(region->descriptors +
                                                  (pool_index << FH_DESCRIPTOR_SHIFT));
}

struct blocks_seen {
    bool seen[FH_POOL_BLOCKS_MAX];
};

/* The list's length, after each block was found to be one that is carved, and in no list so far. */
static unsigned walk(const struct fh_pool *pool, const struct fh_block *block,
                     struct blocks_seen *all)
{
    unsigned length = 0;
    for (; block != NULL; block = block->next, length++) {
        CHECK(fh_pool_has_block_at(pool, block));
        size_t number =
            ((uintptr_t)block - pool->origin - FH_BLOCK_ALIGN_BYTES) / pool->block_bytes;
        CHECK(number < pool->frontier && !all->seen[number]);
        CHECK((pool->holes >> number * pool->block_bytes / FH_CARVE_BYTES & 1) == 0);
        all->seen[number] = true;
    }
    return length;
}

/* What src/pool/pool.h says of each state. */
static unsigned remote_blocks_by_word(const struct fh_pool *pool, uint64_t word)
{
    unsigned credits = fh_word_credits(word);
    switch (fh_word_state(word)) {
    case FH_ACTIVE:
        return FH_ACTIVE_CREDITS - credits;
    case FH_FULL:
        CHECK(credits >= 1 && credits <= pool->threshold);
        return pool->threshold - (pool->capacity - pool->carved) - credits;
    case FH_FREE:
        CHECK(word == 0);
        return 0;
    default:
        CHECK(credits >= 1);
        CHECK(fh_word_shared_live(word, pool->capacity) <= pool->capacity - pool->threshold);
        return pool->carved - fh_word_shared_live(word, pool->capacity);
    }
}

static unsigned true_live(const struct fh_pool *pool)
{
    return fh_pool_live(pool) - (pool->list == FH_LIST_CURRENT);
}

void check_pool(const struct fh_pool *pool)
{
    struct blocks_seen all = {{false}};
    uint64_t word = pool->word;
    if (fh_word_state(word) == FH_FREE) {
        CHECK(word == 0);
        return;
    }
    CHECK(pool->kind == FH_POOL_BLOCKS && pool->carved <= pool->capacity);
    CHECK(walk(pool, fh_word_list(pool, word), &all) == remote_blocks_by_word(pool, word));
    if (fh_word_state(word) != FH_ACTIVE) {
        CHECK(pool->owner == 0);
        return;
    }
    CHECK(pool->owner != 0 && pool->owner == pool->home && fh_word_owner(word) != 0);
    CHECK(true_live(pool) + walk(pool, pool->local, &all) == pool->carved);
}

unsigned blocks_out(const struct fh_pool *pool)
{
    uint64_t word = pool->word;
    switch (fh_word_state(word)) {
    case FH_ACTIVE:
        return true_live(pool) - remote_blocks_by_word(pool, word);
    case FH_FREE:
        return 0;
    default:
        return pool->carved - remote_blocks_by_word(pool, word);
    }
}

static void check_owned(const struct fh_theap *heap, const struct fh_pool *pool,
                        unsigned class_index, enum fh_pool_list list)
{
    check_pool(pool);
    CHECK(fh_word_state(pool->word) == FH_ACTIVE && fh_word_owner(pool->word) == heap->id);
    CHECK(pool->owner == fh_theap_tag(heap) && pool->class_index == class_index);
    CHECK(pool->list == list);
}

/* Of the list that begins with the newest; returns its length. */
static unsigned check_list(const struct fh_theap *heap, unsigned class_index,
                           enum fh_pool_list list, const struct fh_pool *newest,
                           const struct fh_pool *oldest)
{
    unsigned length = 0;
    const struct fh_pool *before = NULL;
    for (const struct fh_pool *pool = newest; pool != NULL; pool = pool->next, length++) {
        check_owned(heap, pool, class_index, list);
        CHECK(pool->previous == before);
        unsigned available = pool->capacity - true_live(pool);
        CHECK(list != FH_LIST_WAITING || (available >= 1 && available < pool->threshold));
        CHECK(true_live(pool) > 0);
        before = pool;
    }
    CHECK(before == oldest);
    return length;
}

static void check_bin(const struct fh_theap *heap, unsigned class_index)
{
    const struct fh_bin *bin = &heap->bins[class_index];
    struct blocks_seen all = {{false}};
    CHECK(bin->current != NULL || heap->ready[class_index].list == NULL);
    if (bin->current != NULL) {
        check_owned(heap, bin->current, class_index, FH_LIST_CURRENT);
        CHECK(walk(bin->current, heap->ready[class_index].list, &all) <= true_live(bin->current));
    }
    CHECK(bin->queued_count * fh_class_pools(class_index) <= FH_QUEUED_MAX);
    CHECK(bin->waiting_count * fh_class_pools(class_index) <= FH_WAITING_MAX);
    CHECK((bin->queued_count > 0) == (heap->queued_classes >> class_index & 1));
    CHECK(check_list(heap, class_index, FH_LIST_QUEUED, bin->queued, bin->oldest_queued) ==
          bin->queued_count);
    CHECK(check_list(heap, class_index, FH_LIST_WAITING, bin->waiting, bin->oldest_waiting) ==
          bin->waiting_count);
}

/* To the arenas the pools at hand are in use; nobody else knows of them. */
static void check_spare(const struct fh_theap *heap, const struct fh_spare *spare)
{
    const struct fh_region *region = heap->region;
    const struct fh_arena *arena = &region->arenas[spare->pool_index >> FH_ARENA_POOL_SHIFT];
    unsigned first = spare->pool_index % FH_ARENA_POOLS;
    CHECK(spare->pools >= 1 && first + spare->pools <= FH_ARENA_POOLS);
    for (unsigned i = 0; i < spare->pools; i++) {
        CHECK(arena->used >> (first + i) & 1);
        CHECK(descriptor(region, spare->pool_index + i)->kind == FH_POOL_NONE);
    }
}

static void check_spares(const struct fh_theap *heap)
{
    unsigned pools = 0;
    for (unsigned i = 0; i < heap->spare_runs; i++) {
        check_spare(heap, &heap->spares[i]);
        pools += heap->spares[i].pools;
    }
    CHECK(heap->spare_runs <= FH_SPARE_RUNS && pools <= FH_SPARE_POOLS);
    CHECK(pools == heap->spare_pools);
}

void check_heap(const struct fh_theap *heap)
{
    uint32_t queued_pools = 0;
    check_spares(heap);
    for (unsigned class_index = 0; class_index < FH_CLASSES; class_index++) {
        check_bin(heap, class_index);
        queued_pools += heap->bins[class_index].queued_count * fh_class_pools(class_index);
    }
    CHECK(queued_pools == heap->queued_pools);
}

/* A member is of use only if a search comes upon it, from wherever it begins. */
static void check_hint(const struct fh_region *region, unsigned set, uint32_t member)
{
    CHECK(fh_hints_has(&region->hints, set, member));
    CHECK(fh_hints_next(&region->hints, set, member) == member);
    CHECK(fh_hints_next(&region->hints, set, 0) <= member);
}

static void check_claimed_pool(const struct fh_region *region, uint32_t arena, unsigned pool_bit)
{
    const struct fh_pool *pool =
        descriptor(region, ((size_t)arena << FH_ARENA_POOL_SHIFT) + pool_bit);
    if (pool->kind != FH_POOL_BLOCKS)
        return;
    check_pool(pool);
    if (!fh_word_is_shared(pool->word))
        return;
    CHECK(region->arenas[arena].shared[pool->class_index] >> pool_bit & 1);
    check_hint(region, pool->class_index, arena);
}

static void check_arena(const struct fh_region *region, uint32_t index)
{
    const struct fh_arena *arena = &region->arenas[index];
    uint64_t all = fh_low_bits(FH_ARENA_POOLS);
    CHECK((arena->used & ~all) == 0 && (arena->dirty & ~all) == 0);
    CHECK((arena->regretted & (arena->used | arena->dirty)) == 0);
    if (arena->used != all)
        check_hint(region, FH_HINTS_ROOM, index);
    if (arena->used == 0)
        check_hint(region, FH_HINTS_EMPTY, index);
    if ((arena->dirty & ~arena->used) != 0)
        check_hint(region, FH_HINTS_DIRTY, index);
    CHECK((arena->sparse & ~all) == 0);
    if (arena->sparse != 0)
        check_hint(region, FH_HINTS_SPARSE, index);
    for (unsigned pool_bit = 0; pool_bit < FH_ARENA_POOLS; pool_bit++)
        if (arena->used >> pool_bit & 1)
            check_claimed_pool(region, index, pool_bit);
}

void check_region(const struct fh_region *region)
{
    size_t retained = 0, sparse = 0;
    for (size_t i = fh_region_next_arena(region, 0); i < region->arenas_max;
         i = fh_region_next_arena(region, i + 1)) {
        const struct fh_arena *arena = &region->arenas[i];
        sparse += (size_t)__builtin_popcountll(arena->sparse);
        if (arena->start == 0)
            continue;
        check_arena(region, (uint32_t)i);
        retained += (size_t)__builtin_popcountll(arena->dirty & ~arena->used);
    }
    CHECK(fh_region_retained_pools(region) == retained && region->sparse_pools == sparse);
    CHECK(fh_region_pools_in_use(region) == claimed_pools(region));
}
