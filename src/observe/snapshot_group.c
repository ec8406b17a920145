/* SPDX-License-Identifier: MIT */
/* Statistics of a snapshot: sums by group, and how those of two snapshots differ.
 *
 * Traces are first added up by traceback, of which there are few. Groups are then found by sorting:
 * what belongs together comes to lie together.
 */
#include <errno.h>
#include <string.h>

#include "snapshot.h"

/* A result: the statistics, and behind them frames for those that are not in a snapshot. */

/* ---- Sorting -----------------------------------------------------------------------------------
 */

typedef int (*compare_function)(const fh_statistic *one, const fh_statistic *other);

static int compare_numbers(uint64_t one, uint64_t other)
{
    return (one > other) - (one < other);
}

static int compare_frames(const fh_frame *one, const fh_frame *other)
{
    int names = strcmp(one->filename, other->filename);
    int lines = compare_numbers(one->lineno, other->lineno);
    return names != 0 ? names : lines != 0 ? lines : compare_numbers(one->pc, other->pc);
}

/* From the oldest frame on; what ends first comes first. */
static int compare_tracebacks(const fh_statistic *one, const fh_statistic *other)
{
    size_t left = one->frame_count, other_left = other->frame_count;
    while (left > 0 && other_left > 0) {
        int order = compare_frames(&one->frames[--left], &other->frames[--other_left]);
        if (order != 0)
            return order;
    }
    return compare_numbers(left, other_left);
}

/* The greatest first. */
static int compare_sums(const fh_statistic *one, const fh_statistic *other)
{
    int bytes = compare_numbers(other->bytes, one->bytes);
    int counts = compare_numbers(other->count, one->count);
    return bytes != 0 ? bytes : counts != 0 ? counts : compare_tracebacks(other, one);
}

static uint64_t magnitude(int64_t number)
{
    return number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
}

static int compare_diffs(const fh_statistic *one, const fh_statistic *other)
{
    int bytes_diffs = compare_numbers(magnitude(other->bytes_diff), magnitude(one->bytes_diff));
    int bytes = compare_numbers(other->bytes, one->bytes);
    int count_diffs = compare_numbers(magnitude(other->count_diff), magnitude(one->count_diff));
    if (bytes_diffs != 0 || bytes != 0)
        return bytes_diffs != 0 ? bytes_diffs : bytes;
    return count_diffs != 0 ? count_diffs : compare_sums(one, other);
}

static void swap(fh_statistic *one, fh_statistic *other)
{
    fh_statistic kept = *one;
    *one = *other;
    *other = kept;
}

/* Let the element at `root` sink until none below it comes after it. */
static void sink(fh_statistic *heap, size_t root, size_t count, compare_function compare)
{
    for (size_t child; (child = 2 * root + 1) < count; root = child) {
        if (child + 1 < count && compare(&heap[child], &heap[child + 1]) < 0)
            child++;
        if (compare(&heap[root], &heap[child]) >= 0)
            return;
        swap(&heap[root], &heap[child]);
    }
}

/* The C library's qsort may call malloc. */
static void sort(fh_statistic *statistics, size_t count, compare_function compare)
{
    for (size_t root = count / 2; root-- > 0;)
        sink(statistics, root, count, compare);
    for (size_t left = count; left > 1; left--) {
        swap(&statistics[0], &statistics[left - 1]);
        sink(statistics, 0, left - 1, compare);
    }
}

/* ---- Grouping ----------------------------------------------------------------------------------
 */

struct sum {
    size_t bytes, count;
};

static struct sum *sum_by_traceback(const fh_snapshot *snapshot)
{
    struct sum *sums = fh_snapshot_memory((snapshot->traceback_count + 1) * sizeof *sums);
    if (sums == NULL)
        return NULL;
    for (size_t i = 0; i < snapshot->trace_count; i++) {
        struct sum *sum = &sums[snapshot->traces[i].traceback];
        sum->bytes += snapshot->traces[i].bytes;
        sum->count++;
    }
    return sums;
}

/* Room for the statistics of all groups there could be, each with a frame of its own. */
static fh_statistic *new_statistics(size_t most)
{
    size_t bytes;
    if (!__builtin_mul_overflow(most + 1, sizeof(fh_statistic) + sizeof(fh_frame), &bytes))
        return fh_snapshot_memory(bytes);
    errno = ENOMEM;
    return NULL;
}

static fh_frame *own_frames(fh_statistic *statistics, size_t most)
{
    return (fh_frame *)(void *)(statistics + most + 1);
}

static void add_one(fh_statistic *statistics, size_t most, size_t *count, const fh_frame *frame,
                    fh_group group, const struct sum *sum)
{
    fh_frame *own = own_frames(statistics, most) + *count;
    *own = group == FH_BY_FILENAME ? (fh_frame){frame->filename, 0, 0} : *frame;
    statistics[(*count)++] = (fh_statistic){own, 1, sum->bytes, sum->count, 0, 0};
}

