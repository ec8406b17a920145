/* SPDX-License-Identifier: MIT */
/* Signal handlers that allocate, at every instruction of a call.
 *
 * The processor's trap flag raises SIGTRAP after each instruction of one call. There the handler
 * forks: the child goes through a storm, which takes and frees what the interrupted call is about,
 * lets the call go on, and then looks for harm; the parent goes on to the next instruction,
 * undisturbed. So one walk through a call tries each of its instructions from exactly the state
 * that it has there. A child is stepped in turn, for the storm may have sent the call on a way that
 * the parent never sees; there a second storm strikes at every instruction that has not been struck
 * yet.
 *
 * Harm is: a crash, a block handed out twice, changed contents, calloc without zeros; and once all
 * is freed, a byte that still counts as allocated, a pool that counts as active, pages that are not
 * returned, a free pool or arena that cannot be found again.
 *
 * The first ALL_STEPS instructions of a call are all struck, each by every kind of storm; after
 * those, each address when it is first met, and every SAMPLE-th instruction.
 */
#include "family.h"

#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "freehold.h"

#if defined(__x86_64__)

/* Weak, for the library may come by LD_PRELOAD, after linking. */
extern __typeof__(fh_get_stats) fh_get_stats __attribute__((weak));
extern __typeof__(fh_thread_flush) fh_thread_flush __attribute__((weak));
extern __typeof__(fh_trim) fh_trim __attribute__((weak));

enum {
    TRAP_FLAG = 0x100,
    ALL_STEPS = 48,
    SAMPLE = 97,
    KNOWN_STEPS = 32, /* after so many in a row without news a child runs on unstepped */
    STORMS_MIN = 30,  /* fewer than this in an operation, and it was not stepped */
    CHILD_SECONDS = 20,

    LIVE_MAX = 1 << 14,
    ROOM_MAX = 1 << 12,
    ADDRESSES = 1 << 14,
    MARKED_BYTES = 64, /* of a large block, at either end, carry its pattern */
};

enum storm { TAKING, FREEING, GIVING_BACK, STORMS };

static const char *const storm_names[STORMS] = {"taking", "freeing", "giving back"};

struct operation {
    const char *name;
    void (*prepare)(void);
    void (*call)(void);
    size_t bytes;    /* of the blocks around, and of those that the storm takes */
    size_t argument; /* a size to resize to, or an alignment */
    bool elsewhere;  /* the call is made by another thread than the one that prepared */
};

#define HERE(call, prepare, bytes, argument)                                                       \
    {                                                                                              \
#call ", " #prepare, prepare, call, bytes, argument, false                                 \
    }
#define ELSEWHERE(call, prepare, bytes, argument)                                                  \
    {                                                                                              \
#call " elsewhere, " #prepare, prepare, call, bytes, argument, true                        \
    }

/* What a block is known by. In the table a freed one is NULL. */
struct live {
    char *block;
    size_t bytes;
    uint64_t seed;
};

/* What every child must come back to. */
struct base {
    size_t allocated_bytes, active_bytes;
    size_t kept_bytes;      /* active besides, as long as the thread that prepared lives */
    size_t uncertain_bytes; /* that may count as allocated besides */
    size_t held_arenas;     /* that are not wholly free */
};

static struct live live[LIVE_MAX];
static size_t live_count;
static uint64_t next_seed = 1;

static const struct operation *operation;
static struct base base;
static size_t pool_bytes, arena_bytes;
static size_t capacity;   /* blocks of the operation's size in a pool or span; 0: not known yet */
static size_t span_bytes; /* of that pool or span */
static size_t pool_start; /* where the blocks of the pool last filled begin in `live` */
static struct live target;
static char *result;

static struct {
    volatile sig_atomic_t on;
    int depth; /* storms that this process has been through */
    size_t steps, steps_left;
    uintptr_t last;
} stepping;

/* Shared with the children. */
static struct {
    uintptr_t first[ADDRESSES], later[ADDRESSES]; /* addresses that were struck: open hash tables */
    size_t storms, late_storms;                   /* in this operation, and of them second ones */
} * shared;

