# SPDX-License-Identifier: GPL-2.0

"""Services that start before the rest of the machine and stop after it, or with the rest, for
comparison."""

import os

from results import run

# Where units are, and where those of a test replace them, also in the next kernel.
UNITS = ["/etc/systemd/system/", "/usr/lib/systemd/system/"]
SLOW_UNITS = "/etc/systemd/system.control/"
# The settings without which a unit waits for the rest of the machine, as most services do.
EARLY = {
    "luod.socket": ["DefaultDependencies=no", "Before=sockets.target shutdown.target"],
    "luod.service": ["DefaultDependencies=no", "Before=basic.target shutdown.target"],
    "luo-qemu@.service": ["DefaultDependencies=no", "Slice=system.slice"],
    "luo-memcached.service": ["DefaultDependencies=no"],
}


def slow(wanted):
    """Makes the services start and stop with all others, or before and after them."""
    os.makedirs(SLOW_UNITS, exist_ok=True)
    for unit, early in EARLY.items():
        for source in [where + unit for where in UNITS if os.path.exists(where + unit)]:
            if wanted:
                with open(source) as file:
                    lines = [line for line in file.read().splitlines() if line not in early]
                with open(SLOW_UNITS + unit, "w") as file:
                    file.write("\n".join(lines) + "\n")
            elif os.path.exists(SLOW_UNITS + unit):
                os.remove(SLOW_UNITS + unit)
    run("systemctl", "daemon-reload")


def check_lane(tests, unit):
    """Checks that luod and a unit wait for the rest of the machine only if slow() was called for it."""
    wanted = os.path.exists(SLOW_UNITS + "luod.service")
    for name in ["luod.service", unit]:
        status, after = run("systemctl", "show", "--property=After", "--value", name)
        waits = not {"sysinit.target", "basic.target"}.isdisjoint(after.split())
        what = "waits for" if wanted else "does not wait for"
        tests.check(f"{name} {what} the rest of the machine", status == 0 and waits == wanted, after)


def show_chain(unit):
    """Prints what a unit has waited for while the machine started, and what it and luod have done when."""
    status, text = run("systemd-analyze", "critical-chain", "--no-pager", unit)
    for line in text.splitlines() if status == 0 else []:
        print("#", line, flush=True)
    log = ["journalctl", "-b", "-o", "short-monotonic", "-n", "40", "--no-pager"]
    for line in run(*log, "-u", "luod.service", "-u", unit)[1].splitlines():
        print("#", line, flush=True)
