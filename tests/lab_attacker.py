"""Attackers in a lab: one who reads the path and sends any packet, one who stands in it, and a host that is not honest.

Plain sockets of the kernel, opened inside a namespace of the lab and used from the test's own process.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from secrets import token_hex
from time import monotonic
from typing import Any

from netfilterqueue import NetfilterQueue

from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.packet import build_udp, ip_packet, parse_udp
from upmt_nf.lab import namespaces
from upmt_nf.model.flow import ICMP, Endpoint, IPAddress
from upmt_nf.signaling.digest import DigestClient, Ticket
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import AssociationRequest, UpmtMessage
from upmt_nf.signaling.sip.build import message, register
from upmt_nf.signaling.sip.message import Request, Response
from upmt_nf.signaling.sip.parser import SipParseError, parse

ANCHOR = ip_address("45.0.0.1")
TUNNEL, SIP = 1800, 5060
_ETH_P_IP, _OUTGOING = 0x0800, 4
_QUEUE = 9


@dataclass(frozen=True, slots=True)
class Seen:
    """One UDP packet as it went by."""

    source: Endpoint
    destination: Endpoint
    payload: bytes

    def again(self, *, source: Endpoint | None = None, payload: bytes | None = None) -> bytes:
        """The packet, from somewhere else or with something else in it, if that is wanted."""
        origin = source or self.source
        to = self.destination
        return build_udp(
            origin.address,
            origin.port,
            to.address,
            to.port,
            self.payload if payload is None else payload,
        )


class Reader:
    """Reads what a router of the lab forwards, and sends whatever it likes from there."""

    def __init__(self, lab: str, host: str = "inet") -> None:
        self._lab, self._host = lab, host
        with namespaces.entered(lab, host):
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self._raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)

    def close(self) -> None:
        """Go home."""
        self._raw.close()

    def send(self, packet: bytes) -> None:
        """Send a whole IP packet."""
        destination = ".".join(map(str, packet[16:20]))
        self._raw.sendto(packet, (destination, 0))

    @contextmanager
    def reading(self) -> Iterator[list[Seen]]:
        """The list fills with UDP packets of tunnels and signalling, in their order, until the end."""
        seen: list[Seen] = []
        is_over = threading.Event()
        with namespaces.entered(self._lab, self._host):
            ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        ear.settimeout(0.05)
        thread = threading.Thread(target=_read, args=(ear, seen, is_over), daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            is_over.set()
            thread.join(5)
            ear.close()

    def read(self, wanted: Callable[[Seen], bool], count: int, seconds: float = 20) -> list[Seen]:
        """The next packets that are wanted."""
        deadline = monotonic() + seconds
        with self.reading() as seen:
            while monotonic() < deadline:
                if len(found := [packet for packet in list(seen) if wanted(packet)]) >= count:
                    return found[:count]
                select.select([], [], [], 0.02)
        raise AssertionError(f"only {len(found)} of {count} packets went by within {seconds} s")


def _read(ear: socket.socket, seen: list[Seen], is_over: threading.Event) -> None:
    while not is_over.is_set():
        try:
            packet, address = ear.recvfrom(65536)
        except TimeoutError:
            continue
        if address[2] != _OUTGOING and (found := _udp(packet)) is not None:
            seen.append(found)


def _udp(packet: bytes) -> Seen | None:
    # A captured checksum may be unfinished, as the sending interface would have finished it.
    if len(packet) < 28 or packet[0] != 0x45 or packet[9] != 17:
        return None
    ports = int.from_bytes(packet[20:22], "big"), int.from_bytes(packet[22:24], "big")
    if not {TUNNEL, SIP} & set(ports):
        return None
    source, destination = ip_address(packet[12:16]), ip_address(packet[16:20])
    length = int.from_bytes(packet[24:26], "big")
    return Seen(Endpoint(source, ports[0]), Endpoint(destination, ports[1]), packet[28 : 20 + length])


def icmp_error(quoted: bytes, kind: int, code: int, rest: int, source: IPAddress, to: IPAddress) -> bytes:
    """An ICMP error of `source` about a packet; `rest` is the second word, such as an MTU."""
    body = bytes((kind, code, 0, 0)) + rest.to_bytes(4, "big") + quoted[:548]
    return ip_packet(source, to, ICMP, body[:2] + checksum(body).to_bytes(2, "big") + body[4:])


class Meddler:
    """Stands in the path of `host`: every forwarded packet of `rule` goes on as `change` gives it, or not at all."""

    def __init__(
        self, lab: str, rule: tuple[str, ...], change: Callable[[bytes], bytes | None], host: str = "inet"
    ) -> None:
        self._lab, self._host = lab, host
        self._rule = ("FORWARD", *rule, "-j", "NFQUEUE", "--queue-num", str(_QUEUE), "--queue-bypass")
        self._change = change
        self._is_ready, self._is_over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.failure: BaseException | None = None

    def __enter__(self) -> Meddler:
        self._thread.start()
        assert self._is_ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(10)
        assert self.failure is None, self.failure

    def _work(self) -> None:
        with namespaces.entered(self._lab, self._host):
            queue = NetfilterQueue()
            queue.bind(_QUEUE, self._take)
            namespaces.run("iptables-legacy", "-w", "-t", "mangle", "-I", *self._rule)
            self._is_ready.set()
            try:
                while not self._is_over.is_set():
                    if select.select([queue.get_fd()], [], [], 0.05)[0]:
                        queue.run(block=False)
            except Exception as reason:  # noqa: BLE001  (told to the test, which is another thread)
                self.failure = reason
            finally:
                namespaces.run("iptables-legacy", "-w", "-t", "mangle", "-D", *self._rule)
                queue.unbind()

    def _take(self, packet: Any) -> None:
        before = packet.get_payload()
        after = self._change(before)
        if after is None:
            packet.drop()
            return
        if after != before:
            packet.set_payload(after)
        packet.accept()


class Rogue:
    """A host with a valid secret of its own, in the middle of the network, that says what it likes."""

    def __init__(self, lab: str, identity: str, secret: str, host: str = "inet") -> None:
        self.identity = identity
        self.digest = DigestClient(identity, secret, lambda: token_hex(8))
        self.call_id, self.cseq = token_hex(8), 0
        self.token, self.address = "", ip_address("192.0.2.99")
        with namespaces.entered(lab, host):
            self._outside = _bound()
            self._inside = _bound()
        self.tunnel_end = Endpoint(ip_address("45.0.0.254"), self._inside.getsockname()[1])

    def close(self) -> None:
        """Go home."""
        self._outside.close()
        self._inside.close()

    def register(
        self, expires: int = 60, identity: str | None = None, wanted: IPAddress | None = None
    ) -> Request:
        """An unsigned REGISTER."""
        self.cseq += 1
        return register(
            anchor=Endpoint(ANCHOR, SIP),
            local=Endpoint(ip_address("45.0.0.254"), SIP),
            identity=identity or self.identity,
            call_id=self.call_id,
            cseq=self.cseq,
            tag="r",
            expires=expires,
            virtual_address=None if wanted is None else str(wanted),
            body=encode(AssociationRequest(expires, wanted, None)),
        )

    def message(self, body: UpmtMessage) -> Request:
        """An unsigned MESSAGE."""
        self.cseq += 1
        return message(
            anchor=Endpoint(ANCHOR, SIP),
            local=Endpoint(self.address, SIP),
            identity=self.identity,
            call_id=self.call_id,
            cseq=self.cseq,
            tag="r",
            body=encode(body),
        )

    def associate(self) -> None:
        """Get a virtual address, as any host does."""
        answer = self.ask(self.register())
        assert answer is not None
        assert answer.status == 200, answer
        self.token = answer.header("upmt-association") or ""
        self.address = ip_address(answer.header("vipaddr") or "")

    def sign(self, request: Request) -> bytes:
        """The request as it goes on the wire."""
        signed, _ = self._signed(request)
        return signed

    def ask(
        self,
        request: Request,
        *,
        inside: bool = False,
        source: IPAddress | None = None,
        alter: Callable[[bytes], bytes] = lambda data: data,
    ) -> Response | None:
        """Send, meet one challenge, and give the answer; `alter` changes the signed request on its way."""
        answer = None
        for _ in range(2):
            data, ticket = self._signed(request)
            answer = self._exchange(alter(data) if ticket is not None else data, inside, source)
            if answer is None or answer.status != 401 or self.digest.take_challenge(answer, ticket):
                break
        return answer

    def _signed(self, request: Request) -> tuple[bytes, Ticket | None]:
        signed, ticket = self.digest.sign(request)
        (name, via), *rest = signed.headers
        return bytes(replace(signed, headers=((name, f"{via};branch=z9hG4bK{token_hex(8)}"), *rest))), ticket

    def _exchange(self, data: bytes, inside: bool, source: IPAddress | None) -> Response | None:
        out = self._inside if inside else self._outside
        while select.select([out], [], [], 0)[0]:
            out.recv(65536)
        if inside:
            self.send_inner(build_udp(source or self.address, SIP, ANCHOR, SIP, data))
        else:
            out.sendto(data, (str(ANCHOR), SIP))
        try:
            answer = out.recv(65536)
        except TimeoutError:
            return None
        if inside:
            datagram = parse_udp(answer)
            assert datagram is not None
            answer = datagram.payload
        try:
            parsed = parse(answer)
        except SipParseError:
            return None
        assert isinstance(parsed, Response)
        return parsed

    def send_inner(self, packet: bytes) -> None:
        """A plain tunnel packet from our own end."""
        self._inside.sendto(packet, (str(ANCHOR), TUNNEL))


def _bound() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("45.0.0.254", 0))
    made.settimeout(1.0)
    return made


def newest(seen: list[Seen], wanted: Callable[[Seen], bool]) -> Seen:
    """The last of them that is wanted."""
    return deque((packet for packet in seen if wanted(packet)), maxlen=1).pop()