/* ---- Blocks that are watched ---------------------------------------------------------------- */

static size_t marked(size_t bytes)
{
    return bytes < MARKED_BYTES ? bytes : MARKED_BYTES;
}

static void mark(const struct live *entry)
{
    size_t length = marked(entry->bytes);
    family_fill(entry->block, length, entry->seed);
    if (entry->bytes >= 2 * MARKED_BYTES)
        family_fill(entry->block + entry->bytes - length, length, ~entry->seed);
}

/* The first `kept` bytes, and the last ones if they are among those. */
static bool is_intact(const char *block, size_t kept, const struct live *entry)
{
    size_t length = marked(entry->bytes);
    if (!family_intact(block, marked(kept), entry->seed))
        return false;
    return entry->bytes < 2 * MARKED_BYTES || kept < entry->bytes ||
           family_intact(block + entry->bytes - length, length, ~entry->seed);
}

static bool is_zero(const char *from, size_t bytes)
{
    return from[0] == 0 && memcmp(from, from + 1, bytes - 1) == 0;
}

static void check_zero(const char *block, size_t bytes)
{
    CHECK(is_zero(block, marked(bytes)));
    CHECK(is_zero(block + bytes - marked(bytes), marked(bytes)));
}

static void watch(void *block, size_t bytes)
{
    CHECK(block != NULL && live_count < LIVE_MAX);
    struct live entry = {block, bytes, next_seed++};
    mark(&entry);
    live[live_count++] = entry;
}

static void take(size_t bytes)
{
    watch(malloc(bytes), bytes);
}

static void take_zeroed(size_t bytes)
{
    char *block = calloc(1, bytes);
    CHECK(block != NULL);
    check_zero(block, bytes);
    watch(block, bytes);
}

static void drop(size_t index)
{
    struct live *entry = &live[index];
    if (entry->block == NULL)
        return;
    CHECK(is_intact(entry->block, entry->bytes, entry));
    free(entry->block);
    entry->block = NULL;
}

static void drop_some(size_t from, size_t until, size_t every)
{
    for (size_t i = from; i < until; i += every)
        drop(i);
}

static void resize(size_t index, size_t bytes)
{
    struct live entry = live[index];
    live[index].block = NULL;
    char *block = realloc(entry.block, bytes);
    CHECK(block != NULL && is_intact(block, bytes < entry.bytes ? bytes : entry.bytes, &entry));
    watch(block, bytes);
}

/* The block is no longer anybody's but the call's. */
static void aim_at(size_t index)
{
    target = live[index];
    live[index].block = NULL;
    CHECK(target.block != NULL);
}

/* ---- No two in one place -------------------------------------------------------------------- */

static struct live *ordered[LIVE_MAX];

/* By address, without the help of a qsort() that may allocate. */
static void order(size_t count)
{
    size_t gap = 1;
    while (gap < count / 3)
        gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3) {
        for (size_t i = gap; i < count; i++) {
            struct live *entry = ordered[i];
            size_t at = i;
            for (; at >= gap && ordered[at - gap]->block > entry->block; at -= gap)
                ordered[at] = ordered[at - gap];
            ordered[at] = entry;
        }
    }
}

static void check_apart(void)
{
    size_t count = 0;
    for (size_t i = 0; i < live_count; i++) {
        if (live[i].block != NULL)
            ordered[count++] = &live[i];
    }
    order(count);
    for (size_t i = 0; i + 1 < count; i++)
        CHECK(ordered[i]->block + malloc_usable_size(ordered[i]->block) <= ordered[i + 1]->block);
}

/* ---- Accounts ------------------------------------------------------------------------------- */

static fh_stats stats(void)
{
    fh_stats now = {.struct_bytes = sizeof now};
    CHECK(fh_get_stats(&now) == 0);
    return now;
}

static void *room[ROOM_MAX];

static void take_room(size_t count, size_t bytes)
{
    CHECK(count <= ROOM_MAX);
    for (size_t i = 0; i < count; i++)
        room[i] = malloc(bytes);
}

