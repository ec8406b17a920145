/* SPDX-License-Identifier: MIT */
/* Tracing as an allocator that wraps that of each domain.
 *
 * A trace is removed before its block is freed, and added after the block was made: so no other
 * thread can have the address in between. A thread that is inside a traced call already, in the
 * program's function for frames or in a signal handler, makes blocks without a trace; it frees as
 * anybody.
 */
#include "trace.h"

#include <errno.h>

#include "atomic.h"
#include "domain.h"
#include "freehold/trace.h"
#include "theap.h"
#include "trace_frames.h"
#include "trace_intern.h"

static void *current_session; /* struct fh_trace_session *; NULL: off */
static uint64_t sessions;
static uint32_t last_limit; /* 0: never started */

static FH_THREAD_LOCAL uint32_t inside;

/* An allocator that we wrapped. Kept for ever, as those of a domain are. */
struct wrapped {
    fh_allocator allocator;
    fh_domain domain;
    struct wrapped *next;
};

static void *all_wrapped; /* struct wrapped *, newest first */

struct fh_trace_session *fh_trace_session(void)
{
    return fh_load_acquire_ptr(&current_session); /* [trace-session] acquire: its fields. */
}

/* ---- A call of a domain ------------------------------------------------------------------------
 */

/* Does this call have to be traced? Then it is inside from now on, until leave(). */
static struct fh_trace_session *enter(void)
{
    struct fh_trace_session *session = inside ? NULL : fh_trace_session();
    if (session != NULL)
        inside = 1;
    return session;
}

static void leave(void)
{
    inside = 0;
}

static void note(struct fh_trace_session *session, const struct wrapped *wrapped, void *block,
                 size_t bytes, struct fh_call_site site)
{
    fh_traces_prefetch((uint32_t)wrapped->domain, (uintptr_t)block);
    const struct fh_trace trace = {(uintptr_t)block, bytes, (uint32_t)wrapped->domain,
                                   fh_traceback_of(site, session->limit)};
    (void)fh_traces_add(session, &trace); /* no memory: not traced */
}

static void *traced_malloc(void *context, size_t bytes)
{
    const struct wrapped *wrapped = context;
    const fh_allocator *inner = &wrapped->allocator;
    struct fh_trace_session *session = enter();
    void *block = inner->malloc(inner->context, bytes);
    if (session == NULL)
        return block;
    if (block != NULL)
        note(session, wrapped, block, bytes, FH_CALL_SITE());
    leave();
    return block;
}

static void *traced_calloc(void *context, size_t count, size_t bytes)
{
    const struct wrapped *wrapped = context;
    const fh_allocator *inner = &wrapped->allocator;
    struct fh_trace_session *session = enter();
    void *block = inner->calloc(inner->context, count, bytes);
    if (session == NULL)
        return block;
    if (block != NULL)
        note(session, wrapped, block, count * bytes, FH_CALL_SITE());
    leave();
    return block;
}

/* Its trace, taken away; false if it had none. */
static bool detach(const struct wrapped *wrapped, const void *block, struct fh_trace *was)
{
    struct fh_trace_session *session = block == NULL ? NULL : fh_trace_session();
    return session != NULL &&
           fh_traces_remove(session, (uint32_t)wrapped->domain, (uintptr_t)block, was);
}

static void put_back(const struct fh_trace *was)
{
    struct fh_trace_session *session = fh_trace_session();
    if (session != NULL)
        (void)fh_traces_add(session, was);
}

static void *traced_realloc(void *context, void *block, size_t bytes)
{
    const struct wrapped *wrapped = context;
    const fh_allocator *inner = &wrapped->allocator;
    struct fh_trace was;
    struct fh_trace_session *session = enter();
    bool had_one = detach(wrapped, block, &was);
    void *resized = inner->realloc(inner->context, block, bytes);
    if (resized == NULL && had_one)
        put_back(&was);
    if (session == NULL)
        return resized;
    if (resized != NULL)
        note(session, wrapped, resized, bytes, FH_CALL_SITE());
    leave();
    return resized;
}

static void traced_free(void *context, void *block)
{
    const struct wrapped *wrapped = context;
    struct fh_trace was;
    (void)detach(wrapped, block, &was);
    wrapped->allocator.free(wrapped->allocator.context, block);
}

/* ---- A call of the malloc family ---------------------------------------------------------------
 *
 * As part of the raw domain. What a domain passes on to the threads' heaps comes here too, from a
 * thread that is inside.
 */

static const struct wrapped family = {.domain = FH_DOMAIN_RAW};

#define SITE(caller) ((struct fh_call_site){__builtin_frame_address(0), (caller)})

static void *family_allocate(size_t alignment, size_t bytes, bool zeroed, const void *caller)
{
    struct fh_trace_session *session = enter();
    void *block = fh_theap_untraced_allocate(alignment, bytes, zeroed);
    if (session == NULL)
        return block;
    if (block != NULL)
        note(session, &family, block, bytes, SITE(caller));
    leave();
    return block;
}

