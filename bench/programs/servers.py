# SPDX-License-Identifier: MIT
"""Workloads that are a server under load: started, loaded, emptied where it can be, looked at when
it has rested, and ended. The server has the allocator; the load's side never has.

The time is that of the load alone; processor time, faults and switches are of the server's whole
life; the peak is read before it is emptied.
"""

import csv
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request

from programs.measure import (Failed, Process, build_tool, check_preload, environment, resident_kib,
                              status_kib)

HERE = os.path.dirname(os.path.abspath(__file__))
REST_SECONDS = 2
START_SECONDS = 20


class Server:
    """A subclass says how to start the server, when it is up, how to load it and how to empty it."""

    name = ""
    kind = "program"
    description = ""
    executable = ""
    tools = ()

    def missing(self):
        """What this machine lacks to run it, or None."""
        lacking = [tool for tool in (self.executable, *self.tools) if not shutil.which(tool)]
        return f"no {' and no '.join(lacking)} here" if lacking else None

    def prepare(self, setting):
        self.folder = os.path.join(setting.work, self.name)
        os.makedirs(self.folder)
        self.scale = setting.scale
        self.socket_path = os.path.join(self.folder, "socket")
        self.make_input()
        self.run(setting, "", rest_seconds=0)

    def make_input(self):
        """Make what server or load reads, in self.folder."""

    def command(self):
        raise NotImplementedError

    def is_up(self):
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(self.socket_path) == 0

    def load(self):
        """Put it under load and check its replies. Returns (seconds, latency_ns or None)."""
        raise NotImplementedError

    def empty(self):
        """Have it drop its data."""

    def start(self, setting, library, variables=None):
        if os.path.exists(self.socket_path):
            os.unlink(self.socket_path)
        return Process(setting, library, self.command(), variables)

    def wait_until_up(self, process):
        deadline = time.monotonic() + START_SECONDS
        while not self.is_up():
            process.check_alive()
            if time.monotonic() > deadline:
                raise Failed(f"not up within {START_SECONDS} s")
            time.sleep(0.01)

    def check(self, setting, library):
        """See that the server takes its memory from the library."""
        process = self.start(setting, library, {"LD_BIND_NOW": "1"})
        try:
            check_preload(process, library)
        finally:
            process.kill()

    def run(self, setting, library, rest_seconds=REST_SECONDS):
        process = self.start(setting, library)
        self.setting, self.process = setting, process
        try:
            self.wait_until_up(process)
            seconds, latency_ns = self.load()
            process.check_alive()
            peak_kib = status_kib(process.pid, "VmHWM")
            self.empty()
            time.sleep(rest_seconds)
            rest_kib = resident_kib(process.pid)
            used = process.stop()
        except ProcessLookupError:
            process.finish()
            raise Failed("ended while it was looked at") from None
        finally:
            process.kill()
        return {**used, "seconds": seconds, "peak_kib": peak_kib, "rest_kib": rest_kib,
                "latency_ns": latency_ns}

    def tool(self, *command):
        """The output of a load or query tool, which must succeed in time."""
        seconds = max(1.0, self.process.deadline - time.monotonic())
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False,
                                  stdin=subprocess.DEVNULL, cwd=self.folder, start_new_session=True,
                                  env=environment(self.folder))
        except subprocess.TimeoutExpired:
            raise Failed(f"hung: {os.path.basename(command[0])} got no answer") from None
        if done.returncode != 0:
            self.process.check_alive()
            said = (done.stdout + done.stderr).strip()[-160:]
            raise Failed(f"{os.path.basename(command[0])} returned {done.returncode}: {said}")
        return done.stdout


class Redis(Server):
    name = "redis"
    executable = "redis-server"
    tools = ("redis-benchmark", "redis-cli")
    description = ("redis-server, no persistence, under redis-benchmark: strings, lists, hashes, sorted "
                   "sets; then FLUSHALL")

    # (thousands of requests at scale 1, pipeline, arguments). Strings are overwritten with others of
    # another size. The last step is for latency: one request at a time on each connection.
    STEPS = (
        (200, 16, "-r 60000 -d 40 -t set"), (150, 16, "-r 60000 -d 900 -t set"),
        (100, 16, "-r 60000 -t get"), (100, 16, "-r 3000 -d 100 lpush list:__rand_int__ " + "v" * 60),
        (100, 16, "-r 3000 hset hash:__rand_int__ field:__rand_int__ " + "v" * 30),
        (60, 16, "-r 2000 zadd sorted:__rand_int__ __rand_int__ member:__rand_int__"),
        (60, 16, "-r 60000 del key:__rand_int__"), (100, 16, "-r 60000 -d 300 -t set"),
        (40, 1, "-r 60000 -d 200 -t set"),
    )

    def command(self):
        # The background thread is libjemalloc's, which Debian's server is linked with.
        return [self.executable, "--port", "0", "--unixsocket", self.socket_path, "--save", "",
                "--appendonly", "no", "--dir", self.folder, "--jemalloc-bg-thread", "no"]

    def load(self):
        seconds = 0.0
        for thousands, pipeline, words in self.STEPS:
            requests = max(1000, int(1000 * thousands * self.scale))
            output = self.tool("redis-benchmark", "-s", self.socket_path, "-c", "32", "-P", str(pipeline),
                               "-n", str(requests), "--csv", *words.split())
            rows = list(csv.DictReader(output.splitlines()))
            if len(rows) != 1 or not float(rows[0]["rps"]) > 0:
                raise Failed(f"redis-benchmark printed {output!r:.100}")
            seconds += requests / float(rows[0]["rps"])
        self.check_data()
        return seconds, {key: round(float(rows[0][f"{column}_latency_ms"]) * 1e6)
                         for key, column in (("p50", "p50"), ("p99", "p99"), ("max", "max"))}

    def ask(self, *words):
        return self.tool("redis-cli", "-s", self.socket_path, *words)

    def check_data(self):
        """It counts its error replies, and has keys of all kinds with values as long as they must be."""
        errors = re.search(r"errorstat_\S+", self.ask("info", "errorstats"))
        if errors:
            raise Failed(f"redis-server replied with errors: {errors.group()}")
        lengths = self.ask("eval", """
            local found = {}
            for _, key in ipairs(redis.call('keys', 'key:*')) do
                found[#found + 1] = redis.call('strlen', key)
            end
            table.sort(found)
            return {#found, found[1], found[#found]}""", "0").split()
        if len(lengths) != 3 or int(lengths[0]) < 1000 or not {lengths[1], lengths[2]} <= {
                "40", "200", "300", "900"}:
            raise Failed(f"the strings are not what was stored: {lengths}")

    def empty(self):
        if self.ask("flushall", "sync").strip() != "OK" or self.ask("dbsize").strip() != "0":
            raise Failed("FLUSHALL left something")


