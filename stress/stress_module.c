/* SPDX-License-Identifier: MIT */
/* A module for the exits storm: it allocates when it is loaded, used and unloaded. */
#include <stdlib.h>
#include <string.h>

void *stress_module_block(size_t bytes);

static void *block_of_load;
static _Thread_local char thread_area[4000]; /* the loader allocates it at first use */

__attribute__((constructor)) static void on_load(void)
{
    block_of_load = calloc(1, 3000);
}

__attribute__((destructor)) static void on_unload(void)
{
    void *block = malloc(100);
    free(block_of_load);
    free(block);
}

/* A block that outlives the module. */
void *stress_module_block(size_t bytes)
{
    void *block = malloc(bytes);
    memset(thread_area, 1, sizeof(thread_area));
    if (block != NULL)
        memset(block, thread_area[bytes % sizeof(thread_area)], bytes);
    return block;
}
