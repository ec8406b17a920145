/* SPDX-License-Identifier: MIT */
/* Tracing as a feature of programs: FREEHOLD_TRACE=25 ./server.
 *
 *   FREEHOLD_TRACE         frames of a trace, 1 to 65535; from the program's start on everything is
 *                          traced: the three domains, and the malloc family where it is Freehold's
 *   FREEHOLD_TRACE_TOP     how many sites a report shows; 10
 *   FREEHOLD_TRACE_FILE    where reports are appended, %p being the process's number; stderr
 *   FREEHOLD_TRACE_SIGNAL  a signal that writes a report, as USR2 or 12; none
 *
 * A report is written when the program exits, and for each signal. With the signal's action
 * something else than the default already, it stays as it is; and a program that sets its own later
 * has that. A child of a fork has traces of its own blocks alone. Threads that were started before
 * the library's constructor ran are not traced. All four are ignored in a program with more rights
 * than its user.
 */
#ifndef FH_OBSERVE_TRACE_REPORT_H
#define FH_OBSERVE_TRACE_REPORT_H

#include <stdbool.h>

/* Do what these variables say. To be called once, from ordinary code, before there are threads. */
void fh_trace_start_from_environment(void);

/* The same for who has read them already. */
struct fh_trace_options {
    int frames;
    unsigned top;            /* 0: as many as ever */
    const char *path;        /* NULL: stderr */
    const char *signal_name; /* NULL: none */
};

enum { FH_TRACE_TOP_MAX = 100000 };

/* False if memory is short. */
bool fh_trace_start_reporting(const struct fh_trace_options *options);

/* Write the first `top` sites now; nothing while tracing is off. Without `resolve`, which asks for
 * source lines, may be called in a signal handler. */
void fh_trace_report(int file, unsigned top, bool resolve);

/* For the debug hooks: the traceback of the call that made the block, if one is known, in CPython's
 * words. False while tracing is off. Takes no memory. */
bool fh_trace_write_traceback(int file, const void *block);

#endif
