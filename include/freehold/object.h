/* SPDX-License-Identifier: MIT */
/* Freehold objects: reference counts, weak references, recycling, interning and cycle collection on
 * the object domain. A library of its own, libfreehold-object, for those who write language
 * runtimes; the allocator knows nothing of it.
 *
 * Objects live in a space, which stands on a heap (freehold/heap.h) and follows its mode. A thread
 * attaches to the space before it touches an object and detaches when it is done.
 *
 *   free mode   any number of attached threads run at once. Counts are biased: the thread that made
 *               an object counts in a word of its own without atomic operations, all others in a
 *               shared atomic one. No count waits for another thread.
 *   gil modes   attached is who holds the heap's lock. The lock owns all counts, so they are plain.
 *
 * Everything here is for attached threads unless a comment says otherwise, and nothing is for
 * signal handlers. A reference is strong unless called borrowed: a borrowed one is good as long as
 * its holder keeps it. What is passed in stays the caller's unless said to be stolen. Functions
 * that make something return NULL with errno ENOMEM if memory is short, after the space's callback
 * was told; those that return int return 0, or -1 with errno set.
 *
 * The types' own contents are not synchronised: threads that change one list or dict at once, or
 * one while another reads it, need a lock of the caller's. Counts, weak references, the intern
 * table and the recycling need none.
 */
#ifndef FREEHOLD_OBJECT_H
#define FREEHOLD_OBJECT_H

#include <stddef.h>
#include <stdint.h>

#include <freehold.h>
#include <freehold/heap.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Objects and types ----------------------------------------------------------------------- */

typedef struct fh_type fh_type;
typedef struct fh_space fh_space;

/** What every object begins with. The fields are the library's; read them by functions. */
typedef struct fh_object {
#ifdef FH_REF_DEBUG
    struct fh_object *debug_next, *debug_previous; /* of all live objects */
#endif
    uint32_t owner; /* whose count `local` is; FH_OWNER_NONE once merged, FH_OWNER_IMMORTAL */
    uint32_t local; /* the owner's references; written by it alone */
    int64_t shared; /* everybody else's, above two bits of state; atomic */
    fh_type *type;
} fh_object;

/** What objects with a number of items begin with. */
typedef struct fh_var_object {
    fh_object base;
    size_t count;
} fh_var_object;

/** Called for each object that another refers to. Returns 0 to go on; another value ends the
 * traversal, which returns it. */
typedef int (*fh_visit)(fh_object *object, void *context);

enum {
    FH_TYPE_GC = 1, /* a container: has traverse, and is tracked from fh_gc_track() on */
};

/** A type. Filled in by the caller, with zeros where nothing is said; must outlive its objects. */
struct fh_type {
    const char *name;
    size_t basic_bytes; /* of an object without items, fh_object included */
    size_t item_bytes;  /* 0: its objects are no fh_var_object */
    unsigned flags;
    size_t weak_offset; /* where in the object a `void *` for the weak references is; 0: it has none
                           and cannot be weakly referenced. Zeroed by fh_object_new() */

    /* Memory for `bytes`, aligned to 8; NULL: the object domain. `free` takes it back. The two go
     * together. Of containers, and of types with a finalizer, it begins with 16 bytes of the
     * library's, which `bytes` has in it. */
    void *(*alloc)(fh_type *type, size_t bytes);
    void (*free)(fh_type *type, void *memory, size_t bytes);

    /* The last reference is gone: drop what the object refers to. Must not fail, and must not free
     * the object itself, which is done after it. NULL: nothing to drop. */
    void (*dealloc)(fh_object *self);

    /* Of containers: call `visit` for each object referred to, and return what is not 0. Must
     * not count, allocate or free. `clear` drops those references that may be part of a cycle,
     * leaving an object that dealloc still works on. */
    int (*traverse)(fh_object *self, fh_visit visit, void *context);
    void (*clear)(fh_object *self);

