/* SPDX-License-Identifier: MIT */
/* CPython's headers, and what differs between 3.9 and 3.14. */
#ifndef FH_PYTHON_PYTHON_H
#define FH_PYTHON_PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The domains that may be replaced. The collector of free-threaded builds walks the pages in which
 * their own allocator puts objects. */
#if defined(Py_GIL_DISABLED)
enum { FH_PYTHON_DOMAINS = 2 };
#else
enum { FH_PYTHON_DOMAINS = 3 };
#endif

/* From 3.12 on sub-interpreters may have locks of their own, and all of them call one set of
 * allocators. Nothing tells an allocator which lock its caller holds, or whether such interpreters
 * will be made; any import may make them. */
#if PY_VERSION_HEX < 0x030C0000
enum { FH_PYTHON_HAS_ONE_GIL = 1 };
#else
enum { FH_PYTHON_HAS_ONE_GIL = 0 };
#endif

/* In debug builds up to 3.13 CPython's own hooks lose a raw allocator that is not libc's. */
#if defined(Py_DEBUG)
enum { FH_PYTHON_HOOKS_ARE_SAFE = 0 };
#else
enum { FH_PYTHON_HOOKS_ARE_SAFE = 1 };
#endif

/* What a module says of itself to interpreters with locks of their own, and to those without one.
 */
#if PY_VERSION_HEX >= 0x030D0000
#define FH_PYTHON_MODULE_SLOTS                                                                     \
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},                          \
        {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#elif PY_VERSION_HEX >= 0x030C0000
#define FH_PYTHON_MODULE_SLOTS {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#else
#define FH_PYTHON_MODULE_SLOTS
#endif

/* The thread state that is current, NULL for none. Up to 3.11 it is the one of whichever thread
 * holds the lock. */
#if PY_VERSION_HEX >= 0x030D0000
#define FH_PYTHON_CURRENT_STATE() PyThreadState_GetUnchecked()
#else
#define FH_PYTHON_CURRENT_STATE() _PyThreadState_UncheckedGet()
#endif

#endif
