/* SPDX-License-Identifier: MIT */
/* What the threads do. Each scenario brings one kind of meeting about, in few steps, so that all
 * ways it can go are run. Slots below 40 are the programs'. */
#include "sched.h"

#include "bits.h"
#include "freehold.h"
#include "hints.h"
#include "library.h"
#include "os.h"
#include "sparse.h"

enum { OTHER_BYTES = BLOCK_BYTES / 2, THRESHOLD = POOL_BLOCKS / 8 > 1 ? POOL_BLOCKS / 8 : 1 };

/* Thread 0 has filled a pool, whose blocks are in slots 0 to POOL_BLOCKS - 1, and has no other. */
static void full_pool(void)
{
    take_all(0, POOL_BLOCKS, BLOCK_BYTES);
    take(POOL_BLOCKS, BLOCK_BYTES); /* has to look further: the pool becomes nobody's */
    give(POOL_BLOCKS);
    flush();
}

/* The same, still the current pool, none of its blocks ready. */
static void used_up_pool(void)
{
    take_all(0, POOL_BLOCKS, BLOCK_BYTES);
}

/* Of a full pool the first THRESHOLD blocks came back from elsewhere. */
static void shared_pool(void)
{
    full_pool();
    be_thread(1);
    give_all(0, THRESHOLD);
    be_thread(0);
}

/* ---- Blocks of one pool -----------------------------------------------------------------------
 */

static void owner_0(void)
{
    give(0);
    take(20, BLOCK_BYTES);
    take(21, BLOCK_BYTES);
}

static void owner_1(void)
{
    give(1);
    give(2);
}

SCENARIO(owner_and_remote_frees, .setup = used_up_pool, .program = {owner_0, owner_1});

static void refill_0(void)
{
    take(20, BLOCK_BYTES); /* the current pool has none: it is left, unless a block comes back */
    take(21, BLOCK_BYTES);
}

SCENARIO(leaving_full_and_remote_frees, .setup = used_up_pool, .program = {refill_0, owner_1});

/* Frees until the pool is shared, if it is full by then, and adopts it. */
static void share_and_adopt(void)
{
    give_all(0, THRESHOLD);
    take(34, BLOCK_BYTES);
}

SCENARIO(left_full_and_adopted, .setup = used_up_pool, .program = {refill_0, share_and_adopt});

static void full_0(void)
{
    give_all(0, POOL_BLOCKS / 2);
}

static void full_1(void)
{
    give_all(POOL_BLOCKS / 2, POOL_BLOCKS);
}

static void elsewhere_full_pool(void)
{
    be_thread(2);
    full_pool(); /* so that neither thread 0 nor thread 1 may take it back */
}

SCENARIO(all_come_back_to_a_full_pool, .setup = elsewhere_full_pool, .program = {full_0, full_1});

static void adopter(void)
{
    take(34, BLOCK_BYTES);
}

SCENARIO(all_come_back_while_it_is_adopted, .setup = shared_pool,
         .program = {full_0, full_1, adopter});

static void all_but_shared(void)
{
    give_all(THRESHOLD, POOL_BLOCKS);
}

static void second_adopter(void)
{
    take(35, BLOCK_BYTES);
    give(35);
}

SCENARIO(adopted_or_emptied, .setup = shared_pool, .program = {all_but_shared, adopter});
SCENARIO(one_of_two_adopts, .setup = shared_pool, .program = {second_adopter, adopter});

static void back_0(void)
{
    give(0);
    give(3);
    take(20, BLOCK_BYTES);
}

SCENARIO(taken_back_or_shared, .setup = full_pool, .program = {back_0, owner_1});
SCENARIO(taken_back_or_adopted, .setup = full_pool, .program = {back_0, owner_1, adopter});

static void take_back_all(void)
{
    give(0);
    take_all(20, 23, BLOCK_BYTES); /* and those that came back before it */
}

static void give_1(void)
{
    give(1);
}

SCENARIO(taken_back_with_others, .setup = full_pool, .program = {take_back_all, give_1});

static void waiting_pool(void)
{
    full_pool();
    give(0);
}

static void flusher(void)
{
    flush();
}

SCENARIO(given_up_and_remote_frees, .setup = used_up_pool, .program = {flusher, owner_1});
SCENARIO(given_up_after_take_back, .setup = waiting_pool, .program = {flusher, owner_1, adopter});

static void producer(void)
{
    take(20, BLOCK_BYTES);
    take(21, BLOCK_BYTES);
    give(22);
}

