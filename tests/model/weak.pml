/* SPDX-License-Identifier: MIT */
/* Getting an object by a weak reference while its last references go: src/object/weak.h, count.c.
 *
 * Thread 0 owns the object, has its one local reference and drops it at some time. GETTERS others get
 * and drop references, GETS times each. Whoever finds the last reference gone runs the finalizer, during
 * which there is a reference again; if it was the last after that too, makes the block DEAD, deallocs the
 * object and buries its memory. Loads and compare-and-swaps are single steps.
 *
 * Checked: who got a reference has an object that is not dealloc'ed; nobody touches an object's header
 * once its memory is freed; it is dealloc'ed and freed once, and both have happened when all have dropped
 * their references.
 *
 * Mutants: FAST_BY_COUNT (the owner takes a shared count of 0 for the end, though others may find the
 * object), NO_ENTER (getters do not enter), ENTER_DEAD (they also enter a dead block), TRY_DEAD (they
 * count up from a dead count), BURY_BLIND (who buries frees the memory though readers are inside),
 * LEAVE_BLIND (the last reader does not free it), LEAVE_EARLY (any reader that leaves does),
 * END_REVIVED (what somebody found during the finalizer ends all the same).
 */
#ifndef GETTERS
#define GETTERS 2
#endif
#ifndef GETS
#define GETS 2
#endif

#define WEAK   1
#define MERGED 3

bool owned = true;
byte state = WEAK, count;
byte readers;
bool is_dead, is_buried;
bool finalized;

bool dealloced, freed; /* ghosts */
byte ended_count;

#ifdef TRY_DEAD
#define SEEN_DEAD false
#else
#define SEEN_DEAD (s == MERGED && c == 0)
#endif

#define TOUCH assert(!freed)

inline free_memory()
{
    d_step { assert(!freed); assert(dealloced); freed = true }
}

inline end_it()
{
    if
    :: !finalized ->
        d_step { TOUCH; finalized = true };
        if
        :: state == MERGED -> d_step { TOUCH; count++ }
        :: else -> skip /* a local reference: nobody else can come by */
        fi;
        skip; /* others may find it, get it and drop it */
        if
        :: state == MERGED -> d_step { TOUCH; count--; last = (count == 0) }
        :: else -> skip
        fi;
#ifdef END_REVIVED
        last = true
#endif
    :: else
    fi;
    if
    :: last ->
        d_step { assert(!is_dead); is_dead = true };
        d_step { assert(!dealloced); dealloced = true };
        atomic { is_buried = true; mine = (readers == 0) };
#ifdef BURY_BLIND
        mine = true;
#endif
        if
        :: mine -> free_memory()
        :: else
        fi
    :: else
    fi
}

proctype owner()
{
    bool last, mine;
    byte s, c;
    d_step { TOUCH; s = state; c = count };
#ifdef FAST_BY_COUNT
    last = (c == 0);
#endif
    if
    :: !last ->
        d_step { TOUCH; owned = false };
        atomic { TOUCH; state = MERGED; last = (count == 0) } /* a loop of CAS: the one that succeeds */
    :: else
    fi;
    if
    :: last -> end_it()
    :: else
    fi;
    ended_count++
}

inline get()
{
    got = false;
    inside = true;
#ifndef NO_ENTER
    if
#ifdef ENTER_DEAD
    :: atomic { readers++ }
#else
    :: atomic { !is_dead -> readers++ }
    :: is_dead -> inside = false
#endif
    fi;
#endif
    if
    :: inside ->
        d_step { TOUCH; s = state; c = count };
        do
        :: SEEN_DEAD -> break
        :: atomic { !SEEN_DEAD && state == s && count == c -> TOUCH; count++; got = true; break }
        :: !SEEN_DEAD && !(state == s && count == c) -> d_step { TOUCH; s = state; c = count }
        od;
#ifndef NO_ENTER
        atomic { readers--; mine = (readers == 0 && is_buried) };
#ifdef LEAVE_EARLY
        mine = is_buried;
#endif
#ifndef LEAVE_BLIND
        if
        :: mine -> free_memory()
        :: else
        fi;
#endif
#endif
        mine = false
    :: else
    fi
}

proctype getter()
{
    bool got, inside, last, mine;
    byte s, c, gets;
    do
    :: gets < GETS ->
        gets++;
        get();
        if
        :: got ->
            assert(!dealloced);
            /* The count has this reference: it does not go below 0, and nothing is queued. */
            d_step { TOUCH; assert(!dealloced); count--; last = (state == MERGED && count == 0) };
            if
            :: last -> end_it()
            :: else
            fi;
            d_step { last = false; mine = false }
        :: else
        fi
    :: break
    od;
    ended_count++
}

init
{
    atomic {
        byte n = 0;
        run owner();
        do
        :: n < GETTERS -> run getter(); n++
        :: else -> break
        od
    };
    ended_count == GETTERS + 1;
    assert(dealloced && freed)
}
