/* SPDX-License-Identifier: MIT */
/* Allocators by name; what others may ask is in freehold/options.h. */
#ifndef FH_OPTIONS_SETUP_H
#define FH_OPTIONS_SETUP_H

#include "options.h"

/* As fh_setup_allocators(), by the options `malloc` and `obj_mode`. 0 also if there is nothing to
 * do. */
int fh_setup_from_options(const struct fh_options *options);

#endif
