/* SPDX-License-Identifier: MIT */
/* The modes, and how each is installed. */
#include "bridge.h"

#include <errno.h>
#include <string.h>

#include "freehold/debug.h"
#include "freehold/heap.h"

/* Fields are passed from one struct to the other as they are. */
static_assert(sizeof(PyMemAllocatorEx) == sizeof(fh_allocator) &&
                  offsetof(PyMemAllocatorEx, malloc) == offsetof(fh_allocator, malloc) &&
                  offsetof(PyMemAllocatorEx, calloc) == offsetof(fh_allocator, calloc) &&
                  offsetof(PyMemAllocatorEx, realloc) == offsetof(fh_allocator, realloc) &&
                  offsetof(PyMemAllocatorEx, free) == offsetof(fh_allocator, free),
              "CPython's allocators are ours");
static_assert((int)PYMEM_DOMAIN_RAW == (int)FH_DOMAIN_RAW &&
                  (int)PYMEM_DOMAIN_MEM == (int)FH_DOMAIN_MEM &&
                  (int)PYMEM_DOMAIN_OBJ == (int)FH_DOMAIN_OBJ,
              "CPython's domains are ours");

static const struct fh_python_mode *installed;

const char *fh_python_mode_name(void)
{
    return installed == NULL ? NULL : installed->name;
}

/* ---- Modes ------------------------------------------------------------------------------------
 */

static void set_allocators(const PyMemAllocatorEx allocators[3])
{
    for (int domain = 0; domain < FH_PYTHON_DOMAINS; domain++) {
        PyMemAllocatorEx allocator = allocators[domain];
        PyMem_SetAllocator((PyMemAllocatorDomain)domain, &allocator);
    }
}

static int install_free(void)
{
    set_allocators(fh_python_allocators);
    return 0;
}

static int install_gil_assert(void)
{
    static PyMemAllocatorEx allocators[3]; /* the heap stays when the interpreter ends */
    if (!FH_PYTHON_HAS_ONE_GIL) {
        errno = ENOTSUP;
        return -1;
    }
    if (allocators[0].malloc == NULL && fh_python_make_heap(allocators) != 0)
        return -1;
    set_allocators(allocators);
    return 0;
}

/* The report ends as any fatal error of the interpreter: with the threads' tracebacks. */
static void end_report(void *context, const char *function, const char *message)
{
    (void)context;
    _Py_FatalErrorFunc(function, message);
}

static int is_gil_held(void *context)
{
    (void)context;
    return PyGILState_Check();
}

static int set_up_hooks(void)
{
    bool failed = fh_debug_set_fatal_handler(end_report, NULL, NULL) != 0 ||
                  fh_debug_set_gil_check(FH_DOMAIN_MEM, is_gil_held, NULL) != 0 ||
                  fh_debug_set_gil_check(FH_DOMAIN_OBJ, is_gil_held, NULL) != 0;
    return failed ? -1 : fh_debug_setup();
}

static int install_debug(void)
{
    return set_up_hooks() != 0 ? -1 : install_free();
}

static int install_gil_assert_debug(void)
{
    return install_gil_assert() != 0 ? -1 : set_up_hooks();
}

static int install_arenas(void)
{
    fh_arena_allocator source;
    fh_get_arena_allocator(&source);
    PyObjectArenaAllocator arenas = {source.context, source.alloc, source.free};
    PyObject_SetArenaAllocator(&arenas);
    return 0;
}

static int install_nothing(void)
{
    return 0;
}

static const struct fh_python_mode modes[] = {
    {"free", "all three domains are Freehold's lock-free memory (the default)", install_free},
    {"gil-assert", "mem and obj are one heap that relies on the GIL; CPython up to 3.11",
     install_gil_assert},
    {"debug", "free, under Freehold's debug hooks, which also check that the GIL is held",
     install_debug},
    {"gil-assert-debug", "gil-assert under these hooks", install_gil_assert_debug},
    {"arena", "CPython's pymalloc, with its arenas from Freehold", install_arenas},
    {"pymalloc", "CPython's pymalloc and whatever PYTHONMALLOC says; malloc is still Freehold's",
     install_nothing},
};
enum { MODES_COUNT = sizeof modes / sizeof modes[0] };

const struct fh_python_mode *fh_python_find_mode(const char *name)
{
    if (*name == '\0' || strcmp(name, "default") == 0)
        return &modes[0];
    for (size_t index = 0; index < MODES_COUNT; index++)
        if (strcmp(name, modes[index].name) == 0)
            return &modes[index];
    return NULL;
}

void fh_python_list_modes(FILE *stream)
{
    for (size_t index = 0; index < MODES_COUNT; index++)
        (void)fprintf(stream, "  %-17s %s\n", modes[index].name, modes[index].summary);
}

/* ---- Installing one ---------------------------------------------------------------------------
 */

/* Of all allocators that CPython itself sets, its hooks alone have a context. */
static bool has_hooks(void)
{
    PyMemAllocatorEx raw;
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &raw);
    return raw.ctx != NULL;
}

static bool replaces_domains(const struct fh_python_mode *mode)
{
    return mode->install != install_arenas && mode->install != install_nothing;
}

int fh_python_install(const struct fh_python_mode *mode)
{
    bool wants_hooks = has_hooks();
    if (mode->install() != 0)
        return -1;
    if (wants_hooks && FH_PYTHON_HOOKS_ARE_SAFE && replaces_domains(mode))
        PyMem_SetupDebugHooks();
    installed = mode;
    return 0;
}
