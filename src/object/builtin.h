/* SPDX-License-Identifier: MIT */
/* The four types that the library brings: what their objects look like, and how the memory of dead
 * ones goes, for who drops objects and knows the type without asking.
 *
 * Integers, and the headers of lists and dicts, are kept in free lists; strings are not, being of
 * many sizes. A list's and a dict's memory begins with the collector's head.
 */
#ifndef FH_OBJECT_BUILTIN_H
#define FH_OBJECT_BUILTIN_H

#include <freehold/object.h>

#include "atoms.h"

struct fh_int {
    fh_object base;
    int64_t value;
};

/* Never changes once it is shared, but for what is computed when needed: `hash` and `interned`. */
struct fh_string {
    fh_var_object base; /* count: without the 0 at the end */
    uint64_t hash;      /* atomic; 0: not yet computed */
    uintptr_t interned; /* atomic; 0, FH_INTERNED_STATIC, or its struct fh_intern_node */
    char text[];
};

enum { FH_INTERNED_STATIC = 1, FH_INT_LIST_CAP = 1024 };

/* Items beyond count are not initialised. */
struct fh_list {
    fh_object base;
    size_t count;
    fh_object **items; /* NULL if allocated is 0 */
    size_t allocated;
};

/* A slot of the table is unused (key NULL), active, or a dummy: once active, and look-ups go on
 * behind it (key is fh_dict_dummy, which is not counted). */
struct fh_dict_entry {
    uint64_t hash;
    fh_object *key, *value;
};

enum { FH_DICT_SMALL_SLOTS = 8 };

/* Always: used + dummies == fill, and fill * 3 < slots * 2 as long as memory lasts; at least one
 * slot is unused, where look-ups end. */
struct fh_dict {
    fh_object base;
    size_t fill, used;
    size_t mask; /* slots - 1; slots is a power of two */
    struct fh_dict_entry *table;
    struct fh_dict_probes *probes;                   /* NULL: look-ups are not counted */
    struct fh_dict_entry small[FH_DICT_SMALL_SLOTS]; /* the table as long as it suffices */
};

void *fh_int_alloc(fh_type *type, size_t bytes);
void fh_int_free(fh_type *type, void *memory, size_t bytes);
void fh_string_free(fh_type *type, void *memory, size_t bytes);
void *fh_list_alloc(fh_type *type, size_t bytes);
void fh_list_free(fh_type *type, void *memory, size_t bytes);
void fh_list_end(fh_object *object); /* no reference is left: all of its end */
void *fh_dict_alloc(fh_type *type, size_t bytes);
void fh_dict_free(fh_type *type, void *memory, size_t bytes);

/* Of bytes that need not be a string's; never 0. */
uint64_t fh_string_hash_of(const char *text, size_t bytes);

/* The end of an interned one: out of the table, and its memory goes when nobody looks at it. */
void fh_string_leave(struct fh_string *string);

static inline struct fh_string *fh_string_of(const fh_object *object)
{
    return (struct fh_string *)(uintptr_t)object;
}

static inline uint64_t fh_string_known_hash(struct fh_string *string)
{
    /* Relaxed: it follows from the text alone, so whoever computes it stores the same. */
    uint64_t hash = at_load_relaxed(&string->hash);
    return __builtin_expect(hash != 0, 1) ? hash : fh_string_hash(&string->base.base);
}

/* The memory of a string that is dead. */
static inline void fh_string_end(fh_object *object)
{
    struct fh_string *string = fh_string_of(object);
    /* Relaxed: the last reference is gone, and its count's order brought what others did before. */
    if (at_load_relaxed(&string->interned) == 0)
        fh_obj_free(string);
    else
        fh_string_leave(string);
}

/* The one string of no or one byte. */
fh_object *fh_string_static(const char *text, size_t bytes);

#endif
