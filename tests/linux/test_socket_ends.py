"""Closed sockets are told of, and entries of the connection table taken out one by one."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_namespace import Namespace, is_readable

from upmt_nf.linux.conntrack_entries import Conntrack, delete_message
from upmt_nf.linux.socket_ends import EndedSocket, SocketEnds, parse_end
from upmt_nf.model.errors import FacilityError
from upmt_nf.model.flow import TCP, UDP, FlowKey


def message(family: int, protocol: int, source_port: int, destination: bytes, destination_port: int) -> bytes:
    identity = struct.pack(
        "!HH16s16s", source_port, destination_port, bytes(16), destination.ljust(16, b"\0")
    )
    body = struct.pack("=BBBB", family, 7, 0, 0) + identity + bytes(12 + 20)
    body += struct.pack("=HHBxxx", 5, 10, protocol)
    return struct.pack("=IHHII", 16 + len(body), 20, 0, 0, 0) + body


FAR, FAR6 = ip_address("86.0.0.1"), ip_address("2001:db8::1")


@pytest.mark.parametrize(
    ("data", "ended"),
    [
        (message(2, 17, 4000, FAR.packed, 53), EndedSocket(UDP, 4000, FAR.packed, 53)),
        (message(2, 6, 4000, FAR.packed, 443), EndedSocket(TCP, 4000, FAR.packed, 443)),
        (message(10, 17, 4000, FAR6.packed, 53), EndedSocket(UDP, 4000, FAR6.packed, 53)),
        (
            message(10, 17, 4000, ip_address("::ffff:86.0.0.1").packed, 53),
            EndedSocket(UDP, 4000, FAR.packed, 53),
        ),
        (message(2, 17, 4000, bytes(4), 0), EndedSocket(UDP, 4000, b"", 0)),
        (message(10, 17, 4000, bytes(16), 53), EndedSocket(UDP, 4000, b"", 0)),
        (message(10, 17, 4000, ip_address("::ffff:0.0.0.0").packed, 53), EndedSocket(UDP, 4000, b"", 0)),
        (message(2, 17, 0, FAR.packed, 53), None),
        (message(2, 17, 4000, FAR.packed, 53)[:90], None),
        (b"", None),
    ],
)
def test_each_end(data: bytes, ended: EndedSocket | None) -> None:
    assert parse_end(data) == ended


@given(st.binary(max_size=200), st.integers(0, 120))
def test_any_bytes_are_an_end_or_nothing(data: bytes, length: int) -> None:
    parse_end(data)
    parse_end(struct.pack("=IHHII", length, 20, 0, 0, 0) + data)


@pytest.fixture
def ends(namespace: Namespace) -> Iterator[SocketEnds]:
    try:
        made = SocketEnds()
    except FacilityError as reason:
        pytest.skip(str(reason))
    yield made
    made.close()


@pytest.mark.kernel
def test_every_socket_that_closes_is_told(ends: SocketEnds) -> None:
    expected: set[EndedSocket] = set()
    local = ip_address("127.0.0.1").packed
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.connect(("127.0.0.1", 9))
        expected.add(EndedSocket(UDP, one.getsockname()[1], local, 9))
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.bind(("", 0))
        expected.add(EndedSocket(UDP, one.getsockname()[1], b"", 0))
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as one:
        expected.add(EndedSocket(TCP, one.getsockname()[1], local, listener.getsockname()[1]))
        listener.accept()[0].close()
    found: set[EndedSocket] = set()
    while not expected <= found and is_readable(ends):
        found |= {one._replace(cookie=0) for one in ends.read() if one.cookie}
    assert expected <= found


def test_a_message_names_one_entry() -> None:
    flow = FlowKey(UDP, ip_address("1.2.3.4"), 4000, FAR, 53)
    data = delete_message(flow)
    assert struct.unpack_from("=I", data)[0] == len(data)
    for part in (flow.source.packed, flow.destination.packed, b"\x0f\xa0", b"\x00\x35"):
        assert part in data
    assert FAR6.packed in delete_message(FlowKey(TCP, FAR6, 1, FAR6, 2))


@pytest.mark.kernel
def test_one_entry_is_taken_out_and_the_others_stay(namespace: Namespace) -> None:
    if shutil.which("conntrack") is None:
        pytest.skip("there is no conntrack")
    namespace.iptables("-A OUTPUT -m conntrack --ctstate NEW -j ACCEPT")
    keys = []
    with ExitStack() as held:
        server = held.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        server.bind(("127.0.0.1", 0))
        for _ in range(100):
            # All at once, so that none has the port of another.
            one = held.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            one.connect(server.getsockname())
            one.send(b"x")
            here = ip_address("127.0.0.1")
            keys.append(FlowKey(UDP, here, one.getsockname()[1], here, server.getsockname()[1]))
    if f"sport={keys[0].source_port} " not in namespace.run("conntrack -L"):
        pytest.skip("the kernel follows no connections here")
    table = Conntrack()
    table.forget(key.packed() for key in [*keys[:80], *keys[:80]])
    table.close()
    left = namespace.run("conntrack -L")
    assert [f"sport={key.source_port} " in left for key in keys] == [False] * 80 + [True] * 20
