/* SPDX-License-Identifier: MIT */
/* Options: what the environment asks for, read once.
 *
 * A thread that wants to know and finds nothing reads the environment into memory of its own and
 * publishes that by one CAS; who comes second throws its own away. From then on nothing changes,
 * whatever the program does to its environment. Where the environment says nothing, which is
 * nearly always, all this comes down to a pointer to the defaults. No locale, no malloc; may be
 * called in a signal handler.
 */
#ifndef FH_OPTIONS_OPTIONS_H
#define FH_OPTIONS_OPTIONS_H

#include "compiler.h"
#include "option_value.h"

/* In the order of the help. */
enum fh_option {
    FH_OPTION_MALLOC,
    FH_OPTION_OBJ_MODE,
    FH_OPTION_MALLOC_STATS,
    FH_OPTION_TRACE,
    FH_OPTION_TRACE_TOP,
    FH_OPTION_TRACE_FILE,
    FH_OPTION_TRACE_SIGNAL,
    FH_OPTION_DECAY_MS,
    FH_OPTION_RETAIN_MIN,
    FH_OPTION_LIMIT,
    FH_OPTION_PURGER,
    FH_OPTION_THP,
    FH_OPTION_DEBUG_QUARANTINE,
    FH_OPTION_DEBUG_SERIAL,
    FH_OPTION_DEBUG_STRICT,
    FH_OPTIONS
};

/* The words of FREEHOLD_OBJ_MODE, by number; the others are those of enum fh_obj_mode. */
enum { FH_OBJ_MODE_UNSAID = 0, FH_OBJ_MODE_FIRST = 1 };

/* The words of FREEHOLD_THP, by number. */
enum fh_thp { FH_THP_SYSTEM, FH_THP_NEVER, FH_THP_ALWAYS };

/* Later ones win. */
enum fh_origin { FH_FROM_DEFAULT, FH_FROM_CONF, FH_FROM_VARIABLE };

struct fh_options {
    struct fh_value values[FH_OPTIONS];
    uint8_t origins[FH_OPTIONS]; /* enum fh_origin */
    bool wants_help;
};

/* The options as this process was started with them. Never NULL, always the same. */
const struct fh_options *fh_options_get(void);

/* The same, but if nobody has read them yet, from this environment; `is_secure`: which is not to be
 * trusted. Whoever settles them says on stderr what was wrong, and prints the help if asked for. */
const struct fh_options *fh_options_read(char *const *environment, bool is_secure);

/* What an environment says, and in `problems` a line for each thing in it that makes no sense. */
void fh_options_parse(char *const *environment, struct fh_options *out, struct fh_text *problems);

/* Was it set to anything, be it the default? */
static inline bool fh_option_is_set(const struct fh_options *options, enum fh_option option)
{
    return options->origins[option] != FH_FROM_DEFAULT;
}

/* The value as it could be given again. */
void fh_option_add(const struct fh_options *options, enum fh_option option, struct fh_text *text);

/* The option of that name, or FH_OPTIONS. */
enum fh_option fh_option_named(struct fh_slice name);

/* The words that FREEHOLD_MALLOC takes, up to a NULL. */
extern const char *const fh_malloc_words[] FH_HIDDEN;

/* All that `freehold/options.h` promises of the help. */
void fh_options_add_help(const struct fh_options *options, struct fh_text *text);

#endif
