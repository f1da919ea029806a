"""Tunnel packets, raw from the network, into both forwarders: nothing raises, nothing foreign comes out, all bounded.

The input is a list of packets: a byte that says how each is wrapped, two bytes of length, then that many bytes. So
a search reaches what lies behind checksums, tunnel keys and reassembly.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from upmt_nf.datapath.anchor_forwarder import AnchorForwarder
from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.fragment import split
from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.offload import Offload, finished, pseudo_sum, transport_start
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.packet import build_udp, destination_of, ip_packet, is_whole, source_of
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.protected import PROTECTED
from upmt_nf.datapath.reach import Reach
from upmt_nf.datapath.segmentation import segment
from upmt_nf.datapath.verdict import Inbound, Outbound
from upmt_nf.model.flow import ICMP, TCP, UDP, Endpoint, IPAddress
from upmt_nf.model.identity import ApplicationId, NetworkName, TunnelId
from upmt_nf.signaling.stamp import SenderPacket

HOST, ANCHOR, CORRESPONDENT = ip_address("1.2.3.4"), ip_address("45.0.0.1"), ip_address("86.0.0.1")
HOST6, ANCHOR6, CORRESPONDENT6 = (ip_address(f"2001:db8::{end}") for end in ("4", "1", "99"))
CARE_OF = ip_address("160.80.100.1")
FORMATS = ("plain", "cookie", "sealed")
UP, DOWN = b"u" * 32, b"d" * 32
RAW, PEER, TO_HOST, OUTWARD, SIX, TOGETHER = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04
"""Bits of a packet's first byte; the lowest two choose the tunnel. With TOGETHER two bytes of size come first: it is
many packets of that size that arrive as one, or a large one that stands for many on its way out.
"""


class Ends:
    """An anchor and a host with a tunnel of each format between them, and a twin of each end that wraps packets."""

    def __init__(self, virtual: IPAddress, anchor: IPAddress) -> None:
        self.virtual, self.address = virtual, anchor
        self.anchor_paft, self.host_paft = Paft(max_flows=64), Paft(max_flows=64)
        self.anchor = AnchorForwarder(self.anchor_paft, anchor, Reach())
        self.host = HostForwarder(
            self.host_paft, virtual, anchor, lambda key, mark, dscp=0: Classified(ApplicationId(1), 0, "")
        )
        self.twins: list[tuple[Tunnel, Tunnel]] = []
        for number, name in enumerate(FORMATS):
            remote = Endpoint(CARE_OF, 4000 + number)
            network, end = NetworkName(f"net{number}"), Endpoint(ANCHOR, 1800)
            at_anchor, twin_up = (_tunnel(number, virtual, remote, network, name, False) for _ in range(2))
            at_host, twin_down = (_tunnel(number, virtual, end, network, name, True) for _ in range(2))
            self.anchor_paft.add_tunnel(at_anchor)
            self.host_paft.add_tunnel(at_host)
            self.host.open_path(network, remote, end)
            self.host.use_tunnel(network, at_host)
            self.twins.append((twin_down, twin_up))
        self.host_paft.steer(ApplicationId(1), TunnelId(1))

    def wrapped(self, how: int, data: bytes) -> bytes:
        """The outer packet that carries `data`: as it is, as the payload, or as what the other end's tunnel makes."""
        if how & RAW:
            return data
        number = min(how & 3, 2)
        at_host, at_anchor = self.twins[number]
        twin = at_anchor if how & TO_HOST else at_host
        payload = twin.format.encode(twin, data) if how & PEER else data
        remote, local = (CARE_OF, 4000 + number), (ANCHOR, 1800)
        source, destination = (local, remote) if how & TO_HOST else (remote, local)
        return build_udp(*source, *destination, payload, tos=how & 3)

    def take(self, how: int, data: bytes, now: float) -> None:
        if how & TOGETHER:
            size = int.from_bytes(data[:2], "big") % 1500
            (self.leave_together if how & OUTWARD else self.arrive_together)(how, data[2:], size, now)
            return
        if how & OUTWARD:
            if how & TO_HOST:
                self.sent(self.anchor.downlink(data, now))
            else:
                self.sent(self.host.outbound(data, how << 24, now))
        elif how & TO_HOST:
            self.came(self.host.inbound(self.wrapped(how, data), now), None, self.virtual)
        else:
            self.came(self.anchor.uplink(self.wrapped(how, data), now), self.virtual, None)

    def arrive_together(self, how: int, data: bytes, size: int, now: float) -> None:
        """As the socket joins them: all of one size, the last maybe shorter, none empty."""
        if not data or not size:
            return
        number = min(how & 3, 2)
        at_host, at_anchor = self.twins[number]
        if how & PEER:
            twin = at_anchor if how & TO_HOST else at_host
            data, size = twin.format.encode_all(twin, data, size)
        if how & TO_HOST:
            for found in self.host.arrived(NetworkName(f"net{number}"), how & 3, data, size, now):
                self.came(found, None, self.virtual)
        else:
            remote = packed_endpoint(Endpoint(CARE_OF, 4000 + number))
            for found in self.anchor.arrived(remote, how & 3, data, size, now):
                self.came(found, self.virtual, None)

    def leave_together(self, how: int, data: bytes, size: int, now: float) -> None:
        """As the kernel hands over what it left to us: one whole TCP packet, and where its checksum belongs."""
        try:
            protocol, start = transport_start(data) if is_whole(data) else (0, 0)
        except IndexError:
            return
        if protocol != TCP:
            return
        offload = Offload(start, 16, size)
        if how & TO_HOST:
            self.sent(self.anchor.downlink(data, now, offload))
        else:
            self.sent(self.host.outbound(data, how << 24, now, offload))

    def came(self, found: Inbound, source: IPAddress | None, destination: IPAddress | None) -> None:
        if found.deliver is not None:
            assert is_whole(found.deliver)
            if found.offload is not None:
                joined, size = segment(found.deliver, found.offload)
                assert len(joined) > size
            assert source is None or source_of(found.deliver) == source.packed
            assert destination is None or destination_of(found.deliver) == destination.packed
        if found.signal is not None:
            assert found.signal.port in (5060, 862)
        if found.answer is not None:
            self.sent(found.answer)

    def sent(self, found: Outbound) -> None:
        assert found.error is None or is_whole(found.error)
        for payload in found.payloads:
            assert found.tunnel is not None
            # A last or only packet may be shorter than what the others would be.
            assert min(found.size or len(payload), len(payload)) <= found.tunnel.mtu + 32

    def is_bounded(self) -> None:
        for paft in (self.anchor_paft, self.host_paft):
            assert len(paft.flows) <= 64
            assert len(paft.tunnels) == len(FORMATS)


