/* SPDX-License-Identifier: MIT */
/* `import freehold`: Freehold's memory for the running interpreter, and a look at it.
 *
 * The module's functions are those of the Freehold that is in the process already, the launcher's
 * or a preloaded one, or of the shared library that it is linked with.
 */
#include "module.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "bridge.h"
#include "freehold/heap.h"
#include "freehold/stats.h"

#pragma weak fh_python_mode_name

PyObject *fh_python_raise_errno(void)
{
    return errno == ENOMEM ? PyErr_NoMemory() : PyErr_SetFromErrno(PyExc_OSError);
}

/* ---- Numbers as dictionaries ------------------------------------------------------------------
 */

struct field {
    const char *name;
    size_t offset;
};

/* None for what is unknown. */
static PyObject *number(size_t value)
{
    if (value == FH_STATS_UNKNOWN)
        Py_RETURN_NONE;
    return PyLong_FromSize_t(value);
}

static int add_field(PyObject *dict, const struct field *field, const char *structure)
{
    PyObject *value = number(*(const size_t *)(const void *)(structure + field->offset));
    int result = value == NULL ? -1 : PyDict_SetItemString(dict, field->name, value);
    Py_XDECREF(value);
    return result;
}

/* `fields` ends with a name that is NULL. */
static PyObject *dict_of(const struct field *fields, const void *structure)
{
    PyObject *dict = PyDict_New();
    for (; dict != NULL && fields->name != NULL; fields++)
        if (add_field(dict, fields, structure) != 0)
            Py_CLEAR(dict);
    return dict;
}

#define FIELD(name)                                                                                \
    {                                                                                              \
#name, offsetof(STRUCT, name)                                                              \
    }

static const struct field stats_fields[] = {
#define STRUCT fh_stats
    FIELD(allocated_bytes),
    FIELD(active_bytes),
    FIELD(retained_bytes),
    FIELD(mapped_bytes),
    FIELD(metadata_bytes),
    FIELD(arena_count),
    FIELD(heap_count),
    FIELD(spare_bytes),
    FIELD(purged_bytes),
    FIELD(small_pool_bytes),
    FIELD(span_bytes),
    FIELD(large_pool_bytes),
    FIELD(huge_pool_bytes),
    FIELD(classic_bytes),
    FIELD(available_bytes),
    FIELD(quantization_bytes),
    FIELD(allocated_blocks),
    FIELD(large_blocks),
    FIELD(ready_bytes),
    FIELD(resident_bytes),
    FIELD(metadata_resident_bytes),
    FIELD(reserved_bytes),
    FIELD(trace_bytes),
#undef STRUCT
    {NULL, 0},
};

static const struct field heap_fields[] = {
#define STRUCT fh_heap_stats
    FIELD(live_blocks),
    FIELD(live_bytes),
    FIELD(arenas_total),
    FIELD(arenas_reclaimed),
    FIELD(arenas_highwater),
    FIELD(arenas_current),
    FIELD(arenas_bytes),
    FIELD(in_use_bytes),
    FIELD(available_bytes),
    FIELD(free_pools_bytes),
    FIELD(header_bytes),
    FIELD(quantization_bytes),
    FIELD(alignment_bytes),
    FIELD(large_blocks),
    FIELD(large_bytes),
    FIELD(deferred_blocks),
#undef STRUCT
    {NULL, 0},
};

/* ---- Functions --------------------------------------------------------------------------------
 */

static PyObject *stats(PyObject *module, PyObject *none)
{
    fh_stats now = {.struct_bytes = sizeof now};
    (void)module, (void)none;
    return fh_get_stats(&now) == 0 ? dict_of(stats_fields, &now) : fh_python_raise_errno();
}

/* The heap that objects come from, if the interpreter has one of its own. */
static fh_heap *heap_of_objects(void)
{
    void *block = PyObject_Malloc(1);
    fh_heap *heap = block == NULL ? NULL : fh_heap_of(block);
    PyObject_Free(block);
    return heap == fh_heap_default() ? NULL : heap;
}

static PyObject *heap_stats(PyObject *module, PyObject *none)
{
    fh_heap_stats now = {.struct_bytes = sizeof now};
    fh_heap *heap = heap_of_objects();
    (void)module, (void)none;
    if (heap == NULL)
        Py_RETURN_NONE;
    return fh_heap_get_stats(heap, &now) == 0 ? dict_of(heap_fields, &now)
                                              : fh_python_raise_errno();
}

static PyObject *trim(PyObject *module, PyObject *none)
{
    size_t bytes;
    (void)module, (void)none;
    Py_BEGIN_ALLOW_THREADS;
    bytes = fh_trim();
    Py_END_ALLOW_THREADS;
    return PyLong_FromSize_t(bytes);
}

/* What Python has buffered comes before. */
static int descriptor_of(PyObject *file)
{
    if (file == Py_None)
        return STDERR_FILENO;
    if (PyObject_HasAttrString(file, "flush")) {
        PyObject *result = PyObject_CallMethod(file, "flush", NULL);
        if (result == NULL)
            return -1;
        Py_DECREF(result);
    }
    return PyObject_AsFileDescriptor(file);
}

