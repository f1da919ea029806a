"""`python -m benchmarks.probing`: what watching 4 networks for 20 applications costs a mobile host's processor.

The machine as in the daemon, its looks at silent tunnels included: every application has thresholds and sends all the
time, so that no tunnel in use rests. The kernel's part (sockets, the loop) is not in it. Processor time of this process
a pretend second.

`--daemon`: the daemon itself, in a lab (two networks, fast datapath, so that it forwards nothing by itself): its
processor time, all that it does included, while the same applications send a little, and while nobody sends.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from random import Random

from benchmarks.machine import busy_seconds_of
from benchmarks.places import place, wait_until
from upmt_nf.config.values import AddressPool
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.paft import Paft
from upmt_nf.lab.namespaces import processes_in
from upmt_nf.mobility import anchor_commands, anchor_events, host_commands, host_events
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.events import TimeoutReached
from upmt_nf.mobility.mobile_host import MobileHost
from upmt_nf.mobility.settings import AnchorSettings, HostSettings
from upmt_nf.model.flow import UDP, Endpoint, FlowKey
from upmt_nf.model.identity import ApplicationId, ApplicationName, NetworkName, TerminalId
from upmt_nf.policy.network import NetworkFacts
from upmt_nf.policy.profiles import PROFILES

UPMT = (sys.executable, "-m", "upmt_nf.cli.main")
ANCHOR = IPv4Address("45.0.0.1")
CORRESPONDENT = IPv4Address("86.0.0.1")
DELAY = 0.02
"""Seconds one way."""
WITH_THRESHOLDS = ("voice", "video-call", "interactive", "gaming")
PORT, RATE = 6000, 10
"""The first application's, and packets a second of each, in the lab."""
TALK = f"""
import socket, sys, time
flows = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(int(sys.argv[1]))]
for number, flow in enumerate(flows):
    flow.connect(("{CORRESPONDENT}", {PORT} + number))
print("talks", flush=True)
while True:
    for flow in flows:
        try:
            flow.send(b"probing")
        except OSError:
            pass
    time.sleep({1 / RATE})
"""
ECHO = f"""
import select, socket, sys
ends = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(int(sys.argv[1]))]
for number, end in enumerate(ends):
    end.bind(("", {PORT} + number))
print("echoes", flush=True)
while True:
    for end in select.select(ends, [], [])[0]:
        data, sender = end.recvfrom(2048)
        end.sendto(data, sender)
"""


class Pair:
    """A host and its anchor, a pretend wire between them. `spent`: processor seconds of the host."""

    def __init__(self, networks: int, applications: int, interval: float) -> None:
        self.now, self.spent, self.probes = 1000.0, 0.0, 0
        self._glance_at = self.now
        self._queue: list[tuple[float, int, bool, object]] = []
        self._order = itertools.count()
        random = Random(1)
        names = tuple(NetworkName(f"net{number}") for number in range(networks))
        facts = tuple(NetworkFacts(name, throughput=20e6) for name in names)
        settings = HostSettings(
            TerminalId("mh@bench"), ANCHOR, names, facts=facts, keepalive_interval=interval
        )
        self._host_paft, self._anchor_paft = Paft(), Paft()
        pool = AddressPool(IPv4Address("10.99.0.1"), IPv4Address("10.99.0.9"))
        self._anchor = Anchor(AnchorSettings(ANCHOR, pool), self._anchor_paft, random)
        self._ends = {
            name: Endpoint(IPv4Address(f"203.0.{number}.1"), 40000) for number, name in enumerate(names)
        }
        self._networks = {packed_endpoint(end): name for name, end in self._ends.items()}
        self._host = MobileHost(settings, self._host_paft, random)
        self._address: IPv4Address | None = None
        for number in range(applications):
            id = ApplicationId(number + 2)
            policy = replace(PROFILES[WITH_THRESHOLDS[number % len(WITH_THRESHOLDS)]], networks=names)
            self._tell(host_events.ApplicationDefined(ApplicationName(f"app{number}"), id, policy))
        for number, name in enumerate(names):
            self._tell(host_events.NetworkAppeared(name, f"if{number}", self._ends[name].address, None, 1500))

    def open_flows(self, applications: int) -> None:
        """One an application."""
        assert self._address is not None
        for number in range(applications):
            flow = FlowKey(UDP, self._address, 2000 + number, CORRESPONDENT, 3000)
            self._host_paft.insert(flow.packed(), ApplicationId(number + 2), self.now)

    def run(self, seconds: float) -> None:
        """Let time pass; every tunnel carries something."""
        end = self.now + seconds
        while self.now < end:
            due = [at for at in (self._host.next_timeout(), self._anchor.next_timeout()) if at is not None]
            due.append(self._glance_at)
            due += [self._queue[0][0]] if self._queue else []
            self.now = min(end, max(self.now, min(due, default=end)))
            for tunnel in self._host_paft.tunnels.values():
                tunnel.used = tunnel.heard = self.now
                tunnel.packets_in += 1
            for entry in self._host_paft.flows.values():
                entry.last_seen = self.now
                entry.packets_out += 1
            while self._queue and self._queue[0][0] <= self.now:
                _, _, is_up, event = heapq.heappop(self._queue)
                if is_up:
                    self._take(self._anchor.handle(event, self.now))  # type: ignore[arg-type]
                else:
                    self._tell(event)
            if (at := self._host.next_timeout()) is not None and at <= self.now:
                self._tell(TimeoutReached())
            if self._glance_at <= self.now:
                self._glance()
            if (at := self._anchor.next_timeout()) is not None and at <= self.now:
                self._take(self._anchor.handle(TimeoutReached(), self.now))

    def _later(self, is_up: bool, event: object) -> None:
        heapq.heappush(self._queue, (self.now + DELAY, next(self._order), is_up, event))

    def _glance(self) -> None:
        began = time.process_time()
        commands = self._host.glance(self.now)
        self._glance_at = self._host.next_glance(self.now)
        self.spent += time.process_time() - began
        self._perform(commands)

    def _tell(self, event: object) -> None:
        began = time.process_time()
        commands = self._host.handle(event, self.now)  # type: ignore[arg-type]
        self._host.next_timeout()
        self.spent += time.process_time() - began
        self._perform(commands)

    def _perform(self, commands: Iterable[host_commands.HostCommand]) -> None:
        for command in commands:
            match command:
                case host_commands.SendSip(network, _, data):
                    end = Endpoint(self._ends[network].address, 5060)
                    self._later(True, anchor_events.SipDatagramReceived(end, data))
                case host_commands.SendTunnelSignal(network, port, payload):
                    self.probes += port == 862
                    assert self._address is not None
                    end = self._ends[network]
                    tunnel = self._anchor_paft.tunnel_from(packed_endpoint(end), self._address.packed)
                    inner = Endpoint(self._address, port)
                    self._later(True, anchor_events.TunnelSignalReceived(tunnel, end, inner, port, payload))
                case host_commands.ConfigureVirtualAddress(IPv4Address() as address):
                    self._address = address
                case _:
                    pass

    def _take(self, commands: Iterable[anchor_commands.AnchorCommand]) -> None:
        for command in commands:
            match command:
                case anchor_commands.SendSip(destination, data):
                    network = next(
                        name for name, end in self._ends.items() if end.address == destination.address
                    )
                    self._later(False, host_events.SipDatagramReceived(network, data))
                case anchor_commands.SendTunnelSignal(remote, _, port, payload):
                    network = self._networks[packed_endpoint(remote)]
                    self._later(False, host_events.TunnelSignalReceived(network, port, payload))
                case _:
                    pass


