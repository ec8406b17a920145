/* SPDX-License-Identifier: MIT */
/* Interned strings: see intern.h. */
#include "intern.h"

#include <string.h>

#include "begin.h"
#include "builtin.h"
#include "count.h"

enum { BUCKETS_MIN = 256, DEAD_MIN = 2048, SAMPLE = 16 };

/* A node's word: readers, above two bits of state. */
enum { DEAD = 1, KEPT = 2, READER = 4 };

/* Added to a dead node's link to the next one: nothing is to be put in between any more. */
enum { LAST_LINK = 1 };

struct fh_intern_node {
    uintptr_t next; /* atomic: a node, or 0; with LAST_LINK once it is dead */
    uint64_t hash;
    struct fh_string *string;        /* not to be read once DEAD, but by who entered before */
    uint64_t word;                   /* atomic */
    struct fh_intern_node *unlinked; /* the next in its slot's list of those */
};

struct fh_intern_buckets {
    size_t mask;       /* how many there are, less 1 */
    uintptr_t heads[]; /* atomic: nodes, or 0 */
};

static struct fh_intern_node *node_at(uintptr_t link)
{
    return (struct fh_intern_node *)(link & ~(uintptr_t)LAST_LINK);
}

/* The next one, also of a node that is out of the chain. Acquire: from the CAS that put that node
 * where it is, in insert() or unlink_dead(). */
static struct fh_intern_node *next_of(const struct fh_intern_node *node)
{
    return node_at(at_load_acquire(&node->next));
}

/* ---- Looking at a node's string ---------------------------------------------------------------
 */

/* Ends because a failed CAS means that another reader came or left, or that the string is dead. */
static bool enter(struct fh_intern_node *node)
{
    uint64_t word = at_load_relaxed(&node->word); /* a guess: the CAS checks it */
    do {
        if ((word & DEAD) != 0)
            return false;
        /* Relaxed: the string came with the node, and its memory was there before this and stays
         * until the release in leave(). */
    } while (!at_cas_relaxed(&node->word, &word, word + READER));
    return true;
}

static void leave(struct fh_intern_node *node)
{
    /* Release: passes this thread's last look at the string to whoever frees it. Acquire, for the
     * last reader of a dead one: from the releases of the others, and of fh_intern_leave(). */
    uint64_t word = at_fetch_add_acq_rel(&node->word, (uint64_t)-READER);
    if (word == (READER | DEAD))
        fh_obj_free(node->string);
}

static bool has_text(const struct fh_string *string, const char *text, size_t bytes)
{
    return string->base.count == bytes && memcmp(string->text, text, bytes) == 0;
}

/* A new reference to the node's string, if that has these bytes and lives? */
static bool match(struct fh_intern_node *node, const char *text, size_t bytes)
{
    struct fh_string *string = node->string;
    /* Relaxed: it is so for good once the word says so, and the string came with the node. */
    bool is_kept = (at_load_relaxed(&node->word) & KEPT) != 0;
    if (!is_kept && !enter(node))
        return false;
    bool matches = has_text(string, text, bytes) && fh_object_try_incref(&string->base.base);
    if (!is_kept)
        leave(node);
    return matches;
}

/* The node whose string has these bytes, with a new reference to it, or NULL. */
static struct fh_intern_node *find(struct fh_intern_node *from, const struct fh_intern_node *until,
                                   uint64_t hash, const char *text, size_t bytes)
{
    for (struct fh_intern_node *node = from; node != NULL && node != until; node = next_of(node))
        if (node->hash == hash && match(node, text, bytes))
            return node;
    return NULL;
}

/* ---- The table --------------------------------------------------------------------------------
 */

static struct fh_intern_buckets *new_buckets(size_t count)
{
    struct fh_intern_buckets *buckets =
        fh_raw_calloc(1, sizeof *buckets + count * sizeof buckets->heads[0]);
    if (buckets != NULL)
        buckets->mask = count - 1;
    return buckets;
}

