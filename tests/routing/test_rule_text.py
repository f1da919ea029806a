"""Rule files: the packaged ones filled in word for word, and every mistake named with file and line."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.model.errors import ConfigError
from upmt_nf.routing.rule_text import NetfilterRule, RuleSet, expand

PACKAGED = Path(__file__).resolve().parents[2] / "rules"

VALUES = {
    "anchor": "45.0.0.1",
    "tunnel_port": "1800",
    "virtual_interface": "upmt0",
    "queue_outbound": "7000",
    "queue_inbound": "",
    "judged": "0x1f07",
    "admitted": "",
    "unanswered": "",
    "unfinished": "",
    "marks_of_admitted": "0x1ffe",
    "mark_mask": "0x1fff",
    "virtual_address": "",
    "native": "",
    "tunnelled": "",
    "marks_of_sockets": "",
    "between_hosts": "",
}
"""With a tun interface."""
BY_QUEUE = {"queue_inbound": "7001", "judged": ""}
"""Without one."""
NETWORKS = (
    {
        "network_interface": "if0",
        "network_port": "1500",
        "network_anchor": "45.0.0.1",
        "network_anchor_port": "1800",
    },
    {
        "network_interface": "if1",
        "network_port": "1501",
        "network_anchor": "45.0.0.1",
        "network_anchor_port": "1800",
    },
)


def packaged(role: str, applications: tuple[str, ...] = (), **more: str) -> str:
    text = (PACKAGED / f"{role}.rules").read_text(encoding="utf-8")
    return str(expand(text, f"{role}.rules", {**VALUES, **more}, NETWORKS, applications))


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        expand(text, "my.rules", VALUES, NETWORKS)
    return str(caught.value)


def filled(line: str, **more: str) -> list[str]:
    ruleset = expand(f"*filter\n{line}\n", "my.rules", {**VALUES, **more}, NETWORKS)
    return [str(rule) for rule in ruleset.rules]


def test_the_mobile_hosts_rules() -> None:
    application = (
        "-A UPMT-CLASSIFY -m owner --uid-owner 7 -m mark --mark 0x0/0x1fff -j MARK --set-xmark 0x2/0x1fff"
    )
    assert (
        packaged("mobile-host", (application,), mark_outer="0x1000")
        == """\
