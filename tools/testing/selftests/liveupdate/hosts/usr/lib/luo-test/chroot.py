# SPDX-License-Identifier: GPL-2.0

"""Tests the packages in a directory tree without a running systemd, as where images are made."""

import os

import images
import packages
from results import Boot, Results, run

# Clients of the libraries: there is neither a luod nor a device.
C = """
import ctypes
library = ctypes.CDLL("libliveupdate.so.1")
library.liveupdate_error.restype = ctypes.c_char_p
print(library.liveupdate_open(None), library.liveupdate_error().decode())
"""
PYTHON = """
import liveupdate
try:
    liveupdate.Client("test")
except FileNotFoundError as error:
    print(error.errno)
"""


def programs(tests):
    """The programs and libraries run."""
    for name, expected, command in [
        ("luod", "--check-config", ["luod", "--help"]),
        ("luoctl", "is it running", ["luoctl", "status"]),
        ("luo-qemu", "Usage", ["luo-qemu", "--help"]),
        ("the library for C", "-2 ", ["python3", "-c", C]),
        ("the module for Python", "2", ["python3", "-c", PYTHON]),
    ]:
        said = run(*command)[1]
        tests.check(f"{name} runs", expected in said, said)


def enabled(tests):
    """The units are enabled, and not started."""
    for unit in ("sysinit.target.wants/luod.service", "sockets.target.wants/luod.socket"):
        tests.check(f"{unit} is there", os.path.islink(f"/etc/systemd/system/{unit}"))
    tests.check("luod is not started", not os.path.exists("/run/luod"))


def disable(tests):
    """The administrator starts luod on demand only."""
    status, said = run("systemctl", "disable", "--no-warn", "luod.service")
    tests.check("luod is disabled", status == 0, said)


def disabled(tests):
    """The upgrade has not enabled luod again."""
    _, said = run("systemctl", "is-enabled", "luod.service")
    tests.check("luod is still disabled", said.strip() == "disabled", said)


def files():
    """All files and directories, besides those that any installation changes."""
    changing = {"/dev", "/proc", "/run", "/sys", "/tmp", "/usr/lib/luo-test", "/var/cache", "/var/lib/apt",
                "/var/lib/dpkg", "/var/log"}
    found = set()
    for dir, dirs, names in os.walk("/"):
        paths = {name: os.path.join(dir, name) for name in dirs + names if name != "__pycache__"}
        dirs[:] = [name for name in dirs if name in paths and paths[name] not in changing]
        found.update(paths.values())
    return found


def main():
    tests = Results("packages", Boot())
    before = files()
    for part in [packages.install, images.unified, enabled, programs, disable, packages.upgrade, disabled,
                 packages.remove, packages.purge]:
        try:
            part(tests)
        except Exception as error:
            tests.check(part.__name__, False, repr(error))
    different = sorted(before ^ files())
    tests.check("the same files are there as before the installation", not different, str(different))
    tests.print()


main()
