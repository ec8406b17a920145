/* SPDX-License-Identifier: MIT */
/* Logical threads, and the system below the library: memory, a clock, thread keys.
 *
 * All that a schedule changes is in `memory` (what the library mapped), `now` and the library's own
 * variables (library.c), and goes back to what setup left. The library tells which pages it begins
 * to use (fh_os_show_in_core), so only these are copied; that it touches no others is checked too.
 */
#include "sched.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "bits.h"
#include "library.h"
#include "os.h"
#include "weak.h"

enum {
    MEMORY_BYTES = 6 << 20,
    PAGE_BYTES = 4096,
    PAGES = MEMORY_BYTES / PAGE_BYTES,
    ALIGN_BYTES = 1 << 16,
    STACK_BYTES = 1 << 16,
    KEYS = 8,
    LIMIT_BYTES = 256 << 10,
    START_MS = 1000,
    ELSEWHERE = 1000, /* from one process to the other that shares the memory */
};

enum page { UNMAPPED, HIDDEN, SHOWN };

struct logical {
    const struct fh_theap *heap;
    const void *specific[KEYS];
    bool ended, frozen, interrupted, dead, elsewhere;
};

static struct {
    struct library_state library;
    struct logical threads[THREADS_MAX + 1]; /* the last is the test itself */
    void (*destructors[KEYS])(void *value);
    uint32_t keys;
    uint32_t clock_ms;
    uint32_t process;
    void *wiped_on_fork; /* a page */
    size_t end_page;     /* mapped so far */
    uint8_t pages[PAGES];
} now, saved;

static _Alignas(ALIGN_BYTES) char memory[MEMORY_BYTES];
static char saved_memory[MEMORY_BYTES];

/* Contexts live as long as their programs come to an end; a frozen one is made anew. */
static struct {
    ucontext_t start;
    jmp_buf stopped;
    bool made;
    _Alignas(16) char stack[STACK_BYTES];
} contexts[THREADS_MAX];

static jmp_buf test_stopped;
static int current = THREADS_MAX;
static bool running, counting;
static int quiet;
static unsigned steps;

const struct scenario *scenario_now;

/* ---- Switching --------------------------------------------------------------------------------
 */

static void run_program(void);

static __attribute__((noinline, noreturn)) void go_to(int thread)
{
    current = thread;
    fh_theap_current = now.threads[thread].heap;
    if (thread == THREADS_MAX)
        _longjmp(test_stopped, 1);
    if (contexts[thread].made)
        _longjmp(contexts[thread].stopped, 1);
    contexts[thread].made = true;
    setcontext(&contexts[thread].start);
    abort();
}

static jmp_buf *stop_here(void)
{
    now.threads[current].heap = fh_theap_current;
    return current == THREADS_MAX ? &test_stopped : &contexts[current].stopped;
}

static __attribute__((noinline)) void switch_to(int thread)
{
    jmp_buf *here = stop_here();
    if (_setjmp(*here) == 0)
        go_to(thread);
}

static void make_context(int thread)
{
    if (contexts[thread].made)
        return;
    getcontext(&contexts[thread].start);
    contexts[thread].start.uc_stack.ss_sp = contexts[thread].stack;
    contexts[thread].start.uc_stack.ss_size = STACK_BYTES;
    makecontext(&contexts[thread].start, run_program, 0);
}

/* ---- Steps ------------------------------------------------------------------------------------
 */

static bool can_run(int thread)
{
    return scenario_now->program[thread] != NULL && !now.threads[thread].ended &&
           !now.threads[thread].frozen;
}

static void add(struct situation *situation, enum choice_kind kind, int thread)
{
    situation->choices[situation->count++] = (struct choice){kind, thread};
}

static void add_others(struct situation *situation, enum choice_kind kind)
{
    for (int thread = 0; thread < THREADS_MAX; thread++)
        if (thread != current && can_run(thread))
            add(situation, kind, thread);
}

