/* SPDX-License-Identifier: MIT */
/* The tree of hints: src/arena/hints.c, with words of two bits and three levels.
 *
 *     word 6                 level 2
 *     words 4 5              level 1
 *     words 0 1 2 3          level 0, members 0..7; the threads use 0, 1, 2 and 5
 *
 *   mark      mark()             a load, and a read-modify-write if the bit is missing
 *   set       fh_hints_set()
 *   clear     fh_hints_clear()
 *   look      the lowest member that fh_hints_next() can find: a plain search down the marked words
 *
 * Quiet means: no call is in progress. Then every word that is not zero is marked in the word above, and
 * so fh_hints_next() finds the lowest member.
 *
 * PLAIN replaces each read-modify-write by a load and a store. To have but one bit a word, and so no
 * update that can get lost, it works with member 0 alone: without BUFFERS (every store at once seen by
 * everybody) that is correct. With BUFFERS each thread's stores wait in a buffer of its own, as they do
 * on x86-64, which is what the full barrier of the read-modify-writes is needed against.
 *
 * Mutants: NO_LOOK (clear without a second look), NO_UPPER (a clear that puts a bit back leaves those
 * above it out), LOOK_FIRST (the look before the clear), SET_DOWN (set from the top down), PLAIN BUFFERS.
 */
#ifndef THREADS
#define THREADS 2
#endif
#define WORDS 7

byte word[WORDS];
byte inside;          /* calls in progress */
byte lowest;          /* of the look */

#define AT(level, i)  (4 * (level) - (level) * ((level) - 1) + (i)) /* levels start at 0, 4, 6 */
#define BIT(i)        (1 << ((i) % 2))

#ifdef BUFFERS
#define SLOTS 2
byte slots[THREADS];                   /* stores that wait; oldest first */
byte where[THREADS * SLOTS], what[THREADS * SLOTS];

inline load(w, value)
{
    d_step {
        value = word[w];
        if
        :: slots[me] > 0 && where[me * SLOTS] == w -> value = what[me * SLOTS]
        :: else
        fi
        if
        :: slots[me] > 1 && where[me * SLOTS + 1] == w -> value = what[me * SLOTS + 1]
        :: else
        fi
    }
}

inline store(w, value)
{
    atomic {
        slots[me] < SLOTS;
        where[me * SLOTS + slots[me]] = w;
        what[me * SLOTS + slots[me]] = value;
        slots[me]++
    }
}

/* The processor writes the oldest store to memory when it likes. */
active proctype memory()
{
    byte thread;
end:
    do
    :: d_step { slots[0] > 0 -> thread = 0; word[where[0]] = what[0]; where[0] = where[1]; what[0] = what[1];
                slots[0]--; where[slots[0]] = 0; what[slots[0]] = 0 }
    :: d_step { slots[1] > 0 -> word[where[SLOTS]] = what[SLOTS]; where[SLOTS] = where[SLOTS + 1];
                what[SLOTS] = what[SLOTS + 1]; slots[1]--; where[SLOTS + slots[1]] = 0;
                what[SLOTS + slots[1]] = 0 }
    od
}
#define DRAINED (slots[0] == 0 && slots[1] == 0)
#else
#define load(w, value) value = word[w]
#define store(w, value) word[w] = value
#define DRAINED true
#endif

#ifdef PLAIN
#define MEMBER member = 0
inline fetch_or(w, bits) { load(w, before); store(w, before | (bits)) }
inline fetch_and_not(w, bits) { load(w, before); store(w, before & (3 - (bits))) }
#else
#define MEMBER if :: member = 0 :: member = 1 :: member = 2 :: member = 5 fi
inline fetch_or(w, bits) { d_step { before = word[w]; word[w] = before | (bits) } }
inline fetch_and_not(w, bits) { d_step { before = word[w]; word[w] = before & (3 - (bits)) } }
#endif

inline mark(level, i)
{
    load(AT(level, (i) / 2), seen);
    if
    :: (seen & BIT(i)) == 0 -> fetch_or(AT(level, (i) / 2), BIT(i))
    :: else
    fi
}

inline set()
{
#ifdef SET_DOWN
    mark(2, member / 4);
    mark(1, member / 2);
    mark(0, member)
#else
    mark(0, member);
    mark(1, member / 2);
    mark(2, member / 4)
#endif
}

/* Clear the bit of word `index` of the level below. */
inline forget(level, below)
{
#ifdef LOOK_FIRST
    load(AT(below, index), seen);
    fetch_and_not(AT(level, index / 2), BIT(index));
    emptied = (before & (3 - BIT(index))) == 0;
#else
    fetch_and_not(AT(level, index / 2), BIT(index));
    emptied = (before & (3 - BIT(index))) == 0;
    load(AT(below, index), seen);
#endif
#ifdef NO_LOOK
    seen = 0;
#endif
}

inline clear()
{
    index = member;
    fetch_and_not(AT(0, index / 2), BIT(index));
    emptied = (before & (3 - BIT(index))) == 0;
    index = index / 2;
    if
    :: emptied ->
        forget(1, 0);
        if
        :: seen != 0 ->
            mark(1, index);
#ifndef NO_UPPER
            mark(2, index / 2)
#endif
        :: else ->
            index = index / 2;
            if
            :: emptied ->
                forget(2, 1);
                if
                :: seen != 0 -> mark(2, index)
                :: else
                fi
            :: else
            fi
        fi
    :: else
    fi
}

/* From the top: what is marked and leads to nothing is passed over. */
inline look()
{
    lowest = 8;
    index = 8;
    do
    :: index == 0 -> break
    :: else ->
        index--;
        if
        :: (word[6] & BIT(index / 4)) && (word[4 + index / 4] & BIT(index / 2)) &&
           (word[index / 2] & BIT(index)) -> lowest = index
        :: else
        fi
    od
}

inline check_if_quiet()
{
    d_step {
        inside--;
        member = 0; index = 0; before = 0; seen = 0; emptied = 0;
        if
        :: inside == 0 && DRAINED ->
            look();
            do
            :: index == 8 -> break
            :: else ->
                assert((word[index / 2] & BIT(index)) == 0 || lowest <= index);
                index++
            od;
            index = 0;
            lowest = 0
        :: else
        fi
    }
}

proctype thread(byte me)
{
    byte member, index, before, seen;
    bool emptied;
    do
    :: atomic { inside++; MEMBER };
        if
        :: set()
        :: clear()
        fi;
progress:
#ifdef BUFFERS
        slots[me] == 0; /* the caller's next step in common with others drains the buffer */
#endif
        check_if_quiet()
    od
}

init { atomic { byte n = 0; do :: n < THREADS -> run thread(n); n++ :: else -> break od } }
