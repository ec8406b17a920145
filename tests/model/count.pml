/* SPDX-License-Identifier: MIT */
/* The biased count of one object, and the queue of its owner: src/object/count.c, stop.c, space.c.
 *
 * Thread 0 has the slot that the object names as its owner; OTHERS more are attached by slots of their
 * own. Whoever has a reference takes another one, gives one to another thread, drops one, or makes the
 * object weak; thread 0 also comes to safe points, parks, unparks and at last detaches. Each is a few
 * times at most (STEPS). Loads and compare-and-swaps are single steps, and so is each plain access that
 * another thread could see.
 *
 * The others may each queue another object of that slot, of which only this is modelled: that it is in
 * the queue.
 *
 * Checked: the object is not touched once it is freed; it is freed when no reference is left, not
 * before; when all have dropped theirs and thread 0 has detached, it has been.
 *
 * Mutants: NO_RELOOK (a thread that parks or detaches does not look at its queue after that), NO_AGAIN
 * (nor does who has borrowed a slot, after giving it back), NO_BORROW (nobody merges for a thread that
 * is parked), BORROW_HELD (also the slots of threads that run are borrowed), UNPARK_BORROWED (a thread
 * that comes back takes its slot though it is borrowed), OWNER_LATE (a merger writes `owner` after the
 * compare-and-swap), MERGE_BY_STORE (instead of that), BELOW_ZERO (others count below zero
 * instead of queueing), FORGET_QUEUED (merging does not drop the queue's reference).
 */
#ifndef OTHERS
#define OTHERS 2
#endif
#ifndef STEPS
#define STEPS 2 /* of each thread, before it drops what it has */
#endif
#ifndef FIRST
#define FIRST 2 /* references that thread 0 begins with */
#endif
#define THREADS (OTHERS + 1)

/* The shared word's states. */
#define INIT   0
#define WEAK   1
#define QUEUED 2
#define MERGED 3

/* The slot's. */
#define FREE            0
#define HELD            1
#define PARKED          2
#define BORROWED        3
#define BORROWED_PARKED 4

byte own_count = FIRST;
bool owned = true; /* `owner` names the slot */
byte state = INIT;
short count;
byte slot = HELD;
bool queue;       /* the object is in it */
bool queue_other; /* another one is */

bool freed;          /* ghosts */
byte refs[THREADS];
byte queued_refs;
bool ended[THREADS];
byte ended_count;

#define TOUCH assert(!freed)

inline free_it()
{
    d_step {
        TOUCH;
        freed = true;
        sum = queued_refs;
        i = 0;
        do
        :: i < THREADS -> sum = sum + refs[i]; i++
        :: else -> break
        od;
        assert(sum == 0);
        sum = 0;
        i = 0
    }
}

/* The CAS that ends in MERGED; `add` is what it adds to the count. */
inline merge(add, is_from_queue)
{
    do
    :: atomic {
#ifndef MERGE_BY_STORE
        state == s && count == c ->
#endif
            TOUCH;
            state = MERGED;
            count = c + add; /* the store of MERGE_BY_STORE forgets what changed since */
            queued_refs = queued_refs - is_from_queue;
            dead = (count == 0);
            break
        }
#ifndef MERGE_BY_STORE
    :: else -> d_step { TOUCH; s = state; c = count }
#endif
    od;
    skip;
    d_step { s = 0; c = 0 }
}

/* By the holder or the borrower. */
inline drain()
{
    dead = false;
    atomic { taken = queue; queue = false; queue_other = false };
    if
    :: taken ->
        d_step { TOUCH; s = state; c = count };
        add_local = 0;
        was_merged = (s == MERGED);
        if
        :: !was_merged ->
            add_local = own_count;
            d_step { TOUCH; own_count = 0 };
#ifndef OWNER_LATE
            d_step { TOUCH; owned = false }
#endif
        :: else
        fi;
#ifdef FORGET_QUEUED
        merge(add_local, 1);
#else
        merge(add_local - 1, 1);
#endif
#ifdef OWNER_LATE
        if
        :: !was_merged -> d_step { TOUCH; owned = false }
        :: else
        fi;
#endif
        if
        :: dead -> free_it()
        :: else
        fi;
        d_step { taken = false; add_local = 0; was_merged = false; dead = false }
    :: else
    fi
}

inline settle()
{
    do
    ::
        if
        :: !queue && !queue_other -> break
        :: else
        fi;
        if
        :: atomic { slot == PARKED -> slot = BORROWED_PARKED }
        :: atomic { slot == FREE -> slot = BORROWED }
#ifdef BORROW_HELD
        :: atomic { slot == HELD -> slot = BORROWED_PARKED }
#endif
        :: else -> break
        fi;
        drain();
        atomic {
            if
            :: slot == BORROWED_PARKED -> slot = PARKED
            :: else -> slot = FREE
            fi
        };
#ifdef NO_AGAIN
        break
#endif
    od
}

