# SPDX-License-Identifier: MIT
"""Start a program under an allocator, watch it, and say what it used and who else was at work."""

import json
import os
import resource
import select
import signal
import struct
import subprocess
import threading
import time

from demo import preload

PAGE_KIB = resource.getpagesize() // 1024
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count() or 1
SAMPLE_SECONDS = 0.02
CHECK_SECONDS = 5
BEAT_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 1.0    # a busy machine alone makes threads wait for less
SHORTEST_JUDGED_SECONDS = 0.1  # /proc/stat counts in hundredths


class Failed(Exception):
    """A run that does not count: a crash, a hang, or a wrong answer."""


def build_tool(source, folder, *options):
    """Compile one of the small C programs that measuring needs."""
    tool = os.path.join(folder, os.path.basename(source)[:-2])
    done = subprocess.run(["cc", "-std=c11", "-O2", source, "-o", tool, *options],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"cannot compile {os.path.basename(source)}: {done.stderr.strip()[-300:]}")
    return tool


def environment(work, **more):
    """What a measured program sees: nothing of ours that would tune an allocator."""
    return {"PATH": os.environ["PATH"], "HOME": work, "TMPDIR": work, "LC_ALL": "C", **more}


def status_kib(pid, field):
    """VmRSS, VmHWM and the like."""
    return preload.status_bytes(pid, field) // 1024


def resident_kib(pid):
    """What is resident now, or None once the process has ended."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * PAGE_KIB
    except (OSError, IndexError):
        return None


class Process:
    """A program under an allocator, in a session of its own. `command` is looked up in PATH."""

    def __init__(self, setting, library, command, variables=None, stdin=None, stdout=None):
        self.deadline = time.monotonic() + setting.timeout_seconds
        self.name = os.path.basename(command[0])
        self.error_path = os.path.join(setting.run_folder, "stderr")
        self.output_path = stdout or os.path.join(setting.run_folder, "stdout")
        self.said = b""
        self.reading, writing = os.pipe()
        try:
            with open(self.error_path, "wb") as errors, open(self.output_path, "wb") as output, \
                    open(stdin or os.devnull, "rb") as source:
                self.launcher = subprocess.Popen(
                    [setting.launcher, str(writing), library, *command], pass_fds=[writing],
                    stdin=source, stdout=output, stderr=errors, cwd=setting.run_folder,
                    env=environment(setting.work, **(variables or {})), start_new_session=True)
        finally:
            os.close(writing)
        try:
            self.pid = int(self.read_line() or 0)
        except BaseException:  # an interruption too: nothing may be left
            self.kill()
            raise
        if setting.watch:
            setting.watch(self)

    def read_line(self):
        """A line from the launcher; "" when it has said its last; a hang if none comes in time."""
        while b"\n" not in self.said:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self.reading], [], [], left)[0]:
                self.kill()
                raise Failed("hung: killed when its time was up")
            part = os.read(self.reading, 4096)
            if not part:
                return ""
            self.said += part
        line, _, self.said = self.said.partition(b"\n")
        return line.decode()

    def is_alive(self):
        return not select.select([self.reading], [], [], 0)[0]

    def check_alive(self):
        if not self.is_alive():
            self.finish()
            raise Failed(f"{self.name} ended by itself: {self.last_error()}")

    def last_error(self):
        """The last line on stderr, short."""
        with open(self.error_path, encoding="utf-8", errors="replace") as errors:
            lines = [line.strip() for line in errors if line.strip()]
        return lines[-1][:160] if lines else "nothing on stderr"

    def finish(self, may_fail=False):
        """Wait for the end. Returns what the launcher counted; raises Failed if it went wrong."""
        try:
            line = self.read_line()
            if not line:
                raise Failed("the launcher was killed")
            used = json.loads(line)
        finally:
            self.kill()
        status, number = used.pop("exit_status"), used.pop("signal")
        if number and not may_fail:
            raise Failed(f"{self.name} died of {signal.Signals(number).name}: {self.last_error()}")
        if status and not may_fail:
            raise Failed(f"{self.name} returned {status}: {self.last_error()}")
        return used

    def stop(self):
        """Ask a server to end, as its operator would."""
        self.check_alive()
        os.kill(self.pid, signal.SIGTERM)
        return self.finish()

    def kill(self):
        """End whatever is left of it. Does nothing the second time."""
        if self.reading is None:
            return
        os.close(self.reading)
        self.reading = None
        try:
            os.killpg(self.launcher.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.launcher.wait()


# ---- Which allocator it has ----------------------------------------------------------------------


def check_bindings(pid, library):
    """Raise WrongMalloc unless the live process has its malloc from the library, everywhere.

    Where a program is not position-independent, the address of a function that it imports is that of
    a jump in the program itself; the jump's own target is among the bindings too.
    """
    bindings = preload.Bindings(pid)
    if library not in bindings.bases:
        raise preload.WrongMalloc(f"{os.path.basename(library)} is not mapped")
    program = os.path.realpath(f"/proc/{pid}/exe")
    names = set()
    for path, name, target in bindings.read_all():
        bound_to = bindings.file_at(target)
        if bound_to not in (library, program):
            raise preload.WrongMalloc(f"{os.path.basename(path)} has {name.decode()} from {bound_to}")
        names |= {name} if bound_to == library else set()
    if not {b"malloc", b"free"} <= names:
        raise preload.WrongMalloc("it imports no malloc and free: has it its own?")


def check_preload(process, library):
    """Wait until the process, started with LD_BIND_NOW=1, shows the library's malloc; or raise Failed."""
    deadline = time.monotonic() + CHECK_SECONDS
    problem = "it ended at once"
    while time.monotonic() < deadline and process.is_alive():
        try:
            return check_bindings(process.pid, os.path.realpath(library))
        except (preload.WrongMalloc, OSError, ValueError, KeyError, struct.error) as failure:
            if process.is_alive():  # or else it is about one that is half gone
                problem = str(failure) or type(failure).__name__
        time.sleep(0.02)  # it may still be starting
    if not process.is_alive():
        process.finish()  # which says so if it crashed
    raise Failed(f"the preload did not take effect: {problem}")


