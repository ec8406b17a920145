#!/bin/sh
# One step of the package test, as tests/package/CMakeLists.txt calls it:
#
#   install            into a scratch prefix, which all other steps use
#   libraries          names, exported symbols and dynamic flags of what was installed
#   find_package       consumer/ is built and run against the prefix
#   moved              the same after the prefix was moved
#   pkg_config         consumer/'s sources with what pkg-config says, by hand
#   pkg_config_static  the same as wholly static programs
#   add_subdirectory   consumer/ with Freehold as a part of itself
#   FetchContent       consumer/ with Freehold fetched from a local folder
#
# Exits with 77 if the machine lacks what a step needs.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
prefix=$FH_SCRATCH/prefix
LC_ALL=C
export LC_ALL

fail()
{
    echo "package_test: $*" >&2
    exit 1
}

skip()
{
    echo "package_test: left out, for want of $*"
    exit 77
}

find_libdir()
{
    libdir=$(dirname "$(find "$prefix" -name libfreehold.so)")
}

# The names that a shared library exports, one a line.
exports_of()
{
    nm -D --defined-only "$libdir/$1" | sed 's/.* //; s/@.*//' | sort -u
}

install_step()
{
    rm -rf "$FH_SCRATCH"
    "$CMAKE" --install "$FH_BUILD" --prefix "$prefix" --config "${FH_CONFIG:-Release}"
}

# check_dynamic <library>: what its dynamic section must and must not say.
check_dynamic()
{
    readelf -d "$libdir/lib$1.so" >"$FH_SCRATCH/dynamic"
    grep -q "(SONAME).*\[lib$1\.so\.${FH_VERSION%%.*}\]" "$FH_SCRATCH/dynamic" ||
        fail "lib$1.so has another SONAME than lib$1.so.${FH_VERSION%%.*}"
    test "$(readlink -f "$libdir/lib$1.so")" = "$(readlink -f "$libdir/lib$1.so.$FH_VERSION")" ||
        fail "lib$1.so is not lib$1.so.$FH_VERSION"
    for flag in NOW NODELETE STATIC_TLS; do
        grep -q "FLAGS.*$flag" "$FH_SCRATCH/dynamic" || fail "lib$1.so is not linked with $flag"
    done
    ! grep TEXTREL "$FH_SCRATCH/dynamic" || fail "lib$1.so needs text relocations"
    ! grep NEEDED "$FH_SCRATCH/dynamic" | grep -v -E '\[(libc\.|libpthread\.|ld-|libc\.musl)' ||
        fail "lib$1.so needs more than libc"
}

libraries_step()
{
    find_libdir
    for library in freehold freehold-malloc; do
        test -f "$libdir/lib$library.a" || fail "there is no lib$library.a"
        check_dynamic "$library"
    done

    # Exactly what the headers declare; object.h is libfreehold-object's, see tests/object/outside.sh.
    find "$prefix/include" -name '*.h' ! -name object.h \
        -exec sed -n 's/^FH_API.*\(fh_[a-z0-9_]*\)(.*/\1/p' {} + | sort -u \
        >"$FH_SCRATCH/declared"
    test -s "$FH_SCRATCH/declared" || fail "the headers declare nothing"
    exports_of libfreehold.so >"$FH_SCRATCH/exported"
    diff "$FH_SCRATCH/declared" "$FH_SCRATCH/exported" >&2 ||
        fail "libfreehold.so exports (>) other names than the headers declare (<)"

    # The same and the malloc family.
    exports_of libfreehold-malloc.so >"$FH_SCRATCH/exported_malloc"
    comm -23 "$FH_SCRATCH/exported" "$FH_SCRATCH/exported_malloc" | grep . &&
        fail "libfreehold-malloc.so lacks these"
    for name in malloc calloc realloc free aligned_alloc posix_memalign memalign \
        malloc_usable_size _Znwm _ZdlPv; do
        grep -q -x "$name" "$FH_SCRATCH/exported_malloc" ||
            { test "$name" = _Znwm && grep -q -x _Znwj "$FH_SCRATCH/exported_malloc"; } ||
            fail "libfreehold-malloc.so does not export $name"
    done
    family='(m|c|re|v|pv)alloc|c?free|free_(aligned_)?sized|aligned_alloc|memalign|(__)?posix_memalign'
    family="$family|reallocarray|reallocf|mallopt|mallinfo2?|malloc_[a-z_]*|_Z(n[wa]|d[la]).*|__libc_.*"
    comm -13 "$FH_SCRATCH/exported" "$FH_SCRATCH/exported_malloc" | grep -v -x -E "$family" &&
        fail "libfreehold-malloc.so exports these, which are not of the malloc family"
    return 0
}

