/* SPDX-License-Identifier: MIT */
/* Frames come from a function of the program's, from the unwinder, or from the chain of frame
 * pointers.
 *
 * The unwinder is the one that C++ exceptions use. It reads tables of the program and needs to find
 * those of an address: where the loader tells without a lock (_dl_find_object, glibc 2.35) it can
 * be asked from anywhere, also in a signal handler; where it does not, we do without.
 *
 * Code compiled without frame pointers keeps anything in that register, so each step is checked
 * before it is read: upward, aligned, not far, and below the end of this thread's stack. That end
 * is known without asking: the C library keeps a thread's descriptor above its stack, the kernel
 * some random bytes above the first one's. A coroutine's stack may lie below that end too, and a
 * guard or nothing above it; so what is not on the page of the call itself the kernel reads for us.
 */
#include "trace_frames.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/uio.h>
#include <unistd.h>
#include <unwind.h>

#include "atomic.h"
#include "freehold/trace.h"
#include "theap.h"
#include "trace_intern.h"

enum {
    FRAMES_ON_STACK = 64, /* more are collected in a block of the heap */
    FRAME_MAX_BYTES = 1 << 20,
    STACK_MAX_BYTES = 1 << 27, /* the kernel leaves at least so much below the first stack */
    PC_MIN = 4096,
    PAGE_MIN_BYTES = 4096,
    WINDOW_WORDS = 64,
    OWN_FRAMES_MAX = 16, /* between a call of the program's and the unwinder */
};

struct provider {
    fh_frames_function function;
    void *context;
};

static void *provider; /* struct provider *, which never changes; NULL: native frames */

/* ---- Native frames -----------------------------------------------------------------------------
 */

static bool is_below(uintptr_t address, uintptr_t end)
{
    return address < end && end - address < STACK_MAX_BYTES;
}

/* The end of the stack that `address` lies on; the address itself if it is another stack than the
 * thread's own. */
static uintptr_t stack_end(uintptr_t address)
{
    uintptr_t first = (uintptr_t)getauxval(AT_RANDOM);
    uintptr_t descriptor = (uintptr_t)pthread_self();
    if (is_below(address, first))
        return first;
    return is_below(address, descriptor) ? descriptor : address;
}

static bool is_next_frame(uintptr_t next, uintptr_t frame, uintptr_t end)
{
    return next > frame && next - frame <= FRAME_MAX_BYTES && next % sizeof(void *) == 0 &&
           next + 2 * sizeof(void *) <= end;
}

/* An address in a program: not of the first page, and not of the kernel's half. */
static bool may_be_pc(uint64_t word)
{
    return word >= PC_MIN && word >> 56 == 0;
}

/* What begins a frame. */
struct frame_words {
    uintptr_t next, return_address;
};

/* A copy of what lies at `start`. */
struct window {
    uintptr_t start;
    size_t bytes;
    uintptr_t words[WINDOW_WORDS];
};

/* As far as there is something to read; all that is refused counts as nothing. */
static void move_window(struct window *window, uintptr_t start)
{
    const struct iovec to = {window->words, sizeof window->words};
    const struct iovec from = {(void *)start, sizeof window->words};
    int saved_errno = errno;
    ssize_t got = process_vm_readv(getpid(), &to, 1, &from, 1, 0);
    errno = saved_errno;
    window->start = start;
    window->bytes = got < 0 ? 0 : (size_t)got;
}

static bool has_words(const struct window *window, uintptr_t frame)
{
    return frame >= window->start &&
           frame - window->start + sizeof(struct frame_words) <= window->bytes;
}

static bool is_on_page_of(uintptr_t call, uintptr_t frame)
{
    return frame / PAGE_MIN_BYTES == call / PAGE_MIN_BYTES &&
           frame % PAGE_MIN_BYTES <= PAGE_MIN_BYTES - sizeof(struct frame_words);
}

/* What lies on the stack beside frames is not ours to read, says AddressSanitizer. */
__attribute__((no_sanitize("address"))) static struct frame_words read_here(uintptr_t frame)
{
    const uintptr_t *words = (const uintptr_t *)frame;
    return (struct frame_words){words[0], words[1]};
}

static bool read_frame(uintptr_t call, uintptr_t frame, struct window *window,
                       struct frame_words *words)
{
    if (is_on_page_of(call, frame)) {
        *words = read_here(frame);
        return true;
    }
    if (!has_words(window, frame))
        move_window(window, frame);
    if (!has_words(window, frame))
        return false;
    memcpy(words, (const char *)window->words + (frame - window->start), sizeof *words);
    return true;
}

static uint32_t native_frames(struct fh_call_site site, uint64_t *words, uint32_t limit)
{
    struct window window;
    window.start = window.bytes = 0;
    uintptr_t call = (uintptr_t)site.frame, frame = call;
    uintptr_t end = limit > 1 ? stack_end(frame) : frame;
    struct frame_words at = read_here(frame);
    uint32_t count = 1;
    words[0] = (uintptr_t)site.return_address;
    while (count < limit && is_next_frame(at.next, frame, end)) {
        frame = at.next;
        if (!read_frame(call, frame, &window, &at) || !may_be_pc(at.return_address))
            break;
        words[count++] = at.return_address;
    }
    return count;
}

