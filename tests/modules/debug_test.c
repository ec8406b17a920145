/* SPDX-License-Identifier: MIT */
/* observe/debug*.c: the debug hooks. Tests whose names are CPython's do what those do; the texts
 * are CPython's to the letter, but for addresses. */
#include "modules.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bits.h"
#include "debug.h"

enum { WORD = 8, TEXT_BYTES = 4096 };

/* The calls of one domain. */
struct calls {
    char letter;
    void *(*malloc)(size_t bytes);
    void *(*calloc)(size_t count, size_t bytes);
    void *(*realloc)(void *block, size_t bytes);
    void (*free)(void *block);
};

static const struct calls domains[FH_DOMAINS] = {
    {'r', fh_raw_malloc, fh_raw_calloc, fh_raw_realloc, fh_raw_free},
    {'m', fh_mem_malloc, fh_mem_calloc, fh_mem_realloc, fh_mem_free},
    {'o', fh_obj_malloc, fh_obj_calloc, fh_obj_realloc, fh_obj_free},
};

static void configure(size_t quarantine_bytes, int serial_numbers, int strict)
{
    fh_debug_config config = {sizeof config, quarantine_bytes, serial_numbers, strict};
    CHECK(fh_debug_configure(&config) == 0);
}

static void set_up(size_t quarantine_bytes)
{
    configure(quarantine_bytes, 0, 0);
    CHECK(fh_debug_setup() == 0);
}

/* ---- An allocator to be wrapped, which counts and can fail ------------------------------------
 */

static struct {
    fh_allocator below;
    size_t live, frees, live_bytes;
    bool fails;
} counting;

static void *counted(void *block)
{
    __atomic_add_fetch(&counting.live, block != NULL, __ATOMIC_RELAXED);
    if (block != NULL)
        __atomic_add_fetch(&counting.live_bytes, fh_usable_size(block), __ATOMIC_RELAXED);
    return block;
}

static void *counting_malloc(void *context, size_t bytes)
{
    return counting.fails ? NULL : counted(counting.below.malloc(context, bytes));
}

static void *counting_calloc(void *context, size_t count, size_t bytes)
{
    return counting.fails ? NULL : counted(counting.below.calloc(context, count, bytes));
}

static void *counting_realloc(void *context, void *block, size_t bytes)
{
    return counting.fails ? NULL : counting.below.realloc(context, block, bytes);
}

static void counting_free(void *context, void *block)
{
    __atomic_sub_fetch(&counting.live, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&counting.frees, 1, __ATOMIC_RELAXED);
    __atomic_sub_fetch(&counting.live_bytes, fh_usable_size(block), __ATOMIC_RELAXED);
    counting.below.free(context, block);
}

static void count_below(fh_domain domain)
{
    fh_get_allocator(domain, &counting.below);
    const fh_allocator allocator = {counting.below.context, counting_malloc, counting_calloc,
                                    counting_realloc, counting_free};
    CHECK(fh_set_allocator(domain, &allocator) == 0);
}

/* ---- Layout -----------------------------------------------------------------------------------
 */

static bool are_all(const unsigned char *at, size_t count, unsigned char byte)
{
    for (size_t i = 0; i < count; i++)
        if (at[i] != byte)
            return false;
    return true;
}

static uint64_t big_endian_at(const unsigned char *at)
{
    uint64_t number = 0;
    for (int i = 0; i < WORD; i++)
        number = number << 8 | at[i];
    return number;
}

static void check_block(const unsigned char *p, size_t bytes, char letter, unsigned char fill)
{
    CHECK(p != NULL && (uintptr_t)p % 16 == 0);
    CHECK(big_endian_at(p - 2 * WORD) == bytes && p[-WORD] == (unsigned char)letter);
    CHECK(are_all(p - WORD + 1, WORD - 1, FH_FORBIDDENBYTE));
    CHECK(are_all(p, bytes, fill));
    CHECK(are_all(p + bytes, WORD, FH_FORBIDDENBYTE));
}

static const size_t sizes[] = {0, 1, 7, 8, 16, 100, 488, 489, 5000, 40000, 200000};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

TEST(layout_is_cpythons_byte_for_byte)
{
    set_up(1 << 20);
    for (int i = 0; i < FH_DOMAINS; i++) {
        for (size_t j = 0; j < SIZES; j++) {
            unsigned char *block = domains[i].malloc(sizes[j]);
            check_block(block, sizes[j], domains[i].letter, FH_CLEANBYTE);
            domains[i].free(block);
            block = domains[i].calloc(sizes[j], 1);
            check_block(block, sizes[j], domains[i].letter, 0);
            domains[i].free(block);
        }
        domains[i].free(NULL);
    }
}

