#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Weaken each memory order in src/ in turn, and see that a test fails:  weaken.py [OPTION...]

    --list         what would be weakened, and nothing else
    --edge NAME    only what belongs to this edge of docs/concurrency.md
    --only TEXT    only what has this regular expression in its name
    --sample N     N of them, chosen by --seed (1)
    --halves       also what keeps a part of its order, which says more than must be so: only told
    --root ROOT    of the project
    --jobs N       at once (2)
    --schedules N  to try of each scenario, at most (3000)

A site is an operation with an order other than relaxed, as src/ calls it: fh_load_acquire_u64(…). In a
copy of the sources one of them becomes relaxed, and the programs of tests/sched/weak.c explore the
scenarios until one fails: that is what catches it. Orders that are not needed where they stand are listed
below, with the reason, and must pass; of two that do each other's work, both together must fail. Files that no scenario can
reach yet are listed too. The output is a table in Markdown. CC names the compiler.

Exit status: 0 if all is as it should be, 1 if not.
"""
import argparse
import collections
import concurrent.futures
import os
import pathlib
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True  # nothing is left behind in the sources

import edges

# Site -> why nothing fails if it is relaxed.
NOT_NEEDED = {
    'src/arena/arena.c claim_in() fh_load_acquire_u64':
        'the claim of `used` acquires the same; only by the letter of C11 might it find the zero from before',
    'src/arena/hints.c fh_hints_has() fh_load_seq_cst_u64':
        'only tests call it',
    'src/theap/thread.c attach() fh_cas_acq_rel_ptr':
        'the variable is the thread\'s own',
    'src/domain/allocator.c know_heaps() fh_cas_acq_rel_ptr':
        'it passes on what it found in the word, as any read-modify-write does',
    'src/observe/stats.c add_arena() fh_load_acquire_u64':
        'only atomic fields are read after it, each for itself',
}

# Beginning of a file's name -> why no scenario gets there: its sites are told, not judged.
NOT_EXPLORED = {
    'src/gil/': 'it waits, which no scenario may: for ThreadSanitizer (tests/modules/gil_test.c)',
    'src/classic/': 'for ThreadSanitizer (tests/modules/classic_test.c)',
    'src/arena/limit': 'for ThreadSanitizer (tests/modules/limit_test.c)',
    'src/api/limits': 'for ThreadSanitizer (tests/modules/limit_test.c)',
    'src/api/purger': 'it waits, which no scenario may: for ThreadSanitizer (tests/modules/purger_test.c)',
    'src/heap/': 'for ThreadSanitizer (tests/modules/heap_test.c)',
    'src/options/': 'for ThreadSanitizer (tests/options/race.c)',
    'src/observe/debug': 'for ThreadSanitizer (tests/modules/debug_test.c)',
    'src/observe/trace': 'for ThreadSanitizer (tests/modules/trace_test.c)',
    'src/observe/snapshot': 'for ThreadSanitizer (tests/modules/trace_test.c)',
}

# Site -> the one that does its work: one of the two is enough.
EITHER = {
    'src/arena/arena.c claim_whole() fh_load_acquire_u64': 'src/arena/arena.c start_of() fh_load_acquire_u64',
    'src/arena/arena.c start_of() fh_load_acquire_u64': 'src/arena/arena.c claim_whole() fh_load_acquire_u64',
}

OPERATION = re.compile(r'\bfh_(load|store|cas|fetch_[a-z]+)_(acquire|release|acq_rel|seq_cst)_(u64|u32|ptr)(?=\()')
DEFINITION = re.compile(r'^(FH_DEFINE_(?:LOAD|STORE|CAS|FETCH))\(fh_([a-z_]+?)_(relaxed|acquire|release|acq_rel|'
                        r'seq_cst)_(u64|u32|ptr), (.*)__ATOMIC_[A-Z_]+\)$', re.MULTILINE)
ORDERS = {'FH_DEFINE_LOAD': ('relaxed', 'acquire', 'seq_cst'), 'FH_DEFINE_STORE': ('relaxed', 'release', 'seq_cst'),
          'FH_DEFINE_CAS': ('relaxed', 'acquire', 'release', 'acq_rel', 'seq_cst'),
          'FH_DEFINE_FETCH': ('relaxed', 'acquire', 'release', 'acq_rel', 'seq_cst')}

Site = collections.namedtuple('Site', 'file line column name order operation edges')


# ---- Sites ------------------------------------------------------------------------------------------

def without_comments(text):
    """The same length, so that positions stay."""
    return re.sub(r'/\*.*?\*/', lambda m: re.sub(r'[^\n]', ' ', m.group()), text, flags=re.DOTALL)


def edges_beside(statements, function, line):
    """The edges of the last comment of the function that stands before the operation, or beside it."""
    of_function = [s for s in statements if s.function == function]
    before = [int(s.place.split(':')[1]) for s in of_function if int(s.place.split(':')[1]) <= line]
    if not before:
        return ()
    nearest = max(before)
    return tuple(dict.fromkeys(s.edge for s in of_function if nearest - 3 <= int(s.place.split(':')[1]) <= nearest))


def sites_of(root):
    """All of them. A name is "file function() operation", and #2, … for further ones like it."""
    seen = collections.Counter()
    for path in sorted((root / 'src').rglob('*.[ch]')):
        file = path.relative_to(root).as_posix()
        if file.startswith('src/base/atomic'):
            continue
        text = path.read_text(encoding='utf-8')
        _, statements = edges.read_source(path, file)
        functions = edges.functions_of(text)
        for match in OPERATION.finditer(without_comments(text)):
            line = edges.line_of(text, match.start())
            function = next(f for first, last, f in functions if first <= line <= last)
            name = f'{file} {function}() {match.group()}'
            seen[name] += 1
            if seen[name] > 1:
                name += f' #{seen[name]}'
            column = match.start() - (text.rfind('\n', 0, match.start()) + 1)
            yield Site(file, line, column, name, match.group(2), match.group(),
                       edges_beside(statements, function, line))


