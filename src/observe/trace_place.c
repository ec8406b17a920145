/* SPDX-License-Identifier: MIT */
/* Files are those of /proc/self/maps, functions those of a file's table of symbols, or of the one
 * for the loader where that was stripped. A file may hold anything: every offset in it is checked.
 */
#include "trace_place.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Which file --------------------------------------------------------------------------------
 */

enum { READ_BYTES = 1024, LINE_BYTES = 512, MOVED_FROM_SHIFT = 32 };

struct lines {
    int file;
    size_t used, next;
    char bytes[READ_BYTES];
};

static int next_char(struct lines *lines)
{
    if (lines->next == lines->used) {
        ssize_t got;
        do
            got = read(lines->file, lines->bytes, sizeof lines->bytes);
        while (got < 0 && errno == EINTR);
        if (got <= 0)
            return -1;
        lines->used = (size_t)got;
        lines->next = 0;
    }
    return (unsigned char)lines->bytes[lines->next++];
}

/* Without its end, cut to the room there is; false after the last. */
static bool next_line(struct lines *lines, char line[LINE_BYTES])
{
    size_t length = 0;
    int c = next_char(lines);
    bool is_there = c >= 0;
    for (; c >= 0 && c != '\n'; c = next_char(lines))
        if (length < LINE_BYTES - 1)
            line[length++] = (char)c;
    line[length] = '\0';
    return is_there;
}

static uintptr_t parse_hex(const char **at)
{
    uintptr_t number = 0;
    for (;; ++*at) {
        char c = **at;
        if (c >= '0' && c <= '9')
            number = number << 4 | (uintptr_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            number = number << 4 | (uintptr_t)(c - 'a' + 10);
        else
            return number;
    }
}

struct fh_mapping fh_place_mapping(const char *line)
{
    struct fh_mapping mapping;
    const char *at = line;
    mapping.start = parse_hex(&at);
    mapping.end = *at == '-' ? (at++, parse_hex(&at)) : 0;
    mapping.base = mapping.start >> MOVED_FROM_SHIFT == 0 ? 0 : mapping.start;
    for (int words = 5; words > 0; words--) {
        line += strcspn(line, " ");
        line += strspn(line, " ");
    }
    mapping.name = line;
    return mapping;
}

static void copy_name(char to[FH_PLACE_NAME_BYTES], const char *name)
{
    size_t length = strnlen(name, FH_PLACE_NAME_BYTES - 1);
    memcpy(to, name, length);
    to[length] = '\0';
}

static bool find_file(struct lines *lines, uintptr_t *pc, char file[FH_PLACE_NAME_BYTES])
{
    char line[LINE_BYTES];
    uintptr_t base = 0;
    file[0] = '\0';
    while (next_line(lines, line)) {
        const struct fh_mapping here = fh_place_mapping(line);
        bool is_named = *here.name != '\0';
        if (is_named && strncmp(here.name, file, FH_PLACE_NAME_BYTES - 1) != 0) {
            copy_name(file, here.name);
            base = here.base;
        }
        if (*pc < here.start || *pc >= here.end)
            continue;
        *pc -= is_named ? base : 0;
        return is_named;
    }
    return false;
}

bool fh_place_file(uintptr_t *pc, char file[FH_PLACE_NAME_BYTES])
{
    int saved_errno = errno;
    struct lines lines = {.file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)};
    bool found = lines.file >= 0 && find_file(&lines, pc, file);
    if (lines.file >= 0)
        (void)close(lines.file);
    errno = saved_errno;
    return found;
}

/* ---- Which function ----------------------------------------------------------------------------
 */

struct image {
    const char *start;
    size_t bytes;
};

/* So many records at an offset, or NULL if they are not all inside. */
static const void *records_at(const struct image *image, uint64_t offset, uint64_t count,
                              uint64_t each_bytes)
{
    uint64_t bytes;
    if (__builtin_mul_overflow(count, each_bytes, &bytes) || offset > image->bytes ||
        bytes > image->bytes - offset || offset % sizeof(uint64_t) != 0)
        return NULL;
    return image->start + offset;
}

static const ElfW(Ehdr) * header_of(const struct image *image)
{
    const ElfW(Ehdr) *header = records_at(image, 0, 1, sizeof *header);
    bool is_elf = header != NULL && memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 &&
                  header->e_ident[EI_CLASS] == (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32) &&
                  header->e_shentsize == sizeof(ElfW(Shdr)) &&
                  header->e_phentsize == sizeof(ElfW(Phdr));
    return is_elf ? header : NULL;
}

