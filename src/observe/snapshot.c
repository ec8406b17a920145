/* SPDX-License-Identifier: MIT */
/* Taking a snapshot, and making smaller ones of it.
 *
 * Its memory is the heap's, below the domains: never traced itself.
 */
#include "snapshot.h"

#include <errno.h>
#include <string.h>

#include "domain.h"
#include "theap.h"
#include "trace.h"
#include "trace_intern.h"

/* ---- Memory ------------------------------------------------------------------------------------
 */

void *fh_snapshot_memory(size_t bytes)
{
    return fh_theap_calloc(bytes);
}

void fh_snapshot_release(void *memory)
{
    fh_theap_free(memory);
}

/* count + 1: none of nothing is no failure. */
static void *new_array(size_t count, size_t element_bytes)
{
    size_t bytes;
    if (!__builtin_mul_overflow(count + 1, element_bytes, &bytes) && bytes <= PTRDIFF_MAX)
        return fh_snapshot_memory(bytes);
    errno = ENOMEM;
    return NULL;
}

fh_snapshot *fh_snapshot_new(size_t traces, size_t tracebacks, size_t frames, size_t name_bytes)
{
    fh_snapshot *snapshot = fh_snapshot_memory(sizeof *snapshot);
    if (snapshot == NULL)
        return NULL;
    snapshot->traces = new_array(traces, sizeof *snapshot->traces);
    snapshot->tracebacks = new_array(tracebacks, sizeof *snapshot->tracebacks);
    snapshot->frames = new_array(frames, sizeof *snapshot->frames);
    snapshot->names = new_array(name_bytes, 1);
    if (snapshot->traces != NULL && snapshot->tracebacks != NULL && snapshot->frames != NULL &&
        snapshot->names != NULL)
        return snapshot;
    fh_snapshot_free(snapshot);
    errno = ENOMEM;
    return NULL;
}

void fh_snapshot_free(fh_snapshot *snapshot)
{
    if (snapshot == NULL)
        return;
    fh_snapshot_release(snapshot->traces);
    fh_snapshot_release(snapshot->tracebacks);
    fh_snapshot_release(snapshot->frames);
    fh_snapshot_release(snapshot->names);
    fh_snapshot_release(snapshot);
}

size_t fh_snapshot_trace_count(const fh_snapshot *snapshot)
{
    return snapshot->trace_count;
}

int fh_snapshot_limit(const fh_snapshot *snapshot)
{
    return (int)snapshot->limit;
}

/* ---- Numbers by number -------------------------------------------------------------------------
 */

bool fh_index_make(struct fh_index *map, size_t most)
{
    map->room = 16;
    while (map->room / 2 <= most)
        map->room *= 2;
    map->entries = new_array(map->room, sizeof *map->entries);
    return map->entries != NULL;
}

void fh_index_end(struct fh_index *map)
{
    fh_snapshot_release(map->entries);
}

struct fh_index_entry *fh_index_find(const struct fh_index *map, uint64_t key)
{
    uint64_t at = key * 0x9e3779b97f4a7c15u >> 20;
    while (map->entries[at % map->room].key != key && map->entries[at % map->room].key != 0)
        at++;
    return &map->entries[at % map->room];
}

/* ---- Taking ------------------------------------------------------------------------------------
 *
 * First the traces, with the tracer's indices of their tracebacks; then each traceback once.
 */

struct copying {
    fh_snapshot *snapshot;
    size_t room; /* for traces */
};

static bool count_one(void *context, const struct fh_trace *trace)
{
    size_t *count = context;
    (void)trace;
    ++*count;
    return true;
}

/* Those that come while we copy find no room at last. */
static bool copy_one(void *context, const struct fh_trace *trace)
{
    struct copying *copying = context;
    fh_snapshot *snapshot = copying->snapshot;
    if (snapshot->trace_count == copying->room)
        return false;
    snapshot->traces[snapshot->trace_count++] =
        (struct fh_snapshot_trace){trace->bytes, trace->domain, trace->traceback};
    return true;
}

/* Number the tracebacks in the order in which they are met, in `index_of` too; count frames. */
static void number_tracebacks(fh_snapshot *snapshot, const struct fh_index *numbers,
                              uint32_t *index_of)
{
    for (size_t i = 0; i < snapshot->trace_count; i++) {
        uint32_t index = snapshot->traces[i].traceback;
        struct fh_index_entry *entry = fh_index_find(numbers, (uint64_t)index + 1);
        if (entry->key == 0) {
            *entry = (struct fh_index_entry){(uint64_t)index + 1, snapshot->traceback_count};
            index_of[snapshot->traceback_count++] = index;
            snapshot->frame_count += fh_interned_traceback(index)->count;
        }
        snapshot->traces[i].traceback = (uint32_t)entry->value;
    }
}

