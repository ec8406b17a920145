/* SPDX-License-Identifier: MIT */
/* An I/O buffer in its three forms: as bytes, as an array of a type, and as the memory of an
 * object. What each reads is a line of standard input; what each prints is that line. */
#include <freehold.h>
#include <stdio.h>
#include <string.h>

enum { LINE_BYTES = 80 };

/* Bytes: fh_mem_malloc() and fh_mem_free(). */
static int as_bytes(void)
{
    char *buffer = fh_mem_malloc(LINE_BYTES);
    if (buffer == NULL)
        return -1;
    int result = fgets(buffer, LINE_BYTES, stdin) == NULL ? -1 : fputs(buffer, stdout);
    fh_mem_free(buffer);
    return result;
}

/* An array that grows: fh_new(), fh_resize(), fh_del(). fh_resize() assigns its pointer even when
 * it fails, so the old one is kept until then. */
static int as_array(void)
{
    size_t count = 4, used = 0;
    char *buffer = fh_new(char, count);
    while (buffer != NULL && fgets(buffer + used, (int)(count - used), stdin) != NULL) {
        used += strlen(buffer + used);
        if (buffer[used - 1] == '\n')
            break;
        char *old = buffer;
        count *= 2;
        if (fh_resize(buffer, char, count) == NULL)
            fh_del(old);
    }
    int result = buffer == NULL || used == 0 ? -1 : fputs(buffer, stdout);
    fh_del(buffer);
    return result;
}

/* An object: its header and its bytes in one block of the object domain. */
struct line {
    size_t length;
    char text[];
};

static struct line *read_line(void)
{
    struct line *line = fh_obj_malloc(sizeof *line + LINE_BYTES);
    if (line == NULL)
        return NULL;
    if (fgets(line->text, LINE_BYTES, stdin) == NULL) {
        fh_obj_free(line);
        return NULL;
    }
    line->length = strlen(line->text);
    struct line *fitting = fh_obj_realloc(line, sizeof *line + line->length + 1);
    return fitting == NULL ? line : fitting;
}

static int as_object(void)
{
    struct line *line = read_line();
    if (line == NULL)
        return -1;
    size_t written = fwrite(line->text, 1, line->length, stdout);
    int result = written == line->length ? 0 : -1;
    fh_obj_free(line);
    return result;
}

int main(void)
{
    return as_bytes() < 0 || as_array() < 0 || as_object() < 0;
}
