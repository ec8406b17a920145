# SPDX-License-Identifier: MIT
"""Run freehold-bench under several allocators in turns, and report.

Called by compare.sh. Each allocator is preloaded into processes of its own; a round runs each of
them once, and each round starts with the next one, so that a machine that warms up or is disturbed
does not favour any. Every process tells which object its allocation functions come from; a result
from the wrong one stops the comparison.
"""
import argparse
import datetime
import html
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FUNCTIONS = ("malloc", "free", "calloc", "realloc", "aligned_alloc")
BASELINE = "jemalloc"
REFERENCE_POINTS = ("spinlock", "freelist")
TUNING = re.compile(r"^(MALLOC_|_RJEM|MIMALLOC_|TCMALLOC_|TBB_MALLOC_|FREEHOLD_|GLIBC_TUNABLES)")


def warn(text):
    print(f"compare: {text}", file=sys.stderr)


def die(text):
    warn(text)
    sys.exit(1)


# ---- Running -------------------------------------------------------------------------------------


def environment(library):
    variables = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    if library:
        variables["LD_PRELOAD"] = library
    return variables


def is_from(origin, library):
    """Is this the object that was meant? Without a library, the C library is."""
    if not library:
        return re.match(r"libc[.-]", os.path.basename(origin)) is not None
    return os.path.exists(origin) and os.path.samefile(origin, library)


def check_origins(name, library, origins):
    wrong = [f"{function} from {origins.get(function, 'nowhere')}" for function in FUNCTIONS
             if not is_from(origins.get(function, ""), library)]
    if wrong:
        die(f"{name}: the preload of {library or 'nothing'} did not take effect: "
            f"{', '.join(wrong)}")


def ask_origins(binary, library):
    answer = subprocess.run([binary, "--origins"], env=environment(library), stdout=subprocess.PIPE,
                            text=True, timeout=60, check=False)
    return dict(line.split(" ", 1) for line in answer.stdout.splitlines() if " " in line)


class Progress:
    """One line that is rewritten on a terminal; one line for each finished run elsewhere."""

    def __init__(self, runs):
        self.runs, self.run, self.live = runs, 0, sys.stderr.isatty()

    def start(self, text):
        self.run += 1
        self.text = f"[{self.run}/{self.runs}] {text}"
        if not self.live:
            print(self.text, end="", file=sys.stderr, flush=True)

    def step(self, done, benchmarks, name):
        if self.live:
            line = f"{self.text}: {done}/{benchmarks} {name}"
            print("\r" + line[:99].ljust(99), end="", file=sys.stderr, flush=True)

    def end(self, text):
        line = f"\r{self.text}: {text}".ljust(100) if self.live else f": {text}"
        print(line, file=sys.stderr, flush=True)


