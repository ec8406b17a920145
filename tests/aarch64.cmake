# SPDX-License-Identifier: MIT
# A build for aarch64 on another machine: Debian's cross compiler, and qemu-user to run the tests.
# Packages that Debian has for aarch64 itself alone are unpacked in FH_AARCH64_ROOT, see run.sh.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)

set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES FH_AARCH64_ROOT)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu ${FH_AARCH64_ROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${FH_AARCH64_ROOT})
set(ENV{PKG_CONFIG_LIBDIR} ${FH_AARCH64_ROOT}/usr/lib/aarch64-linux-gnu/pkgconfig)

# qemu-user keeps a record of each page, reserved or not: a region of 1 TiB takes it 10 s and 6 GiB.
# With 8 GiB of addresses in all the region is a small one.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -R 8G -L /usr/aarch64-linux-gnu)
