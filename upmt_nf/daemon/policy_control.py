"""The mobile host's commands about policies on the control socket: lock, release, handovers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from upmt_nf.daemon.control_server import Handler
from upmt_nf.mobility.host_events import ApplicationLocked
from upmt_nf.model.errors import UpmtError, UsageError
from upmt_nf.model.identity import ApplicationName, NetworkName

if TYPE_CHECKING:
    from upmt_nf.daemon.host_daemon import HostDaemon

READING = frozenset(("handovers",))
"""What any user may ask."""
_MOST_AT_ONCE = 1000


class PolicyControl:
    """The handlers. Each takes the request's arguments and the caller's pid."""

    def __init__(self, daemon: HostDaemon) -> None:
        self._daemon = daemon

    def commands(self) -> dict[str, Handler]:
        """Handlers by name."""
        return {
            "lock": self.lock,
            "release": self.release,
            "handovers": self.handovers,
        }

    async def lock(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """Keep an application on a network, by default where it is."""
        name = self._application(arguments)
        machine = self._daemon.machine
        network = arguments.get("to") or machine.applications[name].network
        if network is None:
            raise UpmtError(f"{name} has no network now: say which one it shall be locked to")
        if not isinstance(network, str) or network not in machine.networks:
            raise UsageError(f"there is no network {network!r}; there are {', '.join(machine.networks)}")
        target = NetworkName(network)
        if (reason := machine.bar(name, target, self._daemon.now())) and machine.applications[
            name
        ].locked is None:
            raise UpmtError(f"{name} must not use {target}: {reason}")
        self._daemon.take(ApplicationLocked(name, target))
        return await self._answer(name)

    async def release(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """Let an application's policy decide again."""
        name = self._application(arguments)
        self._daemon.take(ApplicationLocked(name, None))
        return await self._answer(name)

    async def handovers(self, arguments: Mapping[str, Any], _: int) -> list[dict[str, Any]]:
        """The last handovers, oldest first."""
        after, most = arguments.get("after", 0), arguments.get("most", 100)
        for value in (after, most):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
                raise UsageError("handovers takes two whole numbers: after, most")
        return self._daemon.policies.handovers(after, min(most, _MOST_AT_ONCE))

    def _application(self, arguments: Mapping[str, Any]) -> ApplicationName:
        name, known = arguments.get("application"), self._daemon.machine.applications
        if not isinstance(name, str) or name not in known:
            raise UsageError(f"there is no application {name!r}; there are {', '.join(known)}")
        return ApplicationName(name)

    async def _answer(self, name: ApplicationName) -> dict[str, Any]:
        await self._daemon.settled(name)
        status = self._daemon.machine.applications[name]
        return {"application": name, "locked": status.locked, "network": status.network}
