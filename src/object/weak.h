/* SPDX-License-Identifier: MIT */
/* Finding an object without having a reference to it.
 *
 * A weak word guards an object's memory. Who reads it enters, tries to get a reference, and leaves.
 * The object's end makes it DEAD, after which nobody enters; and its memory is freed by who buries
 * it, or if readers are still inside, by the last of them. Nobody waits.
 *
 *   word:  readers inside * READER | BURIED | DEAD
 *
 *   enter   +READER, unless DEAD          leave  -READER; the last one out of BURIED has the memory
 *   die     |DEAD                         bury   |BURIED; with no reader inside, it has the memory
 */
#ifndef FH_OBJECT_WEAK_H
#define FH_OBJECT_WEAK_H

#include "space.h"

enum { FH_WEAK_DEAD = 1, FH_WEAK_BURIED = 2, FH_WEAK_READER = 4 };

struct fh_weak_word {
    uint32_t word;
};

/* False if it is dead. */
static inline bool fh_weak_enter(struct fh_weak_word *weak)
{
    uint32_t word = at_load_relaxed(&weak->word);
    do {
        if ((word & FH_WEAK_DEAD) != 0)
            return false;
        /* relaxed: the object came with its block, and its memory was there before this and stays
         * until the release in fh_weak_leave(). */
    } while (!at_cas_relaxed(&weak->word, &word, word + FH_WEAK_READER));
    return true;
}

/* True if the memory is the caller's to free. */
static inline bool fh_weak_leave(struct fh_weak_word *weak)
{
    /* release: this reader's last look, to who frees the memory. acquire: the others', and the
     * burier's. */
    uint32_t word = at_fetch_sub_acq_rel(&weak->word, (uint32_t)FH_WEAK_READER);
    return word == (FH_WEAK_READER | FH_WEAK_BURIED | FH_WEAK_DEAD);
}

/* By who has the dead object alone. Relaxed: its count says that it is dead, to those inside. */
static inline void fh_weak_die(struct fh_weak_word *weak)
{
    at_fetch_or_relaxed(&weak->word, (uint32_t)FH_WEAK_DEAD);
}

/* The object is dealloc'ed. True if the memory is the caller's to free. */
static inline bool fh_weak_bury_word(struct fh_weak_word *weak)
{
    /* release and acquire: as in fh_weak_leave(). */
    return at_fetch_or_acq_rel(&weak->word, (uint32_t)FH_WEAK_BURIED) < FH_WEAK_READER;
}

/* What an object has when it can be found; made by the first who needs it, and kept in the word of
 * the object that its type's weak_offset says. Goes when the object is gone and nobody refers to
 * the block any more. */
struct fh_weak_block {
    struct fh_weak_word word;
    uint32_t references; /* the object's, weak references', calls' */
    fh_object *target;
    struct fh_weak_call *calls; /* newest first; pushed by any thread that has the target */
    uint32_t call_count, prune_count;
};

/* A callback to come. It refers to the weak reference weakly. */
struct fh_weak_call {
    struct fh_weak_call *next;
    struct fh_weak_block *weakref; /* the weak reference's own block */
    fh_object *held;               /* the weak reference, once the call is to be made */
    fh_weak_callback callback;
    void *context;
};

extern fh_type fh_weakref_type;

static inline struct fh_weak_block **fh_weak_place(const fh_object *object, const fh_type *type)
{
    return (struct fh_weak_block **)(void *)((char *)(uintptr_t)object + type->weak_offset);
}

/* A reference to the object's block, made if there is none; NULL if memory is short. By who has the
 * object. Its type has a weak_offset. */
struct fh_weak_block *fh_weak_block_of(fh_object *object);
void fh_weak_block_drop(struct fh_weak_block *block);

/* A new reference to the block's object; NULL if it is gone or going. */
fh_object *fh_weak_block_get(struct fh_weak_block *block);

/* For object.c: the object is dead. From now on it is not found; the callbacks run. Returns its
 * block, or NULL if it has none. */
struct fh_weak_block *fh_weak_end(fh_object *object);

/* It is dealloc'ed; drops its reference to the block. True if the memory is the caller's to free,
 * else a reader does it. */
bool fh_weak_bury(struct fh_weak_block *block);

/* For gc.c, with the world stopped: the object is garbage and is not found from now on, not even if
 * its finalizer makes it live on. The callbacks that are to be made, those whose weak references
 * live and are no garbage, are put in front of *calls. */
void fh_weak_clear(fh_object *object, bool (*is_garbage)(const fh_object *weakref),
                   struct fh_weak_call **calls);

/* One list of both. */
struct fh_weak_call *fh_weak_join(struct fh_weak_call *list, struct fh_weak_call *behind);

/* Make them, with the world going on. */
void fh_weak_run(struct fh_weak_call *calls);

#endif
