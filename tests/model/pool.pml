/* SPDX-License-Identifier: MIT */
/* One pool of BLOCKS blocks, its word, its owner's line, and the hints that it is shared or sparse.
 * src/pool/pool.c, src/pool/hole.c, src/theap/refill.c, src/theap/shared.c, src/theap/sparse.c and the frees in
 * src/theap/theap.h, for threads with one heap each. Lists are linked through next[], so that a CAS compares
 * what the real one does: state, owner, credits and head, not the list behind the head.
 *
 *   start              fh_pool_start(), after the claim of the pool in its arena or in `spare`
 *   carve, collect, put_back, leave_full, take_back, adopt_word, give_up
 *                      fh_pool_...() of these names; collect_to_local() is in give_up
 *   find_holes, make_holes
 *                      fh_pool_...() of these names
 *   free_remote        fh_pool_free_remote(), decide: fh_pool_free_deciding()
 *   settle             fh_shared_settle(), or give_up() in refill.c, which keeps the pool as a spare run
 *   shared_add, forget_arena, remove_bit, adopt
 *                      of shared.c; adopt is fh_shared_adopt(), adopt_in(), adopt() and forget_stale()
 *   purge_pool         of sparse.c; sparse_add: fh_sparse_add(), forget_sparse_arena: forget_arena() there;
 *                      purge is purge_arena(), or fh_sparse_trim()
 *   take               fh_theap_take(), find_blocks()
 *   local_free         fh_theap_free_in_pool(), fh_theap_countdown_ended()
 *   free_home          fh_theap_free_home(), may_take_back(), place_taken_back()
 *   let_go             what the limits on queued and waiting pools do, and fh_theap_drain_class()
 *
 * A shared pool has two levels, SHARED and SPARSE, of the four; with a THRESHOLD of 2 of 3 blocks it is SPARSE
 * at once. Any thread may purge the pool at any time that it is shared. A page is a block, and any of the free
 * ones may become holes: which pages are whole is not modelled, nor is the tail after the frontier. The hints
 * that the pool is sparse are there with HINTED; then 2 blocks fit the tests' memory. (3 with THRESHOLD=1,
 * where a free makes a SHARED pool SPARSE, are 30 million states, and can be searched by hand:
 * FH_MODEL_MIB=2000 FH_MODEL_DEPTH=4000000 check.sh pool.pml -DHINTED -DTHRESHOLD=1)
 *
 * Left out: how many pools a heap may queue or keep waiting (here it may always, or not, as the search
 * likes), when there are too many sparse pools, signal handlers (heap.pml), other pools: who finds none here
 * takes a block elsewhere. The pool's bit in its arena is `used`; what its arena does is in arena.pml. Its bit
 * in the hint word of a class is shared[class], its arena's bit in the hint set of the class arenas[class];
 * for sparse pools these are sparse and sparse_arena.
 *
 * Checked: no block is handed out twice, or as one of another class; who uses the owner's line holds the
 * pool; the pool goes back only when no caller has a block; no page goes back with a block that a caller has.
 * When no call is in progress: each block is held, in one list, in a hole or not carved; a shared pool is
 * hinted at, and at the level of its live blocks; a pool that is nobody's has blocks out, and is FULL only
 * below the threshold; `owner` knows who holds it. HINTED: a sparse pool is hinted at, or was purged since it
 * became one.
 *
 * Mutants: NO_RECHECK, NO_ARENA_RECHECK, NO_SPARSE_RECHECK (a stale hint is taken away without a second look),
 * HINT_FIRST (hinted at before it is shared), OWNER_LATE (`owner` is cleared after the CAS), DROP_REMOTE
 * (given up without the remotely freed blocks), NO_CLASS (an adopted pool's class is taken from the hint),
 * LEAVE_BY_STORE (to FULL whatever the word is), NO_LEVELS (the last credit of any level empties the pool),
 * HOLE_OF_LIVE (pages are purged that have a live block), HOLE_ON_LIST (the blocks of a hole stay on the
 * list), PURGE_LATE (pages are purged after the pool is given up); for progress NO_COLLECT (given up only if
 * nothing was freed remotely, without collecting).
 */
