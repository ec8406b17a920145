/* SPDX-License-Identifier: MIT */
/* The same calls to CPython's allocator and to a classic heap must give the same blocks.
 *
 *     classic_replay SEED WHERE     WHERE: aligned, unaligned or region
 *
 * Both get their arenas from here, slot for slot, or the heap gets its own from the region. After
 * each call the two blocks must lie in corresponding arenas at the same offset; after each phase
 * the two texts of statistics must be the same, byte for byte, and the heap in order. Ends with 77
 * if there is no libpython3.11.
 */
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "classic.h"
#include "python.h"
#include "report.h"

enum {
    ARENA_BYTES = 1 << 20,
    STRIDE_BYTES = 2 << 20,
    UNALIGNED_BYTES = 5 << 12, /* one pool and one page behind a pool's boundary */
    SLOTS = 512,
    BLOCKS = 60000,
    THRESHOLD_BYTES = 512,
    LARGEST_BYTES = 600,
    SKIPPED = 77,
};

#define EXPECT(condition) ((condition) ? (void)0 : fail(__LINE__, #condition))

static uint64_t steps;

static void fail(int line, const char *condition)
{
    fprintf(stderr, "replay.c:%d: step %llu: failed: %s\n", line, (unsigned long long)steps,
            condition);
    exit(1);
}

/* ---- Arenas for both -------------------------------------------------------------------------
 */

struct side {
    char *start; /* of the reservation that its arenas lie in */
    size_t offset_bytes;
    unsigned in_use;
    unsigned events; /* arenas taken and freed so far, in a number that depends on their order */
    bool taken[SLOTS];
    uintptr_t partner[SLOTS]; /* CPython's: where the heap has the same arena; 0 if not seen */
};

static struct side pythons, classics;

static void note(struct side *side, unsigned slot, bool taken)
{
    side->taken[slot] = taken;
    side->partner[slot] = 0;
    side->in_use = taken ? side->in_use + 1 : side->in_use - 1;
    side->events = side->events * 31 + slot * 2 + taken;
}

static void *take_arena(void *ctx, size_t bytes)
{
    struct side *side = ctx;
    unsigned slot = 0;
    EXPECT(bytes == ARENA_BYTES);
    while (side->taken[slot])
        EXPECT(++slot < SLOTS);
    note(side, slot, true);
    return side->start + (size_t)slot * STRIDE_BYTES + side->offset_bytes;
}

static unsigned slot_of(const struct side *side, const void *address)
{
    uintptr_t offset = (uintptr_t)address - (uintptr_t)side->start;
    return offset < (uintptr_t)SLOTS * STRIDE_BYTES ? (unsigned)(offset / STRIDE_BYTES) : SLOTS;
}

static void free_arena(void *ctx, void *memory, size_t bytes)
{
    struct side *side = ctx;
    unsigned slot = slot_of(side, memory);
    EXPECT(bytes == ARENA_BYTES && slot < SLOTS && side->taken[slot]);
    note(side, slot, false);
    memset(memory, 0xA5, bytes); /* what comes back later need not be zero */
}

static void reserve(struct side *side, size_t offset_bytes)
{
    size_t bytes = (size_t)(SLOTS + 1) * STRIDE_BYTES;
    char *start = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT(start != MAP_FAILED);
    uintptr_t aligned = ((uintptr_t)start + STRIDE_BYTES - 1) & ~((uintptr_t)STRIDE_BYTES - 1);
    side->start = (char *)aligned;
    side->offset_bytes = offset_bytes;
}

/* ---- The two -------------------------------------------------------------------------------- */

static struct python python;
static struct fh_classic *heap;

struct pair {
    char *python;
    char *classic;
    uint32_t bytes; /* 0: no block */
};

static struct pair pairs[BLOCKS];

/* Where the arena of a heap's block begins. */
static uintptr_t arena_of(const char *block)
{
    unsigned slot = slot_of(&classics, block);
    return slot < SLOTS
               ? (uintptr_t)classics.start + (uintptr_t)slot * STRIDE_BYTES + classics.offset_bytes
               : (uintptr_t)block & ~((uintptr_t)ARENA_BYTES - 1);
}

