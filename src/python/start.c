/* SPDX-License-Identifier: MIT */
/* How an interpreter starts on Freehold's memory: with what mode, and when.
 *
 *   freehold-python [-X freehold=MODE] ...
 *
 * Everything else on the command line and in the environment is the interpreter's. It would throw
 * away allocators that are set before it has read PYTHONMALLOC, -X dev and the like, so it is
 * pre-initialised first.
 */
#include "bridge.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { EXIT_USAGE = 2 };

static const char variable_name[] = "FREEHOLD_PYTHON";

/* What the command line says that concerns us, found as the interpreter finds it. */
struct arguments {
    const char *mode; /* of the last -X freehold; NULL without one */
    bool is_dev;      /* -X dev */
    bool ignores_environment;
};

/* What -X NAME=TEXT says, "" of -X NAME; NULL if it is about something else. */
static const char *text_of(const char *value, const char *name)
{
    const size_t length = strlen(name);
    if (strncmp(value, name, length) != 0)
        return NULL;
    return value[length] == '=' ? value + length + 1 : value[length] == '\0' ? "" : NULL;
}

static void note_option(struct arguments *found, char option, const char *value)
{
    const char *mode = option == 'X' ? text_of(value, "freehold") : NULL;
    if (mode != NULL)
        found->mode = mode;
    if (option == 'X' && text_of(value, "dev") != NULL)
        found->is_dev = true; /* whatever it says */
    if (option == 'E' || option == 'I')
        found->ignores_environment = true;
}

/* One argument of short options, such as -bX dev. Returns how many arguments it was with its value,
 * 0 if the options end with it. */
static int read_options(struct arguments *found, const char *letters, const char *next)
{
    for (; *letters != '\0'; letters++) {
        bool has_value = strchr("cmWX", *letters) != NULL;
        bool is_next = has_value && letters[1] == '\0';
        const char *value = is_next ? next : letters + 1;
        if (*letters == 'c' || *letters == 'm' || (has_value && value == NULL))
            return 0;
        note_option(found, *letters, value);
        if (has_value)
            return is_next ? 2 : 1;
    }
    return 1;
}

/* --help and the like; one of them has a value. */
static int long_option(const char *name)
{
    return strcmp(name, "check-hash-based-pycs") == 0 ? 2 : 1;
}

static struct arguments read_arguments(int count, char **arguments)
{
    struct arguments found = {NULL, false, false};
    int read = 1;
    for (int index = 1; index < count && read > 0; index += read) {
        const char *argument = arguments[index];
        if (argument[0] != '-' || argument[1] == '\0' || strcmp(argument, "--") == 0)
            break; /* a script */
        read = argument[1] == '-' ? long_option(argument + 2)
                                  : read_options(&found, argument + 1, arguments[index + 1]);
    }
    return found;
}

/* ---- The mode ---------------------------------------------------------------------------------
 */

/* What was asked for, and where. */
struct request {
    const char *mode;
    const char *place;
};

static const char *variable_of(const struct arguments *found, const char *name)
{
    const char *value = found->ignores_environment ? NULL : getenv(name);
    return value == NULL ? "" : value;
}

/* Whether the interpreter was told which of its own allocators, or hooks on them, to take. */
static bool names_allocator(const struct arguments *found)
{
    const char *name = variable_of(found, "PYTHONMALLOC");
    bool is_dev = found->is_dev || *variable_of(found, "PYTHONDEVMODE") != '\0';
    return *name == '\0' ? is_dev : strcmp(name, "default") != 0;
}

/* Who asks for one of CPython's allocators has it as from any python3, on Freehold's arenas and
 * malloc, unless the same command line asks for more. */
static struct request requested(int count, char **arguments)
{
    struct arguments found = read_arguments(count, arguments);
    const char *mode = variable_of(&found, variable_name);
    if (found.mode != NULL)
        return (struct request){found.mode, "-X freehold"};
    bool keeps =
        strcmp(mode, "pymalloc") != 0 && strcmp(mode, "help") != 0 && names_allocator(&found);
    return (struct request){keeps && fh_python_find_mode(mode) != NULL ? "arena" : mode,
                            variable_name};
}

static void print_help(FILE *stream)
{
    (void)fprintf(stream,
                  "freehold-python: Python " PY_VERSION " on Freehold %s.\n\n"
                  "  freehold-python -X freehold=MODE ...   or FREEHOLD_PYTHON=MODE\n\n",
                  fh_version());
    fh_python_list_modes(stream);
}

static const struct fh_python_mode *find_mode(const struct request *request)
{
    if (strcmp(request->mode, "help") == 0) {
        print_help(stdout);
        exit(EXIT_SUCCESS);
    }
    const struct fh_python_mode *mode = fh_python_find_mode(request->mode);
    if (mode != NULL)
        return mode;
    (void)fprintf(stderr, "freehold-python: %s: there is no mode '%s', but:\n", request->place,
                  request->mode);
    fh_python_list_modes(stderr);
    exit(EXIT_USAGE);
}

static const char *reason(int error)
{
    return error == ENOTSUP ? "not safe with this Python, whose interpreters may each have a lock "
                              "of their own; use free"
                            : strerror(error);
}

static void install(const struct request *request, const struct fh_python_mode *mode)
{
    if (fh_python_install(mode) == 0)
        return;
    (void)fprintf(stderr, "freehold-python: %s: mode %s: %s\n", request->place, mode->name,
                  reason(errno));
    exit(EXIT_USAGE);
}

void fh_python_start(int count, char **arguments)
{
    const struct request request = requested(count, arguments);
    const struct fh_python_mode *mode = find_mode(&request);
    PyPreConfig config;
    PyPreConfig_InitPythonConfig(&config);
    PyStatus status = Py_PreInitializeFromBytesArgs(&config, count, arguments);
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
    install(&request, mode);
}
