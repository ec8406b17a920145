"""The client side of redis.sh: redis_check.py SOCKET COMMAND

Every value follows from its key and a version number, so that any reader can check any value without
having seen the write. Keys of WORKERS clients, each with its own part of the key space, so that each
knows what must be there:

    frozen  database 0: filled, overwritten, partly deleted; not touched while a dump is written
    hot     database 1: rewritten all the time while the dump is written; any version may be in it
"""
import hashlib
import socket
import sys
import threading
import time

WORKERS = 8
KEYS_PER_WORKER = 2000
PIPELINE = 100
VERSIONS = 3


class Connection:
    """Sends commands in batches and reads their replies (RESP2)."""

    def __init__(self, path, database=0):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.stream = self.socket.makefile("rb")
        self.run([("SELECT", database)])

    def run(self, commands):
        self.send(commands)
        return [self.reply() for _ in commands]

    def send(self, commands):
        data = bytearray()
        for command in commands:
            data += b"*%d\r\n" % len(command)
            for word in command:
                word = word if isinstance(word, bytes) else str(word).encode()
                data += b"$%d\r\n%s\r\n" % (len(word), word)
        self.socket.sendall(data)

    def reply(self):
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise ValueError(rest.decode())
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if rest == b"-1":
            return None
        if kind == b"$":
            return self.stream.read(int(rest) + 2)[:-2]
        return [self.reply() for _ in range(int(rest))]


