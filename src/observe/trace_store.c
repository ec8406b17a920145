/* SPDX-License-Identifier: MIT */
/* Several threads may set the same address at once, and each may find it missing. So who sets looks
 * again after its trace is live: of two it sees, the one in the earlier slot stays. Publishing and
 * looking are sequentially consistent, so of two that meet one at least sees the other.
 */
#include "trace_store.h"

#include "atomic.h"
#include "os.h"
#include "trace_intern.h"

enum {
    BUCKET_SLOTS = 4,
    FIRST_BITS = 12, /* buckets of the first level, as a power of two: 512 KiB */
    LEVELS_MAX = 16, /* half a thousand million traces */

    /* How full a level is, some adjacent buckets of it show: more than about half, hardly at all.
     */
    SAMPLE_BUCKETS = 32,
    CROWDED_SLOTS = SAMPLE_BUCKETS * BUCKET_SLOTS * 6 / 10,
    SPARSE_SLOTS = SAMPLE_BUCKETS * BUCKET_SLOTS / 20,
    SAMPLE_SHIFT = 12, /* one in so many addresses looks whether the level is sparse */
};

/* A slot's word: bits 0-1 state, 2-31 session, 32-63 version, which goes up with every change that
 * lets another thread write the slot. */
enum slot_state { SLOT_FREE = 0, SLOT_BUSY = 1, SLOT_LIVE = 3 };

#define VERSION_UNIT ((uint64_t)1 << 32)

struct slot {
    uint64_t word;
    /* By who made it busy; others read them between two equal words. */
    uint64_t address;
    uint64_t bytes;
    uint64_t domain_and_traceback;
};

struct bucket {
    struct slot slots[BUCKET_SLOTS];
};

static void *levels[LEVELS_MAX]; /* struct bucket * */
static uint64_t level_count;
static uint64_t main_level; /* where traces are added: a hint */

/* ---- Words ------------------------------------------------------------------------------------
 */

static uint64_t session_of(uint64_t word)
{
    return (uint32_t)word >> 2;
}

static bool is_live(uint64_t word, const struct fh_trace_session *session)
{
    return (word & 3) == SLOT_LIVE && session_of(word) == session->id;
}

/* May it be taken? A thread of an old session must not take what a newer one put there. */
static bool is_available(uint64_t word, const struct fh_trace_session *session)
{
    return (word & 3) == SLOT_FREE || ((word & 3) == SLOT_LIVE && session_of(word) < session->id);
}

static uint64_t next_version(uint64_t word, const struct fh_trace_session *session,
                             enum slot_state state)
{
    uint64_t version = (word & ~(VERSION_UNIT - 1)) + VERSION_UNIT;
    return version | (state == SLOT_FREE ? 0 : (uint64_t)session->id << 2) | state;
}

/* ---- Levels -----------------------------------------------------------------------------------
 */

static size_t level_bytes(unsigned level)
{
    return sizeof(struct bucket) << (FIRST_BITS + level);
}

static uint64_t hash_of(uint32_t domain, uint64_t address)
{
    uint64_t hash = (address ^ (uint64_t)domain * 0xd6e8feb86659fd93u) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 32;
}

/* Another factor for each level, so that what shares a bucket in one is spread over another. */
static size_t bucket_index(uint64_t hash, unsigned level)
{
    return (size_t)(hash * (0xff51afd7ed558ccdu + 2 * level * 0x632be59bd9b4e019u) >>
                    (64 - FIRST_BITS - level));
}

static struct bucket *bucket_in(unsigned level, uint64_t hash)
{
    struct bucket *buckets = fh_load_acquire_ptr(&levels[level]); /* below level_count: there */
    return &buckets[bucket_index(hash, level)];
}

static unsigned count_levels(void)
{
    return (unsigned)fh_load_acquire_u64(&level_count); /* [trace-level] acquire: the pointers. */
}

/* Relaxed: the hint may be ahead of the levels that this thread sees. */
static unsigned find_main_level(void)
{
    unsigned level = (unsigned)fh_load_relaxed_u64(&main_level);
    unsigned last = count_levels() - 1;
    return level < last ? level : last;
}

