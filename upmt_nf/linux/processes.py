"""Socket inode -> process, and what can be known of a process, from /proc.

A look-up first asks the processes that answered lately, then those of the socket's owner, then all. A process that
ends or is replaced meanwhile gives no answer rather than a wrong one.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Collection, Iterator

from upmt_nf.classify.facts import ProcessFacts

_REMEMBERED = 64
_DEEPEST = 64
_SEARCH_INTERVAL = 0.1


class Processes:
    """Looks into /proc of the pid namespace that this process is in."""

    def __init__(self) -> None:
        self._lately: OrderedDict[int, str] = OrderedDict()
        self._searched_at = float("-inf")

    def owner_of(self, inode: int, uid: int, now: float, *, is_urgent: bool = True) -> int | None:
        """The pid that has a socket open, or None.

        Not urgent: the answer is for display only, so all of /proc is searched ten times a second at most.
        """
        wanted = f"socket:[{inode}]"
        for pid, began in reversed(self._lately.items()):
            if _has_open(pid, wanted) and _start_time(pid) == began:
                self._lately.move_to_end(pid)
                return pid
        if not is_urgent and now - self._searched_at < _SEARCH_INTERVAL:
            return None
        self._searched_at = now
        others: list[int] = []
        for pid in _newest_first():
            if _uid_of(pid) == uid:
                if _has_open(pid, wanted):
                    return self._remember(pid)
            else:
                others.append(pid)
        # A set-uid program may hold a socket that another user made.
        for pid in others:
            if _has_open(pid, wanted):
                return self._remember(pid)
        return None

    @staticmethod
    def owners_of(inodes: Collection[int]) -> dict[int, int]:
        """Which pid has which of these sockets open, by one search of all processes."""
        wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
        found: dict[int, int] = {}
        for pid in _newest_first() if wanted else ():
            for name in _open_files(pid):
                if name in wanted:
                    found.setdefault(wanted[name], pid)
        return found

    def facts_of(self, pid: int) -> ProcessFacts | None:
        """What can be known of a process; None when it is gone."""
        began = _start_time(pid)
        try:
            status = _status(pid)
            command = _read(pid, "comm").removesuffix("\n")
            arguments = tuple(word for word in _read(pid, "cmdline").split("\0") if word)
            cgroup = next(
                (line[3:] for line in _read(pid, "cgroup").splitlines() if line.startswith("0::")), "/"
            )
        except OSError:
            return None
        try:
            executable = os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
        except OSError:
            executable = ""
        facts = ProcessFacts(
            pid=pid,
            command=command,
            executable=executable,
            arguments=arguments,
            uid=int(status["Uid"].split()[1]),
            gid=int(status["Gid"].split()[1]),
            cgroup=cgroup,
            ancestors=_ancestors(pid),
        )
        return facts if began is not None and _start_time(pid) == began else None

    @staticmethod
    def command_of(pid: int) -> str:
        """The kernel's name of a process, or nothing when it is gone."""
        try:
            return _read(pid, "comm").removesuffix("\n")
        except OSError:
            return ""

    def _remember(self, pid: int) -> int | None:
        began = _start_time(pid)
        if began is None:
            return None
        self._lately[pid] = began
        while len(self._lately) > _REMEMBERED:
            self._lately.popitem(last=False)
        return pid


def _newest_first() -> list[int]:
    """All pids, the likeliest first: what opens new flows is often a new process."""
    return sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True)


def _has_open(pid: int, wanted: str) -> bool:
    return any(name == wanted for name in _open_files(pid))


def _open_files(pid: int) -> Iterator[str]:
    """What a process has open, the highest number first: new sockets have high numbers, as a rule."""
    directory = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(directory)
    except OSError:
        return
    for number in reversed(numbers):
        try:
            yield os.readlink(f"{directory}/{number}")
        except OSError:
            continue


def _start_time(pid: int) -> str | None:
    """Field 22 of /proc/PID/stat: a reused pid has another one."""
    try:
        return _read(pid, "stat").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def _uid_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _status(pid: int) -> dict[str, str]:
    lines = _read(pid, "status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _ancestors(pid: int) -> tuple[int, ...]:
    found: list[int] = []
    while len(found) < _DEEPEST:
        try:
            pid = int(_read(pid, "stat").rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            break
        if pid <= 0:
            break
        found.append(pid)
    return tuple(found)


def _read(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
        return file.read(1 << 16).decode("utf-8", "surrogateescape")
