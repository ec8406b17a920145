/* SPDX-License-Identifier: MIT */
/* Strings: one allocation each, the bytes and a 0 behind the header. The empty one and those of one
 * byte are there before the program begins, for all spaces.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

#include "atoms.h"
#include "builtin_end.h"
#include "end.h"
#include "intern.h"

/* ---- The type ---------------------------------------------------------------------------------
 */

void fh_string_leave(struct fh_string *string)
{
    if (fh_intern_leave(string))
        fh_obj_free(string);
}

void fh_string_free(fh_type *type, void *memory, size_t bytes)
{
    (void)type;
    (void)bytes;
    fh_string_end(memory);
}

static void *string_alloc(fh_type *type, size_t bytes)
{
    (void)type;
    return fh_obj_malloc(bytes);
}

fh_type fh_string_type = {
    .name = "string",
    .basic_bytes = sizeof(struct fh_string) + 1,
    .item_bytes = 1,
    .alloc = string_alloc,
    .free = fh_string_free,
    .index = FH_TYPE_INDEX_STRING,
};

/* ---- Hashes -----------------------------------------------------------------------------------
 *
 * Sixteen bytes at a time are multiplied to 128 bits, whose halves are then combined. The numbers
 * to begin with are the process's own, random unless FREEHOLD_OBJECT_SEED has a number: so nobody
 * outside knows which keys will collide. Whoever sees many hashes could still find that out, since
 * this is no cryptographic hash.
 */

__extension__ typedef unsigned __int128 wide;

#define SQUARE_ROOT_OF_2 0x6a09e667f3bcc909u /* their fractions' first bits: odd, and nobody's */
#define SQUARE_ROOT_OF_3 0xbb67ae8584caa73bu /* choice */

static uint64_t seeds[2]; /* 0: not yet known */

