#!/bin/sh
# All tests in one command:
#
#   sh tests/run.sh                 everything; some ten minutes on two cores
#   sh tests/run.sh --quick         one compiler and no sanitizer: what to run before a commit
#   sh tests/run.sh STAGE...        just these stages, and what they need
#   sh tests/run.sh --list          what the stages are
#
# For a fresh Debian or Ubuntu: installs what is missing, builds in build/tests/<stage> (or in the
# folder that FH_TEST_BUILD names), and runs up to one stage per core at a time. The last line is
# `N passed, N failed, N skipped`; the exit status is 0 only if nothing failed.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
build=${FH_TEST_BUILD:-$root/build/tests}
LC_ALL=C
DEBIAN_FRONTEND=noninteractive
export LC_ALL DEBIAN_FRONTEND

# ---- What is needed ----------------------------------------------------------------------------

needed='build-essential cmake pkg-config libck-dev libcmocka-dev clang python3'
# Without these, what is about them is skipped. clang-format has a version: each formats differently.
wanted='clang-format-14 libbenchmark-dev libpython3.11 python3-dev libpython3.*-testsuite spin redis-server sqlite3 git nodejs perl openssl strace'
cross='gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user'

# ---- The stages --------------------------------------------------------------------------------
#
# name, what must be done first (- for nothing), and what it is. Long ones first; what waits for
# `build` comes when that is done.
stages()
{
    cat <<'END'
build     -      the release build with gcc, everything in it
programs  build  real programs under the malloc library
python    build  CPython and its own tests on Freehold in every way
models    build  the protocols' models, checked exhaustively
explorer  build  the library itself under a scheduler that tries interleavings
aarch64   -      built for aarch64: modules and family under qemu-user, pages of 4 and 64 KiB
clang     -      built with clang: the module, family and object tests
tests     build  modules, malloc family, package, and all else that the build has tests of
thread    -      the tests of modules and objects under ThreadSanitizer
address   -      the same under AddressSanitizer and UndefinedBehaviorSanitizer; on C11 atomics too
points    -      the module tests with tiny pools and arenas, interrupted at each atomic operation
library   build  imports, exports, instructions, TLS and system calls of the release libraries
headers   -      each header alone; the public one as C and C++ with all warnings
style     -      clang-format, syntax of the scripts
END
}
quick_stages='build tests library headers style'

# Configure and build: configure FOLDER OPTION..., then compile FOLDER [TARGET...].
configure()
{
    folder=$build/$1
    shift
    cmake -S "$root" -B "$folder" "$@"
}

compile()
{
    folder=$build/$1
    shift
    cmake --build "$folder" --parallel "$jobs" ${1:+--target "$@"}
}

launcher= # what ctest runs under

# ctest in a folder; its report is counted later.
ctest_in()
{
    folder=$build/$1
    shift
    $launcher ctest --test-dir "$folder" --output-on-failure --timeout 300 "$@" || true
}

