"""Socket inode -> process, and what can be known of a process, from /proc.

A look-up first tries where the processes that answered lately would have it, then searches those, then those of the
socket's owner, then all. A process that ends or is replaced meanwhile gives no answer rather than a wrong one.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from upmt_nf.classify.facts import Ancestor, ProcessFacts

_REMEMBERED = 64
_DEEPEST = 64
_NEXT_NUMBERS = 4
_MANY_FILES = 2048
_MOST_SAVED = 0.25
"""Seconds of searching that a quiet time saves up for a burst."""


class Processes:
    """Looks into /proc of the pid namespace that this process is in.

    Packets wait for the answers, so searching is limited to `share` of the time: a program with very many sockets
    must not hold everybody up. What was not looked for is counted in `unsearched`. The pid `ignored` owns nothing.
    """

    def __init__(self, share: float = 0.3, ignored: int = 0) -> None:
        self._ignored = ignored
        self._lately: OrderedDict[int, _Known] = OrderedDict()
        self._share = share
        self._budget = _MOST_SAVED
        self._filled_at = 0.0
        self.unsearched = 0

    def owner_of(self, inode: int, uid: int, now: float) -> int | None:
        """The pid that has a socket open, or None. `now` in seconds."""
        wanted = f"socket:[{inode}]"
        for pid, known in reversed(self._lately.items()):
            if known.has_next(pid, wanted):
                self._lately.move_to_end(pid)
                return pid
        self._budget = min(_MOST_SAVED, self._budget + (now - self._filled_at) * self._share)
        self._filled_at = now
        if self._budget <= 0:
            self.unsearched += 1
            return None
        began = time.perf_counter()
        try:
            return self._search(wanted, uid)
        finally:
            self._budget -= time.perf_counter() - began

    def has_open(self, pid: int, inode: int) -> bool:
        """Whether a process has a socket open. One with very many files is believed to have it, if it is there."""
        wanted = f"socket:[{inode}]"
        known = self._lately.get(pid)
        if known is not None and known.has_next(pid, wanted):
            self._lately.move_to_end(pid)
            return True
        if _count_of_files(pid) > _MANY_FILES:
            return _start_time(pid) is not None
        for number, name in _open_files(pid):
            if name == wanted:
                return self._remember(pid, number) is not None
        return False

    def _search(self, wanted: str, uid: int) -> int | None:
        """The processes that answered lately, those of the socket's owner, the others: one may be set-uid."""
        own: list[int] = []
        others: list[int] = []
        for pid in _newest_first(self._ignored):
            (own if _uid_of(pid) == uid else others).append(pid)
        for pid in (*reversed(self._lately), *own, *others):
            for number, name in _open_files(pid):
                if name == wanted:
                    return self._remember(pid, number)
        return None

    def owners_of(self, inodes: Collection[int]) -> dict[int, int]:
        """Which pid has which of these sockets open, by one search of all processes."""
        wanted = {f"socket:[{inode}]": inode for inode in inodes if inode}
        found: dict[int, int] = {}
        for pid in _newest_first(self._ignored) if wanted else ():
            for _, name in _open_files(pid):
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
            cgroup, others = cgroups_in(_read(pid, "cgroup"))
        except OSError:
            return None
        facts = ProcessFacts(
            pid=pid,
            command=command,
            executable=_executable_of(pid),
            arguments=arguments,
            uid=int(status["Uid"].split()[1]),
            gid=int(status["Gid"].split()[1]),
            cgroup=cgroup,
            ancestors=_ancestors(pid),
            started=int(began) if began is not None and began.isdigit() else 0,
            other_cgroups=others,
        )
        return facts if began is not None and _start_time(pid) == began else None

    @staticmethod
    def command_of(pid: int) -> str:
        """The kernel's name of a process, or nothing when it is gone."""
        try:
            return _read(pid, "comm").removesuffix("\n")
        except OSError:
            return ""

    def _remember(self, pid: int, number: int) -> int | None:
        began = _start_time(pid)
        if began is None:
            return None
        self._lately[pid] = _Known(began, number)
        self._lately.move_to_end(pid)
        while len(self._lately) > _REMEMBERED:
            self._lately.popitem(last=False)
        return pid


@dataclass(slots=True)
class _Known:
    """A process that had a socket at file number `number`; its next sockets have the next numbers, as a rule."""

    began: str
    number: int

    def has_next(self, pid: int, wanted: str) -> bool:
        """Whether it has the wanted socket there."""
        for number in range(self.number, self.number + _NEXT_NUMBERS):
            try:
                if os.readlink(f"/proc/{pid}/fd/{number}") == wanted:
                    self.number = number
                    return _start_time(pid) == self.began
            except OSError:
                continue
        return False


def _newest_first(ignored: int) -> list[int]:
    """All pids but one, the likeliest first: what opens new flows is often a new process."""
    found = sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True)
    return [pid for pid in found if pid != ignored]


def _open_files(pid: int) -> Iterator[tuple[int, str]]:
    """Number and name of what a process has open, the highest number first: new sockets have high numbers."""
    directory = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(directory)
    except OSError:
        return
    for number in reversed(numbers):
        try:
            yield int(number), os.readlink(f"{directory}/{number}")
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


def _executable_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return ""


def _ancestors(pid: int) -> tuple[Ancestor, ...]:
    found: list[Ancestor] = []
    parent = ancestor_of(pid)
    while parent is not None and len(found) < _DEEPEST:
        found.append(parent)
        parent = ancestor_of(parent.pid)
    return tuple(found)


def ancestor_of(pid: int) -> Ancestor | None:
    """The parent of a process, or None."""
    try:
        parent = int(_read(pid, "stat").rpartition(")")[2].split()[1])
        if parent <= 0:
            return None
        before, _, after = _read(parent, "stat").rpartition(")")
        started = int(after.split()[19])
    except (OSError, IndexError, ValueError):
        return None
    return Ancestor(parent, started, before.partition("(")[2], _executable_of(parent))


def cgroup_of(pid: int) -> tuple[str, tuple[str, ...]] | None:
    """The control groups of a process as `ProcessFacts` has them; None when it is gone."""
    try:
        return cgroups_in(_read(pid, "cgroup"))
    except OSError:
        return None


def cgroups_in(text: str) -> tuple[str, tuple[str, ...]]:
    """/proc/PID/cgroup -> the path in the v2 hierarchy, else in systemd's, else `/`; and the other paths."""
    paths: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        paths["v2" if number == "0" else controllers] = path
    own = paths.get("v2", paths.get("name=systemd", "/"))
    return own, tuple(path for path in dict.fromkeys(paths.values()) if path not in ("/", own))


def is_in_our_network_namespace(pid: int) -> bool:
    """Whether a process is in the network namespace of this thread."""
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat("/proc/thread-self/ns/net").st_ino
    except OSError:
        return False


def _count_of_files(pid: int) -> int:
    """How many files a process has open; 0 on kernels before 6.2, which do not say."""
    try:
        return os.stat(f"/proc/{pid}/fd").st_size
    except OSError:
        return 0


def _read(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
        return file.read(1 << 16).decode("utf-8", "surrogateescape")
