"""Captive portals: asked about only while there is no tunnel, less and less often, and said as such."""

from __future__ import annotations

from itertools import pairwise

from mobility_terminal import NET0
from mobility_world import World

from upmt_nf.mobility.host_events import PortalChecked
from upmt_nf.mobility.portal_checks import (
    FIRST_CHECK,
    LONGEST_PAUSE,
    SHORTEST_PAUSE,
    Finding,
    Portal,
    PortalChecks,
)
from upmt_nf.model.identity import NetworkName

WIFI = NetworkName("wifi")
LOGIN = Portal(Finding.PORTAL, "http://login.hotel.example/")


def follow(checks: PortalChecks, now: float, *, is_usable: bool = False, is_there: bool = True) -> None:
    checks.follow(WIFI, is_there=is_there, is_usable=is_usable, now=now)


def test_a_network_without_a_tunnel_is_asked_after_a_while_and_then_less_and_less_often() -> None:
    checks, now = PortalChecks(is_wanted=True), 0.0
    times: list[float] = []
    follow(checks, now)
    for _ in range(8):
        due = checks.next_timeout()
        assert due is not None
        now = due
        assert checks.handle_timeout(now) == [WIFI]
        assert checks.next_timeout() is None, "one at a time"
        follow(checks, now)
        assert checks.conclude(WIFI, LOGIN, now) is (len(times) == 0)
        times.append(now)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == FIRST_CHECK
    assert pauses[0] == SHORTEST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE
    assert checks.found(WIFI) == LOGIN


def test_one_that_works_or_is_gone_is_not_asked_and_nothing_is_said_of_it() -> None:
    checks = PortalChecks(is_wanted=True)
    follow(checks, 0.0)
    checks.handle_timeout(FIRST_CHECK)
    follow(checks, 4.0, is_usable=True)
    assert not checks.conclude(WIFI, LOGIN, 4.5), "an answer that comes too late"
    assert checks.found(WIFI) is None
    assert checks.next_timeout() is None
    follow(checks, 5.0)
    follow(checks, 6.0, is_there=False)
    assert checks.next_timeout() is None


def test_nobody_is_asked_where_nobody_was_named() -> None:
    checks = PortalChecks(is_wanted=False)
    follow(checks, 0.0)
    assert checks.next_timeout() is None


def test_a_network_behind_a_portal_stays_out_says_so_and_joins_when_it_opens() -> None:
    world = World(networks=1, checks_portals=True)
    link = world.host.links[NET0]
    world.host.appear(NET0)
    link.is_black_hole = True
    world.until(lambda: NET0 in world.host.portal_checks, 5)
    world.host.take(PortalChecked(NET0, LOGIN))
    status = world.host.machine.networks[NET0]
    assert status.portal == LOGIN
    assert status.state == "setup"
    link.is_black_hole = False
    world.until(lambda: world.host.network_state(NET0) == "up", 60)
    assert world.host.machine.networks[NET0].portal is None
