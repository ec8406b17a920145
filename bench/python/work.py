# SPDX-License-Identifier: MIT
"""Ten workloads for python3, and bursts; run in the process that is measured.

  work.py NAME [--passes N] [--import MODULE]
  work.py --list

A pass is some 30 to 100 ms of one workload, always the same work. It is timed by the processor time of the
process, all its threads included, and starts after a full garbage collection. One line of JSON says what
each pass took, the checksum, and what memory the process had.

"bursts" is not timed: it makes a million strings, keeps one in 500 of them, then none, and reads after each
step how much memory is resident, at once and when the process has rested.
"""

import collections
import gc
import importlib
import io
import json
import math
import pickle
import queue
import resource
import sys
import threading
import time
import zlib

REST_SECONDS = 1
BURST_STRINGS = 1000000
BURST_KEEPS_ONE_IN = 500


# ---- The ten -------------------------------------------------------------------------------------


def floats():
    """Bodies that attract each other: floats that live for one expression, and lists of them."""
    bodies = [[math.cos(i) * (1 + i), math.sin(i) * (1 + i), i / 3, 0.0, 0.0, 0.0, 1 / (1 + i)]
              for i in range(12)]
    for _ in range(240):
        for i, a in enumerate(bodies):
            for b in bodies[i + 1:]:
                dx, dy, dz = a[0] - b[0], a[1] - b[1], a[2] - b[2]
                pull = 0.01 / ((dx * dx + dy * dy + dz * dz) ** 1.5 + 0.1)
                a[3] -= dx * b[6] * pull
                a[4] -= dy * b[6] * pull
                a[5] -= dz * b[6] * pull
                b[3] += dx * a[6] * pull
                b[4] += dy * a[6] * pull
                b[5] += dz * a[6] * pull
        for body in bodies:
            body[:3] = [place + 0.01 * speed for place, speed in zip(body[:3], body[3:6])]
    samples = [math.sqrt(i) * 1.5 for i in range(200000)]
    means = [(a + b) / 2 for a, b in zip(samples, samples[7:])]
    return round(sum(means) + sum(map(sum, bodies)), 6)


def grow_tree(depth):
    return (grow_tree(depth - 1), grow_tree(depth - 1)) if depth else (None, None)


def count_tree(tree):
    left, right = tree
    return 1 if left is None else 1 + count_tree(left) + count_tree(right)


def trees():
    """Binary trees of tuples: one that stays meanwhile, and many that are made, walked and dropped."""
    kept = grow_tree(15)
    total = 0
    for depth in (4, 6, 8, 10, 12):
        for _ in range(9 << (12 - depth)):
            total += count_tree(grow_tree(depth))
    return total + count_tree(kept)


class Node:
    """A node that knows its neighbours, so that only the collector can free it."""

    def __init__(self, number):
        self.number, self.next, self.previous, self.tags = number, self, self, {number: [number]}

    def join(self, other):
        self.next, other.previous = other, self


def cycles():
    """Rings of objects that refer to each other, left to the garbage collector."""
    total = 0
    for ring in range(3000):
        nodes = [Node(i) for i in range(24)]
        for a, b in zip(nodes, nodes[1:] + nodes[:1]):
            a.join(b)
        total += nodes[ring % 24].next.number
    return total


def documents(count, seed):
    return [{"id": i, "name": f"name {i * seed}", "tags": ["tag" * (i % 7)] * (i % 5), "price": i / 8,
             "nested": {"text": f"{i:x}" * (i % 11), "flags": [True, None, i % 3]}} for i in range(count)]


def json_work():
    """Documents to text and back."""
    text = json.dumps(documents(9000, 7))
    back = json.loads(text)
    indented = json.dumps(back[:1200], indent=1, sort_keys=True)
    return zlib.crc32(text.encode()) ^ zlib.crc32(indented.encode()) ^ len(back)


class Record:
    """An object with a dict, for pickle."""

    def __init__(self, number):
        self.number, self.text, self.parts = number, f"record {number}", (number, [number] * (number % 5))


def pickle_work():
    """Documents and objects into bytes and back."""
    total = 0
    for seed in (3, 5, 7):
        things = documents(3000, seed), [Record(i) for i in range(4000)]
        packed = pickle.dumps(things, protocol=4)
        back, records = pickle.loads(packed)
        total += zlib.crc32(packed) + len(back) + records[-1].parts[0]
    return total


def strings():
    """Text cut up, joined, formatted and replaced; most of it short-lived, some kept."""
    total, kept = 0, []
    for turn in range(120):
        line = " ".join(f"word{i * turn}:{i % 13}" for i in range(900))
        words = line.split(" ")
        upper = [word.upper().replace("WORD", "w") for word in words]
        pairs = [word.partition(":") for word in upper]
        kept += ["-".join(each) for each in pairs[::3]]
        text = ""
        for word in words[:300]:
            text += word + ";"
        total += len(",".join(sorted(upper))) + len(text) + len(line.encode("utf-16"))
    return total + sum(map(len, kept))