#ifndef THREADS
#define THREADS 2
#endif
#ifndef BLOCKS
#define BLOCKS 3
#endif
#ifndef THRESHOLD
#define THRESHOLD 2
#endif
#ifndef CLASSES
#define CLASSES 1
#endif
#ifndef LEVEL_END
#define LEVEL_END 1 /* live blocks at the end of the first of two levels */
#endif
#define EVERY ((1 << BLOCKS) - 1)
#define BIT(block) (1 << ((block) - 1))
#define CREDITS 7 /* of an active pool */

#define FREE 0 /* states; FREE is also the event "now empty" */
#define ACTIVE 1
#define FULL 2
#define SHARED 3 /* more than LEVEL_END live */
#define SPARSE 4 /* SHARED's next and last level */
#define IS_SHARED(s) ((s) >= SHARED)
#define PURGER (THREADS + 1) /* what a pool is owned by while it is purged: no heap */

#define NONE 0 /* where the pool is in its owner's heap */
#define CURRENT 1
#define QUEUED 2
#define WAITING 3

byte state, word_owner, credits, head;        /* the word */
byte owner, home, class;                      /* the line that every free reads */
byte own_list, carved, frontier, holes;       /* the owner's line; `live` as fh_pool_live() has it, */
byte live;                                    /* without the one more of a current pool */
byte next[BLOCKS + 1];                        /* in the blocks */
bool used;
bool shared[CLASSES], arenas[CLASSES];
#ifdef HINTED
bool sparse, sparse_arena;
bool looked;                                  /* ghost: a sparse pool was purged since it became so */
#endif
byte ready[THREADS];                          /* of a bin */

byte holder;                                  /* ghosts: who may use the owner's line, thread + 1; */
byte held;                                    /* blocks that callers have; */
byte inside;                                  /* calls in progress */

/* The level of a shared pool with so many live blocks; its credits go to the end of that level. */
#define LEVEL(live_count) (((live_count) > LEVEL_END) -> SHARED : SPARSE)
#define LIVE_OF(s, c) (((s) == SHARED) -> (c) + LEVEL_END : (c))

#define HOLDS assert(holder == me)

/* ---- The word ---- */

inline forget_word()
{
    d_step { s = 0; o = 0; c = 0; h = 0 }
}

/* In the step of a CAS that succeeds. */
inline note_looked(new_state)
{
#ifdef HINTED
    looked = new_state == SPARSE && (o == PURGER || (s == SPARSE && looked))
#else
    skip
#endif
}

inline load_word()
{
    d_step { s = state; o = word_owner; c = credits; h = head }
}

/* On success the ghost changes in the same step; on failure the word found is loaded. */
inline cas(new_state, new_owner, new_credits, new_head, new_holder)
{
    d_step {
        if
        :: state == s && word_owner == o && credits == c && head == h ->
            state = new_state; word_owner = new_owner; credits = new_credits; head = new_head;
            if
            :: holder != new_holder -> own_list = 0; live = 0 /* never read again */
            :: else
            fi;
            holder = new_holder;
            note_looked(new_state);
            done = true
        :: else ->
            s = state; o = word_owner; c = credits; h = head;
            done = false
        fi
    }
}

inline count_list(first, count)
{
    at = first;
    count = 0;
    do
    :: at == 0 -> break
    :: else -> assert(count < BLOCKS); count++; at = next[at]
    od
}

/* ---- Hints ---- */

inline mark_arena(k)
{
    if
    :: arenas[k]
    :: else -> arenas[k] = true
    fi
}

inline shared_add()
{
    k2 = class;
    shared[k2] = true;
    mark_arena(k2)
}

inline forget_arena(k)
{
    arenas[k] = false;
#ifndef NO_ARENA_RECHECK
    if
    :: shared[k] -> mark_arena(k)
    :: else
    fi
#endif
}

inline remove_bit(k)
{
    shared[k] = false;
    forget_arena(k)
}

#ifdef HINTED
inline mark_sparse_arena()
{
    if
    :: sparse_arena
    :: else -> sparse_arena = true
    fi
}

inline sparse_add()
{
    sparse = true;
    mark_sparse_arena()
}

