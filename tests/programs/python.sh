#!/bin/sh
# python3's own tests of files, queues, pools, fork and subprocesses, with every object of the
# interpreter from malloc. What it has on containers, numbers, text and threads is compared with the
# plain interpreter, line by line, in tests/python/suite.py.
#
# The distribution's interpreter, because it has its tests in a package (libpython3.*-testsuite) and
# because another python3 on the path may be a script that starts the real one elsewhere.
. "$(dirname "$0")/common.sh"
python=/usr/bin/python3
need $python
$python -c 'import test.test_list, test.list_tests' 2>/dev/null ||
    skip "the package libpython3.*-testsuite is not installed"

PYTHONMALLOC=malloc
export PYTHONMALLOC
bound_to_library $python -c 'import json, threading'

# run_tests OPTION-OR-TEST...
run_tests()
{
    preloaded $python -m test --timeout 120 "$@" >log 2>&1 </dev/null || fail "$(tail -n 60 log)"
    grep -q '^Tests result: SUCCESS' log || fail "$(tail -n 20 log)"
    cat log >>logs
}

# Left out by name: what sleeps, so that most of the time is spent in the interpreter.
run_tests -i '*timeout*' -i '*Signals*' -i '*deadlock*' -i '*_dead' -i '*FailingQueue*' \
    -i 'Py*QueueTest' -i '*repeated_call_after_stdout_close' \
    test_re test_pickle test_io test_queue test_subprocess
run_tests -m '*ThreadPoolExecutorTest.*' -m '*ProcessPoolForkProcessPoolExecutorTest.test_map' \
    -m '*ProcessPoolForkProcessPoolExecutorTest.test_submit*' -i '*timeout*' test_concurrent_futures

echo "python: $($python -V): its own tests pass: $(sed -n 's/^.*\] test_\([a-z_]*\).*/\1/p' logs | tr '\n' ' ')"
