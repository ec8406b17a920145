/* SPDX-License-Identifier: MIT */
/* stallmap: at which instructions does a stopped thread stop others?
 *
 *   stallmap [--full] [--every N] [--gate] LIBRARY...   LIBRARY: path of a shared library, or
 * "glibc"
 *
 * For each operation and library stallmap starts itself again, with the library preloaded, and
 * steps one thread of that child, the victim, through the operation (ptrace). At each instruction
 * address that is new, and at every N-th step (--full: at all), the victim is held, and five other
 * threads must each finish a batch: small blocks, large ones (300 KiB), huge ones (5 MiB), frees of
 * blocks that the victim allocated, and the start of a thread that allocates. If one of them does
 * not finish in time, and not after a second wait either, the instruction blocks; the victim is
 * then stepped on, and every step counts, until all have finished.
 *
 * A stop inside libc or the loader, outside any call of the allocator, is counted as libc's:
 * starting and ending a thread takes libc's own locks under every allocator. So is a stop at which
 * all who wait wait for a futex in libc's or the loader's memory. With --gate the exit status is 1
 * if a library's own code blocks.
 *
 * Two limits: a zero is what was seen, not a proof; and counts above zero may be a few instructions
 * too high, as a woken thread takes a moment to run.
 */
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if !defined(__x86_64__)
#error "stallmap knows x86-64"
#endif

enum {
    KIB = 1024,
    MIB = 1024 * KIB,
    LARGE_BYTES = 300 * KIB,
    HUGE_BYTES = 5 * MIB,

    EVERY = 97,              /* steps between samples of code already seen ... */
    SAMPLES_PER_RATE = 1000, /* ... and twice as many after each so many samples */
    LIMIT_MS = 500,          /* no progress for so long, twice: blocked */
    LIMIT_AGAIN_MS = 60,     /* the same where this code has blocked before in this row */
    SETTLE_US = 150,     /* for a woken thread to finish, after each step of a blocked stretch */
    SETTLE_STEPS = 5000, /* after so many blocked steps, less patience */
    BLOCKED_ROW_SECONDS = 5, /* a row that blocks is cut short after this */
    ROW_SECONDS = 40,        /* any row */
    FULL_ROW_SECONDS = 3600,
    DEADLOCK_SECONDS = 10,

    WORKERS = 5,
    WARM_ROUNDS = 3,
    GIFTS = 40 * 1000,
    GIFT_SIZES = 12,
};

enum role { SMALL_ROLE, LARGE_ROLE, HUGE_ROLE, GIFT_ROLE, STARTER_ROLE };

/* ---- What both processes share ----------------------------------------------------------------
 */

struct control {
    _Atomic uint32_t round;         /* each worker does one batch for each */
    _Atomic uint32_t done[WORKERS]; /* the round it has finished */
    _Atomic uint32_t finished;      /* goes up with every batch */
    _Atomic int victim;             /* its thread id, once it waits to be traced */
    _Atomic uint32_t seized;
    _Atomic uint32_t gifts_taken;
    _Atomic int worker_tids[WORKERS];
    uintptr_t end;       /* stepping ends here, or with the thread */
    uintptr_t family[8]; /* entries of the allocator */
};

static struct control *control;

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void futex_wait(_Atomic uint32_t *word, uint32_t value, int64_t timeout_us)
{
    struct timespec timeout = {timeout_us / 1000000, timeout_us % 1000000 * 1000};
    syscall(SYS_futex, word, FUTEX_WAIT, value, timeout_us < 0 ? NULL : &timeout, NULL, 0);
}

static void fail(const char *what)
{
    fprintf(stderr, "stallmap: %s: %s\n", what, strerror(errno));
    exit(2);
}

/* ---- The child: operations --------------------------------------------------------------------
 */

static void *gifts[GIFTS];

static void give(void)
{
    static const size_t sizes[GIFT_SIZES] = {16,  48,  64,   100, 200, 400,
                                             496, 700, 1000, 64,  32,  2000};
    for (size_t i = 0; i < GIFTS; i++)
        gifts[i] = malloc(sizes[i % GIFT_SIZES]);
}