static void *family_resize(void *block, size_t bytes, const void *caller)
{
    struct fh_trace was;
    struct fh_trace_session *session = enter();
    bool had_one = detach(&family, block, &was);
    void *resized = fh_theap_untraced_resize(block, bytes);
    if (resized == NULL && had_one)
        put_back(&was);
    if (session == NULL)
        return resized;
    if (resized != NULL)
        note(session, &family, resized, bytes, SITE(caller));
    leave();
    return resized;
}

static void family_release(void *block)
{
    struct fh_trace was;
    (void)detach(&family, block, &was);
    fh_theap_untraced_release(block);
}

void fh_trace_malloc_family(void)
{
    static const struct fh_theap_tracer tracer = {family_allocate, family_resize, family_release};
    fh_theap_set_tracer(&tracer);
}

uint32_t fh_trace_pause(void)
{
    uint32_t before = inside;
    inside = 1;
    return before;
}

void fh_trace_resume(uint32_t before)
{
    inside = before;
}

/* ---- In and out of the domains -----------------------------------------------------------------
 */

static bool is_ours(const fh_allocator *allocator)
{
    return allocator->malloc == traced_malloc;
}

static bool is_for(const struct wrapped *wrapped, fh_domain domain, const fh_allocator *allocator)
{
    const fh_allocator *known = &wrapped->allocator;
    return wrapped->domain == domain && known->context == allocator->context &&
           known->malloc == allocator->malloc && known->calloc == allocator->calloc &&
           known->realloc == allocator->realloc && known->free == allocator->free;
}

/* The record for it if there is one; *newest is set to the newest of all. */
static struct wrapped *find(fh_domain domain, const fh_allocator *allocator, void **newest)
{
    *newest = fh_load_acquire_ptr(&all_wrapped); /* [trace-wrapped] acquire: the records. */
    struct wrapped *record = *newest;
    while (record != NULL && !is_for(record, domain, allocator))
        record = record->next;
    return record;
}

/* The record for wrapping it, made now if there is none. Of two that are made at once either will
 * do, so nobody looks again. */
static struct wrapped *know(fh_domain domain, const fh_allocator *allocator)
{
    void *newest;
    struct wrapped *record = find(domain, allocator, &newest);
    if (record != NULL || (record = fh_intern_memory(sizeof *record)) == NULL)
        return record;
    record->allocator = *allocator;
    record->domain = domain;
    do {
        record->next = newest;
        /* [trace-wrapped] release: the record. */
    } while (!fh_cas_acq_rel_ptr(&all_wrapped, &newest, record));
    return record;
}

static bool wrap(fh_domain domain)
{
    fh_allocator now;
    fh_get_allocator(domain, &now);
    if (is_ours(&now))
        return true;
    struct wrapped *wrapped = know(domain, &now);
    const fh_allocator ours = {wrapped, traced_malloc, traced_calloc, traced_realloc, traced_free};
    return wrapped != NULL && fh_set_allocator(domain, &ours) == 0;
}

/* If somebody has wrapped us meanwhile we stay where we are, and pass calls on. */
static void unwrap(fh_domain domain)
{
    fh_allocator now;
    fh_get_allocator(domain, &now);
    if (is_ours(&now))
        (void)fh_set_allocator(domain, &((const struct wrapped *)now.context)->allocator);
}

/* What the domains keep of it is not the program's, and is not traced. */
static bool wrap_all(void)
{
    uint32_t before = fh_trace_pause();
    bool wrapped = wrap(FH_DOMAIN_RAW) && wrap(FH_DOMAIN_MEM) && wrap(FH_DOMAIN_OBJ);
    fh_trace_resume(before);
    return wrapped;
}

static void unwrap_all(void)
{
    unwrap(FH_DOMAIN_RAW);
    unwrap(FH_DOMAIN_MEM);
    unwrap(FH_DOMAIN_OBJ);
}

/* ---- Sessions ----------------------------------------------------------------------------------
 */

static struct fh_trace_session *new_session(uint32_t limit)
{
    /* Room to have it on lines of its own. */
    char *memory = fh_intern_memory(sizeof(struct fh_trace_session) + FH_CACHE_LINE_BYTES);
    uint64_t id = fh_fetch_add_relaxed_u64(&sessions, 1) + 1;
    if (memory == NULL || id >= FH_SESSIONS_MAX)
        return NULL;
    uintptr_t place = fh_round_up((uintptr_t)memory, FH_CACHE_LINE_BYTES);
    struct fh_trace_session *session = (void *)(memory + (place - (uintptr_t)memory));
    session->id = (uint32_t)id;
    session->limit = limit;
    return session;
}

static int no_memory(void)
{
    errno = ENOMEM;
    return -1;
}

