/* SPDX-License-Identifier: MIT */
/* What the launcher and the library that it loads into the interpreter agree on. */
#ifndef FH_PYTHON_PRELOAD_H
#define FH_PYTHON_PRELOAD_H

#define FH_PYTHON_PRELOAD_NAME "libfreehold-python.so"

#endif