    /* Called once in an object's life, before dealloc or when it is found in a garbage cycle, while
     * the object is whole. It may make new references to it: then the object lives on. */
    void (*finalize)(fh_object *self);

    /* The library's. */
    uint32_t index;
};

/** A new object with one reference, its bytes behind the header zero if the type is a container or
 * has a weak_offset, else not initialised. A container is not tracked yet. */
FH_API fh_object *fh_object_new(fh_type *type);

/** The same with `count` items: basic_bytes + count * item_bytes, rounded up to a multiple of a
 * pointer's size. */
FH_API fh_object *fh_object_new_var(fh_type *type, size_t count);

/** Make an object, with one reference, of memory that the caller has (CPython's PyObject_Init).
 * Such an object's type has a `free` that knows where its memory came from. `object` NULL returns
 * NULL. Containers and types with a finalizer need room in front of the object, and are refused:
 * NULL with EINVAL. */
FH_API fh_object *fh_object_init(fh_object *object, fh_type *type);
FH_API fh_object *fh_object_init_var(fh_var_object *object, fh_type *type, size_t count);

/** Give an untracked object with items another number of them. Needs the only reference to it, and
 * no weak ones, and no interned string; steals it. Returns the object, perhaps moved. If memory is
 * short, returns NULL and the object is as it was and still the caller's. EINVAL where the rule is
 * broken. */
FH_API fh_object *fh_object_resize(fh_object *object, size_t count);

static inline fh_type *fh_type_of(const fh_object *object)
{
    return object->type;
}

/* ---- Spaces and threads ---------------------------------------------------------------------- */

typedef struct fh_space_config {
    size_t struct_bytes; /* set by the caller to sizeof(fh_space_config) */
    fh_heap *heap;       /* NULL: the default one. The space's alone, else */
    const fh_gil *gil;   /* with the default heap: not NULL makes it a space of gil mode under this
                            lock. Other heaps bring their own */
    void (*out_of_memory)(void *context, size_t bytes); /* told before NULL is returned; or NULL */
    void *context;
} fh_space_config;

/** A space without objects but the shared small values. NULL for `config` is all zeros. */
FH_API fh_space *fh_space_create(const fh_space_config *config);

/** When no thread is attached: collect, drop what is interned and kept for reuse, and give back all
 * that the space itself has. EBUSY, and what can still be used stays, if objects live. The heap
 * stays the caller's. */
FH_API int fh_space_destroy(fh_space *space);

/** The calling thread may use the space's objects from now on; the space's heap is its current one.
 * In the gil modes this acquires the lock, which in the mode gil-lock must be recursive. Waits
 * while the world is stopped for a collection. EBUSY if the thread is attached to another space, or
 * parked; to this one, it counts. A thread that ends while attached is detached. */
FH_API int fh_space_attach(fh_space *space);

/** Undo one attach. What other threads dropped of this thread's objects is merged; what remains of
 * them is whoever's attaches next. Not inside of a callback of a type. */
FH_API void fh_space_detach(void);

/** Around a call that may block: between the two the thread must not touch an object, collections
 * do not wait for it, and others merge what they drop of its objects. fh_space_unpark() waits as
 * fh_space_attach(). */
FH_API void fh_space_park(void);
FH_API void fh_space_unpark(void);

/** In the child of a fork, before anything else here, by the thread that forked: the other threads
 * are gone. The references that they held stay counted. Not while a collection ran in another
 * thread: fork from an attached thread. */
FH_API void fh_space_after_fork_child(fh_space *space);

/** The space that the thread is attached to, or NULL. */
FH_API fh_space *fh_space_current(void);

/* Read by the inline functions below; nobody else's. */
extern FH_API __thread uint32_t fh_object_this_owner __attribute__((tls_model("initial-exec")));
extern FH_API uint32_t fh_object_attention; /* not 0: some space wants its threads to look */
FH_API void fh_object_look(void);

