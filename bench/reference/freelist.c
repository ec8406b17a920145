/* SPDX-License-Identifier: MIT */
/* Reference point: the limit of speed.
 *
 * Each thread has a free list for each size class and takes fresh blocks by moving a pointer. Who
 * frees a block keeps it, no matter who took it, and nothing returns to the system. A block carries
 * a header with its class.
 *
 * Only so that a run ends before memory does, whole lists go through a locked depot: when a bin
 * holds two full ones, and when a thread ends. That is one lock for hundreds of blocks.
 */
#include "family.h"

#include <assert.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdbool.h>
#include <sys/mman.h>

enum {
    HEADER_BYTES = 16,
    LINEAR_STEP_BYTES = 16,
    LINEAR_MAX_BYTES = 1024,
    LINEAR_COUNT = LINEAR_MAX_BYTES / LINEAR_STEP_BYTES,
    STEPS_PER_DOUBLING = 4,
    DOUBLINGS = 28,
    CLASS_COUNT = LINEAR_COUNT + STEPS_PER_DOUBLING * DOUBLINGS,
    CHUNK_BYTES = 1 << 20,
    LIST_MAX_COUNT = 512,
    LIST_MAX_BYTES = 1 << 20
};

static const size_t region_bytes = (size_t)1 << 38;

/* What a block starts with. The caller's memory follows; while the block is free it holds `next`.
 */
struct block {
    alignas(HEADER_BYTES) uint32_t class_index;
    uint32_t list_count;     /* of the list that this block heads, while it lies in the depot */
    struct block *next_list; /* the same; for an aligned block, the block that it lies in */
    struct block *next;
};

static_assert(offsetof(struct block, next) == HEADER_BYTES, "the caller's memory is aligned");
static_assert(LINEAR_MAX_BYTES * LIST_MAX_COUNT <= LIST_MAX_BYTES, "linear lists: a fixed count");

enum { CLASS_INTERIOR = CLASS_COUNT }; /* the header of an aligned block inside another */

struct bin {
    struct block *list;
    struct block *full_list; /* a spare one of list_max() blocks, or NULL */
    size_t count;            /* of list */
};

struct thread_heap {
    struct bin bins[CLASS_COUNT];
    char *chunk, *chunk_end;
    bool is_known; /* its end will be noticed */
};

static _Thread_local struct thread_heap heap;

static char *region;
static size_t region_taken_bytes;
static pthread_once_t started = PTHREAD_ONCE_INIT;
static pthread_key_t end_of_thread;
static pthread_mutex_t depot_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct block *depot[CLASS_COUNT];

/* ---- Size classes: steps of 16 to 1024, then four a doubling -----------------------------------
 */

static uint32_t class_of(size_t bytes)
{
    if (bytes <= LINEAR_MAX_BYTES)
        return bytes > 0 ? (uint32_t)(bytes - 1) / LINEAR_STEP_BYTES : 0;
    uint32_t top_bit = 63u - (uint32_t)__builtin_clzll(bytes - 1);
    uint32_t quarter = (uint32_t)((bytes - 1) >> (top_bit - 2)) & 3;
    return LINEAR_COUNT + (top_bit - 10) * STEPS_PER_DOUBLING + quarter;
}

static size_t class_bytes(uint32_t class_index)
{
    if (class_index < LINEAR_COUNT)
        return ((size_t)class_index + 1) * LINEAR_STEP_BYTES;
    uint32_t step = class_index - LINEAR_COUNT;
    return (size_t)(STEPS_PER_DOUBLING + 1 + step % STEPS_PER_DOUBLING)
           << (step / STEPS_PER_DOUBLING + 8);
}

static size_t list_max(uint32_t class_index)
{
    size_t fitting = LIST_MAX_BYTES / class_bytes(class_index);
    return fitting > LIST_MAX_COUNT ? LIST_MAX_COUNT : fitting > 1 ? fitting : 1;
}

/* ---- The depot ---------------------------------------------------------------------------------
 */

static void depot_put(struct block *list, size_t count)
{
    if (list == NULL)
        return;
    list->list_count = (uint32_t)count;
    pthread_mutex_lock(&depot_mutex);
    list->next_list = depot[list->class_index];
    depot[list->class_index] = list;
    pthread_mutex_unlock(&depot_mutex);
}

static struct block *depot_get(uint32_t class_index)
{
    pthread_mutex_lock(&depot_mutex);
    struct block *list = depot[class_index];
    if (list != NULL)
        depot[class_index] = list->next_list;
    pthread_mutex_unlock(&depot_mutex);
    return list;
}

static void give_up_heap(void *of_thread)
{
    struct thread_heap *ending = of_thread;
    for (uint32_t class_index = 0; class_index < CLASS_COUNT; class_index++) {
        struct bin *bin = &ending->bins[class_index];
        depot_put(bin->list, bin->count);
        depot_put(bin->full_list, list_max(class_index));
        *bin = (struct bin){0};
    }
}

