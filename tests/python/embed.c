/* SPDX-License-Identifier: MIT */
/* A program that embeds CPython on Freehold's memory, and starts it again and again:
 *
 *   embed MODE ROUNDS THREADS
 *
 * Meanwhile so many threads of its own, of which Python knows nothing, use the raw domain: CPython
 * swaps its allocator for libc's malloc and back under their feet. They check what they wrote.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bridge.h"

enum { BLOCKS_COUNT = 64, BLOCK_BYTES_MAX = 2000, THREADS_MAX = 16 };

static atomic_bool is_over;
static atomic_ulong calls;

static void fail(const char *what)
{
    (void)fprintf(stderr, "embed: %s\n", what);
    exit(EXIT_FAILURE);
}

struct block {
    unsigned char *memory;
    size_t bytes;
};

/* The first and the last byte say how long the block is. */
static unsigned char mark_of(size_t bytes)
{
    return (unsigned char)(bytes % 251);
}

static void replace(struct block *block, size_t bytes)
{
    if (block->memory != NULL && (block->memory[0] != mark_of(block->bytes) ||
                                  block->memory[block->bytes - 1] != mark_of(block->bytes)))
        fail("a block of the raw domain was written to by somebody else");
    PyMem_RawFree(block->memory);
    block->bytes = bytes;
    block->memory = PyMem_RawMalloc(bytes);
    if (block->memory == NULL)
        fail("no memory");
    block->memory[0] = block->memory[bytes - 1] = mark_of(bytes);
}

static void *use_raw(void *seed)
{
    unsigned random = (unsigned)(uintptr_t)seed;
    struct block blocks[BLOCKS_COUNT] = {{NULL, 0}};
    while (!atomic_load(&is_over)) {
        random = random * 1664525u + 1013904223u;
        replace(&blocks[random >> 26], 1 + (random >> 8) % BLOCK_BYTES_MAX);
        atomic_fetch_add(&calls, 1);
    }
    for (int index = 0; index < BLOCKS_COUNT; index++)
        PyMem_RawFree(blocks[index].memory);
    return NULL;
}

static void preinitialize(const char *mode_name)
{
    const struct fh_python_mode *mode = fh_python_find_mode(mode_name);
    PyPreConfig config;
    PyPreConfig_InitPythonConfig(&config);
    if (PyStatus_Exception(Py_PreInitialize(&config)))
        fail("Py_PreInitialize()");
    if (mode == NULL || fh_python_install(mode) != 0)
        fail(mode == NULL ? "no such mode" : strerror(errno));
}

static const char script[] = "import gc, json\n"
                             "rows = [{'number': i, 'text': str(i) * 3} for i in range(3000)]\n"
                             "assert json.loads(json.dumps(rows)) == rows\n"
                             "gc.collect()\n";

/* Whether the interpreter that was started now has the mode's memory, as the first one had. */
static void check_domains(const char *mode_name)
{
    enum { LARGE_BYTES = 5000 };
    void *small = PyObject_Malloc(1), *large = PyMem_Malloc(LARGE_BYTES);
    PyMemAllocatorEx now;
    PyMem_GetAllocator(PYMEM_DOMAIN_OBJ, &now);
    bool is_plain_free = now.malloc == fh_python_allocators[PYMEM_DOMAIN_OBJ].malloc;
    if (strcmp(mode_name, "pymalloc") != 0 && (!fh_owns(small) || !fh_owns(large)))
        fail("objects are not in Freehold's memory");
    if (strcmp(mode_name, "free") == 0 && !is_plain_free)
        fail("the interpreter has forgotten its allocators");
    PyMem_Free(large);
    PyObject_Free(small);
}

static void run_round(const char *mode_name)
{
    preinitialize(mode_name);
    Py_InitializeEx(0);
    check_domains(mode_name);
    if (PyRun_SimpleString(script) != 0)
        fail("the script");
    if (Py_FinalizeEx() != 0)
        fail("Py_FinalizeEx()");
}

int main(int count, char **arguments)
{
    pthread_t threads[THREADS_MAX];
    if (count != 4)
        fail("usage: embed MODE ROUNDS THREADS");
    int rounds = atoi(arguments[2]), threads_count = atoi(arguments[3]);
    preinitialize(arguments[1]); /* before anybody uses the raw domain */
    for (int index = 0; index < threads_count && index < THREADS_MAX; index++)
        if (pthread_create(&threads[index], NULL, use_raw, (void *)(uintptr_t)(index + 1)) != 0)
            fail("pthread_create()");
    for (int round = 0; round < rounds; round++)
        run_round(arguments[1]);
    atomic_store(&is_over, true);
    for (int index = 0; index < threads_count && index < THREADS_MAX; index++)
        (void)pthread_join(threads[index], NULL);
    (void)printf("%d rounds, %lu blocks\n", rounds, atomic_load(&calls));
    return EXIT_SUCCESS;
}