static bool may_be_interrupted(void)
{
    return current == 0 && scenario_now->handler != NULL && !now.threads[0].interrupted;
}

static void count_step(void)
{
    if (++steps > STEPS_MAX)
        fail("no end after %d steps: a thread waits for another", STEPS_MAX);
}

static void run_handler(void)
{
    now.threads[0].interrupted = true;
    scenario_now->handler();
}

static void act(struct choice choice)
{
    if (choice.kind == SIGNAL) {
        run_handler();
        return;
    }
    if (choice.kind == GO_ON)
        return;
    if (choice.kind == FREEZE) {
        now.threads[current].frozen = true;
        contexts[current].made = false;
    }
    switch_to(choice.thread < 0 ? THREADS_MAX : choice.thread);
}

static struct situation situation_at(const void *at, const char *operation)
{
    struct situation situation = {.at = at, .operation = operation};
    add(&situation, GO_ON, current);
    if (at != NULL)
        add_others(&situation, SWITCH);
    if (may_be_interrupted())
        add(&situation, SIGNAL, current);
    if (at != NULL) {
        unsigned before = situation.count;
        add_others(&situation, FREEZE);
        if (situation.count == before)
            add(&situation, FREEZE, -1);
    }
    return situation;
}

void fh_sched_point(const void *at, const char *operation);

void fh_sched_point(const void *at, const char *operation)
{
    if (quiet > 0)
        return;
    if (running && current != THREADS_MAX) {
        count_step();
        struct situation situation = situation_at(at, operation);
        act(explorer_choose(&situation));
    } else if (counting) {
        count_step();
    }
}

/* Called at the start of each basic block of the library: where a signal may come in, too. */
void __sanitizer_cov_trace_pc(void);

void __sanitizer_cov_trace_pc(void)
{
    if (!running || quiet > 0 || !may_be_interrupted())
        return;
    count_step();
    struct situation situation = situation_at(NULL, "block");
    act(explorer_choose(&situation));
}

bool machine_explores(void)
{
    return running && quiet == 0 && current != THREADS_MAX;
}

unsigned machine_choose_older(const void *at, unsigned most, bool again)
{
    struct situation situation = {.at = at, .operation = "fh_load, or older", .free = again};
    count_step();
    add(&situation, GO_ON, current);
    for (unsigned older = 1; older <= most; older++)
        add(&situation, OLDER, (int)older);
    struct choice choice = explorer_choose(&situation);
    return choice.kind == OLDER ? (unsigned)choice.thread : 0;
}

/* Who is next when nobody has to be interrupted for it. */
static int choose_next(void)
{
    struct situation situation = {.count = 0};
    add_others(&situation, SWITCH);
    if (situation.count == 0)
        return THREADS_MAX;
    count_step();
    return explorer_choose(&situation).thread;
}

static void run_program(void)
{
    for (;;) {
        scenario_now->program[current]();
        now.threads[current].ended = true;
        switch_to(choose_next());
    }
}

void machine_run(void)
{
    for (int thread = 0; thread < THREADS_MAX; thread++)
        make_context(thread);
    steps = 0;
    running = true;
    switch_to(choose_next());
    running = false;
}

/* ---- Threads ----------------------------------------------------------------------------------
 */

int machine_thread(void)
{
    return current;
}

bool machine_froze(void)
{
    for (int thread = 0; thread < THREADS_MAX; thread++)
        if (now.threads[thread].frozen)
            return true;
    return false;
}

unsigned machine_steps(void)
{
    return steps;
}

bool machine_holds_heap(uint32_t id)
{
    now.threads[current].heap = fh_theap_current;
    for (int thread = 0; thread <= THREADS_MAX; thread++)
        if (now.threads[thread].heap->id == id)
            return true;
    return false;
}

void machine_quietly(bool quietly)
{
    quiet += quietly ? 1 : -1;
}

void machine_count_steps(void)
{
    steps = 0;
    counting = true;
}

