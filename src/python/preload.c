/* SPDX-License-Identifier: MIT */
/* What the launcher loads into the interpreter: Freehold with the malloc family, and this, which
 * runs before the interpreter's main(). All of CPython's functions are there by then. In a program
 * without them it does nothing, and the environment stays for the next one. */
#include "preload.h"

#include <stdlib.h>
#include <string.h>

#include "bridge.h"

/* Leave what the launcher found: its entry is the first. */
static void restore_environment(void)
{
    const char *preloaded = getenv("LD_PRELOAD");
    const char *name = preloaded == NULL ? NULL : strstr(preloaded, FH_PYTHON_PRELOAD_NAME);
    if (name == NULL)
        return;
    const char *others = name + strlen(FH_PYTHON_PRELOAD_NAME);
    if (*others == '\0')
        (void)unsetenv("LD_PRELOAD");
    else
        (void)setenv("LD_PRELOAD", others + 1, 1);
}

/* The arguments are glibc's. After Freehold's own start, which has a number. */
__attribute__((constructor)) static void start(int count, char **arguments)
{
    if (Py_PreInitializeFromBytesArgs == NULL)
        return;
    restore_environment();
    fh_python_start(count, arguments);
}
