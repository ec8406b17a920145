/* SPDX-License-Identifier: MIT */
/* The limit on memory that the process's control group has (version 2). */
#ifndef FH_OPTIONS_CGROUP_H
#define FH_OPTIONS_CGROUP_H

#include <stdint.h>

/* The least memory.max of the group and those above it that can be seen; UINT64_MAX if there is
 * none. `root` is what comes before /proc and /sys: "", but for tests. Preserves errno. */
uint64_t fh_cgroup_memory_max(const char *root);

/* The bytes that a value of the option `limit` means; 0 for none. */
uint64_t fh_cgroup_resolve(uint64_t limit);

#endif
