"""Which container a control group is of: the names that container engines give their cgroups.

Docker, Podman, containerd and CRI-O write the container's 64-digit id, LXC and systemd-nspawn its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_LEAST_DIGITS = 12
"""Of an id: as many as engines print. Fewer could mean another container one day."""

_ID = re.compile(r"(?:[a-z]+(?:-[a-z]+)*-)?([0-9a-f]{64})(?:\.scope)?")
_NAMED = (
    re.compile(r"lxc\.payload\.(.+)"),
    re.compile(r"systemd-nspawn@(.+)\.service"),
    re.compile(r"machine-(.+)\.scope"),
)


def containers_in(paths: Iterable[str]) -> set[str]:
    """Ids and names of the containers that a process with these cgroup paths is in, nested ones included."""
    found: set[str] = set()
    for path in paths:
        parts = path.strip("/").split("/")
        for before, part in zip(["", *parts], parts, strict=False):
            if matched := _ID.fullmatch(part):
                found.add(matched[1])
            elif before == "lxc":
                found.add(part)
            else:
                found.update(
                    matched[1].replace("\\x2d", "-") for form in _NAMED if (matched := form.fullmatch(part))
                )
    return found


def is_in_container(wanted: str, paths: Iterable[str]) -> bool:
    """Whether a container of that name or id is among them; an id may be cut to 12 digits or more."""
    for name in containers_in(paths):
        if name == wanted or (len(wanted) >= _LEAST_DIGITS and len(name) == 64 and name.startswith(wanted)):
            return True
    return False
