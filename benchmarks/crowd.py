"""Many simulated mobile hosts in one process: the real machines and messages over real sockets, no kernel state.

Each host has one care-of address with a SIP socket and a tunnel socket. Inside its tunnel it sends numbered datagrams
to an echo server and counts the answers. Prints one JSON object when it is associated (`ready`) and one at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from random import SystemRandom
from typing import Any

from upmt_nf.datapath.packet import build_udp, parse_udp
from upmt_nf.datapath.paft import Paft
from upmt_nf.mobility.commands import Announce
from upmt_nf.mobility.events import TimeoutReached
from upmt_nf.mobility.host_commands import (
    CloseTunnel,
    ConfigureVirtualAddress,
    OpenTunnel,
    RebindTunnel,
    ReleaseVirtualAddress,
    SendSip,
    SendTunnelSignal,
)
from upmt_nf.mobility.host_events import (
    HostEvent,
    NetworkAppeared,
    NetworkVanished,
    SipDatagramReceived,
    TunnelSignalReceived,
)
from upmt_nf.mobility.mobile_host import MobileHost
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.identity import NetworkName, TerminalId

NETWORK = NetworkName("net")
PORT = 9000
"""Of the hosts' own traffic, inside."""


def identity_of(number: int) -> str:
    return f"crowd{number}@crowd.example"


class Host:
    """One mobile host with one network."""

    def __init__(self, number: int, secret: str, anchor: Endpoint, echo: Endpoint, lifetime: int) -> None:
        self._anchor = anchor
        self._echo = echo
        self._loop = asyncio.get_running_loop()
        self._paft = Paft()
        settings = HostSettings(
            TerminalId(identity_of(number)),
            anchor.address,
            (NETWORK,),
            tunnel_port=anchor.port,
            lifetime=lifetime,
            keepalive_interval=2.0,
            secret=secret,
        )
        self.machine = MobileHost(settings, self._paft, SystemRandom())
        self._timer: asyncio.TimerHandle | None = None
        self._sockets: dict[str, socket.socket] = {}
        self._care_of: IPAddress | None = None
        self.virtual_address: IPAddress | None = None
        self.sent: set[int] = set()
        self.answered: set[int] = set()
        self.counts: Counter[str] = Counter()

    @property
    def is_ready(self) -> bool:
        return self.machine.association.state == "associated" and self.machine.networks[NETWORK].state == "up"

    def appear(self, care_of: IPAddress) -> None:
        self._care_of = care_of
        self._open("sip", self._read_sip)
        self._open("tunnel", self._read_tunnel)
        self.take(NetworkAppeared(NETWORK, "eth0", care_of, None, 1500))

    def move(self, care_of: IPAddress) -> None:
        """Another care-of address: what was on its way to the old one is lost."""
        for name in list(self._sockets):
            self._close(name)
        self.take(NetworkVanished(NETWORK, "another address"))
        self.appear(care_of)

    def send(self, number: int) -> None:
        """One datagram of an application, if there is a tunnel for it."""
        if self.virtual_address is None or self.machine.networks[NETWORK].state != "up":
            self.counts["held"] += 1
            return
        self.sent.add(number)
        self._send_inside(PORT, self._echo, number.to_bytes(8, "big"))

    def take(self, event: HostEvent) -> None:
        for command in self.machine.handle(event, self._loop.time()):
            match command:
                case SendSip(_, destination, data):
                    self.counts["sip_sent"] += 1
                    self._sendto("sip", data, destination)
                case SendTunnelSignal(_, port, payload):
                    self.counts["signals_sent"] += 1
                    self._send_inside(port, Endpoint(self._anchor.address, port), payload)
                case ConfigureVirtualAddress(address):
                    self.virtual_address = address
                case ReleaseVirtualAddress():
                    self.virtual_address = None
                    self.counts["associations_lost"] += 1
                case OpenTunnel():
                    self.counts["tunnels_opened"] += 1
                case CloseTunnel():
                    self.counts["tunnels_closed"] += 1
                case RebindTunnel():
                    self.counts["rebinds"] += 1
                    self._open("tunnel", self._read_tunnel)
                case Announce(_, text):
                    if "--verbose" in sys.argv:
                        print(self.virtual_address, text, file=sys.stderr)
                case _:
                    pass
        if self._timer is not None:
            self._timer.cancel()
        at = self.machine.next_timeout()
        self._timer = self._loop.call_at(at, self.take, TimeoutReached()) if at is not None else None

    # --- sockets ---

    def _open(self, name: str, read: Any) -> None:
        self._close(name)
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setblocking(False)
        made.bind((str(self._care_of), 0))
        self._sockets[name] = made
        self._loop.add_reader(made.fileno(), read)

    def _close(self, name: str) -> None:
        if (old := self._sockets.pop(name, None)) is not None:
            self._loop.remove_reader(old.fileno())
            old.close()

    def _sendto(self, name: str, data: bytes, destination: Endpoint) -> None:
        try:
            self._sockets[name].sendto(data, (str(destination.address), destination.port))
        except OSError:
            self.counts["not_sent"] += 1

    def _send_inside(self, port: int, destination: Endpoint, payload: bytes) -> None:
        if self.virtual_address is not None:
            inner = build_udp(self.virtual_address, port, destination.address, destination.port, payload)
            self._sendto("tunnel", inner, self._anchor)

    def _read_sip(self) -> None:
        self.take(SipDatagramReceived(NETWORK, self._sockets["sip"].recv(65536)))

    def _read_tunnel(self) -> None:
        inner = parse_udp(self._sockets["tunnel"].recv(65536))
        if inner is None or inner.destination.address != self.virtual_address:
            self.counts["strange"] += 1
            return
        for tunnel in self._paft.tunnels.values():
            tunnel.heard = self._loop.time()
        if inner.source.address == self._anchor.address:
            self.take(TunnelSignalReceived(NETWORK, inner.source.port, inner.payload))
        elif inner.source == self._echo:
            self.answered.add(int.from_bytes(inner.payload, "big"))


