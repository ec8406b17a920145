/* SPDX-License-Identifier: MIT */
/* Heaps, threads and signal handlers: src/theap/thread.c, and src/theap/theap.h as far as a heap is busy.
 *
 * A handler is a process of its own that starts at any step of its thread, which then stands still until
 * the handler is done: that is what `provided` says. With NESTED the first thread's handler is itself
 * interrupted by another.
 *
 *   claim_heap, release_drained, attach_new, enter, leave
 *                     the functions of these names in thread.c (enter and leave: fh_theap_...)
 *   allocate          fh_theap_malloc(), fh_theap_take(); otherwise take() in theap.c
 *   free              fh_theap_free_in_pool() of the one pool that there is here
 *   use               what a call does with a busy heap; adopting or giving up the pool is part of it
 *   exit              leave_thread(), then perhaps calls of later destructors, then a new thread
 *
 * Checked: nobody claims a heap that is held; of all that run, one at a time uses a heap; a thread that
 * takes itself for a pool's owner when its heap is busy is. When no call is in progress: each heap that
 * was ever opened is nobody's and free to claim, or attached to one thread, idle; the pool is nobody's
 * or of an attached heap.
 *
 * Mutants: OWNER_FIRST (a free looks whether it is the pool's owner only before its heap is busy), IDLE_USE
 * (malloc looks at its bin before the heap is busy), ATTACH_BY_STORE, GONE_LATE (exit releases the heap
 * before the thread has left it), DRAIN_LATE (a borrowed heap is released with its pool), EXIT_IDLE (exit
 * drains a heap that is not busy), CLAIM_BY_LOOK (a heap id is claimed though another took its bit).
 */
#ifndef THREADS
#define THREADS 2
#endif
#ifndef HANDLERS
#define HANDLERS 1
#endif
#ifndef HEAPS
#define HEAPS 3
#endif
#define NO_HEAP 0 /* fh_theap_none; heaps are 1.. */
#define GONE (HEAPS + 1)

byte current[THREADS];     /* fh_theap_current */
bool busy[HEAPS + 2] = true;
bool free_id[HEAPS + 2];   /* the hint set FH_HINTS_HEAPS */
byte opened;               /* heaps_opened */
byte owner;                /* the pool's, and */
byte word_owner;               /* the heap in its word; 0: nobody's */

bool stands[2 * THREADS + 1]; /* by process: interrupted */
byte holder[HEAPS + 2];    /* ghosts: thread + 1 */
byte user[HEAPS + 2];      /* process + 1 */
byte inside;

#define ME (_pid + 1)

/* ---- Heaps nobody holds ---- */

inline now_held()
{
    assert(holder[heap] == 0 && user[heap] == 0 && busy[heap]);
    holder[heap] = my_thread + 1
}

/* Leaves heap 0 if there is none to be had. */
inline claim_heap()
{
    heap = 1;
    do
    :: heap > HEAPS -> break
    :: heap <= HEAPS && !free_id[heap] -> heap++
    :: heap <= HEAPS && free_id[heap] ->
        d_step {
#ifdef CLAIM_BY_LOOK
            if
            :: true -> free_id[heap] = false; now_held(); found = true
            fi
#else
            if
            :: free_id[heap] -> free_id[heap] = false; now_held(); found = true
            :: else -> heap++
            fi
#endif
        };
        if
        :: found -> break
        :: else
        fi
    od;
    if
    :: !found ->
        heap = opened;
        do
        :: heap == HEAPS -> heap = 0; break
        :: else ->
            d_step {
                if
                :: opened == heap -> opened++; heap++; now_held(); found = true
                :: else -> heap = opened
                fi
            };
            if
            :: found -> break
            :: else
            fi
        od
    :: else
    fi;
    found = false
}

inline give_up_pool()
{
    owner = 0;
    word_owner = 0
}

inline drain()
{
    if
    :: word_owner == heap -> give_up_pool()
    :: else
    fi
}

inline release_drained()
{
    d_step { assert(holder[heap] == my_thread + 1 && user[heap] == 0 && busy[heap]); holder[heap] = 0;
             free_id[heap] = true }
}

/* ---- Entering and leaving ---- */

inline attach_new()
{
    claim_heap();
    if
    :: heap != 0 ->
#ifdef ATTACH_BY_STORE
        current[my_thread] = heap
#else
        d_step {
            if
            :: current[my_thread] == NO_HEAP -> current[my_thread] = heap
            :: else /* a handler was first; this one is borrowed */
            fi
        }
#endif
    :: else
    fi
}

