"""What the servers of the demonstration have in common: starting, watching and ending one."""

import collections
import os
import re
import signal
import subprocess
import time

import preload

START_SECONDS = 20
STOP_SECONDS = 20


class Failed(Exception):
    """A run that does not count: the server misbehaved, or data differed."""


# requests_per_second and p99_ms come from the load tool; p99_ms is the mean over the load's steps.
Load = collections.namedtuple("Load", "requests_per_second p99_ms")


def wait_until(condition, what, seconds):
    """Poll until condition() holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(0.05)


def run_tool(arguments, seconds):
    """The output of a load or query tool, which must succeed within a time."""
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=seconds, check=False,
                          env=dict(os.environ, LC_ALL="C"), start_new_session=True)
    if done.returncode != 0:
        raise Failed(f"{arguments[0]} returned {done.returncode}: {(done.stdout + done.stderr)[-400:]}")
    return done.stdout


class Checked:
    """Compares each reply with the one that the model of the data expects, and counts them."""

    def __init__(self):
        self.count = 0

    def reply(self, request, expected, got):
        self.count += 1
        if got != expected:
            raise Failed(f"data differ for {request!r:.80}: wanted {expected!r:.80}, got {got!r:.80}")


class Service:
    """A server process under one allocator. A subclass says how to start it, load it and empty it."""

    name = ""
    log_errors = re.compile("")

    def __init__(self, directory, library, allocator, settings):
        self.directory = directory
        self.library = library
        self.allocator = allocator
        self.settings = settings
        self.checked = Checked()
        self.process = None
        self.log_path = os.path.join(directory, "log")
        os.makedirs(directory)

    def spawn(self, arguments):
        """Start the server with the allocator preloaded and nothing else that would tune one."""
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "LD_BIND_NOW": "1",
                       "LD_PRELOAD": self.library}
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(  # its own session: Ctrl-C is for the driver to handle
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory,
                env=environment, start_new_session=True)
        with open(self.settings.pid_file, "a", encoding="ascii") as pids:
            pids.write(f"{self.process.pid}\n")

    def measured_pid(self):
        """The process that does the work."""
        return self.process.pid

    def check_alive(self):
        if self.process.poll() is not None:
            raise Failed(f"ended by itself, returned {self.process.returncode}")

    def bytes_of(self, field):
        return preload.status_bytes(self.measured_pid(), field)

    def check_bindings(self):
        return preload.Bindings(self.measured_pid()).check(self.library)

    def stop(self):
        """End the server in the orderly way; it must say that it went well, in its status and log."""
        self.check_alive()
        self.process.terminate()
        status = self.process.wait(STOP_SECONDS)
        if status != 0:
            raise Failed(f"returned {status} when told to stop")
        self.check_log()

    def check_log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            for line in log:
                if self.log_errors.search(line):
                    raise Failed(f"the server logged: {line.strip()}")

    def log_tail(self):
        if not os.path.exists(self.log_path):
            return ""
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-12:])

    def kill(self):
        """End whatever is left of the server, after a failure."""
        if self.process is None or self.process.poll() is not None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
