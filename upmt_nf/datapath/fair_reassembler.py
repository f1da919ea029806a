"""Fragments of many hosts: each has a share of its own, so that nobody's unfinished packets push another's out."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice

from upmt_nf.datapath.counters import Counters
from upmt_nf.datapath.fragment import Reassembler

_SAMPLE = 16
"""Hosts looked at, in rotation, to find one that must give way: constant work, however many there are."""


class FairReassembler:
    """A `Reassembler` for each host that has unfinished packets. All bounds are those of one host but `max_total`."""

    def __init__(
        self,
        counters: Counters,
        *,
        max_packets: int = 64,
        max_bytes: int = 2 << 20,
        max_total: int = 64 << 20,
    ) -> None:
        self._counters = counters
        self._max_packets = max_packets
        self._max_bytes = max_bytes
        self._max_total = max_total
        self._bytes = 0
        self._hosts: OrderedDict[bytes, Reassembler] = OrderedDict()

    def __len__(self) -> int:
        """The hosts that have unfinished packets."""
        return len(self._hosts)

    def add(self, host: bytes, packet: bytes, now: float) -> bytes | None:
        """Take a fragment from or for a host; the whole packet when it was the last one missing. Never raises."""
        self._look_after(now)
        waiting = self._hosts.get(host)
        if waiting is None:
            waiting = self._hosts[host] = Reassembler(
                self._counters, max_packets=self._max_packets, max_bytes=self._max_bytes
            )
        before = waiting.held
        whole = waiting.add(packet, now)
        self._bytes += waiting.held - before
        if not len(waiting):
            del self._hosts[host]
        while self._bytes > self._max_total:
            self._give_way()
        return whole

    def _look_after(self, now: float) -> None:
        """Let one host's old fragments go, another with each call."""
        if self._hosts:
            host = next(iter(self._hosts))
            self._hosts.move_to_end(host)
            waiting = self._hosts[host]
            before = waiting.held
            waiting.expire(now)
            self._bytes += waiting.held - before
            if not len(waiting):
                del self._hosts[host]

    def _give_way(self) -> None:
        """All that the heaviest of some hosts has."""
        some = list(islice(self._hosts, _SAMPLE))
        for host in some:
            self._hosts.move_to_end(host)
        heaviest = max(some, key=lambda host: self._hosts[host].held)
        self._bytes -= self._hosts.pop(heaviest).held
        self._counters.add("reassembly_full")
