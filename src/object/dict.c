/* SPDX-License-Identifier: MIT */
/* Dicts: open addressing in a table of a power of two of slots, the first of which is inside of the
 * dict. builtin.h has the states of a slot and what always holds.
 *
 * Whatever leaves a dict is dropped when the dict is consistent, since dropping runs anybody's
 * code. Comparing keys runs none.
 */
#include <errno.h>
#include <string.h>

#include "builtin_end.h"
#include "end.h"

enum { DICT_CAP = 80, MEMORY_BYTES = sizeof(struct fh_gc_head) + sizeof(struct fh_dict) };
enum { MANY = 50000 }; /* beyond it tables grow to twice, not four times, of what is used */

fh_free_list fh_dict_list = {
    .name = "FhDictObjects",
    .object_bytes = MEMORY_BYTES,
    .cap = DICT_CAP,
    .index = FH_LISTS_DICT,
};

static fh_object dummy; /* its address stands in dummies' slots; never counted */

/* What look-ups cost, of a dict that counts them. Atomic, since readers may look up at once. */
struct fh_dict_probes {
    uint32_t counting;
    uint64_t hits, hit_probes, misses, miss_probes;
};

static struct fh_dict *its(const fh_object *dict)
{
    return (struct fh_dict *)(uintptr_t)dict;
}

/* ---- Keys ---------------------------------------------------------------------------------------
 */

static inline uint64_t hash_of(fh_object *key)
{
    if (key->type == &fh_string_type)
        return fh_string_known_hash(fh_string_of(key));
    if (key->type == &fh_int_type)
        return (uint64_t)((const struct fh_int *)key)->value;
    uintptr_t address = (uintptr_t)key; /* whose lowest bits are always the same */
    return address >> 4 | (uint64_t)address << 60;
}

static bool same_text(const fh_object *one, const fh_object *other)
{
    const struct fh_string *left = fh_string_of(one), *right = fh_string_of(other);
    return left->base.count == right->base.count &&
           memcmp(left->text, right->text, left->base.count) == 0;
}

/* Of distinct objects whose hashes are equal. A dummy is of no type, and so equal to no key. */
static inline bool equal_keys(const fh_object *one, const fh_object *other)
{
    if (one->type != other->type)
        return false;
    if (one->type == &fh_string_type)
        return same_text(one, other);
    return one->type == &fh_int_type; /* whose hash is its value */
}

/* ---- Looking up ---------------------------------------------------------------------------------
 *
 * Each next slot is at 5 * slot + 1 and what is left of the hash, of which five bits go each time:
 * at first all of the hash says where to look, and when nothing is left of it this goes through all
 * slots.
 */

struct probe {
    size_t slot;
    uint64_t perturb;
};

static inline struct probe first_probe(const struct fh_dict *dict, uint64_t hash)
{
    return (struct probe){(size_t)hash & dict->mask, hash};
}

static inline void next_probe(const struct fh_dict *dict, struct probe *probe)
{
    probe->perturb >>= 5;
    probe->slot = (probe->slot * 5 + (size_t)probe->perturb + 1) & dict->mask;
}

static inline bool is_key(const struct fh_dict_entry *entry, const fh_object *key, uint64_t hash)
{
    return entry->key == key || (entry->hash == hash && equal_keys(entry->key, key));
}

/* The key's slot; else the slot where it would be put: the first dummy on the way, or the unused
 * one at its end. */
static inline struct fh_dict_entry *look_up(const struct fh_dict *dict, const fh_object *key,
                                            uint64_t hash)
{
    struct fh_dict_entry *reusable = NULL;
    struct probe probe = first_probe(dict, hash);
    for (;; next_probe(dict, &probe)) { /* ends: some slot is unused */
        struct fh_dict_entry *entry = &dict->table[probe.slot];
        if (entry->key == NULL)
            return reusable != NULL ? reusable : entry;
        if (is_key(entry, key, hash))
            return entry;
        if (entry->key == &dummy && reusable == NULL)
            reusable = entry;
    }
}

