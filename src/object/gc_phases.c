/* SPDX-License-Identifier: MIT */
#include "gc_phases.h"

#include "debug.h"
#include "weak.h"

/* ---- Going through containers ---- */

struct part;
typedef void (*do_object)(fh_object *object, struct part *part);

/* Inlined into each phase, so that `act` is no call. */
static inline __attribute__((always_inline)) void each_in_chunk(struct fh_gc_chunk *chunk,
                                                                do_object act, struct part *part)
{
    uint32_t end = fh_gc_cells_in_use(chunk);
    for (uint32_t i = 0; i < end; i++)
        if (fh_gc_has_object(chunk->cells[i]))
            act((fh_object *)chunk->cells[i], part);
}

static inline __attribute__((always_inline)) void
each_object(const struct fh_gc *gc, struct fh_gc_slot *slot, do_object act, struct part *part)
{
    for (uint32_t g = 0; g <= gc->generation; g++)
        for (struct fh_gc_chunk *chunk = slot->chunks[g]; chunk != NULL; chunk = chunk->next)
            each_in_chunk(chunk, act, part);
}

/* ---- Words ---- */

static inline uintptr_t word_of(const fh_object *object)
{
    return at_load_relaxed(&fh_gc_head_of(object)->word);
}

static inline void set_word(fh_object *object, uintptr_t word)
{
    at_store_relaxed(&fh_gc_head_of(object)->word, word);
}

static inline bool is_candidate(const fh_object *object)
{
    return fh_gc_is_container(object) && (word_of(object) & FH_GC_CANDIDATE) != 0;
}

/* What a word keeps when the collection is over. */
static inline uintptr_t lasting_flags(uintptr_t word)
{
    return word & (FH_GC_TRACKED | FH_GC_FINALIZED);
}

/* ---- COUNT ---- */

enum { IMMORTAL_COUNT = 1 << 30 };

static inline uintptr_t reference_count(const fh_object *object)
{
    if (object->owner == FH_OWNER_IMMORTAL)
        return IMMORTAL_COUNT;
    int64_t shared = at_load_relaxed(&object->shared) >> 2;
    return (uintptr_t)(object->owner == FH_OWNER_NONE ? shared : shared + (int64_t)object->local);
}

static inline void count_object(fh_object *object, struct part *part)
{
    (void)part;
    uintptr_t word = word_of(object);
    if ((word & FH_GC_TRACKED) != 0)
        set_word(object,
                 reference_count(object) * FH_GC_ONE | lasting_flags(word) | FH_GC_CANDIDATE);
}

/* ---- Parts that run at the same time ----
 *
 * A part changes the words of those candidates alone whose owner is its slot, and changes them
 * without atomic operations. Where it meets others, or candidates that nobody owns, it says so;
 * then one thread goes through all once more. Threads that keep to their own data cost each other
 * nothing.
 */

struct part {
    uint32_t owner;
    bool met_others;
    fh_object *top; /* MARK: REACHED and yet to be traversed, linked through their words; so no
                       depth is too deep */
};

static inline bool is_own(const fh_object *object, const struct part *part)
{
    return at_load_relaxed(&object->owner) == part->owner;
}

static inline void subtract_one(fh_object *object)
{
    set_word(object, word_of(object) - FH_GC_ONE);
}

static inline bool is_unreached(const fh_object *object)
{
    return fh_gc_is_container(object) && fh_gc_is_garbage(object);
}

static inline void push(struct part *part, fh_object *object)
{
    set_word(object, fh_gc_link_to(part->top) | (word_of(object) & FH_GC_FLAGS) | FH_GC_REACHED);
    part->top = object;
}

static void traverse_pushed(struct part *part, fh_visit reach)
{
    while (part->top != NULL) {
        fh_object *object = part->top;
        part->top = fh_gc_link_of(word_of(object));
        (void)object->type->traverse(object, reach, part);
    }
}

/* ---- SUBTRACT ---- */

static int subtract_any(fh_object *object, void *context)
{
    (void)context;
    if (is_candidate(object))
        subtract_one(object);
    return 0;
}

static int subtract_own(fh_object *object, void *context)
{
    struct part *part = context;
    if (!is_candidate(object))
        return 0;
    if (is_own(object, part))
        subtract_one(object);
    else
        part->met_others = true;
    return 0;
}

