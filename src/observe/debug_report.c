/* SPDX-License-Identifier: MIT */
/* What the debug hooks write when a block is wrong: CPython's texts, and in the same manner what it
 * has no text for.
 *
 * A report is put together in a buffer on the stack and goes out by write(): no stdio, no memory.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "bits.h"
#include "debug.h"
#include "trace_report.h"

enum { TEXT_BYTES = 1024, MESSAGE_BYTES = 96, DATA_SHOWN = 8 };

struct text {
    int fd;
    size_t used;
    char bytes[TEXT_BYTES];
};

/* What others plugged in: NULL, or a record that never changes. */
struct fatal_end {
    fh_debug_fatal_handler handler;
    void *context;
    const char *prefix;
};

struct gil_check {
    int (*held)(void *context);
    void *context;
};

struct tracer {
    int (*traceback)(void *context, const void *block, int fd);
    void *context;
};

static void *fatal_end;              /* struct fatal_end * */
static void *gil_checks[FH_DOMAINS]; /* struct gil_check * */
static void *tracer;                 /* struct tracer * */

/* ---- Text -------------------------------------------------------------------------------------
 */

static void flush(struct text *text)
{
    size_t written = 0;
    while (written < text->used) {
        ssize_t count = write(text->fd, text->bytes + written, text->used - written);
        if (count < 0 && errno != EINTR)
            break; /* nobody listens */
        written += count < 0 ? 0 : (size_t)count;
    }
    text->used = 0;
}

static void put_char(struct text *text, char character)
{
    if (text->used == sizeof text->bytes)
        flush(text);
    text->bytes[text->used++] = character;
}

static void put(struct text *text, const char *string)
{
    while (*string != '\0')
        put_char(text, *string++);
}

static void put_number(struct text *text, uint64_t number)
{
    char digits[20];
    int count = 0;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number != 0);
    while (count > 0)
        put_char(text, digits[--count]);
}

/* At least so many digits. */
static void put_hex(struct text *text, uint64_t number, unsigned least)
{
    unsigned digits = number == 0 ? 1 : fh_log2_floor(number) / 4 + 1;
    for (unsigned i = digits < least ? least : digits; i-- > 0;)
        put_char(text, "0123456789abcdef"[number >> (4 * i) & 15]);
}

static void put_byte(struct text *text, const char *at)
{
    put(text, "0x");
    put_hex(text, (unsigned char)*at, 2);
}

/* As %p of glibc. */
static void put_pointer(struct text *text, const void *pointer)
{
    put(text, pointer == NULL ? "(nil)" : "0x");
    if (pointer != NULL)
        put_hex(text, (uintptr_t)pointer, 1);
}

/* ---- A block ----------------------------------------------------------------------------------
 */

static bool are_all(const char *at, int count, unsigned char byte)
{
    for (int i = 0; i < count; i++)
        if ((unsigned char)at[i] != byte)
            return false;
    return true;
}

/* All is well, or each byte; `where` and the numbers, which begin with `number`, say where it is.
 */
static bool put_pads(struct text *text, const char *at, int count, const char *where, int number,
                     int step)
{
    bool good = are_all(at, count, FH_FORBIDDENBYTE);
    put(text, good ? "FORBIDDENBYTE, as expected.\n" : "not all FORBIDDENBYTE (0xfd):\n");
    for (int i = 0; !good && i < count; i++, number += step) {
        put(text, "        at ");
        put(text, where);
        put_number(text, (uint64_t)number);
        put(text, ": ");
        put_byte(text, at + i);
        put(text, (unsigned char)at[i] == FH_FORBIDDENBYTE ? "\n" : " *** OUCH\n");
    }
    return good;
}

static void put_leading_pads(struct text *text, const char *data)
{
    enum { PADS = FH_DEBUG_WORD - 1 };
    put(text, "    The 7 pad bytes at p-7 are ");
    if (put_pads(text, data - PADS, PADS, "p-", PADS, -1))
        return;
    put(text, "    Because memory is corrupted at the start, the count of bytes requested\n"
              "       may be bogus, and checking the trailing pad bytes may segfault.\n");
}

static void put_trailing_pads(struct text *text, const char *tail)
{
    put(text, "    The 8 pad bytes at tail=");
    put_pointer(text, tail);
    put(text, " are ");
    put_pads(text, tail, FH_DEBUG_WORD, "tail+", 0, 1);
}

static void put_bytes(struct text *text, const char *at, const char *end)
{
    for (; at < end; at++) {
        put_char(text, ' ');
        put_hex(text, (unsigned char)*at, 2);
    }
}