async def live(chosen: argparse.Namespace) -> dict[str, Any]:
    """Associate all hosts, then send for so long; a tenth of the hosts change their care-of address half-way."""
    anchor, first = Endpoint(ip_address(chosen.anchor), 1800), ip_address(chosen.first)
    address, _, port = chosen.echo.partition(":")
    echo = Endpoint(ip_address(address), int(port))
    secrets = Path(chosen.secrets).read_text().split()
    hosts = [Host(number, secrets[number], anchor, echo, chosen.lifetime) for number in range(chosen.hosts)]
    for number, host in enumerate(hosts):
        host.appear(first + number)
        await asyncio.sleep(0.02)
    await _until_all_are_ready(hosts)
    before = _counts(hosts)
    print(json.dumps({"ready": len(hosts)}), flush=True)
    if chosen.wait:
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    begun = asyncio.get_running_loop().time()
    movers = hosts[: len(hosts) // 10] if chosen.move else []
    rounds = int(chosen.seconds * chosen.rate)
    for number in range(rounds):
        for place, host in enumerate(hosts):
            host.send(number)
            if place % 10 == 9:
                await asyncio.sleep(max(0.0, begun + (number + place / len(hosts)) / chosen.rate - _now()))
        if number == rounds // 2:
            for place, host in enumerate(movers):
                host.move(first + len(hosts) + place)
    await asyncio.sleep(1.0)
    await _until_all_are_ready(hosts, 10)
    counts = _counts(hosts) - before
    steady = hosts[len(movers) :]
    return {
        "hosts": len(hosts),
        "ready": sum(host.is_ready for host in hosts),
        "moved": len(movers),
        "sent": sum(len(host.sent) for host in hosts),
        "lost": sum(len(host.sent - host.answered) for host in steady),
        "lost_by_movers": sum(len(host.sent - host.answered) for host in movers),
        "resent": counts["resent"],
        "timed_out": counts["timed_out"],
        **counts,
    }


def _counts(hosts: list[Host]) -> Counter[str]:
    """What all hosts counted so far, their signalling included."""
    return sum((host.counts + Counter(host.machine.counters) for host in hosts), Counter())


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _until_all_are_ready(hosts: list[Host], seconds: float = 60) -> None:
    end = _now() + seconds
    while not all(host.is_ready for host in hosts) and _now() < end:
        await asyncio.sleep(0.05)


def main() -> None:
    options = argparse.ArgumentParser(prog="crowd")
    options.add_argument("--hosts", type=int, default=100)
    options.add_argument("--anchor", default="45.0.0.1")
    options.add_argument("--first", default="86.0.0.101", help="care-of address of the first host")
    options.add_argument("--echo", default="65.0.0.1:7000")
    options.add_argument("--secrets", required=True, help="file with one secret a line, one a host")
    options.add_argument("--seconds", type=float, default=20)
    options.add_argument("--rate", type=float, default=5, help="datagrams a second and host")
    options.add_argument("--lifetime", type=int, default=10, help="of the associations, in seconds")
    options.add_argument("--move", action="store_true", help="a tenth of the hosts change their address")
    options.add_argument("--wait", action="store_true", help="begin to send when a line comes")
    options.add_argument("--verbose", action="store_true")
    print(json.dumps(asyncio.run(live(options.parse_args()))), flush=True)


if __name__ == "__main__":
    main()