static int subtract_others(fh_object *object, void *context)
{
    if (is_candidate(object) && !is_own(object, context))
        subtract_one(object);
    return 0;
}

static inline void subtract_object(fh_object *object, struct part *part, fh_visit subtract)
{
    if ((word_of(object) & FH_GC_CANDIDATE) != 0)
        (void)object->type->traverse(object, subtract, part);
}

static inline void subtract_any_object(fh_object *object, struct part *part)
{
    subtract_object(object, part, subtract_any);
}

static inline void subtract_own_object(fh_object *object, struct part *part)
{
    subtract_object(object, part, subtract_own);
}

static inline void subtract_others_object(fh_object *object, struct part *part)
{
    subtract_object(object, part, subtract_others);
}

/* ---- MARK ---- */

static int reach_any(fh_object *object, void *context)
{
    if (is_unreached(object))
        push(context, object);
    return 0;
}

static int reach_own(fh_object *object, void *context)
{
    struct part *part = context;
    if (!fh_gc_is_container(object))
        return 0;
    if (!is_own(object, part))
        part->met_others |= (word_of(object) & FH_GC_CANDIDATE) != 0;
    else if (fh_gc_is_garbage(object))
        push(part, object);
    return 0;
}

/* A candidate with a count left. */
static inline bool is_root(const fh_object *object)
{
    uintptr_t word = word_of(object);
    return (word & (FH_GC_CANDIDATE | FH_GC_REACHED)) == FH_GC_CANDIDATE && word >= FH_GC_ONE;
}

static inline void mark_any_object(fh_object *object, struct part *part)
{
    if (!is_root(object))
        return;
    push(part, object);
    traverse_pushed(part, reach_any);
}

static inline void mark_own_object(fh_object *object, struct part *part)
{
    if (!is_own(object, part)) {
        part->met_others |= (word_of(object) & FH_GC_CANDIDATE) != 0;
    } else if (is_root(object)) {
        push(part, object);
        traverse_pushed(part, reach_own);
    }
}

/* What a part REACHED may refer to others. */
static inline void mark_others_object(fh_object *object, struct part *part)
{
    if ((word_of(object) & FH_GC_REACHED) != 0)
        (void)object->type->traverse(object, reach_any, part);
    else if (is_root(object))
        push(part, object);
    traverse_pushed(part, reach_any);
}

/* ---- SWEEP ---- */

/* The world is stopped: all counts are the collection's. */
static void hold(fh_object *object)
{
    fh_debug_count(1);
    if (object->owner == FH_OWNER_NONE)
        at_store_relaxed(&object->shared, object->shared + FH_SHARED_ONE);
    else
        at_store_relaxed(&object->local, object->local + 1);
}

/* Not the last reference. */
static void let_go(fh_object *object)
{
    fh_debug_count(-1);
    if (object->owner == FH_OWNER_NONE)
        at_store_relaxed(&object->shared, object->shared - FH_SHARED_ONE);
    else
        at_store_relaxed(&object->local, object->local - 1);
}

static inline bool finalizes(const fh_object *object)
{
    return object->type->finalize != NULL && (word_of(object) & FH_GC_FINALIZED) == 0;
}

static void clear_weak(fh_object *object, struct fh_weak_call **calls)
{
    if (object->type->weak_offset != 0)
        fh_weak_clear(object, fh_gc_is_garbage, calls);
}

static void list_garbage(struct fh_gc_slot *slot, fh_object *object)
{
    hold(object);
    slot->garbage_count++;
    slot->garbage_finalizes |= finalizes(object);
    clear_weak(object, &slot->calls);
    set_word(object, fh_gc_link_to(slot->garbage) | (word_of(object) & FH_GC_FLAGS));
    slot->garbage = object;
}

static void put_in_cell(uintptr_t *cell, fh_object *object)
{
    *cell = (uintptr_t)object;
    fh_gc_head_of(object)->cell = cell;
}

/* How many objects of a chunk are no garbage. */
static uint32_t survivors_in(const struct fh_gc_chunk *chunk)
{
    uint32_t count = 0, end = fh_gc_cells_in_use(chunk);
    for (uint32_t i = 0; i < end; i++)
        count +=
            fh_gc_has_object(chunk->cells[i]) && !fh_gc_is_garbage((fh_object *)chunk->cells[i]);
    return count;
}

