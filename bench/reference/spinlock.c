/* SPDX-License-Identifier: MIT */
/* Reference point: what one global lock costs.
 *
 * One heap after the manner of pymalloc, with every call inside one spin lock. Arenas of 256 KiB
 * are cut into pools of 4 KiB, a pool into blocks of one size class; sizes over 512 go to the C
 * library, under the same lock, as they would under an interpreter's.
 *
 *   used   some blocks out, some left: in used_pools of its class
 *   full   no block left: in no list
 *   empty  all blocks back: in its arena's free_pools, without a class
 */
#include "family.h"

#include <ck_spinlock.h>

#include <dlfcn.h>
#include <stdbool.h>
#include <sys/mman.h>

enum {
    ARENA_BYTES = 256 * 1024,
    POOL_BYTES = 4096,
    ARENA_POOLS = ARENA_BYTES / POOL_BYTES,
    CLASS_STEP_BYTES = 16,
    SMALL_MAX_BYTES = 512,
    CLASS_COUNT = SMALL_MAX_BYTES / CLASS_STEP_BYTES,
    ARENA_COUNT = 128 * 1024
};

static const size_t region_bytes = (size_t)ARENA_COUNT * ARENA_BYTES;

struct block {
    struct block *next;
};

struct pool {
    struct block *free_list;
    struct pool *next, *prev; /* in used_pools or, by next alone, in free_pools */
    uint32_t class_index;
    uint32_t live_count;
    uint32_t carved_bytes; /* from the pool's start; memory above is untouched */
};

struct arena {
    struct pool *free_pools;
    struct arena *next, *prev; /* in usable_arenas */
    uint32_t carved_pools;
    uint32_t live_pools;
};

/* What stays of glibc's own malloc when its name is taken. */
extern void *__libc_malloc(size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);
extern void __libc_free(void *block);

static ck_spinlock_t lock = CK_SPINLOCK_INITIALIZER;
static char *region;
static bool region_failed;
static struct arena arenas[ARENA_COUNT];
static uint32_t arenas_opened;
static struct arena *usable_arenas; /* with a pool to give, or purged and ready to be used again */
static struct pool *used_pools[CLASS_COUNT];

static bool is_small(const void *address)
{
    const char *start = __atomic_load_n(&region, __ATOMIC_RELAXED);
    return start != NULL && (uintptr_t)address - (uintptr_t)start < region_bytes;
}

static struct pool *pool_of(void *block)
{
    return (struct pool *)((uintptr_t)block & ~(uintptr_t)(POOL_BYTES - 1));
}

static struct arena *arena_of(const struct pool *pool)
{
    return &arenas[((uintptr_t)pool - (uintptr_t)region) / ARENA_BYTES];
}

static uint32_t block_bytes_of(const struct pool *pool)
{
    return (pool->class_index + 1) * CLASS_STEP_BYTES;
}

static bool is_full(const struct pool *pool)
{
    return pool->free_list == NULL && pool->carved_bytes + block_bytes_of(pool) > POOL_BYTES;
}

/* ---- Arenas ---------------------------------------------------------------------------------- */

static void list_arena(struct arena *arena)
{
    arena->prev = NULL;
    arena->next = usable_arenas;
    if (usable_arenas != NULL)
        usable_arenas->prev = arena;
    usable_arenas = arena;
}

static void unlist_arena(struct arena *arena)
{
    if (arena->prev != NULL)
        arena->prev->next = arena->next;
    else
        usable_arenas = arena->next;
    if (arena->next != NULL)
        arena->next->prev = arena->prev;
}

