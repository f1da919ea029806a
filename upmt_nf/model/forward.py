"""What an anchor lets in from outside (paper, section II): ports that lead to a host, addresses of one host alone."""

from __future__ import annotations

from dataclasses import dataclass

from upmt_nf.model.flow import PROTOCOL_NAMES, IPAddress
from upmt_nf.model.identity import TerminalId

HostRef = TerminalId | IPAddress
"""A mobile host: by its identity, which is followed from lease to lease, or by a virtual address, whoever has it."""


@dataclass(frozen=True, slots=True, order=True)
class PortSpan:
    """Ports from `first` to `last`, both included, 1 to 65535."""

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    def overlaps(self, other: PortSpan) -> bool:
        """Whether a port is in both."""
        return self.first <= other.last and other.first <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class Forward:
    """Ports of an external address that lead to as many ports of a host, in the same order."""

    protocol: int
    external: IPAddress
    ports: PortSpan
    host: HostRef
    host_ports: PortSpan

    @property
    def outside(self) -> str:
        """What the world sees: `tcp 45.0.0.1:8022`."""
        address = f"[{self.external}]" if self.external.version == 6 else str(self.external)
        return f"{PROTOCOL_NAMES[self.protocol]} {address}:{self.ports}"

    def overlaps(self, other: Forward) -> bool:
        """Whether a packet from outside could be meant by both."""
        return (self.protocol, self.external) == (
            other.protocol,
            other.external,
        ) and self.ports.overlaps(other.ports)

    def __str__(self) -> str:
        return f"forward {self.outside} to {self.host} {self.host_ports}"


@dataclass(frozen=True, slots=True)
class StaticNat:
    """An external address that is one host's alone, inbound and outbound, all protocols and ports."""

    external: IPAddress
    host: HostRef

    def __str__(self) -> str:
        return f"static NAT {self.external} for {self.host}"


@dataclass(frozen=True, slots=True)
class Opening:
    """A forward or static NAT in force: its host holds `address` now."""

    what: Forward | StaticNat
    address: IPAddress