static void *blocks[16 * KIB];

static void take(size_t count, size_t bytes)
{
    for (size_t i = 0; i < count; i++)
        blocks[i] = malloc(bytes);
}

static void release(size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(blocks[i]);
}

static void nothing(void)
{
}

static void first_malloc(void)
{
    blocks[0] = malloc(64);
}

static void before_exit(void)
{
    take(300, 200);
    release(150);
}

static void refill(void)
{
    take(400, 496);
}

static void remote_frees(void)
{
    release(400);
}

static void before_large(void)
{
    free(malloc(64));
}

static void take_and_release(size_t bytes)
{
    void *first = malloc(bytes);
    void *second = calloc(1, bytes + 1);
    free(first);
    free(second);
}

static void large(void)
{
    take_and_release(LARGE_BYTES);
}

static void huge(void)
{
    take_and_release(HUGE_BYTES);
}

static void before_realloc(void)
{
    blocks[0] = malloc(100);
    blocks[1] = malloc(LARGE_BYTES);
    blocks[2] = malloc(LARGE_BYTES); /* in the way of the one before */
    blocks[3] = malloc(HUGE_BYTES);
    blocks[4] = malloc(HUGE_BYTES);
}

static void realloc_through(size_t index, size_t first, size_t second, size_t third)
{
    blocks[index] = realloc(blocks[index], first);
    blocks[index] = realloc(blocks[index], second);
    blocks[index] = realloc(blocks[index], third);
}

static void realloc_small(void)
{
    realloc_through(0, 300, 5000, 60);
}

static void realloc_large(void)
{
    realloc_through(1, 2 * LARGE_BYTES, 3 * LARGE_BYTES, LARGE_BYTES / 2);
}

static void realloc_huge(void)
{
    realloc_through(3, 2 * HUGE_BYTES, 3 * HUGE_BYTES, HUGE_BYTES);
}

/* What returns memory at once: by another name in most allocators. */
static void (*release_function)(void);
static void (*collect_function)(bool);
static int (*control_function)(const char *, void *, size_t *, void *, size_t);

static void find_purge(void)
{
    *(void **)&release_function = dlsym(RTLD_DEFAULT, "MallocExtension_ReleaseFreeMemory");
    *(void **)&collect_function = dlsym(RTLD_DEFAULT, "mi_collect");
    *(void **)&control_function = dlsym(RTLD_DEFAULT, "mallctl");
}

static void before_purge(void)
{
    take(200, LARGE_BYTES);
    for (size_t i = 0; i < 200; i++)
        memset(blocks[i], 1, 8 * KIB);
    release(100);
    memmove(blocks, blocks + 100, 100 * sizeof(blocks[0]));
}

static void purge(void)
{
    release(100);
    if (release_function != NULL)
        release_function();
    else if (collect_function != NULL)
        collect_function(true);
    else if (control_function != NULL)
        control_function("arena.4096.purge", NULL, NULL, NULL, 0);
    else
        malloc_trim(0);
}

static void grow(void)
{
    take(170, HUGE_BYTES); /* 850 MiB */
    take(500, LARGE_BYTES);
    take(2000, 16 * KIB);
}

static const struct {
    const char *name;
    void (*prepare)(void); /* by the victim, before it is stepped */
    void (*run)(void);
    bool at_first; /* the victim must not have allocated: others prepare */
    bool to_the_end;
} operations[] = {
    {"first malloc", nothing, first_malloc, true, false},
    {"thread exit", before_exit, nothing, false, true},
    {"refill, 400 x 496 B", nothing, refill, false, false},
    {"remote frees, 400", nothing, remote_frees, false, false},
    {"large, 300 KiB", before_large, large, false, false},
    {"huge, 5 MiB", before_large, huge, false, false},
    {"realloc, small", before_realloc, realloc_small, false, false},
    {"realloc, large", before_realloc, realloc_large, false, false},
    {"realloc, huge", before_realloc, realloc_huge, false, false},
    {"purge", before_purge, purge, false, false},
    {"growth, 1 GiB", nothing, grow, false, false},
};

