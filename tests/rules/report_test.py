#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What bench/report.py makes of its measurements: sums, tables and plots, from made-up runs."""

import os
import sys
import tempfile
import unittest
import xml.etree.ElementTree

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))

import report
import report_plots
import report_tables
from programs import commands


def run(workload, allocator, seconds, peak_kib=1000, foreign_share=0.0, failure=None, **more):
    return {"workload": workload, "allocator": allocator, "round": 1, "failure": failure,
            "foreign_share": foreign_share, "seconds": seconds, "peak_kib": peak_kib, "rest_kib": None,
            "latency_ns": None, **more}


def results_of(*runs):
    """As report.py has them before it writes; a workload called p… is a program."""
    results = {
        "runs": list(runs), "is_complete": True, "left_out": {"q": "no q here"}, "memory_over_time": {},
        "settings": {"seed": 1, "rounds": 1, "quick": True, "only": "."},
        "machine": {"cpu": "a cpu", "cores": 2, "memory_mib": 1, "system": "s", "kernel": "k",
                    "transparent_huge_pages": "madvise", "started": "then", "load": 0},
        "workloads": {name: {"kind": "program" if name[0] == "p" else "synthetic", "description": "d"}
                      for name in dict.fromkeys(each["workload"] for each in runs)},
        "allocators": {name: {"version": "1"} for name in dict.fromkeys(each["allocator"] for each in runs)}}
    results["summary"] = report_tables.summarise(results)
    return results


class Intervals(unittest.TestCase):
    def test_one_value_has_no_confidence(self):
        self.assertEqual(report_tables.interval([3]), (3, 3, 0))

    def test_five_values_are_too_few_for_95_percent(self):
        self.assertEqual(report_tables.interval([5, 1, 4, 2, 3]), (1, 5, 0.9375))

    def test_ranks_are_those_of_the_binomial(self):
        for count, low, high in ((6, 0, 5), (8, 0, 7), (9, 1, 7), (15, 3, 11), (20, 5, 14)):
            self.assertEqual(report_tables.interval(range(count))[:2], (low, high))


class Sums(unittest.TestCase):
    def test_ratios_are_to_the_best_peer_and_freehold_is_none(self):
        row = results_of(run("w", "a", 2), run("w", "b", 4), run("w", "freehold", 1),
                         run("w", "freehold-old", 3))["summary"]["tables"]["time"]["w"]
        self.assertEqual({name: entry["ratio"] for name, entry in row.items()},
                         {"a": 1, "b": 2, "freehold": 0.5, "freehold-old": 1.5})

    def test_means_are_geometric_over_each_kind(self):
        results = results_of(run("w", "a", 1), run("w", "b", 2), run("x", "a", 8), run("x", "b", 1),
                             run("p", "a", 1), run("p", "b", 3))
        time = results["summary"]["means"]["time"]
        self.assertAlmostEqual(time["synthetic"]["means"]["a"]["to_best_each"], 8 ** 0.5)
        self.assertAlmostEqual(time["synthetic"]["means"]["b"]["to_best_each"], 2 ** 0.5)
        self.assertEqual(time["synthetic"]["best"], "b")
        self.assertAlmostEqual(time["synthetic"]["means"]["a"]["to_best_overall"], 2)
        self.assertEqual(time["program"]["best"], "a")

    def test_one_failure_takes_the_workload_from_that_allocator_alone(self):
        results = results_of(run("w", "a", 1), run("w", "a", None, failure="died"), run("w", "b", 5))
        self.assertEqual(list(results["summary"]["tables"]["time"]["w"]), ["b"])
        self.assertEqual(results["summary"]["failures"], [
            {"workload": "w", "allocator": "a", "failed": 1, "of": 2, "first": "died"}])

    def test_disturbed_runs_are_counted(self):
        results = results_of(run("w", "a", 1, foreign_share=0.11), run("w", "a", 1, foreign_share=None),
                             run("w", "a", 1, foreign_share=0.09), run("w", "a", 1, stalled_seconds=2))
        self.assertEqual(results["summary"]["disturbed"], {"w a": 2})
        self.assertEqual(results["summary"]["disturbed_runs"], 2)

    def test_three_rounds_give_the_means_an_interval(self):
        results = results_of(*(run("w", "a", 1) for _ in range(3)),
                             *(run("w", "freehold", seconds) for seconds in (1, 2, 4)))
        mean = results["summary"]["means"]["time"]["all"]["means"]["freehold"]
        self.assertEqual((mean["to_best_each"], mean["low"], mean["high"]), (2, 1, 4))


