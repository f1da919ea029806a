"""The fast plane of each role put together: programs loaded and attached, where our ends of the tunnels are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from socket import if_nametoindex
from typing import TYPE_CHECKING

from upmt_nf.daemon.admission import Admission
from upmt_nf.daemon.applications import Applications
from upmt_nf.daemon.fast_plane import FastPlane, Near
from upmt_nf.datapath import fast_layout
from upmt_nf.datapath.fast_layout import NamedRow
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.linux.admission_program import AdmissionProgram
from upmt_nf.linux.fast_programs import FastPrograms
from upmt_nf.linux.libbpf import BpfMap, Hook
from upmt_nf.mobility.named_applications import MOST as MOST_NAMED
from upmt_nf.model.errors import FacilityError, UpmtError
from upmt_nf.model.flow import Endpoint, FlowBytes
from upmt_nf.model.identity import DEFAULT_APPLICATION_ID, ApplicationId, ApplicationName
from upmt_nf.model.names import MAX_NETWORKS, VIRTUAL_INTERFACE, outer_mark

if TYPE_CHECKING:
    from upmt_nf.daemon.anchor_daemon import AnchorDaemon
    from upmt_nf.daemon.host_daemon import HostDaemon

log = logging.getLogger(__name__)

_TUNNELS_EACH, _MOST_TUNNELS = 3, 1 << 20
"""Room for the tunnels of an anchor's associations, and for those that are just being replaced."""


def host_fast_plane(loop: asyncio.AbstractEventLoop, daemon: HostDaemon) -> FastPlane:
    """The mobile host's. Raises FacilityError."""

    def near(tunnel: Tunnel) -> Near | None:
        place, local = daemon.networks.place_of(tunnel.network), daemon.sockets.local_of(tunnel.network)
        routing = daemon.networks.routing_of(tunnel.network)
        if place is None or local is None or routing is None:
            return None
        return Near(local, place[0], outer_mark(place[1]), routing.next_hop(tunnel.remote.address))

    flows = daemon.config.mobile_host.max_flows
    programs = FastPrograms(daemon.kernel.journal, "host", flows=flows, tunnels=4 * MAX_NETWORKS)
    numbers: dict[int, ApplicationId] = {}
    if programs.took_over:
        networks = {"any", *(section.name for section in daemon.config.network)}
        numbers, daemon.networks_before = names_before(
            programs.maps, daemon.applications, networks, daemon.config.default_networks
        )

    def adopted_as(number: int) -> ApplicationId:
        return numbers.get(number, DEFAULT_APPLICATION_ID)

    return _attached(loop, programs, daemon.paft, near, adopted_as)


def host_admission(loop: asyncio.AbstractEventLoop, daemon: HostDaemon) -> Admission | None:
    """What lets flows in without the agent, beside the fast plane; None where that cannot be had, and the kernel's
    `lacks_admission` says why.
    """
    kernel, fast = daemon.kernel, daemon.datapath.fast
    try:
        if fast is None:
            raise FacilityError("it needs the fast datapath")
        program = AdmissionProgram(fast.programs)
    except FacilityError as reason:
        kernel.lacks_admission = str(reason)
        log.info("every first packet is the agent's: %s", reason)
        return None
    kernel.admit_by(program.name, program.fileno())
    made = Admission(loop, program, daemon.paft, daemon.applications)
    fast.tell_let_in(made.find)
    return made


def names_before(
    maps: Mapping[str, BpfMap], applications: Applications, networks: Collection[str], default: Sequence[str]
) -> tuple[dict[int, ApplicationId], dict[ApplicationName, tuple[str, ...]]]:
    """What the numbers of an earlier daemon's applications are now, and the lists of those that were named at run time.

    Those are named again, with their anchors, unless nothing of them is left: no flow, no anchor, and a list that is
    everybody's. Whoever was declared and taken back since is such a one.
    """
    numbers: dict[int, ApplicationId] = {}
    lists: dict[ApplicationName, tuple[str, ...]] = {}
    with_flows: set[int] | None = None
    for key, packed in sorted(row for part in maps["names"].items() for row in part):
        if (row := NamedRow.unpacked(packed)) is None:
            continue
        name, number = ApplicationName(row.name), fast_layout.NUMBER.unpack(key)[0]
        known = tuple(each for each in row.networks if each in networks)
        if name not in applications.by_name and not row.is_declared:
            if known in ((), tuple(default)) and row.anchor is None:
                if with_flows is None:
                    rows = (value for part in maps["flows"].items() for _, value in part)
                    with_flows = {fast_layout.FlowRow.unpacked(value).application for value in rows}
                if number not in with_flows:
                    continue
            try:
                applications.define(name)
            except UpmtError as reason:
                log.warning("an application of an earlier daemon is not known any more: %s", reason)
                continue
        if not row.is_declared and known:
            lists[name] = known
        if not row.is_declared and row.anchor is not None and applications.section_of(name) is None:
            applications.by_name[name].anchor = row.anchor
        if name in applications.by_name:
            numbers[number] = applications.by_name[name].id
    return numbers, lists


def anchor_fast_plane(loop: asyncio.AbstractEventLoop, daemon: AnchorDaemon) -> FastPlane:
    """The anchor's. Raises FacilityError."""
    config = daemon.config
    outer = if_nametoindex(config.interface)

    def near(tunnel: Tunnel) -> Near:
        return Near(Endpoint(config.address, tunnel.port or config.tunnel_port), outer, 0)

    tunnels = min(_TUNNELS_EACH * config.max_associations, _MOST_TUNNELS)
    programs = FastPrograms(
        daemon.kernel.journal,
        "anchor",
        flows=config.max_flows,
        tunnels=tunnels,
        applications=MOST_NAMED + 1,
        shortcut=config.shortcut is not False,
    )
    plane = _attached(loop, programs, daemon.paft, near, lambda _: ApplicationId(0), daemon.forwarder.permits)
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
