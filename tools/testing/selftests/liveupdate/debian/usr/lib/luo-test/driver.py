# SPDX-License-Identifier: GPL-2.0

"""Drives the tests of live updates under systemd.

Runs once with each kernel. Which one it is stands on the command line, as luo_nboot=N. What was
found so far is kept on the disk; the last kernel prints it.
"""

import ctypes
import json
import os
import re
import socket
import subprocess
import time

import cache
import connections
import hooks
import uki
from lanes import check_lane, show_chain, slow
from results import PATIENCE, Boot, Results, run, until

KERNEL = "/boot/next"
# The kernel KERNEL as an installed one, and as a unified kernel image.
VERSION = "0-luo"
UKI = "/boot/EFI/Linux/luo.efi"
LOG_MARK = "luo-test: this is the log of boot "
CLIENTS = ["python", "counter", "memcached"]
KEXEC_FILE_LOAD = 320
KEXEC_FILE_NO_INITRAMFS = 4

libc = ctypes.CDLL(None, use_errno=True)


def load(cmdline):
    """Loads the next kernel by kexec_file_load()."""
    text = cmdline.encode() + b"\0"
    kernel = os.open(KERNEL, os.O_RDONLY | os.O_CLOEXEC)
    flags = KEXEC_FILE_NO_INITRAMFS
    args = (kernel, -1, ctypes.c_ulong(len(text)), text, ctypes.c_ulong(flags))
    if libc.syscall(KEXEC_FILE_LOAD, *args) != 0:
        raise OSError(ctypes.get_errno(), "kexec_file_load")
    os.close(kernel)


def show(unit, what):
    return run("systemctl", "show", "-P", what, unit)[1].strip()


def start(tests, unit, log):
    """Starts a unit."""
    status, said = run("systemctl", "start", unit)
    if status:
        said += run("journalctl", "-n", "20", "--no-pager", "-u", unit)[1]
        if os.path.exists(log):
            said += open(log).read()
    tests.check(f"{unit} starts", status == 0, said)


def witness(tests):
    """systemd's own test: the store of the previous kernel was handed over. Checking empties it."""
    if tests.boot.number:
        unit = f"luo-witness@{tests.boot.number - 1}.service"
        count = show(unit, "NFileDescriptorStore")
        tests.check(f"{unit} has its descriptors", count == "3", f"{count}, and should be 3")
        start(tests, unit, f"/run/luo-test-luo-witness-{tests.boot.number - 1}.log")
    unit = f"luo-witness@{tests.boot.number}.service"
    start(tests, unit, f"/run/luo-test-luo-witness-{tests.boot.number}.log")
    count = show(unit, "NFileDescriptorStore")
    tests.check(f"{unit} has stored", count == "3", f"{count} descriptors, and should be 3")
    counted = run("busctl", "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
                  "org.freedesktop.systemd1.Manager", "KExecCount")[1].split()[-1:]
    tests.check("systemd counts the updates", counted == [str(tests.boot.number)], str(counted))


def session_of_unit(tests):
    """A service with LUOSession=, with the client library."""
    start(tests, "luo-cache.service", "/run/luo-test-cache.log")
    try:
        said = open("/run/luo-test-cache.log").read()
    except OSError as error:
        said = str(error)
    if tests.boot.number:
        expected = f"verified generation {tests.boot.number}"
    else:
        expected = "a new session"
    tests.check("the service with LUOSession= has its data", expected in said, said)


