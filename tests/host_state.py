"""All that UPMT may change on a host, as text: to be compared byte for byte."""

from __future__ import annotations

import difflib
from pathlib import Path

from lab_driver import Lab

STATE = """
ip rule; ip -6 rule
ip route show table all | grep -v "^local\\|^broadcast\\|proto kernel\\|^multicast" | sort
ip -6 route show table all proto 117
ip -o link | sed 's/ state [A-Z]*//'
ip -o -4 addr
iptables-legacy-save | grep -v '^#' | sed 's/\\[[0-9:]*\\]//'
ip6tables-legacy-save | grep -v '^#' | sed 's/\\[[0-9:]*\\]//'
sysctl -a 2>/dev/null | grep '^net\\.ipv4\\.\\(conf\\|ip_forward\\)\\|^net\\.ipv6\\.conf'
"""


def state_of(lab: Lab, host: str) -> list[str]:
    return lab.on(host, "sh", "-c", STATE).stdout.splitlines()


def assert_as_before(before: list[str], lab: Lab, host: str) -> None:
    after = state_of(lab, host)
    assert after == before, "\n".join(difflib.unified_diff(before, after, "before", "after", lineterm=""))


def is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()
