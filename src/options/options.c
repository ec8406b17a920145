/* SPDX-License-Identifier: MIT */
/* The table of options, and how it meets the environment. */
#include "options.h"

#include <errno.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "atomic.h"
#include "bits.h"
#include "config.h"
#include "freehold/options.h"
#include "os.h"

/* ---- The table --------------------------------------------------------------------------------
 */

struct option {
    const char *name; /* of FREEHOLD_<NAME>, too */
    struct fh_range range;
    const char *help;
};

const char *const fh_malloc_words[] = {
    "default",        "off",    "freehold",     "pymalloc", "debug",     "freehold_debug",
    "pymalloc_debug", "malloc", "malloc_debug", "gil",      "gil_debug", NULL};

static const char *const obj_mode_words[] = {"default", "free", "gil-assert", "gil-lock", NULL};

/* The order of enum fh_thp. */
static const char *const thp_words[] = {"system", "never", "always", NULL};

#define WORD(words)                                                                                \
    {                                                                                              \
        FH_KIND_WORD, (words), 0                                                                   \
    }
#define NUMBER(kind, maximum)                                                                      \
    {                                                                                              \
        FH_KIND_##kind, NULL, (maximum)                                                            \
    }

static const struct option table[FH_OPTIONS] = {
    [FH_OPTION_MALLOC] = {"malloc", WORD(fh_malloc_words), "what raw, mem and obj go to"},
    [FH_OPTION_OBJ_MODE] = {"obj_mode", WORD(obj_mode_words),
                            "mem and obj go to a heap of this mode"},
    [FH_OPTION_MALLOC_STATS] = {"malloc_stats", NUMBER(TEXT, 0), "statistics at exit: 1, or json"},
    [FH_OPTION_TRACE] = {"trace", NUMBER(COUNT, 65535),
                         "trace blocks with so many frames; report at exit"},
    [FH_OPTION_TRACE_TOP] = {"trace_top", NUMBER(COUNT, 100000),
                             "how many sites such a report shows"},
    [FH_OPTION_TRACE_FILE] = {"trace_file", NUMBER(TEXT, 0),
                              "where it goes, %p being the process; else stderr"},
    [FH_OPTION_TRACE_SIGNAL] = {"trace_signal", NUMBER(TEXT, 0),
                                "a signal that writes one, as USR2"},
    [FH_OPTION_DECAY_MS] = {"decay_ms", NUMBER(TIME, INT32_MAX),
                            "how long a free pool stays resident"},
    [FH_OPTION_RETAIN_MIN] = {"retain_min", NUMBER(SIZE, PTRDIFF_MAX),
                              "free memory that may stay resident until then"},
    [FH_OPTION_LIMIT] = {"limit", NUMBER(LIMIT, PTRDIFF_MAX),
                         "memory that pools may take; then malloc fails"},
    [FH_OPTION_PURGER] = {"purger", NUMBER(SWITCH, 1),
                          "a thread that returns free memory while others idle"},
    [FH_OPTION_THP] = {"thp", WORD(thp_words), "huge pages for blocks"},
    [FH_OPTION_DEBUG_QUARANTINE] = {"debug_quarantine", NUMBER(SIZE, PTRDIFF_MAX),
                                    "freed memory that the debug hooks hold back"},
    [FH_OPTION_DEBUG_SERIAL] = {"debug_serial", NUMBER(SWITCH, 1),
                                "the debug hooks number all blocks"},
    [FH_OPTION_DEBUG_STRICT] = {"debug_strict", NUMBER(SWITCH, 1),
                                "the debug hooks report blocks not made under them"},
};

/* What freehold/debug.h and observe/trace_report.h say. */
enum { DEBUG_QUARANTINE_BYTES = 1 << 20, TRACE_TOP = 10 };

