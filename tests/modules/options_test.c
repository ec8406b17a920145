/* SPDX-License-Identifier: MIT */
/* Options: the grammar, what wins, what is said, who reads; and allocators by name. */
#include "modules.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arena.h"
#include "domain.h"
#include "freehold/debug.h"
#include "freehold/options.h"
#include "freehold/trace.h"
#include "os.h"
#include "purge.h"
#include "setup.h"

enum { TEXT_BYTES = 4096 };

/* ---- Values -----------------------------------------------------------------------------------
 */

static const char *const colours[] = {"red", "green", NULL};

static const struct fh_range word = {FH_KIND_WORD, colours, 0};
static const struct fh_range text = {FH_KIND_TEXT, NULL, 0};
static const struct fh_range count = {FH_KIND_COUNT, NULL, 65535};
static const struct fh_range size = {FH_KIND_SIZE, NULL, PTRDIFF_MAX};
static const struct fh_range any_size = {FH_KIND_SIZE, NULL, UINT64_MAX};
static const struct fh_range duration = {FH_KIND_TIME, NULL, INT32_MAX};
static const struct fh_range on_off = {FH_KIND_SWITCH, NULL, 1};

struct good {
    const struct fh_range *range;
    const char *from;
    uint64_t number;
    const char *again; /* as it is written back */
};

static const struct good goods[] = {
    {&word, "red", 0, "red"},
    {&word, "green", 1, "green"},
    {&count, "0", 0, "0"},
    {&count, "65535", 65535, "65535"},
    {&count, "0000000000000000000000025", 25, "25"},
    {&size, "0", 0, "0"},
    {&size, "4096", 4096, "4k"},
    {&size, "4097", 4097, "4097"},
    {&size, "7b", 7, "7"},
    {&size, "64k", 65536, "64k"},
    {&size, "64K", 65536, "64k"},
    {&size, "64kb", 65536, "64k"},
    {&size, "64KiB", 65536, "64k"},
    {&size, "1024k", 1048576, "1M"},
    {&size, "8M", 8388608, "8M"},
    {&size, "1536m", 1610612736, "1536M"},
    {&size, "3g", 3221225472, "3G"},
    {&size, "2TB", 2199023255552, "2T"},
    {&size, "9223372036854775807", 9223372036854775807, "9223372036854775807"},
    {&any_size, "18446744073709551615", UINT64_MAX, "18446744073709551615"},
    {&any_size, "16777215T", (uint64_t)16777215 << 40, "16777215T"},
    {&duration, "0", 0, "0ms"},
    {&duration, "500", 500, "500ms"},
    {&duration, "500ms", 500, "500ms"},
    {&duration, "5s", 5000, "5000ms"},
    {&duration, "2MIN", 120000, "120000ms"},
    {&duration, "-1", FH_NEVER, "-1"},
    {&duration, "2147483647", INT32_MAX, "2147483647ms"},
    {&on_off, "1", 1, "1"},
    {&on_off, "ON", 1, "1"},
    {&on_off, "true", 1, "1"},
    {&on_off, "Yes", 1, "1"},
    {&on_off, "0", 0, "0"},
    {&on_off, "off", 0, "0"},
    {&on_off, "false", 0, "0"},
    {&on_off, "no", 0, "0"},
};

struct bad {
    const struct fh_range *range;
    const char *from;
};

static const struct bad bads[] = {
    {&word, "blue"},
    {&word, "Red"},
    {&word, "redd"},
    {&word, "re"},
    {&count, "-1"},
    {&count, "+1"},
    {&count, "1k"},
    {&count, "65536"},
    {&count, "18446744073709551616"},
    {&count, "0x10"},
    {&size, "k"},
    {&size, "-1"},
    {&size, "1.5M"},
    {&size, "8Q"},
    {&size, "8 M"},
    {&size, "8Mk"},
    {&size, "9223372036854775808"},
    {&any_size, "16777216T"},
    {&any_size, "18014398509481984k"},
    {&any_size, "18446744073709551616"},
    {&any_size, "99999999999999999999999999999"},
    {&duration, "-2"},
    {&duration, "--1"},
    {&duration, "5h"},
    {&duration, "2147483648"},
    {&duration, "2147484s"},
    {&on_off, "2"},
    {&on_off, "onn"},
    {&on_off, "-1"},
};

