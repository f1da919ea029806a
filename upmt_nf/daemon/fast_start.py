"""The fast plane of each role put together: programs loaded and attached, where our ends of the tunnels are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from socket import if_nametoindex
from typing import TYPE_CHECKING

from upmt_nf.daemon.fast_plane import FastPlane, Near
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.linux.fast_programs import FastPrograms
from upmt_nf.linux.libbpf import Hook
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import Endpoint, FlowBytes
from upmt_nf.model.identity import DEFAULT_APPLICATION_ID, ApplicationId
from upmt_nf.model.names import MAX_NETWORKS, VIRTUAL_INTERFACE, outer_mark

if TYPE_CHECKING:
    from upmt_nf.daemon.anchor_daemon import AnchorDaemon
    from upmt_nf.daemon.host_daemon import HostDaemon

_TUNNELS_EACH, _MOST_TUNNELS = 3, 1 << 17
"""Room for the tunnels of an anchor's associations, and for those that are just being replaced."""


def host_fast_plane(loop: asyncio.AbstractEventLoop, daemon: HostDaemon) -> FastPlane:
    """The mobile host's. Raises FacilityError."""

    def near(tunnel: Tunnel) -> Near | None:
        place, local = daemon.networks.place_of(tunnel.network), daemon.plane.local_of(tunnel.network)
        return None if place is None or local is None else Near(local, place[0], outer_mark(place[1]))

    flows = daemon.config.mobile_host.max_flows
    programs = FastPrograms(daemon.kernel.journal, "host", flows=flows, tunnels=4 * MAX_NETWORKS)
    configured = len(daemon.config.application) + DEFAULT_APPLICATION_ID

    def adopted_as(number: int) -> ApplicationId:
        # What was named at run time is not known any more, and its number may be another's soon.
        return ApplicationId(number) if 0 < number <= configured else DEFAULT_APPLICATION_ID

    return _attached(loop, programs, daemon.paft, near, adopted_as)


def anchor_fast_plane(loop: asyncio.AbstractEventLoop, daemon: AnchorDaemon) -> FastPlane:
    """The anchor's. Raises FacilityError."""
    config = daemon.config
    here = Near(Endpoint(config.address, config.tunnel_port), if_nametoindex(config.interface), 0)
    tunnels = min(_TUNNELS_EACH * config.max_associations, _MOST_TUNNELS)
    programs = FastPrograms(daemon.kernel.journal, "anchor", flows=config.max_flows, tunnels=tunnels)
    plane = _attached(loop, programs, daemon.paft, lambda _: here, ApplicationId, daemon.forwarder.permits)
    plane.attach(config.interface)
    return plane


def _attached(
    loop: asyncio.AbstractEventLoop,
    programs: FastPrograms,
    paft: Paft,
    near: Callable[[Tunnel], Near | None],
    adopted_as: Callable[[int], ApplicationId],
    permits: Callable[[FlowBytes], bool] | None = None,
) -> FastPlane:
    try:
        programs.attach(VIRTUAL_INTERFACE, Hook.EGRESS)
    except UpmtError:
        programs.close()
        raise
    inner = if_nametoindex(VIRTUAL_INTERFACE)
    return FastPlane(loop, programs, paft, near, inner, adopted_as=adopted_as, permits=permits)