/** A safe point: where the calling thread can be stopped for a collection, where collections that
 * are due are run, and where objects that others dropped last are merged. In free mode threads that
 * compute for long call it often, say in each loop of an interpreter: a collection waits until all
 * attached threads have come to one. The thread must not be inside of a callback of a type, nor
 * hold a lock that another attached thread waits for on its way to a safe point. Costs a load and a
 * branch. */
static inline void fh_safe_point(void)
{
    if (__builtin_expect(__atomic_load_n(&fh_object_attention, __ATOMIC_RELAXED) != 0, 0))
        fh_object_look();
}

/* ---- Reference counts ------------------------------------------------------------------------ */

#define FH_OWNER_NONE     0u          /* all counts are in `shared` */
#define FH_OWNER_IMMORTAL 0xffffffffu /* never counted, never freed */

FH_API void fh_object_incref_shared(fh_object *object);
FH_API void fh_object_decref_shared(fh_object *object);
FH_API void fh_object_last_local(fh_object *object);

#ifdef FH_REF_DEBUG
/* The debug build, libfreehold-object-debug, counts all references and names negative counts. */
FH_API void fh_object_incref_at(fh_object *object, const char *file, int line);
FH_API void fh_object_decref_at(fh_object *object, const char *file, int line);
#define fh_incref(object) fh_object_incref_at((object), __FILE__, __LINE__)
#define fh_decref(object) fh_object_decref_at((object), __FILE__, __LINE__)
#else
/** One reference more. Never fails. */
static inline void fh_incref(fh_object *object)
{
    /* relaxed: only its owner and who merges it write `owner`, and neither makes it this thread's.
     */
    if (__builtin_expect(__atomic_load_n(&object->owner, __ATOMIC_RELAXED) ==
                                 fh_object_this_owner &&
                             object->local != UINT32_MAX,
                         1))
        __atomic_store_n(&object->local, object->local + 1, __ATOMIC_RELAXED);
    else
        fh_object_incref_shared(object);
}

/** One reference less; with the last one the object goes. */
static inline void fh_decref(fh_object *object)
{
    if (__builtin_expect(__atomic_load_n(&object->owner, __ATOMIC_RELAXED) == fh_object_this_owner,
                         1)) {
        uint32_t left = object->local - 1;
        __atomic_store_n(&object->local, left, __ATOMIC_RELAXED);
        if (left == 0)
            fh_object_last_local(object);
    } else {
        fh_object_decref_shared(object);
    }
}
#endif

/** The same as functions, which accept NULL (CPython's Py_IncRef, Py_DecRef). */
FH_API void fh_object_incref(fh_object *object);
FH_API void fh_object_decref(fh_object *object);

/** The same where NULL does nothing. */
#define fh_xincref(object)                                                                         \
    do {                                                                                           \
        fh_object *fh_taken_ = (fh_object *)(object);                                              \
        if (fh_taken_ != NULL)                                                                     \
            fh_incref(fh_taken_);                                                                  \
    } while (0)
#define fh_xdecref(object)                                                                         \
    do {                                                                                           \
        fh_object *fh_dropped_ = (fh_object *)(object);                                            \
        if (fh_dropped_ != NULL)                                                                   \
            fh_decref(fh_dropped_);                                                                \
    } while (0)

/** A new reference to what one has a reference to. */
static inline fh_object *fh_new_ref(fh_object *object)
{
    fh_incref(object);
    return object;
}

/** Drop the reference in a variable, which is NULL before that may run any code. */
#define fh_clear(variable)                                                                         \
    do {                                                                                           \
        fh_object *fh_old_ = (fh_object *)(variable);                                              \
        (variable) = NULL;                                                                         \
        fh_xdecref(fh_old_);                                                                       \
    } while (0)

/** How many references there are, with one that another thread dropped and its owner has not merged
 * yet; exact if no other thread counts at the time. INT64_MAX of an immortal object. */