def weaker_orders(site, halves):
    """Relaxed; with `halves` also those that keep a part of the order."""
    part = {'acq_rel': ('acquire', 'release'), 'seq_cst': ('acquire',) if '_load_' in site.operation else ('acq_rel',)}
    return ('relaxed',) + (part.get(site.order, ()) if halves else ())


# ---- Building ---------------------------------------------------------------------------------------

FLAGS = ('-std=c11 -O1 -w -D_GNU_SOURCE -DFH_ATOMICS_SCHED=1 -DFH_GEOMETRY_TINY=1 -DSCHED_WEAK=1 -DNDEBUG '
         '-U_FORTIFY_SOURCE').split()
LIBRARY_FLAGS = ['-fsanitize=thread']
TEST_FLAGS = '-fno-builtin-memcpy -fno-builtin-memcmp -fno-builtin-memset'.split()
LINK_FLAGS = ['-Wl,--wrap=memset,--wrap=memcpy,--wrap=memcmp']
LEFT_OUT = re.compile(r'/(os_linux|os_wait_linux|region|thread|allocator|early|heaps|libc|limits|purger|start|(override|debug|trace|snapshot|stats_)[^/]*)\.c$'
                      r'|/(gil|classic|heap|options|object|python)/')  # see tests/sched/CMakeLists.txt
WITH_LIBRARY = ('library.c', 'orders.c')
TESTS = ('explore.c', 'machine.c', 'check.c', 'scenarios.c', 'weak.c')
PROGRAMS = {'weak': 4, 'weak_wide': 16}  # blocks a pool


def compiler():
    return os.environ.get('CC', 'cc').split()


def run_or_die(command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f'weaken.py: {" ".join(command)}:\n{done.stdout}{done.stderr}')