static int write_text(int descriptor)
{
    fh_heap *heap = heap_of_objects();
    if (heap != NULL && fh_heap_write_stats(heap, descriptor) != 0)
        return -1;
    return fh_malloc_stats(descriptor);
}

static PyObject *dump_stats(PyObject *module, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"file", "json", NULL};
    PyObject *file = Py_None;
    int json = 0;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O$p:dump_stats", names, &file, &json))
        return NULL;
    int descriptor = descriptor_of(file);
    if (descriptor < 0)
        return NULL;
    if ((json ? fh_stats_json(descriptor) : write_text(descriptor)) != 0)
        return fh_python_raise_errno();
    Py_RETURN_NONE;
}

/* ---- The module -------------------------------------------------------------------------------
 */

static PyMethodDef functions[] = {
    {"stats", stats, METH_NOARGS,
     "stats()\n--\n\n"
     "Freehold's statistics of the process as a dict: the fields of fh_stats in freehold.h, in "
     "bytes and numbers; None for what the kernel does not say."},
    {"heap_stats", heap_stats, METH_NOARGS,
     "heap_stats()\n--\n\n"
     "The fields of fh_heap_stats of the heap that objects come from in the mode gil-assert; None "
     "in other modes."},
    {"trim", trim, METH_NOARGS,
     "trim()\n--\n\n"
     "Give all free pages back to the system now. Returns how many bytes that were."},
    {"dump_stats", FH_PYTHON_METHOD(dump_stats), METH_VARARGS | METH_KEYWORDS,
     "dump_stats(file=None, *, json=False)\n--\n\n"
     "Write statistics by size class to a file with a descriptor, or to stderr: the text of "
     "sys._debugmallocstats(), or one JSON object."},
    {"start_tracing", FH_PYTHON_METHOD(fh_python_start_tracing), METH_VARARGS | METH_KEYWORDS,
     "start_tracing(frames=1)\n--\n\n"
     "Note for each block made from now on where in Python that was, up to so many calls deep."},
    {"stop_tracing", fh_python_stop_tracing, METH_NOARGS,
     "stop_tracing()\n--\n\nForget what was noted, and note no more. Snapshots stay."},
    {"is_tracing", fh_python_is_tracing, METH_NOARGS, "is_tracing()\n--\n\n"},
    {"traced_memory", fh_python_traced_memory, METH_NOARGS,
     "traced_memory()\n--\n\n"
     "(current, peak): the bytes of all traced blocks, and the most they ever were."},
    {"snapshot", fh_python_snapshot, METH_NOARGS,
     "snapshot()\n--\n\nAll traced blocks of now, as a Snapshot."},
    {"load", fh_python_load, METH_O,
     "load(path, /)\n--\n\nRead a snapshot that Snapshot.dump() wrote."},
    {NULL, NULL, 0, NULL},
};

static int add_text(PyObject *module, const char *name, const char *text)
{
    if (text != NULL)
        return PyModule_AddStringConstant(module, name, text);
    return PyObject_SetAttrString(module, name, Py_None);
}

static int add_domains(PyObject *module)
{
    PyObject *domains = fh_python_served_domains();
    int result = domains == NULL ? -1 : PyObject_SetAttrString(module, "domains", domains);
    Py_XDECREF(domains);
    return result;
}

static int add_type(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    state->snapshot_type = PyType_FromModuleAndSpec(module, &fh_python_snapshot_spec, NULL);
    if (state->snapshot_type == NULL)
        return -1;
    return PyObject_SetAttrString(module, "Snapshot", state->snapshot_type);
}

static int execute(PyObject *module)
{
    const char *mode = fh_python_mode_name == NULL ? NULL : fh_python_mode_name();
    if (fh_python_install_late() != 0)
        return -1;
    bool failed = add_text(module, "installed", fh_python_how_installed()) != 0 ||
                  add_text(module, "mode", mode) != 0 ||
                  add_text(module, "__version__", fh_version()) != 0 || add_domains(module) != 0 ||
                  add_type(module) != 0;
    return failed ? -1 : 0;
}

static int traverse(PyObject *module, visitproc visit, void *arg)
{
    struct module_state *state = PyModule_GetState(module);
    if (state != NULL)
        Py_VISIT(state->snapshot_type);
    return 0;
}

static int clear(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    if (state != NULL)
        Py_CLEAR(state->snapshot_type);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, FH_PYTHON_SLOT(execute)},
    FH_PYTHON_MODULE_SLOTS{0, NULL},
};

static PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "freehold",
    .m_doc =
        "Python on Freehold's memory.\n\n"
        "Importing this module gives the running interpreter Freehold's memory, unless it has it "
        "already.\n\n"
        "installed  how: 'launcher' (freehold-python), 'preload', 'extension' (by the import), or "
        "None\n"
        "mode       freehold-python's mode, or None\n"
        "domains    which of 'raw', 'mem' and 'obj' Freehold serves",
    .m_size = sizeof(struct module_state),
    .m_methods = functions,
    .m_slots = module_slots,
    .m_traverse = traverse,
    .m_clear = clear,
};

PyMODINIT_FUNC PyInit_freehold(void);

PyMODINIT_FUNC PyInit_freehold(void)
{
    return PyModuleDef_Init(&definition);
}