TEST(good_values_are_read_and_written_back)
{
    for (size_t i = 0; i < sizeof goods / sizeof goods[0]; i++) {
        char room[64];
        struct fh_text again = {room, sizeof room, 0};
        struct fh_value value = {77, "x"};
        CHECK(fh_value_parse(goods[i].range, fh_slice_of(goods[i].from), &value));
        CHECK(value.number == goods[i].number);
        fh_value_add(goods[i].range, &value, &again);
        CHECK(strcmp(room, goods[i].again) == 0);
    }
}

TEST(bad_values_change_nothing)
{
    for (size_t i = 0; i < sizeof bads / sizeof bads[0]; i++) {
        struct fh_value value = {77, "x"};
        CHECK(!fh_value_parse(bads[i].range, fh_slice_of(bads[i].from), &value));
        CHECK(value.number == 77 && strcmp(value.text, "x") == 0);
    }
}

TEST(a_value_ends_where_its_slice_does)
{
    struct fh_value value;
    CHECK(fh_value_parse(&size, (struct fh_slice){"64kb", 3}, &value) && value.number == 65536);
    CHECK(fh_value_parse(&size, (struct fh_slice){"64kb", 1}, &value) && value.number == 6);
    CHECK(!fh_value_parse(&size, (struct fh_slice){"64kb", 0}, &value));
}

TEST(a_text_may_be_255_bytes)
{
    char longest[256];
    struct fh_value value;
    memset(longest, 'j', sizeof longest);
    CHECK(!fh_value_parse(&text, (struct fh_slice){longest, 256}, &value));
    CHECK(fh_value_parse(&text, (struct fh_slice){longest, 255}, &value));
    CHECK(strlen(value.text) == 255);
}

/* ---- Texts ------------------------------------------------------------------------------------
 */

TEST(a_text_that_does_not_fit_is_cut_and_counted)
{
    char room[8] = "";
    struct fh_text text_of_8 = {room, sizeof room, 0};
    fh_text_add(&text_of_8, "1234");
    fh_text_add_number(&text_of_8, 567);
    CHECK(fh_text_fits(&text_of_8) && strcmp(room, "1234567") == 0);
    fh_text_add_number(&text_of_8, UINT64_MAX);
    CHECK(!fh_text_fits(&text_of_8) && text_of_8.used == 27 && strcmp(room, "1234567") == 0);
    fh_text_cut(&text_of_8, 2);
    CHECK(strcmp(room, "12") == 0);
    struct fh_text none = {NULL, 0, 0};
    fh_text_add(&none, "123");
    CHECK(none.used == 3);
}

/* ---- What an environment says -----------------------------------------------------------------
 */

struct said {
    struct fh_options options;
    char problems[2048];
};

#define ENVIRONMENT(...)                                                                           \
    (char *const[])                                                                                \
    {                                                                                              \
        __VA_ARGS__, NULL                                                                          \
    }

static struct said said_by(char *const *environment)
{
    struct said said = {.problems = ""};
    struct fh_text problems = {said.problems, sizeof said.problems, 0};
    fh_options_parse(environment, &said.options, &problems);
    CHECK(fh_text_fits(&problems));
    return said;
}

static uint64_t number(const struct said *said, enum fh_option option)
{
    return said->options.values[option].number;
}

TEST(an_environment_without_us_leaves_the_defaults)
{
    struct said said =
        said_by(ENVIRONMENT("PATH=/bin", "FREEHOLD=1", "XFREEHOLD_MALLOC=debug", ""));
    for (enum fh_option option = 0; option < FH_OPTIONS; option++)
        CHECK(!fh_option_is_set(&said.options, option));
    CHECK(number(&said, FH_OPTION_DECAY_MS) == FH_DECAY_MS);
    CHECK(number(&said, FH_OPTION_RETAIN_MIN) == (uint64_t)FH_RETAIN_MIN_POOLS << FH_POOL_SHIFT);
    CHECK(!said.options.wants_help && *said.problems == '\0');
}

