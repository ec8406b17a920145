/* SPDX-License-Identifier: MIT */
/* A C program that uses Freehold: consumer <who serves malloc: libc or freehold> <version>.
 *
 * Exits with 0 if every block comes from where it should. The calls below reach malloc from the
 * program and from inside libc, and fork is what ties libc's own allocator to the rest of libc.
 */
#define _GNU_SOURCE /* reallocarray */
#include <freehold.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int wrong;

static void expect(int holds, const char *what)
{
    if (!holds)
        fprintf(stderr, "consumer: wrong: %s\n", what);
    wrong |= !holds;
}

static int child_allocates(void)
{
    int status = -1;
    pid_t child = fork();
    if (child == 0)
        _exit(fh_raw_malloc(100) == NULL);
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    int ours = strcmp(argv[1], "freehold") == 0;

    void *raw = fh_raw_malloc(100);
    void *block = malloc(100);
    void *aligned = NULL;
    char *copy = strdup(argv[0]);
    expect(raw != NULL && fh_owns(raw), "fh_raw_malloc is Freehold's");
    expect(block != NULL && fh_owns(block) == ours, "malloc");
    expect(posix_memalign(&aligned, 256, 100) == 0 && fh_owns(aligned) == ours, "posix_memalign");
    expect(copy != NULL && fh_owns(copy) == ours, "strdup");
    block = reallocarray(block, 100, 100);
    expect(block != NULL && fh_owns(block) == ours, "reallocarray");
    expect(child_allocates(), "a child allocates");
    expect(strcmp(fh_version(), argv[2]) == 0, "fh_version is the package's");

    free(copy);
    free(aligned);
    free(block);
    fh_raw_free(raw);
    return wrong;
}