inline forget_sparse_arena()
{
    sparse_arena = false;
#ifndef NO_SPARSE_RECHECK
    if
    :: sparse -> mark_sparse_arena()
    :: else
    fi
#endif
}
#endif

/* ---- The owner ---- */

inline start(k)
{
    d_step { own_list = 0; carved = 0; frontier = 0; holes = 0; live = 0 };
    class = k;
    d_step { state = ACTIVE; word_owner = me; credits = CREDITS; head = 0 };
    home = me;
    owner = me
}

/* Here a page holds one block. */
inline carve()
{
    d_step {
        HOLDS;
        if
        :: frontier < BLOCKS -> frontier++; list = frontier
        :: frontier == BLOCKS && holes != 0 ->
            list = 1;
            do
            :: (holes & BIT(list)) != 0 -> break
            :: else -> list++
            od;
            holes = holes & (EVERY - BIT(list))
        :: else
        fi;
        if
        :: list != 0 -> carved++; live++; next[list] = 0
        :: else
        fi
    }
}

inline collect(id)
{
    load_word();
    do
    :: h == 0 -> list = 0; break
    :: else ->
        cas(ACTIVE, id, CREDITS, 0, holder);
        if
        :: done -> list = h; break
        :: else
        fi
    od;
    forget_word()
}

inline put_back(first)
{
    d_step {
        HOLDS;
        at = first;
        n = 1;
        do
        :: next[at] == 0 -> break
        :: else -> at = next[at]; n++
        od;
        next[at] = own_list;
        own_list = first;
        assert(live >= n);
        live = live - n;
        at = 0; n = 0
    }
}

/* Leaves list 0 and no pool, or blocks that came back meanwhile. */
inline leave_full()
{
#ifndef OWNER_LATE
    owner = 0;
#endif
    d_step { HOLDS; s = ACTIVE; o = me; c = CREDITS; h = 0 };
#ifdef LEAVE_BY_STORE
    load_word();
#endif
    cas(FULL, me, THRESHOLD, 0, 0);
    if
    :: done ->
        where = NONE;
#ifdef OWNER_LATE
        owner = 0;
#endif
        forget_word()
    :: else ->
        owner = me;
        collect(me);
        assert(list != 0) /* fh_pool_is_damaged() */
    fi
}

/* Event is the new state. */
inline give_up(id)
{
#ifndef OWNER_LATE
    owner = 0;
#endif
    do
    ::  d_step {
            HOLDS;
            n = BLOCKS - live;
            if
            :: live == 0 -> event = FREE
            :: live != 0 && n >= THRESHOLD -> event = LEVEL(live)
            :: else -> event = FULL
            fi;
            s = ACTIVE; o = id; c = CREDITS; h = 0
        };
#ifdef DROP_REMOTE
        load_word();
#endif
#ifdef HINT_FIRST
        if
        :: IS_SHARED(event) -> shared_add()
        :: else
        fi;
#endif
        if
        :: event == FREE -> cas(FREE, 0, 0, 0, me)
        :: event == SHARED -> cas(SHARED, 0, live - LEVEL_END, own_list, 0)
        :: event == SPARSE -> cas(SPARSE, 0, live, own_list, 0)
        :: event == FULL -> cas(FULL, 0, THRESHOLD - n, own_list, 0)
        fi;
        if
        :: done -> break
        :: else ->
#if !defined(NO_COLLECT) && !defined(DROP_REMOTE)
            collect(id);
            assert(list != 0); /* fh_pool_is_damaged() */
            put_back(list)
#endif
        fi
    od;
#ifdef OWNER_LATE
    owner = 0;
#endif
    forget_word();
    list = 0; n = 0
}

/* `keeps`: a heap that gives up an empty pool may keep it as a spare run. */
inline settle(keeps)
{
    if
#ifndef HINT_FIRST
    :: IS_SHARED(event) ->
        shared_add();
#ifdef HINTED
        if
        :: event == SPARSE -> sparse_add()
        :: else
        fi
#endif
#endif
    :: event == FREE ->
        d_step {
            assert(held == 0);
            state = FREE; word_owner = 0; credits = 0; head = 0; /* fh_pool_end() */
            carved = 0; frontier = 0; holes = 0; home = 0;       /* never read again */
            for (at : 1 .. BLOCKS) {
                next[at] = 0
            }
            at = 0
        };
        if
        :: d_step { assert(held == 0 && holder == me); holder = 0; used = false }
        :: keeps -> spare = true
        fi
    :: else
    fi;
    event = FULL
}