TEST(a_variable_sets_its_option)
{
    struct said said = said_by(ENVIRONMENT("FREEHOLD_DECAY_MS=2s", "FREEHOLD_MALLOC_STATS=json",
                                           "FREEHOLD_DEBUG_STRICT= on "));
    CHECK(number(&said, FH_OPTION_DECAY_MS) == 2000);
    CHECK(strcmp(said.options.values[FH_OPTION_MALLOC_STATS].text, "json") == 0);
    CHECK(number(&said, FH_OPTION_DEBUG_STRICT) == 1);
    CHECK(said.options.origins[FH_OPTION_DECAY_MS] == FH_FROM_VARIABLE);
    CHECK(*said.problems == '\0');
}

/* All ways to write the same. */
TEST(conf_takes_pairs_in_several_spellings)
{
    static char *const spellings[] = {
        "FREEHOLD_CONF=decay_ms:7,retain_min:8M,trace:25",
        "FREEHOLD_CONF=decay_ms=7;retain_min=8M;trace=25",
        "FREEHOLD_CONF= decay_ms : 7 , retain_min = 8M ; trace:25 ,",
        "FREEHOLD_CONF=;;decay_ms:7,,retain_min:8M,;trace:25;,",
        "FREEHOLD_CONF=decay_ms:9,trace:25,retain_min:8M,decay_ms:7,decay_ms:",
    };
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++) {
        struct said said = said_by(ENVIRONMENT(spellings[i]));
        CHECK(number(&said, FH_OPTION_DECAY_MS) == 7);
        CHECK(number(&said, FH_OPTION_RETAIN_MIN) == 8 << 20);
        CHECK(number(&said, FH_OPTION_TRACE) == 25);
        CHECK(said.options.origins[FH_OPTION_TRACE] == FH_FROM_CONF && *said.problems == '\0');
    }
}

TEST(a_variable_wins_over_conf_in_either_order)
{
    struct said first = said_by(ENVIRONMENT("FREEHOLD_DECAY_MS=1", "FREEHOLD_CONF=decay_ms:2"));
    struct said last = said_by(ENVIRONMENT("FREEHOLD_CONF=decay_ms:2", "FREEHOLD_DECAY_MS=1"));
    CHECK(number(&first, FH_OPTION_DECAY_MS) == 1 && number(&last, FH_OPTION_DECAY_MS) == 1);
    struct said empty = said_by(ENVIRONMENT("FREEHOLD_CONF=decay_ms:2", "FREEHOLD_DECAY_MS="));
    CHECK(number(&empty, FH_OPTION_DECAY_MS) == 2);
    struct said bad = said_by(ENVIRONMENT("FREEHOLD_CONF=decay_ms:2", "FREEHOLD_DECAY_MS=soon"));
    CHECK(number(&bad, FH_OPTION_DECAY_MS) == 2 && *bad.problems != '\0');
}

TEST(of_two_variables_of_one_name_the_first_counts)
{
    struct said said = said_by(ENVIRONMENT("FREEHOLD_DECAY_MS=1", "FREEHOLD_DECAY_MS=2"));
    CHECK(number(&said, FH_OPTION_DECAY_MS) == 1);
}

TEST(help_may_stand_anywhere)
{
    static char *const asking[] = {"FREEHOLD_CONF=help", "FREEHOLD_CONF=trace:3,help",
                                   "FREEHOLD_CONF=decay_ms:help", "FREEHOLD_MALLOC=help",
                                   "FREEHOLD_MALLOC_STATS=help"};
    for (size_t i = 0; i < sizeof asking / sizeof asking[0]; i++) {
        struct said said = said_by(ENVIRONMENT(asking[i]));
        CHECK(said.options.wants_help && *said.problems == '\0');
        CHECK(!fh_option_is_set(&said.options, FH_OPTION_MALLOC));
    }
    CHECK(!said_by(ENVIRONMENT("FREEHOLD_CONF=trace:3")).options.wants_help);
}

struct complaint {
    char *from;
    const char *text;
};

