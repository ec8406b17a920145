/* SPDX-License-Identifier: MIT */
#include "trace_report.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "domain.h"
#include "freehold/trace.h"
#include "snapshot.h"
#include "snapshot_file.h"
#include "trace.h"
#include "trace_frames.h"
#include "trace_place.h"

enum { TEXT_BYTES = 1024, SITES_SHOWN = 10, DEBUG_FRAMES_MAX = 64 };

/* In a static program it is there if the program calls it itself: it takes the loader along, which
 * the linker warns of. */
extern __typeof__(fh_snapshot_resolve) fh_snapshot_resolve FH_WEAK;

/* Is the malloc family in this library? */
extern const char fh_malloc_family_is_here FH_WEAK FH_HIDDEN;

/* Settled before there are threads. */
static unsigned sites_shown = SITES_SHOWN;
static char report_path[TEXT_BYTES]; /* "": stderr. A copy: programs write over their environment */

/* ---- Text --------------------------------------------------------------------------------------
 */

struct text {
    int file;
    size_t used;
    char bytes[TEXT_BYTES];
};

static void flush(struct text *text)
{
    (void)fh_write_all(text->file, text->bytes, text->used); /* nobody listens: nothing to do */
    text->used = 0;
}

static void put_char(struct text *text, char c)
{
    if (text->used == sizeof text->bytes)
        flush(text);
    text->bytes[text->used++] = c;
}

static void put(struct text *text, const char *string)
{
    while (*string != '\0')
        put_char(text, *string++);
}

static void put_number(struct text *text, uint64_t number, unsigned base)
{
    char digits[20];
    int count = 0;
    do
        digits[count++] = "0123456789abcdef"[number % base];
    while ((number /= base) != 0);
    while (count > 0)
        put_char(text, digits[--count]);
}

/* "1234.5 KiB" */
static void put_kib(struct text *text, uint64_t bytes)
{
    uint64_t tenths = bytes / 1024 * 10 + (bytes % 1024 * 10 + 512) / 1024;
    put_number(text, tenths / 10, 10);
    put_char(text, '.');
    put_number(text, tenths % 10, 10);
    put(text, " KiB");
}

static void put_sum(struct text *text, uint64_t bytes, uint64_t count)
{
    put_kib(text, bytes);
    put(text, count == 1 ? " in 1 block" : " in ");
    if (count != 1) {
        put_number(text, count, 10);
        put(text, " blocks");
    }
}

/* " in function+0x12", if that is known */
static void put_function(struct text *text, const char *file, uintptr_t pc)
{
    char name[FH_PLACE_NAME_BYTES];
    size_t distance;
    if (!fh_place_function(file, pc, name, &distance))
        return;
    put(text, " in ");
    put(text, name);
    put(text, "+0x");
    put_number(text, distance, 16);
}

/* ---- A report ----------------------------------------------------------------------------------
 */

struct report {
    struct text text;
    const fh_snapshot *snapshot;
    fh_statistic *statistics;
    size_t count, shown;
    fh_frame *lines; /* of those shown: with source lines where these are known, in their order */
};

/* "a.c:5 in main+0x12", "/lib/a.so+0x1234 in f+0x12"; `line` may know more than `frame`. */
static void put_place(struct text *text, const fh_frame *frame, const fh_frame *line)
{
    put(text, line->filename);
    put(text, line->pc == 0 ? ":" : "+0x");
    put_number(text, line->pc == 0 ? line->lineno : line->pc, line->pc == 0 ? 10 : 16);
    if (frame->pc != 0)
        put_function(text, frame->filename, frame->pc);
}

