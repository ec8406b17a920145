/* SPDX-License-Identifier: MIT */
/* Options where no constructor has run (this program's archive was not asked for it):
 *
 *   race           sixteen threads are the first to ask, all at once; what was read is what each
 *                  of them gets, and check.py sees that the problem was said once
 *   race secure    as in a program with more rights than its user: nothing counts, nothing is said
 *   race default   nobody ever asks: what is allocated is as always
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "freehold/options.h"
#include "options.h"

enum { THREADS = 16 };

static pthread_barrier_t begin;
static const struct fh_options *seen[THREADS];
static char told[THREADS][16];

static void *ask(void *argument)
{
    size_t number = (size_t)(uintptr_t)argument;
    pthread_barrier_wait(&begin);
    seen[number] = fh_options_get();
    if (fh_option_get("decay_ms", told[number], sizeof told[number]) < 0)
        abort();
    return NULL;
}

static int race(void)
{
    pthread_t threads[THREADS];
    if (pthread_barrier_init(&begin, NULL, THREADS) != 0)
        return 2;
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, ask, (void *)(uintptr_t)i) != 0)
            return 2;
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < THREADS; i++)
        if (seen[i] != seen[0] || strcmp(told[i], told[0]) != 0)
            return 1;
    puts(told[0]);
    return 0;
}

static int secure(void)
{
    const struct fh_options *options = fh_options_read(environ, true);
    char value[16];
    if (fh_option_get("decay_ms", value, sizeof value) < 0 || options != fh_options_get())
        return 1;
    puts(value);
    return 0;
}

static int default_name(void)
{
    void *block = fh_obj_malloc(100);
    puts(fh_owns(block) ? fh_current_allocator_name() : "strange");
    fh_obj_free(block);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 1)
        return race();
    return strcmp(argv[1], "secure") == 0 ? secure() : default_name();
}
