"""Which of the application rules routing can know before a packet is sent, and what it makes of them."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from upmt_nf.config.application_sections import ApplicationSection
from upmt_nf.daemon.applications import Applications
from upmt_nf.daemon.steering import socket_marks, steering_of
from upmt_nf.model.identity import ApplicationName
from upmt_nf.model.names import MARK_NATIVE, MARK_TUNNELLED
from upmt_nf.routing.plan import Step


def section(name: str, *match: dict[str, object], **more: object) -> ApplicationSection:
    return ApplicationSection.model_validate({"name": name, "match": match, **more})


A, B = ApplicationName("a"), ApplicationName("b")
NATIVE = {"policy": "native"}
GUARDED = {"on_no_network": "hold"}


def test_by_default_nothing_is_left_alone_and_nothing_guarded() -> None:
    steering = steering_of(Applications([section("a", {"uid": 34})]))
    assert not steering.is_default_native
    assert not steering.guards
    assert not steering.marks_sockets


def test_users_and_destinations_are_known_early() -> None:
    known = Applications([section("a", {"uid": 34}, {"destination": "86.0.0.0/8:443"}, **NATIVE)])
    assert steering_of(known).steps == (
        Step(True, uid=34),
        Step(True, destination=ip_network("86.0.0.0/8"), port=443),
    )


def test_nothing_is_left_alone_behind_a_rule_that_routing_cannot_express() -> None:
    known = Applications(
        [
            section("a", {"uid": 1}, **NATIVE),
            section("b", {"gid": 5}),
            section("c", {"uid": 34}, **NATIVE),
            section("d", {"uid": 35}, **GUARDED),
        ]
    )
    assert steering_of(known).steps == (Step(True, uid=1), Step(False, uid=35, is_guarded=True))


def test_a_guarded_application_that_only_a_look_up_tells_holds_everything() -> None:
    steering = steering_of(Applications([section("a", {"command": "ssh"}, **GUARDED)]))
    assert steering.is_rest_guarded
    assert steering.guards


def test_programs_of_upmt_run_are_told_apart_by_their_sockets() -> None:
    known = Applications([section("a", **NATIVE), section("b")])
    known.add_cgroup(known.by_name[A], "upmt/1/a")
    known.add_cgroup(known.by_name[B], "upmt/1/b")
    assert socket_marks(known) == {"upmt/1/a": MARK_NATIVE, "upmt/1/b": MARK_TUNNELLED}
    assert steering_of(known).marks_sockets
    known.can_mark_sockets = False
    assert set(socket_marks(known).values()) == {0}
    assert not steering_of(known).marks_sockets


def test_an_application_without_a_network_may_be_left_alone_meanwhile() -> None:
    known = Applications([section("a", {"uid": 34}, on_no_network="native")])
    application = known.by_name[A]
    assert steering_of(known).steps == (Step(False, uid=34),)
    assert known.note_stranded({application.name})
    assert not known.note_stranded({application.name})
    assert steering_of(known).steps == (Step(True, uid=34),)
    assert "0x1fff/0x1fff" in known.netfilter_lines()[0]
    assert known.note_stranded(set())
    assert "0x1fff/0x1fff" not in known.netfilter_lines()[0].partition("-j MARK")[2]


@pytest.mark.parametrize("choice", ["hold", "reject"])
def test_a_guarded_application_is_never_left_alone(choice: str) -> None:
    known = Applications([section("a", {"uid": 34}, on_no_network=choice)], "native")
    application = known.by_name[A]
    assert not known.note_stranded({application.name})
    steering = steering_of(known)
    assert steering.guarded_marks == (application.id,)
    assert steering.is_default_native
    assert known.refusing == ({application.id} if choice == "reject" else set())


def test_first_packets_go_to_the_agent_only_where_it_must_tell_native_ones() -> None:
    known = Applications([section("a", {"command": "ssh"}), section("b", {"uid": 1})])
    assert known.netfilter_lines(4, 7002) == []
    known = Applications([section("a", {"command": "ssh"}, **NATIVE)])
    assert known.netfilter_lines(4, 7002)[-1].endswith("-j NFQUEUE --queue-num 7002")
    assert known.netfilter_lines(6) == []
