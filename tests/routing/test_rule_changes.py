"""From present chains to wanted ones: the commands, and that following them really leads there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.routing.rule_changes import Line, commands

A, B, C = (Line(letter, f"-j {letter}") for letter in "ABC")
JUMP = Line("jump", "-j UPMT-X")


def test_a_new_chain_is_made_filled_and_only_then_jumped_to() -> None:
    assert commands("iptables", "mangle", {"UPMT-X": [A, B], "OUTPUT": [JUMP]}, {}) == [
        "iptables -t mangle -N UPMT-X",
        "iptables -t mangle -A UPMT-X -j A",
        "iptables -t mangle -A UPMT-X -j B",
        "iptables -t mangle -I OUTPUT 1 -j UPMT-X",
    ]


def test_a_chain_that_goes_is_left_by_its_jumps_first() -> None:
    assert commands("ip6tables", "raw", {}, {"UPMT-X": [A], "OUTPUT": [JUMP]}) == [
        "ip6tables -t raw -D OUTPUT -j UPMT-X",
        "ip6tables -t raw -F UPMT-X",
        "ip6tables -t raw -X UPMT-X",
    ]


def test_nothing_to_do_is_no_command() -> None:
    chains = {"UPMT-X": [A, B], "OUTPUT": [JUMP]}
    assert commands("iptables", "raw", chains, chains) == []


def test_one_lost_rule_is_one_command() -> None:
    (said,) = commands("iptables", "raw", {"UPMT-X": [A, B, C]}, {"UPMT-X": [A, C]})
    assert said == "iptables -t raw -I UPMT-X 2 -j B"


LINES = st.lists(st.sampled_from([A, B, C]), max_size=6)


@given(LINES, LINES)
def test_following_the_commands_leads_from_any_chain_to_any_other(
    wanted: list[Line], present: list[Line]
) -> None:
    chain = [line.text for line in present]
    for command in commands("iptables", "raw", {"UPMT-X": wanted}, {"UPMT-X": present}):
        _, _, _, verb, _, *words = command.split()
        match verb:
            case "-A":
                chain.append(" ".join(words))
            case "-D":
                del chain[int(words[0]) - 1]
            case "-I":
                assert 1 <= int(words[0]) <= len(chain) + 1
                chain.insert(int(words[0]) - 1, " ".join(words[1:]))
    assert chain == [line.text for line in wanted]
