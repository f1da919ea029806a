"""The fast plane's programs on their own: what they forward, and what they leave alone."""

import hashlib
import itertools
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from fast_pair import ANCHOR, HOST, OWNER, TUNNEL_ID, WORLD, Pair, fast_pair
from kernel_namespace import Namespace, eventually

from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.fast_layout import (
    EVENTS,
    MOST_CHANGES,
    NUMBER,
    ApplicationRow,
    FlowRow,
    counts_of,
    events_of,
    flow_key,
    watch_change,
)
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.protected import Cookie
from upmt_nf.linux.libbpf import run
from upmt_nf.model.flow import ICMP, TCP, UDP, Endpoint, FlowKey
from upmt_nf.model.identity import ApplicationId, TunnelId

pytestmark = pytest.mark.kernel

EVERYTHING = 3
"""ETH_P_ALL: a tap that sees packets before the programs do."""


@pytest.fixture
def pair(namespace: Namespace) -> Iterator[Pair]:
    with fast_pair(namespace) as made:
        yield made


def flow(protocol: int, port: int, other: int) -> FlowKey:
    return FlowKey(protocol, ip_address(OWNER), port, ip_address(WORLD), other)


def know(pair: Pair, known: FlowKey) -> None:
    """As the agents do once they saw its first packet."""
    pair.host.know_flow(known, FlowRow(1))
    pair.anchor.know_flow(known, FlowRow(0, TUNNEL_ID))


def listening(pair: Pair, kind: int) -> socket.socket:
    with pair.inside_anchor():
        made = socket.socket(socket.AF_INET, kind)
    made.bind((WORLD, 0))
    made.settimeout(10)
    return made


def left_to_agent(pair: Pair, reason: str) -> tuple[int, int]:
    key = NUMBER.pack(EVENTS.index(reason))
    ends = (pair.host, pair.anchor)
    here, there = (events_of(end.programs.maps["events"].lookup(key) or b"") for end in ends)
    return here, there


def test_datagrams_go_both_ways_and_are_counted(pair: Pair) -> None:
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    client.settimeout(10)
    known = flow(UDP, client.getsockname()[1], server.getsockname()[1])
    know(pair, known)
    for size in (0, 1, 1400, 1444):
        client.sendto(bytes(size), server.getsockname())
        data, source = server.recvfrom(2000)
        assert (len(data), source) == (size, client.getsockname())
        server.sendto(data, source)
        assert len(client.recv(2000)) == size
    for end in (pair.host, pair.anchor):
        row = end.flow(known)
        assert (row.packets_out, row.bytes_out) == (4, 4 * 28 + 2845)
        assert (row.packets_in, row.bytes_in) == (4, 4 * 28 + 2845)
        assert row.last_seen > 0
        counts = counts_of(end.programs.maps["tunnel_counts"].lookup(NUMBER.pack(1)) or b"")
        assert (counts.packets_out, counts.packets_in) == (4, 4)
    server.close()
    client.close()


def transfer(pair: Pair, megabytes: int) -> FlowKey:
    """The same bytes up and down by TCP; gives the flow."""
    server = listening(pair, socket.SOCK_STREAM)
    server.listen()
    client = socket.socket()
    client.bind((OWNER, 0))
    client.settimeout(30)
    known = flow(TCP, client.getsockname()[1], server.getsockname()[1])
    know(pair, known)
    data = os.urandom(megabytes << 20)
    echoed = hashlib.sha256()

    def echo() -> None:
        accepted = server.accept()[0]
        with accepted:
            accepted.settimeout(30)
            while got := accepted.recv(1 << 20):
                accepted.sendall(got)

    def send() -> None:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)

    threads = [threading.Thread(target=work) for work in (echo, send)]
    client.connect(server.getsockname())
    for thread in threads:
        thread.start()
    while got := client.recv(1 << 20):
        echoed.update(got)
    for thread in threads:
        thread.join()
    assert echoed.digest() == hashlib.sha256(data).digest()
    client.close()
    server.close()
    return known


@pytest.mark.parametrize("offload", ["on", "off"])
def test_a_transfer_arrives_unchanged_both_ways(pair: Pair, offload: str) -> None:
    if shutil.which("ethtool") is None:
        pytest.skip("there is no ethtool")
    for words in ("tso", "gso", "tx"):
        pair.namespace.run(f"ethtool -K if0 {words} {offload}", check=False)
        pair.namespace.run(f"nsenter -t {pair.other} -n ethtool -K wan {words} {offload}", check=False)
    known = transfer(pair, 8)
    row = pair.host.flow(known)
    assert row.bytes_out > 8 << 20
    assert row.bytes_in > 8 << 20
    # Nothing of it took the slow way, which ends in a tun that nobody reads.
    assert left_to_agent(pair, "unknown_flow") == (0, 0)
    assert left_to_agent(pair, "no_room") == (0, 0)