static const struct fh_options defaults = {
    .values = {[FH_OPTION_TRACE_TOP] = {.number = TRACE_TOP},
               [FH_OPTION_DECAY_MS] = {.number = FH_DECAY_MS},
               [FH_OPTION_RETAIN_MIN] = {.number = (uint64_t)FH_RETAIN_MIN_POOLS << FH_POOL_SHIFT},
               [FH_OPTION_DEBUG_QUARANTINE] = {.number = DEBUG_QUARANTINE_BYTES}},
};

/* The variable for several. */
#define CONF   "conf"
#define PYTHON "python" /* FREEHOLD_PYTHON is freehold-python's, and no option */

static const char prefix[] = "FREEHOLD_";
enum { PREFIX_LENGTH = sizeof prefix - 1 };

enum fh_option fh_option_named(struct fh_slice name)
{
    enum fh_option option = 0;
    while (option < FH_OPTIONS && !fh_slice_is(name, table[option].name))
        option++;
    return option;
}

void fh_option_add(const struct fh_options *options, enum fh_option option, struct fh_text *text)
{
    fh_value_add(&table[option].range, &options->values[option], text);
}

/* ---- Names that are nearly right --------------------------------------------------------------
 */

enum { NAME_MAX_LENGTH = 31, NEAR = 2, FAR = NAME_MAX_LENGTH };

static bool begins_with(struct fh_slice text, struct fh_slice start)
{
    return start.length <= text.length && memcmp(text.at, start.at, start.length) == 0;
}

static unsigned least(unsigned one, unsigned other)
{
    return one < other ? one : other;
}

/* How many characters must be put in, taken out or replaced, row by row of the usual table. */
static unsigned edits(struct fh_slice from, struct fh_slice to)
{
    unsigned row[NAME_MAX_LENGTH + 1];
    for (unsigned column = 0; column <= to.length; column++)
        row[column] = column;
    for (unsigned i = 0; i < from.length; i++) {
        unsigned diagonal = row[0];
        row[0] = i + 1;
        for (unsigned column = 1; column <= to.length; column++) {
            unsigned replaced = diagonal + (from.at[i] != to.at[column - 1]);
            diagonal = row[column];
            row[column] = least(replaced, 1 + least(row[column], row[column - 1]));
        }
    }
    return row[to.length];
}

static unsigned distance(struct fh_slice from, struct fh_slice to)
{
    enum { START = 4 }; /* so much of a name says which is meant */
    if (from.length > NAME_MAX_LENGTH || from.length < START || to.length > NAME_MAX_LENGTH)
        return FAR;
    return begins_with(to, from) || begins_with(from, to) ? 1 : edits(from, to);
}

/* The name that is most likely meant, or NULL; `others` is one more that it may be. */
static const char *nearest(struct fh_slice name, const char *other)
{
    const char *found = NULL;
    unsigned best = NEAR + 1;
    for (enum fh_option option = 0; option <= FH_OPTIONS; option++) {
        const char *candidate = option < FH_OPTIONS ? table[option].name : other;
        unsigned away = candidate == NULL ? FAR : distance(name, fh_slice_of(candidate));
        found = away < best ? candidate : found;
        best = least(away, best);
    }
    return found;
}

/* ---- Problems ---------------------------------------------------------------------------------
 *
 * Each a line. One that does not fit any more, or was said before, is left out.
 */

static void add_variable(struct fh_text *text, const char *name)
{
    fh_text_add(text, prefix);
    for (; *name != '\0'; name++)
        fh_text_add_char(text, fh_upper(*name));
}

static bool was_said(struct fh_text *problems, size_t start)
{
    const char *line = problems->at + start;
    const char *first = strstr(problems->at, line);
    while (first != line && first != problems->at && first[-1] != '\n')
        first = strstr(first + 1, line);
    return first != line;
}

static void end_problem(struct fh_text *problems, size_t start)
{
    fh_text_add_char(problems, '\n');
    if (!fh_text_fits(problems) || was_said(problems, start))
        fh_text_cut(problems, start);
}

