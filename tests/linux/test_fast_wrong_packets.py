"""Tunnel packets made by hand: what the fast plane lets in, and that it leaves everything else as it is."""

import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from socket import if_nametoindex
from sysconfig import get_config_var

import pytest
from fast_pair import ANCHOR, ANCHOR_PORT, HOST, HOST_PORT, OWNER, TUNNEL_ID, WORLD, Pair, fast_pair
from kernel_namespace import Namespace

from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.fast_layout import FlowRow
from upmt_nf.datapath.packet import build_udp
from upmt_nf.linux.libbpf import BpfObject, Hook, attach
from upmt_nf.model.flow import UDP, FlowKey

pytestmark = pytest.mark.kernel

PORT, OTHER = 5000, 53
NOT_ECT, ECT1, ECT0, CE = 0, 1, 2, 3


@pytest.fixture
def pair(namespace: Namespace) -> Iterator[Pair]:
    with fast_pair(namespace) as made:
        known = FlowKey(UDP, ip_address(OWNER), PORT, ip_address(WORLD), OTHER)
        made.host.know_flow(known, FlowRow(1))
        made.anchor.know_flow(known, FlowRow(0, TUNNEL_ID))
        yield made


@dataclass(frozen=True)
class Way:
    """From one end to the other: whose packets are made, and where they should arrive."""

    source: str
    source_port: int
    target: str
    target_port: int
    sender: str
    sender_port: int
    receiver: str
    receiver_port: int

    def inner(
        self,
        data: bytes = b"hello",
        *,
        source: str = "",
        destination: str = "",
        port: int = 0,
        tos: int = 0,
    ) -> bytes:
        return build_udp(
            ip_address(source or self.sender),
            self.sender_port,
            ip_address(destination or self.receiver),
            port or self.receiver_port,
            data,
            tos=tos,
        )

    def outer(
        self,
        payload: bytes,
        *,
        tos: int = 0,
        source_port: int = 0,
        length: int | None = None,
        sum_: int = 0,
        flags: int = 0x4000,
    ) -> bytes:
        size = 28 + len(payload)
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, tos, size, 7, flags, 64, 17, 0,
            ip_address(self.source).packed, ip_address(self.target).packed,
        )  # fmt: skip
        head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
        udp_length = 8 + len(payload) if length is None else length
        return (
            head
            + struct.pack("!HHHH", source_port or self.source_port, self.target_port, udp_length, sum_)
            + payload
        )


DOWN = Way(ANCHOR, ANCHOR_PORT, HOST, HOST_PORT, WORLD, OTHER, OWNER, PORT)
UP = Way(HOST, HOST_PORT, ANCHOR, ANCHOR_PORT, OWNER, PORT, WORLD, OTHER)
inner, outer = DOWN.inner, DOWN.outer


class Wire:
    """The cable at the sender's side, and the sockets of who the packets are for."""

    def __init__(self, pair: Pair, way: Way = DOWN) -> None:
        self._target = way.target
        # One end is the anchor's namespace and the other one this.
        with pair.inside_anchor() if way is DOWN else nullcontext():
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        with pair.inside_anchor() if way is UP else nullcontext():
            self.application = receiver(way.receiver, way.receiver_port)
            self.tunnel = receiver(way.target, way.target_port)

    def send(self, packet: bytes) -> None:
        self._raw.sendto(packet, (self._target, 0))

    def arrived(self) -> tuple[bytes, int] | None:
        """What the application got, and its TOS; None when the tunnel's socket got the packet, or nobody."""
        for taken, found in ((self.application, True), (self.tunnel, False)):
            try:
                data, ancillary, _, _ = taken.recvmsg(4096, 100)
            except TimeoutError:
                continue
            return (data, ancillary[0][2][0]) if found else None
        return None

    def close(self) -> None:
        for each in (self._raw, self.application, self.tunnel):
            each.close()


def receiver(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, port))
    made.setsockopt(socket.IPPROTO_IP, 13, 1)
    made.settimeout(0.3)
    return made


@pytest.fixture
def wire(pair: Pair) -> Iterator[Wire]:
    made = Wire(pair)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("outside", "inside", "arrives"),
    [
        (NOT_ECT, NOT_ECT, NOT_ECT), (NOT_ECT, ECT0, ECT0), (NOT_ECT, ECT1, ECT1), (NOT_ECT, CE, CE),
        (ECT0, NOT_ECT, NOT_ECT), (ECT0, ECT0, ECT0), (ECT0, ECT1, ECT1), (ECT0, CE, CE),
        (ECT1, NOT_ECT, NOT_ECT), (ECT1, ECT0, ECT1), (ECT1, ECT1, ECT1), (ECT1, CE, CE),
        (CE, NOT_ECT, None), (CE, ECT0, CE), (CE, ECT1, CE), (CE, CE, CE),
    ],
)  # fmt: skip
def test_congestion_comes_out_as_rfc_6040_says(
    wire: Wire, outside: int, inside: int, arrives: int | None
) -> None:
    """Figure 4; the service inside stays, whatever is outside. What must be dropped is left to the agent."""
    wire.send(outer(inner(tos=0x28 | inside), tos=0xB8 | outside))
    assert wire.arrived() == (None if arrives is None else (b"hello", 0x28 | arrives))