static void drop_room(size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(room[i]);
}

/* So many free pools, or arenas, are found, without opening one more. */
static void check_room(size_t count, size_t bytes)
{
    size_t arenas = stats().arena_count;
    take_room(count, bytes);
    CHECK(stats().arena_count == arenas);
    drop_room(count);
    fh_thread_flush();
}

static size_t free_arenas(void)
{
    size_t arenas = stats().arena_count;
    size_t count = 0;
    do
        room[count++] = malloc(arena_bytes);
    while (stats().arena_count == arenas && count < ROOM_MAX);
    drop_room(count);
    return count - 1;
}

static fh_stats settled_stats(void)
{
    fh_thread_flush();
    fh_trim();
    return stats();
}

static void learn_sizes(void)
{
    size_t active_bytes = stats().active_bytes;
    while (stats().active_bytes == active_bytes)
        take(16);
    pool_bytes = stats().active_bytes - active_bytes;
    fh_stats before = stats();
    while (stats().arena_count == before.arena_count)
        take(pool_bytes);
    arena_bytes =
        (stats().mapped_bytes - before.mapped_bytes) / (stats().arena_count - before.arena_count);
    drop_some(0, live_count, 1);
    live_count = 0;
}

static void note_base(void)
{
    fh_stats now = settled_stats();
    CHECK(now.retained_bytes == 0);
    base.allocated_bytes = now.allocated_bytes;
    base.uncertain_bytes = 0;
    base.kept_bytes = 0;
    base.active_bytes = now.active_bytes;
    base.held_arenas = now.arena_count - free_arenas();
    settled_stats();
}

/* Every free pool is found. Before a trim, which would set right what is wrong with the hints. */
static void check_free_pools(void)
{
    fh_thread_flush();
    fh_stats now = stats();
    check_room((now.mapped_bytes - now.active_bytes) / pool_bytes, pool_bytes);
}

static void check_base(void)
{
    fh_stats now = settled_stats();
    CHECK(now.allocated_bytes >= base.allocated_bytes);
    CHECK(now.allocated_bytes <= base.allocated_bytes + base.uncertain_bytes);
    size_t kept_bytes = now.active_bytes - base.active_bytes;
    CHECK(kept_bytes == base.kept_bytes || (kept_bytes == 0 && stepping.depth > 0));
    CHECK(now.retained_bytes == 0);
    check_free_pools();
    check_room(now.arena_count - base.held_arenas, arena_bytes);
}

/* ---- Storms --------------------------------------------------------------------------------- */

/* So many blocks use up what is left of the pool that the call is about, and more. */
static size_t storm_blocks(void)
{
    size_t count = 80 * KIB / operation->bytes;
    if (operation->bytes > 1 * MIB)
        return 3;
    return count < 20 ? 20 : count > 160 ? 160 : count;
}

static void take_many(void)
{
    for (size_t i = 0; i < storm_blocks(); i++) {
        if (i % 4 == 3)
            take_zeroed(operation->bytes);
        else
            take(operation->bytes);
    }
}

static void take_other_sizes(void)
{
    take_zeroed(48);
    resize(live_count - 1, 3000);
    take(100 * KIB);
    take(5);
    resize(live_count - 1, 40);
    watch(aligned_alloc(512, 700), 700);
    drop(live_count - 3);
}

static void strike(enum storm storm)
{
    if (storm == FREEING)
        drop_some(0, live_count, 2);
    if (storm == GIVING_BACK) {
        drop_some(0, live_count, 1);
        fh_thread_flush();
        fh_trim();
    }
    take_many();
    take_other_sizes();
    if (storm == TAKING)
        drop_some(0, live_count, 3);
    if (storm == GIVING_BACK)
        fh_thread_flush();
}

/* ---- Stepping ------------------------------------------------------------------------------- */

struct place {
    uintptr_t address;
    const char *object;
    uintptr_t offset;
};

