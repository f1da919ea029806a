"""A pretend host with two networks: its requests as bytes, with proofs, and what it makes of the answers. No I/O.

As `benchmarks.registration_load`, made to cost little, so that the anchor is what is measured. What it says is what
`signaling` writes; the words around it are those of `signaling.sip.build`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address
from typing import NamedTuple

from benchmarks.registration_load import hex_of, identity_of
from upmt_nf.datapath.packet import build_udp
from upmt_nf.lab.topology import ANCHOR, TUNNEL_PORT
from upmt_nf.model.flow import UDP, FlowKey
from upmt_nf.model.identity import NetworkName
from upmt_nf.model.names import MEASUREMENT_PORT, SIGNALLING_PORT
from upmt_nf.signaling.digest import REALM, secret_hash
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import AssociationRequest, HandoverPair, HandoverRequest, TunnelSetupRequest
from upmt_nf.signaling.stamp import SenderPacket

ANCHOR_ADDRESS = IPv4Address(ANCHOR)
SINK = IPv4Address("45.0.0.254")
"""The anchor's router, where all hosts' flows lead."""
FLOWS_A_SINK = 20_000
"""Flows to one port of the sink: each needs a port of the anchor's NAT."""
_CARE_OF = (int(IPv4Address("100.64.0.0")), int(IPv4Address("100.96.0.0")))
_OWN_TUNNEL_PORT, _FIRST_FLOW_PORT = 1500, 20_000
"""Flows come from ports that differ, as those of real hosts: the NAT must look long for a free one else."""
FIRST_SINK = 9000
_UDP_CHECKSUM = 26
"""Where it stands in a packet."""
_URI = f"sip:{ANCHOR}:{SIGNALLING_PORT}"
_ANSWER = re.compile(rb"SIP/2\.0 (\d{3}) [^\r]*\r\n[\s\S]*?branch=z9hG4bK(\d+)-(\d+)")
_NONCE = re.compile(rb'[ ,]nonce="([^"]+)"')
_TOKEN = re.compile(rb"UPMT-Association: *(\w+)")
_VIRTUAL = re.compile(rb"VIpAddr: *([0-9.]+)")
_PROOF = re.compile(rb'rspauth="([0-9a-f]{64})"')
_NEXT = re.compile(rb'nextnonce="([^"]+)"')


class Wish(Enum):
    """What a host asks for next."""

    ASSOCIATION = "REGISTER"
    FIRST_TUNNEL = 0
    SECOND_TUNNEL = 1
    HANDOVER = "to the second tunnel"


class Answer(NamedTuple):
    """Which host's request was answered, and how."""

    number: int
    cseq: int
    status: int
    data: bytes


class WrongAnswer(Exception):
    """The anchor said what it should not have said."""


def answer_in(data: bytes) -> Answer | None:
    """The answer that a datagram is."""
    matched = _ANSWER.match(data)
    return Answer(int(matched[2]), int(matched[3]), int(matched[1]), data) if matched is not None else None


