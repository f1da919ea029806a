"""What the fast plane's maps hold: the Python twins of `bpf/layout.h`, byte for byte (a test compares the offsets).

IPv4 inside and outside: what is IPv6 stays with the agent.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.protected import Cookie
from upmt_nf.model.flow import Endpoint, FlowBytes, IPAddress
from upmt_nf.model.names import MAX_APPLICATION_ID

FLOW_KEY: Final = struct.Struct("=4s4s2s2sB3x")
FLOW: Final = struct.Struct("=IIIIIIQQQQQQQQQQQII")
FLOW_COUNTS: Final = struct.Struct("=QQQQ")
FLOW_LAST_SEEN_AT: Final = 32
FLOW_COUNTS_AT: Final = 40
"""Where in FLOW its time stands, and where packets and bytes out, packets and bytes in begin."""
APPLICATION: Final = struct.Struct("=IIQII")
CHANGE: Final = struct.Struct("=4s4s2s2sB3xIIIIIIQQII")
_CHANGED: Final = struct.Struct("=IIIIIIQQII")
"""The same without the key."""
TUNNEL: Final = struct.Struct("=4s4s2s2s4sIIIIIHBB2sH4s8s64s")
END: Final = struct.Struct("=4s4s2s2s")
COUNTS: Final = struct.Struct("=QQQQQ")
NUMBER: Final = struct.Struct("=I")
EVENT: Final = struct.Struct("=Q")

LAYOUT: Final = 3
"""Goes up with every change of what the maps mean: pinned maps of another layout are not taken over."""
APPLICATIONS: Final = MAX_APPLICATION_ID + 1
NAMED_BYTES: Final = 1024
MAX_SECRETS: Final = 8
MOST_CHANGES: Final = 16
ANY_SOCKET: Final = (1 << 64) - 1
"""In place of a cookie, where no socket has one."""
FORMAT_AGENT, FORMAT_PLAIN, FORMAT_COOKIE = 0, 1, 2
EVENTS: Final = (
    "unknown_flow",
    "no_tunnel",
    "too_large",
    "fragment",
    "other_protocol",
    "unknown_end",
    "not_data",
    "wrong_secret",
    "congestion",
    "no_room",
    "several_datagrams",
)
"""Why a packet was left to the agent, in the order of `enum event`."""

_TTL, _UDP = 64, 17
_MOST = (1 << 32) - 1
_CONSTANT_WORDS = struct.Struct("=9H")


def flow_key(key: FlowBytes) -> bytes | None:
    """A flow as the programs key it; None for one that is the agent's business (IPv6)."""
    return key[1:13] + key[:1] + b"\0\0\0" if len(key) == 13 else None


def flow_bytes(key: bytes) -> FlowBytes:
    """The inverse of `flow_key`."""
    return key[12:13] + key[:12]


class FlowRow(NamedTuple):
    """A flow as the programs keep it. Times in nanoseconds of the monotonic clock."""

    application: int
    tunnel: int = 0
    course: int = 0
    watched: int = 0
    left: int = 0
    left_too: int = 0
    left_until: int = 0
    last_seen: int = 0
    packets_out: int = 0
    bytes_out: int = 0
    packets_in: int = 0
    bytes_in: int = 0
    socket: int = 0
    """The cookie of its socket if the kernel let it in by itself (`daemon/admission.py`) ..."""
    last_arrival: int = 0
    gap: int = 0
    first_arrival: int = 0
    last_elsewhere: int = 0
    late: int = 0
    generation: int = 0
    """... by the application rules of that generation."""

    def packed(self) -> bytes:
        """As the map holds it."""
        return FLOW.pack(*self)

    def as_change(self, key: bytes) -> bytes:
        """What turns the flow of that key into this in place: all but the counts and `last_seen`."""
        return key + _CHANGED.pack(*self[:7], 0, 0, 0)

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Packets and bytes out, packets and bytes in."""
        return self.packets_out, self.bytes_out, self.packets_in, self.bytes_in

    def with_counts(self, counts: Iterable[int]) -> FlowRow:
        """This, with packets and bytes out, packets and bytes in as given."""
        out, bytes_out, come, bytes_in = counts
        return self._replace(packets_out=out, bytes_out=bytes_out, packets_in=come, bytes_in=bytes_in)

    @classmethod
    def unpacked(cls, row: bytes) -> FlowRow:
        """The inverse of `packed`."""
        return cls._make(FLOW.unpack(row))


class ApplicationRow(NamedTuple):
    """Where an application goes. Times as those of a flow."""

    left: int = 0
    left_too: int = 0
    left_until: int = 0
    tunnel: int = 0
    course: int = 0

    def packed(self) -> bytes:
        """As the map holds it."""
        return APPLICATION.pack(*self[:4], self.course & 0xFFFFFFFF)

    @classmethod
    def unpacked(cls, row: bytes) -> ApplicationRow:
        """The inverse of `packed`."""
        return cls._make(APPLICATION.unpack(row))


class NamedRow(NamedTuple):
    """What an application is called and where it may go: numbers mean nothing to the daemon that comes after ours."""

    name: str
    networks: tuple[str, ...] = ()
    is_declared: bool = False
    """In the configuration, or kept beside it: else its name is known nowhere but here."""

    anchor: str | None = None
    """The address of the one that it goes by whichever the others use."""

    def packed(self) -> bytes:
        """As the map holds it; networks that there is no room for are left out."""
        more = [self.anchor] if self.anchor is not None else []
        for networks in (self.networks, ()):
            said = json.dumps([self.name, networks, self.is_declared, *more], ensure_ascii=False).encode()
            if len(said) <= NAMED_BYTES:
                break
        return said.ljust(NAMED_BYTES, b"\0")

    @classmethod
    def unpacked(cls, row: bytes) -> NamedRow | None:
        """The inverse of `packed`; None for what is none."""
        try:
            match json.loads(row.rstrip(b"\0")):
                case [str(name), [*networks], bool(is_declared)] if all(isinstance(n, str) for n in networks):
                    return cls(name, tuple(networks), is_declared)
                case [str(name), [*networks], bool(is_declared), str(anchor)] if all(
                    isinstance(n, str) for n in networks
                ):
                    return cls(name, tuple(networks), is_declared, anchor)
        except ValueError:
            pass
        return None


class TunnelRow(NamedTuple):
    """A tunnel as the programs need it."""

    end: bytes
    """Key of the map `ends`."""
    value: bytes
    """Value of the map `tunnels`, whose key is the tunnel's id."""
    is_changing: bool = False
    """Has more than one secret: which of them count changes by itself."""

    @property
    def is_kernels(self) -> bool:
        """Of a format that the programs know."""
        format: int = TUNNEL.unpack(self.value)[11]
        return format != FORMAT_AGENT


