/* SPDX-License-Identifier: MIT */
/* Tracing with Python's frames, and snapshots.
 *
 * A snapshot stays in Freehold's form, outside the interpreter's memory; what it is asked for comes
 * as objects of the standard module tracemalloc: Statistic, StatisticDiff, Traceback.
 */
#include "module.h"

#include <errno.h>
#include <string.h>

struct snapshot {
    PyObject ob_base;
    fh_snapshot *traces;
};

/* ---- Tracing ----------------------------------------------------------------------------------
 */

PyObject *fh_python_start_tracing(PyObject *module, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"frames", NULL};
    int frames = 1;
    (void)module;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|i:start_tracing", names, &frames))
        return NULL;
    if (frames < 1 || frames > FH_TRACE_FRAMES_MAX)
        return PyErr_Format(PyExc_ValueError, "the number of frames must be in range [1; %d]",
                            (int)FH_TRACE_FRAMES_MAX);
    if (fh_python_prepare_tracing() != 0)
        return NULL;
    if (fh_trace_set_frames(fh_python_frames, NULL) != 0 || fh_trace_start(frames) != 0)
        return fh_python_raise_errno();
    Py_RETURN_NONE;
}

PyObject *fh_python_stop_tracing(PyObject *module, PyObject *none)
{
    (void)module, (void)none;
    fh_trace_stop();
    Py_RETURN_NONE;
}

PyObject *fh_python_is_tracing(PyObject *module, PyObject *none)
{
    (void)module, (void)none;
    return PyBool_FromLong(fh_trace_is_tracing());
}

PyObject *fh_python_traced_memory(PyObject *module, PyObject *none)
{
    size_t current_bytes, peak_bytes;
    (void)module, (void)none;
    fh_trace_get_traced_memory(&current_bytes, &peak_bytes);
    return Py_BuildValue("nn", (Py_ssize_t)current_bytes, (Py_ssize_t)peak_bytes);
}

/* ---- Making snapshots -------------------------------------------------------------------------
 */

/* Takes over `traces`, whose absence is an exception. */
static PyObject *new_snapshot(PyTypeObject *type, fh_snapshot *traces)
{
    struct snapshot *self = traces == NULL ? NULL : PyObject_New(struct snapshot, type);
    if (self == NULL) {
        fh_snapshot_free(traces);
        return PyErr_Occurred() ? NULL : fh_python_raise_errno();
    }
    self->traces = traces;
    return (PyObject *)self;
}

static PyTypeObject *snapshot_type(PyObject *module)
{
    struct module_state *state = PyModule_GetState(module);
    return (PyTypeObject *)state->snapshot_type;
}

PyObject *fh_python_snapshot(PyObject *module, PyObject *none)
{
    (void)none;
    if (!fh_trace_is_tracing()) {
        PyErr_SetString(PyExc_RuntimeError,
                        "freehold is not tracing: call freehold.start_tracing() first");
        return NULL;
    }
    return new_snapshot(snapshot_type(module), fh_snapshot_take());
}

PyObject *fh_python_load(PyObject *module, PyObject *path)
{
    PyObject *bytes;
    if (!PyUnicode_FSConverter(path, &bytes))
        return NULL;
    fh_snapshot *traces = fh_snapshot_load(PyBytes_AS_STRING(bytes));
    Py_DECREF(bytes);
    if (traces == NULL && errno != ENOMEM)
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    return new_snapshot(snapshot_type(module), traces);
}

static void destroy(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    fh_snapshot_free(((struct snapshot *)self)->traces);
    PyObject_Free(self);
    Py_DECREF(type);
}

/* ---- As tracemalloc's objects -----------------------------------------------------------------
 */

static PyObject *frame_object(const fh_frame *frame)
{
    const char *text = frame->filename; /* UTF-8, whatever file names are here */
    PyObject *name = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strlen(text), "surrogateescape");
    return name == NULL ? NULL : Py_BuildValue("NI", name, frame->lineno);
}

/* ((filename, lineno), ...), most recent first. */
static PyObject *frames_object(const fh_statistic *statistic)
{
    PyObject *frames = PyTuple_New((Py_ssize_t)statistic->frame_count);
    for (size_t index = 0; frames != NULL && index < statistic->frame_count; index++) {
        PyObject *frame = frame_object(&statistic->frames[index]);
        if (frame == NULL)
            Py_CLEAR(frames);
        else
            PyTuple_SET_ITEM(frames, (Py_ssize_t)index, frame);
    }
    return frames;
}

