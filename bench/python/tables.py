# SPDX-License-Identifier: MIT
"""What run.py measured, as sums and as tables."""

import statistics

import work
from compare import geometric_mean, markdown_table
from report_tables import interval, is_disturbed, machine_lines, mib_text, time_text

BASELINE = "pymalloc"
GOALS_KB = {"kept_some": 40000, "kept_none": 15000}  # of 1000 bytes: what a burst may leave


def short_text(record):
    """A run in a few words, for who watches."""
    if record["workload"] == "service":
        rested_mib = record["burst"]["rested_kib"] / 1024
        return f"{record['pages_per_second']:.0f} pages/s, {rested_mib:.1f} MiB after the burst"
    if record["workload"] == "bursts":
        return f"{record['kept_some']['rested_kib'] / 1024:.1f}, {record['kept_none']['rested_kib'] / 1024:.1f} MiB"
    return f"{statistics.median(record['cpu_seconds']) * 1e3:.1f} ms, {record['peak_kib'] / 1024:.1f} MiB"


# ---- Sums ----------------------------------------------------------------------------------------


def good_runs(results, workload, way):
    """All its runs; none if one failed, for then the rest do not stand for it."""
    runs = [run for run in results["runs"] if (run["workload"], run["way"]) == (workload, way)]
    return [] if any(run["failure"] for run in runs) else runs


MEASURES = {
    "median": lambda run: statistics.median(run["cpu_seconds"]),
    "first": lambda run: run["cpu_seconds"][0],
    "least": lambda run: min(run["cpu_seconds"]),
    "peak_kib": lambda run: run["peak_kib"],
    "minor_faults": lambda run: sum(run["minor_faults"]),
    "system_seconds": lambda run: run["used"]["system_seconds"],
}


def cells_of(results, measure):
    """way -> workload -> the measure of each of its runs, for the timed workloads."""
    return {way: {workload: [MEASURES[measure](run) for run in good_runs(results, workload, way)]
                  for workload in results["workloads"] if workload in work.WORKLOADS}
            for way in results["ways"]}


def total_of(cells):
    """The sum of the medians; and of each round, least and most of the sum or its 95 % interval."""
    rounds = [sum(values) for values in zip(*cells.values())]
    low, high, confidence = interval(rounds)
    return {"median": sum(map(statistics.median, cells.values())), "low": low, "high": high,
            "confidence": confidence}


def ratio_to(cells, others):
    """Of the medians, to those of another way: of the sums, and the geometric mean."""
    pairs = [(statistics.median(cells[name]), statistics.median(others[name])) for name in cells]
    means = None if min(map(min, pairs)) <= 0 else geometric_mean([own / other for own, other in pairs])
    own, other = map(sum, zip(*pairs))
    return {"total": own / other if other else None, "geometric_mean": means}


def summarise_measure(results, measure):
    """way -> its median on each workload, the sum, and ratios to the baseline; complete ways alone."""
    cells = {way: row for way, row in cells_of(results, measure).items() if row and all(row.values())}
    summary = {}
    for way, row in cells.items():
        summary[way] = {"medians": {name: statistics.median(values) for name, values in row.items()},
                        "spread": {name: (max(values) - min(values)) for name, values in row.items()},
                        "total": total_of(row)}
        if BASELINE in cells:
            summary[way]["ratio"] = ratio_to(row, cells[BASELINE])
    return summary


def medians_of(results, workload, *paths):
    """way -> path -> its median, where a path leads through a record's dictionaries."""
    summary = {}
    for way in results["ways"]:
        runs = good_runs(results, workload, way)
        if runs:
            summary[way] = {path: statistics.median(at(run, path) for run in runs) for path in paths}
    return summary


def at(record, path):
    for key in path.split("."):
        record = record[key]
    return record


BURST_PATHS = ("before_drop_kib", "kept_some.at_once_kib", "kept_some.rested_kib", "kept_none.at_once_kib",
               "kept_none.rested_kib")
SERVICE_PATHS = ("pages_per_second", "latency_ns.p50", "latency_ns.p99", "per_page.cpu_seconds",
                 "per_page.system_seconds", "per_page.minor_faults", "peak_kib", "burst.cpu_seconds",
                 "burst.peak_kib", "burst.at_once_kib", "burst.rested_kib")


def summarise(results):
    failed = [run for run in results["runs"] if run["failure"]]
    return {"measures": {measure: summarise_measure(results, measure) for measure in MEASURES},
            "bursts": medians_of(results, "bursts", *BURST_PATHS),
            "service": medians_of(results, "service", *SERVICE_PATHS),
            "disturbed_runs": sum(map(is_disturbed, results["runs"])),
            "failures": [{key: run[key] for key in ("workload", "way", "round", "failure")} for run in failed]}


# ---- Text ----------------------------------------------------------------------------------------


def ratio_text(ratio):
    return "-" if ratio is None else f"{ratio:.3f}"


def total_text(total):
    return f"{total['median'] * 1e3:.1f} [{total['low'] * 1e3:.1f}–{total['high'] * 1e3:.1f}]"


def widest_spread(entry):
    return max(entry["spread"][name] / entry["medians"][name] for name in entry["medians"])