TEST(sizes_that_leave_no_room_are_refused)
{
    set_up(1 << 20);
    unsigned char *block = fh_obj_malloc(10);
    errno = 0;
    CHECK(fh_obj_malloc(PTRDIFF_MAX - 8) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(fh_obj_calloc(1, PTRDIFF_MAX - 8) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(fh_obj_realloc(block, PTRDIFF_MAX - 8) == NULL && errno == ENOMEM);
    check_block(block, 10, 'o', FH_CLEANBYTE);
    fh_obj_free(block);
}

static const struct calls *calls_of(const unsigned char *block)
{
    return &domains[block[-WORD] == 'r' ? 0 : block[-WORD] == 'm' ? 1 : 2];
}

static void write_and_free(unsigned number, void *shared)
{
    struct bound bound = at_most(20000);
    uint64_t random = number;
    unsigned char *kept[16] = {NULL};
    (void)shared;
    while (more(&bound)) {
        const struct calls *calls = &domains[random_below(&random, FH_DOMAINS)];
        unsigned char **at = &kept[random_below(&random, 16)];
        size_t bytes = random_below(&random, 600);
        if (*at != NULL)
            calls_of(*at)->free(*at);
        *at = calls->malloc(bytes);
        check_block(*at, bytes, calls->letter, FH_CLEANBYTE);
        memset(*at, (int)number, bytes);
        *at = calls->realloc(*at, bytes / 2 + 1);
        CHECK(are_all(*at, bytes / 2, (unsigned char)number));
    }
    for (int i = 0; i < 16; i++)
        if (kept[i] != NULL)
            calls_of(kept[i])->free(kept[i]);
}

TEST(threads_meet_under_the_hooks)
{
    set_up(1 << 14);
    together(4, write_and_free, NULL);
    fh_debug_flush();
}

static void pass_on(unsigned number, void *shared)
{
    struct bound bound = at_most(20000);
    void **hand = shared;
    while (more(&bound)) {
        unsigned char *block = fh_raw_malloc(100);
        memset(block, (int)number, 100);
        fh_raw_free(__atomic_exchange_n(hand, block, __ATOMIC_ACQ_REL));
    }
}

TEST(a_block_may_be_freed_by_another_thread)
{
    void *hand = NULL;
    set_up(1 << 14);
    together(4, pass_on, &hand);
    fh_raw_free(hand);
    fh_debug_flush();
}

/* ---- Serial numbers ---------------------------------------------------------------------------
 */

TEST(serial_numbers_follow_the_trailing_pad)
{
    configure(0, 1, 0);
    CHECK(fh_debug_serial() == 0 && fh_debug_setup() == 0);
    unsigned char *one = fh_mem_malloc(20);
    unsigned char *two = fh_obj_calloc(4, 5);
    CHECK(big_endian_at(one + 20 + WORD) == 1 && big_endian_at(two + 20 + WORD) == 2);
    check_block(one, 20, 'm', FH_CLEANBYTE);
    one = fh_mem_realloc(one, 300);
    CHECK(big_endian_at(one + 300 + WORD) == 3 && fh_debug_serial() == 3);
    CHECK(fh_debug_bump_serial() == 4 && fh_debug_serial() == 4);
    fh_mem_free(one);
    fh_obj_free(two);
}

static void take_serials(unsigned number, void *shared)
{
    uint64_t last = 0;
    (void)number;
    for (int i = 0; i < 1000; i++) {
        unsigned char *block = fh_raw_malloc(1);
        uint64_t serial = big_endian_at(block + 1 + WORD);
        CHECK(serial > last && serial <= 4000);
        last = serial;
        CHECK(!__atomic_exchange_n((bool *)shared + serial, true, __ATOMIC_RELAXED));
        fh_raw_free(block);
    }
}

TEST(serial_numbers_are_distinct_and_grow_in_each_thread)
{
    static bool seen[4001];
    configure(1 << 20, 1, 0);
    CHECK(fh_debug_setup() == 0);
    together(4, take_serials, seen);
    CHECK(fh_debug_serial() == 4000);
}

/* ---- Realloc ----------------------------------------------------------------------------------
 */

static void fill(unsigned char *block, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        block[i] = (unsigned char)(i % 251);
}

static bool is_filled(const unsigned char *block, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if (block[i] != i % 251)
            return false;
    return true;
}

static void check_realloc(size_t old, size_t bytes)
{
    size_t kept = old < bytes ? old : bytes;
    unsigned char *block = fh_mem_malloc(old);
    fill(block, old);
    block = fh_mem_realloc(block, bytes);
    CHECK(block != NULL && is_filled(block, kept));
    CHECK(are_all(block + kept, bytes - kept, FH_CLEANBYTE));
    memset(block, 7, bytes);
    check_block(block, bytes, 'm', 7);
    fh_mem_free(block);
}

static void check_all_reallocs(void)
{
    for (size_t i = 0; i < SIZES; i++) {
        for (size_t j = 0; j < SIZES; j++)
            check_realloc(sizes[i], sizes[j]);
    }
}

TEST(realloc_keeps_what_fits_and_cleans_the_rest)
{
    set_up(0);
    check_all_reallocs();
    configure(1 << 20, 0, 0);
    check_all_reallocs();
    unsigned char *block = fh_mem_realloc(NULL, 33);
    check_block(block, 33, 'm', FH_CLEANBYTE);
    fh_mem_free(block);
}

TEST(what_realloc_gives_up_is_dead)
{
    count_below(FH_DOMAIN_MEM); /* whose blocks shrink in place */
    set_up(0);
    unsigned char *block = fh_mem_malloc(480);
    fill(block, 480);
    CHECK(fh_mem_realloc(block, 300) == block && is_filled(block, 300));
    CHECK(are_all(block + 300, WORD, FH_FORBIDDENBYTE));
    CHECK(are_all(block + 300 + WORD, 180, FH_DEADBYTE));
}

TEST(a_block_that_realloc_moved_is_dead)
{
    set_up(1 << 20);
    unsigned char *block = fh_mem_malloc(480);
    fill(block, 480);
    unsigned char *moved = fh_mem_realloc(block, 481);
    CHECK(moved != block && is_filled(moved, 480));
    CHECK(are_all(block - WORD, WORD + 480 + WORD, FH_DEADBYTE));
    fh_mem_free(moved);
}

static void check_failure(size_t old, size_t bytes)
{
    unsigned char *block = fh_mem_malloc(old);
    fill(block, old);
    counting.fails = true;
    unsigned char *resized = fh_mem_realloc(block, bytes);
    counting.fails = false;
    CHECK(resized == (bytes <= old ? block : NULL));
    size_t now = bytes <= old ? bytes : old;
    CHECK(big_endian_at(block - 2 * WORD) == now && is_filled(block, now));
    CHECK(are_all(block + now, WORD, FH_FORBIDDENBYTE));
    fh_mem_free(block);
}

TEST(a_realloc_that_fails_leaves_all_as_it_was)
{
    count_below(FH_DOMAIN_MEM);
    set_up(0);
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < SIZES; i++) {
            check_failure(sizes[i], sizes[i] + 1);
            check_failure(sizes[i], sizes[i] + 100000);
            check_failure(sizes[i], sizes[i] / 2);
        }
        configure(1 << 20, 0, 0);
    }
    counting.fails = true;
    CHECK(fh_mem_malloc(1) == NULL && fh_mem_calloc(1, 1) == NULL);
}