static struct fh_intern_buckets *first_buckets(struct fh_intern_table *table)
{
    struct fh_intern_buckets *mine = new_buckets(BUCKETS_MIN), *there = NULL;
    if (mine == NULL)
        return fh_object_no_memory(BUCKETS_MIN * sizeof mine->heads[0]);
    /* Release: passes the empty buckets to the acquire in buckets_of(). Acquire: from another
     * thread's, that was first. */
    if (at_cas_acq_rel(&table->buckets, &there, mine))
        return mine;
    fh_raw_free(mine);
    return at_load_acquire(&table->buckets); /* as above */
}

/* NULL if memory is short. */
static struct fh_intern_buckets *buckets_of(struct fh_intern_table *table)
{
    /* Acquire: from first_buckets(). Those that come later come with the world's going on. */
    struct fh_intern_buckets *buckets = at_load_acquire(&table->buckets);
    return __builtin_expect(buckets != NULL, 1) ? buckets : first_buckets(table);
}

static uintptr_t *bucket_of(struct fh_intern_buckets *buckets, uint64_t hash)
{
    return &buckets->heads[hash & buckets->mask];
}

/* ---- When to stop the world -------------------------------------------------------------------
 */

static bool is_sampled(uint64_t hash)
{
    return (hash >> 32) % SAMPLE == 0;
}

static bool is_worthwhile(struct fh_intern_table *table)
{
    const struct fh_intern_buckets *buckets = at_load_relaxed(&table->buckets);
    int64_t count = (int64_t)buckets->mask + 1;
    int64_t live = at_load_relaxed(&table->live_samples) * SAMPLE;
    int64_t dead = at_load_relaxed(&table->dead_samples) * SAMPLE;
    return live > 2 * count || (dead > DEAD_MIN && dead > count / 2);
}

/* One string in SAMPLE has come or gone. */
static void look_whether_due(fh_space *space)
{
    if (!is_worthwhile(&space->intern))
        return;
    if (!fh_space_is_free(space)) {
        fh_intern_prune(space);
        return;
    }
    at_store_relaxed(&space->intern.due, 1);
    fh_space_ask_look(space);
}

static void count_entered(fh_space *space, uint64_t hash)
{
    if (is_sampled(hash)) {
        at_fetch_add_relaxed(&space->intern.live_samples, 1);
        look_whether_due(space);
    }
}

static void count_left(fh_space *space, uint64_t hash)
{
    if (is_sampled(hash)) {
        at_fetch_add_relaxed(&space->intern.live_samples, -1);
        at_fetch_add_relaxed(&space->intern.dead_samples, 1);
        look_whether_due(space);
    }
}

bool fh_intern_is_due(fh_space *space)
{
    return at_load_relaxed(&space->intern.due) != 0;
}

void fh_intern_tend(fh_space *space)
{
    while (fh_intern_is_due(space)) /* ends: each round is somebody's stop of the world */
        if (fh_space_stop(space)) {
            fh_intern_prune(space);
            fh_space_resume(space);
        }
}

/* ---- Entering ---------------------------------------------------------------------------------
 */

/* Put the node in front of its bucket, if its string is equal to none there. Else the node of the
 * one that is, with a new reference. Ends because a failed CAS means that another one was put
 * there, or a dead one taken out. A head that was seen before comes back only if all that were in
 * front of it since are dead, so its chain needs no second look. */
static struct fh_intern_node *insert_or_find(uintptr_t *bucket, struct fh_intern_node *node)
{
    const struct fh_string *string = node->string;
    const struct fh_intern_node *scanned = NULL;
    /* Acquire: from the CAS below, of those who inserted before. */
    uintptr_t head = at_load_acquire(bucket);
    do {
        struct fh_intern_node *found =
            find(node_at(head), scanned, node->hash, string->text, string->base.count);
        if (found != NULL)
            return found;
        scanned = node_at(head);
        node->next = head;
        /* Release: passes the node and its string to all who find it. Acquire where it fails. */
    } while (!at_cas_acq_rel(bucket, &head, (uintptr_t)node));
    return node;
}

static struct fh_intern_node *new_node(struct fh_string *string, uint64_t word)
{
    struct fh_intern_node *node = fh_raw_malloc(sizeof *node);
    if (node == NULL)
        return fh_object_no_memory(sizeof *node);
    *node = (struct fh_intern_node){
        .hash = fh_string_known_hash(string), .string = string, .word = word};
    return node;
}

