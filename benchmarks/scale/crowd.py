"""All hosts in this process: whole packets through one tun beside the anchor, SIP's timers, the sink of flows."""

from __future__ import annotations

import contextlib
import heapq
import select
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from benchmarks.places import Place
from benchmarks.scale.hosts import (
    ANCHOR_ADDRESS,
    FIRST_SINK,
    FLOWS_A_SINK,
    SINK,
    Host,
    Wish,
    WrongAnswer,
    answer_in,
)
from upmt_nf.lab import namespaces
from upmt_nf.lab.topology import TUNNEL_PORT
from upmt_nf.linux.tun_device import TunDevice
from upmt_nf.model.names import MEASUREMENT_PORT, SIGNALLING_PORT

WINDOW = 128
"""Hosts that wait for an answer at a time, when the anchor sets the pace."""
FLOWS_AT_ONCE = 256
STREAM = 500
"""Packets a second of flows that go on while the daemon is gone, each of another of as many hosts."""
MOST_KEEPALIVES = 8000
"""A second, which this one process can still send: of more hosts than that asks for, each second one and so on."""
_MARK, _BATCH = b"stream", 64
_FIRST_RESEND, _LONGEST_RESEND = 0.5, 4.0
_PATIENCE = 20.0
_IPV4, _UDP = 20, 28
_RECEIVE_BUFFER_FORCED = 33
"""SO_RCVBUFFORCE (asm-generic/socket.h)."""
_SECOND_NETWORK = 0x20


@dataclass(slots=True)
class Stream:
    """Numbered packets of flows that go on, whatever becomes of the daemon; each is sent back by the sink."""

    hosts: list[Host]
    network: int
    began: float
    sent: int = 0
    came: int = 0
    back: int = 0