/* ---- Pointers in freed memory -----------------------------------------------------------------
 */

static const void *pointer_at(const void *memory)
{
    const void *pointer;
    memcpy(&pointer, memory, sizeof pointer);
    return pointer;
}

TEST(null_is_freed)
{
    CHECK(fh_debug_is_ptr_freed(NULL) == 1);
    CHECK(fh_debug_is_ptr_freed(&counting) == 0);
    CHECK(fh_debug_is_ptr_freed((const void *)(uintptr_t)UINT64_C(0xcdcdcdcdcdcdcddd)) == 0);
}

TEST(uninitialized_is_freed)
{
    set_up(0);
    CHECK(fh_debug_is_ptr_freed(pointer_at(fh_obj_malloc(sizeof(void *)))) == 1);
}

TEST(forbidden_bytes_is_freed)
{
    set_up(0);
    CHECK(fh_debug_is_ptr_freed(pointer_at((char *)fh_obj_malloc(5) + 5)) == 1);
}

TEST(freed_is_freed)
{
    set_up(1 << 20);
    void *block = fh_obj_calloc(1, sizeof(void *));
    memcpy(block, &(void *){&counting}, sizeof(void *));
    CHECK(fh_debug_is_ptr_freed(pointer_at(block)) == 0);
    fh_obj_free(block);
    CHECK(fh_debug_is_ptr_freed(pointer_at(block)) == 1);
}

/* ---- Reports ----------------------------------------------------------------------------------
 */

