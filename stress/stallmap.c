/* SPDX-License-Identifier: MIT */
/* stallmap: at which instructions does a stopped thread stop others?
 *
 *   stallmap [--full] [--every N] [--row TEXT]... [--gate | --must-block] [--lock] LIBRARY...
 *
 * LIBRARY is the path of a shared library, or "glibc". --row chooses the operations whose names
 * contain the text. The exit status is 1 if a row could not be measured; with --gate also if the
 * first library's own code blocks or a row of it is not complete; with --must-block also if in one
 * of the rows nothing was found to block. It is 77 where ptrace is not allowed. --lock is the
 * control: clock_gettime(), which an allocator may call where it returns memory, then takes a lock,
 * and the map must show that.
 *
 * For each operation and library stallmap starts itself again, with the library preloaded, and
 * steps one thread of that child, the victim, through the operation (ptrace). Where the victim is
 * held, five other threads must each finish a batch: small blocks, large ones (300 KiB), huge ones
 * (5 MiB), frees of blocks that the victim allocated, and the start of a thread that allocates.
 * They take turns, so that each of them does all of it. If one does not finish in time, and not
 * after a second wait either, the instruction blocks; the victim is then stepped on, and every step
 * counts, until all have finished. Time in which the threads were stopped, or were ready to run and
 * had no processor, is not counted. A row that blocks is cut short a few seconds later.
 *
 * --full holds the victim after every instruction, FULL_HOLDS times in a row. From there on it is
 * held up to FULL_REPEATS times on each path (an instruction address, and the targets of the last
 * four jumps before it); without --full, once on each path from the start. Either way it is then
 * also held at every N-th step, with N doubled after each SAMPLES_PER_RATE such holds.
 *
 * Others go on at full speed between two instructions of the victim. So under --full its own
 * compare-and-swap may fail again and again; that no call of a thread waits for another thread's is
 * what is measured, not how long the slowest one takes.
 *
 * A stop inside libc or the loader, outside any call of the allocator, is counted as libc's:
 * starting and ending a thread takes libc's own locks under every allocator. So is a stop at which
 * all who wait wait for a futex in libc's or the loader's memory. These are listed apart.
 *
 * Two limits: a zero is what was seen, not a proof; and counts above zero may be a few instructions
 * too high, as a woken thread takes a moment to run.
 */
#include <dirent.h>
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
    BLOCKED_ROW_SECONDS = 8, /* a row that blocks is cut short after this */
    ROW_SECONDS = 3600,      /* any row */
    DEADLOCK_SECONDS = 10,
    PROGRESS_SECONDS = 10,
    NOT_ALLOWED = 77, /* exit status */

    STARVED_SECONDS = 600, /* so long a batch may be without a processor */

    FULL_HOLDS = 150 * 1000, /* with --full, at every instruction up to here ... */
    FULL_REPEATS = 20,       /* ... and so often on each path from here */
    PATHS_MAX = 200 * 1000,  /* paths that are remembered in a row */

    WORKERS = 5,
    WARM_ROUNDS = 2 * WORKERS,
    GIFT_SIZES = 12,
    GIFTS_FEW = 40 * 1000,
    GIFTS_MAX = 1000 * 1000, /* one for each hold */
    KEPT_ROUNDS = 8,
    SMALL_BATCH = 64,
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
    uint32_t gifts;
    bool clock_has_lock;
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

/* This program's function stands before libc's for every library in the process. */
int clock_gettime(clockid_t clock, struct timespec *out)
{
    static _Atomic uint32_t lock;
    bool locked = control != NULL && control->clock_has_lock;
    while (locked && atomic_exchange(&lock, 1) != 0)
        sched_yield();
    int result = (int)syscall(SYS_clock_gettime, clock, out);
    if (locked)
        atomic_store(&lock, 0);
    return result;
}