static int find_place(struct dl_phdr_info *info, size_t size, void *data)
{
    struct place *place = data;
    (void)size;
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        uintptr_t offset = place->address - info->dlpi_addr;
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        if (segment->p_type == PT_LOAD && offset - segment->p_vaddr < segment->p_memsz) {
            place->object = info->dlpi_name;
            place->offset = offset;
            return 1;
        }
    }
    return 0;
}

static void fail_at(uintptr_t address, enum storm storm, int status)
{
    char message[512];
    struct place place = {address, "?", address};
    dl_iterate_phdr(find_place, &place);
    int length =
        snprintf(message, sizeof message,
                 "%s, %zu: harmed by a storm (%s) at step %zu, after %d others, at %s+0x%zx; "
                 "wait status 0x%x\n",
                 operation->name, operation->bytes, storm_names[storm], stepping.steps,
                 stepping.depth, place.object, place.offset, (unsigned)status);
    if (length > 0 && write(STDERR_FILENO, message, (size_t)length) < 0)
        _exit(2);
    _exit(1);
}

/* True once per address. A full table counts as knowing all. */
static bool is_fresh(uintptr_t *table, uintptr_t address)
{
    size_t at = address * 0x9e3779b97f4a7c15U >> 50;
    for (size_t tries = 0; tries < 64; tries++, at++) {
        uintptr_t *slot = &table[at % ADDRESSES];
        if (*slot == address)
            return false;
        if (*slot == 0) {
            *slot = address;
            return true;
        }
    }
    return false;
}

/* As if the interrupted call were in the child, which is stepped as long as `steps` brings no news.
 * True there. */
static bool divide(uintptr_t address, enum storm storm, size_t steps)
{
    shared->storms++;
    shared->late_storms += stepping.depth > 0;
    pid_t child = _Fork();
    CHECK(child >= 0);
    if (child > 0) {
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        if (status != 0)
            fail_at(address, storm, status);
        return false;
    }
    alarm(CHILD_SECONDS);
    stepping.depth++;
    stepping.steps_left = steps;
    strike(storm);
    return true;
}

/* The first walk through the call. */
static void look_at(uintptr_t address)
{
    size_t step = stepping.steps++;
    bool fresh = is_fresh(shared->first, address);
    if (step < ALL_STEPS) {
        for (enum storm storm = 0; storm < STORMS; storm++) {
            if (divide(address, storm, storm == step % STORMS ? KNOWN_STEPS : 0))
                return;
        }
    } else if (fresh || step % SAMPLE == 0) {
        (void)divide(address, (enum storm)(shared->storms % STORMS), 0);
    }
}

/* The way of the call after a storm: each address once in all operations of a test. */
static void look_again_at(uintptr_t address)
{
    if (!is_fresh(shared->later, address))
        return;
    stepping.steps_left = KNOWN_STEPS;
    (void)divide(address, (enum storm)(shared->late_storms % STORMS), 0);
}

static bool goes_on(void)
{
    if (stepping.depth > 0 && stepping.steps_left-- == 0)
        stepping.on = 0;
    return stepping.on;
}

/* `rep movsb` and `rep stosb` trap for each byte. When the first has trapped, do all the others but
 * one here: libc copies and clears large blocks so. */
static void hurry(greg_t *registers)
{
    const unsigned char *code = (const unsigned char *)registers[REG_RIP];
    bool copies = code[0] == 0xF3 && code[1] == 0xA4;
    bool clears = code[0] == 0xF3 && code[1] == 0xAA;
    while ((copies || clears) && registers[REG_RCX] > 1) {
        char *to = (char *)registers[REG_RDI]++;
        *to = copies ? *(const char *)registers[REG_RSI]++ : (char)registers[REG_RAX];
        registers[REG_RCX]--;
    }
}

static void trap(int signal_number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t address = (uintptr_t)registers[REG_RIP];
    int kept_errno = errno;
    (void)signal_number;
    (void)info;
    if (stepping.on && address == stepping.last)
        hurry(registers);
    else if (stepping.on && stepping.depth == 0)
        look_at(address);
    else if (stepping.on)
        look_again_at(address);
    stepping.last = address;
    if (!goes_on())
        registers[REG_EFL] &= ~(greg_t)TRAP_FLAG;
    errno = kept_errno;
}