/* What `tell` writes to stderr in a child, which must end by abort() if it is to die. */
static void hear(void (*tell)(char *block), char *block, char *text, bool dies)
{
    int ends[2], status = 0;
    size_t used = 0;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        alarm(30);
        dup2(ends[1], STDERR_FILENO);
        tell(block);
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t got = 1; got > 0 && used < TEXT_BYTES - 1; used += (size_t)got) {
        got = read(ends[0], text + used, TEXT_BYTES - 1 - used);
        CHECK(got >= 0);
    }
    text[used] = '\0';
    drop_emulators_line(text);
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    close(ends[0]);
    CHECK(dies ? WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT
               : WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* `pattern` with p for @P and p + bytes for @T. */
static void expand(const char *pattern, const char *block, size_t bytes, char *out)
{
    char *end = out + TEXT_BYTES - 32;
    for (; *pattern != '\0' && out < end; pattern++) {
        if (*pattern != '@')
            *out++ = *pattern;
        else
            out += sprintf(out, "%p", (const void *)(block + (*++pattern == 'T' ? bytes : 0)));
    }
    *out = '\0';
}

static void check_text(const char *text, const char *pattern, const char *block, size_t bytes)
{
    char expected[TEXT_BYTES];
    expand(pattern, block, bytes, expected);
    if (strcmp(text, expected) != 0)
        fprintf(stderr, "expected:\n%sgot:\n%s", expected, text);
    CHECK(strcmp(text, expected) == 0);
}

static void check_report(void (*tell)(char *block), char *block, size_t bytes, const char *pattern)
{
    char text[TEXT_BYTES];
    hear(tell, block, text, true);
    check_text(text, pattern, block, bytes);
}

#define REQUESTED(letter, bytes)                                                                   \
    "Debug memory block at address p=@P: API '" letter "'\n"                                       \
    "    " bytes " bytes originally requested\n"
#define LEADING_GOOD  "    The 7 pad bytes at p-7 are FORBIDDENBYTE, as expected.\n"
#define TRAILING_GOOD "    The 8 pad bytes at tail=@T are FORBIDDENBYTE, as expected.\n"
#define NOT_TRACED    "\nEnable tracemalloc to get the memory block allocation traceback\n\n"
#define DATA_OF_16    "    Data at p: cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd cd\n"
#define OVERFLOWN                                                                                  \
    REQUESTED("m", "16")                                                                           \
    LEADING_GOOD                                                                                   \
    "    The 8 pad bytes at tail=@T are not all FORBIDDENBYTE (0xfd):\n"                           \
    "        at tail+0: 0x78 *** OUCH\n"                                                           \
    "        at tail+1: 0xfd\n"                                                                    \
    "        at tail+2: 0xfd\n"                                                                    \
    "        at tail+3: 0xfd\n"                                                                    \
    "        at tail+4: 0xfd\n"                                                                    \
    "        at tail+5: 0xfd\n"                                                                    \
    "        at tail+6: 0xfd\n"                                                                    \
    "        at tail+7: 0xfd\n" DATA_OF_16

static void overflow(char *block)
{
    block[16] = 'x';
    fh_mem_free(block);
}

TEST(buffer_overflow)
{
    set_up(1 << 20);
    check_report(overflow, fh_mem_malloc(16), 16,
                 OVERFLOWN NOT_TRACED
                 "Fatal Freehold error: _PyMem_DebugRawFree: bad trailing pad byte\n");
    CHECK(fh_debug_set_fatal_handler(NULL, NULL, "Fatal Python error") == 0);
    check_report(overflow, fh_mem_malloc(16), 16,
                 OVERFLOWN NOT_TRACED
                 "Fatal Python error: _PyMem_DebugRawFree: bad trailing pad byte\n");
}

static void underflow(char *block)
{
    block[-3] = 'A';
    block = fh_mem_realloc(block, 60);
}

TEST(buffer_underflow)
{
    set_up(0);
    check_report(
        underflow, fh_mem_malloc(40), 40,
        REQUESTED(
            "m",
            "40") "    The 7 pad bytes at p-7 are not all FORBIDDENBYTE (0xfd):\n"
                  "        at p-7: 0xfd\n"
                  "        at p-6: 0xfd\n"
                  "        at p-5: 0xfd\n"
                  "        at p-4: 0xfd\n"
                  "        at p-3: 0x41 *** OUCH\n"
                  "        at p-2: 0xfd\n"
                  "        at p-1: 0xfd\n"
                  "    Because memory is corrupted at the start, the count of bytes requested\n"
                  "       may be bogus, and checking the trailing pad bytes may "
                  "segfault.\n" TRAILING_GOOD
                  "    Data at p: cd cd cd cd cd cd cd cd ... cd cd cd cd cd cd cd cd\n" NOT_TRACED
                  "Fatal Freehold error: _PyMem_DebugRawRealloc: bad leading pad byte\n");
}

static void misuse(char *block)
{
    fh_raw_free(block);
}

TEST(api_misuse)
{
    set_up(1 << 20);
    check_report(misuse, fh_mem_malloc(16), 16,
                 REQUESTED("m", "16") LEADING_GOOD TRAILING_GOOD DATA_OF_16 NOT_TRACED
                 "Fatal Freehold error: _PyMem_DebugRawFree: bad ID: Allocated using API 'm', "
                 "verified using API 'r'\n");
    check_report(misuse, fh_obj_malloc(0), 0,
                 REQUESTED("o", "0") LEADING_GOOD TRAILING_GOOD NOT_TRACED
                 "Fatal Freehold error: _PyMem_DebugRawFree: bad ID: Allocated using API 'o', "
                 "verified using API 'r'\n");
}

TEST(a_report_has_the_serial_number)
{
    configure(0, 1, 0);
    CHECK(fh_debug_setup() == 0);
    for (int i = 0; i < 41; i++)
        fh_mem_free(fh_mem_malloc(1));
    char *block = fh_mem_malloc(9);
    check_report(misuse, block, 9,
                 REQUESTED("m", "9") LEADING_GOOD TRAILING_GOOD
                 "    The block was made by call #42 to debug malloc/realloc.\n"
                 "    Data at p: cd cd cd cd cd cd cd cd cd\n" NOT_TRACED
                 "Fatal Freehold error: _PyMem_DebugRawFree: bad ID: Allocated using API 'm', "
                 "verified using API 'r'\n");
}

static void spoil_count(char *block)
{
    block[-15] = 'A';
    fh_mem_free(block);
}

TEST(a_count_that_cannot_be_is_not_followed)
{
    set_up(0);
    check_report(spoil_count, fh_mem_malloc(256), 256,
                 REQUESTED("m", "18295873486192896") LEADING_GOOD
                 "    That is more than the block has: the rest is not looked at.\n" NOT_TRACED
                 "Fatal Freehold error: _PyMem_DebugRawFree: bad count of bytes requested\n");
}

/* ---- Freed twice, used after it was freed -----------------------------------------------------
 */

static void free_twice(char *block)
{
    fh_obj_free(block);
    fh_obj_free(block);
}

static void resize_freed(char *block)
{
    fh_obj_free(block);
    block = fh_obj_realloc(block, 1);
}

#define FREED(letter, bytes)                                                                       \
    "Debug memory block at address p=@P: API '" letter "', freed\n"                                \
    "    " bytes " bytes originally requested\n"

TEST(double_free)
{
    set_up(1 << 20);
    check_report(free_twice, fh_obj_malloc(24), 24,
                 FREED("o", "24") NOT_TRACED
                 "Fatal Freehold error: _PyMem_DebugRawFree: block was freed already\n");
    check_report(resize_freed, fh_obj_malloc(24), 24,
                 FREED("o", "24") NOT_TRACED
                 "Fatal Freehold error: _PyMem_DebugRawRealloc: block was freed already\n");
}

TEST(double_free_without_quarantine)
{
    set_up(0);
    check_report(free_twice, fh_obj_malloc(24), 24,
                 "Debug memory block at address p=@P: freed\n" NOT_TRACED
                 "Fatal Freehold error: _PyMem_DebugRawFree: block was freed already\n");
}

static void free_twice_large(char *block)
{
    fh_obj_free(block);
    fh_trim();
    fh_obj_free(block);
}

static void resize_twice_large(char *block)
{
    fh_mem_free(block);
    fh_trim();
    block = fh_mem_realloc(block, 1);
}

#define NOT_READ                                                                                   \
    "Debug memory block at address p=@P:\n"                                                        \
    "    It is not read: no block of the hooks is known here.\n"

#define GONE(call)                                                                                 \
    NOT_READ NOT_TRACED                                                                            \
        "Fatal Freehold error: _PyMem_DebugRaw" call                                               \
        ": not a live block of this domain (freed twice, or its heap destroyed?)\n"

TEST(double_free_of_a_block_whose_pools_went_back)
{
    count_below(FH_DOMAIN_OBJ);
    set_up(0);
    for (int i = 0; i < 2; i++) /* of another allocator, and of Freehold's own */
        check_report(i == 0 ? free_twice_large : resize_twice_large,
                     i == 0 ? fh_obj_malloc(200000) : fh_mem_malloc(200000), 0,
                     i == 0 ? GONE("Free") : GONE("Realloc"));
}

static unsigned arrived;

/* As near to the same instant as threads come. */
static void free_at_once(unsigned number, void *shared)
{
    (void)number;
    __atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL);
    for (struct bound bound = at_most(SIZE_MAX);
         __atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < 2 && more(&bound);)
        ;
    fh_obj_free(shared);
}

