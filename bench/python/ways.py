# SPDX-License-Identifier: MIT
"""The ways to run python3: which interpreter, with which allocator, put there how."""

import dataclasses
import glob
import os
import subprocess

import compare
from programs.measure import Failed
from report import build_id

PRELOAD_DOMAINS = {"PYTHONMALLOC": "malloc"}  # all three go to malloc, which the preload is
LAUNCHER_MODES = {
    "pymalloc": "the launcher with nothing installed: what the others have to be compared with",
    "free": "all three domains go to Freehold's lock-free memory",
    "gil-assert": "mem and obj go to a heap that counts on the interpreter's lock",
    "arena": "pymalloc, on arenas of Freehold's",
    "debug": "under Freehold's debug hooks",
}
OWN_BLOCKS = ("pymalloc", "freehold-pymalloc", "freehold-arena", "freehold-import")  # pymalloc counts some


@dataclasses.dataclass
class Way:
    """One of them. `library` is preloaded; `module` is imported before anything is measured."""

    name: str
    command: list
    library: str = ""
    variables: dict = dataclasses.field(default_factory=dict)
    module: str = ""
    description: str = ""

    def check(self, said):
        """Raise Failed unless what the process said of itself fits this way."""
        counts = said["counted_blocks"] > 0
        if counts != (self.name in OWN_BLOCKS):
            raise Failed(f"pymalloc has {'' if counts else 'no '}blocks: the allocator did not take effect")
        if self.module and said["installed"] != "extension":
            raise Failed(f"the module says that it is installed as {said['installed']}")


def describe(path):
    """A file's package and version, or else where it is and its build id."""
    return compare.package_version(path) or f"{compare.shown_path(path)}, build id {build_id(path)}"


def preloaded(python, name, path):
    path = os.path.realpath(path)
    return Way(name, [python], path, PRELOAD_DOMAINS,
               description=f"LD_PRELOAD of {describe(path)}, PYTHONMALLOC=malloc")


def can_start(command):
    """Whether it runs at all: a mode may be refused, say for this version of Python."""
    return subprocess.run([*command, "-c", "pass"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20,
                          check=False).returncode == 0


def launched(launcher):
    for mode, description in LAUNCHER_MODES.items():
        command = [launcher, "-X", f"freehold={mode}"]
        if can_start(command):
            yield Way(f"freehold-{mode}", command, description=f"freehold-python -X freehold={mode}: {description}")


def imported(python, folder):
    """By the extension module, if it was built for this interpreter."""
    variables = {"PYTHONPATH": folder}
    tried = subprocess.run([python, "-c", "import freehold"], env={**os.environ, **variables}, capture_output=True,
                           stdin=subprocess.DEVNULL, timeout=20, check=False)
    if tried.returncode == 0:
        yield Way("freehold-import", [python], variables=variables, module="freehold",
                  description="import freehold in the running interpreter")


def find(folder, *patterns):
    """The first file there that fits one of the patterns, or None."""
    found = [path for pattern in patterns for path in sorted(glob.glob(os.path.join(folder, pattern)))]
    return found[0] if found else None


def all_ways(python, build, libraries):
    """Each way that exists here, by its name; libraries are pairs of name and path."""
    ways = [Way("pymalloc", [python], description=f"{describe(python)} as it is"),
            Way("glibc", [python], "", PRELOAD_DOMAINS, description="PYTHONMALLOC=malloc")]
    ways += [preloaded(python, name, path) for name, path in libraries]
    launcher = find(build, "freehold-python", "src/python/freehold-python")
    if launcher:
        ways += launched(launcher)
    module = find(build, "python/freehold*.so", "python/freehold/__init__.py")
    if module:
        ways += imported(python, os.path.join(build, "python"))
    return {way.name: way for way in ways}
