/* SPDX-License-Identifier: MIT */
/* What traces share: tracebacks and file names, each kept once and for ever.
 *
 * A record is named by its index, which fits half a word. It never changes and never goes away, so
 * whoever has an index may follow it at any time. Index 0 is no record: it stands for the traceback
 * of one unknown frame and for the name "<unknown>", also where memory is short.
 */
#ifndef FH_OBSERVE_TRACE_INTERN_H
#define FH_OBSERVE_TRACE_INTERN_H

#include <stddef.h>
#include <stdint.h>

struct fh_interned {
    uint32_t next; /* in its bucket; index */
    uint32_t hash;
    uint32_t count;     /* frames; or bytes of the name with its 0 */
    uint32_t total;     /* how deep the stack was; 0 for names */
    uint64_t payload[]; /* frames, most recent first; or the name */
};

/* A frame in one word: a native return address, or a name's index and a line. */
#define FH_FRAME_IS_NAMED ((uint64_t)1 << 63)

static inline uint64_t fh_frame_word(uint32_t name, uint32_t lineno)
{
    return FH_FRAME_IS_NAMED | (uint64_t)name << 32 | lineno;
}

static inline uint32_t fh_frame_name(uint64_t word)
{
    return (uint32_t)(word >> 32) & 0x7fffffffu;
}

uint32_t fh_intern_name(const char *name);
const char *fh_interned_name(uint32_t index);

/* count > 0 */
uint32_t fh_intern_traceback(const uint64_t *frames, uint32_t count, uint32_t total);
const struct fh_interned *fh_interned_traceback(uint32_t index);

/* How many there are; at least those whose index the caller has. */
size_t fh_interned_traceback_count(void);

/* Zero-filled memory for ever, aligned to 16; NULL if there is none. */
void *fh_intern_memory(size_t bytes);

/* What all of it takes. */
size_t fh_interned_bytes(void);

#endif
