"""varnishd under load: a threaded server that allocates for every request that is not a plain hit.

Chosen because its traffic really is malloc's. A miss takes several blocks in whichever worker thread serves
it (busy object, object head and core, body and headers in malloc storage), and the expiry thread frees what
others took: counted over ten seconds, it made 4 allocations and 214,000 frees, while two dozen workers made
up to 166,000 allocations each. memcached, nginx, haproxy and apache keep slabs or pools of their own and
hardly call malloc; mariadb calls it a lot but is far larger to install. Varnish is a 1 MB package, and
Debian links it with jemalloc.

The bodies are made by the VCL itself, from the URL, a version in the request and a filler, so that no
second server has a part in the figures. What is cached keeps the version that it was fetched with, which
the model here remembers; PURGE deletes an object. wrk makes the throughput, on keys of its own.
"""

import json
import os
import random
import re
import socket
import subprocess
import time

from service import Failed, Load, Service, run_tool, wait_until

BATCH = 32                 # requests in flight on each checking connection
CONNECTIONS = 4
OBJECTS = 6000             # of the checking client
LOAD_OBJECTS = 20000       # of wrk
BACKGROUND_PAUSE = 0.02    # the checking client leaves the processors to the load

FILLER_BYTES = (16, 40, 150, 400, 1000, 2500, 6000, 16000)
FILLERS = tuple(("%d." % (size * 7919) * size)[:size] for size in FILLER_BYTES)

VCL = """vcl 4.1;
backend none none;

sub vcl_recv {{
    if (req.method == "PURGE") {{
        return (purge);
    }}
    return (hash);
}}

sub vcl_backend_fetch {{
    return (error(200, "OK"));
}}

sub vcl_backend_error {{
    set beresp.ttl = 1h;
    set beresp.grace = 0s;
    set beresp.keep = 0s;
    {branches}
    return (deliver);
}}
"""

# One processor's worth of the fixed mix: three GETs to one PURGE, of random keys.
LUA = """
local threads = 0
function setup(thread)
    threads = threads + 1
    thread:set("seed", threads)
end
function init()
    math.randomseed(seed)
end
function request()
    local id = math.random(0, {objects} - 1)
    local method = math.random(4) == 1 and "PURGE" or "GET"
    return wrk.format(method, "/" .. id % {fillers} .. "/wrk/" .. id, {{["Host"] = "demo", ["X-Version"] = "0"}})
end
"""


def vcl():
    """A branch for each filler, chosen by the first part of the URL."""
    branches = [f'if (bereq.url ~ "^/{i}/") {{\n'
                f'        synthetic(bereq.url + "|" + bereq.http.x-version + "|" + "{filler}");\n    }}'
                for i, filler in enumerate(FILLERS)]
    return VCL.format(branches=" else ".join(branches))


def url_of(kind, number):
    return f"/{number % len(FILLERS)}/{kind}/{number}"


def body_of(url, version):
    return f"{url}|{version}|{FILLERS[int(url[1])]}".encode()


class Connection:
    """HTTP/1.1, pipelined, for answers with a Content-Length."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.replies = self.socket.makefile("rb", 1 << 18)

    def send(self, requests):
        self.socket.sendall("".join(
            f"{method} {url} HTTP/1.1\r\nHost: demo\r\nX-Version: {version}\r\n\r\n"
            for method, url, version in requests).encode())

    def reply(self):
        """(status, body)"""
        status = self.replies.readline().split(None, 2)
        if len(status) < 2:
            raise Failed(f"varnishd closed the connection: {status!r}")
        body_bytes = 0
        for line in iter(self.replies.readline, b"\r\n"):
            name, _, text = line.partition(b":")
            if not text:
                raise Failed(f"varnishd sent the header {line!r:.200}")
            if name.lower() == b"content-length":
                body_bytes = int(text)
        return int(status[1]), self.replies.read(body_bytes)

    def close(self):
        self.replies.close()
        self.socket.close()


class Model:
    """What the cache must hold: the version that each URL was last fetched with."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.cached = {}
        self.next_version = 0

    def get(self, url):
        """(request, the body that must come)"""
        self.next_version += 1
        version = self.cached.setdefault(url, self.next_version)
        return ("GET", url, self.next_version), body_of(url, version)

    def purge(self, url):
        self.cached.pop(url, None)
        return ("PURGE", url, 0), None

    def churn_step(self):
        url = url_of("check", self.random.randrange(OBJECTS))
        return self.purge(url) if self.random.random() < 0.3 else self.get(url)