static void consumer(void)
{
    give(20);
    give(21);
    take(22, BLOCK_BYTES);
}

static void second_consumer(void)
{
    give(21);
    give(20);
    take(23, BLOCK_BYTES);
}

SCENARIO(blocks_go_round, .program = {producer, consumer});
SCENARIO(blocks_go_round_three, .setup = full_pool,
         .program = {producer, consumer, second_consumer});

/* ---- Hints at shared pools --------------------------------------------------------------------
 */

/* The pool's last block goes, and it comes back as one of another class, shared as well. */
static void reuser(void)
{
    give_all(THRESHOLD, POOL_BLOCKS);
    take(22, OTHER_BYTES);
    flush();
}

static void other_freer(void)
{
    give(22);
}

SCENARIO(stale_hint, .setup = shared_pool, .program = {adopter, reuser});
SCENARIO(stale_hint_and_last_free, .setup = shared_pool, .program = {adopter, reuser, other_freer});

static void adopter_of_other(void)
{
    take(23, OTHER_BYTES);
}

SCENARIO(stale_hint_both_ways, .setup = shared_pool,
         .program = {adopter, reuser, adopter_of_other});

/* Two full pools of one arena; the first is shared. */
static void neighbours(void)
{
    take_all(0, 2 * POOL_BLOCKS, BLOCK_BYTES);
    flush();
    be_thread(2);
    give_all(0, THRESHOLD);
}

static void sharer(void)
{
    give_all(POOL_BLOCKS, POOL_BLOCKS + THRESHOLD);
}

SCENARIO(last_hint_goes_as_another_comes, .setup = neighbours, .program = {sharer, adopter});
/* Two full pools of one arena, whose heap is nobody's concern. */
static void full_neighbours(void)
{
    be_thread(2);
    take_all(0, 2 * POOL_BLOCKS, BLOCK_BYTES);
    flush();
}

static void share_upper_then_lower(void)
{
    give_all(POOL_BLOCKS, POOL_BLOCKS + THRESHOLD);
    give_all(0, THRESHOLD);
}

SCENARIO(hint_seen_before_its_pool, .setup = full_neighbours,
         .program = {share_upper_then_lower, adopter});
SCENARIO(two_look_for_two, .setup = neighbours, .program = {second_adopter, adopter, sharer});

/* ---- Threads come and go ----------------------------------------------------------------------
 */

static void leaver(void)
{
    exit_thread();
}

static void leaver_and_late_calls(void)
{
    exit_thread();
    take(24, BLOCK_BYTES);
    give(24);
    give(0);
}

static void newcomer(void)
{
    take(20, BLOCK_BYTES);
    give(1);
}

SCENARIO(exit_and_remote_frees, .setup = used_up_pool, .program = {leaver, owner_1});
SCENARIO(exit_and_a_newcomer, .setup = used_up_pool, .program = {leaver, newcomer});
SCENARIO(exit_and_both, .setup = used_up_pool, .program = {leaver, newcomer, full_1});
SCENARIO(calls_after_exit, .setup = used_up_pool, .program = {leaver_and_late_calls, owner_1});

static void short_lives(void)
{
    take(0, BLOCK_BYTES);
    exit_thread();
    start_thread();
    take(1, BLOCK_BYTES);
    give(0);
    exit_thread();
}

static void other_short_life(void)
{
    take(2, BLOCK_BYTES);
    exit_thread();
}

SCENARIO(heaps_change_hands, .program = {short_lives, other_short_life});

static void home_again(void)
{
    give(0);
    exit_thread();
    start_thread();
    take(21, BLOCK_BYTES);
    give(3);
}

SCENARIO(home_is_another_thread_now, .setup = full_pool, .program = {home_again, newcomer});

/* ---- Threads that die without a word ----------------------------------------------------------
 */

/* A slow path that looks for dead threads if that is due: nothing is at hand after a flush. */
static void look_for_the_dead(void)
{
    int slot = 36 + machine_thread();
    flush();
    take(slot, 2 * FH_POOL_BYTES);
    give(slot);
}

/* Each thread has a heap and a block, and a look is due. */
static void three_heaps(void)
{
    for (int thread = THREADS_MAX; thread-- > 0;) {
        be_thread(thread);
        take(thread, BLOCK_BYTES);
        look_for_the_dead(); /* the first look only sets the time */
    }
    pass_ms(FH_PURGE_INTERVAL_MS + 1);
}