static inline uint32_t room_of(const struct fh_gc_chunk *chunk)
{
    return chunk == NULL ? 0 : (uint32_t)FH_GC_CHUNK_CELLS - chunk->count;
}

/* To the first chunk of the generation, where there is room. */
static void move_on(struct fh_gc_slot *slot, uint32_t generation, fh_object *object)
{
    struct fh_gc_chunk *chunk = slot->chunks[generation];
    put_in_cell(&chunk->cells[chunk->count++], object);
}

static void survive(struct fh_gc_slot *slot, fh_object *object)
{
    uintptr_t word = word_of(object);
    slot->survivors_count += (word & FH_GC_TRACKED) != 0;
    set_word(object, lasting_flags(word));
}

/* All that survives of the chunk finds room in the generation: the chunk is a young one then, with
 * the garbage, if any. */
static void empty_chunk(struct fh_gc_slot *slot, struct fh_gc_chunk *chunk, uint32_t generation)
{
    uint32_t end = fh_gc_cells_in_use(chunk);
    chunk->young_of = slot;
    chunk->count = 0;
    for (uint32_t i = 0; i < FH_GC_CHUNK_CELLS; i++) {
        fh_object *object =
            i < end && fh_gc_has_object(chunk->cells[i]) ? (fh_object *)chunk->cells[i] : NULL;
        if (object != NULL && fh_gc_is_garbage(object)) {
            list_garbage(slot, object);
            chunk->count++;
            continue;
        }
        if (object != NULL) {
            survive(slot, object);
            move_on(slot, generation, object);
        }
        chunk->cells[i] = slot->free_cells | 1;
        slot->free_cells = (uintptr_t)&chunk->cells[i] | 1;
    }
}

/* More survives than there is room for: the chunk becomes one of the generation itself, its objects
 * moved together. What is garbage leaves holes there when it goes. */
static void convert_chunk(struct fh_gc_slot *slot, struct fh_gc_chunk *chunk, uint32_t generation)
{
    uint32_t room = room_of(slot->chunks[generation]), end = fh_gc_cells_in_use(chunk), kept = 0;
    for (uint32_t i = 0; i < end; i++) {
        if (!fh_gc_has_object(chunk->cells[i]))
            continue;
        fh_object *object = (fh_object *)chunk->cells[i];
        bool is_garbage = fh_gc_is_garbage(object);
        if (is_garbage)
            list_garbage(slot, object);
        else
            survive(slot, object);
        if (!is_garbage && room > 0) {
            move_on(slot, generation, object);
            room--;
        } else {
            put_in_cell(&chunk->cells[kept++], object);
        }
    }
    chunk->young_of = NULL;
    chunk->count = kept;
    chunk->next = slot->chunks[generation];
    slot->chunks[generation] = chunk;
}

/* Young again. One without an object goes back if enough of them are kept. */
static void keep_chunk(struct fh_gc *gc, struct fh_gc_slot *slot, struct fh_gc_chunk *chunk,
                       uint32_t generation, int64_t *kept_cells)
{
    uintptr_t free_before = slot->free_cells;
    empty_chunk(slot, chunk, generation);
    if (chunk->count == 0 && *kept_cells > 2 * fh_gc_limit(gc)) {
        slot->free_cells = free_before;
        fh_raw_free(chunk->memory);
        return;
    }
    *kept_cells += FH_GC_CHUNK_CELLS;
    chunk->next = slot->chunks[0];
    slot->chunks[0] = chunk;
}

static void sweep_chunks(struct fh_gc *gc, struct fh_gc_slot *slot, struct fh_gc_chunk *chunk,
                         uint32_t generation, int64_t *kept_cells)
{
    while (chunk != NULL) {
        struct fh_gc_chunk *next = chunk->next;
        at_store_relaxed(&chunk->has_holes, 0);
        if (survivors_in(chunk) > room_of(slot->chunks[generation]))
            convert_chunk(slot, chunk, generation);
        else
            keep_chunk(gc, slot, chunk, generation, kept_cells);
        chunk = next;
    }
}