static void free_on_threads(char *block)
{
    together(2, free_at_once, block);
}

TEST(of_threads_that_free_one_block_at_once_one_is_named)
{
    char text[TEXT_BYTES];
    if (MODULES_SHADOWED)
        modules_skip("a sanitizer reports the race first");
    set_up(1 << 20);
    struct bound bound = at_most(1000);
    while (more(&bound)) {
        hear(free_on_threads, fh_obj_malloc(100), text, true);
        CHECK(strstr(text, "Fatal Freehold error: _PyMem_DebugRawFree: ") != NULL);
    }
}

static void write_freed(char *block)
{
    fh_obj_free(block);
    block[11] = 'x';
    fh_debug_flush();
}

static void write_freed_head(char *block)
{
    fh_obj_free(block);
    block[-1] = 'x';
    for (int i = 0; i < 20000; i++)
        fh_obj_free(fh_obj_malloc(100));
}

static int written; /* which byte of the head */

static void write_freed_count(char *block)
{
    fh_obj_free(block);
    block[written] = 'x';
    fh_debug_flush();
}

TEST(use_after_free)
{
    set_up(1 << 20);
    check_report(
        write_freed, fh_obj_malloc(12), 12,
        FREED("o",
              "12") "    Not all of its bytes are DEADBYTE (0xdd) any more:\n"
                    "        at p+11: 0x78 *** OUCH\n"
                    "    Data at p: dd dd dd dd dd dd dd dd dd dd dd 78\n" NOT_TRACED
                    "Fatal Freehold error: _PyMem_DebugRawFree: written to after it was freed\n");
    check_report(
        write_freed_head, fh_obj_malloc(3), 3,
        FREED("o",
              "3") "    Not all of its bytes are DEADBYTE (0xdd) any more:\n"
                   "        at p-1: 0x78 *** OUCH\n"
                   "    Data at p: dd dd dd\n" NOT_TRACED
                   "Fatal Freehold error: _PyMem_DebugRawFree: written to after it was freed\n");
    for (written = -16; written <= -12; written++)
        check_report(write_freed_count, fh_obj_malloc(3), 3,
                     "Debug memory block at address p=@P: API 'o', freed\n"
                     "    The 8 bytes at p-16, which kept its size, were written to.\n" NOT_TRACED
                     "Fatal Freehold error: _PyMem_DebugRawFree: written to after it was freed\n");
}

/* ---- Pointers that are none -------------------------------------------------------------------
 */

static void free_it(char *block)
{
    fh_mem_free(block);
}

TEST(a_foreign_pointer_is_named_and_not_read)
{
    static char foreign[64];
    char *unmapped = (char *)(uintptr_t)0x123450; /* to read it would be SIGSEGV */
    fh_mem_free(fh_mem_malloc(1));
    set_up(1 << 20);
    char *addresses[] = {foreign + 32 - (uintptr_t)foreign % 16, unmapped};
    for (int i = 0; i < 2; i++)
        check_report(free_it, addresses[i], 0,
                     NOT_READ NOT_TRACED "Fatal Freehold error: _PyMem_DebugRawFree: "
                                         "foreign pointer: not memory of this allocator\n");
}

TEST(an_address_inside_a_block_is_named)
{
    set_up(1 << 20);
    char *block = fh_mem_malloc(100);
    check_report(free_it, block + 8, 0,
                 NOT_READ NOT_TRACED
                 "Fatal Freehold error: _PyMem_DebugRawFree: not the address of a block\n");
    char text[TEXT_BYTES];
    hear(free_it, block + 16, text, true);
    CHECK(strstr(text, "bad ID: Allocated using API '") != NULL);
}

/* ---- The interpreter's lock, tracebacks, the end ----------------------------------------------
 */

static int says(void *context)
{
    return *(const int *)context;
}

static int held;

static void malloc_unheld(char *unused)
{
    (void)unused;
    fh_mem_malloc(10);
}

static void obj_free_unheld(char *block)
{
    fh_obj_free(block);
}

#define UNHELD(function)                                                                           \
    "Fatal Freehold error: " function ": Python memory allocator called without holding the GIL\n"

TEST(malloc_without_gil)
{
    set_up(1 << 20);
    held = 1;
    CHECK(fh_debug_set_gil_check(FH_DOMAIN_MEM, says, &held) == 0);
    CHECK(fh_debug_set_gil_check(FH_DOMAIN_OBJ, says, &held) == 0);
    char *block = fh_obj_malloc(1);
    fh_mem_free(fh_mem_realloc(fh_mem_calloc(1, 1), 2));
    held = 0;
    check_report(malloc_unheld, NULL, 0, UNHELD("_PyMem_DebugMalloc"));
    check_report(obj_free_unheld, block, 1, UNHELD("_PyMem_DebugFree"));
    fh_raw_free(fh_raw_malloc(1)); /* never asks */
    errno = 0;
    CHECK(fh_debug_set_gil_check(FH_DOMAIN_RAW, says, &held) == -1 && errno == EINVAL);
    CHECK(fh_debug_set_gil_check(FH_DOMAIN_MEM, NULL, NULL) == 0);
    fh_mem_free(fh_mem_malloc(1));
}

static int trace(void *context, const void *block, int fd)
{
    static const char line[] = "Memory block allocated at (most recent call first):\n\n";
    const int *answer = context;
    CHECK(block != NULL && (*answer != 1 || write(fd, line, sizeof line - 1) > 0));
    return *answer;
}

