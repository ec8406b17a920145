/* SPDX-License-Identifier: MIT */
/* One arena of POOLS pools: its words `used` and `dirty`, and the hints ROOM, EMPTY and DIRTY about it.
 * src/arena/arena.c and the part of src/arena/purge.c that deals with one arena. Each hint is one bit
 * here; hints.pml shows that the tree above that bit is right.
 *
 *   set_hint, forget   fh_hints_set(); forget(), forget_room(), forget_empty()
 *   claim              fh_arena_claim(), claim_arena(), claim_in(); a run of 1 or 2 pools or the arena
 *   claim_at           fh_arena_claim_at(), for extend and purge
 *   claim_whole        claim_whole() of fh_arenas_claim(); `roll_back` is release_whole()
 *   note_claim, note_release
 *   release            release_bits(); release_dirty() is what stands around it in `give_back`
 *   give_back          fh_arena_release(), of all that the thread holds or of its highest pool;
 *                      fh_arenas_release() of an arena of which only the lowest pools were touched
 *   purge              purge_arena(), purge_run(); forget_dirty is its forget()
 *
 * Checked: no pool has two holders. A claim said to be zeroed is: `content` has a bit for each pool
 * that does not read as zero. When no call is in progress: what is used is held; every free pool with
 * content is dirty; an arena with a free pool has ROOM, an empty one EMPTY, one with a free dirty pool
 * DIRTY; and retained counts those.
 *
 * Mutants: CLEAR_ONLY (a stale hint is cleared without a second look), LOOK_FIRST, RELEASE_FIRST (the bit
 * in `used` is cleared before the one in `dirty` is set), CLEAN_LATE (a purge clears `dirty` after it
 * released the pools), ROLL_BACK_SILENT (release_whole() and fh_arena_release_clean() leave it to others
 * to hint at what is dirty), SHRINK_FORGETS (a block of whole arenas that shrank is released with only
 * its last size as touched), CLAIM_BY_STORE.
 */
#ifndef THREADS
#define THREADS 2
#endif
#ifndef POOLS
#define POOLS 3
#endif
#define ALL ((1 << POOLS) - 1)
#define TOP (1 << (POOLS - 1))
#define ROOM 0
#define EMPTY 1
#define DIRTY 2

byte used, dirty, content;
short retained;
bool hint[3];
byte held[THREADS];
byte inside; /* calls in progress */

#define COUNT(bits) (((bits) & 1) + (((bits) >> 1) & 1) + (((bits) >> 2) & 1))

inline set_hint(which)
{
    if
    :: hint[which]
    :: else -> hint[which] = true
    fi
}

/* `still`: the hint is right; evaluated in the step that loads `used`. */
inline forget(which, still)
{
#ifdef LOOK_FIRST
    right = still;
    hint[which] = false;
#else
    hint[which] = false;
    right = still;
#endif
#ifdef CLEAR_ONLY
    right = false;
#endif
    if
    :: right -> set_hint(which)
    :: else
    fi
}

inline note_claim(bits)
{
    seen = dirty & (bits);
    if
    :: seen != 0 -> retained = retained - COUNT(seen)
    :: else
    fi
}

inline note_release(bits)
{
    seen = dirty & (bits);
    if
    :: seen != 0 -> retained = retained + COUNT(seen)
    :: else
    fi
}

/* The CAS on `used`. Ghost: the holder, from then on. */
inline cas_claim(bits)
{
    d_step {
        if
#ifdef CLAIM_BY_STORE
        :: true ->
#else
        :: used == word ->
#endif
            used = word | (bits);
            claimed = true;
            for (other : 0 .. THREADS - 1) { assert((held[other] & (bits)) == 0) }
            held[me] = held[me] | (bits)
        :: else -> word = used
        fi;
        other = 0
    }
}

/* The lowest run of `pools` free ones, a dirty first pool before others. */
inline choose_run(pools)
{
    d_step {
        part = 0;
        other = 0;
        seen = 0;
        do
        :: other + pools > POOLS -> break
        :: else ->
            word2 = ((1 << (pools)) - 1) << other;
            if
            :: (word & word2) == 0 && (part == 0 || (!seen && (dirty & (1 << other)))) ->
                part = word2;
                seen = (dirty & (1 << other)) != 0
            :: else
            fi;
            other++
        od;
        other = 0; word2 = 0; seen = 0
    }
}

inline claim(pools, set)
{
    if
    :: hint[set] ->
        word = used;
        do
        :: choose_run(pools);
            if
            :: part == 0 ->
                if
                :: word == ALL -> forget(ROOM, used != ALL)
                :: else
                fi;
                break
            :: else ->
                cas_claim(part);
                if
                :: claimed -> break
                :: else
                fi
            fi
        od;
        if
        :: claimed ->
            note_claim(part);
            assert(seen != 0 || (content & part) == 0)
        :: !claimed && set == EMPTY -> forget(EMPTY, used == 0)
        :: else
        fi
    :: else /* a new arena is opened */
    fi
}

inline claim_at(bits)
{
    word = used;
    do
    :: (word & (bits)) != 0 -> break
    :: else ->
        cas_claim(bits);
        if
        :: claimed -> note_claim(bits); break
        :: else
        fi
    od
}