static void catch_traps(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = trap;
    action.sa_flags = SA_SIGINFO;
    CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
    const int deadly[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE};
    for (size_t i = 0; i < sizeof deadly / sizeof deadly[0]; i++)
        signal(deadly[i], SIG_DFL); /* cmocka catches them, and would go on in a child */
}

static void start_stepping(void)
{
    stepping.steps = 0;
    stepping.last = 0;
    shared->storms = shared->late_storms = 0;
    stepping.on = 1;
    /* The stack pointer first moves past the red zone. */
    __asm__ volatile(
        "leaq -128(%%rsp), %%rsp; pushfq; orl %0, (%%rsp); popfq; leaq 128(%%rsp), %%rsp"
        :
        : "i"(TRAP_FLAG)
        : "memory", "cc");
}

/* The next trap takes the flag away. */
static void stop_stepping(void)
{
    stepping.on = 0;
}

/* ---- The calls ------------------------------------------------------------------------------ */

static void do_malloc(void)
{
    result = malloc(operation->bytes);
    CHECK(result != NULL);
}

static void do_calloc(void)
{
    result = calloc(1, operation->bytes);
    CHECK(result != NULL);
}

static void do_aligned_alloc(void)
{
    result = aligned_alloc(operation->argument, operation->bytes);
    CHECK(result != NULL);
}

static void do_realloc(void)
{
    result = realloc(target.block, operation->argument);
    CHECK(result != NULL);
}

static void do_free(void)
{
    free(target.block);
}

static void do_trim(void)
{
    malloc_trim(0);
}

static void do_flush(void)
{
    fh_thread_flush();
}

/* ---- One operation -------------------------------------------------------------------------- */

static void watch_result(void)
{
    if (operation->call == do_calloc)
        check_zero(result, operation->bytes);
    if (operation->call == do_aligned_alloc)
        CHECK((uintptr_t)result % operation->argument == 0);
    if (result == NULL)
        return;
    size_t bytes = target.block == NULL ? operation->bytes : operation->argument;
    if (target.block != NULL)
        CHECK(is_intact(result, bytes < target.bytes ? bytes : target.bytes, &target));
    watch(result, bytes);
}

/* The allocator must be good for more of the same. */
static void look_for_harm(void)
{
    watch_result();
    take_many();
    check_apart();
    if (operation->bytes < arena_bytes) /* the rest of a huge block's last arena is not free */
        check_free_pools();
    drop_some(0, live_count, 1);
    live_count = 0;
    check_base();
}

static void *step_through(void *unused)
{
    result = NULL;
    start_stepping();
    operation->call();
    stop_stepping();
    look_for_harm();
    if (stepping.depth > 0)
        _exit(0);
    return unused;
}

static void *do_nothing(void *unused)
{
    return unused;
}

static void step(const struct operation *which)
{
    operation = which;
    capacity = 0;
    memset(&target, 0, sizeof target);
    /* libc keeps the stack of an ended thread, and what it allocated for it, for the next one. */
    family_join(family_thread(do_nothing, NULL));
    note_base();
    which->prepare();
    if (which->elsewhere)
        family_join(family_thread(step_through, NULL));
    else
        step_through(NULL);
    printf("%s, %zu: %zu steps, %zu storms, %zu of them second ones\n", which->name, which->bytes,
           stepping.steps, shared->storms, shared->late_storms);
    fflush(stdout);
    CHECK(shared->storms >= STORMS_MIN);
}

/* ---- What may precede a call ---------------------------------------------------------------- */

static void take_until_a_pool_opens(void)
{
    size_t active_bytes = stats().active_bytes;
    do
        take(operation->bytes);
    while (stats().active_bytes == active_bytes);
}

static void learn_capacity(void)
{
    take_until_a_pool_opens();
    size_t start = live_count;
    size_t active_bytes = stats().active_bytes;
    take_until_a_pool_opens();
    capacity = live_count - start;
    span_bytes = stats().active_bytes - active_bytes;
    drop_some(0, live_count, 1);
    live_count = 0;
    settled_stats();
}

