"""One cgroup an application, in the v2 hierarchy: a process that joins before exec is known from its first packet.

The cgroups live as long as the daemon, since netfilter resolves a path when a rule is loaded: a directory that is
deleted and made again would be silently dead.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import re
from pathlib import Path

from upmt_nf.linux.journal import CgroupMade, HierarchyMounted, Journal
from upmt_nf.linux.netns import namespace_cookie
from upmt_nf.linux.socket_marks import mark_sockets
from upmt_nf.model.errors import FacilityError, KernelError, UsageError
from upmt_nf.model.identity import ApplicationName
from upmt_nf.model.names import CGROUP_ROOT

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+:\-]{0,63}")


class ApplicationCgroups:
    """The cgroups of one daemon: CGROUP_ROOT/<namespace>/<application>. Raises FacilityError without cgroup v2."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._root = hierarchy() or self._mount()
        self._own = f"{CGROUP_ROOT}/{namespace_cookie()}"

    def path_of(self, application: ApplicationName) -> str:
        """The path below the hierarchy's root, as `-m cgroup --path` takes it. Raises UsageError for a bad name."""
        if not _NAME.fullmatch(application) or ".." in application:
            raise UsageError(f"{application!r} cannot be the name of a cgroup")
        return f"{self._own}/{application}"

    def make(self, application: ApplicationName) -> str:
        """Make sure that an application's cgroup is there; gives its path below the root."""
        path = self.path_of(application)
        for part in (CGROUP_ROOT, self._own, path):
            directory = self._root / part
            self._journal.note(CgroupMade(str(directory)))
            # With parents: another namespace's daemon may just have removed the root, which it saw empty.
            directory.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def hierarchy(self) -> Path:
        """Where cgroup v2 is mounted."""
        return self._root

    def identity_of(self, path: str) -> int | None:
        """What tells a cgroup from one that is made anew at the same path; None when there is none."""
        try:
            return (self._root / path).stat().st_ino
        except OSError:
            return None

    def join(self, application: ApplicationName, pid: int) -> None:
        """Put a process into an application's cgroup; what it starts from now on belongs to it as well."""
        path = self._root / self.make(application) / "cgroup.procs"
        try:
            path.write_text(f"{pid}\n")
        except OSError as reason:
            raise KernelError(
                f"process {pid} cannot join the cgroup of {application}: {reason.strerror}"
            ) from reason

    def in_place(self) -> dict[ApplicationName, str]:
        """Cgroups of this namespace that have members: application -> path below the root."""
        found: dict[ApplicationName, str] = {}
        with contextlib.suppress(OSError):
            for directory in sorted((self._root / self._own).iterdir()):
                if directory.is_dir() and (directory / "cgroup.procs").read_text().strip():
                    found[ApplicationName(directory.name)] = f"{self._own}/{directory.name}"
        return found

    def mark_sockets(self, path: str, mark: int) -> None:
        """Let sockets created in the cgroup at `path` (below the root) have `mark`. Raises FacilityError."""
        mark_sockets(self._root / path, mark)

    def _mount(self) -> Path:
        """No hierarchy is to be seen, as inside `ip netns exec`, which hides /sys: mount one for ourselves."""
        place = self._journal.directory / "cgroup2"
        self._journal.note(HierarchyMounted(str(place)))
        place.mkdir(parents=True, exist_ok=True)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"upmt", str(place).encode(), b"cgroup2", 0, None) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise FacilityError(f"no cgroup v2 hierarchy is mounted and none can be: {reason}")
        return place


def hierarchy(mounts: str | None = None) -> Path | None:
    """Where cgroup v2 is mounted in this mount namespace. `mounts` is what /proc/self/mounts says, if given."""
    for line in (Path("/proc/self/mounts").read_text() if mounts is None else mounts).splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            place = Path(fields[1].encode().decode("unicode_escape"))
            if (place / "cgroup.procs").exists():
                return place
    return None


def remove_directory(path: str) -> bool:
    """Remove a cgroup of ours; processes still in it go to the hierarchy's root. False when it is not there."""
    directory = Path(path)
    if not directory.is_dir():
        return False
    root = directory
    while (root.parent / "cgroup.procs").exists():
        root = root.parent
    with contextlib.suppress(OSError):
        for pid in (directory / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (root / "cgroup.procs").write_text(pid)
    try:
        directory.rmdir()
    except OSError as reason:
        if reason.errno in (errno.EBUSY, errno.ENOTEMPTY) and directory.name == CGROUP_ROOT:
            # Another namespace's daemon has its cgroups below.
            return False
        raise KernelError(f"cgroup {path} cannot be removed: {reason.strerror}") from reason
    return True


def unmount(path: str) -> bool:
    """Unmount a hierarchy that we mounted; False when it is not mounted."""
    libc = ctypes.CDLL(None, use_errno=True)
    unmounted: bool = libc.umount2(path.encode(), 2) == 0
    with contextlib.suppress(OSError):
        Path(path).rmdir()
    return unmounted
