"""redis-server under load: the program that most people know an allocator matters to.

Two threads read and parse requests, so blocks are allocated by one thread and freed by another; UNLINK
adds a third, which frees large values in the background. A model of the data, kept here, predicts every
reply: a value is determined by its key and version, so a stale, torn or foreign one is noticed.
redis-benchmark makes the throughput, on keys of its own; the model's client goes on meanwhile.
"""

import csv
import random
import re
import socket
import threading
import zlib

from service import Failed, Load, Service, run_tool, wait_until

BATCH = 100                # commands in flight on the checking connections
CONNECTIONS = 4
STRINGS, HASHES, LISTS, SORTED_SETS = 8000, 800, 400, 400
FIELDS = 24                # per hash and per sorted set, at most
LIST_LENGTH = 24
BACKGROUND_PAUSE = 0.02    # the checking client leaves the processors to the load

# The fixed mix: (arguments, how many random keys). A step is settings.requests commands; those with the
# largest values are a quarter of it. Keys are overwritten with values of other sizes on purpose.
STEPS = (
    ("-d 16 -t set", 50000), ("-d 16 -t get", 50000),
    ("-d 300 -t set", 50000), ("-d 300 -t get", 50000),
    ("-d 3000 -t set", 10000), ("-d 3000 -t get", 10000),
    ("-d 16384 -t set", 2000), ("-d 16384 -t get", 2000),
    ("hset b:h:__rand_int__ f:__rand_int__ {v100}", 5000), ("hget b:h:__rand_int__ f:__rand_int__", 5000),
    ("lpush b:l:__rand_int__ {v200}", 500), ("rpop b:l:__rand_int__", 500),
    ("zadd b:z:__rand_int__ __rand_int__ m:__rand_int__", 1000), ("zpopmin b:z:__rand_int__", 1000),
    ("append b:a:__rand_int__ {v100}", 5000), ("unlink key:__rand_int__", 50000),
)