*raw
:UPMT-INBOUND - [0:0]
:UPMT-NOTRACK - [0:0]
-A PREROUTING -j UPMT-INBOUND
-A UPMT-INBOUND -i if0 -s 45.0.0.1 -p udp -m udp --sport 1800 --dport 1500 -j CT --notrack
-A UPMT-INBOUND -i if1 -s 45.0.0.1 -p udp -m udp --sport 1800 --dport 1501 -j CT --notrack
-A OUTPUT -j UPMT-NOTRACK
-A UPMT-NOTRACK -m mark --mark 0x1000/0x1000 -j CT --notrack
COMMIT
*mangle
:UPMT-CLASSIFY - [0:0]
:UPMT-OUTBOUND - [0:0]
-A OUTPUT -j UPMT-CLASSIFY
-A UPMT-CLASSIFY -o lo -j RETURN
-A UPMT-CLASSIFY -m mark --mark 0x1000/0x1000 -j RETURN
-A UPMT-CLASSIFY -m owner --uid-owner 7 -m mark --mark 0x0/0x1fff -j MARK --set-xmark 0x2/0x1fff
-A POSTROUTING -j UPMT-OUTBOUND
-A UPMT-OUTBOUND ! -o upmt0 -j RETURN
-A UPMT-OUTBOUND -m connmark --mark 0x1f07/0x1fff -j RETURN
-A UPMT-OUTBOUND -m mark --mark 0x1f07/0x1fff -j CONNMARK --save-mark --nfmask 0x1fff --ctmask 0x1fff
-A UPMT-OUTBOUND -m mark --mark 0x1f07/0x1fff -j RETURN
-A UPMT-OUTBOUND -j NFQUEUE --queue-num 7000
COMMIT
*filter
:UPMT-INPUT - [0:0]
-A INPUT -j UPMT-INPUT
-A UPMT-INPUT -i if0 -s 45.0.0.1 -p udp -m udp --sport 1800 --dport 1500 -j ACCEPT
-A UPMT-INPUT -i if1 -s 45.0.0.1 -p udp -m udp --sport 1800 --dport 1501 -j ACCEPT
COMMIT
"""
    )


LEAVES_ALONE = {
    "mark_outer": "0x1000",
    "native": "0x1fff",
    "tunnelled": "0x1ffe",
    "marks_of_sockets": "0x1f00",
    "virtual_address": "1.2.3.4",
}


def test_the_mobile_hosts_rules_where_something_is_left_alone() -> None:
    added = set(packaged("mobile-host", (), **LEAVES_ALONE).splitlines()) - set(
        packaged("mobile-host", (), mark_outer="0x1000").splitlines()
    )
    marks = "--nfmask 0x1fff --ctmask 0x1fff"
    assert added == {
        "-A UPMT-NOTRACK -m mark --mark 0x1f00/0x1f00 -j RETURN",
        "-A UPMT-CLASSIFY -m mark --mark 0x1ffe/0x1fff -j MARK --set-xmark 0x0/0x1fff",
        f"-A UPMT-CLASSIFY -m mark --mark 0x1fff/0x1fff -j CONNMARK --save-mark {marks}",
        f"-A UPMT-CLASSIFY -m connmark --mark 0x1fff/0x1fff -j CONNMARK --restore-mark {marks}",
        "-A UPMT-CLASSIFY -m mark --mark 0x1fff/0x1fff -j RETURN",
        "-A UPMT-OUTBOUND -o lo -m mark --mark 0x1fff/0x1fff -j RETURN",
        "-A UPMT-OUTBOUND ! -o upmt0 -s 1.2.3.4 -m mark --mark 0x1fff/0x1fff"
        " -m conntrack ! --ctstate NEW,SNAT -j DROP",
        "*nat",
        ":UPMT-NATIVE - [0:0]",
        "-A POSTROUTING -m mark --mark 0x1fff/0x1fff -j UPMT-NATIVE",
        "-A UPMT-NATIVE -o lo -m mark --mark 0x1fff/0x1fff -j RETURN",
        "-A UPMT-NATIVE ! -o upmt0 -s 1.2.3.4 -m mark --mark 0x1fff/0x1fff -j MASQUERADE",
    }


def test_the_mobile_hosts_ipv6_rules() -> None:
    application = (
        "-A UPMT-CLASSIFY -m owner --uid-owner 7 -m mark --mark 0x0/0x1fff -j MARK --set-xmark 0x2/0x1fff"
    )
    assert (
        packaged("mobile-host-ipv6", (application,), mark_outer="0x1000")
        == """\