TEST(a_report_has_the_traceback_if_there_is_one)
{
    static int answer;
    const char *texts[] = {"\nEnable tracemalloc to get the memory block allocation traceback\n\n",
                           "\n", "\nMemory block allocated at (most recent call first):\n\n"};
    set_up(1 << 20);
    CHECK(fh_debug_set_traceback(trace, &answer) == 0);
    for (answer = -1; answer <= 1; answer++) {
        char pattern[TEXT_BYTES] = OVERFLOWN;
        strcat(pattern, texts[answer + 1]);
        strcat(pattern, "Fatal Freehold error: _PyMem_DebugRawFree: bad trailing pad byte\n");
        check_report(overflow, fh_mem_malloc(16), 16, pattern);
    }
    CHECK(fh_debug_set_traceback(NULL, NULL) == 0);
}

static void handle(void *context, const char *function, const char *message)
{
    dprintf(STDERR_FILENO, "%s|%s|%s\n", (const char *)context, function, message);
}

TEST(a_handler_has_the_last_word)
{
    set_up(1 << 20);
    CHECK(fh_debug_set_fatal_handler(handle, "mine", NULL) == 0);
    check_report(overflow, fh_mem_malloc(16), 16,
                 OVERFLOWN NOT_TRACED "mine|_PyMem_DebugRawFree|bad trailing pad byte\n");
}

/* ---- dump_address -----------------------------------------------------------------------------
 */

static void dump(char *block)
{
    errno = EXDEV;
    fh_debug_dump_address(STDERR_FILENO, block);
    CHECK(errno == EXDEV);
}

TEST(dump_address_describes_a_good_block)
{
    char text[TEXT_BYTES];
    set_up(1 << 20);
    char *block = fh_obj_malloc(17);
    hear(dump, block, text, false);
    check_text(text,
               REQUESTED("o", "17") LEADING_GOOD TRAILING_GOOD
               "    Data at p: cd cd cd cd cd cd cd cd ... cd cd cd cd cd cd cd cd\n" NOT_TRACED,
               block, 17);
    hear(dump, NULL, text, false);
    CHECK(strcmp(text, "Debug memory block at address p=(nil):\n") == 0);
    hear(dump, (char *)(uintptr_t)0x123450, text, false);
    check_text(text, NOT_READ NOT_TRACED, (char *)(uintptr_t)0x123450, 0);
}

/* ---- CPython itself ---------------------------------------------------------------------------
 */

/* The addresses in it become @, and what follows the line of the error is cut off. */
static void normalise(char *text)
{
    char *to = text;
    for (const char *from = text; *from != '\0';) {
        bool is_address = strncmp(from, "0x", 2) == 0 && strspn(from + 2, "0123456789abcdef") > 2;
        *to++ = is_address ? '@' : *from;
        from += is_address ? 2 + strspn(from + 2, "0123456789abcdef") : 1;
    }
    *to = '\0';
    char *last = strstr(text, "Fatal Python error: ");
    if (last != NULL && strchr(last, '\n') != NULL)
        strchr(last, '\n')[1] = '\0';
}

static bool ask_python(const char *function, char *text)
{
    char command[256];
    snprintf(command, sizeof command,
             "ulimit -c 0; PYTHONMALLOC=debug LD_PRELOAD= python3 -c "
             "'import _testcapi; _testcapi.%s()' 2>&1",
             function);
    FILE *output = popen(command, "r");
    CHECK(output != NULL);
    text[fread(text, 1, TEXT_BYTES - 1, output)] = '\0';
    pclose(output);
    normalise(text);
    return strstr(text, "Fatal Python error: ") != NULL;
}

TEST(texts_are_those_that_python_writes_here)
{
    char pythons[TEXT_BYTES], ours[TEXT_BYTES];
    if (!ask_python("pymem_buffer_overflow", pythons))
        modules_skip("no python3 with _testcapi");
    set_up(1 << 20);
    CHECK(fh_debug_set_fatal_handler(NULL, NULL, "Fatal Python error") == 0);
    hear(overflow, fh_mem_malloc(16), ours, true);
    normalise(ours);
    CHECK(strcmp(ours, pythons) == 0);
    CHECK(ask_python("pymem_api_misuse", pythons));
    hear(misuse, fh_mem_malloc(16), ours, true);
    normalise(ours);
    CHECK(strcmp(ours, pythons) == 0);
    held = 0;
    CHECK(fh_debug_set_gil_check(FH_DOMAIN_MEM, says, &held) == 0);
    CHECK(ask_python("pymem_malloc_without_gil", pythons));
    hear(malloc_unheld, NULL, ours, true);
    CHECK(strcmp(ours, pythons) == 0);
}

/* ---- Quarantine -------------------------------------------------------------------------------
 */

TEST(quarantine_is_bounded_in_bytes_and_holds_the_last_blocks)
{
    enum { BYTES = 1 << 14, BLOCK = 200, TOTAL = BLOCK + 24 };
    count_below(FH_DOMAIN_MEM);
    set_up(BYTES);
    unsigned char *blocks[1000];
    for (int i = 0; i < 1000; i++)
        blocks[i] = fh_mem_malloc(BLOCK);
    for (int i = 0; i < 1000; i++) {
        fh_mem_free(blocks[i]);
        size_t here = (size_t)i + 1 - counting.frees;
        CHECK(here * TOTAL <= BYTES && (here == (size_t)i + 1 || here * 256 == BYTES));
    }
    for (int i = 1000 - BYTES / 256; i < 1000; i++)
        CHECK(blocks[i][-16] == FH_DEADBYTE && blocks[i][-15] == 'm' && blocks[i][-9] == BLOCK);
    CHECK(fh_debug_flush() == BYTES / 256 * TOTAL && counting.live == 0);
    CHECK(fh_debug_flush() == 0);
}

