"""What can be known of the process behind a flow. Values only: `linux/processes.py` finds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Ancestor(NamedTuple):
    """A parent, its parent and so on: enough to tell it again. `started` as in `ProcessFacts`."""

    pid: int
    started: int = 0
    command: str = ""
    executable: str = ""

    def names(self) -> tuple[str, ...]:
        """What the kernel calls it and what its file is called."""
        return tuple(name for name in (self.command, self.executable.rpartition("/")[2]) if name)


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """A process as it was when looked at.

    `command` is the kernel's name of it (at most 15 bytes), `arguments` its command line, `executable` the path of
    its file, `cgroup` its path in the v2 hierarchy (where there is none, in systemd's), `ancestors` its parents,
    nearest first, `started` when it began (clock ticks since boot; 0: not known), which a reused pid changes.
    `other_cgroups` are its paths in v1 hierarchies, where containers may be named as well.
    """

    pid: int
    command: str
    executable: str
    arguments: tuple[str, ...]
    uid: int
    gid: int
    cgroup: str
    ancestors: tuple[Ancestor, ...]
    started: int = 0
    other_cgroups: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """Every name that people may mean: the kernel's, the file's, that of the first argument, that of a script."""
        first, script = (argument.rpartition("/")[2] for argument in (*self.arguments, "", "")[:2])
        if not (self.command and script.startswith(self.command)):
            script = ""
        found = (self.command, self.executable.rpartition("/")[2], first, script)
        return tuple(dict.fromkeys(name for name in found if name))
