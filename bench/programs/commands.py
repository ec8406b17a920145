# SPDX-License-Identifier: MIT
"""Workloads that are one command from start to end: the synthetic ones, and real programs."""

import hashlib
import json
import os
import random
import re
import shutil
import struct
import subprocess

from programs.measure import Failed, Process, check_preload, environment

HERE = os.path.dirname(os.path.abspath(__file__))


def sha256_of(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


class Command:
    """A command whose time is that of the whole process, and whose output must always be the same."""

    name = ""
    kind = "program"
    description = ""
    executable = ""
    variables = {}

    def missing(self):
        """What this machine lacks to run it, or None."""
        return None if shutil.which(self.executable) else f"no {self.executable} here"

    def prepare(self, setting):
        """Make the input, and find out the right answer without any preload."""
        self.folder = os.path.join(setting.work, self.name)
        os.makedirs(self.folder)
        self.scale = setting.scale
        self.make_input()
        self.expected = None
        self.run(setting, "")

    def make_input(self):
        """Write what the command reads into self.folder."""

    def command(self):
        raise NotImplementedError

    def stdin(self):
        return None

    def proof(self, output_path):
        """What must be the same in every run."""
        return sha256_of(output_path)

    def start(self, setting, library, variables=None):
        return Process(setting, library, self.command(), {**self.variables, **(variables or {})},
                       stdin=self.stdin())

    def check(self, setting, library):
        """See that a process of it takes its memory from the library."""
        process = self.start(setting, library, {"LD_BIND_NOW": "1"})
        try:
            check_preload(process, library)
        finally:
            process.kill()

    def run(self, setting, library):
        process = self.start(setting, library)
        try:
            used = process.finish()
        finally:
            process.kill()
        self.check_proof(self.proof(process.output_path))
        return {**used, "seconds": used["wall_seconds"], "rest_kib": None, "latency_ns": None}

    def check_proof(self, got):
        if self.expected is None:
            self.expected = got
        elif got != self.expected:
            raise Failed(f"wrong output: {got:.60}, not {self.expected:.60}")


# ---- Synthetic -----------------------------------------------------------------------------------

# Which workloads run more than once: with these numbers of threads, or with more options. The others
# run as they are.
THREADS = {"larson": (1, 2, 16), "xmalloc": (2, 64), "mstress": (2, 64), "rptest": (2, 16),
           "handover": (2, 64), "alloc-test": (1, 2, 64), "steady": (1, 2), "batches": (1, 2)}
VARIANTS = {"idle": {"idle": [], "idle-survivors": ["--survivors", "5"]}}
NO_COMPARISON = ("heap", "classes")  # for how cost grows: docs/scaling.md
SHORTEST_SECONDS = 0.001  # that a workload can time itself; under it, the whole process is what there is
THREADS_NOTE = re.compile(r" \(threads: \d+\)$")
CHECKED_WORKLOAD = "larson"  # any that goes on for long enough to be looked at


def variants(workload):
    """Name and options of each way to run a workload."""
    if workload in THREADS:
        return {f"{workload}-{number}": ["--threads", str(number)] for number in THREADS[workload]}
    return VARIANTS.get(workload, {workload: []})


def all_synthetic(binary):
    """What the binary has, by its own list: a name and a description on each line."""
    try:
        listed = subprocess.run([binary, "--list"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as problem:
        raise Failed(f"no synthetic workloads: {problem}") from None
    rows = [line.split("\t", 1) for line in listed.stdout.splitlines() if "\t" in line]
    rows = [row for row in rows if row[0] not in NO_COMPARISON]
    return [Synthetic(binary, workload, name, options, description)
            for workload, description in rows for name, options in variants(workload).items()]


class Synthetic(Command):
    """One of freehold-workloads, which times itself: starting and resting do not count."""

    kind = "synthetic"

    def __init__(self, binary, workload, name, options, description):
        self.executable, self.workload, self.name, self.options = binary, workload, name, options
        threads = int(options[options.index("--threads") + 1]) if "--threads" in options else 0
        self.description = THREADS_NOTE.sub(f" (threads: {threads})", description) if threads else (
            f"{description} {' '.join(options)}".strip())

    def prepare(self, setting):
        self.scale = setting.scale

    def command(self):
        return [self.executable, self.workload, "--scale", f"{self.scale:g}", *self.options]

    def check(self, setting, library):
        """Of the binary; a workload may be over too soon."""
        process = Process(setting, library, [self.executable, CHECKED_WORKLOAD, "--scale", "1"],
                          {"LD_BIND_NOW": "1"})
        try:
            check_preload(process, library)
        finally:
            process.kill()

    def run(self, setting, library):
        process = self.start(setting, library)
        try:
            used = process.finish()
        finally:
            process.kill()
        said = self.read_result(process.output_path)
        if said["seconds"] < SHORTEST_SECONDS:
            said["seconds"] = used["wall_seconds"]
        return {**used, **said}

    def read_result(self, path):
        """The JSON object in the last line, which must have all that the runner needs."""
        with open(path, encoding="utf-8", errors="replace") as output:
            lines = output.read().splitlines()
        try:
            said = json.loads(lines[-1])
            if said["workload"] != self.workload or not said["seconds"] >= 0:
                raise ValueError
            return {key: said[key] for key in ("seconds", "operations", "threads", "rest_kib",
                                               "live_kib", "latency_ns")}
        except (IndexError, KeyError, TypeError, ValueError):
            raise Failed(f"no result in its last line: {lines[-1:]!s:.100}") from None


# ---- Real programs -------------------------------------------------------------------------------


class Script(Command):
    """An interpreter with one of the scripts here; its argument is how often to do the work."""

    def __init__(self, name, executable, script, rounds, description, variables=None):
        self.name, self.executable, self.description = name, executable, description
        self.script, self.rounds, self.variables = os.path.join(HERE, script), rounds, variables or {}

    def command(self):
        return [self.executable, self.script, str(max(1, round(self.rounds * self.scale)))]


class Sqlite(Command):
    name = "sqlite3"
    executable = "sqlite3"
    description = "an in-memory database: inserts, indexes, joins, grouping, updates, deletes"

    def make_input(self):
        rows = int(240000 * self.scale)
        with open(os.path.join(HERE, "work.sql"), encoding="ascii") as script, \
                open(self.stdin(), "w", encoding="ascii") as sized:
            sized.write(script.read().replace(":rows", str(rows)))

    def stdin(self):
        return os.path.join(self.folder, "work.sql")

    def command(self):
        return [self.executable, "-batch", ":memory:"]


class Compiler(Command):
    """The compiler proper, as gcc -O2 starts it: the driver and the assembler are left out."""

    name = "gcc-cc1"
    executable = "gcc"
    description = "gcc's cc1 -O2 on a large generated C file"

    def make_input(self):
        self.executable = subprocess.run(["gcc", "-print-prog-name=cc1"], capture_output=True,
                                         text=True, check=True).stdout.strip()
        self.source = os.path.join(self.folder, "large.i")
        with open(self.source, "w", encoding="ascii") as source:
            for number in range(int(130 * self.scale) + 1):
                source.write(self.function(number))

    @staticmethod
    def function(number):
        """A table, a struct, and a function with a loop and a switch over them."""
        table = ",".join(str((number * 7919 + i * 104729) % 65536) for i in range(64))
        cases = "".join(f"        case {i}: x = x * {(number * 31 + i * 17) * 2 + 1}u + (x >> {i % 13 + 3});"
                        f" s->words[x % {number % 7 + 1}] += {i}; break;\n" for i in range(12))
        return (f"static const unsigned table{number}[] = {{{table}}};\n"
                f"struct s{number} {{ unsigned words[{number % 7 + 1}]; double sum; }};\n"
                f"unsigned f{number}(unsigned x, struct s{number} *s)\n{{\n"
                f"    for (unsigned i = 0; i < 64; i++) {{\n"
                f"        switch ((x ^ table{number}[i]) % 12) {{\n{cases}        }}\n"
                f"        s->sum += x * 0.5;\n    }}\n    return x + s->words[0];\n}}\n")

    def command(self):
        return [self.executable, "-fpreprocessed", self.source, "-quiet", "-O2", "-o", "/dev/stdout"]


class Git(Command):
    """What `git repack -f` spends its time in, without what it changes in the repository."""

    name = "git-repack"
    executable = "git"
    description = "git pack-objects --all on a generated history, two threads, every delta anew"
    FILES, REVISIONS = 60, 40

    def make_input(self):
        git = ["git", "-C", self.folder]
        subprocess.run([*git, "init", "-q", "--bare"], check=True, env=environment(self.folder))
        subprocess.run([*git, "fast-import", "--quiet"], input=self.history(), check=True,
                       env=environment(self.folder))

    def history(self):
        """A stream for fast-import: every commit changes some lines of every file."""
        numbers = random.Random(1)
        files = [[self.line(numbers) for _ in range(250)] for _ in range(self.FILES)]
        stream = []
        for revision in range(max(2, int(self.REVISIONS * self.scale))):
            stream.append(f"commit refs/heads/main\ncommitter A <a@example.org> {1600000000 + revision} "
                          f"+0000\ndata 1\n.\n")
            for number, lines in enumerate(files):
                for _ in range(6):
                    lines[numbers.randrange(len(lines))] = self.line(numbers)
                text = "\n".join(lines)
                stream.append(f"M 644 inline folder{number % 7}/file{number}\ndata {len(text)}\n{text}\n")
        return "".join(stream).encode("ascii")

    @staticmethod
    def line(numbers):
        return " ".join(f"{numbers.randrange(1 << 24):x}" for _ in range(numbers.randrange(2, 14)))

    def command(self):
        return [self.executable, "-C", self.folder, "pack-objects", "-q", "--all", "--stdout", "--threads=2",
                "--no-reuse-delta", "--no-reuse-object", "--window=40"]

    def proof(self, output_path):
        """The header, which has the number of objects; threads may choose different deltas."""
        with open(output_path, "rb") as pack:
            magic, version, objects = struct.unpack(">4sII", pack.read(12).ljust(12, b"\0"))
        if magic != b"PACK":
            raise Failed("its output is not a pack")
        return f"version {version}, {objects} objects"


class Xz(Command):
    name = "xz"
    executable = "xz"
    description = "xz -T2 -2 on generated text, in blocks of 1 MiB"

    def make_input(self):
        numbers = random.Random(2)
        words = ["".join(numbers.choices("abcdefghijklmnop", k=numbers.randrange(2, 10))) for _ in range(4000)]
        with open(self.stdin(), "w", encoding="ascii") as text:
            for _ in range(int(36 * self.scale) + 1):
                text.write(" ".join(numbers.choices(words, k=60000)))

    def stdin(self):
        return os.path.join(self.folder, "text")

    def command(self):
        return [self.executable, "-T2", "-2", "--block-size=1MiB", "-c"]


def debian_python():
    """The system's own interpreter, where there is one: a wrapper script found first would not do."""
    return "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else "python3"


def all_commands():
    return [
        Sqlite(), Compiler(), Git(),
        Script("python", debian_python(), "work.py", 16,
               "dicts, lists, strings, objects and JSON, with PYTHONMALLOC=malloc",
               {"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}),
        Script("node", "node", "work.js", 18, "Buffers, strings, JSON and zlib"),
        Script("perl", "perl", "work.pl", 7, "hashes, arrays, strings and regular expressions",
               {"PERL_HASH_SEED": "0", "PERL_PERTURB_KEYS": "0"}),
        Xz(),
    ]
