"""A PAFT with its mirror in pretended maps."""

from collections.abc import Callable
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

from pretend_kernel import PretendLoop, PretendMap

from upmt_nf.daemon.fast_plane import FastPlane, Near
from upmt_nf.datapath.fast_layout import (
    APPLICATION,
    CHANGE,
    COUNTS,
    END,
    EVENTS,
    FLOW,
    FLOW_KEY,
    MOST_CHANGES,
    NAMED_BYTES,
    NUMBER,
    TUNNEL,
    ApplicationRow,
    FlowRow,
    flow_key,
)
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.model.flow import UDP, Endpoint, FlowKey
from upmt_nf.model.identity import ApplicationId, TunnelId

HERE = Near(Endpoint(ip_address("192.0.2.1"), 4000), 3, 0x1001)
OWNER = ip_address("10.9.0.1")


class World:
    """A PAFT with its mirror."""

    def __init__(self, flows: int = 100_000, grace: float = 0.0) -> None:
        self.maps = {
            "flows": PretendMap(FLOW_KEY.size, FLOW.size, flows),
            "applications": PretendMap(4, APPLICATION.size, 4096),
            "names": PretendMap(4, NAMED_BYTES),
            "tunnels": PretendMap(4, TUNNEL.size),
            "ends": PretendMap(END.size, 4),
            "tunnel_counts": PretendMap(4, 2 * COUNTS.size, 8),
            "events": PretendMap(4, 16),
        }
        for number in range(len(EVENTS)):
            self.maps["events"].rows[NUMBER.pack(number)] = bytes(16)
        self.paft = Paft()
        self.loop = PretendLoop()
        self.slept = 0.0
        self.grace = grace
        self.fast = self.begin(took_over=False)

    def begin(
        self,
        *,
        took_over: bool,
        permits: Callable[[bytes], bool] | None = None,
        adopted_as: Callable[[int], ApplicationId] = ApplicationId,
    ) -> FastPlane:
        programs: Any = SimpleNamespace(
            maps=self.maps, close=lambda: None, took_over=took_over, change_flows=self.change_flows
        )
        loop: Any = self.loop
        return FastPlane(
            loop,
            programs,
            self.paft,
            lambda _: HERE,
            4,
            grace=self.grace,
            permits=permits,
            adopted_as=adopted_as,
            slept=lambda: self.slept,
        )

    def change_flows(self, changes: bytes) -> int:
        """As the program of that name."""
        assert len(changes) <= MOST_CHANGES * CHANGE.size
        return sum(self._change(changes[at : at + CHANGE.size]) for at in range(0, len(changes), CHANGE.size))

    def _change(self, change: bytes) -> bool:
        key, fields = change[: FLOW_KEY.size], CHANGE.unpack(change)[5:]
        if (packed := self.maps["flows"].lookup(key)) is None:
            return False
        row, names = FlowRow.unpacked(packed), FlowRow._fields[3:4] if fields[9] else FlowRow._fields[:7]
        row = row._replace(**{name: fields[FlowRow._fields.index(name)] for name in names})
        if fields[8]:
            row = row._replace(last_arrival=fields[7], gap=0, late=0, first_arrival=0, last_elsewhere=0)
        return self.maps["flows"].update(key, row.packed())

    def start_again(self) -> None:
        """As after `kill -9`: the maps are as they were, all else is gone."""
        self.paft, self.loop = Paft(), PretendLoop()
        self.fast = self.begin(took_over=True)

    def pass_time(self, seconds: float) -> None:
        self.loop.now += seconds
        self.loop.tick()
        self.loop.tick()

    def add_tunnel(self, id: int) -> Tunnel:
        tunnel = Tunnel(TunnelId(id), OWNER, Endpoint(ip_address("203.0.113.1"), 1000 + id), 1400)
        self.paft.add_tunnel(tunnel)
        return tunnel

    def add_flow(self, port: int, application: int = 1, now: float = 0.0) -> FlowEntry:
        flow = FlowKey(UDP, OWNER, port, ip_address("198.51.100.1"), 53)
        entry = self.paft.insert(flow.packed(), ApplicationId(application), now)
        self.loop.turn()
        return entry

    def row(self, entry: FlowEntry) -> FlowRow:
        self.loop.turn()
        found = self.maps["flows"].lookup(flow_key(entry.key) or b"")
        assert found is not None
        return FlowRow.unpacked(found)

    def way(self, application: int) -> int:
        """The tunnel that the programs send an application by."""
        return ApplicationRow.unpacked(self.maps["applications"].rows[NUMBER.pack(application)]).tunnel

    def kernel_counts(self, entry: FlowEntry, **fields: int) -> None:
        self.maps["flows"].rows[flow_key(entry.key) or b""] = self.row(entry)._replace(**fields).packed()

    def writes(self) -> dict[str, int]:
        return {name: table.writes for name, table in self.maps.items()}