void be_thread(int thread)
{
    now.threads[current].heap = fh_theap_current;
    current = thread;
    fh_theap_current = now.threads[thread].heap;
}

void exit_thread(void)
{
    for (uint32_t key = 0; key < now.keys; key++) {
        void *value = (void *)(uintptr_t)now.threads[current].specific[key];
        now.threads[current].specific[key] = NULL;
        if (value != NULL && now.destructors[key] != NULL)
            now.destructors[key](value);
    }
}

void start_thread(void)
{
    now.threads[current].dead = false;
    fh_theap_current = &fh_theap_none;
}

void die(void)
{
    memset(now.threads[current].specific, 0, sizeof now.threads[current].specific);
    now.threads[current].dead = true;
    fh_theap_current = &fh_theap_none;
}

void fork_here(void)
{
    now.process++;
    if (now.wiped_on_fork != NULL)
        memset(now.wiped_on_fork, 0, PAGE_BYTES);
    for (int thread = 0; thread <= THREADS_MAX; thread++) {
        now.threads[thread].dead = thread != current;
        if (thread != current) {
            now.threads[thread].heap = &fh_theap_none;
            memset(now.threads[thread].specific, 0, sizeof now.threads[thread].specific);
        }
    }
}

void be_elsewhere(void)
{
    now.threads[current].elsewhere = true;
}

void machine_end_threads(void)
{
    for (int thread = 0; thread <= THREADS_MAX; thread++) {
        be_thread(thread);
        exit_thread();
        now.threads[thread].dead = thread != THREADS_MAX; /* the test itself looks for the others */
    }
}

int sched_key_create(pthread_key_t *key, void (*destructor)(void *value))
{
    if (now.keys == KEYS)
        return -1;
    now.destructors[now.keys] = destructor;
    *key = now.keys++;
    return 0;
}

int sched_key_delete(pthread_key_t key)
{
    now.destructors[key] = NULL;
    return 0;
}

int sched_setspecific(pthread_key_t key, const void *value)
{
    CHECK(key < now.keys && now.destructors[key] != NULL);
    now.threads[current].specific[key] = value;
    return 0;
}

/* ---- Starting afresh --------------------------------------------------------------------------
 */

static char *page_at(size_t page)
{
    return memory + page * PAGE_BYTES;
}

static void save(void)
{
    library_save(&now.library);
    be_thread(THREADS_MAX);
    saved = now;
    for (size_t page = 0; page < now.end_page; page++)
        if (now.pages[page] == SHOWN)
            memcpy(saved_memory + page * PAGE_BYTES, page_at(page), PAGE_BYTES);
    check_save();
}

static void restore_page(size_t page)
{
    if (saved.pages[page] == SHOWN)
        memcpy(page_at(page), saved_memory + page * PAGE_BYTES, PAGE_BYTES);
    else
        memset(page_at(page), 0, PAGE_BYTES);
}

void machine_reset(void)
{
    for (size_t page = 0; page < now.end_page; page++)
        if (now.pages[page] == SHOWN)
            restore_page(page);
    now = saved;
    current = THREADS_MAX;
    fh_theap_current = now.threads[current].heap;
    counting = false;
    library_restore(&now.library);
    check_restore();
    weak_reset();
}

void machine_prepare(const struct scenario *scenario)
{
    scenario_now = scenario;
    memset(memory, 0, sizeof memory);
    memset(&now, 0, sizeof now);
    now.clock_ms = START_MS;
    for (int thread = 0; thread <= THREADS_MAX; thread++)
        now.threads[thread].heap = &fh_theap_none;
    fh_theap_current = &fh_theap_none;
    library_save(&now.library);
    check_reset();
    if (scenario->setup != NULL) {
        be_thread(0);
        scenario->setup();
        be_thread(THREADS_MAX);
    }
    save();
}

