"""What one anchor's machine costs with very many hosts: `python -m benchmarks.scale [NUMBER...]`. In memory, no Digest.

Each pretend host registers, sets up two tunnels, has probes answered and moves a flow, in the real messages. Costs are
the machine's CPU time alone; memory is the growth of the process after SIP's timers have forgotten the answers.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import sys
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from random import Random
from time import process_time

from upmt_nf.config.values import AddressPool
from upmt_nf.daemon.lifetime import spare_what_stays
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import SendSip, SendTunnelSignal
from upmt_nf.mobility.anchor_events import AnchorEvent, SipDatagramReceived, TunnelSignalReceived
from upmt_nf.mobility.events import TimeoutReached
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.mobility.source_limits import SourceRates
from upmt_nf.model.flow import UDP, Endpoint, FlowKey, IPAddress
from upmt_nf.model.identity import NetworkName, TerminalId
from upmt_nf.model.names import MEASUREMENT_PORT, SIGNALLING_PORT
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import (
    AssociationRequest,
    HandoverPair,
    HandoverRequest,
    TunnelSetupRequest,
    UpmtMessage,
)
from upmt_nf.signaling.sip.build import message, register
from upmt_nf.signaling.stamp import SenderPacket

ADDRESS = ip_address("160.80.100.1")
PACE = 1 / 2000
"""Seconds of pretend time between two hosts' requests."""
_TOKEN = re.compile(rb"UPMT-Association: *(\w+)")
_VIRTUAL = re.compile(rb"VIpAddr: *([0-9.]+)")


class Crowd:
    """Hosts of one anchor, and the clock that it goes by."""

    def __init__(self, number: int) -> None:
        pool = AddressPool(ip_address("10.0.0.1"), ip_address("10.15.255.254"))
        # All come from a few networks, which a real crowd does not.
        rates = SourceRates(strangers=1e9, source=1e9)
        settings = AnchorSettings(ADDRESS, pool, max_associations=number + 1, rates=rates)
        self.paft = Paft(max_flows=4 * number + 1)
        self.anchor = Anchor(settings, self.paft, Random(1))
        self.number = number
        self.now = 1000.0
        self.cpu = 0.0
        self.hosts: list[tuple[IPAddress, str]] = []

    def take(self, event: AnchorEvent) -> bytes:
        """Let something happen, with all that is due; gives the answer."""
        self.now += PACE
        start = process_time()
        if (due := self.anchor.next_timeout()) is not None and due <= self.now:
            self.anchor.handle(TimeoutReached(), self.now)
        commands = self.anchor.handle(event, self.now)
        self.cpu += process_time() - start
        sent = [
            command.data if isinstance(command, SendSip) else command.payload
            for command in commands
            if isinstance(command, (SendSip, SendTunnelSignal))
        ]
        return sent[-1] if sent else b""

    def wait(self, seconds: float) -> float:
        """Let time pass without a word; gives the CPU seconds of it."""
        end, start = self.now + seconds, process_time()
        while (due := self.anchor.next_timeout()) is not None and due <= end:
            self.now = max(self.now, due)
            self.anchor.handle(TimeoutReached(), self.now)
        self.now = end
        return process_time() - start

    def outside(self, index: int) -> IPAddress:
        return ip_address(0x64400000 + index)

    def register(self, index: int) -> None:
        body = encode(AssociationRequest(3600, None, None))
        request = register(
            anchor=Endpoint(ADDRESS, SIGNALLING_PORT), local=Endpoint(self.outside(index), SIGNALLING_PORT),
            identity=TerminalId(f"h{index}@upmt"), call_id=f"c{index}", cseq=1, tag=f"t{index}", expires=3600,
            virtual_address=None, body=body,
        )  # fmt: skip
        data = _with_branch(bytes(request), f"{index}r")
        answer = self.take(SipDatagramReceived(Endpoint(self.outside(index), SIGNALLING_PORT), data))
        token, virtual = _TOKEN.search(answer), _VIRTUAL.search(answer)
        if token is None or virtual is None:
            sys.exit(f"no association: {answer[:900]!r} {self.anchor.counters}")
        self.hosts.append((ip_address(virtual[1].decode()), token[1].decode()))

    def tell(self, index: int, network: int, cseq: int, body: UpmtMessage) -> None:
        virtual, _ = self.hosts[index]
        local = Endpoint(virtual, SIGNALLING_PORT)
        request = message(
            anchor=Endpoint(ADDRESS, SIGNALLING_PORT), local=local, identity=TerminalId(f"h{index}@upmt"),
            call_id=f"c{index}", cseq=cseq, tag=f"t{index}", body=encode(body),
        )  # fmt: skip
        data, remote = _with_branch(bytes(request), f"{index}m{cseq}"), self.remote(index, network)
        tunnel = self.paft.tunnel_from(packed_endpoint(remote), virtual.packed)
        answer = self.take(TunnelSignalReceived(tunnel, remote, local, SIGNALLING_PORT, data))
        if not answer.startswith(b"SIP/2.0 200"):
            sys.exit(f"refused: {answer[:900]!r} {self.anchor.counters}")

    def remote(self, index: int, network: int) -> Endpoint:
        return Endpoint(self.outside(index), 40000 + network)

    def set_up(self, index: int) -> None:
        virtual, token = self.hosts[index]
        for network in (0, 1):
            self.tell(
                index, network, 2 + network, TunnelSetupRequest(token, virtual, NetworkName(f"n{network}"))
            )

    def move(self, index: int) -> None:
        virtual, token = self.hosts[index]
        flow = FlowKey(UDP, virtual, 5004, ip_address("86.0.0.1"), 5004)
        self.tell(index, 1, 4, HandoverRequest(token, (HandoverPair((flow,)),)))

    def probe(self, index: int) -> None:
        virtual = self.hosts[index][0]
        remote = self.remote(index, 0)
        tunnel = self.paft.tunnel_from(packed_endpoint(remote), virtual.packed)
        probe = bytes(SenderPacket(1, self.now, 1))
        self.take(
            TunnelSignalReceived(tunnel, remote, Endpoint(virtual, MEASUREMENT_PORT), MEASUREMENT_PORT, probe)
        )

    def each(self, act: Callable[[int], None]) -> float:
        """Microseconds of the machine per host."""
        self.cpu = 0.0
        for index in range(self.number):
            act(index)
        return round(self.cpu / self.number * 1e6, 1)


