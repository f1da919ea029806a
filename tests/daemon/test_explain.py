"""Why a network was chosen and what would change it, from the states alone."""

from upmt_nf.classify.facts import Ancestor, ProcessFacts
from upmt_nf.classify.reasons import Mechanism, mechanism_of
from upmt_nf.classify.rules import ApplicationRule, parse_destination
from upmt_nf.daemon.explain import network_verdicts, process_report, what_would_change
from upmt_nf.mobility.host_status import NetworkStatus
from upmt_nf.model.identity import ApplicationId, ApplicationName, NetworkName

WIFI, LTE, SAT = NetworkName("wifi"), NetworkName("lte"), NetworkName("sat")


def networks(**states: str) -> dict[NetworkName, NetworkStatus]:
    return {
        NetworkName(name): NetworkStatus(
            NetworkName(name), index, None, None, None, state, f"{name} reason", None, None, None, 0.0, 1472
        )
        for index, (name, state) in enumerate(states.items(), start=1)
    }


def reasons(policy: tuple[str, ...], current: NetworkName | None, **states: str) -> dict[str, str]:
    return {row["name"]: row["why"] for row in network_verdicts(policy, current, networks(**states), 30)}


def test_the_first_of_the_policy_that_is_up_is_the_one() -> None:
    assert reasons(("wifi", "any"), WIFI, wifi="up", lte="up") == {
        "wifi": "first of the policy, and it is up",
        "lte": "comes after wifi",
    }


def test_what_is_better_but_down_says_why() -> None:
    assert reasons(("wifi", "lte"), LTE, wifi="dead", lte="up", sat="up") == {
        "wifi": "it is dead: wifi reason",
        "lte": "the first of the policy that could be used",
        "sat": "the policy does not name it",
    }


def test_what_came_back_a_moment_ago_is_waited_for() -> None:
    assert "not for 30 s yet" in reasons(("wifi", "lte"), LTE, wifi="up", lte="up")["wifi"]


def test_a_flow_moved_alone_is_where_no_policy_put_it() -> None:
    assert reasons(("wifi",), SAT, wifi="up", sat="up")["sat"] == "it was moved here alone"


def test_without_a_network_every_reason_is_a_state() -> None:
    assert reasons(("wifi",), None, wifi="down", lte="up") == {
        "wifi": "it is down: wifi reason",
        "lte": "the policy does not name it",
    }


def test_what_would_change_it_are_commands_and_events() -> None:
    rows = network_verdicts(("wifi", "lte"), LTE, networks(wifi="dead", lte="up", sat="up"), 30)
    assert what_would_change(ApplicationName("call"), LTE, rows, None) == [
        "upmt assign --app call --to sat,...",
        "wifi coming up",
    ]
    rows = network_verdicts(("any",), WIFI, networks(wifi="up", lte="up"), 30)
    assert what_would_change(ApplicationName("default"), WIFI, rows, "udp:1>2") == [
        "upmt handover 'udp:1>2' --to lte",
        "upmt handover default --to lte",
        "wifi failing: then lte",
        "upmt assign --command NAME --to NETWORK: an application of its own",
    ]


def test_what_is_locked_is_changed_by_a_release() -> None:
    assert what_would_change(ApplicationName("call"), LTE, [], None, is_locked=True) == [
        "upmt release call: its policy decides again",
        "upmt lock call --to NETWORK",
    ]


def test_a_rule_is_called_by_its_costliest_condition() -> None:
    number = ApplicationId(2)
    network, port = parse_destination("[2001:db8::]/32")
    assert mechanism_of(ApplicationRule(number, command="ssh", uid=3)) is Mechanism.PROCESS
    assert mechanism_of(ApplicationRule(number, cgroup="a", uid=3)) is Mechanism.CGROUP
    assert mechanism_of(ApplicationRule(number, gid=3, destination=network)) is Mechanism.OWNER
    rule = ApplicationRule(number, destination=network, port=port)
    assert mechanism_of(rule) is Mechanism.DESTINATION
    assert str(rule) == "destination=[2001:db8::]/32"
    assert (
        str(ApplicationRule(number, uid=3, destination=parse_destination("10.0.0.0/8")[0], port=53))
        == "uid=3 destination=10.0.0.0/8:53"
    )


def test_a_process_is_shown_with_what_rules_can_ask_for() -> None:
    facts = ProcessFacts(7, "ssh", "", ("ssh", "host"), 1000, 100, "/user.slice", (Ancestor(1),))
    shown = process_report(facts)
    assert shown is not None
    assert shown["executable"] is None
    assert shown["arguments"] == ["ssh", "host"]
    assert process_report(None) is None
