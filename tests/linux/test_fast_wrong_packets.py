"""Tunnel packets made by hand: what the fast plane lets in, and that it leaves everything else as it is."""

import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
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


class Wire:
    """The anchor's side of the cable, and the socket that the packets are for."""

    def __init__(self, pair: Pair) -> None:
        with pair.inside_anchor():
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.application = receiver(OWNER, PORT)
        self.tunnel = receiver(HOST, HOST_PORT)

    def send(self, packet: bytes) -> None:
        self._raw.sendto(packet, (HOST, 0))

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


def inner(
    data: bytes = b"hello", *, source: str = WORLD, destination: str = OWNER, port: int = PORT, tos: int = 0
) -> bytes:
    return build_udp(ip_address(source), OTHER, ip_address(destination), port, data, tos=tos)


def outer(
    payload: bytes,
    *,
    tos: int = 0,
    source_port: int = ANCHOR_PORT,
    port: int = HOST_PORT,
    length: int | None = None,
    sum_: int = 0,
    flags: int = 0x4000,
) -> bytes:
    size = 28 + len(payload)
    head = struct.pack(
        "!BBHHHBBH4s4s", 0x45, tos, size, 7, flags, 64, 17, 0,
        ip_address(ANCHOR).packed, ip_address(HOST).packed,
    )  # fmt: skip
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]
    udp = struct.pack("!HHHH", source_port, port, 8 + len(payload) if length is None else length, sum_)
    return head + udp + payload


def test_a_packet_as_the_anchor_makes_it_arrives(wire: Wire) -> None:
    wire.send(outer(inner()))
    assert wire.arrived() == (b"hello", 0)


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


@pytest.mark.parametrize(
    "make",
    [
        lambda: outer(inner()[:-1]),
        lambda: outer(inner() + b"!"),
        lambda: outer(inner() + inner()),
        lambda: outer(inner(), length=12),
        lambda: outer(inner(), length=4000),
        lambda: outer(inner(), sum_=0x1234),
        lambda: outer(inner(), flags=0x2000),
        lambda: outer(inner(), source_port=1801),
        lambda: outer(inner(destination="10.99.0.7")),
        lambda: outer(inner(port=PORT + 1)),
        lambda: outer(inner(source=ANCHOR)),
        lambda: outer(inner(source="198.51.100.2")),
        lambda: outer(changed(inner(), 0, b"\x46")),
        lambda: outer(changed(inner(), 0, b"\x65")),
        lambda: outer(changed(inner(), 6, b"\x20\0")),
        lambda: outer(changed(inner(), 6, b"\0\x10")),
        lambda: outer(changed(inner(), 9, b"\x84")),
        lambda: outer(b"\x10\0\x56\x78" + bytes(8) + inner()),
        lambda: outer(b"\xff"),
        lambda: outer(b""),
        lambda: outer(b"\x45" * 200),
        lambda: outer(outer(inner())),
    ],
    ids=[
        "cut short", "longer", "two merged", "length too small", "length too large", "a wrong checksum",
        "outer fragment",
        "another port of the anchor", "another virtual address", "an unknown flow", "from the anchor itself",
        "another correspondent", "inner options", "another version", "first fragment", "later fragment",
        "another protocol",
        "a format that was not agreed", "one octet", "empty", "rubbish", "a tunnel in a tunnel",
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_is_not_let_in(wire: Wire, make: Callable[[], bytes]) -> None:
    wire.send(make())
    assert wire.arrived() is None
    wire.send(outer(inner(b"still there")))
    assert wire.arrived() == (b"still there", 0)


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