enum { OPERATIONS = sizeof(operations) / sizeof(operations[0]) };

/* ---- The child: workers -----------------------------------------------------------------------
 */

static void touch(void *block)
{
    *(volatile char *)block = 1;
}

static void batch_of(size_t count, size_t bytes)
{
    void *batch[64];
    for (size_t i = 0; i < count; i++) {
        batch[i] = malloc(bytes);
        touch(batch[i]);
    }
    for (size_t i = 0; i < count; i++)
        free(batch[i]);
}

static void *allocate_once(void *unused)
{
    batch_of(1, 64);
    return unused;
}

static void free_a_gift(void)
{
    uint32_t index = atomic_fetch_add(&control->gifts_taken, 1);
    if (index < GIFTS)
        free(gifts[index]);
}

static void batch(enum role role, uint32_t round)
{
    pthread_t thread;
    if (role == SMALL_ROLE)
        batch_of(64, (size_t)16 << (round % 10));
    else if (role == LARGE_ROLE)
        batch_of(2, LARGE_BYTES);
    else if (role == HUGE_ROLE)
        batch_of(1, HUGE_BYTES);
    else if (role == GIFT_ROLE)
        free_a_gift();
    else if (pthread_create(&thread, NULL, allocate_once, NULL) == 0)
        pthread_join(thread, NULL);
}

static void *work(void *argument)
{
    enum role role = (enum role)(uintptr_t)argument;
    atomic_store(&control->worker_tids[role], (int)syscall(SYS_gettid));
    for (uint32_t round = 0;; round++) {
        while (atomic_load(&control->round) == round)
            futex_wait(&control->round, round, -1);
        batch(role, round + 1);
        atomic_store(&control->done[role], round + 1);
        atomic_fetch_add(&control->finished, 1);
        futex_wake_all(&control->finished);
    }
    return NULL;
}

/* ---- The child: the victim --------------------------------------------------------------------
 */

__attribute__((noinline)) static void stepping_ends(void)
{
    __asm__ volatile("");
}

static void *be_the_victim(void *argument)
{
    size_t operation = (size_t)(uintptr_t)argument;
    atomic_store(&control->victim, (int)syscall(SYS_gettid));
    while (atomic_load(&control->seized) == 0)
        futex_wait(&control->seized, 0, -1);
    if (!operations[operation].at_first)
        give();
    operations[operation].prepare();
    __asm__ volatile("int3");
    operations[operation].run();
    if (!operations[operation].to_the_end)
        stepping_ends();
    return NULL;
}

