# SPDX-License-Identifier: MIT
"""Measure python3 under allocators, in turns, and report. Called by bench/python.sh.

In each round every workload runs once in each way, in random order, one process at a time. What counts is
the processor time that the process reads of itself around each pass; how much of the machine others had
meanwhile is noted, and a run during which the runner stood still is done again.
"""

import argparse
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
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]  # programs, compare and report are one folder up

import compare
import report
import tables
import ways
import work
from load import Load
from programs import measure
from programs.measure import Failed, Process

PASSES = {True: 3, False: 5}  # by whether it shall be quick
LOAD_SECONDS = {True: 2, False: 4}
CHECK_PASSES = 500            # so many that the process is still there to be looked at
VARIABLES = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
WORKLOADS = [*work.WORKLOADS, "bursts", "service"]


def say(text):
    print(f"python: {text}", file=sys.stderr, flush=True)


def command_of(way, script, *arguments):
    return [*way.command, os.path.join(HERE, script), *arguments]


def variables_of(way):
    return {**VARIABLES, **way.variables}


class Suite:
    """All runs of all workloads in all ways; what they gave is in self.results."""

    def __init__(self, settings, chosen, workloads, folder):
        self.settings, self.ways, self.workloads = settings, chosen, workloads
        self.random, self.heart = random.Random(settings.seed), measure.Heartbeat()
        launcher = measure.build_tool(os.path.join(os.path.dirname(HERE), "programs", "launch.c"), folder, "-static")
        self.setting = types.SimpleNamespace(
            work=folder, launcher=launcher, timeout_seconds=settings.timeout, watch=None, scale=1,
            run_folder=os.path.join(folder, "run"))
        self.checksums, self.done, self.begin = {}, 0, time.monotonic()
        self.results = {"workloads": workloads, "runs": [], "is_complete": False,
                        "ways": {name: way.description for name, way in chosen.items()}}

    def run(self):
        """Everything; on an interruption, what there was time for."""
        try:
            self.check_preloads()
            for turn in range(self.settings.rounds):
                for workload in self.workloads:
                    self.run_turn(turn, workload)
            self.results["is_complete"] = True
        except KeyboardInterrupt:
            say("interrupted: reporting what there is")

    def check_preloads(self):
        """Leave out what does not get its malloc from the library that it should."""
        for name, way in list(self.ways.items()):
            if way.library:
                try:
                    self.check_preload(way)
                except (Failed, OSError) as problem:
                    say(f"leaving out {name}: {problem}")
                    self.results["ways"][name] += f"; left out: {problem}"
                    del self.ways[name]

    def check_preload(self, way):
        self.empty_folder()
        process = Process(self.setting, way.library, command_of(way, "work.py", "float", "--passes", str(CHECK_PASSES)),
                          {**variables_of(way), "LD_BIND_NOW": "1"})
        try:
            measure.check_preload(process, way.library)
        finally:
            process.kill()

    def empty_folder(self):
        shutil.rmtree(self.setting.run_folder, ignore_errors=True)
        os.makedirs(self.setting.run_folder)

    def run_turn(self, turn, workload):
        names = list(self.ways)
        self.random.shuffle(names)
        for name in names:
            self.run_once(turn, workload, self.ways[name])

    def run_once(self, turn, workload, way):
        """One run, which counts; again if the runner stood still meanwhile."""
        for _ in range(report.ATTEMPTS):
            self.heart.stalled_seconds()
            load = measure.ForeignLoad()
            record = {"round": turn + 1, "workload": workload, "way": way.name, "failure": None}
            try:
                self.empty_folder()
                record |= self.measured(workload, way)
            except report.RUN_FAILURES as problem:
                record["failure"] = str(problem)
            record["foreign_share"] = load.share()
            record["stalled_seconds"] = round(self.heart.stalled_seconds(), 3)
            if not record["stalled_seconds"]:
                break
        self.results["runs"].append(record)
        self.show(record)

    def measured(self, workload, way):
        if workload == "service":
            command = command_of(way, "service.py", *([way.module] if way.module else []))
            return Load(self.setting, LOAD_SECONDS[self.settings.quick]).run(way, command, variables_of(way))
        return self.run_work(workload, way)

    def run_work(self, workload, way):
        passes = "1" if workload == "bursts" else str(PASSES[self.settings.quick])
        module = ["--import", way.module] if way.module else []
        process = Process(self.setting, way.library, command_of(way, "work.py", workload, "--passes", passes, *module),
                          variables_of(way))
        try:
            used = process.finish()
        finally:
            process.kill()
        with open(process.output_path, encoding="utf-8") as output:
            said = json.loads(output.read().splitlines()[0])
        way.check(said)
        if self.checksums.setdefault(workload, said["checksum"]) != said["checksum"]:
            raise Failed(f"the result is {said['checksum']}, not {self.checksums[workload]}")
        return {**said, "used": used}

    def show(self, record):
        self.done += 1
        total = self.settings.rounds * len(self.workloads) * len(self.ways)
        minutes = (time.monotonic() - self.begin) / self.done * (total - self.done) / 60
        result = f"FAILED: {record['failure']}" if record["failure"] else tables.short_text(record)
        if tables.is_disturbed(record):
            result += f", others had {record['foreign_share'] or 0:.0%} of the machine"
        print(f"[{self.done}/{total}, {minutes:.0f} min left] {record['workload']} {record['way']}: {result}",
              file=sys.stderr, flush=True)