static const struct complaint complaints[] = {
    {"FREEHOLD_CONF=zebra:1", "FREEHOLD_CONF: there is no option `zebra`; try help\n"},
    {"FREEHOLD_CONF=decay:1",
     "FREEHOLD_CONF: there is no option `decay`; did you mean decay_ms?\n"},
    {"FREEHOLD_CONF=malloc_debug", "FREEHOLD_CONF: there is no option `malloc_debug`; did you mean "
                                   "malloc?\n"},
    {"FREEHOLD_CONF=DECAY_MS:1", "FREEHOLD_CONF: there is no option `DECAY_MS`; try help\n"},
    {"FREEHOLD_CONF=a\033[2J:1", "FREEHOLD_CONF: there is no option `a?[2J`; try help\n"},
    {"FREEHOLD_CONF=limit:cgroup:101",
     "FREEHOLD_CONF: limit: `cgroup:101` is not a size, 0 for none; or cgroup:80, percent of "
     "memory.max, if there is one\n"},
    {"FREEHOLD_PURGER=2", "FREEHOLD_PURGER: `2` is not 1 or 0, on or off\n"},
    {"FREEHOLD_CONF=retain_min:8Q",
     "FREEHOLD_CONF: retain_min: `8Q` is not a size, as in 4096, 64k or 8M\n"},
    {"FREEHOLD_CONF=x:1,x:2,x:3", "FREEHOLD_CONF: there is no option `x`; try help\n"},
    {"FREEHOLD_MALOC=debug",
     "FREEHOLD_MALOC: there is no such variable; did you mean FREEHOLD_MALLOC?\n"},
    {"FREEHOLD_CONFIG=trace:1",
     "FREEHOLD_CONFIG: there is no such variable; did you mean FREEHOLD_CONF?\n"},
    {"FREEHOLD_HOME=/opt", "FREEHOLD_HOME: there is no such variable; try FREEHOLD_CONF=help\n"},
    {"FREEHOLD_malloc=debug",
     "FREEHOLD_malloc: there is no such variable; did you mean FREEHOLD_MALLOC?\n"},
    {"FREEHOLD_=", "FREEHOLD_: there is no such variable; try FREEHOLD_CONF=help\n"},
    {"FREEHOLD_TRACE=65536", "FREEHOLD_TRACE: `65536` is not a number from 0 to 65535\n"},
    {"FREEHOLD_DECAY_MS=soon",
     "FREEHOLD_DECAY_MS: `soon` is not a time, as in 500, 500ms or 5s, or -1 for never\n"},
    {"FREEHOLD_DEBUG_SERIAL=maybe", "FREEHOLD_DEBUG_SERIAL: `maybe` is not 1 or 0, on or off\n"},
    {"FREEHOLD_OBJ_MODE=locked",
     "FREEHOLD_OBJ_MODE: `locked` is not one of default free gil-assert gil-lock\n"},
};

TEST(what_makes_no_sense_is_said_and_changes_nothing)
{
    for (size_t i = 0; i < sizeof complaints / sizeof complaints[0]; i++) {
        char line[256];
        struct said said = said_by(ENVIRONMENT(complaints[i].from));
        snprintf(line, sizeof line, "freehold: %s", complaints[i].text);
        if (strcmp(said.problems, line) != 0)
            fprintf(stderr, "%s: %s", complaints[i].from, said.problems);
        CHECK(strcmp(said.problems, line) == 0);
        for (enum fh_option option = 0; option < FH_OPTIONS; option++)
            CHECK(!fh_option_is_set(&said.options, option));
    }
}

/* As many as there is room for, each of them whole. */
TEST(of_very_many_problems_some_are_said)
{
    static char entries[500][32];
    char *environment[501] = {NULL};
    for (int i = 0; i < 500; i++) {
        snprintf(entries[i], sizeof entries[i], "FREEHOLD_Q%d=1", i);
        environment[i] = entries[i];
    }
    struct said said = said_by(environment);
    size_t length = strlen(said.problems);
    CHECK(length > 1024 && said.problems[length - 1] == '\n');
    CHECK(strncmp(said.problems, "freehold: FREEHOLD_Q0: ", 23) == 0);
}

/* Any bytes at all: no value appears from nowhere, and what is said stays within its bounds. */
TEST(noise_is_survived)
{
    static const char alphabet[] = "decay_ms:=,; 0189kM-\n\177\377htrace";
    uint64_t random = 1;
    for (struct bound bound = at_most(20000); more(&bound);) {
        char entry[80] = "FREEHOLD_CONF=";
        size_t length = 14 + random_below(&random, 64);
        for (size_t i = 14; i < length; i++)
            entry[i] = alphabet[random_below(&random, sizeof alphabet - 1)];
        struct said said = said_by(ENVIRONMENT(entry));
        uint64_t decay_ms = number(&said, FH_OPTION_DECAY_MS);
        CHECK(decay_ms == FH_NEVER || decay_ms <= INT32_MAX);
        CHECK(number(&said, FH_OPTION_TRACE) <= 65535);
    }
}

