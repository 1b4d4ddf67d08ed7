# SPDX-License-Identifier: GPL-2.0

"""Updates the kernel of a machine that consists of packages only.

Runs once with each kernel; the results so far are kept on the disk. Firmware starts the first
kernel by its boot entry. The second kernel is installed from its package, and a live update starts
it by its boot entry; there, the package of luod is upgraded before the session is claimed. Another
live update starts the first kernel again, by its version. Then the second kernel is started and
panics, and firmware starts the first one, since the default boot entry is only changed when all
required sessions are finished.

After that, GRUB is installed. It starts the newest kernel, and a live update starts the first one
again. The kernel of the next update hangs, and the watchdog resets the machine.
"""

import glob
import json
import os
import re
import subprocess

from results import Results, run, until

STAGE = "/var/lib/luo-machine-stage"
OLD, NEW = sorted(os.path.basename(path) for path in glob.glob("/usr/share/luo-machine/*-luo*"))
DEFAULT = "/sys/firmware/efi/efivars/LoaderEntryDefault-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
PANIC = "Requested init /nonexistent failed (error -2)."
# A kernel that finds no devices, and waits forever.
HANG = "pci=off rdinit=/bin/cat"
LOG_MARK = "luo-machine: the end of kernel "


class Boot:
    """The number of kernels that ran before this one, and the command line of this one."""

    def __init__(self):
        self.number = 0
        if os.path.exists(STAGE):
            with open(STAGE) as file:
                self.number = int(file.read())
        with open("/proc/cmdline") as file:
            self.cmdline = file.read().strip()

    def next(self):
        with open(STAGE, "w") as file:
            file.write(str(self.number + 1))
        os.sync()


def say(what):
    print(f"@progress {what}", flush=True)


def entry(release):
    return f"luo-{release}.conf"


def default():
    """The default boot entry; None if systemd-boot takes the newest."""
    if not os.path.exists(DEFAULT):
        return None
    with open(DEFAULT, "rb") as file:
        return file.read()[4:].decode("utf-16-le").rstrip("\0")


def grub_entry(release):
    """The entry of a kernel in GRUB's configuration of Debian."""
    with open("/boot/grub/grub.cfg") as file:
        ids = re.findall(r"menuentry_id_option '([^']*)'", file.read())
    menu = next(name for name in ids if name.startswith("gnulinux-advanced-"))
    return menu + ">" + next(name for name in ids if name.startswith(f"gnulinux-{release}-advanced-"))


def grub_default():
    """The default boot entry of GRUB; None if it takes the newest."""
    found = re.search(r"^saved_entry=(.*)$", run("grub-editenv", "list")[1], re.MULTILINE)
    return found[1] if found else None


def keeper(tests, expected):
    """Starts the service, which says what it has found in its session."""
    status, said = run("systemctl", "start", "luo-keeper.service")
    log = "/run/luo-keeper.log"
    until(lambda: os.path.exists(log) and open(log).read().strip())
    found = open(log).read().strip()
    tests.check(f"the service has its session: {expected}", status == 0 and found == expected, said + found)
    say(f"kernel {os.uname().release}: the service says: {found}")


def kernel(tests, release):
    """Checks the running kernel, its command line, luod and the watchdog."""
    tests.check(f"the kernel is {release}", os.uname().release == release, os.uname().release)
    words = tests.boot.cmdline.split()
    wanted = ["kho=on", "liveupdate=on", "ramoops.mem_name=luo_log", "trace_instance=luo_previous=luo"]
    tests.check("it has the parameters of the package", all(word in words for word in wanted), tests.boot.cmdline)
    said = []

    def reached():
        said.append(run("luoctl", "status")[1])
        return "phase:" in said[-1]

    tests.check("luod serves", until(reached), said[-1])
    names = ("RuntimeWatchdogUSec", "KExecWatchdogUSec", "WatchdogDevice")
    status, said = run("systemctl", "show", *(f"--property={name}" for name in names))
    armed = "WatchdogDevice=/dev/watchdog" in said and "WatchdogUSec=0" not in said
    tests.check("systemd has the watchdog", status == 0 and armed, said)


