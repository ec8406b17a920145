/* SPDX-License-Identifier: MIT */
/* A block goes back through the family that it came from. Without the hooks a mistake may go
 * unnoticed for years, since all three domains are the same memory; with them the first one is
 * named. Each mistake below is made in a child of its own, which it ends. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <freehold.h>
#include <freehold/debug.h>

static void mem_to_obj(void)
{
    char *buffer = fh_mem_malloc(100);
    fh_obj_free(buffer); /* should be fh_mem_free() */
}

static void obj_to_raw(void)
{
    char *object = fh_obj_malloc(32);
    object = fh_raw_realloc(object, 64); /* should be fh_obj_realloc() */
    fh_raw_free(object);
}

static void new_to_obj(void)
{
    int *numbers = fh_new(int, 10);
    fh_obj_free(numbers); /* should be fh_del() */
}

static void one_too_far(void)
{
    char *text = fh_mem_malloc(5);
    text[5] = '!';
    fh_mem_free(text);
}

/* Instead of the line on stderr that a report ends with. */
static void tell(void *context, const char *function, const char *message)
{
    (void)function;
    printf("%s: %s\n", (const char *)context, message);
    (void)fflush(stdout);
    _exit(0);
}

static int make(const char *name, void (*mistake)(void))
{
    int status = 1;
    (void)fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        /* The description of the block goes to stderr, which is not wanted here. */
        if (freopen("/dev/null", "w", stderr) == NULL ||
            fh_debug_set_fatal_handler(tell, (void *)(size_t)name, NULL) != 0)
            _exit(2);
        mistake();
        _exit(3); /* nobody noticed */
    }
    return waitpid(child, &status, 0) == child && status == 0 ? 0 : 1;
}

int main(void)
{
    int unnoticed = 0;
    if (fh_debug_setup() != 0)
        return EXIT_FAILURE;
    unnoticed += make("mem to obj", mem_to_obj);
    unnoticed += make("obj to raw", obj_to_raw);
    unnoticed += make("new to obj", new_to_obj);
    unnoticed += make("one too far", one_too_far);
    printf("%d unnoticed\n", unnoticed);
    return unnoticed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
