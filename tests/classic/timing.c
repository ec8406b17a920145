/* SPDX-License-Identifier: MIT */
/* How long CPython's allocator and a classic heap take for the same small blocks.
 *
 *     classic_timing [ROUNDS]
 *
 * Sizes are mixed as an interpreter asks for them, and a few thousand blocks live at a time. Prints
 * for each pattern (see below) the time of a malloc and a free, the best of some rounds in which
 * the candidates take turns, and its ratio to CPython's. Not a test.
 */
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include "classic.h"
#include "python.h"

enum { LIVE = 4096, CALLS = 1 << 17, SIZES = 1 << 16 };

static uint16_t sizes[SIZES];
static uint16_t places[SIZES];

static uint32_t below(uint32_t limit)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 32) * limit >> 32);
}

static void prepare(void)
{
    static const struct {
        uint16_t bytes;
        uint8_t percent;
    } mix[] = {{32, 30}, {48, 32}, {64, 10}, {80, 7},  {96, 4},  {112, 4},
               {128, 5}, {16, 3},  {144, 1}, {160, 2}, {256, 1}, {512, 1}};
    for (size_t i = 0; i < SIZES; i++) {
        uint32_t chance = below(100), kind = 0;
        for (uint32_t sum = mix[0].percent; sum <= chance; sum += mix[kind].percent)
            kind++;
        sizes[i] = (uint16_t)(mix[kind].bytes - below(8));
        places[i] = (uint16_t)below(LIVE);
    }
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct python python;
static struct fh_classic *heap;
static void *live[LIVE];

/* As a domain would: the size is checked, and what the heap does not serve goes elsewhere. */
static inline void *inline_malloc(size_t bytes)
{
    return fh_classic_serves(heap, bytes) ? fh_classic_malloc(heap, bytes) : malloc(bytes);
}

static inline void inline_free(void *block)
{
    if (!fh_classic_free(heap, block))
        free(block);
}

static void *called_malloc(size_t bytes)
{
    return inline_malloc(bytes);
}

static void called_free(void *block)
{
    inline_free(block);
}

enum pattern { SWAP, ROW, QUEUE, PAIR, PATTERNS };

static const char *const pattern_names[PATTERNS] = {"swap", "row", "queue", "pair"};

/* Written out once for each candidate, so that the inline functions are inlined.
 *
 *   swap   free one of the live blocks, whichever, and take another in its place
 *   row    take as many as there may be, and free them, the last one first
 *   queue  free the oldest, and take another
 *   pair   take one and free it */
#define DEFINE_CANDIDATE(name, take, give)                                                         \
    static void name##_swap(void)                                                                  \
    {                                                                                              \
        for (uint32_t i = 0; i < CALLS; i++) {                                                     \
            void **place = &live[places[i % SIZES]];                                               \
            give(*place);                                                                          \
            *place = take(sizes[(i + i / SIZES) % SIZES]);                                         \
            *(char *)*place = 1;                                                                   \
        }                                                                                          \
    }                                                                                              \
    static void name##_row(void)                                                                   \
    {                                                                                              \
        for (uint32_t i = 0; i < CALLS; i += LIVE) {                                               \
            for (uint32_t k = LIVE; k-- > 0;)                                                      \
                give(live[k]);                                                                     \
            for (uint32_t k = 0; k < LIVE; k++)                                                    \
                live[k] = take(sizes[(i + k) % SIZES]);                                            \
        }                                                                                          \
    }                                                                                              \
    static void name##_queue(void)                                                                 \
    {                                                                                              \
        for (uint32_t i = 0; i < CALLS; i++) {                                                     \
            give(live[i % LIVE]);                                                                  \
            live[i % LIVE] = take(sizes[(i + i / SIZES) % SIZES]);                                 \
        }                                                                                          \
    }                                                                                              \
    static void name##_pair(void)                                                                  \
    {                                                                                              \
        for (uint32_t i = 0; i < CALLS; i++) {                                                     \
            void *volatile block = take(sizes[i % SIZES]);                                         \
            give(block);                                                                           \
        }                                                                                          \
    }

static void *(*volatile classic_malloc)(size_t) = called_malloc;
static void (*volatile classic_free)(void *) = called_free;

DEFINE_CANDIDATE(run_python, python.malloc, python.free)
DEFINE_CANDIDATE(run_classic, classic_malloc, classic_free)
DEFINE_CANDIDATE(run_inline, inline_malloc, inline_free)

static void fill(void *(*take)(size_t))
{
    for (size_t i = 0; i < LIVE; i++)
        live[i] = take(sizes[i]);
}

static void empty(void (*give)(void *))
{
    for (size_t i = 0; i < LIVE; i++)
        give(live[i]);
}

struct candidate {
    const char *name;
    void *(*take)(size_t);
    void (*give)(void *);
    void (*run[PATTERNS])(void);
    uint64_t best_ns[PATTERNS];
};

#define RUNS(name)                                                                                 \
    {                                                                                              \
        name##_swap, name##_row, name##_queue, name##_pair                                         \
    }

static struct candidate candidates[] = {
    {"PyObject_Malloc", NULL, NULL, RUNS(run_python), {0}},
    {"classic, through pointers", called_malloc, called_free, RUNS(run_classic), {0}},
    {"classic, inline", called_malloc, called_free, RUNS(run_inline), {0}},
};

enum { CANDIDATES = sizeof candidates / sizeof *candidates };

static void run_round(struct candidate *candidate)
{
    fill(candidate->take);
    for (int i = 0; i < PATTERNS; i++) {
        uint64_t begun = now_ns();
        candidate->run[i]();
        uint64_t took = now_ns() - begun;
        if (candidate->best_ns[i] == 0 || took < candidate->best_ns[i])
            candidate->best_ns[i] = took;
    }
    empty(candidate->give);
}

static void print(const struct candidate *candidate, const struct candidate *base)
{
    printf("%-26s", candidate->name);
    for (int i = 0; i < PATTERNS; i++)
        printf("  %s %5.2f ns, x %.2f", pattern_names[i], (double)candidate->best_ns[i] / CALLS,
               (double)candidate->best_ns[i] / (double)base->best_ns[i]);
    printf("\n");
}

int main(int argc, char **argv)
{
    struct fh_classic_config config = fh_classic_default_config();
    if (!python_load(&python)) {
        printf("no libpython3.11\n");
        return 77;
    }
    heap = fh_classic_create(&config);
    if (heap == NULL)
        return 1;
    prepare();
    candidates[0].take = python.malloc;
    candidates[0].give = python.free;
    for (int round = argc > 1 ? atoi(argv[1]) : 200; round > 0; round--)
        for (size_t i = 0; i < CANDIDATES; i++)
            run_round(&candidates[i]);
    for (size_t i = 0; i < CANDIDATES; i++)
        print(&candidates[i], &candidates[0]);
    fh_classic_destroy(heap);
    return 0;
}
