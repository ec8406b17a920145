/* SPDX-License-Identifier: MIT */
/* Freehold's debug hooks: CPython's PyMem_SetupDebugHooks() for any program.
 *
 * They wrap the allocators of the three domains, at run time, in any build. Each block then has
 * this layout (p is what the caller gets, n the bytes asked for):
 *
 *   p[-16..-9]    n, most significant byte first
 *   p[-8]         the domain's letter: 'r', 'm' or 'o'
 *   p[-7..-1]     FH_FORBIDDENBYTE
 *   p[0..n-1]     the caller's: FH_CLEANBYTE at first, or zeros from calloc
 *   p[n..n+7]     FH_FORBIDDENBYTE
 *   p[n+8..n+15]  with serial numbers: which allocation this was, most significant byte first
 *
 * free and realloc check the block first: its letter, the bytes before it, the bytes after it. Then
 * its memory becomes FH_DEADBYTE. A block that fails is described on stderr in CPython's words, and
 * the program ends by abort().
 *
 * A freed block is held back for a while (the quarantine), so that a second free finds it marked,
 * and a write after the free is found when it leaves. realloc moves each block small enough for
 * that, so that the old address is dead. A pointer to memory that is not Freehold's is named
 * without being read. The last two hold where the hooks wrap Freehold's own memory. Blocks leave by
 * any thread's call: those of a gil-assert or gil-lock heap as by fh_obj_free_deferred().
 *
 * fh_usable_size() sees the block with all that is around it: of a block made under the hooks, the
 * caller may use only the bytes asked for.
 *
 * Any thread may call these functions at any time unless one says otherwise. None waits for another
 * thread or calls malloc; a report allocates nothing either, so it may come from a signal handler.
 */
#ifndef FREEHOLD_DEBUG_H
#define FREEHOLD_DEBUG_H

#include "../freehold.h"

#define FH_CLEANBYTE     0xCD /* memory that is new and not yet written to */
#define FH_DEADBYTE      0xDD /* memory that was freed */
#define FH_FORBIDDENBYTE 0xFD /* around the caller's bytes */

#ifdef __cplusplus
extern "C" {
#endif

/* ---- On and off ------------------------------------------------------------------------------ */

/** Wrap what each domain's calls go to now, unless that is the hooks already.
 *
 * Blocks that live already can be freed and resized afterwards where a domain went to Freehold's
 * own memory: their places tell them apart. A domain whose allocator somebody set must have none,
 * as fh_set_allocator() says.
 *
 * Returns 0, or -1 with ENOMEM: memory is short, or more than 16 different allocators were wrapped
 * so far (threads that set up at once may each count); the domains before that one are then
 * wrapped. Not for signal handlers. */
FH_API int fh_debug_setup(void);

/** New blocks are made without the hooks again; those that were made under them are still checked
 * when they are freed, and the quarantine is emptied. The hooks stay where they are and pass calls
 * on; fh_debug_setup() switches them on again.
 *
 * Returns 0 (also if they were off), or -1 with EBUSY if they ever wrapped an allocator other than
 * Freehold's own, whose blocks cannot be told apart; nothing is changed then. Not for signal
 * handlers. */
FH_API int fh_debug_teardown(void);

/** 1 from fh_debug_setup() to fh_debug_teardown(), else 0. */
FH_API int fh_debug_is_enabled(void);

typedef struct fh_debug_config {
    size_t struct_bytes;     /* set by the caller to sizeof(fh_debug_config) */
    size_t quarantine_bytes; /* how much freed memory is held back: rounded down to a power of two,
                                at most 4096 blocks, none larger than an eighth of it. Under 2048:
                                none. At first 1 MiB. */
    int serial_numbers;      /* 1: each block has one. Not to be changed after fh_debug_setup().
                                At first 0. */
    int strict;              /* 1: a block of Freehold's memory that the hooks did not make, by the
                                malloc family or before the hooks were on, is reported too. 0: it is
                                resized and freed as what it is. At first 0. */
} fh_debug_config;

/** Returns 0, or -1 and changes nothing: EINVAL if struct_bytes is not set, EBUSY if serial_numbers
 * would change after the first fh_debug_setup(). */
FH_API int fh_debug_configure(const fh_debug_config *config);

/** Check every block in quarantine and free it now. Returns how many bytes that were. A program
 * that calls it before it ends hears of its last writes after free. */
FH_API size_t fh_debug_flush(void);

/* ---- Looking --------------------------------------------------------------------------------- */

/** 1 if `value` is a pointer that was read from memory of these kinds: NULL, or all bytes are
 * FH_CLEANBYTE, FH_DEADBYTE or FH_FORBIDDENBYTE. It is not followed. Else 0. */
FH_API int fh_debug_is_ptr_freed(const void *value);

/** Describe a block as a report does, in CPython's words, on the file descriptor. Memory that is
 * not Freehold's is not read, unless the hooks wrap another allocator. Preserves errno. */
FH_API void fh_debug_dump_address(int fd, const void *block);

/** The last serial number given; 0 if none was. */
FH_API uint64_t fh_debug_serial(void);

/** Where serial numbers come from: the next one. The hooks call it for each block that malloc,
 * calloc or realloc makes; set a breakpoint here to stop at the block of a report. */
FH_API uint64_t fh_debug_bump_serial(void);

/* ---- What others plug in ---------------------------------------------------------------------
 *
 * Each of these calls takes at most 32 bytes for ever. They return 0, or -1 with ENOMEM, and then
 * nothing has changed. Not for signal handlers.
 */

/** Receives the function's name, as in CPython's texts, and what is wrong. The description of the
 * block is on stderr by then. If it returns, the program ends by abort(). */
typedef void (*fh_debug_fatal_handler)(void *context, const char *function, const char *message);

/** How a report ends: `handler` is called; NULL for the line "<prefix>: <function>: <message>" on
 * stderr. `prefix` is kept, not copied; NULL for "Fatal Freehold error" (CPython has "Fatal Python
 * error"). */
FH_API int fh_debug_set_fatal_handler(fh_debug_fatal_handler handler, void *context,
                                      const char *prefix);

/** Every call of the mem or the obj domain first asks `held`: 0 ends the program, since the caller
 * does not hold the interpreter's lock. NULL, as at first: no such check. -1 with EINVAL for
 * another domain. */
FH_API int fh_debug_set_gil_check(fh_domain domain, int (*held)(void *context), void *context);

/** Who knows where blocks were allocated: writes that of `block` to `fd`, by write() alone. It
 * returns 1 if it did, 0 if it knows nothing of this block, -1 if tracing is off; for -1, and for
 * NULL as at first, the report says how to get one. */
FH_API int fh_debug_set_traceback(int (*traceback)(void *context, const void *block, int fd),
                                  void *context);

#ifdef __cplusplus
}
#endif

#endif
