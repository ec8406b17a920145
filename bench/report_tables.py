# SPDX-License-Identifier: MIT
"""What report.py measured, as sums and as tables."""

import math
import random
import statistics

from compare import geometric_mean, markdown_table

DISTURBED_SHARE = 0.10  # of the machine, used by others: such a run is marked
CONFIDENCE = 0.95
RESAMPLES = 1000
KINDS = {"synthetic": ("synthetic",), "program": ("program",), "all": ("synthetic", "program")}
MEASURES = {"time": "seconds", "peak": "peak_kib"}
PERCENTILES = {"p50": "p50", "p99": "p99", "p99_9": "p99.9", "p99_99": "p99.99", "max": "max"}


def is_peer(name):
    """Whether others are compared with it: what is called freehold, or freehold-something, is not."""
    return not name.startswith("freehold")


def is_disturbed(run):
    """Others were at work, or the runner stood still in every attempt."""
    return (run["foreign_share"] or 0) > DISTURBED_SHARE or run.get("stalled_seconds", 0) > 0


# ---- Sums ----------------------------------------------------------------------------------------


def interval(values):
    """The median's confidence interval by order statistics: (low, high, confidence).

    A value is below the median as often as a coin shows heads, whatever the distribution. So the
    k-th smallest and k-th largest enclose the median but for both tails of a binomial. The narrowest
    pair that reaches CONFIDENCE is taken. Under six values none does: then it is least and most, with
    the confidence that those have.
    """
    ordered, count = sorted(values), len(values)
    tail = best = 0
    confidence = 1 - 2 * 0.5 ** count
    for k in range(count // 2):
        tail += math.comb(count, k) * 0.5 ** count
        if 1 - 2 * tail < CONFIDENCE:
            break
        best, confidence = k, 1 - 2 * tail
    return ordered[best], ordered[-1 - best], confidence


def cells_of(runs):
    """(workload, allocator) -> its good runs, how many were disturbed, and its failures."""
    cells = {}
    for run in runs:
        cell = cells.setdefault((run["workload"], run["allocator"]),
                                {"runs": [], "disturbed": 0, "failures": []})
        if run["failure"]:
            cell["failures"].append(run["failure"])
            continue
        cell["runs"].append(run)
        cell["disturbed"] += is_disturbed(run)
    return cells


def values_of(cell, field):
    """All values of a measure; none if a run failed, for then the rest do not stand for it."""
    return [] if not cell or cell["failures"] else [run[field] for run in cell["runs"]]


def summarise_values(values):
    low, high, confidence = interval(values)
    return {"median": statistics.median(values), "low": low, "high": high,
            "confidence": round(confidence, 4), "runs": len(values)}


def only_median(values):
    return {"median": statistics.median(values)}


def best_peer(row):
    """The lowest median of the peers, or of whoever is there if no peer is."""
    medians = {name: entry["median"] for name, entry in row.items()}
    return min([value for name, value in medians.items() if is_peer(name)] or list(medians.values()))


def table_of(results, cells, field, summarise_cell):
    """workload -> allocator -> what summarise_cell() makes of its values, and its ratio to the best peer."""
    table = {}
    for workload in results["workloads"]:
        row = {}
        for name in results["allocators"]:
            values = values_of(cells.get((workload, name)), field)
            if values and min(values) > 0:
                row[name] = summarise_cell(values)
        for entry in row.values():
            entry["ratio"] = entry["median"] / best_peer(row)
        if row:
            table[workload] = row
    return table


def means_of(results, table, kinds):
    """allocator -> geometric mean of its ratios to the best peer on each workload, and how many."""
    means = {}
    for name in results["allocators"]:
        ratios = [row[name]["ratio"] for workload, row in table.items()
                  if name in row and results["workloads"][workload]["kind"] in kinds]
        if ratios:
            means[name] = {"to_best_each": geometric_mean(ratios), "workloads": len(ratios)}
    return means


def best_overall(means):
    """The peer with the lowest mean, among those that finished the most workloads."""
    peers = {name: mean for name, mean in means.items() if is_peer(name)} or means
    most = max(mean["workloads"] for mean in peers.values())
    return min((name for name in peers if peers[name]["workloads"] == most),
               key=lambda name: peers[name]["to_best_each"])


def add_overall(results, table, kinds, means):
    """The mean ratio to the best peer overall, over the workloads that both finished."""
    best = best_overall(means)
    for name, mean in means.items():
        ratios = [row[name]["median"] / row[best]["median"] for workload, row in table.items()
                  if name in row and best in row and results["workloads"][workload]["kind"] in kinds]
        mean["to_best_overall"] = geometric_mean(ratios) if ratios else None
    return best


def resampled(cells, numbers):
    """The cells with as many runs as there were, drawn from them with replacement."""
    return {key: {**cell, "runs": numbers.choices(cell["runs"], k=len(cell["runs"]))} if cell["runs"] else cell
            for key, cell in cells.items()}


def add_intervals(results, cells, field, by_kind):
    """By the bootstrap, where there are rounds enough to resample."""
    numbers = random.Random(results["settings"]["seed"])
    found = {}
    for _ in range(RESAMPLES):
        table = table_of(results, resampled(cells, numbers), field, only_median)
        for kind, kinds in KINDS.items():
            for name, mean in means_of(results, table, kinds).items():
                found.setdefault((kind, name), []).append(mean["to_best_each"])
    for (kind, name), means in found.items():
        means.sort()
        edge = int(len(means) * (1 - CONFIDENCE) / 2)
        by_kind[kind]["means"][name] |= {"low": means[edge], "high": means[-1 - edge]}


def summarise(results):
    """All that the tables and plots show, from the raw runs."""
    cells = cells_of(results["runs"])
    rounds = max(len(cell["runs"]) for cell in cells.values())
    summary = {"failures": failures_of(cells), "disturbed_runs": sum(c["disturbed"] for c in cells.values()),
               "runs": len(results["runs"]), "tables": {}, "means": {}}
    for measure, field in MEASURES.items():
        table = summary["tables"][measure] = table_of(results, cells, field, summarise_values)
        by_kind = summary["means"][measure] = {}
        for kind, kinds in KINDS.items():
            means = means_of(results, table, kinds)
            if means:
                by_kind[kind] = {"means": means, "best": add_overall(results, table, kinds, means)}
        if rounds >= 3:
            add_intervals(results, cells, field, by_kind)
    summary["disturbed"] = {f"{workload} {name}": cell["disturbed"]
                            for (workload, name), cell in cells.items() if cell["disturbed"]}
    summary["rest"] = rest_of(results, cells)
    summary["latency"] = latency_of(results, cells)
    return summary


def failures_of(cells):
    return [{"workload": workload, "allocator": name, "failed": len(cell["failures"]),
             "of": len(cell["failures"]) + len(cell["runs"]), "first": cell["failures"][0]}
            for (workload, name), cell in cells.items() if cell["failures"]]


def rest_of(results, cells):
    """Where memory at rest was reported: as table_of(), and what was live then."""
    table = {}
    for workload in results["workloads"]:
        for name in results["allocators"]:
            values = [v for v in values_of(cells.get((workload, name)), "rest_kib") if v is not None]
            if values:
                live = cells[workload, name]["runs"][0].get("live_kib")
                table.setdefault(workload, {})[name] = {**summarise_values(values), "live_kib": live}
    return table


def latency_of(results, cells):
    """workload -> allocator -> medians of the percentiles, in ns."""
    table = {}
    for workload in results["workloads"]:
        for name in results["allocators"]:
            all_of_them = [v for v in values_of(cells.get((workload, name)), "latency_ns") if v]
            if all_of_them:
                table.setdefault(workload, {})[name] = {
                    key: statistics.median(each[key] for each in all_of_them)
                    for key in PERCENTILES if all(key in each for each in all_of_them)}
    return table


# ---- Text ----------------------------------------------------------------------------------------


def seconds_text(seconds):
    return f"{seconds:.3g}" if seconds < 1 else f"{seconds:.2f}"


def mib_text(kib):
    return f"{kib / 1024:.1f}" if kib < 100 * 1024 else f"{kib / 1024:.0f}"


def time_text(ns):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.0f} ns"


