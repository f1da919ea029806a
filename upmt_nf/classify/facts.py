"""What can be known of the process behind a flow. Values only: `linux/processes.py` finds them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """A process as it was when looked at.

    `command` is the kernel's name of it (at most 15 bytes), `arguments` its command line, `executable` the path of
    its file, `cgroup` its path in the v2 hierarchy, `ancestors` its parents' pids, nearest first.
    """

    pid: int
    command: str
    executable: str
    arguments: tuple[str, ...]
    uid: int
    gid: int
    cgroup: str
    ancestors: tuple[int, ...]

    def names(self) -> tuple[str, ...]:
        """Every name that people may mean: the kernel's, the file's, that of the first argument."""
        first = self.arguments[0].rpartition("/")[2] if self.arguments else ""
        return tuple(
            dict.fromkeys(name for name in (self.command, self.executable.rpartition("/")[2], first) if name)
        )