def value(key, version):
    """The bytes of one version of a key: 16 B to 16 KiB, every power of two as likely as any other."""
    spread = zlib.crc32(b"%s:%d" % (key, version))
    size = (16 << spread % 10) + (spread >> 8) % (16 << spread % 10)
    seed = b"%s:%d;" % (key, version)
    return (seed * (size // len(seed) + 1))[:size]


def short_value(key, version):
    """As value(), for the many small parts of a hash, list or sorted set: 20 to 147 bytes."""
    seed = b"%s:%d;" % (key, version)
    return (seed * 16)[:20 + zlib.crc32(seed) % 128]


class Connection:
    """The Redis protocol, version 2, over a Unix socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(path)
        self.replies = self.socket.makefile("rb", 1 << 18)

    def send(self, commands):
        parts = []
        for command in commands:
            parts.append(b"*%d\r\n" % len(command))
            parts.extend(b"$%d\r\n%s\r\n" % (len(word), word) for word in command)
        self.socket.sendall(b"".join(parts))

    def reply(self):
        line = self.replies.readline()
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self.replies.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        raise Failed(f"redis-server answered {line!r:.200}")

    def ask(self, *command):
        self.send([command])
        return self.reply()

    def close(self):
        self.replies.close()
        self.socket.close()


class Model:
    """What the database must hold. Each method returns (command, the reply that must come)."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.versions = {}
        self.next_version = 0
        self.churn = (self.set, self.set, self.get, self.get, self.append, self.delete, self.hset,
                      self.hmget, self.hdel, self.rpush, self.lpop, self.lrange, self.zadd, self.zrange,
                      self.zrem)

    def pick(self, kind, count):
        return b"%s:%d" % (kind, self.random.randrange(count))

    def new_version(self):
        self.next_version += 1
        return self.next_version

    def set(self, key=None):
        key = key or self.pick(b"s", STRINGS)
        self.versions[key] = (self.new_version(),)
        return (b"SET", key, self.text(key)), b"OK"

    def text(self, key):
        return b"".join(value(key, version) for version in self.versions[key])

    def get(self, key=None):
        key = key or self.pick(b"s", STRINGS)
        return (b"GET", key), self.text(key) if key in self.versions else None

    def append(self):
        key = self.pick(b"s", STRINGS)
        if len(self.versions.get(key, ())) > 2:
            return self.set(key)
        version = self.new_version()
        self.versions[key] = self.versions.get(key, ()) + (version,)
        return (b"APPEND", key, value(key, version)), len(self.text(key))

    def delete(self):
        key = self.pick(b"s", STRINGS)
        command = self.random.choice((b"DEL", b"UNLINK"))
        return (command, key), int(self.versions.pop(key, None) is not None)

    def hset(self, key=None, field=None):
        key = key or self.pick(b"h", HASHES)
        field = field or self.pick(b"f", FIELDS)
        fields = self.versions.setdefault(key, {})
        is_new = field not in fields
        fields[field] = self.new_version()
        return (b"HSET", key, field, short_value(key + field, fields[field])), int(is_new)

    def hmget(self, key=None):
        key = key or self.pick(b"h", HASHES)
        versions = self.versions.get(key, {})
        fields = [b"f:%d" % i for i in range(FIELDS)]
        return (b"HMGET", key, *fields), [
            short_value(key + field, versions[field]) if field in versions else None for field in fields]

    def hdel(self):
        key, field = self.pick(b"h", HASHES), self.pick(b"f", FIELDS)
        return (b"HDEL", key, field), int(self.versions.get(key, {}).pop(field, None) is not None)

    def rpush(self, key=None):
        key = key or self.pick(b"l", LISTS)
        items = self.versions.setdefault(key, [])
        if len(items) >= LIST_LENGTH:
            return self.lpop(key)
        items.append(self.new_version())
        return (b"RPUSH", key, short_value(key, items[-1])), len(items)

    def lpop(self, key=None):
        key = key or self.pick(b"l", LISTS)
        items = self.versions.get(key)
        return (b"LPOP", key), short_value(key, items.pop(0)) if items else None

    def lrange(self, key=None):
        key = key or self.pick(b"l", LISTS)
        return (b"LRANGE", key, b"0", b"-1"), [short_value(key, v) for v in self.versions.get(key, [])]

    def zadd(self, key=None, member=None):
        key = key or self.pick(b"z", SORTED_SETS)
        member = short_value(member or self.pick(b"m", FIELDS), 0)
        scores = self.versions.setdefault(key, {})
        is_new = member not in scores
        scores[member] = self.new_version()
        return (b"ZADD", key, b"%d" % scores[member], member), int(is_new)

    def zrange(self, key=None):
        key = key or self.pick(b"z", SORTED_SETS)
        scores = self.versions.get(key, {})
        expected = []
        for member in sorted(scores, key=scores.get):
            expected += [member, b"%d" % scores[member]]
        return (b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"), expected

    def zrem(self):
        key, member = self.pick(b"z", SORTED_SETS), short_value(self.pick(b"m", FIELDS), 0)
        return (b"ZREM", key, member), int(self.versions.get(key, {}).pop(member, None) is not None)

    def fill(self):
        """Every key, each type in turn."""
        for i in range(STRINGS):
            yield self.set(b"s:%d" % i)
        for j in range(FIELDS):
            for i in range(HASHES):
                yield self.hset(b"h:%d" % i, b"f:%d" % j)
            for i in range(LISTS):
                yield self.rpush(b"l:%d" % i)
            for i in range(SORTED_SETS):
                yield self.zadd(b"z:%d" % i, b"m:%d" % j)

    def read_everything(self):
        for kind, count, read in ((b"s", STRINGS, self.get), (b"h", HASHES, self.hmget),
                                  (b"l", LISTS, self.lrange), (b"z", SORTED_SETS, self.zrange)):
            for i in range(count):
                yield read(b"%s:%d" % (kind, i))

    def churn_step(self):
        return self.random.choice(self.churn)()


class RedisService(Service):
    name = "redis-server"
    command = "redis-server"
    # Complaints about the machine's settings (overcommit, THP, backlog) are warnings of another kind.
    log_errors = re.compile(r"(?!.*(overcommit_memory|[Tt]ransparent|THP|somaxconn))"
                            r".*(BUG REPORT|[Ee]rror|ERROR|[Ff]ail|[Cc]rash|[Aa]ssert|[Oo]ut [Oo]f|[Cc]an't)")

    @staticmethod
    def describe():
        return run_tool(["redis-server", "--version"], 10).split(" sha=")[0].replace(
            "Redis server v=", "redis-server ") + ": Unix socket, 2 I/O threads that also read, no persistence"

    def start(self):
        self.socket_path = self.directory + "/socket"
        # The background thread belongs to libjemalloc, which stays linked in but idle under the others.
        background = "yes" if self.allocator == "jemalloc" else "no"
        self.spawn([self.command, "--port", "0", "--unixsocket", self.socket_path, "--save", "",
                    "--appendonly", "no", "--io-threads", "2", "--io-threads-do-reads", "yes",
                    "--jemalloc-bg-thread", background, "--dir", self.directory])
        wait_until(self.answers, "start of redis-server", 20)
        self.connections = [Connection(self.socket_path) for _ in range(CONNECTIONS)]
        self.model = Model(self.settings.seed)

    def answers(self):
        self.check_alive()
        try:
            connection = Connection(self.socket_path)
        except OSError:
            return False
        connection.close()
        return True

    def exchange(self, steps, progress=None):
        """Send the model's commands in batches, over each connection in turn, and check the replies."""
        batch = []
        for number, step in enumerate(steps):
            batch.append(step)
            if len(batch) == BATCH:
                self.exchange_batch(batch)
                batch = []
                if progress:
                    progress(number)
        self.exchange_batch(batch)

    def exchange_batch(self, batch):
        self.connections.append(self.connections.pop(0))
        connection = self.connections[0]
        connection.send([command for command, _ in batch])
        for command, expected in batch:
            self.checked.reply(command, expected, connection.reply())

    def fill(self, progress):
        total = STRINGS + FIELDS * (HASHES + LISTS + SORTED_SETS)
        self.exchange(self.model.fill(), lambda n: progress("fill", n / total))
        count = 60 * BATCH
        self.exchange((self.model.churn_step() for _ in range(count)), lambda n: progress("churn", n / count))

    def load(self, progress):
        """The fixed mix by redis-benchmark, while the model's client goes on changing and checking."""
        stop = threading.Event()
        failures = []
        client = threading.Thread(target=self.background_client, args=(stop, failures))
        client.start()
        try:
            seconds, p99s = 0.0, []
            for number, step in enumerate(STEPS):
                progress("load", number / len(STEPS))
                step_seconds, p99 = self.benchmark(*step)
                seconds += step_seconds
                p99s.append(p99)
        finally:
            stop.set()
            client.join()
        if failures:
            raise failures[0]
        total = sum(self.requests_of(step) for step, _ in STEPS)
        return Load(total / seconds, sum(p99s) / len(p99s))

    def background_client(self, stop, failures):
        try:
            while not stop.wait(BACKGROUND_PAUSE):
                self.exchange_batch([self.model.churn_step() for _ in range(BATCH // 4)])
        except (Failed, OSError) as failure:
            failures.append(failure)

    def requests_of(self, step):
        return self.settings.requests // (4 if "16384" in step else 1)

    def benchmark(self, step, keys):
        """One redis-benchmark: how long it took, and its 99th percentile in milliseconds."""
        words = step.format(v100="x" * 100, v200="y" * 200).split()
        requests = self.requests_of(step)
        # Deep pipelines: the I/O threads spin for each other once per round of the event loop, so that
        # short ones would measure the scheduler of a busy machine.
        output = run_tool(["redis-benchmark", "-s", self.socket_path, "-c", "32", "-P", "32", "--csv",
                           "-n", str(requests), "-r", str(keys), *words], 120)
        rows = list(csv.DictReader(output.splitlines()))
        if len(rows) != 1 or float(rows[0]["rps"]) <= 0:
            raise Failed(f"redis-benchmark {step} printed {output!r:.200}")
        return requests / float(rows[0]["rps"]), float(rows[0]["p99_latency_ms"])

    def verify(self, progress):
        total = STRINGS + HASHES + LISTS + SORTED_SETS
        self.exchange(self.model.read_everything(), lambda n: progress("verify", n / total))
        self.check_linked_jemalloc()

    def check_linked_jemalloc(self):
        """A second opinion on the preload: how much the libjemalloc that redis-server is linked with
        has handed out, by its own count. All of it or nothing."""
        info = self.connections[0].ask(b"INFO", b"memory").decode()
        figures = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        if not figures["mem_allocator"].startswith("jemalloc"):
            return  # a build that has no jemalloc in it
        allocated, used = int(figures["allocator_allocated"]), int(figures["used_memory"])
        if (allocated >= used // 2) != (self.allocator == "jemalloc"):
            raise Failed(f"{allocated} of {used} bytes are in jemalloc under {self.allocator}")

    def delete_everything(self):
        connection = self.connections[0]
        self.checked.reply(b"FLUSHALL SYNC", b"OK", connection.ask(b"FLUSHALL", b"SYNC"))
        self.checked.reply(b"DBSIZE", 0, connection.ask(b"DBSIZE"))
        for connection in self.connections:
            connection.close()