static bool region_reserve(void)
{
    if (region != NULL || region_failed)
        return region != NULL;
    void *start = mmap(NULL, region_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    region_failed = start == MAP_FAILED;
    __atomic_store_n(&region, region_failed ? NULL : start, __ATOMIC_RELAXED);
    return !region_failed;
}

static struct arena *usable_arena(void)
{
    if (usable_arenas != NULL)
        return usable_arenas;
    if (!region_reserve() || arenas_opened == ARENA_COUNT)
        return NULL;
    list_arena(&arenas[arenas_opened++]);
    return usable_arenas;
}

static struct pool *arena_take_pool(struct arena *arena)
{
    struct pool *pool = arena->free_pools;
    if (pool != NULL)
        arena->free_pools = pool->next;
    else
        pool = (struct pool *)(region + (size_t)(arena - arenas) * ARENA_BYTES +
                               (size_t)arena->carved_pools++ * POOL_BYTES);
    if (++arena->live_pools == ARENA_POOLS)
        unlist_arena(arena);
    return pool;
}

/* The last usable arena keeps its pages, or a program at the brink would fault them in again and
 * again. */
static void arena_free_pool(struct arena *arena, struct pool *pool)
{
    if (arena->live_pools-- == ARENA_POOLS)
        list_arena(arena);
    pool->next = arena->free_pools;
    arena->free_pools = pool;
    if (arena->live_pools > 0 || (arena->next == NULL && arena->prev == NULL))
        return;
    madvise(region + (size_t)(arena - arenas) * ARENA_BYTES, ARENA_BYTES, MADV_DONTNEED);
    arena->free_pools = NULL;
    arena->carved_pools = 0;
}

/* ---- Pools ----------------------------------------------------------------------------------- */

static void list_pool(struct pool *pool)
{
    struct pool **first = &used_pools[pool->class_index];
    pool->prev = NULL;
    pool->next = *first;
    if (*first != NULL)
        (*first)->prev = pool;
    *first = pool;
}

static void unlist_pool(struct pool *pool)
{
    if (pool->prev != NULL)
        pool->prev->next = pool->next;
    else
        used_pools[pool->class_index] = pool->next;
    if (pool->next != NULL)
        pool->next->prev = pool->prev;
}

static struct pool *pool_open(uint32_t class_index)
{
    struct arena *arena = usable_arena();
    if (arena == NULL)
        return NULL;
    struct pool *pool = arena_take_pool(arena);
    pool->free_list = NULL;
    pool->class_index = class_index;
    pool->live_count = 0;
    pool->carved_bytes =
        (sizeof *pool + CLASS_STEP_BYTES - 1) / CLASS_STEP_BYTES * CLASS_STEP_BYTES;
    list_pool(pool);
    return pool;
}

static void *pool_take(struct pool *pool)
{
    struct block *block = pool->free_list;
    if (block != NULL) {
        pool->free_list = block->next;
    } else {
        block = (struct block *)((char *)pool + pool->carved_bytes);
        pool->carved_bytes += block_bytes_of(pool);
    }
    pool->live_count++;
    if (is_full(pool))
        unlist_pool(pool);
    return block;
}

static void pool_free(struct pool *pool, struct block *block)
{
    if (is_full(pool))
        list_pool(pool);
    block->next = pool->free_list;
    pool->free_list = block;
    if (--pool->live_count > 0)
        return;
    unlist_pool(pool);
    arena_free_pool(arena_of(pool), pool);
}

/* ---- The heap -------------------------------------------------------------------------------- */

static void *take_locked(size_t bytes)
{
    if (bytes > SMALL_MAX_BYTES)
        return __libc_malloc(bytes);
    uint32_t class_index = bytes > 0 ? (uint32_t)(bytes - 1) / CLASS_STEP_BYTES : 0;
    struct pool *pool = used_pools[class_index];
    if (pool == NULL)
        pool = pool_open(class_index);
    return pool != NULL ? pool_take(pool) : __libc_malloc(bytes);
}

INLINE void *heap_take(size_t bytes)
{
    ck_spinlock_lock(&lock);
    void *block = take_locked(bytes);
    ck_spinlock_unlock(&lock);
    return block; /* errno is the C library's */
}

static void *heap_take_aligned(size_t alignment, size_t bytes)
{
    ck_spinlock_lock(&lock);
    void *block = __libc_memalign(alignment, bytes);
    ck_spinlock_unlock(&lock);
    return block;
}

INLINE void heap_free(void *block)
{
    ck_spinlock_lock(&lock);
    if (is_small(block))
        pool_free(pool_of(block), block);
    else
        __libc_free(block);
    ck_spinlock_unlock(&lock);
}

/* A live block's class does not change, so this needs no lock. */
static size_t heap_usable_bytes(void *block)
{
    static size_t (*libc_usable_size)(void *);
    if (is_small(block))
        return block_bytes_of(pool_of(block));
    size_t (*usable_size)(void *) = __atomic_load_n(&libc_usable_size, __ATOMIC_RELAXED);
    if (usable_size == NULL) {
        void *symbol = dlsym(RTLD_NEXT, "malloc_usable_size");
        memcpy(&usable_size, &symbol, sizeof usable_size);
        __atomic_store_n(&libc_usable_size, usable_size, __ATOMIC_RELAXED);
    }
    return usable_size(block);
}