/* Where something stood: a variable of its own, or FREEHOLD_CONF. */
struct place {
    enum fh_origin origin;
    struct fh_slice variable; /* "FREEHOLD_DECAY" */
};

static size_t begin_problem(struct fh_text *problems, const struct place *place)
{
    size_t start = problems->used;
    fh_text_add(problems, "freehold: ");
    for (size_t i = 0; i < place->variable.length && i < PREFIX_LENGTH + NAME_MAX_LENGTH; i++)
        fh_text_add_char(problems, place->variable.at[i]);
    fh_text_add(problems, ": ");
    return start;
}

static void complain_of_name(struct fh_text *problems, const struct place *place,
                             struct fh_slice name)
{
    size_t start = begin_problem(problems, place);
    const char *meant = nearest(name, NULL);
    fh_text_add(problems, "there is no option ");
    fh_text_add_quoted(problems, name);
    fh_text_add(problems, meant == NULL ? "; try help" : "; did you mean ");
    fh_text_add(problems, meant == NULL ? "" : meant);
    fh_text_add(problems, meant == NULL ? "" : "?");
    end_problem(problems, start);
}

static void complain_of_variable(struct fh_text *problems, const struct place *place,
                                 struct fh_slice name)
{
    size_t start = begin_problem(problems, place);
    const char *meant = nearest(name, CONF);
    fh_text_add(problems, "there is no such variable");
    fh_text_add(problems, meant == NULL ? "; try FREEHOLD_CONF=help" : "; did you mean ");
    if (meant != NULL) {
        add_variable(problems, meant);
        fh_text_add_char(problems, '?');
    }
    end_problem(problems, start);
}

static void complain_of_value(struct fh_text *problems, const struct place *place,
                              const struct option *option, struct fh_slice value)
{
    size_t start = begin_problem(problems, place);
    if (place->origin == FH_FROM_CONF) {
        fh_text_add(problems, option->name);
        fh_text_add(problems, ": ");
    }
    fh_text_add_quoted(problems, value);
    fh_text_add(problems, " is not ");
    fh_range_add(&option->range, problems);
    end_problem(problems, start);
}

/* ---- Reading ----------------------------------------------------------------------------------
 */

static struct fh_slice trimmed(struct fh_slice slice)
{
    while (slice.length > 0 && *slice.at == ' ') {
        slice.at++;
        slice.length--;
    }
    while (slice.length > 0 && slice.at[slice.length - 1] == ' ')
        slice.length--;
    return slice;
}

/* The part before the first of these characters; `*rest` is what comes after it. */
static struct fh_slice split(struct fh_slice from, const char *at, struct fh_slice *rest)
{
    size_t length = 0;
    while (length < from.length && strchr(at, from.at[length]) == NULL)
        length++;
    size_t skipped = length < from.length ? length + 1 : length;
    *rest = (struct fh_slice){from.at + skipped, from.length - skipped};
    return (struct fh_slice){from.at, length};
}

/* An empty value is none, as with PYTHONMALLOC. What stands in two places of one kind: the last in
 * FREEHOLD_CONF, the first among variables, which is the one that getenv() sees. */
static void set(struct fh_options *options, enum fh_option option, const struct place *place,
                struct fh_slice value, struct fh_text *problems)
{
    if (value.length == 0 || options->origins[option] == FH_FROM_VARIABLE)
        return;
    if (fh_slice_is(value, "help"))
        options->wants_help = true;
    else if (fh_value_parse(&table[option].range, value, &options->values[option]))
        options->origins[option] = (uint8_t)place->origin;
    else
        complain_of_value(problems, place, &table[option], value);
}

