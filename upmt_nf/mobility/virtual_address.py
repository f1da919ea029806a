"""The virtual address that the mobile host has configured, and what another one in its place means."""

from __future__ import annotations

from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.commands import Announce, Level
from upmt_nf.mobility.host_commands import ConfigureVirtualAddress, HostCommand, ReleaseVirtualAddress
from upmt_nf.model.flow import IPAddress


class VirtualAddress:
    """Configured once for each anchor in use. Flows of an address that is given up are forgotten in `paft`."""

    def __init__(self, paft: Paft) -> None:
        self._paft = paft
        self._configured: IPAddress | None = None
        self._is_configured = False
        """Towards the anchor in use."""

    def take(self, address: IPAddress) -> list[HostCommand]:
        """The anchor in use has granted this one; gives nothing when it is configured as it should be."""
        commands: list[HostCommand] = []
        if self._configured not in (None, address):
            text = f"{address} takes the place of {self._configured}: its flows break"
            commands.append(Announce(Level.WARNING, text))
            for entry in [entry for entry in self._paft.flows.values() if entry.owner != address.packed]:
                self._paft.forget(entry.key)
        if self._configured != address or not self._is_configured:
            self._configured, self._is_configured = address, True
            commands.append(ConfigureVirtualAddress(address))
        return commands

    def change_anchor(self) -> None:
        """Another anchor is in use: what it grants has to be configured towards it."""
        self._is_configured = False

    def release(self) -> list[HostCommand]:
        """No address from now on."""
        if self._configured is None:
            return []
        commands: list[HostCommand] = [ReleaseVirtualAddress(self._configured)]
        self._configured = None
        return commands
