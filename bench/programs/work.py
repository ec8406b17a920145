# SPDX-License-Identifier: MIT
"""Work for python3: objects of all kinds made, kept for a while and dropped. Prints a checksum."""

import json
import sys
import zlib


class Node:
    """A node of a search tree, with a dict like most objects have."""

    def __init__(self, key):
        self.key, self.left, self.right, self.values = key, None, None, [key]


def insert(root, key):
    while root.key != key:
        side = "left" if key < root.key else "right"
        if getattr(root, side) is None:
            setattr(root, side, Node(key))
        root = getattr(root, side)
    root.values.append(key)


def count(root):
    total, stack = 0, [root]
    while stack:
        node = stack.pop()
        total += len(node.values)
        stack += [child for child in (node.left, node.right) if child]
    return total


def tree(seed):
    root = Node(seed)
    for i in range(9000):
        insert(root, (i * 7919 + seed) % 10007)
    return count(root)


def words(seed):
    index = {}
    for i in range(40000):
        word = f"w{(i * 31 + seed) % 5003:x}" + "x" * (i % 23)
        index.setdefault(word, []).append(i)
    return sum(len(places) for word, places in sorted(index.items()) if word.endswith("x"))


def documents(seed):
    rows = [{"id": i, "name": f"name {i * seed}", "tags": ["a" * (i % 9)] * (i % 5), "price": i / 8}
            for i in range(6000)]
    text = json.dumps(rows)
    back = json.loads(text)
    return zlib.crc32(text.encode()) ^ len(back)


def buffers(seed):
    kept = [bytearray(16 << (i + seed) % 12) for i in range(3000)]
    for i, each in enumerate(kept):
        each.extend(b"y" * (i % 700))
    return sum(map(len, kept[::2]))


def main():
    total = 0
    for seed in range(1, int(sys.argv[1]) + 1):
        for work in (tree, words, documents, buffers):
            total = (total * 31 + work(seed)) % (1 << 61)
    print(total)


main()