/* All blocks of the current pool are taken, those before `pool_start` being of others. */
static void pool_used_up(void)
{
    if (capacity == 0)
        learn_capacity();
    take_until_a_pool_opens();
    pool_start = live_count - 1;
    while (live_count < pool_start + capacity)
        take(operation->bytes);
}

static void nothing(void)
{
}

/* The bin has a few blocks, which are the last of the pool. */
static void last_blocks_ready(void)
{
    pool_used_up();
    drop_some(live_count - 6, live_count, 1);
    take(operation->bytes);
}

static void new_pool(void)
{
    pool_used_up();
    take(operation->bytes);
}

/* The bin is empty, the pool is not carved to its end. */
static void page_used_up(void)
{
    pool_used_up();
    size_t page_bytes = 4 * KIB;
    for (size_t bytes = 0; bytes < page_bytes; bytes += operation->bytes)
        take(operation->bytes);
}

static void last_blocks_freed(void)
{
    pool_used_up();
    drop_some(live_count - 6, live_count, 1);
}

/* The next pool is one that was full, and is half empty now. */
static void pool_queued(void)
{
    pool_used_up();
    size_t first = pool_start;
    pool_used_up();
    drop_some(first, first + capacity, 2);
}

static void pool_shared(void)
{
    pool_used_up();
    drop_some(pool_start, live_count, 2);
    fh_thread_flush();
}

static void *drop_a_few(void *unused)
{
    drop_some(pool_start + 1, pool_start + 5, 1);
    return unused;
}

static void freed_by_others(void)
{
    pool_used_up();
    family_join(family_thread(drop_a_few, NULL));
}

/* And the call is about one of them. */
static void in_full_pool(void)
{
    pool_used_up();
    aim_at(pool_start + capacity / 2);
}

static void in_new_pool(void)
{
    new_pool();
    aim_at(live_count - 1);
}

/* Full pools are nobody's, once the heap has gone on to the next. */
static void in_left_pool(void)
{
    new_pool();
    aim_at(pool_start + capacity / 2);
}

/* An eighth of its blocks make a full pool worth sharing; the target is that block. */
static size_t enough_to_share(void)
{
    return capacity / 8 > 1 ? capacity / 8 : 1;
}

static void in_waiting_pool(void)
{
    new_pool();
    drop(pool_start);
    aim_at(pool_start + capacity / 2);
}

static void at_threshold(void)
{
    new_pool();
    drop_some(pool_start, pool_start + enough_to_share() - 1, 1);
    aim_at(pool_start + capacity / 2);
}

static void last_of_pool(void)
{
    new_pool();
    aim_at(pool_start + capacity / 2);
    drop_some(pool_start, pool_start + capacity, 1);
}

static void last_of_shared_pool(void)
{
    pool_used_up();
    fh_thread_flush();
    aim_at(pool_start + capacity / 2);
    drop_some(pool_start, pool_start + capacity, 1);
}

/* The other thread frees into pools of this one, which keeps the last that it filled, its current
 * one, to the end, but not in a child, where this thread is dead. Figures count one block too many
 * in a current pool, if not all of its blocks are live. */
static void keep_current_pool(void)
{
    base.kept_bytes = span_bytes;
    base.held_arenas++; /* perhaps */
    base.uncertain_bytes = malloc_usable_size(live[live_count - 1].block);
}

static void in_others_current_pool(void)
{
    pool_used_up();
    keep_current_pool();
    aim_at(pool_start + capacity / 2);
}

static void fill_two_pools(void)
{
    pool_used_up();
    size_t first = pool_start;
    pool_used_up();
    keep_current_pool();
    pool_start = first;
}

static void in_others_left_pool(void)
{
    fill_two_pools();
    aim_at(pool_start + capacity / 2);
}

static void *drop_almost_enough(void *unused)
{
    drop_some(pool_start, pool_start + enough_to_share() - 1, 1);
    return unused;
}