static void put_site(struct report *report, size_t index, const fh_frame *lines)
{
    const fh_statistic *site = &report->statistics[index];
    struct text *text = &report->text;
    put_char(text, '#');
    put_number(text, index + 1, 10);
    put(text, ": ");
    put_place(text, site->frames, lines);
    put(text, ": ");
    put_sum(text, site->bytes, site->count);
    put_char(text, '\n');
    for (size_t i = 1; i < site->frame_count; i++) {
        put(text, "    ");
        put_place(text, &site->frames[i], &lines[i]);
        put_char(text, '\n');
    }
}

static void put_rest(struct report *report)
{
    uint64_t bytes = 0, blocks = 0;
    for (size_t i = report->shown; i < report->count; i++) {
        bytes += report->statistics[i].bytes;
        blocks += report->statistics[i].count;
    }
    if (report->count == report->shown)
        return;
    put_number(&report->text, report->count - report->shown, 10);
    put(&report->text, " other: ");
    put_sum(&report->text, bytes, blocks);
    put_char(&report->text, '\n');
}

static void put_total(struct report *report)
{
    uint64_t bytes = 0, blocks = 0;
    for (size_t i = 0; i < report->count; i++) {
        bytes += report->statistics[i].bytes;
        blocks += report->statistics[i].count;
    }
    put(&report->text, "Total allocated size: ");
    put_sum(&report->text, bytes, blocks);
    put_char(&report->text, '\n');
}

static size_t count_frames_shown(const struct report *report)
{
    size_t count = 0;
    for (size_t i = 0; i < report->shown; i++)
        count += report->statistics[i].frame_count;
    return count;
}

/* A static program has a libc of its own, beside which no other library can be loaded. */
static bool can_resolve(void)
{
    return fh_snapshot_resolve != NULL && getauxval(AT_BASE) != 0;
}

/* A copy of the frames of the sites that are shown; source lines are asked for these alone. */
static bool find_lines(struct report *report, bool resolve)
{
    fh_snapshot few = {.frame_count = count_frames_shown(report)};
    few.frames = fh_snapshot_memory((few.frame_count + 1) * sizeof *few.frames);
    if (few.frames == NULL)
        return false;
    fh_frame *next = few.frames;
    for (size_t i = 0; i < report->shown; i++)
        for (size_t j = 0; j < report->statistics[i].frame_count; j++)
            *next++ = report->statistics[i].frames[j];
    if (resolve && can_resolve())
        (void)fh_snapshot_resolve(&few); /* else without lines */
    report->lines = few.frames;
    return true;
}

static void write_report(struct report *report)
{
    const fh_frame *lines = report->lines;
    put(&report->text, "freehold: process ");
    put_number(&report->text, (uint64_t)getpid(), 10);
    put(&report->text, ", what holds most memory: top ");
    put_number(&report->text, report->shown, 10);
    put(&report->text, fh_snapshot_limit(report->snapshot) == 1 ? " lines\n" : " tracebacks\n");
    for (size_t i = 0; i < report->shown; i++) {
        put_site(report, i, lines);
        lines += report->statistics[i].frame_count;
    }
    put_rest(report);
    put_total(report);
    flush(&report->text);
}

static void report_snapshot(int file, const fh_snapshot *snapshot, unsigned top, bool resolve)
{
    struct report report = {.text = {.file = file}, .snapshot = snapshot};
    fh_group group = fh_snapshot_limit(snapshot) == 1 ? FH_BY_LINENO : FH_BY_TRACEBACK;
    report.statistics = fh_snapshot_statistics(snapshot, group, 0, &report.count);
    report.shown = report.count < top ? report.count : top;
    if (report.statistics != NULL && find_lines(&report, resolve))
        write_report(&report);
    fh_snapshot_release(report.lines);
    fh_statistics_free(report.statistics);
}

void fh_trace_report(int file, unsigned top, bool resolve)
{
    uint32_t before = fh_trace_pause();
    fh_snapshot *snapshot = fh_snapshot_take();
    if (snapshot != NULL)
        report_snapshot(file, snapshot, top, resolve);
    fh_snapshot_free(snapshot);
    fh_trace_resume(before);
}

