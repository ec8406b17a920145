/* SPDX-License-Identifier: MIT */
/* Which schedules are run.
 *
 *     explore [OPTION...] [SCENARIO...]           every scenario, or those named
 *     explore --replay SCENARIO SCHEDULE          one schedule, telling each step
 *     explore --list                              their names
 *     explore --broken                            find out those that are wrong on purpose
 *
 *     --preemptions N   the bound of the depth-first search (2)
 *     --schedules N     at most so many depth first (8000), an eighth at random; 0: no limit
 *     --seed N          of the random schedules (1)
 *     --every-step      preempt anywhere, not only where another thread uses the same address
 *     --older N         so often a thread may fall behind with a location, where weak.c offers that
 * (1)
 *     --first           stop at the first scenario that fails
 *     --threads-only    no thread is frozen, and scenarios with a signal handler are left out
 *
 * Four searches, each scenario in a process of its own:
 *   depth first   all schedules with at most so many preemptions (and one signal), fewest first
 *   freezing      a thread stops for ever at each of its steps, in each schedule with at most one
 *                 preemption; the others must come to their ends
 *   random        each thread has a random priority, which sinks at a few random steps (PCT)
 *   random, with a freeze
 *
 * A schedule is written as `step:what` for each step at which something else than going on was
 * chosen: a thread's number, `s` for a signal, `f` and a number (or `-`) for a freeze and who goes
 * on, `o` and a number for a load that returns so much older a value.
 */
#include "sched.h"

#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    SCENARIOS_MAX = 128,
    DECISIONS_MAX = STEPS_MAX + 1,
    TOLD_BYTES = 4096,
    TOLD_STEPS = 1500,
    LEARNING_SCHEDULES = 300,
    SINKS_MAX = 5,
    OLDER_ONE_IN = 4,
    HANG_SECONDS = 20,
    UNLIMITED_RANDOM = 1000000,
};

static const struct scenario *scenarios[SCENARIOS_MAX];
static size_t scenario_count;

static struct {
    unsigned preemptions;
    uint64_t schedules;
    uint64_t seed;
    bool every_step, threads_only, first;
    unsigned older;
} options = {.preemptions = 2, .schedules = 8000, .seed = 1, .older = 1};

void scenario_add(const struct scenario *scenario)
{
    if (scenario_count == SCENARIOS_MAX)
        abort();
    scenarios[scenario_count++] = scenario;
}

/* ---- The schedule of this run -----------------------------------------------------------------
 */

static enum mode { DEPTH_FIRST, RANDOM, REPLAY } mode;

static struct {
    unsigned step;
    unsigned preemptions, freezes, signals, older; /* left */
    size_t told_bytes;
    char told[TOLD_BYTES]; /* the schedule so far, as text */
} run;

static const char *prefix_of(enum choice_kind kind)
{
    return kind == FREEZE ? "f" : kind == OLDER ? "o" : "";
}

static void tell(struct choice choice)
{
    char text[32];
    if (choice.kind == GO_ON)
        return;
    if (choice.kind == SIGNAL)
        snprintf(text, sizeof text, "%u:s", run.step);
    else if (choice.kind == FREEZE && choice.thread < 0)
        snprintf(text, sizeof text, "%u:f-", run.step);
    else
        snprintf(text, sizeof text, "%u:%s%d", run.step, prefix_of(choice.kind), choice.thread);
    size_t bytes = strlen(text);
    if (run.told_bytes + bytes + 2 > sizeof run.told)
        return;
    if (run.told_bytes > 0)
        run.told[run.told_bytes++] = ',';
    memcpy(run.told + run.told_bytes, text, bytes + 1);
    run.told_bytes += bytes;
}

static bool is_preemption(const struct situation *situation, struct choice choice)
{
    return choice.kind == SWITCH && situation->operation != NULL;
}

/* Is the choice within what this run may still do? */
static bool is_allowed(const struct situation *situation, struct choice choice)
{
    if (choice.kind == FREEZE)
        return run.freezes > 0;
    if (choice.kind == SIGNAL)
        return run.signals > 0;
    if (choice.kind == OLDER)
        return run.older > 0 || situation->free;
    return !is_preemption(situation, choice) || run.preemptions > 0;
}

static void spend(const struct situation *situation, struct choice choice)
{
    if (choice.kind == FREEZE)
        run.freezes--;
    else if (choice.kind == SIGNAL)
        run.signals--;
    else if (choice.kind == OLDER)
        run.older -= situation->free ? 0 : 1;
    else if (is_preemption(situation, choice))
        run.preemptions--;
}