TEST(quarantine_takes_no_block_above_an_eighth)
{
    count_below(FH_DOMAIN_MEM);
    set_up(1 << 14);
    fh_mem_free(fh_mem_malloc((1 << 11) - 24));
    CHECK(counting.frees == 0);
    fh_mem_free(fh_mem_malloc((1 << 11) - 23));
    CHECK(counting.frees == 1);
    configure(2047, 0, 0);
    CHECK(counting.frees == 2);
    fh_mem_free(fh_mem_malloc(1));
    CHECK(counting.frees == 3);
    configure(SIZE_MAX, 0, 0);
    fh_mem_free(fh_mem_malloc(1 << 20));
    CHECK(counting.frees == 3);
    configure(0, 0, 0);
    CHECK(counting.frees == 4 && counting.live == 0);
}

TEST(sizes_of_all_kinds_stay_within_the_quarantine)
{
    uint64_t random = 1;
    count_below(FH_DOMAIN_MEM);
    set_up(1 << 16);
    struct bound bound = at_most(20000);
    while (more(&bound)) {
        fh_mem_free(fh_mem_malloc(random_below(&random, (1 << 13) - 24)));
        CHECK(counting.live_bytes <= 2 << 16); /* usable bytes: the classes round up */
    }
    fh_debug_flush();
    CHECK(counting.live == 0);
}

TEST(memory_in_quarantine_is_there_when_no_other_is)
{
    enum { BYTES = 64 << 20, BLOCK = 1 << 20 };
    struct rlimit limit = {BYTES, BYTES};
    if (MODULES_SHADOWED)
        modules_skip("a sanitizer needs more memory than the limit");
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    set_up((size_t)1 << 30);
    for (int i = 0; i < 2 * BYTES / BLOCK; i++) {
        void *block = fh_mem_malloc(BLOCK);
        CHECK(block != NULL);
        fh_mem_free(block);
    }
    CHECK(fh_debug_flush() > 0);
}

static char *racing[3];

static void begin_race(void)
{
    for (int i = 0; i < 3; i++)
        racing[i] = fh_mem_malloc(100);
    fh_mem_free(racing[0]);
}

static void free_one(void)
{
    fh_mem_free(racing[1]);
}

static void free_other(void)
{
    fh_mem_free(racing[2]);
    fh_debug_flush();
}

static void check_race(void)
{
    fh_debug_flush();
    CHECK(counting.live == 0);
}

TEST(a_put_that_is_interrupted_loses_no_block)
{
    count_below(FH_DOMAIN_MEM);
    set_up(2048);
    at_every_point(begin_race, free_one, free_other, check_race);
    at_every_point(begin_race, free_other, free_one, check_race);
}

static void churn(unsigned number, void *shared)
{
    struct bound bound = at_most(20000);
    uint64_t random = number;
    (void)shared;
    while (more(&bound))
        fh_mem_free(fh_mem_malloc(random_below(&random, 200)));
}

TEST(threads_share_the_quarantine)
{
    count_below(FH_DOMAIN_MEM);
    set_up(1 << 12);
    together(4, churn, NULL);
    CHECK(counting.live_bytes <= 2 << 12);
    fh_debug_flush();
    CHECK(counting.live == 0);
}

/* ---- On, off, on top of what ------------------------------------------------------------------
 */

TEST(setup_is_idempotent)
{
    fh_allocator once, twice;
    CHECK(!fh_debug_is_enabled());
    set_up(1 << 20);
    fh_get_allocator(FH_DOMAIN_OBJ, &once);
    CHECK(fh_debug_setup() == 0 && fh_debug_is_enabled());
    fh_get_allocator(FH_DOMAIN_OBJ, &twice);
    CHECK(memcmp(&once, &twice, sizeof once) == 0);
    count_below(FH_DOMAIN_OBJ); /* now the hooks are below */
    fh_get_allocator(FH_DOMAIN_OBJ, &once);
    CHECK(fh_debug_setup() == 0);
    fh_get_allocator(FH_DOMAIN_OBJ, &twice);
    CHECK(memcmp(&once, &twice, sizeof once) == 0);
}

TEST(an_allocator_that_replaced_the_hooks_is_wrapped_again)
{
    fh_allocator plain, hooks, again;
    fh_get_allocator(FH_DOMAIN_OBJ, &plain);
    set_up(1 << 20);
    fh_get_allocator(FH_DOMAIN_OBJ, &hooks);
    for (int i = 0; i < 100; i++) {
        CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &plain) == 0 && fh_debug_setup() == 0);
        fh_get_allocator(FH_DOMAIN_OBJ, &again);
        CHECK(memcmp(&hooks, &again, sizeof hooks) == 0);
    }
}

TEST(too_many_different_allocators_are_refused)
{
    fh_allocator plain;
    fh_get_allocator(FH_DOMAIN_OBJ, &plain);
    int wrapped = 0;
    for (char context[FH_DEBUG_WRAPS_MAX + 1]; wrapped <= FH_DEBUG_WRAPS_MAX; wrapped++) {
        plain.context = context + wrapped;
        CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &plain) == 0);
        errno = 0;
        if (fh_debug_setup() != 0)
            break;
    }
    CHECK(errno == ENOMEM && wrapped == FH_DEBUG_WRAPS_MAX - 2);
}

TEST(blocks_from_before_the_hooks_are_freed_as_what_they_are)
{
    unsigned char *blocks[SIZES], *resized[SIZES];
    for (size_t i = 0; i < SIZES; i++) {
        blocks[i] = fh_mem_malloc(sizes[i]);
        resized[i] = fh_mem_malloc(sizes[i]);
        fill(resized[i], sizes[i]);
    }
    set_up(1 << 20);
    for (size_t i = 0; i < SIZES; i++) {
        fh_mem_free(blocks[i]);
        resized[i] = fh_mem_realloc(resized[i], sizes[i] + 5);
        CHECK(is_filled(resized[i], sizes[i]) && big_endian_at(resized[i] - 16) == sizes[i] + 5);
        fh_mem_free(resized[i]);
    }
}