/* ---- The help ---------------------------------------------------------------------------------
 */

static const char help[] =
    "freehold 0.1.0: FREEHOLD_<NAME>=value, or FREEHOLD_CONF=\"name:value,name:value\"\n"
    "  name                value           from            what it is\n"
    "  malloc              default         default         what raw, mem and obj go to\n"
    "      one of default off freehold pymalloc debug freehold_debug pymalloc_debug malloc "
    "malloc_debug gil gil_debug\n"
    "  obj_mode            gil-assert      environment     mem and obj go to a heap of this mode\n"
    "      one of default free gil-assert gil-lock\n"
    "  malloc_stats        json            FREEHOLD_CONF   statistics at exit: 1, or json\n"
    "      a text of up to 255 bytes\n"
    "  trace               25              FREEHOLD_CONF   trace blocks with so many frames; "
    "report "
    "at exit\n"
    "      a number from 0 to 65535\n"
    "  trace_top           10              default         how many sites such a report shows\n"
    "      a number from 0 to 100000\n"
    "  trace_file                          default         where it goes, %p being the process; "
    "else "
    "stderr\n"
    "      a text of up to 255 bytes\n"
    "  trace_signal                        default         a signal that writes one, as USR2\n"
    "      a text of up to 255 bytes\n"
    "  decay_ms            -1              environment     how long a free pool stays resident\n"
    "      a time, as in 500, 500ms or 5s, or -1 for never\n"
    "  retain_min          1025k           environment     free memory that may stay resident "
    "until "
    "then\n"
    "      a size, as in 4096, 64k or 8M\n"
    "  limit               0               default         memory that pools may take; then malloc "
    "fails\n"
    "      a size, 0 for none; or cgroup:80, percent of memory.max, if there is one\n"
    "  purger              0               default         a thread that returns free memory while "
    "others idle\n"
    "      1 or 0, on or off\n"
    "  thp                 system          default         huge pages for blocks\n"
    "      one of system never always\n"
    "  debug_quarantine    1M              default         freed memory that the debug hooks hold "
    "back\n"
    "      a size, as in 4096, 64k or 8M\n"
    "  debug_serial        1               environment     the debug hooks number all blocks\n"
    "      1 or 0, on or off\n"
    "  debug_strict        0               default         the debug hooks report blocks not made "
    "under them\n"
    "      1 or 0, on or off\n";

TEST(the_help_tells_values_and_where_they_come_from)
{
    char room[TEXT_BYTES] = "";
    struct fh_text written = {room, sizeof room, 0};
    struct said said = said_by(ENVIRONMENT(
        "FREEHOLD_DECAY_MS=-1", "FREEHOLD_RETAIN_MIN=1025kib", "FREEHOLD_DEBUG_SERIAL=yes",
        "FREEHOLD_CONF=malloc_stats:json,trace:25", "FREEHOLD_OBJ_MODE=gil-assert"));
    fh_options_add_help(&said.options, &written);
    if (strcmp(room, help) != 0)
        fprintf(stderr, "%s", room);
    CHECK(strcmp(room, help) == 0);
    CHECK(fh_text_fits(&written));
}

/* ---- Once -------------------------------------------------------------------------------------
 */

/* Run in a child, since the options of this process are settled by its constructor; `text` gets
 * what it wrote to stderr. It reads the options afresh by starting this program again. */
static void started_with(char *const *environment, char written[TEXT_BYTES])
{
    int ends[2];
    int status = 0;
    size_t used = 0;
    ssize_t got;
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        execle("/proc/self/exe", "options", "a_process_says_its_problems_once", (char *)NULL,
               environment);
        _exit(2);
    }
    close(ends[1]);
    while (used < TEXT_BYTES - 1 &&
           (got = read(ends[0], written + used, TEXT_BYTES - 1 - used)) > 0)
        used += (size_t)got;
    written[used] = '\0';
    close(ends[0]);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static size_t occurrences(const char *in, const char *of)
{
    size_t found = 0;
    while ((in = strstr(in, of)) != NULL) {
        found++;
        in++;
    }
    return found;
}

