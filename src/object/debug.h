/* SPDX-License-Identifier: MIT */
/* What the debug build (FH_REF_DEBUG) adds: the list of all live objects of a space, and the sum of
 * all references. Of the other build all of it is nothing. */
#ifndef FH_OBJECT_DEBUG_H
#define FH_OBJECT_DEBUG_H

#include "space.h"

#if defined(FH_REF_DEBUG)

/* A new object, with one reference. */
void fh_debug_begin(struct fh_slot *slot, fh_object *object);

/* Into the list, or out of it. */
void fh_debug_show(fh_object *object);
void fh_debug_hide(fh_object *object);

/* It becomes immortal: neither it nor its references count. */
void fh_debug_forget(fh_object *object);

/* The calling thread made so many references by other means than fh_incref(). */
void fh_debug_count(int64_t references);

#else

static inline void fh_debug_begin(struct fh_slot *slot, fh_object *object)
{
    (void)slot, (void)object;
}

static inline void fh_debug_show(fh_object *object)
{
    (void)object;
}

static inline void fh_debug_hide(fh_object *object)
{
    (void)object;
}

static inline void fh_debug_forget(fh_object *object)
{
    (void)object;
}

static inline void fh_debug_count(int64_t references)
{
    (void)references;
}

#endif

#endif
