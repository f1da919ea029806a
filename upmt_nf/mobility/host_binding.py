"""Every network's search for its NAT's binding time: when to make a trial, and what to remember of it.

One trial a network at a time, only while its tunnel works, with pauses: a search costs some 10 kB in all, and one
trial (under 1 kB) every `RECHECK` after that. A place is a network and the gateway and prefix found there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from upmt_nf.mobility.binding_time import SAFE, BindingSearch, BindingTime
from upmt_nf.mobility.binding_trial import BindingTrial, Outcome, ProbeFlow
from upmt_nf.mobility.host_commands import CloseBindingProbe, RememberBindingTime, SendBindingProbe
from upmt_nf.mobility.settings import HostSettings
from upmt_nf.model.errors import PeerError
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.identity import NetworkName
from upmt_nf.signaling.binding_probe import is_proven, parse_probe, probe_key

RECHECK = 6 * 3600.0
UNCLEAR_PAUSE = 60.0
"""Seconds after a trial that nobody answered; doubling up to `RECHECK`: an anchor may not know this."""

Credentials = Callable[[], tuple[IPAddress, bytes] | None]
"""The virtual address and what only the association's two ends know; None: no association."""


@dataclass(slots=True)
class _Searched:
    """A network that is there."""

    place: str
    search: BindingSearch
    next_at: float
    trial: BindingTrial | None = None
    patience: float = UNCLEAR_PAUSE


class HostBinding:
    """All searches of a host."""

    def __init__(
        self,
        settings: HostSettings,
        random: Random,
        credentials: Credentials,
        is_up: Callable[[NetworkName], bool],
        anchor_port: Callable[[NetworkName], int],
    ) -> None:
        self._cautious = max(settings.keepalive_idle, settings.keepalive_interval)
        self._longest = max(settings.keepalive_longest, self._cautious)
        self._is_probing = settings.probe_binding_time
        self._random = random
        self._credentials = credentials
        self._is_up = is_up
        self._anchor_port = anchor_port
        self._remembered = dict(settings.binding_times)
        self._networks: dict[NetworkName, _Searched] = {}
        self._commands: list[SendBindingProbe | CloseBindingProbe | RememberBindingTime] = []

    # --- views ---

    def keepalive(self, network: NetworkName) -> float:
        """The interval between keepalives of a network's idle tunnel, seconds."""
        searched = self._networks.get(network)
        known = searched.search if searched is not None else BindingSearch(self._cautious, self._longest)
        return known.keepalive(self._cautious, self._longest)

    def binding_time(self, network: NetworkName) -> float | None:
        """The longest silence that a mapping is known to survive there, seconds."""
        searched = self._networks.get(network)
        return searched.search.known.survived if searched is not None else None

    def take_commands(self) -> list[SendBindingProbe | CloseBindingProbe | RememberBindingTime]:
        """What it wants done; each is given once."""
        commands, self._commands = self._commands, []
        return commands

    # --- what happens ---

    def appear(self, network: NetworkName, place: str, now: float) -> None:
        """The network is there, at this place."""
        known = self._networks.get(network)
        if known is not None and known.place == place:
            return
        self.vanish(network)
        search = BindingSearch(self._cautious / SAFE, self._longest / SAFE, self._remembered.get(place))
        self._networks[network] = _Searched(place, search, now + self._pause())

    def vanish(self, network: NetworkName) -> None:
        """The network is gone; what was learnt of it stays."""
        searched = self._networks.pop(network, None)
        if searched is not None and searched.trial is not None:
            self._commands.append(CloseBindingProbe(network))

    def hear(self, network: NetworkName, flow: ProbeFlow, data: bytes, now: float) -> None:
        """Something came to one of the two ports; anybody may have sent it."""
        searched = self._networks.get(network)
        if searched is None or (trial := searched.trial) is None:
            return
        try:
            probe = parse_probe(data)
        except PeerError:
            return
        if is_proven(data, trial.key):
            trial.hear(flow, probe, now)
            self._conclude(network, searched, trial, now)

    # --- time ---

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        if not self._is_probing:
            return None
        times = (
            searched.trial.next_at if searched.trial is not None else searched.next_at
            for searched in self._networks.values()
        )
        return min(times, default=None)

    def handle_timeout(self, now: float) -> None:
        """Begin, continue or end trials, as is due."""
        if not self._is_probing:
            return
        for network, searched in self._networks.items():
            if searched.trial is None and now >= searched.next_at:
                self._begin(network, searched, now)
            if (trial := searched.trial) is not None and now >= trial.next_at:
                self._continue(network, searched, trial, now)

    def _begin(self, network: NetworkName, searched: _Searched, now: float) -> None:
        silence, credentials = searched.search.next_silence(), self._credentials()
        searched.next_at = now + self._pause()
        if silence is None:
            searched.search.check_again()
            searched.next_at = now + RECHECK * self._random.uniform(0.9, 1.1)
        elif credentials is not None and self._is_up(network):
            address, secret = credentials
            number = self._random.getrandbits(28) << 4
            searched.trial = BindingTrial(silence, address, probe_key(secret), number, now)

    def _continue(self, network: NetworkName, searched: _Searched, trial: BindingTrial, now: float) -> None:
        if not self._is_up(network):
            trial.outcome = Outcome.UNCLEAR
        elif (action := trial.handle_timeout(now)) is not None:
            port = self._anchor_port(network)
            self._commands.append(SendBindingProbe(network, action.flow, action.data, port))
        self._conclude(network, searched, trial, now)

    def _conclude(self, network: NetworkName, searched: _Searched, trial: BindingTrial, now: float) -> None:
        if trial.outcome is None:
            return
        searched.trial = None
        searched.next_at = now + self._pause()
        self._commands.append(CloseBindingProbe(network))
        search, before = searched.search, searched.search.known
        match trial.outcome:
            case Outcome.SURVIVED:
                search.survive(trial.silence)
            case Outcome.DIED:
                search.die(trial.silence)
            case Outcome.UNCLEAR:
                searched.next_at = now + searched.patience * self._random.uniform(0.8, 1.2)
                searched.patience = min(2 * searched.patience, RECHECK)
                return
        searched.patience = UNCLEAR_PAUSE
        if search.known != before:
            self._remember(searched.place, search.known)

    def _remember(self, place: str, known: BindingTime) -> None:
        self._remembered[place] = known
        self._commands.append(RememberBindingTime(place, known))

    def _pause(self) -> float:
        return self._cautious * self._random.uniform(0.5, 1.5)