def lists():
    """Lists grown one by one, cut, joined, sorted and dropped, of many lengths."""
    total, kept = 0, []
    for turn in range(250):
        grown = []
        for i in range(turn * 4):
            grown.append((i * 7919) % 1009)
        rows = [grown[i:i + 1 + i % 23] for i in range(0, len(grown), 2)]
        rows.sort(key=len)
        flat = [x for row in rows for x in row]
        flat += grown * 3
        del flat[::3]
        total += sum(flat) + len(rows)
        kept.append(rows[::9])
    return total + sum(map(len, kept))


def dicts():
    """Dictionaries of all sizes, filled, thinned out, merged and dropped; one that grows all along."""
    index, total = {}, 0
    for turn in range(240):
        small = [{"key": i, "turn": turn, str(i): None} for i in range(120)]
        for each in small:
            each.update({i: i for i in range(each["key"] % 17)})
        for i in range(500):
            index.setdefault((i * 31 + turn) % 5003, []).append(turn)
        merged = {f"{i}": each for i, each in enumerate(small)}
        for i in range(0, 120, 2):
            del merged[f"{i}"]
        total += sum(map(len, merged.values())) + len({*map(len, small)})
    return total + sum(map(len, index.values()))


def buffers():
    """Buffers of 16 bytes to 64 KiB, the last 50 alive: filled, extended, copied, read and compressed."""
    total, alive, kept = 0, collections.deque(maxlen=50), []
    for i in range(40000):
        buffer = bytearray(16 << (i * 7) % 13)
        buffer[:8] = i.to_bytes(8, "little")
        buffer += b"y" * (i % 700)
        alive.append(buffer)
        if i % 5 == 0:
            kept.append(bytes(alive[i % len(alive)][:i % 3000]))
        total += len(alive[0])
    stream = io.BytesIO()
    for each in kept[::8]:
        stream.write(each)
        total += len(zlib.compress(each, 1))
    return total + zlib.crc32(stream.getvalue())


def consume(jobs, results):
    while (seed := jobs.get()) is not None:
        text = json.dumps(documents(60, seed))
        packed = zlib.compress(text.encode(), 1)
        results.put((seed, packed, json.loads(text)))


def threads():
    """Three threads that take jobs from a queue and answer through another, which the main thread reads."""
    jobs, results, total = queue.Queue(16), queue.Queue(16), 0
    team = [threading.Thread(target=consume, args=(jobs, results)) for _ in range(3)]
    for each in team:
        each.start()
    for seed in range(1, 121):
        jobs.put(seed)
        if seed > 12:
            total += answer(results)
    total += sum(answer(results) for _ in range(12))
    for _ in team:
        jobs.put(None)
    for each in team:
        each.join()
    return total


def answer(results):
    """The sum of what came back is the same in whatever order it comes."""
    seed, packed, back = results.get()
    return seed * len(zlib.decompress(packed)) + len(back)


WORKLOADS = {"float": floats, "trees": trees, "cycles": cycles, "json": json_work, "pickle": pickle_work,
             "str": strings, "list": lists, "dict": dicts, "buf": buffers, "threads": threads}


# ---- Bursts --------------------------------------------------------------------------------------


def memory_kib(field):
    """VmRSS, VmHWM and the like."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1])
    raise ValueError(f"/proc/self/status has no {field}")


def rested():
    """Resident now, and after a rest."""
    gc.collect()
    at_once = memory_kib("VmRSS")
    time.sleep(REST_SECONDS)
    return {"at_once_kib": at_once, "rested_kib": memory_kib("VmRSS")}


def bursts():
    """What is left of a million strings of 50 to 260 bytes, one in 500 of which is kept, then none."""
    made = [str(i) * (1 + i % 35) for i in range(BURST_STRINGS)]
    result = {"before_drop_kib": memory_kib("VmRSS")}
    kept = made[::BURST_KEEPS_ONE_IN]
    del made
    result["kept_some"] = rested()
    result["checksum"] = sum(map(len, kept))
    del kept
    result["kept_none"] = rested()
    return result


# ---- Main ----------------------------------------------------------------------------------------


def timed(work):
    """One pass: what it took, and its checksum."""
    gc.collect()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    begin = time.process_time()
    checksum = work()
    seconds = time.process_time() - begin
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, checksum


def run(name, passes):
    results = [timed(WORKLOADS[name]) for _ in range(passes)]
    seconds, faults, checksums = zip(*results)
    if len(set(checksums)) != 1:
        raise ValueError(f"{name}: passes gave different results: {sorted(set(checksums))}")
    return {"checksum": checksums[0], "cpu_seconds": seconds, "minor_faults": faults}


def option(words, name, default):
    """The word after this option; both are taken out."""
    if name not in words:
        return default
    at = words.index(name)
    value = words[at + 1]
    del words[at:at + 2]
    return value


def main():
    words = sys.argv[1:]
    if words == ["--list"]:
        print("\n".join(f"{name}\t{work.__doc__}" for name, work in WORKLOADS.items()))
        return
    passes = int(option(words, "--passes", "5"))
    module = option(words, "--import", None)
    installed = getattr(importlib.import_module(module), "installed", None) if module else None
    (name,) = words
    result = bursts() if name == "bursts" else run(name, passes)
    # With an allocator other than its own, CPython counts no blocks.
    print(json.dumps({"workload": name, **result, "peak_kib": memory_kib("VmHWM"),
                      "counted_blocks": sys.getallocatedblocks(), "installed": installed}))


if __name__ == "__main__":
    main()
