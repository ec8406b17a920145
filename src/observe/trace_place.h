/* SPDX-License-Identifier: MIT */
/* Which file and which function a native address lies in, asked of the system and of the file
 * itself: no loader, no lock, no memory but a mapping of the file, also in a signal handler. */
#ifndef FH_OBSERVE_TRACE_PLACE_H
#define FH_OBSERVE_TRACE_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FH_PLACE_NAME_BYTES = 256 };

/* A line of /proc/self/maps: "start-end access offset device inode   name". Programs that are not
 * moved when they are loaded lie low; their addresses are what their files say. */
struct fh_mapping {
    uintptr_t start, end;
    uintptr_t base;   /* what addresses count from, if this is the first part of its file */
    const char *name; /* in the line; "" for memory of no file */
};

struct fh_mapping fh_place_mapping(const char *line);

/* The file whose code is mapped at *pc; *pc is then counted from where the file begins in memory,
 * as in a snapshot. False, and *pc stays, if there is none. */
bool fh_place_file(uintptr_t *pc, char file[FH_PLACE_NAME_BYTES]);

/* The function that a call stands in which returns to `pc` (counted as above), and how far behind
 * its start. False if the file does not say. A name that is too long is cut. */
bool fh_place_function(const char *file, uintptr_t pc, char name[FH_PLACE_NAME_BYTES],
                       size_t *distance);

#endif
