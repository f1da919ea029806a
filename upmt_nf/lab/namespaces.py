"""The lab's network namespaces: LAB-HOST, as `ip netns` knows them. Only the network namespace is entered, so /sys
and its cgroups stay in sight.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from upmt_nf.lab.topology import ALL_HOSTS
from upmt_nf.model.errors import FacilityError, KernelError, UpmtError, UsageError

_DIRECTORY = Path("/run/netns")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,31}")
_CLONE_NEWNET = 0x40000000


def check_lab_name(name: str) -> str:
    """The name of a lab. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name for a lab: 1 to 32 letters, digits, '_' and '-'")
    return name


def namespace(lab: str, host: str) -> str:
    """The namespace of a host. Raises UsageError for a host that labs do not have."""
    if host not in ALL_HOSTS:
        raise UsageError(f"a lab has no host {host!r}; it has {', '.join(ALL_HOSTS)}")
    return f"{lab}-{host}"


def exists(lab: str, host: str) -> bool:
    """Whether that namespace is there."""
    return (_DIRECTORY / namespace(lab, host)).exists()


def enter(lab: str, host: str) -> None:
    """Move this thread into a host's network namespace. Raises UpmtError when there is no such lab."""
    try:
        handle = os.open(_DIRECTORY / namespace(lab, host), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as reason:
        raise UpmtError(f"there is no lab {lab!r}: `upmt lab up --name {lab}` makes it") from reason
    try:
        _set_namespace(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def entered(lab: str, host: str) -> Iterator[None]:
    """Be in a host's network namespace for a while."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter(lab, host)
        yield
    finally:
        _set_namespace(home)
        os.close(home)


def processes_in(lab: str, host: str) -> list[int]:
    """The processes that are in a host's network namespace."""
    try:
        inode = os.stat(_DIRECTORY / namespace(lab, host)).st_ino
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "ns/net").stat().st_ino == inode:
                    found.append(int(entry.name))
    return found


def run(*command: str) -> str:
    """Run a tool where this thread is; gives its output. Raises KernelError with what it said."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError as reason:
        raise FacilityError(f"{command[0]} is not installed: `make setup` installs it") from reason
    if done.returncode != 0:
        raise KernelError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


@contextlib.contextmanager
def locked(lab: str) -> Iterator[None]:
    """Let nobody else change this lab meanwhile. The kernel takes the lock back when the process ends."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        try:
            lock.bind(f"\0upmt/lab/{lab}")
        except OSError as reason:
            raise UpmtError(f"lab {lab!r} is being changed by another command") from reason
        yield


def _set_namespace(handle: int) -> None:
    # os.setns came with Python 3.12; pyroute2 has it too, but takes 0.2 s to load, for each `lab exec`.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, _CLONE_NEWNET) != 0:
        raise KernelError(f"cannot enter a network namespace: {os.strerror(ctypes.get_errno())}")
