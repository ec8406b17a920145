#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""CPython on Freehold's memory, in each of the ways that it comes there.

    bridge_test.py [Launcher|Extension|Preload|Embedded][.test_name]

This process is a plain interpreter; each test starts others. What it needs is in the environment:
FH_LAUNCHER, FH_PRELOAD (libfreehold-malloc.so), FH_EMBED, FH_MODULE_DIR.
"""
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest

LAUNCHER = os.environ['FH_LAUNCHER']
PRELOAD = os.environ['FH_PRELOAD']
EMBED = os.environ['FH_EMBED']
MODULE_DIR = os.environ['FH_MODULE_DIR']

CHILD_SECONDS = 120
HAS_ONE_GIL = sys.version_info < (3, 12)

# What children get; nothing of the caller's about Python or Freehold.
CLEAN = {name: value for name, value in os.environ.items()
         if not name.startswith(('PYTHON', 'FREEHOLD', 'LD_PRELOAD', 'FH_'))}
CLEAN['PYTHONPATH'] = MODULE_DIR

OVERFLOW = '''
import ctypes
api = ctypes.pythonapi
api.PyMem_Malloc.restype = ctypes.c_void_p
api.PyMem_Free.argtypes = [ctypes.c_void_p]
block = api.PyMem_Malloc(20)
ctypes.memset(block + 20, ord('x'), 1)
api.PyMem_Free(block)
'''

WITHOUT_GIL = '''
import ctypes
free_of_the_lock = ctypes.CDLL(None)
free_of_the_lock.PyObject_Malloc(24)
'''

# One of each kind of call: True if Freehold has the block.
WHOSE = '''
import ctypes, json
api = ctypes.pythonapi
def is_ours(family, bytes_count):
    malloc, free = getattr(api, family + 'Malloc'), getattr(api, family + 'Free')
    malloc.restype, free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    block = malloc(bytes_count)
    answer = ctypes.CDLL(LIBRARY).fh_owns(ctypes.c_void_p(block))
    free(block)
    return bool(answer)
print(json.dumps({family: [is_ours(family, n) for n in (0, 40, 5000)]
                  for family in ('PyMem_Raw', 'PyMem_', 'PyObject_')}))
'''

ALL_OURS = {family: [True] * 3 for family in ('PyMem_Raw', 'PyMem_', 'PyObject_')}

LOAD = '''
import gc, json, pickle, random, threading, zlib
random.seed(1)
def work():
    rows = [{'n': i, 's': str(i) * random.randrange(9), 'f': i / 7} for i in range(4000)]
    assert json.loads(json.dumps(rows)) == rows
    assert pickle.loads(pickle.dumps(rows)) == rows
    text = b''.join(repr(row).encode() for row in rows)
    assert zlib.decompress(zlib.compress(text)) == text
    class Node:
        pass
    for _ in range(2000):
        one, other = Node(), Node()
        one.other, other.other = other, one
    gc.collect()
'''

# All of them import the module at once, each with three domains from then on.
INTERPRETERS = '''
try:
    import _interpreters as interpreters
    create = lambda: interpreters.create('isolated')
    run = interpreters.exec
except ImportError:
    import _xxsubinterpreters as interpreters
    create = lambda: interpreters.create(isolated=True)
    run = interpreters.run_string
import threading
failures = []
def use(one):
    try:
        failed = run(one, """
