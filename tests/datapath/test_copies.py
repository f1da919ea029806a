"""Redundant sending: every packet by two tunnels, each handed on once, whatever one of the tunnels does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from large_packets import large, tcp
from tunnel_formats import FORMATS

from upmt_nf.datapath.anchor_forwarder import AnchorForwarder
from upmt_nf.datapath.arrivals import Arrivals
from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.copies import (
    NUMBER_SIZE,
    RUNS,
    WINDOW,
    FirstCopies,
    Number,
    Numbering,
    is_carried,
    number_of,
)
from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.packet import build_udp, flow_of
from upmt_nf.datapath.paft import COPY_MISSED, COPY_SILENCE, Paft, Tunnel
from upmt_nf.datapath.protected import Sealed
from upmt_nf.datapath.reach import Reach
from upmt_nf.datapath.segmentation import segment
from upmt_nf.datapath.verdict import Inbound, Outbound
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import ApplicationId, NetworkName, TunnelId

OWNER, CORRESPONDENT = ip_address("1.2.3.4"), ip_address("86.0.0.1")
ANCHOR = Endpoint(ip_address("45.0.0.1"), 1800)
CALL = ApplicationId(5)
NETWORKS = (NetworkName("net0"), NetworkName("net1"))
LOCALS = tuple(Endpoint(ip_address(f"192.168.{place}.2"), 1500) for place in (1, 2))
REMOTES = tuple(Endpoint(ip_address(f"160.80.{place}.1"), 1500 + place) for place in (1, 2))


class Ends:
    """A host and an anchor with two tunnels between them; the host's one application is redundant."""

    def __init__(
        self, formats: tuple[str, str] = ("plain", "sealed"), mtus: tuple[int, int] = (1472, 1452)
    ) -> None:
        self.here, self.there = Paft(), Paft()
        self.ours, self.theirs = [], []
        for place, name in enumerate(formats):
            id = TunnelId(place + 1)
            ours = Tunnel(id, OWNER, ANCHOR, mtus[place], NETWORKS[place], format=FORMATS[name](True))
            theirs = Tunnel(id, OWNER, REMOTES[place], mtus[place], format=FORMATS[name](False))
            self.here.add_tunnel(ours)
            self.there.add_tunnel(theirs)
            self.ours.append(ours)
            self.theirs.append(theirs)
        self.host = HostForwarder(
            self.here, OWNER, ANCHOR.address, lambda key, mark, dscp=0: Classified(CALL, 7, "call"), run=3
        )
        self.anchor = AnchorForwarder(self.there, ANCHOR.address, Reach((), own=(ANCHOR.address,)), run=9)
        for place, network in enumerate(NETWORKS):
            self.host.open_path(network, LOCALS[place], ANCHOR)
            self.host.use_tunnel(network, self.ours[place])
        self.here.steer(CALL, TunnelId(1))
        self.here.double(CALL, TunnelId(2))

    def at_anchor(self, network: int, payload: bytes, now: float = 1.0) -> list[Inbound]:
        return list(self.anchor.arrived(packed_endpoint(REMOTES[network]), 0, payload, len(payload), now))

    def at_host(self, network: int, payload: bytes, now: float = 1.0) -> list[Inbound]:
        return list(self.host.arrived(NETWORKS[network], 0, payload, len(payload), now))

    def up(self, packet: bytes, now: float = 1.0) -> bytes | None:
        """What the world gets of a packet that both tunnels carry."""
        (one,) = self.carried(self.host.outbound(packet, 0, now), self.at_anchor, now)
        return one

    def carried(
        self, verdict: Outbound, arrives: Callable[[int, bytes, float], list[Inbound]], now: float
    ) -> list[bytes]:
        return [
            found.deliver
            for network, payload in legs(verdict)
            for found in arrives(network, payload, now)
            if found.deliver is not None
        ]


def legs(verdict: Outbound | None) -> list[tuple[int, bytes]]:
    """What goes by which network."""
    found: list[tuple[int, bytes]] = []
    while verdict is not None and verdict.tunnel is not None:
        assert verdict.size == 0
        found += [(verdict.tunnel.id - 1, payload) for payload in verdict.payloads]
        verdict = verdict.copy
    return found


def datagram(number: int, *, up: bool = True, size: int = 60) -> bytes:
    body = number.to_bytes(4, "big") + bytes(size)
    if up:
        return build_udp(OWNER, 4000, CORRESPONDENT, 5004, body)
    return build_udp(CORRESPONDENT, 5004, OWNER, 4000, body)