TEST(a_process_says_its_problems_once)
{
    char written[TEXT_BYTES];
    if (fh_option_is_set(fh_options_get(), FH_OPTION_DECAY_MS)) { /* this is the process */
        CHECK(fh_options_get() == fh_options_get());
        CHECK(fh_options_read(ENVIRONMENT("FREEHOLD_AGAIN=1"), false) == fh_options_get());
        return;
    }
    started_with(ENVIRONMENT("FREEHOLD_DECAY_MS=9", "FREEHOLD_X=1", "FREEHOLD_CONF=y,help"),
                 written);
    CHECK(occurrences(written, "FREEHOLD_X: ") == 1);
    CHECK(occurrences(written, "`y`") == 1);
    CHECK(occurrences(written, "decay_ms            9ms ") == 1);
    CHECK(occurrences(written, "FREEHOLD_AGAIN") == 0);
}

TEST(what_was_read_stays_whatever_the_program_does)
{
    const struct fh_options *options = fh_options_get();
    char value[32];
    CHECK(setenv("FREEHOLD_DECAY_MS", "9", 1) == 0);
    CHECK(fh_options_get() == options);
    CHECK(fh_option_get("decay_ms", value, sizeof value) == 5 && strcmp(value, "500ms") == 0);
}

static void value_is_kept(void)
{
    char value[32];
    CHECK(fh_option_get("decay_ms", value, sizeof value) == 5 && strcmp(value, "500ms") == 0);
}

TEST(a_forked_child_keeps_the_values)
{
    value_is_kept();
    in_child(value_is_kept);
}

TEST(an_option_is_told_as_by_snprintf)
{
    char value[8] = "xxxxxxx";
    CHECK(fh_option_get("retain_min", value, 2) > 1 && strlen(value) == 1);
    CHECK(fh_option_get("retain_min", NULL, 0) > 1);
    CHECK(fh_option_get("malloc_stats", value, sizeof value) == 0 && *value == '\0');
    errno = 0;
    CHECK(fh_option_get("zebra", value, sizeof value) == -1 && errno == EINVAL);
    errno = 0;
    CHECK(fh_option_get(NULL, value, sizeof value) == -1 && errno == EINVAL);
}

/* ---- Allocators by name -----------------------------------------------------------------------
 */

static void check_works(void)
{
    for (int round = 0; round < 100; round++) {
        char *raw = fh_raw_malloc(0);
        char *mem = fh_mem_calloc(3, 5);
        char *obj = fh_obj_realloc(NULL, 40);
        CHECK(raw != NULL && mem != NULL && obj != NULL && is_zero(mem, 15));
        obj = fh_obj_realloc(obj, 4000);
        CHECK(obj != NULL);
        fh_obj_free(obj);
        fh_mem_free(mem);
        fh_raw_free(raw);
    }
}

static void check_is(const char *name, const char *expected)
{
    CHECK(fh_setup_allocators(name) == 0);
    const char *now = fh_current_allocator_name();
    CHECK(now != NULL && strcmp(now, expected) == 0);
    check_works();
}

TEST(each_name_sets_up_what_it_says)
{
    CHECK(strcmp(fh_current_allocator_name(), "freehold") == 0);
    check_is("debug", "freehold_debug");
    check_is("default", "freehold");
    check_is("freehold_debug", "freehold_debug");
    check_is("off", "freehold");
    check_is("pymalloc_debug", "freehold_debug");
    check_is("pymalloc", "freehold");
    check_is("malloc", "malloc");
    check_is("malloc_debug", "malloc_debug");
    check_is("gil", "gil");
    check_is("gil_debug", "gil_debug");
    check_is("", "freehold");
}

TEST(with_malloc_no_block_is_ours)
{
    CHECK(fh_setup_allocators("malloc") == 0);
    void *block = fh_obj_malloc(100);
    CHECK(!fh_owns(block));
    fh_obj_free(block);
    CHECK(fh_setup_allocators("freehold") == 0);
    block = fh_obj_malloc(100);
    CHECK(fh_owns(block));
    fh_obj_free(block);
}