class Operator:
    """A connection to luod."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.socket.connect("/run/luod/liveupdate.sock")
        self.lines = self.socket.makefile("r")

    def send(self, cmd, **fields):
        self.socket.sendall((json.dumps({"cmd": cmd, **fields}) + "\n").encode())

    def receive(self, *events):
        """The next of these events, or of ERROR; None if the connection ends."""
        for line in self.lines:
            event = json.loads(line)
            if event["event"] in (*events, "ERROR"):
                return event
        return None


def wait_for(path, text):
    """The contents of a log when it contains `text`, or after a limit."""

    def said():
        return open(path).read() if os.path.exists(path) else ""

    until(lambda: text in said())
    return said()


def luod_and_clients(tests):
    """luod as a service, and clients in two languages."""
    start(tests, "luod.socket", "")
    start(tests, "luod.service", "")
    start(tests, "luo-python.service", "")
    start(tests, "luo-counter.service", "")
    for name, first, later in [
        ("python", "new", f"verified {tests.boot.number}"),
        ("counter", "joined at 0", "restored at"),
    ]:
        expected = later if tests.boot.number else first
        said = wait_for(f"/run/luo-test-{name}.log", expected)
        tests.check(f"the client {name} has its data", expected in said, said)
    if tests.boot.number:
        operator = Operator()
        operator.send("REPORT")
        report = operator.receive("REPORT")
        good = report and report.get("outcome") == "updated"
        tests.check("luod reports the update", good, json.dumps(report))
        print("#", json.dumps(report), flush=True)
        said = run("luoctl", "report")[1]
        for line in said.splitlines():
            print("#", line, flush=True)
        bad = [s for s in report["sessions"] if s["session"] not in CLIENTS]
        expected = BAD if UPDATES[tests.boot.number - 1] is plain_without_some else {}
        good = {s["session"]: s.get("error") for s in bad if s["state"] == "dropped"} == expected
        tests.check("luod reports the dropped sessions", good, said)
        audit_trail(tests)
    else:
        said = run("systemd-analyze", "security", "--no-pager", "luod.service")[1]
        print("#", said.strip().splitlines()[-1], flush=True)
        units = ["luod.socket", "luod.service", "luod-handover.service"]
        status, said = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units)
        tests.check("systemd-analyze verifies the units", status == 0 and "luod" not in said, said)
        in_a_scope(tests)
    # A crash of luod loses no data: systemd keeps its sessions, and starts it
    # again.
    run("systemctl", "kill", "--signal=KILL", "luod.service")
    active = "luod starts again after it was killed"
    until(lambda: show("luod.service", "NRestarts") != "0"
          and show("luod.service", "SubState") == "running")
    tests.check(active, show("luod.service", "SubState") == "running", show("luod.service", "SubState"))


def audit_trail(tests):
    """What clients have done is in the journal, with fields to select by."""
    finished = "MESSAGE_ID=6f982cebfb4441a3a18d17086d81a697"
    said = []

    def logged():
        run("journalctl", "--sync")
        said.append(run("journalctl", "-b", "-o", "json", finished, "SESSION=python")[1])
        entries = [json.loads(line) for line in said[-1].splitlines() if line.startswith("{")]
        return any(e.get("UID") == "0" and e.get("UPDATE") for e in entries)

    until(logged)
    tests.check("the journal says who finished a session", logged(), said[-1])


def mark_log(tests):
    """Logs a line that luoctl finds in the next kernel."""
    with open("/dev/kmsg", "w") as file:
        file.write(f"<1>{LOG_MARK}{tests.boot.number}\n")


def log_of_previous(tests):
    """luoctl shows the log of the previous kernel until its end."""
    if not tests.boot.number:
        return
    status, said = run("luoctl", "report", "--log", "--lines", "100000")
    # The last messages of the kernel come after those of systemd.
    start = said.rfind(f"{LOG_MARK}{tests.boot.number - 1}\n")
    good = status == 0 and start >= 0 and f"{LOG_MARK}{tests.boot.number}" not in said
    tests.check("luoctl shows the log of the previous kernel", good, said[-2000:])
    said, _, events = run("luoctl", "report", "--log")[1].partition("Events:\n")
    last = [line for line in said.splitlines() if not line.startswith("luoctl: ")]
    good = "Starting new kernel" in said and len(last) == 40
    tests.check("the log ends with the jump", good, said)
    print("#", last[-1], flush=True)
    # A command line that was given to luoctl, or not by it, does not say which events there were.
    if UPDATES[tests.boot.number - 1] is by_entry:
        last = events.splitlines()[-1:]
        good = last and re.search(r" luo_serialize: sessions=.* result=0x0 \(0\) ", last[0])
        tests.check("luoctl shows the events of the previous kernel", good, said + events)
        print("#", *last, flush=True)
    else:
        tests.check("luoctl does not guess what the events are", "it has no luoctl.events=" in said, said + events)


def in_a_scope(tests):
    """Virtual machines run in scopes, which must not be stopped before luod has asked them."""
    subprocess.Popen(["systemd-run", "--scope", "--unit=luo-scoped", "sleep", "infinity"])
    until(lambda: show("luo-scoped.scope", "ActiveState") == "active")
    before = show("luo-scoped.scope", "Before")
    good = "luod-handover.service" in before.split()
    tests.check("a scope is stopped after luod-handover.service", good, before)


def boot_jobs(tests):
    """The boot of the first kernel never completes, and it is replaced anyway."""
    if tests.boot.number:
        return
    until(lambda: show("luo-pending.service", "ActiveState") == "activating"
          and show("luod-handover.service", "ActiveState") == "active")
    pending = show("luo-pending.service", "ActiveState"), show("multi-user.target", "ActiveState")
    tests.check("a boot job is never done", pending == ("activating", "inactive"), str(pending))
    state = show("luod-handover.service", "ActiveState")
    tests.check("luod-handover.service waits for no boot job", state == "active", state)


def memcached(tests):
    """A data set that is in use during the update."""
    start(tests, "luo-memcached.service", "/run/luo-test-memcached.log")
    if not tests.boot.number:
        cache.fill(8)
    start(tests, "luo-load.service", "/run/luo-test-load.log")
    items, there, wrong = cache.verify()
    found = f"{there} of {items}, {wrong} of them wrong"
    tests.check("memcached has its data set", items == there and not wrong, found)
    time.sleep(0.5)
    if not tests.boot.number:
        return
    status, said = run("luoctl", "--json", "report")
    tests.check("luoctl reports the update", status == 0, said)
    away_for(tests, json.loads(said))
    gap = cache.Gap(tests.boot.number, json.loads(said))
    good = gap.total("hits") and not gap.total("misses") and not gap.total("wrong")
    tests.check("users of memcached got what it has", good, str(gap.before + gap.after))
    tests.check("the gap is known", 0 < gap.seconds < 600, str(gap.seconds))
    print(f"# memcached: its user got no answer for {gap.seconds:.3f} s", flush=True)


def away_for(tests, report):
    """Prints for how long memcached was away: from its READY until it had its data again. In one of the
    updates, it waits for the rest of the machine."""
    gaps = [s["blackout_us"] / 1e6 for s in report["sessions"] if s["session"] == "memcached"]
    tests.check("memcached's gap is known", len(gaps) == 1, str(report["sessions"]))
    print(f"# memcached: away for {gaps[0]:.3f} s", flush=True)
    check_lane(tests, "luo-memcached.service")
    show_chain("luo-memcached.service")
    if is_slow(tests.boot.number - 1):
        tests.memory["slow"] = gaps[0]
    elif "slow" in tests.memory:
        print(f"# memcached: {gaps[0] / tests.memory['slow']:.2f} of the time for which it was away "
              "when it waited for the rest of the machine", flush=True)


def is_slow(number):
    """Whether the services wait for the rest of the machine in this update: the first of two by
    luoctl."""
    return UPDATES[number] is by_luoctl


def states():
    """The states of the sessions for the next update."""
    operator = Operator()
    operator.send("LIST")
    sessions = operator.receive("LIST").get("sessions", [])
    return {s["session"]: s["state"] for s in sessions if s["direction"] == "outgoing"}


def wait_until(**wanted):
    """Waits for some sessions; returns the states of all sessions."""
    there = {}

    def so():
        there.clear()
        there.update(states())
        return wanted.items() <= there.items()

    until(so)
    return there


def everybody(state):
    return {name: state for name in CLIENTS}


def luoctl(tests, *args, status=0, says=()):
    """Runs luoctl, and checks its result."""
    found, said = run("luoctl", *args)
    good = found == status and all(text in said for text in says)
    tests.check(f"luoctl {' '.join(args).split(' --cmdline')[0]}", good, f"{status} expected, not {found}: {said}")


def bad_client(tests, how):
    start(tests, f"luo-bad@{how}.service", f"/run/luo-test-bad-{how}.log")
    wait_until(**{f"bad-{how}": "subscribed"})


def goes_on(tests, why, how):
    """An update was aborted: removes the client that caused it."""
    run("systemctl", "kill", "--signal=KILL", f"luo-bad@{how}.service")
    there = wait_until(**everybody("subscribed"))
    good = everybody("subscribed").items() <= there.items()
    tests.check(f"all clients continue after {why}", good, str(there))
    luoctl(tests, "report", says=["aborted"])


def what_is_not_kept(tests):
    """systemd would lose sessions: luod asks it before the jump, and aborts."""
    directory = "/run/systemd/system/luod.service.d"
    os.makedirs(directory)
    for setting, says in [
        ("FileDescriptorStorePreserve=no", "set FileDescriptorStorePreserve=yes"),
        ("FileDescriptorStoreMax=2", "raise FileDescriptorStoreMax="),
    ]:
        with open(f"{directory}/keeps-less.conf", "w") as file:
            file.write(f"[Service]\n{setting}\n")
        run("systemctl", "daemon-reload")
        luoctl(tests, "kexec", "--yes", status=7, says=["update", "aborted", says])
        there = wait_until(**everybody("subscribed"))
        good = everybody("subscribed").items() <= there.items()
        tests.check(f"all clients continue with {setting}", good, str(there))
    os.remove(f"{directory}/keeps-less.conf")
    run("systemctl", "daemon-reload")


def operator(tests):
    """Commands of an operator, except successful updates."""
    # The kernel is not compressed and has no checksum.
    luoctl(tests, "check", status=6, says=["likely   all together"])
    luoctl(tests, "status", says=["phase:      idle", "image:      loaded"])
    luoctl(tests, "list", says=[name + " " for name in CLIENTS] + ["subscribed"])
    # A stop for another reason than kexec.target has no effect.
    said = run("systemctl", "restart", "luod-handover.service")[1]
    state = show("luod-handover.service", "ActiveState"), show("luod-handover.service", "Result")
    tests.check("luod-handover.service restarts", state == ("active", "success"), said + str(state))
    luoctl(tests, "--json", "report", says=['"outcome":"updated"', '"name":"finished"'])
    bad_client(tests, "refuse")
    luoctl(tests, "kexec", "--yes", status=7, says=["bad-refuse: " + BAD["bad-refuse"]])
    goes_on(tests, "a refusal", "refuse")
    hooks.refusals(tests)
    bad_client(tests, "hang")
    update = subprocess.Popen(["luoctl", "kexec", "--yes", "--timeout", "60"],
                              stdout=subprocess.PIPE, text=True)
    there = wait_until(**everybody("ready"), **{"bad-hang": "preserving"})
    tests.check("all wait for one", there.get("bad-hang") == "preserving", str(there))
    luoctl(tests, "abort")
    said, _ = update.communicate()
    good = update.returncode == 7 and "the operator has aborted it" in said
    tests.check("luoctl kexec is told of luoctl abort", good, said)
    goes_on(tests, "luoctl abort", "hang")
    what_is_not_kept(tests)
    items, there, wrong = cache.verify()
    tests.check("memcached has lost no data", items == there and not wrong, f"{there}, {wrong}")


def plain(tests, cmdline):
    """Only systemd informs luod of the update. Returns true if the next kernel is being started."""
    load(cmdline)
    mark_log(tests)
    tests.save()
    status, said = run("systemctl", "kexec")
    if status:
        tests.check("systemctl kexec", False, said)
    return status == 0


def plain_without_some(tests, cmdline):
    """The same; only the data of two clients is lost."""
    bad_client(tests, "refuse")
    bad_client(tests, "hang")
    return plain(tests, cmdline)


def empty_initrd():
    """An initrd without files: the kernel mounts the root directory itself."""
    end = "TRAILER!!!"
    fields = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(end) + 1, 0]
    text = "070701" + "".join(f"{field:08x}" for field in fields) + end + "\0"
    path = f"/boot/initrd.img-{VERSION}"
    with open(path, "w") as file:
        file.write(text.ljust(512, "\0"))
    return path


def installed(tests, cmdline):
    """Loads a kernel by its version."""
    empty_initrd()
    os.link(KERNEL, f"/boot/vmlinuz-{VERSION}")
    luoctl(tests, "load", "--kernel", VERSION, "--cmdline", cmdline)


def unified(tests, cmdline):
    """Loads a unified kernel image by the ID of its boot entry, with the command line inside, which
    has no parameters for the log and for events."""
    os.makedirs(os.path.dirname(UKI), exist_ok=True)
    cmdline = " ".join(word for word in cmdline.split()
                       if not word.startswith(("ramoops.", "reserve_mem=", "trace_instance=")))
    with open(KERNEL, "rb") as kernel, open(empty_initrd(), "rb") as initrd:
        parts = {".linux": kernel.read(), ".initrd": initrd.read(), ".cmdline": cmdline.encode()}
    uki.write(UKI, parts)
    luoctl(tests, "load", "--entry", "luo", says=["luo.efi is loaded"])


def by_luoctl(tests, cmdline, way=installed):
    """Runs the update as an operator."""
    way(tests, cmdline)
    if is_slow(tests.boot.number):
        operator(tests)
    else:
        connections.hold(tests)
    slow(is_slow(tests.boot.number))
    mark_log(tests)
    tests.save()
    status, said = run("luoctl", "kexec", "--yes")
    # It ends with luod, or is killed.
    if status > 0:
        tests.check("luoctl kexec", False, said)
    return status <= 0


def by_entry(tests, cmdline):
    """The same, with the kernel and the command line of a boot entry."""
    return by_luoctl(tests, cmdline, way=unified)


PARTS = [witness, session_of_unit, luod_and_clients, boot_jobs, memcached, connections.held, log_of_previous]
UPDATES = [plain, plain_without_some, by_luoctl, by_entry]

# Clients that fail, and the reasons.
BAD = {
    "bad-refuse": "the client refuses: I do not feel like it",
    "bad-hang": "the client was not ready in time",
}


def main():
    boot = Boot()
    tests = Results("debian", boot)
    print(f"# boot {boot.number} is up", flush=True)
    # This small system has no mount(8), which systemd runs for it.
    libc.mount(b"tracefs", b"/sys/kernel/tracing", b"tracefs", 0, None)
    for part in PARTS:
        try:
            part(tests)
        except Exception as error:
            tests.check(part.__name__, False, repr(error))
    if boot.number < len(UPDATES):
        wait_until(**everybody("subscribed"))
        if UPDATES[boot.number](tests, boot.next()):
            return
    tests.end()


main()
