#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Whole processes and their environments:  check.py WAY PROGRAM RACE MALLOC_LIBRARY

PROGRAM is tests/options/program.c, linked in one WAY or another; RACE is race.c, which has no
constructor; MALLOC_LIBRARY is for python3 itself. Each case is a set of variables, the words that
PROGRAM gets, and what it must print and how it must end.
"""
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile

WAY, PROGRAM, RACE, MALLOC_LIBRARY = sys.argv[1:5]
UNPRIVILEGED = 65534

# The malloc libraries take libc's place for FREEHOLD_MALLOC=malloc, too.
MALLOC_IS_OURS = 'malloc' in WAY

FREED = (r'Debug memory block at address p=0x[0-9a-f]+: API .m., freed\n(.*\n)*'
         r'Fatal Freehold error: _PyMem_DebugRawFree: block was freed already\n')
STRANGER = 'owned' if MALLOC_IS_OURS else 'strange'

failures = []
count = 0


def start(program, words, variables, **more):
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith('FREEHOLD_') and name != 'LD_PRELOAD'}
    environment.update(variables)
    return subprocess.run([program, *words], env=environment, stdin=subprocess.DEVNULL, timeout=60,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, **more)


def check(what, got, out, err='', status=0):
    """`err` is a pattern for all of stderr."""
    global count
    count += 1
    if got.stdout != out or not re.fullmatch(err, got.stderr) or got.returncode != status:
        failures.append(what)
        print(f'FAILED: {what}: status {got.returncode}\n{got.stdout}{got.stderr}')


def case(words, variables, out, err='', status=0):
    check(f'{variables} {words}', start(PROGRAM, words.split(), variables), out, err, status)


# ---- Allocators ----

case('name work owner', {}, 'freehold\nworked\nraw owned, obj owned\n')
for name in ('', 'default', 'off', 'freehold', 'pymalloc'):
    case('name owner', {'FREEHOLD_MALLOC': name}, 'freehold\nraw owned, obj owned\n')
for name in ('debug', 'freehold_debug', 'pymalloc_debug'):
    case('name work', {'FREEHOLD_MALLOC': name}, 'freehold_debug\nworked\n')
    case('twice', {'FREEHOLD_MALLOC': name}, '', FREED, -signal.SIGABRT)
case('twice', {'FREEHOLD_CONF': 'malloc:debug'}, '', FREED, -signal.SIGABRT)
case('name work owner', {'FREEHOLD_MALLOC': 'malloc'},
     f'malloc\nworked\nraw {STRANGER}, obj {STRANGER}\n')
case('name work', {'FREEHOLD_MALLOC': 'malloc_debug'}, 'malloc_debug\nworked\n')

# ---- One heap of all threads ----

case('name work owner', {'FREEHOLD_MALLOC': 'gil'}, 'gil\nworked\nraw owned, obj owned\n')
case('name work', {'FREEHOLD_MALLOC': 'gil_debug'}, 'gil_debug\nworked\n')
case('twice', {'FREEHOLD_MALLOC': 'gil_debug'}, '', FREED, -signal.SIGABRT)
for mode in ('free', 'gil-assert', 'gil-lock'):
    case('name work', {'FREEHOLD_OBJ_MODE': mode}, 'gil\nworked\n')
case('name work', {'FREEHOLD_OBJ_MODE': 'gil-lock', 'FREEHOLD_MALLOC': 'debug'}, 'gil_debug\nworked\n')
case('work', {'FREEHOLD_OBJ_MODE': 'gil-assert', 'FREEHOLD_MALLOC': 'debug'}, '',
     'Fatal Freehold error: _PyMem_DebugMalloc: .* without holding the GIL\n', -signal.SIGABRT)
case('lock work', {'FREEHOLD_OBJ_MODE': 'gil-assert', 'FREEHOLD_MALLOC': 'debug'}, 'worked\n')
case('name work', {'FREEHOLD_OBJ_MODE': 'gil-lock', 'FREEHOLD_MALLOC': 'malloc'}, 'malloc\nworked\n')

# ---- Other options ----

case('options', {'FREEHOLD_CONF': 'decay_ms:2s,retain_min:16M', 'FREEHOLD_DECAY_MS': '-1'},
     'malloc=default\nobj_mode=default\ntrace=0\ndecay_ms=-1\nretain_min=16M\n')
case('work', {'FREEHOLD_CONF': 'decay_ms:0,retain_min:0'}, 'worked\n')
case('serial', {'FREEHOLD_MALLOC': 'debug', 'FREEHOLD_DEBUG_SERIAL': '1'}, 'numbered\n')
case('serial', {'FREEHOLD_MALLOC': 'debug', 'FREEHOLD_DEBUG_SERIAL': '0'}, 'unnumbered\n')
case('serial', {'FREEHOLD_MALLOC': 'debug'}, 'unnumbered\n')
REPORT = r'freehold: (.*\n)+'
case('traced', {}, '0 frames\n')
case('traced work', {'FREEHOLD_TRACE': '5'}, '5 frames\nworked\n', REPORT)
case('traced work', {'FREEHOLD_CONF': 'trace:7,malloc:debug'}, '7 frames\nworked\n', REPORT)
with tempfile.TemporaryDirectory() as scratch:
    report = os.path.join(scratch, 'report')
    case('traced', {'FREEHOLD_CONF': f'trace:1;trace_file:{report}'}, '1 frames\n')
    count += 1
    if not os.path.exists(report) or not open(report, encoding='utf-8').read().startswith('freehold: '):
        failures.append('trace_file')
        print('FAILED: trace_file')
case('traced', {'FREEHOLD_TRACE': '0'}, '0 frames\n')
STATISTICS = r'(?s)(?!freehold: ).{100,}'
case('work', {'FREEHOLD_MALLOC_STATS': '1'}, 'worked\n', STATISTICS)
case('work', {'FREEHOLD_CONF': 'malloc_stats:json'}, 'worked\n', r'(?s)\s*\{.*\}\s*')
case('work', {'FREEHOLD_MALLOC_STATS': ''}, 'worked\n')

# ---- A limit ----

for given, shown, limit in (('512M', '512M', 512 << 20), ('0', '0', 0), ('64m', '64M', 64 << 20)):
    case('limit', {'FREEHOLD_LIMIT': given}, f'limit {shown}, {limit} bytes\n')
case('limit', {}, 'limit 0, 0 bytes\n')
case('fill work fill', {'FREEHOLD_LIMIT': '16M'}, 'filled\nworked\nfilled\n')
case('fill', {'FREEHOLD_CONF': 'limit:100000000'}, 'filled\n')
case('limit', {'FREEHOLD_LIMIT': 'half'}, 'limit 0, 0 bytes\n',
     'freehold: FREEHOLD_LIMIT: `half` is not a size, 0 for none; or cgroup:80, .*\n')


def group_limit():
    """The least memory.max of our control group and those above it, as the kernel tells it; 0 for none."""
    with open('/proc/self/cgroup', encoding='utf-8') as groups:
        paths = [line[3:].strip() for line in groups if line.startswith('0::')]
    found = []
    path = paths[0] if paths else None
    while path is not None:
        try:
            with open(f'/sys/fs/cgroup{path}/memory.max', encoding='utf-8') as file:
                found += [int(word) for word in file.read().split() if word != 'max']
        except OSError:
            pass
        path = path.rpartition('/')[0] if path else None
    return min(found, default=0)


case('limit', {'FREEHOLD_LIMIT': 'cgroup'}, f'limit cgroup:100, {group_limit() // 100 * 100} bytes\n')
case('limit', {'FREEHOLD_CONF': 'limit:cgroup:80'}, f'limit cgroup:80, {group_limit() // 100 * 80} bytes\n')

# The interpreter says MemoryError and goes on, also where objects are large or many. With several threads at
# the limit they are large, so that the interpreter has some memory left for its own exceptions.
PYTHON_AT_ITS_LIMIT = """
import threading
def fill(make):
    kept = []
    try:
        while True:
            kept.append(make())
    except MemoryError:
        return len(kept)
