/* SPDX-License-Identifier: MIT */
#include "usable.h"

#include <string.h>

#include "bits.h"
#include "os.h"
#include "supply.h"

/* ---- The vector of records --------------------------------------------------------------------
 */

static size_t vector_bytes(size_t capacity)
{
    return fh_round_up(capacity * sizeof(struct fh_classic_arena), fh_os_page_bytes());
}

/* A vector for so many, with the records there are. Where the pages already suffice, the same. */
static struct fh_classic_arena *resized_vector(const struct fh_classic *heap, uint32_t capacity)
{
    size_t old_bytes = vector_bytes(heap->arenas_capacity);
    size_t bytes = vector_bytes(capacity);
    if (bytes == old_bytes)
        return heap->arenas;
    struct fh_classic_arena *arenas = fh_os_map(bytes);
    if (arenas == NULL || old_bytes == 0)
        return arenas;
    memcpy(arenas, heap->arenas, heap->arenas_capacity * sizeof *arenas);
    fh_os_unmap(heap->arenas, old_bytes);
    return arenas;
}

static bool grow_vector(struct fh_classic *heap)
{
    uint32_t before = heap->arenas_capacity;
    uint32_t capacity = before == 0 ? FH_CLASSIC_ARENAS_FIRST : 2 * before;
    if (capacity <= before)
        return false;
    struct fh_classic_arena *arenas = resized_vector(heap, capacity);
    if (arenas == NULL)
        return false;
    for (uint32_t i = before; i < capacity; i++)
        arenas[i].next = i + 1 < capacity ? &arenas[i + 1] : NULL;
    heap->arenas = arenas;
    heap->arenas_capacity = capacity;
    heap->unused = &arenas[before];
    return true;
}

/* ---- Arenas come and go -----------------------------------------------------------------------
 */

static void count_new(struct fh_classic *heap)
{
    heap->arenas_total++;
    heap->arenas_current++;
    if (heap->arenas_highwater < heap->arenas_current)
        heap->arenas_highwater = heap->arenas_current;
}

/* Pools are aligned; an arena that is not loses one. */
static void lay_out(const struct fh_classic *heap, struct fh_classic_arena *arena, void *memory)
{
    uint32_t pool_bytes = heap->config.pool_bytes;
    uint32_t excess_bytes = (uint32_t)((uintptr_t)memory & (pool_bytes - 1));
    arena->address = (uintptr_t)memory;
    arena->fresh = (char *)memory + (excess_bytes == 0 ? 0 : pool_bytes - excess_bytes);
    arena->empty = NULL;
    arena->pool_count = heap->config.arena_bytes / pool_bytes - (excess_bytes != 0);
    arena->free_count = arena->pool_count;
}

/* The one usable arena, when there was none. */
static bool open_arena(struct fh_classic *heap)
{
    uint32_t limit = heap->config.arenas_max;
    if (limit != 0 && heap->arenas_current >= limit)
        return false;
    if (heap->unused == NULL && !grow_vector(heap))
        return false;
    void *memory = fh_supply_arena(heap);
    if (memory == NULL)
        return false;
    struct fh_classic_arena *arena = heap->unused;
    heap->unused = arena->next;
    lay_out(heap, arena, memory);
    arena->next = arena->previous = NULL;
    heap->usable = arena;
    heap->last_with[arena->free_count] = arena;
    count_new(heap);
    return true;
}

/* An arena that is in no list. */
static void close_arena(struct fh_classic *heap, struct fh_classic_arena *arena)
{
    fh_supply_return(heap, (void *)arena->address);
    arena->address = 0;
    arena->next = heap->unused;
    heap->unused = arena;
    heap->arenas_current--;
}

void fh_usable_release_all(struct fh_classic *heap)
{
    for (uint32_t i = 0; i < heap->arenas_capacity; i++)
        if (heap->arenas[i].address != 0)
            close_arena(heap, &heap->arenas[i]);
    if (heap->arenas_capacity != 0)
        fh_os_unmap(heap->arenas, vector_bytes(heap->arenas_capacity));
}

/* ---- The list of usable arenas ----------------------------------------------------------------
 */

static void unlink_usable(struct fh_classic *heap, struct fh_classic_arena *arena)
{
    if (arena->previous == NULL)
        heap->usable = arena->next;
    else
        arena->previous->next = arena->next;
    if (arena->next != NULL)
        arena->next->previous = arena->previous;
}

static void link_after(struct fh_classic_arena *arena, struct fh_classic_arena *before)
{
    arena->previous = before;
    arena->next = before->next;
    before->next = arena;
    if (arena->next != NULL)
        arena->next->previous = arena;
}

static void link_first(struct fh_classic *heap, struct fh_classic_arena *arena)
{
    arena->previous = NULL;
    arena->next = heap->usable;
    if (arena->next != NULL)
        arena->next->previous = arena;
    heap->usable = arena;
}

