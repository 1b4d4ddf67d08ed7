# SPDX-License-Identifier: GPL-2.0

"""Drives the tests of virtual machines that survive live updates.

Runs once with each kernel of the host, as driver.py does. The guest writes to its console, which is
a file of the host that all kernels append to.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time

from lanes import check_lane, show_chain, slow
from results import Boot, Results, run

KERNEL = "/boot/next"
CONSOLE = "/var/lib/luo-one.console"
# The other guest, in the machine that has one, and its console.
OTHER = "luo-qemu@two.service"
OTHER_CONSOLE = "/var/lib/luo-two.console"
DISK = "/var/lib/luo-one.raw"
# Copies of both from the time before the guest was started or resumed.
BEFORE = "/run/luo-guest-before/"
UNIT = "luo-qemu@one.service"
MONITOR = "/run/luo-one.monitor"
OTHER_MONITOR = "/run/luo-two.monitor"
# Places the memory of the guest on huge pages.
HUGE_UNIT = "/etc/systemd/system/luo-qemu@one.service.d/huge-pages.conf"
# Resumes it with another QEMU: first with one that does not exist.
START = "[Service]\nExecStart=\nExecStart=/usr/bin/luo-qemu start %i --qemu {}\n"
NO_QEMU, QEMU = "/usr/lib/luo-test/no-qemu", "/usr/bin/qemu-system-x86_64"
# By the size on the command line: the directory of the huge pages, and how many the guest needs.
HUGE_PAGES = {"": ("hugepages-2048kB", 128), "1G": ("hugepages-1048576kB", 1)}
BLOCK, BLOCKS = 4096, 256
# The least amount of the guest's memory in huge pages, in KiB: it checks a part of this size all the
# time.
HUGE = 64 << 10
# The number of updates in which everything else is tested, too.
USUAL = 2
# The output of the guest about its memory: the digest, and the processor that
# has computed it.
MEMORY = r"\d+ good ([0-9a-f]{8}) on processor 1"
# Seconds after which an event is considered missing. A guest in a virtual
# machine that is itself emulated takes a minute to start.
PATIENCE = 900


def console(path=CONSOLE):
    """The output of the guest, in whole lines."""
    try:
        with open(path, errors="replace") as file:
            text = file.read()
    except FileNotFoundError:
        return ""
    return text[: text.rfind("\n") + 1]


def said(what, rest=r"(\d+)", path=CONSOLE):
    """The text after a word in the output of the guest, in order."""
    return re.findall(rf"^vm: {what} {rest}\s*$", console(path), re.M)


def continuous(*series):
    """Returns whether the series increase, and whether together they have all numbers. A message of the
    guest's kernel in the middle of a line can hide a number of one series."""
    increasing = all(a < b for numbers in series for a, b in zip(numbers, numbers[1:]))
    found = set().union(*series)
    return increasing and found == set(range(1, len(found) + 1))


def last(what, path=CONSOLE):
    """The last number after a word."""
    return int((said(what, path=path) or [0])[-1])


def network(what="network", path=CONSOLE):
    """The numbers of lines that the peer and the guest have received from each other."""
    numbers = said(what, r"(\d+) (\d+)", path)
    return [int(number) for number in numbers[-1]] if numbers else [0, 0]


def until(so):
    """Waits until a condition is true, up to a limit, as long as the guest's unit exists."""
    end = time.monotonic() + PATIENCE
    while not so() and time.monotonic() < end:
        time.sleep(0.3)
        if run("systemctl", "is-active", UNIT)[1].strip() in ["inactive", "failed"]:
            break
    return so()