FH_API int64_t fh_refcount(const fh_object *object);

/** From now on the object is not counted and never freed, nor one of those that live in a space's
 * statistics. By its only holder. */
FH_API void fh_object_make_immortal(fh_object *object);
FH_API int fh_object_is_immortal(const fh_object *object);

/* ---- Weak references ------------------------------------------------------------------------- */

/** A weak reference, itself an object, to one whose type has a weak_offset (else EINVAL).
 * `callback` (or NULL) is called once when the object goes, after that no fh_weakref_get() finds it
 * any more and before it is dealloc'ed, if the weak reference itself still lives; not if both go as
 * garbage in one collection. */
typedef void (*fh_weak_callback)(fh_object *weakref, void *context);
FH_API fh_object *fh_weakref_new(fh_object *target, fh_weak_callback callback, void *context);

/** A new reference to the object, or NULL (errno unchanged) if it is gone or going. Any attached
 * thread, at the same time as the last reference is dropped by another: it is either or. */
FH_API fh_object *fh_weakref_get(fh_object *weakref);

/* ---- Recycling ------------------------------------------------------------------------------- */

/** A free list: dead objects of one size, kept for the next of their kind and linked through one of
 * their words. In free mode each thread has one, in the gil modes the space. Static or global, with
 * zeros in the library's fields, and the same for all spaces. */
typedef struct fh_free_list {
    const char *name;    /* as statistics print it, say "PyDictObjects" */
    size_t object_bytes; /* of what is put in; at least 16 */
    unsigned cap;        /* how many are kept, of one thread or space */
    uint32_t index;      /* the library's */
} fh_free_list;

/** A dead object's memory, or NULL if the list is empty. Inside: as it was but for the link, its
 * second word. */
FH_API void *fh_free_list_take(fh_free_list *list);

/** Keep it. Returns 1, or 0 if the list is full: the memory is then still the caller's. */
FH_API int fh_free_list_give(fh_free_list *list, void *memory);

/** How many the calling thread or space keeps, and give all of that back to the object domain. */
FH_API size_t fh_free_list_length(const fh_free_list *list);
FH_API size_t fh_free_list_clear(fh_free_list *list);

/** Slabs: objects of one size cut out of blocks, as CPython 2 had for its integers. A block holds
 * (block_bytes - header_bytes) / object_bytes; freed objects are taken again, last first, also by
 * a thread that freed another's. Blocks without a live object go back by fh_slab_clear() alone. */
typedef struct fh_slab {
    const char *name;
    size_t object_bytes; /* at least 8 */
    size_t block_bytes;  /* 0: 1000 */
    size_t header_bytes; /* 0: a pointer's */
    uint32_t index;      /* the library's */
} fh_slab;

FH_API void *fh_slab_take(fh_slab *slab);
FH_API void fh_slab_give(fh_slab *slab, void *memory);

/** How many objects a block holds: 41 of 24 bytes, 82 of 12. */
FH_API size_t fh_slab_capacity(const fh_slab *slab);

/** Give back blocks of which nothing lives. With all other threads of the space parked or detached,
 * or from a full collection, which calls it. Returns how many bytes that were. */
FH_API size_t fh_slab_clear(fh_slab *slab);

/* ---- Integers -------------------------------------------------------------------------------- */

enum { FH_SMALL_INT_MIN = -5, FH_SMALL_INT_MAX = 256 }; /* immortal, one object each */

FH_API extern fh_type fh_int_type;

FH_API fh_object *fh_int_new(int64_t value);
FH_API int64_t fh_int_value(const fh_object *integer);

/* ---- Strings --------------------------------------------------------------------------------- */

FH_API extern fh_type fh_string_type;

/** `bytes` bytes, which may be anything; `text` NULL leaves them to the caller to fill in before
 * anybody else sees the string. A 0 byte follows them. The empty string and those of one byte are
 * immortal, one object each (not with NULL). */
