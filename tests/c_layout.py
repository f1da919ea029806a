"""Where the fields of a struct begin, in C and in Python."""

from __future__ import annotations

import struct
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "bpf"


def offsets(layout: struct.Struct) -> list[int]:
    """Where each field of a struct begins: a field more, and its place is the size of those before it."""
    form = layout.format.lstrip("=")
    fields, count = [], ""
    for letter in form:
        if letter.isdigit():
            count += letter
            continue
        if letter in "sx":
            fields.append(count + letter)
        else:
            fields += [letter] * int(count or 1)
        count = ""
    return [
        struct.calcsize("=" + "".join(fields[:at]))
        for at, field in enumerate(fields)
        if not field.endswith("x")
    ]