def add_all_orders(header):
    """Each operation of the back end in every order that it can have."""
    text = header.read_text(encoding='utf-8')
    there = {match.group(2, 3, 4) for match in DEFINITION.finditer(text)}
    lines = []
    for kind, operation, _, type_, middle in DEFINITION.findall(text):
        for order in ORDERS[kind]:
            if (operation, order, type_) not in there:
                there.add((operation, order, type_))
                lines.append(f'{kind}(fh_{operation}_{order}_{type_}, {middle}__ATOMIC_{order.upper()})\n')
    at = text.index('#undef FH_DEFINE_LOAD')
    header.write_text(text[:at] + ''.join(lines) + text[at:], encoding='utf-8')


def set_pool_blocks(config, target, blocks):
    text, found = re.subn(r'FH_POOL_BLOCKS_MAX = 4,', f'FH_POOL_BLOCKS_MAX = {blocks},',
                          config.read_text(encoding='utf-8'))
    if found != 1:
        sys.exit('weaken.py: the tiny geometry has changed')
    target.parent.mkdir()
    target.write_text(text, encoding='utf-8')


class Tree:
    """A copy of the sources, and the programs built from it."""

    def __init__(self, root, folder):
        self.folder = folder
        for part in ('src', 'include', 'tests/sched'):
            shutil.copytree(root / part, folder / part)
        add_all_orders(folder / 'src/base/atomic_c11.h')
        for program, blocks in PROGRAMS.items():
            set_pool_blocks(folder / 'src/base/config.h', folder / program / 'config.h', blocks)
        self.library = [folder / 'tests/sched' / name for name in WITH_LIBRARY]
        self.library += [path for path in sorted((folder / 'src').glob('*/*.c')) if not LEFT_OUT.search(str(path))]
        self.tests = [folder / 'tests/sched' / name for name in TESTS]
        self.stale = set()  # objects that are not as the sources are

    def object(self, program, source):
        return self.folder / program / f'{source.stem}.o'

    def compile(self, program, source):
        folders = [self.folder / program, self.folder / 'include']
        folders += [path for path in (self.folder / 'src').iterdir()
                    if path.is_dir() and path.name not in ('object', 'python')]
        flags = LIBRARY_FLAGS if source in self.library else TEST_FLAGS
        run_or_die([*compiler(), *FLAGS, *flags, *(f'-I{folder}' for folder in folders), '-c', str(source),
                    '-o', str(self.object(program, source))])

    def build(self, program):
        """Returns the program."""
        for source in self.library + self.tests:
            target = self.object(program, source)
            if target in self.stale or not target.exists():
                self.compile(program, source)
                self.stale.discard(target)
        objects = [str(self.object(program, source)) for source in self.library + self.tests]
        run_or_die([*compiler(), *LINK_FLAGS, *objects, '-o', str(self.folder / program / 'program')])
        return self.folder / program / 'program'

    def change(self, site, operation, to):
        path = self.folder / site.file
        lines = path.read_text(encoding='utf-8').split('\n')
        line = lines[site.line - 1]
        assert line.startswith(operation, site.column), (site, line)
        lines[site.line - 1] = line[:site.column] + to + line[site.column + len(operation):]
        path.write_text('\n'.join(lines), encoding='utf-8')
        if path.suffix == '.h':
            changed = self.library
        else:  # library.c includes those that are not compiled by themselves
            changed = [path if path in self.library else self.folder / 'tests/sched/library.c']
        self.stale |= {self.object(program, source) for program in PROGRAMS for source in changed}


# ---- Running ----------------------------------------------------------------------------------------

