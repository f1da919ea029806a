"""`[[policy]]`: what is understood, and what is refused with file, line and reason."""

from __future__ import annotations

import pytest

from upmt_nf.config.mobile_host import MobileHostConfig, read_mobile_host_config
from upmt_nf.model.errors import ConfigError
from upmt_nf.model.identity import ApplicationName
from upmt_nf.policy.budget import Budget, Period
from upmt_nf.policy.civil_time import CivilTime
from upmt_nf.policy.network import Protection
from upmt_nf.policy.policy import Kind, Policy
from upmt_nf.policy.profiles import BARE_KINDS, PROFILES

HEAD = """\
[mobile_host]
identity = "boat7@fleet.example"
secret_file = "/etc/upmt/secret"
[anchor]
address = "203.0.113.10"
[[network]]
name = "wifi"
interface = "wlan0"
kind = "wifi"
trusted = false
[[network]]
name = "lte"
interface = "wwan0"
kind = "cellular"
cost = 4.0
metered = true
protection = "sealed"
throughput = "20 Mbit/s"
"""
LINES = HEAD.count("\n")


def read(text: str) -> MobileHostConfig:
    return read_mobile_host_config(HEAD + text, "mh.toml")


def policy(text: str, name: str = "p") -> Policy:
    return read(text).book().policies[name]


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        read(text)
    return str(raised.value)


def test_what_only_policies_know_of_a_network_may_change_and_its_sockets_may_not() -> None:
    before, wifi = read("").network
    soft = {"cost": 9.0, "trusted": False, "kind": "wired", "throughput": 1e6, "budgets": ()}
    assert before.model_copy(update=soft).fixed == before.fixed
    assert before.model_copy(update=soft).facts() != before.facts()
    for fixed in (
        {"metered": True},
        {"protection": "sealed"},
        {"interface": "x0"},
        {"tunnel_port": 7},
        {"name": "x"},
    ):
        assert before.model_copy(update=fixed).fixed != before.fixed
    assert wifi.fixed != before.fixed


def test_a_policy_extends_a_profile_and_says_what_is_different() -> None:
    found = policy(
        """
[[policy]]
name = "p"
extends = "voice"
networks = ["lte", "any"]
leave = { delay = "180 ms", loss = "2.5 %" }
enter = { delay = "0.1 s" }
bad_for = "1500 ms"
hold = "1 min"
protection_untrusted = "sealed"
budgets = ["200 MB/day on lte", "5 cost/month"]
"""
    )
    assert found.kind is Kind.PERFORMANCE_PRIORITY_LIST
    assert found.networks == ("lte", "wifi")
    assert found.leave.loss == pytest.approx(0.025)
    assert (found.leave.delay, found.leave.jitter) == (0.18, 0.05)
    assert (found.enter.delay, found.enter.loss) == (0.1, 0.01)
    assert (found.bad_for, found.hold, found.good_for) == (1.5, 60, 30)
    assert (found.protection, found.protection_untrusted) == (Protection.PLAIN, Protection.SEALED)
    assert found.budgets == (
        Budget(200e6, Period.DAY, found.networks[0]),
        Budget(5, Period.MONTH, None, True),
    )


@pytest.mark.parametrize("name", [*PROFILES, *BARE_KINDS])
def test_every_ready_made_policy_may_be_named_by_an_application(name: str) -> None:
    config = read(f'[[application]]\nname = "a"\npolicy = "{name}"\n')
    found = config.policies()[ApplicationName("a")]
    assert found.networks == (() if name == "Block" else ("wifi", "lte"))


def test_an_application_may_narrow_its_policy_to_some_networks() -> None:
    config = read('[[application]]\nname = "a"\npolicy = "voice"\nnetworks = "lte"\n')
    assert config.policies()[ApplicationName("a")].networks == ("lte",)
    assert "b" not in read('[[application]]\nname = "b"\nnetworks = "lte"\n').policies()


def test_at_certain_hours_something_else_holds() -> None:
    found = policy(
        """
[[policy]]
name = "p"
kind = "PriorityList"
networks = ["wifi", "lte"]
[[policy.when]]
hours = "fri-sat 22:00-06:00"
networks = "lte"
"""
    )
    friday, saturday = 4 + 4, 4 + 5
    assert found.at(CivilTime(friday, 21 * 3600)).networks == ("wifi", "lte")
    assert found.at(CivilTime(friday, 22 * 3600)).networks == ("lte",)
    assert found.at(CivilTime(saturday, 5 * 3600)).networks == ("lte",)
    assert found.at(CivilTime(saturday + 1, 5 * 3600)).networks == ("lte",)
    assert found.at(CivilTime(saturday + 1, 23 * 3600)).networks == ("wifi", "lte")


def test_policies_may_extend_each_other_in_any_order() -> None:
    text = """
[[policy]]
name = "p"
extends = "q"
hold = "5 s"
[[policy]]
name = "q"
extends = "gaming"
networks = "lte"
"""
    assert (policy(text).networks, policy(text).hold, policy(text).leave.delay) == (("lte",), 5, 0.08)


