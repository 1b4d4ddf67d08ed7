# SPDX-License-Identifier: GPL-2.0

"""Hooks, which run before and after updates, as services of systemd; and inhibitors of systemd-logind
and of luoctl, which keep updates from starting."""

import json
import os
import subprocess

from results import run, until

ETC = "/etc/luod"


def put(stage, name, script):
    """Adds a hook."""
    os.makedirs(f"{ETC}/{stage}.d", exist_ok=True)
    path = f"{ETC}/{stage}.d/{name}"
    with open(path, "w") as file:
        file.write(f"#!/bin/sh\n{script}\n")
    os.chmod(path, 0o755)
    return path


def aborted(tests, name, says, status=7):
    """An update is aborted, or does not start, for a reason."""
    found, said = run("luoctl", "kexec", "--yes")
    good = found == status and says in said
    tests.check(f"{name} keeps an update from starting", good, f"{status} and {says!r} expected: {found} {said}")


def failing_hook(tests):
    """A hook before the update fails: the hooks after an abort are told."""
    put("abort", "10-told", "cat > /run/luo-test-abort.json")
    hook = put("pre", "10-full", "cat > /run/luo-test-pre.json; echo the disk is full; exit 3")
    aborted(tests, "a hook", f"the hook {hook} failed (exit status: 3): the disk is full")
    until(lambda: os.path.exists("/run/luo-test-abort.json") and os.path.getsize("/run/luo-test-abort.json"))
    told = []
    for stage in ["pre", "abort"]:
        with open(f"/run/luo-test-{stage}.json") as file:
            told.append(json.load(file))
    before, after = told
    good = before["stage"] == "pre" and "python" in [s["session"] for s in before["sessions"]]
    tests.check("a hook before an update is told the sessions", good, before)
    good = after["stage"] == "abort" and after["report"]["outcome"] == "aborted"
    tests.check("a hook after an aborted update is told the report", good, after)
    os.remove(hook)
    os.remove(f"{ETC}/abort.d/10-told")


def inhibitors(tests):
    """Inhibitors of the real systemd-logind and of luoctl keep updates from starting."""
    for name, command, says, status in [
        ("a block lock of systemd-logind",
         ["systemd-inhibit", "--what=shutdown", "--mode=block", "--who=backup", "--why=tape 1 of 2"],
         "inhibits the shutdown: tape 1 of 2", 7),
        ("luoctl inhibit", ["luoctl", "inhibit", "tape 2 of 2", "--"], "inhibits updates: tape 2 of 2", 1),
    ]:
        flag = "/run/luo-test-inhibited"
        with subprocess.Popen([*command, "sh", "-c", f"touch {flag}; exec sleep infinity"]) as process:
            until(lambda: os.path.exists(flag))
            aborted(tests, name, says, status)
            process.terminate()
        os.remove(flag)


def refusals(tests):
    os.makedirs(ETC, exist_ok=True)
    failing_hook(tests)
    inhibitors(tests)