static void compare(const struct pair *pair)
{
    unsigned slot = slot_of(&pythons, pair->python);
    bool ours = fh_classic_of(pair->classic) == heap;
    EXPECT((slot < SLOTS) == ours); /* else both went to the system's malloc */
    if (!ours)
        return;
    uintptr_t arena = arena_of(pair->classic);
    if (pythons.partner[slot] == 0)
        pythons.partner[slot] = arena;
    EXPECT(pythons.partner[slot] == arena);
    uintptr_t python_arena =
        (uintptr_t)pythons.start + (uintptr_t)slot * STRIDE_BYTES + pythons.offset_bytes;
    EXPECT((uintptr_t)pair->python - python_arena == (uintptr_t)pair->classic - arena);
    EXPECT(pythons.in_use == heap->arenas_current);
}

static void fill(const struct pair *pair)
{
    memset(pair->python, (int)(pair->bytes & 0x7F), pair->bytes);
    memset(pair->classic, (int)(pair->bytes & 0x7F), pair->bytes);
}

static void *classic_malloc(size_t bytes)
{
    return fh_classic_serves(heap, bytes) ? fh_classic_malloc(heap, bytes) : malloc(bytes);
}

static void pair_malloc(struct pair *pair, uint32_t bytes)
{
    *pair = (struct pair){python.malloc(bytes), classic_malloc(bytes), bytes};
    EXPECT(pair->python != NULL && pair->classic != NULL);
    compare(pair);
    fill(pair);
    steps++;
}

static void pair_free(struct pair *pair)
{
    python.free(pair->python);
    if (!fh_classic_free(heap, pair->classic))
        free(pair->classic);
    pair->bytes = 0;
    EXPECT(pythons.in_use == heap->arenas_current);
    steps++;
}

static void *classic_realloc(char *block, uint32_t old_bytes, uint32_t bytes)
{
    void *moved = block;
    enum fh_classic_outcome outcome = fh_classic_realloc(heap, &moved, bytes);
    if (outcome == FH_CLASSIC_RESIZED)
        return moved;
    if (outcome == FH_CLASSIC_FOREIGN)
        return realloc(block, bytes);
    moved = malloc(bytes);
    EXPECT(moved != NULL && bytes > THRESHOLD_BYTES);
    memcpy(moved, block, old_bytes);
    EXPECT(fh_classic_free(heap, block));
    return moved;
}

static void pair_realloc(struct pair *pair, uint32_t bytes)
{
    uint32_t kept = pair->bytes < bytes ? pair->bytes : bytes;
    pair->python = python.realloc(pair->python, bytes);
    pair->classic = classic_realloc(pair->classic, pair->bytes, bytes);
    EXPECT(memcmp(pair->python, pair->classic, kept) == 0);
    pair->bytes = bytes;
    compare(pair);
    fill(pair);
    steps++;
}

/* ---- Statistics ----------------------------------------------------------------------------- */

static void append(void *ctx, const char *text, size_t bytes)
{
    fwrite(text, 1, bytes, ctx);
}

static void complain(void *ctx, const char *what, const void *where)
{
    (void)ctx;
    fprintf(stderr, "%s: %p\n", what, where);
}

/* CPython goes on to say what its map takes. */
static void compare_statistics(void)
{
    char *theirs = NULL, *ours = NULL;
    size_t their_bytes = 0, our_bytes = 0;
    FILE *out = open_memstream(&theirs, &their_bytes);
    EXPECT(out != NULL && python.stats(out) == 1 && fclose(out) == 0);
    out = open_memstream(&ours, &our_bytes);
    EXPECT(out != NULL);
    fh_classic_stats_text(heap, append, out);
    EXPECT(fclose(out) == 0 && our_bytes > 800);
    if (their_bytes < our_bytes || memcmp(theirs, ours, our_bytes) != 0)
        fprintf(stderr, "CPython:\n%s\nthe heap:\n%s\n", theirs, ours);
    EXPECT(their_bytes >= our_bytes && memcmp(theirs, ours, our_bytes) == 0);
    EXPECT(memcmp(theirs + our_bytes, "\narena map counts\n", 18) == 0);
    free(theirs);
    free(ours);
}

static void end_phase(const char *name)
{
    struct fh_classic_totals totals;
    compare_statistics();
    EXPECT(fh_classic_check(heap, complain, NULL) == 0);
    EXPECT(heap->config.source.ctx == NULL || pythons.events == classics.events);
    fh_classic_sum(heap, &totals);
    printf("%-12s %8llu calls, %6zu blocks in %2zu of %2llu arenas\n", name,
           (unsigned long long)steps, totals.live_blocks, totals.arenas_current,
           (unsigned long long)totals.arenas_total);
}

/* ---- Phases --------------------------------------------------------------------------------- */

static uint64_t state;

static uint32_t below(uint32_t limit)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 32) * limit >> 32);
}