class Timeouts(NamedTuple):
    """For how many seconds conntrack keeps a flow with each packet, in the order of `enum timeout`; 0: no shortcut."""

    udp_unanswered: int = 0
    udp_answered: int = 0
    tcp_established: int = 0
    tcp_reset: int = 0

    def packed(self) -> list[bytes]:
        """The map's values: milliseconds, as many as fit."""
        return [NUMBER.pack(min(1000 * seconds, _MOST)) for seconds in self]


class Counts(NamedTuple):
    """What passed a tunnel in the kernel, over all CPUs; `heard` in nanoseconds of the monotonic clock."""

    packets_out: int = 0
    bytes_out: int = 0
    packets_in: int = 0
    bytes_in: int = 0
    heard: int = 0


def watch_change(key: bytes, watched: int, last_arrival: int) -> bytes:
    """What has the flow of that key looked at as it moves to tunnel `watched` (0: not any more), and nothing else."""
    return key + _CHANGED.pack(0, 0, 0, watched, 0, 0, 0, last_arrival, watched != 0, 1)


def counts_of(row: bytes) -> Counts:
    """The sum over the CPUs."""
    out = bytes_out = packets = bytes_in = heard = 0
    for each in COUNTS.iter_unpack(row):
        out, bytes_out = out + each[0], bytes_out + each[1]
        packets, bytes_in, heard = packets + each[2], bytes_in + each[3], max(heard, each[4])
    return Counts(out, bytes_out, packets, bytes_in, heard)


def events_of(row: bytes) -> int:
    """The sum over the CPUs."""
    return sum(number for (number,) in EVENT.iter_unpack(row))


def tunnel_row(
    tunnel: Tunnel,
    local: Endpoint,
    interface: int,
    virtual_interface: int,
    mark: int,
    slot: int,
    next_hop: IPAddress | None = None,
) -> TunnelRow | None:
    """A tunnel whose near end is `local`; None when it is not IPv4. A format may be the agent's alone.

    Without `next_hop` the kernel looks for a route for each packet.
    """
    near, far, owner = packed_endpoint(local), tunnel.remote_packed, tunnel.owner_packed
    if len(near) != 6 or len(far) != 6 or len(owner) != 4:
        return None
    receiving: tuple[bytes, ...] = ()
    format, sending, unheard = FORMAT_AGENT, bytes(8), 0
    if tunnel.needs_checksums or tunnel.tos_mask != 0xFF:
        # The kernel plane's packets have no outer checksum and copy DSCP and ECN.
        pass
    elif tunnel.format.name == "plain":
        format = FORMAT_PLAIN
    elif isinstance(tunnel.format, Cookie):
        format = FORMAT_COOKIE
        sending, receiving, unheard = tunnel.format.secrets()
    value = TUNNEL.pack(
        near[:4], far[:4], near[4:], far[4:], owner,
        interface, virtual_interface, mark, tunnel.mtu, slot,
        header_sum(near[:4], far[:4]), format, unheard,
        (tunnel.id & 0xFFFF).to_bytes(2, "big"), len(receiving), bytes(4) if next_hop is None else next_hop.packed,
        sending, b"".join(receiving).ljust(8 * MAX_SECRETS, b"\0"),
    )  # fmt: skip
    return TunnelRow(END.pack(far[:4], owner, far[4:], near[4:]), value, len(receiving) > 1)


def header_sum(local: bytes, remote: bytes) -> int:
    """Of the constant words of an outer IP header (all but TOS and length), as the machine reads words."""
    # Version and TOS, length, id, flags (DF), TTL and protocol; the sum's own word counts as nothing.
    header = b"\x45\0" + bytes(4) + b"\x40\0" + bytes((_TTL, _UDP)) + local + remote
    total: int = sum(_CONSTANT_WORDS.unpack(header))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
