/* SPDX-License-Identifier: MIT */
/* The parts of the Python module `freehold`. */
#ifndef FH_PYTHON_MODULE_H
#define FH_PYTHON_MODULE_H

#include "python.h"

#include "freehold.h"
#include "freehold/trace.h"

/* A function in a slot or a method table, where CPython's types are wider than C's. */
#define FH_PYTHON_SLOT(function)   ((void *)(uintptr_t)(function))
#define FH_PYTHON_METHOD(function) ((PyCFunction)(void (*)(void))(function))

struct module_state {
    PyObject *snapshot_type;
};

/* errno as an exception: MemoryError for ENOMEM, OSError otherwise. NULL. */
PyObject *fh_python_raise_errno(void);

/* ---- install.c --------------------------------------------------------------------------------
 */

/* Give the running interpreter Freehold's memory, unless it has it. Once per process, whichever
 * interpreter is the first. 0, or -1 with an exception. */
int fh_python_install_late(void);

/* How: "launcher", "preload" or "extension"; NULL for not at all. Borrowed for ever. */
const char *fh_python_how_installed(void);

/* See to it that what the interpreter allocates can be traced. 0, or -1 with an exception. */
int fh_python_prepare_tracing(void);

/* The domains that Freehold serves now, as a tuple of names. */
PyObject *fh_python_served_domains(void);

/* ---- frames.c: a fh_frames_function ----------------------------------------------------------
 */

size_t fh_python_frames(void *context, fh_frame *out, size_t max, size_t *total);

/* ---- tracing.c --------------------------------------------------------------------------------
 */

extern PyType_Spec fh_python_snapshot_spec;

PyObject *fh_python_start_tracing(PyObject *module, PyObject *args, PyObject *keywords);
PyObject *fh_python_stop_tracing(PyObject *module, PyObject *none);
PyObject *fh_python_is_tracing(PyObject *module, PyObject *none);
PyObject *fh_python_traced_memory(PyObject *module, PyObject *none);
PyObject *fh_python_snapshot(PyObject *module, PyObject *none);
PyObject *fh_python_load(PyObject *module, PyObject *path);

#endif