static void at_others_threshold(void)
{
    fill_two_pools();
    family_join(family_thread(drop_almost_enough, NULL));
    aim_at(pool_start + capacity / 2);
}

/* Of large blocks, some before it, some behind it, and room of the sizes of some. */
static void room_around(void)
{
    for (size_t i = 0; i < 6; i++)
        take(operation->bytes);
    drop_some(0, live_count, 2);
}

static void large_before_others(void)
{
    for (size_t i = 0; i < 4; i++)
        take(operation->bytes);
    aim_at(1);
}

static void last_large(void)
{
    for (size_t i = 0; i < 4; i++)
        take(operation->bytes);
    aim_at(3);
}

/* The heap itself has the pools behind it at hand. */
static void large_before_spare(void)
{
    large_before_others();
    drop(2);
}

/* No pool is free. */
static void arenas_full(void)
{
    fh_stats now = stats();
    for (size_t room_bytes = now.mapped_bytes - now.active_bytes; room_bytes > 0;
         room_bytes -= pool_bytes)
        take(pool_bytes);
}

/* Blocks of a pool to write to, so that there are pages to return. */
static void something_to_return(void)
{
    pool_used_up();
    pool_used_up();
    size_t first = live_count;
    for (size_t i = 0; i < 24; i++)
        take(pool_bytes);
    drop_some(first, live_count, 2);
    drop_some(0, first, 1);
}

/* Pools in every list of the heap. */
static void something_to_give_back(void)
{
    pool_queued();
    size_t first = live_count;
    pool_used_up();
    pool_used_up();
    drop(first + capacity / 2);
    drop_some(live_count - 2, live_count, 1);
    something_to_return();
}

/* ---- The tests ------------------------------------------------------------------------------ */

/* The loader binds a function when it is first called; that shall not be stepped. */
static void call_all_once(void)
{
    void *block = realloc(calloc(1, 1), 2);
    CHECK(block != NULL && malloc_usable_size(block) >= 2);
    free(block);
    free(aligned_alloc(64, 64));
    malloc_trim(0);
    fh_thread_flush();
}

static void step_all(const struct operation *operations, size_t count)
{
    if (fh_get_stats == NULL)
        family_skip("another allocator");
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    call_all_once();
    catch_traps();
    learn_sizes();
    for (size_t i = 0; i < count; i++)
        step(&operations[i]);
    munmap(shared, sizeof *shared);
}

#define STEP_ALL(...)                                                                              \
    do {                                                                                           \
        static const struct operation operations[] = {__VA_ARGS__};                                \
        step_all(operations, sizeof operations / sizeof operations[0]);                            \
    } while (0)

#else /* other processors have no flag that a program could set */

#define STEP_ALL(...) family_skip("only for x86-64")

#endif

TEST(a_handler_may_interrupt_malloc)
{
    STEP_ALL(HERE(do_malloc, last_blocks_ready, 16, 0), HERE(do_malloc, last_blocks_ready, 64, 0),
             HERE(do_malloc, last_blocks_ready, 512, 0),
             HERE(do_malloc, last_blocks_ready, 1024, 0),
             HERE(do_malloc, last_blocks_ready, 20000, 0),
             HERE(do_malloc, last_blocks_freed, 512, 0), HERE(do_malloc, freed_by_others, 512, 0),
             HERE(do_malloc, page_used_up, 1024, 0), HERE(do_malloc, new_pool, 20000, 0),
             HERE(do_malloc, pool_used_up, 16, 0), HERE(do_malloc, pool_used_up, 64, 0),
             HERE(do_malloc, pool_used_up, 512, 0), HERE(do_malloc, pool_used_up, 1024, 0),
             HERE(do_malloc, pool_used_up, 20000, 0), HERE(do_malloc, pool_queued, 1024, 0),
             HERE(do_malloc, pool_shared, 1024, 0), ELSEWHERE(do_malloc, nothing, 64, 0),
             ELSEWHERE(do_malloc, nothing, 20000, 0), ELSEWHERE(do_malloc, nothing, 100 * KIB, 0));
}