static inline bool is_active(const struct fh_dict_entry *entry)
{
    return entry->key != NULL && entry->key != &dummy;
}

/* ---- Counting what that cost --------------------------------------------------------------------
 */

static void add(uint64_t *count, uint64_t more)
{
    at_fetch_add_relaxed(count, more); /* a statistic: nothing comes with it */
}

static uint64_t count_slots(const struct fh_dict *dict, const fh_object *key, uint64_t hash)
{
    uint64_t slots = 1;
    struct probe probe = first_probe(dict, hash);
    for (;; next_probe(dict, &probe), slots++) {
        const struct fh_dict_entry *entry = &dict->table[probe.slot];
        if (entry->key == NULL || is_key(entry, key, hash))
            return slots;
    }
}

static __attribute__((noinline)) void count_look_up(const struct fh_dict *dict,
                                                    const struct fh_dict_entry *found,
                                                    const fh_object *key, uint64_t hash)
{
    struct fh_dict_probes *probes = dict->probes;
    if (at_load_relaxed(&probes->counting) == 0)
        return;
    bool is_hit = is_active(found);
    add(is_hit ? &probes->hits : &probes->misses, 1);
    add(is_hit ? &probes->hit_probes : &probes->miss_probes, count_slots(dict, key, hash));
}

static inline struct fh_dict_entry *look_up_counted(const struct fh_dict *dict,
                                                    const fh_object *key, uint64_t hash)
{
    struct fh_dict_entry *found = look_up(dict, key, hash);
    if (__builtin_expect(dict->probes != NULL, 0))
        count_look_up(dict, found, key, hash);
    return found;
}

int fh_dict_count_probes(fh_object *dict, int counting)
{
    struct fh_dict_probes *probes = its(dict)->probes;
    if (probes == NULL && (probes = fh_raw_calloc(1, sizeof *probes)) == NULL) {
        fh_object_no_memory(sizeof *probes);
        return -1;
    }
    at_store_relaxed(&probes->counting, counting != 0);
    its(dict)->probes = probes;
    return 0;
}

/* 1/k ln 1/(1-k), by its series: 1 + k/2 + k^2/3 + ... */
static double expected_hit(double fill)
{
    double sum = 0, power = 1;
    for (int n = 1; power / n > 1e-12; n++, power *= fill) /* ends: fill is below 1 */
        sum += power / n;
    return sum;
}

static void fill_in_probes(fh_dict_stats *stats, const struct fh_dict_probes *probes)
{
    stats->hits = at_load_relaxed(&probes->hits);
    stats->hit_probes = at_load_relaxed(&probes->hit_probes);
    stats->misses = at_load_relaxed(&probes->misses);
    stats->miss_probes = at_load_relaxed(&probes->miss_probes);
}

int fh_dict_get_stats(const fh_object *object, fh_dict_stats *out)
{
    const struct fh_dict *dict = its(object);
    fh_dict_stats stats = {sizeof stats, .used = dict->used, .slots = dict->mask + 1};
    if (out->struct_bytes == 0) {
        errno = EINVAL;
        return -1;
    }
    double fill = (double)dict->fill / (double)stats.slots;
    stats.dummies = dict->fill - dict->used;
    stats.expected_hit = expected_hit(fill);
    stats.expected_miss = 1 / (1 - fill);
    if (dict->probes != NULL)
        fill_in_probes(&stats, dict->probes);
    size_t bytes = out->struct_bytes < sizeof stats ? out->struct_bytes : sizeof stats;
    stats.struct_bytes = out->struct_bytes;
    memcpy(out, &stats, bytes);
    return 0;
}

/* ---- Making -------------------------------------------------------------------------------------
 */

void *fh_dict_alloc(fh_type *type, size_t bytes)
{
    (void)type;
    return fh_recycle_take(fh_this_slot, FH_LISTS_DICT, bytes);
}

