"""The agent's side of a tun interface: whole packets both ways, large ones unsplit, with what is left to do on them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from kernel_namespace import Namespace, is_readable
from large_packets import is_right

from upmt_nf.datapath.offload import Offload, finished
from upmt_nf.datapath.packet import build_udp, is_whole, parse_udp
from upmt_nf.datapath.segmentation import segment
from upmt_nf.linux.tun_device import TunDevice
from upmt_nf.model.errors import FacilityError
from upmt_nf.model.flow import Endpoint

pytestmark = pytest.mark.kernel

OWN, FAR = ip_address("10.9.0.1"), ip_address("10.9.0.2")


@pytest.fixture
def tun(namespace: Namespace) -> Iterator[TunDevice]:
    """The agent's side of `t0`, whose own address is OWN and beyond which FAR is."""
    if not namespace.succeeds("ip tuntap add t0 mode tun"):
        pytest.skip("the kernel has no tun")
    namespace.run(f"ip address add {OWN} peer {FAR} dev t0")
    device = TunDevice("t0")
    namespace.run("ip link set t0 up")
    yield device
    device.close()


def next_packet(tun: TunDevice, protocol: int) -> tuple[bytes, Offload | None]:
    """The next IPv4 packet of a protocol that left by the interface."""
    while is_readable(tun):
        left = tun.read()
        if left is not None and left[0][0] >> 4 == 4 and left[0][9] == protocol:
            return left
    pytest.fail("no packet left")


def test_a_datagram_leaves_with_half_a_checksum_that_can_be_finished(tun: TunDevice) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((str(OWN), 4000))
        sender.sendto(b"some words", (str(FAR), 53))
    packet, offload = next_packet(tun, socket.IPPROTO_UDP)
    assert offload == Offload(20, 6)
    found = parse_udp(finished(packet, offload))
    assert found is not None, "the checksum is right"
    assert (found.source, found.destination, found.payload) == (
        Endpoint(OWN, 4000),
        Endpoint(FAR, 53),
        b"some words",
    )


def test_a_datagram_arrives_and_nothing_waits_when_nothing_was_sent(tun: TunDevice) -> None:
    while tun.read() is not None:
        pass
    assert tun.read() is None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((str(OWN), 53))
        tun.write(build_udp(FAR, 4000, OWN, 53, b"an answer"))
        assert is_readable(receiver)
        assert receiver.recvfrom(100) == (b"an answer", (str(FAR), 4000))
    assert tun.dropped == 0


def test_what_the_kernel_refuses_is_counted(tun: TunDevice) -> None:
    tun.write(b"\xf0 is no IP packet")
    assert tun.dropped == 1


def test_nobody_else_can_take_it_and_what_is_no_tun_is_refused(namespace: Namespace, tun: TunDevice) -> None:
    with pytest.raises(FacilityError, match="tun interface t0 cannot be taken"):
        TunDevice("t0")
    namespace.link("v0")
    with pytest.raises(FacilityError, match="tun interface v0 cannot be taken"):
        TunDevice("v0")


def test_a_stream_of_tcp_leaves_in_large_packets_and_comes_back_in_large_packets(
    tun: TunDevice,
) -> None:
    """Both ends of the connection are in this host: what leaves comes back with source and destination exchanged."""
    size, sizes, received = 3_000_000, [], bytearray()
    listener = socket.create_server((str(OWN), 7000))
    stop = threading.Event()

    def swap(packet: bytes) -> bytes:
        # Exchanging source and destination leaves every checksum as it is.
        return packet[:12] + packet[16:20] + packet[12:16] + packet[20:]

    def turn_around() -> None:
        while not stop.is_set():
            if not is_readable(tun, 0.05):
                continue
            while (left := tun.read()) is not None:
                packet, offload = left
                if packet[0] >> 4 != 4:
                    continue
                sizes.append(len(packet))
                if offload is not None and offload.segment:
                    joined, each = segment(packet, offload)
                    pieces = [joined[at : at + each] for at in range(0, len(joined), each)]
                    assert all(is_whole(piece) and is_right(piece) for piece in pieces)
                tun.write(swap(packet), offload)

    turning = threading.Thread(target=turn_around)
    turning.start()
    try:
        with contextlib.closing(listener), socket.create_connection((str(FAR), 7000), timeout=10) as client:
            accepted, _ = listener.accept()
            accepted.settimeout(10)
            with accepted:
                sender = threading.Thread(target=client.sendall, args=(bytes(range(250)) * (size // 250),))
                sender.start()
                while len(received) < size:
                    received += accepted.recv(1 << 20)
                sender.join()
    finally:
        stop.set()
        turning.join()
    assert bytes(received) == bytes(range(250)) * (size // 250)
    assert max(sizes) > 10_000, "large packets came through unsplit"
