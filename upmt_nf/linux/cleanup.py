"""Puts everything back: after a clean stop, and after `kill -9` at any moment, from the journal alone.

Idempotent: what is already gone is passed over. Connection tracking entries are left alone, as they hold the flows of
a daemon that comes back.
"""

from __future__ import annotations

import contextlib
import logging
import socket

from upmt_nf.linux import cgroups, netfilter, routes, sysctl
from upmt_nf.linux.journal import (
    CgroupMade,
    HierarchyMounted,
    InterfaceMade,
    Journal,
    Record,
    RoutingChanged,
    RulesInstalled,
    SysctlSet,
)
from upmt_nf.linux.virtual_interface import remove_interface
from upmt_nf.model.errors import KernelError, UpmtError
from upmt_nf.model.names import CONTROL_SOCKET
from upmt_nf.routing.plan import Routing

log = logging.getLogger(__name__)


def cleanup(journal: Journal) -> list[str]:
    """Undo what the journal says, newest first; gives what was put back, in words.

    Goes on when one thing cannot be undone, keeps the journal then and raises KernelError naming all of them.
    """
    done: list[str] = []
    failed: list[str] = []
    for record in reversed(list(journal.records())):
        try:
            if said := _undo(record, journal):
                log.debug("put back: %s", said)
                done.append(said)
        except UpmtError as reason:
            failed.append(str(reason))
    if failed:
        raise KernelError("not everything could be put back: " + "; ".join(failed))
    journal.erase()
    return done


def refuse_beside_daemon() -> None:
    """Raises UpmtError while a daemon runs in this network namespace: it would be cut off in the middle of its work."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.settimeout(2.0)
        probe.connect(CONTROL_SOCKET)
        raise UpmtError(
            "a UPMT daemon runs in this network namespace: stop it first, it puts everything back itself"
        )


def _undo(record: Record, journal: Journal) -> str | None:
    match record:
        case SysctlSet(key, before):
            if sysctl.read(key) in (before, None):
                return None
            sysctl.restore(key, before)
            return f"sysctl {key.replace('/', '.')} = {before}"
        case InterfaceMade(name):
            return f"interface {name} removed" if remove_interface(name) else None
        case RulesInstalled(version):
            tables = netfilter.remove(version)
            family = "" if version == 4 else "IPv6 "
            return f"netfilter chains removed from {family}{', '.join(tables)}" if tables else None
        case RoutingChanged():
            changes = routes.apply(Routing(), journal)
            return f"{len(changes)} routes and rules removed" if changes else None
        case CgroupMade(path):
            return f"cgroup {path} removed" if cgroups.remove_directory(path) else None
        case HierarchyMounted(path):
            return f"{path} unmounted" if cgroups.unmount(path) else None
