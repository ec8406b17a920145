# SPDX-License-Identifier: MIT
"""Measure allocators on synthetic workloads and real programs, in turns, and report.

Called by report.sh. In each round every workload runs once under each allocator, in random order, one
process (or server) at a time, so that a machine that warms up or is disturbed favours none.
"""

import argparse
import datetime
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types

sys.dont_write_bytecode = True

import compare
import report_plots
import report_tables
from demo import preload
from programs import commands, measure, servers
from programs.measure import Failed

HERE = os.path.dirname(os.path.abspath(__file__))
SYNTHETIC_SCALES = {True: 0.2, False: 1.0}  # by whether it shall be quick
PROGRAM_SCALES = {True: 0.4, False: 1.0}
ATTEMPTS = 3
SAMPLED = ("idle", "idle-survivors", "redis")  # whose memory is followed over time
# What going wrong in a run may raise: it becomes a row of the report.
RUN_FAILURES = (Failed, OSError, ValueError, http.client.HTTPException, subprocess.SubprocessError)
BUILD_ID_NOTE = b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0"
BUILD_ID_BYTES = 20


def say(text):
    print(f"report: {text}", file=sys.stderr, flush=True)


# ---- Allocators ----------------------------------------------------------------------------------


def build_id(path):
    """What the linker wrote into a library to tell builds apart, shortened."""
    with open(path, "rb") as file:
        _, note, rest = file.read().partition(BUILD_ID_NOTE)
    return rest[:BUILD_ID_BYTES].hex()[:12] if note else "none"


def describe_allocator(name, path):
    """The library, and what tells its version: Debian's package, or the name given and a build id."""
    if not path:
        path = preload.library("glibc", "")
    path = os.path.realpath(path)
    version = compare.package_version(path) or f"{compare.shown_path(path)}, build id {build_id(path)}"
    return {"library": path, "version": version, "is_peer": report_tables.is_peer(name)}


def identify(parser, pairs):
    allocators = {}
    for pair in pairs:
        name, _, path = pair.partition("=")
        if not re.fullmatch(r"[\w.+-]+", name) or name in allocators:
            parser.error(f"each allocator needs a name of its own, of letters, digits and .+-_: {pair}")
        if path and not os.path.isfile(path):
            parser.error(f"no such library: {path}")
        allocators[name] = describe_allocator(name, path)
    return allocators


# ---- Workloads -----------------------------------------------------------------------------------


def all_workloads(settings):
    """Every workload whose name matches, and why the others that do are left out."""
    left_out = {}
    try:
        found = commands.all_synthetic(settings.workloads)
    except Failed as problem:
        found = []
        left_out["synthetic workloads"] = str(problem)
    found += servers.all_servers() + commands.all_commands()
    found = [each for each in found if re.search(settings.only, each.name)]
    for each in found:
        if each.missing():
            left_out[each.name] = each.missing()
    return [each for each in found if each.name not in left_out], left_out


def scale_of(workload, settings):
    scales = SYNTHETIC_SCALES if workload.kind == "synthetic" else PROGRAM_SCALES
    return scales[settings.quick]