inline let_go()
{
    if
    :: where == CURRENT && ready[me - 1] != 0 ->
        put_back(ready[me - 1]);
        ready[me - 1] = 0
    :: else
    fi;
    where = NONE;
    give_up(me);
    settle(true)
}

/* ---- Taking ---- */

inline adopt_word(id)
{
    load_word();
    do
    :: !IS_SHARED(s) -> done = false; break
    :: else ->
        cas(ACTIVE, id, CREDITS, 0, me);
        if
        :: done ->
            d_step { HOLDS; own_list = h; live = LIVE_OF(s, c) };
            home = id;
            owner = id;
            break
        :: else
        fi
    od;
    forget_word()
}

/* Leaves done: whether the pool is adopted. */
inline adopt(k)
{
    done = false;
    if
    :: arenas[k] ->
        if
        :: !shared[k] -> forget_arena(k)
        :: else ->
            adopt_word(me);
            if
            :: done ->
                remove_bit(k);
#ifndef NO_CLASS
                if
                :: class != k ->
                    remove_bit(class);
                    give_up(me);
                    settle(false);
                    done = false
                :: else
                fi
#endif
            :: else -> /* forget_stale */
                remove_bit(k);
#ifndef NO_RECHECK
                if
                :: IS_SHARED(state) -> shared_add()
                :: else
                fi;
#endif
                done = false
            fi
        fi
    :: else
    fi
}

inline blocks_of_current()
{
    d_step {
        HOLDS;
        list = own_list;
        if
        :: list != 0 -> own_list = 0; live = carved
        :: else
        fi
    };
    if
    :: list == 0 -> carve()
    :: else
    fi;
    if
    :: list == 0 -> collect(me)
    :: else
    fi;
    if
    :: list == 0 -> leave_full()
    :: else
    fi;
    if
    :: list != 0 -> d_step { assert(ready[me - 1] == 0); ready[me - 1] = list; list = 0 }
    :: else
    fi
}

/* A block of class k; none if another pool would have to give it. */
inline take(k)
{
    if
    :: where == CURRENT && mine == k && ready[me - 1] == 0 -> blocks_of_current()
    :: else
    fi;
    do
    :: where == CURRENT && mine == k -> break
    :: else ->
        if
        :: where == QUEUED && mine == k -> done = true
        :: else ->
            adopt(k);
            if
            :: !done && spare -> start(k); spare = false; done = true
            :: !done && !spare ->
                d_step {
                    if
                    :: !used -> assert(holder == 0); used = true; holder = me; done = true
                    :: else
                    fi
                };
                if
                :: done -> start(k)
                :: else
                fi
            :: else
            fi
        fi;
        if
        :: done -> d_step { where = CURRENT; mine = k }; blocks_of_current()
        :: else -> break
        fi
    od;
    if
    :: where == CURRENT && mine == k ->
        d_step {
            b = ready[me - 1];
            ready[me - 1] = next[b];
            assert(b != 0 && (held & BIT(b)) == 0);
            assert(class == k);
            held = held | BIT(b);
            next[b] = 0 /* the caller's now */
        }
    :: else
    fi
}

/* ---- Freeing ---- */

inline decide()
{
    load_word();
    do
    :: next[b] = h;
        if
        :: c == 1 && s == FULL && BLOCKS - THRESHOLD > LEVEL_END ->
            event = SHARED;
            cas(SHARED, 0, BLOCKS - THRESHOLD - LEVEL_END, b, 0)
        :: c == 1 && s == FULL && BLOCKS - THRESHOLD <= LEVEL_END ->
            event = SPARSE;
            cas(SPARSE, 0, BLOCKS - THRESHOLD, b, 0)
#ifndef NO_LEVELS
        :: c == 1 && s == SHARED -> event = SPARSE; cas(SPARSE, 0, LEVEL_END, b, 0)
        :: c == 1 && s == SPARSE -> event = FREE; cas(FREE, 0, 0, 0, me)
#else
        :: c == 1 && IS_SHARED(s) -> event = FREE; cas(FREE, 0, 0, 0, me)
#endif
        :: else -> assert(c > 1); event = FULL; cas(s, o, c - 1, b, holder)
        fi;
        if
        :: done -> break
        :: else
        fi
    od;
    forget_word();
    b = 0;
    if
    :: event == FREE -> remove_bit(class)
    :: else
    fi;
#ifdef HINT_FIRST
    if
    :: IS_SHARED(event) -> shared_add()
    :: else
    fi;
#endif
    settle(false)
}