/* ---- Where a preemption can matter ------------------------------------------------------------
 */

/* Which threads read and write an address. A switch right before an access that no other thread
 * interferes with does nothing that a switch before the next access does not do. Learned by random
 * schedules; a depth-first search that comes across more is run again. */

enum { ADDRESSES = 4096 };

static struct address {
    const void *at;
    uint8_t readers, writers;             /* as bits */
    uint8_t known_readers, known_writers; /* the same, when this search began */
} addresses[ADDRESSES];
static bool learned;

static struct address *address_of(const void *at)
{
    size_t slot = ((uintptr_t)at >> 3) * 0x9E3779B97F4A7C15u >> 52;
    while (addresses[slot].at != at && addresses[slot].at != NULL)
        slot = (slot + 1) % ADDRESSES;
    addresses[slot].at = at;
    return &addresses[slot];
}

static bool writes(const char *operation)
{
    return strncmp(operation, "fh_load", 7) != 0;
}

/* Note the access, and say whether a preemption before it can matter. */
static bool interferes(const struct situation *situation)
{
    struct address *address = address_of(situation->at);
    uint8_t me = (uint8_t)(1u << machine_thread());
    uint8_t *accessed = writes(situation->operation) ? &address->writers : &address->readers;
    if ((*accessed & me) == 0) {
        *accessed |= me;
        learned = true;
    }
    if (options.every_step)
        return true;
    return (address->known_writers & ~me) != 0 ||
           (writes(situation->operation) && (address->known_readers & ~me) != 0);
}

static void use_what_was_learned(void)
{
    for (size_t slot = 0; slot < ADDRESSES; slot++) {
        addresses[slot].known_readers = addresses[slot].readers;
        addresses[slot].known_writers = addresses[slot].writers;
    }
    learned = false;
}

/* ---- Depth first ------------------------------------------------------------------------------
 */

/* The choices where there was one, and how many there were. */
static struct {
    unsigned depth, known;
    uint8_t chosen[DECISIONS_MAX], width[DECISIONS_MAX];
} path;

static struct choice choose_depth_first(const struct situation *situation, bool matters)
{
    struct choice allowed[sizeof situation->choices / sizeof situation->choices[0]];
    unsigned count = 0;
    for (unsigned i = 0; i < situation->count; i++) {
        struct choice choice = situation->choices[i];
        if (is_allowed(situation, choice) && (matters || !is_preemption(situation, choice)))
            allowed[count++] = choice;
    }
    if (count == 1)
        return allowed[0];
    if (path.depth == path.known)
        path.chosen[path.known++] = 0;
    path.width[path.depth] = (uint8_t)count;
    return allowed[path.chosen[path.depth++]];
}

/* On to the next path; false if that was the last. */
static bool next_path(void)
{
    while (path.known > 0 && path.chosen[path.known - 1] + 1 == path.width[path.known - 1])
        path.known--;
    if (path.known == 0)
        return false;
    path.chosen[path.known - 1]++;
    return true;
}

/* ---- Random -----------------------------------------------------------------------------------
 */

static uint64_t random_state;

static unsigned random_below(unsigned limit)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)((random_state >> 32) * limit >> 32);
}

static struct {
    unsigned priority[THREADS_MAX];
    unsigned sink_at[SINKS_MAX], sinks, lowest;
    unsigned freeze_at, signal_at;
} plan;

static void make_plan(unsigned expected_steps, bool freeze)
{
    unsigned top = 2 * THREADS_MAX + SINKS_MAX;
    plan.lowest = SINKS_MAX;
    for (int thread = 0; thread < THREADS_MAX; thread++)
        plan.priority[thread] = SINKS_MAX + 1 + random_below(top);
    plan.sinks = 1 + random_below(SINKS_MAX);
    for (unsigned i = 0; i < plan.sinks; i++)
        plan.sink_at[i] = random_below(expected_steps + 1);
    plan.freeze_at = freeze ? random_below(expected_steps + 1) : STEPS_MAX;
    plan.signal_at = random_below(expected_steps + 1);
}

static bool sinks_now(void)
{
    for (unsigned i = 0; i < plan.sinks; i++)
        if (plan.sink_at[i] == run.step)
            return true;
    return false;
}