TEST(a_handler_may_interrupt_calloc_aligned_alloc_and_realloc)
{
    STEP_ALL(HERE(do_calloc, last_blocks_ready, 64, 0), HERE(do_calloc, last_blocks_freed, 512, 0),
             HERE(do_calloc, pool_used_up, 512, 0), HERE(do_calloc, last_blocks_ready, 1024, 0),
             HERE(do_aligned_alloc, last_blocks_ready, 512, 256),
             HERE(do_aligned_alloc, pool_used_up, 1024, 1024),
             HERE(do_realloc, in_full_pool, 512, 500), HERE(do_realloc, in_full_pool, 64, 200),
             HERE(do_realloc, in_left_pool, 512, 5000), HERE(do_realloc, in_left_pool, 1024, 100),
             ELSEWHERE(do_realloc, in_others_left_pool, 512, 1000));
}

TEST(a_handler_may_interrupt_free)
{
    STEP_ALL(HERE(do_free, in_full_pool, 16, 0), HERE(do_free, in_full_pool, 64, 0),
             HERE(do_free, in_full_pool, 512, 0), HERE(do_free, in_full_pool, 1024, 0),
             HERE(do_free, in_full_pool, 20000, 0), HERE(do_free, in_new_pool, 512, 0),
             HERE(do_free, in_left_pool, 512, 0), HERE(do_free, in_left_pool, 20000, 0),
             HERE(do_free, in_waiting_pool, 512, 0), HERE(do_free, at_threshold, 512, 0),
             HERE(do_free, last_of_pool, 512, 0), HERE(do_free, last_of_pool, 20000, 0),
             HERE(do_free, last_of_shared_pool, 512, 0),
             ELSEWHERE(do_free, in_others_current_pool, 16, 0),
             ELSEWHERE(do_free, in_others_current_pool, 512, 0),
             ELSEWHERE(do_free, in_others_left_pool, 512, 0),
             ELSEWHERE(do_free, at_others_threshold, 512, 0),
             ELSEWHERE(do_free, at_others_threshold, 20000, 0));
}

TEST(a_handler_may_interrupt_calls_about_large_blocks)
{
    STEP_ALL(HERE(do_malloc, room_around, 100 * KIB, 0), HERE(do_malloc, arenas_full, 50 * KIB, 0),
             HERE(do_calloc, room_around, 100 * KIB, 0),
             HERE(do_aligned_alloc, room_around, 100 * KIB, 256 * KIB),
             HERE(do_realloc, last_large, 100 * KIB, 300 * KIB),
             HERE(do_realloc, large_before_spare, 100 * KIB, 200 * KIB),
             HERE(do_realloc, large_before_others, 100 * KIB, 300 * KIB),
             HERE(do_realloc, last_large, 300 * KIB, 100 * KIB),
             HERE(do_realloc, last_large, 100 * KIB, 1000), HERE(do_free, last_large, 100 * KIB, 0),
             HERE(do_free, last_large, 2 * MIB, 0), HERE(do_malloc, room_around, 5 * MIB, 0),
             HERE(do_realloc, last_large, 5 * MIB, 9 * MIB),
             HERE(do_realloc, large_before_others, 5 * MIB, 9 * MIB),
             HERE(do_realloc, last_large, 13 * MIB, 5 * MIB),
             HERE(do_free, last_large, 5 * MIB, 0));
}

TEST(a_handler_may_interrupt_what_gives_memory_back)
{
    STEP_ALL(HERE(do_trim, something_to_return, 512, 0),
             HERE(do_flush, something_to_give_back, 1024, 0));
}

static const struct family_test tests[] = {
    ENTRY(a_handler_may_interrupt_malloc),
    ENTRY(a_handler_may_interrupt_calloc_aligned_alloc_and_realloc),
    ENTRY(a_handler_may_interrupt_free),
    ENTRY(a_handler_may_interrupt_calls_about_large_blocks),
    ENTRY(a_handler_may_interrupt_what_gives_memory_back),
};

int main(int argc, char **argv)
{
    return family_main(tests, sizeof tests / sizeof tests[0], argc, argv);
}