*mangle
:UPMT-CLASSIFY - [0:0]
-A OUTPUT -j UPMT-CLASSIFY
-A UPMT-CLASSIFY -o lo -j RETURN
-A UPMT-CLASSIFY -m mark --mark 0x1000/0x1000 -j RETURN
-A UPMT-CLASSIFY -m owner --uid-owner 7 -m mark --mark 0x0/0x1fff -j MARK --set-xmark 0x2/0x1fff
COMMIT
"""
    )


def test_without_a_tun_interface_every_packet_of_the_mobile_host_goes_through_the_queues() -> None:
    text = packaged("mobile-host", (), mark_outer="0x1000", **BY_QUEUE)
    assert "connmark" not in text
    assert "--dport 1501 -j NFQUEUE --queue-num 7001\n" in text
    assert text.index("--queue-num 7001") < text.index("--sport 1800 --dport 1500 -j CT")


ANCHOR = """\
*raw
:UPMT-INBOUND - [0:0]
:UPMT-NOTRACK - [0:0]
-A PREROUTING -j UPMT-INBOUND
-A UPMT-INBOUND -d 45.0.0.1 -p udp -m udp --dport 1800 -j CT --notrack
-A OUTPUT -j UPMT-NOTRACK
-A UPMT-NOTRACK -s 45.0.0.1 -p udp -m udp --sport 1800 -j CT --notrack
COMMIT
*mangle
:UPMT-OUTBOUND - [0:0]
-A POSTROUTING -j UPMT-OUTBOUND
COMMIT
*nat
:UPMT-INCOMING - [0:0]
:UPMT-NAT - [0:0]
-A PREROUTING -j UPMT-INCOMING
-A UPMT-INCOMING -m iprange --src-range 1.2.3.4-1.2.3.9 -j RETURN
-A POSTROUTING -j UPMT-NAT
-A UPMT-NAT -o upmt0 -j RETURN
-A UPMT-NAT -p tcp -m iprange --src-range 1.2.3.4-1.2.3.9 -j MASQUERADE --to-ports 40000-60999
-A UPMT-NAT -p udp -m iprange --src-range 1.2.3.4-1.2.3.9 -j MASQUERADE --to-ports 40000-60999
-A UPMT-NAT -m iprange --src-range 1.2.3.4-1.2.3.9 -j MASQUERADE
COMMIT
*filter
:UPMT-FORWARD - [0:0]
:UPMT-INPUT - [0:0]
-A FORWARD -j UPMT-FORWARD
-A UPMT-FORWARD -m iprange --src-range 1.2.3.4-1.2.3.9 ! -o upmt0 -j ACCEPT
-A UPMT-FORWARD -m iprange --dst-range 1.2.3.4-1.2.3.9 -o upmt0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A UPMT-FORWARD -m iprange --dst-range 1.2.3.4-1.2.3.9 -o upmt0 -m conntrack --ctstate DNAT -j ACCEPT
-A INPUT -j UPMT-INPUT
-A UPMT-INPUT -d 45.0.0.1 -p udp -m udp --dport 1800 -j ACCEPT
COMMIT
"""


def test_the_anchors_rules() -> None:
    anchor = packaged("anchor", pool="1.2.3.4-1.2.3.9", nat_ports="40000-60999", queue_outbound="")
    assert anchor == ANCHOR


def test_without_a_tun_interface_every_packet_of_the_anchor_goes_through_the_queues() -> None:
    text = packaged("anchor", (), pool="1.2.3.4-1.2.3.9", nat_ports="", **BY_QUEUE)
    assert "-A UPMT-INBOUND -d 45.0.0.1 -p udp -m udp --dport 1800 -j NFQUEUE --queue-num 7001\n" in text
    assert "-A UPMT-OUTBOUND -o upmt0 -j NFQUEUE --queue-num 7000\n" in text


def test_an_anchor_without_a_port_range_has_one_rule_for_all_protocols() -> None:
    expected = "".join(line for line in ANCHOR.splitlines(keepends=True) if "--to-ports" not in line)
    assert packaged("anchor", pool="1.2.3.4-1.2.3.9", nat_ports="", queue_outbound="") == expected


def test_an_anchor_between_whose_hosts_packets_go_lets_them_through() -> None:
    pool = "1.2.3.4-1.2.3.9"
    text = packaged("anchor", pool=pool, nat_ports="", between_hosts=pool)
    rule = f"-A UPMT-FORWARD -m iprange --src-range {pool} --dst-range {pool} -o upmt0 -j ACCEPT\n"
    assert rule in text
    assert text.replace(rule, "") == packaged("anchor", pool=pool, nat_ports="")


@pytest.mark.parametrize("role", ["mobile-host", "anchor"])
def test_what_is_written_is_read_again_as_the_same(role: str) -> None:
    written = packaged(role, mark_outer="0x1000", pool="1.2.3.4-1.2.3.9", nat_ports="40000-60999")
    assert str(expand(written, "again", {})) == written


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\n*bogus\n", "my.rules:2: there is no table 'bogus'; there are raw, mangle, nat, filter"),
        ("# why\n-A UPMT-X -j DROP\n", "my.rules:2: a rule stands outside of a table"),
        ("*raw\nCOMMIT\n-A UPMT-X -j DROP\n", "my.rules:3: a rule stands outside of a table"),
        ("*raw\nCOMMIT\n@applications\n", "my.rules:3: a rule stands outside of a table"),
        (
            "*nat\n@incomming\n",
            "my.rules:2: there is no @incomming; there are @applications, @incoming, @outgoing",
        ),
        (
            "*raw\n-A UPMT-X -s {ancor} -j DROP\n",
            "my.rules:2: there is no value {ancor}; there are admitted, ",
        ),
        ("*raw\n-A UPMT-X -i {network_name} -j DROP\n", "my.rules:2: there is no value {network_name}"),
        ('*raw\n\n-A UPMT-X --comment "open -j DROP\n', "my.rules:3: No closing quotation"),
        ("*raw\n-I UPMT-X 1 -j DROP\n", "my.rules:2: a rule is written -A CHAIN ... -j TARGET"),
        ("*raw\n-A UPMT-X\n", "my.rules:2: a rule is written -A CHAIN ... -j TARGET"),
        ("*raw\niptables -A UPMT-X -j DROP\n", "my.rules:2: a rule is written -A CHAIN ... -j TARGET"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_reason(text: str, complaint: str) -> None:
    assert refused(text).startswith(complaint)


@pytest.mark.parametrize(
    "rule",
    [
        "-A OUTPUT -p udp -j DROP",
        "-A OUTPUT -j ACCEPT",
        "-A OUTPUT -j DOCKER",
        "-A DOCKER -j MARK --set-mark 1",
        "-A OUTPUT -j upmt-x",
        "-A FORWARD -g UPMT-X",
        "-A INPUT -j UPMT-X -p udp",
    ],
)
def test_outside_of_our_chains_only_a_jump_into_them_is_allowed(rule: str) -> None:
    assert refused(f"*filter\n{rule}\n").startswith(
        "my.rules:2: outside of our own chains (UPMT-*) only a jump"
    )


def test_a_jump_into_our_chains_may_have_conditions() -> None:
    assert filled("-A FORWARD -i eth0 -j UPMT-X") == ["-A FORWARD -i eth0 -j UPMT-X"]


def test_a_wrong_application_line_is_named_with_the_line_it_was_put_into() -> None:
    with pytest.raises(ConfigError, match=r"^my.rules:2: outside of our own chains"):
        expand("*mangle\n@applications\n", "my.rules", {}, (), ["-A OUTPUT -j DROP"])


def test_an_empty_value_leaves_its_line_out_and_no_other() -> None:
    text = "-A UPMT-X -p tcp --to-ports {nat_ports} -j DROP\n-A UPMT-X -j RETURN"
    assert filled(text, nat_ports="") == ["-A UPMT-X -j RETURN"]
    assert len(filled(text, nat_ports="1-2")) == 2


def test_a_network_line_is_written_once_for_each_network_in_their_order() -> None:
    line = "-A UPMT-X -i {network_interface} -s {anchor} --dport {network_port} -j DROP"
    assert filled(line) == [
        "-A UPMT-X -i if0 -s 45.0.0.1 --dport 1500 -j DROP",
        "-A UPMT-X -i if1 -s 45.0.0.1 --dport 1501 -j DROP",
    ]
    assert expand(f"*filter\n{line}\n", "my.rules", VALUES).rules == ()


def test_a_network_without_a_value_is_left_out_alone() -> None:
    networks = ({"network_interface": ""}, {"network_interface": "if1"})
    ruleset = expand("*raw\n-A UPMT-X -i {network_interface} -j DROP\n", "my.rules", {}, networks)
    assert [str(rule) for rule in ruleset.rules] == ["-A UPMT-X -i if1 -j DROP"]


def test_values_are_put_in_as_they_are_even_with_braces_in_them() -> None:
    assert filled("-A UPMT-X -s {anchor} -j DROP", anchor="{tunnel_port}") == [
        "-A UPMT-X -s {tunnel_port} -j DROP"
    ]


def test_tables_stand_in_netfilters_order_and_chains_in_that_of_their_first_mention() -> None:
    text = "*filter\n-A UPMT-B -j DROP\n-A UPMT-A -j DROP\nCOMMIT\n*raw\n-A OUTPUT -j UPMT-C\n-A UPMT-B -j DROP\n"
    ruleset = expand(text, "my.rules", {})
    assert ruleset.tables() == ("raw", "filter")
    assert ruleset.chains("filter") == ("UPMT-B", "UPMT-A")
    assert ruleset.chains("raw") == ("UPMT-C", "UPMT-B")
    assert ruleset.chains("nat") == ()
    assert [str(rule) for rule in ruleset.in_chain("filter", "UPMT-A")] == ["-A UPMT-A -j DROP"]


@given(st.lists(st.text(max_size=12), min_size=1, max_size=6))
def test_words_survive_being_written_and_split_again(words: list[str]) -> None:
    rule = NetfilterRule("raw", "UPMT-X", tuple(words))
    assert shlex.split(str(rule)) == ["-A", "UPMT-X", *words]


LINES = st.sampled_from(
    [
        "*raw",
        "*nat",
        "COMMIT",
        "# why",
        "",
        "@applications",
        "-A OUTPUT -j UPMT-X",
        "-A UPMT-X -s {anchor} -j DROP",
    ]
)


@given(st.lists(LINES | st.text(max_size=30), max_size=12).map("\n".join))
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    try:
        ruleset = expand(text, "my.rules", VALUES, NETWORKS, ["-A UPMT-X -j RETURN"])
    except ConfigError as reason:
        assert str(reason).startswith("my.rules:")  # noqa: PT017
        return
    assert isinstance(ruleset, RuleSet)
    assert all(rule.chain.startswith("UPMT-") or rule.words[-1].startswith("UPMT-") for rule in ruleset.rules)
