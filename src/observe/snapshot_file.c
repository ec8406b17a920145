/* SPDX-License-Identifier: MIT */
/* Snapshots in files: a header, then the four arrays as they are in memory, but for the names,
 * which are given by where they begin in the last of them. In the byte order of who wrote it.
 */
#include "snapshot_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "snapshot.h"

enum { VERSION = 1, BYTE_ORDER_MARK = 0x01020304, READ_BYTES = 1 << 16 };

static const char magic[8] = "FHTRACE";

struct file_header {
    char magic[8];
    uint32_t byte_order;
    uint32_t version;
    uint64_t trace_count, traceback_count, frame_count, name_bytes;
    uint64_t limit;
    uint64_t checksum; /* of all the rest, with 0 here */
};

struct file_frame {
    uint64_t name; /* where it begins */
    uint64_t pc;
    uint64_t lineno;
};

static_assert(sizeof(struct file_header) % sizeof(uint64_t) == 0, "arrays behind it are aligned");
static_assert(sizeof(struct fh_snapshot_trace) == 16, "no padding in files");
static_assert(sizeof(struct fh_snapshot_traceback) == 16, "no padding in files");

/* ---- Files -------------------------------------------------------------------------------------
 */

/* A larger block with the same beginning; the old one is gone in any case. */
static char *grow(char *old, size_t used, size_t bytes)
{
    char *larger = fh_snapshot_memory(bytes);
    if (larger != NULL && old != NULL)
        memcpy(larger, old, used);
    fh_snapshot_release(old);
    return larger;
}

static char *read_all(int file, size_t *bytes)
{
    size_t used = 0, room = READ_BYTES;
    char *memory = fh_snapshot_memory(room + 1);
    while (memory != NULL) {
        ssize_t got = read(file, memory + used, room - used);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            break;
        used += (size_t)got;
        memory[used] = '\0';
        *bytes = used + 1;
        if (got == 0)
            return memory;
        if (used == room)
            memory = grow(memory, used, (room *= 2) + 1);
    }
    fh_snapshot_release(memory);
    return NULL;
}

char *fh_read_file(const char *path, size_t *bytes)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return NULL;
    char *memory = read_all(file, bytes);
    int saved_errno = errno;
    (void)close(file);
    errno = saved_errno;
    return memory;
}

bool fh_write_all(int file, const void *memory, size_t bytes)
{
    const char *from = memory;
    while (bytes > 0) {
        ssize_t written = write(file, from, bytes);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return false;
        from += written;
        bytes -= (size_t)written;
    }
    return true;
}

/* ---- The layout --------------------------------------------------------------------------------
 */

/* Where the arrays are in a file's content. */
struct layout {
    struct file_header *header;
    struct fh_snapshot_trace *traces;
    struct fh_snapshot_traceback *tracebacks;
    struct file_frame *frames;
    char *names;
    size_t bytes; /* of it all */
};

/* Counts are at most PTRDIFF_MAX / 64, so nothing overflows. */
static struct layout layout_of(char *memory, const struct file_header *header)
{
    size_t traces = sizeof *header;
    size_t tracebacks = traces + header->trace_count * sizeof(struct fh_snapshot_trace);
    size_t frames = tracebacks + header->traceback_count * sizeof(struct fh_snapshot_traceback);
    size_t names = frames + header->frame_count * sizeof(struct file_frame);
    return (struct layout){
        .header = (void *)memory,
        .traces = (void *)(memory + traces),
        .tracebacks = (void *)(memory + tracebacks),
        .frames = (void *)(memory + frames),
        .names = memory + names,
        .bytes = names + header->name_bytes,
    };
}

/* Each step can be undone, so a single changed byte always shows. */
static uint64_t checksum(const char *memory, size_t bytes)
{
    uint64_t sum = bytes;
    for (size_t i = 0; i < bytes; i++)
        sum = (sum ^ (unsigned char)memory[i]) * 0x100000001b3u;
    return sum;
}

static uint64_t checksum_of(const struct layout *layout)
{
    struct file_header header = *layout->header;
    header.checksum = 0;
    uint64_t sum = checksum((const char *)&header, sizeof header);
    return sum ^ checksum((const char *)layout->traces, layout->bytes - sizeof header);
}

/* ---- Dumping -----------------------------------------------------------------------------------
 */

/* Give each name its place in the file; returns how many bytes they take. */
static size_t place_names(const fh_snapshot *snapshot, const struct fh_index *places)
{
    size_t bytes = 0;
    for (size_t i = 0; i < snapshot->frame_count; i++) {
        const char *name = snapshot->frames[i].filename;
        struct fh_index_entry *entry = fh_index_find(places, (uintptr_t)name);
        if (entry->key != 0)
            continue;
        *entry = (struct fh_index_entry){(uintptr_t)name, bytes};
        bytes += strlen(name) + 1;
    }
    return bytes;
}

static void copy_frames(const fh_snapshot *snapshot, const struct fh_index *places,
                        const struct layout *to)
{
    for (size_t i = 0; i < snapshot->frame_count; i++) {
        const fh_frame *frame = &snapshot->frames[i];
        uint64_t place = fh_index_find(places, (uintptr_t)frame->filename)->value;
        to->frames[i] = (struct file_frame){place, frame->pc, frame->lineno};
        memcpy(to->names + place, frame->filename, strlen(frame->filename) + 1);
    }
}

static struct file_header header_of(const fh_snapshot *snapshot, size_t name_bytes)
{
    struct file_header header = {
        .byte_order = BYTE_ORDER_MARK,
        .version = VERSION,
        .trace_count = snapshot->trace_count,
        .traceback_count = snapshot->traceback_count,
        .frame_count = snapshot->frame_count,
        .name_bytes = name_bytes,
        .limit = snapshot->limit,
    };
    memcpy(header.magic, magic, sizeof magic);
    return header;
}