def of_daemon(applications: int, seconds: float) -> None:
    """Prints what the daemon of a lab's mobile host takes of a core."""
    with place(f"probing{os.getpid()}", "fast", daemons=True) as lab:
        wait_until(lambda: lab.ask("status")["association"]["state"] == "associated", "it is associated", 30)
        for number in range(applications):
            profile = WITH_THRESHOLDS[number % len(WITH_THRESHOLDS)]
            match = ("--destination", f"{CORRESPONDENT}:{PORT + number}")
            lab.run("mh", *UPMT, "assign", "--app", f"app{number}", *match, "--to", profile)
        status = json.loads(lab.run("an", *UPMT, "lab", "status", "--name", lab.name, "--json"))
        print(
            f"daemon, {len(status['networks'])} networks, {applications} applications with thresholds, fast datapath"
        )
        (pid,) = (pid for pid in processes_in(lab.name, "mh") if pid != os.getpid())
        for what in ("nobody sends", f"each {RATE} packets/s there and back"):
            with contextlib.ExitStack() as programs:
                if what != "nobody sends":
                    programs.enter_context(lab.running("ch", sys.executable, "-c", ECHO, str(applications)))
                    programs.enter_context(lab.running("mh", sys.executable, "-c", TALK, str(applications)))
                time.sleep(12)
                before, began = busy_seconds_of([pid]), time.monotonic()
                time.sleep(seconds)
                share = (busy_seconds_of([pid]) - before) / (time.monotonic() - began)
            print(f"{what:44}{100 * share:8.3f} % of a core", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.probing")
    options.add_argument("--networks", type=int, default=4)
    options.add_argument("--applications", type=int, default=20)
    options.add_argument("--interval", type=float, default=5.0, help="keepalive_interval, seconds")
    options.add_argument("--seconds", type=float, default=600.0, help="of pretend time")
    options.add_argument(
        "--daemon", action="store_true", help="the daemon in a lab, --seconds of real time (20)"
    )
    chosen = options.parse_args()
    if chosen.daemon:
        return of_daemon(chosen.applications, min(chosen.seconds, 20.0))
    pair = Pair(chosen.networks, chosen.applications, chosen.interval)
    pair.run(5)
    pair.open_flows(chosen.applications)
    pair.run(60)
    pair.spent, pair.probes = 0.0, 0
    pair.run(chosen.seconds)
    print(f"{chosen.networks} networks, {chosen.applications} applications with thresholds, all in use")
    print(f"probes     {pair.probes / chosen.seconds:8.2f} a second")
    print(f"processor  {100 * pair.spent / chosen.seconds:8.3f} % of a core")
    return None


if __name__ == "__main__":
    main()
