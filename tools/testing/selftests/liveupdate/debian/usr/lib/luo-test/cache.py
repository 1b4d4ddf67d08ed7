# SPDX-License-Identifier: GPL-2.0

"""The items of memcached, and the load generator.

    cache.py load    requests one item after the other, until it is stopped
"""

import hashlib
import json
import os
import random
import socket
import sys
import time

SOCKET = "/run/luo-cache/socket"
ITEM = 8192
MIB = 1 << 20
# The number of items. The load generator waits for this file.
FILLED = "/var/lib/luo-cache-items"
SLOT = 0.1


def key(number):
    return b"item-%06d" % number


def value(number):
    """The value of a key."""
    name = key(number)
    return name + hashlib.shake_128(name).digest(ITEM - len(name))


def progress(text):
    print("@progress", text, flush=True)


class Memcached:
    def __init__(self, patience=60):
        end = time.monotonic() + patience
        while True:
            try:
                self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.socket.connect(SOCKET)
                break
            except OSError:
                self.socket.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.005)
        self.stream = self.socket.makefile("rb")

    def line(self):
        line = self.stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("memcached has closed the connection")
        return line[:-2]

    def set(self, name, data):
        self.socket.sendall(b"set %s 0 0 %d\r\n%s\r\n" % (name, len(data), data))
        answer = self.line()
        if answer != b"STORED":
            raise ValueError(f"memcached does not store: {answer}")

    def get(self, name):
        """The value of a key, or None."""
        self.socket.sendall(b"get %s\r\n" % name)
        words = self.line().split()
        if words == [b"END"]:
            return None
        data = self.stream.read(int(words[3]) + 2)[:-2]
        if self.line() != b"END":
            raise ConnectionError("memcached answers with something else")
        return data


def each(items, what):
    """Stores all items, with progress messages."""
    said = time.monotonic()
    for number in range(items):
        yield number
        if time.monotonic() - said > 2:
            said = time.monotonic()
            progress(f"{what} {number * ITEM // MIB} of {items * ITEM // MIB} MiB")


def fill(megabytes):
    items = megabytes * MIB // ITEM
    memcached = Memcached()
    for number in each(items, "filled"):
        memcached.set(key(number), value(number))
    with open(FILLED, "w") as file:
        file.write(str(items))


def filled():
    with open(FILLED) as file:
        return int(file.read())


def verify():
    """The numbers of expected items, of existing items, and of wrong items."""
    items = filled()
    there = wrong = 0
    memcached = Memcached()
    for number in each(items, "verified"):
        found = memcached.get(key(number))
        there += found is not None
        wrong += found is not None and found != value(number)
    return items, there, wrong


def log(boot):
    return f"/var/lib/luo-cache-load.{boot}"


def load(boot):
    """Requests random items, and logs the results for each tenth of a second."""
    items = filled()
    with open(log(boot), "a") as file:
        memcached = slot = None
        while True:
            try:
                if memcached is None:
                    memcached = Memcached(3600)
                number = random.randrange(items)
                found = memcached.get(key(number))
            except OSError:
                memcached = None
                continue
            now = time.monotonic()
            if slot is None or now // SLOT != slot["first"] // SLOT:
                if slot:
                    file.write(json.dumps(slot) + "\n")
                    file.flush()
                slot = {"first": now, "last": now, "hits": 0, "misses": 0, "wrong": 0}
            slot["last"] = now
            if found is None:
                slot["misses"] += 1
            elif found.startswith(key(number)) and len(found) == ITEM:
                slot["hits"] += 1
            else:
                slot["wrong"] += 1


def slots(boot):
    """The log of the load generator."""
    with open(log(boot)) as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


class Gap:
    """The time without an answer: from the last one of a kernel to the first one of the next.

    luod's report of the update relates the clocks of the two kernels.
    """

    def __init__(self, boot, report):
        marks = {mark["name"]: mark for mark in report["marks"]}
        start = marks["requested"]["stamp"]["monotonic_us"]
        luod = marks["luod"]["stamp"]["monotonic_us"] - marks["luod"]["offset_us"]
        self.before = [self.moved(slot, start) for slot in slots(boot - 1)]
        self.after = [self.moved(slot, luod) for slot in slots(boot)]
        self.last = self.before[-1]["last"]
        self.first = self.after[0]["first"]
        self.seconds = self.first - self.last

    @staticmethod
    def moved(slot, start):
        """The same, in seconds since the update was requested."""
        start /= 1e6
        return {**slot, "first": slot["first"] - start, "last": slot["last"] - start}

    def total(self, what):
        return sum(slot[what] for slot in self.before + self.after)

    def show(self, around=8):
        """Requests per 100 ms."""
        def rate(slots):
            counts = sorted(slot["hits"] for slot in slots)
            return counts[len(counts) // 2]

        print(f"requests answered in 100 ms: {rate(self.before)} before the update, "
              f"{rate(self.after)} after it (median)")
        for slot in self.before[-around:]:
            print(f"  {slot['first']:9.3f} s {slot['hits']:6}")
        print(f"  no answer from {self.last:.3f} s to {self.first:.3f} s")
        for slot in self.after[:around]:
            print(f"  {slot['first']:9.3f} s {slot['hits']:6}")
        print(f"hits: {self.total('hits')}, misses: {self.total('misses')}, "
              f"wrong: {self.total('wrong')}")
        print(f"gap: {self.seconds:.3f} s", flush=True)


def which_boot():
    with open("/proc/cmdline") as file:
        words = file.read().split()
    return sum(int(word.split("=")[1]) for word in words if word.startswith("luo_nboot="))


if __name__ == "__main__":
    if sys.argv[1:] != ["load"]:
        sys.exit(__doc__)
    os.nice(5)
    load(which_boot())
