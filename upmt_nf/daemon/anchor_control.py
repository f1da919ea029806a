"""The anchor's commands on the control socket: reading, leases, and what is open to the world."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from upmt_nf.daemon.control_server import Handler
from upmt_nf.daemon.reports import flow_report, tunnel_report
from upmt_nf.mobility.anchor_events import LeaseRevoked
from upmt_nf.model.errors import UsageError
from upmt_nf.model.identity import TerminalId

if TYPE_CHECKING:
    from upmt_nf.daemon.anchor_daemon import AnchorDaemon

READING = frozenset(("status", "networks", "tunnels", "apps", "flows", "rules", "leases", "forward_list"))
"""What any user may ask."""


class AnchorControl:
    """The handlers. Each takes the request's arguments and the caller's pid."""

    def __init__(self, daemon: AnchorDaemon) -> None:
        self._daemon = daemon

    def commands(self) -> dict[str, Handler]:
        """Handlers by name."""
        return {
            "status": self.status,
            "tunnels": self.tunnels,
            "flows": self.flows,
            "rules": self.rules,
            "leases": self.leases,
            "release": self.release,
            "forward_list": self.forward_list,
            "forward_add": self.forward_add,
            "forward_remove": self.forward_remove,
            "networks": self._nothing,
            "apps": self._nothing,
        }

    async def status(self, _: Mapping[str, Any], __: int) -> dict[str, Any]:
        """The anchor and its associations."""
        daemon, now = self._daemon, asyncio.get_running_loop().time()
        return {
            "role": "anchor",
            "datapath": daemon.datapath.name,
            "datapath_reason": daemon.datapath.reason,
            "shortcut": daemon.shortcut.report(),
            "virtual_interface": daemon.kernel.interface.name,
            "interface": daemon.config.interface,
            "address": str(daemon.config.address),
            "pool": str(daemon.config.pool),
            "nat": daemon.config.nat,
            "associations": [
                {
                    "identity": association.identity,
                    "virtual_address": str(association.virtual_address),
                    "tunnels": len(association.tunnels),
                    "flows": daemon.paft.number_owned_by(association.virtual_address),
                    "expires_in_s": round(association.expires_at - now, 1),
                    "contacts": [uri for uri, end in association.contacts if end > now],
                }
                for association in daemon.machine.associations
            ],
            "counters": daemon.counters(),
        }

    async def tunnels(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """The tunnels of all hosts."""
        daemon = self._daemon
        daemon.count()
        return [
            tunnel_report(tunnel, daemon.plane.local, "up", None, None)
            for tunnel in daemon.paft.tunnels.values()
        ]

    async def flows(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """The flows of all hosts. Applications, programs and processes are the hosts' own business."""
        daemon = self._daemon
        daemon.count()
        return [
            flow_report(entry, entry, daemon.paft, lambda _: None) for entry in daemon.paft.flows.values()
        ]

    async def rules(self, _: Mapping[str, Any], __: int) -> dict[str, Any]:
        """The netfilter rules that are in place, in iptables-save syntax."""
        kernel = self._daemon.kernel
        return {
            "rules": str(kernel.rules),
            "rules_ipv6": "",
            "routing": str(kernel.routing).splitlines(),
        }

    async def leases(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """Every address that a host has or had."""
        daemon, now = self._daemon, asyncio.get_running_loop().time()
        expiries = {held.identity: held.expires_at for held in daemon.machine.associations}
        return [
            {
                "identity": identity,
                "virtual_address": str(address),
                "state": "associated" if identity in expiries else "remembered",
                "expires_in_s": round(expiries[identity] - now, 1) if identity in expiries else None,
            }
            for identity, address in daemon.machine.remembered.items()
        ]

    async def release(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """End the association of a host; gives what it had. The host is told, and may ask again."""
        identity = arguments.get("identity")
        if not isinstance(identity, str):
            raise UsageError("release needs the identity of a host")
        address = self._daemon.machine.remembered.get(TerminalId(identity))
        if address is None:
            raise UsageError(f"{identity} has no lease here")
        is_ended = any(held.identity == identity for held in self._daemon.machine.associations)
        self._daemon.take(LeaseRevoked(TerminalId(identity)))
        return {"identity": identity, "virtual_address": str(address), "ended": is_ended}

    async def forward_list(self, arguments: Mapping[str, Any], pid: int) -> list[dict[str, Any]]:
        """Forwards and static NATs."""
        return await self._daemon.forwards.show(arguments, pid)

    async def forward_add(self, arguments: Mapping[str, Any], pid: int) -> dict[str, Any]:
        """Let ports lead to a host."""
        return await self._daemon.forwards.add(arguments, pid)

    async def forward_remove(self, arguments: Mapping[str, Any], pid: int) -> dict[str, Any]:
        """Let them lead there no more."""
        return await self._daemon.forwards.remove(arguments, pid)

    async def _nothing(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """Access networks and applications are the mobile host's."""
        return []
