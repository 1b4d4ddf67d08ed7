# SPDX-License-Identifier: GPL-2.0

"""The hook that keeps peers from resetting connections, with Debian's nft.

When run as a program, it prints what happens to a packet to the port that is held.
"""

import os
import socket

from hooks import ETC, aborted, put, until
from results import run

HOOK = "/usr/lib/luod/hooks/hold-connections"
CONF = f"{ETC}/hold-connections.conf"
SERVICE = "luod-hold-connections.service"
# Nothing listens there.
PORT = 11999
# The output of the hook that runs after hold-connections.
SEEN = "/run/luo-test-held"


def look():
    """Returns what happens to a packet to the port: it is answered with a reset, or dropped."""
    with socket.socket() as probe:
        probe.settimeout(2)
        try:
            probe.connect(("127.0.0.1", PORT))
        except ConnectionRefusedError:
            return "reset"
        except TimeoutError:
            return "dropped"
    return "connected"


def seen():
    """Returns the output of the hook that runs after hold-connections, when it has run."""
    if not until(lambda: os.path.exists(SEEN) and os.path.getsize(SEEN)):
        return "nothing"
    with open(SEEN) as file:
        return file.read().strip()


def released(tests, when):
    """Packets pass again."""
    until(lambda: look() == "reset")
    rules = run("nft", "list", "ruleset")[1]
    tests.check(f"connections are released {when}", look() == "reset" and "luod_hold" not in rules, rules)


def hold(tests):
    """Holds connections during the next update, after an update that is aborted."""
    with open(CONF, "w") as file:
        file.write(f"tcp {PORT}\n")
    for stage in ["pre", "abort", "post"]:
        os.makedirs(f"{ETC}/{stage}.d", exist_ok=True)
        os.symlink(HOOK, f"{ETC}/{stage}.d/50-hold-connections")
    tests.check("a packet without an owner is answered", look() == "reset", look())
    script = f"/usr/bin/python3 {os.path.abspath(__file__)} > {SEEN}"
    later = put("pre", "60-look", f"{script}; echo no; exit 3")
    aborted(tests, "a hook after the one that holds connections", f"the hook {later} failed (exit status: 3): no")
    tests.check("connections are held before an update", seen() == "dropped", seen())
    released(tests, "after an update was aborted")
    os.remove(later)
    os.remove(SEEN)
    # These hooks run again if luod is killed while they run, as one of the tests may do.
    put("post", "40-look", f"[ -s {SEEN} ] || {script}")
    status, said = run("systemctl", "enable", SERVICE)
    tests.check(f"{SERVICE} is enabled", status == 0, said)


def held(tests):
    """The same in the next kernel: the service has held them until all sessions were finished."""
    if os.path.exists(CONF):
        log = run("journalctl", "-b", "--no-pager", "-u", SERVICE)[1]
        tests.check("connections are held after an update", seen() == "dropped", log)
        released(tests, "when all sessions are finished")


if __name__ == "__main__":
    print(look())
