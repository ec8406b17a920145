/* SPDX-License-Identifier: MIT */
/* os/os.h on this system. */
#include "modules.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "os.h"

enum { PAGES = 16 };

static size_t bytes_of_pages(void)
{
    return PAGES * fh_os_page_bytes();
}

/* How many of the pages are resident. */
static unsigned resident_pages(void *start)
{
    unsigned char resident[PAGES];
    unsigned count = 0;
    CHECK(mincore(start, bytes_of_pages(), resident) == 0);
    for (int i = 0; i < PAGES; i++)
        count += resident[i] & 1;
    return count;
}

static void fill(char *start, char value)
{
    for (size_t at = 0; at < bytes_of_pages(); at++)
        start[at] = value;
}

TEST(a_page_is_what_the_system_says)
{
    CHECK(fh_os_page_bytes() == (size_t)sysconf(_SC_PAGESIZE));
}

TEST(mapped_pages_are_zero_and_made_when_touched)
{
    char *start = fh_os_map(bytes_of_pages());
    CHECK(start != NULL && resident_pages(start) == 0);
    start[0] = 1;
    CHECK(resident_pages(start) == 1);
    CHECK(start[1] == 0 && is_zero(start + 1, bytes_of_pages() - 1));
    CHECK(fh_os_unmap(start, bytes_of_pages()));
    CHECK(mincore(start, bytes_of_pages(), (unsigned char[PAGES]){0}) != 0 && errno == ENOMEM);
}

TEST(a_commit_keeps_what_is_there)
{
    size_t page_bytes = fh_os_page_bytes();
    char *start = fh_os_reserve(bytes_of_pages());
    CHECK(start != NULL);
    CHECK(fh_os_commit(start, page_bytes) && is_zero(start, page_bytes));
    start[0] = 1;
    CHECK(fh_os_commit(start, bytes_of_pages()) && start[0] == 1);
    CHECK(is_zero(start + page_bytes, bytes_of_pages() - page_bytes));
}

static char *reserved;

static void touch_reserved(void)
{
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    CHECK(mprotect(reserved, 1, PROT_NONE) == 0);
    int ends[2]; /* the kernel says EFAULT where a program would get a signal */
    CHECK(pipe(ends) == 0 && write(ends[1], reserved, 1) == -1 && errno == EFAULT);
}

TEST(reserved_memory_cannot_be_read)
{
    reserved = fh_os_reserve(bytes_of_pages());
    CHECK(reserved != NULL);
    in_child(touch_reserved);
}

TEST(purged_pages_read_as_zeros_and_are_not_resident)
{
    char *start = fh_os_map(bytes_of_pages());
    fill(start, 7);
    CHECK(resident_pages(start) == PAGES);
    CHECK(fh_os_purge(start, bytes_of_pages()));
    CHECK(resident_pages(start) == 0);
    CHECK(is_zero(start, bytes_of_pages()));
}

TEST(moved_pages_are_there_and_the_old_ones_read_as_zeros)
{
    char *from = fh_os_map(bytes_of_pages());
    char *to = fh_os_map(bytes_of_pages());
    fill(from, 7);
    fill(to, 8);
    if (!fh_os_move(from, to, bytes_of_pages()))
        modules_skip("this kernel does not move pages and keep the addresses");
    CHECK(is_zero(from, bytes_of_pages()));
    for (size_t at = 0; at < bytes_of_pages(); at++)
        CHECK(to[at] == 7);
    fill(from, 9); /* still a mapping */
    CHECK(to[0] == 7);
}

/* Whether the kernel's flags of the mapping around `address` have this one; see proc(5), smaps. */
static bool has_flag(const char *address, const char *flag)
{
    char line[4096];
    uintptr_t first = 0, end = 0;
    bool found = false;
    FILE *maps = fopen("/proc/self/smaps", "r");
    CHECK(maps != NULL);
    while (fgets(line, sizeof line, maps) != NULL) {
        bool around = (uintptr_t)address >= first && (uintptr_t)address < end;
        if (around && strncmp(line, "VmFlags:", 8) == 0)
            found = strstr(line, flag) != NULL;
        else
            (void)sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &first, &end);
    }
    CHECK(fclose(maps) == 0);
    return found;
}

TEST(what_is_hidden_from_core_dumps_can_be_shown_again)
{
    size_t page_bytes = fh_os_page_bytes();
    char *start = (char *)fh_os_map(bytes_of_pages()) + page_bytes;
    fh_os_hide_from_core(start, page_bytes);
    if (!has_flag(start, " dd"))
        modules_skip("this system does not tell");
    fh_os_show_in_core(start, page_bytes);
    CHECK(!has_flag(start, " dd"));
}

TEST(a_refused_move_changes_nothing)
{
    size_t page_bytes = fh_os_page_bytes();
    char *from = fh_os_map(bytes_of_pages());
    char *to = fh_os_map(bytes_of_pages());
    fill(from, 7);
    fill(to, 8);
    CHECK(!fh_os_move(from, to + 1, page_bytes));
    CHECK(from[0] == 7 && to[0] == 8);
}

TEST(refusals_leave_errno_alone)
{
    errno = 1234;
    CHECK(fh_os_map(SIZE_MAX / 2) == NULL && fh_os_reserve(SIZE_MAX / 2) == NULL);
    CHECK(!fh_os_commit(&(char[1]){0}, 1));
    CHECK(!fh_os_purge((void *)1, 1) && !fh_os_move((void *)1, (void *)1, 1));
    CHECK(!fh_os_unmap((void *)1, 1));
    fh_os_hide_from_core((void *)1, 1);
    fh_os_show_in_core((void *)1, 1);
    fh_os_prefer_small_pages((void *)1, 1);
    (void)fh_os_now_ms();
    (void)fh_os_address_space_limit_bytes();
    CHECK(errno == 1234);
}

TEST(the_clock_runs_at_the_speed_of_time)
{
    struct timespec pause = {0, 50000000};
    uint32_t before_ms = fh_os_now_ms();
    CHECK(nanosleep(&pause, NULL) == 0);
    uint32_t passed_ms = fh_os_now_ms() - before_ms;
    CHECK(passed_ms >= 40 && passed_ms < 10000);
}

TEST(the_limit_on_address_space_is_the_one_in_force)
{
    struct rlimit limit = {(rlim_t)1 << 46, (rlim_t)1 << 46};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    CHECK(fh_os_address_space_limit_bytes() == (size_t)1 << 46);
}