inline free_remote()
{
    load_word();
    do
    :: c <= 1 -> decide(); break
    :: else ->
        next[b] = h;
        cas(s, o, c - 1, b, holder);
        if
        :: done -> break
        :: else
        fi
    od
}

/* A waiting pool that has become worth queuing, or is taken back so, is queued or, where there are too
 * many, given up (as the oldest is). */
inline queue()
{
    if
    :: where = QUEUED
    :: true -> let_go()
    fi
}

inline local_free()
{
    d_step { HOLDS; next[b] = own_list; own_list = b; assert(live > 0); live-- };
    if
    :: where == WAITING && live == BLOCKS - THRESHOLD -> queue()
    :: where == QUEUED && live == 0 -> let_go()
    :: else
    fi
}

inline take_back()
{
    load_word();
    do
    :: s != FULL || o != me -> done = false; break
    :: else ->
        cas(ACTIVE, me, CREDITS, 0, me);
        if
        :: done ->
            d_step {
                HOLDS;
                n = THRESHOLD - c + 1;
                next[b] = h;
                own_list = b;
                live = BLOCKS - n
            };
            owner = me;
            mine = class;
            if
            :: n >= THRESHOLD -> n = 0; queue()
            :: else -> n = 0; where = WAITING
            fi;
            done = true;
            break
        :: else
        fi
    od
}

inline free_home()
{
    load_word();
    done = false;
    if
    :: s == FULL -> take_back()
    :: true /* it was not, or this heap filled it not, or holds too many */
    fi;
    if
    :: !done -> free_remote()
    :: else
    fi
}

inline free()
{
    if
    :: owner == me -> local_free()
    :: else ->
        if
        :: home == me -> free_home()
        :: else -> free_remote()
        fi
    fi
}

/* ---- Purging ---- */

/* Pages, here blocks, that may go: any of those on the list, as some pages are not whole. */
inline find_holes()
{
    atomic {
        HOLDS;
#ifdef HOLE_OF_LIVE
        pages = ((1 << frontier) - 1) & (EVERY - holes);
#else
        at = own_list;
        do
        :: at == 0 -> break
        :: at != 0 -> pages = pages | BIT(at); at = next[at]
        :: at != 0 -> at = next[at]
        od
#endif
    }
}

/* b: the last block so far that stays. */
inline make_holes()
{
    d_step {
        HOLDS;
        at = own_list;
        do
        :: at == 0 -> break
        :: else ->
            if
            :: (pages & BIT(at)) != 0 ->
                holes = holes | BIT(at);
                carved--;
#ifndef HOLE_ON_LIST
                if
                :: b == 0 -> own_list = next[at]
                :: else -> next[b] = next[at]
                fi
#endif
            :: else -> b = at
            fi;
            at = next[at]
        od;
        b = 0
    }
}

inline purge_pages()
{
    d_step {
        assert((held & pages) == 0);
        for (at : 1 .. BLOCKS) {
            if
            :: (pages & BIT(at)) != 0 -> next[at] = 0
            :: else
            fi
        }
        at = 0;
        pages = 0
    }
}

inline purge_pool()
{
    adopt_word(PURGER);
    if
    :: done ->
        find_holes();
        if
        :: pages != 0 ->
            make_holes();
#ifndef PURGE_LATE
            purge_pages()
#endif
        :: else
        fi;
        give_up(PURGER);
#ifdef PURGE_LATE
        purge_pages();
#endif
        if
        :: event == FREE -> remove_bit(class)
        :: event == SPARSE -> event = SHARED /* is not hinted at as sparse again */
        :: else
        fi;
        settle(false)
    :: else
    fi
}