enum entered { INSERTED, FOUND, NO_MEMORY };

/* FOUND: *node is that of an equal string, which has a new reference. It may be the string itself,
 * inserted meanwhile by another thread. */
static enum entered insert(fh_space *space, struct fh_string *string, uint64_t word,
                           struct fh_intern_node **node)
{
    struct fh_intern_buckets *buckets = buckets_of(&space->intern);
    struct fh_intern_node *mine = buckets != NULL ? new_node(string, word) : NULL;
    if (mine == NULL)
        return NO_MEMORY;
    *node = insert_or_find(bucket_of(buckets, mine->hash), mine);
    if (*node != mine)
        fh_raw_free(mine);
    /* Relaxed: all who store do so the same, before they drop their reference. */
    at_store_relaxed(&(*node)->string->interned, (uintptr_t)*node);
    if (*node != mine)
        return FOUND;
    count_entered(space, mine->hash);
    return INSERTED;
}

/* Replace *string by one to which there is a new reference. */
static void replace(fh_object **string, fh_object *with)
{
    fh_object *old = *string;
    *string = with;
    fh_decref(old);
}

/* Is there nothing to insert? */
static bool is_settled(fh_object **string)
{
    struct fh_string *its = fh_string_of(*string);
    if (at_load_relaxed(&its->interned) != 0)
        return true;
    if (its->base.count > 1)
        return false;
    replace(string, fh_string_static(its->text, its->base.count));
    return true;
}

int fh_string_intern(fh_object **string)
{
    struct fh_intern_node *node;
    if (is_settled(string))
        return 0;
    fh_object_may_be_found(*string);
    enum entered entered = insert(fh_this_slot->space, fh_string_of(*string), 0, &node);
    if (entered == FOUND)
        replace(string, &node->string->base.base);
    return entered == NO_MEMORY ? -1 : 0;
}

static fh_object *new_with_hash(const char *text, size_t bytes, uint64_t hash)
{
    fh_object *string = fh_string_new(text, bytes);
    if (string != NULL)
        fh_string_of(string)->hash = hash;
    return string;
}

static fh_object *intern_new(fh_object *string)
{
    if (string != NULL && fh_string_intern(&string) != 0)
        fh_clear(string);
    return string;
}

fh_object *fh_string_new_interned(const char *text, size_t bytes)
{
    if (bytes <= 1)
        return fh_string_static(text, bytes);
    struct fh_intern_buckets *buckets = buckets_of(&fh_this_slot->space->intern);
    if (buckets == NULL)
        return NULL;
    uint64_t hash = fh_string_hash_of(text, bytes);
    /* Acquire: from the CAS in insert_or_find(). */
    uintptr_t head = at_load_acquire(bucket_of(buckets, hash));
    struct fh_intern_node *found = find(node_at(head), NULL, hash, text, bytes);
    return found != NULL ? &found->string->base.base : intern_new(new_with_hash(text, bytes, hash));
}

/* ---- For good ---------------------------------------------------------------------------------
 *
 * A string that only its interner knows becomes an immortal object. Others, which threads may count
 * at this moment, get a reference that is never dropped.
 */

static struct fh_intern_node *node_of(const struct fh_string *string)
{
    uintptr_t interned = at_load_relaxed(&string->interned);
    return interned == FH_INTERNED_STATIC ? NULL : (struct fh_intern_node *)interned;
}

static bool is_kept(struct fh_intern_node *node)
{
    return node == NULL || (at_load_relaxed(&node->word) & KEPT) != 0;
}

static void keep(struct fh_slot *slot, struct fh_intern_node *node)
{
    fh_object *object = &node->string->base.base;
    fh_incref(object); /* the table's */
    /* Relaxed: who sees it leaves off to enter, and whoever entered may stay in. */
    if ((at_fetch_or_relaxed(&node->word, KEPT) & KEPT) != 0)
        fh_decref(object); /* another thread's is there */
    else
        fh_slot_count_gone(slot, object->type);
}

/* Does nobody else count it, or ever did? */
static bool is_new(const struct fh_slot *slot, const fh_object *object)
{
    return at_load_relaxed(&object->owner) == slot->owner && object->local == 1 &&
           at_load_relaxed(&object->shared) == FH_SHARED_INIT;
}

