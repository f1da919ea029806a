"""What goes by the tunnels and what does not, as `ip rule` says it: native, guarded, the other address family."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from upmt_nf.model.errors import UsageError
from upmt_nf.model.names import MAX_STEPS
from upmt_nf.routing.plan import Steering, Step, host_routing

ANCHOR, VIPA = ip_address("45.0.0.1"), ip_address("1.2.3.4")


def rules(steering: Steering, *, is_up: bool = True, both: bool = False) -> list[str]:
    """The rules from the application's on, without what all have."""
    routing = host_routing(VIPA if is_up else None, [], ANCHOR, steering, has_other_family=both)
    said = (str(rule).removesuffix(" protocol 117") for rule in routing.rules)
    always = (
        "pref 4620",
        "pref 4640",
        "pref 4670",
        "pref 4710",
        "-6 pref 4620",
        "-6 pref 4670",
        "-6 pref 4710",
    )
    return [rule for rule in said if not rule.startswith(always)]


def test_a_native_users_packets_never_see_the_virtual_address() -> None:
    assert rules(Steering(steps=(Step(True, uid=34),))) == [
        "pref 4680 from all lookup main suppress_prefixlength 0",
        "pref 4682 from all iif lo uidrange 34-34 goto 4710",
        "pref 4700 from all iif lo lookup 7000",
    ]


def test_the_order_of_the_application_rules_is_that_of_the_priorities() -> None:
    steps = (
        Step(False, destination=ip_network("86.0.0.0/8"), port=443),
        Step(True, uid=34),
        Step(True, uid=35),
        Step(False, uid=36),
        Step(True, destination=ip_network("9.0.0.0/8")),
        Step(False, uid=37),
    )
    assert rules(Steering(steps=steps))[1:-1] == [
        "pref 4682 from all to 86.0.0.0/8 iif lo ipproto tcp dport 443 lookup 7000",
        "pref 4682 from all to 86.0.0.0/8 iif lo ipproto udp dport 443 lookup 7000",
        "pref 4683 from all iif lo uidrange 34-34 goto 4710",
        "pref 4683 from all iif lo uidrange 35-35 goto 4710",
        "pref 4684 from all iif lo uidrange 36-36 lookup 7000",
        "pref 4685 from all to 9.0.0.0/8 iif lo goto 4710",
    ]


def test_where_the_rest_is_native_only_the_named_go_by_the_tunnels() -> None:
    steering = Steering(
        is_default_native=True,
        tunnelled_marks=(2,),
        marks_sockets=True,
        steps=(Step(False, uid=34), Step(True, uid=1)),
    )
    assert rules(steering) == [
        "pref 4680 from all lookup main suppress_prefixlength 0",
        "pref 4681 from all fwmark 0x1ffe/0x1fff lookup 7000",
        "pref 4682 from all iif lo uidrange 34-34 lookup 7000",
        "pref 4700 from all fwmark 0x2/0x1fff lookup 7000",
    ]
    assert not rules(steering, is_up=False)


def test_a_guarded_application_has_no_other_way_with_or_without_a_virtual_address() -> None:
    steering = Steering(guarded_marks=(3,), steps=(Step(False, uid=34, is_guarded=True), Step(False, uid=35)))
    guards = [
        "pref 4644 from all fwmark 0x3/0x1fff lookup main suppress_prefixlength 0",
        "pref 4648 from all fwmark 0x3/0x1fff lookup 7000",
        "pref 4680 from all lookup main suppress_prefixlength 0",
    ]
    held = "pref 4682 from all iif lo uidrange 34-34 lookup 7000"
    assert rules(steering) == [*guards, "pref 4700 from all iif lo lookup 7000"]
    assert rules(steering, is_up=False) == [*guards, held]
    routes = host_routing(None, [], ANCHOR, steering).routes
    assert [str(route) for route in routes] == ["unreachable default metric 65535 table 7000 proto 117"]


def test_a_guarded_rest_is_held_before_there_is_a_virtual_address() -> None:
    steering = Steering(is_rest_guarded=True, steps=(Step(True, uid=34),))
    assert rules(steering, is_up=False)[1:] == [
        "pref 4682 from all iif lo uidrange 34-34 goto 4710",
        "pref 4700 from all iif lo lookup 7000",
    ]


def test_the_other_family_has_the_same_rules_and_nothing_but_unreachable_behind_them() -> None:
    steering = Steering(
        guarded_marks=(3,), steps=(Step(True, uid=34), Step(True, destination=ip_network("9.0.0.0/8")))
    )
    routing = host_routing(VIPA, [], ANCHOR, steering, has_other_family=True)
    assert [str(route) for route in routing.routes if route.destination.version == 6] == [
        "-6 unreachable default metric 65535 table 7000 proto 117"
    ]
    assert [rule for rule in rules(steering, both=True) if rule.startswith("-6")] == [
        "-6 pref 4644 from all fwmark 0x3/0x1fff lookup main suppress_prefixlength 0",
        "-6 pref 4648 from all fwmark 0x3/0x1fff lookup 7000",
        "-6 pref 4680 from all lookup main suppress_prefixlength 0",
        "-6 pref 4682 from all iif lo uidrange 34-34 goto 4710",
        "-6 pref 4700 from all iif lo lookup 7000",
    ]


def test_too_many_changes_of_way_are_refused_and_not_cut() -> None:
    steps = tuple(Step(uid % 2 == 0, uid=uid) for uid in range(MAX_STEPS + 3))
    with pytest.raises(UsageError, match="more than 16 times"):
        host_routing(VIPA, [], ANCHOR, Steering(steps=steps))
