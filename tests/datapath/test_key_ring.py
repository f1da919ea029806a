"""Keys change while packets and setup answers are lost, copied and overtaken: nothing that arrives is refused."""

from __future__ import annotations

import heapq
from ipaddress import ip_address
from random import Random
from typing import Any, ClassVar

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upmt_nf.datapath import protected
from upmt_nf.datapath.key_ring import MOST_KEYS, OVERLAP, Key, KeyRing
from upmt_nf.datapath.packet import build_udp
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.protected import PROTECTED, Cookie, Sealed
from upmt_nf.mobility.rekeying import LEAST
from upmt_nf.mobility.tunnel_keys import protect
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import TunnelId

HOST, ANCHOR = ip_address("1.2.3.4"), ip_address("45.0.0.1")
PATIENCE = 6.4
"""Seconds that a host waits for the answer to a setup request."""
ASSOCIATION = bytes(range(32))


class WatchedCipher:
    """The real one, which remembers what it sealed under which key and nonce."""

    sealed: ClassVar[set[tuple[bytes, bytes]]] = set()

    def __init__(self, key: bytes) -> None:
        self._inner, self._key = ChaCha20Poly1305(key), key

    def encrypt(self, nonce: Any, data: Any, associated_data: Any) -> bytes:
        assert (self._key, nonce) not in self.sealed, "a nonce was used twice with one key"
        self.sealed.add((self._key, nonce))
        return self._inner.encrypt(nonce, data, associated_data)

    def decrypt(self, nonce: Any, data: Any, associated_data: Any) -> bytes:
        return self._inner.decrypt(nonce, data, associated_data)


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protected, "ChaCha20Poly1305", WatchedCipher)


def end(remote: IPAddress) -> Tunnel:
    return Tunnel(TunnelId(7), HOST, Endpoint(remote, 1800), 1400)


class Exchange:
    """Both ends of one tunnel, and a network between them that loses, copies and overtakes. `now` in seconds."""

    def __init__(self, name: str, seed: int, *, loss: float, delay: float) -> None:
        self.name, self.chance = name, Random(seed)
        self.loss, self.delay = loss, delay
        self.host, self.anchor = end(ANCHOR), end(HOST)
        self.now = 0.0
        self.key_id = 0
        self.request = 0
        """The host waits for the answer to this one only, as it cancels those before."""
        self.opened = self.sent = self.renewed = 0
        self._arriving: list[tuple[float, int, object]] = []
        self._order = 0
        self._unanswered = 0
        self._ask_at = 0.0
        self._delivered: set[int] = set()
        for tunnel in (self.anchor, self.host):
            protect(tunnel, name, ASSOCIATION, 0, bytes(16), is_host=tunnel is self.host)

    # --- keys ---

    def ask(self) -> None:
        """A setup request, which the anchor answers with new keys, or which is lost; at most six in a row are.

        As the host does it: not while one is under way, and not before keys have served a little.
        """
        if self.now < self._ask_at:
            return
        self._ask_at = self.now + PATIENCE
        self.request += 1
        if self.chance.random() < self.loss:
            return
        self.key_id = (self.key_id + 1) & 0xFF
        salt = self.chance.randbytes(16)
        protect(self.anchor, self.name, ASSOCIATION, self.key_id, salt, is_host=False)
        self._unanswered += 1
        if self._unanswered > MOST_KEYS - 2 or self.chance.random() >= self.loss:
            self._carry(("answer", self.request, self.key_id, salt))

    def _hear_answer(self, request: int, key_id: int, salt: bytes) -> None:
        if request == self.request:
            self.request += 1
            self._unanswered = 0
            self.renewed += 1
            self._ask_at = self.now + LEAST
            protect(self.host, self.name, ASSOCIATION, key_id, salt, is_host=True)

    # --- packets ---

    def send(self, *, is_up: bool) -> None:
        source = self.host if is_up else self.anchor
        self.sent += 1
        packet = build_udp(HOST, 2000, ANCHOR, 3000, self.sent.to_bytes(4, "big"))
        wire = source.format.encode(source, packet)
        for _ in range(2 if self.chance.random() < 0.2 else 1):
            if self.chance.random() >= self.loss:
                self._carry((wire, packet, is_up, self.sent))

    def _carry(self, what: object) -> None:
        self._order += 1
        at = self.now + self.chance.random() * self.delay
        heapq.heappush(self._arriving, (at, self._order, what))

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self._arriving and self._arriving[0][0] <= until:
            self.now, _, what = heapq.heappop(self._arriving)
            match what:
                case ("answer", int(request), int(key_id), bytes(salt)):
                    self._hear_answer(request, key_id, salt)
                case (bytes(wire), bytes(packet), bool(is_up), int(number)):
                    target = self.anchor if is_up else self.host
                    found = target.format.decode(target, wire)
                    is_copy = number in self._delivered
                    self._delivered.add(number)
                    self.opened += not is_copy
                    expected = None if is_copy and self.name == "sealed" else packet
                    assert found == expected, f"packet {number}, {'up' if is_up else 'down'}"
        self.now = until
        for tunnel in (self.host, self.anchor):
            assert isinstance(tunnel.format, Cookie | Sealed)
            tunnel.format.retire(self.now)


