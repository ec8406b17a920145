/* SPDX-License-Identifier: MIT */
/* A C program that loads a C++ module, as an interpreter does: the allocator was there first, and
 * libstdc++ comes later, out of sight of the program's own symbols. FAMILY_PLUGIN is the module.
 */
#include "family.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

/* dlsym() returns an object pointer, which ISO C does not let one cast to a function's. */
static void look_up(void *function, const char *name)
{
    const char *path = getenv("FAMILY_PLUGIN");
    CHECK(path != NULL);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(handle != NULL);
    void *address = dlsym(handle, name);
    CHECK(address != NULL);
    memcpy(function, &address, sizeof address);
}

TEST(a_module_loaded_late_uses_the_allocator)
{
    void *(*allocate)(size_t bytes);
    void (*release)(void *block);
    look_up(&allocate, "plugin_allocates");
    look_up(&release, "plugin_frees");
    void *block = allocate(1000);
    CHECK(block != NULL && family_owned(block));
    family_fill(block, 1000, 1);
    release(block);
}

TEST(in_a_module_loaded_late_new_fails_as_the_language_says)
{
    void (*fail)(void);
    look_up(&fail, "plugin_fails_to_allocate");
    fail();
}

TEST(in_a_module_loaded_late_the_new_handler_is_called)
{
    void (*call_handler)(void);
    look_up(&call_handler, "plugin_handler_is_called");
    call_handler();
}

static const struct family_test tests[] = {
    ENTRY(a_module_loaded_late_uses_the_allocator),
    ENTRY(in_a_module_loaded_late_new_fails_as_the_language_says),
    ENTRY(in_a_module_loaded_late_the_new_handler_is_called),
};

int main(int argc, char **argv)
{
    return family_main(tests, sizeof tests / sizeof tests[0], argc, argv);
}
