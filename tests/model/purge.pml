/* SPDX-License-Identifier: MIT */
/* Who purges: fh_purge_tick() in src/arena/purge.c. Every thread asks now and then; the word next_purge_ms
 * says when the next purge is due, and one CAS on it decides whose it is.
 *
 * The clock has CLOCK milliseconds and wraps, as the real one does; time goes on by itself up to END, so
 * that no two times are half a turn apart. A thread may stop for ever at any step of its tick (read the
 * clock, load the word, CAS) or in its purge, as it may just not be run again; what a purge does is in
 * arena.pml. The asker's tick is one step: whatever the others stopped in, it asks alone.
 *
 * Checked: each deadline is won once, and there are no more purges than intervals that have gone by. Who
 * asks alone, after the deadline, purges.
 *
 * Mutants: BY_STORE (the word is written without a CAS), BY_FLAG (who purges has set a flag that says so,
 * and takes it away afterwards), NO_KNOWN (a deadline of 0 is like none).
 */
#ifndef THREADS
#define THREADS 2
#endif
#define CLOCK 32
#define INTERVAL 3
#define END 8
#ifdef NO_KNOWN
#define KNOWN 0
#else
#define KNOWN CLOCK
#endif
#define START 29 /* so that there is a deadline of 0 */

#define NOW ((START + time) % CLOCK)
/* (int32_t)(now - next) < 0 */
#define IS_BEFORE(now, next) ((now + 2 * CLOCK - (next)) % CLOCK >= CLOCK / 2)

byte time;     /* since the start */
byte word;     /* next_purge_ms */
bool flag;     /* of BY_FLAG */
byte purges, due = END + 1; /* ghosts: how many; the deadline, since the start */
byte last_won;

active proctype clock()
{
    do
    :: time < END -> time++
    :: else -> break
    od
}

/* Leaves `purging`. */
inline tick()
{
    now = NOW;
    next = word;
    if
    :: next != 0 && IS_BEFORE(now, next % CLOCK)
    :: else ->
        d_step {
            if
#if defined(BY_STORE)
            :: true ->
#elif defined(BY_FLAG)
            :: !flag && word == next -> flag = true;
#else
            :: word == next ->
#endif
                word = KNOWN + (now + INTERVAL) % CLOCK;
                if
                :: next == 0 -> assert(due > END) /* there was none before */
                :: else ->
                    purging = true;
                    purges++;
                    assert(next != last_won);
                    last_won = next;
                    assert(purges * INTERVAL <= time)
                fi;
                due = (now + CLOCK - START) % CLOCK + INTERVAL
            :: else
            fi
        }
    fi
}

inline end_purge()
{
    d_step { flag = false; purging = false; now = 0; next = 0 }
}

proctype thread()
{
    byte now, next;
    bool purging;
    do
    :: time < END -> tick();
progress_1:
        end_purge()
    :: break
    od
}

active proctype asker()
{
    byte now, next;
    bool purging, must;
    do
    :: atomic { time < END -> must = due <= time; tick(); assert(purging || !must) };
progress_2:
        d_step { end_purge(); must = false }
    :: break
    od
}

init { atomic { byte n = 0; do :: n < THREADS -> run thread(); n++ :: else -> break od } }