def median_text(entry, text):
    """"median [low–high] (ratio)"; without an interval if there was one run."""
    spread = "" if entry["runs"] == 1 else f" [{text(entry['low'])}–{text(entry['high'])}]"
    ratio = f" ({entry['ratio']:.2f})" if "ratio" in entry else ""
    return f"{text(entry['median'])}{spread}{ratio}"


def cell_text(results, workload, name, table, text):
    row = table.get(workload, {})
    if name not in row:
        return "**failed**" if any((each["workload"], each["allocator"]) == (workload, name)
                                   for each in results["summary"]["failures"]) else "-"
    shown = median_text(row[name], text)
    if row[name].get("ratio") == min(each.get("ratio", 0) for each in row.values()):
        shown = f"**{shown}**"
    disturbed = results["summary"]["disturbed"].get(f"{workload} {name}")
    return f"{shown} !{disturbed}" if disturbed else shown


def measure_table(results, table, text):
    names = list(results["allocators"])
    return markdown_table(["workload"] + names, [
        [workload] + [cell_text(results, workload, name, table, text) for name in names]
        for workload in results["workloads"]
        if any(run["workload"] == workload for run in results["runs"])])


def mean_text(mean):
    if mean is None:
        return "-"
    spread = f" [{mean['low']:.3f}–{mean['high']:.3f}]" if "low" in mean else ""
    overall = mean["to_best_overall"]
    return f"{mean['to_best_each']:.3f}{spread} / {'-' if overall is None else f'{overall:.3f}'}"