BAD = [
    (
        'kind = "PriorityList"\nnetworks = ["wifi", "5g"]',
        3,
        "networks: there is no network '5g'; there are wifi, lte",
    ),
    ('extends = "voise"', 2, "there is no policy 'voise'"),
    ('kind = "FastestFirst"', 2, "kind: "),
    ('extends = "voice"\nleave = { delay = 150 }', 3, "leave.delay: a time needs a unit: 150"),
    ('extends = "voice"\nleave = { delay = "150" }', 3, "leave.delay: a time needs a unit"),
    ('extends = "voice"\nleave = { delay = "150 MB" }', 3, "'MB' is no unit of a time: us, ms, s"),
    ('extends = "voice"\nleave = { loss = "3" }', 3, "leave.loss: a loss needs a unit"),
    ('extends = "voice"\nleave = { loss = "130 %" }', 3, "no more than 100 %"),
    ('extends = "voice"\nleave = { loss = "100 %" }', 3, "no network is ever worse"),
    ('extends = "voice"\nleave = { delay = "0 ms" }', 3, "more than nothing"),
    ('extends = "voice"\nleave = { delay = "-5 ms" }', 3, "is not a time"),
    ('extends = "voice"\nleave = { delay = "150 ms" }', 3, "delay: enter must be stricter than leave"),
    ('extends = "voice"\nenter = { delay = "300 ms" }', 3, "enter must be stricter"),
    ('extends = "streaming"\nenter = { throughput = "1 Mbit/s" }', 3, "enter must be stricter"),
    ('extends = "voice"\nleave = { voice_score = 4.9 }', 3, "less than or equal to 4.42"),
    ('extends = "voice"\nleave = { colour = "1 s" }', 3, "no such key"),
    ('extends = "voice"\nbad_for = 2', 3, "bad_for: a time needs a unit: 2"),
    (
        'extends = "voice"\nnetworks = "lte"\nredundant = true',
        4,
        "redundant: needs two networks, and lte is one",
    ),
    ('kind = "Block"\nredundant = true', 3, "means nothing where everything is blocked"),
    ('extends = "voice"\nreorder = 20', 3, "reorder: a time needs a unit"),
    ('extends = "voice"\nreorder = "2 s"', 3, "reorder: no packet waits longer than 500 ms for another"),
    ('extends = "voice"\nredundant = 2', 3, "redundant: "),
    ('extends = "voice"\nforgive = "10 s"', 3, "forgive is shorter than penalty_longest"),
    ('extends = "voice"\ngood_for = "1 h"', 3, "penalty_longest is shorter than good_for"),
    ('extends = "voice"\nbudgets = ["200/day on lte"]', 3, "a budget needs a unit"),
    ('extends = "voice"\nbudgets = ["200 Mbit/day"]', 3, "'Mbit' is no unit of a budget"),
    ('extends = "voice"\nbudgets = ["200 MB/week"]', 3, "'week' is no period"),
    ('extends = "voice"\nbudgets = "200 MB/day on 5g"', 3, "there is no network '5g'"),
    ('extends = "voice"\nnetworks = "wifi"\nbudgets = "1 GB/day on lte"', 4, "the policy never uses lte"),
    (
        'extends = "voice"\nbudgets = ["1 GB/day on lte", "2 GB/day on lte"]',
        3,
        "another one of the same kind",
    ),
    ('extends = "voice"\nbudgets = "5 MB/day on lte"', 3, "lte can use that up in less than four seconds"),
    (
        'extends = "voice"\nnetworks = "wifi"\nprotection = "sealed"',
        4,
        "no network can ever satisfy it: wifi: its prot",
    ),
    ('extends = "voice"\nnetworks = "wifi"\nprotection_untrusted = "cookie"', 4, "cookie is required"),
    ('extends = "voice"\nnetworks = "lte"\ncost_limit = 1', 4, "lte: costs 4, more than 1"),
    ('kind = "OnlyFree"\nnetworks = "lte"', 3, "lte: not free"),
    ('kind = "Static"\nnetworks = ["wifi", "lte"]', 3, "Static is for one network, here are 2"),
    ('kind = "Static"\nnetworks = "lte"\nhold = "5 s"', 4, "Static never moves for that"),
    ('kind = "Block"\nnetworks = "lte"', 3, "means nothing where everything is blocked"),
    ('kind = "PriorityList"\nweights = { cost = 1 }', 3, "only BestPerformance has a score"),
    ('kind = "BestPerformance"\nweights = { cost = 0 }', 3, "all are 0"),
    ('kind = "BestPerformance"\nweights = { cost = -1 }', 3, "greater than or equal to 0"),
    ('kind = "Any"\nmargin = 0.1', 3, "have a score"),
    ('kind = "Any"\nextends = "voice"', 2, "extends says the kind already"),
    ("", 1, "kind or extends is missing"),
    ('extends = "voice"\nnetworks = ["lte", "wifi", "lte"]', 3, "networks: 'lte' is there twice"),
    (
        'extends = "voice"\nbudgets = ["1 GB/day on lte", "800 MB/month on lte"]',
        3,
        "1 GB/day on lte is more than 800 MB/month on lte",
    ),
    (
        'extends = "voice"\nnetworks = "wifi"\nbudgets = "5 cost/day"',
        4,
        "none of the policy's networks costs",
    ),
    ('kind = "BestPerformance"\nmargin = 1.5', 3, "no score is better by so much"),
    ('kind = "Static"\nnetworks = "lte"\nforgive = "2 h"', 4, "Static never moves for that"),
    ('extends = "voice"\n[[policy.when]]\nhours = "8:00-9:00"', 4, "says nothing of what holds"),
    ('extends = "voice"\n[policy.when]\nhours = "8:00-9:00"', 3, "when: is a list: [...], or one [[table]]"),
    ('extends = "p"', 2, "p extends p: a circle"),
    (
        'extends = "bulk"\nnetworks = "lte"\nleave = {throughput = "1 Gbit/s"}\nenter = {throughput="2 Gbit/s"}',
        4,
        "fastest",
    ),
    ('extends = "bulk"\n[[policy.when]]\nhours = "25:00-26:00"', 4, "there is no 25:00"),
    ('extends = "bulk"\n[[policy.when]]\nhours = "8-9"', 4, "is not hours such as"),
    ('extends = "bulk"\n[[policy.when]]\nhours = "mon-fry 8:00-9:00"', 4, "'fry' is no day"),
    ('extends = "bulk"\n[[policy.when]]\nhours = "8:00-8:00"', 4, "is no time at all"),
    (
        'extends = "bulk"\n[[policy.when]]\nhours = "8:00-9:00"\n[[policy.when]]\nhours = "08:00-09:00"',
        6,
        "there already",
    ),
]


