/* SPDX-License-Identifier: MIT */
/* A heap whose arenas lie on huge pages: a source of 2 MiB at addresses that the system can back
 * with one page each. It asks for reserved huge pages first (vm.nr_hugepages), and for transparent
 * ones where there are none. */
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <freehold.h>
#include <freehold/heap.h>

enum { HUGE_PAGE = 2 << 20 };

struct source {
    atomic_size_t arenas, bytes; /* any thread may call */
};

static void *reserved_pages(size_t bytes)
{
    void *memory =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/* Aligned by mapping more, and giving back what is before and behind. */
static void *transparent_pages(size_t bytes)
{
    char *start =
        mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    char *aligned = start + (HUGE_PAGE - (uintptr_t)start % HUGE_PAGE) % HUGE_PAGE;
    if (aligned != start)
        (void)munmap(start, (size_t)(aligned - start));
    (void)munmap(aligned + bytes, (size_t)(start + HUGE_PAGE - aligned));
    (void)madvise(aligned, bytes, MADV_HUGEPAGE);
    return aligned;
}

static void *alloc_arena(void *context, size_t bytes)
{
    struct source *source = context;
    void *arena = reserved_pages(bytes);
    if (arena == NULL)
        arena = transparent_pages(bytes);
    if (arena != NULL) {
        atomic_fetch_add(&source->arenas, 1);
        atomic_fetch_add(&source->bytes, bytes);
    }
    return arena;
}

static void free_arena(void *context, void *arena, size_t bytes)
{
    struct source *source = context;
    atomic_fetch_sub(&source->arenas, 1);
    atomic_fetch_sub(&source->bytes, bytes);
    (void)munmap(arena, bytes);
}

int main(void)
{
    static struct source source;
    const fh_heap_config config = {
        .struct_bytes = sizeof config,
        .geometry = {.pool_bytes = 64 << 10, .arena_bytes = HUGE_PAGE},
        .spare_arenas = FH_SPARE_ARENAS_NONE,
        .arena = {&source, alloc_arena, free_arena},
    };
    static void *nodes[100000];
    fh_heap *heap = fh_heap_create(&config);
    if (heap == NULL)
        return EXIT_FAILURE;
    for (size_t i = 0; i < 100000; i++)
        if ((nodes[i] = fh_heap_malloc(heap, FH_DOMAIN_OBJ, 48)) == NULL)
            return EXIT_FAILURE;
    printf("100000 nodes: %zu arenas, %zu MiB\n", atomic_load(&source.arenas),
           atomic_load(&source.bytes) >> 20);
    for (size_t i = 0; i < 100000; i++)
        fh_heap_free(heap, FH_DOMAIN_OBJ, nodes[i]);
    printf("freed: %zu arenas\n", atomic_load(&source.arenas));
    return fh_heap_destroy(heap, 0) == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