def means_table(results):
    """A row for each allocator, best time first; columns: time and peak of synthetic, programs, all."""
    means = results["summary"]["means"]
    columns = [(measure, kind) for measure in MEASURES for kind in KINDS if kind in means[measure]]
    if not columns:
        return ["Nothing was finished.", ""]
    counts = {name: mean["workloads"] for name, mean in means["time"]["all"]["means"].items()}
    order = sorted(results["allocators"], key=lambda name: means["time"]["all"]["means"].get(
        name, {"to_best_each": math.inf})["to_best_each"])
    header = ["allocator"] + [f"{measure}, {kind}" for measure, kind in columns] + ["workloads"]
    rows = [[name] + [mean_text(means[measure][kind]["means"].get(name)) for measure, kind in columns]
            + [str(counts.get(name, 0))] for name in order]
    best = ["*best peer overall*"] + [means[measure][kind]["best"] for measure, kind in columns] + [""]
    return markdown_table(header, rows + [best])


def latency_tables(results):
    lines = []
    for workload, row in results["summary"]["latency"].items():
        keys = [key for key in PERCENTILES if any(key in entry for entry in row.values())]
        lines += markdown_table([workload] + [PERCENTILES[key] for key in keys], [
            [name] + [time_text(entry[key]) if key in entry else "-" for key in keys]
            for name, entry in row.items()])
    return lines or ["No workload that ran reports latency.", ""]


def rest_table(results):
    table = results["summary"]["rest"]
    if not table:
        return ["No workload that ran reports memory at rest.", ""]
    names = list(results["allocators"])
    rows = []
    for workload, row in table.items():
        live = next((entry["live_kib"] for entry in row.values() if entry["live_kib"] is not None), None)
        rows.append([workload, "-" if live is None else mib_text(live)] + [
            cell_text(results, workload, name, table, mib_text) for name in names])
    return markdown_table(["workload", "live"] + names, rows)