class Suite:
    """All runs of all workloads under all allocators; what they gave is in self.results."""

    def __init__(self, settings, allocators, workloads, left_out, work):
        self.settings, self.allocators, self.workloads = settings, allocators, workloads
        self.work, self.random = work, random.Random(settings.seed)
        self.hung = set()        # (workload, allocator): not tried again
        self.checked = {}        # (executable, allocator) -> what is wrong, or None
        self.seconds_of = {}     # workload -> what its last run took, for the time left
        self.done, self.heart = 0, measure.Heartbeat()
        self.results = {
            "workloads": {each.name: {"kind": each.kind, "description": each.description,
                                      "scale": scale_of(each, settings)} for each in workloads},
            "left_out": left_out, "runs": [], "memory_over_time": {}, "is_complete": False}

    def run(self):
        """Everything; on an interruption, what there was time for."""
        try:
            launcher = measure.build_tool(os.path.join(HERE, "programs", "launch.c"), self.work, "-static")
            self.setting = types.SimpleNamespace(
                work=self.work, launcher=launcher, timeout_seconds=self.settings.timeout,
                run_folder=os.path.join(self.work, "run"), watch=None)
            self.prepare()
            for turn in range(self.settings.rounds):
                self.run_round(turn)
            self.sample_all()
            self.results["is_complete"] = True
        except KeyboardInterrupt:
            say("interrupted: reporting what there is")

    # -- One after the other --

    def prepare(self):
        for workload in list(self.workloads):
            if workload.kind == "program":
                say(f"preparing {workload.name}")
            try:
                self.with_folder(workload, workload.prepare)
            except RUN_FAILURES as problem:
                say(f"leaving out {workload.name}: {problem}")
                self.results["left_out"][workload.name] = f"could not be prepared: {problem}"
                self.workloads.remove(workload)

    def with_folder(self, workload, action, *arguments):
        """Do it with an empty folder for the run and the workload's scale."""
        shutil.rmtree(self.setting.run_folder, ignore_errors=True)
        os.makedirs(self.setting.run_folder)
        self.setting.scale = scale_of(workload, self.settings)
        return action(self.setting, *arguments)

    def run_round(self, turn):
        for workload in self.workloads:
            names = list(self.allocators)
            self.random.shuffle(names)
            for name in names:
                self.run_once(turn, workload, name)

    def run_once(self, turn, workload, name):
        """One run, which counts; again if the runner stood still meanwhile, for then its time is wrong."""
        for _ in range(ATTEMPTS):
            self.heart.stalled_seconds()
            begin = time.monotonic()
            record = {"round": turn + 1, "workload": workload.name, "allocator": name,
                      **self.measured(workload, name)}
            self.seconds_of[workload.name] = time.monotonic() - begin
            record["stalled_seconds"] = round(self.heart.stalled_seconds(), 3)
            if not record["stalled_seconds"]:
                break
            say(f"stood still for {record['stalled_seconds']:.0f} s: {workload.name} {name} again")
        if (record["failure"] or "").startswith("hung"):
            self.hung.add((workload.name, name))
        self.results["runs"].append(record)
        self.show(record)

    def measured(self, workload, name):
        load = measure.ForeignLoad()
        result = {"failure": None}
        try:
            self.check_once(workload, name)
            load = measure.ForeignLoad()
            result |= self.with_folder(workload, workload.run, self.allocators[name]["library"])
        except RUN_FAILURES as problem:
            result["failure"] = str(problem)
        return {**result, "foreign_share": load.share()}

    def check_once(self, workload, name):
        """That the preload takes effect, once for each program and allocator; the same answer again."""
        if (workload.name, name) in self.hung:
            raise Failed("hung before, not tried again")
        key = workload.executable, name
        if key not in self.checked:
            self.checked[key] = None
            try:
                self.with_folder(workload, workload.check, self.allocators[name]["library"])
            except Failed as problem:
                self.checked[key] = str(problem)
        if self.checked[key]:
            raise Failed(self.checked[key])

    # -- Memory over time --

    def sample_all(self):
        for workload in self.workloads:
            if workload.name in SAMPLED:
                self.results["memory_over_time"][workload.name] = {}
                for name in self.allocators:
                    self.sample(workload, name)

    def sample(self, workload, name):
        say(f"following the memory of {workload.name} under {name}")
        samplers = []
        self.setting.watch = lambda process: samplers.append(measure.Sampler(process.pid))
        for _ in range(ATTEMPTS):
            self.heart.stalled_seconds()
            failure = self.measured(workload, name)["failure"]
            if failure or not self.heart.stalled_seconds():
                break
        self.setting.watch = None
        if failure:
            say(f"{workload.name} under {name}: {failure}")
        else:
            self.results["memory_over_time"][workload.name][name] = samplers[-1].samples

    # -- Progress --

    def show(self, record):
        self.done += 1
        total = self.settings.rounds * len(self.workloads) * len(self.allocators)
        result = f"FAILED: {record['failure']}" if record["failure"] else (
            f"{record['seconds']:.3f} s, {record['peak_kib'] / 1024:.1f} MiB")
        if report_tables.is_disturbed(record):
            result += f", others had {record['foreign_share'] or 0:.0%} of the machine"
        print(f"[{self.done}/{total}, {self.minutes_left():.0f} min left] {record['workload']} "
              f"{record['allocator']}: {result}", file=sys.stderr, flush=True)

    def minutes_left(self):
        """By what each workload took last; those that have not run are taken for average."""
        known = list(self.seconds_of.values())
        average = sum(known) / len(known)
        per_turn = len(self.allocators)
        turn, within = divmod(self.done, per_turn * len(self.workloads))
        seconds = [self.seconds_of.get(each.name, average) * per_turn for each in self.workloads]
        left = sum(seconds) * (self.settings.rounds - turn)
        place, part = divmod(within, per_turn)
        left -= sum(seconds[:place]) + (seconds[place] * part / per_turn if part else 0)
        sampled = [each for each, name in zip(seconds, self.workloads) if name.name in SAMPLED]
        return (left + sum(sampled)) / 60