def subscribed():
    return until(lambda: "subscribed" in run("luoctl", "list")[1])


def update(tests, *load):
    """Loads a kernel, and starts it. Returns true if it is being started."""
    subscribed()
    shown = "luoctl load " + " ".join(load).split(" --cmdline")[0]
    status, said = run("luoctl", "load", *load)
    print(said, flush=True)
    if not tests.check(shown, status == 0 and "is loaded" in said, said):
        return False
    with open("/dev/kmsg", "w") as file:
        file.write(f"<1>{LOG_MARK}{tests.boot.number}\n")
    tests.save()
    tests.boot.next()
    say(f"{shown}; luoctl kexec")
    status, said = run("luoctl", "kexec", "--yes")
    # luoctl ends when luod ends, or is killed.
    if status > 0:
        tests.check("luoctl kexec", False, said)
    return status <= 0


def sessions():
    """The states of the sessions, as far as luod answers."""
    said = json.loads(run("luoctl", "--json", "list")[1])
    return {session["session"]: session["state"] for session in said.get("sessions", [])}


def upgrade(tests):
    """An upgrade restarts luod, which loses neither the session that no program has claimed, nor clients."""
    client = subprocess.Popen(["luoctl", "exec", "other", "--preserve", "--", "true"])
    expected = {"keeper": "unclaimed", "other": "subscribed"}
    there = until(lambda: sessions() == expected)
    tests.check("there are a session and a client before the upgrade", there, f"{sessions()}")
    luod = run("systemctl", "show", "--property=MainPID", "luod.service")[1]
    debs = glob.glob("/usr/share/luo-machine/newer/*.deb")
    say("dpkg -i " + " ".join(os.path.basename(path) for path in sorted(debs)))
    status, said = run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "--force-confold", "-i", *debs)
    print(said, flush=True)
    version = run("dpkg-query", "-W", "-f", "${Version}", "luod")[1]
    tests.check("luod is upgraded", status == 0 and version.endswith("+newer"), f"{version} {said}")
    new = run("systemctl", "show", "--property=MainPID", "luod.service")[1]
    tests.check("the upgrade has restarted luod", new.strip() not in (luod.strip(), "MainPID=0"), f"{luod} {new}")
    there = until(lambda: sessions() == expected)
    tests.check("the session and the client are there after the upgrade", there, f"{sessions()}")
    tests.check("the client has not been restarted", client.poll() is None, f"{client.returncode}")
    client.kill()
    client.wait()


def log(tests):
    """luoctl shows the log of the previous kernel, although firmware has a place for logs as well."""
    status, said = run("luoctl", "report", "--log", "--lines", "100000")
    good = status == 0 and f"{LOG_MARK}{tests.boot.number - 1}" in said
    tests.check("luoctl shows the log of the previous kernel", good, said[-1000:])


def updated(tests, before, release, count, default=default, entry=entry, unclaimed=None):
    """After an update: the default boot entry changes when the session is finished, and not before. `unclaimed`
    is called before the session is claimed."""
    kernel(tests, release)
    log(tests)
    if unclaimed:
        unclaimed(tests)
    tests.check("the default is still the previous kernel", default() == entry(before), default())
    keeper(tests, f"verified after {count}")
    there = until(lambda: default() == entry(release))
    why = f"{default()}: " + run("journalctl", "-b", "-n", "20", "--no-pager", "-u", "luod*")[1]
    tests.check("the default is this kernel when the session is there", there, why)
    if there:
        say(f"the default boot entry is {default()}")


def failing(tests, words, *load):
    """Updates to a kernel that does not come up."""
    return update(tests, *load, "--cmdline", f"{tests.boot.cmdline} {words}")