@dataclass(slots=True)
class Pace:
    """What a phase came to: hosts done in so many seconds, requests sent again, keepalives' answers (seconds)."""

    done: int = 0
    seconds: float = 0.0
    resent: int = 0
    answers: list[float] = field(default_factory=list)
    unanswered: int = 0

    @property
    def per_second(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0

    def answered_within(self, share: float) -> float:
        """Milliseconds in which so many of the keepalives were answered."""
        times = sorted(self.answers)
        return 1000 * times[min(len(times) - 1, int(share * len(times)))] if times else 0.0


class Crowd:
    """So many hosts behind the interface `crowd0` of the lab's Internet."""

    def __init__(self, here: Place, number: int) -> None:
        self.hosts = [Host(each) for each in range(number)]
        self.notices = 0
        here.run("inet", "ip", "tuntap", "add", "dev", "crowd0", "mode", "tun")
        here.run("inet", "ip", "link", "set", "crowd0", "txqueuelen", "20000", "up")
        here.run("inet", "ip", "route", "add", "100.64.0.0/10", "dev", "crowd0")
        self._sinks = []
        with namespaces.entered(here.name, "inet"):
            self._tun = TunDevice("crowd0")
            for port in range(FIRST_SINK, FIRST_SINK + -(-number // FLOWS_A_SINK)):
                sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                sink.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCED, 16 << 20)
                sink.bind((str(SINK), port))
                sink.setblocking(False)
                self._sinks.append(sink)
        self._open: dict[int, tuple[Wish, bytes]] = {}
        self._timers: list[tuple[float, int, int, float]] = []
        self._probed: dict[tuple[int, int], float] = {}
        self._pace = Pace()
        self._stream: Stream | None = None

    def close(self) -> None:
        """Let go of the interface and the sinks."""
        self._tun.close()
        for sink in self._sinks:
            sink.close()

    def all_ask(self, *wishes: Wish, probes: int = 0) -> Pace:
        """Every host asks for all of these in turn; meanwhile so many keepalives a second of hosts that are done."""
        pace = self._pace = Pace()
        rest = {host.number: deque(wishes) for host in self.hosts}
        waiting, done = deque(self.hosts), list[Host]()
        began = asked = monotonic()
        turn = 0
        while rest:
            now = monotonic()
            while waiting and len(self._open) < WINDOW:
                host = waiting.popleft()
                self._ask(host, rest[host.number][0], now)
            for host in self._hear(0.01):
                rest[host.number].popleft()
                asked = now
                if rest[host.number]:
                    waiting.appendleft(host)
                else:
                    del rest[host.number]
                    done.append(host)
            self._resend(now)
            self._pump(now)
            if probes and done and now >= began + turn / probes:
                self._probe(done[turn * 7919 % len(done)], turn & 1, now)
                turn = max(turn + 1, int((now - began) * probes))
            if now - asked > _PATIENCE:
                raise WrongAnswer(f"nothing is answered any more; {len(rest)} hosts wait")
        pace.done, pace.seconds = len(self.hosts), monotonic() - began
        self._settle(pace)
        return pace

    def stay(self, interval: float, seconds: float) -> Pace:
        """Keepalives of all tunnels, each every `interval` seconds; every second one is answered.

        At most `MOST_KEEPALIVES` a second, of tunnels in turn.
        """
        pace = self._pace = Pace()
        began, sent, rate = monotonic(), 0, min(2 * len(self.hosts) / interval, MOST_KEEPALIVES)
        while (past := monotonic() - began) < seconds:
            while sent < past * rate:
                host, network = self.hosts[sent // 2 * 7919 % len(self.hosts)], sent & 1
                if sent // 2 & 1:
                    self._probe(host, network, began + past)
                else:
                    self._tun.write(host.keepalive(network))
                sent += 1
            for _ in self._hear(min(0.01, 1 / rate)):
                pass
        pace.done, pace.seconds = sent, seconds
        self._settle(pace)
        return pace

    def begin_stream(self, network: int) -> Stream:
        """Packets of some hosts' flows by that tunnel of theirs from now on, `STREAM` a second."""
        hosts = self.hosts[:: max(1, len(self.hosts) // STREAM)]
        self._stream = Stream(hosts, network, monotonic())
        return self._stream

    def end_stream(self) -> None:
        """No more; returns when all is back, or a second later."""
        stream, self._stream = self._stream, None
        end = monotonic() + 1.0
        while stream is not None and stream.back < stream.sent and monotonic() < end:
            self._send_back(stream)
            self._hear(0.01, stream)

    def pass_time(self, is_over: Callable[[], bool]) -> None:
        """The stream goes on until then. Raises WrongAnswer when that takes too long."""
        end = monotonic() + 3 * _PATIENCE
        while not is_over():
            if (now := monotonic()) > end:
                raise WrongAnswer("the anchor does not come back")
            self._pump(now)
            self._hear(0.002)

    def begin_flows(self) -> Pace:
        """One packet of a new flow from each host; counts those that come out of the anchor's NAT."""
        pace = self._pace = Pace()
        began = last = monotonic()
        sent = 0
        while pace.done < len(self.hosts) and monotonic() - last < 3.0:
            while sent < len(self.hosts) and sent - pace.done < FLOWS_AT_ONCE:
                self._tun.write(self.hosts[sent].packet(0, b"first"))
                sent += 1
            for ready in select.select(self._sinks, [], [], 0.05)[0]:
                try:
                    while True:
                        ready.recv(100)
                        pace.done += 1
                        last = monotonic()
                except BlockingIOError:
                    continue
        pace.seconds = last - began
        return pace

    # --- inside ---

    def _pump(self, now: float) -> None:
        """What the stream has to send by now, and what the sink has of it."""
        if (stream := self._stream) is None:
            return
        while stream.sent < (now - stream.began) * STREAM:
            host = stream.hosts[stream.sent % len(stream.hosts)]
            self._tun.write(host.packet(stream.network, _MARK + stream.sent.to_bytes(8, "big")))
            stream.sent += 1
        self._send_back(stream)

    def _send_back(self, stream: Stream) -> None:
        for sink in self._sinks:
            with contextlib.suppress(BlockingIOError):
                while True:
                    payload, source = sink.recvfrom(100)
                    stream.came += payload.startswith(_MARK)
                    sink.sendto(payload, source)

    def _ask(self, host: Host, wish: Wish, now: float) -> None:
        packet = host.request(wish)
        self._open[host.number] = (wish, packet)
        heapq.heappush(self._timers, (now + _FIRST_RESEND, host.number, host.cseq, _FIRST_RESEND))
        self._tun.write(packet)

    def _resend(self, now: float) -> None:
        """Timer E: half a second at first, then twice as long up to four seconds."""
        while self._timers and self._timers[0][0] <= now:
            _, number, cseq, interval = heapq.heappop(self._timers)
            if number in self._open and self.hosts[number].cseq == cseq:
                self._pace.resent += 1
                self._tun.write(self._open[number][1])
                interval = min(2 * interval, _LONGEST_RESEND)
                heapq.heappush(self._timers, (now + interval, number, cseq, interval))

    def _probe(self, host: Host, network: int, now: float) -> None:
        self._probed[host.number, network] = now
        self._tun.write(host.probe(network, now))

    def _settle(self, pace: Pace) -> None:
        """The answers that are still on their way."""
        end = monotonic() + 1.0
        while self._probed and monotonic() < end:
            for _ in self._hear(0.05):
                pass
        pace.unanswered = len(self._probed)
        self._probed.clear()

    def _hear(self, patience: float, stream: Stream | None = None) -> Sequence[Host]:
        """Read what has come; gives the hosts that have what they asked for. `stream`: one that has ended."""
        stream = stream or self._stream
        fulfilled: list[Host] = []
        found = self._tun.read()
        if found is None:
            if not select.select([self._tun.fileno()], [], [], patience)[0]:
                return fulfilled
            found = self._tun.read()
        for left in reversed(range(_BATCH)):
            if found is None:
                break
            if stream is not None and found[0].startswith(_MARK, _UDP + _UDP):
                stream.back += 1
            else:
                self._take(found[0], fulfilled)
            found = self._tun.read() if left else None
        return fulfilled

    def _take(self, packet: bytes, fulfilled: list[Host]) -> None:
        if packet[12:16] != ANCHOR_ADDRESS.packed or packet[9] != socket.IPPROTO_UDP:
            return
        port, payload = int.from_bytes(packet[_IPV4 : _IPV4 + 2]), packet[_UDP:]
        if port == TUNNEL_PORT:
            if int.from_bytes(payload[_IPV4 : _IPV4 + 2]) == MEASUREMENT_PORT:
                network = packet[17] & _SECOND_NETWORK and 1
                sent = self._probed.pop((int.from_bytes(packet[16:20]) & 0x1FFFFF, network), None)
                if sent is not None:
                    self._pace.answers.append(monotonic() - sent)
                return
            payload = payload[_UDP:]
        elif port != SIGNALLING_PORT:
            return
        answer = answer_in(payload)
        if answer is None:
            self.notices += 1
            return
        host = self.hosts[answer.number]
        if answer.number not in self._open or answer.cseq != host.cseq:
            return
        wish, _ = self._open.pop(answer.number)
        if host.take(wish, answer):
            fulfilled.append(host)
        else:
            self._ask(host, wish, monotonic())
