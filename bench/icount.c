/* SPDX-License-Identifier: MIT */
/* icount: how many instructions and atomic operations one malloc and one free execute.
 *
 *   icount [--size BYTES] [--calls N] LIBRARY...      LIBRARY: path of a shared library, or "glibc"
 *
 * For each library icount starts itself again, with the library preloaded, and single-steps that
 * child (ptrace) through the measured calls: call instruction, PLT jump, function and return. A
 * breakpoint instruction on either side marks what counts, so the loop around it does not, and
 * symbols are bound before main (LD_BIND_NOW), so neither does the dynamic linker.
 *
 * Four columns, all after a warm-up; the first two while the process has one thread:
 *   malloc             N blocks in a row
 *   local free         the same blocks, oldest first
 *   remote free        every other block of a few that another live thread has just taken
 *   remote free, full  N blocks spread over some MiB that another live thread keeps taken
 *
 * Counts do not depend on how busy the machine is; they say nothing about caches or contention.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

enum column { MALLOC, LOCAL_FREE, REMOTE_FREE, REMOTE_FREE_FULL, COLUMN_COUNT, NOT_MEASURED };

enum {
    WARM_UP_ROUNDS = 3,
    IN_USE_BATCH_BYTES = 4096,    /* far less than any allocator's pool of small blocks */
    FULL_BYTES = 4 * 1024 * 1024, /* many pools of them, nearly all without a free block */
    FULL_BLOCKS_PER_CALL = 4,     /* at least so many, if the blocks are large */
    STEPS_MAX = 1000 * 1000,      /* per call; beyond it something loops */
    CHILD_SECONDS_MAX = 300,
    INSTRUCTION_BYTES_MAX = 15,
};

/* The measured calls. The column travels in the second argument register, which neither malloc nor
 * free reads, to where the parent finds it when the first breakpoint stops the child. */
void *icount_malloc(size_t block_bytes, enum column column);
void icount_free(void *block, enum column column);

#if defined(__x86_64__)
#define MEASURED(name, function)                                                                   \
    __asm__(".text\n.globl " name "\n.type " name ", @function\n" name ":\n"                       \
            "sub $8, %rsp\nint3\ncall " function "@PLT\nint3\nadd $8, %rsp\nret\n")
#define PROGRAM_COUNTER  rip
#define COLUMN_OF(regs)  ((unsigned)(regs).rsi)
#define BREAKPOINT_BYTES 1

static bool is_breakpoint(const uint8_t *code)
{
    return code[0] == 0xcc;
}

static bool is_legacy_prefix(uint8_t byte)
{
    return byte != 0 && strchr("\x26\x2e\x36\x3e\x64\x65\x66\x67\xf2\xf3", byte) != NULL;
}

/* A lock prefix, or an exchange with memory, which locks without one. */
static bool is_atomic(const uint8_t *code)
{
    const uint8_t *end = code + INSTRUCTION_BYTES_MAX - 1;
    while (code < end && is_legacy_prefix(*code))
        code++;
    if (*code == 0xf0)
        return true;
    if (code < end - 1 && (*code & 0xf0) == 0x40)
        code++; /* REX */
    bool exchange = *code == 0x86 || *code == 0x87;
    return exchange && (code[1] & 0xc0) != 0xc0;
}
#elif defined(__aarch64__)
#define MEASURED(name, function)                                                                   \
    __asm__(".text\n.globl " name "\n.type " name ", %function\n" name ":\n"                       \
            "stp x29, x30, [sp, #-16]!\nbrk #0\nbl " function "\nbrk #0\n"                         \
            "ldp x29, x30, [sp], #16\nret\n")
#define PROGRAM_COUNTER  pc
#define COLUMN_OF(regs)  ((unsigned)(regs).regs[1])
#define BREAKPOINT_BYTES 4

static uint32_t instruction_at(const uint8_t *code)
{
    uint32_t instruction;
    memcpy(&instruction, code, sizeof(instruction));
    return instruction;
}

static bool is_breakpoint(const uint8_t *code)
{
    return instruction_at(code) == 0xd4200000;
}

/* A store-exclusive, a CAS, or another LSE read-modify-write (ldapr shares their pattern). A loop
 * of load- and store-exclusive never succeeds when stepped: such code runs into STEPS_MAX. */
static bool is_atomic(const uint8_t *code)
{
    uint32_t instruction = instruction_at(code);
    bool store_exclusive = (instruction & 0x3fc00000) == 0x08000000;
    bool compare_and_swap = (instruction & 0x3fa07c00) == 0x08a07c00;
    bool load_acquire = (instruction & 0x3ffffc00) == 0x38bfc000;
    bool other = (instruction & 0x3f200c00) == 0x38200000 && !load_acquire;
    return store_exclusive || compare_and_swap || other;
}
#else
#error "icount knows x86-64 and aarch64"
#endif