TEST(an_unknown_name_is_refused_and_changes_nothing)
{
    static const char *const unknown[] = {"Debug", "mimalloc", "debug ", "freehol", "help"};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++) {
        errno = 0;
        CHECK(fh_setup_allocators(unknown[i]) == -1 && errno == EINVAL);
    }
    errno = 0;
    CHECK(fh_setup_allocators(NULL) == -1 && errno == EINVAL);
    CHECK(strcmp(fh_current_allocator_name(), "freehold") == 0);
}

TEST(every_word_of_the_option_is_a_name)
{
    for (const char *const *name = fh_malloc_words; *name != NULL; name++)
        CHECK(fh_setup_allocators(*name) == 0);
    check_works();
}

static void *no_malloc(void *context, size_t bytes)
{
    (void)context;
    (void)bytes;
    return NULL;
}

TEST(what_nobody_named_has_no_name)
{
    fh_allocator custom;
    fh_get_allocator(FH_DOMAIN_OBJ, &custom);
    custom.malloc = no_malloc;
    CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &custom) == 0);
    CHECK(fh_current_allocator_name() == NULL);
    CHECK(fh_setup_allocators("freehold") == 0);
    CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &fh_libc_allocator) == 0); /* the others are ours */
    CHECK(fh_current_allocator_name() == NULL);
    CHECK(fh_setup_allocators("freehold") == 0);
    CHECK(fh_trace_start(1) == 0 && fh_current_allocator_name() == NULL);
    fh_trace_stop();
}

TEST(hooks_that_are_switched_off_do_not_count)
{
    check_is("debug", "freehold_debug");
    CHECK(fh_debug_teardown() == 0);
    CHECK(strcmp(fh_current_allocator_name(), "freehold") == 0);
}

/* ---- What the purge makes of it ---------------------------------------------------------------
 */

/* How many of an arena's pools, dirty and all free for so long, a tick leaves resident. */
static uint64_t left_by_a_tick(uint32_t age_ms)
{
    struct fh_region *region = new_region(1, 0, false);
    struct fh_run run;
    CHECK(fh_arenas_claim(region, 1, 1, &run));
    fh_arena_release(region, 0, FH_ARENA_POOLS);
    for (unsigned pool = 0; pool < FH_ARENA_POOLS; pool++)
        region->arenas[0].freed_ms[pool] -= age_ms;
    region->next_purge_ms = fh_os_now_ms() - 1; /* it is time */
    fh_purge_tick(region);
    return fh_region_retained_pools(region);
}

TEST(free_pools_stay_resident_as_long_as_decay_ms_says)
{
    CHECK(left_by_a_tick(FH_DECAY_MS / 2) == FH_ARENA_POOLS);
    CHECK(left_by_a_tick(FH_DECAY_MS) == 0);
    fh_purge_configure(60000, FH_RETAIN_MIN_POOLS);
    CHECK(left_by_a_tick(FH_DECAY_MS) == FH_ARENA_POOLS);
    CHECK(left_by_a_tick(60000) == 0);
    fh_purge_configure(0, FH_RETAIN_MIN_POOLS);
    CHECK(left_by_a_tick(0) == 0);
    fh_purge_configure(FH_NEVER, FH_RETAIN_MIN_POOLS);
    CHECK(left_by_a_tick(INT32_MAX) == FH_ARENA_POOLS);
}

/* Of so many free arenas. */
static uint64_t left_by_releases(uint32_t arenas)
{
    struct fh_region *region = new_region(arenas, 0, false);
    struct fh_run run;
    region->retain_pools = 0;
    CHECK(fh_arenas_claim(region, arenas, 1, &run));
    for (size_t i = 0; i < arenas; i++)
        fh_arena_release(region, i << FH_ARENA_POOL_SHIFT, FH_ARENA_POOLS);
    return fh_region_retained_pools(region);
}

TEST(as_many_free_pools_stay_resident_as_retain_min_says)
{
    enum { ARENAS = 4 };
    fh_purge_configure(FH_DECAY_MS, 0);
    CHECK(left_by_releases(ARENAS) == 0);
    fh_purge_configure(FH_DECAY_MS, ARENAS * FH_ARENA_POOLS);
    CHECK(left_by_releases(ARENAS) == ARENAS * FH_ARENA_POOLS);
    fh_purge_configure(FH_DECAY_MS, FH_ARENA_POOLS);
    CHECK(left_by_releases(ARENAS) <= FH_ARENA_POOLS);
}
