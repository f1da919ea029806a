"""The anchor's forwards and static NATs at work: table, store and kernel put together; their control commands."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upmt_nf.config.anchor import AnchorSection
from upmt_nf.config.forwards import forward_of, read_host, read_ports, read_protocol
from upmt_nf.daemon.anchor_kernel import AnchorKernel
from upmt_nf.linux.forward_store import ForwardStore
from upmt_nf.linux.listeners import listener_on
from upmt_nf.linux.users import UsersFile
from upmt_nf.mobility.forwards import Forwards, OpeningView
from upmt_nf.model.errors import UpmtError, UsageError
from upmt_nf.model.flow import PROTOCOL_NAMES, IPAddress
from upmt_nf.model.forward import Forward, HostRef, PortSpan, StaticNat
from upmt_nf.model.identity import TerminalId

log = logging.getLogger(__name__)


class AnchorForwards:
    """Opens and closes as leases come and go, and as the administrator says."""

    def __init__(self, config: AnchorSection, kernel: AnchorKernel) -> None:
        self._config = config
        self._kernel = kernel
        self._table = Forwards(config.site(), config.openings())
        self._store = ForwardStore(Path(config.leases), config.address)
        for complaint in self._table.restore(self._store.kept()):
            log.warning("kept, but not in force: %s", complaint)
        self._look_over_configuration()

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    # --- leases ---

    def grant(self, identity: TerminalId, address: IPAddress) -> None:
        """This host holds this address now. Raises UpmtError when netfilter cannot be changed."""
        if self._table.grant(identity, address):
            self._kernel.open(self._table.openings())

    def end(self, identity: TerminalId) -> None:
        """This host's lease ended. Raises UpmtError when netfilter cannot be changed."""
        if self._table.end(identity):
            self._kernel.open(self._table.openings())

    # --- commands ---

    async def add(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """`upmt anchor forward add`."""
        protocol, ports, external = self._place(arguments)
        try:
            host = read_host(arguments.get("host"))
            host_port = arguments.get("host_port")
            forward = forward_of(
                protocol, external, ports, host, None if host_port is None else read_ports(host_port)
            )
        except ValueError as reason:
            raise UsageError(str(reason)) from reason
        self._check_user(host)
        if not self._table.check(forward):
            return self._report(forward, is_changed=False)
        if (listener := listener_on(protocol, external, ports)) is not None:
            name = PROTOCOL_NAMES[protocol]
            raise UpmtError(
                f"{forward.outside} cannot be forwarded: a program of the anchor has {name} {listener}"
            )
        before = self._table.openings()
        self._table.add(forward)
        try:
            if arguments.get("dry_run"):
                answer = self._report(forward, is_changed=True)
                answer["rules"] = self._kernel.difference(self._table.openings())
                self._table.remove(forward)
                return answer
            self._kernel.open(self._table.openings())
            self._store.keep(forward)
        except UpmtError:
            self._table.remove(forward)
            self._kernel.open(before)
            raise
        log.info("opened: %s", forward)
        return self._report(forward, is_changed=True)

    async def remove(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """`upmt anchor forward remove`."""
        forward = self._table.find(*self._where(arguments))
        if forward is None:
            return {"changed": False, "forward": None, "rules": []}
        answer = self._report(forward, is_changed=True)
        rest = tuple(opening for opening in self._table.openings() if opening.what != forward)
        if arguments.get("dry_run"):
            answer["rules"] = self._kernel.difference(rest)
            return answer
        self._kernel.open(rest)
        self._store.forget(forward)
        self._table.remove(forward)
        log.info("closed: %s", forward)
        return answer

    async def show(self, _: Mapping[str, Any], __: int) -> list[dict[str, Any]]:
        """`upmt anchor forward list`."""
        return [_view_report(view) for view in self._table.views()]

    def _where(self, arguments: Mapping[str, Any]) -> tuple[int, IPAddress, PortSpan]:
        protocol, ports, external = self._place(arguments)
        return protocol, external, ports

    def _place(self, arguments: Mapping[str, Any]) -> tuple[int, PortSpan, IPAddress]:
        try:
            protocol = read_protocol(arguments.get("protocol"))
            ports = read_ports(arguments.get("ports"))
            said = arguments.get("external")
            if said is None:
                return protocol, ports, self._config.address
            external = read_host(said)
        except ValueError as reason:
            raise UsageError(str(reason)) from reason
        if isinstance(external, str):
            raise UsageError(f"{external} is no address")
        return protocol, ports, external

    def _report(self, forward: Forward, *, is_changed: bool) -> dict[str, Any]:
        view = next((view for view in self._table.views() if view.what == forward), None)
        assert view is not None, "it was just added or found"
        return {"changed": is_changed, "forward": _view_report(view), "rules": []}

    # --- who is there ---

    def _check_user(self, host: HostRef) -> None:
        """A name that nobody has would wait for ever. Raises UsageError."""
        if isinstance(host, str) and self._config.users is not None:
            users = UsersFile(Path(self._config.users))
            if host not in users.identities():
                raise UsageError(f"there is no user {host}: `upmt anchor user add {host}` makes one")

    def _look_over_configuration(self) -> None:
        for what in self._config.openings():
            try:
                self._check_user(what.host)
            except UpmtError as reason:
                log.warning("%s: %s", what, reason)
            if isinstance(what, Forward):
                listener = listener_on(what.protocol, what.external, what.ports)
                if listener is not None:
                    log.warning("%s takes packets away from a program of the anchor at %s", what, listener)


def _view_report(view: OpeningView) -> dict[str, Any]:
    what = view.what
    found: dict[str, Any] = {"protocol": "any", "external": str(what.external), "ports": None}
    match what:
        case Forward():
            found |= {"protocol": PROTOCOL_NAMES[what.protocol], "ports": str(what.ports)}
            found |= {"host": str(what.host), "host_ports": str(what.host_ports)}
        case StaticNat():
            found |= {"host": str(what.host), "host_ports": None}
    return found | {
        "state": view.state.value,
        "virtual_address": str(view.address) if view.address is not None else None,
        "origin": "configuration" if view.is_configured else "command",
        "reason": view.reason or None,
    }
