# SPDX-License-Identifier: GPL-2.0

"""Tests that kernel-install makes unified kernel images with the kernel parameters of the package luod."""

import hashlib
import json
import os
import shutil

from packages import LOG, TRACE
from results import run

BOOT, CONFIG = "/run/luo-test-images", "/etc/kernel"
VERSION = "7.3-test"
TREES = f"/usr/lib/linux-image-{VERSION}"
# Replaces the program that makes the images.
UKIFY, REPLACED = "/usr/lib/kernel/install.d/60-ukify.install", f"{CONFIG}/install.d/60-ukify.install"
# The files of the administrator.
FILES = {
    f"{CONFIG}/cmdline": "# a comment with kho=off\na=b liveupdate=off\n",
    f"{CONFIG}/devicetree": "dir/tree.dtb\n",
    f"{CONFIG}/entry-token": "test\n",
    f"{CONFIG}/install.conf": f"layout=uki\nBOOT_ROOT={BOOT}\n",
    f"{CONFIG}/uki.conf": "[UKI]\nOSRelease=ID=luo-test\n",
    f"{TREES}/dir/tree.dtb": "a device tree",
}


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def add():
    """Installs a kernel. Returns the exit status, the output, and the sections of the image."""
    for name in ("kernel", "initrd"):
        write(f"{BOOT}/{name}", f"a {name}")
    status, said = run("kernel-install", "add", VERSION, f"{BOOT}/kernel", f"{BOOT}/initrd")
    sections = [f"--section={name}" for name in (".cmdline:text", ".osrel:text", ".initrd:binary", ".dtb:binary")]
    _, text = run("ukify", "--json=short", *sections, "inspect", f"{BOOT}/EFI/Linux/test-{VERSION}.efi")
    return status, said, json.loads(text)


def has(sections, name, text):
    """Whether a section has this text."""
    return sections[name]["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def check(tests):
    status, said, found = add()
    words = found[".cmdline"]["text"].split()
    tests.check("an image gets the parameters that are not set",
                status == 0 and words == ["a=b", "liveupdate=off", "kho=on", *LOG.split(), *TRACE.split()], f"{words} {said}")
    good = found[".osrel"]["text"] == "ID=luo-test" and has(found, ".initrd", "a initrd")
    good = good and has(found, ".dtb", FILES[f"{TREES}/dir/tree.dtb"])
    tests.check("the rest of it is as configured", good, f"{found} {said}")
    changed = [path for path, text in FILES.items() if open(path).read() != text]
    tests.check("the files of the administrator are not changed", not changed, f"{changed}")

    write(f"{CONFIG}/cmdline", "kho=off liveupdate=off ramoops.mem_name=x trace_instance=x\n")
    status, said, found = add()
    text = found[".cmdline"]["text"].strip()
    good = status == 0 and text == "kho=off liveupdate=off ramoops.mem_name=x trace_instance=x"
    tests.check("an image with all parameters stays as it is", good, f"{text} {said}")

    write(f"{CONFIG}/cmdline", FILES[f"{CONFIG}/cmdline"])
    write(REPLACED, f'#!/bin/sh\n[ -z "$KERNEL_INSTALL_CONF_ROOT" ] && exec {UKIFY} "$@"\n', 0o755)
    status, said, found = add()
    text = found[".cmdline"]["text"].strip()
    good = status == 0 and text == "a=b liveupdate=off" and "luod: the image" in said
    tests.check("an image that cannot be built again is used without parameters", good, f"{text} {said}")


def unified(tests):
    """Unified kernel images have their command line inside."""
    for path, text in FILES.items():
        write(path, text)
    try:
        check(tests)
    finally:
        for path in [*FILES, REPLACED]:
            if os.path.exists(path):
                os.remove(path)
        shutil.rmtree(TREES)
