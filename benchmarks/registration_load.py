"""Pretend hosts for `benchmarks.registrations`: REGISTERs as bytes, answers read with one expression, proofs checked.

Made to cost little, so that the anchor is what is measured; the words are those that `build.register` writes.
"""

from __future__ import annotations

import heapq
import json
import re
from dataclasses import dataclass, field
from hashlib import sha256

from upmt_nf.signaling.digest import REALM, secret_hash

URI = "sip:127.0.0.1:5060"
_ANSWER = re.compile(rb"SIP/2\.0 (\d{3}) [^\r]*\r\n[\s\S]*?branch=z9hG4bK(\d+)-(\d+)")
_NONCE = re.compile(rb'[ ,]nonce="([^"]+)"')
_NEXT = re.compile(rb'nextnonce="([^"]+)"')
_PROOF = re.compile(rb'rspauth="([0-9a-f]{64})"')
_ADDRESS = re.compile(rb"\r\nVIpAddr: ([^\r]+)\r\n")
_A2 = f"REGISTER:{URI}"


def identity_of(number: int) -> str:
    return f"h{number}@bench"


def users_text(hosts: int) -> str:
    """The anchor's users file; every secret is the identity."""
    lines = (
        f"{identity_of(number)}:{REALM}:{secret_hash(identity_of(number), REALM, identity_of(number))}\n"
        for number in range(hosts)
    )
    return "".join(lines)


def hex_of(text: str) -> str:
    return sha256(text.encode()).hexdigest()


@dataclass(slots=True)
class PretendHost:
    """One identity. `key`: 32 bytes that make its body ask for keys; `proves`: it has a secret."""

    number: int
    proves: bool
    key: bytes | None = None
    cseq: int = 0
    nonce: str | None = None
    count: int = 0
    address: bytes | None = None
    call_id: str = "1"
    _hash: str = ""
    _body: str = ""
    _body_hash: str = ""

    def __post_init__(self) -> None:
        identity = identity_of(self.number)
        self._hash = secret_hash(identity, REALM, identity)
        self.use_key(self.key)

    def use_key(self, key: bytes | None) -> None:
        """What the body says from now on."""
        self.key = key
        body: dict[str, object] = {"mType": "AssociationRequest", "expires": 3600, "version": 1}
        if key is not None:
            body["key"] = key.hex()
        # Without a proof to cover it, a body has no purpose.
        self._body = json.dumps(body, separators=(",", ":")) if self.proves or key is not None else ""
        self._body_hash = hex_of(f"{_A2}:{hex_of(self._body)}")

    def register(self) -> bytes:
        """The next REGISTER, with a proof when there was a challenge."""
        self.cseq += 1
        user = f"h{self.number}"
        proof = ""
        if self.nonce is not None:
            self.count += 1
            response = hex_of(f"{self._hash}:{self.nonce}:{self.count:08x}:c:auth-int:{self._body_hash}")
            proof = (
                f'Authorization: Digest username="{user}@bench", realm="{REALM}", nonce="{self.nonce}", '
                f'uri="{URI}", response="{response}", algorithm=SHA-256, cnonce="c", qop=auth-int, '
                f"nc={self.count:08x}\r\n"
            )
        content = "Content-Type: application/json\r\n" if self._body else ""
        return (
            f"REGISTER {URI} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:5061;rport;TID={user}@bench;branch=z9hG4bK{self.number}-{self.cseq}\r\n"
            f"Max-Forwards: 70\r\nTo: <sip:{user}@bench>\r\nFrom: <sip:{user}@bench>;tag=t\r\n"
            f"Call-ID: {user}-{self.call_id}\r\nCSeq: {self.cseq} REGISTER\r\n"
            f"Contact: <sip:{user}@127.0.0.1:5061>\r\nExpires: 3600\r\nUser-Agent: UPMT-NF\r\n"
            f"{content}{proof}Content-Length: {len(self._body)}\r\n\r\n{self._body}"
        ).encode()

    def is_right(self, answer: bytes) -> bool:
        """Whether a 200 gives the address that we have, and proves that the anchor knows our secret."""
        address = _ADDRESS.search(answer)
        if address is None or self.address not in (None, address[1]):
            return False
        self.address = address[1]
        if not self.proves:
            return True
        proof = _PROOF.search(answer)
        if proof is None:
            return False
        body_hash = sha256(answer.partition(b"\r\n\r\n")[2]).hexdigest()
        body = hex_of(f":{URI}:{body_hash}")
        right = hex_of(f"{self._hash}:{self.nonce}:{self.count:08x}:c:auth-int:{body}")
        if right.encode() != proof[1]:
            return False
        if (following := _NEXT.search(answer)) is not None:
            self.nonce, self.count = following[1].decode(), 0
        return True


@dataclass(slots=True)
class Load:
    """Registrations under way. `fresh_nonce`: each begins without a proof and is challenged."""

    hosts: list[PretendHost]
    fresh_nonce: bool
    done: int = 0
    challenged: int = 0
    resent: int = 0
    wrong: list[str] = field(default_factory=list)
    _open: dict[int, bytes] = field(default_factory=dict)
    _timers: list[tuple[float, int, int, float]] = field(default_factory=list)
    turn: int = 0

    @property
    def under_way(self) -> int:
        return len(self._open)

    def begin(self, now: float) -> bytes | None:
        """The next host's REGISTER; None when that host still waits for an answer."""
        host = self.hosts[self.turn]
        if host.number in self._open:
            return None
        self.turn = (self.turn + 1) % len(self.hosts)
        if self.fresh_nonce:
            host.nonce = None
        return self._send(host, now)

    def take(self, answer: bytes, now: float) -> bytes | None:
        """An answer; gives the REGISTER that it asks for."""
        matched = _ANSWER.match(answer)
        if matched is None:
            self.wrong.append(f"not an answer: {answer[:60]!r}")
            return None
        status, number, cseq = int(matched[1]), int(matched[2]), int(matched[3])
        host = self.hosts[number]
        if number not in self._open or cseq != host.cseq:
            if not self.resent:
                self.wrong.append(f"an answer to nothing: {number}-{cseq}")
            return None
        del self._open[number]
        if status == 401 and host.proves and (nonce := _NONCE.search(answer)) is not None:
            if not self.fresh_nonce and host.address is not None:
                self.wrong.append(f"challenged in spite of a kept nonce: {identity_of(number)}")
            host.nonce, host.count = nonce[1].decode(), 0
            self.challenged += 1
            return self._send(host, now)
        if status != 200 or not host.is_right(answer):
            self.wrong.append(f"{identity_of(number)} was told {answer[:60]!r}")
        else:
            self.done += 1
        return None

    def resend(self, now: float) -> list[bytes]:
        """What was not answered in time: timer E, half a second at first, then twice as long up to four seconds."""
        late = []
        while self._timers and self._timers[0][0] <= now:
            _, number, cseq, interval = heapq.heappop(self._timers)
            if number in self._open and self.hosts[number].cseq == cseq:
                self.resent += 1
                late.append(self._open[number])
                interval = min(2 * interval, 4.0)
                heapq.heappush(self._timers, (now + interval, number, cseq, interval))
        return late

    def _send(self, host: PretendHost, now: float) -> bytes:
        data = host.register()
        self._open[host.number] = data
        heapq.heappush(self._timers, (now + 0.5, host.number, host.cseq, 0.5))
        return data