def monitor(*commands, path=MONITOR):
    """The answers of QEMU to commands, by a monitor that luo-qemu does not use."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(path)
        lines = connection.makefile("r")
        lines.readline()
        answers = []
        for command in [("qmp_capabilities", {}), *commands]:
            connection.sendall(json.dumps({"execute": command[0], "arguments": command[1]}).encode())
            answer = json.loads(lines.readline())
            while "event" in answer:
                answer = json.loads(lines.readline())
            answers.append(answer)
        return str(answers)


# What is printed about a guest that stands still, from QEMU, from its interrupt controllers, and from the host.
REGISTERS = r"'status': '[a-z-]+|CPU#\d|[RE]IP=\w+|RFL=\w+ \S+|HLT=\d"
LAPIC = r"LVTT\s+[^\\]*|Timer[^\\]*|(?:ISR|IRR|PPR|TPR)[ \t]+[^\\]*"
HOST = [
    "cat /sys/module/kvm/parameters/tsc_tolerance_ppm",
    "grep -H . /sys/kernel/debug/kvm/exits /sys/kernel/debug/kvm/halt_exits"
    " /sys/kernel/debug/kvm/irq_injections /sys/kernel/debug/kvm/*/vcpu*/tsc-offset",
    "grep -E 'LOC|RES|CAL|HYP' /proc/interrupts",
    "grep -E 'now at|^cpu:|expires_next' /proc/timer_list",
    "for task in /proc/$(pgrep -o qemu-system)/task/*; do cut -d ' ' -f 2,3,14,15 $task/stat; done",
]


def processors():
    """For a guest that stands still: where its processors are, and what its interrupt controllers and those of
    the host do, at two times."""
    found = []
    for _ in range(2):
        try:
            hmp = [("human-monitor-command", {"command-line": line})
                   for line in ["info registers -a", "info lapic 0", "info lapic 1"]]
            text = monitor(("query-status", {}), *hmp)
            found += re.findall(f"{REGISTERS}|{LAPIC}", text)
        except (OSError, ValueError) as error:
            found.append(repr(error))
        found += [run("sh", "-c", line)[1].strip() for line in HOST]
        time.sleep(1)
    found.append(run("sh", "-c", "dmesg | grep -iE 'tsc|clocksource|kvm|hrtimer|rcu'")[1])
    return "\n".join(found)


def logs():
    """The last lines of the guest and of its programs, the most recent ones first: only the beginning of
    a long result is shown, and all of it is in the log of the machine."""
    text = run("journalctl", "-r", "-o", "cat", "-n", "40", "--no-pager", "-u", UNIT, "-u", "luod.service")[1]
    return "\n".join([*console().splitlines()[:-4:-1], text, *console().splitlines()[-15:]])


def start(tests):
    """luod and the guest, which is new or was resumed."""
    for unit in ["luod.socket", "luod.service", UNIT]:
        status, why = run("systemctl", "start", unit)
        tests.check(f"{unit} starts", status == 0, why if status == 0 else why + logs())


def start_with(qemu):
    """Lets the unit of the guest on huge pages resume it by luo-qemu start."""
    with open(HUGE_UNIT, "w") as file:
        file.write(START.format(qemu))
    run("systemctl", "daemon-reload")


def another_qemu(tests):
    """A guest that cannot be resumed can be claimed again, and is resumed by another QEMU."""
    good = until(lambda: f"{NO_QEMU} cannot be started" in run("journalctl", "-b", "-u", UNIT)[1])
    tests.check("the guest is not resumed without a QEMU", good, logs())
    good = until(lambda: re.search(r"^vm-one .*unclaimed", run("luoctl", "list")[1], re.M))
    tests.check("its session is kept", good, run("luoctl", "list")[1] + logs())
    start_with(QEMU)


def huge_pages(tests):
    """The guest has all huge pages that it needs, and the machine as many as its parameter says."""
    with open("/proc/cmdline") as file:
        found = re.search(r" (?:hugepagesz=(\S+) )?hugepages=(\d+)", file.read())
    directory, needed = HUGE_PAGES[found[1] or ""]
    wanted = int(found[2])

    def count(name):
        with open(f"/sys/kernel/mm/hugepages/{directory}/{name}") as file:
            return int(file.read())

    total, free = count("nr_hugepages"), count("free_hugepages") - count("resv_hugepages")
    tests.check("the machine has its huge pages", total == wanted, f"{total}, not {wanted}")
    tests.check(f"the guest has {needed} huge pages", total - free == needed,
                f"{free} of {total} are free")


def transparent_pages(tests):
    """The memory of the guest is of huge pages, and QEMU maps them as such."""
    with open(f"/proc/{field('qemu')}/smaps") as file:
        sizes = re.findall(r"^ShmemPmdMapped:\s+(\d+) kB", file.read(), re.M)
    mapped = sum(int(size) for size in sizes)
    tests.check("the memory of the guest is in huge pages", mapped >= HUGE, f"{mapped} KiB are")


def clocks(path=CONSOLE):
    """By how much the guest's real-time clock lags, and how far it is from the monotonic one, in
    seconds. What the guest says is seen some time later: the smallest of several lags is the best."""
    def found():
        return said("clock", r"(\d+) (\d+) .*", path)

    lags = []
    for _ in range(4):
        number = len(found())
        if not until(lambda: len(found()) > number):
            break
        monotonic, real = map(int, found()[-1])
        lags.append(time.time() - real / 1e9)
    return min(lags), (real - monotonic) / 1e9


def host_clock():
    """By how much the clock of the host is ahead of the guest's real-time clock, in seconds, as the guest
    sees it; None if KVM does not offer it that clock."""
    found = said("host", r"(-?\d+)")
    return int(found[-1]) / 1e9 if found else None


def time_stands_still(tests):
    """The guest has not seen the time for which it was paused, on any clock."""
    lag, apart = clocks()
    before = tests.memory["clocks"]
    gap = field("gap_us") / 1e6
    print(f"# clocks {set(said('clock', r'.* ([a-z-]+)'))}, gap {gap:.1f} s, lag {before[0]:.1f} s, then {lag:.1f} s", flush=True)
    tests.check("the guest's real-time clock lags by the gap", lag - before[0] > gap / 2, f"{before[0]}, {lag}, {gap}")
    print(f"# the guest sees the clock of its host ahead by {host_clock()} s, {tests.memory['host']} before", flush=True)
    if tests.memory["host"] is not None:
        ahead = host_clock() - tests.memory["host"]
        tests.check("the guest can read the clock of its host", abs(ahead - gap) < gap / 2, f"{ahead}, {gap}")
    else:
        tests.skip("the guest can read the clock of its host", "KVM does not offer it")
    # Both continue from where they were: neither has jumped.
    tests.check("so does its monotonic clock", abs(apart - before[1]) < gap / 2, f"{before[1]}, {apart}, {gap}")
    # The gaps of former updates are in it as well.
    tests.check("luo-qemu says so", field("lag_us") >= field("gap_us"), f"{field('lag_us')}")


def clock_is_set(tests):
    """The guest agent has set the guest's real-time clock; its monotonic clock has not jumped."""
    def is_set():
        return abs(field("lag_us")) < field("gap_us") / 2

    until(lambda: is_set() or "has not set it" in logs())
    tests.check("the guest agent has set the clock", is_set(), f"{field('lag_us')}; " + logs())
    lag, apart = clocks()
    before = tests.memory["clocks"]
    gap = field("gap_us") / 1e6
    print(f"# gap {gap:.1f} s, lag {before[0]:.1f} s, then {lag:.1f} s", flush=True)
    tests.check("the guest's real-time clock is right", abs(lag - before[0]) < gap / 2, f"{before[0]}, {lag}, {gap}")
    moved = apart - before[1]
    tests.check("its monotonic clock is where it was", abs(moved - gap) < gap / 2, f"{moved}, {gap}")


