/* SPDX-License-Identifier: MIT */
/* A program that needs nothing of the malloc library it is linked with: bystander <file> <version>.
 *
 * Exits with 0 if malloc nevertheless is the one in a file of that name: the library's or, with a
 * static library, the program's own.
 */
#define _GNU_SOURCE /* RTLD_DEFAULT, dladdr */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    Dl_info found;
    void *address = dlsym(RTLD_DEFAULT, "malloc");
    if (argc != 3 || address == NULL || dladdr(address, &found) == 0)
        return 2;
    if (strstr(found.dli_fname, argv[1]) != NULL)
        return 0;
    fprintf(stderr, "bystander: malloc is in %s\n", found.dli_fname);
    return 1;
}