static void looker(void)
{
    look_for_the_dead();
    take(21, BLOCK_BYTES);
    pass_ms(FH_PURGE_INTERVAL_MS + 1);
    look_for_the_dead();
}

static void trim_looker(void)
{
    trim();
}

static void dies(void)
{
    take_all(3, 4 + POOL_BLOCKS, BLOCK_BYTES);
    give_all(3, 4 + POOL_BLOCKS);
    die();
}

/* Thread 0 is dead before it starts. */
static void one_dead(void)
{
    three_heaps();
    die();
}

static void another_of_its_number(void)
{
    start_thread();
    take(4, BLOCK_BYTES);
    give(0);
}

SCENARIO(dead_and_looked_for, .setup = three_heaps, .program = {dies, looker});
SCENARIO(dead_and_looked_for_twice, .setup = three_heaps, .program = {dies, trim_looker, looker});
SCENARIO(dead_and_of_the_same_number, .setup = one_dead,
         .program = {another_of_its_number, trim_looker, trim_looker});

/* Thread 1 is of another process, which shares the memory; thread 0 leaves a heap behind for it. */
static void two_processes(void)
{
    three_heaps();
    be_thread(1);
    exit_thread();
    be_elsewhere();
    be_thread(0);
    exit_thread();
}

static void holder_elsewhere(void)
{
    start_thread();
    take(20, BLOCK_BYTES);
    take(24, BLOCK_BYTES);
}

SCENARIO(held_by_another_process, .setup = two_processes,
         .program = {NULL, holder_elsewhere, trim_looker});

static void forked(void)
{
    three_heaps();
    fork_here();
}

static void survivor(void)
{
    look_for_the_dead();
    take(4, BLOCK_BYTES);
    give(0);
}

static void child_thread(void)
{
    start_thread();
    trim();
    take(32 + machine_thread(), BLOCK_BYTES);
    trim();
}

SCENARIO(forked_and_both_look, .setup = forked, .program = {survivor, child_thread});
SCENARIO(forked_and_three_look, .setup = forked, .program = {survivor, child_thread, child_thread});

static void first_0(void)
{
    take(0, BLOCK_BYTES);
    give(1);
}

static void first_1(void)
{
    take(1, BLOCK_BYTES);
    give(0);
}

SCENARIO(first_use, .program = {first_0, first_1});
SCENARIO(first_use_reserved, .program = {first_0, first_1}, .reserves = true);

/* ---- A domain's allocator ----------------------------------------------------------------------
 */

static void *answer(void *context, size_t bytes)
{
    (void)bytes;
    return context;
}

static void *no_calloc(void *context, size_t count, size_t bytes)
{
    (void)count, (void)bytes;
    return context;
}

static void *no_realloc(void *context, void *block, size_t bytes)
{
    (void)block, (void)bytes;
    return context;
}

static void no_free(void *context, void *block)
{
    (void)context, (void)block;
}

static int contexts[2];

static void set_allocator(int which)
{
    const fh_allocator allocator = {&contexts[which], answer, no_calloc, no_realloc, no_free};
    CHECK(fh_set_allocator(FH_DOMAIN_OBJ, &allocator) == 0);
}

static void call_domain(void)
{
    int *context = fh_obj_malloc(8);
    CHECK(context == &contexts[0] || context == &contexts[1]);
}

static void set_first(void)
{
    set_allocator(0);
}

static void set_and_call(void)
{
    set_allocator(1);
    call_domain();
}

static void set_the_same_and_call(void)
{
    set_allocator(0);
    call_domain();
}

SCENARIO(allocator_set_and_called, .setup = set_first, .program = {set_and_call, call_domain},
         .check = library_forget_allocators);
SCENARIO(allocators_set_at_once, .program = {set_and_call, set_the_same_and_call},
         .check = library_forget_allocators);

/* ---- Sets of hints alone, as large as in a long-lived program -------------------------------- */

enum { MEMBERS = 2 * 64 * 64, HINT_SET = FH_HINTS_ROOM };

static struct fh_hints set_of_hints;

/* Members 5000 and 5100, in different words of the lowest level and one of the middle level. */
static void two_hints(void)
{
    fh_hints_place(&set_of_hints, fh_os_map(fh_round_up(fh_hints_bytes(MEMBERS), 4096)), MEMBERS);
    fh_hints_set(&set_of_hints, HINT_SET, 5000);
    fh_hints_set(&set_of_hints, HINT_SET, 5100);
}

static void clear_first(void)
{
    (void)fh_hints_clear(&set_of_hints, HINT_SET, 5000);
}

