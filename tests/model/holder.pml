/* SPDX-License-Identifier: MIT */
/* Who takes over the heap of a thread that died without a word: src/theap/holder.c.
 *
 * One heap. Threads are numbered by the system, which gives the number of a dead one to the next: here
 * there is a single number, so that each newcomer looks like the one before. A holder attaches the heap
 * if it is free (the word `holder`: its turn; busy until attached), works, and then leaves it in order,
 * or dies, inside a call or outside. After it another one may start. LOOKERS look for dead holders: load
 * the word, ask the system, CAS the word to nobody's, look whether the heap is busy, drain, release. A
 * looker may stop for ever at each step, as it may just not be run again.
 *
 * Checked: nobody drains a heap that somebody holds, or that was left in the middle of a call; no two
 * use it at once.
 *
 * Mutants: NO_TURN (the word is the thread's number alone), BY_LOOK (the word is read again instead of
 * the CAS, then stored), BUSY_TOO (heaps left inside a call are drained), ASK_FIRST (the word is
 * loaded after the system was asked).
 */
#ifndef LOOKERS
#define LOOKERS 2
#endif
#ifndef HOLDERS
#define HOLDERS 3 /* one after the other */
#endif

#ifdef NO_TURN
#define TURN 1
#else
#define TURN turn
#endif

byte holder;         /* 0: nobody's, else the turn */
bool is_free = true; /* the heap's bit in the set of free ones */
bool busy = true;
bool alive;          /* a thread of that number */
bool halfway;        /* ghost: lists half changed */
byte users;          /* ghost: threads that use the heap's fields */

active proctype holders()
{
    byte turn;
    do
    :: turn < HOLDERS ->
        turn++;
        alive = true;
        if
        :: atomic { is_free -> is_free = false; users++; assert(users == 1) };
            holder = TURN;
            do
            ::
progress_call:
                d_step { busy = false; users-- };
                if
                :: d_step { busy = true; users++; halfway = true; assert(users == 1) };
                    if
                    :: halfway = false
                    :: d_step { users--; alive = false }; goto dead /* inside a call */
                    fi
                :: alive = false; goto dead /* outside */
                fi
            :: break /* leaves in order, from inside its last call */
            od;
            holder = 0;
            d_step { users--; is_free = true; alive = false }
        :: alive = false /* never needed one */
        fi;
dead:   skip
    :: break
    od
}

proctype looker()
{
    byte seen;
    do
    :: 
#ifdef ASK_FIRST
        !alive;
        seen = holder;
#else
        seen = holder;
        !alive;
#endif
        if
        :: seen == 0
        :: else ->
#ifdef BY_LOOK
            if
            :: holder == seen -> holder = 0
            :: else -> goto progress_next
            fi;
#else
            if
            :: atomic { holder == seen -> holder = 0 }
            :: else -> goto progress_next
            fi;
#endif
            if
#ifndef BUSY_TOO
            :: busy /* set aside */
#endif
            :: 
#ifndef BUSY_TOO
                !busy ->
#endif
                d_step { busy = true; users++; assert(users == 1); assert(!halfway) };
                skip; /* drains */
                d_step { users--; is_free = true }
            fi
        fi;
progress_next:
        seen = 0
    :: break
    od
}

init { atomic { byte n = 0; do :: n < LOOKERS -> run looker(); n++ :: else -> break od } }