inline leave(to)
{
    do
    ::
        drain();
        slot = to;
#ifdef NO_RELOOK
        break;
#endif
        if
        :: !queue && !queue_other -> break
        :: else
        fi;
        if
        :: atomic { slot == to -> slot = HELD }
        :: else -> break
        fi
    od
}

inline drop_own()
{
    d_step { TOUCH; own_count--; refs[me]-- };
    if
    :: own_count == 0 ->
        d_step { TOUCH; s = state; c = count };
        if
        :: s == INIT && c == 0 -> free_it()
        :: else ->
#ifndef OWNER_LATE
            d_step { TOUCH; owned = false };
#endif
            merge(0, 0);
#ifdef OWNER_LATE
            d_step { TOUCH; owned = false };
#endif
            if
            :: dead -> free_it()
            :: else
            fi
        fi;
        d_step { s = 0; c = 0; dead = false }
    :: else
    fi
}

inline drop_shared()
{
    was_owned = owned;
    d_step { TOUCH; s = state; c = count };
    do
#ifndef BELOW_ZERO
    :: s <= WEAK && c == 0 ->
        if
        :: atomic {
            state == s && count == c ->
                TOUCH;
                assert(was_owned); /* it is known whose queue it is */
                state = QUEUED;
                refs[me]--;
                queued_refs++
            };
            queue = true;
#ifndef NO_BORROW
            settle();
#endif
            break
        :: else -> d_step { TOUCH; s = state; c = count }
        fi
    :: s > WEAK || c != 0 ->
#else
    ::
#endif
        if
        :: atomic {
            state == s && count == c ->
                TOUCH;
                count = c - 1;
                refs[me]--;
                dead = (state == MERGED && count == 0)
            };
            if
            :: dead -> free_it()
            :: else
            fi;
            break
        :: else -> d_step { TOUCH; s = state; c = count }
        fi
    od;
    skip;
    d_step { s = 0; c = 0; dead = false; was_owned = false }
}

inline drop()
{
    if
    :: is_holder && owned -> drop_own()
    :: else -> drop_shared()
    fi
}

inline take()
{
    if
    :: is_holder && owned -> d_step { TOUCH; own_count++; refs[me]++ }
    :: else -> d_step { TOUCH; count++; refs[me]++ }
    fi
}

inline park()
{
    leave(PARKED);
    do
    :: atomic { slot == PARKED -> slot = HELD; break }
#ifdef UNPARK_BORROWED
    :: atomic { slot == BORROWED_PARKED -> slot = HELD; break }
#else
    :: slot == BORROWED_PARKED -> /* take another slot, and leave this one */
        is_holder = false;
        do
        :: atomic { slot == BORROWED_PARKED -> slot = BORROWED; break }
        :: atomic { slot == PARKED -> slot = FREE; break }
        od;
        break
#endif
    od;
    if
    :: is_holder -> drain()
    :: else
    fi
}

proctype thread(byte me)
{
    byte steps, to, sum, i, s, add_local;
    short c;
    bool is_holder = (me == 0), dead, taken, was_merged, was_owned;
    do
    :: steps < STEPS && refs[me] > 0 -> take(); steps++
    :: steps < STEPS && refs[me] > 0 -> drop(); steps++
    :: steps < STEPS && refs[me] > 0 ->
        steps++;
        to = 0;
        do
        :: to < THREADS - 1 -> to++
        :: break
        od;
        atomic {
            if
            :: to != me && !ended[to] -> refs[me]--; refs[to]++
            :: else
            fi;
            to = 0
        }
    :: steps < STEPS && refs[me] > 0 ->
        steps++;
        if
        :: atomic { state == INIT -> TOUCH; state = WEAK }
        :: else
        fi
    :: steps < STEPS && is_holder -> steps++; drain()
    :: steps < STEPS && is_holder -> steps++; park()
    :: steps < STEPS && me != 0 ->
        steps++;
        queue_other = true;
#ifndef NO_BORROW
        settle()
#endif
    :: atomic { refs[me] == 0 -> ended[me] = true; break }
    :: steps == STEPS && refs[me] > 0 -> drop()
    od;
    if
    :: is_holder -> leave(FREE)
    :: else
    fi;
    ended_count++
}

init
{
    atomic {
        byte n = 0;
        refs[0] = FIRST;
        do
        :: n < THREADS -> run thread(n); n++
        :: else -> break
        od
    };
    ended_count == THREADS;
    assert(freed && !queue && !queue_other)
}
