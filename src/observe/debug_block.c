/* SPDX-License-Identifier: MIT */
/* Blocks with the debug hooks' layout: made, checked, freed, resized.
 *
 * The layout is in debug.h. The fast path of a check compares two words; only a block that fails it
 * is looked at more closely, by examine(), which ends the program or finds that the hooks did not
 * make the block.
 */
#include <errno.h>

#include "debug.h"

enum { ENDS_BYTES = 64 }; /* of a block that the wrapped allocator resizes: set aside, made DEAD */

/* ---- Layout -----------------------------------------------------------------------------------
 */

static size_t size_at(const char *data)
{
    return (size_t)FH_DEBUG_BIG_ENDIAN(fh_debug_load(data - FH_DEBUG_HEAD));
}

/* All around n bytes; returns where they are. */
static char *decorate(const struct fh_debug_wrap *wrap, char *head, size_t bytes, uint64_t serial)
{
    char *tail = head + FH_DEBUG_HEAD + bytes;
    fh_debug_store(head, FH_DEBUG_BIG_ENDIAN((uint64_t)bytes));
    fh_store_own_u64(fh_debug_guard_at(head), wrap->guard);
    fh_debug_store(tail, FH_DEBUG_FORBIDDEN);
    if (fh_load_own_u64(&fh_debug_serials_on))
        fh_debug_store(tail + FH_DEBUG_WORD, FH_DEBUG_BIG_ENDIAN(serial));
    return head + FH_DEBUG_HEAD;
}

static uint64_t next_serial(void)
{
    return fh_load_own_u64(&fh_debug_serials_on) ? fh_debug_bump_serial() : 0;
}

static bool are_too_many(size_t bytes)
{
    return bytes > PTRDIFF_MAX - fh_debug_extra_bytes();
}

static void *no_memory(void)
{
    errno = ENOMEM;
    return NULL;
}

size_t fh_debug_readable_of_others(const char *head)
{
    const struct fh_pool *pool = fh_theap_pool_of(head);
    return pool == NULL || fh_load_own_u8(&pool->kind) != FH_POOL_NONE ? PTRDIFF_MAX : 0;
}

/* ---- Is the block good? -----------------------------------------------------------------------
 */

/* As the allocator below aligns: there are heaps that do so to 8. */
static bool is_aligned(const struct fh_debug_wrap *wrap, const char *data)
{
    if (FH_LIKELY((uintptr_t)data % FH_DEBUG_HEAD == 0))
        return true;
    return wrap->is_own && (uintptr_t)data % fh_address_alignment(data) == 0;
}

/* There a pool begins, or one of a heap of one's own: with a block of the allocator's or a header,
 * and never with what the hooks hand out. What stands before it is none of this block's. */
static bool begins_a_pool(const char *data)
{
    return (uintptr_t)data % FH_POOL_BYTES == 0;
}

static bool is_good(const struct fh_debug_wrap *wrap, const char *data)
{
    if (FH_UNLIKELY(wrap->is_own && begins_a_pool(data)))
        return false;
    const char *head = data - FH_DEBUG_HEAD;
    size_t readable = fh_debug_readable_bytes(wrap, head);
    size_t extra = fh_debug_extra_bytes();
    if (!is_aligned(wrap, data) || readable < extra ||
        fh_load_own_u64(fh_debug_guard_at(head)) != wrap->guard)
        return false;
    size_t bytes = size_at(data);
    return bytes <= readable - extra && fh_debug_load(data + bytes) == FH_DEBUG_FORBIDDEN;
}

/* Is a block of Freehold's at this very address? Then the hooks did not make it: theirs start
 * before what they hand out. */
static bool is_bare(const struct fh_debug_wrap *wrap, const char *data)
{
    return wrap->is_own && fh_address_is_block(data);
}

/* What is wrong with an address whose memory must not be read; NULL: nothing. */
static const char *wrong_with_address(const struct fh_debug_wrap *wrap, const char *data)
{
    const char *head = data - FH_DEBUG_HEAD;
    if (wrap->is_own && !fh_address_is_known(head))
        return "foreign pointer: not memory of this allocator";
    if (!is_aligned(wrap, data))
        return "not the address of a block";
    if (fh_debug_readable_bytes(wrap, head) < fh_debug_extra_bytes())
        return "not a live block of this domain (freed twice, or its heap destroyed?)";
    return NULL;
}