inline enter()
{
    heap = current[my_thread];
    if
    :: !busy[heap] -> busy[heap] = true
    :: else ->
        if
        :: heap == NO_HEAP -> attach_new()
        :: else -> claim_heap()
        fi
    fi
}

inline leave()
{
    if
    :: current[my_thread] == heap -> busy[heap] = false
    :: else ->
#ifdef DRAIN_LATE
        release_drained();
        drain()
#else
        drain();
        release_drained()
#endif
    fi
}

inline start_use()
{
    d_step { assert(user[heap] == 0 && holder[heap] == my_thread + 1); user[heap] = ME }
}

inline end_use()
{
    d_step { assert(user[heap] == ME); user[heap] = 0 }
}

inline use()
{
    start_use();
    if
    :: word_owner == 0 ->
        d_step {
            if
            :: word_owner == 0 -> word_owner = heap; found = true
            :: else
            fi
        };
        if
        :: found -> owner = heap; found = false
        :: else
        fi
    :: word_owner == heap -> give_up_pool()
    :: true
    fi;
    end_use()
}

/* ---- Calls ---- */

inline start_call()
{
    d_step { inside++; heap = current[my_thread] }
}

inline allocate()
{
    start_call();
    if
    :: !busy[heap] ->
#ifdef IDLE_USE
        start_use();
        busy[heap] = true;
        end_use();
#else
        busy[heap] = true;
#endif
        use();
        busy[heap] = false
    :: else ->
        enter();
        if
        :: heap != 0 -> use(); leave()
        :: else /* ENOMEM */
        fi
    fi
}

/* A block that some caller holds of the one pool. */
inline free()
{
    start_call();
    if
    :: owner == heap && heap != NO_HEAP ->
        d_step {
            if
            :: !busy[heap] -> busy[heap] = true; found = true /* fh_theap_try_set_busy() */
            :: else
            fi
        }
    :: else
    fi;
    if
    :: found ->
#ifndef OWNER_FIRST
        if
        :: owner == heap
        :: else -> found = false; busy[heap] = false
        fi;
#endif
        if
        :: found ->
            found = false;
            start_use();
            assert(word_owner == heap);
            if
            :: true
            :: give_up_pool() /* the countdown ended */
            fi;
            end_use();
            busy[heap] = false
        :: else /* a remote free */
        fi
    :: else /* a remote free */
    fi
}

inline exit()
{
    start_call();
    if
    :: heap != NO_HEAP && heap != GONE && !busy[heap] ->
#ifndef EXIT_IDLE
        busy[heap] = true;
#endif
        start_use();
        drain();
        end_use();
#ifdef EXIT_IDLE
        busy[heap] = true;
#endif
#ifdef GONE_LATE
        release_drained();
        current[my_thread] = GONE
#else
        current[my_thread] = GONE;
        release_drained()
#endif
    :: else
    fi
}

inline is_attached(which)
{
    n = 0;
    for (i : 0 .. THREADS - 1) {
        if
        :: current[i] == which -> n++; assert(holder[which] == i + 1)
        :: else
        fi
    }
}

inline end_call()
{
    d_step {
        inside--;
        heap = 0;
        if
        :: inside == 0 ->
            for (h : 1 .. opened) {
                is_attached(h);
                assert(user[h] == 0);
                assert(free_id[h] == (n == 0) && n <= 1 && busy[h] == (n == 0));
                assert((holder[h] == 0) == (n == 0));
                assert(word_owner != h || n == 1)
            }
            assert(owner == word_owner)
        :: else
        fi;
        n = 0; i = 0; h = 0
    }
}

active [THREADS] proctype thread() provided (!stands[_pid])
{
    byte heap, my_thread = _pid, n, i, h;
    bool found;
    do
    :: allocate(); end_call(); progress_1: skip
    :: free(); end_call(); progress_2: skip
    :: exit(); end_call(); progress_3: skip
    :: d_step { current[my_thread] == GONE -> current[my_thread] = NO_HEAP } /* a new thread */
    od
}

inline interrupt(process)
{
    do
    :: atomic { !stands[process] && (process < THREADS || stands[process - THREADS]) ->
            stands[process] = true };
        if
        :: allocate()
        :: free()
        fi;
progress:
        atomic { end_call(); stands[process] = false }
    od
}

active [HANDLERS] proctype handler() provided (!stands[_pid])
{
    byte heap, my_thread = _pid - THREADS, n, i, h;
    bool found;
    interrupt(my_thread)
}

#ifdef NESTED
active proctype second_handler()
{
    byte heap, my_thread = 0, n, i, h;
    bool found;
    interrupt(THREADS)
}
#endif
