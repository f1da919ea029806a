"""The protected formats: what their tunnel sealed comes out as it was, anything else not at all."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath.packet import build_udp
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.protected import PROTECTED, Cookie, Sealed, tunnel_hint
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TunnelId

UP, DOWN, OTHER, THIRD = (letter * 32 for letter in (b"u", b"d", b"o", b"t"))
HOST, ANCHOR, CORRESPONDENT = ip_address("1.2.3.4"), ip_address("45.0.0.1"), ip_address("86.0.0.1")

Format = Cookie | Sealed


def packet(payload: bytes = b"voice") -> bytes:
    return build_udp(HOST, 2000, CORRESPONDENT, 3000, payload)


def pair(name: str, number: int = 0x12345678) -> tuple[Tunnel, Tunnel]:
    """The two ends of a tunnel: host and anchor."""
    host = Tunnel(TunnelId(number), HOST, Endpoint(ANCHOR, 1800), 1400)
    anchor = Tunnel(TunnelId(number), HOST, Endpoint(ip_address("160.80.100.1"), 33000), 1400)
    host.format = PROTECTED[name](UP, DOWN)
    anchor.format = PROTECTED[name](DOWN, UP, waits=True)
    return host, anchor


def renew(tunnel: Tunnel, sending: bytes, receiving: bytes, key_id: int) -> None:
    assert isinstance(tunnel.format, Format)
    tunnel.format.renew(sending, receiving, key_id)


def carried(source: Tunnel, target: Tunnel, payload: bytes = b"voice") -> bool:
    sent = packet(payload)
    return target.format.decode(target, source.format.encode(source, sent)) == sent


@pytest.mark.parametrize(("name", "size"), [("cookie", 40), ("sealed", 60)])
def test_the_overhead_over_ipv4_is_what_the_design_allows(name: str, size: int) -> None:
    host, anchor = pair(name)
    wire = host.format.encode(host, packet())
    assert len(wire) - len(packet()) + 28 == host.format.overhead(4) == size
    assert wire[0] >> 4 not in (4, 6)
    assert anchor.format.decode(anchor, wire) == packet()


@pytest.mark.parametrize("name", PROTECTED)
@given(payload=st.binary(max_size=1400))
def test_what_goes_in_comes_out_in_both_directions(name: str, payload: bytes) -> None:
    host, anchor = pair(name)
    assert carried(host, anchor, payload)
    assert carried(anchor, host, payload)


@given(st.binary(max_size=100), st.integers(0, 10_000))
def test_a_sealed_packet_with_any_bit_flipped_is_refused(payload: bytes, place: int) -> None:
    host, anchor = pair("sealed")
    wire = bytearray(host.format.encode(host, packet(payload)))
    wire[place // 8 % len(wire)] ^= 1 << place % 8
    assert anchor.format.decode(anchor, bytes(wire)) is None
    assert carried(host, anchor)


@given(st.integers(0, 10_000))
def test_a_cookie_with_any_bit_of_its_secret_flipped_is_refused(place: int) -> None:
    host, anchor = pair("cookie")
    wire = bytearray(host.format.encode(host, packet()))
    wire[4 + place // 8 % 8] ^= 1 << place % 8
    assert anchor.format.decode(anchor, bytes(wire)) is None


@pytest.mark.parametrize("name", PROTECTED)
@given(data=st.binary(max_size=80))
def test_no_bytes_make_it_raise_or_are_believed(name: str, data: bytes) -> None:
    _, anchor = pair(name)
    for start in (b"", b"\x10\0", b"\x20\0\0\0\x12\x34\x56\x78"):
        assert anchor.format.decode(anchor, start + data) is None
        if start + data:
            tunnel_hint(start + data)


def test_a_sealed_packet_is_opened_once_only_and_only_by_its_own_tunnel_and_direction() -> None:
    host, anchor = pair("sealed")
    wire = host.format.encode(host, packet())
    assert anchor.format.decode(anchor, wire) == packet()
    assert anchor.format.decode(anchor, wire) is None
    _, another = pair("sealed", 0x12345679)
    assert another.format.decode(another, host.format.encode(host, packet())) is None
    assert host.format.decode(host, host.format.encode(host, packet())) is None
    assert anchor.format.decode(None, host.format.encode(host, packet())) is None


@given(st.integers(0, 2**32), st.integers(1, 3000))
def test_any_order_within_the_window_is_opened_exactly_once(seed: int, count: int) -> None:
    host, anchor = pair("sealed")
    chance = Random(seed)
    sent = [(number, host.format.encode(host, packet())) for number in range(count)]
    arriving = sorted(sent + sent, key=lambda item: item[0] + chance.uniform(0, 1000))
    opened = [number for number, wire in arriving if anchor.format.decode(anchor, wire) is not None]
    assert sorted(opened) == list(range(count))


def test_what_is_older_than_the_window_is_refused() -> None:
    host, anchor = pair("sealed")
    late = host.format.encode(host, packet())
    for _ in range(2048):
        assert carried(host, anchor)
    assert anchor.format.decode(anchor, late) is None


def test_a_forgery_with_a_huge_counter_does_not_move_the_window() -> None:
    host, anchor = pair("sealed")
    wire = bytearray(host.format.encode(host, packet()))
    wire[8:16] = b"\x7f" * 8
    assert anchor.format.decode(anchor, bytes(wire)) is None
    assert carried(host, anchor)


@pytest.mark.parametrize("name", PROTECTED)
def test_new_keys_lose_nothing_whichever_end_has_them_first(name: str) -> None:
    host, anchor = pair(name)
    on_the_way = host.format.encode(host, packet())
    renew(anchor, OTHER, THIRD, 1)
    # The anchor's answer is still under way: the host knows the old keys only.
    assert carried(anchor, host)
    assert carried(host, anchor)
    renew(host, THIRD, OTHER, 1)
    assert anchor.format.decode(anchor, on_the_way) == packet()
    assert carried(anchor, host)
    assert carried(host, anchor)
    assert carried(anchor, host)


@pytest.mark.parametrize("name", PROTECTED)
def test_answers_with_new_keys_may_be_lost_again_and_again(name: str) -> None:
    host, anchor = pair(name)
    for key_id in range(1, 4):
        renew(anchor, bytes([key_id]) * 32, bytes([key_id + 100]) * 32, key_id)
        assert carried(host, anchor)
        assert carried(anchor, host)
    renew(host, bytes([103]) * 32, bytes([3]) * 32, 3)
    assert carried(host, anchor)
    assert carried(anchor, host)


def test_the_hint_names_the_tunnel() -> None:
    for name, mask in (("cookie", 0xFFFF), ("sealed", 0xFFFFFFFF)):
        host, _ = pair(name)
        assert tunnel_hint(host.format.encode(host, packet())) == (0x12345678 & mask, mask)
    assert tunnel_hint(packet()) is None
    assert tunnel_hint(b"\x20") is None


@pytest.mark.parametrize("name", PROTECTED)
def test_payloads_too_small_for_a_packet_that_come_together_carry_nothing(name: str) -> None:
    """A size of nothing inside each would be divided by."""
    _, anchor = pair(name)
    head = b"\x10\0\x56\x78" + UP[:8] if name == "cookie" else b"\x20\0\0\0\x12\x34\x56\x78"
    for size in range(1, 60):
        payloads = (head + bytes(60))[:size] * 3
        packets, inner_size = anchor.format.decode_all(anchor, payloads, size)
        assert packets == b""
        assert inner_size > 0


@pytest.mark.parametrize("cut", [1, 7, 10, 17, 40])
def test_of_sealed_packets_that_came_together_the_good_ones_are_opened(cut: int) -> None:
    """A repeat, a flipped bit, another tunnel's, another key's, and a last one that is cut short."""
    host, anchor = pair("sealed")
    assert isinstance(host.format, Sealed)
    inner = [packet(b"voice %d" % number) for number in range(7)]
    payloads, size = host.format.encode_all(host, b"".join(inner), len(inner[0]))
    sealed = [payloads[at : at + size] for at in range(0, len(payloads), size)]
    assert [anchor.format.decode(anchor, each) for each in sealed[:1]] == inner[:1]
    flipped = sealed[3][:-1] + bytes([sealed[3][-1] ^ 1])
    other = sealed[4][:7] + b"\x01" + sealed[4][8:]
    renew(host, OTHER, THIRD, 1)
    renew(anchor, THIRD, OTHER, 1)
    newer = host.format.encode(host, inner[5])
    together = [sealed[0], sealed[1], flipped, sealed[2], sealed[2], other, newer, sealed[6]]
    last = host.format.encode(host, inner[6])[:cut]
    opened, inner_size = anchor.format.decode_all(anchor, b"".join(together) + last, size)
    assert opened == inner[1] + inner[2] + inner[5] + inner[6]
    assert inner_size == len(inner[0])