/* One for each traceback in use, or for each of its frames. */
static size_t list_all(const fh_snapshot *snapshot, const struct sum *sums, fh_group group,
                       bool cumulative, fh_statistic *statistics, size_t most)
{
    size_t count = 0;
    for (size_t i = 0; i < snapshot->traceback_count; i++) {
        const struct fh_snapshot_traceback *traceback = &snapshot->tracebacks[i];
        const fh_frame *frames = &snapshot->frames[traceback->first_frame];
        size_t used = cumulative ? traceback->frame_count : 1;
        if (sums[i].count == 0)
            continue;
        if (group == FH_BY_TRACEBACK)
            statistics[count++] =
                (fh_statistic){frames, traceback->frame_count, sums[i].bytes, sums[i].count, 0, 0};
        else
            for (size_t k = 0; k < used; k++)
                add_one(statistics, most, &count, &frames[k], group, &sums[i]);
    }
    return count;
}

/* Of sorted ones, add up those that are equal. */
static size_t merge(fh_statistic *statistics, size_t count)
{
    size_t merged = 0;
    for (size_t i = 0; i < count; i++) {
        fh_statistic *last = merged == 0 ? NULL : &statistics[merged - 1];
        if (last != NULL && compare_tracebacks(last, &statistics[i]) == 0) {
            last->bytes += statistics[i].bytes;
            last->count += statistics[i].count;
        } else {
            statistics[merged++] = statistics[i];
        }
    }
    return merged;
}

/* Sorted by frames. */
static fh_statistic *group_by(const fh_snapshot *snapshot, fh_group group, bool cumulative,
                              size_t *count)
{
    size_t most = cumulative ? snapshot->frame_count : snapshot->traceback_count;
    fh_statistic *statistics = new_statistics(most);
    struct sum *sums = sum_by_traceback(snapshot);
    if (statistics != NULL && sums != NULL) {
        size_t listed = list_all(snapshot, sums, group, cumulative, statistics, most);
        sort(statistics, listed, compare_tracebacks);
        *count = merge(statistics, listed);
    } else {
        fh_snapshot_release(statistics);
        statistics = NULL;
        errno = ENOMEM;
    }
    fh_snapshot_release(sums);
    return statistics;
}

static bool is_valid(fh_group group, int cumulative)
{
    bool valid = (unsigned)group <= FH_BY_TRACEBACK && (!cumulative || group != FH_BY_TRACEBACK);
    if (!valid)
        errno = EINVAL;
    return valid;
}

fh_statistic *fh_snapshot_statistics(const fh_snapshot *snapshot, fh_group group, int cumulative,
                                     size_t *count)
{
    *count = 0;
    if (!is_valid(group, cumulative))
        return NULL;
    fh_statistic *statistics = group_by(snapshot, group, cumulative != 0, count);
    if (statistics != NULL)
        sort(statistics, *count, compare_sums);
    return statistics;
}

void fh_statistics_free(fh_statistic *statistics)
{
    fh_snapshot_release(statistics);
}

/* ---- Comparing ---------------------------------------------------------------------------------
 */

struct groups {
    const fh_statistic *list; /* sorted by frames */
    size_t count;
};

/* What a group became; NULL where it is not there. */
static fh_statistic difference(const fh_statistic *newer, const fh_statistic *older)
{
    fh_statistic result = newer != NULL ? *newer : *older;
    if (newer == NULL)
        result.bytes = result.count = 0;
    result.bytes_diff = (int64_t)(result.bytes - (older == NULL ? 0 : older->bytes));
    result.count_diff = (int64_t)(result.count - (older == NULL ? 0 : older->count));
    return result;
}

static size_t merge_differences(struct groups newer, struct groups older, fh_statistic *out)
{
    size_t count = 0, i = 0, k = 0;
    while (i < newer.count || k < older.count) {
        int order = i == newer.count   ? 1
                    : k == older.count ? -1
                                       : compare_tracebacks(&newer.list[i], &older.list[k]);
        out[count++] =
            difference(order <= 0 ? &newer.list[i] : NULL, order >= 0 ? &older.list[k] : NULL);
        i += order <= 0;
        k += order >= 0;
    }
    return count;
}

/* The frames that the result does not find in a snapshot become its own. */
static void own_single_frames(fh_statistic *statistics, size_t count, size_t most)
{
    fh_frame *own = own_frames(statistics, most);
    for (size_t i = 0; i < count; i++) {
        own[i] = statistics[i].frames[0];
        statistics[i].frames = &own[i];
    }
}

static fh_statistic *compare_groups(struct groups newer, struct groups older, fh_group group,
                                    size_t *count)
{
    size_t most = newer.count + older.count;
    fh_statistic *result = new_statistics(most);
    if (result == NULL)
        return NULL;
    *count = merge_differences(newer, older, result);
    if (group != FH_BY_TRACEBACK)
        own_single_frames(result, *count, most);
    sort(result, *count, compare_diffs);
    return result;
}

fh_statistic *fh_snapshot_compare(const fh_snapshot *newer, const fh_snapshot *older,
                                  fh_group group, int cumulative, size_t *count)
{
    size_t newer_count = 0, older_count = 0;
    fh_statistic *result = NULL;
    *count = 0;
    if (!is_valid(group, cumulative))
        return NULL;
    fh_statistic *in_newer = group_by(newer, group, cumulative != 0, &newer_count);
    fh_statistic *in_older = group_by(older, group, cumulative != 0, &older_count);
    if (in_newer != NULL && in_older != NULL)
        result = compare_groups((struct groups){in_newer, newer_count},
                                (struct groups){in_older, older_count}, group, count);
    fh_snapshot_release(in_newer);
    fh_snapshot_release(in_older);
    return result;
}