FH_API fh_object *fh_string_new(const char *text, size_t bytes);
FH_API const char *fh_string_text(const fh_object *string);
FH_API size_t fh_string_bytes(const fh_object *string);

/** Computed once; never 0. Keyed anew in each process, unless the environment variable
 * FREEHOLD_OBJECT_SEED has a number. */
FH_API uint64_t fh_string_hash(fh_object *string);

/** Replace *string by the one string of its kind that has these bytes, which may be itself: steals
 * the old reference, gives one. Mortal: it leaves the table when its last reference goes; immortal:
 * never. Returns 0; if memory is short -1, and *string is as it was. Any thread. */
FH_API int fh_string_intern(fh_object **string);
FH_API int fh_string_intern_immortal(fh_object **string);

enum { FH_NOT_INTERNED = 0, FH_INTERNED_MORTAL = 1, FH_INTERNED_IMMORTAL = 2 };
FH_API int fh_string_intern_state(const fh_object *string);

/** The interned string with these bytes, made if there is none. */
FH_API fh_object *fh_string_new_interned(const char *text, size_t bytes);

/* ---- Lists ----------------------------------------------------------------------------------- */

FH_API extern fh_type fh_list_type;

/** Which room a growing list takes, as CPython's generations do; for the whole process. At first
 * the newer one. */
enum { FH_LIST_GROWTH_38 = 0, FH_LIST_GROWTH_39 = 1 };
FH_API int fh_list_set_growth(int rule);

/** `count` items, all NULL: to be set before anybody else sees it. */
FH_API fh_object *fh_list_new(size_t count);
FH_API size_t fh_list_count(const fh_object *list);
FH_API size_t fh_list_allocated(const fh_object *list); /* the items that there is room for */

/** Borrowed; NULL with EINVAL beyond the end. */
FH_API fh_object *fh_list_get(const fh_object *list, size_t index);
FH_API int fh_list_set(fh_object *list, size_t index, fh_object *item); /* steals item, always */
FH_API int fh_list_append(fh_object *list, fh_object *item);
FH_API int fh_list_insert(fh_object *list, size_t index, fh_object *item); /* beyond: append */

/** Remove [begin, end); what goes is dropped after the list is consistent. */
FH_API int fh_list_delete(fh_object *list, size_t begin, size_t end);

/* ---- Dicts ----------------------------------------------------------------------------------- */

FH_API extern fh_type fh_dict_type;

/** Keys are strings and integers, equal by their contents, and all other objects, equal to
 * themselves alone. */
FH_API fh_object *fh_dict_new(void);
FH_API size_t fh_dict_count(const fh_object *dict);
FH_API fh_object *fh_dict_get(const fh_object *dict, fh_object *key); /* borrowed, or NULL */
FH_API int fh_dict_set(fh_object *dict, fh_object *key, fh_object *value);
FH_API int fh_dict_delete(fh_object *dict, fh_object *key); /* ENOENT */

/** Go through it: *position is 0 at first. Returns 1 with borrowed key and value, 0 at the end. The
 * dict must not change meanwhile, but for values of keys that it has. */
FH_API int fh_dict_next(const fh_object *dict, size_t *position, fh_object **key,
                        fh_object **value);

/** The table's state and what look-ups of all dicts cost so far. */
typedef struct fh_dict_stats {
    size_t struct_bytes;          /* set by the caller to sizeof(fh_dict_stats) */
    size_t used, dummies, slots;  /* of this dict */
    uint64_t hits, hit_probes;    /* look-ups that found a key, and the slots they looked at */
    uint64_t misses, miss_probes; /* those that found none; of this dict since it was made */
    double expected_hit, expected_miss; /* 1/k ln 1/(1-k) and 1/(1-k) for k = fill/slots */
} fh_dict_stats;

/** Counts probes once it was called with `counting` 1 for this dict. */
FH_API int fh_dict_count_probes(fh_object *dict, int counting);
FH_API int fh_dict_get_stats(const fh_object *dict, fh_dict_stats *out);

