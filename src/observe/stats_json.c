/* SPDX-License-Identifier: MIT */
/* The statistics as JSON. */
#include <unistd.h>

#include "debug.h"
#include "freehold/stats.h"
#include "freehold/trace.h"
#include "stats.h"
#include "stats_heaps.h"
#include "stats_text.h"

/* ---- Members ----------------------------------------------------------------------------------
 */

/* Where in the document we are. */
struct json {
    struct fh_text text;
    bool follows; /* something in this object or array, so that a comma comes next */
};

static void next(struct json *json)
{
    fh_text_put(&json->text, json->follows ? "," : "");
    json->follows = true;
}

/* `name` NULL: in an array. No name or value here has anything to escape. */
static void put_name(struct json *json, const char *name)
{
    next(json);
    if (name == NULL)
        return;
    fh_text_put(&json->text, "\"");
    fh_text_put(&json->text, name);
    fh_text_put(&json->text, "\":");
}

static void open_value(struct json *json, const char *name, const char *bracket)
{
    put_name(json, name);
    fh_text_put(&json->text, bracket);
    json->follows = false;
}

static void close_value(struct json *json, const char *bracket)
{
    fh_text_put(&json->text, bracket);
    json->follows = true;
}

static void put_number(struct json *json, const char *name, uint64_t number)
{
    put_name(json, name);
    fh_text_number(&json->text, number, 0, false);
}

static void put_null(struct json *json, const char *name)
{
    put_name(json, name);
    fh_text_put(&json->text, "null");
}

/* null for FH_STATS_UNKNOWN. */
static void put_known(struct json *json, const char *name, size_t value)
{
    if (value == FH_STATS_UNKNOWN)
        put_null(json, name);
    else
        put_number(json, name, value);
}

static void put_string(struct json *json, const char *name, const char *value)
{
    put_name(json, name);
    fh_text_put(&json->text, "\"");
    fh_text_put(&json->text, value);
    fh_text_put(&json->text, "\"");
}

/* ---- Process ----------------------------------------------------------------------------------
 */

struct field {
    const char *name;
    size_t offset;
};

#define FIELD(type, name)                                                                          \
    {                                                                                              \
#name, offsetof(type, name)                                                                \
    }

static void put_fields(struct json *json, const struct field *fields, size_t count,
                       const void *from)
{
    for (size_t i = 0; i < count; i++) {
        size_t value = *(const size_t *)(const void *)((const char *)from + fields[i].offset);
        put_known(json, fields[i].name, value);
    }
}

static const struct field process_fields[] = {
    FIELD(fh_stats, allocated_bytes),    FIELD(fh_stats, active_bytes),
    FIELD(fh_stats, metadata_bytes),     FIELD(fh_stats, resident_bytes),
    FIELD(fh_stats, mapped_bytes),       FIELD(fh_stats, retained_bytes),
    FIELD(fh_stats, spare_bytes),        FIELD(fh_stats, purged_bytes),
    FIELD(fh_stats, small_pool_bytes),   FIELD(fh_stats, span_bytes),
    FIELD(fh_stats, large_pool_bytes),   FIELD(fh_stats, huge_pool_bytes),
    FIELD(fh_stats, classic_bytes),      FIELD(fh_stats, available_bytes),
    FIELD(fh_stats, quantization_bytes), FIELD(fh_stats, allocated_blocks),
    FIELD(fh_stats, large_blocks),       FIELD(fh_stats, ready_bytes),
    FIELD(fh_stats, reserved_bytes),     FIELD(fh_stats, metadata_resident_bytes),
    FIELD(fh_stats, trace_bytes),        FIELD(fh_stats, arena_count),
    FIELD(fh_stats, heap_count),
};

static const struct field class_fields[] = {
    FIELD(fh_class_stats, block_bytes), FIELD(fh_class_stats, pools),
    FIELD(fh_class_stats, live_blocks), FIELD(fh_class_stats, free_blocks),
    FIELD(fh_class_stats, pool_bytes),
};

enum {
    PROCESS_FIELDS = sizeof process_fields / sizeof process_fields[0],
    CLASS_FIELDS = sizeof class_fields / sizeof class_fields[0],
};

static_assert(offsetof(fh_stats, allocated_bytes) + PROCESS_FIELDS * sizeof(size_t) ==
                  sizeof(fh_stats),
              "no field is left out");
