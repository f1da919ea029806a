"""The machine that a figure is from: what it is, how busy it has been, what its programs use."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_VERSIONS = {
    "iperf3": ("iperf3", "--version"),
    "wireguard-go": ("wireguard-go", "--version"),
    "openvpn": ("openvpn", "--version"),
    "vtun": ("dpkg-query", "-W", "-f", "${Version}", "vtun"),
    "iproute2": ("ip", "-V"),
}


def describe() -> dict[str, str]:
    """Kernel, processor, cores, memory and versions, by name; a program that is not there has no entry."""
    memory = int(_found(r"MemTotal: +(\d+)", Path("/proc/meminfo")) or 0)
    facts = {
        "kernel": platform.release(),
        "processor": _found(r"model name\s*: (.+)", Path("/proc/cpuinfo")) or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**20:.0f} GiB",
        "python": platform.python_version(),
    }
    for name, command in _VERSIONS.items():
        if shutil.which(command[0]):
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            if found := re.search(r"\d+(\.[\w+~-]+)+", said.stdout + said.stderr):
                facts[name] = found[0]
    return facts


def busy_seconds() -> float:
    """Processor time of the whole machine since it started, whoever used it."""
    user, nice, system, _, _, interrupts, soft = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + interrupts + soft) / _TICKS


def busy_seconds_of(pids: Iterable[int]) -> float:
    """Processor time of these processes."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def memory_of(pids: Iterable[int]) -> float:
    """MiB of these processes; pages that several share are divided among them."""
    kib = (_found(r"(?m)^Pss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup")) for pid in pids)
    return sum(int(value or 0) for value in kib) / 1024


def _found(pattern: str, file: Path) -> str | None:
    matched = re.search(pattern, file.read_text())
    return matched[1] if matched else None
