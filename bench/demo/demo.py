#!/usr/bin/env python3
"""Real servers under several allocators, in turn: speed, memory, and whether the data come back right.

Called by bench/demo.sh, which installs and builds what this needs. Each run is a fresh server: start it,
check which malloc it has, fill it, load it, read everything back, delete everything, and look at its memory
after ten quiet seconds. While one server is quiet the next is at work; they share nothing.
"""

import argparse
import collections
import json
import os
import shutil
import signal
import statistics
import sys
import threading
import time

import preload
from redis_service import RedisService
from service import Failed
from varnish_service import VarnishService

QUIET_SECONDS = 10
MIB = 1 << 20
SERVICES = (RedisService, VarnishService)

Measures = collections.namedtuple("Measures", "requests_per_second p99_ms peak_mib left_mib")

COLUMNS = (("requests/s", "requests_per_second", "{:,.0f}"), ("p99 ms", "p99_ms", "{:.2f}"),
           ("peak MiB", "peak_mib", "{:.0f}"), ("left MiB", "left_mib", "{:.0f}"))


class Progress:
    """One line that says what is going on: rewritten on a terminal, else one line for each run."""

    def __init__(self, total):
        self.total = total
        self.done = 0
        self.title = ""
        self.started = time.monotonic()
        self.shown = 0.0
        self.live = sys.stdout.isatty()

    def begin(self, title):
        self.title = title
        self.done += 1
        if not self.live:
            print(f"{self.prefix()} {title}", flush=True)

    def prefix(self):
        return f"[{self.done}/{self.total} {time.monotonic() - self.started:4.0f} s]"

    def __call__(self, phase, part):
        now = time.monotonic()
        if self.live and now - self.shown > 0.2:
            self.shown = now
            width = shutil.get_terminal_size().columns - 1
            print("\r\033[K" + f"{self.prefix()} {self.title}: {phase} {part:4.0%}"[:width], end="", flush=True)

    def clear(self):
        if self.live:
            print("\r\033[K", end="", flush=True)


class Run:
    """One server under one allocator, once."""

    def __init__(self, service_class, allocator, library, round_number, settings):
        self.label = f"{service_class.name}, {allocator}, round {round_number + 1}"
        self.key = (service_class.name, allocator)
        directory = os.path.join(settings.work, f"{service_class.command}-{allocator}-{round_number + 1}")
        self.service = service_class(directory, library, allocator, settings)
        self.failure = None
        self.measures = None
        self.binding_count = 0
        self.quiet = None

    def work(self, progress):
        """All but the quiet seconds, which begin when this returns."""
        try:
            self.load_and_empty(progress)
            self.quiet = threading.Thread(target=self.watch_quiet, daemon=True)
            self.quiet.start()
        except Exception as failure:
            self.fail(failure)
        except BaseException:
            self.service.kill()
            raise

    def load_and_empty(self, progress):
        service = self.service
        progress("start", 0)
        service.start()
        self.binding_count = service.check_bindings()
        service.fill(progress)
        self.load = service.load(progress)
        service.verify(progress)
        self.peak_bytes = service.bytes_of("VmHWM")
        service.delete_everything()

    def watch_quiet(self):
        try:
            time.sleep(QUIET_SECONDS)
            left_bytes = self.service.bytes_of("VmRSS")
            self.service.stop()
            self.measures = Measures(*self.load, self.peak_bytes / MIB, left_bytes / MIB)
        except Exception as failure:
            self.fail(failure)

    def fail(self, failure):
        self.failure = f"{self.label}: {type(failure).__name__}: {failure}"
        self.service.kill()

    def finish(self):
        """Wait for the quiet seconds to be over, and return the measures or None."""
        if self.quiet:
            self.quiet.join()
        return self.measures


def rotated(items, by):
    by %= len(items)
    return items[by:] + items[:by]


def plan(settings):
    """Every run, round by round; each round starts with another allocator, so that none is always first."""
    for number in range(settings.rounds):
        for allocator in rotated(settings.allocators, number):
            for service_class in SERVICES:
                yield Run(service_class, allocator, settings.libraries[allocator], number, settings)


def run_all(settings):
    """Work through the plan. However it ends, no server is left."""
    runs = list(plan(settings))
    progress = Progress(len(runs))
    try:
        for run in runs:
            progress.begin(run.label)
            run.work(progress)
            if run.failure:
                report_failure(run, progress)
        for run in runs:
            progress("quiet", 1)
            run.finish()
    finally:
        for run in runs:
            run.service.kill()
    progress.clear()
    return runs