#ifdef HINTED
/* By a hint, or, as fh_trim(), without. */
inline purge()
{
    if
    :: sparse_arena ->
        done = false;
        d_step {
            if
            :: sparse -> sparse = false; done = true
            :: else
            fi
        };
        if
        :: done -> purge_pool()
        :: else
        fi;
        if
        :: !sparse -> forget_sparse_arena()
        :: else
        fi
    :: true -> purge_pool()
    fi
}
#define MAY_PURGE (IS_SHARED(state) || sparse_arena)
#else
#define purge purge_pool
#define MAY_PURGE IS_SHARED(state)
#endif

/* ---- The threads ---- */

inline check_lists()
{
    /* Every block is in one place: held, in a list, or not carved. */
    if
    :: !used -> assert(held == 0 && state == FREE && holder == 0)
    :: else ->
        if
        :: state == FREE -> assert(held == 0) /* a spare run */
        :: else ->
            h = held;
            for (n : 0 .. THREADS + 1) {
                if
                :: n < THREADS -> at = ready[n]
                :: n == THREADS -> at = own_list
                :: else -> at = head
                fi;
                if
                :: n == THREADS && state != ACTIVE -> at = 0 /* it went to the word's list */
                :: else
                fi;
                do
                :: at == 0 -> break
                :: else -> assert((h & BIT(at)) == 0); h = h | BIT(at); at = next[at]
                od
            }
            assert((h & holes) == 0);
            h = h | holes;
            for (n : frontier + 1 .. BLOCKS) {
                assert((h & BIT(n)) == 0);
                h = h | BIT(n)
            }
            assert(h == EVERY)
        fi
    fi
}

inline check_sparse()
{
#ifdef HINTED
    assert(state != SPARSE || sparse || looked);
    assert(!sparse || sparse_arena)
#else
    skip
#endif
}

inline check_state()
{
    assert((state == ACTIVE) == (holder != 0 && state != FREE));
    assert(state != ACTIVE || owner == holder && word_owner == holder);
    if
    :: IS_SHARED(state) || state == FULL ->
        assert(owner == 0 && held != 0);
        count_list(head, n);
        n = n + BLOCKS - carved;
        if
        :: state == FULL -> assert(n < THRESHOLD && credits == THRESHOLD - n)
        :: else ->
            n = BLOCKS - n;
            assert(LIVE_OF(state, credits) == n && state == LEVEL(n));
            assert(shared[class] && arenas[class])
        fi
    :: else
    fi;
    check_sparse()
}

inline end_call()
{
    d_step {
        inside--;
        s = 0; o = 0; c = 0; h = 0; n = 0; at = 0; b = 0; list = 0; k2 = 0; done = false; event = FULL;
        if
        :: inside == 0 -> check_lists(); check_state()
        :: else
        fi;
        h = 0; n = 0; at = 0;
        if
        :: where == NONE -> mine = 0
        :: else
        fi
    }
}

/* me: thread + 1, as the word has it. */
proctype thread(byte me)
{
    byte s, o, c, h;    /* the word, as loaded */
    byte list, b, at, n, k2, event = FULL;
    byte pages;         /* to be purged */
    byte where, mine;   /* where the pool is in this heap, and in the bin of which class */
    bool done, spare;
    do
    :: inside++;
        take(0);
progress_1:
        end_call()
#if CLASSES > 1
    :: inside++;
        take(1);
progress_2:
        end_call()
#endif
    :: atomic { held != 0 -> inside++;
            if
            :: (held & 1) -> b = 1
            :: (held & 2) -> b = 2
            :: (held & 4) -> b = 3
            :: (held & 8) -> b = 4
            fi;
            held = held & (EVERY - BIT(b)) };
        free();
progress_3:
        end_call()
    :: atomic { MAY_PURGE -> inside++ };
        purge();
progress_6:
        end_call()
    :: atomic { where != NONE -> inside++ };
        let_go();
progress_4:
        end_call()
    :: atomic { spare -> inside++; assert(holder == me && held == 0); spare = false; holder = 0;
            used = false };
progress_5:
        end_call()
    od
}

init { atomic { byte i = 1; do :: i <= THREADS -> run thread(i); i++ :: else -> break od } }