MEASURED("icount_malloc", "malloc");
MEASURED("icount_free", "free");

static void fail(const char *what)
{
    fprintf(stderr, "icount: %s: %s\n", what, strerror(errno));
    exit(1);
}

static size_t at_least(size_t value, size_t minimum)
{
    return value > minimum ? value : minimum;
}

/* ---- The child: makes the calls ---- */

/* A thread that takes blocks, round after round, and stays alive while this one frees some. */
struct owner {
    pthread_barrier_t barrier; /* passed twice a round: blocks are taken; the others have freed */
    void **blocks;
    size_t block_bytes;
    size_t taken_count; /* per round */
    size_t freed_count; /* of them, by the other thread */
    size_t rounds;
};

static void *take_block(size_t block_bytes, enum column column)
{
    void *block = column == NOT_MEASURED ? malloc(block_bytes) : icount_malloc(block_bytes, column);
    if (block == NULL)
        fail("malloc");
    memset(block, 1, 1);
    return block;
}

static void free_block(void *block, enum column column)
{
    if (column == NOT_MEASURED)
        free(block);
    else
        icount_free(block, column);
}

static void *own(void *argument)
{
    struct owner *owner = argument;
    for (size_t round = 0; round < owner->rounds; round++) {
        for (size_t i = 0; i < owner->taken_count; i++)
            owner->blocks[i] = take_block(owner->block_bytes, NOT_MEASURED);
        pthread_barrier_wait(&owner->barrier);
        pthread_barrier_wait(&owner->barrier);
        for (size_t i = 0; i < owner->taken_count; i++)
            free(owner->blocks[i]);
    }
    return NULL;
}

static void free_remotely(struct owner *owner, enum column column)
{
    size_t stride = owner->taken_count / owner->freed_count;
    for (size_t i = 0; i < owner->freed_count; i++) {
        free_block(owner->blocks[i * stride], column);
        owner->blocks[i * stride] = NULL;
    }
}

static void run_remote(struct owner *owner, enum column column)
{
    pthread_t thread;
    size_t measured_from = WARM_UP_ROUNDS;
    owner->rounds += WARM_UP_ROUNDS;
    owner->blocks = calloc(owner->taken_count, sizeof(*owner->blocks));
    if (owner->blocks == NULL || pthread_barrier_init(&owner->barrier, NULL, 2) != 0 ||
        pthread_create(&thread, NULL, own, owner) != 0)
        fail("owner thread");
    for (size_t round = 0; round < owner->rounds; round++) {
        pthread_barrier_wait(&owner->barrier);
        free_remotely(owner, round < measured_from ? NOT_MEASURED : column);
        pthread_barrier_wait(&owner->barrier);
    }
    pthread_join(thread, NULL);
    free(owner->blocks);
}

static void run_local(size_t block_bytes, size_t calls)
{
    void **blocks = calloc(calls, sizeof(*blocks));
    if (blocks == NULL)
        fail("calloc");
    for (int round = 0; round <= WARM_UP_ROUNDS; round++) {
        bool measured = round == WARM_UP_ROUNDS;
        for (size_t i = 0; i < calls; i++)
            blocks[i] = take_block(block_bytes, measured ? MALLOC : NOT_MEASURED);
        for (size_t i = 0; i < calls; i++)
            free_block(blocks[i], measured ? LOCAL_FREE : NOT_MEASURED);
    }
    free(blocks);
}

/* A preload that cannot be loaded is only a message on stderr to the dynamic linker. */
static void check_preload(const char *library)
{
    Dl_info info;
    void *address = dlsym(RTLD_DEFAULT, "malloc");
    if (library == NULL ||
        (address != NULL && dladdr(address, &info) != 0 && strcmp(info.dli_fname, library) == 0))
        return;
    fprintf(stderr, "icount: malloc is not that of %s\n", library);
    exit(1);
}

static int child_main(size_t block_bytes, size_t calls)
{
    size_t batch = at_least(IN_USE_BATCH_BYTES / block_bytes, 1);
    size_t full_count = at_least(FULL_BYTES / block_bytes, FULL_BLOCKS_PER_CALL * calls);
    struct owner in_use = {.block_bytes = block_bytes,
                           .taken_count = 2 * batch,
                           .freed_count = batch,
                           .rounds = (calls + batch - 1) / batch};
    struct owner full = {
        .block_bytes = block_bytes, .taken_count = full_count, .freed_count = calls, .rounds = 1};

    alarm(CHILD_SECONDS_MAX);
    check_preload(getenv("LD_PRELOAD"));
    run_local(block_bytes, calls);
    run_remote(&in_use, REMOTE_FREE);
    run_remote(&full, REMOTE_FREE_FULL);
    return 0;
}

