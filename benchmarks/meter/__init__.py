"""The program that sends, receives and times the packets (`meter.c`), compiled where it is needed."""

from __future__ import annotations

import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("meter.c")


def build(directory: Path) -> str:
    """Compile it into `directory`; gives its path."""
    program = directory / "meter"
    subprocess.run(("gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(_SOURCE)), check=True)
    return str(program)