static void fail(const char *what)
{
    fprintf(stderr, "stallmap: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void map_control(int file)
{
    void *start = mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (start == MAP_FAILED)
        fail("mmap");
    control = start;
}

/* ---- The child: operations --------------------------------------------------------------------
 */

static void *gifts[GIFTS_MAX];

/* Among the first ones are large and huge blocks; the many after them are small, for memory's sake.
 */
static size_t gift_bytes(size_t index)
{
    static const size_t sizes[GIFT_SIZES] = {16,  48,  64,   100, 200, 400,
                                             496, 700, 1000, 64,  32,  2000};
    if (index >= GIFTS_FEW)
        return sizes[index % (GIFT_SIZES / 2)];
    if (index % 256 == 128)
        return HUGE_BYTES;
    return index % 64 == 32 ? LARGE_BYTES : sizes[index % GIFT_SIZES];
}

static void give(void)
{
    for (size_t i = 0; i < control->gifts; i++)
        gifts[i] = malloc(gift_bytes(i));
}

static void touch(void *block)
{
    *(volatile char *)block = 1;
}

static void *blocks[16 * KIB];

static void take(size_t count, size_t bytes)
{
    for (size_t i = 0; i < count; i++) {
        blocks[i] = malloc(bytes);
        touch(blocks[i]);
    }
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

static void batch_of(size_t count, size_t bytes)
{
    void *batch[SMALL_BATCH];
    for (size_t i = 0; i < count; i++) {
        batch[i] = malloc(bytes);
        touch(batch[i]);
    }
    for (size_t i = 0; i < count; i++)
        free(batch[i]);
}

/* A batch is kept for some rounds, so that pools fill up, and is then freed by whoever has the
 * turn: mostly another thread. */
static void small_batch(uint32_t round)
{
    static void *kept[KEPT_ROUNDS][SMALL_BATCH];
    void **batch = kept[round % KEPT_ROUNDS];
    size_t bytes = (size_t)16 << round % 10;
    for (size_t i = 0; i < SMALL_BATCH; i++) {
        free(batch[i]);
        batch[i] = malloc(bytes);
        touch(batch[i]);
    }
}

static void *allocate_once(void *unused)
{
    batch_of(1, 64);
    return unused;
}

/* In turn the oldest, from pools long full, and the newest, from those the victim uses. */
static void free_a_gift(void)
{
    uint32_t index = atomic_fetch_add(&control->gifts_taken, 1);
    if (index < control->gifts)
        free(gifts[index % 2 == 0 ? index / 2 : control->gifts - 1 - index / 2]);
}

static void batch(enum role role, uint32_t round)
{
    pthread_t thread;
    if (role == SMALL_ROLE)
        small_batch(round);
    else if (role == LARGE_ROLE)
        batch_of(1 + round % 7, LARGE_BYTES);
    else if (role == HUGE_ROLE)
        batch_of(1, HUGE_BYTES);
    else if (role == GIFT_ROLE)
        free_a_gift();
    else if (pthread_create(&thread, NULL, allocate_once, NULL) == 0)
        pthread_join(thread, NULL);
}

static void *work(void *argument)
{
    uint32_t self = (uint32_t)(uintptr_t)argument;
    atomic_store(&control->worker_tids[self], (int)syscall(SYS_gettid));
    for (uint32_t round = 0;; round++) {
        while (atomic_load(&control->round) == round)
            futex_wait(&control->round, round, -1);
        batch((enum role)((self + round) % WORKERS), round + 1);
        atomic_store(&control->done[self], round + 1);
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
    map_control(file);
    alarm(ROW_SECONDS);
    note_entries();
    if (!preloaded())
        return 2;
    for (uintptr_t worker = 0; worker < WORKERS; worker++)
        if (pthread_create(&thread, NULL, work, (void *)worker) != 0)
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
    uint64_t steps;           /* states after an instruction of the operation ... */
    uint64_t held;            /* ... at so many of which others were to go on */
    uint64_t blocked[BLAMES]; /* ... and did not */
    uint64_t windows[BLAMES]; /* stretches of those */
    char first[BLAMES][200], waiters[BLAMES][80];
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
    uint64_t path; /* 16 bits of each of the last four jumps' targets */
    double deadline, next_progress;
    struct row row;
};

static bool full, gate, must_block, with_lock;
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

/* State of a thread, as ps has it: R may run, D and S sleep, T is stopped. */
static char state_of(pid_t process, const char *thread)
{
    char name[300], line[512], state = '?';
    snprintf(name, sizeof(name), "/proc/%d/task/%s/stat", process, thread);
    FILE *file = fopen(name, "re");
    if (file == NULL)
        return state;
    if (fgets(line, sizeof(line), file) != NULL && strrchr(line, ')') != NULL)
        sscanf(strrchr(line, ')'), ") %c", &state);
    fclose(file);
    return state;
}

/* Is a thread other than the victim ready to run, or stopped? */
static bool any_could_run(const struct victim *victim)
{
    char name[64];
    bool found = false;
    snprintf(name, sizeof(name), "/proc/%d/task", victim->process);
    DIR *threads = opendir(name);
    const struct dirent *thread;
    while (threads != NULL && !found && (thread = readdir(threads)) != NULL) {
        char state = thread->d_name[0] == '.' || atoi(thread->d_name) == victim->thread
                         ? '.'
                         : state_of(victim->process, thread->d_name);
        found = state == 'R' || state == 'D' || state == 'T';
    }
    if (threads != NULL)
        closedir(threads);
    return found;
}

static int64_t cpu_us(pid_t process)
{
    clockid_t clock;
    struct timespec time;
    if (clock_getcpuclockid(process, &clock) != 0 || clock_gettime(clock, &time) != 0)
        return 0;
    return (int64_t)time.tv_sec * 1000000 + time.tv_nsec / 1000;
}

/* True: the workers finished. False: they sleep, or have had a processor for long enough. */
static bool wait_patiently(struct victim *victim, int64_t limit_ms)
{
    if (wait_for_workers(limit_ms * 1000))
        return true;
    int64_t cpu_before_us = cpu_us(victim->process);
    double end = now() + STARVED_SECONDS;
    do {
        if (wait_for_workers(limit_ms * 1000))
            return true;
    } while (any_could_run(victim) && now() < end &&
             cpu_us(victim->process) - cpu_before_us < limit_ms * 1000);
    return false;
}

/* Role and state of each worker that has not finished. */
static void describe_waiters(const struct victim *victim, char *text, size_t bytes)
{
    static const char *const roles[WORKERS] = {"small", "large", "huge", "free", "start"};
    uint32_t round = atomic_load(&control->round);
    size_t length = 0;
    for (uint32_t i = 0; i < WORKERS && length < bytes; i++) {
        char thread[24];
        if (atomic_load(&control->done[i]) == round)
            continue;
        snprintf(thread, sizeof(thread), "%d", control->worker_tids[i]);
        length +=
            (size_t)snprintf(text + length, bytes - length, " %s:%c",
                             roles[(i + round - 1) % WORKERS], state_of(victim->process, thread));
    }
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
static volatile sig_atomic_t gave_up;

static void give_up(int number)
{
    (void)number;
    gave_up = 1;
    kill(watched, SIGKILL);
}

enum { INSTRUCTION_BYTES_MAX = 15 };

static void note_jump(struct victim *victim, uintptr_t before)
{
    uintptr_t pc = victim->registers.rip;
    if (pc - before > INSTRUCTION_BYTES_MAX)
        victim->path = victim->path << 16 | (pc * 0x9e3779b97f4a7c15u) >> 48;
}

/* One instruction. False: the thread ended, or stands still even though nobody holds it. */
static bool step(struct victim *victim)
{
    uintptr_t before = victim->registers.rip;
    intptr_t pass_on = 0;
    int status;
    for (;;) {
        if (ptrace(PTRACE_SINGLESTEP, victim->thread, NULL, (void *)pass_on) != 0)
            return false;
        if (waitpid(victim->thread, &status, __WALL) != victim->thread || !WIFSTOPPED(status))
            return false;
        if (status >> 8 == SIGTRAP)
            break;
        /* A signal is passed on; what is in the higher bits is ptrace's news, such as a stop. */
        pass_on = status >> 16 == 0 ? WSTOPSIG(status) : 0;
    }
    if (ptrace(PTRACE_GETREGS, victim->thread, NULL, &victim->registers) != 0)
        return false;
    if (victim->registers.rip == control->end)
        return false;
    victim->row.steps++;
    note_jump(victim, before);
    note_position(victim);
    return true;
}

static void begin_round(void)
{
    atomic_fetch_add(&control->round, 1);
    futex_wake_all(&control->round);
}

/* Step on until all workers have finished. False: the operation ended, or is not looked at any
 * longer. */
static bool step_until_released(struct victim *victim, enum blame blame)
{
    struct row *row = &victim->row;
    for (;;) {
        row->held++;
        row->blocked[blame]++;
        if (!step(victim))
            return false;
        if (wait_for_workers(row->blocked[blame] < SETTLE_STEPS ? SETTLE_US : 10))
            break;
        if (now() > victim->deadline) {
            row->held++;
            row->blocked[blame]++;
            row->cut = "it blocks";
            return false;
        }
    }
    row->held++;
    return true;
}

/* False as step_until_released(). */
static bool hold(struct victim *victim)
{
    struct row *row = &victim->row;
    begin_round();
    bool seen = row->windows[ITS_OWN] != 0 && victim->inside;
    seen = seen || (row->windows[LIBCS] != 0 && !victim->inside);
    int64_t limit_ms = seen ? LIMIT_AGAIN_MS : LIMIT_MS;
    if (wait_patiently(victim, limit_ms)) {
        row->held++;
        return true;
    }
    read_maps(victim->process, &victim->maps);
    enum blame blame = who_blocks(victim);
    if (row->windows[blame]++ == 0) {
        describe(&victim->maps, victim->registers.rip, row->first[blame], sizeof(row->first[0]));
        describe_waiters(victim, row->waiters[blame], sizeof(row->waiters[0]));
        double soon = now() + BLOCKED_ROW_SECONDS;
        if (blame == ITS_OWN && soon < victim->deadline)
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

enum { SEEN_BITS = 18, SEEN_SLOTS = 1 << SEEN_BITS };

static struct {
    uint64_t path, times;
} seen[SEEN_SLOTS];
static size_t seen_count;

/* How often before; often, if there are too many to remember. */
static uint64_t times_seen(uint64_t path)
{
    size_t slot = (size_t)(path >> (64 - SEEN_BITS));
    while (seen[slot].path != 0 && seen[slot].path != path)
        slot = (slot + 1) % SEEN_SLOTS;
    if (seen[slot].path == path)
        return seen[slot].times++;
    if (seen_count == PATHS_MAX)
        return UINT64_MAX;
    seen[slot].path = path;
    seen[slot].times = 1;
    seen_count++;
    return 0;
}

static uint64_t path_to_here(const struct victim *victim)
{
    uint64_t hash = victim->path + victim->registers.rip * 0x9e3779b97f4a7c15u;
    hash = (hash ^ hash >> 32) * 0xbf58476d1ce4e5b9u;
    return hash | 1; /* 0 is an empty slot */
}

struct sampling {
    uint64_t since, samples, rate;
};

static bool is_sample(struct sampling *sampling)
{
    if (++sampling->since < sampling->rate)
        return false;
    sampling->since = 0;
    if (++sampling->samples % SAMPLES_PER_RATE == 0)
        sampling->rate *= 2;
    return true;
}

static bool is_to_hold(struct victim *victim, struct sampling *sampling)
{
    bool fresh = times_seen(path_to_here(victim)) < (full ? FULL_REPEATS : 1);
    if (full && victim->row.held < FULL_HOLDS)
        return true;
    bool sampled = is_sample(sampling);
    return fresh || sampled;
}

static void show_progress(struct victim *victim)
{
    if (now() < victim->next_progress)
        return;
    victim->next_progress = now() + PROGRESS_SECONDS;
    fprintf(stderr, "  ... %" PRIu64 " steps, held at %" PRIu64 "\n", victim->row.steps,
            victim->row.held);
}

static void step_through(struct victim *victim)
{
    struct row *row = &victim->row;
    struct sampling sampling = {.rate = every};
    while (step(victim)) {
        show_progress(victim);
        if (!is_to_hold(victim, &sampling))
            continue;
        if (!hold(victim))
            break;
        if (atomic_load(&control->gifts_taken) >= control->gifts)
            row->cut = "no block left to free";
        else if (now() > victim->deadline)
            row->cut = row->windows[ITS_OWN] != 0 ? "it blocks" : "time is up";
        if (row->cut != NULL)
            break;
    }
    if (gave_up)
        row->cut = "it stood still";
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
    if (victim->thread == 0)
        return false;
    if (ptrace(PTRACE_SEIZE, victim->thread, NULL, (void *)PTRACE_O_EXITKILL) != 0) {
        perror("stallmap: ptrace");
        kill(victim->process, SIGKILL);
        exit(errno == EPERM ? NOT_ALLOWED : 2);
    }
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
    map_control(file);
    memset(&victim, 0, sizeof(victim));
    memset(seen, 0, sizeof(seen));
    seen_count = 0;
    gave_up = 0;
    control->clock_has_lock = with_lock;
    control->gifts = full ? GIFTS_MAX : GIFTS_FEW;
    victim.library = library;
    victim.deadline = now() + ROW_SECONDS;
    victim.next_progress = now() + PROGRESS_SECONDS;
    sched_setaffinity(0, sizeof(everywhere), &everywhere);
    victim.process = watched = start_child(library, file, operation);
    alarm(ROW_SECONDS + DEADLOCK_SECONDS); /* see give_up() */
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
    control = NULL;
    close(file);
    return victim.row;
}

/* ---- The table --------------------------------------------------------------------------------
 */

enum { LIBRARIES_MAX = 12, ROWS_CHOSEN_MAX = 12, NAME_WIDTH = 20, CELL_WIDTH = 24 };

static struct row rows[OPERATIONS][LIBRARIES_MAX];
static const char *chosen_rows[ROWS_CHOSEN_MAX];
static size_t chosen_count;

static bool is_chosen(size_t operation)
{
    for (size_t i = 0; i < chosen_count; i++)
        if (strstr(operations[operation].name, chosen_rows[i]) != NULL)
            return true;
    return chosen_count == 0;
}

static void short_name(const char *path, char *text, size_t bytes)
{
    const char *name = base_name(path);
    snprintf(text, bytes, "%s", strncmp(name, "lib", 3) == 0 ? name + 3 : name);
    char *dot = strstr(text, ".so");
    if (dot != NULL)
        *dot = '\0';
}

static void print_cell(const struct row *row)
{
    char text[80];
    size_t length =
        (size_t)snprintf(text, sizeof(text), "%s%" PRIu64 " of %" PRIu64,
                         row->cut != NULL ? ">= " : "", row->blocked[ITS_OWN], row->held);
    if (row->held != row->steps)
        snprintf(text + length, sizeof(text) - length, " / %" PRIu64, row->steps);
    printf(" %*s |", CELL_WIDTH, row->steps == 0 ? "failed" : text);
}

/* As Markdown has tables. */
static void print_table(char **libraries, size_t count)
{
    char text[64];
    printf("| %-*s |", NAME_WIDTH, "");
    for (size_t i = 0; i < count; i++) {
        short_name(libraries[i], text, sizeof(text));
        printf(" %*s |", CELL_WIDTH, text);
    }
    printf("\n|---|");
    for (size_t i = 0; i < count; i++)
        printf("--:|");
    for (size_t operation = 0; operation < OPERATIONS; operation++) {
        if (!is_chosen(operation))
            continue;
        printf("\n| %-*s |", NAME_WIDTH, operations[operation].name);
        for (size_t i = 0; i < count; i++)
            print_cell(&rows[operation][i]);
    }
    printf("\n");
}

static void print_place(const char *library, size_t operation, const struct row *row,
                        enum blame blame)
{
    if (row->windows[blame] != 0)
        printf("  %s, %s%s: %" PRIu64 " instructions in %" PRIu64
               " stretches, first %s; who waited:%s\n",
               library, operations[operation].name, blame == LIBCS ? ", libc's own locks" : "",
               row->blocked[blame], row->windows[blame], row->first[blame], row->waiters[blame]);
}

static void print_places(char **libraries, size_t count)
{
    char name[64];
    printf("\nWhere:\n");
    for (size_t i = 0; i < count; i++) {
        short_name(libraries[i], name, sizeof(name));
        for (size_t operation = 0; operation < OPERATIONS; operation++) {
            const struct row *row = &rows[operation][i];
            print_place(name, operation, row, ITS_OWN);
            print_place(name, operation, row, LIBCS);
            if (row->cut != NULL)
                printf("  %s, %s: cut short, %s\n", name, operations[operation].name, row->cut);
        }
    }
}

static void print_legend(char **libraries, size_t count)
{
    char name[64];
    printf("\nA thread was held; at N instructions it blocked others (\">= N\": the row is cut "
           "short).\n"
           "\"N of H\": held at all H instructions it ran. \"N of H / S\": held at H of S.\n");
    for (size_t i = 0; i < count; i++) {
        uint64_t steps = 0, held = 0;
        for (size_t operation = 0; operation < OPERATIONS; operation++) {
            steps += rows[operation][i].steps;
            held += rows[operation][i].held;
        }
        short_name(libraries[i], name, sizeof(name));
        printf("%s: %" PRIu64 " instructions, held at %" PRIu64 ".\n", name, steps, held);
    }
}

static bool is_as_wanted(const struct row *row, bool gated)
{
    if (row->steps == 0)
        return false;
    if (must_block)
        return row->blocked[ITS_OWN] != 0;
    return !gated || (row->blocked[ITS_OWN] == 0 && row->cut == NULL);
}

static bool all_as_wanted(size_t count)
{
    bool wanted = true;
    for (size_t operation = 0; operation < OPERATIONS; operation++)
        for (size_t i = 0; i < count && is_chosen(operation); i++)
            wanted = wanted && is_as_wanted(&rows[operation][i], gate && i == 0);
    return wanted;
}

static void measure_one(const char *name, const char *library, size_t operation, struct row *row)
{
    double start = now();
    *row = trace(library, operation);
    fprintf(stderr,
            "%s: %s: %" PRIu64 " steps, held at %" PRIu64 ", blocked at %" PRIu64 ", %.1f s\n",
            base_name(name), operations[operation].name, row->steps, row->held,
            row->blocked[ITS_OWN], now() - start);
}

static void measure(char **libraries, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *library = strcmp(libraries[i], "glibc") == 0 ? NULL : libraries[i];
        if (library != NULL && access(library, R_OK) != 0)
            fail(library);
        for (size_t operation = 0; operation < OPERATIONS; operation++)
            if (is_chosen(operation))
                measure_one(libraries[i], library, operation, &rows[operation][i]);
    }
}

/* How many words the option takes; 0 if there is no such option. */
static int read_option(const char *word, const char *value)
{
    if (strcmp(word, "--full") == 0)
        full = true;
    else if (strcmp(word, "--gate") == 0)
        gate = true;
    else if (strcmp(word, "--must-block") == 0)
        must_block = true;
    else if (strcmp(word, "--lock") == 0)
        with_lock = true;
    else if (strcmp(word, "--every") == 0 && value != NULL)
        every = strtoul(value, NULL, 10) | 1;
    else if (strcmp(word, "--row") == 0 && value != NULL && chosen_count < ROWS_CHOSEN_MAX)
        chosen_rows[chosen_count++] = value;
    else
        return 0;
    return word[2] == 'e' || word[2] == 'r' ? 2 : 1;
}

static bool any_row_chosen(void)
{
    for (size_t operation = 0; operation < OPERATIONS; operation++)
        if (is_chosen(operation))
            return true;
    return false;
}

int main(int count, char **arguments)
{
    int next = 1, words = 1;
    if (count == 4 && strcmp(arguments[1], "--child") == 0)
        return child_main(atoi(arguments[2]), strtoul(arguments[3], NULL, 10));
    for (; words != 0 && next < count && arguments[next][0] == '-'; next += words)
        words = read_option(arguments[next], arguments[next + 1]);
    if (words == 0 || next >= count || count - next > LIBRARIES_MAX || !any_row_chosen()) {
        fprintf(stderr, "usage: stallmap [--full] [--every N] [--row TEXT]... "
                        "[--gate | --must-block] [--lock] LIBRARY.so|glibc ...\n");
        return 2;
    }
    unsetenv("LD_PRELOAD");
    signal(SIGALRM, give_up);
    sched_getaffinity(0, sizeof(everywhere), &everywhere);
    measure(arguments + next, (size_t)(count - next));
    printf("\n");
    print_table(arguments + next, (size_t)(count - next));
    print_legend(arguments + next, (size_t)(count - next));
    print_places(arguments + next, (size_t)(count - next));
    return all_as_wanted((size_t)(count - next)) ? 0 : 1;
}