# --- the header and the memory ---


def test_the_header_is_as_the_protocol_says() -> None:
    numbering = Numbering(0xABCDEF)
    assert [numbering.head().hex() for _ in range(2)] == ["50abcdef00000000", "50abcdef00000001"]
    packet = datagram(1)
    payload = numbering.head() + packet
    assert number_of(payload) == Number(0xABCDEF, 2)
    assert number_of(packet) is None
    sizes = {len(payload): True, len(payload) - 1: False, NUMBER_SIZE: False, 0: False}
    assert {size: is_carried(payload[:size]) for size in sizes} == sizes


def test_when_the_numbers_are_used_up_another_run_begins() -> None:
    numbering = Numbering(RUNS - 1)
    numbering._next = (1 << 32) - 1  # the last one; nobody waits for four billion packets
    last, first = number_of(numbering.head() + datagram(0)), number_of(numbering.head() + datagram(0))
    assert (last, first) == (Number(RUNS - 1, (1 << 32) - 1), Number(0, 0))


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3 * WINDOW)), max_size=60))
def test_a_number_is_new_once_and_what_is_older_than_the_window_never(numbers: list[tuple[int, int]]) -> None:
    memory, seen, highest = FirstCopies(), set(), [-1, -1]
    for run, number in numbers:
        is_first, is_late = memory.take(Number(run, number))
        expected = (run, number) not in seen and number > highest[run] - WINDOW
        assert (is_first, is_late) == (expected, number <= highest[run])
        seen.add((run, number))
        highest[run] = max(highest[run], number)


def test_a_forged_number_far_ahead_stops_a_sender_for_a_moment_only() -> None:
    memory = FirstCopies()
    memory.take(Number(1, 0))
    memory.take(Number(1, 2**31))
    came = [memory.take(Number(1, number)).is_first for number in range(1, 100)]
    assert came == [False] * 64 + [True] * 35
    assert memory.take(Number(1, 99)).is_first is False


def test_a_sender_that_begins_anew_is_heard_and_late_packets_of_before_are_still_told_apart() -> None:
    memory = FirstCopies()
    assert [memory.take(Number(1, number)).is_first for number in (0, 1, 3)] == [True] * 3
    assert [memory.take(Number(2, number)).is_first for number in (0, 0)] == [True, False]
    assert [memory.take(Number(1, number)).is_first for number in (2, 3)] == [True, False]
    memory.take(Number(3, 0))
    assert len(memory._runs) == 2


# --- both ends ---


@pytest.mark.parametrize("formats", [("plain", "plain"), ("cookie", "sealed"), ("sealed", "plain")])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_nothing_is_lost_or_doubled_while_either_tunnel_brings_it(
    formats: tuple[str, str], seed: int
) -> None:
    noise, ends = Random(seed), Ends(formats)
    loss = [noise.choice((0.0, 0.1, 1.0)), noise.choice((0.0, 0.1, 0.5))]
    delay = [noise.randrange(1, 40), noise.randrange(1, 40)]
    for is_up in (True, False):
        wire: list[tuple[float, int, int, bytes]] = []
        reached: set[int] = set()
        for number in range(120):
            packet = datagram(number, up=is_up)
            verdict = ends.host.outbound(packet, 0, 1.0) if is_up else ends.anchor.downlink(packet, 1.0)
            for network, payload in legs(verdict):
                if noise.random() >= loss[network]:
                    reached.add(number)
                    wire.append((number + delay[network] + noise.random() * 10, len(wire), network, payload))
        arrives = ends.at_anchor if is_up else ends.at_host
        got = Counter(
            int.from_bytes(found.deliver[28:32], "big")
            for _, _, network, payload in sorted(wire)
            for found in arrives(network, payload, 1.0)
            if found.deliver is not None
        )
        assert got == Counter(reached)
        if loss[0] < 1 and loss[1] < 1 and is_up:
            # From here on answers go by both.
            (entry,) = ends.there.flows.values()
            assert set(entry.copies or ()) == set(ends.theirs)