def test_large_packets_stay_whole(pair: Pair) -> None:
    before = packets_of(pair)
    known = transfer(pair, 8)
    assert pair.host.flow(known).packets_out > 8 << 20 >> 11
    assert packets_of(pair) - before < 3 * (8 << 20) / 1400 / 2


def packets_of(pair: Pair) -> int:
    link = json.loads(pair.namespace.run("ip -s -j link show dev if0"))[0]
    return int(link["stats64"]["tx"]["packets"]) + int(link["stats64"]["rx"]["packets"])


def test_pings_are_forwarded_by_their_identifier(pair: Pair) -> None:
    with subprocess.Popen(
        ["ping", "-c", "3", "-i", "0.2", "-e", "4321", "-I", OWNER, WORLD], stdout=subprocess.PIPE, text=True
    ) as ping:
        know(pair, flow(ICMP, 4321, 4321))
        said, _ = ping.communicate(timeout=20)
    assert pair.host.flow(flow(ICMP, 4321, 4321)).packets_in >= 2, said


def test_unknown_flows_and_wide_packets_are_left_to_the_agent(pair: Pair) -> None:
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    client.sendto(b"who", server.getsockname())
    eventually(lambda: left_to_agent(pair, "unknown_flow")[0] == 1, "it was counted")
    know(pair, flow(UDP, client.getsockname()[1], server.getsockname()[1]))
    pair.host.know_tunnel(mtu=1000)
    client.sendto(bytes(1200), server.getsockname())
    eventually(lambda: left_to_agent(pair, "too_large")[0] == 1, "it was counted")
    client.sendto(bytes(4000), server.getsockname())
    eventually(lambda: left_to_agent(pair, "fragment")[0] >= 1, "it was counted")
    server.close()
    client.close()


def test_outer_packets_go_to_the_next_hop_that_the_agent_named_whatever_the_routes_say(pair: Pair) -> None:
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    know(pair, flow(UDP, client.getsockname()[1], server.getsockname()[1]))
    pair.namespace.run(f"ip route add {ANCHOR}/32 via 192.0.2.77 dev if0")
    client.sendto(b"by nobody", server.getsockname())
    pair.host.know_tunnel(next_hop=ip_address(ANCHOR))
    client.sendto(b"next hop", server.getsockname())
    assert server.recv(2000) == b"next hop"
    server.close()
    client.close()


def test_an_application_without_a_tunnel_waits_and_one_write_moves_it(pair: Pair) -> None:
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    know(pair, flow(UDP, client.getsockname()[1], server.getsockname()[1]))
    pair.host.steer(1, 0)
    client.sendto(b"1", server.getsockname())
    eventually(lambda: left_to_agent(pair, "no_tunnel")[0] == 1, "it was counted")
    pair.host.steer(1, TUNNEL_ID)
    client.sendto(b"2", server.getsockname())
    assert server.recv(10) == b"2"
    server.close()
    client.close()


@pytest.mark.parametrize(("pinned", "left", "learns"), [(0, 0, True), (77, 0, True), (77, TUNNEL_ID, False)])
def test_the_anchor_learns_where_a_flow_comes_from(pair: Pair, pinned: int, left: int, learns: bool) -> None:
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    known = flow(UDP, client.getsockname()[1], server.getsockname()[1])
    know(pair, known)
    pair.anchor.know_flow(known, FlowRow(0, pinned, left_too=left, left_until=1 << 62))
    client.sendto(b"x", server.getsockname())
    assert server.recv(10) == b"x"
    assert pair.anchor.flow(known).tunnel == (TUNNEL_ID if learns else pinned)
    server.close()
    client.close()


