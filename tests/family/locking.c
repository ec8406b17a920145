/* SPDX-License-Identifier: MIT */
/* An allocator that takes a lock: libc's, one call at a time. It shows that contend.c would find
 * one out.
 */
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>

/* libc's own, under the names that it keeps for such a case. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *block, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);
void __libc_free(void *block);

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

void *malloc(size_t bytes)
{
    pthread_mutex_lock(&lock);
    void *block = __libc_malloc(bytes);
    pthread_mutex_unlock(&lock);
    return block;
}

void *calloc(size_t count, size_t bytes)
{
    pthread_mutex_lock(&lock);
    void *block = __libc_calloc(count, bytes);
    pthread_mutex_unlock(&lock);
    return block;
}

void *realloc(void *block, size_t bytes)
{
    pthread_mutex_lock(&lock);
    block = __libc_realloc(block, bytes);
    pthread_mutex_unlock(&lock);
    return block;
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    pthread_mutex_lock(&lock);
    void *block = __libc_memalign(alignment, bytes);
    pthread_mutex_unlock(&lock);
    return block;
}

void free(void *block)
{
    pthread_mutex_lock(&lock);
    __libc_free(block);
    pthread_mutex_unlock(&lock);
}