def explore(program, schedules):
    """What the first scenario that fails says, or None."""
    command = [str(program), '--threads-only', '--first', '--schedules', str(schedules)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    said = re.search(r'^(\w+): (.*)\nagain: ', done.stdout, re.MULTILINE)
    return f'`{said.group(1)}`: {said.group(2)}' if said else f'exit status {done.returncode}'


def explore_weakened(tree, changes, schedules):
    """What is found with some sites weakened: (site, order) each. None: nothing."""
    weaker = [(site, site.operation.replace(f'_{site.order}_', f'_{order}_')) for site, order in changes]
    for site, operation in weaker:
        tree.change(site, site.operation, operation)
    found = None
    for most in (1, schedules):  # most is found soon
        for program in PROGRAMS:
            found = found or explore(tree.build(program), most)
    for site, operation in weaker:
        tree.change(site, operation, site.operation)
    return found


def judge(tree, sites, site, order, schedules):
    """Returns (is it well, what to say)."""
    for beginning, reason in NOT_EXPLORED.items():
        if site.file.startswith(beginning):
            return True, f'not explored: {reason}'
    found = explore_weakened(tree, [(site, order)], schedules)
    if order != 'relaxed':
        return True, found or f'{order} would do, as far as this sees'
    if site.name in NOT_NEEDED:
        reason = NOT_NEEDED[site.name]
        return found is None, f'not needed: {reason}' if found is None else f'CAUGHT, though "{reason}": {found}'
    if site.name in EITHER and found is None:
        other = sites[EITHER[site.name]]
        found = explore_weakened(tree, [(site, 'relaxed'), (other, 'relaxed')], schedules)
        return found is not None, f'together with {other.name}: {found or "NOT CAUGHT"}'
    return found is not None, found or 'NOT CAUGHT'


def judge_all(root, sites, tasks, jobs, schedules):
    """Yields what judge() returns of each task."""
    with tempfile.TemporaryDirectory() as scratch, concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        first = Tree(root, pathlib.Path(scratch) / 'first')
        list(pool.map(first.build, PROGRAMS))
        trees = queue.SimpleQueue()
        for number in range(jobs):
            trees.put(copy_of(first, root, pathlib.Path(scratch) / str(number)))

        def take(task):
            tree = trees.get()
            try:
                return judge(tree, sites, *task, schedules)
            finally:
                trees.put(tree)
        yield from pool.map(take, tasks)


def copy_of(first, root, folder):
    tree = Tree(root, folder)
    for program in PROGRAMS:
        for source in first.library + first.tests:
            shutil.copy2(first.object(program, source), folder / program)
    return tree


# ---- The command line -------------------------------------------------------------------------------

def read_options():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--list', action='store_true')
    parser.add_argument('--edge')
    parser.add_argument('--only', default='')
    parser.add_argument('--sample', type=int)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--halves', action='store_true')
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--schedules', type=int, default=3000)
    parser.add_argument('--root', type=pathlib.Path, default=pathlib.Path(__file__).resolve().parents[2])
    return parser.parse_args()


def chosen(options, sites):
    wanted = [site for site in sites if options.edge in (None, *site.edges) and re.search(options.only, site.name)]
    if options.sample is not None:
        wanted = sorted(random.Random(options.seed).sample(wanted, min(options.sample, len(wanted))))
    return wanted


def row(site, order, said):
    names = ', '.join(site.edges) or '-'
    return f'| {names} | {site.file}:{site.line} {site.name.split(" ", 1)[1]} -> {order} | {said} |'


def main():
    options = read_options()
    sites = {site.name: site for site in sites_of(options.root)}
    lost = sorted(name for name in [*NOT_NEEDED, *EITHER] if name not in sites)
    for name in lost:
        print(f'{name} is listed in weaken.py, and nowhere in src')
    tasks = [(site, order) for site in chosen(options, sites.values()) for order in weaker_orders(site, options.halves)]
    if options.list:
        for site, order in tasks:
            print(row(site, order, ''))
        return 0
    failures = len(lost)
    print('| edge | weakened | caught by |\n|---|---|---|')
    verdicts = judge_all(options.root, sites, tasks, options.jobs, options.schedules)
    for (site, order), (well, said) in zip(tasks, verdicts):
        failures += not well
        print(row(site, order, said), flush=True)
    print(f'{len(tasks)} weakened, {failures} failures')
    return 1 if failures or not tasks else 0


if __name__ == '__main__':
    sys.exit(main())
