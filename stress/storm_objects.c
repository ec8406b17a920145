/* SPDX-License-Identifier: MIT */
/* Storms of the object library: threads make objects that refer to each other, in cycles and not,
 * hand them on, refer to them weakly, intern, and drop what others made, while collections run.
 *
 * Every object tells by its contents what they must be: each is made of a seed, which it has in it.
 * Once others can see an object it does not change; so nothing here needs a lock. At the end
 * nothing may live, and memory may not have grown since the first part of the run.
 */
#include "stress.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <freehold/gil.h>
#include <freehold/object.h>
#include <freehold/stats.h>

enum { THREADS = 6, OBJECTS = 64, MAILBOXES = 64, WEAK_BOXES = 32, INTERNED = 512 };
enum { RING_MAX = 5, VERIFY_DEPTH = 3, TEXT_BYTES = 96, SETTLED = 1000 * 1000 };

static fh_space *space;
static bool is_gil;

/* What threads share: references change hands by exchange, strong and weak ones. */
static _Atomic(fh_object *) mailboxes[MAILBOXES], weak_boxes[WEAK_BOXES];

static atomic_int_fast64_t live_tokens, finalized_twice;
static atomic_uint_fast64_t callbacks, weak_hits, weak_misses, resurrections;

/* ---- Contents ---- */

static uint64_t scramble(uint64_t seed)
{
    seed = (seed ^ (seed >> 29)) * UINT64_C(0x9fb21c651e98df25);
    return seed ^ (seed >> 32);
}

static int64_t number_of(uint32_t seed)
{
    return (int64_t)((uint64_t)seed << 24 | (scramble(seed) & 0xffffff));
}

/* Returns its length: differs, and is more than one. */
static size_t text_of(uint32_t seed, char *text)
{
    int length = snprintf(text, TEXT_BYTES, "%08" PRIx32 " %016" PRIx64 " ", seed, scramble(seed));
    size_t bytes = (size_t)length + seed % 60;
    memset(text + length, 'a' + (int)(seed % 26), bytes - (size_t)length);
    return bytes;
}

/* ---- Tokens: a container with a finalizer that now and then makes it live on ---- */

struct token {
    fh_object base;
    uint64_t magic;
    uint32_t seed;
    uint32_t finalized_count;
    fh_object *child, *ring;
    void *weak;
};

static const uint64_t token_magic = UINT64_C(0x746f6b656e21);

static struct token *token_of(fh_object *object)
{
    return (struct token *)(void *)object;
}

static int token_traverse(fh_object *self, fh_visit visit, void *context)
{
    struct token *token = token_of(self);
    int result = token->child == NULL ? 0 : visit(token->child, context);
    return result != 0 || token->ring == NULL ? result : visit(token->ring, context);
}

static void token_clear(fh_object *self)
{
    fh_clear(token_of(self)->child);
    fh_clear(token_of(self)->ring);
}

static void token_dealloc(fh_object *self)
{
    struct token *token = token_of(self);
    EXPECT(token->magic == (token_magic ^ token->seed));
    token_clear(self);
    token->magic = 0;
    atomic_fetch_sub(&live_tokens, 1);
}

static void token_finalize(fh_object *self)
{
    struct token *token = token_of(self);
    EXPECT(token->magic == (token_magic ^ token->seed));
    if (++token->finalized_count > 1)
        atomic_fetch_add(&finalized_twice, 1);
    if (token->seed % 16 != 0)
        return;
    atomic_fetch_add(&resurrections, 1);
    fh_object *before = atomic_exchange(&mailboxes[token->seed / 16 % MAILBOXES], fh_new_ref(self));
    fh_xdecref(before);
}

static fh_type token_type = {
    .name = "token",
    .basic_bytes = sizeof(struct token),
    .flags = FH_TYPE_GC,
    .weak_offset = offsetof(struct token, weak),
    .dealloc = token_dealloc,
    .traverse = token_traverse,
    .clear = token_clear,
    .finalize = token_finalize,
};

/* ---- Making: each returns a new reference, and steals `child`, which may be NULL ---- */

static fh_object *made(fh_object *object)
{
    if (object == NULL) {
        anomaly("out of memory");
        abort();
    }
    atomic_fetch_add_explicit(&stress->events, 1, memory_order_relaxed);
    return object;
}

static fh_object *make_string(uint32_t seed)
{
    char text[TEXT_BYTES];
    size_t bytes = text_of(seed, text);
    return made(fh_string_new(text, bytes));
}

