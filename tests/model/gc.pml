/* SPDX-License-Identifier: MIT */
/* Who runs which part of a collection's phases: src/object/gc_collect.c.
 *
 * A collector runs COLLECTIONS collections of PHASES phases each, with the world stopped; a phase has a
 * part for each slot that is there when the collection begins. Slot 0 is the collector's own. Each other
 * slot has a helper: a thread that comes to the space while the world goes on, with a slot of which no part
 * was ever claimed, and stops for a collection. It looks at the turn, claims its slot's part of it by a CAS,
 * and runs that; or it sleeps. It may take long over each step, also beyond the end of the collection that
 * it came for. The collector claims what nobody has begun. The turn's number and its phase are one word.
 *
 * Checked: each part of each phase is run once, while no other phase is; so that phases never mix, and
 * what a helper has seen of an earlier one does no harm.
 *
 * Mutants: CLAIM_BY_STORE (the part is taken by a store after a look), NO_WAIT (the next phase begins
 * before all parts are done), TWO_WORDS (number and phase are written and read one after the other),
 * ANY_TURN (what is claimed is a part, whatever turn it is of).
 */
#ifndef SLOTS
#define SLOTS 3
#endif
#ifndef PHASES
#define PHASES 2
#endif
#ifndef COLLECTIONS
#define COLLECTIONS 2
#endif

byte turn;
byte phase; /* 0: none */
byte unfinished;
byte claimed[SLOTS]; /* the last turn of which the slot's part was begun */
bool is_there[SLOTS];
bool stopped;

byte now;         /* ghost: the phase that the collector is at */
byte runs[SLOTS]; /* ghost: how often the slot's part of it was run */

inline run_part(slot, its)
{
    d_step { assert(its == now); assert(its != 0); runs[slot]++; assert(runs[slot] == 1) };
    unfinished--
}

inline next_turn(its)
{
#ifdef TWO_WORDS
    phase = its;
    turn++
#else
    d_step { turn++; phase = its }
#endif
}

/* To `claims`: whether the part of turn `wanted` is the caller's. */
inline claim(slot, wanted, seen, claims)
{
    seen = claimed[slot];
    claims = false;
    if
#ifdef ANY_TURN
    :: seen != wanted ->
#else
    :: seen < wanted ->
#endif
#ifdef CLAIM_BY_STORE
        claimed[slot] = wanted;
        claims = true
#else
        if
        :: atomic { claimed[slot] == seen -> claimed[slot] = wanted; claims = true }
        :: else
        fi
#endif
    :: else
    fi
}

active proctype collector()
{
    byte slot, seen, collection, its, counted;
    bool claims;
    bool listed[SLOTS];
    do
    :: collection < COLLECTIONS ->
        d_step {
            stopped = true;
            collection++;
            its = 1;
            is_there[0] = true;
            slot = 0;
            counted = 0;
            do
            :: slot < SLOTS -> listed[slot] = is_there[slot]; counted = counted + is_there[slot]; slot++
            :: else -> break
            od
        };
        do
        :: its <= PHASES ->
            d_step {
                now = its;
                slot = 0;
                do :: slot < SLOTS -> runs[slot] = 0; slot++ :: else -> break od;
                unfinished = counted
            };
            next_turn(its);
            slot = 0;
            do
            :: slot < SLOTS && listed[slot] ->
                claim(slot, turn, seen, claims);
                if
                :: claims -> run_part(slot, its)
                :: else
                fi;
                slot++
            :: slot < SLOTS && !listed[slot] -> slot++
            :: else -> break
            od;
#ifdef NO_WAIT
            skip;
#else
            unfinished == 0;
#endif
            d_step {
                slot = 0;
                do
                :: slot < SLOTS -> assert(runs[slot] == listed[slot]); slot++
                :: else -> break
                od;
                now = 0
            };
            its++
        :: else -> break
        od;
        next_turn(0);
        stopped = false
    :: else -> break
    od
}

proctype helper(byte slot)
{
    byte wanted, seen, its;
    bool claims;
    if
    :: atomic { !stopped -> is_there[slot] = true }
    :: goto done
    fi;
    if
    :: stopped
    :: goto done
    fi;
    do
    ::
#ifdef TWO_WORDS
        wanted = turn;
        its = phase;
#else
        d_step { wanted = turn; its = phase };
#endif
        if
        :: its != 0 ->
            claim(slot, wanted, seen, claims);
            if
            :: claims -> run_part(slot, its)
            :: else
            fi
        :: else
        fi
    :: break
    od;
done: skip
}

init { atomic { byte n = 1; do :: n < SLOTS -> run helper(n); n++ :: else -> break od } }
