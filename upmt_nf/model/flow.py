"""A flow: one direction of a 5-tuple, as an object for people and as bytes for the packet path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from upmt_nf.model.errors import UsageError

IPAddress = IPv4Address | IPv6Address

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
PORTED = frozenset((TCP, UDP, 33, 132, 136))
"""Protocols whose header begins with two ports: TCP, UDP, DCCP, SCTP, UDP-Lite."""
PROTOCOL_NAMES = {ICMP: "icmp", TCP: "tcp", UDP: "udp", ICMPV6: "icmp6", 47: "gre", 50: "esp", 132: "sctp"}
PROTOCOL_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()}

FlowBytes = bytes
"""A flow as the packet path keys it: protocol (1), source, destination, source port (2), destination port (2).

The order is that of the header's own bytes, so that an IPv4 key is three slices of the packet. 13 bytes for
IPv4, 37 for IPv6; ports are 0 for protocols without ports.
"""


@dataclass(frozen=True, slots=True)
class FlowKey:
    """A 5-tuple as seen from the mobile host: the source is the virtual address, the destination the correspondent."""

    protocol: int
    source: IPAddress
    source_port: int
    destination: IPAddress
    destination_port: int

    def packed(self) -> FlowBytes:
        """The flow as the packet path keys it (see `FlowBytes`)."""
        return (
            bytes((self.protocol,))
            + self.source.packed
            + self.destination.packed
            + self.source_port.to_bytes(2, "big")
            + self.destination_port.to_bytes(2, "big")
        )

    @classmethod
    def unpacked(cls, key: FlowBytes) -> FlowKey:
        """The inverse of `packed`. Raises ValueError when the length is neither 13 nor 37."""
        if len(key) not in (13, 37):
            raise ValueError(f"a flow key has 13 or 37 bytes, not {len(key)}")
        size = (len(key) - 5) // 2
        return cls(
            protocol=key[0],
            source=ip_address(key[1 : 1 + size]),
            source_port=int.from_bytes(key[-4:-2], "big"),
            destination=ip_address(key[1 + size : 1 + 2 * size]),
            destination_port=int.from_bytes(key[-2:], "big"),
        )

    def reversed(self) -> FlowKey:
        """The same flow seen from the other end."""
        return FlowKey(self.protocol, self.destination, self.destination_port, self.source, self.source_port)

    @property
    def protocol_name(self) -> str:
        """`tcp`, `udp`, ... or the number as text."""
        return PROTOCOL_NAMES.get(self.protocol, str(self.protocol))

    def __str__(self) -> str:
        source = f"[{self.source}]" if self.source.version == 6 else str(self.source)
        destination = f"[{self.destination}]" if self.destination.version == 6 else str(self.destination)
        return f"{self.protocol_name}:{source}:{self.source_port}>{destination}:{self.destination_port}"

    @classmethod
    def parse(cls, text: str) -> FlowKey:
        """Read what `str` writes: `udp:1.2.3.4:2000>86.0.0.1:3000`, IPv6 addresses in brackets.

        Raises UsageError that names the text.
        """
        matched = _FLOW_TEXT.fullmatch(text.strip())
        if matched is None:
            raise UsageError(f"{text!r} is not a flow: write it as udp:1.2.3.4:2000>86.0.0.1:3000")
        name, source, source_port, destination, destination_port = matched.groups()
        try:
            protocol = PROTOCOL_NUMBERS.get(name.lower()) or int(name)
            flow = cls(
                protocol,
                ip_address(source.strip("[]")),
                int(source_port),
                ip_address(destination.strip("[]")),
                int(destination_port),
            )
        except ValueError as reason:
            raise UsageError(f"{text!r} is not a flow: {reason}") from reason
        if flow.source.version != flow.destination.version:
            raise UsageError(f"{text!r} is not a flow: its two addresses are of different families")
        if protocol > 255 or flow.source_port > 65535 or flow.destination_port > 65535:
            raise UsageError(f"{text!r} is not a flow: a number is out of range")
        return flow


def owner_of(key: FlowBytes) -> bytes:
    """The source of a flow, packed: at both ends the mobile host's virtual address."""
    return key[1:5] if len(key) == 13 else key[1:17]


def newcomers_of(address: IPAddress) -> FlowKey:
    """Stands for all flows of a virtual address that correspondents will begin: protocol 0 from nowhere.

    No packet has this key. Signalling says by it where the first packet of such a flow is to go.
    """
    return FlowKey(0, address, 0, type(address)(0), 0)


def stands_for_newcomers(key: FlowBytes) -> bool:
    """Whether a key is one of `newcomers_of`."""
    return key[0] == 0 and not any(key[(len(key) - 5) // 2 + 1 :])


def named_flows_of(address: IPAddress, application: int) -> FlowKey:
    """Stands for the flows that the anchor was told to be of this application of a virtual address (1 to 4095)."""
    return FlowKey(0, address, application, type(address)(0), 0)


def application_meant(key: FlowBytes) -> int:
    """The application of a key that `named_flows_of` gives; 0 for every other key."""
    size = (len(key) - 5) // 2
    if key[0] or any(key[1 + size : 1 + 2 * size]) or any(key[-2:]):
        return 0
    return int.from_bytes(key[-4:-2], "big")


def is_stand_in(key: FlowBytes) -> bool:
    """Whether a key is no flow, but stands for some."""
    return stands_for_newcomers(key) or application_meant(key) != 0


_ADDRESS = r"(\[[0-9a-fA-F:.]{2,45}\]|[0-9.]{7,15})"
_FLOW_TEXT = re.compile(rf"([A-Za-z0-9]{{1,8}}):{_ADDRESS}:([0-9]{{1,5}})>{_ADDRESS}:([0-9]{{1,5}})")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a UDP path: an address and a port."""

    address: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"