static_assert(CLASS_FIELDS * sizeof(size_t) == sizeof(fh_class_stats), "no field is left out");

static void put_classes(struct json *json)
{
    struct fh_sums sums = fh_stats_sum();
    struct fh_ready ready = fh_stats_ready();
    open_value(json, "classes", "[");
    for (unsigned i = 0; i < FH_CLASSES; i++) {
        fh_class_stats class = fh_stats_class(&sums, &ready, i);
        open_value(json, NULL, "{");
        put_fields(json, class_fields, CLASS_FIELDS, &class);
        close_value(json, "}");
    }
    close_value(json, "]");
}

/* ---- Heaps ------------------------------------------------------------------------------------
 */

static void put_heap(struct json *json, const char *name, const struct fh_stats_heap *heap)
{
    open_value(json, NULL, "{");
    put_string(json, "name", name);
    put_number(json, "address", (uintptr_t)heap->address);
    put_string(json, "mode", heap->mode);
    put_known(json, "small_blocks", heap->small_blocks);
    put_known(json, "small_bytes", heap->small_bytes);
    put_known(json, "arenas_bytes", heap->arenas_bytes);
    put_known(json, "large_blocks", heap->large_blocks);
    put_known(json, "large_bytes", heap->large_bytes);
    close_value(json, "}");
}

static void put_made(void *context, const struct fh_stats_heap *heap)
{
    put_heap(context, "heap", heap);
}

static void put_heaps(struct json *json)
{
    struct fh_sums sums = fh_stats_sum();
    const struct fh_stats_heap all_threads = {
        .mode = "free",
        .small_blocks = sums.allocated_blocks - sums.large_blocks,
        .small_bytes = sums.allocated_bytes - sums.large_bytes,
        .arenas_bytes = sums.mapped_bytes - sums.classic_bytes,
        .large_blocks = sums.large_blocks,
        .large_bytes = sums.large_bytes,
    };
    open_value(json, "heaps", "[");
    put_heap(json, "default", &all_threads);
    fh_stats_each_heap(put_made, json);
    close_value(json, "]");
}

/* ---- Domains ----------------------------------------------------------------------------------
 */

static bool is_debug_hook(const void *context)
{
    for (unsigned i = 0; i < FH_DEBUG_WRAPS_MAX; i++)
        if (context == fh_debug_wrap_at(i))
            return true;
    return false;
}

static const char *serving(fh_domain domain)
{
    if (fh_domain_is_own(domain))
        return "freehold";
    return is_debug_hook(fh_domain_allocator(domain)->context) ? "debug" : "other";
}

static void put_domains(struct json *json)
{
    static const char *const names[FH_DOMAINS] = {"raw", "mem", "obj"};
    open_value(json, "domains", "[");
    for (unsigned domain = 0; domain < FH_DOMAINS; domain++) {
        open_value(json, NULL, "{");
        put_string(json, "name", names[domain]);
        put_string(json, "allocator", serving((fh_domain)domain));
        put_null(json, "blocks");
        put_null(json, "bytes");
        close_value(json, "}");
    }
    close_value(json, "]");
}

/* ---- The document -----------------------------------------------------------------------------
 */

static void put_document(struct json *json)
{
    fh_stats stats = {.struct_bytes = sizeof stats};
    (void)fh_get_stats(&stats); /* cannot fail: the struct is as it should be */
    json->follows = false;
    open_value(json, NULL, "{");
    put_string(json, "version", fh_version());
    put_number(json, "pid", (uint64_t)getpid());
    open_value(json, "process", "{");
    put_fields(json, process_fields, PROCESS_FIELDS, &stats);
    close_value(json, "}");
    put_classes(json);
    put_heaps(json);
    put_domains(json);
    close_value(json, "}\n");
}

int fh_stats_write_json(int fd, char *buffer, size_t room)
{
    struct json json;
    fh_text_to_fd(&json.text, fd, buffer, room);
    put_document(&json);
    return fh_text_end(&json.text);
}

int fh_stats_json(int fd)
{
    char buffer[FH_STATS_BUFFER_BYTES];
    return fh_stats_write_json(fd, buffer, sizeof buffer);
}

size_t fh_stats_json_text(char *to, size_t bytes)
{
    struct json json;
    fh_text_to_memory(&json.text, to, bytes);
    put_document(&json);
    (void)fh_text_end(&json.text); /* memory does not fail */
    return json.text.length;
}