def _tunnel(
    number: int, owner: IPAddress, remote: Endpoint, network: NetworkName, name: str, is_host: bool
) -> Tunnel:
    tunnel = Tunnel(TunnelId(number + 1), owner, remote, 1400, network, 0.0)
    if name != "plain":
        keys = (UP, DOWN) if is_host else (DOWN, UP)
        tunnel.format = PROTECTED[name](*keys, waits=not is_host)
    return tunnel


def packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    place = 0
    while place < len(data):
        size = int.from_bytes(data[place + 1 : place + 3], "big")
        yield data[place], data[place + 3 : place + 3 + size]
        place += 3 + size


def check(data: bytes) -> None:
    four, six = Ends(HOST, ANCHOR), Ends(HOST6, ANCHOR6)
    for number, (how, packet) in enumerate(packets(data)):
        if number >= 32:
            break
        (six if how & SIX else four).take(how, packet, 100.0 + number)
    four.is_bounded()
    six.is_bounded()


def seeds() -> list[bytes]:
    found = []
    for six, host, anchor, other in ((0, HOST, ANCHOR, CORRESPONDENT), (SIX, HOST6, ANCHOR6, CORRESPONDENT6)):
        up = build_udp(host, 2000, other, 3000, b"voice")
        down = build_udp(other, 3000, host, 2000, b"voice")
        probe = build_udp(host, 862, anchor, 862, bytes(SenderPacket(1, 2.0)))
        sip = build_udp(host, 5060, anchor, 5060, b"MESSAGE sip:a SIP/2.0\r\n\r\n")
        for number in range(3):
            found.append(
                _joined(
                    (OUTWARD | six | number, up),
                    (PEER | six | number, up),
                    (OUTWARD | TO_HOST | six | number, down),
                    (PEER | TO_HOST | six | number, down),
                    (PEER | six | number, probe),
                    (six | number, sip),
                )
            )
        long = bytearray(build_udp(host, 2000, other, 3000, bytes(range(256)) * 2))
        if not six:
            long[6] = long[10] = long[11] = 0
            long[10:12] = checksum(bytes(long[:20])).to_bytes(2, "big")
        pieces = split(bytes(long), 256, identification=9)
        found.append(_joined(*((PEER | six, piece) for piece in pieces)))
        found.append(_joined(*((OUTWARD | six, piece) for piece in reversed(pieces))))
        stream = _large(host, other)
        start = transport_start(stream)[1]
        train, size = segment(stream, Offload(start, 16, 200))
        back, _ = segment(_large(other, host), Offload(start, 16, 200))
        for number in range(3):
            sized = size.to_bytes(2, "big")
            found.append(
                _joined(
                    (OUTWARD | TOGETHER | six, b"\0\xc8" + stream),
                    (PEER | TOGETHER | six | number, sized + train),
                    (OUTWARD | TOGETHER | TO_HOST | six, b"\0\xc8" + _large(other, host)),
                    (PEER | TOGETHER | TO_HOST | six | number, sized + back),
                )
            )
        outer = build_udp(CARE_OF, 4000, ANCHOR, 1800, up)
        found.append(_joined((RAW | six, outer), (RAW | TO_HOST | six, outer)))
    error = bytes((3, 4, 0, 0, 0, 0, 5, 0)) + build_udp(CORRESPONDENT, 3000, HOST, 2000, b"voice")[:28]
    found.append(_joined((PEER, ip_packet(HOST, CORRESPONDENT, ICMP, error))))
    found.append(_joined((PEER, ip_packet(HOST, CORRESPONDENT, UDP, b"", ttl=1))))
    return found


def _large(source: IPAddress, destination: IPAddress) -> bytes:
    """A TCP packet with 500 bytes of payload, as one that stands for three."""
    header = bytes.fromhex("07d001bb 00000001 00000001 5018 ffff 0000 0000")
    packet = ip_packet(source, destination, TCP, header + bytes(500))
    start = transport_start(packet)[1]
    sum_ = pseudo_sum(packet, len(packet) - start).to_bytes(2, "big")
    return finished(packet[: start + 16] + sum_ + packet[start + 18 :], Offload(start, 16))


def _joined(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(bytes((how,)) + len(packet).to_bytes(2, "big") + packet for how, packet in parts)