static void clear_second(void)
{
    (void)fh_hints_clear(&set_of_hints, HINT_SET, 5100);
}

static void set_beside_first(void)
{
    fh_hints_set(&set_of_hints, HINT_SET, 5001);
}

static void check_beside_first(void)
{
    uint32_t highest = fh_hints_has(&set_of_hints, HINT_SET, 5100) ? 5100 : 5001;
    CHECK(fh_hints_next(&set_of_hints, HINT_SET, 0) == 5001);
    CHECK(fh_hints_previous(&set_of_hints, HINT_SET, MEMBERS) == highest);
}

SCENARIO(hint_set_as_others_clear, .setup = two_hints,
         .program = {clear_first, set_beside_first, clear_second}, .check = check_beside_first);
SCENARIO(hint_set_as_one_clears, .setup = two_hints, .program = {clear_first, set_beside_first},
         .check = check_beside_first);

/* ---- Runs of pools ----------------------------------------------------------------------------
 */

static void some_arenas(void)
{
    take(30, 5 * FH_ARENA_BYTES);
    give(30);
}

static void one_pool(void)
{
    take(0, FH_POOL_BYTES);
    give(0);
    flush();
}

static void another_pool(void)
{
    take_zeroed(1, FH_POOL_BYTES);
    give(1);
    flush();
}

static void two_pools(void)
{
    take_zeroed(2, FH_ARENA_BYTES);
    give(2);
    flush();
}

SCENARIO(pools_claimed_and_released, .program = {one_pool, another_pool});
SCENARIO(pools_and_a_whole_arena, .setup = some_arenas, .program = {two_pools, another_pool});
SCENARIO(arenas_opened, .program = {two_pools, another_pool, one_pool});

static void one_large(void)
{
    take(0, FH_POOL_BYTES);
    flush();
}

static void grow_and_shrink(void)
{
    resize(0, FH_ARENA_BYTES);
    resize(0, FH_POOL_BYTES);
    flush();
}

SCENARIO(large_grows_and_shrinks, .setup = one_large, .program = {grow_and_shrink, another_pool});

static void huge_0(void)
{
    take(0, 2 * FH_ARENA_BYTES);
    give(0);
}

static void huge_1(void)
{
    take_zeroed(1, 3 * FH_ARENA_BYTES - FH_POOL_BYTES);
    give(1);
}

SCENARIO(huge_runs, .setup = some_arenas, .program = {huge_0, huge_1});
SCENARIO(huge_runs_and_a_pool, .setup = some_arenas, .program = {huge_0, huge_1, one_pool});
SCENARIO(huge_runs_in_new_arenas, .program = {huge_0, huge_1});

static void aligned_huge(void)
{
    take_aligned(0, 4 * FH_ARENA_BYTES, FH_ARENA_BYTES);
    give(0);
}

SCENARIO(huge_and_aligned, .setup = some_arenas, .program = {aligned_huge, huge_1});

static void one_arena(void)
{
    take(30, FH_ARENA_BYTES);
}

static void aligned_new(void)
{
    take_aligned(0, 4 * FH_ARENA_BYTES, FH_ARENA_BYTES); /* opens those before it, empty */
}

static void two_arenas(void)
{
    take(1, 2 * FH_ARENA_BYTES);
    take(2, FH_ARENA_BYTES);
}

static void some_pools(void)
{
    take(1, FH_POOL_BYTES);
    take(2, FH_POOL_BYTES);
}

static void statistician(void)
{
    fh_stats stats = {.struct_bytes = sizeof stats};
    CHECK(fh_get_stats(&stats) == 0);
}

SCENARIO(statistics_meanwhile, .setup = one_arena, .program = {some_pools, statistician});
static void aligned_arena(void)
{
    take_aligned(1, 4 * FH_ARENA_BYTES, FH_ARENA_BYTES);
}

SCENARIO(aligned_beside_growth, .setup = one_arena, .program = {aligned_new, aligned_arena});
SCENARIO(arenas_opened_empty, .setup = one_arena, .program = {aligned_new, two_arenas});
SCENARIO(arena_opened_in_part, .setup = one_arena, .program = {one_pool, some_pools});

static void one_huge(void)
{
    some_arenas();
    take(0, 2 * FH_ARENA_BYTES);
}

static void huge_grows(void)
{
    resize(0, 3 * FH_ARENA_BYTES);
    resize(0, 3 * FH_ARENA_BYTES - FH_POOL_BYTES);
    resize(0, 2 * FH_ARENA_BYTES);
    give(0);
}

