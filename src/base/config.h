/* SPDX-License-Identifier: MIT */
/* Every compile-time size, and how they hang together.
 *
 * The normal geometry is the one that ships. The tiny one makes rare transitions common (two pools
 * an arena, four blocks a pool) and exists for the scheduler's explorer and the module tests.
 */
#ifndef FH_BASE_CONFIG_H
#define FH_BASE_CONFIG_H

#include <assert.h>
#include <stdint.h>

enum {
    /* Every block is aligned to this; so are all size classes. */
    FH_BLOCK_ALIGN_SHIFT = 4,
    FH_BLOCK_ALIGN_BYTES = 1 << FH_BLOCK_ALIGN_SHIFT,

    FH_CACHE_LINE_BYTES = 64,

    /* What carving touches at a time. The kernel's page may be larger; then a carve simply stays
     * inside it. */
    FH_CARVE_BYTES = 4096,
    FH_CARVE_BLOCKS_MIN = 4, /* but so many at least: only their first words are touched */
};

/* 1 TiB of address space; the sanitizers shadow every byte of it, and get 16 GiB. */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define FH_REGION_SHIFT_NORMAL 34
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer)
#define FH_REGION_SHIFT_NORMAL 34
#endif
#endif
#if !defined(FH_REGION_SHIFT_NORMAL)
#define FH_REGION_SHIFT_NORMAL 40
#endif

#if defined(FH_GEOMETRY_TINY)
enum {
    FH_POOL_SHIFT = 12,
    FH_ARENA_POOL_SHIFT = 1,
    FH_BLOCK_MAX_SHIFT = 10,
    FH_POOL_BLOCKS_MAX = 4,
    FH_SPAN_POOLS = 1,
    FH_SINGLE_POOL_MAX_BYTES = 1024,
    FH_REGION_SHIFT_MAX = 24,
    FH_THEAPS_MAX = 64,
    FH_THEAPS_LIMITED = 64,
};
#else
enum {
    FH_POOL_SHIFT = 16,
    FH_ARENA_POOL_SHIFT = 6,
    FH_BLOCK_MAX_SHIFT = 15, /* larger blocks take whole pools */
    FH_POOL_BLOCKS_MAX = 1 << 14,
    /* Classes above FH_SINGLE_POOL_MAX_BYTES take a span of this many pools, so that a pool or span
     * has at least 8 blocks and its unused tail stays under 1/8. */
    FH_SPAN_POOLS = 4,
    FH_SINGLE_POOL_MAX_BYTES = 8192,
    FH_REGION_SHIFT_MAX = FH_REGION_SHIFT_NORMAL,
    FH_THEAPS_MAX = 1 << 18,  /* threads that allocate at the same time */
    FH_THEAPS_LIMITED = 1024, /* the same under a limit on address space */
};
#endif

enum {
    FH_POOL_BYTES = 1 << FH_POOL_SHIFT,
    FH_ARENA_POOLS = 1 << FH_ARENA_POOL_SHIFT,
    FH_ARENA_SHIFT = FH_POOL_SHIFT + FH_ARENA_POOL_SHIFT,
    FH_ARENA_BYTES = 1 << FH_ARENA_SHIFT,
    FH_ARENAS_MAX = 1 << (FH_REGION_SHIFT_MAX - FH_ARENA_SHIFT),
    FH_REGION_SHIFT_MIN = FH_ARENA_SHIFT + 2, /* smaller than four arenas is not worth starting */

    FH_DESCRIPTOR_SHIFT = 8,
    FH_DESCRIPTOR_BYTES = 1 << FH_DESCRIPTOR_SHIFT,

    FH_THEAP_BYTES = 4096,

    /* Size classes: 0 for requests of no bytes (16-byte blocks), then 16-byte steps to 512 as in
     * pymalloc, then four per doubling. */
    FH_SMALL_SHIFT = 9,
    FH_SMALL_MAX_BYTES = 1 << FH_SMALL_SHIFT,
    FH_SMALL_CLASSES = FH_SMALL_MAX_BYTES / FH_BLOCK_ALIGN_BYTES + 1,
    FH_BLOCK_MAX_BYTES = 1 << FH_BLOCK_MAX_SHIFT,
    FH_CLASSES = FH_SMALL_CLASSES + 4 * (FH_BLOCK_MAX_SHIFT - FH_SMALL_SHIFT),
};

/* How much a heap may keep of what others could use; per class, a span counting as its pools. See
 * docs/tuning.md. */
enum {
    FH_QUEUED_MAX = 8, /* pools with free blocks beside the current one */
    FH_QUEUED_POOLS =
        (2 << 20) / FH_POOL_BYTES, /* the same of all classes, in a heap that only frees */
    FH_QUEUED_GIVEN_UP = 4,        /* of more than that, how many leave at once */
    FH_WAITING_MAX = 16,           /* nearly full pools taken back by a local free */
};

/* The same, per heap: runs of free pools at hand, so that a heap whose need goes up and down does
 * not go to the arenas each time. */
enum {
    FH_SPARE_RUNS = 8,
    FH_SPARE_POOLS = (1 << 20) / FH_POOL_BYTES, /* in all of them together */
};

/* Giving memory back. */
enum {
    FH_DECAY_MS = 500,          /* how long a free pool stays resident */
    FH_PURGE_INTERVAL_MS = 100, /* how often somebody looks */
    FH_PURGE_RUNS = 256,        /* how many runs of pools one look may return */
    FH_RETAIN_MIN_POOLS = (4 << 20) / FH_POOL_BYTES, /* free pools that may always stay resident */
    FH_RETAIN_PER_IN_USE = 32,                       /* and one for so many in use */
    FH_SPARSE_MIN_POOLS = (4 << 20) / FH_POOL_BYTES, /* sparse pools that may keep empty pages */
    FH_SPARSE_PER_IN_USE = 64,                       /* and one for so many in use */
    FH_SPARSE_MOMENT_MS = 10,    /* after which a free that makes one too many purges it */
    FH_SPARSE_EXCESS_POOLS = 2,  /* how many are purged at once when there are more */
    FH_SPARSE_TICK_POOLS = 64,   /* and how many when it is time to */
    FH_SPARSE_REGRET_POOLS = 64, /* how many more may stay after each that was a mistake */
    FH_REGRET_MS = 100,          /* claimed again so soon, a pool should not have been returned */
    FH_DEAD_LOOKED = 64, /* of how many heaps one look asks whether their threads still live */
    FH_DEAD_DRAINED = 4, /* and how many it drains at most */
    FH_EXCESS_RUNS = 32, /* how many runs a release returns at once when there are more */
};

static_assert(FH_ARENA_POOLS <= 64, "an arena's pools fit one word");
static_assert(FH_SINGLE_POOL_MAX_BYTES * 4 <= FH_POOL_BYTES || FH_SPAN_POOLS == 1,
              "several blocks fit a pool");
static_assert((int)FH_SPAN_POOLS <= (int)FH_ARENA_POOLS, "a span lies within one arena");
static_assert((FH_SPAN_POOLS << FH_POOL_SHIFT) >> FH_BLOCK_ALIGN_SHIFT < 1 << 20,
              "a block's index in its span fits the pool word");

#endif