def goes_on(tests):
    """The guest is where it was when the host's kernel was replaced, with both processors."""
    before = len(said("count"))

    def counts():
        return len(said("count")) > before + 20

    # Does not wait for a guest that KVM cannot run.
    good = until(lambda: counts() or field("state") == "internal-error") and counts()
    # If the guest stands still, the state of its processors shows the cause.
    if not tests.check("the guest counts", good, "" if good else processors() + logs()):
        return
    starts = said("starts", r"with seed ([0-9a-f]{16})")
    tests.check("the guest has started once", len(starts) == 1, starts)
    counts, stored = ([int(number) for number in said(what)] for what in ["count", "stored"])
    tests.check("no count is missing or comes twice", continuous(counts, stored), f"{counts}, {stored}")
    # The first of two further rounds may have begun before the update.
    for what, rest in [("memory", MEMORY), ("cached", r"(\d+) good")]:
        rounds = len(said(what, rest))
        good = until(lambda: len(said(what, rest)) >= rounds + 3)
        tests.check(f"the guest checks: {what}", good, logs())
    # The peer has received lines that were sent after the update, and the other way round.
    sent, received = network()
    good = until(lambda: network()[0] > sent + 20 and network()[1] > received + 20)
    tests.check("the guest talks to a peer outside", good, f"{sent}, {received}; " + logs())
    digests = set(said("memory", MEMORY))
    tests.check("the memory of the guest has one digest", len(digests) == 1, digests)
    tests.check("all that the guest checks is good", "BAD" not in console(), logs())