/* As fh_string_intern(), of a new string. */
static int intern_kept(struct fh_slot *slot, fh_object **string)
{
    struct fh_intern_node *node;
    fh_object *object = *string;
    at_store_relaxed(&object->owner, FH_OWNER_IMMORTAL); /* nobody else knows it yet */
    enum entered entered = insert(slot->space, fh_string_of(object), KEPT, &node);
    if (entered == INSERTED) {
        fh_debug_count(-1);
        fh_debug_hide(object);
        fh_slot_count_gone(slot, object->type);
        return 0;
    }
    at_store_relaxed(&object->owner, slot->owner); /* and nobody will */
    if (entered == FOUND)
        replace(string, &node->string->base.base);
    return entered == NO_MEMORY ? -1 : 0;
}

int fh_string_intern_immortal(fh_object **string)
{
    struct fh_slot *slot = fh_this_slot;
    if (!is_settled(string)) {
        int failed = is_new(slot, *string) ? intern_kept(slot, string) : fh_string_intern(string);
        if (failed != 0)
            return failed;
    }
    struct fh_intern_node *node = node_of(fh_string_of(*string));
    if (!is_kept(node))
        keep(slot, node);
    return 0;
}

int fh_string_intern_state(const fh_object *string)
{
    const struct fh_string *its = fh_string_of(string);
    if (at_load_relaxed(&its->interned) == 0)
        return FH_NOT_INTERNED;
    return is_kept(node_of(its)) ? FH_INTERNED_IMMORTAL : FH_INTERNED_MORTAL;
}

/* ---- Leaving ----------------------------------------------------------------------------------
 */

/* Take out the dead ones of a chain. Where another thread changes the link to one at this moment it
 * stays for whoever comes next: dead nodes cost time, nothing else. Each is taken out once, since
 * one link to it alone is not a LAST_LINK. */
static void unlink_dead(struct fh_slot *slot, uintptr_t *link)
{
    uintptr_t at = at_load_acquire(link); /* as in next_of() */
    for (struct fh_intern_node *node; (node = node_at(at)) != NULL;) {
        uintptr_t next = at_load_acquire(&node->next); /* as in next_of() */
        at = next & ~(uintptr_t)LAST_LINK;
        if ((next & LAST_LINK) == 0) {
            link = &node->next;
            continue;
        }
        uintptr_t expected = (uintptr_t)node;
        /* Release: passes what is behind the node to all who follow the link. */
        if (!at_cas_release(link, &expected, at))
            return;
        node->unlinked = slot->unlinked;
        slot->unlinked = node;
    }
}

static void unlink_alone(uintptr_t *link, const struct fh_intern_node *node)
{
    while (*link != (uintptr_t)node)
        link = &node_at(*link)->next;
    *link = node->next;
}

/* In the gil modes. */
static void remove_node(struct fh_intern_table *table, struct fh_intern_node *node)
{
    unlink_alone(bucket_of(table->buckets, node->hash), node);
    if (is_sampled(node->hash))
        table->live_samples--;
    fh_raw_free(node);
}

bool fh_intern_leave(struct fh_string *string)
{
    struct fh_intern_node *node = node_of(string);
    struct fh_slot *slot = fh_this_slot;
    fh_space *space = slot->space;
    if (!fh_space_is_free(space)) {
        remove_node(&space->intern, node);
        return true;
    }
    /* Acquire: from the releases in leave(), of readers that are gone. Release: passes this
     * thread's last use of the string to the reader that will free it. */
    uint64_t word = at_fetch_or_acq_rel(&node->word, DEAD);
    /* As the CAS in unlink_dead(): what is behind the node was seen here, and is passed on. */
    at_fetch_or_acq_rel(&node->next, LAST_LINK);
    unlink_dead(slot, bucket_of(buckets_of(&space->intern), node->hash));
    count_left(space, node->hash);
    return word < READER;
}

/* ---- In a stopped world -----------------------------------------------------------------------
 */

