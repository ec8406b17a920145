/* SPDX-License-Identifier: MIT */
/* Which source line a native return address stands for, which libdw knows. In a file of its own:
 * the linker warns of a static program that has the loader in it, so only one that asks for lines
 * gets it.
 */
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "compiler.h"
#include "snapshot.h"
#include "snapshot_file.h"
#include "trace_intern.h"

/* Where there is no loader to ask, there is no libdw. */
extern __typeof__(dlopen) dlopen FH_WEAK;
extern __typeof__(dlsym) dlsym FH_WEAK;

/* As in libdwfl.h of elfutils, whose header is not needed to build the library. */
struct dwfl_callbacks {
    void *find_elf, *find_debuginfo, *section_address;
    char **debuginfo_path;
};

struct libdw {
    void *(*begin)(const struct dwfl_callbacks *callbacks);
    void (*end)(void *dwfl);
    void *(*report_offline)(void *dwfl, const char *name, const char *file_name, int fd);
    int (*report_end)(void *dwfl, void *removed, void *argument);
    void *(*module_getelf)(void *module, uint64_t *bias);
    void *(*module_getsrc)(void *module, uint64_t address);
    const char *(*lineinfo)(void *line, uint64_t *address, int *lineno, int *column,
                            uint64_t *modified, uint64_t *length);
    struct dwfl_callbacks callbacks;
};

static bool look_up(void *library, const char *name, void *function)
{
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof found);
    return found != NULL;
}

static bool open_libdw(struct libdw *dw)
{
    void *library = dlopen == NULL || dlsym == NULL ? NULL : dlopen("libdw.so.1", RTLD_LAZY);
    memset(dw, 0, sizeof *dw);
    return library != NULL && look_up(library, "dwfl_begin", &dw->begin) &&
           look_up(library, "dwfl_end", &dw->end) &&
           look_up(library, "dwfl_report_offline", &dw->report_offline) &&
           look_up(library, "dwfl_report_end", &dw->report_end) &&
           look_up(library, "dwfl_module_getelf", &dw->module_getelf) &&
           look_up(library, "dwfl_module_getsrc", &dw->module_getsrc) &&
           look_up(library, "dwfl_lineinfo", &dw->lineinfo) &&
           look_up(library, "dwfl_standard_find_debuginfo", &dw->callbacks.find_debuginfo) &&
           look_up(library, "dwfl_offline_section_address", &dw->callbacks.section_address);
}

/* A call stands before the address that it returns to. */
static bool resolve_frame(const struct libdw *dw, void *module, fh_frame *frame)
{
    uint64_t bias = 0;
    int lineno = 0;
    if (module == NULL || dw->module_getelf(module, &bias) == NULL)
        return false;
    void *line = dw->module_getsrc(module, frame->pc - 1 + bias);
    const char *file = line == NULL ? NULL : dw->lineinfo(line, NULL, &lineno, NULL, NULL, NULL);
    if (file == NULL || lineno <= 0)
        return false;
    *frame = (fh_frame){fh_interned_name(fh_intern_name(file)), (unsigned)lineno, 0};
    return true;
}

/* All frames from `first` on that lie in its file, with one descriptor of it. */
static long resolve_module(const struct libdw *dw, fh_snapshot *snapshot, size_t first,
                           const char *name)
{
    long resolved = 0;
    void *dwfl = dw->begin(&dw->callbacks);
    void *module = dwfl == NULL ? NULL : dw->report_offline(dwfl, name, name, -1);
    if (module != NULL)
        (void)dw->report_end(dwfl, NULL, NULL);
    for (size_t i = first; i < snapshot->frame_count && module != NULL; i++)
        if (snapshot->frames[i].pc != 0 && strcmp(snapshot->frames[i].filename, name) == 0)
            resolved += resolve_frame(dw, module, &snapshot->frames[i]);
    if (dwfl != NULL)
        dw->end(dwfl);
    return resolved;
}

/* Is this the first native frame of its file? Files are met again only if a frame has no line. */
static bool is_first_of_file(const fh_snapshot *snapshot, size_t index, struct fh_index *seen)
{
    const fh_frame *frame = &snapshot->frames[index];
    if (frame->pc == 0 || frame->filename[0] != '/')
        return false;
    struct fh_index_entry *entry = fh_index_find(seen, (uintptr_t)frame->filename);
    bool is_new = entry->key == 0;
    entry->key = (uintptr_t)frame->filename;
    return is_new;
}

long fh_snapshot_resolve(fh_snapshot *snapshot)
{
    struct libdw dw;
    struct fh_index seen;
    long resolved = 0;
    if (!open_libdw(&dw)) {
        errno = ENOSYS;
        return -1;
    }
    if (!fh_index_make(&seen, snapshot->frame_count))
        return -1;
    for (size_t i = 0; i < snapshot->frame_count; i++)
        if (is_first_of_file(snapshot, i, &seen))
            resolved += resolve_module(&dw, snapshot, i, snapshot->frames[i].filename);
    fh_index_end(&seen);
    return resolved;
}
