/* SPDX-License-Identifier: MIT */
/* What the tracer's other parts and a snapshot need of it. The rest is public: freehold/trace.h. */
#ifndef FH_OBSERVE_TRACE_H
#define FH_OBSERVE_TRACE_H

#include <stdbool.h>

#include "trace_store.h"

/* NULL while tracing is off. A session is there for ever. */
struct fh_trace_session *fh_trace_session(void);

/* From now on, whenever tracing is on, the malloc family is traced as the raw domain is. Before
 * there are threads. */
void fh_trace_malloc_family(void);

/* What this thread makes until fh_trace_resume() is not traced; what it frees is forgotten. */
uint32_t fh_trace_pause(void);
void fh_trace_resume(uint32_t before);

#endif