static void read_pair(struct fh_options *options, const struct place *place, struct fh_slice pair,
                      struct fh_text *problems)
{
    struct fh_slice value;
    struct fh_slice name = trimmed(split(pair, ":=", &value));
    enum fh_option option = fh_option_named(name);
    if (name.length == 0 && trimmed(value).length == 0)
        return;
    if (fh_slice_is(name, "help") && value.length == 0)
        options->wants_help = true;
    else if (option == FH_OPTIONS)
        complain_of_name(problems, place, name);
    else
        set(options, option, place, trimmed(value), problems);
}

static void read_conf(struct fh_options *options, struct fh_slice variable, struct fh_slice pairs,
                      struct fh_text *problems)
{
    const struct place place = {FH_FROM_CONF, variable};
    while (pairs.length > 0) {
        struct fh_slice pair = split(pairs, ",;", &pairs);
        read_pair(options, &place, pair, problems);
    }
}

/* The option's name in a variable's: in lower case, into `name`, if it is one that could be meant.
 */
static struct fh_slice name_of(struct fh_slice variable, char name[NAME_MAX_LENGTH])
{
    size_t length = variable.length - PREFIX_LENGTH;
    if (length > NAME_MAX_LENGTH)
        return (struct fh_slice){name, 0};
    for (size_t i = 0; i < length; i++)
        name[i] = fh_lower(variable.at[PREFIX_LENGTH + i]);
    return (struct fh_slice){name, length};
}

static bool is_upper(struct fh_slice slice)
{
    for (size_t i = 0; i < slice.length; i++)
        if (slice.at[i] != fh_upper(slice.at[i]))
            return false;
    return true;
}

static bool is_ours(const char *entry)
{
    return strncmp(entry, prefix, PREFIX_LENGTH) == 0;
}

/* One string of the environment that is ours; FREEHOLD_CONF or the others, as `wants_conf` says. */
static void read_entry(struct fh_options *options, const char *entry, bool wants_conf,
                       struct fh_text *problems)
{
    char room[NAME_MAX_LENGTH];
    struct fh_slice value;
    struct fh_slice variable = split(fh_slice_of(entry), "=", &value);
    struct fh_slice name = name_of(variable, room);
    const struct place place = {FH_FROM_VARIABLE, variable};
    enum fh_option option = is_upper(variable) ? fh_option_named(name) : FH_OPTIONS;
    bool is_conf = is_upper(variable) && fh_slice_is(name, CONF);
    if (is_conf != wants_conf)
        return;
    if (is_conf)
        read_conf(options, variable, value, problems);
    else if (fh_slice_is(name, PYTHON))
        return;
    else if (option == FH_OPTIONS)
        complain_of_variable(problems, &place, name);
    else
        set(options, option, &place, trimmed(value), problems);
}

void fh_options_parse(char *const *environment, struct fh_options *out, struct fh_text *problems)
{
    *out = defaults;
    for (int wants_conf = 1; wants_conf >= 0; wants_conf--)
        for (char *const *entry = environment; *entry != NULL; entry++)
            if (is_ours(*entry))
                read_entry(out, *entry, wants_conf, problems);
}

/* ---- The help ---------------------------------------------------------------------------------
 */

enum { VALUE_COLUMN = 22, ORIGIN_COLUMN = 38, HELP_COLUMN = 54 };

static const char *origin_text(const struct fh_options *options, enum fh_option option)
{
    static const char *const texts[] = {"default", "FREEHOLD_CONF", "environment"};
    return texts[options->origins[option]];
}

static void add_line(const struct fh_options *options, enum fh_option option, struct fh_text *text)
{
    size_t start = text->used;
    fh_text_add(text, "  ");
    fh_text_add(text, table[option].name);
    fh_text_pad(text, start, VALUE_COLUMN);
    fh_option_add(options, option, text);
    fh_text_pad(text, start, ORIGIN_COLUMN);
    fh_text_add(text, origin_text(options, option));
    fh_text_pad(text, start, HELP_COLUMN);
    fh_text_add(text, table[option].help);
    fh_text_add(text, "\n");
    fh_text_add(text, "      ");
    fh_range_add(&table[option].range, text);
    fh_text_add(text, "\n");
}

