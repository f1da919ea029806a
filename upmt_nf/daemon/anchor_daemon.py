"""The anchor's daemon (MMS): the machine of `mobility`, the agent plane and the kernel state put together."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from pathlib import Path
from random import SystemRandom
from secrets import randbelow
from typing import Any

from upmt_nf.config.anchor import AnchorSection
from upmt_nf.daemon.anchor_control import READING, AnchorControl
from upmt_nf.daemon.anchor_forwards import AnchorForwards
from upmt_nf.daemon.anchor_kernel import AnchorKernel
from upmt_nf.daemon.anchor_plane import AnchorPlane
from upmt_nf.daemon.control_server import ControlServer
from upmt_nf.daemon.datapath_choice import Choice, choose_with
from upmt_nf.daemon.fast_start import anchor_fast_plane
from upmt_nf.daemon.portal_answers import PortalAnswers
from upmt_nf.daemon.repairs import Repairs
from upmt_nf.daemon.shortcut import Shortcut
from upmt_nf.daemon.wake_up import WakeUp
from upmt_nf.datapath.anchor_forwarder import AnchorForwarder
from upmt_nf.datapath.copies import RUNS
from upmt_nf.datapath.formats import is_binding_probe
from upmt_nf.datapath.outer import packed_endpoint
from upmt_nf.datapath.paft import Paft
from upmt_nf.datapath.reach import PeerRule, Reach
from upmt_nf.datapath.verdict import TunnelSignal
from upmt_nf.linux.conntrack import forget_host
from upmt_nf.linux.lease_store import LeaseStore
from upmt_nf.linux.link_monitor import interface_mtu, local_addresses
from upmt_nf.linux.tun_device import TunDevice
from upmt_nf.linux.tunnel_socket import SignallingSocket
from upmt_nf.linux.users import MD5_DIGITS, UsersFile
from upmt_nf.mobility.anchor import Anchor
from upmt_nf.mobility.anchor_commands import (
    AnchorCommand,
    LeaseEnded,
    LeaseGranted,
    SendBindingAnswer,
    SendSip,
    SendTunnelSignal,
)
from upmt_nf.mobility.anchor_events import (
    AnchorEvent,
    BindingProbeReceived,
    SipDatagramReceived,
    TunnelSignalReceived,
)
from upmt_nf.mobility.commands import Announce, Level, Stopped
from upmt_nf.mobility.events import StopAsked, TimeoutReached
from upmt_nf.mobility.settings import AnchorSettings
from upmt_nf.mobility.source_limits import SourceRates
from upmt_nf.model.errors import KernelError, UpmtError
from upmt_nf.model.flow import Endpoint, IPAddress
from upmt_nf.model.names import MEASUREMENT_PORT, VIRTUAL_INTERFACE
from upmt_nf.signaling.digest import MD5, REALM, DigestServer

log = logging.getLogger(__name__)

LEVELS = {Level.DEBUG: logging.DEBUG, Level.INFO: logging.INFO, Level.WARNING: logging.WARNING}


def _forget_connections(address: IPAddress) -> None:
    """What an address's former holder began must not be answered to the next one."""
    try:
        deleted = forget_host(address)
    except KernelError as reason:
        log.warning("%s", reason)
    else:
        log.info("%s has another host now: %d connections of the former one were forgotten", address, deleted)


