#!/bin/sh
# python3's own tests, with every object of the interpreter from malloc: containers, strings, the
# garbage collector, threads, queues, pools, fork and subprocesses.
#
# The distribution's interpreter, because it has its tests in a package (libpython3-testsuite) and
# because another python3 on the path may be a script that starts the real one elsewhere.
. "$(dirname "$0")/common.sh"
python=/usr/bin/python3
need $python
$python -c 'import test.test_list, test.list_tests' 2>/dev/null ||
    skip "the package libpython3-testsuite is not installed"

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
    -i 'Py*QueueTest' -i '*repeated_call_after_stdout_close' -i '*on_shutdown' \
    test_list test_tuple test_dict test_set test_deque test_array test_bytes test_unicode \
    test_memoryview test_sort test_re test_json test_pickle test_gc test_weakref test_io \
    test_thread test_threading test_queue test_subprocess
run_tests -m '*ThreadPoolExecutorTest.*' -m '*ProcessPoolForkProcessPoolExecutorTest.test_map' \
    -m '*ProcessPoolForkProcessPoolExecutorTest.test_submit*' -i '*timeout*' test_concurrent_futures

echo "python: $($python -V): its own tests pass: $(sed -n 's/^.*\] test_\([a-z_]*\).*/\1/p' logs | tr '\n' ' ')"
