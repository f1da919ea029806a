"""When the anchor's shortcut past netfilter is open."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from upmt_nf.daemon import shortcut
from upmt_nf.daemon.shortcut import Shortcut, Wanted, shortcut_timeouts
from upmt_nf.linux import sysctl
from upmt_nf.linux.fast_programs import FastPrograms
from upmt_nf.model.errors import KernelError
from upmt_nf.routing.bystanders import BaseChain


@pytest.mark.parametrize(
    ("accounting", "unanswered", "answered", "expected"),
    [
        ("0", "30", "120", (30, 120)),
        (None, "10", "300", (10, 300)),
        # Whoever has conntrack count packets wants all of them counted.
        ("1", "30", "120", None),
        ("0", None, "120", None),
        ("0", "30", "0", None),
        ("0", "30", "unlimited", None),
    ],
)
def test_conntracks_own_times_are_kept(
    monkeypatch: pytest.MonkeyPatch,
    accounting: str | None,
    unanswered: str | None,
    answered: str | None,
    expected: tuple[int, int] | None,
) -> None:
    values = {
        "net/netfilter/nf_conntrack_acct": accounting,
        "net/netfilter/nf_conntrack_udp_timeout": unanswered,
        "net/netfilter/nf_conntrack_udp_timeout_stream": answered,
    }
    monkeypatch.setattr(sysctl, "read", values.__getitem__)
    assert shortcut_timeouts() == expected


class PretendPrograms:
    """Programs with the shortcut, and what was written to open and close it; an earlier daemon left it open."""

    def __init__(self) -> None:
        self.lacks_shortcut = ""
        self.written: list[tuple[int, int]] = [(9, 9)]

    def open_shortcut(self, unanswered: int, answered: int) -> bool:
        self.written.append((unanswered, answered))
        return True

    def close_shortcut(self) -> None:
        self.written.append((0, 0))


OURS = "*filter\n-A FORWARD -j UPMT-FORWARD\nCOMMIT\n"
THEIRS = OURS.replace("COMMIT", "-A FORWARD -p udp -j DROP\nCOMMIT")


class World:
    """The rules of a host; each change of them is another shape, each look at all of them is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.saved: str | None = OURS
        self.chains: tuple[BaseChain, ...] = ()
        self.is_nftables_silent = False
        self.accounting = "0"
        self.looks = 0
        monkeypatch.setattr(shortcut, "saved_rules", self.save)
        monkeypatch.setattr(shortcut, "Nftables", lambda: self)
        monkeypatch.setattr(sysctl, "read", lambda name: self.accounting if name.endswith("acct") else "60")

    def save(self) -> str | None:
        self.looks += 1
        return self.saved

    def generation(self) -> int | None:
        if self.is_nftables_silent:
            raise KernelError("nftables cannot be asked: Operation not permitted")
        return hash(self.chains)

    def base_chains(self) -> tuple[BaseChain, ...]:
        return self.chains

    def glance(self, made: Shortcut) -> bool:
        made.look(((4, "filter", (self.saved or "").encode()),))
        return made.is_open


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def made(wanted: Wanted, programs: PretendPrograms | None) -> Shortcut:
    return Shortcut(wanted, cast("FastPrograms | None", programs))


def test_auto_is_open_exactly_while_nobody_else_has_rules(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    programs = PretendPrograms()
    auto = made("auto", programs)
    assert not auto.is_open
    assert [world.glance(auto) for _ in range(3)] == [True, True, True]
    assert world.looks == 1
    assert programs.written[-1] == (60, 60)
    world.saved = THEIRS
    assert [world.glance(auto) for _ in range(3)] == [False, False, False]
    assert programs.written[-1] == (0, 0)
    assert auto.report() == {"open": False, "reason": auto.reason}
    assert auto.reason.endswith("iptables -t filter -A FORWARD -p udp -j DROP")
    world.saved = OURS
    assert world.glance(auto)
    world.chains = (BaseChain(1, "firewall", "forward", 2),)
    assert not world.glance(auto)
    assert "nftables chain inet firewall forward" in auto.reason
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the shortcut past netfilter is open",
        "the shortcut past netfilter is closed",
    ] * 2


def test_what_an_earlier_daemon_left_open_is_closed_at_the_first_look(world: World) -> None:
    programs = PretendPrograms()
    world.saved = THEIRS
    assert not world.glance(made("auto", programs))
    assert programs.written[-1] == (0, 0)


def test_what_cannot_be_asked_keeps_it_closed_until_it_can(world: World) -> None:
    auto = made("auto", PretendPrograms())
    world.is_nftables_silent = True
    assert not world.glance(auto)
    assert "not permitted" in auto.reason
    world.is_nftables_silent = False
    assert world.glance(auto)
    shape = ((4, "filter", b"another"),)
    world.saved = None
    auto.look(shape)
    assert not auto.is_open
    assert "iptables-legacy-save" in auto.reason
    world.saved = OURS
    auto.look(shape)
    assert auto.is_open


def test_true_is_the_administrators_word_and_only_counting_closes_it(world: World) -> None:
    always = made(True, PretendPrograms())
    world.saved, world.is_nftables_silent = THEIRS, True
    assert world.glance(always)
    assert world.looks == 0
    world.accounting = "1"
    assert not world.glance(always)
    assert "nf_conntrack_acct" in always.reason
    world.accounting = "0"
    assert world.glance(always)


def test_where_it_cannot_be_the_reason_is_told(world: World) -> None:
    lacking = PretendPrograms()
    lacking.lacks_shortcut = "no kfuncs here"
    for wanted, programs, reason in (
        ("auto", None, "the agent forwards"),
        (False, PretendPrograms(), "the configuration"),
        ("auto", lacking, "no kfuncs here"),
    ):
        closed = made(cast("Wanted", wanted), programs)
        assert not world.glance(closed)
        assert reason in closed.reason