@pytest.mark.parametrize("name", PROTECTED)
@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
@given(seed=st.integers(0, 2**32), pause=st.sampled_from([0.05, 0.4, 3.0]), delay=st.floats(0, 1.5))
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_to_the_setup_exchange_no_packet_that_arrives_is_refused(
    name: str, loss: float, seed: int, pause: float, delay: float
) -> None:
    WatchedCipher.sealed.clear()
    exchange = Exchange(name, seed, loss=loss, delay=delay)
    chance = Random(seed + 1)
    for _ in range(200):
        match chance.randrange(8):
            case 0:
                exchange.ask()
            case 1 | 2:
                exchange.pass_time(pause * chance.random())
            case 3 | 4 | 5:
                exchange.send(is_up=True)
            case _:
                exchange.send(is_up=False)
    exchange.pass_time(10)
    assert exchange.opened > 0
    assert loss or exchange.opened == exchange.sent


def peek(name: str) -> tuple[Exchange, list[int]]:
    """After five renewals; the ids of the keys that the anchor still believes."""
    WatchedCipher.sealed.clear()
    exchange = Exchange(name, 1, loss=0.0, delay=0.0)
    for _ in range(5):
        exchange.ask()
        exchange.pass_time(0.1)
        exchange.send(is_up=True)
        exchange.pass_time(LEAST)
    format = exchange.anchor.format
    assert isinstance(format, Cookie | Sealed)
    return exchange, [key.id for key in format._keys]


@pytest.mark.parametrize("name", PROTECTED)
def test_old_keys_end_after_the_overlap_and_what_was_sealed_with_them_is_refused(name: str) -> None:
    exchange, ids = peek(name)
    assert ids == [5, 4, 3, 2, 1, 0]
    late = exchange.host.format.encode(exchange.host, build_udp(HOST, 1, ANCHOR, 2, b"late"))
    exchange.ask()
    exchange.pass_time(0.1)
    exchange.send(is_up=True)
    exchange.pass_time(OVERLAP - 1)
    format = exchange.anchor.format
    assert isinstance(format, Cookie | Sealed)
    assert [key.id for key in format._keys][:2] == [6, 5]
    exchange.pass_time(OVERLAP)
    assert [key.id for key in format._keys] == [6]
    assert format.decode(exchange.anchor, late) is None
    exchange.send(is_up=True)
    exchange.send(is_up=False)
    exchange.pass_time(1)
    assert exchange.opened == exchange.sent


def test_an_anchor_goes_on_with_the_old_key_until_it_hears_the_new_one() -> None:
    ring = KeyRing(Key(0), waits=True)
    first, second = ring.current, Key(1)
    ring.add(second)
    assert ring.current is first
    assert not ring.retire(0.0) or ring.current is first
    ring.hear(second)
    assert ring.current is second
    # A late packet under the old key changes nothing.
    ring.hear(first)
    assert ring.current is second


def test_the_key_that_the_other_end_uses_stays_however_many_answers_are_lost() -> None:
    ring = KeyRing(Key(0), waits=True)
    used = ring.current
    for id in range(1, 300):
        ring.add(Key(id & 0xFF))
        ring.retire(100.0 * id)
        assert used in list(ring)
        assert len(list(ring)) <= MOST_KEYS
    assert ring.current is used


def test_a_replayed_packet_is_refused_under_the_old_key_as_under_the_new() -> None:
    WatchedCipher.sealed.clear()
    exchange = Exchange("sealed", 1, loss=0.0, delay=0.0)
    packet = build_udp(HOST, 1, ANCHOR, 2, b"once")
    old = exchange.host.format.encode(exchange.host, packet)
    assert exchange.anchor.format.decode(exchange.anchor, old) == packet
    exchange.ask()
    exchange.pass_time(0.1)
    new = exchange.host.format.encode(exchange.host, packet)
    assert new[2] != old[2]
    assert exchange.anchor.format.decode(exchange.anchor, new) == packet
    for wire in (old, new):
        assert exchange.anchor.format.decode(exchange.anchor, wire) is None