# ---- Main ----------------------------------------------------------------------------------------


def real_python(command):
    """The interpreter itself: a command of that name may be a script that chooses one."""
    code = "import os, sys; print(os.path.realpath(sys.executable)); print(sys.version.split()[0])"
    try:
        done = subprocess.run([command, "-c", code], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise Failed(f"{command} does not run: {problem}") from None
    if done.returncode != 0:
        raise Failed(f"{command} does not run: {done.stderr.strip()[-200:]}")
    return done.stdout.split()


def expression(text):
    """A regular expression, as it was written."""
    try:
        re.compile(text)
    except re.error as problem:
        raise argparse.ArgumentTypeError(f"'{text}' is no regular expression: {problem}") from None
    return text


def parse():
    parser = argparse.ArgumentParser(prog="python.sh", usage="bench/python.sh [options] [name=path.so ...]",
                                     description=__doc__.splitlines()[0])
    parser.add_argument("--python", required=True, help="the interpreter that is measured")
    parser.add_argument("--build", required=True, help="where freehold-python was built")
    parser.add_argument("--out", required=True, help="where the report goes")
    parser.add_argument("--rounds", type=int, help="rounds (default 5; 1 if quick)")
    parser.add_argument("--quick", action="store_true", help="one round of fewer passes")
    parser.add_argument("--only", type=expression, default=".", metavar="RE", help="only workloads whose name matches")
    parser.add_argument("--ways", type=expression, default=".", metavar="RE", help="only ways whose name matches")
    parser.add_argument("--seed", type=int, help="of the order of runs")
    parser.add_argument("--timeout", type=float, default=120, metavar="S", help="seconds for a run")
    parser.add_argument("--list", action="store_true", help="only say what would run")
    parser.add_argument("libraries", nargs="*", metavar="name=path.so")
    return parser, parser.parse_args()


def settle(parser, settings):
    """Fill in what follows from the options, and refuse what cannot be run."""
    settings.rounds = (1 if settings.quick else 5) if settings.rounds is None else settings.rounds
    settings.seed = random.SystemRandom().randrange(1 << 30) if settings.seed is None else settings.seed
    if settings.rounds < 1 or not settings.timeout > 0:
        parser.error("--rounds and --timeout must be above 0")
    pairs = [pair.partition("=")[::2] for pair in settings.libraries]
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names) or not all(re.fullmatch(r"[\w.+-]+", name) for name in names):
        parser.error("each library needs a name of its own, of letters, digits and .+-_")
    for name in {*names} & {*ways.OWN_BLOCKS}:
        parser.error(f"{name} is a way without such a library")
    settings.python, settings.version = real_python(settings.python)
    chosen = {name: way for name, way in ways.all_ways(settings.python, settings.build, pairs).items()
              if name == tables.BASELINE or re.search(settings.ways, name)}
    workloads = [name for name in WORKLOADS if re.search(settings.only, name)]
    if "service" in workloads and not shutil.which("wrk"):
        say("leaving out service: no wrk here")
        workloads.remove("service")
    if not workloads:
        parser.error("no workload is left to run")
    return chosen, workloads


def main():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, report.interrupt)
    parser, settings = parse()
    chosen, workloads = settle(parser, settings)
    if settings.list:
        print("\n".join([f"{name}\t{way.description}" for name, way in chosen.items()] + workloads))
        return 0
    say(f"seed {settings.seed}, {settings.python} ({settings.version})")
    about = report.machine()
    with tempfile.TemporaryDirectory(prefix="freehold-python.") as folder:
        suite = Suite(settings, chosen, workloads, folder)
        suite.run()
    results = {"machine": about, "settings": {key: getattr(settings, key) for key in (
        "rounds", "quick", "only", "ways", "seed", "version")}, **suite.results}
    results["summary"] = tables.summarise(results)
    os.makedirs(settings.out, exist_ok=True)
    compare.write(settings.out, "python.json", json.dumps(results, indent=1) + "\n")
    compare.write(settings.out, "python.md", tables.report(results))
    if not results["is_complete"]:
        return 130
    return 1 if any(run["failure"] for run in results["runs"]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except Failed as problem:
        say(problem)
        sys.exit(1)