/* CPython's checks in its order, after those of what it cannot know. */
static void check(const struct fh_debug_wrap *wrap, const char *function, const char *data)
{
    const char *wrong = wrong_with_address(wrap, data);
    if (wrong != NULL)
        fh_debug_die(function, data, 0, wrong);
    size_t readable = fh_debug_readable_bytes(wrap, data - FH_DEBUG_HEAD);
    size_t extra = fh_debug_extra_bytes();
    uint64_t guard = fh_debug_load(data - FH_DEBUG_WORD);
    size_t bytes = size_at(data);
    if (guard == FH_DEBUG_DEAD)
        fh_debug_die(function, data, readable, "block was freed already");
    if (data[-FH_DEBUG_WORD] != wrap->letter)
        fh_debug_die_of_letter(function, data, readable, wrap->letter);
    if (guard != wrap->guard)
        fh_debug_die(function, data, readable, "bad leading pad byte");
    if (bytes > readable - extra)
        fh_debug_die(function, data, readable, "bad count of bytes requested");
    if (fh_debug_load(data + bytes) != FH_DEBUG_FORBIDDEN)
        fh_debug_die(function, data, readable, "bad trailing pad byte");
}

/* True for a block that the hooks made; false for one that they did not and need not have. */
static FH_COLD bool examine(const struct fh_debug_wrap *wrap, const char *function,
                            const char *data)
{
    bool bare = is_bare(wrap, data);
    if (bare && fh_debug_is_on() && fh_load_own_u64(&fh_debug_strict))
        fh_debug_die(function, data, 0, "block was not made by the debug hooks");
    if (!bare)
        check(wrap, function, data);
    return !bare;
}

/* Was the block made by the hooks? Ends the program if it is not good. */
static bool is_ours(const struct fh_debug_wrap *wrap, const char *function, const char *data)
{
    bool sure = fh_debug_is_on() && is_good(wrap, data);
    return FH_LIKELY(sure) || examine(wrap, function, data);
}

/* Begin to free or move a good block: from here on it is this thread's alone. */
static void claim(const struct fh_debug_wrap *wrap, const char *function, char *data)
{
    uint64_t *guard_at = fh_debug_guard_at(data - FH_DEBUG_HEAD);
    uint64_t guard = wrap->guard;
    /* relaxed: it decides which of two frees of one block comes second, no more; the block's users
     * have met before they freed it */
    if (FH_LIKELY(fh_cas_relaxed_u64(guard_at, &guard, FH_DEBUG_DEAD)))
        return;
    check(wrap, function, data);
    fh_debug_die(function, data, 0, "block is being freed by another thread");
}

/* ---- Malloc and free --------------------------------------------------------------------------
 */

/* n bytes with all around them, as the wrapped allocator gives them. If memory is short, what is
 * in quarantine can be had. */
static char *get(const struct fh_debug_wrap *wrap, size_t bytes, bool zeroed)
{
    void *context = wrap->wrapped.context;
    char *head;
    do {
        head =
            zeroed ? wrap->wrapped.calloc(context, 1, bytes) : wrap->wrapped.malloc(context, bytes);
    } while (head == NULL && wrap->is_own && fh_quarantine_flush() > 0);
    return head;
}

static void *new_block(const struct fh_debug_wrap *wrap, size_t bytes, bool zeroed)
{
    if (are_too_many(bytes))
        return no_memory();
    char *head = get(wrap, bytes + fh_debug_extra_bytes(), zeroed);
    if (head == NULL)
        return NULL;
    char *data = decorate(wrap, head, bytes, next_serial());
    if (!zeroed)
        memset(data, FH_CLEANBYTE, bytes);
    return data;
}

/* A slot of the quarantine has the wrap's number in the zeros of the block's address, which blocks
 * aligned to 8 may lack. */
static bool may_be_held_back(const char *head, size_t total_bytes)
{
    return fh_debug_is_on() && (uintptr_t)head % FH_BLOCK_ALIGN_BYTES == 0 &&
           fh_quarantine_takes(total_bytes);
}

/* The end of a block that was claimed. */
static void retire(const struct fh_debug_wrap *wrap, char *data, size_t bytes)
{
    char *head = data - FH_DEBUG_HEAD;
    size_t total = bytes + fh_debug_extra_bytes();
    memset(head, FH_DEADBYTE, total);
    if (may_be_held_back(head, total))
        fh_quarantine_put(wrap, head, bytes);
    else
        wrap->wrapped.free(wrap->wrapped.context, head);
}

void *fh_debug_malloc(const struct fh_debug_wrap *wrap, size_t bytes)
{
    if (FH_UNLIKELY(!fh_debug_is_on()))
        return wrap->wrapped.malloc(wrap->wrapped.context, bytes);
    return new_block(wrap, bytes, false);
}

void *fh_debug_calloc(const struct fh_debug_wrap *wrap, size_t count, size_t bytes)
{
    size_t product;
    if (FH_UNLIKELY(!fh_debug_is_on()))
        return wrap->wrapped.calloc(wrap->wrapped.context, count, bytes);
    return __builtin_mul_overflow(count, bytes, &product) ? no_memory()
                                                          : new_block(wrap, product, true);
}