# ---- Main ----------------------------------------------------------------------------------------


def machine():
    """What compare.py says of it, and what else an allocator feels."""
    huge = compare.first_match("/sys/kernel/mm/transparent_hugepage/enabled", r"\[(\w+)\]")
    return {**compare.machine(), "transparent_huge_pages": huge,
            "started": datetime.datetime.now().isoformat(timespec="seconds")}


def parse():
    parser = argparse.ArgumentParser(prog="report.sh", usage="bench/report.sh [options] [name=path.so ...]",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True, help="where freehold-workloads was built")
    parser.add_argument("--workloads", help="the program to use as freehold-workloads (default: the build's)")
    parser.add_argument("--out", required=True, help="where the report goes")
    parser.add_argument("--rounds", type=int, help="rounds (default 5; 1 if quick)")
    parser.add_argument("--quick", action="store_true", help="one small round")
    parser.add_argument("--only", default=".", metavar="RE", help="only workloads whose name matches")
    parser.add_argument("--seed", type=int, help="of the order of runs")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds for a run")
    parser.add_argument("--list", action="store_true", help="only say what would run")
    parser.add_argument("allocators", nargs="+", metavar="name=library")
    return parser, parser.parse_args()


def settle(parser, settings):
    """Fill in what follows from the options, and refuse what cannot be run."""
    settings.rounds = (1 if settings.quick else 5) if settings.rounds is None else settings.rounds
    settings.timeout = (120 if settings.quick else 300) if settings.timeout is None else settings.timeout
    if settings.rounds < 1 or not settings.timeout > 0:
        parser.error("--rounds and --timeout must be above 0")
    try:
        re.compile(settings.only)
    except re.error as problem:
        parser.error(f"--only: {problem}")
    settings.seed = random.SystemRandom().randrange(1 << 30) if settings.seed is None else settings.seed
    settings.workloads = settings.workloads or os.path.join(settings.build, "bench", "freehold-workloads")
    settings.workloads = os.path.abspath(settings.workloads)
    try:
        os.makedirs(settings.out, exist_ok=True)
        return identify(parser, settings.allocators)
    except OSError as problem:
        return parser.error(str(problem))


def list_all(allocators, workloads, left_out):
    for name, allocator in allocators.items():
        print(f"{name}\t{allocator['version']}")
    for workload in workloads:
        print(f"{workload.name}\t{workload.description}")
    for name, why in left_out.items():
        print(f"{name}\tleft out: {why}")


def interrupt(_number, _frame):
    raise KeyboardInterrupt


def write_all(folder, results):
    results["summary"] = report_tables.summarise(results)
    plots = report_plots.draw_all(results)
    compare.write(folder, "report.json", json.dumps(results, indent=1) + "\n")
    for name, text in plots.items():
        compare.write(folder, name, text)
    compare.write(folder, "report.md", report_tables.report(results, plots))


def main():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    parser, settings = parse()
    allocators = settle(parser, settings)
    workloads, left_out = all_workloads(settings)
    if settings.list:
        return list_all(allocators, workloads, left_out)
    for name, why in left_out.items():
        say(f"leaving out {name}: {why}")
    if not workloads:
        parser.error("no workload is left to run")
    say(f"seed {settings.seed}")
    with tempfile.TemporaryDirectory(prefix="freehold-report.") as work:
        os.mkdir(os.path.join(work, "run"))
        about = machine()
        suite = Suite(settings, allocators, workloads, left_out, work)
        suite.run()
    results = {"machine": about, "settings": {key: getattr(settings, key) for key in (
        "rounds", "quick", "only", "seed", "timeout")}, "allocators": allocators, **suite.results}
    if not results["runs"]:
        say("nothing was measured")
        return 1
    write_all(settings.out, results)
    return 0 if results["is_complete"] else 130


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Failed as problem:
        say(problem)
        sys.exit(1)