def other_goes_on(tests):
    """The other guest is where it was, and so is its connection to the first one."""
    status, why = run("systemctl", "start", OTHER)
    tests.check("the other guest is started", status == 0, why + logs())
    for path in [CONSOLE, OTHER_CONSOLE]:
        sent, received = network("pair", path)
        good = until(lambda: min(network("pair", path)) > max(sent, received) + 20)
        tests.check(f"{path}: the guests talk to each other", good, f"{sent}, {received}; " + console(OTHER_CONSOLE)[-500:])
    counts = [int(count) for count in said("count", path=OTHER_CONSOLE)]
    tests.check("the other guest counts on", counts == list(range(1, len(counts) + 1)), counts)
    starts = said("starts", r"with seed ([0-9a-f]{16})", OTHER_CONSOLE)
    tests.check("the other guest has started once", len(starts) == 1, starts)
    tests.check("all that it checks is good", "BAD" not in console(OTHER_CONSOLE), console(OTHER_CONSOLE)[-500:])


def other_clock(tests):
    """The other guest follows the clock of the host by chrony: it has corrected the lag of the update."""
    gap = field("gap_us", "two") / 1e6
    tests.check("luo-qemu tells the lag of the other guest", field("lag_us", "two") >= field("gap_us", "two"), f"{gap}")
    good = until(lambda: abs(clocks(OTHER_CONSOLE)[0]) < gap / 2)
    lag, apart = clocks(OTHER_CONSOLE)
    before = tests.memory["other_clocks"]
    print(f"# gap {gap:.1f} s, lag {before[0]:.1f} s, then {lag:.1f} s", flush=True)
    tests.check("chrony has set the clock of the other guest", good, f"{before}, {lag}, {gap}")
    moved = apart - before[1]
    tests.check("the monotonic clock of the other guest is where it was", abs(moved - gap) < gap / 2, f"{moved}, {gap}")


