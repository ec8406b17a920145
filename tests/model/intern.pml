/* SPDX-License-Identifier: MIT */
/* Interned strings: src/object/intern.c, in free mode.
 *
 * One bucket, and all strings are equal. Each of THREADS threads makes a string, interns it, perhaps
 * makes it immortal, and drops what it got, ROUNDS times. String and node k are the ones made k-th; the
 * memory of nodes is kept, as until a stop of the world. `count` stands for all of a string's
 * references (tests/model/count.pml has what is behind that): fh_object_try_incref() fails at 0.
 *
 * A node: dead and readers are its word; link_last is LAST_LINK, in one word with `next`.
 *
 * Checked: no two strings that live are in the table at once; no string is looked at, or freed, after
 * it was freed; what is interned and lives can be reached from the head; no node is taken out twice; in
 * the end all memory but of immortal strings was freed.
 *
 * Mutants: NO_ENTER (readers do not say that they look), ENTER_DEAD (they do not see that it is dead),
 * FREE_AT_ONCE (who drops the last reference does not look for readers), NO_TRY (a count of 0 is
 * incremented), NO_RESCAN (what came in between is not looked at), KEEP_UNCOUNTED (immortal without a
 * reference of the table's), LINK_OF_DEAD (a node is taken out by a link of a dead one).
 */
#ifndef THREADS
#define THREADS 2
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#define STRINGS (THREADS * ROUNDS + 1) /* from 1 on */

byte made;
byte head;
byte next[STRINGS];
bool link_last[STRINGS];
bool dead[STRINGS];
bool kept[STRINGS];
byte readers[STRINGS];
byte count[STRINGS];
bool freed[STRINGS];    /* ghosts from here on */
bool interned[STRINGS];
bool out[STRINGS];
byte at_end;
byte ghost, walk;

/* Of those interned that live, at most one; and it is in the chain. */
inline check_table()
{
    d_step {
        byte live = 0;
        ghost = 1;
        do
        :: ghost < STRINGS ->
            if
            :: interned[ghost] && count[ghost] > 0 ->
                assert(live == 0);
                live = ghost;
                walk = head;
                do
                :: walk != 0 && walk != ghost -> walk = next[walk]
                :: else -> break
                od;
                assert(walk == ghost)
            :: else
            fi;
            ghost++
        :: else -> break
        od;
        ghost = 0;
        walk = 0;
        live = 0
    }
}

inline free(string)
{
    d_step { assert(!freed[string]); freed[string] = true }
}

inline leave_out_dead()
{
    link = 0;
    at = head;
    do
    :: at == 0 -> break
    :: else ->
        atomic { follows = next[at]; is_last = link_last[at] };
        if
        :: !is_last -> link = at
        :: else ->
            atomic {
                if
                :: link == 0 && head == at -> head = follows
#ifdef LINK_OF_DEAD
                :: link != 0 && next[link] == at -> next[link] = follows
#else
                :: link != 0 && next[link] == at && !link_last[link] -> next[link] = follows
#endif
                :: else -> break
                fi;
                assert(!out[at]);
                out[at] = true
            };
            check_table()
        fi;
        at = follows
    od;
    link = 0; at = 0; follows = 0; is_last = false
}

inline drop(string)
{
    atomic { assert(count[string] > 0); count[string]--; is_last = count[string] == 0 };
    if
    :: is_last && interned[string] ->
        atomic { dead[string] = true; is_last = readers[string] == 0 };
#ifdef FREE_AT_ONCE
        is_last = true;
#endif
        link_last[string] = true;
        if
        :: is_last -> free(string)
        :: else
        fi;
        leave_out_dead()
    :: is_last && !interned[string] -> free(string)
    :: else
    fi;
    is_last = false
}

/* got: a new reference to the node's string. */
inline match(node)
{
    got = false;
    if
    :: kept[node] -> is_in = false; got = true
    :: else ->
        atomic {
#ifdef ENTER_DEAD
            is_in = true;
#else
            is_in = !dead[node];
#endif
            got = is_in;
#ifdef NO_ENTER
            is_in = false
#endif
            readers[node] = readers[node] + is_in
        }
    fi;
    if
    :: got ->
        assert(!freed[node]); /* compares the text */
        atomic {
#ifdef NO_TRY
            count[node]++
#else
            got = count[node] > 0;
            count[node] = count[node] + got
#endif
        };
        if
        :: is_in ->
            atomic { readers[node]--; is_last = dead[node] && readers[node] == 0 };
            if
            :: is_last -> free(node)
            :: else
            fi
        :: else
        fi
    :: else
    fi;
    is_in = false; is_last = false
}

proctype thread()
{
    byte round, mine, found, seen, scanned, node;
    byte link, at, follows;
    bool got, is_in, is_last;
    do
    :: round < ROUNDS ->
        round++;
        d_step { made++; mine = made; count[mine] = 1 };
        found = 0;
        scanned = 0;
        seen = head;
scan:   node = seen;
        do
        :: node == 0 || node == scanned -> break
        :: else ->
            match(node);
            if
            :: got -> found = node; break
            :: else -> node = next[node]
            fi
        od;
        if
        :: found != 0 -> drop(mine)
        :: else ->
            scanned = seen;
            next[mine] = seen;
            atomic {
                if
                :: head == seen -> head = mine; interned[mine] = true; found = mine
                :: else ->
#ifdef NO_RESCAN
                    scanned = head;
#endif
                    seen = head
                fi
            };
            check_table();
            if
            :: found == 0 -> goto scan
            :: else
            fi
        fi;
        node = 0;
        assert(count[found] > 0 && !freed[found]);
        if
        :: true
        :: true -> /* for good */
#ifndef KEEP_UNCOUNTED
            atomic { count[found]++ };
#endif
            atomic { got = kept[found]; kept[found] = true };
#ifndef KEEP_UNCOUNTED
            if
            :: got -> drop(found)
            :: else
            fi
#endif
        fi;
        got = false;
        assert(!freed[found]);
        drop(found)
    :: else -> break
    od;
    at_end++
}

init
{
    byte n;
    atomic { do :: n < THREADS -> run thread(); n++ :: else -> break od };
    at_end == THREADS;
    n = 1;
    do
    :: n <= made -> assert(freed[n] == (count[n] == 0) && (count[n] == 0) == !kept[n]); n++
    :: else -> break
    od
}
