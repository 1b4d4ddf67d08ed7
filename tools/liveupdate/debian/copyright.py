# SPDX-License-Identifier: GPL-2.0

"""Writes debian/copyright with a paragraph for each vendored crate.

    copyright.py vendor copyright

Fails if the text of a license is missing in `copyright`.
"""

import pathlib
import re
import sys
import tomllib


def expression(text, known):
    """A license expression of Cargo as one of Debian, with alternatives that are known.

    None if there is no such alternative.
    """
    parts = []
    for part in text.replace("/", " OR ").split(" AND "):
        names = [name.strip().replace("WITH", "with") for name in part.strip("() ").split(" OR ")]
        names = [name for name in names if name in known]
        if not names:
            return None
        parts.append(" or ".join(names))
    return ", and ".join(parts) if any(" or " in part for part in parts) else " and ".join(parts)


def main(vendor, copyright):
    text = pathlib.Path(copyright).read_text()
    known = set(re.findall(r"^License: (.*)\n ", text, re.MULTILINE))
    paragraphs = []
    for crate in sorted(path.parent for path in pathlib.Path(vendor).glob("*/Cargo.toml")):
        package = tomllib.loads((crate / "Cargo.toml").read_text())["package"]
        license = expression(package.get("license", "none"), known)
        if not license:
            sys.exit(f"{crate.name}: the text of its license, {package.get('license')}, is missing in {copyright}")
        authors = package.get("authors") or [f"The authors of {package['name']}"]
        holders = "\n           ".join(re.sub(r"\s*<.*>", "", author) for author in authors)
        paragraphs.append(f"Files: vendor/{crate.name}/*\nCopyright: {holders}\nLicense: {license}\n\n")
    at = text.index("License: GPL-2.0-only\n ")
    print(text[:at] + "".join(paragraphs) + text[at:], end="")


main(*sys.argv[1:])