static size_t prune_bucket(uintptr_t *link)
{
    size_t live_count = 0;
    for (struct fh_intern_node *node; (node = node_at(*link)) != NULL;) {
        if ((node->next & LAST_LINK) != 0) {
            *link = node->next & ~(uintptr_t)LAST_LINK;
            fh_raw_free(node);
        } else {
            link = &node->next;
            live_count++;
        }
    }
    return live_count;
}

static void free_unlinked(struct fh_space *space)
{
    for (struct fh_slot *slot = at_load_acquire(&space->slots); slot != NULL; slot = slot->next)
        for (struct fh_intern_node *node; (node = slot->unlinked) != NULL;) {
            slot->unlinked = node->unlinked;
            fh_raw_free(node);
        }
}

static void move_nodes(uintptr_t chain, struct fh_intern_buckets *to)
{
    for (struct fh_intern_node *node; (node = node_at(chain)) != NULL;) {
        uintptr_t *bucket = bucket_of(to, node->hash);
        chain = node->next;
        node->next = *bucket;
        *bucket = (uintptr_t)node;
    }
}

/* If memory is short the table stays as it is: its chains are longer than they should be. */
static void grow(struct fh_intern_table *table, size_t live_count)
{
    struct fh_intern_buckets *old = table->buckets;
    size_t count = old->mask + 1;
    while (count < live_count)
        count *= 2;
    struct fh_intern_buckets *buckets = new_buckets(count);
    if (buckets == NULL)
        return;
    for (size_t i = 0; i <= old->mask; i++)
        move_nodes(old->heads[i], buckets);
    table->buckets = buckets;
    fh_raw_free(old);
}

void fh_intern_prune(fh_space *space)
{
    struct fh_intern_table *table = &space->intern;
    table->due = 0;
    if (table->buckets == NULL || !is_worthwhile(table))
        return;
    size_t live_count = 0;
    free_unlinked(space);
    for (size_t i = 0; i <= table->buckets->mask; i++)
        live_count += prune_bucket(&table->buckets->heads[i]);
    table->dead_samples = 0;
    table->live_samples = (int64_t)(live_count / SAMPLE);
    if (live_count > table->buckets->mask)
        grow(table, live_count);
}

static void count_chain(struct fh_intern_counts *counts, const struct fh_intern_node *node)
{
    size_t length = 0;
    for (; node != NULL; node = next_of(node), length++) {
        counts->dead += (node->word & DEAD) != 0;
        counts->immortal += (node->word & KEPT) != 0;
        counts->mortal += (node->word & (DEAD | KEPT)) == 0;
    }
    if (length > counts->longest_chain)
        counts->longest_chain = length;
}

struct fh_intern_counts fh_intern_count(fh_space *space)
{
    const struct fh_intern_buckets *buckets = space->intern.buckets;
    struct fh_intern_counts counts = {.buckets = buckets != NULL ? buckets->mask + 1 : 0};
    for (size_t i = 0; i < counts.buckets; i++)
        count_chain(&counts, node_at(buckets->heads[i]));
    for (struct fh_slot *slot = at_load_acquire(&space->slots); slot != NULL; slot = slot->next)
        for (const struct fh_intern_node *node = slot->unlinked; node != NULL;
             node = node->unlinked)
            counts.dead++;
    return counts;
}

/* One that is kept, since nothing else lives; by a reference, or as an immortal object. */
static void destroy_string(struct fh_string *string)
{
    if (!fh_object_is_immortal(&string->base.base)) {
        fh_debug_count(-1);
        fh_debug_hide(&string->base.base);
    }
    fh_obj_free(string);
}

static void destroy_chain(struct fh_intern_node *node)
{
    for (struct fh_intern_node *next; node != NULL; node = next) {
        next = next_of(node);
        destroy_string(node->string);
        fh_raw_free(node);
    }
}

void fh_intern_destroy(fh_space *space)
{
    struct fh_intern_buckets *buckets = space->intern.buckets;
    if (buckets == NULL)
        return;
    for (size_t i = 0; i <= buckets->mask; i++) {
        prune_bucket(&buckets->heads[i]);
        destroy_chain(node_at(buckets->heads[i]));
    }
    free_unlinked(space);
    fh_raw_free(buckets);
    space->intern = (struct fh_intern_table){0};
}