work = lambda: [[str(i) for i in range(1000)] for _ in range(50)]
before = work()
import freehold
assert freehold.installed and freehold.domains == ('raw', 'mem', 'obj'), (freehold.installed, freehold.domains)
after = work()
del before
""")
    except Exception as error:
        failed = error
    if failed:
        failures.append(failed)
ids = [create() for _ in range(4)]
threads = [threading.Thread(target=use, args=(one,)) for one in ids]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
[interpreters.destroy(one) for one in ids]
assert not failures, failures
'''


class Way:
    """How an interpreter gets Freehold: the tests that all ways have."""
    command = [sys.executable]
    environment = {}
    first = ''  # what a program begins with
    library = None  # whose fh_* ctypes finds

    def run_python(self, code, *options, status=0, **environment):
        done = subprocess.run([*self.command, *options, '-c', self.first + code], text=True,
                              env={**CLEAN, **self.environment, **environment}, timeout=CHILD_SECONDS,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done

    def output(self, code, *options, **environment):
        return self.run_python(code, *options, **environment).stdout.strip()

    def whose(self, *options, **environment):
        return json.loads(self.output(WHOSE.replace('LIBRARY', repr(self.library)), *options, **environment))

    def test_all_domains_are_freeholds(self):
        self.assertEqual(self.whose(), ALL_OURS)
        self.assertEqual(self.output('import freehold; print(freehold.installed, *freehold.domains)'),
                         f'{self.installed} raw mem obj')

    def test_importing_twice_installs_once(self):
        self.output('import sys, importlib, freehold\n'
                    'how = freehold.installed; del sys.modules["freehold"]\n'
                    'import freehold\n'
                    'assert freehold.installed == how; [str(i) for i in range(100000)]')

    def test_statistics_are_numbers_that_grow(self):
        self.output('''
import freehold, json
before = freehold.stats()
held = [bytes(1000) for _ in range(20000)]
after = freehold.stats()
assert json.loads(json.dumps(after)) == after
# Blocks that the thread keeps ready count too, more of them before or after.
assert 19_500_000 <= after['allocated_bytes'] - before['allocated_bytes'] < 30_000_000, (before, after)
assert 19_000 <= after['allocated_blocks'] - before['allocated_blocks'] < 25_000, (before, after)
assert after['mapped_bytes'] == (after['active_bytes'] + after['spare_bytes'] + after['retained_bytes']
                                 + after['purged_bytes'])
assert freehold.heap_stats() is None
''')

    def test_statistics_are_written_to_files(self):
        done = self.run_python('''
import freehold, json, tempfile
freehold.dump_stats()
with tempfile.TemporaryFile('w+') as file:
    file.write('first\\n')
    freehold.dump_stats(file, json=True)
    file.seek(0)
    assert file.readline() == 'first\\n'
    report = json.load(file)
    assert report['process']['allocated_bytes'] > 1000 and report['classes']
try:
    import io
    freehold.dump_stats(io.StringIO())
except OSError:  # io.UnsupportedOperation
    print('no descriptor')
''')
        self.assertIn('Small block threshold', done.stderr)
        self.assertIn('no descriptor', done.stdout)

    def test_trim_returns_memory(self):
        grown, freed, trimmed, returned = map(int, self.output('''
import freehold
def resident():
    return next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith('VmRSS'))
held = [str(i) * 5 for i in range(400000)]
grown = resident()
del held
freed = resident()
returned = freehold.trim()
print(grown, freed, resident(), returned)
''', FREEHOLD_DECAY_MS='100000', FREEHOLD_RETAIN_MIN='1G').split())
        self.assertGreater(freed, grown - 5_000_000)  # kept for the next
        self.assertGreater(freed - trimmed, 20_000_000)
        self.assertGreater(returned, 20_000_000)

    def test_fragmented_memory_goes_back(self):
        few, none = map(int, self.output('''
import time
def resident():
    return next(int(line.split()[1]) // 1024 for line in open('/proc/self/status') if line.startswith('VmRSS'))
strings = ['%0100d' % i for i in range(1000000)]
strings = strings[::500]
few = resident()
strings = None
time.sleep(1)
[str(i) for i in range(1000)]
print(few, resident())
''').split())
        self.assertLessEqual(few, 40)
        self.assertLessEqual(none, 15)

    def test_snapshots_name_the_line(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'program é.py')
            with open(path, 'w', encoding='utf-8') as file:
                file.write('def make():\n'
                           '    return [bytes(1000) for _ in range(3000)]\n'
                           'kept = make()\n')
            self.output(f'''
import freehold, os, tracemalloc
code = compile(open({path!r}).read(), {path!r}, 'exec')
freehold.start_tracing(frames=4)
assert freehold.is_tracing()
before = freehold.snapshot()
space = {{}}
exec(code, space)
after = freehold.snapshot()
largest = after.statistics('lineno')[0]
assert isinstance(largest, tracemalloc.Statistic)
assert (largest.traceback[0].filename, largest.traceback[0].lineno) == ({path!r}, 2), largest
assert largest.count >= 3000 and 3_000_000 < largest.size < 3_500_000, largest
assert str(largest).startswith({path!r} + ':2: size=30'), str(largest)
lines = [frame.lineno for frame in after.statistics('traceback')[0].traceback]
assert lines[-3:] == [3, 2, 2] or lines[-2:] == [3, 2], lines
change = after.compare_to(before, 'filename')[0]
assert change.count_diff >= 3000 and change.traceback[0].filename == {path!r}, change
only = after.filter_traces([tracemalloc.Filter(True, {path!r}, 2)])
assert len(only) == largest.count, (len(only), largest)
assert not after.filter_traces([tracemalloc.Filter(False, '*')])
current, peak = freehold.traced_memory()
assert peak >= current >= 3_000_000
file_name = os.path.join({folder!r}, 'snapshot')
after.dump(file_name)
again = freehold.load(file_name)
assert len(again) == len(after) and again.traceback_limit == 4
assert again.statistics('lineno') == after.statistics('lineno')
space.clear()
assert freehold.traced_memory()[0] < 1_000_000
freehold.stop_tracing()
''')

    def test_snapshots_name_files_whatever_the_locale(self):
        self.output('''
import freehold, sys
assert sys.getfilesystemencoding() != 'utf-8'
name = chr(233) + '.py'
space = {}
freehold.start_tracing()
exec(compile('kept = [bytes(1000) for _ in range(3000)]', name, 'exec'), space)
largest = freehold.snapshot().statistics('lineno')[0]
assert largest.traceback[0].filename == name, ascii(largest)
''', '-X', 'utf8=0', LC_ALL='C', PYTHONCOERCECLOCALE='0')

    def test_mistakes_are_exceptions(self):
        self.output('''
import freehold
def raises(kind, function, *arguments):
    try:
        function(*arguments)
    except kind:
        return
    raise AssertionError(function)
raises(RuntimeError, freehold.snapshot)
raises(ValueError, freehold.start_tracing, 0)
raises(FileNotFoundError, freehold.load, '/nonexistent/snapshot')
raises(OSError, freehold.load, '/dev/null')
raises(TypeError, freehold.Snapshot)
freehold.start_tracing()
snapshot = freehold.snapshot()
raises(ValueError, snapshot.statistics, 'address')
raises(ValueError, snapshot.statistics, 'traceback', True)
raises(TypeError, snapshot.compare_to, 3, 'lineno')
raises(TypeError, snapshot.filter_traces, 3)
import sys
class Filter:
    filename_pattern = object()
count = sys.getrefcount(Filter.filename_pattern)
for _ in range(100):
    raises(TypeError, snapshot.filter_traces, [Filter()])
assert sys.getrefcount(Filter.filename_pattern) < count + 100
raises(OSError, snapshot.dump, '/nonexistent/snapshot')
''')

    def test_threads_with_collections(self):
        self.output(LOAD + '''
threads = [threading.Thread(target=work) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
''')

    def test_tracing_threads_with_collections(self):
        self.output('import freehold; freehold.start_tracing(3)\n' + LOAD + '''
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(freehold.snapshot()) > 0
''')

    def test_tracemalloc_starts_and_stops_on_top(self):
        self.output('import freehold, tracemalloc\n' + LOAD + '''
for _ in range(2):
    tracemalloc.start(3)
    kept = [bytes(500) for _ in range(1000)]
    assert tracemalloc.take_snapshot().statistics('lineno')[0].count >= 1000
    work()
    tracemalloc.stop()
    del kept
    work()
''')

    def test_fork_while_threads_allocate(self):
        self.output(LOAD + '''
import os
is_over = False
def allocate():
    while not is_over:
        [bytes(i) for i in range(300)]
threads = [threading.Thread(target=allocate) for _ in range(3)]
[thread.start() for thread in threads]
for _ in range(10):
    child = os.fork()
    if child == 0:
        work()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
is_over = True
[thread.join() for thread in threads]
''')

    def test_multiprocessing(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, 'program.py')
            with open(path, 'w', encoding='utf-8') as file:
                file.write(self.first + '''
import multiprocessing
def square(n):
    import freehold
    return n * n, freehold.installed
if __name__ == '__main__':
    for method in ('fork', 'spawn', 'forkserver'):
        with multiprocessing.get_context(method).Pool(2) as pool:
            squares, ways = zip(*pool.map(square, range(50)))
            assert squares == tuple(n * n for n in range(50))
            assert set(ways) == {WAY}, (method, ways)
'''.replace('WAY', repr(self.installed)))
            done = subprocess.run([*self.command, path], env={**CLEAN, **self.environment}, text=True,
                                  stderr=subprocess.PIPE, timeout=CHILD_SECONDS, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)

    @unittest.skipUnless(HAS_ONE_GIL, 'the module has another name')
    def test_interpreters_that_share_a_lock(self):
        self.output('''
import _xxsubinterpreters as interpreters, freehold
for _ in range(5):
    one = interpreters.create()
    interpreters.run_string(one, 'import freehold; kept = [str(i) for i in range(20000)]; freehold.stats()')
    interpreters.destroy(one)
''')

    @unittest.skipIf(HAS_ONE_GIL, 'there are none before 3.12')
    def test_interpreters_with_locks_of_their_own(self):
        self.output(INTERPRETERS)

    @unittest.skipIf(HAS_ONE_GIL, 'there are none before 3.12')
    def test_interpreters_with_locks_of_their_own_import_first(self):
        done = subprocess.run([*self.command, '-c', INTERPRETERS], env={**CLEAN, **self.environment}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=CHILD_SECONDS, check=False)
        self.assertEqual((done.returncode, done.stdout), (0, ''))


class Launcher(Way, unittest.TestCase):
    command = [LAUNCHER]
    installed = 'launcher'

    def test_modes(self):
        for mode, domains in [('free', 'raw mem obj'), ('default', 'raw mem obj'), ('debug', 'raw mem obj'),
                              ('pymalloc', 'raw'), ('arena', 'raw mem obj')]:
            name = 'free' if mode == 'default' else mode
            program = 'import freehold; print(freehold.mode, *freehold.domains)'
            self.assertEqual(self.output(program, '-X', 'freehold=' + mode), f'{name} {domains}')
            done = self.run_python(program, FREEHOLD_PYTHON=mode)
            self.assertEqual((done.stdout.strip(), done.stderr), (f'{name} {domains}', ''))

    def test_pymalloc_is_the_interpreters_own(self):
        program = 'import sys; print(sys.getallocatedblocks() > 0)'
        for mode, is_own in [('free', 'False'), ('debug', 'False'), ('arena', 'True'), ('pymalloc', 'True')]:
            self.assertEqual(self.output(program, '-X', 'freehold=' + mode), is_own)

    @unittest.skipUnless(HAS_ONE_GIL, 'interpreters may have locks of their own')
    def test_the_gil_modes_have_a_heap(self):
        for mode in ('gil-assert', 'gil-assert-debug'):
            self.output(LOAD + f'''
import freehold, sys
assert freehold.mode == {mode!r}
before = freehold.heap_stats()
kept = [object() for _ in range(10000)]
after = freehold.heap_stats()
assert after['live_blocks'] - before['live_blocks'] >= 10000
del kept
threads = [threading.Thread(target=work) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
freehold.start_tracing()
kept = [bytes(100) for _ in range(1000)]
assert freehold.snapshot().statistics('lineno')[0].count >= 1000
freehold.stop_tracing()
del kept
work()
freehold.dump_stats()
''', '-X', 'freehold=' + mode)

    @unittest.skipIf(HAS_ONE_GIL, 'all interpreters share one lock')
    def test_the_gil_modes_are_refused(self):
        for mode in ('gil-assert', 'gil-assert-debug'):
            self.assertIn('not safe', self.run_python('', '-X', 'freehold=' + mode, status=2).stderr)

    def test_wrong_modes_end_with_a_message(self):
        for done in (self.run_python('', '-X', 'freehold=fast', status=2),
                     self.run_python('', FREEHOLD_PYTHON='fast', status=2)):
            self.assertIn("there is no mode 'fast'", done.stderr)
            self.assertIn('gil-assert', done.stderr)

    def test_help_lists_the_modes(self):
        done = self.run_python('raise SystemExit(3)', '-X', 'freehold=help')
        for mode in ('free', 'gil-assert', 'debug', 'arena', 'pymalloc'):
            self.assertRegex(done.stdout, rf'(?m)^  {mode} ')
        self.assertEqual(done.stderr, '')

    def test_the_command_line_wins_and_is_read_as_python_reads_it(self):
        program = 'import freehold; print(freehold.mode)'
        for options, variable, mode in [(['-X', 'freehold=arena'], 'debug', 'arena'),
                                        (['-Xfreehold=arena'], 'debug', 'arena'),
                                        (['-bsX', 'freehold=arena'], 'debug', 'arena'),
                                        (['-W', 'ignore', '-bXfreehold=arena'], 'debug', 'arena'),
                                        (['-X', 'freehold=arena', '-X', 'freehold=debug'], '', 'debug'),
                                        (['-X', 'freehold'], 'debug', 'free'),
                                        (['--check-hash-based-pycs', 'never'], 'debug', 'debug'),
                                        (['-W', '-Xfreehold=arena'], 'debug', 'debug')]:
            with self.subTest(options=options):
                self.assertEqual(self.output(program, *options, FREEHOLD_PYTHON=variable), mode)
        # Not ours: what follows the program.
        done = subprocess.run([LAUNCHER, '-c', 'import sys; print(sys.argv)', '-X', 'freehold=fast'], env=CLEAN,
                              text=True, stdout=subprocess.PIPE, check=True)
        self.assertEqual(done.stdout.strip(), "['-c', '-X', 'freehold=fast']")

    def test_the_variable_is_ignored_with_the_others(self):
        program = f'import sys; sys.path.append({MODULE_DIR!r}); import freehold; print(freehold.mode)'
        for option in ('-E', '-I', '-sE'):
            self.assertEqual(self.output(program, option, FREEHOLD_PYTHON='debug'), 'free')

    def test_python_is_as_usual(self):
        self.assertEqual(self.output('import sys; print(sys.executable)'), os.path.abspath(LAUNCHER))
        program = ('import os, sys; print(sys.version, sys.prefix, sys.path[1:], sys.flags.utf8_mode, '
                   'sorted(name for name in os.environ if name != "_"))')
        plain = subprocess.run([sys.executable, '-X', 'utf8', '-c', program], env=CLEAN, text=True,
                               stdout=subprocess.PIPE, check=True).stdout.strip()
        self.assertEqual(self.output(program, '-X', 'utf8'), plain)
        self.assertEqual(self.output('import os; print(os.environ["LD_PRELOAD"])', LD_PRELOAD=PRELOAD), PRELOAD)
        self.run_python('raise SystemExit(5)', status=5)

    def test_children_are_started_the_same_way(self):
        self.assertEqual(self.output('''
import subprocess, sys
print(subprocess.check_output([sys.executable, '-c', 'import freehold; print(freehold.installed)'], text=True))
'''), 'launcher')
        self.assertEqual(self.output('''
import subprocess
print(subprocess.check_output(['sh', '-c', 'grep -c freehold /proc/self/maps || true'], text=True))
'''), '0')

    def test_what_it_preloads_does_nothing_elsewhere(self):
        library = os.path.join(os.path.dirname(LAUNCHER), 'libfreehold-python.so')
        if not os.path.exists(library):
            self.skipTest('libpython is linked in')
        done = subprocess.run(['sh', '-c', 'echo "$LD_PRELOAD"'], env={**CLEAN, 'LD_PRELOAD': library}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
        self.assertEqual((done.stdout.strip(), done.stderr), (library, ''))

    def test_a_venv_has_it_too(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([LAUNCHER, '-m', 'venv', '--without-pip', folder], env=CLEAN, check=True)
            done = subprocess.run([os.path.join(folder, 'bin', 'python'), '-c',
                                   'import sys, freehold; print(sys.prefix, sys.base_prefix, freehold.installed)'],
                                  env=CLEAN, text=True, stdout=subprocess.PIPE, check=True)
            base = subprocess.check_output([sys.executable, '-c', 'import sys; print(sys.base_prefix)'], text=True)
            self.assertEqual(done.stdout.split(), [os.path.realpath(folder), base.strip(), 'launcher'])

    def test_cpythons_hooks_go_on_top_where_the_command_line_says_both(self):
        for options, variables in [(['-X', 'dev'], {}), ([], {'PYTHONMALLOC': 'debug'}),
                                   ([], {'PYTHONMALLOC': 'malloc_debug'}), ([], {'PYTHONMALLOC': 'pymalloc_debug'}),
                                   ([], {'PYTHONDEVMODE': '1'})]:
            with self.subTest(options=options, variables=variables):
                options = ['-X', 'freehold=free', *options]
                self.assertEqual(self.whose(*options, **variables), ALL_OURS)
                self.assert_reports_overflow(*options, **variables)

    def test_who_asks_for_an_allocator_of_cpythons_gets_it(self):
        mode = 'import freehold; print(freehold.mode)'
        for options, variables in [(['-X', 'dev'], {}), (['-Xdev=0'], {}), ([], {'PYTHONDEVMODE': '1'}),
                                   ([], {'PYTHONMALLOC': 'malloc'}), ([], {'PYTHONMALLOC': 'pymalloc'}),
                                   ([], {'PYTHONMALLOC': 'debug', 'FREEHOLD_PYTHON': 'debug'})]:
            with self.subTest(options=options, variables=variables):
                self.assertEqual(self.output(mode, *options, **variables), 'arena')
        for options, variables in [(['-E'], {'PYTHONMALLOC': 'malloc'}), ([], {'PYTHONMALLOC': 'default'}),
                                   (['-I', '-X', 'utf8'], {'PYTHONDEVMODE': '1'})]:
            with self.subTest(options=options, variables=variables):
                self.assertEqual(self.whose(*options, **variables), ALL_OURS)
        self.assert_reports_overflow('-X', 'dev')
        done = self.run_python('', PYTHONMALLOC='nonsense', status=1)
        self.assertIn('unknown allocator', done.stderr)

    def assert_reports_overflow(self, *options, **variables):
        done = self.run_python(OVERFLOW, *options, status=-6, **variables)
        self.assertIn("API 'm'\n    20 bytes originally requested", done.stderr)
        self.assertIn('at tail+0: 0x78 *** OUCH', done.stderr)
        self.assertIn('Fatal Python error: _PyMem_DebugRawFree: bad trailing pad byte', done.stderr)
        self.assertIn('File "<string>", line 8 in <module>', done.stderr)

    def test_freeholds_hooks_report_overflows(self):
        self.assert_reports_overflow('-X', 'freehold=debug')
        if HAS_ONE_GIL:
            self.assert_reports_overflow('-X', 'freehold=gil-assert-debug')

    def test_freeholds_hooks_check_the_lock(self):
        done = self.run_python(WITHOUT_GIL, '-X', 'freehold=debug', status=-6)
        self.assertIn('Python memory allocator called without holding the GIL', done.stderr)
        self.run_python(WITHOUT_GIL)  # nothing else does

    def test_load_in_each_mode(self):
        for mode in ('debug', 'arena', 'pymalloc'):
            self.output(LOAD + '''
threads = [threading.Thread(target=work) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
''', '-X', 'freehold=' + mode)
        self.output(LOAD + 'work()', '-X', 'dev', '-X', 'tracemalloc=3')

    @unittest.skipUnless(os.geteuid() == 0, 'only root can make such a program')
    def test_it_does_not_run_without_freehold(self):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            launcher = os.path.join(folder, 'freehold-python')
            for path in (LAUNCHER, os.path.join(os.path.dirname(LAUNCHER), 'libfreehold-python.so')):
                if os.path.exists(path):  # linked launchers are in one piece
                    shutil.copy(path, folder)
            os.chown(launcher, 65534, 65534)
            os.chmod(launcher, 0o4755)
            done = subprocess.run([launcher, '-c', 'import sys; print(sys.getallocatedblocks())'], env=CLEAN, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=CHILD_SECONDS, check=False)
        self.assertIn((done.returncode != 0, done.stdout), [(True, ''), (False, '0\n')])
        if done.returncode != 0:
            self.assertIn('privileges', done.stderr)

    def test_a_library_that_is_missing_is_said(self):
        with tempfile.TemporaryDirectory() as folder:
            launcher = shutil.copy(LAUNCHER, os.path.join(folder, 'freehold-python'))
            done = subprocess.run([launcher, '-c', 'import sys; print(sys.getallocatedblocks())'], env=CLEAN, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=CHILD_SECONDS, check=False)
        self.assertIn((done.returncode != 0, done.stdout), [(True, ''), (False, '0\n')])
        if done.returncode != 0:
            self.assertIn('libfreehold-python.so: not found beside this program', done.stderr)

    def test_pymalloc_cannot_be_traced(self):
        for mode in ('arena', 'pymalloc'):
            done = self.run_python('import freehold; freehold.start_tracing()', '-X', 'freehold=' + mode, status=1)
            self.assertIn('RuntimeError', done.stderr)

    def test_arena_mode_uses_freeholds_arenas(self):
        grown = self.output('''
import freehold
before = freehold.stats()['allocated_bytes']
kept = [object() for _ in range(500000)]
print(freehold.stats()['allocated_bytes'] - before)
''', '-X', 'freehold=arena')
        self.assertGreater(int(grown), 8_000_000)


class Extension(Way, unittest.TestCase):
    first = 'import freehold\n'
    installed = 'extension'
    library = os.path.join(MODULE_DIR, '..', 'libfreehold.so')

    def test_older_blocks_go_back_where_they_came_from(self):
        code = ('import sys; old = [[str(i)] for i in range(50000)]; count = sys.getallocatedblocks()\n'
                'import freehold\n'
                'new = [[str(i)] for i in range(50000)]\n'
                'for pair in old: pair.extend(range(20))\n'
                'del old, new; assert sys.getallocatedblocks() < count - 50000\n')
        for variables in ({}, {'PYTHONMALLOC': 'malloc'}, {'PYTHONMALLOC': 'debug'}):
            if variables == {'PYTHONMALLOC': 'malloc'}:  # counts nothing
                code = code.replace('; assert sys.getallocatedblocks() < count - 50000', '')
            done = subprocess.run([sys.executable, '-c', code], env={**CLEAN, **variables}, text=True,
                                  stderr=subprocess.PIPE, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)

    def test_hooks_below_keep_the_raw_domain(self):
        program = LOAD + 'print(freehold.installed, *freehold.domains); work()'
        self.assertEqual(self.output(program, PYTHONMALLOC='debug'), 'extension mem obj')
        self.assertEqual(self.output(program, PYTHONMALLOC='malloc_debug'), 'extension mem obj')

    def test_it_is_refused_while_tracing(self):
        done = self.run_python('', '-X', 'tracemalloc', status=1)
        self.assertIn('ImportError: freehold cannot be installed while tracemalloc is tracing', done.stderr)
        self.first = ''
        self.assertEqual(self.output('''
import tracemalloc; tracemalloc.start()
try:
    import freehold
except ImportError:
    tracemalloc.stop()
import freehold
print(freehold.installed)
'''), 'extension')

    def test_what_was_undone_is_done_again(self):
        """As where an interpreter is ended and started again, and sets its own allocators."""
        self.first = ''
        self.output('''
import ctypes, sys
api = ctypes.pythonapi
MEM, OBJ = 1, 2
own = {domain: (ctypes.c_void_p * 5)() for domain in (MEM, OBJ)}
for domain, allocator in own.items():
    api.PyMem_GetAllocator(domain, allocator)
import freehold
kept = [str(i) for i in range(50000)]
for domain, allocator in own.items():
    api.PyMem_SetAllocator(domain, allocator)
more = [str(i) for i in range(50000)]
del sys.modules['freehold']
import freehold
assert freehold.installed == 'extension' and freehold.domains == ('raw', 'mem', 'obj'), freehold.domains
del kept, more
''')

    def test_the_variable_declines_it(self):
        done = self.run_python('print(freehold.installed, *freehold.domains)', FREEHOLD_PYTHON='pymalloc')
        self.assertEqual((done.stdout, done.stderr), ('None\n', ''))


class Preload(Way, unittest.TestCase):
    environment = {'LD_PRELOAD': PRELOAD, 'PYTHONMALLOC': 'malloc'}
    installed = 'preload'

    def test_without_pythonmalloc_the_import_does_the_rest(self):
        self.assertEqual(self.output('import sys, freehold; print(freehold.installed, *freehold.domains)',
                                     PYTHONMALLOC=''), 'extension raw mem obj')
        self.output('import freehold\n' + LOAD + 'work()', PYTHONMALLOC='')

    def test_hooks_over_it_cannot_be_traced(self):
        done = self.run_python('import freehold; freehold.start_tracing()', PYTHONMALLOC='debug', status=1)
        self.assertIn('RuntimeError', done.stderr)

    def test_hooks_over_it_stay(self):
        self.assertEqual(self.output(LOAD + 'import freehold; work(); print(freehold.installed, *freehold.domains)',
                                     PYTHONMALLOC='debug'), 'preload raw')


class Embedded(unittest.TestCase):
    def embed(self, mode, rounds, threads, **variables):
        done = subprocess.run([EMBED, mode, str(rounds), str(threads)], env={**CLEAN, **variables}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=CHILD_SECONDS, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def test_started_five_times(self):
        for mode in ('free', 'debug', 'arena', 'pymalloc', *(['gil-assert', 'gil-assert-debug'] * HAS_ONE_GIL)):
            with self.subTest(mode=mode):
                self.assertIn('5 rounds', self.embed(mode, 5, 0))

    def test_native_threads_meanwhile(self):
        for mode in ('free', *(['gil-assert'] * HAS_ONE_GIL)):
            blocks = re.search(r'(\d+) blocks', self.embed(mode, 8, 3))
            self.assertGreater(int(blocks.group(1)), 1000)


if __name__ == '__main__':
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # some tests abort
    unittest.main()