class VarnishService(Service):
    name = "varnishd"
    command = "varnishd"
    child_pid = None
    log_errors = re.compile(r"(?!.*Manager got SIGTERM).*([Ee]rror|[Pp]anic|[Aa]ssert|died|[Ff]ail|not responding)")

    @staticmethod
    def describe():
        return "varnishd: 2 pools of 8 to 32 threads, malloc storage, classic hash, no backend"

    def start(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        vcl_path = os.path.join(self.directory, "demo.vcl")
        with open(vcl_path, "w", encoding="ascii") as file:
            file.write(vcl())
        self.lua_path = os.path.join(self.directory, "load.lua")
        with open(self.lua_path, "w", encoding="ascii") as file:
            file.write(LUA.format(objects=LOAD_OBJECTS, fillers=len(FILLERS)))
        self.instance = os.path.join(self.directory, "instance")
        # The default hash keeps the heads of deleted objects for three minutes; the classic one does not.
        self.spawn([self.command, "-F", "-j", "none", "-T", "none", "-n", self.instance, "-f", vcl_path,
                    "-a", f"127.0.0.1:{self.port}", "-s", "default=malloc,512m", "-h", "classic,16383",
                    "-p", "vsl_space=1M", "-p", "thread_pools=2", "-p", "thread_pool_min=8",
                    "-p", "thread_pool_max=32"])
        wait_until(self.answers, "start of varnishd", 30)
        self.child_pid = self.measured_pid()
        self.connections = [Connection(self.port) for _ in range(CONNECTIONS)]
        self.model = Model(self.settings.seed)

    def answers(self):
        self.check_alive()
        try:
            connection = Connection(self.port)
        except OSError:
            return False
        connection.close()
        return True

    def measured_pid(self):
        """The child that serves; the process started is its manager, which compiled the VCL."""
        pid = self.process.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as children:
            pids = children.read().split()
        if len(pids) != 1:
            raise Failed(f"varnishd has {len(pids)} serving processes")
        return int(pids[0])

    def check_alive(self):
        super().check_alive()
        if self.child_pid and self.child_pid != self.measured_pid():
            raise Failed("the serving process died and was replaced")

    def exchange(self, steps, progress=None):
        """Send requests in batches over all connections and check the answers. A URL always goes over
        the same connection, so that its requests are served in order."""
        batch = []
        for number, step in enumerate(steps):
            batch.append(step)
            if len(batch) == BATCH * CONNECTIONS:
                self.exchange_batch(batch)
                batch = []
                if progress:
                    progress(number)
        self.exchange_batch(batch)

    def exchange_batch(self, batch):
        parts = [[] for _ in self.connections]
        for step in batch:
            parts[int(step[0][1].rpartition("/")[2]) % CONNECTIONS].append(step)
        for connection, part in zip(self.connections, parts):
            connection.send([request for request, _ in part])
        for connection, part in zip(self.connections, parts):
            for request, body in part:
                status, got = connection.reply()
                self.checked.reply(request, (200, body), (status, got if body is not None else None))

    def fill(self, progress):
        self.exchange((self.model.get(url_of("check", i)) for i in range(OBJECTS)),
                      lambda n: progress("fill", n / OBJECTS))
        count = OBJECTS
        self.exchange((self.model.churn_step() for _ in range(count)), lambda n: progress("churn", n / count))

    def load(self, progress):
        """The fixed mix by wrk, while the model's client goes on changing and checking."""
        output_path = os.path.join(self.directory, "wrk")
        started = time.monotonic()
        with open(output_path, "wb") as output, subprocess.Popen(
                ["wrk", "-t", "2", "-c", "16", "-d", str(self.settings.seconds), "--latency", "-s",
                 self.lua_path, f"http://127.0.0.1:{self.port}/"], stdout=output, stderr=output) as wrk:
            try:
                while wrk.poll() is None:
                    self.background_client(progress, time.monotonic() - started)
            finally:
                wrk.kill()  # does nothing if it has ended
        with open(output_path, encoding="utf-8", errors="replace") as output:
            return self.parse_wrk(output.read(), wrk.returncode)

    def background_client(self, progress, elapsed):
        if elapsed > self.settings.seconds + 30:
            raise Failed("wrk does not end")
        progress("load", min(elapsed / self.settings.seconds, 1))
        self.exchange_batch([self.model.churn_step() for _ in range(BATCH)])
        time.sleep(BACKGROUND_PAUSE)

    @staticmethod
    def parse_wrk(output, status):
        rate = re.search(r"^Requests/sec:\s+([\d.]+)", output, re.M)
        p99 = re.search(r"^\s+99%\s+([\d.]+)(us|ms|s)", output, re.M)
        if status != 0 or not rate or not p99 or "Non-2xx" in output or "Socket errors" in output:
            raise Failed(f"wrk returned {status} and printed {output!r:.400}")
        return Load(float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]])

    def verify(self, progress):
        """Read every object, wrk's too: those must be whole and of the version that it sent."""
        self.exchange((self.model.get(url_of("check", i)) for i in range(OBJECTS)),
                      lambda n: progress("verify", n / OBJECTS))
        wrk_urls = [url_of("wrk", i) for i in range(LOAD_OBJECTS)]
        self.exchange(((("GET", url, 0), body_of(url, 0)) for url in wrk_urls),
                      lambda n: progress("verify", n / LOAD_OBJECTS))

    def delete_everything(self):
        self.exchange(self.model.purge(url_of(kind, i))
                      for kind, count in (("check", OBJECTS), ("wrk", LOAD_OBJECTS)) for i in range(count))
        for connection in self.connections:
            connection.close()
        wait_until(lambda: self.objects_left() == 0, "freeing of the purged objects", 20)

    def objects_left(self):
        """Objects and stored bytes, as varnishd counts them."""
        output = run_tool(["varnishstat", "-n", self.instance, "-1", "-j", "-f", "MAIN.n_object",
                           "-f", "SMA.default.g_bytes"], 10)
        counters = json.loads(output)
        counters = counters.get("counters", counters)
        return sum(counters[name]["value"] for name in ("MAIN.n_object", "SMA.default.g_bytes"))