static fh_frame frame_of(uint64_t word)
{
    if ((word & FH_FRAME_IS_NAMED) == 0)
        return (fh_frame){"<unknown>", 0, (uintptr_t)word};
    return (fh_frame){fh_interned_name(fh_frame_name(word)), (uint32_t)word, 0};
}

static void copy_tracebacks(fh_snapshot *snapshot, const uint32_t *index_of)
{
    size_t frame = 0;
    for (size_t i = 0; i < snapshot->traceback_count; i++) {
        const struct fh_interned *from = fh_interned_traceback(index_of[i]);
        snapshot->tracebacks[i] = (struct fh_snapshot_traceback){frame, from->count, from->total};
        for (size_t k = 0; k < from->count; k++)
            snapshot->frames[frame++] = frame_of(from->payload[k]);
    }
}

/* False if memory is short. */
static bool add_tracebacks(fh_snapshot *snapshot, const struct fh_index *numbers, size_t most)
{
    uint32_t *index_of = new_array(most, sizeof *index_of);
    if (index_of == NULL)
        return false;
    number_tracebacks(snapshot, numbers, index_of);
    fh_snapshot_release(snapshot->tracebacks);
    fh_snapshot_release(snapshot->frames);
    snapshot->tracebacks = new_array(snapshot->traceback_count, sizeof *snapshot->tracebacks);
    snapshot->frames = new_array(snapshot->frame_count, sizeof *snapshot->frames);
    bool done = snapshot->tracebacks != NULL && snapshot->frames != NULL;
    if (done)
        copy_tracebacks(snapshot, index_of);
    fh_snapshot_release(index_of);
    return done;
}

static bool complete(fh_snapshot *snapshot)
{
    struct fh_index numbers;
    size_t most = fh_interned_traceback_count(); /* of them are those that the traces name */
    if (!fh_index_make(&numbers, most))
        return false;
    bool done = add_tracebacks(snapshot, &numbers, most);
    fh_index_end(&numbers);
    return done;
}

fh_snapshot *fh_snapshot_take(void)
{
    const struct fh_trace_session *session = fh_trace_session();
    size_t count = 0;
    if (session == NULL) {
        errno = ENODATA;
        return NULL;
    }
    fh_traces_visit(session, count_one, &count);
    struct copying copying = {NULL, count + count / 8 + 64};
    copying.snapshot = fh_snapshot_new(copying.room, 0, 0, 0);
    if (copying.snapshot == NULL)
        return NULL;
    copying.snapshot->limit = session->limit;
    fh_traces_visit(session, copy_one, &copying);
    if (complete(copying.snapshot)) {
        fh_snapshot_name_modules(copying.snapshot);
        return copying.snapshot;
    }
    fh_snapshot_free(copying.snapshot);
    errno = ENOMEM;
    return NULL;
}

/* ---- Filters -----------------------------------------------------------------------------------
 */

/* Characters that do not end in a 0. */
struct slice {
    const char *at, *end;
};

/* What stands between '[' and its ']', which may also be the first in between. False if there is no
 * ']'. */
static bool find_set(struct slice pattern, struct slice *set)
{
    const char *at = pattern.at + 1;
    at += at < pattern.end && *at == '!';
    at += at < pattern.end && *at == ']';
    while (at < pattern.end && *at != ']')
        at++;
    *set = (struct slice){pattern.at + 1, at};
    return at < pattern.end;
}

static bool is_in_set(struct slice set, char character)
{
    unsigned char wanted = (unsigned char)character;
    bool negated = *set.at == '!';
    bool found = false;
    for (const char *at = set.at + negated; at < set.end; at++) {
        bool is_range = at + 2 < set.end && at[1] == '-';
        unsigned char last = (unsigned char)(is_range ? at[2] : at[0]);
        found |= wanted >= (unsigned char)at[0] && wanted <= last;
        at += is_range ? 2 : 0;
    }
    return found != negated;
}

/* Does the pattern's first element, not a star, match this character? Then move behind it. */
static bool match_one(struct slice *pattern, char character)
{
    struct slice set;
    if (pattern->at == pattern->end)
        return false;
    if (*pattern->at == '[' && find_set(*pattern, &set)) {
        if (!is_in_set(set, character))
            return false;
        pattern->at = set.end;
    } else if (*pattern->at != '?' && *pattern->at != character) {
        return false;
    }
    pattern->at++;
    return true;
}

