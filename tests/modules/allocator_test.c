/* SPDX-License-Identifier: MIT */
/* domain/allocator.c: replacing and wrapping the allocators of the domains. */
#include "modules.h"

#include <errno.h>
#include <string.h>

#include "domain.h"
#include "freehold.h"

/* The calls of one domain. */
struct calls {
    fh_domain domain;
    void *(*malloc)(size_t bytes);
    void *(*calloc)(size_t count, size_t bytes);
    void *(*realloc)(void *block, size_t bytes);
    void (*free)(void *block);
};

static const struct calls domains[FH_DOMAINS] = {
    {FH_DOMAIN_RAW, fh_raw_malloc, fh_raw_calloc, fh_raw_realloc, fh_raw_free},
    {FH_DOMAIN_MEM, fh_mem_malloc, fh_mem_calloc, fh_mem_realloc, fh_mem_free},
    {FH_DOMAIN_OBJ, fh_obj_malloc, fh_obj_calloc, fh_obj_realloc, fh_obj_free},
};

/* ---- A wrapper that notes what it is asked for ------------------------------------------------
 */

struct hook {
    fh_allocator wrapped;
    void *context; /* as seen in the last call */
    size_t malloc_bytes, calloc_count, calloc_bytes, realloc_bytes;
    void *realloc_block, *freed;
    unsigned calls;
};

static struct hook *called(void *context)
{
    struct hook *hook = context;
    hook->context = context;
    hook->calls++;
    return hook;
}

static void *hook_malloc(void *context, size_t bytes)
{
    struct hook *hook = called(context);
    hook->malloc_bytes = bytes;
    return hook->wrapped.malloc(hook->wrapped.context, bytes);
}

static void *hook_calloc(void *context, size_t count, size_t bytes)
{
    struct hook *hook = called(context);
    hook->calloc_count = count;
    hook->calloc_bytes = bytes;
    return hook->wrapped.calloc(hook->wrapped.context, count, bytes);
}

static void *hook_realloc(void *context, void *block, size_t bytes)
{
    struct hook *hook = called(context);
    hook->realloc_block = block;
    hook->realloc_bytes = bytes;
    return hook->wrapped.realloc(hook->wrapped.context, block, bytes);
}

static void hook_free(void *context, void *block)
{
    struct hook *hook = called(context);
    hook->freed = block;
    hook->wrapped.free(hook->wrapped.context, block);
}

static void wrap(fh_domain domain, struct hook *hook)
{
    fh_get_allocator(domain, &hook->wrapped);
    const fh_allocator allocator = {hook, hook_malloc, hook_calloc, hook_realloc, hook_free};
    CHECK(fh_set_allocator(domain, &allocator) == 0);
}

/* ---- As CPython's own tests do it -------------------------------------------------------------
 */

/* test_pymem_setrawallocators, test_pymem_setallocators, test_pyobject_setallocators */
static void check_set_allocators(const struct calls *calls)
{
    struct hook hook = {0};
    wrap(calls->domain, &hook);
    void *block = calls->malloc(42);
    CHECK(block != NULL && hook.context == &hook && hook.malloc_bytes == 42);
    void *resized = calls->realloc(block, 200);
    CHECK(resized != NULL && hook.realloc_block == block && hook.realloc_bytes == 200);
    calls->free(resized);
    CHECK(hook.freed == resized);
    block = calls->calloc(2, 5);
    CHECK(block != NULL && hook.calloc_count == 2 && hook.calloc_bytes == 5);
    calls->free(block);
    CHECK(hook.freed == block && hook.calls == 5);
    CHECK(fh_set_allocator(calls->domain, &hook.wrapped) == 0);
    calls->free(calls->malloc(1));
    CHECK(hook.calls == 5);
}

TEST(set_allocators)
{
    for (int i = 0; i < FH_DOMAINS; i++)
        check_set_allocators(&domains[i]);
}

/* test_pymem_alloc0 */
TEST(alloc0)
{
    for (int i = 0; i < FH_DOMAINS; i++) {
        void *one = domains[i].malloc(0);
        void *other = domains[i].malloc(0);
        void *none_of_something = domains[i].calloc(0, 8);
        void *something_of_nothing = domains[i].calloc(8, 0);
        CHECK(one != NULL && other != NULL && one != other);
        CHECK(none_of_something != NULL && something_of_nothing != NULL);
        one = domains[i].realloc(one, 0);
        CHECK(one != NULL && one != other);
        domains[i].free(one);
        domains[i].free(other);
        domains[i].free(none_of_something);
        domains[i].free(something_of_nothing);
        domains[i].free(NULL);
    }
}

TEST(domains_are_apart)
{
    struct hook hook = {0};
    wrap(FH_DOMAIN_MEM, &hook);
    fh_raw_free(fh_raw_malloc(1));
    fh_obj_free(fh_obj_malloc(1));
    CHECK(hook.calls == 0);
    fh_mem_free(fh_mem_malloc(1));
    CHECK(hook.calls == 2);
}

TEST(hooks_stack)
{
    struct hook inner = {0}, outer = {0};
    wrap(FH_DOMAIN_OBJ, &inner);
    wrap(FH_DOMAIN_OBJ, &outer);
    void *block = fh_obj_malloc(10);
    CHECK(block != NULL && inner.malloc_bytes == 10 && outer.malloc_bytes == 10);
    fh_obj_free(block);
    CHECK(inner.freed == block && outer.freed == block);
}

/* ---- Sizes ------------------------------------------------------------------------------------
 */