/* ---- For the debug hooks -----------------------------------------------------------------------
 */

/* In CPython's form: File "a.py", line 5 */
static void put_frame(struct text *text, const fh_frame *frame)
{
    char file[FH_PLACE_NAME_BYTES];
    uintptr_t pc = frame->pc;
    bool is_placed = pc != 0 && fh_place_file(&pc, file);
    put(text, "  File \"");
    put(text, is_placed ? file : frame->filename);
    put(text, frame->pc == 0 ? "\", line " : "\", at 0x");
    put_number(text, frame->pc == 0 ? frame->lineno : pc, frame->pc == 0 ? 10 : 16);
    if (is_placed)
        put_function(text, file, pc);
    put_char(text, '\n');
}

/* Of whichever domain; where tracing wraps the hooks, of the block as its caller knows it, and
 * where the hooks wrap tracing, of all that is around it. */
static size_t find_frames(uintptr_t address, fh_frame *frames)
{
    enum { HEAD_BYTES = 16 };
    size_t count = 0;
    for (unsigned domain = 0; domain < FH_DOMAINS && count == 0; domain++) {
        count = fh_trace_get_traceback(domain, address, frames, DEBUG_FRAMES_MAX, NULL);
        if (count == 0)
            count = fh_trace_get_traceback(domain, address - HEAD_BYTES, frames, DEBUG_FRAMES_MAX,
                                           NULL);
    }
    return count < DEBUG_FRAMES_MAX ? count : DEBUG_FRAMES_MAX;
}

bool fh_trace_write_traceback(int file, const void *block)
{
    fh_frame frames[DEBUG_FRAMES_MAX];
    struct text text = {.file = file};
    if (fh_trace_session() == NULL)
        return false;
    size_t count = find_frames((uintptr_t)block, frames);
    if (count == 0)
        return true;
    put(&text, "Memory block allocated at (most recent call first):\n");
    for (size_t i = 0; i < count; i++)
        put_frame(&text, &frames[i]);
    put(&text, "\n");
    flush(&text);
    return true;
}

/* ---- Where reports go --------------------------------------------------------------------------
 */

/* With the process's number for %p; what does not fit is cut. */
static void expand_path(const char *path, struct text *to)
{
    for (; *path != '\0' && to->used < TEXT_BYTES - 24; path++) {
        if (path[0] == '%' && path[1] == 'p') {
            put_number(to, (uint64_t)getpid(), 10);
            path++;
        } else {
            put_char(to, *path);
        }
    }
    put_char(to, '\0');
}

static int open_report(void)
{
    struct text path = {.file = -1};
    if (report_path[0] == '\0')
        return STDERR_FILENO;
    expand_path(report_path, &path);
    return open(path.bytes, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
}

static void report(bool resolve)
{
    int saved_errno = errno;
    int file = open_report();
    if (file >= 0)
        fh_trace_report(file, sites_shown, resolve);
    if (file >= 0 && file != STDERR_FILENO)
        (void)close(file);
    errno = saved_errno;
}

static void report_at_exit(void)
{
    report(true);
}

/* A snapshot is safe to take here: it locks nothing, and its memory is the heap's. */
static void report_on_signal(int number)
{
    (void)number;
    report(false);
}

/* A child knows nothing of what its parent made. */
static void forget_in_child(void)
{
    (void)fh_trace_clear(); /* no memory: it still does */
}

/* ---- From the environment ----------------------------------------------------------------------
 */

static void complain(const char *name, const char *value, const char *what)
{
    struct text text = {.file = STDERR_FILENO};
    put(&text, "freehold: ");
    put(&text, name);
    put_char(&text, '=');
    put(&text, value);
    put(&text, ": ");
    put(&text, what);
    put_char(&text, '\n');
    flush(&text);
}

/* NULL if it is not there, or empty. */
static const char *variable(const char *name)
{
    const char *value = secure_getenv(name);
    return value == NULL || *value == '\0' ? NULL : value;
}

/* 0 if it is not one of 1..most. */
static unsigned parse_number(const char *text, unsigned most)
{
    unsigned number = 0;
    for (; *text >= '0' && *text <= '9' && number <= most; text++)
        number = 10 * number + (unsigned)(*text - '0');
    return *text == '\0' && number <= most ? number : 0;
}

/* By number, or by name with or without SIG; 0 for others. */
static int parse_signal(const char *text)
{
    static const struct {
        const char *name;
        int number;
    } known[] = {{"HUP", SIGHUP},       {"USR1", SIGUSR1},   {"USR2", SIGUSR2}, {"ALRM", SIGALRM},
                 {"VTALRM", SIGVTALRM}, {"WINCH", SIGWINCH}, {"PROF", SIGPROF}, {"IO", SIGIO},
                 {"PWR", SIGPWR},       {"URG", SIGURG}};
    const char *name = strncmp(text, "SIG", 3) == 0 ? text + 3 : text;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0)
            return known[i].number;
    return (int)parse_number(text, 64);
}