def test_the_anchor_learns_as_its_agent_does_where_applications_are_named(pair: Pair) -> None:
    """Every state that a flow and its application can be in, and one packet."""
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    known = flow(UDP, client.getsockname()[1], server.getsockname()[1])
    know(pair, known)
    now = time.monotonic()
    elsewhere = TunnelId(7)
    places = (TunnelId(0), TUNNEL_ID, elsewhere)
    for own, is_stale, common, left, is_settling in itertools.product(
        places, (False, True), places, places, (False, True)
    ):
        settles = now + (60.0 if is_settling else -60.0)
        ways = {
            id: Tunnel(id, ip_address(OWNER), Endpoint(ip_address(HOST), id & 0xFFFF), 1400)
            for id in places[1:]
        }
        paft = Paft()
        for way in ways.values():
            paft.add_tunnel(way)
        paft.move_application(ApplicationId(5), ways[TUNNEL_ID], now)
        paft.steer(ApplicationId(5), common or None)
        heading = paft.headings[ApplicationId(5)]
        heading.course, heading.settles = 3, settles
        heading.left = ((ways[left], settles),) if left else ()
        entry = paft.name(known.packed(), ApplicationId(5), now)
        entry.pinned, entry.course = ways.get(own), 2 if is_stale else 3
        row = ApplicationRow(left, 0, max(0, int(settles * 1e9)), common, 3)
        pair.anchor.programs.maps["applications"].update(NUMBER.pack(5), row.packed())
        pair.anchor.know_flow(known, FlowRow(5, own, entry.course))
        client.sendto(b"x", server.getsockname())
        assert server.recv(10) == b"x"
        expected = paft.tunnel_of(paft.learn(known.packed(), ways[TUNNEL_ID], now))
        found = pair.anchor.flow(known)
        is_own = found.tunnel and found.course == 3
        assert (found.tunnel if is_own else common) == (expected.id if expected is not None else 0), (
            own, is_stale, common, left, is_settling,
        )  # fmt: skip
    server.close()
    client.close()


def test_a_flow_is_changed_in_place_and_how_its_packets_come_is_watched(pair: Pair) -> None:
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    known = flow(UDP, client.getsockname()[1], server.getsockname()[1])
    know(pair, known)
    other = TunnelId(7)
    for end in (pair.host, pair.anchor):
        end.know_tunnel(id=other, host_port=40002)
    key = flow_key(known.packed())
    assert key is not None

    def send(id: TunnelId, packets: int) -> None:
        pair.host.steer(1, id)
        for _ in range(packets):
            client.sendto(b"x", server.getsockname())
            assert server.recv(10) == b"x"

    send(TUNNEL_ID, 2)
    way, stranger = FlowRow(0, other, left=TUNNEL_ID, left_until=1 << 62), b"\1" * len(key)
    begun = watch_change(key, other, time.monotonic_ns())
    program = pair.anchor.programs.program("change_flows")
    changes = way.as_change(key) + way.as_change(stranger) + begun
    assert run(program, bytes(14) + changes) == 2
    send(TUNNEL_ID, 3)
    send(other, 2)
    send(TUNNEL_ID, 4)
    row = pair.anchor.flow(known)
    assert (row.tunnel, row.packets_out, row.late) == (other, 11, 4)
    assert 0 < row.first_arrival < row.last_elsewhere
    assert 0 < row.gap < 10**10
    assert run(program, bytes(14) + watch_change(key, 0, 0) * MOST_CHANGES) == MOST_CHANGES
    ended = pair.anchor.flow(known)
    assert (ended.watched, ended.tunnel, ended.late) == (0, other, 4)
    assert run(program, bytes(14) + way.as_change(stranger)) == 0
    server.close()
    client.close()


def test_the_cookie_format_carries_the_secret_and_believes_no_other(pair: Pair) -> None:
    up, down, wrong = b"upsecret", b"dnsecret", b"not that"
    # 12 bytes less than in a plain tunnel.
    pair.namespace.run("ip link set upmt0 mtu 1460")
    pair.at_anchor("ip link set upmt0 mtu 1460")
    pair.host.know_tunnel(1460, Cookie(up, down))
    pair.anchor.know_tunnel(1460, Cookie(down, up))
    transfer(pair, 4)
    pair.anchor.know_tunnel(format=Cookie(down, wrong))
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    know(pair, flow(UDP, client.getsockname()[1], server.getsockname()[1]))
    client.sendto(b"forged", server.getsockname())
    eventually(lambda: left_to_agent(pair, "wrong_secret")[1] == 1, "it was counted")
    pair.anchor.know_tunnel()
    client.sendto(b"protected where plain was agreed", server.getsockname())
    eventually(lambda: left_to_agent(pair, "unknown_end")[1] == 1, "it was counted")
    server.close()
    client.close()


def test_a_packet_of_another_virtual_address_is_not_let_in(pair: Pair) -> None:
    server = listening(pair, socket.SOCK_DGRAM)
    pair.namespace.run("ip address add 10.99.0.3/32 dev upmt0")
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind(("10.99.0.3", 0))
    forged = FlowKey(
        UDP, ip_address("10.99.0.3"), client.getsockname()[1], ip_address(WORLD), server.getsockname()[1]
    )
    pair.host.know_flow(forged, FlowRow(1))
    pair.anchor.know_flow(forged, FlowRow(0, TUNNEL_ID))
    client.sendto(b"x", server.getsockname())
    eventually(lambda: left_to_agent(pair, "no_tunnel")[0] == 1, "our own end refused it")
    server.close()
    client.close()


