"""One target under atheris: `python -m fuzz.one TARGET [libFuzzer options and corpus directories]`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

with atheris.instrument_imports(include=["upmt_nf"]):
    from fuzz.targets import TARGETS


def main() -> None:
    name = sys.argv[1]
    with tempfile.TemporaryDirectory() as directory:
        # A merge starts its program again and again, by the name that it was called with.
        program = Path(directory) / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fuzz.one {name} "$@"\n')
        program.chmod(0o700)
        atheris.Setup([str(program), *sys.argv[2:]], TARGETS[name].check)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