class Report(unittest.TestCase):
    def test_it_has_every_section_and_what_went_wrong(self):
        results = results_of(
            run("w", "a", 1.5, 2048), run("w", "freehold", 0.75, 4096, 0.5),
            run("p", "a", None, failure="hung: x"),
            run("p", "freehold", 2, rest_kib=1024, latency_ns={"p50": 500, "p99": 2e6}))
        text = report_tables.report(results, ["plot.svg"])
        for part in ("## Means", "![plot.svg](plot.svg)", "| w | 1.50 (1.00) | **0.75 (0.50)** !1 |",
                     "| p | **failed** | **2.00 (1.00)** |", "| w | **2.0 (1.00)** | 4.0 (2.00) !1 |",
                     "| freehold | 500 ns | 2 ms |", "| p | - | **failed** | 1.0 |",
                     "p under a: 1 of 1 runs failed: hung: x", "q: left out, no q here"):
            self.assertIn(part, text)

    def test_it_can_be_written_though_everything_failed(self):
        results = results_of(run("w", "a", None, failure="died"))
        self.assertIn("Nothing was finished.", report_tables.report(results, {}))
        self.assertEqual(report_plots.draw_all(results), {})


class Plots(unittest.TestCase):
    def test_they_are_well_formed_and_show_each_allocator(self):
        names = [f"peer{i}" for i in range(14)] + ["freehold"]
        results = results_of(*(run("w<&>", name, 1 + i, 1000 * (1 + i)) for i, name in enumerate(names)))
        results["memory_over_time"] = {"w<&>": {name: [[0.0, 10], [0.1, 20]] for name in names}, "x": {}}
        plots = report_plots.draw_all(results)
        self.assertEqual(sorted(plots), ["memory-over-time.svg", "time-memory.svg"])
        for text in plots.values():
            titles = [each.text for each in xml.etree.ElementTree.fromstring(text).iter(
                "{http://www.w3.org/2000/svg}title")]
            for name in names:
                self.assertTrue(any(title.startswith(name) for title in titles), name)

    def test_ticks_are_round_and_inside(self):
        for values in ([1, 1], [0.097, 0.103], [3, 800], [1e-4, 5e-4], [100, 101], [1, 2.9]):
            axis = report_plots.LogAxis(values, 0, 100)
            ticks = axis.ticks()
            self.assertTrue(2 <= len(ticks) <= 6, (values, ticks))
            self.assertTrue(all(axis.low <= tick <= axis.high for tick in ticks))
            self.assertTrue(all(0 <= axis.at(value) <= 100 for value in values))

    def test_steps_are_round(self):
        self.assertEqual(report_plots.round_steps(123, 5), [0, 50, 100])
        self.assertEqual(report_plots.round_steps(9, 5), [0, 2, 4, 6, 8])


class Workloads(unittest.TestCase):
    def test_a_variants_threads_are_those_it_runs_with(self):
        for threads in (1, 16):
            workload = commands.Synthetic("b", "w", "w-n", ["--threads", str(threads)], "what (threads: 2)")
            workload.scale = 0.5
            self.assertEqual(workload.description, f"what (threads: {threads})")
            self.assertEqual(workload.command(), ["b", "w", "--scale", "0.5", "--threads", str(threads)])

    def test_a_result_must_be_the_workloads_own_and_complete(self):
        workload = commands.Synthetic("b", "w", "w", [], "d")
        good = ('{"workload": "w", "seconds": 1.5, "operations": 2, "threads": 1, "rest_kib": null, '
                '"live_kib": null, "latency_ns": null}')
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "out")
            for text, is_good in (("noise\n" + good + "\n", True), ("", False), (good + "\nnoise\n", False),
                                  (good.replace('"w"', '"v"'), False), ("[]", False), ("{}", False)):
                with open(path, "w", encoding="ascii") as file:
                    file.write(text)
                if is_good:
                    self.assertEqual(workload.read_result(path)["seconds"], 1.5)
                else:
                    self.assertRaises(commands.Failed, workload.read_result, path)

    def test_a_build_id_is_found(self):
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"x" + report.BUILD_ID_NOTE + bytes(range(20)) + b"y")
            file.flush()
            self.assertEqual(report.build_id(file.name), "000102030405")


if __name__ == "__main__":
    unittest.main()
