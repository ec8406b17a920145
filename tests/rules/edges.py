#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Check that every release has its acquire, in words:  edges.py [ROOT]

Comments in src/ name the edges of docs/concurrency.md in brackets, with the side that the operation
beside them is on: "[remote-free] release: …". The document has an entry for each name, a list item
"- [remote-free] Travels: … Release: `f()`, … Acquire: `g()`, … Without it: …". Checked:

  * names in src/ and entries are the same;
  * each edge has a releasing and an acquiring statement, in two functions (a read-modify-write of both
    orders, or a sequentially consistent operation, may stand for either, but not alone for both);
  * an entry's Release and Acquire list functions of src/ that say so, and no function is left out;
  * beside each statement (see REACH) stands an operation of that order.
"""
import collections
import pathlib
import re
import sys

EDGE = re.compile(r'(?<![\w\])])\[([a-z]+(?:-[a-z]+)*)\]')
ORDER = re.compile(r'\b(release|acquire|acq_rel|seq_cst)\b|sequentially consistent')
OPERATION = re.compile(r'\bfh_(?:load|store|cas|fetch_[a-z]+)_(relaxed|acquire|release|acq_rel|seq_cst)_'
                       r'|\bfh_hints_(?:set|clear)\b')  # whose operations are all seq_cst
SIDES = {'release': {'Release'}, 'acquire': {'Acquire'}}  # any other order: both
ORDERS_OF = {'Release': {'release', 'acq_rel', 'seq_cst'}, 'Acquire': {'acquire', 'acq_rel', 'seq_cst'}}
LABELS = ('Travels', 'Release', 'Acquire', 'Without it')
REACH = 12  # lines from a statement to its operation

Statement = collections.namedtuple('Statement', 'edge sides function place')

failures = []


def fail(place, text):
    failures.append(f'{place}: {text}')


def line_of(text, position):
    return text.count('\n', 0, position) + 1


def functions_of(text):
    """(first line, last line, name) of each function defined in a file formatted as ours are."""
    found = []
    for match in re.finditer(r'^(?!static_assert)[A-Za-z_][^\n;{}#]*?\b(\w+)\((?:[^;{}]*?)\)\s*\n\{\n.*?^\}',
                             text, re.MULTILINE | re.DOTALL):
        found.append((line_of(text, match.start()), line_of(text, match.end()), match.group(1)))
    return found


def function_at(functions, line, last_line_of_comment):
    """Name and last line of the function around a line, or that the comment stands directly above."""
    for first, last, name in functions:
        if first <= line <= last or first == last_line_of_comment + 1:
            return name, last
    return None, 0


def side_of(comment, start, end):
    """The sides that the text around a mention claims: the sentence after it, or "seq_cst for" before."""
    if re.search(r'\bseq_cst for\s*$', comment[:start]):
        return {'Release', 'Acquire'}
    rest = comment[end:]
    following = EDGE.search(rest)
    rest = rest[:following.start()] if following else rest
    sides = set()
    for match in ORDER.finditer(re.split(r'\.\s', rest)[0]):
        sides |= SIDES.get(match.group(1), {'Release', 'Acquire'})
    return sides


def operation_beside(lines, line, last_line, side):
    for text in lines[line - 1:min(line - 1 + REACH, last_line)]:
        for match in OPERATION.finditer(re.sub(r'/\*.*?\*/', '', text)):
            if (match.group(1) or 'seq_cst') in ORDERS_OF[side]:
                return True
    return False


def read_source(path, name):
    """All names that the comments of a file mention, and the statements among them."""
    text = path.read_text(encoding='utf-8')
    lines = text.split('\n')
    functions = functions_of(text)
    names, statements = {}, []
    for block in re.finditer(r'/\*.*?\*/', text, re.DOTALL):
        # As one line of the same length, so that positions stay.
        comment = re.sub(r'\n\s*\*', lambda match: ' ' * len(match.group()), block.group())
        for mention in EDGE.finditer(comment):
            line = line_of(text, block.start() + mention.start())
            place = f'{name}:{line}'
            edge = mention.group(1)
            names.setdefault(edge, place)
            sides = side_of(comment, mention.start(), mention.end())
            function, last_line = function_at(functions, line, line_of(text, block.end()))
            if not sides or function is None:
                continue  # only refers to the edge
            statements.append(Statement(edge, sides, function, place))
            for side in sides:
                if not operation_beside(lines, line, last_line, side):
                    fail(place, f'[{edge}] claims {side.lower()}, but no operation beside it has that order')
    return names, statements


def read_entries(path):
    """Edge -> label -> text, of the list items "- [edge] …" with their indented lines."""
    entries = {}
    for match in re.finditer(r'^- \[([a-z-]+)\] (.*(?:\n +.*)*)', path.read_text(encoding='utf-8'), re.MULTILINE):
        edge, text = match.group(1), ' '.join(match.group(2).split())
        if edge in entries:
            fail(path.name, f'[{edge}] has two entries')
        parts = re.split(f'({"|".join(LABELS)}):', text)
        entries[edge] = dict(zip(parts[1::2], parts[2::2]))
    return entries


def functions_listed(entry, label):
    return set(re.findall(r'`(\w+)\(\)`', entry.get(label, '')))


def check_edge(edge, statements, entry):
    says = {side: {s.function for s in statements if side in s.sides} for side in ORDERS_OF}
    for side in ORDERS_OF:
        if not says[side]:
            fail('src', f'[{edge}] has no {side.lower()} side in any comment')
    if len(says['Release'] | says['Acquire']) < 2:
        fail('src', f'[{edge}] has both its sides in one function')
    for label in LABELS:
        if not entry.get(label, '').strip():
            fail('docs/concurrency.md', f'[{edge}] lacks "{label}:"')
    listed = set()
    for side in ORDERS_OF:
        functions = functions_listed(entry, side)
        listed |= functions
        for function in sorted(functions - says[side]):
            fail('docs/concurrency.md', f'[{edge}] {side} lists {function}(), whose comments do not say so')
    for statement in statements:
        if statement.function not in listed:
            fail(statement.place, f'[{edge}] {statement.function}() is not listed in docs/concurrency.md')


def main():
    root = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[2]
    names, statements = {}, []
    for path in sorted((root / 'src').rglob('*.[ch]')):
        its_names, its_statements = read_source(path, path.relative_to(root).as_posix())
        names = {**its_names, **names}
        statements += its_statements
    entries = read_entries(root / 'docs' / 'concurrency.md')
    if not names or not entries:
        fail(root, 'no edges found')
    for edge in sorted(names.keys() - entries.keys()):
        fail(names[edge], f'[{edge}] has no entry in docs/concurrency.md')
    for edge in sorted(entries.keys() - names.keys()):
        fail('docs/concurrency.md', f'[{edge}] is named nowhere in src')
    for edge in sorted(names.keys() & entries.keys()):
        check_edge(edge, [s for s in statements if s.edge == edge], entries[edge])
    for failure in failures:
        print(failure)
    print(f'{len(names)} edges, {len(statements)} statements, {len(failures)} failures')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