static struct choice best_of_kind(const struct situation *situation, enum choice_kind kind)
{
    struct choice best = {GO_ON, -1};
    for (unsigned i = 0; i < situation->count; i++) {
        struct choice choice = situation->choices[i];
        bool better = best.kind != kind || (choice.thread >= 0 && plan.priority[choice.thread] >
                                                                      plan.priority[best.thread]);
        if (choice.kind == kind && better)
            best = choice;
    }
    return best;
}

static struct choice choose_older(const struct situation *situation, struct choice older)
{
    unsigned one_in = situation->free ? 2 : OLDER_ONE_IN;
    return is_allowed(situation, older) && random_below(one_in) == 0 ? older
                                                                     : situation->choices[0];
}

static struct choice choose_random(const struct situation *situation)
{
    int me = machine_thread();
    struct choice best = best_of_kind(situation, SWITCH);
    if (situation->operation == NULL)
        return best;
    struct choice freeze = best_of_kind(situation, FREEZE);
    if (run.step >= plan.freeze_at && run.freezes > 0 && freeze.kind == FREEZE)
        return freeze;
    struct choice signal_choice = best_of_kind(situation, SIGNAL);
    if (run.step >= plan.signal_at && signal_choice.kind == SIGNAL)
        return signal_choice;
    struct choice older = situation->choices[situation->count - 1];
    if (older.kind == OLDER)
        return choose_older(situation, older);
    if (sinks_now() && plan.lowest > 0)
        plan.priority[me] = plan.lowest--;
    if (best.kind == SWITCH && plan.priority[best.thread] > plan.priority[me])
        return best;
    return situation->choices[0];
}

/* ---- Replay -----------------------------------------------------------------------------------
 */

static const char *script;

static void tell_step(const struct situation *situation, struct choice choice)
{
    char name[64] = "";
    if (run.step > TOLD_STEPS)
        return; /* it is in a loop */
    if (situation->at != NULL)
        machine_describe(situation->at, name, sizeof name);
    const char *operation = situation->operation == NULL ? "(ends)" : situation->operation;
    if (strncmp(operation, "fh_", 3) == 0)
        operation += 3;
    if (machine_thread() < THREADS_MAX && (choice.kind != GO_ON || strcmp(operation, "block") != 0))
        printf("%5u  thread %d  %-22s %s\n", run.step, machine_thread(), operation, name);
    if (choice.kind == SIGNAL)
        printf("       ---- signal\n");
    else if (choice.kind == FREEZE)
        printf("       ---- frozen for ever; on with thread %d\n", choice.thread);
    else if (choice.kind == SWITCH)
        printf("       ---- on with thread %d\n", choice.thread);
    else if (choice.kind == OLDER)
        printf("       ---- which is not the newest value, but that %d before\n", choice.thread);
}

static struct choice named_choice(const struct situation *situation, const char *name)
{
    struct choice wanted = {SWITCH, -1};
    if (*name == 's')
        wanted = (struct choice){SIGNAL, machine_thread()};
    if (*name == 'f')
        wanted.kind = FREEZE;
    if (*name == 'o')
        wanted.kind = OLDER;
    if (*name == 'f' || *name == 'o')
        name++;
    if (wanted.kind != SIGNAL && *name != '-')
        wanted.thread = atoi(name);
    for (unsigned i = 0; i < situation->count; i++)
        if (situation->choices[i].kind == wanted.kind &&
            situation->choices[i].thread == wanted.thread)
            return wanted;
    fprintf(stderr, "step %u: %s cannot be chosen; is the schedule of another build?\n", run.step,
            name);
    exit(2);
}

static struct choice choose_by_script(const struct situation *situation)
{
    struct choice choice = situation->choices[0];
    char *end;
    if (*script != '\0' && strtoul(script, &end, 10) == run.step && *end == ':') {
        choice = named_choice(situation, end + 1);
        script = strchr(end, ',') == NULL ? "" : strchr(end, ',') + 1;
    }
    tell_step(situation, choice);
    return choice;
}

/* ---- Running ----------------------------------------------------------------------------------
 */

static volatile uint64_t ticks; /* changes while anything goes on */

struct choice explorer_choose(const struct situation *situation)
{
    struct choice choice;
    bool matters = situation->at != NULL && interferes(situation);
    if (mode == DEPTH_FIRST)
        choice = choose_depth_first(situation, matters);
    else if (mode == RANDOM)
        choice = choose_random(situation);
    else
        choice = choose_by_script(situation);
    if (mode == DEPTH_FIRST || choice.kind == FREEZE || choice.kind == OLDER)
        spend(situation, choice);
    tell(choice);
    run.step++;
    ticks++;
    return choice;
}