void machine_check_untouched(void)
{
    for (size_t page = 0; page < PAGES; page++)
        if (now.pages[page] != SHOWN)
            for (size_t byte = 0; byte < PAGE_BYTES; byte++)
                if (page_at(page)[byte] != 0)
                    fail("page %zu was written to and never shown", page);
}

/* ---- The system -------------------------------------------------------------------------------
 */

bool machine_maps(const void *address)
{
    return (uintptr_t)address - (uintptr_t)memory < MEMORY_BYTES;
}

static size_t page_of(const void *start)
{
    return (size_t)((const char *)start - memory) / PAGE_BYTES;
}

bool machine_shows(const void *start, size_t bytes)
{
    size_t end = page_of((const char *)start + bytes - 1) + 1;
    for (size_t page = page_of(start); page < end; page++)
        if (page >= PAGES || now.pages[page] != SHOWN)
            return false;
    return true;
}

static void mark(const void *start, size_t bytes, enum page state)
{
    size_t first = page_of(start);
    CHECK((uintptr_t)start % PAGE_BYTES == 0 && first + bytes / PAGE_BYTES <= PAGES);
    memset(now.pages + first, (int)state, bytes / PAGE_BYTES);
}

static void *map(size_t bytes, enum page state)
{
    size_t start = fh_round_up(now.end_page * PAGE_BYTES, ALIGN_BYTES);
    if (bytes > MEMORY_BYTES - start)
        return NULL;
    now.end_page = (start + bytes) / PAGE_BYTES;
    mark(memory + start, bytes, state);
    return memory + start;
}

void *fh_os_map(size_t bytes)
{
    return scenario_now->reserves ? NULL : map(bytes, SHOWN);
}

void *fh_os_reserve(size_t bytes)
{
    return scenario_now->reserves ? map(bytes, HIDDEN) : NULL;
}

bool fh_os_commit(void *start, size_t bytes)
{
    CHECK(scenario_now->reserves);
    mark(start, bytes, SHOWN);
    return true;
}

bool fh_os_unmap(void *start, size_t bytes)
{
    for (size_t page = page_of(start); page < page_of(start) + bytes / PAGE_BYTES; page++)
        if (now.pages[page] == SHOWN)
            memset(page_at(page), 0, PAGE_BYTES);
    mark(start, bytes, UNMAPPED);
    return true;
}

bool fh_os_purge(void *start, size_t bytes)
{
    fh_sched_point(start, "purge");
    memset(start, 0, bytes);
    return true;
}

void fh_os_hide_from_core(void *start, size_t bytes)
{
    mark(start, bytes, HIDDEN);
}

void fh_os_show_in_core(void *start, size_t bytes)
{
    mark(start, bytes, SHOWN);
}

void fh_os_prefer_small_pages(void *start, size_t bytes)
{
    (void)start;
    (void)bytes;
}

void fh_os_prefer_huge_pages(void *start, size_t bytes)
{
    (void)start;
    (void)bytes;
}

static uint32_t process_of(int thread)
{
    return now.process + (now.threads[thread].elsewhere ? ELSEWHERE : 0);
}

/* A thread that is started where another one died has its number. */
bool fh_os_identify_thread(uint32_t *process, uint32_t *thread)
{
    *process = process_of(current);
    *thread = (uint32_t)current + 1;
    return true;
}

bool fh_os_thread_is_gone(uint32_t process, uint32_t thread)
{
    fh_sched_point(&now.threads[thread - 1], "is it gone");
    const struct logical *logical = &now.threads[thread - 1];
    bool unknown = process_of((int)thread - 1) != process;
    bool gone = process == process_of(current) && (logical->dead || logical->frozen || unknown);
    if (gone)
        weak_join((int)thread - 1);
    return gone;
}

bool fh_os_wipe_on_fork(void *start, size_t bytes)
{
    CHECK(bytes == PAGE_BYTES);
    now.wiped_on_fork = start;
    return true;
}

