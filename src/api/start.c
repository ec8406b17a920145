/* SPDX-License-Identifier: MIT */
/* The one constructor: what the environment asks for is set up before the program begins.
 *
 * Nothing depends on it. Without it, or before it, all options have their defaults; and where the
 * environment says nothing it changes nothing. It comes before the constructors of a program, which
 * may allocate already. In an archive nothing refers to it, so whoever links one names it:
 * --undefined=fh_start.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "atomic.h"
#include "cgroup.h"
#include "config.h"
#include "freehold/debug.h"
#include "freehold/limit.h"
#include "freehold/options.h"
#include "freehold/purger.h"
#include "purge.h"
#include "setup.h"
#include "stats.h"
#include "trace_report.h"

/* Exported, for one reason: where the program is linked with one of the shared libraries and the
 * other is preloaded, both call the one whose functions the program uses, and it starts once. */
static uint32_t is_started;

static uint64_t number(const struct fh_options *options, enum fh_option option)
{
    return options->values[option].number;
}

static void configure_purge(const struct fh_options *options)
{
    if (fh_option_is_set(options, FH_OPTION_DECAY_MS) ||
        fh_option_is_set(options, FH_OPTION_RETAIN_MIN))
        fh_purge_configure(number(options, FH_OPTION_DECAY_MS),
                           number(options, FH_OPTION_RETAIN_MIN) >> FH_POOL_SHIFT);
}

/* Also for a program that sets up the hooks by itself. */
static void configure_debug(const struct fh_options *options)
{
    const fh_debug_config config = {sizeof config, number(options, FH_OPTION_DEBUG_QUARANTINE),
                                    number(options, FH_OPTION_DEBUG_SERIAL) != 0,
                                    number(options, FH_OPTION_DEBUG_STRICT) != 0};
    if (fh_option_is_set(options, FH_OPTION_DEBUG_QUARANTINE) ||
        fh_option_is_set(options, FH_OPTION_DEBUG_SERIAL) ||
        fh_option_is_set(options, FH_OPTION_DEBUG_STRICT))
        (void)fh_debug_configure(&config); /* EBUSY: another library's constructor was first */
}

static void complain(const char *line)
{
    const struct fh_text text = {(char *)(uintptr_t)line, strlen(line) + 1, strlen(line)};
    fh_text_write(&text, STDERR_FILENO);
}

static void set_limit(const struct fh_options *options)
{
    uint64_t bytes = fh_cgroup_resolve(number(options, FH_OPTION_LIMIT));
    if (bytes != 0 && fh_set_limit((size_t)bytes, NULL, NULL) != 0)
        complain("freehold: FREEHOLD_LIMIT: memory is short, there is no limit\n");
}

static void start_purger(const struct fh_options *options)
{
    if (number(options, FH_OPTION_PURGER) != 0 && fh_purger_start(0) != 0)
        complain("freehold: FREEHOLD_PURGER: the system gives no thread\n");
}

static void choose_pages(const struct fh_options *options)
{
    const uint64_t thp = number(options, FH_OPTION_THP);
    const struct fh_region *region = thp == FH_THP_SYSTEM ? NULL : fh_region_get();
    if (region != NULL)
        fh_region_prefer_pages(region, thp == FH_THP_ALWAYS);
}

static void set_up_allocators(const struct fh_options *options)
{
    if (fh_setup_from_options(options) != 0)
        complain("freehold: FREEHOLD_MALLOC: memory is short, not all is set up\n");
}

static const char *text_or_null(const struct fh_options *options, enum fh_option option)
{
    const char *text = options->values[option].text;
    return *text == '\0' ? NULL : text;
}

static void start_tracing(const struct fh_options *options)
{
    const struct fh_trace_options trace = {
        .frames = (int)number(options, FH_OPTION_TRACE),
        .top = (unsigned)number(options, FH_OPTION_TRACE_TOP),
        .path = text_or_null(options, FH_OPTION_TRACE_FILE),
        .signal_name = text_or_null(options, FH_OPTION_TRACE_SIGNAL),
    };
    if (trace.frames > 0 && !fh_trace_start_reporting(&trace))
        complain("freehold: FREEHOLD_TRACE: memory is short, nothing is traced\n");
}

static void start_statistics(const struct fh_options *options)
{
    const char *value = text_or_null(options, FH_OPTION_MALLOC_STATS);
    if (value != NULL)
        fh_stats_start(value);
}

/* 101: the first that is not the compiler's own. */
__attribute__((constructor(101))) void fh_start(void)
{
    int saved_errno = errno;
    if (fh_load_relaxed_u32(&is_started)) /* relaxed: the loader calls constructors in turn */
        return;
    fh_store_relaxed_u32(&is_started, 1);
    const struct fh_options *options = fh_options_get();
    configure_purge(options);
    configure_debug(options);
    choose_pages(options);
    set_limit(options);
    set_up_allocators(options);
    start_tracing(options);
    start_statistics(options);
    start_purger(options);
    errno = saved_errno;
}