def _with_branch(data: bytes, branch: str) -> bytes:
    line, rest = data.split(b"\r\n", 1)
    via, others = rest.split(b"\r\n", 1)
    if b"Via:" in via and b"branch=" not in via:
        via += f";branch=z9hG4bK{branch}".encode()
    return b"\r\n".join((line, via, others))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cold_read(paft: Paft) -> float:
    """Nanoseconds in which a tunnel is found in the table, in no order, and read: what a cache too small costs."""
    ids = list(paft.tunnels)
    Random(2).shuffle(ids)
    ids *= max(1, 100_000 // len(ids))
    tunnels, start = paft.tunnels, process_time()
    for id in ids:
        tunnels[id].heard  # noqa: B018 (what is measured)
    return round((process_time() - start) / len(ids) * 1e9, 1)


def measure(number: int) -> dict[str, float]:
    """One size, in this process."""
    crowd = Crowd(number)
    gc.collect()
    before = resident()
    figures = {"associations": float(number)}
    figures["register_us"] = crowd.each(crowd.register)
    figures["set_up_two_us"] = crowd.each(crowd.set_up)
    crowd.wait(60)
    gc.collect()
    figures["kb_each"] = round((resident() - before) / number / 1024, 2)
    figures["probe_us"] = crowd.each(crowd.probe)
    figures["handover_us"] = crowd.each(crowd.move)
    figures["idle_cpu_percent"] = round(100 * crowd.wait(60) / 60, 3)
    figures["read_ns"] = cold_read(crowd.paft)
    return figures


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    options.add_argument("numbers", type=int, nargs="*", default=[1000, 10000, 100000])
    for number in options.parse_args().numbers:
        # Each size in a process of its own: memory that another has used is not given back.
        child = os.fork()
        if child == 0:
            spare_what_stays()
            print(json.dumps(measure(number)), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(1)


if __name__ == "__main__":
    main()