def test_a_flow_counts_once_at_both_ends_and_each_tunnel_counts_what_it_carried() -> None:
    ends = Ends()
    for number in range(10):
        assert ends.up(datagram(number)) == datagram(number)
        (answer,) = ends.carried(ends.anchor.downlink(datagram(number, up=False), 1.0), ends.at_host, 1.0)
        assert answer == datagram(number, up=False)
    (near,), (far,) = ends.here.flows.values(), ends.there.flows.values()
    assert (near.packets_out, near.packets_in, far.packets_out, far.packets_in) == (10, 10, 10, 10)
    assert [(tunnel.packets_out, tunnel.packets_in) for tunnel in ends.ours] == [(10, 10), (10, 10)]
    assert (ends.host.counters["copies_sent"], ends.host.counters["copies_dropped"]) == (10, 10)
    size = len(datagram(0))
    assert ends.here.copied == {(CALL, NETWORKS[1]): 20 * size}


def test_what_comes_by_the_second_network_first_is_spent_there() -> None:
    ends = Ends()
    ends.up(datagram(0))
    ends.here.copied.clear()
    answer = legs(ends.anchor.downlink(datagram(0, up=False), 1.0))
    for network, payload in reversed(answer):
        ends.at_host(network, payload)
    size = len(datagram(0))
    # The flow's own count says `size` for the first network, where the second copy came.
    assert ends.here.copied == {(CALL, NETWORKS[0]): 0, (CALL, NETWORKS[1]): size}


def test_large_tcp_packets_are_taken_apart_and_each_part_goes_twice() -> None:
    ends = Ends(("cookie", "plain"))
    packet, offload = large(bytes(5000), 1000)
    parts, size = segment(packet, offload)
    verdict = ends.host.outbound(packet, 0, 1.0, offload)
    assert len(legs(verdict)) == 2 * -(-len(parts) // size)
    got = ends.carried(verdict, ends.at_anchor, 1.0)
    assert b"".join(got) == parts
    joined = b"".join(payload for network, payload in legs(verdict) if network == 1)
    step = len(legs(verdict)[-2][1])
    assert all(
        found.deliver is None
        for found in ends.anchor.arrived(packed_endpoint(REMOTES[1]), 0, joined, step, 1.0)
    ), "in a burst, too"


def test_a_packet_that_is_too_large_for_the_smaller_tunnel_goes_in_fragments_by_both() -> None:
    ends = Ends(mtus=(1472, 700))
    whole = datagram(0, size=1300)
    assert ends.host.outbound(whole, 0, 1.0).error, "with DF its sender is told"
    head = whole[:6] + b"\0\0" + whole[8:10] + b"\0\0" + whole[12:20]
    whole = head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + whole[20:]
    verdict = ends.host.outbound(whole, 0, 1.0)
    assert all(len(payload) <= 700 + Sealed.extra for _, payload in legs(verdict))
    # Half of the fragments by each network are enough.
    some = legs(verdict)
    pieces = len(some) // 2
    half = [leg for place, leg in enumerate(some) if (place % pieces + leg[0]) % 2 == 0]
    got = [found.deliver for network, payload in half for found in ends.at_anchor(network, payload)]
    assert next(packet for packet in got if packet is not None and flow_of(packet))[28:] == whole[28:]


def test_an_anchor_stops_copies_by_a_tunnel_that_brings_none_and_begins_again_when_it_does() -> None:
    ends = Ends()
    ends.up(datagram(0), 1.0)
    (entry,) = ends.there.flows.values()
    now = 1.0
    for number in range(1, COPY_MISSED + 3):
        now += COPY_SILENCE / 4
        (_, _), (network, payload) = legs(ends.host.outbound(datagram(number), 0, now))
        ends.at_anchor(network, payload, now)
    assert list(entry.copies or ()) == [ends.theirs[1]]
    assert entry.pinned is ends.theirs[1]
    ends.up(datagram(99), now)
    assert set(entry.copies or ()) == set(ends.theirs)


def test_a_packet_without_a_number_ends_the_copies() -> None:
    ends = Ends()
    ends.up(datagram(0))
    ends.here.double(CALL, None, is_numbered=False)
    assert ends.carried(ends.host.outbound(datagram(1), 0, 1.0), ends.at_anchor, 1.0) == [datagram(1)]
    assert len(legs(ends.anchor.downlink(datagram(1, up=False), 1.0))) == 1
    (entry,) = ends.there.flows.values()
    assert entry.pinned is ends.theirs[0]


def test_a_tunnel_that_goes_takes_its_copies_along() -> None:
    ends = Ends()
    ends.up(datagram(0))
    ends.here.remove_tunnel(TunnelId(2))
    ends.there.remove_tunnel(TunnelId(2))
    assert [network for network, _ in legs(ends.host.outbound(datagram(1), 0, 1.0))] == [0]
    assert [network for network, _ in legs(ends.anchor.downlink(datagram(1, up=False), 1.0))] == [0]


@pytest.mark.parametrize("format", FORMATS)
@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=70), st.integers(0, 80))
def test_what_is_no_packet_behind_a_number_is_dropped_and_counted(
    format: str, noise: bytes, cut: int
) -> None:
    ends = Ends((format, format))
    head = Numbering(1).head()
    for inner in (head + noise, (head + datagram(1))[:cut], head + head + datagram(1)):
        payload = ends.ours[0].format.encode(ends.ours[0], inner)
        # Alone, and last in a burst behind a good one.
        good = ends.ours[0].format.encode(ends.ours[0], head + datagram(1, size=80))
        for burst, size in ((payload, len(payload)), (good + payload, len(good))):
            found = list(ends.anchor.arrived(packed_endpoint(REMOTES[0]), 0, burst, size, 1.0))
            delivered = [one.deliver for one in found if one.deliver is not None]
            assert set(delivered) <= {datagram(1), datagram(1, size=80), noise}