int fh_trace_start(int frames)
{
    void *none = NULL;
    if (frames < 1 || frames > FH_TRACE_FRAMES_MAX) {
        errno = EINVAL;
        return -1;
    }
    if (fh_trace_session() != NULL)
        return 0;
    struct fh_trace_session *session = fh_traces_prepare() ? new_session((uint32_t)frames) : NULL;
    if (session == NULL)
        return no_memory();
    /* [trace-session] release: its fields. */
    if (!fh_cas_acq_rel_ptr(&current_session, &none, session))
        return 0;                                        /* another thread started */
    fh_store_relaxed_u32(&last_limit, (uint32_t)frames); /* relaxed: only told */
    if (wrap_all())
        return 0;
    fh_trace_stop();
    return no_memory();
}

void fh_trace_stop(void)
{
    unwrap_all();
    fh_store_relaxed_ptr(&current_session, NULL); /* relaxed: passes nothing on */
}

int fh_trace_clear(void)
{
    void *session = fh_trace_session();
    struct fh_trace_session *fresh = NULL;
    if (session == NULL)
        return 0;
    fresh = new_session(((struct fh_trace_session *)session)->limit);
    if (fresh == NULL)
        return no_memory();
    /* [trace-session] release: its fields. Failed: another thread cleared, or stopped. */
    (void)fh_cas_acq_rel_ptr(&current_session, &session, fresh);
    return 0;
}

/* ---- What there is -----------------------------------------------------------------------------
 */

int fh_trace_is_tracing(void)
{
    return fh_trace_session() != NULL;
}

int fh_trace_limit(void)
{
    uint32_t limit = fh_load_relaxed_u32(&last_limit);
    return limit == 0 ? 1 : (int)limit;
}

void fh_trace_get_traced_memory(size_t *current_bytes, size_t *peak_bytes)
{
    const struct fh_trace_session *session = fh_trace_session();
    /* Relaxed: each is whole. */
    if (current_bytes != NULL)
        *current_bytes = session == NULL ? 0 : fh_load_relaxed_u64(&session->traced_bytes);
    if (peak_bytes != NULL)
        *peak_bytes = session == NULL ? 0 : fh_load_relaxed_u64(&session->peak_bytes);
}

void fh_trace_reset_peak(void)
{
    struct fh_trace_session *session = fh_trace_session();
    if (session == NULL)
        return;
    uint64_t peak = fh_load_relaxed_u64(&session->peak_bytes); /* a guess: the CAS checks it */
    while (!fh_cas_relaxed_u64(&session->peak_bytes, &peak,
                               fh_load_relaxed_u64(&session->traced_bytes)))
        ;
}

size_t fh_trace_overhead(void)
{
    return fh_traces_bytes() + fh_interned_bytes();
}

/* ---- Traces of the program's own ---------------------------------------------------------------
 */

static uint32_t traceback_of(struct fh_call_site site, uint32_t limit)
{
    if (inside)
        return 0; /* the program's function for frames calls us: unknown */
    inside = 1;
    uint32_t traceback = fh_traceback_of(site, limit);
    inside = 0;
    return traceback;
}

int fh_trace_track(unsigned domain, uintptr_t address, size_t bytes)
{
    struct fh_trace_session *session = fh_trace_session();
    if (session == NULL)
        return -2;
    const struct fh_trace trace = {address, bytes, domain,
                                   traceback_of(FH_CALL_SITE(), session->limit)};
    return fh_traces_set(session, &trace) ? 0 : no_memory();
}

int fh_trace_untrack(unsigned domain, uintptr_t address)
{
    struct fh_trace_session *session = fh_trace_session();
    struct fh_trace was;
    if (session == NULL)
        return -2;
    (void)fh_traces_remove(session, domain, address, &was);
    return 0;
}

void fh_trace_touch(const void *block)
{
    struct fh_trace_session *session = fh_trace_session();
    struct fh_trace trace;
    if (session == NULL || inside)
        return;
    for (uint32_t domain = FH_DOMAINS; domain-- > 0;) {
        if (!fh_traces_get(session, domain, (uintptr_t)block, &trace))
            continue;
        trace.traceback = traceback_of(FH_CALL_SITE(), session->limit);
        (void)fh_traces_set(session, &trace);
        return;
    }
}

static fh_frame unpack(uint64_t word)
{
    if ((word & FH_FRAME_IS_NAMED) == 0)
        return (fh_frame){"<unknown>", 0, (uintptr_t)word};
    return (fh_frame){fh_interned_name(fh_frame_name(word)), (uint32_t)word, 0};
}

size_t fh_trace_get_traceback(unsigned domain, uintptr_t address, fh_frame *out, size_t max,
                              size_t *total)
{
    const struct fh_trace_session *session = fh_trace_session();
    struct fh_trace trace;
    if (session == NULL || !fh_traces_get(session, domain, address, &trace))
        return 0;
    const struct fh_interned *traceback = fh_interned_traceback(trace.traceback);
    for (size_t i = 0; i < traceback->count && i < max; i++)
        out[i] = unpack(traceback->payload[i]);
    if (total != NULL)
        *total = traceback->total;
    return traceback->count;
}