void fh_dict_free(fh_type *type, void *memory, size_t bytes)
{
    (void)type;
    (void)bytes;
    fh_recycle_give(fh_this_slot, FH_LISTS_DICT, memory, DICT_CAP);
}

static void make_empty(struct fh_dict *dict)
{
    dict->fill = dict->used = 0;
    dict->mask = FH_DICT_SMALL_SLOTS - 1;
    dict->table = dict->small;
    memset(dict->small, 0, sizeof dict->small);
}

fh_object *fh_dict_new(void)
{
    struct fh_slot *slot = fh_this_slot;
    char *memory = fh_recycle_take(slot, FH_LISTS_DICT, MEMORY_BYTES);
    if (memory == NULL)
        return fh_object_no_memory(MEMORY_BYTES);

    struct fh_dict *dict = (struct fh_dict *)(memory + sizeof(struct fh_gc_head));
    if (!fh_gc_enroll(slot, &slot->gc, &dict->base, FH_GC_TRACKED)) {
        fh_obj_free(memory);
        return fh_object_no_memory(MEMORY_BYTES);
    }
    fh_builtin_begin(slot, &dict->base, &fh_dict_type, FH_TYPE_INDEX_DICT);
    make_empty(dict);
    dict->probes = NULL;
    return &dict->base;
}

/* ---- The collector's ----------------------------------------------------------------------------
 */

static void drop_entry(const struct fh_dict_entry *entry)
{
    if (is_active(entry)) {
        fh_decref(entry->key);
        fh_decref(entry->value);
    }
}

static void drop_table(const struct fh_dict_entry *table, size_t used)
{
    for (const struct fh_dict_entry *entry = table; used > 0; entry++)
        if (is_active(entry)) {
            drop_entry(entry);
            used--;
        }
}

static void dict_dealloc(fh_object *self)
{
    struct fh_dict *dict = its(self);
    drop_table(dict->table, dict->used);
    if (dict->table != dict->small)
        fh_mem_free(dict->table);
    if (dict->probes != NULL)
        fh_raw_free(dict->probes);
}

static void dict_clear(fh_object *self)
{
    struct fh_dict *dict = its(self);
    struct fh_dict_entry small[FH_DICT_SMALL_SLOTS];
    bool is_small = dict->table == dict->small;
    struct fh_dict_entry *table = is_small ? memcpy(small, dict->small, sizeof small) : dict->table;
    size_t used = dict->used;
    make_empty(dict);
    drop_table(table, used);
    if (!is_small)
        fh_mem_free(table);
}

static int dict_traverse(fh_object *self, fh_visit visit, void *context)
{
    fh_object *key, *value;
    size_t position = 0;
    int result = 0;
    while (result == 0 && fh_dict_next(self, &position, &key, &value)) {
        result = visit(key, context);
        if (result == 0)
            result = visit(value, context);
    }
    return result;
}

fh_type fh_dict_type = {
    .name = "dict",
    .basic_bytes = sizeof(struct fh_dict),
    .flags = FH_TYPE_GC,
    .alloc = fh_dict_alloc,
    .free = fh_dict_free,
    .dealloc = dict_dealloc,
    .traverse = dict_traverse,
    .clear = dict_clear,
    .index = FH_TYPE_INDEX_DICT,
};

/* ---- Growing ------------------------------------------------------------------------------------
 */

/* Put an entry into a table without dummies that has no such key. */
static void put(struct fh_dict *dict, const struct fh_dict_entry *entry)
{
    struct probe probe = first_probe(dict, entry->hash);
    while (dict->table[probe.slot].key != NULL) /* ends: some slot is unused */
        next_probe(dict, &probe);
    dict->table[probe.slot] = *entry;
}

static void put_all(struct fh_dict *dict, const struct fh_dict_entry *table, size_t used)
{
    for (const struct fh_dict_entry *entry = table; used > 0; entry++)
        if (is_active(entry)) {
            put(dict, entry);
            used--;
        }
}