/* In arenas nobody has touched before. */
static void fresh_huge(void)
{
    take(0, 2 * FH_ARENA_BYTES);
}

static void huge_shrinks(void)
{
    resize(0, 2 * FH_ARENA_BYTES - FH_POOL_BYTES);
    give(0);
}

static void huge_zeroed(void)
{
    take(1, FH_ARENA_BYTES);
    take_zeroed(2, FH_POOL_BYTES);
    take_zeroed(3, FH_POOL_BYTES);
}

SCENARIO(huge_grows_and_shrinks, .setup = one_huge, .program = {huge_grows, huge_1});
SCENARIO(huge_shrinks_in_its_last_arena, .setup = fresh_huge,
         .program = {huge_shrinks, huge_zeroed});

static void nearly_all(void)
{
    take(30, 7 * FH_ARENA_BYTES);
}

SCENARIO(extra_arenas, .setup = nearly_all, .program = {huge_0, huge_1});
static void all_of_the_region(void)
{
    take(30, 8 * FH_ARENA_BYTES);
}

static void extra_and_trim(void)
{
    take(0, 2 * FH_ARENA_BYTES);
    give(0);
    trim();
}

static void extra_zeroed(void)
{
    take_zeroed(1, FH_ARENA_BYTES);
    give(1);
    take_zeroed(2, 2 * FH_ARENA_BYTES);
}

SCENARIO(vacated_while_claimed, .setup = all_of_the_region,
         .program = {extra_and_trim, extra_zeroed});
SCENARIO(vacated_by_two, .setup = all_of_the_region,
         .program = {extra_and_trim, extra_and_trim, extra_zeroed});

/* Extra arenas, one behind the other, and empty. */
static void adjacent_arenas(void)
{
    all_of_the_region();
    take(0, 4 * FH_ARENA_BYTES);
    give(0);
}

/* Under the same indices they are somewhere else now, and apart: no heap keeps so large a run. */
static void arenas_move_apart(void)
{
    trim();
    take(0, 2 * FH_ARENA_BYTES);
    take(1, 3 * FH_ARENA_BYTES);
    take(2, 2 * FH_ARENA_BYTES);
    give(0);
    give(2);
}

static void all_adjacent_arenas(void)
{
    take(3, 4 * FH_ARENA_BYTES);
}

static void extra_pool(void)
{
    trim();
    take(0, FH_POOL_BYTES);
}

static void another_extra_pool(void)
{
    take_zeroed(1, FH_POOL_BYTES);
}

SCENARIO(arenas_move_while_claimed, .setup = adjacent_arenas,
         .program = {arenas_move_apart, all_adjacent_arenas});
SCENARIO(pools_in_an_arena_that_moves, .setup = adjacent_arenas,
         .program = {extra_pool, another_extra_pool});
SCENARIO(memory_is_short, .setup = nearly_all, .program = {huge_0, huge_1, one_pool},
         .reserves = true, .may_fail = true);

/* ---- Purges -----------------------------------------------------------------------------------
 */

static void dirty_pools(void)
{
    take(30, 2 * FH_ARENA_BYTES);
    give(30);
}

static void trimmer(void)
{
    trim();
}

SCENARIO(purge_and_claim, .setup = dirty_pools, .program = {trimmer, another_pool});
SCENARIO(purge_and_whole_arenas, .setup = dirty_pools, .program = {trimmer, two_pools, huge_1});
SCENARIO(two_purges, .setup = dirty_pools, .program = {trimmer, trimmer, another_pool});

static void late_release(void)
{
    pass_ms(FH_DECAY_MS + 1);
    one_pool();
}

static void late_zeroed(void)
{
    pass_ms(FH_DECAY_MS + 1);
    another_pool();
}

SCENARIO(purge_by_age, .setup = dirty_pools, .program = {late_release, late_zeroed});

/* One free pool may stay resident. */
static void hardly_any_retained(void)
{
    dirty_pools();
    fh_region_get()->retain_pools = (uint64_t)1 - FH_RETAIN_MIN_POOLS;
}

SCENARIO(purge_by_number, .setup = hardly_any_retained, .program = {one_pool, another_pool});

static void zeroed_blocks(void)
{
    take_zeroed(20, BLOCK_BYTES);
    take_zeroed(21, BLOCK_BYTES);
}

SCENARIO(zeroed_blocks_in_purged_pools, .setup = dirty_pools, .program = {trimmer, zeroed_blocks});