# The targets of the tests in a folder: modules_arena and so on.
targets_of() # FOLDER
{
    sed -n "s|.*/\([a-z0-9_]*\)_test\.c\$|$1_\1|p" <<END
$(ls "$root/tests/$1"/*_test.c)
END
}

# Older sanitizers do not start where addresses are random in more bits than they know of.
launcher_for()
{
    "$1" >/dev/null 2>&1 || ! setarch -R "$1" >/dev/null 2>&1 || echo 'setarch -R'
}

# modules FOLDER OPTION...: build and run the tests of modules alone, of those named in $folders and
# not in $without.
folders=modules
without=
modules()
{
    name=$1
    shift
    configure "$name" -DFH_BENCH=OFF -DFH_STRESS=OFF -DFH_INSTALL=OFF "$@"
    # shellcheck disable=SC2046 # one word a target
    compile "$name" $(for tests in $folders; do targets_of "$tests"; done)
    launcher=$(launcher_for "$build/$name/tests/modules/modules_bits")
    ctest_in "$name" --parallel "$jobs" --tests-regex "^($(echo $folders | tr ' ' '|'))[.]" \
        --exclude-regex "[.]example\$${without:+|^modules[.]($without)[.]}"
}

stage_build()
{
    configure release -DCMAKE_C_COMPILER=gcc -DCMAKE_CXX_COMPILER=g++ -DFH_WERROR=ON
    compile release
    passes 'the release build has no warning'
}

stage_programs()
{
    ctest_in release --label-regex '^program$' --parallel "$jobs"
}

stage_python() { ctest_in release --label-regex '^python$' --parallel "$jobs"; }

# The package tests share one installation, so they run one by one. Single steps and handlers in the
# static library are those in the preloaded one.
stage_tests()
{
    ctest_in release --label-exclude '^(program|python|package|model|sched)$' --parallel "$jobs" \
        --exclude-regex '^family[.](stepped|interrupt)[.]static[.]|^stress-smoke-.*-debug$'
    ctest_in release --label-regex '^package$'
}

stage_models()
{
    ctest_in release --label-regex '^model$' --parallel "$jobs"
}

stage_explorer()
{
    ctest_in release --label-regex '^sched$' --parallel "$jobs"
}

# Left out is what takes longest and is about the machine rather than the compiler.
stage_clang()
{
    configure clang -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DFH_BENCH=OFF \
        -DFH_EXPLORER=OFF -DFH_WERROR=ON
    compile clang
    ctest_in clang --tests-regex '^(modules|family|object)[.]' --parallel "$jobs" \
        --exclude-regex '^family[.](stepped|interrupt|environment|[a-z]*[.]linked)[.]|^modules[.](gil|purger)[.]'
}

# What waits for time to pass is left to the other stages.
stage_thread() { folders='modules object' modules thread -DFH_SANITIZE=thread; }
stage_address()
{
    folders='modules object' without='gil|purger' modules address -DFH_SANITIZE=address,undefined
}
stage_points() { without='gil|purger|trace' modules points -DFH_GEOMETRY=tiny -DFH_ATOMICS=sched; }

# ---- Another processor -------------------------------------------------------------------------

# apt-get with lists and folders of its own, for another processor's packages: the system's stay as
# they are.
foreign_apt() # FOLDER ARGUMENT...
{
    folder=$1
    shift
    mkdir -p "$folder/state/lists/partial" "$folder/cache/archives/partial"
    : >>"$folder/state/status"
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= \
        -o Dir::State="$folder/state" -o Dir::State::status="$folder/state/status" \
        -o Dir::Cache="$folder/cache" -o Acquire::Languages=none "$@"
}

# Debian has no cmocka for its cross compiler; the one for aarch64 itself will do.
unpack_foreign() # FOLDER PACKAGE...
{
    (
        mkdir -p "$1" && cd "$1"
        [ ! -d root ] || exit 0
        folder=$PWD
        shift
        foreign_apt "$folder" update && foreign_apt "$folder" download "$@" || exit 1
        for package in *.deb; do
            dpkg-deb -x "$package" unpacked || exit 1
        done
        mv unpacked root
    )
}

can_cross_build()
{
    # shellcheck disable=SC2086 # words
    [ "$(uname -m)" != aarch64 ] && command -v dpkg-query >/dev/null &&
        [ -z "$(missing_of $cross)" ] &&
        unpack_foreign "$build/aarch64-packages" libcmocka-dev libcmocka0
}

# Left out is what has no part that depends on the processor, and takes an emulator long. With pages of
# 64 KiB run the modules that are about pages, but for what asks how many are resident:
# the machine itself answers that, by its own pages.
stage_aarch64()
{
    if ! can_cross_build; then
        echo 'check: skipped: the build for aarch64 and its tests'
        return 0
    fi
    configure aarch64 "-DCMAKE_TOOLCHAIN_FILE=$root/tests/aarch64.cmake" \
        "-DFH_AARCH64_ROOT=$build/aarch64-packages/root" -DFH_BENCH=OFF -DFH_STRESS=OFF \
        -DFH_INSTALL=OFF -DFH_WERROR=ON
    compile aarch64
    passes 'the build for aarch64 has no warning'
    tools=aarch64-linux-gnu-
    looks_right_from_outside aarch64
    ctest_in aarch64 --parallel "$jobs" --tests-regex \
        '^(modules|family[.][a-z]*[.](preload|static)|object[.](count|weak|space|intern|orders))[.]' \
        --exclude-regex '^modules[.](trace|debug|stats|cpython|options|heap)[.]'
    QEMU_PAGESIZE=65536 ctest_in aarch64 --parallel "$jobs" \
        --tests-regex '^modules[.](os|region|arena|grow|purge|large|thread|holder|theap|classic)[.]' \
        --exclude-regex '[.]os[.](mapped|purged)_pages_'
}

# ---- The release libraries, from the outside ---------------------------------------------------

tools= # before the names of nm, objdump and readelf: those for another processor

exports_of()
{
    "${tools}nm" -D --defined-only "$1" | sed 's/.* //; s/@.*//' | sort
}

same_exports() # LIBRARY PATTERN
{
    sed '/^#/d' "$root/tests/exports.txt" | grep "$2" | sort >"$state/expected.$$"
    exports_of "$1" | diff "$state/expected.$$" -
}

imports_nothing_that_waits()
{
    ! "${tools}nm" -D --undefined-only "$1" | sed 's/@.*//' | grep -E \
        ' (pthread_(mutex|spin|rwlock|cond|barrier|once|yield|timedjoin|tryjoin)|(__)?sem_|sched_yield|.*futex|.*sleep)'
}

# The members of an archive that use a function.
members_that_use() # ARCHIVE PATTERN
{
    "${tools}nm" -A --undefined-only "$1" 2>/dev/null |
        sed -n -E "s/^[^:]*:([^:]*): +U ($2)\$/\1/p" | sort -u
}

# The GIL is a lock, and waits. Of all the library only src/heap/block.c takes it, for heaps whose mode
# is gil-lock; what is below the calls of malloc and free knows nothing of it. The purger is a thread
# that sleeps; who stops it waits for its end, and only a program or the constructor starts or stops it.
waits_in_the_gil_and_the_purger() # ARCHIVE
{
    [ "$(members_that_use "$1" syscall)" = os_wait_linux.c.o ] &&
        [ "$(members_that_use "$1" 'fh_os_(wait|wake)' | tr '\n' ' ')" = 'gil.c.o purger.c.o ' ] &&
        [ "$(members_that_use "$1" 'pthread_(create|join)')" = purger.c.o ] &&
        [ "$(members_that_use "$1" 'fh_purger_(start|stop)')" = start.c.o ] &&
        [ "$(members_that_use "$1" 'fh_gil_(acquire|restore|save|check)')" = block.c.o ]
}

has_no_instruction() # LIBRARY PATTERN
{
    "${tools}objdump" -d --no-show-raw-insn "$1" >"$state/code.$$"
    ! grep -E "[[:space:]]($2)([[:space:]]|\$)" "$state/code.$$"
}

has_little_thread_local_memory()
{
    bytes=$("${tools}readelf" -lW "$1" | awk '$1 == "TLS" { print $6 }')
    echo "$1: TLS $bytes"
    [ -n "$bytes" ] && [ $((bytes)) -le 64 ]
}

# A relocation that asks for an offset from the thread pointer, and none that asks for a call.
reaches_it_directly()
{
    "${tools}readelf" -rW "$1" >"$state/relocations.$$"
    grep -qE 'TPOFF64|TLS_TPREL' "$state/relocations.$$" &&
        ! grep -E 'DTPMOD|TLSDESC' "$state/relocations.$$" &&
        ! "${tools}nm" -D --undefined-only "$1" | grep __tls_get_addr
}

looks_right_from_outside() # BUILD
{
    check 'libfreehold.so exports what is listed' \
        same_exports "$build/$1/libfreehold.so" '^fh_'
    check 'libfreehold-malloc.so exports what is listed' \
        same_exports "$build/$1/libfreehold-malloc.so" .
    for name in libfreehold.so libfreehold-malloc.so; do
        library=$build/$1/$name
        check "$name imports nothing that waits" imports_nothing_that_waits "$library"
        check "$name makes system calls through libc alone" has_no_instruction "$library" 'syscall|svc'
        check "$name never spins politely" has_no_instruction "$library" 'pause|yield|wfe|tpause'
        check "$name has at most 64 bytes a thread" has_little_thread_local_memory "$library"
        check "$name reaches them by initial-exec" reaches_it_directly "$library"
        check "${name%.so}.a waits in the GIL and the purger alone" \
            waits_in_the_gil_and_the_purger "${library%.so}.a"
    done
}

# What threads that do nothing but allocate ask of the system, a name a line: tests/family/contend.c.
calls_under() # LIBRARY
{
    calls=$state/calls.$$
    timeout 120 strace -f -qq -o "$calls" -E "LD_PRELOAD=$1" \
        "$build/release/tests/family/family_contend" || return 1
    awk '
        $2 ~ /^getppid\(/ { marks++; next }
        marks == 1 && $2 ~ /^[a-z0-9_]+\(/ { sub(/\(.*/, "", $2); print $2 }
        END { exit marks != 2 }' "$calls"
}

can_trace() { strace -f -qq -o /dev/null true 2>/dev/null; }

# Memory, and which thread this is and whether another lives: none of these waits for a thread.
calls_for_memory_alone() # LIBRARY
{
    can_trace || return 77
    calls_under "$1" >"$state/names.$$" || return 1
    sort "$state/names.$$" | uniq -c
    grep -qx madvise "$state/names.$$" && # or it was not the library that was asked for memory
        ! grep -vxE 'mmap|munmap|mremap|mprotect|madvise|getpid|gettid|tgkill' "$state/names.$$"
}

# How often threads meet in a lock is a matter of chance; that they never do in five runs is not.
shows_a_lock() # LIBRARY
{
    can_trace || return 77
    for _ in 1 2 3 4 5; do
        calls_under "$1" >"$state/names.$$" || return 1
        ! grep -qx futex "$state/names.$$" || return 0
    done
    return 1
}

stage_library()
{
    looks_right_from_outside release
    check 'libfreehold-malloc.so asks the system for memory alone' \
        calls_for_memory_alone "$build/release/libfreehold-malloc.so"
    check 'an allocator with a lock is seen to wait' \
        shows_a_lock "$build/release/libfamily_locking.so"
}

# ---- Sources -----------------------------------------------------------------------------------

# compiles COMPILER STANDARD LANGUAGE OPTION... HEADER: alone, without a warning.
compiles()
{
    compiler=$1 standard=$2 language=$3
    shift 3
    printf '#include "%s"\ntypedef int not_empty;\n' "$1" >"$state/alone.$$"
    shift
    "$compiler" "-std=$standard" -x "$language" -Wall -Wextra -Wpedantic -Werror -fsyntax-only "$@" \
        "$state/alone.$$"
}

# The layers are C; their headers may use what C++ lacks. atomic_*.h are the back ends of atomic.h,
# which is checked with each; src/python's need CPython's.
stage_headers()
{
    for header in "$root"/include/*.h "$root"/include/*/*.h; do
        name=${header#"$root/include/"}
        for compiler in gcc clang; do
            check "$name as C11 by $compiler" compiles $compiler c11 c "$header" "-I$root/include"
        done
        for compiler in g++ clang++; do
            check "$name as C++17 by $compiler" \
                compiles $compiler c++17 c++ "$header" "-I$root/include"
        done
    done
    set -- -D_GNU_SOURCE "-I$root/include"
    for folder in "$root"/src/*/; do
        set -- "$@" "-I$folder"
    done
    for header in "$root"/src/*/*.h; do
        case $header in */atomic_* | */src/python/*) continue ;; esac
        for compiler in gcc clang; do
            for atomics in C11 CK SCHED; do
                [ "$atomics" != CK ] || [ "$(uname -m)" = x86_64 ] || continue
                check "${header#"$root"/} as C11 by $compiler, $atomics atomics" \
                    compiles $compiler c11 c "$header" "$@" "-DFH_ATOMICS_$atomics=1"
            done
        done
    done
}

sources()
{
    find "$root/include" "$root/src" "$root/tests" "$root/bench" "$root/stress" "$root/docs" -type f \
        -name "$1" 2>/dev/null | sort
}

is_formatted()
{
    command -v clang-format-14 >/dev/null || return 77
    clang-format-14 --dry-run -Werror "$1"
}

stage_style()
{
    for pattern in '*.c' '*.h' '*.cc' '*.cpp'; do
        for source in $(sources "$pattern"); do
            check "${source#"$root"/} is formatted" is_formatted "$source"
        done
    done
    for script in $(sources '*.sh'); do
        check "${script#"$root"/} is a shell script" sh -n "$script"
    done
    [ ! -f "$root/.ci/run" ] || check '.ci/run is a shell script' bash -n "$root/.ci/run"
}

# ---- Counting ----------------------------------------------------------------------------------

passes() { echo "check: passed: $1"; }

# check WHAT COMMAND...: which says 77 if it cannot be checked here.
check()
{
    what=$1
    outcome=0
    shift
    "$@" || outcome=$?
    case $outcome in
    0) passes "$what" ;;
    77) echo "check: skipped: $what" ;;
    *) echo "check: FAILED: $what" ;;
    esac
}

# From a stage's report: what ctest and check said of each test. Prints passed, failed, skipped.
count()
{
    awk '
        /^check: passed: / || /^ *[0-9]+\/[0-9]+ Test +#.* Passed +[0-9.]+ sec/ { passed++; next }
        /^check: FAILED: / { failed++; next }
        /^check: skipped: / { skipped++; next }
        /^ *[0-9]+\/[0-9]+ Test +#/ { if (/\*\*\*Skipped/) skipped++; else failed++ }
        END { print passed + 0, failed + 0, skipped + 0 }' "$1"
}

failures()
{
    sed -n -E '/^check: FAILED: /p; /\*\*\*Skipped/d; /^ *[0-9]+\/[0-9]+ Test +#.*\*\*\*/p' "$1"
}

# ---- Running -----------------------------------------------------------------------------------

now() { date +%s; }

say() { printf '[%4d s] %s\n' $(($(now) - started)) "$*"; }

# A stage in a process of its own (`run.sh --stage NAME`), so that set -e holds in it.
run_stage()
{
    begun=$(now)
    status=0
    say "$1: begins"
    sh "$0" --stage "$1" >"$state/$1.log" 2>&1 </dev/null || status=$?
    counts=$(count "$state/$1.log")
    # A stage that ended early, or has nothing to show, failed as such.
    if [ $status -ne 0 ] || [ "$counts" = '0 0 0' ]; then
        echo "check: FAILED: stage $1 (status $status)" >>"$state/$1.log"
        counts=$(count "$state/$1.log")
    fi
    echo "$counts $(($(now) - begun))" >"$state/$1.result"
    finish "$1"
}

finish() # STAGE
{
    # shellcheck disable=SC2046 # four numbers
    set -- "$1" $(cat "$state/$1.result")
    say "$1: $2 passed, $3 failed, $4 skipped in $5 s"
    [ "$3" -eq 0 ] || show_failures "$1"
}

show_failures()
{
    failures "$state/$1.log" | head -n 20 | sed "s/^/    /"
    if ! grep -q 'Test *#' "$state/$1.log"; then # no ctest said more
        grep -E '(error|warning|Error)' "$state/$1.log" | head -n 10 | sed "s/^/    /"
    fi
    echo "    all of it: $state/$1.log"
}

need_of() { stages | awk -v name="$1" '$1 == name { print $2 }'; }

is_ready()
{
    need=$(need_of "$1")
    [ "$need" = - ] || [ -f "$state/$need.result" ]
}

# Take a stage that nobody has taken, and that may begin. 1: none is left; 2: none may begin yet.
take_stage()
{
    left=no
    for taken in $selected; do
        [ ! -d "$state/$taken.taken" ] || continue
        left=yes
        if is_ready "$taken" && mkdir "$state/$taken.taken" 2>/dev/null; then
            return 0
        fi
    done
    [ $left = yes ] && return 2
    return 1
}

# One of as many workers as there are cores.
work_off()
{
    while :; do
        found=0
        take_stage || found=$?
        case $found in
        0) run_stage "$taken" ;;
        1) return 0 ;;
        *) sleep 1 ;;
        esac
    done
}

is_running() { kill -0 "$1" 2>/dev/null; }

# Stages that no worker came to the end of, because somebody ended it.
fail_unfinished()
{
    for name in $selected; do
        [ ! -f "$state/$name.result" ] || continue
        echo "check: FAILED: stage $name did not end" >>"$state/$name.log"
        echo '0 1 0 0' >"$state/$name.result"
    done
}

# Every so often, where each running stage is.
show_progress()
{
    for name in $selected; do
        if [ -f "$state/$name.log" ] && [ ! -f "$state/$name.result" ]; then
            say "$name: $(tail -n 1 "$state/$name.log" | tr -s ' .' | cut -c 1-90)"
        fi
    done
}

wait_for_workers()
{
    seconds=0
    for worker in $workers; do
        while is_running "$worker"; do
            sleep 1
            seconds=$((seconds + 1))
            [ $((seconds % 20)) -ne 0 ] || show_progress
        done
    done
}

# Workers lead process groups of their own: so all that they started can be ended.
# shellcheck disable=SC2317 # the traps call it
end_workers()
{
    status=$?
    trap - EXIT
    for worker in $workers; do
        kill -TERM "-$worker" 2>/dev/null || true
    done
    exit $status
}

# ---- What to install ---------------------------------------------------------------------------

missing_of()
{
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || echo "$package"
    done
}

as_root()
{
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

apt_install()
{
    [ $# -gt 0 ] || return 0
    echo "installing $*"
    [ -f "$state/updated" ] || as_root apt-get update -qq || true
    : >"$state/updated"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        >"$state/install.log" 2>&1 || { tail -n 5 "$state/install.log"; return 1; }
}

install_missing()
{
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        echo "not Debian: taking for granted $needed"
        return 0
    fi
    # shellcheck disable=SC2046,SC2086 # words
    apt_install $(missing_of $needed) || { echo 'run.sh: these packages are needed' >&2; exit 1; }
    # shellcheck disable=SC2046,SC2086
    for package in $(missing_of $wanted); do
        apt_install "$package" || echo "going on without $package"
    done
    case " $selected " in
    *' aarch64 '*)
        # shellcheck disable=SC2046,SC2086
        [ "$(uname -m)" = aarch64 ] || apt_install $(missing_of $cross) ||
            echo "going on without $cross"
        ;;
    esac
}

# ---- The whole ---------------------------------------------------------------------------------

usage()
{
    sed -n '2,/^set -eu/s/^# \{0,1\}//p' "$0" | sed '$d'
    stages | sed 's/^/    /'
}

is_stage() { stages | grep -q "^$1 "; }

# In the order of the table, with what they need.
select_stages()
{
    chosen=" $* "
    for name in "$@"; do
        is_stage "$name" || { echo "run.sh: there is no stage $name; try --list" >&2; exit 2; }
        chosen="$chosen$(need_of "$name") "
    done
    selected=
    for name in $(stages | awk '{ print $1 }'); do
        case $chosen in *" $name "*) selected="$selected $name" ;; esac
    done
}

print_summary()
{
    echo
    printf '%-10s %8s %8s %8s %8s\n' stage passed failed skipped seconds
    for name in $selected; do
        # shellcheck disable=SC2046 # four numbers
        printf '%-10s %8d %8d %8d %8d\n' "$name" $(cat "$state/$name.result")
    done
    for name in $selected; do
        failures "$state/$name.log" | sed "s/^ */FAILED in $name: /"
    done
    echo
}

run_all()
{
    started=$(now)
    cores=$(nproc 2>/dev/null || echo 2)
    lanes=$((cores < 4 ? cores : 4))
    jobs=$((cores / lanes))
    state=$build/run
    rm -rf "$state"
    mkdir -p "$state"
    install_missing
    export started jobs state selected
    workers=
    trap end_workers EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    trap 'exit 129' HUP
    for _ in $(seq "$lanes"); do
        setsid sh "$0" --worker &
        workers="$workers $!"
    done
    wait_for_workers
    fail_unfinished
    print_summary
    set -- 0 0 0
    for name in $selected; do
        read -r passed failed skipped _ <"$state/$name.result"
        set -- $(($1 + passed)) $(($2 + failed)) $(($3 + skipped))
    done
    echo "$1 passed, $2 failed, $3 skipped"
    [ "$2" -eq 0 ] && [ "$1" -gt 0 ]
}

case ${1:-} in
--worker) work_off ;;
--stage) "stage_$2" ;;
--list) stages ;;
--help | -h) usage ;;
--quick)
    # shellcheck disable=SC2086 # names
    select_stages $quick_stages
    run_all
    ;;
-*) usage >&2; exit 2 ;;
'')
    # shellcheck disable=SC2046
    select_stages $(stages | awk '{ print $1 }')
    run_all
    ;;
*)
    select_stages "$@"
    run_all
    ;;
esac