/* ---- The parent: steps and counts ---- */

struct samples {
    uint32_t *instructions; /* one per call */
    size_t count;
    size_t capacity;
    uint64_t atomic_total;
};

static struct user_regs_struct registers_of(pid_t child)
{
    struct user_regs_struct registers;
    struct iovec vector = {&registers, sizeof(registers)};
    if (ptrace(PTRACE_GETREGSET, child, NT_PRSTATUS, &vector) != 0)
        fail("PTRACE_GETREGSET");
    return registers;
}

/* Fewer bytes than asked for may come back, at the end of a mapping: the rest is zero. */
static void read_code(pid_t child, uint8_t code[INSTRUCTION_BYTES_MAX])
{
    uintptr_t address = (uintptr_t)registers_of(child).PROGRAM_COUNTER;
    struct iovec local = {code, INSTRUCTION_BYTES_MAX};
    struct iovec remote = {(void *)address, INSTRUCTION_BYTES_MAX};
    memset(code, 0, INSTRUCTION_BYTES_MAX);
    if (process_vm_readv(child, &local, 1, &remote, 1, 0) <= 0)
        fail("process_vm_readv");
}

static void skip_breakpoint(pid_t child)
{
    struct user_regs_struct registers = registers_of(child);
    struct iovec vector = {&registers, sizeof(registers)};
    registers.PROGRAM_COUNTER += BREAKPOINT_BYTES;
    if (ptrace(PTRACE_SETREGSET, child, NT_PRSTATUS, &vector) != 0)
        fail("PTRACE_SETREGSET");
}

/* Go on, in the given way, to the next trap; other signals are passed on. False: the child ended.
 */
static bool resume(pid_t child, enum __ptrace_request how, int *status)
{
    for (intptr_t signal_number = 0;; signal_number = WSTOPSIG(*status)) {
        if (ptrace(how, child, NULL, (void *)signal_number) != 0)
            fail("ptrace");
        if (waitpid(child, status, 0) != child)
            fail("waitpid");
        if (!WIFSTOPPED(*status))
            return false;
        if (WSTOPSIG(*status) == SIGTRAP)
            return true;
    }
}

/* Step from behind the first breakpoint to the second, and leave the child behind that one. */
static bool count_call(pid_t child, struct samples *samples, int *status)
{
    uint8_t code[INSTRUCTION_BYTES_MAX];
    uint32_t count = 0;
    if (samples->count == samples->capacity)
        return false;
    for (read_code(child, code); !is_breakpoint(code); read_code(child, code)) {
        samples->atomic_total += is_atomic(code);
        if (++count > STEPS_MAX || !resume(child, PTRACE_SINGLESTEP, status))
            return false;
    }
    samples->instructions[samples->count++] = count;
    skip_breakpoint(child);
    return true;
}

