# SPDX-License-Identifier: GPL-2.0

"""Unified kernel images, with the sections that luoctl reads, and no code."""

import struct

FILE_ALIGNMENT = 0x200
SECTION_ALIGNMENT = 0x1000
AMD64 = 0x8664
EXECUTABLE = 0x22
PE32_PLUS = 0x20b
EFI_APPLICATION = 10
DATA = 0x40000040
DIRECTORIES = 16


def align(size, alignment):
    return -(-size // alignment) * alignment


def write(path, sections):
    """Writes an image of sections, by their names."""
    optional = 112 + 8 * DIRECTORIES
    headers = align(0x40 + 24 + optional + 40 * len(sections), FILE_ALIGNMENT)
    table, contents, address = b"", b"", SECTION_ALIGNMENT
    for name, data in sections.items():
        raw = data.ljust(align(len(data), FILE_ALIGNMENT), b"\0")
        table += struct.pack("<8sIIIIIIHHI", name.encode(), len(data), address, len(raw), headers + len(contents),
                             0, 0, 0, 0, DATA)
        contents += raw
        address += align(len(data), SECTION_ALIGNMENT)
    image = struct.pack("<2s58xI", b"MZ", 0x40)
    image += struct.pack("<4sHHIIIHH", b"PE\0\0", AMD64, len(sections), 0, 0, 0, optional, EXECUTABLE)
    image += struct.pack("<HBBIIIIIQII6HIIIIHH4QII", PE32_PLUS, 0, 0, 0, 0, 0, 0, 0, 0, SECTION_ALIGNMENT,
                         FILE_ALIGNMENT, 0, 0, 0, 0, 0, 0, 0, address, headers, 0, EFI_APPLICATION, 0,
                         0, 0, 0, 0, 0, DIRECTORIES)
    image += bytes(8 * DIRECTORIES) + table
    with open(path, "wb") as file:
        file.write(image.ljust(headers, b"\0") + contents)