void fh_options_add_help(const struct fh_options *options, struct fh_text *text)
{
    fh_text_add(text, "freehold ");
    fh_text_add(text, fh_version());
    fh_text_add(text, ": FREEHOLD_<NAME>=value, or FREEHOLD_CONF=\"name:value,name:value\"\n"
                      "  name                value           from            what it is\n");
    for (enum fh_option option = 0; option < FH_OPTIONS; option++)
        add_line(options, option, text);
}

/* ---- Once -------------------------------------------------------------------------------------
 */

enum { PROBLEMS_BYTES = 2048, HELP_BYTES = 4096 };

/* What a reader fills in. */
struct reading {
    struct fh_options options; /* first: it is what is published */
    size_t problems_length;
    char problems[PROBLEMS_BYTES];
};

static void *published; /* struct fh_options *; one of a reading, or the defaults */

static bool mentions_us(char *const *environment)
{
    while (*environment != NULL && !is_ours(*environment))
        environment++;
    return *environment != NULL;
}

static size_t reading_bytes(void)
{
    return fh_round_up(sizeof(struct reading), fh_os_page_bytes());
}

/* NULL if memory is short. */
static struct reading *read_environment(char *const *environment)
{
    struct reading *reading = fh_os_map(reading_bytes());
    if (reading == NULL)
        return NULL;
    struct fh_text problems = {reading->problems, sizeof reading->problems, 0};
    fh_options_parse(environment, &reading->options, &problems);
    reading->problems_length = problems.used;
    return reading;
}

static void speak(struct reading *reading)
{
    const struct fh_text problems = {reading->problems, sizeof reading->problems,
                                     reading->problems_length};
    fh_text_write(&problems, STDERR_FILENO);
    if (reading->options.wants_help)
        fh_option_help(STDERR_FILENO);
}

static const struct fh_options *find_published(void)
{
    /* [options] acquire: the values, from the CAS in publish(). */
    return fh_load_acquire_ptr(&published);
}

/* True if these are the options of this process now. */
static bool publish(const struct fh_options *options)
{
    void *expected = NULL;
    /* [options] release: the values, to whoever asks. */
    return fh_cas_acq_rel_ptr(&published, &expected, (void *)(uintptr_t)options);
}

const struct fh_options *fh_options_read(char *const *environment, bool is_secure)
{
    const struct fh_options *found = find_published();
    if (found != NULL)
        return found;
    struct reading *reading = NULL;
    if (!is_secure && environment != NULL && mentions_us(environment))
        reading = read_environment(environment);
    bool is_first = publish(reading == NULL ? &defaults : &reading->options);
    if (reading != NULL && is_first)
        speak(reading);
    else if (reading != NULL)
        (void)fh_os_unmap(reading, reading_bytes());
    return find_published();
}

const struct fh_options *fh_options_get(void)
{
    int saved_errno = errno;
    const struct fh_options *found = find_published();
    if (found == NULL)
        found = fh_options_read(environ, getauxval(AT_SECURE) != 0);
    errno = saved_errno;
    return found;
}

/* ---- For programs -----------------------------------------------------------------------------
 */

int fh_option_get(const char *name, char *out, size_t bytes)
{
    struct fh_text text = {out, bytes, 0};
    enum fh_option option = name == NULL ? FH_OPTIONS : fh_option_named(fh_slice_of(name));
    if (option == FH_OPTIONS) {
        errno = EINVAL;
        return -1;
    }
    fh_text_cut(&text, 0); /* an empty text, if the value is */
    fh_option_add(fh_options_get(), option, &text);
    return (int)text.used;
}

void fh_option_help(int fd)
{
    char room[HELP_BYTES];
    struct fh_text text = {room, sizeof room, 0};
    fh_options_add_help(fh_options_get(), &text);
    fh_text_write(&text, fd);
}
