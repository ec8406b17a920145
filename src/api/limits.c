/* SPDX-License-Identifier: MIT */
/* Setting the limit: what a claim reads is a record that never changes. Records are kept in a list,
 * each once, since a claim may have found one just before another was published; their memory comes
 * from the system, for at the limit there is no other. */
#include <errno.h>

#include "bits.h"
#include "limit.h"
#include "os.h"

enum { RECORDS_BYTES = 4096, RECORDS = RECORDS_BYTES / sizeof(struct fh_limit) - 1 };

/* Memory for some records. */
struct sheet {
    uint64_t taken; /* may be more than there are */
    struct fh_limit records[RECORDS];
};

static void *newest_sheet; /* struct sheet * */
static void *known_limits; /* struct fh_limit *, newest first */

static size_t sheet_bytes(void)
{
    return fh_round_up(sizeof(struct sheet), fh_os_page_bytes());
}

/* One more after `newest`, by this thread or another; false if memory is short. */
static bool add_sheet(void *newest)
{
    void *fresh = fh_os_map(sheet_bytes());
    if (fresh == NULL)
        return false;
    /* [limit-known] release: memory that reads as zeros. */
    if (!fh_cas_acq_rel_ptr(&newest_sheet, &newest, fresh))
        (void)fh_os_unmap(fresh, sheet_bytes());
    return true;
}

/* NULL if memory is short. */
static struct fh_limit *new_record(void)
{
    do {
        /* [limit-known] acquire: the sheet, from the CAS above. */
        struct sheet *sheet = fh_load_acquire_ptr(&newest_sheet);
        /* Relaxed: a number that is ours alone. */
        uint64_t index = sheet == NULL ? RECORDS : fh_fetch_add_relaxed_u64(&sheet->taken, 1);
        if (index < RECORDS)
            return &sheet->records[index];
        if (!add_sheet(sheet))
            return NULL;
    } while (true);
}

static bool are_equal(const struct fh_limit *one, const struct fh_limit *other)
{
    return one->bytes == other->bytes && one->function == other->function &&
           one->context == other->context;
}

/* The list's entry for it, made now if there is none; NULL if memory is short. */
static const struct fh_limit *know(const struct fh_limit *wanted)
{
    /* [limit-known] acquire: the records, from the CAS below. */
    void *first = fh_load_acquire_ptr(&known_limits);
    for (struct fh_limit *record = first; record != NULL; record = record->older)
        if (are_equal(record, wanted))
            return record;
    struct fh_limit *record = new_record();
    if (record == NULL)
        return NULL;
    *record = *wanted;
    do {
        record->older = first;
        /* [limit-known] release: the record. */
    } while (!fh_cas_acq_rel_ptr(&known_limits, &first, record));
    return record;
}

int fh_set_limit(size_t bytes, fh_limit_function *function, void *context)
{
    const struct fh_limit wanted = {bytes, bytes >> FH_POOL_SHIFT, function, context, NULL};
    const struct fh_limit *limit = bytes == 0 ? NULL : know(&wanted);
    if (bytes != 0 && limit == NULL) {
        errno = ENOMEM;
        return -1;
    }
    fh_limit_publish(limit);
    return 0;
}

size_t fh_get_limit(void)
{
    const struct fh_limit *limit = fh_limit_find();
    return limit == NULL ? 0 : limit->bytes;
}

size_t fh_limit_used(void)
{
    const struct fh_region *region = fh_region_peek();
    return region == NULL ? 0 : (size_t)fh_limit_counted_pools(region) << FH_POOL_SHIFT;
}