for make in (lambda: bytes(1 << 20), lambda: bytes(100 << 20), lambda: [None] * 1000, lambda: {str(i): i for i in range(100)}):
    assert fill(make) < 1 << 20
threads = [threading.Thread(target=fill, args=(lambda: bytearray(8 << 20),)) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(bytes(64 << 20)), sum(range(1000)))
"""
if WAY == 'malloc':
    for allocator in ('malloc', 'pymalloc'):
        got = start(sys.executable, ['-c', PYTHON_AT_ITS_LIMIT],
                    {'LD_PRELOAD': MALLOC_LIBRARY, 'FREEHOLD_LIMIT': '160M', 'PYTHONMALLOC': allocator})
        check(f'python3 at its limit, {allocator}', got, f'{64 << 20} 499500\n')

# ---- The purger ----

case('threads work threads', {}, '1 threads\nworked\n1 threads\n')
case('threads work threads', {'FREEHOLD_PURGER': '0'}, '1 threads\nworked\n1 threads\n')
case('threads work threads', {'FREEHOLD_PURGER': '1'}, '2 threads\nworked\n2 threads\n')
case('threads', {'FREEHOLD_CONF': 'purger:on'}, '2 threads\n')
case('options', {'FREEHOLD_PURGER': '1'}, 'malloc=default\nobj_mode=default\ntrace=0\ndecay_ms=500ms\nretain_min=4M\n')
for _ in range(5):
    case('threads daemonize', {'FREEHOLD_PURGER': '1'}, '2 threads\n1 threads, then 2\n')
case('name', {'FREEHOLD_PURGER': 'maybe'}, 'freehold\n', 'freehold: FREEHOLD_PURGER: `maybe` is not 1 or 0, .*\n')

# ---- Huge pages ----

for environment, said in (({}, 'as the system has it'), ({'FREEHOLD_THP': 'system'}, 'as the system has it'),
                          ({'FREEHOLD_THP': 'never'}, 'small pages'), ({'FREEHOLD_CONF': 'thp:always'}, 'huge pages')):
    case('pages', environment, said + '\n')

# ---- What is said ----

case('name', {'FREEHOLD_MALLOC': 'dbug'}, 'freehold\n', r'freehold: FREEHOLD_MALLOC: `dbug` is not one of .*\n')
case('name', {'FREEHOLD_MALOC': 'debug'}, 'freehold\n',
     r'freehold: FREEHOLD_MALOC: there is no such variable; did you mean FREEHOLD_MALLOC\?\n')
case('name', {'FREEHOLD_CONF': 'malloc:debug,colour:red'}, 'freehold_debug\n',
     'freehold: FREEHOLD_CONF: there is no option `colour`; try help\n')
for asking in ({'FREEHOLD_CONF': 'help'}, {'FREEHOLD_MALLOC': 'help'}, {'FREEHOLD_TRACE': 'help'}):
    case('name', asking, 'freehold\n', r'freehold [0-9.]+: FREEHOLD_<NAME>=value, (.*\n){22,}')

# ---- Without a constructor ----


def race(words, variables, out, err=''):
    check(f'race {words} {variables}', start(RACE, words, variables), out, err)


wrong = {'FREEHOLD_DECAY_MS': '77', 'FREEHOLD_ZEBRA': '1'}
said = 'freehold: FREEHOLD_ZEBRA: there is no such variable; try FREEHOLD_CONF=help\n'
for _ in range(20):
    race([], wrong, '77ms\n', said)
race([], {}, '500ms\n')
race(['secure'], wrong, '500ms\n')
race(['default'], {'FREEHOLD_MALLOC': 'debug'}, 'freehold\n')

# ---- With more rights than the user: a copy that root owns and anybody may start as root ----


def run_setuid(folder):
    program = os.path.join(folder, 'program')
    os.chmod(folder, 0o755)
    shutil.copy(PROGRAM, program)
    os.chmod(program, 0o755 | stat.S_ISUID)
    got = start(program, ['name', 'limit', 'threads', 'options'],
                {'FREEHOLD_MALLOC': 'debug', 'FREEHOLD_ZEBRA': '1', 'FREEHOLD_LIMIT': '1M', 'FREEHOLD_PURGER': '1'},
                preexec_fn=lambda: (os.setgid(UNPRIVILEGED), os.setuid(UNPRIVILEGED)))
    check('setuid', got, 'freehold\nlimit 0, 0 bytes\n1 threads\nmalloc=default\nobj_mode=default\ntrace=0\ndecay_ms=500ms\nretain_min=4M\n')


# The loader ignores run paths of such a program as well, so only a static one starts.
if os.geteuid() == 0 and 'static' in WAY:
    with tempfile.TemporaryDirectory() as scratch:
        if not os.statvfs(scratch).f_flag & os.ST_NOSUID:
            run_setuid(scratch)

print(f'{WAY}: {count} cases, {len(failures)} failures')
sys.exit(1 if failures or count == 0 else 0)