/* Make level number `level` exist. Whoever finds it there, but not counted, counts it. */
static bool add_level(unsigned level)
{
    void *found = NULL;
    uint64_t count = level;
    if (level >= LEVELS_MAX)
        return false;
    if (fh_load_acquire_ptr(&levels[level]) == NULL) {
        void *fresh = fh_os_map(level_bytes(level));
        if (fresh == NULL)
            return false;
        if (!fh_cas_acq_rel_ptr(&levels[level], &found, fresh))
            fh_os_unmap(fresh, level_bytes(level));
    }
    /* [trace-level] release: its pointer. Failed: another counted it. */
    (void)fh_cas_release_u64(&level_count, &count, level + 1);
    return true;
}

bool fh_traces_prepare(void)
{
    return count_levels() > 0 || add_level(0);
}

size_t fh_traces_bytes(void)
{
    size_t bytes = 0;
    for (unsigned level = 0; level < count_levels(); level++)
        bytes += level_bytes(level);
    return bytes;
}

/* The order in which to look for a trace: the main level, those below, those above. */
static unsigned level_in_order(unsigned number, unsigned first)
{
    return number <= first ? first - number : number;
}

/* ---- Taking a slot ----------------------------------------------------------------------------
 */

static struct slot *claim_in(struct bucket *bucket, const struct fh_trace_session *session)
{
    for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
        struct slot *slot = &bucket->slots[i];
        uint64_t word = fh_load_relaxed_u64(&slot->word); /* a guess: the CAS checks it */
        /* [trace-slot] acquire: who had it before is done with it. */
        if (is_available(word, session) &&
            fh_cas_acquire_u64(&slot->word, &word, next_version(word, session, SLOT_BUSY)))
            return slot;
    }
    return NULL;
}

static unsigned count_taken(const struct bucket *bucket, const struct fh_trace_session *session)
{
    unsigned taken = 0;
    for (unsigned i = 0; i < BUCKET_SLOTS; i++) /* relaxed: only an estimate */
        taken += !is_available(fh_load_relaxed_u64(&bucket->slots[i].word), session);
    return taken;
}

/* How many of the sample's slots are taken. */
static unsigned sample(unsigned level, uint64_t hash, const struct fh_trace_session *session)
{
    const struct bucket *buckets = bucket_in(level, hash) - bucket_index(hash, level);
    size_t first = bucket_index(hash, level) / SAMPLE_BUCKETS * SAMPLE_BUCKETS;
    unsigned taken = 0;
    for (unsigned i = 0; i < SAMPLE_BUCKETS; i++)
        taken += count_taken(&buckets[first + i], session);
    return taken;
}

/* In a level below `level`. */
static struct slot *claim_below(unsigned level, uint64_t hash,
                                const struct fh_trace_session *session)
{
    struct slot *slot = NULL;
    while (slot == NULL && level-- > 0)
        slot = claim_in(bucket_in(level, hash), session);
    return slot;
}

/* A level that is hardly used any more costs a cache miss for each trace: go back to a smaller one.
 */
static void shrink_if_sparse(unsigned level, uint64_t hash, const struct fh_trace_session *session)
{
    if (level > 0 && (uint32_t)hash >> (32 - SAMPLE_SHIFT) == 0 &&
        sample(level, hash, session) < SPARSE_SLOTS)
        fh_store_relaxed_u64(&main_level, level - 1); /* relaxed: a hint */
}

/* In the main level if possible; if its bucket is full, in one below, as long as the main level has
 * room elsewhere; else in the next. */
static struct slot *claim(uint64_t hash, const struct fh_trace_session *session)
{
    for (unsigned level = find_main_level();; level++) {
        struct slot *slot = claim_in(bucket_in(level, hash), session);
        shrink_if_sparse(level, hash, session);
        if (slot == NULL && sample(level, hash, session) < CROWDED_SLOTS)
            slot = claim_below(level, hash, session);
        if (slot != NULL)
            return slot;
        if (level + 1 >= count_levels() && !add_level(level + 1))
            return claim_below(level, hash, session);
        fh_store_relaxed_u64(&main_level, level + 1); /* relaxed: a hint */
    }
}

