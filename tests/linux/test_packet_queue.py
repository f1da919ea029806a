"""Packets from netfilter: whole, in batches, let go as they are or replaced."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest
from kernel_namespace import Namespace, is_readable

from upmt_nf.datapath.packet import build_udp, parse_udp
from upmt_nf.linux.packet_queue import Packet, PacketQueue
from upmt_nf.model.errors import FacilityError

pytestmark = pytest.mark.kernel

NUMBER = 7123
LOCAL = ip_address("127.0.0.1")
PORT, SENDER = 4001, 4000


class Ends:
    """A sender and a receiver on the loopback, with the queue between them."""

    def __init__(self) -> None:
        self.receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.receiver.bind(("127.0.0.1", PORT))
        self.receiver.settimeout(2.0)
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        self.sender.bind(("127.0.0.1", SENDER))

    def send(self, payload: bytes) -> None:
        self.sender.sendto(payload, ("127.0.0.1", PORT))

    def nothing_arrives(self) -> bool:
        return not is_readable(self.receiver, 0.05)


@pytest.fixture
def ends(namespace: Namespace) -> Iterator[Ends]:
    """UDP to PORT goes through the queue."""
    namespace.iptables("-t mangle -A OUTPUT -p udp --dport 4001 -j MARK --set-xmark 0x70002/0xffffffff")
    namespace.iptables(f"-t mangle -A OUTPUT -p udp --dport 4001 -j NFQUEUE --queue-num {NUMBER}")
    made = Ends()
    yield made
    made.receiver.close()
    made.sender.close()


@pytest.fixture
def open_queue(ends: Ends) -> Iterator[Callable[..., PacketQueue]]:
    """Makes queues, and closes them with the test."""
    made: list[PacketQueue] = []

    def make(callback: Callable[[Packet], None], **options: int) -> PacketQueue:
        made.append(PacketQueue(NUMBER, callback, **options))
        return made[-1]

    yield make
    for queue in made:
        queue.close()


Opener = Callable[..., PacketQueue]


@pytest.mark.parametrize("size", [0, 1, 4000, 4100, 60000, 65503])
def test_a_packet_comes_whole_with_its_mark_and_goes_on(ends: Ends, open_queue: Opener, size: int) -> None:
    seen: list[tuple[bytes, int]] = []

    def look(packet: Packet) -> None:
        seen.append((packet.payload, packet.mark))
        packet.accept()

    queue = open_queue(look)
    payload = bytes(index % 251 for index in range(size))
    ends.send(payload)
    assert ends.nothing_arrives()
    assert is_readable(queue)
    queue.drain()
    ((packet, mark),) = seen
    datagram = parse_udp(packet)
    assert datagram is not None
    assert datagram.payload == payload
    assert (datagram.source.port, datagram.destination.port, mark) == (SENDER, PORT, 0x70002)
    assert ends.receiver.recv(65536) == payload


@pytest.mark.parametrize("size", [1, 100, 65000])
def test_another_packet_goes_on_in_its_place(ends: Ends, open_queue: Opener, size: int) -> None:
    source = ip_address("127.9.9.9")
    other = build_udp(source, 9999, LOCAL, PORT, b"o" * size)
    queue = open_queue(lambda packet: packet.accept_with(other))
    ends.send(b"t" * 100)
    assert is_readable(queue)
    queue.drain()
    assert ends.receiver.recvfrom(65536) == (b"o" * size, ("127.9.9.9", 9999))


def test_a_packet_that_is_dropped_ends_there(ends: Ends, open_queue: Opener) -> None:
    queue = open_queue(lambda packet: packet.drop() if b"bad" in packet.payload else packet.accept())
    ends.send(b"bad")
    ends.send(b"good")
    assert is_readable(queue)
    queue.drain()
    assert ends.receiver.recv(100) == b"good"
    assert ends.nothing_arrives()


def test_one_call_hands_on_one_batch_in_their_order(ends: Ends, open_queue: Opener) -> None:
    seen: list[bytes] = []

    def take(packet: Packet) -> None:
        seen.append(packet.payload[28:])
        packet.drop()

    queue = open_queue(take, batch=4)
    for number in range(10):
        ends.send(b"%d" % number)
    lengths = []
    while is_readable(queue, 0.2):
        queue.drain()
        lengths.append(len(seen))
    assert lengths == [4, 8, 10]
    assert seen == [b"%d" % number for number in range(10)]


def test_packets_up_to_one_pass_once_more_by_one_message(
    namespace: Namespace, ends: Ends, open_queue: Opener
) -> None:
    namespace.iptables("-t mangle -I OUTPUT 1 -m mark --mark 0x7/0xff -j RETURN")
    held: list[Packet] = []

    def take(packet: Packet) -> None:
        packet.hold()
        held.append(packet)

    queue = open_queue(take)
    for number in range(5):
        ends.send(b"%d" % number)
    while is_readable(queue, 0.2):
        queue.drain()
    assert [packet.number for packet in held] == sorted(packet.number for packet in held)
    held[1].drop()
    queue.repeat_all_with(0x70007, held[3])
    assert [ends.receiver.recv(10) for _ in range(3)] == [b"0", b"2", b"3"]
    assert ends.nothing_arrives()
    held[4].accept()
    assert ends.receiver.recv(10) == b"4"


def test_nothing_waiting_is_no_error(ends: Ends, open_queue: Opener) -> None:
    queue = open_queue(lambda packet: packet.drop())
    assert not is_readable(queue, 0)
    queue.drain()
    assert queue.overruns == 0


def test_a_flood_is_counted_and_the_queue_goes_on(ends: Ends, open_queue: Opener) -> None:
    seen: list[int] = []

    def take(packet: Packet) -> None:
        seen.append(len(packet.payload))
        packet.accept()

    queue = open_queue(take, buffer_bytes=100_000)
    for _ in range(100):
        ends.send(bytes(5000))
    while is_readable(queue, 0.2):
        queue.drain()
    assert queue.overruns > 0
    assert 0 < len(seen) < 100
    while not ends.nothing_arrives():
        ends.receiver.recv(65536)
    ends.send(b"after the flood")
    assert is_readable(queue)
    queue.drain()
    assert ends.receiver.recv(100) == b"after the flood"


def test_the_kernel_holds_so_many_packets_and_no_more(ends: Ends, open_queue: Opener) -> None:
    seen: list[Packet] = []

    def take(packet: Packet) -> None:
        seen.append(packet)
        packet.accept()

    queue = open_queue(take, max_length=5)
    for _ in range(9):
        ends.send(b"x")
    assert is_readable(queue)
    queue.drain()
    assert len(seen) == 5


def test_a_queue_that_somebody_holds_is_refused_until_it_is_given_up(ends: Ends) -> None:
    queue = PacketQueue(NUMBER, lambda packet: packet.accept())
    with pytest.raises(FacilityError, match=f"packet queue {NUMBER} cannot be taken"):
        PacketQueue(NUMBER, lambda packet: packet.accept())
    queue.close()
    PacketQueue(NUMBER, lambda packet: packet.accept()).close()


def test_without_a_queue_packets_are_dropped_and_never_leaked(ends: Ends) -> None:
    PacketQueue(NUMBER, lambda packet: packet.accept()).close()
    ends.send(b"lost")
    assert ends.nothing_arrives()
