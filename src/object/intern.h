/* SPDX-License-Identifier: MIT */
/* The table of interned strings of a space: no two strings in it that live are equal.
 *
 * Buckets are chains of nodes, new ones in front. A node stands for one string, for good:
 *
 *   LIVE       mortal: found as long as somebody has a reference. Its word counts the threads that
 *              look at the string, so that its memory stays meanwhile
 *   KEPT       immortal: the table itself keeps the string, so there is no need to count
 *   DEAD       the last reference went; nobody enters any more. The string's memory goes with the
 *              last reader, at once if there is none
 *   UNLINKED   out of the chain; its own link still leads on, for those who came by before
 *
 *   LIVE -> KEPT (who has a reference, and leaves one more)   LIVE -> DEAD (who drops it last)
 *   DEAD -> UNLINKED (whoever drops a string of the same bucket)
 *
 * A string that goes is found alive or not at all: between the end of its last reference and DEAD a
 * reader comes too late to get another one (fh_object_try_incref), and takes the node for DEAD.
 *
 * Who inserts has scanned the chain from the head that its CAS replaces. So an equal string that
 * came in between makes the CAS fail, and only what is new is scanned again. Nodes are freed, and
 * the table grows, while the world is stopped; thus a node that was reached stays one. In the gil
 * modes the world is always stopped, in this sense, and a node goes with its string.
 */
#ifndef FH_OBJECT_INTERN_H
#define FH_OBJECT_INTERN_H

#include <stdbool.h>
#include <freehold/object.h>

struct fh_string;
struct fh_intern_buckets;

/* A space's. Zeros: an empty table. */
struct fh_intern_table {
    struct fh_intern_buckets *buckets; /* atomic; NULL at first. Replaced in a stopped world only */
    uint32_t due;                      /* atomic: it should be pruned, or grow */
    /* Atomic: how many strings came less those that went, and how many dead nodes there are; of one
     * in 16 alone, chosen by its hash, so that threads seldom meet here. */
    _Alignas(64) int64_t live_samples;
    int64_t dead_samples;
};

struct fh_intern_counts {
    size_t mortal, immortal, dead, buckets, longest_chain;
};

/* By fh_string_free() of an interned string: take it out. True if the memory is the caller's to
 * free, false if a reader will. */
bool fh_intern_leave(struct fh_string *string);

/* Would a stop of the world be worth while? Then it is tended to at a safe point. */
bool fh_intern_is_due(fh_space *space);
void fh_intern_tend(fh_space *space);

/* With the world stopped: unlink what is dead, and grow if need be. */
void fh_intern_prune(fh_space *space);
struct fh_intern_counts fh_intern_count(fh_space *space);

/* When nothing of the space lives and no thread is attached. */
void fh_intern_destroy(fh_space *space);

#endif
