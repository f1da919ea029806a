"""Every network's test: when to make one, and what was found; one at a time a network, by `network_test`.

A network is tested when it appears and the anchor has several tunnel ports, so that one of them that passes is known
before the first has been waited for in vain; again while no tunnel can be had; and whenever somebody asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from upmt_nf.mobility.binding_trial import ProbeFlow
from upmt_nf.mobility.host_binding import Credentials
from upmt_nf.mobility.host_commands import CloseBindingProbe, SendBindingProbe
from upmt_nf.mobility.network_test import NetworkTest, TestResult
from upmt_nf.model.errors import PeerError
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.binding_probe import is_proven, parse_probe, probe_key

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0
"""Seconds between two tests while no tunnel can be had; doubling."""


@dataclass(slots=True)
class _Tested:
    """A network that is there."""

    wanted_at: float | None = None
    running: NetworkTest | None = None
    result: TestResult | None = None
    pause: float = FIRST_PAUSE


class NetworkTests:
    """All networks of a host, towards the anchor in use; `ports` gives its tunnel ports."""

    def __init__(
        self,
        random: Random,
        credentials: Credentials,
        ports: Callable[[], tuple[int, ...]],
        is_up: Callable[[NetworkName], bool],
    ) -> None:
        self._random = random
        self._credentials = credentials
        self._ports = ports
        self._is_up = is_up
        self._networks: dict[NetworkName, _Tested] = {}
        self._finished: list[tuple[NetworkName, TestResult]] = []
        self._commands: list[SendBindingProbe | CloseBindingProbe] = []

    # --- views ---

    def result(self, network: NetworkName) -> TestResult | None:
        """What the last test of a network that is there has found."""
        tested = self._networks.get(network)
        return tested.result if tested is not None else None

    def is_testing(self, network: NetworkName) -> bool:
        """Whether a test of a network is under way."""
        tested = self._networks.get(network)
        return tested is not None and tested.running is not None

    def take_finished(self) -> list[tuple[NetworkName, TestResult]]:
        """The tests that have ended since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def take_commands(self) -> list[SendBindingProbe | CloseBindingProbe]:
        """What it wants done; each is given once."""
        commands, self._commands = self._commands, []
        return commands

    # --- what happens ---

    def appear(self, network: NetworkName, now: float) -> None:
        """A network is there, perhaps at another place."""
        self.vanish(network)
        self._networks[network] = _Tested(now if len(self._ports()) > 1 else None)

    def vanish(self, network: NetworkName) -> None:
        """A network is gone, and what was found with it."""
        tested = self._networks.pop(network, None)
        if tested is not None and tested.running is not None:
            self._close(network)

    def ask(self, network: NetworkName, now: float) -> None:
        """Somebody wants to know."""
        if (tested := self._networks.get(network)) is not None and tested.running is None:
            tested.wanted_at = now

    def doubt(self, network: NetworkName, now: float) -> None:
        """A network's tunnel is dead: perhaps another port still passes."""
        if len(self._ports()) > 1:
            self.ask(network, now)

    def start_over(self, now: float) -> None:
        """Another anchor, or another association with it: what was found before says nothing."""
        for network in list(self._networks):
            self.appear(network, now)

    def hear(self, network: NetworkName, anchor_port: int, data: bytes, now: float) -> None:
        """Something came to the port of a test; anybody may have sent it."""
        tested = self._networks.get(network)
        if tested is None or (running := tested.running) is None:
            return
        try:
            probe = parse_probe(data)
        except PeerError:
            return
        if is_proven(data, running.key):
            running.hear(anchor_port, probe, now)
            self._go_on(network, tested, running, now)

    # --- time ---

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        can_begin = self._credentials() is not None
        times = [
            tested.running.next_at if tested.running is not None else tested.wanted_at
            for tested in self._networks.values()
            if tested.running is not None or can_begin
        ]
        return min((time for time in times if time is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        """Begin, go on with or end tests, as is due."""
        for network, tested in self._networks.items():
            if tested.running is None and tested.wanted_at is not None and now >= tested.wanted_at:
                self._begin(tested, now)
            if tested.running is not None and now >= tested.running.next_at:
                self._go_on(network, tested, tested.running, now)

    def _begin(self, tested: _Tested, now: float) -> None:
        if (credentials := self._credentials()) is None:
            return
        address, secret = credentials
        number = self._random.getrandbits(32)
        tested.wanted_at = None
        tested.running = NetworkTest(self._ports(), address, probe_key(secret), number, now)

    def _go_on(self, network: NetworkName, tested: _Tested, running: NetworkTest, now: float) -> None:
        for port, data in running.handle_timeout(now):
            self._commands.append(SendBindingProbe(network, ProbeFlow.TESTING, data, port))
        if (result := running.result) is None:
            return
        tested.running, tested.result = None, result
        self._close(network)
        self._finished.append((network, result))
        if self._is_up(network):
            tested.pause = FIRST_PAUSE
        elif len(self._ports()) > 1:
            tested.wanted_at = now + tested.pause
            tested.pause = min(2 * tested.pause, LONGEST_PAUSE)

    def _close(self, network: NetworkName) -> None:
        self._commands.append(CloseBindingProbe(network, (ProbeFlow.TESTING,)))
