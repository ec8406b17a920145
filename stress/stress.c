/* SPDX-License-Identifier: MIT */
/* The storms' common part; see stress.h. */
#include "stress.h"

#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ANOMALIES_SHOWN = 20, STACK_BYTES = 256 * KIB };

struct stress *stress;
const char *stress_program;
const char *stress_event_name = "events";
uint64_t stress_seed;
uint64_t stress_count;
atomic_bool stress_endless;
const char *const inside_names[INSIDE_COUNT] = {"no call",       "malloc",  "calloc",
                                                "aligned_alloc", "realloc", "free"};
_Thread_local volatile sig_atomic_t stress_inside, stress_below;
_Thread_local struct hand *stress_hand;
atomic_bool stress_scarce;

/* By system call: in the limits storm the program's own mmap() fails at times. */
static void *try_map_zeros(size_t bytes)
{
    long start = syscall(SYS_mmap, NULL, bytes, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == -1 ? NULL : (void *)start;
}

static void *map_zeros(size_t bytes)
{
    void *start = try_map_zeros(bytes);
    if (start != NULL)
        return start;
    anomaly("the storm itself has no memory: %s", strerror(errno));
    _exit(2);
}

/* ---- Anomalies --------------------------------------------------------------------------------
 */

void anomaly(const char *format, ...)
{
    char text[400];
    int saved_errno = errno;
    uint64_t before = atomic_fetch_add(&stress->anomalies, 1);
    int length = snprintf(text, sizeof(text), "\nANOMALY ");
    va_list arguments;
    va_start(arguments, format);
    length += vsnprintf(text + length, sizeof(text) - (size_t)length - 1, format, arguments);
    va_end(arguments);
    if ((size_t)length > sizeof(text) - 2)
        length = sizeof(text) - 2;
    text[length++] = '\n';
    if (write(STDERR_FILENO, text, (size_t)length) < 0)
        _exit(2);
    if (before + 1 >= ANOMALIES_SHOWN)
        _exit(1);
    errno = saved_errno;
}

/* ---- Random numbers ---------------------------------------------------------------------------
 */

static uint64_t mix(uint64_t value)
{
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

struct random random_of(uint64_t stream)
{
    return (struct random){mix(stress_seed ^ mix(stream + 1))};
}

uint64_t random_next(struct random *random)
{
    random->state += 0x9e3779b97f4a7c15u;
    return mix(random->state);
}

size_t random_below(struct random *random, size_t limit)
{
    return (size_t)(random_next(random) % limit);
}

size_t random_bytes(struct random *random, size_t max)
{
    unsigned shifts = 64u - (unsigned)__builtin_clzll(max | 1);
    size_t bytes = (size_t)1 << random_below(random, shifts);
    bytes += random_below(random, bytes);
    return bytes < max ? bytes : max;
}

/* ---- The shadow map: a bit for every 8 bytes of address space that a card holds ----------------
 */

enum {
    GRANULE_SHIFT = 3,
    WORD_SHIFT = GRANULE_SHIFT + 6, /* one word's bits: 512 bytes */
    LEAF_SHIFT = 30,
    LEAF_WORDS = 1 << (LEAF_SHIFT - WORD_SHIFT),
    ROOT_ENTRIES = 1 << (47 - LEAF_SHIFT),
    LEAVES_MAX = 256, /* fewer where address space is short */
    LEAVES_MIN = 8,   /* and so few under a limit: most is for the allocator */
};

typedef _Atomic uint64_t shadow_word;

static _Atomic(shadow_word *) *shadow_root;
static shadow_word *shadow_leaves; /* a leaf that lost a race stays unused */
static unsigned shadow_leaf_count = LEAVES_MAX;
static atomic_uint shadow_leaves_used;

static shadow_word *leaf_of(uintptr_t address)
{
    _Atomic(shadow_word *) *entry = &shadow_root[address >> LEAF_SHIFT];
    shadow_word *leaf = atomic_load(entry);
    if (leaf != NULL)
        return leaf;
    unsigned index = atomic_fetch_add(&shadow_leaves_used, 1);
    if (index >= shadow_leaf_count) {
        anomaly("blocks lie in more than %u GiB: the shadow map is full", shadow_leaf_count);
        _exit(2);
    }
    shadow_word *mine = shadow_leaves + (size_t)index * LEAF_WORDS;
    return atomic_compare_exchange_strong(entry, &leaf, mine) ? mine : leaf;
}

static uint64_t bits_from_to(unsigned first, unsigned end)
{
    uint64_t below_end = end == 64 ? UINT64_MAX : ((uint64_t)1 << end) - 1;
    return below_end & (UINT64_MAX << first);
}

/* Turn the bits of a block on or off. True if all were the other way before. */
static bool shadow_turn(uintptr_t start, size_t bytes, bool on)
{
    uintptr_t first = start >> GRANULE_SHIFT;
    uintptr_t end = (start + bytes + (1 << GRANULE_SHIFT) - 1) >> GRANULE_SHIFT;
    bool clean = true;
    while (first < end) {
        uintptr_t word_end = (first | 63) + 1;
        unsigned last = word_end < end ? 64 : (unsigned)(end - (first & ~(uintptr_t)63));
        uint64_t bits = bits_from_to(first & 63, last);
        uintptr_t address = first << GRANULE_SHIFT;
        shadow_word *word = &leaf_of(address)[(address >> WORD_SHIFT) & (LEAF_WORDS - 1)];
        uint64_t before = on ? atomic_fetch_or(word, bits) : atomic_fetch_and(word, ~bits);
        clean = clean && (before & bits) == (on ? 0 : bits);
        first = word_end;
    }
    return clean;
}

void shadow_rest(void)
{
    size_t bytes = (size_t)shadow_leaf_count * LEAF_WORDS * sizeof(*shadow_leaves);
    EXPECT(stress->live_bytes == 0);
    syscall(SYS_madvise, shadow_leaves, bytes, MADV_DONTNEED);
}

static void shadow_open(void)
{
    struct rlimit limit = {RLIM_INFINITY, RLIM_INFINITY};
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
        shadow_leaf_count = LEAVES_MIN;
    shadow_root = map_zeros(ROOT_ENTRIES * sizeof(*shadow_root));
    for (; shadow_leaves == NULL && shadow_leaf_count >= LEAVES_MIN; shadow_leaf_count /= 2)
        shadow_leaves =
            try_map_zeros((size_t)shadow_leaf_count * LEAF_WORDS * sizeof(*shadow_leaves));
    shadow_leaf_count *= 2; /* the last one that was tried */
    if (shadow_leaves == NULL)
        _exit(2);
}

/* ---- The pattern in a block --------------------------------------------------------------------
 */

enum { WORD_BYTES = 8, DENSE_BYTES = 1024, ZEROS_DENSE_BYTES = 256 * KIB };

static size_t stride_of(size_t bytes)
{
    return bytes < 64 * KIB ? 512 : bytes < MIB ? 4096 : 64 * KIB;
}

/* Where the pattern goes on after the word at `offset`: all of the first bytes, then a word in each
 * stride, at another place in each block, and the last one. */
static size_t next_offset(size_t offset, size_t bytes, uint64_t tag)
{
    size_t last = (bytes - 1) / WORD_BYTES * WORD_BYTES;
    size_t next = offset + WORD_BYTES;
    if (next == DENSE_BYTES)
        next += tag % stride_of(bytes) / WORD_BYTES * WORD_BYTES;
    else if (next > DENSE_BYTES)
        next = offset + stride_of(bytes);
    return next < last || offset == last ? next : last;
}

static uint64_t word_at(uint64_t tag, size_t offset)
{
    return mix(tag + offset) | 0x0101010101010101; /* no byte is 0 */
}

static size_t word_bytes(size_t offset, size_t end)
{
    return end - offset < WORD_BYTES ? end - offset : WORD_BYTES;
}

static void write_pattern(unsigned char *block, size_t bytes, uint64_t tag)
{
    for (size_t offset = 0; offset < bytes; offset = next_offset(offset, bytes, tag)) {
        uint64_t word = word_at(tag, offset);
        if (word_bytes(offset, bytes) == WORD_BYTES)
            __builtin_memcpy(block + offset, &word, WORD_BYTES);
        else
            memcpy(block + offset, &word, word_bytes(offset, bytes));
    }
}

static bool same(const unsigned char *place, uint64_t word, size_t bytes)
{
    uint64_t found;
    if (bytes < WORD_BYTES)
        return memcmp(place, &word, bytes) == 0;
    __builtin_memcpy(&found, place, WORD_BYTES);
    return found == word;
}

/* Of a block that had `bytes` when the pattern was written, and has at least `kept` of them now. */
static void check_pattern(const unsigned char *block, size_t bytes, size_t kept, uint64_t tag)
{
    for (size_t offset = 0; offset < kept; offset = next_offset(offset, bytes, tag)) {
        uint64_t word = word_at(tag, offset), found = 0;
        if (same(block + offset, word, word_bytes(offset, kept)))
            continue;
        memcpy(&found, block + offset, word_bytes(offset, kept));
        anomaly("lost write: %p of %zu bytes, at offset %zu: %#" PRIx64 ", not %#" PRIx64,
                (const void *)block, bytes, offset, found, word);
        return;
    }
}

static void check_zeros(const unsigned char *block, size_t bytes)
{
    size_t step = bytes <= ZEROS_DENSE_BYTES ? WORD_BYTES : 16 * WORD_BYTES;
    for (size_t offset = 0; offset < bytes; offset += step)
        if (!same(block + offset, 0, word_bytes(offset, bytes))) {
            anomaly("calloc: %p of %zu bytes is not zero at offset %zu", (const void *)block, bytes,
                    offset);
            return;
        }
}

/* ---- Cards ------------------------------------------------------------------------------------
 */

struct card *cards_new(size_t count)
{
    return map_zeros(count * sizeof(struct card));
}

static void count_live(int64_t bytes)
{
    int64_t live = atomic_fetch_add_explicit(&stress->live_bytes, bytes, memory_order_relaxed);
    live += bytes;
    if (live > (int64_t)atomic_load_explicit(&stress->peak_live_bytes, memory_order_relaxed))
        atomic_store_explicit(&stress->peak_live_bytes, (uint64_t)live, memory_order_relaxed);
}

static void have_in_hand(unsigned char *block, size_t bytes)
{
    struct hand *hand = stress_hand;
    if (hand == NULL)
        return;
    atomic_store_explicit(&hand->block, NULL, memory_order_release); /* of the old size */
    if (block == NULL)
        return;
    hand->bytes = bytes;
    atomic_store_explicit(&hand->block, block, memory_order_release);
}

void hand_empty(struct hand *hand)
{
    unsigned char *block = atomic_exchange(&hand->block, NULL);
    if (block == NULL)
        return;
    (void)shadow_turn((uintptr_t)block, hand->bytes, false); /* they may have been off, or half */
    free(block);
}

/* The block has just come from the allocator. */
static void accept(struct card *card, struct random *random, unsigned char *block, size_t bytes)
{
    size_t alignment = bytes < 16 ? 8 : 16;
    if ((uintptr_t)block % alignment != 0)
        anomaly("%p of %zu bytes is not aligned to %zu", (void *)block, bytes, alignment);
    if (!shadow_turn((uintptr_t)block, bytes, true))
        anomaly("handed out twice: %p of %zu bytes overlaps a live block", (void *)block, bytes);
    card->bytes = bytes;
    card->tag = mix((uintptr_t)block ^ random_next(random));
    write_pattern(block, bytes, card->tag);
    count_live((int64_t)bytes);
    have_in_hand(NULL, 0);
    atomic_store_explicit(&card->block, block, memory_order_release);
}

/* The block is about to go back. */
static unsigned char *surrender(struct card *card)
{
    unsigned char *block = card->block;
    atomic_store_explicit(&card->block, NULL, memory_order_relaxed);
    have_in_hand(block, card->bytes);
    if (!shadow_turn((uintptr_t)block, card->bytes, false))
        anomaly("%p of %zu bytes lost its place in the shadow map", (void *)block, card->bytes);
    count_live(-(int64_t)card->bytes);
    return block;
}

static void count_operation(void)
{
    atomic_fetch_add_explicit(&stress->operations, 1, memory_order_relaxed);
}

/* Which call this is, and in a handler also inside which other. */
static void go_inside(sig_atomic_t call)
{
    have_in_hand(NULL, 0);
    if (stress_below != INSIDE_NONE)
        atomic_fetch_add_explicit(&stress->pairs[stress_below][call], 1, memory_order_relaxed);
    stress_inside = call;
}

static bool refused(size_t bytes)
{
    atomic_fetch_add(&stress->refusals, 1);
    if (errno != ENOMEM)
        anomaly("NULL with errno %d for %zu bytes", errno, bytes);
    if (!atomic_load_explicit(&stress_scarce, memory_order_relaxed))
        anomaly("NULL for %zu bytes while memory is there", bytes);
    return false;
}

static void *call_allocator(enum how how, size_t bytes, size_t alignment)
{
    void *block;
    errno = 0;
    go_inside(how == BY_CALLOC          ? IN_CALLOC
              : how == BY_ALIGNED_ALLOC ? IN_ALIGNED_ALLOC
                                        : IN_MALLOC);
    if (how == BY_CALLOC)
        block = calloc(1, bytes);
    else if (how == BY_ALIGNED_ALLOC)
        block = aligned_alloc(alignment, bytes);
    else
        block = malloc(bytes);
    stress_inside = INSIDE_NONE;
    return block;
}

bool card_fill(struct card *card, struct random *random, enum how how, size_t bytes)
{
    size_t alignment = (size_t)16 << random_below(random, 9);
    if (how == BY_ALIGNED_ALLOC)
        bytes = (bytes + alignment - 1) / alignment * alignment;
    unsigned char *block = call_allocator(how, bytes, alignment);
    count_operation();
    if (block == NULL)
        return refused(bytes);
    have_in_hand(block, bytes);
    if (how == BY_CALLOC)
        check_zeros(block, bytes);
    if (how == BY_ALIGNED_ALLOC && (uintptr_t)block % alignment != 0)
        anomaly("%p is not aligned to %zu", (void *)block, alignment);
    accept(card, random, block, bytes);
    return true;
}

bool card_resize(struct card *card, struct random *random, size_t bytes)
{
    size_t old_bytes = card->bytes;
    unsigned char *old = surrender(card);
    errno = 0;
    go_inside(IN_REALLOC);
    unsigned char *block = realloc(old, bytes);
    stress_inside = INSIDE_NONE;
    count_operation();
    bool done = block != NULL || refused(bytes);
    size_t now_bytes = done ? bytes : old_bytes;
    block = done ? block : old;
    have_in_hand(block, now_bytes);
    check_pattern(block, old_bytes, now_bytes < old_bytes ? now_bytes : old_bytes, card->tag);
    accept(card, random, block, now_bytes);
    return done;
}

void card_check(const struct card *card)
{
    const unsigned char *block = card->block;
    if (block != NULL)
        check_pattern(block, card->bytes, card->bytes, card->tag);
}

void card_empty(struct card *card)
{
    if (card->block == NULL)
        return;
    card_check(card);
    unsigned char *block = surrender(card);
    go_inside(IN_FREE);
    free(block);
    stress_inside = INSIDE_NONE;
    count_operation();
}

void card_play(struct card *card, struct random *random, size_t max_bytes)
{
    size_t bytes = random_bytes(random, max_bytes);
    if (card->block == NULL)
        (void)card_fill(card, random, (enum how)random_below(random, HOW_COUNT), bytes);
    else if (random_below(random, 3) == 0)
        (void)card_resize(card, random, bytes);
    else
        card_empty(card);
}

/* ---- Time and memory --------------------------------------------------------------------------
 */

static double run_start, run_end;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

double stress_seconds_left(void)
{
    return run_end - now();
}

bool stress_counted(void)
{
    return stress_count != 0 && stress->events >= stress_count;
}

bool stress_over(void)
{
    return stress_counted() || stress_seconds_left() <= 0;
}

bool stress_freehold(void)
{
    return dlsym(RTLD_DEFAULT, "fh_version") != NULL;
}

void stress_pause_us(unsigned us)
{
    struct timespec pause = {us / 1000000, (long)(us % 1000000) * 1000};
    nanosleep(&pause, NULL);
}

/* One of the numbers of a file of one line, without stdio, which allocates. */
static long number_in(const char *path, int position)
{
    char text[1024];
    int file = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? -1 : read(file, text, sizeof(text) - 1);
    if (file >= 0)
        close(file);
    if (length <= 0)
        return 0;
    text[length] = '\0';
    char *start = strrchr(text, ')'); /* a program's name may hold anything */
    for (start = start == NULL ? text : start; position > 0 && start != NULL; position--)
        start = strchr(start + 1, ' ');
    return start == NULL ? 0 : strtol(start, NULL, 10);
}

size_t stress_resident_bytes(void)
{
    return (size_t)number_in("/proc/self/statm", 1) * (size_t)sysconf(_SC_PAGESIZE);
}

static size_t resident_at_start;

void expect_resident_below(size_t bytes, const char *what)
{
    malloc_trim(0);
    size_t resident = stress_resident_bytes();
    size_t more = resident > resident_at_start ? resident - resident_at_start : 0;
    if (more > bytes)
        anomaly("%s: %zu KiB more resident than at the start, bound %zu KiB", what, more / KIB,
                bytes / KIB);
}

/* ---- Workers ----------------------------------------------------------------------------------
 */

struct worker *workers_new(unsigned count, size_t card_count, size_t max_bytes)
{
    struct worker *workers = map_zeros(count * sizeof(*workers));
    for (unsigned index = 0; index < count; index++) {
        struct worker *worker = &workers[index];
        worker->index = index;
        worker->random = random_of(index);
        worker->cards = cards_new(card_count + 1);
        worker->mine = &worker->cards[card_count];
        worker->card_count = card_count;
        worker->max_bytes = max_bytes;
    }
    return workers;
}

bool worker_start(struct worker *worker, worker_main run)
{
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    int error = pthread_create(&thread, &attributes, run, worker);
    pthread_attr_destroy(&attributes);
    worker->thread = thread;
    worker->lives += error == 0;
    if (error != 0 && !atomic_load(&stress_scarce))
        anomaly("pthread_create: %s", strerror(error));
    return error == 0;
}

void worker_join(struct worker *worker)
{
    pthread_join(worker->thread, NULL);
}

bool worker_try_join(struct worker *worker)
{
    return pthread_tryjoin_np(worker->thread, NULL) == 0;
}

void workers_run(struct worker *workers, unsigned count, worker_main run)
{
    unsigned started = 0;
    while (started < count && worker_start(&workers[started], run))
        started++;
    while (started > 0)
        worker_join(&workers[--started]);
}

void worker_empty(struct worker *worker)
{
    for (size_t i = 0; i < worker->card_count; i++)
        card_empty(&worker->cards[i]);
    card_empty(worker->mine);
}

struct exchange exchange_new(size_t count)
{
    struct exchange exchange = {map_zeros(count * sizeof(*exchange.slots)), count};
    struct card *cards = cards_new(count);
    for (size_t i = 0; i < count; i++)
        exchange.slots[i] = &cards[i];
    return exchange;
}

struct card *exchange_swap(struct exchange *exchange, struct random *random, struct card *mine)
{
    return atomic_exchange(&exchange->slots[random_below(random, exchange->count)], mine);
}

void exchange_empty(struct exchange *exchange)
{
    for (size_t i = 0; i < exchange->count; i++)
        card_empty(exchange->slots[i]);
}

/* ---- Child processes ---------------------------------------------------------------------------
 */

enum { LOOK_US = 500 * 1000, STUCK_SECONDS = 20, LATE_SECONDS = 60, WATCHES = 8 };

struct watch {
    _Atomic(const char *) what; /* NULL: free to use */
    atomic_int child;           /* 0: not known yet */
    atomic_uint looks;          /* since it was opened */
    atomic_bool hung;
};

static struct watch watches[WATCHES];

struct watch *watch_open(const char *what)
{
    for (size_t i = 0;; i = (i + 1) % WATCHES) {
        const char *none = NULL;
        struct watch *watch = &watches[i];
        if (atomic_compare_exchange_strong(&watch->what, &none, what))
            return watch;
    }
}

void watch_child(struct watch *watch, int child)
{
    atomic_store(&watch->child, child);
}

int watch_reap(struct watch *watch, int child)
{
    int status = 0;
    watch_child(watch, child);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    if (WIFSIGNALED(status) && !atomic_load(&watch->hung))
        anomaly("%s: child %d of seed %" PRIu64 " died of signal %d", watch->what, child,
                stress_seed, WTERMSIG(status));
    atomic_store(&watch->hung, false);
    atomic_store(&watch->child, 0);
    atomic_store(&watch->looks, 0);
    atomic_store(&watch->what, NULL);
    return status;
}

/* Once a look. */
static void watch_all(void)
{
    for (size_t i = 0; i < WATCHES; i++) {
        struct watch *watch = &watches[i];
        const char *what = atomic_load(&watch->what);
        if (what == NULL ||
            atomic_fetch_add(&watch->looks, 1) * (LOOK_US / 1000) != CHILD_SECONDS * 1000)
            continue;
        int child = atomic_load(&watch->child);
        anomaly("%s: child %d of seed %" PRIu64 " hung for %d s", what, child, stress_seed,
                CHILD_SECONDS);
        if (child == 0) /* there is none yet: it is this process that hangs */
            _exit(1);
        atomic_store(&watch->hung, true);
        kill(child, SIGKILL);
    }
}

/* ---- The live line ----------------------------------------------------------------------------
 */

static const char *storm_name;
static atomic_bool reporter_done;

static void print_line(double rate, bool terminal)
{
    char text[200];
    size_t resident = stress_resident_bytes();
    if (resident > stress->peak_resident_bytes)
        stress->peak_resident_bytes = resident;
    int length =
        snprintf(text, sizeof(text),
                 "%s%-10s %5.1f s  %8.0f operations/s  %3ld threads  %5zu MiB resident  %" PRIu64
                 " %s  %" PRIu64 " anomalies%s",
                 terminal ? "\r" : "", storm_name, now() - run_start, rate,
                 number_in("/proc/self/stat", 18), resident / MIB, (uint64_t)stress->events,
                 stress_event_name, (uint64_t)stress->anomalies, terminal ? " " : "\n");
    if (length > 0 && write(STDERR_FILENO, text, (size_t)length) < 0)
        _exit(2);
}

static _Noreturn void hang(const char *what, int seconds)
{
    anomaly("hang: %s, for %d s (seed %" PRIu64 ")", what, seconds, stress_seed);
    _exit(1);
}

/* Looks twice a second; prints each time on a terminal, else every five seconds. */
static void *report(void *unused)
{
    bool terminal = isatty(STDERR_FILENO);
    uint64_t last_count = 0, looks = 0, idle = 0, late = 0;
    while (!atomic_load(&reporter_done)) {
        stress_pause_us(LOOK_US);
        uint64_t count = stress->operations + stress->events;
        double rate = (double)(count - last_count) / (LOOK_US * 1e-6);
        idle = count == last_count ? idle + 1 : 0;
        last_count = count;
        watch_all();
        size_t resident = stress_resident_bytes();
        if (resident > stress->peak_resident_bytes)
            stress->peak_resident_bytes = resident;
        if (looks++ % (terminal ? 1 : 10) == 0)
            print_line(rate, terminal);
        if (idle * LOOK_US > STUCK_SECONDS * 1000000u)
            hang("nothing was done", STUCK_SECONDS);
        late += stress_over() && !stress_endless;
        if (late * LOOK_US > LATE_SECONDS * 1000000u)
            hang("the storm should have ended", LATE_SECONDS);
    }
    return unused;
}

/* ---- A crash is an anomaly too ----------------------------------------------------------------
 */

/* The mapping that holds the address, from its line in /proc/self/maps. */
static void describe(uintptr_t address, char *text, size_t bytes)
{
    static char maps[256 * KIB];
    size_t length = 0;
    int file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    for (ssize_t got; (got = read(file, maps + length, sizeof(maps) - 1 - length)) > 0;)
        length += (size_t)got;
    maps[length] = '\0';
    uintptr_t base = 0;
    snprintf(text, bytes, "%#" PRIxPTR, address);
    for (char *line = strtok(maps, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        uintptr_t start, end, offset;
        char path[200] = "";
        int fields = sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %" SCNxPTR " %*s %*s %199s",
                            &start, &end, &offset, path);
        base = fields >= 3 && offset == 0 ? start : base;
        const char *slash = strrchr(path, '/');
        if (fields >= 3 && address >= start && address < end)
            snprintf(text, bytes, "%s+%#" PRIxPTR, slash == NULL ? "memory" : slash + 1,
                     slash == NULL ? address : address - base);
    }
}

static void on_crash(int number, siginfo_t *info, void *context)
{
    const ucontext_t *user = context;
    char place[250];
    signal(number, SIG_DFL);
#if defined(__x86_64__)
    describe((uintptr_t)user->uc_mcontext.gregs[16], place, sizeof(place)); /* REG_RIP */
#else
    describe((uintptr_t)user->uc_mcontext.pc, place, sizeof(place));
#endif
    anomaly("crash: signal %d in %s, address %p", number, place, info->si_addr);
    raise(number);
}

static void catch_crashes(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    struct sigaction action = {.sa_sigaction = on_crash, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        sigaction(signals[i], &action, NULL);
}

/* ---- Main -------------------------------------------------------------------------------------
 */

#if defined(STRESS_OBJECTS)
#define STORMS_OF_OBJECTS                                                                          \
    {"objects", storm_objects, "objects",                                                          \
     "threads make, hand on, intern, drop and collect objects"},                                   \
        {"objects-gil", storm_objects_gil, "objects", "the same, one thread at a time"},
#else
#define STORMS_OF_OBJECTS
#endif

static const struct {
    const char *name;
    void (*run)(void);
    const char *event_name;
    const char *what;
} storms[] = {
    {"sizes", storm_sizes, "chains",
     "16 threads, all sizes, realloc chains, blocks that change hands"},
    {"producers", storm_producers, "turns", "few allocate and many free, and the other way round"},
    {"orphans", storm_orphans, "exits", "blocks outlive the threads that allocated them"},
    {"kills", storm_kills, "kills", "threads leave by a raw exit, anywhere inside a call"},
    {"signals", storm_signals, "handlers",
     "handlers that interrupt the allocator allocate and free"},
    {"jumps", storm_jumps, "jumps", "the same, and some leave by siglongjmp"},
    {"forks", storm_forks, "children", "fork, vfork, posix_spawn, clone while threads churn"},
    {"exits", storm_exits, "exits",
     "destructors, atexit, constructors, dlopen and dlclose allocate"},
    {"limits", storm_limits, "faults", "address space runs out; the n-th system call fails"},
    STORMS_OF_OBJECTS};

static const struct {
    const char *name;
    int (*run)(const char *argument);
} children[] = {
    {"spawned", child_spawned},
    {"exits", child_exits},
    {"limits", child_limits},
    {"crowded", child_crowded},
};

static int usage(void)
{
    fprintf(stderr, "usage: storm [--seconds N] [--count N] [--seed S] NAME\n\n");
    for (size_t i = 0; i < sizeof(storms) / sizeof(storms[0]); i++)
        fprintf(stderr, "  %-10s %s\n", storms[i].name, storms[i].what);
    return 2;
}

static void open_stress(void)
{
    stress = mmap(NULL, sizeof(*stress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (stress == MAP_FAILED)
        _exit(2);
    shadow_open();
}

static int run_child(const char *name, const char *argument)
{
    const char *seed = getenv("STORM_SEED");
    stress_seed = seed == NULL ? 1 : strtoull(seed, NULL, 0);
    open_stress();
    for (size_t i = 0; i < sizeof(children) / sizeof(children[0]); i++)
        if (strcmp(children[i].name, name) == 0)
            return children[i].run(argument) != 0 || stress->anomalies != 0;
    return usage();
}

static int run_storm(size_t index, double seconds)
{
    pthread_t reporter;
    storm_name = storms[index].name;
    stress_event_name = storms[index].event_name;
    catch_crashes();
    run_start = now();
    run_end = run_start + seconds;
    if (pthread_create(&reporter, NULL, report, NULL) != 0)
        return usage();
    resident_at_start = stress_resident_bytes();
    storms[index].run();
    if (stress_count != 0 && !stress_counted())
        anomaly("%" PRIu64 " %s were asked for", stress_count, stress_event_name);
    double took = now() - run_start;
    atomic_store(&reporter_done, true);
    pthread_join(reporter, NULL);
    print_line((double)stress->operations / took, isatty(STDERR_FILENO));
    printf("%s\t%.0f\t%" PRIu64 " %s\t%" PRIu64 "\t%" PRIu64 "\t%s\n", storm_name,
           (double)stress->operations / took, (uint64_t)stress->events, stress_event_name,
           (uint64_t)stress->peak_resident_bytes / MIB, (uint64_t)stress->anomalies, stress->note);
    return stress->anomalies != 0;
}

enum { NO_LIMIT_SECONDS = 1000 * 1000 };

int main(int count, char **arguments)
{
    double seconds = 0;
    stress_seed = (uint64_t)time(NULL);
    stress_program = "/proc/self/exe";
    if (count == 4 && strcmp(arguments[1], "--child") == 0)
        return run_child(arguments[2], arguments[3]);
    int next = 1;
    for (; next + 1 < count && arguments[next][0] == '-'; next += 2) {
        if (strcmp(arguments[next], "--seconds") == 0)
            seconds = atof(arguments[next + 1]);
        else if (strcmp(arguments[next], "--count") == 0)
            stress_count = strtoull(arguments[next + 1], NULL, 0);
        else if (strcmp(arguments[next], "--seed") == 0)
            stress_seed = strtoull(arguments[next + 1], NULL, 0);
        else
            return usage();
    }
    if (seconds <= 0)
        seconds = stress_count == 0 ? 10 : NO_LIMIT_SECONDS;
    open_stress();
    for (size_t i = 0; next + 1 == count && i < sizeof(storms) / sizeof(storms[0]); i++)
        if (strcmp(storms[i].name, arguments[next]) == 0)
            return run_storm(i, seconds);
    return usage();
}