/* The first eight, and the last eight. */
static void put_data(struct text *text, const char *data, const char *tail)
{
    const char *first_end = tail - data > DATA_SHOWN ? data + DATA_SHOWN : tail;
    if (tail == data)
        return;
    put(text, "    Data at p:");
    put_bytes(text, data, first_end);
    if (tail - first_end > DATA_SHOWN)
        put(text, " ...");
    put_bytes(text, tail - first_end > DATA_SHOWN ? tail - DATA_SHOWN : first_end, tail);
    put(text, "\n");
}

static void put_serial(struct text *text, const char *tail)
{
    if (fh_debug_extra_bytes() == FH_DEBUG_HEAD + FH_DEBUG_WORD)
        return;
    put(text, "    The block was made by call #");
    put_number(text, FH_DEBUG_BIG_ENDIAN(fh_debug_load(tail + FH_DEBUG_WORD)));
    put(text, " to debug malloc/realloc.\n");
}

static void put_requested(struct text *text, uint64_t bytes)
{
    put(text, "    ");
    put_number(text, bytes);
    put(text, " bytes originally requested\n");
}

static void put_live(struct text *text, const char *data, size_t readable_bytes)
{
    size_t bytes = (size_t)FH_DEBUG_BIG_ENDIAN(fh_debug_load(data - FH_DEBUG_HEAD));
    put(text, " API '");
    put_char(text, data[-FH_DEBUG_WORD]);
    put(text, "'\n");
    put_requested(text, bytes);
    put_leading_pads(text, data);
    if (bytes > readable_bytes || readable_bytes - bytes < fh_debug_extra_bytes()) {
        put(text, "    That is more than the block has: the rest is not looked at.\n");
        return;
    }
    put_trailing_pads(text, data + bytes);
    put_serial(text, data + bytes);
    put_data(text, data, data + bytes);
}

static void put_freed(struct text *text, const char *data)
{
    uint64_t first = FH_DEBUG_BIG_ENDIAN(fh_debug_load(data - FH_DEBUG_HEAD));
    char letter = (char)(first >> FH_DEBUG_MARK_SIZE_BITS);
    uint64_t bytes = first & fh_low_bits(FH_DEBUG_MARK_SIZE_BITS);
    bool marked = first >> 56 == FH_DEADBYTE && (letter == 'r' || letter == 'm' || letter == 'o');
    put(text, marked ? " API '" : " freed");
    if (marked) {
        put_char(text, letter);
        put(text, "', freed");
    }
    put(text, "\n");
    if (marked)
        put_requested(text, bytes);
}

static void put_block(struct text *text, const char *data, size_t readable_bytes)
{
    put(text, "Debug memory block at address p=");
    put_pointer(text, data);
    put(text, ":");
    if (readable_bytes < FH_DEBUG_HEAD)
        put(text,
            data == NULL ? "\n" : "\n    It is not read: no block of the hooks is known here.\n\n");
    else if (fh_debug_load(data - FH_DEBUG_WORD) == FH_DEBUG_DEAD)
        put_freed(text, data);
    else
        put_live(text, data, readable_bytes);
    if (readable_bytes >= FH_DEBUG_HEAD)
        put(text, "\n");
}

/* Ends what is in `text`. */
static void put_traceback(struct text *text, const char *data)
{
    /* [debug-plug] acquire: what the record says. */
    const struct tracer *trace = fh_load_acquire_ptr(&tracer);
    flush(text);
    if (trace != NULL && trace->traceback(trace->context, data, text->fd) >= 0)
        return;
    if (trace == NULL && fh_trace_write_traceback(text->fd, data))
        return;
    put(text, "Enable tracemalloc to get the memory block allocation traceback\n\n");
}

/* ---- The end ----------------------------------------------------------------------------------
 */

static FH_NORETURN void end(struct text *text, const char *function, const char *message)
{
    /* [debug-plug] acquire: what the record says. */
    const struct fatal_end *with = fh_load_acquire_ptr(&fatal_end);
    if (with != NULL && with->handler != NULL) {
        flush(text);
        with->handler(with->context, function, message);
        abort();
    }
    put(text, with != NULL && with->prefix != NULL ? with->prefix : "Fatal Freehold error");
    put(text, ": ");
    put(text, function);
    put(text, ": ");
    put(text, message);
    put(text, "\n");
    flush(text);
    abort();
}

void fh_debug_die(const char *function, const char *data, size_t readable_bytes,
                  const char *message)
{
    struct text text = {.fd = STDERR_FILENO};
    put_block(&text, data, readable_bytes);
    put_traceback(&text, data);
    end(&text, function, message);
}