def failures_list(results):
    failures = results["summary"]["failures"]
    return [f"- {each['workload']} under {each['allocator']}: {each['failed']} of {each['of']} runs failed: "
            f"{each['first']}" for each in failures] or ["None."]


def machine_lines(results):
    about, settings = results["machine"], results["settings"]
    lines = [f"- {about['cpu']}, {about['cores']} cores, {about['memory_mib']} MiB; {about['system']}, "
             f"{about['kernel']}; transparent huge pages: {about['transparent_huge_pages']}",
             f"- started {about['started']}; load {about['load']} then",
             f"- {settings['rounds']} round(s), {'quick' if settings['quick'] else 'full'} scale, "
             f"workloads matching `{settings['only']}`, seed {settings['seed']}"]
    return lines + [f"- {name}: {each['version']}" for name, each in results["allocators"].items()]


def confidence_text(results):
    """What the intervals in the tables are, by what was measured."""
    entries = [entry for table in results["summary"]["tables"].values()
               for row in table.values() for entry in row.values()]
    least = min((entry["confidence"] for entry in entries), default=0)
    if least <= 0:
        return "One run each where there is no [interval]: such a figure shows that it works, not who is faster."
    if least >= CONFIDENCE:
        return "[Intervals] are the median's 95 % confidence, by order statistics."
    return (f"[Intervals] are least and most where there are fewer than six runs: {least:.1%} confidence for the "
            "median by order statistics, or more; 95 % needs six.")


NOTES = """\
- Time: what a synthetic workload says its work took (if under a millisecond: the whole process); the wall
  time of a whole command; the time of a server's load. The same work for every allocator.
- Peak: the kernel's peak of resident memory of the measured process (of a server before it is emptied; of a
  command with children, the largest of them). It includes the program's own code and data.
- (Ratios) are to the best peer's median on that workload; a peer is any allocator not called freehold. Bold:
  the lowest. A workload on which an allocator failed does not count for it.
- Means are geometric: first of the ratios to the best peer of each workload, with its 95 % interval by the
  bootstrap over runs if there are three rounds; after the slash, to the one peer that is best overall.
- !N: N of the runs were disturbed: others had more than 10 % of the machine's processor time meanwhile. They
  count like the rest. A run during which the runner itself stood still for a second was done again.
- Each allocator, glibc's too, is preloaded by its full path. For each program and allocator the runner read
  from a live process, for every object mapped, that the malloc names are bound to that library.
- Memory at rest: of a server two seconds after it was emptied (nginx: after its load); of a synthetic
  workload as it says. "live" is what the blocks then live were asked for with."""


def report(results, plots):
    """The whole report as markdown."""
    summary = results["summary"]
    tables = summary["tables"]
    title = "# Allocators compared" + ("" if results["is_complete"] else " (interrupted: incomplete)")
    lines = [title, "", *machine_lines(results), "",
             f"{summary['runs']} runs; {summary['disturbed_runs']} of them disturbed (marked !); "
             f"{sum(each['failed'] for each in summary['failures'])} failed. {confidence_text(results)}", "",
             "## Means: ratio to the best peer on each workload / to the best peer overall", "",
             *means_table(results)]
    lines += [f"![{name}]({name})\n" for name in plots]
    lines += ["## Time in seconds", "", *measure_table(results, tables["time"], seconds_text)]
    lines += ["## Peak memory in MiB", "", *measure_table(results, tables["peak"], mib_text)]
    lines += ["## Latency", "", *latency_tables(results)]
    lines += ["## Memory at rest in MiB", "", *rest_table(results)]
    lines += ["## Failures", "", *failures_list(results), ""]
    lines += ["## The workloads", ""] + [f"- {name}: {each['description']}"
                                        for name, each in results["workloads"].items()]
    lines += [f"- {name}: left out, {why}" for name, why in results["left_out"].items()]
    return "\n".join(lines + ["", "## Notes", "", NOTES, ""])