static PyObject *traceback_object(PyObject *tracemalloc, const fh_statistic *statistic)
{
    PyObject *frames = frames_object(statistic);
    PyObject *traceback =
        frames == NULL ? NULL : PyObject_CallMethod(tracemalloc, "Traceback", "(O)", frames);
    Py_XDECREF(frames);
    return traceback;
}

static PyObject *statistic_object(PyObject *tracemalloc, const fh_statistic *statistic,
                                  bool is_compared)
{
    PyObject *traceback = traceback_object(tracemalloc, statistic);
    if (traceback == NULL)
        return NULL;
    Py_ssize_t bytes = (Py_ssize_t)statistic->bytes, count = (Py_ssize_t)statistic->count;
    if (!is_compared)
        return PyObject_CallMethod(tracemalloc, "Statistic", "Nnn", traceback, bytes, count);
    return PyObject_CallMethod(tracemalloc, "StatisticDiff", "NnLnL", traceback, bytes,
                               (long long)statistic->bytes_diff, count,
                               (long long)statistic->count_diff);
}

/* Frees `statistics`. */
static PyObject *list_of(fh_statistic *statistics, size_t count, bool is_compared)
{
    PyObject *tracemalloc = PyImport_ImportModule("tracemalloc");
    PyObject *list = tracemalloc == NULL ? NULL : PyList_New((Py_ssize_t)count);
    for (size_t index = 0; list != NULL && index < count; index++) {
        PyObject *statistic = statistic_object(tracemalloc, &statistics[index], is_compared);
        if (statistic == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, (Py_ssize_t)index, statistic);
    }
    Py_XDECREF(tracemalloc);
    fh_statistics_free(statistics);
    return list;
}

/* ---- Methods ----------------------------------------------------------------------------------
 */

static int find_group(const char *name, fh_group *group)
{
    static const char *const names[] = {"lineno", "filename", "traceback"};
    for (int index = 0; index < 3; index++)
        if (strcmp(name, names[index]) == 0) {
            *group = (fh_group)index;
            return 0;
        }
    PyErr_Format(PyExc_ValueError, "unknown key_type: '%s', not lineno, filename or traceback",
                 name);
    return -1;
}

static int check_cumulative(fh_group group, int cumulative)
{
    if (!cumulative || group != FH_BY_TRACEBACK)
        return 0;
    PyErr_SetString(PyExc_ValueError, "cumulative cannot be used with key type 'traceback'");
    return -1;
}

static PyObject *statistics(PyObject *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"key_type", "cumulative", NULL};
    const char *key_type;
    int cumulative = 0;
    fh_group group;
    size_t count;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "s|p:statistics", names, &key_type,
                                     &cumulative) ||
        find_group(key_type, &group) != 0 || check_cumulative(group, cumulative) != 0)
        return NULL;
    const fh_snapshot *traces = ((struct snapshot *)self)->traces;
    fh_statistic *found = fh_snapshot_statistics(traces, group, cumulative, &count);
    return found == NULL ? fh_python_raise_errno() : list_of(found, count, false);
}

static PyObject *compare_to(PyObject *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"old_snapshot", "key_type", "cumulative", NULL};
    PyObject *older;
    const char *key_type;
    int cumulative = 0;
    fh_group group;
    size_t count;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O!s|p:compare_to", names, Py_TYPE(self),
                                     &older, &key_type, &cumulative) ||
        find_group(key_type, &group) != 0 || check_cumulative(group, cumulative) != 0)
        return NULL;
    fh_statistic *found =
        fh_snapshot_compare(((struct snapshot *)self)->traces, ((struct snapshot *)older)->traces,
                            group, cumulative, &count);
    return found == NULL ? fh_python_raise_errno() : list_of(found, count, true);
}

static PyObject *dump(PyObject *self, PyObject *path)
{
    PyObject *bytes;
    if (!PyUnicode_FSConverter(path, &bytes))
        return NULL;
    int result = fh_snapshot_dump(((struct snapshot *)self)->traces, PyBytes_AS_STRING(bytes));
    Py_DECREF(bytes);
    if (result != 0)
        return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path);
    Py_RETURN_NONE;
}

/* An attribute as a number; `absent` if it is missing or None. -1 with an exception. */
static int number_of(PyObject *object, const char *name, long absent, long *number)
{
    PyObject *value = PyObject_GetAttrString(object, name);
    *number = absent;
    if (value == NULL) {
        PyErr_Clear();
        return 0;
    }
    if (value != Py_None)
        *number = PyLong_AsLong(value);
    Py_DECREF(value);
    return PyErr_Occurred() ? -1 : 0;
}

/* Of a tracemalloc.Filter or DomainFilter. `*name` is a new reference that owns the pattern; NULL
 * for none. */
