"""`python -m benchmarks.keepalive`: what keepalives of very many hosts cost one anchor process.

Forwarder and machine as in the daemon, from the outer packet as the queue gives it to the outer payload that the
socket would send; the kernel's part (queue, socket) is not in it. Processor time of one core, one tunnel a host.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from ipaddress import IPv4Address
from pathlib import Path

from benchmarks.anchor_process import UNLIMITED
from upmt_nf.config.values import AddressPool
from upmt_nf.datapath.anchor_forwarder import AnchorForwarder
from upmt_nf.datapath.packet import build_udp
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.datapath.protected import PROTECTED
from upmt_nf.datapath.reach import Reach
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import SendTunnelSignal
from upmt_nf.mobility.anchor_events import TunnelSignalReceived
from upmt_nf.mobility.events import TimeoutReached
from upmt_nf.mobility.leases import LeaseAsked, LeaseGiven
from upmt_nf.mobility.settings import AnchorSettings, HostSettings
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import TerminalId
from upmt_nf.model.names import MEASUREMENT_PORT, TUNNEL_PORT
from upmt_nf.signaling.stamp import SenderPacket, stamped

ANCHOR = IPv4Address("45.0.0.1")
BATCH = 5000


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.keepalive")
    options.add_argument("--hosts", type=int, default=100_000)
    options.add_argument("--keepalives", type=int, default=100_000)
    options.add_argument("--format", choices=("plain", "cookie", "sealed"), default="plain")
    chosen = options.parse_args()
    gc.freeze()
    bench = KeepaliveBench(chosen.hosts, chosen.format)
    print(f"{chosen.hosts} hosts, format {chosen.format}")
    print(f"memory                  {bench.bytes_per_association:10.0f} bytes an association with one tunnel")
    rate = bench.keepalives_per_second(chosen.keepalives)
    print(f"keepalives              {rate:10.0f} a second on one core, {1e6 / rate:.1f} us each")
    for name, interval in bench.intervals().items():
        print(
            f"{name:24}{100 * chosen.hosts / interval / rate:10.1f} % of a core, one each {interval:g} s and host"
        )
    longest, mean = bench.sweeps()
    print(f"sweep, every 5 s        {1e3 * mean:10.2f} ms, the longest {1e3 * longest:.2f} ms")


class KeepaliveBench:
    """One anchor with `hosts` associations."""

    def __init__(self, hosts: int, format: str) -> None:
        self._random = random.Random(1)
        self._now = 1000.0
        first = IPv4Address("10.64.0.1")
        pool = AddressPool(first, first + hosts - 1)
        settings = AnchorSettings(address=ANCHOR, pool=pool, max_associations=hosts, rates=UNLIMITED)
        before = _resident()
        self._paft = Paft()
        self._anchor = Anchor(settings, self._paft, self._random)
        self._forwarder = AnchorForwarder(self._paft, ANCHOR, Reach(pool.networks()))
        self._format = format
        self._associated = [self._associate(number) for number in range(hosts)]
        gc.collect()
        self.bytes_per_association = (_resident() - before) / hosts
        self._ends: dict[int, Tunnel] = {}
        """The hosts' ends, made when they first say something, so that they are not in the figure above."""

    def _associate(self, number: int) -> Tunnel:
        # As REGISTER and a tunnel setup request do it, without the SIP around them: that is another bench's.
        leases, tunnels = self._anchor._leases, self._anchor._tunnels
        given = leases.ask(
            LeaseAsked(TerminalId(f"host{number}@bench.example"), f"{number:032x}", 1, 3600), self._now
        )
        assert isinstance(given, LeaseGiven)
        remote = Endpoint(IPv4Address(0xCB000000 + number // 100), 20000 + number % 100)
        tunnel = tunnels.set_up(given.lease, "net0", remote, 2, self._now)
        assert isinstance(tunnel, Tunnel)
        if self._format != "plain":
            up, down = _keys(number)
            tunnel.format = PROTECTED[self._format](down, up, waits=True)
        return tunnel

    def _end(self, number: int) -> Tunnel:
        end = self._ends.get(number)
        if end is None:
            there = self._associated[number]
            end = self._ends[number] = Tunnel(there.id, there.owner, there.remote, 1400)
            if self._format != "plain":
                end.format = PROTECTED[self._format](*_keys(number))
        return end

    def keepalives_per_second(self, count: int) -> float:
        """Of hosts in random order; packets are made beforehand, a batch at a time, outside of the measurement."""
        spent, answered = 0.0, 0
        for start in range(0, count, BATCH):
            packets = [self._packet(sequence) for sequence in range(start, min(start + BATCH, count))]
            self._now += 0.01
            began = time.process_time()
            for packet in packets:
                answered += self._take(packet)
            spent += time.process_time() - began
        assert answered == count, (answered, count, self._forwarder.counters.as_dict())
        return count / spent

    def _packet(self, sequence: int) -> bytes:
        end = self._end(self._random.randrange(len(self._associated)))
        probe = bytes(SenderPacket(sequence, self._now, 1))
        inner = build_udp(end.owner, MEASUREMENT_PORT, ANCHOR, MEASUREMENT_PORT, probe)
        return build_udp(
            end.remote.address, end.remote.port, ANCHOR, TUNNEL_PORT, end.format.encode(end, inner)
        )

    def _take(self, packet: bytes) -> int:
        """What the daemon does between its queue and its socket."""
        signal = self._forwarder.uplink(packet, self._now).signal
        assert signal is not None
        event = TunnelSignalReceived(*signal[1:])
        answers = 0
        for command in self._anchor.handle(event, self._now):
            assert isinstance(command, SendTunnelSignal)
            payload = stamped(command.payload, self._now)
            answers += bool(
                self._forwarder.signal(command.remote, command.destination, command.port, payload)
            )
        return answers

    @staticmethod
    def intervals() -> dict[str, float]:
        """By what a host does, the seconds between two of its keepalives."""
        settings = HostSettings(TerminalId("host@bench.example"), ANCHOR, ())
        return {
            "in use": settings.keepalive_interval,
            "idle, NAT unknown": settings.keepalive_idle,
            "idle, patient NAT": settings.keepalive_longest,
        }

    def sweeps(self) -> tuple[float, float]:
        """The longest and the mean of the machine's sweeps over a tunnel timeout in which all hosts stay."""
        found = []
        for _ in range(72):
            self._now += 5.0
            for tunnel in self._paft.tunnels.values():
                tunnel.heard = self._now - self._random.random() * 28
            began = time.process_time()
            self._anchor.handle(TimeoutReached(), self._now)
            found.append(time.process_time() - began)
        return max(found), sum(found) / len(found)


def _keys(number: int) -> tuple[bytes, bytes]:
    """Of both directions, up and down."""
    return number.to_bytes(32, "big"), (number | 1 << 200).to_bytes(32, "big")


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


if __name__ == "__main__":
    main()