def other_cannot_go(tests, cmdline):
    """The other guest has a device that QEMU cannot save: the update is aborted, and both guests continue.
    Without the device, both can be updated."""
    def usb(command, **arguments):
        return monitor((command, {"id": "camera", **arguments}), path=OTHER_MONITOR)

    answer = usb("device_add", driver="usb-mtp", rootdir="/run/luo-guest-before")
    tests.check("the other guest has a device", "error" not in answer, answer)
    load(tests, cmdline)
    counted = last("count"), last("count", OTHER_CONSOLE)
    status, text = run("luoctl", "kexec", "--yes", "--expect", "2", "--timeout", "500")
    tests.check("the other guest cannot go", status == 7 and "vm-two" in text and "usb-mtp" in text, f"{status}: {text}")
    for path, before in zip([CONSOLE, OTHER_CONSOLE], counted):
        good = until(lambda: last("count", path) > before + 5)
        tests.check(f"{path}: the guest continues", good, logs())
    paused = run("journalctl", "-b", "-u", OTHER, "-o", "cat")[1]
    tests.check("the other guest was not paused", "state of" not in paused, paused[-300:])
    answer = usb("device_del")
    tests.check("the device is taken away", "error" not in answer, answer)


def other_dies(tests, cmdline):
    """QEMU of the other guest is killed when both are ready for the next kernel. No second one must be started
    here: the next kernel would resume the guest. It is started when the update is aborted, and the first guest
    continues."""
    def starts():
        return len(said("starts", r"with seed .*", OTHER_CONSOLE))

    ends = "the other QEMU is killed"
    update = begin_update(tests, cmdline, ends)
    # With its state, what is preserved is complete.
    good = until(lambda: re.search(r"^vm-two .*ready", run("luoctl", "list")[1], re.M))
    tests.check(f"{ends}: the other guest is ready", good, run("luoctl", "list")[1])
    os.kill(field("qemu", "two"), signal.SIGKILL)
    good = until(lambda: run("systemctl", "show", "--value", "--property=NRestarts", OTHER)[1].strip() not in ["", "0"])
    tests.check(f"{ends}: its unit is started again", good, run("systemctl", "status", OTHER)[1])
    why = run("journalctl", "-b", "-u", OTHER, "-n", "20", "-o", "cat")[1]
    tests.check(f"{ends}: there is no second guest", update.poll() is None and starts() == 1, why)
    status, text = run("luoctl", "abort")
    tests.check(f"{ends}: luoctl aborts the update", status == 0, text)
    text, _ = update.communicate()
    tests.check(f"{ends}: luoctl kexec says so", update.returncode == 7, f"{update.returncode}: {text}")
    run("systemctl", "kill", "--signal=KILL", "luo-bad@late-hang.service")
    counted = last("count")
    tests.check(f"{ends}: the guest continues", until(lambda: last("count") > counted + 5), logs())
    good = until(lambda: starts() == 2)
    tests.check(f"{ends}: it boots, as after a loss of power", good, why + console(OTHER_CONSOLE)[-500:])
    good = until(lambda: re.search(r"^vm-two .*subscribed", run("luoctl", "list")[1], re.M))
    tests.check(f"{ends}: luod knows the new guest", good, run("luoctl", "list")[1])