# build_consumer <folder> <way to Freehold> <prefix>: configure, build and run consumer/.
build_consumer()
{
    build=$FH_SCRATCH/$1
    rm -rf "$build"
    "$CMAKE" -S "$here/consumer" -B "$build" -DCMAKE_BUILD_TYPE=Release \
        -DCMAKE_C_COMPILER="$CC" -DCMAKE_CXX_COMPILER="$CXX" -DCMAKE_PREFIX_PATH="$3" \
        -DFREEHOLD_WAY="$2" -DFREEHOLD_SOURCE="$FH_SOURCE" -DFREEHOLD_VERSION="$FH_VERSION"
    "$CMAKE" --build "$build" --parallel 2
    "$CMAKE" --build "$build" --target test
}

moved_step()
{
    rm -rf "$FH_SCRATCH/elsewhere"
    cp -R "$prefix" "$FH_SCRATCH/elsewhere"
    mv "$prefix" "$prefix.away"
    status=0
    (build_consumer moved_build find_package "$FH_SCRATCH/elsewhere") || status=$?
    mv "$prefix.away" "$prefix"
    return $status
}

# Set pkg_config to the program, which is to find the scratch prefix.
find_pkg_config()
{
    find_libdir
    pkg_config=$(command -v pkg-config || command -v pkgconf) || skip pkg-config
    PKG_CONFIG_PATH=$libdir/pkgconfig
    export PKG_CONFIG_PATH
    test "$("$pkg_config" --modversion freehold-malloc)" = "$FH_VERSION" ||
        fail "pkg-config names another version than $FH_VERSION"
}

# compile_and_run <compiler> <source> <package> <who serves malloc> <more arguments>
# The last is quoted for a shell to read, as pkg-config's answers are.
compile_and_run()
{
    flags=$("$pkg_config" --cflags "$3")
    eval "\"\$1\" -O2 $flags \"\$here/consumer/\$2\" -o \"\$program\" $5"
    "$program" "$4" "$FH_VERSION" || fail "$2 with $3: wrong answer"
}

# link_shared <compiler> <source> <package> <who serves malloc> <more arguments>
link_shared()
{
    compile_and_run "$1" "$2" "$3" "$4" \
        "-Wl,--as-needed $("$pkg_config" --libs "$3") '-Wl,-rpath,$libdir' $5"
}

pkg_config_step()
{
    find_pkg_config
    program=$FH_SCRATCH/by_pkg_config
    link_shared "$CC" consumer.c freehold libc ""
    link_shared "$CC" consumer.c freehold-malloc freehold ""
    link_shared "$CXX" consumer.cc freehold libc -std=c++17
    link_shared "$CXX" consumer.cc freehold-malloc freehold -std=c++17
    link_shared "$CC" bystander.c freehold-malloc libfreehold-malloc -ldl
}

# Fail unless the static program has glibc's own allocator or not, as told; any other libc will do.
check_for_glibc_malloc()
{
    getconf GNU_LIBC_VERSION >/dev/null 2>&1 || return 0
    count=$(nm "$program" | grep -c -w _int_malloc) || true
    case $1:$count in
    present:0) fail "$program: glibc's malloc was expected here, so the check below sees nothing" ;;
    absent:[1-9]*) fail "$program: glibc's malloc is there beside ours" ;;
    esac
}

# link_static <compiler> <source> <package> <who serves malloc> <more arguments> <present or absent>
link_static()
{
    compile_and_run "$1" "$2" "$3" "$4" "-static $("$pkg_config" --static --libs "$3") $5"
    check_for_glibc_malloc "$6"
}

pkg_config_static_step()
{
    find_pkg_config
    program=$FH_SCRATCH/static
    echo 'int main(void) { return 0; }' >"$FH_SCRATCH/empty.c"
    "$CC" -static "$FH_SCRATCH/empty.c" -o "$program" || skip "a static libc"
    link_static "$CC" consumer.c freehold libc "" present
    link_static "$CC" consumer.c freehold-malloc freehold "" absent
    link_static "$CXX" consumer.cc freehold libc -std=c++17 present
    link_static "$CXX" consumer.cc freehold-malloc freehold -std=c++17 absent
}

case $1 in
install) install_step ;;
libraries) libraries_step ;;
find_package) build_consumer find_package find_package "$prefix" ;;
moved) moved_step ;;
pkg_config) pkg_config_step ;;
pkg_config_static) pkg_config_static_step ;;
add_subdirectory | FetchContent) build_consumer "$1" "$1" "" ;;
*) fail "no step is called $1" ;;
esac