# ---- Others at work ------------------------------------------------------------------------------


def own_cpu_seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def machine_cpu_seconds():
    """Time that any program had, or that another guest of the same host took; not interrupts."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _, _, _, _, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + steal) / TICKS_PER_SECOND


class ForeignLoad:
    """The share of the machine that others used between start and end."""

    def __init__(self):
        self.start = time.monotonic(), machine_cpu_seconds(), own_cpu_seconds()

    def share(self):
        """0 to 1, or None after too short a time. Call it when our children have ended."""
        wall, machine, own = (after - before for after, before in zip(
            (time.monotonic(), machine_cpu_seconds(), own_cpu_seconds()), self.start))
        if wall < SHORTEST_JUDGED_SECONDS:
            return None
        return round(max(0.0, machine - own) / (wall * CORES), 4)


class Heartbeat(threading.Thread):
    """Notices that this machine or the runner stood still: suspended, paused, stopped by a signal."""

    def __init__(self):
        super().__init__(daemon=True)
        self.longest_gap = 0.0
        self.start()

    def run(self):
        last = time.monotonic()
        while True:
            time.sleep(BEAT_SECONDS)
            now = time.monotonic()
            self.longest_gap = max(self.longest_gap, now - last - BEAT_SECONDS)
            last = now

    def stalled_seconds(self):
        """The longest standstill since this was last asked; 0 if it is too short to matter."""
        time.sleep(2 * BEAT_SECONDS)  # so that one that has just ended is seen
        gap, self.longest_gap = self.longest_gap, 0.0
        return gap if gap > LONGEST_PAUSE_SECONDS else 0.0


# ---- Memory over time ----------------------------------------------------------------------------


class Sampler(threading.Thread):
    """[seconds, KiB] of a process every SAMPLE_SECONDS, until it has ended."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.samples = pid, []
        self.start()

    def run(self):
        begin = time.monotonic()
        while (kib := resident_kib(self.pid)) is not None and kib > 0:
            self.samples.append([round(time.monotonic() - begin, 3), kib])
            time.sleep(SAMPLE_SECONDS)
        del self.samples[-1:]  # of a process that was already being taken down
