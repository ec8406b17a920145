#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""CPython's own tests on Freehold, compared line by line with those of the plain interpreter:

    suite.py [OPTION...] [FILE...]

    --build FOLDER   where Freehold was built (build)
    --python PROGRAM the plain interpreter that the launcher was built for, with its tests
                     (/usr/bin/python3)
    --ways WAY,...   what to compare with `default`; without it: all that the build has
    --quick          what has the most content per second, for each change; of the ways the first four
    --full           all files of the list below, the default: some fifteen minutes on two cores
    --jobs N         at once (two per core: most of the time of many files is sleep)
    --match PATTERN  only tests with such a name, as regrtest's -m; may be repeated
    --keep FOLDER    leave the records and the output of each run there
    --list           the ways and files, and nothing else
    --self-test      the comparison itself, on made-up records

FILE is a name such as test_list. A test's line is its name and what came of it: ok, skipped and why,
expected failure, FAIL or ERROR and with which exception; each subtest has its own, and so has each
file as a whole. Lines must be the same but for those of ALLOWED. What differs is run again, both ways,
up to two times: it is called flaky if the plain interpreter has more than one outcome, too.

Exit status: 0 if nothing differs, 1 if something does, 77 without CPython's tests.
"""
import argparse
import collections
import concurrent.futures
import itertools
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SKIPPED = 77

# ---- Files -----------------------------------------------------------------------------------------

# What the allocator is under: containers, numbers, text, threads, processes, re-initialisation.
FILES = '''
    test_tracemalloc test_gc test_weakref test_list test_dict test_set test_unicode test_str test_long
    test_bytes test_decimal test_pickle test_zlib test_threading test_interpreters
    test__xxsubinterpreters test__interpreters test_fork1 test_multiprocessing_fork
    test_multiprocessing_spawn test_multiprocessing_forkserver test_multiprocessing_main_handling
    test_embed test_regrtest test_sys test_cmd_line test_capi
    test_tuple test_deque test_array test_memoryview test_sort test_re test_json test_io test_thread
    test_queue test_subprocess test_ctypes test_concurrent_futures
'''.split()

# What takes longest, so that nobody waits for it in the end.
SLEEPERS_FIRST = '''
    test_concurrent_futures test_multiprocessing_spawn test_multiprocessing_forkserver
    test_multiprocessing_fork test_io test_subprocess test_threading test_regrtest test_queue
'''.split()

# For --quick: files, and in them what is left out because it sleeps or takes long for what it shows.
QUICK = {
    'test_threading': ('*timeout*', '*on_shutdown'), 'test_gc': ('*trashcan_threads',), 'test_weakref': ('*copy*',),
    'test_set': ('*hash_effectiveness',), 'test_long': ('*mixed_compares',),
    **dict.fromkeys(('test_cmd_line', 'test_sys', 'test_interpreters', 'test__xxsubinterpreters', 'test_tracemalloc',
                     'test_list', 'test_dict', 'test_unicode', 'test_bytes', 'test_zlib', 'test_tuple', 'test_deque',
                     'test_array', 'test_memoryview', 'test_sort', 'test_json', 'test_thread'), ()),
}

# ---- Ways ------------------------------------------------------------------------------------------

Way = collections.namedtuple('Way', 'program variables needs has_objects')  # None: only what is below them


def ways_of(build, python, work):
    """Ways to run Python by name: the program, what is added to its environment, the files it needs.

    Some tests start processes with -I or -E, or with an environment of their own. These are in mode free under the
    launcher in any mode, and plain where Freehold comes by the environment.
    """
    library = build / 'libfreehold-malloc.so'
    launcher = build / 'freehold-python'
    module = build / 'python'
    site = work / 'site'
    ways = {
        'default': Way(python, {}, [], False),
        'preload': Way(python, {'LD_PRELOAD': library, 'PYTHONMALLOC': 'malloc'}, [library], True),
        'launcher': Way(launcher, {}, [launcher], True),
        'extension': Way(python, {'PYTHONPATH': f'{site}:{module}'}, [module], True),
        # An allocator that fails early: to see that this is seen.
        'limited': Way(python, {'LD_PRELOAD': library, 'PYTHONMALLOC': 'malloc', 'FREEHOLD_LIMIT': '32M'},
                       [library], True),
    }
    for mode, has_objects in (('gil-assert', True), ('debug', True), ('arena', None), ('pymalloc', False)):
        ways[f'launcher-{mode}'] = Way(launcher, {'FREEHOLD_PYTHON': mode}, [launcher], has_objects)
    return ways


USUAL_WAYS = ('preload', 'launcher', 'extension', 'launcher-gil-assert', 'launcher-debug', 'launcher-arena')
QUICK_WAYS = 4

# The module before anything else, in every process that imports this: not those of -S, -I and -E, nor those that
# ask for one of CPython's own allocators, which are then asked for its name.
SITE = '''
import os, sys
if 'PYTHONMALLOC' not in os.environ and not sys.flags.dev_mode:
    import freehold
'''

# Prints who has the memory of a new object, here and in a process that this one starts.
PROBE = r'''
import ctypes, subprocess, sys

def libraries():
    yield ctypes.CDLL(None)
    with open('/proc/self/maps', encoding='utf-8') as maps:
        for path in sorted({line.split()[-1] for line in maps if 'libfreehold' in line}):
            yield ctypes.CDLL(path)

def owner(address):
    for library in libraries():
        if getattr(library, 'fh_owns', lambda address: 0)(ctypes.c_void_p(address)):
            return 'Freehold'
    return 'another'

def raw():
    ctypes.pythonapi.PyMem_RawMalloc.restype = ctypes.c_void_p
    return ctypes.pythonapi.PyMem_RawMalloc(ctypes.c_size_t(100))

print('%d.%d.%d' % sys.version_info[:3], owner(id(object())), owner(raw()), flush=True)
if len(sys.argv) < 2:
    subprocess.run([sys.executable, __file__, 'child'], check=True)
'''

# ---- What may differ -------------------------------------------------------------------------------

Allowed = collections.namedtuple('Allowed', 'test before after reason')

# Tests which assert that the allocator is pymalloc, by name: the only ones that may differ, and only so.
ALLOWED = [
    Allowed(r'test\.test_sys\.SysModuleTest\.test_getallocatedblocks', 'ok', 'FAIL AssertionError',
            'expects that pymalloc counts blocks'),
    Allowed(r'test\.test_sys\.SysModuleTest\.test_debugmallocstats', 'ok', 'FAIL AssertionError',
            'expects the statistics of pymalloc'),
    Allowed(r"test\.test_cmd_line\.CmdLineTest\.test_pythonmalloc \(env_var=None, name='pymalloc'\)",
            'ok', 'FAIL AssertionError', 'expects that the default is called pymalloc'),
    Allowed(r'test\.test_cmd_line\.CmdLineTest\.test_pythonmalloc', 'ok', '', 'the same test as a whole'),
]


def allowance(difference):
    for entry in ALLOWED:
        if re.fullmatch(entry.test, difference.test) and entry.before == difference.before and \
                entry.after == difference.after:
            return entry.reason
    return None


# ---- Records ---------------------------------------------------------------------------------------

Difference = collections.namedtuple('Difference', 'file test before after')

LINE = re.compile(r'(.*) \.\.\. (.*)')
CHANGING = ((re.compile(r'0x[0-9a-f]{4,}'), '0x#'),)  # addresses
WHOLE = 'the file as a whole'


def normal(text):
    for pattern, replacement in CHANGING:
        text = pattern.sub(replacement, text)
    return text


def outcomes_of(lines, program='python3'):
    """Test -> its outcomes in order; a test or subtest of one name may run more than once."""
    outcomes = collections.defaultdict(list)
    folder = f'{os.path.dirname(program)}/Programs/'  # where tests look for programs of CPython's build
    for line in lines:
        match = LINE.fullmatch(normal(line.replace(folder, 'Programs/')))
        if match:
            outcomes[match.group(1)].append(match.group(2))
    return dict(outcomes)


def compare(file, plain, other):
    """The differences of two records, as outcomes_of() has them."""
    found = []
    for test in dict.fromkeys((WHOLE, *plain, *other)):
        before, after = (', '.join(record.get(test, [])) for record in (plain, other))
        if before != after:
            found.append(Difference(file, test, before, after))
    return found


# ---- Running ---------------------------------------------------------------------------------------

Run = collections.namedtuple('Run', 'outcomes seconds')

# After the first the runner ends itself and says where it was.
RUNNER_SECONDS, FILE_SECONDS = 900, 1000

live = set()  # processes that lead groups of their own, which nobody else would end


def environment(way, home):
    """The same for all ways but for what makes the way; nothing of the caller's."""
    variables = {'PATH': '/usr/local/bin:/usr/bin:/bin', 'LC_ALL': 'C.UTF-8', 'HOME': home, 'TMPDIR': home}
    return {**variables, **{name: str(value) for name, value in way.variables.items()}}


