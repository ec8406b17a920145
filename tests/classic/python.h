/* SPDX-License-Identifier: MIT */
/* CPython's own allocator, out of libpython: no interpreter is started, so nobody else uses it.
 *
 * Before 3.12 it is a set of plain variables, ready from the start. So a program that has loaded
 * the library and started nothing finds it without a single arena. */
#ifndef TESTS_CLASSIC_PYTHON_H
#define TESTS_CLASSIC_PYTHON_H

#include <dlfcn.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

struct python_arenas { /* PyObjectArenaAllocator */
    void *ctx;
    void *(*alloc)(void *ctx, size_t bytes);
    void (*free)(void *ctx, void *memory, size_t bytes);
};

struct python {
    void *(*malloc)(size_t bytes);
    void *(*realloc)(void *block, size_t bytes);
    void (*free)(void *block);
    void (*set_arenas)(struct python_arenas *arenas);
    int (*stats)(FILE *out);
};

/* Function pointers and object pointers do not convert in ISO C; dlsym() says that they do. */
static inline bool python_find(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

/* False if libpython3.11 is not here. */
static inline bool python_load(struct python *python)
{
    void *library = dlopen("libpython3.11.so.1.0", RTLD_NOW);
    return library != NULL && python_find(library, "PyObject_Malloc", &python->malloc) &&
           python_find(library, "PyObject_Realloc", &python->realloc) &&
           python_find(library, "PyObject_Free", &python->free) &&
           python_find(library, "PyObject_SetArenaAllocator", &python->set_arenas) &&
           python_find(library, "_PyObject_DebugMallocStats", &python->stats);
}

#endif