static void append(fh_object *list, fh_object *item) /* steals item */
{
    EXPECT(fh_list_append(list, item) == 0);
    fh_decref(item);
}

static fh_object *make_list(uint32_t seed, fh_object *child)
{
    fh_object *list = made(fh_list_new(0));
    append(list, made(fh_int_new(number_of(seed))));
    if (child != NULL)
        append(list, child);
    if (seed % 4 == 0)
        append(list, fh_new_ref(list));
    return list;
}

static void set(fh_object *dict, const char *name, fh_object *value) /* steals value */
{
    fh_object *key = made(fh_string_new_interned(name, strlen(name)));
    EXPECT(fh_dict_set(dict, key, value) == 0);
    fh_decref(key);
    fh_decref(value);
}

static fh_object *make_dict(uint32_t seed, fh_object *child)
{
    fh_object *dict = made(fh_dict_new());
    set(dict, "seed", made(fh_int_new(number_of(seed))));
    set(dict, "text", make_string(seed));
    if (child != NULL)
        set(dict, "child", child);
    if (seed % 4 == 0)
        set(dict, "self", fh_new_ref(dict));
    for (uint32_t i = 0; i < seed % 16; i++) {
        char name[16];
        (void)snprintf(name, sizeof(name), "key %" PRIu32, i);
        set(dict, name, made(fh_int_new(number_of(i))));
    }
    return dict;
}

static fh_object *make_token(uint32_t seed, fh_object *child)
{
    fh_object *object = made(fh_object_new(&token_type));
    struct token *token = token_of(object);
    atomic_fetch_add(&live_tokens, 1);
    token->magic = token_magic ^ seed;
    token->seed = seed;
    token->child = child;
    fh_gc_track(object);
    return object;
}

/* A few tokens in a ring. */
static fh_object *make_ring(uint32_t seed, fh_object *child)
{
    fh_object *first = make_token(seed, child), *last = first;
    for (uint32_t i = 0; i < seed / 8 % RING_MAX; i++) {
        fh_object *next = make_token(seed + i, NULL);
        token_of(last)->ring = next;
        last = next;
    }
    token_of(last)->ring = fh_new_ref(first);
    return first;
}

static fh_object *make_any(struct random *random, fh_object *child)
{
    uint32_t seed = (uint32_t)random_next(random);
    switch (random_below(random, 5)) {
    case 0:
        return make_list(seed, child);
    case 1:
        return make_dict(seed, child);
    case 2:
        return make_ring(seed, child);
    default:
        fh_xdecref(child);
        return seed % 2 == 0 ? make_string(seed) : made(fh_int_new(number_of(seed)));
    }
}

/* ---- Verifying ---- */

static void verify(fh_object *object, unsigned depth);

static void verify_int(const fh_object *object)
{
    int64_t value = fh_int_value(object);
    EXPECT(value == number_of((uint32_t)(value >> 24)));
}

static void verify_string(const fh_object *object)
{
    char text[TEXT_BYTES];
    size_t bytes = text_of((uint32_t)strtoul(fh_string_text(object), NULL, 16), text);
    EXPECT(fh_string_bytes(object) == bytes && memcmp(fh_string_text(object), text, bytes) == 0);
}

static void verify_list(fh_object *list, unsigned depth)
{
    EXPECT(fh_list_count(list) >= 1 && fh_list_count(list) <= 3);
    for (size_t i = 0; i < fh_list_count(list); i++)
        verify(fh_list_get(list, i), depth - 1);
}

static void verify_dict(fh_object *dict, unsigned depth)
{
    fh_object *key, *value;
    size_t position = 0, count = 0;
    while (fh_dict_next(dict, &position, &key, &value)) {
        EXPECT(fh_type_of(key) == &fh_string_type && fh_dict_get(dict, key) == value);
        verify(value, depth - 1);
        count++;
    }
    EXPECT(count == fh_dict_count(dict) && count >= 2 && count <= 4 + 15);
}

static void verify_token(fh_object *object, unsigned depth)
{
    struct token *token = token_of(object);
    EXPECT(token->magic == (token_magic ^ token->seed) && token->ring != NULL);
    verify(token->ring, depth - 1);
    if (token->child != NULL)
        verify(token->child, depth - 1);
}

