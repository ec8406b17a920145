/* SPDX-License-Identifier: MIT */
/* A hook that counts: how many blocks and bytes of the object domain are live, by wrapping whatever
 * allocator the domain has. */
#include <freehold.h>
#include <stdatomic.h>
#include <stdio.h>

struct counts {
    fh_allocator wrapped;
    atomic_size_t blocks, bytes; /* any thread may call */
};

static void add(struct counts *counts, const void *block)
{
    if (block == NULL)
        return;
    atomic_fetch_add(&counts->blocks, 1);
    atomic_fetch_add(&counts->bytes, fh_usable_size(block));
}

static void *counting_malloc(void *context, size_t bytes)
{
    struct counts *counts = context;
    void *block = counts->wrapped.malloc(counts->wrapped.context, bytes);
    add(counts, block);
    return block;
}

static void *counting_calloc(void *context, size_t count, size_t bytes)
{
    struct counts *counts = context;
    void *block = counts->wrapped.calloc(counts->wrapped.context, count, bytes);
    add(counts, block);
    return block;
}

static void *counting_realloc(void *context, void *block, size_t bytes)
{
    struct counts *counts = context;
    size_t old_bytes = fh_usable_size(block);
    void *resized = counts->wrapped.realloc(counts->wrapped.context, block, bytes);
    if (resized == NULL)
        return NULL; /* the old block is live as before */
    atomic_fetch_add(&counts->blocks, block == NULL);
    atomic_fetch_add(&counts->bytes, fh_usable_size(resized) - old_bytes);
    return resized;
}

static void counting_free(void *context, void *block)
{
    struct counts *counts = context;
    if (block != NULL) {
        atomic_fetch_sub(&counts->blocks, 1);
        atomic_fetch_sub(&counts->bytes, fh_usable_size(block));
    }
    counts->wrapped.free(counts->wrapped.context, block);
}

int main(void)
{
    static struct counts counts;
    fh_get_allocator(FH_DOMAIN_OBJ, &counts.wrapped);
    const fh_allocator hook = {&counts, counting_malloc, counting_calloc, counting_realloc,
                               counting_free};
    if (fh_set_allocator(FH_DOMAIN_OBJ, &hook) != 0)
        return 1;
    void *one = fh_obj_malloc(32);
    void *other = fh_obj_calloc(10, 48);
    one = fh_obj_realloc(one, 64);
    printf("%zu blocks, %zu bytes\n", atomic_load(&counts.blocks), atomic_load(&counts.bytes));
    fh_obj_free(one);
    fh_obj_free(other);
    printf("%zu blocks, %zu bytes\n", atomic_load(&counts.blocks), atomic_load(&counts.bytes));
    return fh_set_allocator(FH_DOMAIN_OBJ, &counts.wrapped) != 0;
}