/* True: the child made all its calls and ended well. */
static bool count_calls(pid_t child, struct samples samples[COLUMN_COUNT])
{
    int status;
    uint8_t code[INSTRUCTION_BYTES_MAX];
    if (waitpid(child, &status, 0) != child || !WIFSTOPPED(status))
        return false;
    ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)PTRACE_O_EXITKILL);
    while (resume(child, PTRACE_CONT, &status)) {
        unsigned column = COLUMN_OF(registers_of(child));
        read_code(child, code);
        if (is_breakpoint(code))
            skip_breakpoint(child); /* where the processor stops on it, not behind it */
        if (column >= COLUMN_COUNT || !count_call(child, &samples[column], &status))
            return false;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void exec_child(const char *library, size_t block_bytes, size_t calls)
{
    char size_text[24], calls_text[24];
    snprintf(size_text, sizeof(size_text), "%zu", block_bytes);
    snprintf(calls_text, sizeof(calls_text), "%zu", calls);
    unsetenv("LD_PRELOAD");
    if (library != NULL)
        setenv("LD_PRELOAD", library, 1);
    setenv("LD_BIND_NOW", "1", 1);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
        fail("PTRACE_TRACEME");
    execl("/proc/self/exe", "icount", "--child", size_text, calls_text, (char *)NULL);
    fail("exec");
}

static int by_value(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static void print_cell(struct samples *samples)
{
    size_t count = samples->count;
    double total = 0;
    char text[64];
    qsort(samples->instructions, count, sizeof(*samples->instructions), by_value);
    for (size_t i = 0; i < count; i++)
        total += samples->instructions[i];
    snprintf(text, sizeof(text), "%u (%u, %.1f, %u) %.2f", samples->instructions[count / 2],
             samples->instructions[0], total / (double)count, samples->instructions[count - 1],
             (double)samples->atomic_total / (double)count);
    printf("  %-30s", text);
}

/* False, and a row that says so, if a column has nothing. */
static bool print_row(const char *library, bool complete, struct samples samples[COLUMN_COUNT])
{
    const char *slash = strrchr(library, '/');
    printf("%-26s", slash == NULL ? library : slash + 1);
    for (int column = 0; column < COLUMN_COUNT; column++)
        complete = complete && samples[column].count > 0;
    for (int column = 0; complete && column < COLUMN_COUNT; column++)
        print_cell(&samples[column]);
    printf(complete ? "\n" : "  failed\n");
    fflush(stdout);
    return complete;
}

/* Parent and child take turns; on one processor a turn costs a third of what it does on two. */
static void stay_on_this_processor(void)
{
    cpu_set_t processors;
    int here = sched_getcpu();
    if (here < 0)
        return;
    CPU_ZERO(&processors);
    CPU_SET((size_t)here, &processors);
    sched_setaffinity(0, sizeof(processors), &processors); /* may fail: it is only for speed */
}

static bool count_in_child(const char *library, size_t block_bytes, size_t calls,
                           struct samples samples[COLUMN_COUNT])
{
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0)
        exec_child(library, block_bytes, calls);
    bool complete = count_calls(child, samples);
    kill(child, SIGKILL); /* may be stopped in a call; PTRACE_CONT is not enough then */
    while (waitpid(child, NULL, 0) > 0)
        continue;
    return complete;
}

static bool measure(const char *library, size_t block_bytes, size_t calls)
{
    struct samples samples[COLUMN_COUNT] = {0};
    char path[PATH_MAX];
    bool is_glibc = strcmp(library, "glibc") == 0;
    if (!is_glibc && realpath(library, path) == NULL)
        fail(library);
    for (int column = 0; column < COLUMN_COUNT; column++) {
        samples[column].capacity = calls + IN_USE_BATCH_BYTES; /* the last batch may go beyond */
        samples[column].instructions = calloc(samples[column].capacity, sizeof(uint32_t));
        if (samples[column].instructions == NULL)
            fail("calloc");
    }
    bool complete = count_in_child(is_glibc ? NULL : path, block_bytes, calls, samples);
    complete = print_row(library, complete, samples);
    for (int column = 0; column < COLUMN_COUNT; column++)
        free(samples[column].instructions);
    return complete;
}

struct request {
    size_t block_bytes;
    size_t calls;
    int first_library; /* index into argv */
};

static void usage(void)
{
    fprintf(stderr, "usage: icount [--size BYTES] [--calls N] LIBRARY.so|glibc ...\n"
                    "both numbers from 1 to 1000000\n");
    exit(2);
}

static size_t positive(const char *text)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (*end != '\0' || value == 0 || value > 1000 * 1000)
        usage();
    return value;
}

static struct request parse(int argc, char **argv)
{
    struct request request = {.block_bytes = 64, .calls = 500, .first_library = 1};
    int *i = &request.first_library;
    for (; *i + 1 < argc && strncmp(argv[*i], "--", 2) == 0; *i += 2) {
        if (strcmp(argv[*i], "--size") == 0)
            request.block_bytes = positive(argv[*i + 1]);
        else if (strcmp(argv[*i], "--calls") == 0)
            request.calls = positive(argv[*i + 1]);
        else
            usage();
    }
    if (*i >= argc || strncmp(argv[*i], "--", 2) == 0)
        usage();
    return request;
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "--child") == 0)
        return child_main(positive(argv[2]), positive(argv[3]));

    struct request request = parse(argc, argv);
    bool complete = true;
    printf("Instructions for one call, %zu-byte blocks, %zu calls: median (min, mean, max), then "
           "atomic operations (mean)\n%-26s  %-30s  %-30s  %-30s  %-30s\n",
           request.block_bytes, request.calls, "library", "malloc", "local free", "remote free",
           "remote free, full");
    fflush(stdout); /* before fork: the child's copy of the buffer must be empty */
    stay_on_this_processor();
    for (int i = request.first_library; i < argc; i++)
        complete = measure(argv[i], request.block_bytes, request.calls) && complete;
    return complete ? 0 : 1;
}