def times_table(results, measure):
    """A row for each way: ms on each workload, their sum, and ratios to the baseline."""
    summary = results["summary"]["measures"][measure]
    if not summary:
        return ["No way finished all of them.", ""]
    names = list(next(iter(summary.values()))["medians"])
    rows = []
    for way, entry in summary.items():
        ratio = entry.get("ratio", {"total": None, "geometric_mean": None})
        rows.append([way] + [f"{entry['medians'][name] * 1e3:.1f}" for name in names] + [
            total_text(entry["total"]), ratio_text(ratio["total"]), ratio_text(ratio["geometric_mean"]),
            f"{widest_spread(entry):.0%}"])
    return markdown_table(["CPU ms"] + names + ["total", "ratio", "geometric mean", "widest spread"], rows)


def memory_table(results):
    """Peaks, faults and the kernel's share, over the timed workloads."""
    measures = results["summary"]["measures"]
    rows = []
    for way, entry in measures["peak_kib"].items():
        ratio = entry.get("ratio", {"geometric_mean": None})["geometric_mean"]
        rows.append([way] + [f"{value / 1024:.1f}" for value in entry["medians"].values()] + [
            ratio_text(ratio), f"{measures['minor_faults'][way]['total']['median']:.0f}",
            f"{measures['system_seconds'][way]['total']['median'] * 1e3:.0f}"])
    names = [name for name in results["workloads"] if name in work.WORKLOADS]
    return markdown_table(["peak MiB"] + names + ["geometric mean", "minor faults", "kernel ms"], rows)


def bursts_table(results):
    rows = [[way] + [mib_text(entry[path]) for path in BURST_PATHS]
            + ["yes" if all(entry[f"{kept}.rested_kib"] * 1024 <= goal * 1000 for kept, goal in GOALS_KB.items())
               else "no"] for way, entry in results["summary"]["bursts"].items()]
    header = ["resident MiB", "a million strings", "1 in 500 kept", "rested", "none kept", "rested", "within the goals"]
    return markdown_table(header, rows)


def service_table(results):
    rows = []
    for way, entry in results["summary"]["service"].items():
        rows.append([
            way, f"{entry['pages_per_second']:.0f}", time_text(entry["latency_ns.p50"]),
            time_text(entry["latency_ns.p99"]), f"{entry['per_page.cpu_seconds'] * 1e6:.0f}",
            f"{entry['per_page.system_seconds'] * 1e6:.0f}", f"{entry['per_page.minor_faults']:.1f}",
            mib_text(entry["peak_kib"]), f"{entry['burst.cpu_seconds']:.2f}", mib_text(entry["burst.peak_kib"]),
            mib_text(entry["burst.at_once_kib"]), mib_text(entry["burst.rested_kib"])])
    header = ["way", "pages/s", "p50", "p99", "CPU µs a page", "of it kernel", "faults a page", "peak MiB",
              "burst CPU s", "burst peak MiB", "after it", "rested"]
    return markdown_table(header, rows)


NOTES = f"""\
- A pass is always the same work. CPU ms is the processor time of the process around it, all threads and the
  kernel included; of each process the median (or first, or least) of its passes, of these the median over
  rounds, one process a round. Hashing of strings is not randomised.
- total: the sum of the medians; in [brackets] the sums of single rounds, the 95 % interval of their median
  from six rounds on, else least and most. Ratios are to {BASELINE}. Widest spread: most less least, on the
  workload where that is the largest part of the median.
- Ways that start freehold-python have malloc replaced in the whole process as well: freehold-pymalloc is
  pymalloc on that.
- Faults and kernel time are of all passes, the kernel's of the whole process, start and end included.
- Goals for a burst, rested: {GOALS_KB['kept_some'] // 1000} MB (a million bytes) with one string in 500
  kept, {GOALS_KB['kept_none'] // 1000} with none.
- The service runs on one core at most, for the interpreter's lock; wrk takes part of another. CPU, kernel time
  and faults of a page are those of the whole process under load, divided.
- Each preload was seen to take effect in a live process, and each way whether pymalloc has blocks or not.
- Every pass of every way had the same result."""


def report(results):
    """The whole report as markdown."""
    summary, settings = results["summary"], results["settings"]
    title = f"# Python {settings['version']} under allocators"
    lines = [title + ("" if results["is_complete"] else " (interrupted: incomplete)"), "",
             *machine_lines({**results, "settings": settings, "allocators": {}}),
             *[f"- {way}: {description}" for way, description in results["ways"].items()], "",
             f"{len(results['runs'])} runs; {len(summary['failures'])} failed; in {summary['disturbed_runs']} others "
             "had more than 10 % of the machine's processor time.", ""]
    if any(name in work.WORKLOADS for name in results["workloads"]):
        lines += ["## Time: the median pass", "", *times_table(results, "median"),
                  "## Time: the first pass of a process", "", *times_table(results, "first"),
                  "## Time: the fastest pass", "", *times_table(results, "least"),
                  "## Memory", "", *memory_table(results)]
    if summary["bursts"]:
        lines += ["## What a burst leaves", "", *bursts_table(results)]
    if summary["service"]:
        lines += ["## A web service", "", *service_table(results)]
    lines += ["## Failures", "", *([f"- {each['workload']} {each['way']}, round {each['round']}: {each['failure']}"
                                    for each in summary["failures"]] or ["None."]), ""]
    return "\n".join(lines + ["## Notes", "", NOTES, ""])