TEST(strict_names_blocks_that_the_hooks_did_not_make)
{
    char *before = fh_mem_malloc(100);
    configure(0, 0, 1);
    CHECK(fh_debug_setup() == 0);
    check_report(free_it, before, 0,
                 NOT_READ NOT_TRACED "Fatal Freehold error: _PyMem_DebugRawFree: "
                                     "block was not made by the debug hooks\n");
}

TEST(teardown_knows_its_blocks)
{
    unsigned char *kept[SIZES], *bare[SIZES];
    set_up(1 << 20);
    for (size_t i = 0; i < SIZES; i++)
        kept[i] = fh_obj_malloc(sizes[i]);
    CHECK(fh_debug_teardown() == 0 && !fh_debug_is_enabled() && fh_debug_teardown() == 0);
    for (size_t i = 0; i < SIZES; i++) {
        fill(kept[i], sizes[i]);
        bare[i] = fh_obj_malloc(sizes[i]);
        kept[i] = fh_obj_realloc(kept[i], sizes[i] + 1);
        CHECK(is_filled(kept[i], sizes[i]));
        bare[i] = fh_obj_realloc(bare[i], 2 * sizes[i]);
    }
    CHECK(fh_debug_setup() == 0 && fh_debug_is_enabled());
    check_block(fh_obj_malloc(9), 9, 'o', FH_CLEANBYTE);
    for (size_t i = 0; i < SIZES; i++) {
        fh_obj_free(kept[i]);
        fh_obj_free(bare[i]);
    }
}

static void switch_and_use(unsigned number, void *shared)
{
    struct bound bound = at_most(5000);
    uint64_t random = number;
    unsigned char *kept[16] = {NULL};
    (void)shared;
    for (unsigned i = number; more(&bound); i++) {
        unsigned char **at = &kept[random_below(&random, 16)];
        size_t bytes = random_below(&random, 300);
        CHECK(number != 0 || (i / 16 % 2 == 0 ? fh_debug_setup() : fh_debug_teardown()) == 0);
        fh_obj_free(*at);
        *at = fh_obj_malloc(bytes);
        fill(*at, bytes);
        *at = fh_obj_realloc(*at, 2 * bytes);
        CHECK(is_filled(*at, bytes));
    }
    for (int i = 0; i < 16; i++)
        fh_obj_free(kept[i]);
}

TEST(the_hooks_go_on_and_off_while_threads_allocate)
{
    configure(1 << 14, 0, 0);
    together(4, switch_and_use, NULL);
}

static void set_up_and_use(unsigned number, void *shared)
{
    (void)number, (void)shared;
    CHECK(fh_debug_setup() == 0);
    for (int i = 0; i < FH_DOMAINS; i++) {
        unsigned char *block = domains[i].malloc(30);
        check_block(block, 30, domains[i].letter, FH_CLEANBYTE);
        domains[i].free(block);
    }
}

TEST(threads_may_set_up_at_once)
{
    together(4, set_up_and_use, NULL);
    set_up_and_use(0, NULL);
}

static void plug_and_use(unsigned number, void *shared)
{
    (void)shared;
    for (int i = 0; i < 1000; i++) {
        if (number == 0)
            CHECK(fh_debug_set_gil_check(FH_DOMAIN_MEM, says, &held) == 0);
        fh_mem_free(fh_mem_malloc(10));
    }
}

TEST(a_check_may_be_plugged_in_while_threads_allocate)
{
    held = 1;
    set_up(1 << 14);
    together(4, plug_and_use, NULL);
}

TEST(a_block_made_under_the_hooks_is_checked_after_teardown)
{
    set_up(1 << 20);
    char *block = fh_mem_malloc(16);
    CHECK(fh_debug_teardown() == 0);
    check_report(overflow, block, 16,
                 OVERFLOWN NOT_TRACED
                 "Fatal Freehold error: _PyMem_DebugRawFree: bad trailing pad byte\n");
    fh_mem_free(block);
}

TEST(teardown_is_refused_over_another_allocator)
{
    count_below(FH_DOMAIN_MEM);
    set_up(1 << 20);
    errno = 0;
    CHECK(fh_debug_teardown() == -1 && errno == EBUSY && fh_debug_is_enabled());
}

TEST(another_allocators_memory_is_no_foreign_pointer)
{
    static _Alignas(16) char memory[64] = {[15] = 1};
    memcpy(memory, "\0\0\0\0\0\0\0\x10m\xfd\xfd\xfd\xfd\xfd\xfd\xfd", 16);
    memset(memory + 32, FH_FORBIDDENBYTE, 8);
    char text[TEXT_BYTES];
    count_below(FH_DOMAIN_MEM);
    set_up(1 << 20);
    hear(dump, memory + 16, text, false);
    CHECK(strstr(text, "16 bytes originally requested\n") != NULL);
}

TEST(configure_refuses_what_cannot_be)
{
    fh_debug_config config = {.struct_bytes = 0};
    errno = 0;
    CHECK(fh_debug_configure(&config) == -1 && errno == EINVAL);
    CHECK(fh_debug_configure(NULL) == -1);
    set_up(1 << 20);
    config = (fh_debug_config){sizeof config, 1 << 20, 1, 0};
    errno = 0;
    CHECK(fh_debug_configure(&config) == -1 && errno == EBUSY);
    config.serial_numbers = 0;
    CHECK(fh_debug_configure(&config) == 0);
}

TEST(aligned_blocks_of_little_alignment_have_the_layout)
{
    set_up(1 << 20);
    unsigned char *block = fh_aligned_alloc(FH_DOMAIN_MEM, 16, 50);
    check_block(block, 50, 'm', FH_CLEANBYTE);
    fh_mem_free(block);
}