static void run_schedule(unsigned preemptions, unsigned freezes, unsigned signals)
{
    machine_reset();
    run.step = 0;
    run.preemptions = preemptions;
    run.freezes = freezes;
    run.signals = signals;
    run.older = options.older;
    run.told_bytes = 0;
    run.told[0] = '\0';
    path.depth = 0;
    machine_run();
    if (machine_froze())
        check_survivors();
    else
        check_end();
    ticks++;
}

struct result {
    uint64_t schedules;
    unsigned steps; /* of the longest */
    int bound;      /* all with at most so many preemptions were run; -1: no such claim */
};

static void count(struct result *result)
{
    result->schedules++;
    if (machine_steps() > result->steps)
        result->steps = machine_steps();
}

static bool within_limit(const struct result *result)
{
    return options.schedules == 0 || result->schedules < options.schedules;
}

/* False if the limit came first. */
static bool search_bound(unsigned preemptions, unsigned freezes, struct result *result)
{
    mode = DEPTH_FIRST;
    do { /* until nothing new was learned on the way */
        use_what_was_learned();
        path.known = 0;
        do {
            run_schedule(preemptions, freezes, 1 - freezes);
            count(result);
        } while (next_path() && within_limit(result));
    } while (learned && within_limit(result));
    return path.known == 0 && !learned;
}

static struct result search_depth_first(unsigned preemptions, unsigned freezes)
{
    struct result result = {.bound = -1};
    for (unsigned bound = 0; bound <= preemptions; bound++) {
        if (!search_bound(bound, freezes, &result))
            break;
        result.bound = (int)bound;
    }
    return result;
}

static struct result search_random(uint64_t schedules, unsigned freezes)
{
    static unsigned expected_steps = 100;
    struct result result = {.bound = -1};
    mode = RANDOM;
    random_state = options.seed;
    while (result.schedules < schedules) {
        make_plan(expected_steps, freezes > 0);
        run_schedule(0, freezes, 1);
        count(&result);
        if (freezes == 0)
            expected_steps = machine_steps();
    }
    return result;
}

/* ---- Telling ----------------------------------------------------------------------------------
 */

void fail(const char *format, ...)
{
    char what[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    printf("%s: %s\n", scenario_now->name, what);
    fflush(stdout);
    if (mode == REPLAY)
        _exit(1);
    printf("again: explore --replay %s '%s'\n", scenario_now->name, run.told);
    fflush(stdout);
    execl("/proc/self/exe", "explore", "--replay", scenario_now->name, run.told, (char *)NULL);
    _exit(1);
}

/* The library ended the program, or goes on for ever without a step. */
static void on_signal(int number)
{
    static uint64_t last_ticks = UINT64_MAX;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (number != SIGALRM)
        fail("the program ends: %s", strsignal(number));
    if (ticks == last_ticks)
        fail("a thread loops without a step");
    last_ticks = ticks;
}

static void watch_for_the_worst(void)
{
    static char stack[1 << 16];
    stack_t aside = {.ss_sp = stack, .ss_size = sizeof stack};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGALRM};
    struct itimerval interval = {{HANG_SECONDS, 0}, {HANG_SECONDS, 0}};
    sigaltstack(&aside, NULL);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        sigaction(signals[i], &action, NULL);
    setitimer(ITIMER_REAL, &interval, NULL);
}

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void print_result(const char *what, const struct result *result)
{
    printf("  %s %7" PRIu64, what, result->schedules);
    if (result->bound >= 0)
        printf(" (all <= %d)", result->bound);
    else
        printf("           ");
}

static void explore(const struct scenario *scenario)
{
    double start = now_seconds();
    machine_prepare(scenario);
    uint64_t random = options.schedules == 0 ? UNLIMITED_RANDOM : options.schedules / 8;
    const struct result none = {.bound = -1};
    struct result results[] = {
        search_random(LEARNING_SCHEDULES, 0),
        search_depth_first(options.preemptions, 0),
        options.threads_only ? none : search_depth_first(1, 1),
        search_random(random, 0),
        options.threads_only ? none : search_random(random, 1),
    };
    static const char *const names[] = {"", "depth first", "freezing", "random", "with a freeze"};
    machine_check_untouched();
    uint64_t schedules = 0;
    printf("%-24s", scenario->name);
    for (size_t i = 0; i < sizeof results / sizeof results[0]; i++) {
        schedules += results[i].schedules;
        if (i > 0)
            print_result(names[i], &results[i]);
    }
    printf("  steps <= %u, %.0f/s\n", results[1].steps,
           (double)schedules / (now_seconds() - start));
}