/* The first arena loses a pool: it has the fewest, so it stays first, or leaves with its last. */
static void count_taken(struct fh_classic *heap, struct fh_classic_arena *arena)
{
    if (heap->last_with[arena->free_count] == arena)
        heap->last_with[arena->free_count] = NULL;
    arena->free_count--;
    if (arena->free_count == 0)
        unlink_usable(heap, arena);
    else
        heap->last_with[arena->free_count] = arena;
}

/* The arena is at the end of its time: all its pools are free. */
static void remove_empty(struct fh_classic *heap, struct fh_classic_arena *arena)
{
    uint32_t count = arena->free_count;
    struct fh_classic_arena *previous = arena->previous;
    if (heap->last_with[count] == arena)
        heap->last_with[count] =
            previous != NULL && previous->free_count == count ? previous : NULL;
    unlink_usable(heap, arena);
    close_arena(heap, arena);
}

/* Those that have been without a live block for so long. */
static void release_empty(struct fh_classic *heap, uint32_t now_ms, uint32_t age_ms)
{
    for (struct fh_classic_arena *arena = heap->usable, *next; arena != NULL; arena = next) {
        next = arena->next;
        if (arena->free_count == arena->pool_count && now_ms - arena->emptied_ms >= age_ms)
            remove_empty(heap, arena);
    }
}

void fh_usable_release_empty(struct fh_classic *heap)
{
    if (heap->config.spare_arenas != FH_CLASSIC_KEEP_ALL)
        release_empty(heap, 0, 0);
}

/* Looks at them all four times in the time that one may stay. */
void fh_usable_decay(struct fh_classic *heap)
{
    uint32_t decay_ms = heap->config.decay_ms;
    if (decay_ms == 0)
        return;
    uint32_t now_ms = fh_os_now_ms();
    if (now_ms - heap->looked_ms < decay_ms / 4)
        return;
    heap->looked_ms = now_ms;
    release_empty(heap, now_ms, decay_ms);
}

struct fh_classic_pool *fh_usable_take(struct fh_classic *heap)
{
    fh_usable_decay(heap);
    if (heap->usable == NULL && !open_arena(heap))
        return NULL;
    struct fh_classic_arena *arena = heap->usable;
    struct fh_classic_pool *pool = arena->empty;
    if (pool != NULL) {
        arena->empty = pool->next;
    } else {
        pool = (struct fh_classic_pool *)(void *)arena->fresh;
        arena->fresh += heap->config.pool_bytes;
        pool->arena_index = (uint32_t)(arena - heap->arenas);
        pool->block_bytes = 0;
    }
    count_taken(heap, arena);
    return pool;
}

/* Do at least `count` arenas follow? */
static bool has_followers(const struct fh_classic_arena *arena, uint32_t count)
{
    if (count == FH_CLASSIC_KEEP_ALL)
        return false;
    while (count > 0 && arena->next != NULL) {
        arena = arena->next;
        count--;
    }
    return count == 0;
}

/* `arena` gets one free pool more. Returns the last arena that has as many as it had. */
static struct fh_classic_arena *count_given(struct fh_classic *heap, struct fh_classic_arena *arena)
{
    uint32_t before = arena->free_count;
    struct fh_classic_arena *last = heap->last_with[before];
    arena->free_count = before + 1;
    if (before == 0 || last != arena)
        return last;
    struct fh_classic_arena *previous = arena->previous;
    heap->last_with[before] = previous != NULL && previous->free_count == before ? previous : NULL;
    return last;
}

/* Move an arena that has one free pool more than those it stood among, `last` being the last. */
static void put_in_order(struct fh_classic *heap, struct fh_classic_arena *arena,
                         struct fh_classic_arena *last)
{
    if (heap->last_with[arena->free_count] == NULL)
        heap->last_with[arena->free_count] = arena;
    if (arena->free_count == 1) {
        link_first(heap, arena);
    } else if (arena != last) {
        unlink_usable(heap, arena);
        link_after(arena, last);
    }
}

void fh_usable_give(struct fh_classic *heap, struct fh_classic_pool *pool)
{
    struct fh_classic_arena *arena = &heap->arenas[pool->arena_index];
    pool->next = arena->empty;
    arena->empty = pool;
    struct fh_classic_arena *last = count_given(heap, arena);
    if (arena->free_count == arena->pool_count && has_followers(arena, heap->config.spare_arenas)) {
        unlink_usable(heap, arena);
        close_arena(heap, arena);
        return;
    }
    put_in_order(heap, arena, last);
    if (heap->config.decay_ms != 0 && arena->free_count == arena->pool_count)
        arena->emptied_ms = fh_os_now_ms();
    fh_usable_decay(heap);
}
