/* SPDX-License-Identifier: MIT */
/* An allocator that sins, to show that the storms notice: every SIN_EVERY-th chance it does what
 * STORM_SIN names. To preload into a storm; it stands before the next allocator's functions.
 *
 *   none        nothing: this file alone is no anomaly
 *   twice       a live block is handed out again
 *   overlap     a new block begins in the last bytes of a live one
 *   lost-write  one byte of a live block changes
 *   short-copy  realloc moves a block and forgets one byte
 *   dirty       calloc's block has one byte that is not zero
 *
 * A sin needs two calls. The first sets a trap: a block with room behind it. The second one springs
 * it, if the block is still live. A block that was trapped is never freed, so that the storm alone
 * complains, not the allocator below.
 */
#include <dlfcn.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { SIN_EVERY = 1000, TRAPS_MAX = 4096, ROOM_BYTES = 64 * 1024, GRANULE_BYTES = 16 };

static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static void (*next_free)(void *);

enum sin { UNKNOWN, NO_SIN, TWICE, OVERLAP, LOST_WRITE, SHORT_COPY, DIRTY };

static const char *const sin_names[] = {NULL,         "none",       "twice", "overlap",
                                        "lost-write", "short-copy", "dirty"};
static atomic_int sin;
static atomic_uint chances;

/* ---- The next allocator ---- */

static void look_up(const char *name, void *function)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL)
        abort();
    memcpy(function, &found, sizeof(found));
}

static void open_next(void)
{
    look_up("malloc", &next_malloc);
    look_up("calloc", &next_calloc);
    look_up("free", &next_free);
    look_up("realloc", &next_realloc);
}

static enum sin sin_of_name(const char *name)
{
    for (int i = NO_SIN; name != NULL && i <= DIRTY; i++)
        if (strcmp(name, sin_names[i]) == 0)
            return (enum sin)i;
    abort();
}

/* The loader calls before any thread is there. */
static enum sin current_sin(void)
{
    if (atomic_load(&sin) == UNKNOWN) {
        open_next();
        atomic_store(&sin, (int)sin_of_name(getenv("STORM_SIN")));
    }
    return (enum sin)atomic_load(&sin);
}

static bool is_time(enum sin wanted)
{
    return current_sin() == wanted && atomic_fetch_add(&chances, 1) % SIN_EVERY == SIN_EVERY - 1;
}

/* ---- Traps ---- */

static _Atomic(char *) trapped[TRAPS_MAX]; /* blocks that are not freed any more */
static atomic_uint trapped_count;
static _Atomic(char *) trap; /* the newest, while it is live */
static atomic_size_t trap_bytes;

static bool is_trapped(const void *block)
{
    unsigned count = atomic_load(&trapped_count);
    for (unsigned i = 0; i < count && i < TRAPS_MAX; i++)
        if (atomic_load(&trapped[i]) == block)
            return true;
    return false;
}

static bool never_free(char *block)
{
    unsigned index = atomic_fetch_add(&trapped_count, 1);
    if (index < TRAPS_MAX)
        atomic_store(&trapped[index], block);
    return index < TRAPS_MAX;
}

static void *set_trap(size_t bytes)
{
    char *block = next_malloc(bytes + ROOM_BYTES);
    if (block != NULL && never_free(block)) {
        atomic_store(&trap_bytes, bytes);
        atomic_store(&trap, block);
    }
    return block;
}

static char *take_trap(void)
{
    return atomic_load(&trap) == NULL ? NULL : atomic_exchange(&trap, NULL);
}

/* The caller gives the block up: it is no victim any more. */
static void forget_trap(void *block)
{
    char *expected = block;
    (void)atomic_compare_exchange_strong(&trap, &expected, NULL);
}

/* Where in the trapped block the next one is to begin. */
static size_t overlap_at(size_t bytes)
{
    size_t rounded = (bytes + GRANULE_BYTES - 1) / GRANULE_BYTES * GRANULE_BYTES;
    return atomic_load(&sin) == OVERLAP && rounded != 0 ? rounded - GRANULE_BYTES : 0;
}

/* A block with a sin, or NULL: it is not the time. */
static void *sinful_block(size_t bytes)
{
    enum sin now = current_sin();
    if ((now != TWICE && now != OVERLAP && now != LOST_WRITE) || bytes > ROOM_BYTES)
        return NULL;
    size_t old_bytes = atomic_load(&trap_bytes);
    char *victim = take_trap();
    if (victim == NULL)
        return is_time(now) ? set_trap(bytes) : NULL;
    if (now == LOST_WRITE) {
        victim[old_bytes / 2] ^= 1;
        return NULL;
    }
    char *block = victim + overlap_at(old_bytes);
    return never_free(block) ? block : NULL;
}

/* ---- The family ---- */

void *malloc(size_t bytes)
{
    void *block = sinful_block(bytes);
    return block != NULL ? block : next_malloc(bytes);
}

void free(void *block)
{
    if (block == NULL)
        return;
    forget_trap(block);
    if (current_sin() == NO_SIN || !is_trapped(block))
        next_free(block);
}

void *calloc(size_t count, size_t bytes)
{
    bool dirty = is_time(DIRTY);
    char *block = next_calloc(count, bytes);
    if (dirty && block != NULL && count * bytes > 0)
        block[count * bytes - 1] = 1;
    return block;
}

static void *moved(char *block, size_t bytes, bool forget)
{
    size_t old_bytes = is_trapped(block) ? ROOM_BYTES : malloc_usable_size(block);
    size_t kept = old_bytes < bytes ? old_bytes : bytes;
    char *target = next_malloc(bytes);
    if (target == NULL)
        return NULL;
    memcpy(target, block, kept);
    if (forget && kept > 0)
        target[0] ^= 1;
    free(block);
    return target;
}

void *realloc(void *block, size_t bytes)
{
    if (block == NULL)
        return malloc(bytes);
    forget_trap(block);
    bool forget = is_time(SHORT_COPY);
    return forget || is_trapped(block) ? moved(block, bytes, forget) : next_realloc(block, bytes);
}