/* The file's content in a block of the heap; NULL if memory is short. */
static char *pack(const fh_snapshot *snapshot, const struct fh_index *places, size_t *bytes)
{
    struct file_header header = header_of(snapshot, place_names(snapshot, places));
    *bytes = layout_of(NULL, &header).bytes;
    char *memory = fh_snapshot_memory(*bytes);
    if (memory == NULL)
        return NULL;
    struct layout to = layout_of(memory, &header);
    *to.header = header;
    memcpy(to.traces, snapshot->traces, snapshot->trace_count * sizeof *to.traces);
    memcpy(to.tracebacks, snapshot->tracebacks, snapshot->traceback_count * sizeof *to.tracebacks);
    copy_frames(snapshot, places, &to);
    to.header->checksum = checksum_of(&to);
    return memory;
}

static int write_file(const char *path, const char *memory, size_t bytes)
{
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (file < 0)
        return -1;
    bool written = fh_write_all(file, memory, bytes);
    int saved_errno = errno;
    bool closed = close(file) == 0;
    if (!written)
        errno = saved_errno;
    return written && closed ? 0 : -1;
}

int fh_snapshot_dump(const fh_snapshot *snapshot, const char *path)
{
    struct fh_index places;
    size_t bytes;
    if (!fh_index_make(&places, snapshot->frame_count))
        return -1;
    char *memory = pack(snapshot, &places, &bytes);
    fh_index_end(&places);
    if (memory == NULL)
        return -1;
    int result = write_file(path, memory, bytes);
    int saved_errno = errno;
    fh_snapshot_release(memory);
    errno = saved_errno;
    return result;
}

/* ---- Loading -----------------------------------------------------------------------------------
 */

/* 0, or the errno that says what is wrong. No count is larger than the file. */
static int check_header(const struct file_header *header, size_t bytes)
{
    if (bytes < sizeof *header || memcmp(header->magic, magic, sizeof magic) != 0)
        return EINVAL;
    if (header->byte_order != BYTE_ORDER_MARK || header->version != VERSION)
        return ENOTSUP;
    if (header->trace_count > bytes || header->traceback_count > bytes ||
        header->frame_count > bytes || header->name_bytes > bytes ||
        header->limit > FH_TRACE_FRAMES_MAX)
        return EINVAL;
    return 0;
}

static bool are_traces_valid(const struct layout *from)
{
    for (size_t i = 0; i < from->header->trace_count; i++)
        if (from->traces[i].traceback >= from->header->traceback_count)
            return false;
    return true;
}

static bool are_tracebacks_valid(const struct layout *from)
{
    uint64_t frame_count = from->header->frame_count;
    for (size_t i = 0; i < from->header->traceback_count; i++) {
        const struct fh_snapshot_traceback *traceback = &from->tracebacks[i];
        if (traceback->frame_count == 0 || traceback->frame_count > frame_count ||
            traceback->first_frame > frame_count - traceback->frame_count)
            return false;
    }
    return true;
}

static bool are_frames_valid(const struct layout *from)
{
    uint64_t name_bytes = from->header->name_bytes;
    if (name_bytes > 0 && from->names[name_bytes - 1] != '\0')
        return false;
    for (size_t i = 0; i < from->header->frame_count; i++)
        if (from->frames[i].name >= name_bytes || from->frames[i].lineno > UINT32_MAX)
            return false;
    return true;
}

static int check(const struct layout *from, size_t bytes)
{
    bool valid = from->bytes == bytes && checksum_of(from) == from->header->checksum &&
                 are_traces_valid(from) && are_tracebacks_valid(from) && are_frames_valid(from);
    return valid ? 0 : EINVAL;
}

static fh_snapshot *unpack(const struct layout *from)
{
    const struct file_header *header = from->header;
    fh_snapshot *snapshot = fh_snapshot_new(header->trace_count, header->traceback_count,
                                            header->frame_count, header->name_bytes);
    if (snapshot == NULL)
        return NULL;
    snapshot->trace_count = header->trace_count;
    snapshot->traceback_count = header->traceback_count;
    snapshot->frame_count = header->frame_count;
    snapshot->name_bytes = header->name_bytes;
    snapshot->limit = (uint32_t)header->limit;
    memcpy(snapshot->traces, from->traces, header->trace_count * sizeof *from->traces);
    memcpy(snapshot->tracebacks, from->tracebacks,
           header->traceback_count * sizeof *from->tracebacks);
    memcpy(snapshot->names, from->names, header->name_bytes);
    for (size_t i = 0; i < snapshot->frame_count; i++)
        snapshot->frames[i] = (fh_frame){snapshot->names + from->frames[i].name,
                                         (unsigned)from->frames[i].lineno, from->frames[i].pc};
    return snapshot;
}

fh_snapshot *fh_snapshot_load(const char *path)
{
    size_t bytes;
    fh_snapshot *snapshot = NULL;
    char *memory = fh_read_file(path, &bytes);
    if (memory == NULL)
        return NULL;
    bytes--; /* the 0 behind it */
    int wrong = check_header((struct file_header *)(void *)memory, bytes);
    struct layout from;
    if (wrong == 0) {
        from = layout_of(memory, (struct file_header *)(void *)memory);
        wrong = check(&from, bytes);
    }
    if (wrong == 0)
        snapshot = unpack(&from);
    wrong = wrong == 0 ? errno : wrong;
    fh_snapshot_release(memory);
    errno = wrong;
    return snapshot;
}
