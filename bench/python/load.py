# SPDX-License-Identifier: MIT
"""service.py under load from wrk, and after a burst."""

import json
import re
import subprocess
import time
import urllib.request

from programs.measure import Failed, Process, environment
from programs.servers import Nginx

CONNECTIONS = 8
WARM_UP_SECONDS = 1
REST_SECONDS = 2
START_SECONDS = 20
BURST_SECONDS = 60
PAGE = "/page?id=7"


class Load:
    """One server from start to end, seconds of load in between."""

    def __init__(self, setting, seconds):
        self.setting, self.seconds = setting, seconds

    def run(self, way, command, variables):
        self.process = Process(self.setting, way.library, command, variables)
        try:
            self.wait_until_up()
            expected = self.get(PAGE)
            result = self.under_load(way, expected)
            result["burst"] = self.burst()
            if self.get(PAGE) != expected:
                raise Failed("the page has changed")
            self.process.check_alive()
            return result
        finally:
            self.process.kill()

    def wait_until_up(self):
        """It prints its port when it listens."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with open(self.process.output_path, encoding="ascii") as output:
                line = output.readline()
            if line.endswith("\n"):
                break
            self.process.check_alive()
            if time.monotonic() > deadline:
                raise Failed(f"not up within {START_SECONDS} s")
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{int(line)}"

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=BURST_SECONDS) as reply:
            return reply.read()

    def status(self):
        return json.loads(self.get("/status"))

    def wrk(self, seconds):
        command = ["wrk", "-t", "1", "-c", str(CONNECTIONS), "-d", str(seconds), "--latency", self.url + PAGE]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 20, check=False,
                                  stdin=subprocess.DEVNULL, env=environment(self.setting.work))
        except subprocess.TimeoutExpired:
            raise Failed("hung: wrk got no answer") from None
        rate = re.search(r"^Requests/sec: *([0-9.]+)", done.stdout, re.MULTILINE)
        if done.returncode or "Non-2xx" in done.stdout or "Socket errors" in done.stdout or not rate:
            raise Failed(f"wrk saw errors: {(done.stdout + done.stderr).strip()[-160:]}")
        return float(rate.group(1)), {name: Nginx.wrk_ns(done.stdout, percent)
                                      for name, percent in (("p50", 50), ("p99", 99))}

    def under_load(self, way, expected):
        """Rate, latency, and what a page took, all of it while the load lasted."""
        self.wrk(WARM_UP_SECONDS)
        before = self.status()
        way.check(before)
        rate, latency_ns = self.wrk(self.seconds)
        after = self.status()
        pages = after["pages"] - before["pages"]
        if not pages or not expected:
            raise Failed("no page was served")
        per_page = {key: (after[key] - before[key]) / pages
                    for key in ("cpu_seconds", "system_seconds", "minor_faults")}
        return {"pages_per_second": rate, "latency_ns": latency_ns, "per_page": per_page, "pages": pages,
                "loaded_kib": after["resident_kib"], "peak_kib": after["peak_kib"]}

    def burst(self):
        """What a request for 200 MB of objects leaves behind, at once and after a rest."""
        before = self.status()
        self.get("/burst")
        at_once = self.status()
        time.sleep(REST_SECONDS)
        rested = self.status()
        return {"peak_kib": rested["peak_kib"], "at_once_kib": at_once["resident_kib"],
                "rested_kib": rested["resident_kib"], "cpu_seconds": at_once["cpu_seconds"] - before["cpu_seconds"]}
