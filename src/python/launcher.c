/* SPDX-License-Identifier: MIT */
/* freehold-python: the python3 that it was built for, on Freehold's memory.
 *
 * It becomes that very program, with preload.c loaded into it. A copy of the interpreter linked
 * into this program would be slower: distributions optimise their python3 across all its files, and
 * ship libraries for linking that are not.
 *
 * The interpreter takes its own place from argv[0], which stays: so sys.executable is this program,
 * and what Python programs start as sys.executable has Freehold again. The preload takes LD_PRELOAD
 * back, so what they start otherwise has not.
 */
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "preload.h"

/* Where the library may be, seen from the folder of this program: FH_PYTHON_LIBRARY_DIR as
 * installed. */
static const char *const places[] = {"", FH_PYTHON_LIBRARY_DIR "/"};
enum { PLACES_COUNT = sizeof places / sizeof places[0] };

static int fail(const char *what, const char *why)
{
    (void)fprintf(stderr, "freehold-python: %s: %s\n", what, why);
    return EXIT_FAILURE;
}

/* The folder that this program lies in, with a slash at the end. */
static bool find_folder(char folder[PATH_MAX])
{
    ssize_t length = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    if (length <= 0)
        return false;
    folder[length] = '\0';
    strrchr(folder, '/')[1] = '\0'; /* what the kernel says begins with one */
    return true;
}

static bool find_library(char path[PATH_MAX])
{
    char folder[PATH_MAX];
    for (int index = 0; find_folder(folder) && index < PLACES_COUNT; index++) {
        int length =
            snprintf(path, PATH_MAX, "%s%s%s", folder, places[index], FH_PYTHON_PRELOAD_NAME);
        if (length < PATH_MAX && access(path, R_OK) == 0)
            return true;
    }
    return false;
}

/* In front of what is there already. */
static bool preload(const char *path)
{
    const char *others = getenv("LD_PRELOAD");
    bool has_others = others != NULL && *others != '\0';
    size_t bytes = strlen(path) + (has_others ? strlen(others) : 0) + sizeof ":";
    char *all = malloc(bytes);
    if (all == NULL)
        return false;
    (void)snprintf(all, bytes, "%s%s%s", path, has_others ? ":" : "", has_others ? others : "");
    return setenv("LD_PRELOAD", all, 1) == 0;
}

int main(int count, char **arguments)
{
    char path[PATH_MAX];
    (void)count;
    if (getauxval(AT_SECURE) != 0)
        return fail("refused", "the system's loader takes no library into a program that runs with "
                               "privileges of its own, such as set-user-ID");
    if (!find_library(path))
        return fail(FH_PYTHON_PRELOAD_NAME, "not found beside this program");
    if (strpbrk(path, ": ") != NULL)
        return fail(path, "the system's loader does not take paths with a space or a colon");
    if (!preload(path))
        return fail(path, strerror(errno));
    (void)execv(FH_PYTHON_PROGRAM, arguments);
    return fail(FH_PYTHON_PROGRAM, strerror(errno));
}
