# SPDX-License-Identifier: GPL-2.0

"""What the tests of the packages share: commands, and checks that need no systemd."""

import glob
import os

from results import run

HERE = "/usr/lib/luo-test"
PACKAGES = ["libliveupdate1", "libliveupdate-dev", "luoctl", "luod", "luo-qemu", "python3-liveupdate"]
CONFIG = "/etc/luod.toml"
# With these parameters, each kernel keeps its log for the next one.
LOG = "reserve_mem=1M:4096:luo_log ramoops.mem_name=luo_log ramoops.console_size=0x80000"
TRACE = "reserve_mem=4M:4096:luo_trace trace_instance=luo@luo_trace,liveupdate trace_instance=luo_previous=luo"
SNIPPET = "/etc/default/grub.d/luod.cfg"
# Files that must not exist after the packages are purged.
OURS = ["/etc/luod*", "/etc/luo-qemu", "/etc/default/grub.d/luod*", "/etc/systemd/system/*/luod*",
        "/usr/lib/luod", "/usr/lib/systemd/system/luod*", "/usr/lib/kernel/install.d/*luod*", "/usr/sbin/luod", "/usr/bin/luo*",
        "/usr/lib/*-linux-gnu/libliveupdate*", "/usr/lib/*/pkgconfig/liveupdate.pc",
        "/usr/lib/python3/dist-packages/liveupdate*",
        "/var/lib/systemd/deb-systemd-helper-enabled/*luod*", "/run/luod"]


def debs(prefix=""):
    """The files of the packages; those with the prefix "newer-" have a higher version."""
    return [f"{HERE}/{prefix}{package}.deb" for package in PACKAGES]


def dpkg(tests, what, *command):
    """Runs dpkg or apt-get, which must succeed and ask nothing."""
    status, said = run("env", "DEBIAN_FRONTEND=noninteractive", *command)
    tests.check(what, status == 0, said)
    return said


def install(tests):
    """A first installation, with all dependencies, which the system has."""
    dpkg(tests, "apt installs", "apt-get", "install", "-y", "--no-install-recommends",
         "-o", "APT::Sandbox::User=root", *debs())
    # This system has no pages of any package.
    said = run("dpkg", "--verify", *PACKAGES)[1]
    bad = [line for line in said.splitlines() if "/usr/share/man/" not in line and "/usr/share/doc/" not in line]
    tests.check("dpkg verifies all files", not bad, str(bad))
    said = run("ldd", "/usr/sbin/luod")[1]
    tests.check("luod is linked dynamically", "libc.so.6" in said and "not found" not in said, said)
    units(tests)
    parameters(tests)
    boot_entries(tests)


def units(tests):
    """The units name programs that exist, and systemd can load them."""
    files = run("dpkg", "-L", "luod", "luo-qemu")[1].split()
    units = [file for file in files if file.endswith((".service", ".socket", ".timer"))]
    bad = []
    for unit in units:
        for line in open(unit):
            name, _, command = line.partition("=")
            if name.startswith("Exec") and not os.path.exists(command.split()[0].lstrip("-@!+:")):
                bad.append(f"{unit}: {line.strip()}")
    tests.check("the units name programs that exist", len(units) >= 4 and not bad, f"{units} {bad}")
    status, said = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", *units)
    tests.check("systemd has no complaints about the units", status == 0, said)


def upgrade(tests):
    """To a higher version with new configurations, one of which the administrator has changed."""
    with open(CONFIG, "a") as file:
        file.write("timeout = 77\n")
    dpkg(tests, "dpkg upgrades", "dpkg", "--force-confold", "-i", *debs("newer-"))
    for package in PACKAGES:
        version = run("dpkg-query", "-W", "-f", "${Version}", package)[1]
        tests.check(f"{package} is newer", version.endswith("+newer"), version)
    kept, snippet = open(CONFIG).read(), open(SNIPPET).read()
    tests.check("the changed configuration is kept", "timeout = 77" in kept and "# newer" not in kept, kept)
    tests.check("the new one is there as well", os.path.exists(f"{CONFIG}.dpkg-dist"))
    tests.check("an unchanged configuration is replaced", "# newer" in snippet, snippet)
    status, said = run("luod", "--check-config")
    tests.check("luod checks it", status == 0, said)


def remove(tests):
    """Configurations stay; that for GRUB has no effect."""
    dpkg(tests, "dpkg removes", "dpkg", "-r", *PACKAGES)
    tests.check("the changed configuration is still there", "timeout = 77" in open(CONFIG).read())
    said = grub("")
    tests.check("GRUB gets no parameters without luod", said == "a=b", said)


def purge(tests):
    """All files are removed."""
    dpkg(tests, "dpkg purges", "dpkg", "-P", *PACKAGES)
    left = [path for pattern in OURS for path in glob.glob(pattern)]
    tests.check("nothing is left", not left, str(left))


def grub(more):
    """The command line of GRUB, which has a=b, with the snippet."""
    script = f'GRUB_CMDLINE_LINUX="a=b{more}"; . {SNIPPET}; . {SNIPPET}; echo "$GRUB_CMDLINE_LINUX"'
    return run("sh", "-euc", script)[1].strip()


def parameters(tests):
    """The snippet adds parameters, once; those of the administrator stay."""
    for more, expected in [("", f"a=b kho=on liveupdate=on {LOG} {TRACE}"),
                           (" kho=off", f"a=b kho=off liveupdate=on {LOG} {TRACE}"),
                           (" ramoops.mem_name=x", f"a=b ramoops.mem_name=x kho=on liveupdate=on {TRACE}"),
                           (" trace_instance=x", f"a=b trace_instance=x kho=on liveupdate=on {LOG}")]:
        said = grub(more)
        tests.check(f"GRUB gets the parameters after a=b{more}", said == expected, said)


def boot_entries(tests):
    """Entries of the Boot Loader Specification get the parameters as well."""
    boot, config = "/run/luo-test-boot", "/run/luo-test-kernel-install"
    os.makedirs(f"{boot}/test", exist_ok=True)
    os.makedirs(config, exist_ok=True)
    for name, text in [("install.conf", f"layout=bls\nBOOT_ROOT={boot}\n"), ("cmdline", "a=b liveupdate=off\n"),
                       ("entry-token", "test\n")]:
        with open(f"{config}/{name}", "w") as file:
            file.write(text)
    with open(f"{boot}/kernel", "w") as file:
        file.write("a kernel")
    for _ in range(2):
        status, said = run("env", f"KERNEL_INSTALL_CONF_ROOT={config}", "kernel-install", "add", "7.3-test",
                           f"{boot}/kernel")
    entries = glob.glob(f"{boot}/loader/entries/*.conf")
    words = [word for path in entries for line in open(path) if line.startswith("options") for word in line.split()]
    good = words.count("kho=on") == 1 and words.count("liveupdate=off") == 1 and "liveupdate=on" not in words
    good = good and all(words.count(word) == 1 for word in f"{LOG} {TRACE}".split())
    tests.check("boot entries get the parameters that are not set", status == 0 and good, f"{words} {said}")