static bool skip_star(struct slice *pattern)
{
    bool is_star = pattern->at < pattern->end && *pattern->at == '*';
    pattern->at += is_star;
    return is_star;
}

/* As Python's fnmatch, by bytes. A star that turns out too short takes one character more. */
static bool matches_pattern(struct slice pattern, struct slice name)
{
    struct slice after_star = {NULL, NULL};
    const char *star_ends = NULL;
    while (name.at < name.end) {
        if (skip_star(&pattern)) {
            after_star = pattern;
            star_ends = name.at;
        } else if (match_one(&pattern, *name.at)) {
            name.at++;
        } else if (star_ends != NULL) {
            pattern = after_star;
            name.at = ++star_ends;
        } else {
            return false;
        }
    }
    while (skip_star(&pattern))
        ;
    return pattern.at == pattern.end;
}

/* Without the c of .pyc. */
static struct slice normalized(const char *name)
{
    size_t length = strlen(name);
    bool compiled = length >= 4 && memcmp(name + length - 4, ".pyc", 4) == 0;
    return (struct slice){name, name + length - compiled};
}

static bool matches_name(const char *pattern, const char *name)
{
    return matches_pattern(normalized(pattern), normalized(name));
}

static bool matches_frame(const fh_filter *filter, const fh_frame *frame)
{
    return (filter->pattern == NULL || matches_name(filter->pattern, frame->filename)) &&
           (filter->lineno == -1 || filter->lineno == (long)frame->lineno);
}

static bool matches_frames(const fh_filter *filter, const fh_frame *frames, size_t count)
{
    size_t looked_at = filter->all_frames ? count : 1;
    for (size_t i = 0; i < looked_at; i++)
        if (matches_frame(filter, &frames[i]))
            return true;
    return false;
}

static bool matches(const fh_filter *filter, const fh_snapshot *snapshot,
                    const struct fh_snapshot_trace *trace)
{
    const struct fh_snapshot_traceback *traceback = &snapshot->tracebacks[trace->traceback];
    return (filter->domain == -1 || filter->domain == (long)trace->domain) &&
           matches_frames(filter, &snapshot->frames[traceback->first_frame],
                          traceback->frame_count);
}

static bool is_kept(const fh_snapshot *snapshot, const struct fh_snapshot_trace *trace,
                    const fh_filter *filters, size_t filter_count)
{
    bool any_inclusive = false, included = false;
    for (size_t i = 0; i < filter_count; i++) {
        bool matched = matches(&filters[i], snapshot, trace);
        if (!filters[i].inclusive && matched)
            return false;
        any_inclusive |= filters[i].inclusive != 0;
        included |= filters[i].inclusive && matched;
    }
    return included || !any_inclusive;
}

/* Names of our own move to the copy's. */
static const char *moved_name(const fh_snapshot *from, const fh_snapshot *to, const char *name)
{
    uintptr_t offset = (uintptr_t)name - (uintptr_t)from->names;
    return offset < from->name_bytes ? to->names + offset : name;
}

/* All but the traces. */
static void copy_rest(fh_snapshot *to, const fh_snapshot *from)
{
    to->limit = from->limit;
    to->traceback_count = from->traceback_count;
    to->frame_count = from->frame_count;
    to->name_bytes = from->name_bytes;
    memcpy(to->tracebacks, from->tracebacks, from->traceback_count * sizeof *to->tracebacks);
    memcpy(to->frames, from->frames, from->frame_count * sizeof *to->frames);
    memcpy(to->names, from->names, from->name_bytes);
    for (size_t i = 0; i < to->frame_count; i++)
        to->frames[i].filename = moved_name(from, to, to->frames[i].filename);
}

fh_snapshot *fh_snapshot_filter(const fh_snapshot *snapshot, const fh_filter *filters,
                                size_t filter_count)
{
    fh_snapshot *kept = fh_snapshot_new(snapshot->trace_count, snapshot->traceback_count,
                                        snapshot->frame_count, snapshot->name_bytes);
    if (kept == NULL)
        return NULL;
    copy_rest(kept, snapshot);
    for (size_t i = 0; i < snapshot->trace_count; i++)
        if (is_kept(snapshot, &snapshot->traces[i], filters, filter_count))
            kept->traces[kept->trace_count++] = snapshot->traces[i];
    return kept;
}