void fh_debug_die_of_letter(const char *function, const char *data, size_t readable_bytes,
                            char letter)
{
    char message[MESSAGE_BYTES] = "bad ID: Allocated using API '?', verified using API '?'";
    char *first = strchr(message, '?');
    *first = data[-FH_DEBUG_WORD];
    *strchr(first + 1, '?') = letter;
    fh_debug_die(function, data, readable_bytes, message);
}

static void put_write(struct text *text, const char *data, const char *at)
{
    bool before = at < data;
    put(text, "    Not all of its bytes are DEADBYTE (0xdd) any more:\n        at p");
    put(text, before ? "-" : "+");
    put_number(text, (uint64_t)(before ? data - at : at - data));
    put(text, ": ");
    put_byte(text, at);
    put(text, " *** OUCH\n");
}

void fh_debug_die_of_write(const struct fh_debug_wrap *wrap, const char *data, size_t bytes,
                           const char *at)
{
    struct text text = {.fd = STDERR_FILENO};
    put(&text, "Debug memory block at address p=");
    put_pointer(&text, data);
    put(&text, ": API '");
    put_char(&text, wrap->letter);
    put(&text, "', freed\n");
    if (at == NULL) {
        put(&text, "    The 8 bytes at p-16, which kept its size, were written to.\n");
    } else {
        put_requested(&text, bytes);
        put_write(&text, data, at);
        put_data(&text, data, data + bytes);
    }
    put(&text, "\n");
    put_traceback(&text, data);
    end(&text, "_PyMem_DebugRawFree", "written to after it was freed");
}

static FH_NORETURN FH_COLD void die_without_lock(const char *function)
{
    struct text text = {.fd = STDERR_FILENO};
    end(&text, function, "Python memory allocator called without holding the GIL");
}

void fh_debug_check_lock(const fh_gil *gil, const char *function)
{
    if (FH_UNLIKELY(gil != NULL && !gil->held(gil->ctx)))
        die_without_lock(function);
}

void fh_debug_check_gil(fh_domain domain, const char *function)
{
    /* [debug-plug] acquire: what the record says. */
    const struct gil_check *check = fh_load_acquire_ptr(&gil_checks[domain]);
    if (FH_UNLIKELY(check != NULL && !check->held(check->context)))
        die_without_lock(function);
}

/* ---- The interface ----------------------------------------------------------------------------
 */

void fh_debug_dump_address(int fd, const void *block)
{
    int saved = errno;
    struct text text = {.fd = fd};
    const char *data = block;
    size_t readable = data == NULL ? 0 : fh_address_usable_bytes(data - FH_DEBUG_HEAD);
    if (data != NULL && readable == 0 && fh_debug_wraps_others())
        readable = fh_debug_readable_of_others(data - FH_DEBUG_HEAD);
    put_block(&text, data, readable);
    if (data != NULL)
        put_traceback(&text, data);
    flush(&text);
    errno = saved;
}

int fh_debug_is_ptr_freed(const void *value)
{
    uint64_t word = (uintptr_t)value;
    return word == 0 || word == FH_DEBUG_BYTES(FH_CLEANBYTE) || word == FH_DEBUG_DEAD ||
           word == FH_DEBUG_FORBIDDEN;
}

/* From now on *at is a copy of the record. */
static int plug(void **at, const void *record, size_t bytes)
{
    void *copy = fh_theap_malloc(bytes);
    if (copy == NULL)
        return -1;
    memcpy(copy, record, bytes);
    /* [debug-plug] release: the copy. */
    fh_store_release_ptr(at, copy);
    return 0;
}

int fh_debug_set_fatal_handler(fh_debug_fatal_handler handler, void *context, const char *prefix)
{
    const struct fatal_end record = {handler, context, prefix};
    return plug(&fatal_end, &record, sizeof record);
}

int fh_debug_set_gil_check(fh_domain domain, int (*held)(void *context), void *context)
{
    const struct gil_check record = {held, context};
    if (domain != FH_DOMAIN_MEM && domain != FH_DOMAIN_OBJ) {
        errno = EINVAL;
        return -1;
    }
    if (held != NULL)
        return plug(&gil_checks[domain], &record, sizeof record);
    fh_store_relaxed_ptr(&gil_checks[domain], NULL); /* nothing behind it */
    return 0;
}

int fh_debug_check_gil_of(const fh_gil *gil, fh_domain domain)
{
    return gil == NULL ? fh_debug_set_gil_check(domain, NULL, NULL)
                       : fh_debug_set_gil_check(domain, gil->held, gil->ctx);
}

int fh_debug_set_traceback(int (*traceback)(void *context, const void *block, int fd),
                           void *context)
{
    const struct tracer record = {traceback, context};
    if (traceback != NULL)
        return plug(&tracer, &record, sizeof record);
    fh_store_relaxed_ptr(&tracer, NULL); /* nothing behind it */
    return 0;
}