/* ---- Fresh memory ------------------------------------------------------------------------------
 */

static void start(void)
{
    void *reserved = mmap(NULL, region_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved != MAP_FAILED && pthread_key_create(&end_of_thread, give_up_heap) == 0)
        region = reserved;
}

static char *region_take(size_t bytes)
{
    size_t begin = __atomic_fetch_add(&region_taken_bytes, bytes, __ATOMIC_RELAXED);
    return begin <= region_bytes - bytes ? region + begin : NULL;
}

static bool ready(void)
{
    pthread_once(&started, start);
    if (region == NULL)
        return false;
    if (!heap.is_known) {
        heap.is_known = true; /* first: the next line may allocate */
        pthread_setspecific(end_of_thread, &heap);
    }
    return true;
}

static char *fresh(size_t bytes)
{
    if (bytes > CHUNK_BYTES / 16)
        return region_take(bytes);
    if ((size_t)(heap.chunk_end - heap.chunk) < bytes) {
        char *chunk = region_take(CHUNK_BYTES);
        if (chunk == NULL)
            return NULL;
        heap.chunk = chunk;
        heap.chunk_end = chunk + CHUNK_BYTES;
    }
    heap.chunk += bytes;
    return heap.chunk - bytes;
}

static bool bin_refill(struct bin *bin, uint32_t class_index)
{
    if (bin->full_list != NULL) {
        bin->list = bin->full_list;
        bin->full_list = NULL;
        bin->count = list_max(class_index);
        return true;
    }
    bin->list = depot_get(class_index);
    if (bin->list != NULL) {
        bin->count = bin->list->list_count;
        return true;
    }
    struct block *block = (struct block *)fresh(HEADER_BYTES + class_bytes(class_index));
    if (block == NULL)
        return false;
    block->class_index = class_index;
    block->next = NULL;
    bin->list = block;
    bin->count = 1;
    return true;
}

static void bin_spill(struct bin *bin, uint32_t class_index)
{
    depot_put(bin->full_list, list_max(class_index));
    bin->full_list = bin->list;
    bin->list = NULL;
    bin->count = 0;
}

/* ---- The heap ----------------------------------------------------------------------------------
 */

static void *bin_take(struct bin *bin)
{
    struct block *block = bin->list;
    bin->list = block->next;
    bin->count--;
    return &block->next;
}

static void bin_free(struct bin *bin, struct block *block)
{
    block->next = bin->list;
    bin->list = block;
    bin->count++;
}

/* The slow paths are tail calls, so that the fast ones save no register. */
static __attribute__((noinline)) void *take_slow(size_t bytes)
{
    if (bytes > region_bytes / 2 || !ready())
        return no_memory();
    uint32_t class_index = class_of(bytes);
    struct bin *bin = &heap.bins[class_index];
    if (bin->list == NULL && !bin_refill(bin, class_index))
        return no_memory();
    return bin_take(bin);
}

INLINE void *heap_take(size_t bytes)
{
    if (bytes > LINEAR_MAX_BYTES)
        return take_slow(bytes);
    struct bin *bin = &heap.bins[class_of(bytes)];
    return bin->list != NULL ? bin_take(bin) : take_slow(bytes);
}

static struct block *block_of(void *memory)
{
    struct block *block = (struct block *)((char *)memory - HEADER_BYTES);
    return block->class_index != CLASS_INTERIOR ? block : block->next_list;
}

static __attribute__((noinline)) void free_slow(void *memory)
{
    struct block *block = block_of(memory);
    struct bin *bin = &heap.bins[block->class_index];
    if (ready() && bin->count >= list_max(block->class_index))
        bin_spill(bin, block->class_index);
    bin_free(bin, block);
}

INLINE void heap_free(void *memory)
{
    struct block *block = (struct block *)((char *)memory - HEADER_BYTES);
    struct bin *bin = &heap.bins[block->class_index];
    if (block->class_index < LINEAR_COUNT && bin->count < LIST_MAX_COUNT)
        bin_free(bin, block);
    else
        free_slow(memory);
}

static void *heap_take_aligned(size_t alignment, size_t bytes)
{
    if (bytes > region_bytes / 4 || alignment > region_bytes / 4)
        return no_memory();
    char *memory = heap_take(bytes + alignment);
    if (memory == NULL || (uintptr_t)memory % alignment == 0)
        return memory;
    char *inside = memory + (alignment - (uintptr_t)memory % alignment);
    struct block *header = (struct block *)(inside - HEADER_BYTES);
    header->class_index = CLASS_INTERIOR;
    header->next_list = (struct block *)(memory - HEADER_BYTES);
    return inside;
}

static size_t heap_usable_bytes(void *memory)
{
    struct block *block = block_of(memory);
    char *end = (char *)&block->next + class_bytes(block->class_index);
    return (size_t)(end - (char *)memory);
}
