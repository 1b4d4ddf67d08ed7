# SPDX-License-Identifier: GPL-2.0

"""A process that does not know of live updates: counts in memory, with a child that tells it when, and
writes what it finds to a file."""

import hashlib
import os
import sys
import time

LOG = sys.argv[1]


def tick(pipe):
    """The child."""
    while True:
        os.write(pipe, b"x")
        time.sleep(0.1)


def main():
    reader, writer = os.pipe()
    if os.fork() == 0:
        tick(writer)
    os.close(writer)
    memory = os.urandom(8 << 20)
    digest = hashlib.sha256(memory).hexdigest()
    with open(LOG, "a", buffering=1) as log:
        print(f"starts with {digest}", file=log)
        count = 0
        while os.read(reader, 1):
            count += 1
            good = count % 10 or hashlib.sha256(memory).hexdigest() == digest
            print(f"count {count} {'good' if good else 'BAD'}", file=log)


main()
