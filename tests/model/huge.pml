/* SPDX-License-Identifier: MIT */
/* Runs of whole arenas, claimed one by one: the end of src/arena/arena.c. An arena's word is 0, or ALL,
 * or, by a thread that needs a few pools, something else.
 *
 *   look               empty_arenas_from()
 *   claim_at           claim_arenas_at(), claim_whole(); the rollback is release_whole()
 *   claim, extend      fh_arenas_claim() without the hints, which arena.pml is about; fh_arenas_extend()
 *   release            fh_arenas_release(), of all or of the upper arenas
 *   small              fh_arena_claim() and fh_arena_release() of some pools
 *
 * A claim that finds no run would open new arenas. There are none here: it fails, and that ends the call.
 *
 * Checked: no arena has two holders, and only its holder releases it; when no call is in progress, what
 * is used is held. Under any scheduling calls end (--progress). With SUCCESS, in which each thread does
 * nothing but claim and release, and if none stops for ever (--fair): some claim succeeds, again and
 * again, though the threads are in each other's way.
 *
 * Mutants: NO_ROLL_BACK, ROLL_BACK_ONE_MORE (the arena that could not be claimed is released too),
 * CLAIM_UNSEEN (an arena is claimed whatever its word is), for --progress WAIT (for the next arena,
 * instead of the rollback), for SUCCESS --fair DOWNWARDS (every other thread claims from the top down).
 */
#ifndef THREADS
#define THREADS 2
#endif
#ifndef ARENAS
#define ARENAS 4
#endif
#define ALL 2
#define SOME 1

byte used[ARENAS];
byte holder[ARENAS];  /* ghost: thread + 1 */
byte held[THREADS];   /* how many arenas, from `first` on, the thread's caller has */
byte inside;

#define count held[me - 1]

inline look(from, wanted)
{
    found = 0;
    do
    :: found == wanted || from + found >= ARENAS -> break
    :: else ->
        if
        :: used[from + found] == 0 -> found++
        :: else -> break
        fi
    od
}

inline take_arena(at, value)
{
    d_step {
        if
#ifdef CLAIM_UNSEEN
        :: true ->
#else
        :: used[at] == 0 ->
#endif
            used[at] = value; assert(holder[at] == 0); holder[at] = me; done = true
        :: else -> done = false
        fi
    }
}

inline release_arena(at)
{
    d_step { assert(holder[at] == me); used[at] = 0; holder[at] = 0 }
}

#ifdef DOWNWARDS
#define NTH(from, arenas, n) ((me % 2) * ((from) + (n)) + (1 - me % 2) * ((from) + (arenas) - 1 - (n)))
#else
#define NTH(from, arenas, n) ((from) + (n))
#endif

/* Leaves done. */
inline claim_at(from, arenas)
{
    n = 0;
    do
    :: n == arenas -> break
    :: else ->
        take_arena(NTH(from, arenas, n), ALL);
        if
        :: done -> n++
        :: else ->
#ifndef WAIT
            break
#endif
        fi
    od;
    if
    :: n == arenas -> done = true
    :: else ->
        m = 0;
#ifdef ROLL_BACK_ONE_MORE
        n++;
#endif
#ifndef NO_ROLL_BACK
        do
        :: m == n -> break
        :: else -> release_arena(NTH(from, arenas, m)); m++
        od;
#endif
        done = false
    fi;
    n = 0; m = 0
}

inline claim(arenas)
{
    at = 0;
    do
    :: at + arenas > ARENAS -> done = false; break
    :: else ->
        look(at, arenas);
        if
        :: found == arenas ->
            claim_at(at, arenas);
            if
            :: done -> first = at; count = arenas; break
            :: else
            fi
        :: else
        fi;
        at = at + found + 1
    od
}

inline extend(more)
{
    if
    :: first + count + more <= ARENAS ->
        look(first + count, more);
        if
        :: found == more ->
            claim_at(first + count, more);
            if
            :: done -> count = count + more
            :: else
            fi
        :: else
        fi
    :: else
    fi
}

/* All but the lowest `kept`. */
inline release(kept)
{
    n = kept;
    do
    :: n == count -> break
    :: else -> release_arena(first + n); n++
    od;
    count = kept
}

inline end_call()
{
    d_step {
        inside--;
        at = 0; found = 0; n = 0; m = 0; done = false;
        if
        :: count == 0 -> first = 0
        :: else
        fi;
        if
        :: inside == 0 ->
            for (n : 0 .. ARENAS - 1) {
                assert((used[n] != 0) == (holder[n] != 0));
                if
                :: used[n] == ALL -> m++
                :: else
                fi
            }
            for (n : 0 .. THREADS - 1) { m = m - held[n] }
            assert(m == 0);
            n = 0
        :: else
        fi
    }
}

/* me: thread + 1. */
proctype thread(byte me)
{
    byte first;
    byte at, found, n, m;
    bool done;
    do
    :: atomic { count == 0 -> inside++ };
        if
        :: true -> claim(2)
#ifndef SUCCESS
        :: true -> claim(3)
#endif
        fi;
#ifdef SUCCESS
        if
        :: count != 0 ->
progress_1:
            skip
        :: else
        fi;
#else
progress_1:
#endif
        end_call()
#ifndef SUCCESS
    :: atomic { count != 0 -> inside++ };
        if
        :: true -> extend(1)
        :: true -> extend(2)
        fi;
progress_2:
        end_call()
    :: atomic { count > 1 -> inside++ };
        release(1);
progress_3:
        end_call()
#endif
    :: atomic { count != 0 -> inside++ };
        release(0);
#ifndef SUCCESS
progress_4:
#endif
        end_call()
    od
}

#ifdef SMALL
active proctype small()
{
    byte me = THREADS + 1, at;
    bool done;
    do
    :: atomic { inside++; if :: at = 0 :: at = 1 :: at = ARENAS - 1 fi };
        take_arena(at, SOME);
progress_1:
        inside--;
        if
        :: done ->
            inside++;
            release_arena(at);
progress_2:
            inside--
        :: else
        fi
    od
}
#endif

init { atomic { byte i = 1; do :: i <= THREADS -> run thread(i); i++ :: else -> break od } }