TEST(sizes_are_checked_before_the_allocator_is_called)
{
    const size_t too_many = (size_t)PTRDIFF_MAX + 1;
    for (int i = 0; i < FH_DOMAINS; i++) {
        struct hook hook = {0};
        void *block = domains[i].malloc(8);
        wrap(domains[i].domain, &hook);
        errno = 0;
        CHECK(domains[i].malloc(too_many) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(domains[i].calloc(too_many / 2, 3) == NULL && errno == ENOMEM);
        errno = 0;
        CHECK(domains[i].realloc(block, too_many) == NULL && errno == ENOMEM);
        CHECK(hook.calls == 0);
        domains[i].free(block);
        CHECK(fh_set_allocator(domains[i].domain, &hook.wrapped) == 0);
    }
}

TEST(arrays_know_when_they_are_too_long)
{
    errno = 0;
    CHECK(fh_new(uint64_t, SIZE_MAX / 4) == NULL && errno == ENOMEM);
    uint64_t *numbers = fh_new(uint64_t, 10);
    CHECK(numbers != NULL && fh_usable_size(numbers) >= 80);
    numbers[9] = 9;
    uint64_t *kept = fh_resize(numbers, uint64_t, 1000);
    CHECK(kept == numbers && kept[9] == 9);
    CHECK(fh_resize(numbers, uint64_t, SIZE_MAX / 8) == NULL && numbers == NULL);
    fh_del(kept);
}

TEST(alignment_is_for_any_domain_that_nobody_wraps)
{
    for (int i = 0; i < FH_DOMAINS; i++) {
        struct hook hook = {0};
        void *block = fh_aligned_alloc(domains[i].domain, 256, 100);
        CHECK(block != NULL && (uintptr_t)block % 256 == 0);
        domains[i].free(block);
        wrap(domains[i].domain, &hook);
        errno = 0;
        CHECK(fh_aligned_alloc(domains[i].domain, 256, 100) == NULL && errno == EINVAL);
        domains[i].free(fh_aligned_alloc(domains[i].domain, 16, 100));
        CHECK(hook.calls == 2);
        CHECK(fh_set_allocator(domains[i].domain, &hook.wrapped) == 0);
    }
    errno = 0;
    CHECK(fh_aligned_alloc(FH_DOMAIN_MEM, 24, 1) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(fh_aligned_alloc((fh_domain)3, 16, 1) == NULL && errno == EINVAL);
}

/* ---- Wrong use --------------------------------------------------------------------------------
 */

TEST(unknown_domains_and_incomplete_allocators_are_refused)
{
    fh_allocator allocator;
    memset(&allocator, 1, sizeof allocator);
    fh_get_allocator((fh_domain)7, &allocator);
    CHECK(is_zero(&allocator, sizeof allocator));
    fh_get_allocator(FH_DOMAIN_OBJ, &allocator);
    CHECK(allocator.malloc != NULL && allocator.free != NULL);
    errno = 0;
    CHECK(fh_set_allocator((fh_domain)7, &allocator) == -1 && errno == EINVAL);
    allocator.calloc = NULL;
    errno = 0;
    CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &allocator) == -1 && errno == EINVAL);
    CHECK(!fh_domain_is_replaced(FH_DOMAIN_OBJ));
}

TEST(an_allocator_set_again_takes_no_more_memory)
{
    struct hook hook = {0};
    fh_allocator allocator, before;
    fh_get_allocator(FH_DOMAIN_MEM, &before);
    wrap(FH_DOMAIN_MEM, &hook);
    fh_get_allocator(FH_DOMAIN_MEM, &allocator);
    fh_stats was = {.struct_bytes = sizeof was}, is = {.struct_bytes = sizeof is};
    fh_thread_flush();
    CHECK(fh_get_stats(&was) == 0);
    for (int i = 0; i < 1000; i++) {
        CHECK(fh_set_allocator(FH_DOMAIN_MEM, &before) == 0);
        CHECK(fh_set_allocator(FH_DOMAIN_MEM, &allocator) == 0);
    }
    fh_thread_flush();
    CHECK(fh_get_stats(&is) == 0 && is.allocated_bytes == was.allocated_bytes);
}

/* ---- Threads ----------------------------------------------------------------------------------
 */

/* Each says by its context which malloc must be the one that is called. */
static void *even_malloc(void *context, size_t bytes)
{
    (void)bytes;
    CHECK(*(const int *)context % 2 == 0);
    return context;
}

static void *odd_malloc(void *context, size_t bytes)
{
    (void)bytes;
    CHECK(*(const int *)context % 2 == 1);
    return context;
}

static void *no_calloc(void *context, size_t count, size_t bytes)
{
    (void)count, (void)bytes;
    return context;
}

static void *no_realloc(void *context, void *block, size_t bytes)
{
    (void)block, (void)bytes;
    return context;
}

static void no_free(void *context, void *block)
{
    (void)context, (void)block;
}

static int numbers[8] = {0, 1, 2, 3, 4, 5, 6, 7};

static void set_and_call(unsigned number, void *unused)
{
    (void)unused;
    struct bound bound = at_most(20000);
    for (unsigned i = number; more(&bound); i++) {
        int *context = &numbers[i % 8];
        const fh_allocator allocator = {context, i % 2 == 0 ? even_malloc : odd_malloc, no_calloc,
                                        no_realloc, no_free};
        CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &allocator) == 0);
        int *answer = fh_obj_malloc(1);
        CHECK(answer >= numbers && answer < numbers + 8);
    }
}

TEST(no_call_sees_parts_of_two_allocators)
{
    together(4, set_and_call, NULL);
}