def disk(tests):
    """The next kernel finds on the disk what the guest had stored before the jump."""
    stored = last("stored", BEFORE + os.path.basename(CONSOLE))
    print(f"@stored {stored}", flush=True)
    before = tests.memory["stored"]
    tests.check("the guest's last words are there", stored >= before, f"{stored}, not {before}")
    lost = []
    with open(BEFORE + os.path.basename(DISK), "rb") as file:
        for count in range(max(1, stored - BLOCKS // 2), stored + 1):
            file.seek(count % BLOCKS * BLOCK)
            block = file.read(BLOCK)
            there = int.from_bytes(block[:8], "little")
            # A later count may have replaced it.
            if there < count or (there - count) % BLOCKS:
                lost.append((count, there))
    tests.check("the disk of the guest has what it saw stored", not lost, lost)


def report(tests):
    status, text = run("luoctl", "--json", "report")
    tests.check("luoctl reports the update", status == 0, text)
    session = [s for s in json.loads(text).get("sessions", []) if s["session"] == "vm-one"]
    good = until(lambda: "finished" in run("luoctl", "report")[1])
    tests.check("the session of the guest is finished", session and good, text)
    for line in run("luoctl", "report")[1].splitlines():
        print("#", line, flush=True)
    status, text = run("luo-qemu", "status", "one", "--json")
    print("#", text.strip(), flush=True)
    tests.check("luo-qemu knows the guest", status == 0, text)


def field(name, guest="one"):
    """A field of the status of a guest; None if it has no value."""
    status, text = run("luo-qemu", "status", guest, "--json")
    if status:
        raise RuntimeError(f"luo-qemu status {guest}: {status}: {text}")
    return json.loads(text).get(name)


def load(tests, cmdline):
    status, text = run("luoctl", "load", KERNEL, "--cmdline", cmdline)
    tests.check("luoctl load", status == 0, text)


def begin_update(tests, cmdline, ends):
    """An update that stops when the guests are paused."""
    load(tests, cmdline)
    # The client hangs when luod pauses it, which is when the guests are paused as well.
    run("systemctl", "start", "luo-bad@late-hang.service")
    good = until(lambda: "bad-late-hang" in run("luoctl", "list")[1])
    tests.check(f"{ends}: another client is there", good, logs())
    update = subprocess.Popen(["luoctl", "kexec", "--yes", "--timeout", "500"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    good = until(lambda: field("state") == "paused" or update.poll() is not None) and update.poll() is None
    tests.check(f"{ends}: the guest is paused", good, logs())
    return update


def abort(tests, cmdline, killed):
    """An update that ends while the guest is paused, since the operator aborts it or luod is killed: the
    guest continues."""
    ends = "luod is killed" if killed else "aborted"
    starts, known = len(said("starts", r"with seed .*")), last("count")
    update = begin_update(tests, cmdline, ends)
    if killed:
        run("systemctl", "kill", "--signal=KILL", "luod.service")
    else:
        status, text = run("luoctl", "abort")
        tests.check("luoctl aborts the update", status == 0, text)
    text, _ = update.communicate()
    said_so = update.returncode != 0 if killed else update.returncode == 7
    tests.check(f"{ends}: luoctl kexec says so", said_so, f"{update.returncode}: {text}")
    run("systemctl", "kill", "--signal=KILL", "luo-bad@late-hang.service")
    paused = last("count")
    tests.check(f"{ends}: the guest continues", until(lambda: last("count") > paused + 5), logs())
    good = until(lambda: field("state") == "running")
    tests.check(f"{ends}: it is running", good, field("state"))
    if tests.boot.parameter("luo_agent", 0):
        # It was paused too short, perhaps.
        done = r"its clock (was set|lags by -?\d+ ms only)"
        good = until(lambda: re.search(done, run("journalctl", "-b", "-u", UNIT)[1]))
        tests.check("its agent has set the clock", good, logs())
    tests.check(f"{ends}: it was not started again", starts == len(said("starts", r"with seed .*")), logs())
    tests.check(f"{ends}: it has counted before that", paused >= known, f"{paused}, {known}")


def without_kvm(tests, cmdline):
    """The next kernel could not run the guest: it refuses the update before it is paused."""
    status, text = run("luoctl", "load", "/boot/vmlinuz-without-kvm", "--cmdline", cmdline)
    tests.check("a kernel without KVM is loaded", status in [0, 6], text)
    status, text = run("luoctl", "kexec", "--yes", "--dry-run", "--timeout", "500")
    refused = status != 0 and "CONFIG_KVM is not set in /boot/vmlinuz-without-kvm" in text
    tests.check("the guest refuses it", refused, text)
    tests.check("the guest runs", field("state") == "running", logs())
    # This is done after the guest has agreed, before it is paused.
    preserved = "memory preserved" in run("journalctl", "-u", UNIT)[1]
    tests.check("the guest was not paused", not preserved, text + logs())


def killed(tests):
    """luod and luo-qemu are killed while the guest runs, and are started again."""
    run("systemctl", "kill", "--signal=KILL", "luod.service")
    good = until(lambda: re.search(r"^vm-one .*subscribed", run("luoctl", "list")[1], re.M))
    tests.check("luod knows the guest after it was killed", good, logs())
    starts, qemu = len(said("starts", r"with seed .*")), field("qemu")
    run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", UNIT)
    counted = last("count")
    good = until(lambda: "taken over" in run("journalctl", "-u", UNIT)[1])
    tests.check("a new luo-qemu takes the guest over", good, logs())
    tests.check("QEMU is the same", qemu and qemu == field("qemu"), f"{qemu}, {field('qemu')}")
    tests.check("the guest runs on", until(lambda: last("count") > counted + 5), logs())
    tests.check("it has not noticed", starts == len(said("starts", r"with seed .*")), logs())
    good = until(lambda: re.search(r"^vm-one .*subscribed", run("luoctl", "list")[1], re.M))
    tests.check("luod knows the new luo-qemu", good, logs())


def update(tests, cmdline, slowly, guests):
    """The commands of an operator. True if the next kernel is being started."""
    status, text = run("luo-qemu", "check", "one")
    tests.check("luo-qemu check one", status == 0, text)
    load(tests, cmdline)
    slow(slowly)
    if os.path.exists(HUGE_UNIT):
        start_with(NO_QEMU)
    tests.memory = {"stored": last("stored"), "clocks": clocks(), "host": host_clock()}
    if guests > 1:
        tests.memory["other_clocks"] = clocks(OTHER_CONSOLE)
    tests.save()
    # The guest is emulated twice: luod waits longer for it than for other clients of tests.
    status, text = run("luoctl", "kexec", "--yes", "--expect", str(guests), "--timeout", "500")
    # It ends with luod, or is ended.
    if status > 0:
        tests.check("luoctl kexec", False, text + logs())
    return status <= 0


def main():
    boot = Boot()
    updates, two = boot.parameter("luo_updates", 2), boot.parameter("luo_two", 0)
    tests = Results("guest", boot)
    print(f"# boot {boot.number} is up", flush=True)
    for line in re.findall(r"tsc: .*MHz.*|.*nstable.*", run("dmesg")[1]):
        print("#", line, flush=True)
    try:
        if boot.number and os.path.exists(HUGE_UNIT):
            another_qemu(tests)
        start(tests)
        if boot.number:
            disk(tests)
        goes_on(tests)
        if two:
            other_goes_on(tests)
            if boot.number:
                other_clock(tests)
            else:
                other_cannot_go(tests, boot.cmdline)
        if os.path.exists(HUGE_UNIT):
            huge_pages(tests)
        else:
            transparent_pages(tests)
        if boot.number:
            if boot.parameter("luo_agent", 0):
                clock_is_set(tests)
            else:
                time_stands_still(tests)
            report(tests)
            check_lane(tests, UNIT)
            show_chain(UNIT)
            if two:
                other_dies(tests, boot.cmdline)
        elif updates == USUAL:
            without_kvm(tests, boot.cmdline)
            for luod_is_killed in [False, True]:
                abort(tests, boot.cmdline, luod_is_killed)
            killed(tests)
        if boot.number < updates and tests.results[-1][1]:
            # The first one is for comparison: the units wait for the rest of the machine.
            if update(tests, boot.next(), not boot.number and updates == USUAL, 1 + two):
                return
    except Exception as error:
        tests.check("the tests come to their end", False, f"{error!r}\n{logs()}")
    tests.check("all updates were done", boot.number == updates, f"{boot.number} of {updates}")
    print(f"@stored {last('stored')}", flush=True)
    # The guest ignores its power button, and must not write between the
    # results.
    status, text = run("luo-qemu", "stop", "one", "--timeout", "1")
    tests.check("the guest is stopped", "stopped" in text, text)
    tests.end()


main()