class Memcached(Server):
    name = "memcached"
    executable = "memcached"
    description = "memcached, two threads, batches of gets and sets of 32 B to 8 KiB, every value checked"

    def make_input(self):
        self.loader = build_tool(os.path.join(HERE, "memcached_load.c"), self.folder, "-pthread")

    def command(self):
        return [self.executable, "-u", getpass.getuser(), "-s", self.socket_path, "-m", "512", "-t", "2",
                "-U", "0"]

    def load(self):
        said = json.loads(self.tool(self.loader, self.socket_path, str(max(100, int(8000 * self.scale)))))
        return said["seconds"], said["latency_ns"]

    def empty(self):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(self.socket_path)
            client.sendall(b"flush_all\r\n")
            if client.recv(100) != b"OK\r\n":
                raise Failed("flush_all failed")


class Nginx(Server):
    name = "nginx"
    executable = "nginx"
    tools = ("wrk",)
    description = ("nginx, one process: a proxy to itself that compresses, under wrk; the time is for "
                   "20,000 replies")
    REPLIES = 20000
    CONFIGURATION = """
        daemon off; master_process off; pid nginx.pid; error_log stderr error;
        events { worker_connections 512; }
        http {
            access_log off; default_type text/plain; keepalive_requests 1000000;
            gzip on; gzip_comp_level 1; gzip_types text/plain; gzip_proxied any; gzip_min_length 100;
            client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
            uwsgi_temp_path uwsgi; scgi_temp_path scgi;
            server { listen unix:back; root FOLDER; gzip off; }
            server { listen unix:socket; listen 127.0.0.1:PORT; location / { proxy_pass http://unix:FOLDER/back; } }
        }
    """

    def make_input(self):
        self.text = "".join(f"line {i}: {i * 7919 % 10007:x}\n" for i in range(400))
        with open(os.path.join(self.folder, "page.txt"), "w", encoding="ascii") as page:
            page.write(self.text)

    def command(self):
        """On a port that was free just now; the sockets of the last run are removed."""
        back = os.path.join(self.folder, "back")
        if os.path.exists(back):
            os.unlink(back)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        path = os.path.join(self.folder, "nginx.conf")
        with open(path, "w", encoding="ascii") as configuration:
            configuration.write(self.CONFIGURATION.replace("PORT", str(self.port))
                                .replace("unix:back", f"unix:{back}")
                                .replace("unix:socket", f"unix:{self.socket_path}")
                                .replace("FOLDER", self.folder))
        return [self.executable, "-p", self.folder, "-e", "stderr", "-c", path]

    def load(self):
        url = f"http://127.0.0.1:{self.port}/page.txt"
        with urllib.request.urlopen(url, timeout=10) as reply:
            if reply.read().decode() != self.text:
                raise Failed("the page has changed")
        seconds = max(1, round(2 * self.scale))
        said = self.tool("wrk", "-t", "1", "-c", "32", "-d", str(seconds), "--latency",
                         "-H", "Accept-Encoding: gzip", url)
        rate = re.search(r"^Requests/sec: *([0-9.]+)", said, re.MULTILINE)
        if "Non-2xx" in said or "Socket errors" in said or not rate or not float(rate.group(1)) > 0:
            raise Failed(f"wrk saw errors: {said.strip()[-160:]}")
        return self.REPLIES / float(rate.group(1)), {
            key: self.wrk_ns(said, percent) for key, percent in (("p50", 50), ("p99", 99))}

    @staticmethod
    def wrk_ns(said, percent):
        found = re.search(rf"^ +{percent}% +([0-9.]+)(us|ms|s)$", said, re.MULTILINE)
        if not found:
            raise Failed(f"wrk printed no {percent}th percentile")
        return round(float(found.group(1)) * {"us": 1e3, "ms": 1e6, "s": 1e9}[found.group(2)])


def all_servers():
    return [Redis(), Memcached(), Nginx()]
