/* SPDX-License-Identifier: MIT */
/* Freehold in an interpreter that runs already.
 *
 * Blocks that live by then are the previous allocator's. Their addresses tell them apart: what lies
 * in Freehold's memory is Freehold's, all else goes to the allocator that it came from. There is no
 * way back, since nobody could tell who still has a block.
 */
#include "module.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "bridge.h"

/* Of the launcher, if it is what runs. */
#pragma weak fh_python_mode_name

static const char *const domain_names[] = {"raw", "mem", "obj"};

static PyMemAllocatorEx previous[3];
static atomic_bool is_wrapping[3];
static _Atomic(const char *) how_installed; /* NULL: not at all */

/* ---- The wrappers -----------------------------------------------------------------------------
 */

#define DEFINE_DOMAIN(name, DOMAIN)                                                                \
    static void *name##_malloc(void *context, size_t bytes)                                        \
    {                                                                                              \
        (void)context;                                                                             \
        return fh_##name##_malloc(bytes);                                                          \
    }                                                                                              \
                                                                                                   \
    static void *name##_calloc(void *context, size_t count, size_t bytes)                          \
    {                                                                                              \
        (void)context;                                                                             \
        return fh_##name##_calloc(count, bytes);                                                   \
    }                                                                                              \
                                                                                                   \
    static void *name##_realloc(void *context, void *block, size_t bytes)                          \
    {                                                                                              \
        (void)context;                                                                             \
        if (block == NULL || fh_owns(block))                                                       \
            return fh_##name##_realloc(block, bytes);                                              \
        return previous[DOMAIN].realloc(previous[DOMAIN].ctx, block, bytes);                       \
    }                                                                                              \
                                                                                                   \
    static void name##_free(void *context, void *block)                                            \
    {                                                                                              \
        (void)context;                                                                             \
        if (block == NULL || fh_owns(block))                                                       \
            fh_##name##_free(block);                                                               \
        else                                                                                       \
            previous[DOMAIN].free(previous[DOMAIN].ctx, block);                                    \
    }

DEFINE_DOMAIN(raw, FH_DOMAIN_RAW)
DEFINE_DOMAIN(mem, FH_DOMAIN_MEM)
DEFINE_DOMAIN(obj, FH_DOMAIN_OBJ)

static const PyMemAllocatorEx wrappers[3] = {
    {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free},
    {NULL, mem_malloc, mem_calloc, mem_realloc, mem_free},
    {NULL, obj_malloc, obj_calloc, obj_realloc, obj_free},
};

/* ---- Who serves a domain now ------------------------------------------------------------------
 */

static bool serves(PyMemAllocatorDomain domain)
{
    enum { SMALL_BYTES = 48 };
    PyMemAllocatorEx now;
    PyMem_GetAllocator(domain, &now);
    void *block = now.malloc(now.ctx, SMALL_BYTES);
    bool is_ours = fh_owns(block) != 0;
    now.free(now.ctx, block);
    return is_ours;
}

PyObject *fh_python_served_domains(void)
{
    PyObject *names = PyList_New(0);
    for (int domain = 0; names != NULL && domain < 3; domain++) {
        PyObject *name = NULL;
        if (serves((PyMemAllocatorDomain)domain) &&
            ((name = PyUnicode_FromString(domain_names[domain])) == NULL ||
             PyList_Append(names, name) != 0))
            Py_CLEAR(names);
        Py_XDECREF(name);
    }
    PyObject *tuple = names == NULL ? NULL : PyList_AsTuple(names);
    Py_XDECREF(names);
    return tuple;
}

/* Has somebody wrapped a domain? CPython's own allocators have no context; its hooks do. */
static bool is_wrapped(void)
{
    PyMemAllocatorEx now;
    bool wrapped = false;
    for (int domain = 0; domain < 3; domain++) {
        PyMem_GetAllocator((PyMemAllocatorDomain)domain, &now);
        wrapped = wrapped || now.ctx != NULL;
    }
    return wrapped;
}

/* ---- Whether to install -----------------------------------------------------------------------
 */

/* tracemalloc puts the allocators of its start back when it stops: ours would be gone, but not our
 * blocks. Its module need not be asked, which some interpreters cannot import. */
static bool is_tracing(void)
{
    enum { NOT_TRACING = -2 };
    return PyTraceMalloc_Untrack(0, 0) != NOT_TRACING; /* no block is there */
}

/* The user wants what the interpreter had, as in the launcher's mode of this name. */
static bool is_declined(void)
{
    const char *variable = getenv("FREEHOLD_PYTHON");
    return variable != NULL && strcmp(variable, "pymalloc") == 0;
}

static const char *launcher_mode(void)
{
    return fh_python_mode_name == NULL ? NULL : fh_python_mode_name();
}

