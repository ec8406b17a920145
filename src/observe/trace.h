/* SPDX-License-Identifier: MIT */
/* What a snapshot needs of the tracer. The rest is public: freehold/trace.h. */
#ifndef FH_OBSERVE_TRACE_H
#define FH_OBSERVE_TRACE_H

#include "trace_store.h"

/* NULL while tracing is off. A session is there for ever. */
struct fh_trace_session *fh_trace_session(void);

#endif
