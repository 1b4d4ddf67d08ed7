# SPDX-License-Identifier: GPL-2.0

"""The demonstration of `make demo`: an update of the kernel under memcached.

Runs once with each kernel, with the commands that an operator would use.
"""

import json
import subprocess
import sys
import time

import cache

CMDLINE = "/proc/cmdline"


def type_in(*command):
    """Prints a command and its output."""
    print("$", *(f"'{word}'" if " " in word else word for word in command), flush=True)
    # Through a pipe, since luoctl draws a bar on
    # a terminal.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        print(line, end="", flush=True)
    status = process.wait()
    if status:
        print(f"(exit code {status})", flush=True)
    return status


def size():
    with open(CMDLINE) as file:
        words = file.read().split()
    return next(int(word.split("=")[1]) for word in words if word.startswith("luo_demo_mb="))


def before():
    megabytes = size()
    cache.progress("Debian is up, and memcached runs on two memfds")
    cache.fill(megabytes)
    cache.progress(f"memcached has {megabytes} MiB")
    subprocess.run(["systemctl", "start", "luo-load.service"], check=True)
    cache.progress("the load generator runs; now the kernel is loaded, and the update is tried")
    time.sleep(2)
    with open(CMDLINE) as file:
        cmdline = file.read().strip() + " luo_nboot=1"
    type_in("luoctl", "status")
    type_in("luoctl", "load", "/boot/next", "--cmdline", cmdline)
    type_in("luoctl", "check")
    type_in("luoctl", "kexec", "--dry-run", "--yes")
    time.sleep(2)
    type_in("luoctl", "list")
    cache.progress("the update begins")
    # It ends with luod, or is killed.
    if type_in("luoctl", "kexec", "--yes") <= 0:
        time.sleep(120)
    print("the kernel is still the same", flush=True)
    return 1


def after():
    cache.progress("Debian is up again")
    cache.Memcached(300)
    cache.progress("memcached answers again")
    items, there, wrong = cache.verify()
    time.sleep(1)
    type_in("luoctl", "status")
    type_in("luoctl", "report")
    report = subprocess.run(["luoctl", "--json", "report"], stdout=subprocess.PIPE, check=True)
    gap = cache.Gap(1, json.loads(report.stdout))
    gap.show()
    good = there == items and not wrong and not gap.total("misses") and not gap.total("wrong")
    print(f"@fact items {items}")
    print(f"@fact found {there}")
    print(f"@fact wrong {wrong}")
    print(f"@fact gap {gap.seconds:.3f}")
    print(f"@fact verified {'yes' if good else 'no'}", flush=True)
    return 0 if good else 1


def main():
    try:
        status = after() if cache.which_boot() else before()
    except Exception as error:
        print(repr(error))
        status = 1
    if status:
        for unit in "luod", "luo-memcached", "luo-load":
            subprocess.run(["systemctl", "status", "--no-pager", unit])
    print(f"luo-guest: exit {status}", flush=True)
    subprocess.run(["systemctl", "poweroff", "--force", "--force"])


sys.exit(main())