/* Oldest first: in a full collection the chunks of the oldest generation are filled up first. */
static void sweep(struct fh_gc *gc, struct fh_gc_slot *slot)
{
    uint32_t generation = gc->generation;
    uint32_t into = generation + 1 < FH_GC_GENERATIONS ? generation + 1 : FH_GC_GENERATIONS - 1;
    struct fh_gc_chunk *chunks[FH_GC_GENERATIONS];
    int64_t kept_cells = 0;
    for (uint32_t g = 0; g <= generation; g++) {
        chunks[g] = slot->chunks[g];
        slot->chunks[g] = NULL;
    }
    slot->free_cells = 0;
    slot->searched = NULL;
    for (uint32_t g = generation + 1; g-- > 0;)
        sweep_chunks(gc, slot, chunks[g], into, &kept_cells);
    slot->made_count = 0;
    slot->limit_count = fh_gc_limit(gc);
    slot->is_due = false;
}

/* ---- All of them ---- */

void fh_gc_run_part(struct fh_gc *gc, struct fh_slot *slot, uint32_t phase)
{
    struct part part = {.owner = slot->owner};
    struct fh_gc_slot *its = &slot->gc;
    if (phase == FH_GC_COUNT)
        each_object(gc, its, count_object, &part);
    else if (phase == FH_GC_SUBTRACT && !gc->is_shared)
        each_object(gc, its, subtract_any_object, &part);
    else if (phase == FH_GC_SUBTRACT)
        each_object(gc, its, subtract_own_object, &part);
    else if (phase == FH_GC_MARK && !gc->is_shared)
        each_object(gc, its, mark_any_object, &part);
    else if (phase == FH_GC_MARK)
        each_object(gc, its, mark_own_object, &part);
    else
        sweep(gc, its);
    its->met_others = part.met_others;
}

void fh_gc_run_rest(struct fh_gc *gc, struct fh_slot *slot, uint32_t phase)
{
    struct part part = {.owner = slot->owner};
    if (phase == FH_GC_SUBTRACT)
        each_object(gc, &slot->gc, subtract_others_object, &part);
    else if (phase == FH_GC_MARK)
        each_object(gc, &slot->gc, mark_others_object, &part);
}

/* ---- Once more, after finalizers ---- */

/* Their words are needed for counts: the cells link them, each to the next one's object. */
static void count_again(fh_object *garbage)
{
    while (garbage != NULL) {
        uintptr_t word = word_of(garbage);
        fh_object *next = fh_gc_link_of(word);
        uintptr_t held_count = reference_count(garbage) - 1; /* without the collection's */
        *fh_gc_head_of(garbage)->cell = (uintptr_t)next;
        set_word(garbage, held_count * FH_GC_ONE | lasting_flags(word) | FH_GC_CANDIDATE);
        garbage = next;
    }
}

static fh_object *next_by_cell(const fh_object *object)
{
    return (fh_object *)*fh_gc_head_of(object)->cell;
}

/* Its word and cell as they are outside of collections; the collection's reference goes. */
static void live_on(fh_object *object)
{
    *fh_gc_head_of(object)->cell = (uintptr_t)object;
    set_word(object, lasting_flags(word_of(object)));
    let_go(object);
}

/* In front of the garbage in `list`. */
static fh_object *list_again(fh_object *object, fh_object *list, struct fh_weak_call **calls)
{
    *fh_gc_head_of(object)->cell = (uintptr_t)object;
    set_word(object, fh_gc_link_to(list) | (word_of(object) & FH_GC_FLAGS));
    clear_weak(object, calls);
    return object;
}

fh_object *fh_gc_judge_again(fh_object *garbage, struct fh_weak_call **calls,
                             uint64_t *resurrected_count)
{
    struct part part = {.owner = FH_OWNER_NONE};
    fh_object *rest = NULL, *next;
    count_again(garbage);
    for (fh_object *object = garbage; object != NULL; object = next_by_cell(object))
        subtract_any_object(object, &part);
    for (fh_object *object = garbage; object != NULL; object = next_by_cell(object))
        mark_any_object(object, &part);
    for (fh_object *object = garbage; object != NULL; object = next) {
        next = next_by_cell(object);
        if (fh_gc_is_garbage(object)) {
            rest = list_again(object, rest, calls);
        } else {
            live_on(object);
            ++*resurrected_count;
        }
    }
    return rest;
}