static void verify(fh_object *object, unsigned depth)
{
    const fh_type *type = fh_type_of(object);
    EXPECT(fh_refcount(object) > 0);
    if (depth == 0)
        return;
    if (type == &fh_int_type)
        verify_int(object);
    else if (type == &fh_string_type)
        verify_string(object);
    else if (type == &fh_list_type)
        verify_list(object, depth);
    else if (type == &fh_dict_type)
        verify_dict(object, depth);
    else if (type == &token_type)
        verify_token(object, depth);
    else
        anomaly("an object of a strange type");
}

/* ---- The storm's own test: STORM_SIN names what it does wrong, which must be noticed ---- */

static const char *sin_name;

static bool sins(const char *name)
{
    return sin_name != NULL && strcmp(sin_name, name) == 0;
}

/* ---- What a thread does ---- */

struct mine {
    fh_object *objects[OBJECTS];
    struct random *random;
};

static fh_object **any_of(struct mine *mine)
{
    return &mine->objects[random_below(mine->random, OBJECTS)];
}

/* In the place of another; less than every second has a child, so that no chain gets long. */
static void replace(struct mine *mine)
{
    fh_object **place = any_of(mine), *child = NULL, *before = *place;
    if (random_below(mine->random, 5) < 2 && (child = *any_of(mine)) != NULL)
        fh_incref(child);
    *place = make_any(mine->random, child);
    if (child != NULL && sins("change") && fh_type_of(child) == &token_type)
        token_of(child)->seed++; /* others may see it */
    fh_xdecref(before);
}

static void swap_mail(struct mine *mine)
{
    fh_object **place = any_of(mine);
    _Atomic(fh_object *) *box = &mailboxes[random_below(mine->random, MAILBOXES)];
    *place = atomic_exchange(box, *place);
    if (*place != NULL)
        verify(*place, VERIFY_DEPTH);
}

static void note_callback(fh_object *weakref, void *context)
{
    EXPECT(context == &callbacks && fh_weakref_get(weakref) == NULL);
    atomic_fetch_add(&callbacks, 1);
}

static void swap_weak(struct mine *mine)
{
    fh_object *target = *any_of(mine), *weakref = NULL;
    if (target != NULL && fh_type_of(target) == &token_type)
        weakref = made(fh_weakref_new(target, note_callback, &callbacks));
    _Atomic(fh_object *) *box = &weak_boxes[random_below(mine->random, WEAK_BOXES)];
    fh_object *got = atomic_exchange(box, weakref);
    if (got == NULL)
        return;
    fh_object *found = fh_weakref_get(got);
    atomic_fetch_add(found != NULL ? &weak_hits : &weak_misses, 1);
    if (found != NULL) {
        verify(found, VERIFY_DEPTH);
        fh_decref(found);
    }
    weakref = NULL; /* back into the box, unless somebody was faster */
    if (!atomic_compare_exchange_strong(box, &weakref, got))
        fh_decref(got);
}

static void intern(struct mine *mine)
{
    char text[TEXT_BYTES];
    size_t bytes = text_of((uint32_t)random_below(mine->random, INTERNED), text);
    fh_object *first = made(fh_string_new_interned(text, bytes));
    fh_object *second = made(fh_string_new(text, bytes));
    EXPECT(fh_string_intern(&second) == 0 && first == second);
    EXPECT(fh_string_intern_state(first) == FH_INTERNED_MORTAL);
    verify(first, 1);
    fh_decref(second);
    fh_object **place = any_of(mine), *before = *place;
    *place = first;
    fh_xdecref(before);
}

static void rest(struct mine *mine)
{
    switch (random_below(mine->random, 4)) {
    case 0:
        EXPECT(fh_gc_collect((int)random_below(mine->random, 3)) >= -1);
        break;
    case 1: /* others merge what they drop of this thread's objects */
        fh_space_detach();
        stress_pause_us(200);
        EXPECT(fh_space_attach(space) == 0);
        break;
    default:
        fh_space_park();
        stress_pause_us(200);
        fh_space_unpark();
    }
}

static void object_step(struct mine *mine)
{
    switch (random_below(mine->random, 8)) {
    case 0:
    case 1:
        swap_mail(mine);
        break;
    case 2:
        swap_weak(mine);
        break;
    case 3:
        intern(mine);
        break;
    default:
        replace(mine);
    }
    fh_safe_point();
    if (is_gil)
        (void)fh_gil_check(fh_gil_builtin());
}

static void *objects_worker(void *argument)
{
    struct worker *worker = argument;
    struct mine mine = {.random = &worker->random};
    EXPECT(fh_space_attach(space) == 0);
    for (uint64_t i = 1; !stress_over(); i++) {
        object_step(&mine);
        if (i % 1024 == 0)
            rest(&mine);
        atomic_fetch_add_explicit(&stress->operations, 1, memory_order_relaxed);
    }
    for (size_t i = 0; i < OBJECTS; i++)
        fh_xdecref(mine.objects[i]);
    if (sins("leak"))
        (void)make_string(1);
    fh_space_detach();
    return NULL;
}

