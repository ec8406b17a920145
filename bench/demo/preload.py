"""Which malloc a live process really uses.

A preload that fails only warns, and Debian's redis-server and varnishd are linked against jemalloc, so
"no preload" does not mean glibc. Hence each allocator, glibc's too, is preloaded by its full path, and
Bindings reads the answer out of the running server: for each relocation of a malloc name, in every object
that is mapped, the word that the dynamic linker stored there must point into the library that was meant.
"""

import os
import struct
import subprocess

# The names that hand out, take back or measure a block. (reallocarray is a wrapper round realloc, and
# mallctl and nallocx, which redis-server imports as well, only exist in jemalloc and touch no block.
# operator new is left out: both servers are C, and libstdc++'s own ends in malloc.)
MALLOC_NAMES = frozenset(
    b"malloc calloc realloc free posix_memalign aligned_alloc memalign valloc pvalloc "
    b"malloc_usable_size cfree free_sized free_aligned_sized".split())

# Without these four in the server itself the check has not looked at the right thing.
SERVER_MUST_IMPORT = frozenset(b"malloc calloc realloc free".split())

SONAMES = {
    "glibc": ("libc.so.6",),
    "jemalloc": ("libjemalloc.so.2",),
    "mimalloc": ("libmimalloc.so.3", "libmimalloc.so.2", "libmimalloc.so.2.1", "libmimalloc.so.2.0"),
    "tcmalloc": ("libtcmalloc_minimal.so.4",),
    "tbb": ("libtbbmalloc_proxy.so.2",),
}

ELF64_LITTLE_ENDIAN = b"\x7fELF\x02\x01"
PT_LOAD, PT_DYNAMIC = 1, 2
DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_RELA, DT_RELASZ, DT_JMPREL = 2, 5, 6, 7, 8, 23
RELA_BYTES, SYMBOL_BYTES = 24, 24


class WrongMalloc(Exception):
    """The process does not use the allocator that this run is about."""


def library(allocator, freehold_path):
    """The file to preload for an allocator."""
    if allocator == "freehold":
        if not os.path.exists(freehold_path):
            raise FileNotFoundError(f"{freehold_path}: not built")
        return os.path.realpath(freehold_path)
    cache = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    known = {}
    for line in cache.splitlines()[1:]:
        name, _, path = line.strip().partition(" => ")
        if os.path.exists(path) and is_ours(path):
            known.setdefault(name.split()[0], os.path.realpath(path))
    for soname in SONAMES[allocator]:
        if soname in known:
            return known[soname]
    raise FileNotFoundError(f"no library for {allocator}: looked for {', '.join(SONAMES[allocator])}")


def is_ours(path):
    """Whether a library has this machine's word size, where two are installed side by side."""
    with open(path, "rb") as file:
        return file.read(6) == ELF64_LITTLE_ENDIAN


def status_bytes(pid, field):
    """VmRSS, VmHWM and the like, as the kernel counts them for a process."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has no {field}: it has ended")


class Elf:
    """The parts of a shared object or program that say where its imports are stored."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.data = file.read()
        if self.data[:6] != ELF64_LITTLE_ENDIAN:
            raise ValueError(f"{path}: not a 64-bit little-endian ELF file")
        (offset,) = struct.unpack_from("<Q", self.data, 32)
        size, count = struct.unpack_from("<HH", self.data, 54)
        headers = [struct.unpack_from("<IIQQQQ", self.data, offset + i * size) for i in range(count)]
        self.loads = [(vaddr, start, length) for kind, _, start, vaddr, _, length in headers
                      if kind == PT_LOAD]
        self.tags = {}
        for kind, _, start, _, _, length in headers:
            if kind == PT_DYNAMIC:
                self.tags = dict(struct.iter_unpack("<QQ", self.data[start:start + length]))

    def at(self, vaddr):
        """Where in the file the byte at an address is."""
        for start, offset, length in self.loads:
            if start <= vaddr < start + length:
                return vaddr - start + offset
        raise ValueError(f"address {vaddr:#x} is not in the file")

    def name(self, symbol_index):
        symbol = self.at(self.tags[DT_SYMTAB]) + symbol_index * SYMBOL_BYTES
        (name_offset,) = struct.unpack_from("<I", self.data, symbol)
        start = self.at(self.tags[DT_STRTAB]) + name_offset
        return self.data[start:self.data.index(b"\0", start)]

    def malloc_slots(self):
        """(name, address) of each word that the dynamic linker fills with a malloc name's address."""
        for table, size in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
            if not self.tags.get(size):
                continue
            start = self.at(self.tags[table])
            entries = self.data[start:start + self.tags[size] // RELA_BYTES * RELA_BYTES]
            for slot, info, _ in struct.iter_unpack("<QQq", entries):
                if info >> 32 and self.name(info >> 32) in MALLOC_NAMES:
                    yield self.name(info >> 32), slot


class Bindings:
    """What the malloc names of a live process are bound to. The process must have been started with
    LD_BIND_NOW=1: until it is first called, a lazily bound name points back into its own object."""

    def __init__(self, pid):
        self.pid = pid
        self.ranges = []  # (start, end, path) of everything mapped from a file
        self.bases = {}   # path -> address of its first byte
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as maps:
            for fields in (line.split(None, 5) for line in maps):
                if len(fields) == 6 and fields[5].startswith("/"):
                    self.add_mapping(fields)

    def add_mapping(self, fields):
        start, end = (int(part, 16) for part in fields[0].split("-"))
        path = fields[5].rstrip("\n")
        self.ranges.append((start, end, path))
        if int(fields[2], 16) == 0:
            self.bases[path] = min(start, self.bases.get(path, start))

    def file_at(self, address):
        for start, end, path in self.ranges:
            if start <= address < end:
                return path
        return "no file"

    def check(self, wanted_path):
        """Raise WrongMalloc unless every malloc name in every object is bound to the wanted library.
        Returns how many bindings were read."""
        if wanted_path not in self.bases:
            raise WrongMalloc(f"{wanted_path} is not mapped in process {self.pid}")
        count = 0
        imported = set()
        server = os.path.realpath(f"/proc/{self.pid}/exe")
        for path, name, target in self.read_all():
            if self.file_at(target) != wanted_path:
                raise WrongMalloc(f"{path} has {name.decode()} from {self.file_at(target)}, "
                                  f"not from {wanted_path}")
            count += 1
            imported |= {name} if path == server else set()
        if not imported >= SERVER_MUST_IMPORT:
            raise WrongMalloc(f"{server} imports only {sorted(imported)} of the malloc family")
        return count

    def read_all(self):
        """(object, name, address bound) for each malloc name; unresolved weak ones are left out."""
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            for path, base in self.bases.items():
                if not os.path.isfile(path) or not is_ours(path):
                    continue  # a data file: a log in shared memory, a locale archive
                elf = Elf(path)
                first = min(vaddr - offset for vaddr, offset, _ in elf.loads[:1])
                for name, slot in elf.malloc_slots():
                    memory.seek(base - first + slot)
                    (target,) = struct.unpack("<Q", memory.read(8))
                    if target:
                        yield path, name, target