def changed(packet: bytes, at: int, value: bytes) -> bytes:
    """With other bytes there and the header's sum put right."""
    packet = packet[:at] + value + packet[at + len(value) :]
    packet = packet[:10] + b"\0\0" + packet[12:]
    return packet[:10] + checksum(packet[:20]).to_bytes(2, "big") + packet[12:]


OWNERS, CORRESPONDENTS = {DOWN: "destination", UP: "source"}, {DOWN: "source", UP: "destination"}


@pytest.mark.parametrize("way", [DOWN, UP], ids=["at the host", "at the anchor"])
@pytest.mark.parametrize(
    "make",
    [
        lambda way: way.outer(way.inner()[:-1]),
        lambda way: way.outer(way.inner() + b"!"),
        lambda way: way.outer(way.inner() + way.inner()),
        lambda way: way.outer(way.inner(), length=12),
        lambda way: way.outer(way.inner(), length=4000),
        lambda way: way.outer(way.inner(), sum_=0x1234),
        lambda way: way.outer(way.inner(), flags=0x2000),
        lambda way: way.outer(way.inner(), source_port=1801),
        lambda way: way.outer(way.inner(**{OWNERS[way]: "10.99.0.7"})),
        lambda way: way.outer(way.inner(port=way.receiver_port + 1)),
        lambda way: way.outer(way.inner(**{CORRESPONDENTS[way]: ANCHOR})),
        lambda way: way.outer(way.inner(**{CORRESPONDENTS[way]: "198.51.100.2"})),
        lambda way: way.outer(way.inner(destination=way.sender)),
        lambda way: way.outer(changed(way.inner(), 0, b"\x46")),
        lambda way: way.outer(changed(way.inner(), 0, b"\x65")),
        lambda way: way.outer(changed(way.inner(), 6, b"\x20\0")),
        lambda way: way.outer(changed(way.inner(), 6, b"\0\x10")),
        lambda way: way.outer(changed(way.inner(), 9, b"\x84")),
        lambda way: way.outer(b"\x10\0\x56\x78" + bytes(8) + way.inner()),
        lambda way: way.outer(b"\xff"),
        lambda way: way.outer(b""),
        lambda way: way.outer(b"\x45" * 200),
        lambda way: way.outer(way.outer(way.inner())),
    ],
    ids=[
        "cut short", "longer", "two merged", "length too small", "length too large", "a wrong checksum",
        "outer fragment",
        "another port of the sender", "another virtual address", "an unknown flow", "the anchor itself",
        "another correspondent", "back to its sender", "inner options", "another version", "first fragment",
        "later fragment", "another protocol",
        "a format that was not agreed", "one octet", "empty", "rubbish", "a tunnel in a tunnel",
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_is_not_let_in(
    pair: Pair, way: Way, make: Callable[[Way], bytes]
) -> None:
    wire = Wire(pair, way)
    try:
        wire.send(make(way))
        assert wire.arrived() is None
        wire.send(way.outer(way.inner(b"as it should be")))
        assert wire.arrived() == (b"as it should be", 0)
    finally:
        wire.close()


AS_A_DEVICE_DOES = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int verified(struct __sk_buff *skb) { bpf_csum_level(skb, BPF_CSUM_LEVEL_INC); return -1; }
char LICENSE[] SEC("license") = "GPL";
"""


def test_a_checksum_is_the_sockets_business_unless_the_device_has_verified_it(
    wire: Wire, tmp_path: Path
) -> None:
    source, target = tmp_path / "device.bpf.c", tmp_path / "device.bpf.o"
    source.write_text(AS_A_DEVICE_DOES)
    include = f"-I/usr/include/{get_config_var('MULTIARCH')}"
    command = ("clang", "-target", "bpf", "-O2", "-g", include, "-c", source, "-o", target)
    compiled = subprocess.run(command, check=False)
    if compiled.returncode:
        pytest.skip("there is no clang")
    payload = inner()
    pseudo = ip_address(ANCHOR).packed + ip_address(HOST).packed + struct.pack("!HH", UDP, 8 + len(payload))
    head = struct.pack("!HHHH", ANCHOR_PORT, HOST_PORT, 8 + len(payload), 0)
    packet = outer(payload, sum_=checksum(pseudo + head + payload))
    wire.send(packet)
    assert wire.arrived() is None
    device = BpfObject(target)
    attach(if_nametoindex("if0"), Hook.INGRESS, device.program("verified"), handle=1, priority=1)
    wire.send(packet)
    assert wire.arrived() == (b"hello", 0)
    device.close()


def test_a_damaged_inner_header_ends_in_the_kernel(wire: Wire) -> None:
    damaged = bytearray(inner())
    damaged[10] ^= 1
    wire.send(outer(bytes(damaged)))
    assert wire.arrived() is None
