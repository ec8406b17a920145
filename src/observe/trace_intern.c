/* SPDX-License-Identifier: MIT */
/* Records lie one after the other in chunks, which are mapped as they are needed. A bucket is a
 * list that only grows at its head, so a reader may follow it while others add; who adds looks
 * again at what came in between, so that equal records do not both get in.
 */
#include "trace_intern.h"

#include <stdbool.h>
#include <string.h>

#include "atomic.h"
#include "bits.h"
#include "os.h"

enum {
    UNIT_BYTES = 16,
    CHUNK_BYTES = 1 << 20,
    CHUNK_UNITS = CHUNK_BYTES / UNIT_BYTES,
    CHUNKS_MAX = 4096,
    NAME_BUCKETS = 1 << 10,
    TRACEBACK_BUCKETS = 1 << 15,
};

static void *chunks[CHUNKS_MAX];
static uint64_t units_taken;

static uint64_t name_buckets[NAME_BUCKETS];
static uint64_t traceback_buckets[TRACEBACK_BUCKETS];
static uint64_t traceback_count;

/* ---- Memory -----------------------------------------------------------------------------------
 */

static void *add_chunk(void **chunk)
{
    void *fresh = fh_os_map(CHUNK_BYTES);
    void *found = NULL;
    if (fresh == NULL)
        return NULL;
    /* Release and acquire come with the records: [interned]. */
    if (fh_cas_acq_rel_ptr(chunk, &found, fresh))
        return fresh;
    fh_os_unmap(fresh, CHUNK_BYTES);
    return fh_load_acquire_ptr(chunk);
}

static void *chunk_at(uint64_t number)
{
    void *chunk = fh_load_acquire_ptr(&chunks[number]);
    return chunk == NULL ? add_chunk(&chunks[number]) : chunk;
}

/* Where the next so many units begin: not at 0, and all in one chunk. */
static uint64_t place_after(uint64_t taken, uint64_t units)
{
    uint64_t start = taken == 0 ? 1 : taken;
    uint64_t left = CHUNK_UNITS - start % CHUNK_UNITS;
    return units <= left ? start : start + left;
}

/* The index of a new record; 0 if there is no memory. */
static uint32_t take_units(uint64_t units)
{
    uint64_t taken = fh_load_relaxed_u64(&units_taken); /* a guess: the CAS checks it */
    uint64_t start;
    do {
        start = place_after(taken, units);
        if (units > CHUNK_UNITS - 1 || start / CHUNK_UNITS >= CHUNKS_MAX ||
            chunk_at(start / CHUNK_UNITS) == NULL)
            return 0;
        /* Relaxed: the memory is as the system gave it. */
    } while (!fh_cas_relaxed_u64(&units_taken, &taken, start + units));
    return (uint32_t)start;
}

static void *memory_at(uint64_t index)
{
    return (char *)chunk_at(index / CHUNK_UNITS) + index % CHUNK_UNITS * UNIT_BYTES;
}

void *fh_intern_memory(size_t bytes)
{
    uint32_t index = take_units((bytes + UNIT_BYTES - 1) / UNIT_BYTES);
    return index == 0 ? NULL : memory_at(index);
}

size_t fh_interned_bytes(void)
{
    return (size_t)fh_load_relaxed_u64(&units_taken) * UNIT_BYTES + sizeof chunks +
           sizeof name_buckets + sizeof traceback_buckets;
}

/* ---- Records ----------------------------------------------------------------------------------
 */

struct key {
    const void *payload;
    size_t bytes; /* of the payload */
    uint32_t hash, count, total;
};

static uint32_t hash_of(const void *memory, size_t bytes)
{
    uint64_t hash = bytes;
    const char *from = memory;
    for (size_t done = 0; done < bytes; done += sizeof(uint64_t)) {
        uint64_t word = 0;
        size_t left = bytes - done;
        memcpy(&word, from + done, left < sizeof word ? left : sizeof word);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    return (uint32_t)hash;
}

static bool is(const struct fh_interned *record, const struct key *key)
{
    return record->hash == key->hash && record->count == key->count &&
           record->total == key->total && memcmp(record->payload, key->payload, key->bytes) == 0;
}

/* From `index` up to `end` in its list; 0 if it is not there. */
static uint32_t find(uint64_t index, uint64_t end, const struct key *key)
{
    while (index != end) {
        const struct fh_interned *record = memory_at(index);
        if (is(record, key))
            return (uint32_t)index;
        index = record->next;
    }
    return 0;
}

static uint32_t new_record(const struct key *key)
{
    size_t bytes = sizeof(struct fh_interned) + key->bytes;
    uint32_t index = take_units((bytes + UNIT_BYTES - 1) / UNIT_BYTES);
    if (index == 0)
        return 0;
    struct fh_interned *record = memory_at(index);
    record->hash = key->hash;
    record->count = key->count;
    record->total = key->total;
    memcpy(record->payload, key->payload, key->bytes);
    return index;
}

/* Adds `index` to the bucket, whose head was `head`, unless somebody added its like meanwhile. */
static uint32_t add_record(uint64_t *bucket, uint64_t head, uint32_t index, const struct key *key)
{
    struct fh_interned *record = memory_at(index);
    for (;;) {
        uint64_t looked_at = head;
        record->next = (uint32_t)head;
        /* [interned] release: the record; acquire below. */
        if (fh_cas_release_u64(bucket, &head, index))
            return index;
        head = fh_load_acquire_u64(bucket); /* [interned] acquire: those that came meanwhile. */
        uint32_t other = find(head, looked_at, key);
        if (other != 0)
            return other; /* ours is lost: a few bytes, for a race */
    }
}

static uint32_t intern(uint64_t *bucket, const struct key *key, uint64_t *count)
{
    uint64_t head = fh_load_acquire_u64(bucket); /* [interned] acquire: all records in the list. */
    uint32_t found = find(head, 0, key);
    if (found != 0)
        return found;
    uint32_t index = new_record(key);
    if (index == 0)
        return 0;
    if (count != NULL)
        (void)fh_fetch_add_relaxed_u64(count, 1); /* the index is passed on after it */
    return add_record(bucket, head, index, key);
}

uint32_t fh_intern_name(const char *name)
{
    size_t bytes = strlen(name) + 1;
    if (bytes > CHUNK_BYTES / 2)
        return 0;
    struct key key = {name, bytes, hash_of(name, bytes), (uint32_t)bytes, 0};
    return intern(&name_buckets[key.hash % NAME_BUCKETS], &key, NULL);
}

const char *fh_interned_name(uint32_t index)
{
    if (index == 0)
        return "<unknown>";
    return (const char *)((struct fh_interned *)memory_at(index))->payload;
}

uint32_t fh_intern_traceback(const uint64_t *frames, uint32_t count, uint32_t total)
{
    size_t bytes = count * sizeof *frames;
    struct key key = {frames, bytes, hash_of(frames, bytes) + total, count, total};
    return intern(&traceback_buckets[key.hash % TRACEBACK_BUCKETS], &key, &traceback_count);
}

/* As struct fh_interned, with one frame. */
static const struct {
    uint32_t next, hash, count, total;
    uint64_t payload[1];
} unknown = {0, 0, 1, 1, {FH_FRAME_IS_NAMED}};

const struct fh_interned *fh_interned_traceback(uint32_t index)
{
    return index == 0 ? (const void *)&unknown : memory_at(index);
}

size_t fh_interned_traceback_count(void)
{
    return (size_t)fh_load_relaxed_u64(&traceback_count) + 1;
}