/* Mostly small, as programs are. */
static uint32_t some_bytes(void)
{
    uint32_t most = below(4) == 0 ? LARGEST_BYTES : below(3) == 0 ? 160 : 64;
    return 1 + below(most);
}

/* All sizes in turn: fresh pools, carving, full pools. */
static void only_malloc(void)
{
    for (uint32_t i = 0; i < BLOCKS; i++)
        if (pairs[i].bytes == 0)
            pair_malloc(&pairs[i], 1 + i % THRESHOLD_BYTES);
    end_phase("only malloc");
}

static void last_in_first_out(void)
{
    for (uint32_t round = 0; round < 200; round++) {
        uint32_t first = below(BLOCKS - 500), count = 1 + below(500);
        for (uint32_t i = 0; i < count; i++)
            pair_free(&pairs[first + i]);
        for (uint32_t i = count; i-- > 0;)
            pair_malloc(&pairs[first + i], 1 + below(THRESHOLD_BYTES));
    }
    end_phase("in and out");
}

/* A free here and there: full pools come back to the front of their lists. */
static void relink(void)
{
    for (uint32_t i = 0; i < BLOCKS; i += 1 + below(300))
        if (pairs[i].bytes != 0)
            pair_free(&pairs[i]);
    for (uint32_t i = 0; i < BLOCKS; i++)
        if (pairs[i].bytes == 0)
            pair_malloc(&pairs[i], some_bytes());
    end_phase("relink");
}

static void mix(uint32_t calls, uint32_t live_of_8)
{
    while (calls-- > 0) {
        struct pair *pair = &pairs[below(BLOCKS)];
        if (pair->bytes == 0 && below(8) < live_of_8)
            pair_malloc(pair, some_bytes());
        else if (pair->bytes != 0 && below(3) == 0)
            pair_realloc(pair, some_bytes());
        else if (pair->bytes != 0 && below(8) >= live_of_8)
            pair_free(pair);
    }
    end_phase("mix");
}

/* Nearly all, in an order of chance: arenas empty, move in the list, and go back. */
static void free_most(uint32_t one_in)
{
    for (uint32_t i = 0; i < 4 * BLOCKS; i++) {
        struct pair *pair = &pairs[below(BLOCKS)];
        if (pair->bytes != 0 && below(one_in) != 0)
            pair_free(pair);
    }
    end_phase("free most");
}

/* Stretches of neighbours, freed and taken again in other sizes: pools change their class, arenas
 * change places in the list, some go back and come again. */
static void patches(void)
{
    for (uint32_t round = 0; round < 150; round++) {
        uint32_t count = 1 + below(8000), first = below(BLOCKS - count);
        uint32_t bytes = 1 + below(THRESHOLD_BYTES);
        for (uint32_t i = first; i < first + count; i++)
            if (pairs[i].bytes != 0)
                pair_free(&pairs[i]);
        if (below(3) == 0)
            continue;
        for (uint32_t i = first; i < first + count; i++)
            pair_malloc(&pairs[i], bytes);
    }
    end_phase("patches");
}

static void free_all(void)
{
    for (uint32_t i = 0; i < BLOCKS; i++)
        if (pairs[i].bytes != 0)
            pair_free(&pairs[i]);
    end_phase("free all");
}

static void replay(void)
{
    only_malloc();
    last_in_first_out();
    relink();
    mix(200000, 4);
    patches();
    free_most(50);
    mix(200000, 6);
    free_most(2000);
    mix(100000, 2);
    only_malloc();
    patches();
    free_all();
    mix(100000, 5);
    patches();
    free_all();
}

int main(int argc, char **argv)
{
    struct fh_classic_config config = fh_classic_default_config();
    if (argc != 3)
        return 2;
    if (!python_load(&python)) {
        printf("skipped: no libpython3.11\n");
        return SKIPPED;
    }
    state = strtoull(argv[1], NULL, 10);
    size_t offset_bytes = strcmp(argv[2], "unaligned") == 0 ? UNALIGNED_BYTES : 0;
    reserve(&pythons, offset_bytes);
    python.set_arenas(&(struct python_arenas){&pythons, take_arena, free_arena});
    if (strcmp(argv[2], "region") != 0) {
        reserve(&classics, offset_bytes);
        config.source = (struct fh_classic_source){&classics, take_arena, free_arena};
    }
    heap = fh_classic_create(&config);
    EXPECT(heap != NULL);
    replay();
    fh_classic_destroy(heap);
    EXPECT(classics.in_use == 0 && fh_classic_of(pairs[0].classic) == NULL);
    return 0;
}