def report_failure(run, progress):
    progress.clear()
    print(f"FAILED {run.failure}\n{run.service.log_tail()}", file=sys.stderr, flush=True)


def cell(values, form):
    """The median, and the spread when there is one to speak of."""
    text = form.format(statistics.median(values))
    if len(values) > 1:
        text += f" [{form.format(min(values))} - {form.format(max(values))}]"
    return text


def table(runs, settings):
    rows = [("server", "allocator", *(title for title, _, _ in COLUMNS))]
    for service_class in SERVICES:
        for allocator in settings.allocators:
            mine = [run for run in runs if run.key == (service_class.name, allocator)]
            good = [run.measures for run in mine if run.measures]
            cells = [cell([getattr(m, field) for m in good], form) for _, field, form in COLUMNS] \
                if len(good) == len(mine) else ["FAILED"] * len(COLUMNS)
            rows.append((service_class.name, allocator, *cells))
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1])]
                        + [text.rjust(width) for text, width in zip(row[2:], widths[2:])]))


def summary(runs, settings):
    """Print the results. Returns how many runs failed."""
    print(f"\nMedians of {settings.rounds} round(s) [least - most]; p99: mean over the steps of the load; "
          f"peak: VmHWM;\nleft: VmRSS {QUIET_SECONDS} quiet seconds after everything was deleted.")
    for service_class in SERVICES:
        print(service_class.describe())
    print()
    table(runs, settings)
    failures = [run.failure for run in runs if not run.measures]
    print(f"\n{sum(run.service.checked.count for run in runs):,} replies compared with what they must be; "
          f"{sum(run.binding_count for run in runs):,} malloc bindings read from {len(runs)} live processes; "
          f"{len(failures)} of {len(runs)} runs failed.")
    for failure in failures:
        print(f"FAILED {failure}")
    return len(failures)


def save(runs, settings):
    path = os.path.join(settings.work, "results.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump([{"run": run.label, "failure": run.failure,
                    "measures": run.measures and run.measures._asdict()} for run in runs], file, indent=1)


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def arguments():
    parser = argparse.ArgumentParser(prog="demo.sh", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=positive, help="runs of each server and allocator (3)")
    parser.add_argument("--requests", type=positive, help="commands in each step of the Redis load (80000)")
    parser.add_argument("--seconds", type=positive, help="length of the Varnish load (5)")
    parser.add_argument("--allocators", default="glibc jemalloc mimalloc freehold",
                        help="which, in one argument; also: " + ", ".join(preload.SONAMES))
    parser.add_argument("--quick", action="store_true", help="one short round, in under 90 seconds")
    parser.add_argument("--keep", action="store_true", help="keep logs and results.json")
    parser.add_argument("--seed", type=int, default=1, help="of the checked data (1)")
    parser.add_argument("--work", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--freehold", required=True, help=argparse.SUPPRESS)
    return parser, parser.parse_args()


def settle(parser, settings):
    """Fill in what follows from the options, and refuse what cannot be run before anything starts."""
    rounds, requests, seconds = (1, 40000, 4) if settings.quick else (3, 80000, 5)
    settings.rounds = settings.rounds or rounds
    settings.requests = settings.requests or requests
    settings.seconds = settings.seconds or seconds
    settings.allocators = settings.allocators.replace(",", " ").split()
    settings.work = os.path.abspath(settings.work)
    settings.pid_file = os.path.join(settings.work, "pids")
    unknown = set(settings.allocators) - set(preload.SONAMES) - {"freehold"}
    if unknown or not settings.allocators:
        parser.error(f"no such allocator: {' '.join(sorted(unknown)) or 'none given'}")
    settings.libraries = {name: preload.library(name, settings.freehold) for name in settings.allocators}


def warn_if_busy():
    """The servers' threads spin and wait for each other, so that others at work cost more than their share."""
    load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > processors / 2:
        print(f"note: others are using this machine (load {load:.1f} on {processors} processors): "
              "expect slow and noisy figures", flush=True)


def interrupt(number, _frame):
    raise SystemExit(128 + number)


def main():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    parser, settings = arguments()
    try:
        settle(parser, settings)
    except (FileNotFoundError, Failed) as problem:
        parser.error(str(problem))
    for name, path in settings.libraries.items():
        print(f"{name}: {path}")
    warn_if_busy()
    runs = run_all(settings)
    save(runs, settings)
    return 1 if summary(runs, settings) else 0


if __name__ == "__main__":
    sys.exit(main())