@pytest.mark.parametrize(("text", "line", "reason"), BAD)
def test_what_makes_no_sense_is_refused_with_its_line(text: str, line: int, reason: str) -> None:
    said = refusal(f'[[policy]]\nname = "p"\n{text}\n')
    assert reason in said
    assert any(
        one.startswith(f"mh.toml:{LINES + 1 + line}: ") and reason in one for one in said.splitlines()
    ), said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[[application]]\nname = "a"\npolicy = "nope"\n', "there is no policy 'nope'; there are"),
        ('[[application]]\nname = "a"\npolicy = "Block"\nnetworks = "lte"\n', "the policy Block allows none"),
        (
            '[[application]]\nname = "a"\npolicy = "backup"\nnetworks = "lte"\n',
            "backup: no network can ever satisfy it: lte: not free",
        ),
        *(
            (f'[[application]]\nname = "a"\n[[application.flow]]\n{text}\n', reason)
            for text, reason in (
                ("port = 5004\npolicy = 'nope'", "policy: there is no policy 'nope'; there are"),
                ("port = 5004\nnetworks = '5g'", "networks: there is no network '5g'"),
                (
                    "port = 5004\npolicy = 'backup'\nnetworks = 'lte'",
                    "backup: no network can ever satisfy it: lte: not free",
                ),
                (
                    "policy = 'voice'",
                    "a flow needs at least one condition: port, destination, dscp or protocol",
                ),
                ("port = 5004\npolicy = 'native'", "a part of an application cannot be native"),
                ("port = 70000\npolicy = 'voice'", "port: "),
                ("port = 7\nprotocol = 'icmp'", "icmp has no ports"),
                ("command = 'x'\nport = 7", "command: "),
                (
                    "port = 7\n[[application.flow]]\nport = 7\npolicy = 'voice'",
                    "the same conditions before it",
                ),
                ("port = 7\nname = 'x'\n[[application.flow]]\nport = 8\nname = 'x'", "'a/x' is there twice"),
            )
        ),
        ('[[application]]\nname = "a"\npolicy = "Static"\n', "Static is of one network: leave policy out"),
        (
            '[[network]]\nname = "x"\ninterface = "x0"\nthroughput = "500 kbit/s"\n'
            '[[application]]\nname = "a"\npolicy = "streaming"\nnetworks = "x"\n',
            "streaming: leave: throughput 3 Mbit/s: the fastest network has 500 kbit/s",
        ),
        ('[signalling]\nnetworks = ["lte", "5g"]\n', "signalling.networks: there is no network '5g'"),
        ("[signalling]\nnetworks = []\n", "signalling.networks: "),
        ('[signalling]\npolicy = "voice"\n', "signalling.policy: "),
        ('[[policy]]\nname = "voice"\nextends = "bulk"\n', "ready-made policy: extend it by another name"),
        (
            '[[policy]]\nname = "p"\nextends = "bulk"\n[[policy]]\nname = "p"\nextends = "bulk"\n',
            "is there twice",
        ),
        (
            '[[network]]\nname = "x"\ninterface = "x0"\nbudgets = "1 GB/day on lte"\n',
            "is a budget of x alone",
        ),
        ('[[network]]\nname = "x"\ninterface = "x0"\nthroughput = 20\n', "needs a unit"),
        ('[[network]]\nname = "x"\ninterface = "x0"\nkind = "pigeon"\n', "kind: "),
    ],
)
def test_other_parts_of_the_file_must_fit(text: str, reason: str) -> None:
    assert reason in refusal(text)