class AnchorDaemon:
    """One anchor, from `start` to the end of `run` (see `daemon.lifetime`)."""

    machine: Anchor
    plane: AnchorPlane
    forwarder: AnchorForwarder
    forwards: AnchorForwards
    _signalling: dict[int, SignallingSocket]
    """By IP version."""
    _leases: LeaseStore
    _wake_up: WakeUp
    _stopped: asyncio.Event
    _repairs: Repairs
    shortcut: Shortcut

    def __init__(self, config: AnchorSection) -> None:
        self.config = config
        # No host may fill the table: a share of it is all that one association gets.
        self.paft = Paft(max_flows=config.max_flows, max_flows_per_owner=max(1024, config.max_flows // 8))
        self._events: deque[AnchorEvent] = deque()
        self.datapath = Choice(None, "not chosen yet")
        self._is_working = False
        self._control = ControlServer(AnchorControl(self).commands(), READING)
        self._portal_answers = PortalAnswers()

    # --- life ---

    async def start(self) -> None:
        """Take the control socket, put the kernel's state in place, listen."""
        loop = asyncio.get_running_loop()
        self._loop, self._stopped = loop, asyncio.Event()
        self._control.claim()
        mtu = interface_mtu(self.config.interface)
        if mtu is None:
            raise KernelError(f"there is no interface {self.config.interface}")
        self.kernel = AnchorKernel(self.config)
        try:
            self._begin(loop, mtu)
        except BaseException:
            self.kernel.restore()
            raise
        await self._control.serve()
        if (port := self.config.portal_check_port) is not None:
            try:
                await self._portal_answers.serve(Endpoint(self.config.address, port))
            except UpmtError as reason:
                log.warning("%s", reason)

    def _begin(self, loop: asyncio.AbstractEventLoop, mtu: int) -> None:
        config = self.config
        self._leases = LeaseStore(Path(config.leases))
        self.forwards = AnchorForwards(config, self.kernel)
        self.machine = Anchor(
            self._settings(mtu), self.paft, SystemRandom(), self._leases.remembered(), self._guard()
        )
        self.forwarder = AnchorForwarder(
            self.paft,
            config.address,
            self._reach(),
            config.signalling_port,
            hears=lambda remote, data, now: not self.machine.limits.is_hopeless(remote, data, now),
            salt=os.urandom(16),
            run=randbelow(RUNS),
        )
        self._wake_up = WakeUp(loop, lambda: self.take(TimeoutReached()))
        self._signalling = {
            address.version: SignallingSocket(None, address, config.signalling_port, 0)
            for address in config.addresses
        }
        self.kernel.prepare()
        tun = TunDevice(VIRTUAL_INTERFACE) if self.kernel.interface.kind == "tun" else None
        self.datapath = choose_with(
            self.kernel.journal,
            config.datapath,
            self.kernel.interface.kind,
            config.address,
            lambda: anchor_fast_plane(loop, self),
        )
        self.plane = AnchorPlane(
            loop,
            config.addresses,
            config.tunnel_ports,
            self.forwarder,
            tun,
            heard=self._hear,
            merges=self.datapath.fast is None,
            probed=self._hear_outside,
        )
        for each in self._signalling.values():
            loop.add_reader(each.fileno(), self._read_sip, each)
        fast = self.datapath.fast
        if fast is not None:
            fast.write_behind(self.plane.backlog)
        self.shortcut = Shortcut(loop, config.shortcut, None if fast is None else fast.programs)
        self._repairs = Repairs(loop, self.kernel.drift, self.kernel.repair, self.shortcut.look)
        log.info("anchor %s leases %s, tunnels at %s", config.address, config.pool, self.plane.local)

    def _guard(self) -> DigestServer | None:
        """Asks hosts for proof, when there is a file of users. Its key lives as long as this process."""
        if self.config.users is None:
            log.warning("no users file: whoever can send to port %d is let in", self.config.signalling_port)
            return None
        users = UsersFile(Path(self.config.users))
        log.info("%d users in %s", len(users.identities()), users.path)
        if MD5 in self.config.digest_algorithms:
            log.warning("MD5 is taken as proof: for testing only")
        return DigestServer(
            REALM,
            os.urandom(32),
            lambda identity: users.hash_of(identity, REALM),
            lambda: os.urandom(8),
            algorithms=self.config.digest_algorithms,
            md5_hash_of=lambda identity: users.hash_of(identity, REALM, digits=MD5_DIGITS),
        )

    def _reach(self) -> Reach:
        config = self.config
        return Reach(
            config.pool.networks(),
            own=local_addresses(),
            allow=[PeerRule(peer.network, peer.port, peer.protocol) for peer in config.allow],
            deny=[PeerRule(peer.network, peer.port, peer.protocol) for peer in config.deny],
            between_hosts=config.between_hosts,
            refuse_private=config.refuse_private,
            refuse_public=config.refuse_public,
        )

    def _settings(self, mtu: int) -> AnchorSettings:
        config = self.config
        return AnchorSettings(
            address=config.address,
            pool=config.pool,
            tunnel_port=config.tunnel_port,
            signalling_port=config.signalling_port,
            lifetime=config.lease_time,
            minimum_lifetime=config.minimum_lease_time,
            tunnel_timeout=config.tunnel_timeout,
            max_associations=config.max_associations,
            outer_mtu=mtu,
            formats=config.protection,
            rates=SourceRates(config.stranger_rate, config.source_rate, config.host_rate),
        )

    async def run(self) -> None:
        """Work until asked to stop, tell the hosts, put everything back."""
        try:
            await self._stopped.wait()
        finally:
            self._wake_up.cancel()
            self._portal_answers.close()
            self._repairs.close()
            self.shortcut.close()
            for each in self._signalling.values():
                self._loop.remove_reader(each.fileno())
                each.close()
            self.write_down()
            self.plane.stop()
            if self.datapath.fast is not None:
                self.datapath.fast.close()
            self.kernel.restore()
            await self._control.close()
            log.info("stopped")

    def ask_to_stop(self) -> None:
        """Tell the hosts, then end."""
        self.take(StopAsked())

    def write_down(self) -> None:
        """Save the leases, and close the stores."""
        self._leases.close()
        self.forwards.close()

    # --- events in, commands out ---

    def take(self, event: AnchorEvent) -> None:
        """Let something happen. Safe to call while another event is being worked off."""
        self._events.append(event)
        if self._is_working:
            return
        self._is_working = True
        try:
            while self._events:
                for command in self.machine.handle(self._events.popleft(), self._loop.time()):
                    try:
                        self._perform(command)
                    except UpmtError as reason:
                        log.warning("%s: %s", type(command).__name__, reason)
        finally:
            self._is_working = False
        self._wake_up.at(self.machine.next_timeout())

    def _read_sip(self, signalling: SignallingSocket) -> None:
        now = self._loop.time()
        for data, source in signalling.receive(
            lambda remote, data: self.machine.limits.is_hopeless(remote, data, now)
        ):
            self.take(SipDatagramReceived(source, data))

    def _hear(self, signal: TunnelSignal, by: int) -> None:
        tunnel, remote, source, port, payload = signal[1:]
        event = TunnelSignalReceived(tunnel, remote, source, port, payload, by)
        if port != MEASUREMENT_PORT:
            self.take(event)
            if self.datapath.fast is not None:
                # Its format, keys and size may be others now.
                self.datapath.fast.refresh(self.paft.tunnels_by_remote.get(packed_endpoint(remote), ()))
            return
        # One answer and nothing else comes of it: no timer changes, however many hosts measure.
        for command in self.machine.handle(event, self._loop.time()):
            self._perform(command)

    def _hear_outside(self, remote: Endpoint, data: bytes, tos: int, by: int) -> None:
        """What came to a tunnel port in no tunnel; SIP is heard at the further ones, at the first it has its own."""
        if is_binding_probe(data):
            self.take(BindingProbeReceived(remote, data, by, tos))
        elif by:
            self.take(SipDatagramReceived(remote, data, by))

    def count(self) -> None:
        """Bring the counters of flows and tunnels up to date."""
        if (fast := self.datapath.fast) is not None:
            fast.count_tunnels(self.paft.tunnels.values())
            fast.count_flows()

    def _perform(self, command: AnchorCommand) -> None:
        match command:
            case SendTunnelSignal(remote, destination, port, payload, by):
                self.plane.send_signal(remote, destination, port, payload, by)
            case SendBindingAnswer(remote, data, by, tos, has_checksum):
                self.plane.send_as_is(remote, data, by, tos, has_checksum=has_checksum)
            case SendSip(destination, data, by):
                if by:
                    self.plane.send_as_is(destination, data, by)
                elif (signalling := self._signalling.get(destination.address.version)) is not None:
                    signalling.send_to(data, destination)
            case LeaseGranted(identity, address, is_inherited):
                if is_inherited:
                    self._loop.run_in_executor(None, _forget_connections, address)
                if self._leases.keep(identity, address):
                    self._loop.call_soon(self._leases.write)
                self.forwards.grant(identity, address)
            case LeaseEnded(identity, address, _):
                self.forwarder.forget_owner(address)
                if self.datapath.fast is not None:
                    self.datapath.fast.forget_owner(address)
                self.forwards.end(identity)
            case Announce(level, text):
                log.log(LEVELS[level], "%s", text)
            case Stopped():
                self._stopped.set()

    def counters(self) -> dict[str, int]:
        """What was dropped, refused or ignored, by reason."""
        counted: dict[str, Any] = {
            **self.forwarder.counters.as_dict(),
            **self.plane.counters(),
            **(self.datapath.fast.as_counters() if self.datapath.fast is not None else {}),
            **self.paft.counters.as_dict(),
            **self.machine.counters,
            "rules_repaired": self._repairs.done,
            "portal_checks_refused": self._portal_answers.refused,
        }
        return counted