def test_congestion_and_service_marks_cross_the_tunnel(pair: Pair) -> None:
    server = listening(pair, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IP, 13, 1)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8 | 2)
    know(pair, flow(UDP, client.getsockname()[1], server.getsockname()[1]))
    client.sendto(b"x", server.getsockname())
    _, ancillary, _, _ = server.recvmsg(100, 100)
    assert ancillary[0][2][0] == 0xB8 | 2
    server.close()
    client.close()


@pytest.mark.parametrize("fragments", [0, 2], ids=["inner may be fragmented", "inner must not be"])
def test_the_outer_header_is_that_of_a_tunnel_and_the_inner_one_stays(pair: Pair, fragments: int) -> None:
    """RFC 2003 section 3.1: a TTL and DF of its own; RFC 6040 section 4.1: the service as inside; RFC 768: no sum."""
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    for option, value in ((socket.IP_TTL, 9), (socket.IP_TOS, 0x28), (10, fragments)):
        client.setsockopt(socket.IPPROTO_IP, option, value)
    know(pair, flow(UDP, client.getsockname()[1], server.getsockname()[1]))
    with (
        pair.inside_anchor(),
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(EVERYTHING)) as tap,
    ):
        tap.bind(("wan", EVERYTHING))
        tap.settimeout(5)
        client.sendto(b"x", server.getsockname())
        packet = next(seen for seen in iter(lambda: tap.recv(2000), b"") if seen[0] == 0x45)
    assert (packet[0], packet[1], packet[8], packet[9]) == (0x45, 0x28, 64, socket.IPPROTO_UDP)
    assert int.from_bytes(packet[6:8], "big") == 0x4000
    assert (packet[12:16], packet[16:20]) == (socket.inet_aton(HOST), socket.inet_aton(ANCHOR))
    assert checksum(packet[:20]) == 0
    assert packet[26:28] == bytes(2)
    inner = packet[28:]
    assert (inner[0], inner[1], inner[8]) == (0x45, 0x28, 9)
    assert int.from_bytes(inner[6:8], "big") & 0x4000 == (0x4000 if fragments else 0)
    assert checksum(inner[:20]) == 0
    server.close()
    client.close()


def test_what_would_expire_at_the_anchor_is_left_to_its_agent(pair: Pair) -> None:
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    know(pair, flow(UDP, client.getsockname()[1], server.getsockname()[1]))
    for ttl in (1, 2):
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        client.sendto(bytes((ttl,)), server.getsockname())
    assert server.recv(100) == b"\2"
    assert left_to_agent(pair, "not_data") == (0, 1)
    server.close()
    client.close()


def test_datagrams_sent_in_one_go_are_left_to_the_agent(pair: Pair) -> None:
    """UDP_SEGMENT, as QUIC uses it."""
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    know(pair, flow(UDP, client.getsockname()[1], server.getsockname()[1]))
    size = (socket.IPPROTO_UDP, 103, struct.pack("=H", 1200))
    client.sendmsg([bytes(5000)], [size], 0, server.getsockname())
    eventually(lambda: left_to_agent(pair, "several_datagrams")[0] == 1, "it was counted")
    server.close()
    client.close()


def test_two_hundred_moves_lose_double_and_reorder_nothing_either_way(pair: Pair) -> None:
    """In the middle of a burst each time, one write at the host; the anchor learns, or is told."""
    other = TunnelId(7)
    for end in (pair.host, pair.anchor):
        end.know_tunnel(id=other, host_port=40002)
    server = listening(pair, socket.SOCK_DGRAM)
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind((OWNER, 0))
    client.settimeout(10)
    here, there = client.getsockname(), server.getsockname()
    known = flow(UDP, here[1], there[1])
    know(pair, known)
    # Company, so that a move is one write among many flows.
    for port in range(1, 1000):
        pair.host.know_flow(flow(UDP, port, 9), FlowRow(1))
    counted = 0
    for move in range(200):
        target = other if move % 2 == 0 else TUNNEL_ID
        is_told = move % 4 < 2
        for part in range(20):
            if part == 10:
                pair.host.steer(1, target)
            client.sendto(b"%d" % (counted + part), there)
        assert [int(server.recv(20)) for _ in range(20)] == list(range(counted, counted + 20))
        if not is_told:
            assert pair.anchor.flow(known).tunnel == target
        for part in range(20):
            if part == 10 and is_told:
                pair.anchor.know_flow(known, FlowRow(0, target))
            server.sendto(b"%d" % (counted + part), here)
        assert [int(client.recv(20)) for _ in range(20)] == list(range(counted, counted + 20))
        counted += 20
    server.close()
    client.close()