def end_group(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def call(way, arguments, seconds):
    """Status and output; a program that does not end is killed with all it started."""
    with tempfile.TemporaryDirectory(prefix='fh', ignore_cleanup_errors=True) as home:  # short: sockets are in it
        process = subprocess.Popen([way.program, *map(str, arguments)], env=environment(way, home), cwd=home,
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True, errors='replace', start_new_session=True)
        live.add(process)
        try:
            output = process.communicate(timeout=seconds)[0]
        except subprocess.TimeoutExpired:
            end_group(process)
            return 'timed out', process.communicate()[0]
        finally:
            end_group(process)
            live.discard(process)
    return process.returncode, output


def verdict(status, output):
    """What the runner says of the file: passed, failed, changed the environment, crashed..."""
    if isinstance(status, int) and status < 0:
        return f'killed by {signal.Signals(-status).name}'
    said = re.findall(r'^test_\w+ (skipped -- .*|failed \(env changed\))$', output, re.MULTILINE)[:1] + \
        re.findall(r'^(?:== )?(?:Tests result|Result): (.*?)(?: ==)?$', output, re.MULTILINE)[-1:]
    return f'{", ".join(said) or "no result"}, status {status}'


class Suite:
    """Runs files in ways; what each run leaves is in `folder`."""

    def __init__(self, ways, folder, patterns=(), left_out=()):
        self.ways, self.folder = ways, folder
        self.patterns = patterns
        self.left_out = dict(left_out)
        self.numbers = itertools.count(1)

    def run(self, way_name, file, only=()):
        name = f'{file}.{way_name}.{next(self.numbers)}'
        record = self.folder / f'{name}.record'
        arguments = [HERE / 'record.py', record, '-v', '--timeout', RUNNER_SECONDS]
        for pattern in only or self.patterns:
            arguments += ['-m', pattern]
        for pattern in () if only else self.left_out.get(file, ()):
            arguments += ['-i', pattern]
        started = time.monotonic()
        status, output = call(self.ways[way_name], [*arguments, file], FILE_SECONDS)
        seconds = time.monotonic() - started
        (self.folder / f'{name}.output').write_text(output, encoding='utf-8')
        lines = record.read_text(encoding='ascii').splitlines() if record.exists() else []
        outcomes = outcomes_of(lines, str(self.ways[way_name].program))
        outcomes[WHOLE] = [verdict(status, output)]
        if sys.stderr.isatty():
            print(f'{file}, {way_name}: {outcomes[WHOLE][0]}, {seconds:.0f} s', file=sys.stderr)
        return Run(outcomes, seconds)


# ---- Judging ---------------------------------------------------------------------------------------

Judged = collections.namedtuple('Judged', 'wrong flaky allowed again')

RERUNS, MANY = 2, 40


def test_id(test):
    """Of a line's name: without what tells subtests apart."""
    return re.split(r' [(\[]', test)[0]


def selection(differences):
    """The tests to run again; none for all of the file."""
    tests = {test_id(each.test) for each in differences}
    is_plain = all(re.fullmatch(r'\w+(\.\w+){2,}', test) for test in tests)
    return sorted(tests) if is_plain and len(tests) <= MANY else []


def is_implied(difference, differences):
    """That a file failed, in either way, says no more than that a test of it did."""
    return difference.test == WHOLE and len(differences) > 1 and \
        {difference.before, difference.after} == {'SUCCESS, status 0', 'FAILURE, status 2'}


def settle(differences, run_again):
    """Of a file's differences those that stay, those that are flaky and those that are allowed.

    run_again(tests) gives the outcomes of both ways for some tests, or for all. A difference stays unless the plain
    interpreter, too, has more than one outcome.
    """
    found = [each for each in differences if not is_implied(each, differences)]
    allowed = [each for each in found if allowance(each)]
    found = [each for each in found if each not in allowed]
    again = {each.test: [] for each in found}

    def is_flaky(each):
        return any(before != each.before for before, _ in again[each.test])

    for _ in range(RERUNS):
        steady = [each for each in found if not is_flaky(each)]
        if steady:
            both = run_again(selection(steady))
            for each in steady:
                again[each.test].append(tuple(', '.join(outcomes.get(each.test, [])) for outcomes in both))
    return Judged([each for each in found if not is_flaky(each)], [each for each in found if is_flaky(each)], allowed,
                  again)


class Comparison:
    """Of one file in all ways with the plain interpreter."""

    def __init__(self, suite, file, runs):
        self.suite, self.file, self.runs = suite, file, runs
        self.plain = runs['default']
        self.judged = {}

    def judge(self):
        for way in self.runs:
            if way != 'default':
                self.judged[way] = self.judge_way(way)

    def judge_way(self, way):
        def run_again(tests):
            return [self.suite.run(name, self.file, tests).outcomes for name in ('default', way)]
        return settle(compare(self.file, self.plain.outcomes, self.runs[way].outcomes), run_again)

    def has_tests(self):
        """Without any, nothing was compared."""
        return len(self.plain.outcomes) > 1 or 'skipped -- ' in self.plain.outcomes[WHOLE][0]

    def row(self):
        lines = sum(map(len, self.plain.outcomes.values()))
        cells = [f'{self.file:<36}{lines:>7}{self.plain.seconds:>8.1f} s']
        for way, judged in self.judged.items():
            marks = [f'{len(getattr(judged, kind))} {kind}' for kind in TITLES if getattr(judged, kind)]
            cells.append(f'{way} {self.runs[way].seconds:.1f} s{" (" + ", ".join(marks) + ")" if marks else ""}')
        return '  '.join(cells)


SHOWN = 50  # a file that ends early differs in all of its other lines, too
TITLES = {'allowed': 'Allowed', 'flaky': 'Flaky, also in the plain interpreter', 'wrong': 'DIFFERS'}


def told(kind, difference, ways, again):
    reason = f': {allowance(difference)}' if kind == 'allowed' else ''
    lines = [f'{TITLES[kind]}{reason}: {difference.file}, {", ".join(ways)}', f'    {difference.test}']
    for before, after in [difference[2:], *again]:
        lines.append(f'        default: {before or "(no such line)"}; then: {after or "(no such line)"}')
    return '\n'.join(lines)


def print_judged(comparisons):
    """Each difference once, with all ways that have it."""
    for kind in TITLES:
        ways, again = collections.defaultdict(list), collections.defaultdict(list)
        for comparison in comparisons:
            for way, judged in comparison.judged.items():
                for difference in getattr(judged, kind):
                    ways[difference].append(way)
                    again[difference] += judged.again.get(difference.test, [])
        shown = list(ways.items())
        for difference, names in shown[:SHOWN]:
            print(told(kind, difference, names, again[difference]))
        if len(shown) > SHOWN:
            print(f'{TITLES[kind]}: and {len(shown) - SHOWN} more')


# ---- What there is ---------------------------------------------------------------------------------

def probe(name, way, folder):
    """Version and whose the memory is, in a process and its child: a way may not be what it is called."""
    script = folder / 'probe.py'
    script.write_text(PROBE, encoding='utf-8')
    status, output = call(way, [script], 60)
    lines = output.splitlines()
    if status != 0 or len(lines) != 2:
        raise SystemExit(f'suite: {name} does not start: {output}')
    return lines


def check_ways(names, ways, folder):
    plain = probe('default', ways['default'], folder)
    for name in names:
        lines = probe(name, ways[name], folder)
        print(f'{name}: {ways[name].program}, Python {lines[0].split()[0]}; objects and raw memory from '
              f'{" and ".join(lines[0].split()[1:])}, in a child from {" and ".join(lines[1].split()[1:])}')
        owner = 'Freehold' if ways[name].has_objects else 'another'
        if [line.split()[0] for line in lines] != [line.split()[0] for line in plain]:
            raise SystemExit(f'suite: {name} is not the version of default')
        if ways[name].has_objects is not None and any(line.split()[1] != owner for line in lines):
            raise SystemExit(f'suite: {name}: objects should be from {owner}')


def lacking(python, files):
    """Those of the files that this version of the interpreter, or its package, does not have."""
    code = 'import importlib.util, sys; print(*[f for f in sys.argv[1:] if not importlib.util.find_spec("test." + f)])'
    said = subprocess.run([python, '-IS', '-c', code, *files], capture_output=True, text=True, check=True)
    return said.stdout.split()


def has_package(python):
    code = 'import test.libregrtest, test.test_list, _testcapi'
    return subprocess.run([python, '-c', code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, check=False).returncode == 0


# ---- The whole -------------------------------------------------------------------------------------

def arguments_of(words):
    parser = argparse.ArgumentParser(usage=__doc__, add_help=False)
    parser.add_argument('--build', default='build', type=pathlib.Path)
    parser.add_argument('--python', default='/usr/bin/python3')
    parser.add_argument('--ways')
    parser.add_argument('--quick', action='store_true')
    parser.add_argument('--full', action='store_true')
    parser.add_argument('--jobs', type=int, default=2 * (os.cpu_count() or 1))
    parser.add_argument('--match', action='append', default=[])
    parser.add_argument('--keep', type=pathlib.Path)
    parser.add_argument('--list', action='store_true')
    parser.add_argument('--self-test', action='store_true')
    parser.add_argument('--help', '-h', action='store_true')
    parser.add_argument('files', nargs='*')
    arguments = parser.parse_args(words)
    arguments.build = arguments.build.resolve()
    arguments.python = os.path.realpath(arguments.python)
    return arguments


def chosen_ways(arguments, ways):
    """Without --ways, the usual ones that the build has."""
    if arguments.ways:
        names = [name for name in arguments.ways.split(',') if name != 'default']
        for name in names:
            missing = [str(path) for path in ways[name].needs if not path.exists()] if name in ways else ['no such way']
            if missing:
                raise SystemExit(f'suite: {name}: {", ".join(missing)}')
        return names
    usual = USUAL_WAYS[:QUICK_WAYS] if arguments.quick else USUAL_WAYS
    return [name for name in usual if all(path.exists() for path in ways[name].needs)]


def longest_first(file):
    return SLEEPERS_FIRST.index(file) if file in SLEEPERS_FIRST else len(SLEEPERS_FIRST)


def run_all(suite, names, files, jobs):
    """Comparisons of all files, in the order of the files."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        running = {(file, name): pool.submit(suite.run, name, file)
                   for file in sorted(files, key=longest_first) for name in ('default', *names)}
        try:
            results = {key: future.result() for key, future in running.items()}
        except BaseException:  # somebody wants this to end
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(live):
                end_group(process)
            raise
    comparisons = [Comparison(suite, file, {name: results[file, name] for name in ('default', *names)})
                   for file in files]
    for comparison in comparisons:  # what is run again has the machine for itself
        comparison.judge()
    return comparisons


def main(words):
    arguments = arguments_of(words)
    if arguments.help:
        print(__doc__)
        return 0
    if arguments.self_test:
        return 0 if unittest.main(argv=[sys.argv[0]], exit=False).result.wasSuccessful() else 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('suite: ended'))
    with tempfile.TemporaryDirectory(prefix='suite') as work:
        return compare_all(arguments, pathlib.Path(work))


def compare_all(arguments, work):
    (work / 'site').mkdir()
    (work / 'site' / 'sitecustomize.py').write_text(SITE, encoding='utf-8')
    ways = ways_of(arguments.build, arguments.python, work)
    if arguments.list:
        print('ways:', *ways, '\nfiles:', *FILES, '\nof them quick:', *QUICK)
        return 0
    if not has_package(arguments.python):
        print(f'suite: skipped: {arguments.python} has no tests (Debian: libpython3.*-testsuite)')
        return SKIPPED
    names = chosen_ways(arguments, ways)
    files = arguments.files or (list(QUICK) if arguments.quick else FILES)
    absent = lacking(arguments.python, files)
    if absent:
        print('not in this package:', *absent)
    check_ways(names, ways, work)
    records = arguments.keep or work / 'records'
    records.mkdir(parents=True, exist_ok=True)
    suite = Suite(ways, records, arguments.match, QUICK if arguments.quick else {})
    comparisons = run_all(suite, names, [file for file in files if file not in absent], arguments.jobs)
    return report(comparisons, names)


def report(comparisons, names):
    for comparison in comparisons:
        print(comparison.row())
    print_judged(comparisons)
    wrong = 0
    for comparison in comparisons:
        if not comparison.has_tests():
            print(f'{comparison.file}: no tests: {comparison.plain.outcomes[WHOLE][0]}')
            wrong += 1
    for name in names:
        judged = [comparison.judged[name] for comparison in comparisons]
        counts = {what: sum(len(getattr(each, what)) for each in judged) for what in TITLES}
        seconds = sum(comparison.runs[name].seconds for comparison in comparisons)
        print(f'{name}: {counts["wrong"]} lines differ, {counts["flaky"]} flaky, {counts["allowed"]} allowed; '
              f'{seconds:.0f} s')
        wrong += counts['wrong']
    lines = sum(sum(map(len, comparison.plain.outcomes.values())) for comparison in comparisons)
    print(f'suite: {len(comparisons)} files, {lines} lines each way: {wrong} differ')
    return 1 if wrong or not names else 0


# ---- The comparison itself -------------------------------------------------------------------------

PLAIN_RECORD = """\
test.test_x.T.test_a ... ok
test.test_x.T.test_b ... skipped 'no such thing'
test.test_x.T.test_c (n=1) ... ok
test.test_x.T.test_c (n=2) ... ok
test.test_x.T.test_c ... ok
test.test_x.T.test_d (at=<object at 0x7f1234567890>) ... ok
test.test_x.T.test_e ... expected failure ValueError
test.test_x.T.test_twice ... ok
test.test_x.T.test_twice ... ok
"""


def changed(old, new):
    record = PLAIN_RECORD.replace(old, new)
    assert record != PLAIN_RECORD
    return record


def differences_of(record, plain=PLAIN_RECORD):
    return compare('test_x', outcomes_of(plain.splitlines()), outcomes_of(record.splitlines()))


class Lines(unittest.TestCase):
    def differ(self, record, *expected):
        found = [(test_id(each.test).rpartition('.')[2], each.before, each.after) for each in differences_of(record)]
        self.assertEqual(found, list(expected))

    def test_the_same_is_the_same(self):
        self.differ(PLAIN_RECORD)

    def test_addresses_and_folders_of_programs_are_not_compared(self):
        self.differ(changed('0x7f1234567890', '0x55550000ffff'))
        skipped = "t.T.t ... skipped '{}/Programs/x'"
        self.assertEqual(outcomes_of([skipped.format('/a')], '/a/python3'), outcomes_of([skipped.format('/b')], '/b/p'))

    def test_another_outcome_differs(self):
        self.differ(changed('test_a ... ok', 'test_a ... FAIL AssertionError'), ('test_a', 'ok', 'FAIL AssertionError'))
        self.differ(changed('failure ValueError', 'failure MemoryError'),
                    ('test_e', 'expected failure ValueError', 'expected failure MemoryError'))

    def test_another_reason_to_skip_differs(self):
        self.differ(changed('no such thing', 'no memory'),
                    ('test_b', "skipped 'no such thing'", "skipped 'no memory'"))

    def test_a_subtest_that_fails_differs(self):
        self.differ(changed('(n=2) ... ok', '(n=2) ... ERROR MemoryError'), ('test_c', 'ok', 'ERROR MemoryError'))

    def test_what_did_not_run_differs(self):
        self.differ(changed('test.test_x.T.test_a ... ok\n', ''), ('test_a', 'ok', ''))
        self.differ(changed('test.test_x.T.test_c (n=2) ... ok\n', ''), ('test_c', 'ok', ''))
        self.differ(changed('test_twice ... ok\ntest.test_x.T.test_twice ... ok', 'test_twice ... ok'),
                    ('test_twice', 'ok, ok', 'ok'))

    def test_what_ran_in_addition_differs(self):
        self.differ(PLAIN_RECORD + 'test.test_x.T.test_f ... ok\n', ('test_f', '', 'ok'))

    def test_a_second_error_of_one_test_differs(self):
        self.differ(changed('test_a ... ok', 'test_a ... ok\ntest.test_x.T.test_a ... ERROR OSError'),
                    ('test_a', 'ok', 'ok, ERROR OSError'))


class Verdicts(unittest.TestCase):
    def test_how_the_runner_ended_is_told(self):
        self.assertEqual(verdict(0, 'x\nTests result: SUCCESS\n'), 'SUCCESS, status 0')
        self.assertEqual(verdict(2, '== Tests result: FAILURE ==\nTests result: FAILURE\n'), 'FAILURE, status 2')
        self.assertEqual(verdict(-signal.SIGSEGV, 'Tests result: SUCCESS\n'), 'killed by SIGSEGV')
        self.assertEqual(verdict('timed out', ''), 'no result, status timed out')
        self.assertEqual(verdict(0, 'test_x skipped -- no y\nTests result: SUCCESS\n'),
                         'skipped -- no y, SUCCESS, status 0')

    def test_a_failed_file_says_no_more_than_its_failed_test(self):
        whole = Difference('x', WHOLE, 'SUCCESS, status 0', 'FAILURE, status 2')
        test = Difference('x', 'test.x.T.t', 'ok', 'FAIL AssertionError')
        self.assertTrue(is_implied(whole, [whole, test]))
        self.assertTrue(is_implied(whole._replace(before=whole.after, after=whole.before), [whole, test]))
        self.assertFalse(is_implied(whole, [whole]))
        self.assertFalse(is_implied(whole._replace(after='killed by SIGSEGV'), [whole, test]))


class Judgements(unittest.TestCase):
    """What comes of running a test again is made up: (default, the other way)."""

    def judged(self, difference, *again):
        outcomes = iter(again)
        judged = settle([difference], lambda tests: [{difference.test: [word]} for word in next(outcomes)])
        return judged.wrong, judged.flaky, judged.allowed

    def test_a_difference_stays_while_the_plain_interpreter_is_steady(self):
        difference = Difference('test_x', 'test.test_x.T.t', 'ok', 'FAIL AssertionError')
        for after in 'FAIL AssertionError', 'ok':
            self.assertEqual(self.judged(difference, ('ok', after), ('ok', after)), ([difference], [], []))

    def test_it_is_flaky_if_the_plain_interpreter_is(self):
        difference = Difference('test_x', 'test.test_x.T.t', 'ok', 'FAIL AssertionError')
        self.assertEqual(self.judged(difference, ('ok', 'ok'), ('FAIL AssertionError', 'ok')), ([], [difference], []))

    def test_what_is_allowed_is_so_only_as_it_is_written(self):
        allowed = Difference('test_sys', 'test.test_sys.SysModuleTest.test_debugmallocstats', 'ok',
                             'FAIL AssertionError')
        self.assertEqual(self.judged(allowed), ([], [], [allowed]))
        for other in (allowed._replace(after='ERROR MemoryError'), allowed._replace(after=''),
                      allowed._replace(before="skipped 'x'"), allowed._replace(test=allowed.test + '_too')):
            self.assertEqual(self.judged(other, *[(other.before, other.after)] * RERUNS), ([other], [], []))

    def test_no_more_than_three_tests_are_allowed_anything(self):
        names = {entry.test.split(r' \(')[0] for entry in ALLOWED}
        self.assertEqual(len(names), 3, names)

    def test_tests_are_run_again_by_name_where_they_have_one(self):
        def tests(*names):
            return selection([Difference('f', name, 'ok', '') for name in names])
        self.assertEqual(tests('test.f.T.a', 'test.f.T.b (n=1)', 'test.f.T.b [text]'), ['test.f.T.a', 'test.f.T.b'])
        self.assertEqual(tests('test.f.T.a', WHOLE), [])
        self.assertEqual(tests('setUpClass (test.f.T)'), [])


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
