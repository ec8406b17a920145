/* SPDX-License-Identifier: MIT */
/* Spaces for tests: made, attached to, and left without an object. */
#ifndef SPACES_H
#define SPACES_H

#include <freehold/object.h>

#include "modules.h"

static inline fh_space *enter(const fh_space_config *config)
{
    fh_space *space = fh_space_create(config);
    CHECK(space != NULL && fh_space_attach(space) == 0);
    return space;
}

static inline fh_space *enter_free(void)
{
    return enter(NULL);
}

static inline fh_space *enter_gil(void)
{
    fh_space_config config = {.struct_bytes = sizeof config, .gil = fh_gil_builtin()};
    return enter(&config);
}

/* Nothing lives any more. */
static inline void leave(fh_space *space)
{
    fh_space_detach();
    CHECK(fh_space_destroy(space) == 0);
}

static inline void in_each_mode(void (*run)(void))
{
    fh_space *space = enter_free();
    run();
    leave(space);
    space = enter_gil();
    run();
    leave(space);
}

/* On another thread, attached to the space; this one is parked meanwhile. */
struct visit {
    fh_space *space;
    void (*run)(void *argument);
    void *argument;
};

static inline void visit(void *argument)
{
    struct visit *its = argument;
    CHECK(fh_space_attach(its->space) == 0);
    its->run(its->argument);
    fh_space_detach();
}

static inline void attached_elsewhere(void (*run)(void *argument), void *argument)
{
    struct visit its = {fh_space_current(), run, argument};
    fh_space_park();
    elsewhere(visit, &its);
    fh_space_unpark();
}

#endif
