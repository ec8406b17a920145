/* SPDX-License-Identifier: MIT */
/* CPython's side, by its C API and for one thread: mode "cpython", with its collector's settings as
 * they are. Strings are made without looking at their bytes, as the other side does. */
#ifndef SIDE_H
#define SIDE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

typedef PyObject object;

static inline object *make_string(const char *text, size_t bytes)
{
    PyObject *string = PyUnicode_New((Py_ssize_t)bytes, 127);
    if (string != NULL)
        memcpy(PyUnicode_1BYTE_DATA(string), text, bytes);
    return string;
}

#define make_int(value)           PyLong_FromLong(value)
#define make_list()               PyList_New(0)
#define list_append(list, item)   PyList_Append((list), (item))
#define make_dict()               PyDict_New()
#define dict_set(dict, key, item) PyDict_SetItem((dict), (key), (item))
#define dict_get(dict, key)       PyDict_GetItemWithError((dict), (key))
#define dict_delete(dict, key)    PyDict_DelItem((dict), (key))
#define drop(object)              Py_DECREF(object)
#define safe_point()              (void)0

struct node {
    PyObject_HEAD PyObject *parent, *children[2];
};

static int node_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct node *node = (struct node *)self;
    Py_VISIT(node->parent);
    Py_VISIT(node->children[0]);
    Py_VISIT(node->children[1]);
    return 0;
}

static int node_clear(PyObject *self)
{
    struct node *node = (struct node *)self;
    Py_CLEAR(node->parent);
    Py_CLEAR(node->children[0]);
    Py_CLEAR(node->children[1]);
    return 0;
}

static void node_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    (void)node_clear(self);
    PyObject_GC_Del(self);
}

static PyTypeObject node_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "node",
    .tp_basicsize = sizeof(struct node),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_dealloc = node_dealloc,
    .tp_traverse = node_traverse,
    .tp_clear = node_clear,
};

static object *make_node(object *parent)
{
    struct node *node = PyObject_GC_New(struct node, &node_type);
    if (node == NULL)
        return NULL;
    Py_XINCREF(parent);
    node->parent = parent;
    node->children[0] = node->children[1] = NULL;
    PyObject_GC_Track(node);
    return (PyObject *)node;
}

static void node_set_child(object *node, unsigned side, object *child) /* steals child */
{
    ((struct node *)node)->children[side] = child;
}

/* ---- */

static bool side_open(const char *mode)
{
    if (strcmp(mode, "cpython") != 0)
        return false;
    Py_InitializeEx(0);
    bool is_open = PyType_Ready(&node_type) == 0;
    (void)PyEval_SaveThread();
    return is_open;
}

static __thread PyGILState_STATE gil_state;

static void side_attach(void)
{
    gil_state = PyGILState_Ensure();
}

static void side_wait(pthread_barrier_t *barrier)
{
    PyThreadState *state = PyEval_SaveThread();
    pthread_barrier_wait(barrier);
    PyEval_RestoreThread(state);
}

static void side_detach(void)
{
    PyGILState_Release(gil_state);
}

static bool side_close(void)
{
    (void)PyGILState_Ensure();
    return Py_FinalizeEx() == 0;
}

#endif
