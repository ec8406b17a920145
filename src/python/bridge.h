/* SPDX-License-Identifier: MIT */
/* The bridge between CPython and Freehold: which memory an interpreter starts with.
 *
 * A mode says where the interpreter's three domains go. It is chosen after the interpreter was
 * pre-initialised and before it is initialised. Who ends the interpreter and starts it again does
 * the same again, with the same mode: from 3.12 on the interpreter forgets its allocators, and with
 * PYTHONMALLOC earlier ones do too. CPython swaps its raw allocator for libc's malloc
 * while it starts and ends; a program linked with freehold-malloc has the same memory behind both,
 * and no block is ever lost between them.
 */
#ifndef FH_PYTHON_BRIDGE_H
#define FH_PYTHON_BRIDGE_H

#include "python.h"

#include "freehold.h"

/* The library that the launcher preloads (preload.c) may come into a program that is not Python, as
 * valgrind's is, on its way there. It must load all the same. */
#pragma weak PyGILState_Check
#pragma weak PyMem_GetAllocator
#pragma weak PyMem_SetAllocator
#pragma weak PyMem_SetupDebugHooks
#pragma weak PyObject_SetArenaAllocator
#pragma weak PyPreConfig_InitPythonConfig
#pragma weak PyStatus_Exception
#pragma weak Py_ExitStatusException
#pragma weak Py_PreInitializeFromBytesArgs
#pragma weak _Py_FatalErrorFunc

/** Where a mode's calls go. The first one is the default. */
struct fh_python_mode {
    const char *name;
    const char *summary;  /* one line, for people */
    int (*install)(void); /* 0; -1 with errno */
};

/** The mode of this name; NULL if there is none. "" and "default" name the first. */
const struct fh_python_mode *fh_python_find_mode(const char *name);

/** Write all modes with their summaries to a stream. */
void fh_python_list_modes(FILE *stream);

/** Let the domains go where the mode says. Call it after each Py_PreInitialize() and before
 * Py_Initialize(), always with the same mode. Debug hooks of CPython's that pre-initialisation has
 * set up, because of PYTHONMALLOC or -X dev, are set up again on top.
 *
 * Returns 0, or -1: ENOTSUP where the mode is not safe with this CPython, ENOMEM. */
int fh_python_install(const struct fh_python_mode *mode);

/** What a program does that takes its mode from the command line or FREEHOLD_PYTHON: pre-initialise
 * the interpreter, and install the mode. Ends the program with a message if one of them is wrong.
 */
void fh_python_start(int count, char **arguments);

/** The mode that was installed, for `import freehold`; NULL: none. Exported. */
FH_API const char *fh_python_mode_name(void);

/* ---- allocators.c ----------------------------------------------------------------------------
 */

/** The domains of Freehold as CPython's allocators, in the order of PyMemAllocatorDomain. */
extern const PyMemAllocatorEx fh_python_allocators[3];

/** The same, but mem and obj go straight to one gil-assert heap, which is also what Freehold's own
 * mem and obj domains lead to from then on. Returns 0, or -1 with ENOMEM. */
int fh_python_make_heap(PyMemAllocatorEx out[3]);

#endif
