"""What the mobile host's usual association means to the kernel and the planes: address, forwarder, rules, routes."""

from __future__ import annotations

from secrets import randbelow
from typing import TYPE_CHECKING

from upmt_nf.datapath.copies import RUNS
from upmt_nf.datapath.host_forwarder import HostForwarder
from upmt_nf.model.flow import Endpoint, IPAddress

if TYPE_CHECKING:
    from upmt_nf.daemon.host_daemon import HostDaemon


class UsualAssociation:
    """The one whose virtual address applications see."""

    def __init__(self, daemon: HostDaemon) -> None:
        self.forwarder: HostForwarder | None = None
        self._daemon = daemon
        self._signalling_port = daemon.config.anchor.signalling_port

    def configure(self, address: IPAddress) -> None:
        """Address before routes: a route may name it as source. Both before the first packet can come.

        An address before it goes last: without its route, which goes with it, packets would leave natively.
        """
        forwarder = HostForwarder(
            self._daemon.paft,
            address,
            self._daemon.kernel.anchor.address,
            self._daemon.applications.classify,
            self._signalling_port,
            classify_incoming=self._daemon.applications.classify_incoming,
            stray=self._daemon.adopt_stray,
            refusing=self._daemon.applications.refusing,
            run=randbelow(RUNS),
        )
        for tunnel in self._daemon.paft.tunnels.values():
            forwarder.use_tunnel(tunnel.network, tunnel)
        self._use(forwarder)
        before = self._daemon.networks.virtual_address
        self._daemon.kernel.interface.set_addresses((address,) if before is None else (before, address))
        self._daemon.networks.virtual_address = address
        self._daemon.networks.apply_routing()
        if self._daemon.applications.is_any_native:
            self._daemon.update_rules()
        if before not in (None, address):
            self._daemon.kernel.interface.set_addresses((address,))

    def _use(self, forwarder: HostForwarder | None) -> None:
        self.forwarder = forwarder
        self._daemon.plane.use(forwarder)
        if self._daemon.admission is not None:
            self._daemon.admission.use(forwarder)

    def use_anchor(self, tunnels: Endpoint, signalling: Endpoint) -> None:
        """Rules and routes for the new anchor are there before those for the old one go."""
        self._daemon.sockets.use_anchor(tunnels)
        self._daemon.networks.use_anchor()
        self._use(None)
        self._daemon.kernel.anchor, self._signalling_port = tunnels, signalling.port
        self._daemon.networks.apply_routing()
        self._daemon.update_rules()

    def end_adoption(self) -> None:
        """No association came back in time: without one nothing may go by the virtual interface."""
        if self.forwarder is None and self._daemon.networks.virtual_address is not None:
            self.release()

    def release(self) -> None:
        """No virtual address from now on."""
        self._daemon.networks.virtual_address = None
        self._daemon.networks.apply_routing()
        self._daemon.kernel.interface.set_addresses(())
        self._use(None)