static size_t slots_for(size_t more_than)
{
    size_t slots = FH_DICT_SMALL_SLOTS;
    while (slots <= more_than)
        slots *= 2;
    return slots;
}

/* The small table's entries move into another one; so do they within it, by a copy. */
static int resize(struct fh_dict *dict, size_t slots)
{
    struct fh_dict_entry copy[FH_DICT_SMALL_SLOTS];
    struct fh_dict_entry *old = dict->table, *table = dict->small;
    if (slots > FH_DICT_SMALL_SLOTS && (table = fh_mem_calloc(slots, sizeof *table)) == NULL) {
        fh_object_no_memory(slots * sizeof *table);
        return -1;
    }
    if (old == dict->small)
        old = memcpy(copy, old, sizeof copy);
    if (table == dict->small)
        memset(table, 0, sizeof dict->small);
    dict->table = table;
    dict->mask = slots - 1;
    dict->fill = dict->used;
    put_all(dict, old, dict->used);
    if (old != copy)
        fh_mem_free(old);
    return 0;
}

/* Would one more slot in use be too many? Then the table is made anew, without dummies, before it
 * is: so a failure changes nothing. */
static inline bool is_crowded(const struct fh_dict *dict)
{
    return (dict->fill + 1) * 3 >= (dict->mask + 1) * 2;
}

static int grow(struct fh_dict *dict)
{
    size_t used = dict->used + 1;
    return resize(dict, slots_for(used * (used > MANY ? 2 : 4)));
}

/* ---- Contents -----------------------------------------------------------------------------------
 */

size_t fh_dict_count(const fh_object *dict)
{
    return its(dict)->used;
}

fh_object *fh_dict_get(const fh_object *dict, fh_object *key)
{
    const struct fh_dict_entry *entry = look_up_counted(its(dict), key, hash_of(key));
    return is_active(entry) ? entry->value : NULL;
}

static void activate(struct fh_dict *dict, struct fh_dict_entry *entry,
                     const struct fh_dict_entry *with)
{
    if (entry->key == NULL)
        dict->fill++;
    dict->used++;
    *entry = *with;
    fh_incref(with->key);
    fh_incref(with->value);
}

static void replace_value(struct fh_dict_entry *entry, fh_object *value)
{
    fh_object *old = entry->value;
    entry->value = fh_new_ref(value);
    fh_decref(old);
}

int fh_dict_set(fh_object *object, fh_object *key, fh_object *value)
{
    struct fh_dict *dict = its(object);
    struct fh_dict_entry entry = {hash_of(key), key, value};
    struct fh_dict_entry *found = look_up_counted(dict, key, entry.hash);
    if (is_active(found)) {
        replace_value(found, value);
        return 0;
    }
    if (found->key == NULL && is_crowded(dict)) {
        if (grow(dict) != 0)
            return -1;
        found = look_up(dict, key, entry.hash);
    }
    activate(dict, found, &entry);
    return 0;
}

int fh_dict_delete(fh_object *object, fh_object *key)
{
    struct fh_dict *dict = its(object);
    struct fh_dict_entry *found = look_up_counted(dict, key, hash_of(key));
    struct fh_dict_entry gone = *found;
    if (!is_active(found)) {
        errno = ENOENT;
        return -1;
    }
    found->key = &dummy;
    found->value = NULL;
    dict->used--;
    drop_entry(&gone);
    return 0;
}

int fh_dict_next(const fh_object *object, size_t *position, fh_object **key, fh_object **value)
{
    const struct fh_dict *dict = its(object);
    for (size_t slot = *position; slot <= dict->mask; slot++)
        if (is_active(&dict->table[slot])) {
            *key = dict->table[slot].key;
            *value = dict->table[slot].value;
            *position = slot + 1;
            return 1;
        }
    return 0;
}