static uint64_t fold(uint64_t one, uint64_t other)
{
    wide product = (wide)one * other;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t given_seed(unsigned number)
{
    const char *text = secure_getenv("FREEHOLD_OBJECT_SEED");
    uint64_t seed[2] = {0, 0};
    if (text != NULL && *text != 0)
        return fold(strtoull(text, NULL, 10) ^ SQUARE_ROOT_OF_2, SQUARE_ROOT_OF_3 + number);
    /* Sixteen random bytes from the kernel, which others of the process may use too. */
    const void *random = (const void *)getauxval(AT_RANDOM);
    if (random != NULL)
        memcpy(seed, random, sizeof seed);
    return fold(seed[number] ^ SQUARE_ROOT_OF_2, seed[1 - number] ^ SQUARE_ROOT_OF_3);
}

static __attribute__((noinline, cold)) uint64_t make_seed(unsigned number)
{
    uint64_t seed = given_seed(number) | 1; /* all threads find the same */
    at_store_relaxed(&seeds[number], seed);
    return seed;
}

static inline uint64_t seed_at(unsigned number)
{
    uint64_t seed = at_load_relaxed(&seeds[number]);
    return __builtin_expect(seed != 0, 1) ? seed : make_seed(number);
}

static inline uint64_t read_8(const char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint64_t read_4(const char *at)
{
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static inline uint64_t read_up_to_3(const char *at, size_t bytes)
{
    const unsigned char *byte = (const unsigned char *)at;
    return (uint64_t)byte[0] << 16 | (uint64_t)byte[bytes / 2] << 8 | byte[bytes - 1];
}

/* The last 1 to 16 bytes of a text, as two words that may overlap. */
static inline uint64_t fold_end(const char *text, size_t bytes, uint64_t hash, uint64_t key)
{
    if (bytes >= 8)
        return fold(read_8(text) ^ key, read_8(text + bytes - 8) ^ hash);
    if (bytes >= 4)
        return fold(read_4(text) ^ key, read_4(text + bytes - 4) ^ hash);
    return fold((bytes > 0 ? read_up_to_3(text, bytes) : 0) ^ key, hash);
}

uint64_t fh_string_hash_of(const char *text, size_t bytes)
{
    uint64_t key = seed_at(1);
    uint64_t hash = seed_at(0) ^ bytes * SQUARE_ROOT_OF_2;
    for (; bytes > 16; text += 16, bytes -= 16)
        hash = fold(read_8(text) ^ key, read_8(text + 8) ^ hash);
    hash = fold(fold_end(text, bytes, hash, key) ^ SQUARE_ROOT_OF_2, key);
    return hash != 0 ? hash : 1;
}

uint64_t fh_string_hash(fh_object *object)
{
    struct fh_string *string = fh_string_of(object);
    uint64_t hash = at_load_relaxed(&string->hash);
    if (hash == 0) {
        hash = fh_string_hash_of(string->text, string->base.count);
        at_store_relaxed(&string->hash, hash); /* all threads store the same */
    }
    return hash;
}

/* ---- Strings of no and of one byte ------------------------------------------------------------
 */

/* A struct fh_string with room for its text. */
struct static_string {
    fh_var_object base;
    uint64_t hash;
    uintptr_t interned;
    char text[8];
};

_Static_assert(offsetof(struct static_string, hash) == offsetof(struct fh_string, hash) &&
                   offsetof(struct static_string, interned) ==
                       offsetof(struct fh_string, interned) &&
                   offsetof(struct static_string, text) == offsetof(struct fh_string, text),
               "they look like all strings");

#define STATIC(byte, bytes)                                                                        \
    {                                                                                              \
        .base = {.base = {.owner = FH_OWNER_IMMORTAL, .type = &fh_string_type}, .count = (bytes)}, \
        .interned = FH_INTERNED_STATIC, .text = {                                                  \
            (char)(byte)                                                                           \
        }                                                                                          \
    }
#define OF_1(n)  STATIC(n, 1)
#define OF_4(n)  OF_1(n), OF_1((n) + 1), OF_1((n) + 2), OF_1((n) + 3)
#define OF_16(n) OF_4(n), OF_4((n) + 4), OF_4((n) + 8), OF_4((n) + 12)
#define OF_64(n) OF_16(n), OF_16((n) + 16), OF_16((n) + 32), OF_16((n) + 48)

static struct static_string empty = STATIC(0, 0);
static struct static_string of_one_byte[] = {OF_64(0), OF_64(64), OF_64(128), OF_64(192)};

_Static_assert(sizeof of_one_byte == 256 * sizeof of_one_byte[0], "one for each byte");

fh_object *fh_string_static(const char *text, size_t bytes)
{
    struct static_string *string = bytes == 0 ? &empty : &of_one_byte[(unsigned char)text[0]];
    return &string->base.base;
}

/* ---- Making and reading -----------------------------------------------------------------------
 */

static inline size_t memory_bytes(size_t text_bytes)
{
    return (sizeof(struct fh_string) + text_bytes + sizeof(void *)) & ~(sizeof(void *) - 1);
}

fh_object *fh_string_new(const char *text, size_t bytes)
{
    if (bytes <= 1 && text != NULL)
        return fh_string_static(text, bytes);
    if (bytes > PTRDIFF_MAX / 2)
        return fh_object_no_memory(bytes);
    struct fh_string *string = fh_obj_malloc(memory_bytes(bytes));
    if (string == NULL)
        return fh_object_no_memory(memory_bytes(bytes));

    fh_builtin_begin(fh_this_slot, &string->base.base, &fh_string_type, FH_TYPE_INDEX_STRING);
    string->base.count = bytes;
    string->hash = 0;
    string->interned = 0;
    string->text[bytes] = 0;
    if (text != NULL)
        memcpy(string->text, text, bytes);
    return &string->base.base;
}

const char *fh_string_text(const fh_object *string)
{
    return fh_string_of(string)->text;
}

size_t fh_string_bytes(const fh_object *string)
{
    return fh_string_of(string)->base.count;
}
