/* SPDX-License-Identifier: MIT */
/* Whole files, in and out. */
#ifndef FH_OBSERVE_SNAPSHOT_FILE_H
#define FH_OBSERVE_SNAPSHOT_FILE_H

#include <stdbool.h>
#include <stddef.h>

/* The file's content with a 0 after it, in a block of the heap; *bytes counts the 0 too. NULL with
 * errno if it cannot be read, or memory is short. */
char *fh_read_file(const char *path, size_t *bytes);

/* All of it, however little is written at a time. */
bool fh_write_all(int file, const void *memory, size_t bytes);

#endif