/* ---- Cycle collection ------------------------------------------------------------------------
 *
 * Containers that only refer to each other are found by trial deletion, in three generations: what
 * survives a collection is looked at less often. A collection runs when more than threshold
 * containers were made since than went: in the gil modes inside fh_object_new(), in free mode at
 * the next safe point of the thread that made them. In free mode it stops the other attached
 * threads at their safe points, and so waits for them: a collector is not lock-free. The allocator
 * under it still is: a thread that is stopped there holds nothing that an allocation needs. So that
 * waiting stays a small part of the time, the first threshold counts up to eightfold where it would
 * not.
 *
 * What is found goes in this order: weak references to it are cleared, and the callbacks of those
 * that are no garbage themselves are called; finalizers run, once each; what can be reached again
 * after that stays, with all that it refers to; the rest is cleared, by the threads that made it as
 * far as these run. All of this but the clearing of weak references happens while other threads go
 * on.
 */

/** The container is whole: the collector may traverse it from now on. */
FH_API void fh_gc_track(fh_object *object);
FH_API void fh_gc_untrack(fh_object *object);
FH_API int fh_gc_is_tracked(const fh_object *object);
FH_API int fh_gc_is_finalized(const fh_object *object);

/** Collect a generation (0, 1, 2) and the younger ones, now; at a place that would do as a safe
 * point. Returns how many unreachable objects were found, without those that finalizers brought
 * back. -1 with EINVAL for another generation, and with EBUSY from inside of a collection, or if
 * another thread's does not come to its end soon. */
FH_API int64_t fh_gc_collect(int generation);

/** Automatic collections: at first on. Returns what it was. This call, the next, and
 * fh_gc_get_stats() stop the world in free mode: for places that would do as a safe point. */
FH_API int fh_gc_enable(int on);

/** 700, 10, 10 at first; 0 for the first: none by themselves. */
FH_API void fh_gc_set_thresholds(const unsigned thresholds[3]);
FH_API void fh_gc_get_thresholds(unsigned thresholds[3]);

typedef struct fh_gc_stats {
    size_t struct_bytes; /* set by the caller to sizeof(fh_gc_stats) */
    struct {
        uint64_t collections, collected, survivors; /* survivors: of the last one */
    } generations[3];
    size_t tracked;       /* containers now */
    uint64_t finalized;   /* finalizers that collections ran */
    uint64_t resurrected; /* objects that lived on after that */
    uint64_t stop_ns;     /* for how long the world was stopped in all, and at most at once */
    uint64_t stop_ns_max;
} fh_gc_stats;

FH_API int fh_gc_get_stats(fh_gc_stats *out);

/* ---- Statistics and debugging ---------------------------------------------------------------- */

typedef struct fh_type_stats {
    const fh_type *type;
    size_t live;   /* objects of the space; exact if other threads rest */
    uint64_t made; /* since the space was made */
} fh_type_stats;

/** Fill in up to `max` types that have or had objects. Returns how many there are. */
FH_API size_t fh_space_get_types(fh_type_stats *out, size_t max);

/** How many objects live that are counted in no cache and are not immortal. */
FH_API size_t fh_space_live_objects(void);

/** As text, in one write(): objects of each type, free lists in the form of CPython's
 * _debugmallocstats ("10 free PyDictObjects * 48 bytes each = 480"), slabs, the intern table,
 * collections. 0, or -1 with errno. In free mode it stops the world meanwhile, so call it where a
 * safe point would do. */
FH_API int fh_space_write_stats(int fd);

/** Of the debug build: the sum of all counts of the space (CPython's _Py_RefTotal), and each live
 * object with its count, type and address, a line each. -1 with ENOTSUP of the other build. */
FH_API int64_t fh_ref_total(void);
FH_API int fh_ref_write_all(int fd);

#ifdef __cplusplus
}
#endif

#endif
