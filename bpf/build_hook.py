"""Compiles the fast plane when the package is built (a hatchling build hook); `python bpf/build_hook.py` does it alone.

Without clang the package is built without the fast plane, with a warning that says so.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program, or read by a test
    BuildHookInterface = object

SOURCES = Path(__file__).resolve().parent
OBJECTS = SOURCES.parent / "upmt_nf" / "bpf"
OBJECT = OBJECTS / "upmt.bpf.o"


class CannotCompile(Exception):
    """Why there is no fast plane, in words for whoever builds."""


def compile_programs(
    target: Path = OBJECT, clang: str = "clang", source: Path = SOURCES / "upmt.bpf.c"
) -> None:
    """`source` (C) -> `target`. Raises CannotCompile."""
    found = shutil.which(clang)
    if found is None:
        raise CannotCompile(
            f"there is no {clang}: built without the fast plane; the agent plane works without it "
            "(for both: apt-get install clang libbpf-dev, and build again)"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [
        found, "-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror",
        # The kernel's headers want <asm/types.h>, which Debian keeps with the machine's own.
        f"-I/usr/include/{sysconfig.get_config_var('MULTIARCH') or ''}",
        "-c", str(source), "-o", str(target),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        target.unlink(missing_ok=True)
        raise CannotCompile(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")


def compile_all() -> list[Path]:
    """Every object, with the one that the others are of no use without first. Raises CannotCompile."""
    sources = sorted(SOURCES.glob("*.bpf.c"), key=lambda source: source.stem != OBJECT.stem)
    targets = [OBJECTS / f"{source.stem}.o" for source in sources]
    for source, target in zip(sources, targets, strict=True):
        compile_programs(target, source=source)
    return targets


class BpfBuildHook(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    """Called by hatchling, for wheels and for editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile before files are gathered."""
        try:
            made = compile_all()
        except CannotCompile as reason:
            for left in OBJECTS.glob("*.bpf.o"):
                left.unlink()
            self.app.display_warning(str(reason))
            return
        build_data["artifacts"] += [f"upmt_nf/bpf/{target.name}" for target in made]


if __name__ == "__main__":
    try:
        compile_all()
    except CannotCompile as reason:
        sys.exit(str(reason))
