"""When the anchor's shortcut past netfilter is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import ClassVar, cast

import pytest

from upmt_nf.daemon import shortcut
from upmt_nf.daemon.shortcut import Shortcut, Wanted, shortcut_timeouts
from upmt_nf.datapath.fast_layout import Timeouts, flow_key
from upmt_nf.linux import sysctl
from upmt_nf.linux.fast_programs import FastPrograms
from upmt_nf.model.errors import KernelError
from upmt_nf.model.flow import TCP, FlowBytes, FlowKey
from upmt_nf.routing.bystanders import BaseChain


@pytest.mark.parametrize(
    ("accounting", "times", "expected"),
    [
        ("0", ("30", "120", "432000", "10"), Timeouts(30, 120, 432_000, 10)),
        (None, ("10", "300", "60", "1"), Timeouts(10, 300, 60, 1)),
        # Whoever has conntrack count packets wants all of them counted.
        ("1", ("30", "120", "432000", "10"), None),
        ("0", (None, "120", "432000", "10"), None),
        ("0", ("30", "0", "432000", "10"), None),
        ("0", ("30", "unlimited", "432000", "10"), None),
        # It may be for datagrams alone.
        ("0", ("30", "120", None, "10"), Timeouts(30, 120)),
        ("0", ("30", "120", "432000", None), Timeouts(30, 120)),
    ],
)
def test_conntracks_own_times_are_kept(
    monkeypatch: pytest.MonkeyPatch,
    accounting: str | None,
    times: tuple[str | None, ...],
    expected: Timeouts | None,
) -> None:
    names = ("udp_timeout", "udp_timeout_stream", "tcp_timeout_established", "tcp_timeout_close")
    values = {f"net/netfilter/nf_conntrack_{name}": time for name, time in zip(names, times, strict=True)}
    values["net/netfilter/nf_conntrack_acct"] = accounting
    monkeypatch.setattr(sysctl, "read", values.__getitem__)
    assert shortcut_timeouts() == expected


class PretendPrograms:
    """Programs with the shortcut, and what was written to open and close it; an earlier daemon left it open."""

    def __init__(self) -> None:
        self.lacks_shortcut = ""
        self.written = [Timeouts(9, 9, 9, 9)]
        self.grown: list[bytes] = []
        self.maps = {"grown": self}

    def open_shortcut(self, timeouts: Timeouts) -> bool:
        self.written.append(timeouts)
        return True

    def close_shortcut(self) -> None:
        self.written.append(Timeouts())

    def pop(self) -> bytes | None:
        return self.grown.pop(0) if self.grown else None


class PretendLoop:
    """Does what is asked for when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def call_later(self, _: float, what: Callable[[], None]) -> PretendLoop:
        self.waiting.append(what)
        return self

    def cancel(self) -> None:
        self.waiting.clear()

    def tick(self) -> None:
        waiting, self.waiting = self.waiting, []
        for what in waiting:
            what()


class PretendConntrack:
    """What it was asked to be liberal with."""

    told: ClassVar[list[FlowBytes]] = []

    def be_liberal(self, keys: Iterable[FlowBytes]) -> None:
        self.told.extend(keys)

    def close(self) -> None:
        """Nothing to close."""


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


def made(wanted: Wanted, programs: PretendPrograms | None, loop: PretendLoop | None = None) -> Shortcut:
    pretended = cast("asyncio.AbstractEventLoop", loop or PretendLoop())
    return Shortcut(pretended, wanted, cast("FastPrograms | None", programs))


def test_auto_is_open_exactly_while_nobody_else_has_rules(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    programs = PretendPrograms()
    auto = made("auto", programs)
    assert not auto.is_open
    assert [world.glance(auto) for _ in range(3)] == [True, True, True]
    assert world.looks == 1
    assert programs.written[-1] == Timeouts(60, 60, 60, 60)
    world.saved = THEIRS
    assert [world.glance(auto) for _ in range(3)] == [False, False, False]
    assert programs.written[-1] == Timeouts()
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
    assert programs.written[-1] == Timeouts()


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


def grown_flow(port: int) -> tuple[FlowBytes, bytes]:
    """As the agent keys it, and as the programs do."""
    key = FlowKey(TCP, ip_address("1.2.3.4"), port, ip_address("86.0.0.1"), 80).packed()
    packed = flow_key(key)
    assert packed is not None
    return key, packed


def test_flows_that_have_grown_are_taken_in_while_it_is_open(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortcut, "Conntrack", PretendConntrack)
    PretendConntrack.told.clear()
    programs, loop = PretendPrograms(), PretendLoop()
    auto = made("auto", programs, loop)
    flows = [grown_flow(port) for port in range(1, 1001)]
    programs.grown.append(flows[0][1])
    loop.tick()
    assert not PretendConntrack.told
    assert not programs.grown, "nobody is taken in before it is open, and told again when it has doubled"
    assert world.glance(auto)
    programs.grown.extend(packed for _, packed in flows)
    for most in (256, 512, 768, 1000, 1000):
        loop.tick()
        assert PretendConntrack.told == [key for key, _ in flows[:most]], (
            "so many at once, so that nobody waits"
        )
    auto.close()
    assert not loop.waiting
