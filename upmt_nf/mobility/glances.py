"""Looks at what passes all tunnels of a host, many times a second while applications send: is any of them silent?

Composes the silence watches (`silence`): each tunnel is the witness of the others. A look costs microseconds and
leads to nothing while packets come.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from math import inf

from upmt_nf.mobility.host_tunnel import HostTunnel
from upmt_nf.mobility.silence import Quiet
from upmt_nf.mobility.tunnel_states import SilenceChanged, TunnelAction
from upmt_nf.model.identity import NetworkName

IDLE_LOOK = 0.05
"""Seconds between two looks while nothing passes: how soon it is noticed that something does."""
BUSY_LOOK = 0.01
"""The same while something does."""
LEAST_LOOK = 0.002
LATE = 0.01
"""Seconds: a look that comes later than this comes from a busy machine."""


class Glances:
    """For all networks of a host. `can_wait`: whether nobody on a network loses anything while it is silent."""

    def __init__(
        self,
        tunnels: Mapping[NetworkName, HostTunnel],
        can_wait: Callable[[NetworkName, float], bool] = lambda network, now: False,
    ) -> None:
        self._tunnels = tunnels
        self._can_wait = can_wait
        self._due_at: float | None = None

    def next_look(self, now: float) -> float:
        """When `look` should come (seconds)."""
        times = [
            at
            for tunnel in self._tunnels.values()
            if tunnel.is_usable and (at := tunnel.silence.next_look(tunnel.quick_timeout, now)) is not None
        ]
        longest = BUSY_LOOK if times else IDLE_LOOK
        self._due_at = min(max(min(times, default=inf), now + LEAST_LOOK), now + longest)
        return self._due_at

    def look(self, now: float) -> list[tuple[HostTunnel, TunnelAction]]:
        """What is to be done, in order. The counters of all tunnels are up to date."""
        found: list[tuple[HostTunnel, TunnelAction]] = []
        lag = now - self._due_at if self._due_at is not None else 0.0
        for tunnel in self._tunnels.values():
            if not tunnel.is_usable or tunnel.tunnel is None:
                continue
            if lag > LATE:
                tunnel.silence.forgive(lag)
            witness = self._witness_of(tunnel)
            seen, timeout = tunnel.tunnel, tunnel.quick_timeout
            was_held = tunnel.silence.is_held
            quiet = tunnel.silence.look(
                seen.packets_in,
                seen.heard,
                seen.used,
                timeout,
                now,
                is_witnessed=witness is not None,
                can_wait=partial(self._can_wait, tunnel.network, now),
            )
            if tunnel.silence.is_held is not was_held:
                found.append((tunnel, SilenceChanged(not was_held)))
            if quiet in (Quiet.ASK, Quiet.ASK_ALL):
                found.append((tunnel, tunnel.question(now)))
            if quiet is Quiet.ASK_ALL:
                found += [(other, other.question(now)) for other in self._others(tunnel)]
            if quiet is Quiet.GIVE_UP:
                silent_ms = 1000 * (now - tunnel.silence.silent_since)
                reason = f"silent for {silent_ms:.0f} ms, while {witness} answers"
                found += [(tunnel, action) for action in tunnel.give_up(reason, now)]
        return found

    def _others(self, tunnel: HostTunnel) -> list[HostTunnel]:
        return [other for other in self._tunnels.values() if other is not tunnel and other.is_usable]

    def _witness_of(self, tunnel: HostTunnel) -> NetworkName | None:
        """Another network by which the anchor has answered since this one was asked."""
        asked_at = tunnel.silence.asked_at
        if asked_at is None:
            return None
        others = (other.network for other in self._others(tunnel) if other.answered_at > asked_at)
        return next(others, None)