static void listen_to(const char *text)
{
    struct sigaction action, now;
    int number = parse_signal(text);
    memset(&action, 0, sizeof action);
    action.sa_handler = report_on_signal;
    action.sa_flags = SA_RESTART;
    if (number == 0 || sigaction(number, NULL, &now) != 0) {
        complain("FREEHOLD_TRACE_SIGNAL", text, "not a signal's name or number");
        return;
    }
    if (now.sa_handler != SIG_DFL)
        complain("FREEHOLD_TRACE_SIGNAL", text, "has an action already, and keeps it");
    else if (sigaction(number, &action, NULL) != 0)
        complain("FREEHOLD_TRACE_SIGNAL", text, "cannot be handled");
}

static void set_path(const char *path)
{
    size_t length = strlen(path);
    if (length < sizeof report_path)
        memcpy(report_path, path, length + 1);
    else
        complain("FREEHOLD_TRACE_FILE", path, "too long");
}

static void set_up_reports(const struct fh_trace_options *options)
{
    if (options->path != NULL)
        set_path(options->path);
    if (options->top != 0)
        sites_shown = options->top;
    (void)atexit(report_at_exit); /* no memory: no report */
    (void)pthread_atfork(NULL, NULL, forget_in_child);
    if (options->signal_name != NULL)
        listen_to(options->signal_name);
}

bool fh_trace_start_reporting(const struct fh_trace_options *options)
{
    set_up_reports(options);
    if (options->frames > 1)
        fh_trace_prepare_unwinder();
    if (&fh_malloc_family_is_here != NULL)
        fh_trace_malloc_family();
    return fh_trace_start(options->frames) == 0;
}

/* 0 if there is none, or nothing that makes sense; this is then said. */
static unsigned number_in(const char *name, unsigned most, const char *complaint)
{
    const char *text = variable(name);
    unsigned number = text == NULL ? 0 : parse_number(text, most);
    if (text != NULL && number == 0)
        complain(name, text, complaint);
    return number;
}

void fh_trace_start_from_environment(void)
{
    struct fh_trace_options options = {
        .path = variable("FREEHOLD_TRACE_FILE"),
        .signal_name = variable("FREEHOLD_TRACE_SIGNAL"),
        .frames = (int)number_in("FREEHOLD_TRACE", FH_TRACE_FRAMES_MAX,
                                 "the number of frames must be in range [1; 65535]")};
    if (options.frames == 0)
        return;
    options.top = number_in("FREEHOLD_TRACE_TOP", FH_TRACE_TOP_MAX,
                            "the number of sites must be in range [1; 100000]");
    if (!fh_trace_start_reporting(&options))
        complain("FREEHOLD_TRACE", variable("FREEHOLD_TRACE"), "no memory for tracing");
}