def listed(arguments):
    command = [arguments.binary, "--benchmark_list_tests", f"--benchmark_filter={arguments.filter}"]
    answer = subprocess.run(command, env=environment(""), stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    return [line for line in answer.stdout.splitlines() if "/threads:" in line]


def measure(arguments, library, benchmarks, progress, folder):
    """One process. Returns its JSON, with peak_rss_kib; or what went wrong, as text."""
    out = os.path.join(folder, "run.json")
    command = [arguments.binary, f"--benchmark_filter={arguments.filter}",
               f"--benchmark_min_time={arguments.min_time}", "--benchmark_color=false",
               f"--benchmark_out={out}", "--benchmark_out_format=json"]
    limit_seconds = 60 + len(benchmarks) * (1 + 20 * arguments.min_time)
    with open(os.path.join(folder, "stderr"), "w+", encoding="utf-8") as errors:
        process = subprocess.Popen(command, env=environment(library), stdout=subprocess.PIPE,
                                   stderr=errors, text=True)
        timer = threading.Timer(limit_seconds, process.kill)
        timer.start()
        done = 0
        for line in process.stdout:
            if "/threads:" in line:
                done += 1
                progress.step(done, len(benchmarks), line.split()[0])
        status = process.wait()
        timer.cancel()
        errors.seek(0)
        said = errors.read()
    if status != 0:
        last = [line for line in said.splitlines() if line and "***WARNING***" not in line][-1:]
        return (f"ended with status {status} after {done} of {len(benchmarks)} benchmarks: "
                f"{last[0] if last else 'nothing on stderr'}")
    with open(out, encoding="utf-8") as results:
        run = json.load(results)
    peak = re.search(r"^peak_rss_kib (\d+)$", said, re.MULTILINE)
    run["peak_rss_kib"] = int(peak.group(1)) if peak else 0
    return run


def take_results(run):
    """ns for each item, by benchmark."""
    return {re.sub(r"(threads:\d+).*", r"\1", entry["name"]): 1e9 / entry["items_per_second"]
            for entry in run["benchmarks"] if entry.get("items_per_second")}


def run_all(arguments, allocators):
    benchmarks = listed(arguments)
    if not benchmarks:
        die(f"no benchmark matches {arguments.filter}")
    progress = Progress(arguments.rounds * len(allocators))
    names = list(allocators)
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(arguments.rounds):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                allocator = allocators[name]
                progress.start(f"round {turn + 1}/{arguments.rounds} {name}")
                if allocator["failure"]:
                    progress.end("left out: " + allocator["failure"])
                    continue
                begin = time.monotonic()
                run = measure(arguments, allocator["library"], benchmarks, progress, folder)
                if isinstance(run, str):
                    allocator["failure"] = run
                    progress.end("FAILED: " + run)
                    continue
                origins = {function: run["context"].get(f"origin_{function}", "")
                           for function in FUNCTIONS}
                check_origins(name, allocator["library"], origins)
                allocator["runs"].append(take_results(run))
                allocator["peak_rss_kib"].append(run["peak_rss_kib"])
                progress.end(f"{time.monotonic() - begin:.1f} s, "
                             f"peak {run['peak_rss_kib'] / 1024:.0f} MiB")


# ---- What was run, and on what -------------------------------------------------------------------


def first_match(path, pattern):
    try:
        with open(path, encoding="utf-8") as file:
            found = re.search(pattern, file.read(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else "unknown"


def machine():
    return {
        "cpu": first_match("/proc/cpuinfo", r"^(?:model name|Model|CPU part)\s*:\s*(.*)$"),
        "cores": os.cpu_count(),
        "memory_mib": int(first_match("/proc/meminfo", r"^MemTotal:\s*(\d+)") or 0) // 1024,
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "system": first_match("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)'),
        "load": round(os.getloadavg()[0], 2),
        "date": datetime.date.today().isoformat(),
    }


def package_version(path):
    """"package version" as dpkg knows it. A path may be known with /usr in front or without."""
    candidates = [path, os.path.realpath(path)]
    candidates += [each[4:] for each in candidates if each.startswith("/usr/")]
    for candidate in candidates:
        try:
            owner = subprocess.run(["dpkg-query", "-S", candidate], capture_output=True, text=True,
                                   check=False).stdout.split(": ")[0]
            if owner:
                return subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${Version}", owner],
                                      capture_output=True, text=True, check=False).stdout
        except OSError:
            break
    return ""


def shown_path(path):
    inside = os.path.relpath(path, ROOT)
    return os.path.basename(path) if inside.startswith("..") else inside


def describe(name, library, origins):
    path = library or origins["malloc"]
    return {"library": library, "version": package_version(path) or shown_path(path),
            "runs": [], "peak_rss_kib": [], "failure": None}


# ---- Sums ----------------------------------------------------------------------------------------


def geometric_mean(values):
    return math.exp(statistics.fmean(math.log(value) for value in values))


def summarise_benchmarks(allocators):
    """benchmark -> allocator -> rounds, median and spread, in ns for each item."""
    table = {}
    for name, allocator in allocators.items():
        for run in allocator["runs"]:
            for benchmark, ns in run.items():
                table.setdefault(benchmark, {}).setdefault(name, {"ns": []})["ns"].append(ns)
    for row in table.values():
        for cell in row.values():
            cell["median_ns"] = statistics.median(cell["ns"])
            cell["spread"] = (max(cell["ns"]) - min(cell["ns"])) / cell["median_ns"]
        for cell in row.values():
            if BASELINE in row:
                cell["ratio"] = cell["median_ns"] / row[BASELINE]["median_ns"]
    return table


def group_of(benchmark):
    return benchmark.split("/")[0]


def summarise_allocators(allocators, table):
    """Geometric means of the ratios, the worst ratio, and memory, for each that has results."""
    summary = {}
    for name, allocator in allocators.items():
        ratios = {benchmark: row[name]["ratio"] for benchmark, row in table.items()
                  if "ratio" in row.get(name, {})}
        if not ratios:
            continue
        groups = {}
        for benchmark, ratio in ratios.items():
            groups.setdefault(group_of(benchmark), []).append(ratio)
            groups.setdefault("threads:" + benchmark.rsplit(":", 1)[1], []).append(ratio)
        worst = max(ratios, key=ratios.get)
        summary[name] = {"overall": geometric_mean(ratios.values()),
                         "groups": {group: geometric_mean(each) for group, each in groups.items()},
                         "worst": {"benchmark": worst, "ratio": ratios[worst]},
                         "peak_rss_mib": statistics.median(allocator["peak_rss_kib"]) / 1024}
    return summary


# ---- Reports -------------------------------------------------------------------------------------


def markdown_table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def report(results):
    about, settings, summary = results["machine"], results["settings"], results["summary"]
    lines = [
        "# Allocators compared", "",
        f"{about['cpu']}, {about['cores']} cores, {about['memory_mib']} MiB; {about['system']}, "
        f"{about['kernel']}; {about['date']}. Rounds: {settings['rounds']}, interleaved, of "
        f"{settings['min_time_s']} s a benchmark; load average {about['load']} before.", "",
        f"Ratios are times divided by {BASELINE}'s: below 1 is faster. A time is the median over "
        "the rounds, and ± half of what lies between the fastest and the slowest. One thread is "
        "timed in processor time, several by the wall clock, over the items of all threads "
        "together. Overall, each benchmark counts once. Peak memory is that of a process that ran "
        "all these benchmarks, the median over the rounds.", ""]
    if settings["environment"]:
        lines += [f"Set in the environment: {', '.join(settings['environment'])}.", ""]
    lines += [f"**{name} failed** and has no complete results: {allocator['failure']}.\n"
              for name, allocator in results["allocators"].items() if allocator["failure"]]
    order = sorted(summary, key=lambda name: summary[name]["overall"])
    lines += ["## Overall", ""] + markdown_table(
        ["allocator", "geometric mean", "worst ratio", "worst at", "peak memory, MiB", "version"],
        [[name, f"{summary[name]['overall']:.3f}", f"{summary[name]['worst']['ratio']:.2f}",
          summary[name]["worst"]["benchmark"], f"{summary[name]['peak_rss_mib']:.0f}",
          results["allocators"][name]["version"]] for name in order])
    groups = list(dict.fromkeys(group for name in order for group in summary[name]["groups"]))
    groups.sort(key=lambda group: group.startswith("threads:"))  # these last
    lines += ["## Geometric mean of the ratios, by group and by number of threads", ""]
    lines += markdown_table(
        ["group"] + order,
        [[group] + [mean_text(summary[name]["groups"].get(group)) for name in order]
         for group in groups])
    lines += ["## Each benchmark: ns an item, spread, ratio", ""]
    lines += markdown_table(["benchmark"] + order, [
        [benchmark] + [cell_text(row.get(name)) for name in order]
        for benchmark, row in results["benchmarks"].items()])
    return "\n".join(lines)


def mean_text(mean):
    return "-" if mean is None else f"{mean:.2f}"


def cell_text(cell):
    if cell is None:
        return "-"
    ratio = f" ({cell['ratio']:.2f})" if "ratio" in cell else ""
    return f"{cell['median_ns']:.4g} ±{50 * cell['spread']:.0f} %{ratio}"


# ---- The plot ------------------------------------------------------------------------------------

# Okabe and Ito's colours, which remain distinct to the colour-blind.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442")
LEFT, WIDTH, RIGHT, ROW = 250, 620, 90, 15


def style_of(name, others):
    """Colour, radius and whether hollow: Freehold stands out, the reference points stand back."""
    if name == "freehold":
        return "#d55e00", 6, False
    if name in REFERENCE_POINTS:
        return ("#777777", "#bbbbbb")[REFERENCE_POINTS.index(name)], 4, True
    return COLOURS[others.index(name) % len(COLOURS)], 4, False


class Plot:
    """Ratios on a logarithmic axis; 1, the baseline, is a line."""

    def __init__(self, ratios, names):
        self.low = min(min(ratios), 0.8) / 1.1
        self.high = max(max(ratios), 1.25) * 1.1
        self.others = [name for name in names if name not in REFERENCE_POINTS + ("freehold",)]
        self.behind, self.parts, self.y = [], [], 0

    def x(self, ratio):
        share = math.log(ratio / self.low) / math.log(self.high / self.low)
        return LEFT + WIDTH * share

    def text(self, x, text, size=11, anchor="start", weight="normal"):
        self.parts.append(f'<text x="{x:.1f}" y="{self.y:.1f}" font-size="{size}" '
                          f'text-anchor="{anchor}" font-weight="{weight}">'
                          f'{html.escape(text)}</text>')

    def heading(self, text, note):
        self.y += 34
        self.text(16, text, size=15, weight="bold")
        self.y += 17
        self.text(16, note)
        self.y += 12

    def axis(self, rows):
        """Grid lines behind the `rows` to come, and their labels above."""
        self.y += 14
        span = math.log10(self.high / self.low)
        steps = (1, 2, 5) if span < 3 else (1,)
        ratios = [step * 10.0 ** power for power in range(-4, 6) for step in steps]
        for ratio in ratios:
            if not self.low <= ratio <= self.high:
                continue
            x, colour = f"{self.x(ratio):.1f}", "#333333" if ratio == 1 else "#dddddd"
            self.text(self.x(ratio), f"{ratio:g}", size=10, anchor="middle")
            self.parts.append(f'<line x1="{x}" x2="{x}" y1="{self.y + 4:.1f}" '
                              f'y2="{self.y + 8 + rows:.1f}" stroke="{colour}"/>')
        self.y += 8

    def dot(self, name, ratio, label):
        colour, radius, hollow = style_of(name, self.others)
        fill = "white" if hollow else colour
        self.parts.append(
            f'<g><title>{html.escape(label)}</title><circle cx="{self.x(ratio):.1f}" '
            f'cy="{self.y - 4:.1f}" r="{radius}" fill="{fill}" stroke="{colour}" '
            f'stroke-width="1.5"/></g>')

    def stem(self, name, ratio):
        colour, y = style_of(name, self.others)[0], f"{self.y - 4:.1f}"
        self.parts.append(f'<line x1="{self.x(1):.1f}" x2="{self.x(ratio):.1f}" y1="{y}" y2="{y}" '
                          f'stroke="{colour}" stroke-width="3"/>')

    def stripe(self):
        self.behind.append(f'<rect x="16" y="{self.y - ROW + 3.5:.1f}" '
                           f'width="{LEFT + WIDTH + RIGHT - 32}" height="{ROW}" fill="#f4f4f4"/>')

    def svg(self):
        width, height = LEFT + WIDTH + RIGHT, self.y + 20
        lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" '
                 f'width="{width}" height="{height:.0f}" font-family="sans-serif" fill="#222222" '
                 f'stroke="none">',
                 f'<rect width="{width}" height="{height:.0f}" fill="white"/>']
        return "\n".join(lines + self.behind + self.parts + ["</svg>", ""])


def draw_means(plot, summary, order):
    plot.heading(f"Time relative to {BASELINE}: geometric mean of all benchmarks",
                 "Logarithmic; left of 1 is faster. Hollow: reference points, not for use.")
    plot.axis(len(order) * 22)
    for name in order:
        plot.y += 22
        ratio = summary[name]["overall"]
        plot.text(LEFT - 12, name, size=12, anchor="end",
                  weight="bold" if name == "freehold" else "normal")
        plot.stem(name, ratio)
        plot.dot(name, ratio, f"{name}: {ratio:.3f}")
        plot.text(max(plot.x(ratio), plot.x(1)) + 10, f"{ratio:.2f}")


def draw_legend(plot, names):
    x = LEFT
    plot.y += 14
    for name in names:
        plot.parts.append(f'<g transform="translate({x - plot.x(1):.1f} 0)">')
        plot.dot(name, 1, name)
        plot.parts.append("</g>")
        plot.text(x + 10, name)
        x += 24 + 7 * len(name)


def draw_benchmarks(plot, table, order):
    plot.heading(f"Time relative to {BASELINE}: each benchmark",
                 "A dot for each allocator, as above.")
    names = [name for name in order if name != BASELINE]
    draw_legend(plot, names)
    groups = list(dict.fromkeys(group_of(benchmark) for benchmark in table))
    plot.axis(len(table) * ROW + len(groups) * 6)
    for group in groups:
        plot.y += 6
        rows = [benchmark for benchmark in table if group_of(benchmark) == group]
        for index, benchmark in enumerate(rows):
            plot.y += ROW
            if index % 2 == 0:
                plot.stripe()
            plot.text(LEFT - 12, benchmark, anchor="end")
            for name in sorted(names, key="freehold".__eq__):  # Freehold last, on top
                cell = table[benchmark].get(name, {})
                if "ratio" in cell:
                    plot.dot(name, cell["ratio"], f"{name}, {benchmark}: {cell_text(cell)}")


def draw(results):
    summary, table = results["summary"], results["benchmarks"]
    order = sorted(summary, key=lambda name: summary[name]["overall"])
    ratios = [cell["ratio"] for row in table.values() for cell in row.values() if "ratio" in cell]
    plot = Plot(ratios, list(results["allocators"]))  # in this order, for lasting colours
    draw_means(plot, summary, order)
    draw_benchmarks(plot, table, order)
    return plot.svg()


# ---- Main ----------------------------------------------------------------------------------------


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--min-time", type=float, default=0.05)
    parser.add_argument("--filter", default=".")
    parser.add_argument("--out", required=True)
    parser.add_argument("allocators", nargs="+", metavar="name=library")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or not arguments.min_time > 0:
        parser.error("--rounds and --min-time must be above 0")
    return arguments


def identify(arguments):
    """The allocators by name, each known to take effect when preloaded."""
    allocators = {}
    for pair in arguments.allocators:
        name, _, library = pair.partition("=")
        if name in allocators:
            die(f"there are two called {name}")
        library = os.path.abspath(library) if library else ""
        origins = ask_origins(arguments.binary, library)
        check_origins(name, library, origins)
        allocators[name] = describe(name, library, origins)
    if BASELINE not in allocators:
        die(f"no {BASELINE} to compare with")
    return allocators


def write(folder, name, text):
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    print(path)


def main():
    arguments = parse()
    os.makedirs(arguments.out, exist_ok=True)
    allocators = identify(arguments)
    about = machine()
    run_all(arguments, allocators)
    if not allocators[BASELINE]["runs"]:
        die(f"{BASELINE} has no results to compare with")

    table = summarise_benchmarks(allocators)
    results = {
        "machine": about,
        "settings": {"rounds": arguments.rounds, "min_time_s": arguments.min_time,
                     "filter": arguments.filter,
                     "environment": sorted(name for name in os.environ if TUNING.match(name))},
        "allocators": {name: {"library": shown_path(each["library"]) if each["library"] else None,
                              "version": each["version"], "peak_rss_kib": each["peak_rss_kib"],
                              "failure": each["failure"]} for name, each in allocators.items()},
        "summary": summarise_allocators(allocators, table),
        "benchmarks": table,
    }
    text = report(results)
    print(text.split("## Each benchmark")[0])
    write(arguments.out, "results.json", json.dumps(results, indent=1) + "\n")
    write(arguments.out, "table.md", text)
    write(arguments.out, "plot.svg", draw(results))
    if any(each["failure"] for each in allocators.values()):
        die("some allocators failed; see above")


if __name__ == "__main__":
    main()
