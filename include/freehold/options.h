/* SPDX-License-Identifier: MIT */
/* Freehold: what the environment asks for, and the allocators by name.
 *
 * An option is set by a variable of its own, FREEHOLD_DECAY_MS=200, or together with others by
 * FREEHOLD_CONF="decay_ms:200,retain_min:8M"; the variable of its own wins. The environment is read
 * once, when the program starts or at the first call that wants to know, and not at all in a
 * program that has more rights than its user (AT_SECURE). What is wrong in it is said on stderr,
 * once, and then the default holds. The value `help` for any option prints all of them.
 *
 * Any thread may call these functions at any time unless one says otherwise. None waits for another
 * thread.
 */
#ifndef FREEHOLD_OPTIONS_H
#define FREEHOLD_OPTIONS_H

#include <stddef.h>

#include <freehold.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Let the three domains go where a value of FREEHOLD_MALLOC says:
 *
 *   "", default, off, freehold, pymalloc      Freehold's own memory, as if nothing were set
 *   debug, freehold_debug, pymalloc_debug     the same under the debug hooks (debug.h)
 *   malloc, malloc_debug                      the program's malloc
 *   gil, gil_debug                            raw as is; mem and obj to one heap (heap.h) of all
 *                                             threads, whose lock is taken around each call, or in
 *                                             the mode that FREEHOLD_OBJ_MODE says
 *
 * As with fh_set_allocator(), no domain may have a live block. Returns 0, or -1 with EINVAL for
 * another name, ENOMEM if memory is short; some domains may have changed then. One thread at a
 * time; not for signal handlers. */
FH_API int fh_setup_allocators(const char *name);

/** What the three domains go to now: "freehold", "freehold_debug", "malloc", "malloc_debug", "gil"
 * or "gil_debug"; NULL for anything else, so while memory is traced, too. */
FH_API const char *fh_current_allocator_name(void);

/** What the library's constructor does, once: take the environment's options into account. Programs
 * need not call it; who links an archive by hand names it to the linker, -Wl,--undefined=fh_start.
 */
FH_API void fh_start(void);

/** The value of an option as the environment set it, or its default: "decay_ms" has "500ms".
 * Writes at most `bytes` to `out`, with the final 0. Returns how long the whole text is without it,
 * as snprintf(); -1 with EINVAL if there is no such option. */
FH_API int fh_option_get(const char *name, char *out, size_t bytes);

/** Write all options to the file descriptor: values, where these come from, what they mean.
 * Preserves errno. */
FH_API void fh_option_help(int fd);

#ifdef __cplusplus
}
#endif

#endif
