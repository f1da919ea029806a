"""Kernel parameters of this network namespace, journalled before they are changed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

from upmt_nf.linux.journal import Journal, SysctlSet
from upmt_nf.model.errors import KernelError

log = logging.getLogger(__name__)

_ROOT = Path("/proc/sys")
_STRICT, _LOOSE = "1", "2"

_FORWARDING_TOUCHES = ("forwarding", "accept_redirects", "send_redirects")
"""What the kernel changes on each interface when ip_forward is written (ip-sysctl: it becomes a router)."""


def read(key: str) -> str | None:
    """The value of `net/ipv4/ip_forward` and the like; None when the kernel has no such parameter."""
    try:
        return (_ROOT / key).read_text().strip()
    except OSError:
        return None


def write(key: str, value: str, journal: Journal) -> None:
    """Set a parameter unless it has that value. Raises KernelError naming it."""
    before = read(key)
    if before == value:
        return
    if before is None:
        raise KernelError(f"this kernel has no parameter {key}")
    journal.note(SysctlSet(key, before))
    log.debug("sysctl -w %s=%s", key.replace("/", "."), value)
    restore(key, value)


def restore(key: str, value: str) -> None:
    """Set a parameter without writing it down. Raises KernelError naming it."""
    try:
        (_ROOT / key).write_text(value + "\n")
    except OSError as reason:
        raise KernelError(f"cannot set {key} to {value}: {reason.strerror}") from reason


def loosen_reverse_path(interfaces: Iterable[str], journal: Journal) -> None:
    """Where the reverse path is checked strictly, check it loosely: inner packets come in by access interfaces.

    The effective value is the larger of `all` and the interface's, and 2 (loose) is larger than 1 (strict).
    """
    strict_for_all = read("net/ipv4/conf/all/rp_filter") == _STRICT
    for interface in interfaces:
        key = f"net/ipv4/conf/{interface}/rp_filter"
        if strict_for_all or read(key) == _STRICT:
            with contextlib.suppress(KernelError):
                write(key, _LOOSE, journal)


def enable_forwarding(journal: Journal) -> None:
    """Let this host forward IPv4. Everything that the kernel changes along with it is written down first."""
    if read("net/ipv4/ip_forward") == "1":
        return
    for directory in sorted((_ROOT / "net/ipv4/conf").iterdir()):
        for name in _FORWARDING_TOUCHES:
            key = f"net/ipv4/conf/{directory.name}/{name}"
            if (value := read(key)) is not None:
                journal.note(SysctlSet(key, value))
    write("net/ipv4/ip_forward", "1", journal)
