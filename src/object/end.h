/* SPDX-License-Identifier: MIT */
/* The end of objects, for the parts that find them dead. */
#ifndef FH_OBJECT_END_H
#define FH_OBJECT_END_H

#include "space.h"

/* The last reference is gone, and the caller has the object alone: finalize, weak references,
 * dealloc, memory. At once, or when the ends around this one are over. */
void fh_object_end(fh_object *object);

/* The same, but only noted: it is untracked, and goes by fh_object_run_later(). Runs no code of
 * types. */
void fh_object_end_later(fh_object *object);

/* What was put off; nothing if this is inside of another object's end, which does it. */
void fh_object_run_later(void);

/* A dead object's memory, back to where it came from. */
void fh_object_free_memory(fh_object *object);

/* Tell the space's callback; NULL with ENOMEM. */
void *fh_object_no_memory(size_t bytes);

#endif