bool fh_os_move(void *from, void *to, size_t bytes)
{
    fh_sched_point(from, "move");
    memcpy(to, from, bytes);
    memset(from, 0, bytes);
    return true;
}

size_t fh_os_page_bytes(void)
{
    return PAGE_BYTES;
}

uint32_t fh_os_now_ms(void)
{
    return now.clock_ms;
}

void pass_ms(uint32_t ms)
{
    now.clock_ms += ms;
}

size_t fh_os_address_space_limit_bytes(void)
{
    return scenario_now->limit_bytes == 0 ? LIMIT_BYTES : scenario_now->limit_bytes;
}

/* ---- Names for addresses ----------------------------------------------------------------------
 */

static bool within(const void *address, const void *start, size_t bytes, size_t *offset)
{
    *offset = (uintptr_t)address - (uintptr_t)start;
    return *offset < bytes;
}

static void describe_arena(size_t offset, char *text, size_t text_bytes)
{
    size_t arena = offset / sizeof(struct fh_arena);
    size_t field = offset % sizeof(struct fh_arena);
    static const char *const words[] = {"start", "used", "dirty", "regretted"};
    if (field < sizeof words / sizeof words[0] * sizeof(uint64_t))
        snprintf(text, text_bytes, "arena %zu %s", arena, words[field / sizeof(uint64_t)]);
    else if (field >= offsetof(struct fh_arena, shared))
        snprintf(text, text_bytes, "arena %zu shared[class %zu]", arena,
                 (field - offsetof(struct fh_arena, shared)) / sizeof(uint64_t));
    else
        snprintf(text, text_bytes, "arena %zu freed_ms", arena);
}

static void describe_pool(size_t offset, char *text, size_t text_bytes)
{
    size_t field = offset % FH_DESCRIPTOR_BYTES;
    if (field == offsetof(struct fh_pool, word))
        snprintf(text, text_bytes, "pool %zu word", offset / FH_DESCRIPTOR_BYTES);
    else
        snprintf(text, text_bytes, "pool %zu, field at %zu", offset / FH_DESCRIPTOR_BYTES, field);
}

static void describe_hint(const struct fh_hints *hints, size_t word, char *text, size_t text_bytes)
{
    static const char *const names[] = {"room", "empty", "dirty", "vacant", "heaps"};
    size_t set = word % FH_HINT_SETS;
    size_t level = &hints->level[2][word] >= hints->level[0]   ? 0
                   : &hints->level[2][word] >= hints->level[1] ? 1
                                                               : 2;
    if (set >= FH_HINTS_ROOM)
        snprintf(text, text_bytes, "hints %s, level %zu", names[set - FH_HINTS_ROOM], level);
    else
        snprintf(text, text_bytes, "hints class %zu, level %zu", set, level);
}

void machine_describe(const void *address, char *text, size_t text_bytes)
{
    machine_quietly(true);
    const struct fh_region *region = fh_region_peek();
    machine_quietly(false);
    size_t offset;
    snprintf(text, text_bytes, "%p", address);
    if (address == &fh_theap_current)
        snprintf(text, text_bytes, "heap pointer");
    if (region == NULL)
        return;
    if (within(address, region->arenas, region->arenas_max * sizeof(struct fh_arena), &offset))
        describe_arena(offset, text, text_bytes);
    else if (within(address, region->descriptors,
                    (size_t)region->arenas_max * FH_ARENA_POOLS * FH_DESCRIPTOR_BYTES, &offset))
        describe_pool(offset, text, text_bytes);
    else if (within(address, region->hints.level[2], fh_hints_bytes(region->hints.members),
                    &offset))
        describe_hint(&region->hints, offset / sizeof(uint64_t), text, text_bytes);
    else if (within(address, region, sizeof *region, &offset))
        snprintf(text, text_bytes, "region + %zu", offset);
    else if (within(address, (char *)region->base, region->bytes, &offset))
        snprintf(text, text_bytes, "memory of pool %zu", offset >> FH_POOL_SHIFT);
}