def fell_back(tests, default=default, entry=entry):
    """Firmware has started the default entry since the next kernel did not come up."""
    kernel(tests, OLD)
    tests.check("the default is this kernel", default() == entry(OLD), default())
    tests.check("it was started by firmware", "rdinit" not in tests.boot.cmdline, tests.boot.cmdline)
    # What was in memory is lost.
    keeper(tests, "new")


def varlink(tests):
    """The Varlink interface, which systemd starts by its socket."""
    run("systemctl", "start", "luod-varlink.socket")
    call = ["call", "/run/luod/io.luod.LiveUpdate", "io.luod.LiveUpdate.ListSessions", "{}"]
    status, said = run("varlinkctl", *call)
    tests.check("varlinkctl lists the sessions", status == 0 and '"keeper"' in said, said)
    status, said = run("varlinkctl", "introspect", call[1], "io.luod.LiveUpdate")
    tests.check("varlinkctl knows the interface", status == 0 and "GetStatus" in said, said)


def first(tests):
    """Firmware has started the only kernel."""
    kernel(tests, OLD)
    keeper(tests, "new")
    subscribed()
    varlink(tests)
    deb = glob.glob(f"/usr/share/luo-machine/{NEW}/*.deb")
    say(f"dpkg -i {os.path.basename(deb[0])}")
    status, said = run("env", "DEBIAN_FRONTEND=noninteractive", "dpkg", "-i", *deb)
    print(said, flush=True)
    files = [f"/boot/vmlinuz-{NEW}", f"/boot/initrd.img-{NEW}", f"/efi/loader/entries/{entry(NEW)}"]
    missing = [path for path in files if not os.path.exists(path)]
    tests.check("the next kernel is installed", status == 0 and not missing, f"{missing} {said}")
    tests.check("no default was set", default() is None, default())
    return update(tests, "--entry", f"luo-{NEW}")


def second(tests):
    updated(tests, OLD, NEW, 1, unclaimed=upgrade)
    status, said = run("insmod", f"/usr/share/luo-machine/{NEW}/luo_machine.ko")
    tests.check("a module that was built with linux-headers is loaded", status == 0, said)
    return update(tests, "--kernel", OLD)


def third(tests):
    updated(tests, NEW, OLD, 2)
    print(f"# expect-panic {PANIC}", flush=True)
    return failing(tests, "init=/nonexistent rdinit=/nonexistent", "--entry", f"luo-{NEW}")


def fourth(tests):
    """After the panic: the machine gets GRUB, and is started again."""
    fell_back(tests)
    say("grub-install; update-grub")
    status, said = run("grub-install", "--target=x86_64-efi", "--efi-directory=/efi", "--removable", "--no-nvram")
    tests.check("grub-install", status == 0, said)
    status, said = run("update-grub")
    if not tests.check("update-grub", status == 0, said):
        return False
    tests.save()
    tests.boot.next()
    say("systemctl reboot")
    return run("systemctl", "reboot")[0] <= 0


def fifth(tests):
    """GRUB has started the newest kernel."""
    kernel(tests, NEW)
    tests.check("GRUB has started it", "BOOT_IMAGE=" in tests.boot.cmdline, tests.boot.cmdline)
    tests.check("no default was set", grub_default() is None, grub_default())
    keeper(tests, "new")
    return update(tests, "--kernel", OLD, "--grub-cmdline")


def sixth(tests):
    updated(tests, NEW, OLD, 1, grub_default, grub_entry)
    return failing(tests, HANG, "--kernel", NEW)


def seventh(tests):
    """After the hang."""
    fell_back(tests, grub_default, grub_entry)
    return False


def main():
    tests = Results("machine", Boot())
    print(f"# boot {tests.boot.number} is up", flush=True)
    going = False
    try:
        stages = [first, second, third, fourth, fifth, sixth, seventh]
        going = stages[tests.boot.number](tests)
    except Exception as error:
        tests.check("no exception", False, repr(error))
    if not going:
        tests.end()


main()
