/* SPDX-License-Identifier: MIT */
/* Tracing as a feature of programs: FREEHOLD_TRACE=25 ./server. */
#ifndef FH_OBSERVE_TRACE_REPORT_H
#define FH_OBSERVE_TRACE_REPORT_H

#include <stdbool.h>

/* If FREEHOLD_TRACE is a number of frames, trace from now on, and at the program's exit write to
 * stderr which lines hold the most memory. With FREEHOLD_TRACE_SIGNAL set, SIGUSR2 writes the same,
 * without source lines. To be called once, from ordinary code. */
void fh_trace_start_from_environment(void);

/* Write it now; nothing while tracing is off. Without `resolve`, may be called in a signal handler.
 */
void fh_trace_report(int file, bool resolve);

#endif