/* Threads with another lock, or none, may use the domain meanwhile, and CPython copies the
 * functions one by one. So each step takes more kinds of blocks than the one before, and only the
 * last makes new ones. The context stays, for functions that are still the previous ones. */
static void wrap(PyMemAllocatorDomain domain)
{
    PyMemAllocatorEx step;
    PyMem_GetAllocator(domain, &step);
    previous[domain] = step;
    step.free = wrappers[domain].free;
    PyMem_SetAllocator(domain, &step);
    step.realloc = wrappers[domain].realloc;
    PyMem_SetAllocator(domain, &step);
    step.malloc = wrappers[domain].malloc;
    step.calloc = wrappers[domain].calloc;
    PyMem_SetAllocator(domain, &step);
    atomic_store(&is_wrapping[domain], true);
}

static void install_in(PyMemAllocatorDomain domain)
{
    if (serves(domain))
        return;
    wrap(domain);
    atomic_store(&how_installed, "extension");
}

/* A wrapper's blocks begin with its own header. pymalloc takes large ones, and old ones that grow,
 * from the raw domain: were that Freehold's, addresses in Freehold's memory could be behind such a
 * header. So raw stays as it is below a wrapper, and if it is Freehold's already, all of them do.
 */
static void install(void)
{
    bool wrapped = is_wrapped();
    if (wrapped && serves(PYMEM_DOMAIN_RAW))
        return;
    for (int domain = wrapped ? PYMEM_DOMAIN_MEM : PYMEM_DOMAIN_RAW; domain < FH_PYTHON_DOMAINS;
         domain++)
        install_in((PyMemAllocatorDomain)domain);
}

static bool is_complete(void)
{
    bool complete = true;
    for (int domain = 0; domain < FH_PYTHON_DOMAINS; domain++)
        complete = complete && serves((PyMemAllocatorDomain)domain);
    return complete;
}

/* With nothing to install: how Freehold came here. */
static const char *how_it_is(void)
{
    const char *mode = launcher_mode();
    if (mode != NULL)
        return strcmp(mode, "pymalloc") == 0 ? NULL : "launcher";
    return serves(PYMEM_DOMAIN_RAW) ? "preload" : NULL;
}

/* False: not now. */
static bool decide(void)
{
    if (atomic_load(&how_installed) == NULL)
        atomic_store(&how_installed, how_it_is());
    if (launcher_mode() != NULL || is_complete() || is_declined())
        return true;
    if (is_tracing())
        return false;
    install();
    return true;
}

/* An interpreter that is started again may have taken its own allocators back. */
static bool is_undone(void)
{
    bool undone = false;
    for (int domain = 0; domain < FH_PYTHON_DOMAINS; domain++)
        undone =
            undone || (atomic_load(&is_wrapping[domain]) && !serves((PyMemAllocatorDomain)domain));
    return undone;
}

/* Interpreters with locks of their own may import at once; nothing in here waits for their locks.
 */
static bool decide_once(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    static bool is_decided;
    (void)pthread_mutex_lock(&mutex);
    if (!is_decided || is_undone())
        is_decided = decide();
    bool decided = is_decided;
    (void)pthread_mutex_unlock(&mutex);
    return decided;
}

int fh_python_install_late(void)
{
    if (decide_once())
        return 0;
    PyErr_SetString(PyExc_ImportError,
                    "freehold cannot be installed while tracemalloc is tracing, which would put "
                    "the present allocators back when it stops: import freehold first, or use "
                    "freehold-python");
    return -1;
}

const char *fh_python_how_installed(void)
{
    return atomic_load(&how_installed);
}

/* ---- Tracing ----------------------------------------------------------------------------------
 *
 * Freehold traces what comes by way of its domains: under a preload that is nothing as yet, since
 * the interpreter calls malloc. Behind both is the same memory, so no block is lost by going
 * another way.
 */

static bool launcher_has_domains(void)
{
    const char *mode = launcher_mode();
    return mode != NULL && strcmp(mode, "arena") != 0 && strcmp(mode, "pymalloc") != 0;
}

static void wrap_what_is_served(void)
{
    for (int index = 0; index < FH_PYTHON_DOMAINS; index++) {
        PyMemAllocatorDomain domain = (PyMemAllocatorDomain)index;
        if (!atomic_load(&is_wrapping[domain]) && serves(domain))
            wrap(domain);
    }
}

int fh_python_prepare_tracing(void)
{
    if (launcher_has_domains())
        return 0;
    if (launcher_mode() == NULL && !is_wrapped())
        wrap_what_is_served();
    if (atomic_load(&is_wrapping[PYMEM_DOMAIN_MEM]))
        return 0;
    PyErr_SetString(PyExc_RuntimeError,
                    "Python's memory does not come from Freehold's domains here: use tracemalloc");
    return -1;
}
