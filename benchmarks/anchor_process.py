"""The other end of `benchmarks.registrations`: an anchor's signalling on a real socket, in a process of its own.

What `daemon.anchor_daemon` does with SIP outside the tunnels, without tunnels and so without root. `--echo` gives every
datagram back as it came: what the machine, Python and the kernel cost without SIP.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
from ipaddress import ip_address
from pathlib import Path
from random import SystemRandom

from upmt_nf.config.values import AddressPool
from upmt_nf.daemon.wake_up import WakeUp
from upmt_nf.datapath.paft import Paft
from upmt_nf.linux.lease_store import LeaseStore
from upmt_nf.linux.tunnel_socket import SignallingSocket
from upmt_nf.linux.users import UsersFile
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import LeaseGranted, SendSip
from upmt_nf.mobility.anchor_events import AnchorEvent, SipDatagramReceived
from upmt_nf.mobility.events import TimeoutReached
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.mobility.source_limits import SourceRates
from upmt_nf.signaling.digest import REALM, DigestServer

LOOPBACK = ip_address("127.0.0.1")
POOL = AddressPool(ip_address("10.64.0.1"), ip_address("10.65.255.254"))
UNLIMITED = SourceRates(1e6, 1e6, 1e6)
"""All hosts speak from one address here: what an anchor hears of one is not what is measured."""


def guard_of(users: Path | None) -> DigestServer | None:
    if users is None:
        return None
    file = UsersFile(users)
    return DigestServer(
        REALM, os.urandom(32), lambda identity: file.hash_of(identity, REALM), lambda: os.urandom(8)
    )


class AnchorLoop:
    """The machine on its socket."""

    def __init__(self, port: int, users: Path | None, leases: Path) -> None:
        self._loop = asyncio.get_running_loop()
        settings = AnchorSettings(address=LOOPBACK, pool=POOL, rates=UNLIMITED)
        self._machine = Anchor(settings, Paft(), SystemRandom(), guard=guard_of(users))
        self._leases = LeaseStore(leases)
        self._socket = SignallingSocket(None, LOOPBACK, port, 0)
        self._wake_up = WakeUp(self._loop, lambda: self._take(TimeoutReached()))
        self._loop.add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        for data, source in self._socket.receive():
            self._take(SipDatagramReceived(source, data))

    def _take(self, event: AnchorEvent) -> None:
        for command in self._machine.handle(event, self._loop.time()):
            match command:
                case SendSip(destination, data):
                    self._socket.send_to(data, destination)
                case LeaseGranted(identity, address, _):
                    if self._leases.keep(identity, address):
                        self._loop.call_soon(self._leases.write)
        self._wake_up.at(self._machine.next_timeout())


async def _serve(port: int, users: Path | None, leases: Path) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    anchor = AnchorLoop(port, users, leases)
    print("ready", flush=True)
    await stopped.wait()
    del anchor


def _echo(port: int) -> None:
    ours = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ours.bind((str(LOOPBACK), port))
    print("ready", flush=True)
    while True:
        data, source = ours.recvfrom(65536)
        ours.sendto(data, source)


def main() -> None:
    options = argparse.ArgumentParser(prog="python -m benchmarks.anchor_process")
    options.add_argument("--port", type=int, required=True)
    options.add_argument("--core", type=int)
    options.add_argument("--users", type=Path)
    options.add_argument("--leases", type=Path)
    options.add_argument("--echo", action="store_true")
    chosen = options.parse_args()
    if chosen.core is not None:
        os.sched_setaffinity(0, {chosen.core})
    if chosen.echo:
        _echo(chosen.port)
    else:
        asyncio.run(_serve(chosen.port, chosen.users, chosen.leases))


if __name__ == "__main__":
    main()