/* ---- Growth ---- */

struct growth {
    size_t resident_bytes, allocated_bytes;
};

static struct growth growth_now(void)
{
    fh_stats stats = {.struct_bytes = sizeof(stats)};
    EXPECT(fh_get_stats(&stats) == 0);
    return (struct growth){stress_resident_bytes(), stats.allocated_bytes};
}

/* Not more memory than when a million objects had come, or at half of the run. What lives differs
 * from moment to moment, and by how many collections are behind: a half more is allowed. */
static void expect_no_growth(const struct growth *before, const struct growth *after)
{
    size_t slack = 24 * MIB;
    if (after->resident_bytes > before->resident_bytes / 2 * 3 + slack)
        anomaly("resident: %zu KiB after a part of the run, %zu KiB at its end",
                before->resident_bytes / KIB, after->resident_bytes / KIB);
    if (after->allocated_bytes > before->allocated_bytes / 2 * 3 + slack)
        anomaly("allocated: %zu KiB after a part of the run, %zu KiB at its end",
                before->allocated_bytes / KIB, after->allocated_bytes / KIB);
}

static struct growth settled, ended;
static double begun_with_seconds;

static void *growth_watch(void *unused)
{
    (void)unused;
    while (!stress_over() && stress->events < SETTLED &&
           stress_seconds_left() > begun_with_seconds / 2)
        stress_pause_us(1000);
    settled = growth_now();
    while (!stress_over())
        stress_pause_us(1000);
    ended = growth_now();
    return NULL;
}

/* ---- The storm ---- */

static void empty_boxes(void)
{
    for (size_t i = 0; i < MAILBOXES; i++)
        fh_xdecref(atomic_exchange(&mailboxes[i], NULL));
    for (size_t i = 0; i < WEAK_BOXES; i++)
        fh_xdecref(atomic_exchange(&weak_boxes[i], NULL));
}

/* Finalizers may put what they resurrect into the boxes again, once each. */
static void expect_nothing_lives(void)
{
    EXPECT(fh_space_attach(space) == 0);
    for (unsigned i = 0; i < 10 && fh_space_live_objects() != 0; i++) {
        empty_boxes();
        EXPECT(fh_gc_collect(2) >= 0);
    }
    fh_gc_stats stats = {.struct_bytes = sizeof(stats)};
    EXPECT(fh_gc_get_stats(&stats) == 0 && stats.tracked == 0);
    EXPECT(fh_space_live_objects() == 0 && live_tokens == 0 && finalized_twice == 0);
    (void)snprintf(
        stress->note, sizeof(stress->note),
        "%" PRIu64 " collections, %" PRIu64 " us stopped at most, %" PRIu64 " lived on, %" PRIu64
        " callbacks, weak %" PRIu64 "/%" PRIu64 ", allocated %zu -> %zu KiB",
        stats.generations[0].collections + stats.generations[1].collections +
            stats.generations[2].collections,
        stats.stop_ns_max / 1000, (uint64_t)resurrections, (uint64_t)callbacks, (uint64_t)weak_hits,
        (uint64_t)weak_misses, settled.allocated_bytes / KIB, ended.allocated_bytes / KIB);
    fh_space_detach();
    EXPECT(fh_space_destroy(space) == 0);
}

static void run(const fh_gil *gil)
{
    fh_space_config config = {.struct_bytes = sizeof(config), .gil = gil};
    is_gil = gil != NULL;
    sin_name = getenv("STORM_SIN");
    space = fh_space_create(&config);
    begun_with_seconds = stress_seconds_left();
    EXPECT(space != NULL && fh_space_attach(space) == 0);
    fh_gc_set_thresholds((const unsigned[]){20, 5, 5}); /* more often than usual */
    fh_space_detach();
    struct worker *workers = workers_new(THREADS + 1, 0, 0);
    EXPECT(worker_start(&workers[THREADS], growth_watch));
    workers_run(workers, THREADS, objects_worker);
    worker_join(&workers[THREADS]);
    expect_no_growth(&settled, &ended);
    expect_nothing_lives();
}

void storm_objects(void)
{
    run(NULL);
}

void storm_objects_gil(void)
{
    run(fh_gil_builtin());
}
