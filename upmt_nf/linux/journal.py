"""What was changed on this host and how it was before: written down before each change, read by `cleanup`.

One JSON object a line, flushed to the kernel before the change is made, so it survives `kill -9` at any moment. It
lives in /run: a reboot undoes the changes and the journal alike.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from upmt_nf.linux.netns import state_directory


@dataclass(frozen=True, slots=True)
class SysctlSet:
    """A kernel parameter got another value; `key` with slashes, such as net/ipv4/ip_forward."""

    key: str
    before: str


@dataclass(frozen=True, slots=True)
class InterfaceMade:
    """We are making this interface."""

    name: str


@dataclass(frozen=True, slots=True)
class RulesInstalled:
    """We are installing our chains; `version` 4 or 6."""

    version: int


@dataclass(frozen=True, slots=True)
class RoutingChanged:
    """We are adding routes and rules of our protocol number."""


@dataclass(frozen=True, slots=True)
class CgroupMade:
    """We are making this directory in the cgroup hierarchy."""

    path: str


@dataclass(frozen=True, slots=True)
class HierarchyMounted:
    """We are mounting the cgroup hierarchy here."""

    path: str


@dataclass(frozen=True, slots=True)
class MapsPinned:
    """We are pinning the fast plane's maps in this directory."""

    path: str


@dataclass(frozen=True, slots=True)
class QdiscMade:
    """We are giving this interface a clsact."""

    interface: str


@dataclass(frozen=True, slots=True)
class FilterAttached:
    """We are putting a program of ours on this interface; `direction` is `ingress` or `egress`."""

    interface: str
    direction: str


Record = (
    SysctlSet
    | InterfaceMade
    | RulesInstalled
    | RoutingChanged
    | CgroupMade
    | HierarchyMounted
    | MapsPinned
    | QdiscMade
    | FilterAttached
)
_KINDS: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (
        SysctlSet,
        InterfaceMade,
        RulesInstalled,
        RoutingChanged,
        CgroupMade,
        HierarchyMounted,
        MapsPinned,
        QdiscMade,
        FilterAttached,
    )
}


class Journal:
    """The journal of one network namespace. Opening it again goes on where it ended."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or state_directory()
        self.path = self.directory / "journal"
        self._known = set(self.records())

    def note(self, record: Record) -> None:
        """Write `record` down, unless it is there already. A sysctl's first value is the one that counts."""
        if record in self._known or (isinstance(record, SysctlSet) and self._has_sysctl(record.key)):
            return
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        line = json.dumps({"kind": type(record).__name__, **asdict(record)}) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # A line torn by a crash must not swallow this one: an empty line is passed over when reading.
            os.write(handle, b"\n" + line.encode())
        finally:
            os.close(handle)
        self._known.add(record)

    def records(self) -> Iterator[Record]:
        """What is written down, oldest first; torn and unknown lines are passed over."""
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        for line in text.splitlines():
            try:
                fields = json.loads(line)
                yield _KINDS[fields.pop("kind")](**fields)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue

    def erase(self) -> None:
        """Everything is put back: forget it."""
        self.path.unlink(missing_ok=True)
        self._known.clear()
        try:
            self.directory.rmdir()
        except OSError:
            return

    def _has_sysctl(self, key: str) -> bool:
        return any(isinstance(known, SysctlSet) and known.key == key for known in self._known)
