/* SPDX-License-Identifier: MIT */
/* A snapshot: four arrays that refer to each other by index, and are not changed once they are
 * made.
 */
#ifndef FH_OBSERVE_SNAPSHOT_H
#define FH_OBSERVE_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "freehold/trace.h"

struct fh_snapshot_trace {
    uint64_t bytes;
    uint32_t domain;
    uint32_t traceback; /* below traceback_count */
};

struct fh_snapshot_traceback {
    uint64_t first_frame; /* most recent first */
    uint32_t frame_count; /* at least 1 */
    uint32_t total_count;
};

struct fh_snapshot {
    struct fh_snapshot_trace *traces;
    struct fh_snapshot_traceback *tracebacks;
    fh_frame *frames; /* their names lie in `names`, or in the tracer, where they stay for ever */
    char *names;
    size_t trace_count, traceback_count, frame_count, name_bytes;
    uint32_t limit;
};

/* Zero-filled memory for snapshots and what is made of them; NULL with ENOMEM. */
void *fh_snapshot_memory(size_t bytes);
void fh_snapshot_release(void *memory); /* NULL does nothing */

/* An empty one with room for so much; NULL with ENOMEM. */
fh_snapshot *fh_snapshot_new(size_t traces, size_t tracebacks, size_t frames, size_t name_bytes);

/* Give native frames the file they lie in, and count their pc from where it begins. Keeps what it
 * reads in `names`. Without memory they stay as they are. */
void fh_snapshot_name_modules(fh_snapshot *snapshot);

/* A table of numbers by number; of `room` entries, a power of two and more than will be put in. */
struct fh_index {
    struct fh_index_entry {
        uint64_t key; /* 0: none */
        uint64_t value;
    } * entries;
    size_t room;
};

bool fh_index_make(struct fh_index *map, size_t most);
void fh_index_end(struct fh_index *map);

/* Where the key's value is, or goes; key > 0. */
struct fh_index_entry *fh_index_find(const struct fh_index *map, uint64_t key);

#endif
