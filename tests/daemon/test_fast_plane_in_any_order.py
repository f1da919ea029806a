"""The mirror under anything that may be done to PAFT, in any order."""

import itertools
from ipaddress import ip_address

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from mirrored_paft import OWNER, World

from upmt_nf.datapath.fast_layout import (
    NUMBER,
    TUNNEL,
    flow_key,
)
from upmt_nf.model.flow import UDP, Endpoint, FlowKey
from upmt_nf.model.identity import ApplicationId, TunnelId


class Mirrored(RuleBasedStateMachine):
    """PAFT under anything that may be done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.clock = itertools.count(1)

    @rule(id=st.integers(1, 4))
    def add_tunnel(self, id: int) -> None:
        self.world.add_tunnel(id)

    @rule(id=st.integers(1, 4))
    def remove_tunnel(self, id: int) -> None:
        self.world.paft.remove_tunnel(TunnelId(id))

    @rule(id=st.integers(1, 4), port=st.integers(1, 60000))
    def move_endpoint(self, id: int, port: int) -> None:
        if (tunnel := self.world.paft.tunnels.get(TunnelId(id))) is not None:
            self.world.paft.move_endpoint(tunnel, Endpoint(ip_address("203.0.113.2"), port))

    @rule(application=st.integers(1, 3), id=st.integers(1, 4) | st.none())
    def steer(self, application: int, id: int | None) -> None:
        if id is None or TunnelId(id) in self.world.paft.tunnels:
            self.world.paft.steer(ApplicationId(application), None if id is None else TunnelId(id))

    @rule(port=st.integers(1, 5), application=st.integers(1, 3))
    def insert(self, port: int, application: int) -> None:
        self.world.add_flow(port, application, float(next(self.clock)))

    @rule(
        port=st.integers(1, 5), id=st.integers(1, 4), how=st.sampled_from(("learn", "move", "pin", "unpin"))
    )
    def place(self, port: int, id: int, how: str) -> None:
        paft, tunnel, now = (
            self.world.paft,
            self.world.paft.tunnels.get(TunnelId(id)),
            float(next(self.clock)),
        )
        key = FlowKey(UDP, OWNER, port, ip_address("198.51.100.1"), 53).packed()
        if tunnel is None:
            return
        if how in ("learn", "move"):
            getattr(paft, how)(key, tunnel, now)
        elif key in paft.flows:
            paft.pin(key, tunnel.id) if how == "pin" else paft.unpin(key)

    @rule(application=st.integers(11, 12), id=st.integers(1, 4), ports=st.sets(st.integers(1, 5)))
    def name(self, application: int, id: int, ports: set[int]) -> None:
        """As the anchor is told: what flows an application has, and where it goes."""
        paft, number, now = self.world.paft, ApplicationId(application), float(next(self.clock))
        if (tunnel := paft.tunnels.get(TunnelId(id))) is not None:
            paft.move_application(number, tunnel, now)
            for port in ports:
                paft.name(FlowKey(UDP, OWNER, port, ip_address("198.51.100.1"), 53).packed(), number, now)

    @rule(application=st.integers(11, 12))
    def forget_name(self, application: int) -> None:
        paft, number = self.world.paft, ApplicationId(application)
        if number in paft.headings and not paft.membership.number_of(number):
            paft.forget_application(number)

    @rule(port=st.integers(1, 5))
    def forget(self, port: int) -> None:
        self.world.paft.forget(FlowKey(UDP, OWNER, port, ip_address("198.51.100.1"), 53).packed())

    @invariant()
    def the_maps_say_what_paft_says(self) -> None:
        # New flows are written when the loop turns.
        self.world.loop.turn()
        paft, maps = self.world.paft, self.world.maps
        assert set(maps["flows"].rows) == {flow_key(key) for key in paft.flows}
        for entry in paft.flows.values():
            row = self.world.row(entry)
            assert row.application == entry.application_id
            tunnel = paft.tunnel_of(entry)
            assert self.world.fast._resolved(row) == (tunnel.id if tunnel is not None else 0)
        for application, tunnel in paft.applications.items():
            assert self.world.way(application) == (tunnel.id if tunnel else 0)
        assert set(maps["tunnels"].rows) == {NUMBER.pack(id) for id in paft.tunnels}
        for id in paft.tunnels:
            assert TUNNEL.unpack(maps["tunnels"].rows[NUMBER.pack(id)])[3] == (
                paft.tunnels[id].remote.port.to_bytes(2, "big")
            )
        ends = {tunnel.remote: tunnel.id for tunnel in paft.tunnels.values()}
        assert len(maps["ends"].rows) == len(ends)


TestMirrored = Mirrored.TestCase
TestMirrored.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