void fh_debug_free(const struct fh_debug_wrap *wrap, char *data)
{
    static const char function[] = "_PyMem_DebugRawFree";
    if (data == NULL)
        return;
    if (FH_UNLIKELY(!is_ours(wrap, function, data))) {
        wrap->wrapped.free(wrap->wrapped.context, data);
        return;
    }
    claim(wrap, function, data);
    retire(wrap, data, size_at(data));
}

/* ---- Realloc ----------------------------------------------------------------------------------
 */

static size_t least(size_t one, size_t other)
{
    return one < other ? one : other;
}

/* A new block with what fits of the old one, which stays as it is. NULL if memory is short. */
static void *copy(const struct fh_debug_wrap *wrap, const char *data, size_t old, size_t bytes)
{
    char *copied = fh_debug_malloc(wrap, bytes);
    if (copied != NULL)
        memcpy(copied, data, least(old, bytes));
    return copied;
}

/* The first and the last bytes of what is kept of a block. */
struct ends {
    size_t first_bytes, last_bytes;
    char first[ENDS_BYTES], last[ENDS_BYTES];
};

/* Set them aside, and make DEAD what the wrapped allocator may leave behind: them, the head, and
 * all that is not kept. */
static void set_aside(struct ends *ends, char *data, size_t old, size_t kept)
{
    ends->first_bytes = least(kept, ENDS_BYTES);
    ends->last_bytes = least(kept - ends->first_bytes, ENDS_BYTES);
    char *last = data + kept - ends->last_bytes;
    memcpy(ends->first, data, ends->first_bytes);
    memcpy(ends->last, last, ends->last_bytes);
    memset(data - FH_DEBUG_HEAD, FH_DEADBYTE, FH_DEBUG_HEAD + ends->first_bytes);
    memset(last, FH_DEADBYTE,
           ends->last_bytes + (old - kept) + fh_debug_extra_bytes() - FH_DEBUG_HEAD);
}

static void put_back(const struct ends *ends, char *data, size_t kept)
{
    memcpy(data, ends->first, ends->first_bytes);
    memcpy(data + kept - ends->last_bytes, ends->last, ends->last_bytes);
}

static uint64_t serial_of(const char *data, size_t bytes)
{
    const char *at = data + bytes + FH_DEBUG_WORD;
    return fh_load_own_u64(&fh_debug_serials_on) ? FH_DEBUG_BIG_ENDIAN(fh_debug_load(at)) : 0;
}

/* Of a block that was claimed, by the wrapped allocator's realloc. If that fails, a smaller block
 * stays where it is, and one that should have grown is all as it was. */
static void *resize(const struct fh_debug_wrap *wrap, char *data, size_t old, size_t bytes)
{
    struct ends ends;
    size_t kept = least(old, bytes);
    uint64_t serial = serial_of(data, old);
    char *head = data - FH_DEBUG_HEAD;
    set_aside(&ends, data, old, kept);
    char *resized =
        wrap->wrapped.realloc(wrap->wrapped.context, head, bytes + fh_debug_extra_bytes());
    data = resized == NULL ? decorate(wrap, head, kept, serial)
                           : decorate(wrap, resized, bytes, next_serial());
    put_back(&ends, data, kept);
    if (resized == NULL)
        return bytes <= old ? data : NULL;
    memset(data + kept, FH_CLEANBYTE, bytes - kept);
    return data;
}

/* Of a block that was claimed. One small enough for the quarantine moves. */
static void *move_or_resize(const struct fh_debug_wrap *wrap, char *data, size_t bytes)
{
    size_t old = size_at(data);
    bool moves = !fh_debug_is_on() || fh_quarantine_takes(old + fh_debug_extra_bytes());
    void *moved = moves ? copy(wrap, data, old, bytes) : NULL;
    if (moved == NULL)
        return resize(wrap, data, old, bytes);
    retire(wrap, data, old);
    return moved;
}

/* Of a block that the hooks did not make. */
static void *adopt(const struct fh_debug_wrap *wrap, char *data, size_t bytes)
{
    if (!fh_debug_is_on())
        return wrap->wrapped.realloc(wrap->wrapped.context, data, bytes);
    void *moved = copy(wrap, data, fh_address_usable_bytes(data), bytes);
    if (moved != NULL)
        wrap->wrapped.free(wrap->wrapped.context, data);
    return moved;
}

void *fh_debug_realloc(const struct fh_debug_wrap *wrap, char *data, size_t bytes)
{
    static const char function[] = "_PyMem_DebugRawRealloc";
    if (data == NULL)
        return fh_debug_malloc(wrap, bytes);
    if (FH_UNLIKELY(!is_ours(wrap, function, data)))
        return adopt(wrap, data, bytes);
    if (are_too_many(bytes))
        return no_memory();
    claim(wrap, function, data);
    return move_or_resize(wrap, data, bytes);
}

bool fh_debug_is_made_by(const struct fh_debug_wrap *wrap, const char *data)
{
    return is_good(wrap, data);
}