/* Where there is no loader to ask, there is no other library. dlopen is looked up: naming it would
 * make the linker warn about every static program. */
extern __typeof__(dlsym) dlsym FH_WEAK;

typedef _Unwind_Reason_Code unwind_function(_Unwind_Trace_Fn visit, void *argument);
typedef uintptr_t pc_function(struct _Unwind_Context *context);

/* Settled before there are threads, or NULL. */
static unwind_function *unwind;
static pc_function *pc_of;

struct walk {
    uint64_t *words;
    uintptr_t from; /* return addresses before this one are ours */
    uint32_t count, limit, skipped;
};

static bool look_up(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

void fh_trace_prepare_unwinder(void)
{
    unwind_function *found;
    __typeof__(dlopen) *open;
    if (dlsym == NULL || dlsym(RTLD_DEFAULT, "_dl_find_object") == NULL ||
        !look_up(RTLD_DEFAULT, "dlopen", &open))
        return;
    void *library = open("libgcc_s.so.1", RTLD_NOW);
    if (library != NULL && look_up(library, "_Unwind_GetIP", &pc_of) &&
        look_up(library, "_Unwind_Backtrace", &found))
        unwind = found;
}

static _Unwind_Reason_Code visit_frame(struct _Unwind_Context *context, void *argument)
{
    struct walk *walk = argument;
    uintptr_t pc = pc_of(context);
    if (walk->count == 0 && pc != walk->from)
        return ++walk->skipped < OWN_FRAMES_MAX ? _URC_NO_REASON : _URC_END_OF_STACK;
    if (!may_be_pc(pc))
        return _URC_END_OF_STACK;
    walk->words[walk->count++] = pc;
    return walk->count < walk->limit ? _URC_NO_REASON : _URC_END_OF_STACK;
}

static uint32_t unwound_frames(struct fh_call_site site, uint64_t *words, uint32_t limit)
{
    struct walk walk = {words, (uintptr_t)site.return_address, 0, limit, 0};
    (void)unwind(visit_frame, &walk);
    return walk.count;
}

static uint32_t native_traceback(struct fh_call_site site, uint64_t *words, uint32_t limit)
{
    uint32_t count = limit > 1 && unwind != NULL ? unwound_frames(site, words, limit) : 0;
    if (count == 0)
        count = native_frames(site, words, limit);
    return fh_intern_traceback(words, count, count);
}

/* ---- Frames of the program's -------------------------------------------------------------------
 */

static uint64_t pack(const fh_frame *frame)
{
    if (frame->filename == NULL && may_be_pc(frame->pc))
        return frame->pc;
    return fh_frame_word(frame->filename == NULL ? 0 : fh_intern_name(frame->filename),
                         frame->lineno);
}

static uint32_t provided_traceback(const struct provider *from, fh_frame *frames, uint64_t *words,
                                   uint32_t limit)
{
    size_t total = 0;
    int saved_errno = errno; /* the block is there: its caller must not notice */
    size_t count = from->function(from->context, frames, limit, &total);
    errno = saved_errno;
    if (count == 0)
        return 0;
    if (count > limit)
        count = limit;
    for (size_t i = 0; i < count; i++)
        words[i] = pack(&frames[i]);
    total = total < count ? count : total < FH_TRACE_FRAMES_MAX ? total : FH_TRACE_FRAMES_MAX;
    return fh_intern_traceback(words, (uint32_t)count, (uint32_t)total);
}

int fh_trace_set_frames(fh_frames_function function, void *context)
{
    struct provider *fresh = NULL;
    if (function != NULL && (fresh = fh_intern_memory(sizeof *fresh)) == NULL) {
        errno = ENOMEM;
        return -1;
    }
    if (fresh != NULL)
        *fresh = (struct provider){function, context};
    fh_store_release_ptr(&provider, fresh); /* [trace-frames] release: what it points at. */
    return 0;
}

/* ---- Both --------------------------------------------------------------------------------------
 */

static uint32_t few_frames(const struct provider *from, struct fh_call_site site, uint32_t limit)
{
    fh_frame frames[FRAMES_ON_STACK];
    uint64_t words[FRAMES_ON_STACK];
    return from == NULL ? native_traceback(site, words, limit)
                        : provided_traceback(from, frames, words, limit);
}

static uint32_t many_frames(const struct provider *from, struct fh_call_site site, uint32_t limit)
{
    int saved_errno = errno;
    fh_frame *frames = fh_theap_malloc(limit * (sizeof *frames + sizeof(uint64_t)));
    errno = saved_errno;
    if (frames == NULL)
        return few_frames(from, site, FRAMES_ON_STACK);
    uint64_t *words = (uint64_t *)(void *)(frames + limit);
    uint32_t traceback = from == NULL ? native_traceback(site, words, limit)
                                      : provided_traceback(from, frames, words, limit);
    fh_theap_free(frames);
    return traceback;
}

uint32_t fh_traceback_of(struct fh_call_site site, uint32_t limit)
{
    /* [trace-frames] acquire: what it points at. */
    const struct provider *from = fh_load_acquire_ptr(&provider);
    return limit <= FRAMES_ON_STACK ? few_frames(from, site, limit)
                                    : many_frames(from, site, limit);
}