static void replay(const struct scenario *scenario, const char *schedule)
{
    machine_prepare(scenario);
    mode = REPLAY;
    script = schedule;
    run_schedule(0, 1, 1);
    printf("%s: nothing is wrong with this schedule\n", scenario->name);
}

/* ---- Scenarios in processes of their own ------------------------------------------------------
 */

static const struct scenario *scenario_named(const char *name)
{
    for (size_t i = 0; i < scenario_count; i++)
        if (strcmp(scenarios[i]->name, name) == 0)
            return scenarios[i];
    fprintf(stderr, "explore: no scenario %s\n", name);
    exit(2);
}

/* Its exit status, or -1. What it prints goes to `output` unless that is -1. */
static int explore_in_child(const struct scenario *scenario, int output)
{
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (output >= 0)
            dup2(output, STDOUT_FILENO);
        watch_for_the_worst();
        explore(scenario);
        fflush(NULL);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static bool has_twice(const char *text, const char *wanted)
{
    const char *first = strstr(text, wanted);
    return first != NULL && strstr(first + 1, wanted) != NULL;
}

/* A scenario that is wrong on purpose: the search must say so, and the schedule it prints again. */
static bool is_found_out(const struct scenario *scenario)
{
    static char text[1 << 20];
    FILE *output = tmpfile();
    if (output == NULL)
        return false;
    int status = explore_in_child(scenario, fileno(output));
    rewind(output);
    text[fread(text, 1, sizeof text - 1, output)] = '\0';
    fclose(output);
    bool found = status == 1 && has_twice(text, scenario->found);
    printf("%-24s %s: %s\n", scenario->name, found ? "found out" : "NOT FOUND OUT",
           scenario->found);
    if (!found)
        printf("%s", text);
    return found;
}

static bool run_one(const struct scenario *scenario)
{
    if (scenario->found != NULL)
        return is_found_out(scenario);
    return explore_in_child(scenario, -1) == 0;
}

static bool is_wanted(const struct scenario *scenario)
{
    return !options.threads_only || scenario->handler == NULL;
}

static bool run_all(bool broken)
{
    bool all = true;
    for (size_t i = 0; i < scenario_count && (all || !options.first); i++)
        if ((scenarios[i]->found != NULL) == broken && is_wanted(scenarios[i]))
            all = run_one(scenarios[i]) && all;
    return all;
}

static void list(void)
{
    for (size_t i = 0; i < scenario_count; i++)
        printf("%s\n", scenarios[i]->name);
}

/* Returns the index of the first argument that is no option. */
static int read_options(int argc, char **argv, bool *broken)
{
    int at = 1;
    for (; at < argc && argv[at][0] == '-'; at++) {
        if (strcmp(argv[at], "--every-step") == 0)
            options.every_step = true;
        else if (strcmp(argv[at], "--first") == 0)
            options.first = true;
        else if (strcmp(argv[at], "--threads-only") == 0)
            options.threads_only = true;
        else if (strcmp(argv[at], "--broken") == 0)
            *broken = true;
        else if (at + 1 < argc && strcmp(argv[at], "--preemptions") == 0)
            options.preemptions = (unsigned)strtoul(argv[++at], NULL, 10);
        else if (at + 1 < argc && strcmp(argv[at], "--schedules") == 0)
            options.schedules = strtoull(argv[++at], NULL, 10);
        else if (at + 1 < argc && strcmp(argv[at], "--older") == 0)
            options.older = (unsigned)strtoul(argv[++at], NULL, 10);
        else if (at + 1 < argc && strcmp(argv[at], "--seed") == 0)
            options.seed = strtoull(argv[++at], NULL, 10);
        else
            return argc + 1;
    }
    return at;
}

int main(int argc, char **argv)
{
    bool broken = false;
    bool all = true;
    if (argc == 4 && strcmp(argv[1], "--replay") == 0) {
        watch_for_the_worst();
        replay(scenario_named(argv[2]), argv[3]);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        list();
        return 0;
    }
    int at = read_options(argc, argv, &broken);
    if (at > argc) {
        fprintf(stderr, "explore: see the first lines of explore.c for the options\n");
        return 2;
    }
    if (at == argc)
        all = run_all(broken);
    for (; at < argc && (all || !options.first); at++)
        all = run_one(scenario_named(argv[at])) && all;
    return all ? 0 : 1;
}
