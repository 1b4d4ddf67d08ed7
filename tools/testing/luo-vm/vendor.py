# SPDX-License-Identifier: GPL-2.0

"""Empties the vendored crates that this system does not need.

Cargo wants all crates of the lock file, also those for other systems and for tests. Some of
these contain binaries without a source, and they would be most of the package.

    vendor.py Cargo.toml DIR
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys

TARGETS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")


def needed(manifest):
    """The names and versions of the crates that are compiled."""
    found = set()
    for target in TARGETS:
        command = ["cargo", "metadata", "--format-version=1", "--filter-platform", target]
        done = subprocess.run([*command, "--manifest-path", manifest], stdout=subprocess.PIPE, check=True)
        metadata = json.loads(done.stdout)
        nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
        used, more = set(), set(metadata["workspace_members"])
        while more:
            used |= more
            more = {dep["pkg"] for id in more for dep in nodes[id]["deps"]
                    if any(kind["kind"] != "dev" for kind in dep["dep_kinds"])} - used
        found |= {(p["name"], p["version"]) for p in metadata["packages"] if p["id"] in used}
    return found


def empty(crate):
    """Leaves the manifest, and a library without contents."""
    for path in crate.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name not in ("Cargo.toml", ".cargo-checksum.json"):
            path.unlink()
    (crate / "src").mkdir()
    (crate / "src/lib.rs").write_text("")
    manifest = crate / "Cargo.toml"
    text = re.sub(r"^build = .*$", "build = false", manifest.read_text(), flags=re.MULTILINE)
    manifest.write_text(re.sub(r"^links = .*\n", "", text, flags=re.MULTILINE))
    checksum = crate / ".cargo-checksum.json"
    package = json.loads(checksum.read_text())["package"]
    checksum.write_text(json.dumps({"files": {}, "package": package}))


def main(manifest, vendor):
    crates = {f"{name}-{version}" for name, version in needed(manifest)}
    for crate in sorted(pathlib.Path(vendor).iterdir()):
        if crate.is_dir() and crate.name not in crates:
            print(f"emptying {crate.name}")
            empty(crate)


main(*sys.argv[1:])