inline release(bits)
{
    note_release(bits);
    d_step { assert((used & (bits)) == (bits)); used = used & (ALL - (bits)); word = used;
             held[me] = held[me] & (ALL - (bits)) };
    set_hint(ROOM);
    if
    :: word == 0 -> set_hint(EMPTY)
    :: else
    fi
}

/* What a release owes to `dirty` when it adds nothing to it. */
inline hint_if_dirty(bits)
{
#ifdef ROLL_BACK_SILENT
    skip
#else
    if
    :: (dirty & (bits)) != 0 -> set_hint(DIRTY)
    :: else
    fi
#endif
}

inline give_back(bits, touched)
{
#ifdef RELEASE_FIRST
    release(bits);
#endif
    if
    :: (dirty & (touched)) != (touched) -> dirty = dirty | (touched)
    :: else
    fi;
#ifndef RELEASE_FIRST
    release(bits);
#endif
    set_hint(DIRTY)
}

inline claim_whole()
{
    word = 0;
    cas_claim(ALL);
    if
    :: claimed -> note_claim(ALL); assert(seen != 0 || content == 0)
    :: else
    fi
}

inline load_purgeable()
{
    seen = dirty;
    d_step { free_dirty = seen & (ALL - used); seen = 0 }
}

inline purge()
{
    load_purgeable();
    old = free_dirty;
    if
    :: true
    :: old = 0 /* too young */
    fi;
    do
    :: old == 0 -> break
    :: else ->
        /* The lowest run in old. */
        d_step {
            part = old & 1;
            if
            :: part == 0 -> part = old & 2
            :: else
            fi;
            if
            :: part == 0 -> part = old & 4
            :: else
            fi;
            part = part | ((part << 1) & old);
            part = part | ((part << 1) & old)
        }
        claimed = false;
        claim_at(part);
        if
        :: claimed ->
            if
            :: d_step { content = content & (ALL - part) };
#ifdef CLEAN_LATE
                release(part);
                dirty = dirty & (ALL - part);
#else
                dirty = dirty & (ALL - part);
                release(part);
#endif
            :: true -> /* the system refuses */
                release(part);
            fi;
            hint_if_dirty(part)
        :: else
        fi;
        old = old & (ALL - part);
        load_purgeable();
        old = old & free_dirty
    od;
    if
    :: free_dirty == 0 -> /* forget_dirty */
        hint[DIRTY] = false;
        load_purgeable();
#ifdef CLEAR_ONLY
        free_dirty = 0;
#endif
        if
        :: free_dirty != 0 -> set_hint(DIRTY)
        :: else
        fi
    :: else
    fi
}

inline end_call()
{
    d_step {
        inside--;
        word = 0; seen = 0; part = 0; claimed = 0; right = 0; old = 0; free_dirty = 0;
        if
        :: inside == 0 ->
            for (other : 0 .. THREADS - 1) { word = word | held[other] }
            assert(used == word);
            assert((content & (ALL - used) & (ALL - dirty)) == 0);
            assert(used == ALL || hint[ROOM]);
            assert(used != 0 || hint[EMPTY]);
            assert((dirty & (ALL - used)) == 0 || hint[DIRTY]);
#if !defined(RELEASE_FIRST) && !defined(CLEAN_LATE) /* they shall be found out by what they break first */
            assert(retained == COUNT(dirty & (ALL - used)));
#endif
            word = 0
        :: else
        fi;
        other = 0
    }
}

proctype thread(byte me)
{
    byte word, word2, seen, part, old, free_dirty, other;
    bool claimed, right;
    bool whole;     /* what is held is a block of whole arenas */
    byte touched;   /* its pools that may have been written to: the lowest, and those of its size */
    do
    :: atomic { held[me] == 0 -> inside++ };
        if
        :: true -> claim(1, ROOM)
        :: true -> claim(2, ROOM)
        :: true -> claim(POOLS, EMPTY)
        :: true -> claim_whole();
            if
            :: claimed ->
                if
                :: whole = true; touched = 1
                :: whole = true; touched = 3
                :: release(ALL); hint_if_dirty(ALL) /* roll_back: the next arena was not to be had */
                fi
            :: else
            fi
        :: true -> purge()
        fi;
        if
        :: held[me] != 0 -> d_step { /* the caller writes; not before it has it */
                if
                :: whole -> content = content | touched
                :: else -> content = content | held[me]
                fi }
        :: else
        fi;
progress_1:
        end_call()
    :: atomic { held[me] != 0 && !whole && held[me] < TOP -> inside++ };
        d_step { part = (held[me] << 1) & (ALL - held[me]) };
        claim_at(part);
        content = content | held[me];
progress_2:
        end_call()
    :: atomic { held[me] != 0 && !whole -> inside++ };
        if
        :: part = held[me]
        :: d_step { held[me] > TOP -> part = TOP }
        :: d_step { held[me] == 3 && TOP != 2 -> part = 2 }
        fi;
        give_back(part, part);
progress_3:
        end_call()
    :: atomic { whole -> inside++ };
        give_back(ALL, touched);
        d_step { whole = false; touched = 0 };
progress_4:
        end_call()
    :: atomic { whole && touched == 3 -> /* shrink within the arena */
            inside++;
#ifdef SHRINK_FORGETS
            touched = 1
#endif
        };
progress_5:
        end_call()
    od
}

init { atomic { byte n = 0; hint[ROOM] = true; hint[EMPTY] = true;
        do :: n < THREADS -> run thread(n); n++ :: else -> break od } }
