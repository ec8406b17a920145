/* SPDX-License-Identifier: MIT */
/* Where a call comes from. */
#ifndef FH_OBSERVE_TRACE_FRAMES_H
#define FH_OBSERVE_TRACE_FRAMES_H

#include <stdint.h>

/* The frame of a function of ours and where it returns to: the program, if the compiler made jumps
 * of the calls in between, as it does when it optimises. */
struct fh_call_site {
    const void *const *frame; /* [0] the caller's frame pointer */
    const void *return_address;
};

#define FH_CALL_SITE()                                                                             \
    ((struct fh_call_site){__builtin_frame_address(0),                                             \
                           __builtin_extract_return_addr(__builtin_return_address(0))})

/* From now on native frames come from the unwinder of the compiler's run-time library, if there is
 * one that takes no lock: it also knows code without frame pointers. Not for signal handlers. */
void fh_trace_prepare_unwinder(void);

/* The index of the traceback of a call, with up to `limit` frames. */
uint32_t fh_traceback_of(struct fh_call_site site, uint32_t limit);

#endif
