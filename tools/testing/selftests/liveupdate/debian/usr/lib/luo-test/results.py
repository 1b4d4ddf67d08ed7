# SPDX-License-Identifier: GPL-2.0

"""What the tests of several consecutive kernels share: commands and results."""

import json
import os
import re
import subprocess
import time

# Seconds after which an event is considered missing: a hundred times the usual time.
PATIENCE = 300


def run(*command):
    """Runs a command; returns its exit status and its output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def until(so):
    """Waits until a condition is true, up to a limit; returns whether it is."""
    end = time.monotonic() + PATIENCE
    while not so() and time.monotonic() < end:
        time.sleep(0.1)
    return so()


class Boot:
    """The command line of this kernel, and the number of updates before it."""

    def __init__(self):
        with open("/proc/cmdline") as file:
            self.cmdline = file.read().strip()
        self.number = self.parameter("luo_nboot", 0)

    def parameter(self, name, default):
        found = re.search(rf"\b{name}=(\d+)", self.cmdline)
        return int(found[1]) if found else default

    def next(self):
        """The command line of the next kernel."""
        return re.sub(r" luo_nboot=\d+", "", self.cmdline) + f" luo_nboot={self.number + 1}"


class Results:
    """Results of all kernels. They are kept in a file during an update."""

    def __init__(self, prefix, boot):
        self.prefix, self.boot = prefix, boot
        self.path = f"/var/lib/luo-{prefix}.json"
        self.results = []
        # Data of a test for the next kernel.
        self.memory = {}
        if boot.number:
            with open(self.path) as file:
                self.results, self.memory = json.load(file)

    def full(self, name):
        when = f"update {self.boot.number}" if self.boot.number else "before"
        return f"{self.prefix}.{when}: {name}"

    def check(self, name, good, why=""):
        """Adds a result."""
        name = self.full(name)
        self.results.append([name, bool(good), "" if good else str(why)])
        print("# ok" if good else "# failed", name, flush=True)
        return good

    def skip(self, name, why):
        """Adds a test that cannot run here."""
        self.results.append([f"{self.full(name)} # SKIP {why}", True, ""])

    def save(self):
        with open(self.path, "w") as file:
            json.dump([self.results, self.memory], file)
            os.fsync(file.fileno())

    def print(self):
        """Prints all results."""
        print("KTAP version 1")
        print(f"1..{len(self.results)}")
        for number, (name, good, why) in enumerate(self.results, 1):
            for line in why.splitlines():
                print("#", line)
            print("ok" if good else "not ok", number, name)

    def end(self):
        """Prints all results, and powers the machine off."""
        self.print()
        print("luo-guest: exit 0", flush=True)
        run("systemctl", "poweroff", "--force", "--force")