static void note_entries(void)
{
    static const char *const names[] = {"malloc",      "free",          "calloc",        "realloc",
                                        "malloc_trim", "aligned_alloc", "posix_memalign"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        control->family[i] = (uintptr_t)dlsym(RTLD_DEFAULT, names[i]);
    control->end = (uintptr_t)stepping_ends;
    find_purge();
}

/* A preload that cannot be loaded is only a message on stderr to the dynamic linker. */
static bool preloaded(void)
{
    Dl_info info;
    const char *library = getenv("LD_PRELOAD");
    return library == NULL ||
           (dladdr((void *)control->family[0], &info) != 0 && strcmp(info.dli_fname, library) == 0);
}

static int child_main(int file, size_t operation)
{
    pthread_t thread;
    control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    alarm(FULL_ROW_SECONDS);
    note_entries();
    if (control == MAP_FAILED || !preloaded())
        return 2;
    for (uintptr_t role = 0; role < WORKERS; role++)
        if (pthread_create(&thread, NULL, work, (void *)role) != 0)
            return 2;
    take(400, 100); /* what the victim frees remotely */
    if (operations[operation].at_first)
        give();
    if (pthread_create(&thread, NULL, be_the_victim, (void *)(uintptr_t)operation) != 0)
        return 2;
    pthread_join(thread, NULL);
    pause();
    return 0;
}

/* ---- The parent: where an address is ----------------------------------------------------------
 */

struct mapping {
    uintptr_t start, end, base; /* base: where the file's first byte is */
    char path[200];
};

struct maps {
    struct mapping list[512];
    size_t count;
};

/* Memory right after a file's mappings is that file's .bss. */
static void read_maps(pid_t process, struct maps *maps)
{
    char name[64], line[512];
    snprintf(name, sizeof(name), "/proc/%d/maps", process);
    FILE *file = fopen(name, "re");
    struct mapping last = {0};
    maps->count = 0;
    while (file != NULL && fgets(line, sizeof(line), file) != NULL && maps->count < 512) {
        struct mapping *mapping = &maps->list[maps->count++];
        uintptr_t offset;
        mapping->path[0] = '\0';
        sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %*s %" SCNxPTR " %*s %*s %199s", &mapping->start,
               &mapping->end, &offset, mapping->path);
        mapping->base = mapping->start - offset;
        if (mapping->path[0] == '\0' && mapping->start == last.end)
            strcpy(mapping->path, last.path);
        last = *mapping;
    }
    if (file != NULL)
        fclose(file);
}

static const struct mapping *mapping_of(const struct maps *maps, uintptr_t address)
{
    for (size_t i = 0; i < maps->count; i++)
        if (address >= maps->list[i].start && address < maps->list[i].end)
            return &maps->list[i];
    return NULL;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

static bool is_libc(const char *path)
{
    const char *name = base_name(path);
    return strncmp(name, "libc.so", 7) == 0 || strncmp(name, "libc-", 5) == 0 ||
           strncmp(name, "ld-", 3) == 0 || strncmp(name, "libpthread", 10) == 0;
}

/* The function in an ELF file's symbol tables that holds the offset. */
static const char *symbol_in(const char *file, size_t file_bytes, uintptr_t offset)
{
    const Elf64_Ehdr *header = (const void *)file;
    const Elf64_Shdr *sections = (const void *)(file + header->e_shoff);
    if (file_bytes < sizeof(*header) || header->e_shoff == 0 ||
        header->e_shoff + header->e_shnum * sizeof(*sections) > file_bytes)
        return NULL;
    for (unsigned i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB && sections[i].sh_type != SHT_DYNSYM)
            continue;
        const Elf64_Sym *symbols = (const void *)(file + sections[i].sh_offset);
        const char *names = file + sections[sections[i].sh_link].sh_offset;
        for (size_t k = 0; k < sections[i].sh_size / sizeof(*symbols); k++)
            if (ELF64_ST_TYPE(symbols[k].st_info) == STT_FUNC && offset >= symbols[k].st_value &&
                offset < symbols[k].st_value + symbols[k].st_size)
                return names + symbols[k].st_name;
    }
    return NULL;
}

