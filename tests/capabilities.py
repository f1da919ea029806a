"""Runs programs with what the systemd units leave the daemons."""

from __future__ import annotations

import re
from pathlib import Path

UNITS = Path(__file__).resolve().parents[1] / "packaging" / "systemd"


def as_unit(role: str) -> tuple[str, ...]:
    """What limits a program as the unit of a role does (setpriv of util-linux)."""
    text = (UNITS / f"upmt-{role}.service").read_text(encoding="utf-8")
    (line,) = re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)
    kept = ",".join(f"+{name.removeprefix('CAP_').lower()}" for name in line.split())
    return ("setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--no-new-privs")