/* ---- Sparse pools ------------------------------------------------------------------------------
 */

enum { SPARSE_LIVE = POOL_BLOCKS / 4 };

/* Of two full pools of one arena the first is sparse, the second one free short of it. */
static void sparse_and_nearly(void)
{
    full_neighbours();
    be_thread(1);
    give_all(0, POOL_BLOCKS - SPARSE_LIVE);
    give_all(POOL_BLOCKS, 2 * POOL_BLOCKS - SPARSE_LIVE - 1);
    be_thread(0);
}

static void sparse_trimmer(void)
{
    (void)fh_sparse_trim(fh_region_get());
}

/* Only at pools that are hinted at. */
static void sparse_late_looker(void)
{
    pass_ms(FH_DECAY_MS + 1);
    fh_store_relaxed_u64(&fh_region_get()->sparse_is_due, 1); /* as fh_purge_tick() says */
    fh_sparse_tick(fh_region_get());
}

static void second_gets_sparse(void)
{
    give(2 * POOL_BLOCKS - SPARSE_LIVE - 1);
}

static void first_gets_empty(void)
{
    give_all(POOL_BLOCKS - SPARSE_LIVE, POOL_BLOCKS);
}

/* No pool may stay sparse: who makes one so purges it. */
static void none_may_be_sparse(void)
{
    sparse_and_nearly();
    fh_region_get()->retain_sparse = (uint64_t)0 - FH_SPARSE_MIN_POOLS;
}

SCENARIO(sparse_amid_a_purge, .setup = sparse_and_nearly,
         .program = {sparse_trimmer, second_gets_sparse});
SCENARIO(sparse_amid_a_look, .setup = sparse_and_nearly,
         .program = {sparse_late_looker, second_gets_sparse});
SCENARIO(emptied_amid_a_purge, .setup = sparse_and_nearly,
         .program = {sparse_trimmer, first_gets_empty});
SCENARIO(adopted_amid_a_purge, .setup = sparse_and_nearly,
         .program = {sparse_trimmer, adopter, first_gets_empty});
SCENARIO(two_purge_sparse_pools, .setup = sparse_and_nearly,
         .program = {sparse_trimmer, sparse_late_looker, second_gets_sparse});
SCENARIO(too_many_sparse, .setup = none_may_be_sparse,
         .program = {second_gets_sparse, first_gets_empty, adopter});

/* ---- Signal handlers that allocate and free ---------------------------------------------------
 */

static void ready_pool(void)
{
    take(0, BLOCK_BYTES);
    take(1, BLOCK_BYTES);
    take(2, BLOCK_BYTES);
}

static void take_and_give(void)
{
    take(20, BLOCK_BYTES);
    give(0);
    take(21, BLOCK_BYTES);
}

static void handle(void)
{
    take(25, BLOCK_BYTES);
    give(1);
    take(26, FH_POOL_BYTES);
}

static void give_2(void)
{
    give(2);
}

/* All but one of a pool's blocks. */
static void nearly_used_up(void)
{
    take_all(0, POOL_BLOCKS - 1, BLOCK_BYTES);
}

static void use_it_up(void)
{
    take_all(25, 28, BLOCK_BYTES);
}

static void give_to_current(void)
{
    give(0);
    take(20, BLOCK_BYTES);
    give(1);
}

SCENARIO(handler, .setup = ready_pool, .program = {take_and_give, give_2}, .handler = handle);
SCENARIO(handler_uses_the_pool_up, .setup = nearly_used_up, .program = {give_to_current, give_2},
         .handler = use_it_up);
SCENARIO(handler_and_full_pool, .setup = full_pool, .program = {back_0, give_2}, .handler = handle);
SCENARIO(handler_at_first_use, .program = {first_0, first_1}, .handler = handle);
SCENARIO(handler_in_exit, .setup = ready_pool, .program = {leaver_and_late_calls, give_2},
         .handler = handle);
SCENARIO(handler_in_flush, .setup = waiting_pool, .program = {flusher, give_2}, .handler = handle);

static void huge_work(void)
{
    resize(0, 3 * FH_ARENA_BYTES);
    give(0);
}

static void handle_huge(void)
{
    take(25, 2 * FH_ARENA_BYTES);
    give(25);
}

SCENARIO(handler_and_runs, .setup = one_huge, .program = {huge_work, another_pool},
         .handler = handle_huge);
SCENARIO(handler_in_trim, .setup = dirty_pools, .program = {trimmer, another_pool},
         .handler = handle_huge);