def test_nobody_elses_number_is_believed() -> None:
    """A forger with another source in a tunnel of his own moves no window of the owner's."""
    ends = Ends(("cookie", "cookie"))
    forged = Numbering(3).head() + build_udp(ip_address("9.9.9.9"), 4000, CORRESPONDENT, 5004, b"x")
    payload = ends.ours[0].format.encode(ends.ours[0], forged)
    assert ends.at_anchor(0, payload) == [Inbound()]
    assert ends.anchor.counters["forged_source"] == 1
    assert ends.up(datagram(0)) == datagram(0)


def test_a_copy_that_was_overtaken_is_late_and_a_second_one_is_not_counted() -> None:
    arrivals = Arrivals(None, 1.0)
    arrivals.take(None, 1, 1.1, is_overtaken=False)
    arrivals.take(None, 1, 1.2, is_overtaken=True)
    assert (arrivals.late, round(arrivals.gap, 3)) == (1, 0.1)


class Changes:
    """A mirror that remembers what it was told of applications."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Tunnel | None]] = []

    def application_changed(self, application_id: int, tunnel: Tunnel | None) -> None:
        self.told.append((application_id, tunnel))

    def application_withheld(self, application_id: int) -> None:
        self.told.append((application_id, None))

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


def test_a_mirror_gets_no_redundant_application() -> None:
    ends = Ends()
    ends.here.double(CALL, None, is_numbered=False)
    ends.here.mirror = mirror = Changes()
    ends.here.double(CALL, TunnelId(2))
    ends.here.steer(CALL, TunnelId(2))
    ends.here.double(CALL, TunnelId(1))
    ends.here.double(CALL, None, is_numbered=False)
    assert mirror.told == [(CALL, None), (CALL, None), (CALL, ends.ours[1])]


def test_a_host_that_asks_for_order_gets_it_within_its_window() -> None:
    ends = Ends()
    ends.up(datagram(0))
    ends.here.windows[CALL] = 0.02
    sent = [legs(ends.anchor.downlink(datagram(number, up=False), 1.0)) for number in range(5)]

    def comes(number: int, network: int, now: float) -> list[int]:
        """What the application gets when this packet arrives."""
        found = [one.deliver for one in ends.at_host(*sent[number][network], now)]
        return [int.from_bytes(each[28:32], "big") for each in found if each is not None]

    assert comes(0, 0, 1.0) == [0]
    assert comes(2, 1, 1.001) == []
    assert ends.host.due == 1.021
    assert comes(1, 0, 1.01) == [1, 2]
    assert ends.host.release(2.0) == [], "nothing waits any more"
    assert comes(4, 0, 1.1) == []
    assert [one.deliver for one in ends.host.release(1.12)] == [datagram(4, up=False)]
    assert comes(3, 1, 1.2) == [3], "too late to be waited for, and not lost"


def test_tcp_is_numbered_like_anything_else() -> None:
    ends = Ends()
    packet = tcp(b"hello", sequence=1, ends=(OWNER, CORRESPONDENT), ports=(4000, 443))
    assert ends.up(packet) == packet