def payload(key, version):
    """Bytes that say which key and version they belong to; 20 to 20000 of them, mostly few."""
    seed = hashlib.sha256(b"%s/%d" % (key, version)).digest()
    length = 20 + seed[0] + (seed[1] * 80 if seed[2] < 16 else 0)
    return b"%d:" % version + (seed * (length // 32 + 1))[:length]


def is_payload(key, value):
    version = value.split(b":", 1)[0]
    return version.isdigit() and value == payload(key, int(version))


def members(key, version):
    return [payload(key + b"/%d" % i, version) for i in range(3 + version + len(key) % 5)]


TYPES = ("string", "list", "hash", "set", "zset")


def key_of(worker, index):
    return b"%s:%d:%d" % (TYPES[index % len(TYPES)].encode(), worker, index)


def writes(key, version):
    """The commands that give a key its value of this version."""
    kind = key.split(b":")[0]
    if kind == b"string":
        return [("SET", key, payload(key, version))]
    values = members(key, version)
    if kind == b"list":
        return [("DEL", key), ("RPUSH", key, *values)]
    if kind == b"set":
        return [("DEL", key), ("SADD", key, *values)]
    if kind == b"hash":
        pairs = [word for i, value in enumerate(values) for word in (b"f%d" % i, value)]
        return [("DEL", key), ("HSET", key, *pairs)]
    pairs = [word for i, value in enumerate(values) for word in (i, value)]
    return [("DEL", key), ("ZADD", key, *pairs)]


READS = {b"string": ("GET",), b"list": ("LRANGE", 0, -1), b"hash": ("HVALS",),
         b"set": ("SMEMBERS",), b"zset": ("ZRANGE", 0, -1)}


def read(key):
    words = READS[key.split(b":")[0]]
    return (words[0], key, *words[1:])


def value_of(key, reply):
    """A reply in an order that does not depend on the server's hash seed."""
    return reply if key.startswith(b"string") else sorted(reply)


def expected(key, version):
    if key.startswith(b"string"):
        return payload(key, version)
    return sorted(members(key, version))


def batches(items):
    items = list(items)
    return (items[i:i + PIPELINE] for i in range(0, len(items), PIPELINE))


def is_deleted(index):
    return index % 7 == 3


def on_all_workers(function, *arguments):
    errors = []

    def run(worker):
        try:
            function(worker, *arguments)
        except Exception as error:  # reported by the main thread
            errors.append("worker %d: %r" % (worker, error))

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        sys.exit("\n".join(errors))


def verify_frozen(connection, worker):
    for batch in batches(range(KEYS_PER_WORKER)):
        keys = [key_of(worker, index) for index in batch]
        replies = connection.run([read(key) for key in keys])
        for index, key, reply in zip(batch, keys, replies):
            if is_deleted(index):
                if reply:
                    raise ValueError("%r was deleted and is there" % key)
            elif value_of(key, reply) != expected(key, VERSIONS - 1):
                raise ValueError("%r does not have its last value" % key)


def fill_worker(worker, path):
    connection = Connection(path)
    for version in range(VERSIONS):
        for batch in batches(range(KEYS_PER_WORKER)):
            connection.run([command for index in batch
                            for command in writes(key_of(worker, index), version)])
    for batch in batches(filter(is_deleted, range(KEYS_PER_WORKER))):
        connection.run([("UNLINK" if index % 2 else "DEL", key_of(worker, index))
                        for index in batch])
    verify_frozen(connection, worker)


def fill(path):
    on_all_workers(fill_worker, path)
    use_io_threads(path)


def use_io_threads(path):
    """The server wakes its I/O threads only when several clients wait at once."""
    key = key_of(0, 0)
    connections = [Connection(path) for _ in range(2 * WORKERS)]
    for _ in range(300):
        for connection in connections:
            connection.send([("GET", key)] * PIPELINE)
        for connection in connections:
            if {connection.reply() for _ in range(PIPELINE)} != {expected(key, VERSIONS - 1)}:
                sys.exit("%r does not have its last value" % key)
        if b"io_threaded_writes_processed:0\r" not in connections[0].run([("INFO", "stats")])[0]:
            return
    sys.exit("the server did not use its I/O threads")


def start_save(connection):
    """Start BGSAVE; returns a function that says whether it is still at work."""
    before = connection.run([("LASTSAVE",)])[0]
    while connection.run([("TIME",)])[0][0] <= b"%d" % before:
        time.sleep(0.05)  # LASTSAVE has whole seconds
    connection.run([("BGSAVE",)])

    def saving():
        information = connection.run([("INFO", "persistence")])[0]
        if b"rdb_bgsave_in_progress:1" in information:
            return True
        if connection.run([("LASTSAVE",)])[0] <= before:
            sys.exit("no dump was written")
        if b"rdb_last_bgsave_status:ok" not in information:
            sys.exit("the dump failed")
        return False
    return saving


def write_hot(worker, path, done):
    connection = Connection(path, 1)
    version = 0
    while version == 0 or not done.is_set():
        for batch in batches(range(KEYS_PER_WORKER // 3)):
            connection.run([("SET", key_of(worker, index * len(TYPES)),
                             payload(key_of(worker, index * len(TYPES)), version))
                            for index in batch])
        version += 1


def save_while_writing(path):
    """The child is forked while all workers write, and they go on until it has ended."""
    done = threading.Event()
    connection = Connection(path)
    writers = threading.Thread(target=on_all_workers, args=(write_hot, path, done))
    writers.start()
    try:
        while Connection(path, 1).run([("DBSIZE",)])[0] < WORKERS * KEYS_PER_WORKER // 10:
            time.sleep(0.02)
        saving = start_save(connection)
        while saving():
            time.sleep(0.02)
    finally:
        done.set()
        writers.join()


def verify_dump(path):
    on_all_workers(lambda worker: verify_frozen(Connection(path), worker))
    connection = Connection(path, 1)
    keys = connection.run([("KEYS", "*")])[0]
    if not keys:
        sys.exit("no hot key is in the dump")
    for batch in batches(keys):
        for key, value in zip(batch, connection.run([("GET", key) for key in batch])):
            if not is_payload(key, value):
                sys.exit("%r has a value that was never written" % key)


def contents(path):
    """Print how much there is, and a digest of all of it."""
    total = hashlib.sha256()
    count = 0
    for database in (0, 1):
        connection = Connection(path, database)
        keys = sorted(connection.run([("KEYS", "*")])[0])
        count += len(keys)
        for batch in batches(keys):
            for key, reply in zip(batch, connection.run([read(key) for key in batch])):
                total.update(repr((database, key, value_of(key, reply))).encode())
    print("%d keys, digest %s:" % (count, total.hexdigest()[:16]))


def save(path):
    saving = start_save(Connection(path))
    while saving():
        time.sleep(0.02)


def wait(path):
    for _ in range(200):
        try:
            if Connection(path).run([("PING",)]) == [b"PONG"]:
                return
        except (OSError, ValueError):  # not there yet; loading its dump
            time.sleep(0.1)
    sys.exit("the server does not answer")


def shutdown(path):
    try:
        Connection(path).run([("SHUTDOWN", "NOSAVE")])
    except (EOFError, ConnectionError):
        return
    sys.exit("the server answered SHUTDOWN")


COMMANDS = {"fill": fill, "save-while-writing": save_while_writing, "verify-dump": verify_dump,
            "contents": contents, "save": save, "wait": wait, "shutdown": shutdown}

if __name__ == "__main__":
    COMMANDS[sys.argv[2]](sys.argv[1])
