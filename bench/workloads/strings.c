/* SPDX-License-Identifier: MIT */
/* strings: a hash map from words to texts. Texts grow by realloc, a few bytes at a time, and
 * entries are deleted; the map's table doubles. A text's bytes follow from its word and their
 * places, which is checked when it is deleted. */
#include "workloads.h"

#include <stdio.h>
#include <string.h>

enum {
    WORDS = 100 * 1000,
    TABLE_COUNT_MIN = 64, /* a power of 2 */
    PIECE_BYTES_MAX = 24,
    STRINGS_STEPS = 5200 * 1000,
    DELETE_EACH = 10, /* one step in so many deletes */
};

struct entry {
    struct entry *next; /* of the same place in the table */
    uint32_t hash;
    uint32_t text_bytes;
    char *text;
    char word[];
};

struct map {
    struct entry **table;
    size_t table_count, entry_count;
};

static uint32_t hash_of(const char *word)
{
    uint32_t hash = 0;
    for (; *word != '\0'; word++)
        hash = (hash ^ (unsigned char)*word) * UINT32_C(0x01000193) + 7;
    return hash ^ hash >> 15;
}

static char letter(uint32_t hash, uint32_t place)
{
    return (char)('a' + ((hash & 0xff) + place) % 26);
}

/* ---- The map ---- */

static struct entry **new_table(struct worker *self, size_t count)
{
    self->operations++;
    struct entry **table = calloc(count, sizeof(*table));
    if (table == NULL)
        fail("calloc failed");
    return table;
}

static struct entry **place_of(const struct map *map, uint32_t hash)
{
    return &map->table[hash & (map->table_count - 1)];
}

static void grow_table(struct worker *self, struct map *map)
{
    struct map grown = {new_table(self, map->table_count * 2), map->table_count * 2, 0};
    for (size_t i = 0; i < map->table_count; i++) {
        for (struct entry *entry = map->table[i], *next; entry != NULL; entry = next) {
            next = entry->next;
            struct entry **place = place_of(&grown, entry->hash);
            entry->next = *place;
            *place = entry;
        }
    }
    free(map->table);
    map->table = grown.table;
    map->table_count = grown.table_count;
}

/* Where the word's entry is linked, or would be. */
static struct entry **find(const struct map *map, const char *word, uint32_t hash)
{
    struct entry **link = place_of(map, hash);
    while (*link != NULL && ((*link)->hash != hash || strcmp((*link)->word, word) != 0))
        link = &(*link)->next;
    return link;
}

static struct entry *add(struct worker *self, struct map *map, const char *word, uint32_t hash)
{
    if (map->entry_count == map->table_count)
        grow_table(self, map);
    const size_t word_bytes = strlen(word) + 1;
    struct entry *entry = take(self, sizeof(*entry) + word_bytes);
    struct entry **place = place_of(map, hash);
    *entry = (struct entry){.next = *place, .hash = hash};
    memcpy(entry->word, word, word_bytes);
    *place = entry;
    map->entry_count++;
    return entry;
}

static void append(struct worker *self, struct entry *entry, uint32_t bytes)
{
    self->operations++;
    char *text = realloc(entry->text, entry->text_bytes + bytes);
    if (text == NULL)
        fail("realloc failed");
    for (uint32_t i = 0; i < bytes; i++)
        text[entry->text_bytes + i] = letter(entry->hash, entry->text_bytes + i);
    entry->text = text;
    entry->text_bytes += bytes;
}

static void erase(struct map *map, struct entry **link)
{
    struct entry *entry = *link;
    for (uint32_t i = 0; i < entry->text_bytes; i++)
        if (entry->text[i] != letter(entry->hash, i))
            fail("a text is wrong");
    *link = entry->next;
    map->entry_count--;
    free(entry->text);
    free(entry);
}

/* ---- What is done with it ---- */

/* Low numbers come up more often, and their texts grow long. */
static void make_word(struct worker *self, char *word, size_t word_bytes)
{
    const size_t number = random_below(self, random_between(self, 1, WORDS));
    snprintf(word, word_bytes, "%.*s%zu", (int)(number % 19), "neverthelessmoreover", number);
}

static void step(struct worker *self, struct map *map)
{
    char word[64];
    make_word(self, word, sizeof(word));
    const uint32_t hash = hash_of(word);
    struct entry **link = find(map, word, hash);
    if (random_below(self, DELETE_EACH) == 0) {
        if (*link != NULL)
            erase(map, link);
        return;
    }
    struct entry *entry = *link != NULL ? *link : add(self, map, word, hash);
    append(self, entry, (uint32_t)random_between(self, 1, PIECE_BYTES_MAX));
}

static void do_strings(struct worker *self)
{
    struct map map = {new_table(self, TABLE_COUNT_MIN), TABLE_COUNT_MIN, 0};
    for (size_t left = share_of(STRINGS_STEPS); left > 0; left--)
        step(self, &map);
    for (size_t i = 0; i < map.table_count; i++)
        while (map.table[i] != NULL)
            erase(&map, &map.table[i]);
    free(map.table);
}

void run_strings(void)
{
    run_team(do_strings, NULL);
}