static int read_filter(PyObject *object, fh_filter *filter, PyObject **name)
{
    long inclusive, all_frames;
    if (number_of(object, "inclusive", 1, &inclusive) != 0 ||
        number_of(object, "lineno", -1, &filter->lineno) != 0 ||
        number_of(object, "all_frames", 0, &all_frames) != 0 ||
        number_of(object, "domain", -1, &filter->domain) != 0)
        return -1;
    filter->inclusive = inclusive != 0;
    filter->all_frames = all_frames != 0;
    filter->pattern = NULL;
    *name = PyObject_GetAttrString(object, "filename_pattern");
    if (*name == NULL)
        PyErr_Clear();
    else if ((filter->pattern = PyUnicode_AsUTF8(*name)) == NULL)
        Py_CLEAR(*name);
    return PyErr_Occurred() ? -1 : 0;
}

/* One filter more at the end of an array; 0, or -1 with an exception. */
static int collect_filters(PyObject *objects, fh_filter *filters, PyObject *names)
{
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(objects); index++) {
        PyObject *name;
        if (read_filter(PyTuple_GET_ITEM(objects, index), &filters[index], &name) != 0)
            return -1;
        if (name != NULL)
            PyTuple_SET_ITEM(names, index, name); /* keeps the pattern */
    }
    return 0;
}

static fh_snapshot *filtered(const fh_snapshot *traces, PyObject *objects)
{
    Py_ssize_t count = PyTuple_GET_SIZE(objects);
    fh_filter *filters = PyMem_New(fh_filter, (size_t)count);
    PyObject *names = PyTuple_New(count);
    fh_snapshot *result = NULL;
    if (filters == NULL)
        (void)PyErr_NoMemory();
    else if (names != NULL && collect_filters(objects, filters, names) == 0)
        result = fh_snapshot_filter(traces, filters, (size_t)count);
    Py_XDECREF(names);
    PyMem_Free(filters);
    return result;
}

static PyObject *filter_traces(PyObject *self, PyObject *filters)
{
    PyObject *objects = PySequence_Tuple(filters);
    if (objects == NULL)
        return NULL;
    fh_snapshot *result = filtered(((struct snapshot *)self)->traces, objects);
    Py_DECREF(objects);
    return new_snapshot(Py_TYPE(self), result);
}

static PyObject *get_traceback_limit(PyObject *self, void *none)
{
    (void)none;
    return PyLong_FromLong(fh_snapshot_limit(((struct snapshot *)self)->traces));
}

static Py_ssize_t length(PyObject *self)
{
    return (Py_ssize_t)fh_snapshot_trace_count(((struct snapshot *)self)->traces);
}

/* ---- The type ---------------------------------------------------------------------------------
 */

static PyMethodDef methods[] = {
    {"statistics", FH_PYTHON_METHOD(statistics), METH_VARARGS | METH_KEYWORDS,
     "statistics($self, /, key_type, cumulative=False)\n--\n\n"
     "A list of tracemalloc.Statistic, greatest first: sums by 'lineno', 'filename' or "
     "'traceback'."},
    {"compare_to", FH_PYTHON_METHOD(compare_to), METH_VARARGS | METH_KEYWORDS,
     "compare_to($self, /, old_snapshot, key_type, cumulative=False)\n--\n\n"
     "A list of tracemalloc.StatisticDiff: what has changed since an older snapshot, greatest "
     "change first."},
    {"filter_traces", filter_traces, METH_O,
     "filter_traces($self, filters, /)\n--\n\n"
     "A snapshot of the traces that tracemalloc.Filter and tracemalloc.DomainFilter objects "
     "leave."},
    {"dump", dump, METH_O,
     "dump($self, path, /)\n--\n\nWrite the snapshot to a file, for freehold.load()."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef attributes[] = {
    {"traceback_limit", get_traceback_limit, NULL, "How many frames a trace has at most.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyObject *refuse_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    (void)args, (void)keywords;
    return PyErr_Format(PyExc_TypeError, "cannot create '%s' instances", type->tp_name);
}

static PyType_Slot slots[] = {
    {Py_tp_doc, "All traced blocks of one moment. len() is how many there are."},
    {Py_tp_new, FH_PYTHON_SLOT(refuse_new)},
    {Py_tp_dealloc, FH_PYTHON_SLOT(destroy)},
    {Py_tp_methods, methods},
    {Py_tp_getset, attributes},
    {Py_sq_length, FH_PYTHON_SLOT(length)},
    {0, NULL},
};

PyType_Spec fh_python_snapshot_spec = {
    .name = "freehold.Snapshot",
    .basicsize = sizeof(struct snapshot),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};
