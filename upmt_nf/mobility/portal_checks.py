"""Captive portals: does somebody between a network and the Internet answer in the place of the server that was asked?

A network whose tunnel cannot be had is asked by HTTP for a page that its server answers with 204 and nothing else
(`Finding.CLEAR`). Any other answer is a portal's: the network stays out, as no tunnel can be had, and people are told
where to log in. Nothing is sent while tunnels work, nor without a URL. Knows neither sockets nor HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from upmt_nf.model.identity import NetworkName

FIRST_CHECK = 3.0
"""Seconds without a tunnel after which a network is asked."""
SHORTEST_PAUSE, LONGEST_PAUSE = 10.0, 120.0
"""Seconds between two checks; doubling."""


class Finding(Enum):
    """What a check found. The values are what `networks --json` shows."""

    CLEAR = "clear"
    """The server itself answered: what keeps the tunnel away is no portal."""
    PORTAL = "portal"
    SILENT = "silent"
    """Nobody answered."""


@dataclass(frozen=True, slots=True)
class Portal:
    """The last check. `location`: where a portal wants to send people."""

    finding: Finding
    location: str | None = None


@dataclass(frozen=True, slots=True)
class LeasePortal:
    """What the network itself says by DHCP (RFC 8910): where its portal's API is, or that it has none.

    `source`: the DHCP client that keeps it; `reason`: why what it keeps is no URI.
    """

    uri: str | None = None
    source: str | None = None
    reason: str | None = None


NOT_SAID = LeasePortal()


@dataclass(slots=True)
class _Watched:
    check_at: float | None = None
    is_checking: bool = False
    pause: float = SHORTEST_PAUSE
    found: Portal | None = None


class PortalChecks:
    """All networks of a host."""

    def __init__(self, *, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._networks: dict[NetworkName, _Watched] = {}

    def found(self, network: NetworkName) -> Portal | None:
        """What the last check of a network that is there found; None once it works."""
        watched = self._networks.get(network)
        return watched.found if watched is not None else None

    def follow(self, network: NetworkName, *, is_there: bool, is_usable: bool, now: float) -> None:
        """Tell how a network is now; twice is once."""
        if not is_there:
            self._networks.pop(network, None)
        elif is_usable:
            self._networks[network] = _Watched()
        elif self._is_wanted:
            watched = self._networks.setdefault(network, _Watched())
            if watched.check_at is None and not watched.is_checking:
                watched.check_at = now + FIRST_CHECK

    def conclude(self, network: NetworkName, portal: Portal, now: float) -> bool:
        """A check has ended; True when it found something else than the last one."""
        watched = self._networks.get(network)
        if watched is None or not watched.is_checking:
            return False
        before, watched.found = watched.found, portal
        watched.is_checking = False
        watched.check_at = now + watched.pause
        watched.pause = min(2 * watched.pause, LONGEST_PAUSE)
        return before != portal

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do (seconds)."""
        times = (each.check_at for each in self._networks.values() if each.check_at is not None)
        return min(times, default=None)

    def handle_timeout(self, now: float) -> list[NetworkName]:
        """The networks that are to be checked now; each ends by `conclude`."""
        due = []
        for network, watched in self._networks.items():
            if watched.check_at is not None and now >= watched.check_at:
                watched.check_at = None
                watched.is_checking = True
                due.append(network)
        return due