static void describe(const struct maps *maps, uintptr_t address, char *text, size_t bytes)
{
    const struct mapping *mapping = mapping_of(maps, address);
    struct stat status;
    snprintf(text, bytes, "%#" PRIxPTR, address);
    if (mapping == NULL)
        return;
    uintptr_t offset = address - mapping->base;
    snprintf(text, bytes, "%s+%#" PRIxPTR, base_name(mapping->path), offset);
    int file = open(mapping->path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return;
    if (fstat(file, &status) == 0 && status.st_size > 0) {
        size_t file_bytes = (size_t)status.st_size;
        void *contents = mmap(NULL, file_bytes, PROT_READ, MAP_PRIVATE, file, 0);
        const char *symbol =
            contents == MAP_FAILED ? NULL : symbol_in(contents, file_bytes, offset);
        if (symbol != NULL)
            snprintf(text, bytes, "%s (%s+%#" PRIxPTR ")", symbol, base_name(mapping->path),
                     offset);
        if (contents != MAP_FAILED)
            munmap(contents, file_bytes);
    }
    close(file);
}

/* ---- The parent: holding and stepping ---------------------------------------------------------
 */

enum blame { ITS_OWN, LIBCS, BLAMES };

struct row {
    uint64_t steps, holds;
    uint64_t blocked[BLAMES]; /* instructions */
    uint64_t windows[BLAMES]; /* stretches of them */
    char first[BLAMES][200];
    const char *cut; /* why it ended early, or NULL */
};

struct victim {
    pid_t process, thread;
    const char *library; /* NULL: glibc */
    struct maps maps;
    uintptr_t own_start, own_end; /* the library's code */
    bool inside;                  /* a call of the allocator */
    uintptr_t entry_stack;
    struct user_regs_struct registers;
    double deadline;
    struct row row;
};

static bool full, gate;
static cpu_set_t everywhere; /* where the children's threads may run */
static uint64_t every = EVERY;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static bool all_done(void)
{
    uint32_t round = atomic_load(&control->round);
    for (unsigned i = 0; i < WORKERS; i++)
        if (atomic_load(&control->done[i]) != round)
            return false;
    return true;
}

static bool wait_for_workers(int64_t limit_us)
{
    double end = now() + (double)limit_us * 1e-6;
    for (;;) {
        uint32_t finished = atomic_load(&control->finished);
        if (all_done())
            return true;
        int64_t left_us = (int64_t)((end - now()) * 1e6);
        if (left_us <= 0)
            return false;
        futex_wait(&control->finished, finished, left_us);
    }
}

/* The futex a thread sleeps on; 0 if it does anything else. */
static uintptr_t futex_of(pid_t process, int thread)
{
    char name[64];
    long number = -1;
    uintptr_t address = 0;
    snprintf(name, sizeof(name), "/proc/%d/task/%d/syscall", process, thread);
    FILE *file = fopen(name, "re");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%ld %" SCNxPTR, &number, &address) != 2 || number != SYS_futex)
        address = 0;
    fclose(file);
    return address;
}

static bool all_wait_for_libc(struct victim *victim)
{
    uint32_t round = atomic_load(&control->round);
    bool any = false;
    for (unsigned i = 0; i < WORKERS; i++) {
        if (atomic_load(&control->done[i]) == round)
            continue;
        uintptr_t word = futex_of(victim->process, control->worker_tids[i]);
        const struct mapping *mapping = word == 0 ? NULL : mapping_of(&victim->maps, word);
        if (mapping == NULL || !is_libc(mapping->path))
            return false;
        any = true;
    }
    return any;
}

static enum blame who_blocks(struct victim *victim)
{
    if (!victim->inside)
        return LIBCS;
    return victim->library != NULL && all_wait_for_libc(victim) ? LIBCS : ITS_OWN;
}

static bool is_entry(uintptr_t address)
{
    for (size_t i = 0; i < sizeof(control->family) / sizeof(control->family[0]); i++)
        if (address != 0 && control->family[i] == address)
            return true;
    return false;
}

/* Inside from the entry of the allocator's code to the return from it, also while it calls libc. */
static void note_position(struct victim *victim)
{
    uintptr_t pc = victim->registers.rip, stack = victim->registers.rsp;
    bool own = victim->library != NULL && pc >= victim->own_start && pc < victim->own_end;
    if (victim->inside && stack > victim->entry_stack && !own)
        victim->inside = false;
    if (!victim->inside && (own || is_entry(pc))) {
        victim->inside = true;
        victim->entry_stack = stack;
    }
}

static pid_t watched;

static void give_up(int number)
{
    (void)number;
    kill(watched, SIGKILL);
}

/* One instruction. False: the thread ended, or stands still even though nobody holds it. */
static bool step(struct victim *victim)
{
    intptr_t pass_on = 0;
    int status;
    for (;;) {
        if (ptrace(PTRACE_SINGLESTEP, victim->thread, NULL, (void *)pass_on) != 0)
            return false;
        if (waitpid(victim->thread, &status, __WALL) != victim->thread || !WIFSTOPPED(status))
            return false;
        if (WSTOPSIG(status) == SIGTRAP)
            break;
        pass_on = WSTOPSIG(status);
    }
    if (ptrace(PTRACE_GETREGS, victim->thread, NULL, &victim->registers) != 0)
        return false;
    victim->row.steps++;
    note_position(victim);
    return victim->registers.rip != control->end;
}

static void begin_round(void)
{
    atomic_fetch_add(&control->round, 1);
    futex_wake_all(&control->round);
}

/* Step on until all workers have finished. False: the operation ended. */
static bool step_until_released(struct victim *victim, enum blame blame)
{
    struct row *row = &victim->row;
    for (;;) {
        row->blocked[blame]++;
        bool more = step(victim);
        if (!more || wait_for_workers(row->blocked[blame] < SETTLE_STEPS ? SETTLE_US : 10))
            return more;
        if (now() > victim->deadline) {
            row->cut = "+";
            return false;
        }
    }
}

/* False: the operation ended. */
static bool hold(struct victim *victim)
{
    struct row *row = &victim->row;
    row->holds++;
    begin_round();
    bool seen = row->windows[ITS_OWN] != 0 && victim->inside;
    seen = seen || (row->windows[LIBCS] != 0 && !victim->inside);
    int64_t limit_ms = seen ? LIMIT_AGAIN_MS : LIMIT_MS;
    if (wait_for_workers(limit_ms * 1000) || wait_for_workers(limit_ms * 1000))
        return true;
    read_maps(victim->process, &victim->maps);
    enum blame blame = who_blocks(victim);
    if (row->windows[blame]++ == 0) {
        describe(&victim->maps, victim->registers.rip, row->first[blame], sizeof(row->first[0]));
        double soon = now() + BLOCKED_ROW_SECONDS;
        if (!full && blame == ITS_OWN && soon < victim->deadline)
            victim->deadline = soon;
    }
    return step_until_released(victim, blame);
}

/* Tracer and victim take turns; on one processor a turn costs a third of what it does on two. */
static void share_a_processor(pid_t thread)
{
    cpu_set_t processors;
    int here = sched_getcpu();
    if (here < 0)
        return;
    CPU_ZERO(&processors);
    CPU_SET((size_t)here, &processors);
    sched_setaffinity(thread, sizeof(processors), &processors); /* may fail: it is only for speed */
}

/* ---- The parent: which steps to hold at -------------------------------------------------------
 */

enum { SEEN_SLOTS = 1 << 18 };

static uintptr_t seen[SEEN_SLOTS];

static bool is_new(uintptr_t address)
{
    size_t slot = (address * 0x9e3779b97f4a7c15u) >> 46;
    for (size_t tries = 0; tries < SEEN_SLOTS; tries++, slot = (slot + 1) % SEEN_SLOTS) {
        if (seen[slot] == address)
            return false;
        if (seen[slot] == 0) {
            seen[slot] = address;
            return true;
        }
    }
    return false;
}

static void step_through(struct victim *victim)
{
    struct row *row = &victim->row;
    uint64_t since = 0, samples = 0, rate = every;
    bool more = true;
    while (more && step(victim)) {
        bool sampled = full || ++since >= rate;
        if (!is_new(victim->registers.rip) && !sampled)
            continue;
        if (sampled && ++samples % SAMPLES_PER_RATE == 0)
            rate *= 2;
        since = sampled ? 0 : since;
        more = hold(victim);
        if (atomic_load(&control->gifts_taken) >= GIFTS || now() > victim->deadline) {
            row->cut = "+";
            more = false;
        }
    }
}

/* ---- The parent: one child, one row -----------------------------------------------------------
 */

static pid_t start_child(const char *library, int file, size_t operation)
{
    char file_text[24], operation_text[24];
    pid_t child = fork();
    if (child != 0)
        return child;
    snprintf(file_text, sizeof(file_text), "%d", file);
    snprintf(operation_text, sizeof(operation_text), "%zu", operation);
    unsetenv("LD_PRELOAD");
    if (library != NULL)
        setenv("LD_PRELOAD", library, 1);
    setenv("LD_BIND_NOW", "1", 1);
    /* A repeated string instruction is one step for each repetition. */
    setenv(
        "GLIBC_TUNABLES",
        "glibc.cpu.x86_rep_movsb_threshold=0x7fffffff:glibc.cpu.x86_rep_stosb_threshold=0x7fffffff",
        1);
    execl("/proc/self/exe", "stallmap", "--child", file_text, operation_text, (char *)NULL);
    _exit(2);
}

static bool seize(struct victim *victim)
{
    int status;
    double end = now() + DEADLOCK_SECONDS;
    while (atomic_load(&control->victim) == 0 && now() < end)
        usleep(1000);
    victim->thread = atomic_load(&control->victim);
    if (victim->thread == 0 ||
        ptrace(PTRACE_SEIZE, victim->thread, NULL, (void *)PTRACE_O_EXITKILL) != 0)
        return false;
    share_a_processor(victim->thread);
    atomic_store(&control->seized, 1);
    futex_wake_all(&control->seized);
    return waitpid(victim->thread, &status, __WALL) == victim->thread && WIFSTOPPED(status) &&
           WSTOPSIG(status) == SIGTRAP;
}

static void find_own_code(struct victim *victim)
{
    read_maps(victim->process, &victim->maps);
    for (size_t i = 0; victim->library != NULL && i < victim->maps.count; i++) {
        const struct mapping *mapping = &victim->maps.list[i];
        char path[4096];
        if (realpath(victim->library, path) == NULL || strcmp(path, mapping->path) != 0)
            continue;
        if (victim->own_start == 0)
            victim->own_start = mapping->start;
        victim->own_end = mapping->end;
    }
}

/* Before its operation the victim holds nothing: all must get through. */
static bool workers_run(void)
{
    for (unsigned i = 0; i < WARM_ROUNDS; i++) {
        begin_round();
        if (!wait_for_workers(DEADLOCK_SECONDS * 1000 * 1000))
            return false;
    }
    return true;
}

static struct row trace(const char *library, size_t operation)
{
    static struct victim victim;
    int file = memfd_create("stallmap", 0);
    if (file < 0 || ftruncate(file, sizeof(*control)) != 0)
        fail("memfd");
    control = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (control == MAP_FAILED)
        fail("mmap");
    memset(&victim, 0, sizeof(victim));
    memset(seen, 0, sizeof(seen));
    victim.library = library;
    victim.deadline = now() + (full ? FULL_ROW_SECONDS : ROW_SECONDS);
    sched_setaffinity(0, sizeof(everywhere), &everywhere);
    victim.process = watched = start_child(library, file, operation);
    alarm((full ? FULL_ROW_SECONDS : ROW_SECONDS) + DEADLOCK_SECONDS); /* see give_up() */
    share_a_processor(0);
    if (!seize(&victim) || !workers_run())
        victim.row.cut = "failed";
    else {
        find_own_code(&victim);
        step_through(&victim);
    }
    kill(victim.process, SIGKILL);
    while (waitpid(-1, NULL, __WALL) > 0)
        continue;
    alarm(0);
    munmap(control, sizeof(*control));
    close(file);
    return victim.row;
}

/* ---- The table --------------------------------------------------------------------------------
 */

enum { LIBRARIES_MAX = 12, NAME_WIDTH = 22, CELL_WIDTH = 22 };

static struct row rows[OPERATIONS][LIBRARIES_MAX];

static void short_name(const char *path, char *text, size_t bytes)
{
    const char *name = base_name(path);
    snprintf(text, bytes, "%s", strncmp(name, "lib", 3) == 0 ? name + 3 : name);
    char *dot = strstr(text, ".so");
    if (dot != NULL)
        *dot = '\0';
}

static void print_table(char **libraries, size_t count, enum blame blame)
{
    char text[64];
    printf("%-*s", NAME_WIDTH, "");
    for (size_t i = 0; i < count; i++) {
        short_name(libraries[i], text, sizeof(text));
        printf("%*s", CELL_WIDTH, text);
    }
    for (size_t operation = 0; operation < OPERATIONS; operation++) {
        printf("\n%-*s", NAME_WIDTH, operations[operation].name);
        for (size_t i = 0; i < count; i++) {
            const struct row *row = &rows[operation][i];
            bool failed = row->steps == 0;
            snprintf(text, sizeof(text), "%" PRIu64 "%s of %" PRIu64, row->blocked[blame],
                     row->cut != NULL ? row->cut : "", row->steps);
            printf("%*s", CELL_WIDTH, failed ? "failed" : text);
        }
    }
    printf("\n");
}

static void print_places(char **libraries, size_t count)
{
    char name[64];
    printf("\nWhere first:\n");
    for (size_t i = 0; i < count; i++) {
        short_name(libraries[i], name, sizeof(name));
        for (size_t operation = 0; operation < OPERATIONS; operation++)
            for (unsigned blame = 0; blame < BLAMES; blame++) {
                const struct row *row = &rows[operation][i];
                if (row->windows[blame] != 0)
                    printf("  %s, %s%s: %s, %" PRIu64 " stretches\n", name,
                           operations[operation].name, blame == LIBCS ? " (libc's)" : "",
                           row->first[blame], row->windows[blame]);
            }
    }
}

/* True: no library's own code blocked, and every row was measured. */
static bool report(char **libraries, size_t count)
{
    bool clean = true;
    printf("\nInstructions of the allocator at which a stopped thread blocks others, of all it "
           "stepped\n"
           "through (+: cut short, there are more):\n\n");
    print_table(libraries, count, ITS_OWN);
    printf("\nThe same for libc's own locks:\n\n");
    print_table(libraries, count, LIBCS);
    print_places(libraries, count);
    for (size_t operation = 0; operation < OPERATIONS; operation++)
        for (size_t i = 0; i < count; i++)
            clean =
                clean && rows[operation][i].blocked[ITS_OWN] == 0 && rows[operation][i].steps != 0;
    return clean;
}

static void measure(char **libraries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *library = strcmp(libraries[i], "glibc") == 0 ? NULL : libraries[i];
        if (library != NULL && access(library, R_OK) != 0)
            fail(library);
        for (size_t operation = 0; operation < OPERATIONS; operation++) {
            double start = now();
            rows[operation][i] = trace(library, operation);
            const struct row *row = &rows[operation][i];
            fprintf(stderr, "%s: %s: %" PRIu64 " steps, held at %" PRIu64 ", %.1f s\n",
                    base_name(libraries[i]), operations[operation].name, row->steps, row->holds,
                    now() - start);
        }
    }
}

int main(int count, char **arguments)
{
    int next = 1;
    if (count == 4 && strcmp(arguments[1], "--child") == 0)
        return child_main(atoi(arguments[2]), strtoul(arguments[3], NULL, 10));
    for (; next < count && arguments[next][0] == '-'; next++) {
        if (strcmp(arguments[next], "--full") == 0)
            full = true;
        else if (strcmp(arguments[next], "--gate") == 0)
            gate = true;
        else if (strcmp(arguments[next], "--every") == 0 && next + 1 < count)
            every = strtoul(arguments[++next], NULL, 10) | 1;
        else
            next = count;
    }
    if (next >= count || count - next > LIBRARIES_MAX) {
        fprintf(stderr, "usage: stallmap [--full] [--every N] [--gate] LIBRARY.so|glibc ...\n");
        return 2;
    }
    unsetenv("LD_PRELOAD");
    signal(SIGALRM, give_up);
    sched_getaffinity(0, sizeof(everywhere), &everywhere);
    measure(arguments + next, (size_t)(count - next));
    bool clean = report(arguments + next, (size_t)(count - next));
    return gate && !clean;
}
