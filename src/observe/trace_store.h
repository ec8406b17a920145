/* SPDX-License-Identifier: MIT */
/* The traces: which block was made with how many bytes, by which traceback.
 *
 * A hash table of levels, each twice as large as the one before; none ever moves or goes away. A
 * trace lies in the bucket of its address in any of the levels. Each slot has a word of its own
 * that says what it is and who may write it:
 *
 *   free -- CAS of who needs a slot --> busy    busy: one thread fills it in; to others it is not
 * there busy -- store of that thread -----> live    live: a trace, if its session is the current
 * one live -- CAS of who removes it ----> free live -- CAS of who changes it ----> busy
 *
 * A thread that stops while its slot is busy withholds that slot and nothing else. A session is the
 * time from a start or clear to the next: traces of former ones count for nothing, and who needs a
 * slot may take theirs. That is how all traces are forgotten at once.
 */
#ifndef FH_OBSERVE_TRACE_STORE_H
#define FH_OBSERVE_TRACE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "compiler.h"

struct fh_trace_session {
    /* Settled. */
    uint32_t id; /* each greater than the one before, from 1 */
    uint32_t limit;

    /* Any thread. */
    FH_CACHE_LINE_ALIGNED uint64_t traced_bytes;
    uint64_t peak_bytes;
};

enum { FH_SESSIONS_MAX = 1 << 30 };

struct fh_trace {
    uint64_t address;
    uint64_t bytes;
    uint32_t domain;
    uint32_t traceback; /* index: trace_intern.h */
};

/* To be called once before all others; false if memory is short. */
bool fh_traces_prepare(void);

/* A trace of this address is about to be added: a place for it had better be in the cache. */
void fh_traces_prefetch(uint32_t domain, uint64_t address);

/* Add a trace of a block that only this thread knows. False if memory is short. */
bool fh_traces_add(struct fh_trace_session *session, const struct fh_trace *trace);

/* Add a trace or replace it, whatever other threads do with the same address. */
bool fh_traces_set(struct fh_trace_session *session, const struct fh_trace *trace);

/* Remove all traces of an address; `was` is set to the last one. False if there was none. */
bool fh_traces_remove(struct fh_trace_session *session, uint32_t domain, uint64_t address,
                      struct fh_trace *was);

bool fh_traces_get(const struct fh_trace_session *session, uint32_t domain, uint64_t address,
                   struct fh_trace *out);

/* Call `visit` with each; it returns false to end it. */
void fh_traces_visit(const struct fh_trace_session *session,
                     bool (*visit)(void *context, const struct fh_trace *trace), void *context);

/* What the levels take. */
size_t fh_traces_bytes(void);

#endif
