# SPDX-License-Identifier: MIT
"""CPython's own test runner, with every outcome written down:  record.py RECORD ARGUMENT...

The same as `python3 -m test ARGUMENT...`, by whichever interpreter runs this. RECORD gets a line for
each test and each subtest as it ends; see suite.py, which compares them.
"""
import os
import random
import runpy
import sys

try:
    from test.libregrtest import testresult  # 3.12 and later
except ImportError:
    from test.support import testresult

RECORD = os.path.abspath(sys.argv[1])

# As they are now: tests replace them.
open_file, write, close = os.open, os.write, os.close
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND


def one_line(text):
    return str(text).encode('unicode_escape').decode('ascii')


# Opened each time, so that tests which count or close files find what they expect.
def note(test, outcome):
    file = open_file(RECORD, FLAGS, 0o644)
    try:
        write(file, f'{one_line(test)} ... {one_line(outcome)}\n'.encode('ascii'))
    finally:
        close(file)


def name_of(test):
    try:
        return test.id()
    except Exception:  # a subtest with what cannot be printed, such as too long a number
        return f'{getattr(test, "test_case", test).id()} (cannot be printed)'


class Recording(testresult.RegressionTestResult):
    """What happens to a test can be more than one thing: an error, and another one in its tearDown."""

    # So that chance, too, is the same in all ways: names of subtests have what it chose.
    def startTest(self, test):
        random.seed(name_of(test))
        super().startTest(test)

    def addSuccess(self, test):
        note(name_of(test), 'ok')
        super().addSuccess(test)

    def addSkip(self, test, reason):
        note(name_of(test), f'skipped {reason!r}')
        super().addSkip(test, reason)

    def addFailure(self, test, err):
        note(name_of(test), f'FAIL {err[0].__name__}')
        super().addFailure(test, err)

    def addError(self, test, err):
        note(name_of(test), f'ERROR {err[0].__name__}')
        super().addError(test, err)

    def addExpectedFailure(self, test, err):
        note(name_of(test), f'expected failure {err[0].__name__}')
        super().addExpectedFailure(test, err)

    def addUnexpectedSuccess(self, test):
        note(name_of(test), 'unexpected success')
        super().addUnexpectedSuccess(test)

    def addSubTest(self, test, subtest, err):
        if err is None:
            outcome = 'ok'
        else:
            kind = 'FAIL' if issubclass(err[0], test.failureException) else 'ERROR'
            outcome = f'{kind} {err[0].__name__}'
        note(name_of(subtest), outcome)
        super().addSubTest(test, subtest, err)


if __name__ == '__main__':
    testresult.RegressionTestResult = Recording
    sys.argv = ['test', *sys.argv[2:]]
    random.seed('the same')
    sys.path[0] = os.getcwd()  # as -m has it
    runpy.run_module('test', run_name='__main__', alter_sys=True)
