/* SPDX-License-Identifier: MIT */
/* Memory as C11 lets it be, for the programs built with SCHED_WEAK; see weak.c. */
#ifndef SCHED_WEAK_H
#define SCHED_WEAK_H

#include <stdbool.h>
#include <stddef.h>

#if defined(SCHED_WEAK)
void weak_reset(void); /* whatever was done until now happened before everything from here on */

/* A program's own synchronisation, as it passes the block in a slot on. */
void weak_pass_on(int slot);
void weak_receive(int slot);

/* The system's: the calling thread is told that another one has ended. */
void weak_join(int thread);
#else
static inline void weak_reset(void)
{
}

static inline void weak_pass_on(int slot)
{
    (void)slot;
}

static inline void weak_receive(int slot)
{
    (void)slot;
}

static inline void weak_join(int thread)
{
    (void)thread;
}
#endif

#endif
