/* SPDX-License-Identifier: MIT */
#include "trace_report.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "freehold/trace.h"
#include "snapshot_file.h"

enum { SITES_SHOWN = 10, LINE_BYTES = 512 };

static size_t append(char *line, size_t used, const char *text)
{
    size_t length = strlen(text);
    size_t left = LINE_BYTES - used;
    length = length < left ? length : left;
    memcpy(line + used, text, length);
    return used + length;
}

/* "  a.py:5: size=5002 B, count=2, average=2501 B" */
static void write_site(int file, const fh_statistic *statistic)
{
    char line[LINE_BYTES + 1];
    size_t used = append(line, 0, "  ");
    size_t length = fh_statistic_format(statistic, line + used, LINE_BYTES - used);
    used = length < LINE_BYTES - used ? used + length : LINE_BYTES - 1;
    line[used++] = '\n';
    (void)fh_write_all(file, line, used); /* nobody listens: nothing to do */
}

static void write_sites(int file, const fh_snapshot *snapshot)
{
    static const char title[] = "freehold: what holds most memory\n";
    size_t count;
    fh_statistic *statistics = fh_snapshot_statistics(snapshot, FH_BY_LINENO, 0, &count);
    if (statistics == NULL)
        return;
    (void)fh_write_all(file, title, sizeof title - 1);
    for (size_t i = 0; i < count && i < SITES_SHOWN; i++)
        write_site(file, &statistics[i]);
    fh_statistics_free(statistics);
}

void fh_trace_report(int file, bool resolve)
{
    fh_snapshot *snapshot = fh_snapshot_take();
    if (snapshot == NULL)
        return;
    if (resolve)
        (void)fh_snapshot_resolve(snapshot); /* else without lines */
    write_sites(file, snapshot);
    fh_snapshot_free(snapshot);
}

/* ---- From the environment ----------------------------------------------------------------------
 */

static void report_at_exit(void)
{
    fh_trace_report(STDERR_FILENO, true);
}

/* A snapshot is safe to take here: it locks nothing, and its memory is the heap's. */
static void report_on_signal(int number)
{
    int saved_errno = errno;
    (void)number;
    fh_trace_report(STDERR_FILENO, false);
    errno = saved_errno;
}

static void listen_to_signal(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = report_on_signal;
    action.sa_flags = SA_RESTART;
    (void)sigaction(SIGUSR2, &action, NULL); /* cannot fail for this signal */
}

/* 0 if it is not one of 1..FH_TRACE_FRAMES_MAX. */
static int parse_frames(const char *text)
{
    int frames = 0;
    for (; *text >= '0' && *text <= '9' && frames <= FH_TRACE_FRAMES_MAX; text++)
        frames = 10 * frames + (*text - '0');
    return *text == '\0' && frames <= FH_TRACE_FRAMES_MAX ? frames : 0;
}

static void complain(const char *text)
{
    char line[LINE_BYTES + 1];
    size_t used = append(line, 0, "freehold: FREEHOLD_TRACE=");
    used = append(line, used, text);
    used = append(line, used, ": the number of frames must be in range [1; 65535]\n");
    (void)fh_write_all(STDERR_FILENO, line, used);
}

void fh_trace_start_from_environment(void)
{
    const char *text = getenv("FREEHOLD_TRACE");
    if (text == NULL || *text == '\0')
        return;
    if (parse_frames(text) == 0) {
        complain(text);
        return;
    }
    if (fh_trace_start(parse_frames(text)) != 0)
        return;
    (void)atexit(report_at_exit); /* no memory: no report */
    if (getenv("FREEHOLD_TRACE_SIGNAL") != NULL)
        listen_to_signal();
}