void fh_traces_prefetch(uint32_t domain, uint64_t address)
{
    __builtin_prefetch(bucket_in(find_main_level(), hash_of(domain, address)), 1);
}

static void fill(struct slot *slot, const struct fh_trace *trace)
{
    /* [trace-field] release: that the slot was made busy before. */
    fh_store_release_u64(&slot->address, trace->address);
    fh_store_release_u64(&slot->bytes, trace->bytes);
    fh_store_release_u64(&slot->domain_and_traceback,
                         (uint64_t)trace->domain << 32 | trace->traceback);
}

/* ---- Reading a slot ---------------------------------------------------------------------------
 */

/* Its fields, which are those of one trace only if the word is still the same afterwards. */
static struct fh_trace read_fields(const struct slot *slot)
{
    struct fh_trace trace;
    /* [trace-field] acquire: the word that is read next is no older than these. */
    trace.address = fh_load_acquire_u64(&slot->address);
    trace.bytes = fh_load_acquire_u64(&slot->bytes);
    uint64_t both = fh_load_acquire_u64(&slot->domain_and_traceback);
    trace.domain = (uint32_t)(both >> 32);
    trace.traceback = (uint32_t)both;
    return trace;
}

/* The slot's word if it holds a live trace of this address, else 0. */
static uint64_t match(const struct slot *slot, const struct fh_trace_session *session,
                      uint32_t domain, uint64_t address, struct fh_trace *out)
{
    /* [trace-slot] acquire: the fields. [trace-twin] acquire: what others set before we did. */
    uint64_t word = fh_load_seq_cst_u64(&slot->word);
    if (!is_live(word, session) || fh_load_acquire_u64(&slot->address) != address)
        return 0;
    *out = read_fields(slot);
    return out->address == address && out->domain == domain ? word : 0;
}

static bool is_same(const struct slot *slot, uint64_t word)
{
    return fh_load_relaxed_u64(&slot->word) == word; /* after the acquires of read_fields() */
}

/* ---- Sums -------------------------------------------------------------------------------------
 */

static void add_bytes(struct fh_trace_session *session, uint64_t bytes)
{
    /* Relaxed: numbers that nobody draws a conclusion from. */
    uint64_t now = fh_fetch_add_relaxed_u64(&session->traced_bytes, bytes) + bytes;
    uint64_t peak = fh_load_relaxed_u64(&session->peak_bytes);
    while (peak < now && !fh_cas_relaxed_u64(&session->peak_bytes, &peak, now))
        ;
}

static void subtract_bytes(struct fh_trace_session *session, uint64_t bytes)
{
    (void)fh_fetch_add_relaxed_u64(&session->traced_bytes, 0 - bytes);
}

/* ---- Removing ---------------------------------------------------------------------------------
 */

static bool remove_from(struct slot *slot, uint64_t word, struct fh_trace_session *session,
                        uint64_t bytes)
{
    /* [trace-slot] release: we have read its fields; others may write them. */
    if (!fh_cas_acq_rel_u64(&slot->word, &word, next_version(word, session, SLOT_FREE)))
        return false; /* another removed it, or is changing it */
    subtract_bytes(session, bytes);
    return true;
}

static bool remove_in(struct bucket *bucket, struct fh_trace_session *session, uint32_t domain,
                      uint64_t address, struct fh_trace *was)
{
    bool removed = false;
    for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
        struct fh_trace found;
        uint64_t word = match(&bucket->slots[i], session, domain, address, &found);
        if (word == 0 || !remove_from(&bucket->slots[i], word, session, found.bytes))
            continue;
        *was = found;
        removed = true;
    }
    return removed;
}

bool fh_traces_remove(struct fh_trace_session *session, uint32_t domain, uint64_t address,
                      struct fh_trace *was)
{
    uint64_t hash = hash_of(domain, address);
    unsigned first = find_main_level();
    for (unsigned i = 0; i < count_levels(); i++)
        if (remove_in(bucket_in(level_in_order(i, first), hash), session, domain, address, was))
            return true;
    return false;
}

/* ---- Adding -----------------------------------------------------------------------------------
 */