/* The address that the file's first byte in memory has in its own terms. */
static uint64_t first_address(const struct image *image, const ElfW(Ehdr) * header)
{
    const ElfW(Phdr) *parts = records_at(image, header->e_phoff, header->e_phnum, sizeof *parts);
    if (header->e_type == ET_EXEC)
        return 0; /* counted from 0 */
    for (unsigned i = 0; parts != NULL && i < header->e_phnum; i++)
        if (parts[i].p_type == PT_LOAD)
            return parts[i].p_vaddr - parts[i].p_offset;
    return 0;
}

static const ElfW(Shdr) *
    section_of_type(const struct image *image, const ElfW(Ehdr) * header, uint32_t type)
{
    const ElfW(Shdr) *sections =
        records_at(image, header->e_shoff, header->e_shnum, sizeof *sections);
    for (unsigned i = 0; sections != NULL && i < header->e_shnum; i++)
        if (sections[i].sh_type == type && sections[i].sh_link < header->e_shnum)
            return &sections[i];
    return NULL;
}

static bool holds(const ElfW(Sym) * symbol, uint64_t address)
{
    return (symbol->st_info & 15) == STT_FUNC && symbol->st_shndx != SHN_UNDEF &&
           address >= symbol->st_value && address - symbol->st_value < symbol->st_size;
}

static const ElfW(Sym) *
    find_symbol(const struct image *image, const ElfW(Shdr) * table, uint64_t address)
{
    size_t count = table->sh_size / sizeof(ElfW(Sym));
    const ElfW(Sym) *symbols = records_at(image, table->sh_offset, count, sizeof *symbols);
    for (size_t i = 0; symbols != NULL && i < count; i++)
        if (holds(&symbols[i], address))
            return &symbols[i];
    return NULL;
}

static bool copy_symbol_name(const struct image *image, uint64_t offset, uint64_t limit,
                             char name[FH_PLACE_NAME_BYTES])
{
    if (limit > image->bytes || offset >= limit)
        return false;
    size_t left = (size_t)(limit - offset);
    size_t length = strnlen(image->start + offset,
                            left < FH_PLACE_NAME_BYTES - 1 ? left : FH_PLACE_NAME_BYTES - 1);
    memcpy(name, image->start + offset, length);
    name[length] = '\0';
    return length > 0;
}

static bool find_in_table(const struct image *image, const ElfW(Ehdr) * header, uint32_t type,
                          uint64_t address, char name[FH_PLACE_NAME_BYTES], size_t *distance)
{
    const ElfW(Shdr) *table = section_of_type(image, header, type);
    const ElfW(Sym) *symbol = table == NULL ? NULL : find_symbol(image, table, address);
    if (symbol == NULL)
        return false;
    const ElfW(Shdr) *sections = (const void *)(image->start + header->e_shoff);
    const ElfW(Shdr) *names = &sections[table->sh_link];
    *distance = (size_t)(address - symbol->st_value);
    uint64_t start;
    return !__builtin_add_overflow(names->sh_offset, symbol->st_name, &start) &&
           copy_symbol_name(image, start, names->sh_offset + names->sh_size, name);
}

static bool find_function(const struct image *image, uintptr_t pc, char name[FH_PLACE_NAME_BYTES],
                          size_t *distance)
{
    const ElfW(Ehdr) *header = header_of(image);
    if (header == NULL)
        return false;
    uint64_t call = first_address(image, header) + pc - 1; /* it stands before where it returns */
    bool found = find_in_table(image, header, SHT_SYMTAB, call, name, distance) ||
                 find_in_table(image, header, SHT_DYNSYM, call, name, distance);
    *distance += found;
    return found;
}

static bool map_file(const char *path, struct image *image)
{
    struct stat about;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0)
        return false;
    image->start = MAP_FAILED;
    if (fstat(file, &about) == 0 && S_ISREG(about.st_mode) && about.st_size > 0) {
        image->bytes = (size_t)about.st_size;
        image->start = mmap(NULL, image->bytes, PROT_READ, MAP_PRIVATE, file, 0);
    }
    (void)close(file);
    return image->start != MAP_FAILED;
}

bool fh_place_function(const char *file, uintptr_t pc, char name[FH_PLACE_NAME_BYTES],
                       size_t *distance)
{
    int saved_errno = errno;
    struct image image;
    bool found = false;
    if (file[0] == '/' && map_file(file, &image)) {
        found = find_function(&image, pc, name, distance);
        (void)munmap((void *)(uintptr_t)image.start, image.bytes);
    }
    errno = saved_errno;
    return found;
}
