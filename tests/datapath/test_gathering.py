"""Payloads gathered into bursts: every tunnel's order and every byte kept, nothing left behind after a flush."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath.gathering import Gathering
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.verdict import DROPPED_OUT, Outbound
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TunnelId

OWNER = ip_address("1.2.3.4")
TUNNELS = [
    Tunnel(TunnelId(number), OWNER, Endpoint(ip_address("160.80.0.1"), 1500 + number), 1472)
    for number in (1, 2)
]


class Sent:
    """What a gathering sent, call by call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, bytes, int, int]] = []

    def __call__(self, tunnel: Tunnel, payload: bytes, tos: int, size: int) -> None:
        self.calls.append((tunnel.id, payload, tos, size))

    def datagrams(self, tunnel: int) -> list[tuple[bytes, int]]:
        found: list[tuple[bytes, int]] = []
        for to, payload, tos, size in self.calls:
            if to == tunnel:
                found += [
                    (payload[at : at + (size or len(payload))], tos)
                    for at in range(0, len(payload), size or len(payload))
                ]
        return found


def one(tunnel: Tunnel, payload: bytes, tos: int = 0) -> Outbound:
    return Outbound(tunnel, (payload,), tos)


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(1, 5), st.sampled_from((0, 0, 0, 0xB8)), st.booleans()),
        max_size=200,
    )
)
def test_each_tunnel_gets_all_its_payloads_in_order(items: list[tuple[int, int, int, bool]]) -> None:
    sent = Sent()
    gathering = Gathering(sent)
    expected: dict[int, list[tuple[bytes, int]]] = {1: [], 2: []}
    for place, (which, length, tos, flush) in enumerate(items):
        payload = (place % 251).to_bytes(1, "big") * length
        gathering.add(one(TUNNELS[which], payload, tos))
        expected[TUNNELS[which].id].append((payload, tos))
        if flush:
            gathering.flush()
    gathering.flush()
    for number in (1, 2):
        assert sent.datagrams(number) == expected[number]
    calls = len(sent.calls)
    gathering.flush()
    assert len(sent.calls) == calls


def test_equal_ones_go_in_one_call_and_a_shorter_one_is_the_last() -> None:
    sent = Sent()
    gathering = Gathering(sent)
    for payload in (b"aaaa", b"bbbb", b"cc", b"dddd"):
        gathering.add(one(TUNNELS[0], payload))
    gathering.flush()
    assert sent.calls == [(1, b"aaaabbbbcc", 0, 4), (1, b"dddd", 0, 0)]


def test_no_call_is_larger_than_a_datagram_or_has_more_than_the_kernel_takes() -> None:
    sent = Sent()
    gathering = Gathering(sent)
    for _ in range(200):
        gathering.add(one(TUNNELS[0], bytes(1400)))
    for _ in range(200):
        gathering.add(one(TUNNELS[0], b"x"))
    gathering.flush()
    assert all(len(payload) <= 65000 for _, payload, _, _ in sent.calls)
    assert all(len(payload) <= 64 * max(1, size) or size == 0 for _, payload, _, size in sent.calls)
    assert len(sent.datagrams(1)) == 400


def test_a_burst_comes_after_what_was_gathered_before_it() -> None:
    sent = Sent()
    gathering = Gathering(sent)
    gathering.add(one(TUNNELS[0], b"first"))
    gathering.add(Outbound(TUNNELS[0], (b"xxxxyyyyzz",), 8, None, 4))
    gathering.add(DROPPED_OUT)
    assert sent.calls == [(1, b"first", 0, 0), (1, b"xxxxyyyyzz", 8, 4)]