static uint64_t live_word(const struct slot *slot)
{
    return fh_load_relaxed_u64(&slot->word) | SLOT_LIVE; /* busy: only this thread writes it */
}

bool fh_traces_add(struct fh_trace_session *session, const struct fh_trace *trace)
{
    struct slot *slot = claim(hash_of(trace->domain, trace->address), session);
    if (slot == NULL)
        return false;
    fill(slot, trace);
    add_bytes(session, trace->bytes);
    fh_store_release_u64(&slot->word, live_word(slot)); /* [trace-slot] release: the fields. */
    return true;
}

/* A slot that has the address already, made busy; NULL if there is none. */
static struct slot *claim_same(uint64_t hash, struct fh_trace_session *session,
                               const struct fh_trace *trace, uint64_t *old_bytes)
{
    for (unsigned level = count_levels(); level-- > 0;)
        for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
            struct slot *slot = &bucket_in(level, hash)->slots[i];
            struct fh_trace found;
            uint64_t word = match(slot, session, trace->domain, trace->address, &found);
            *old_bytes = found.bytes;
            /* [trace-slot] acquire: who had it before is done with it. */
            if (word != 0 &&
                fh_cas_acquire_u64(&slot->word, &word, next_version(word, session, SLOT_BUSY)))
                return slot;
        }
    return NULL;
}

/* All live traces of the address but the first are removed. */
static void keep_first(uint64_t hash, struct fh_trace_session *session,
                       const struct fh_trace *trace)
{
    bool found_one = false;
    for (unsigned level = 0; level < count_levels(); level++)
        for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
            struct slot *slot = &bucket_in(level, hash)->slots[i];
            struct fh_trace found;
            uint64_t word = match(slot, session, trace->domain, trace->address, &found);
            if (word != 0 && found_one)
                (void)remove_from(slot, word, session, found.bytes);
            found_one |= word != 0;
        }
}

bool fh_traces_set(struct fh_trace_session *session, const struct fh_trace *trace)
{
    uint64_t hash = hash_of(trace->domain, trace->address);
    uint64_t old_bytes = 0;
    struct slot *slot = claim_same(hash, session, trace, &old_bytes);
    if (slot == NULL) {
        old_bytes = 0;
        slot = claim(hash, session);
    }
    if (slot == NULL)
        return false;
    fill(slot, trace);
    add_bytes(session, trace->bytes - old_bytes);
    /* [trace-slot] release: the fields. [trace-twin] release: ours, before we look for others. */
    (void)fh_fetch_or_seq_cst_u64(&slot->word, SLOT_LIVE);
    keep_first(hash, session, trace);
    return true;
}

/* ---- Looking ----------------------------------------------------------------------------------
 */

bool fh_traces_get(const struct fh_trace_session *session, uint32_t domain, uint64_t address,
                   struct fh_trace *out)
{
    uint64_t hash = hash_of(domain, address);
    for (unsigned level = count_levels(); level-- > 0;)
        for (unsigned i = 0; i < BUCKET_SLOTS; i++) {
            const struct slot *slot = &bucket_in(level, hash)->slots[i];
            uint64_t word = match(slot, session, domain, address, out);
            if (word != 0 && is_same(slot, word))
                return true;
        }
    return false;
}

static bool visit_slot(const struct slot *slot, const struct fh_trace_session *session,
                       bool (*visit)(void *context, const struct fh_trace *trace), void *context)
{
    uint64_t word = fh_load_acquire_u64(&slot->word); /* [trace-slot] acquire: the fields. */
    if (!is_live(word, session))
        return true;
    struct fh_trace trace = read_fields(slot);
    return !is_same(slot, word) || visit(context, &trace);
}

void fh_traces_visit(const struct fh_trace_session *session,
                     bool (*visit)(void *context, const struct fh_trace *trace), void *context)
{
    for (unsigned level = 0; level < count_levels(); level++) {
        const struct slot *slots = fh_load_acquire_ptr(&levels[level]);
        size_t count = level_bytes(level) / sizeof *slots;
        for (size_t i = 0; i < count; i++)
            if (!visit_slot(&slots[i], session, visit, context))
                return;
    }
}