class Host:
    """One host, from its first REGISTER on. `packet` methods give whole IP packets as they leave an access network."""

    __slots__ = (
        "call",
        "count",
        "cseq",
        "hash",
        "nonce",
        "number",
        "proof_of",
        "sequence",
        "token",
        "virtual",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.hash = secret_hash(identity_of(number), REALM, identity_of(number))
        self.call = self.cseq = self.count = self.sequence = 0
        self.nonce = ""
        self.proof_of: Callable[[bytes], str] | None = None
        self.token, self.virtual = "", IPv4Address(0)

    def restart(self) -> None:
        """Lose everything but the identity and the virtual address."""
        self.call += 1
        self.cseq, self.nonce, self.token = 0, "", ""

    def care_of(self, network: int) -> IPv4Address:
        """Its address in its first or second network: no other host has it."""
        return IPv4Address(_CARE_OF[network] + self.number)

    def request(self, wish: Wish) -> bytes:
        """The packet that asks for it."""
        self.cseq += 1
        if wish is Wish.ASSOCIATION:
            body = encode(AssociationRequest(3600, self.virtual if int(self.virtual) else None))
            sip = self._sip("REGISTER", body, self.care_of(0))
            return build_udp(self.care_of(0), SIGNALLING_PORT, ANCHOR_ADDRESS, SIGNALLING_PORT, sip)
        network = wish.value if isinstance(wish.value, int) else 1
        if wish is Wish.HANDOVER:
            body = encode(HandoverRequest(self.token, (HandoverPair((self.flow,)),)))
        else:
            body = encode(TunnelSetupRequest(self.token, self.virtual, NetworkName(f"n{network}")))
        sip = self._sip("MESSAGE", body, self.virtual)
        return self._tunnelled(network, SIGNALLING_PORT, ANCHOR_ADDRESS, SIGNALLING_PORT, sip)

    def take(self, wish: Wish, answer: Answer) -> bool:
        """Whether the wish is fulfilled; if not, ask again: there was a challenge. Raises WrongAnswer."""
        if answer.status == 401 and (nonce := _NONCE.search(answer.data)) is not None:
            self.nonce, self.count = nonce[1].decode(), 0
            return False
        proof = _PROOF.search(answer.data)
        if answer.status != 200 or proof is None or self.proof_of is None:
            raise WrongAnswer(f"{identity_of(self.number)}, {wish}: {answer.data[:300]!r}")
        if self.proof_of(answer.data.partition(b"\r\n\r\n")[2]).encode() != proof[1]:
            raise WrongAnswer(f"{identity_of(self.number)}, {wish}: not the anchor's proof")
        if (following := _NEXT.search(answer.data)) is not None:
            self.nonce, self.count = following[1].decode(), 0
        if wish is Wish.ASSOCIATION:
            token, virtual = _TOKEN.search(answer.data), _VIRTUAL.search(answer.data)
            if token is None or virtual is None:
                raise WrongAnswer(f"{identity_of(self.number)} has no association: {answer.data[:300]!r}")
            self.token, given = token[1].decode(), IPv4Address(virtual[1].decode())
            if int(self.virtual) and given != self.virtual:
                raise WrongAnswer(f"{identity_of(self.number)} had {self.virtual} and is given {given}")
            self.virtual = given
        return True

    def probe(self, network: int, now: float) -> bytes:
        """A keepalive that is answered."""
        self.sequence += 1
        probe = bytes(SenderPacket(self.sequence, now, 1))
        return self._tunnelled(network, MEASUREMENT_PORT, ANCHOR_ADDRESS, MEASUREMENT_PORT, probe)

    def keepalive(self, network: int) -> bytes:
        """One that only the NATs on the way care for."""
        return build_udp(self.care_of(network), _OWN_TUNNEL_PORT, ANCHOR_ADDRESS, TUNNEL_PORT, b"\xff")

    @property
    def flow(self) -> FlowKey:
        """Its one flow."""
        return FlowKey(UDP, self.virtual, self._flow_port, SINK, self._sink)

    def packet(self, network: int, payload: bytes) -> bytes:
        """Of its flow, by one of its tunnels, as the kernel plane of a host sends it: without an outer checksum."""
        packet = self._tunnelled(network, self._flow_port, SINK, self._sink, payload)
        return packet[:_UDP_CHECKSUM] + bytes(2) + packet[_UDP_CHECKSUM + 2 :]

    @property
    def _flow_port(self) -> int:
        return _FIRST_FLOW_PORT + self.number % FLOWS_A_SINK

    @property
    def _sink(self) -> int:
        return FIRST_SINK + self.number // FLOWS_A_SINK

    def _tunnelled(self, network: int, port: int, to: IPv4Address, to_port: int, payload: bytes) -> bytes:
        inner = build_udp(self.virtual, port, to, to_port, payload)
        return build_udp(self.care_of(network), _OWN_TUNNEL_PORT, ANCHOR_ADDRESS, TUNNEL_PORT, inner)

    def _sip(self, method: str, body: bytes, local: IPv4Address) -> bytes:
        identity = identity_of(self.number)
        to = identity if method == "REGISTER" else _URI.removeprefix("sip:")
        contact = (
            f"Contact: <sip:h{self.number}@{local}:{SIGNALLING_PORT}>\r\nExpires: 3600\r\n"
            if method == "REGISTER"
            else ""
        )
        wanted = f"VIpAddr: {self.virtual}\r\n" if method == "REGISTER" and int(self.virtual) else ""
        return (
            f"{method} {_URI} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {local}:{SIGNALLING_PORT};rport;TID={identity};"
            f"branch=z9hG4bK{self.number}-{self.cseq}\r\n"
            f"Max-Forwards: 70\r\nTo: <sip:{to}>\r\nFrom: <sip:{identity}>;tag=t{self.call}\r\n"
            f"Call-ID: {identity}-{self.call}\r\nCSeq: {self.cseq} {method}\r\n{contact}{wanted}"
            f"User-Agent: UPMT-NF\r\nContent-Type: application/json\r\n{self._authorization(method, body)}"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def _authorization(self, method: str, body: bytes) -> str:
        if not self.nonce:
            self.proof_of = None
            return ""
        self.count += 1
        known, nonce, count = self.hash, self.nonce, f"{self.count:08x}"

        def proof(method: str, body: bytes) -> str:
            asked = hex_of(f"{method}:{_URI}:{hex_of(body.decode())}")
            return hex_of(f"{known}:{nonce}:{count}:c:auth-int:{asked}")

        self.proof_of = lambda body: proof("", body)
        return (
            f'Authorization: Digest username="{identity_of(self.number)}", realm="{REALM}", nonce="{nonce}", '
            f'uri="{_URI}", response="{proof(method, body)}", algorithm=SHA-256, cnonce="c", qop=auth-int, '
            f"nc={count}\r\n"
        )
