"""The anchor's shortcut past netfilter: open while it bypasses nobody's rules, or as the administrator says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Hashable
from itertools import islice
from typing import Literal

from upmt_nf.datapath.fast_layout import Timeouts, flow_bytes
from upmt_nf.linux import sysctl
from upmt_nf.linux.conntrack_entries import Conntrack
from upmt_nf.linux.fast_programs import FastPrograms
from upmt_nf.linux.host_facts import saved_rules
from upmt_nf.linux.nftables import Nftables
from upmt_nf.linux.tampering import Shape
from upmt_nf.model.errors import FacilityError, UpmtError
from upmt_nf.routing.bystanders import foreign_in_the_way

log = logging.getLogger(__name__)

Wanted = Literal["auto", True, False]
_TIMEOUTS = ("udp_timeout", "udp_timeout_stream", "tcp_timeout_established", "tcp_timeout_close")
"""Of conntrack, in the order of `Timeouts`."""
_TICK = 0.05
"""Seconds between looks for TCP flows that have grown."""
_MOST_TAKEN = 256
"""Flows taken in at a look, so that it lasts a few milliseconds."""


class Shortcut:
    """Of the fast plane's `programs`; None where the agent forwards.

    Until the first `look` the programs are as an earlier daemon left them. `reason` says for people why it is open or
    is not.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, wanted: Wanted, programs: FastPrograms | None
    ) -> None:
        self._loop = loop
        self._wanted: Wanted = wanted
        self._programs = programs
        self._nftables = Nftables()
        self._seen: Hashable = None
        self.is_open = False
        self.reason = "it was not looked yet whether others have rules"
        if programs is None:
            self.reason = "the agent forwards, and netfilter sees every packet"
        elif wanted is False:
            self.reason = "the configuration says so"
        elif programs.lacks_shortcut:
            self.reason = programs.lacks_shortcut
        self._may_open = programs is not None and wanted is not False and not programs.lacks_shortcut
        self._conntrack: Conntrack | None = None
        self._timer: asyncio.TimerHandle | None = None
        if self._may_open:
            self._timer = loop.call_later(_TICK, self._take_in)

    def look(self, shape: Shape) -> None:
        """Open or close it, if anything changed that it hangs on. `shape` is that of iptables' tables."""
        if self._programs is None or not self._may_open:
            return
        try:
            seen: Hashable = (shape, shortcut_timeouts(), self._generation())
            if seen == self._seen:
                return
            timeouts, reason = self._decision()
            self._seen = seen
        except (UpmtError, OSError) as failure:
            self._seen, timeouts, reason = None, None, str(failure)
        self._set(self._programs, timeouts, reason)

    def close(self) -> None:
        """Take nobody in any more; the programs are left as they are."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._conntrack is not None:
            self._conntrack.close()
            self._conntrack = None

    def _take_in(self) -> None:
        """Have conntrack let go of the windows of TCP flows that have grown, so that the programs take them."""
        assert self._programs is not None
        self._timer = self._loop.call_later(_TICK, self._take_in)
        grown = [flow_bytes(key) for key in islice(iter(self._programs.maps["grown"].pop, None), _MOST_TAKEN)]
        if grown and self.is_open:
            if self._conntrack is None:
                self._conntrack = Conntrack()
            self._conntrack.be_liberal(grown)

    def report(self) -> dict[str, bool | str]:
        """As `status` shows it."""
        return {"open": self.is_open, "reason": self.reason}

    def _generation(self) -> int | None:
        return self._nftables.generation() if self._wanted == "auto" else None

    def _decision(self) -> tuple[Timeouts | None, str]:
        """Conntrack's timeouts to open it with, None to close it; and why. Raises UpmtError, OSError."""
        if (timeouts := shortcut_timeouts()) is None:
            return (
                None,
                "conntrack counts packets here (nf_conntrack_acct), or does not say how long it keeps them",
            )
        if self._wanted is True:
            return timeouts, "the configuration says so"
        if (saved := saved_rules()) is None:
            raise FacilityError(
                "iptables-legacy-save is not there or fails, so rules of others are not known"
            )
        if (foreign := foreign_in_the_way(saved, self._nftables.base_chains())) is not None:
            return None, f"auto: others have rules for forwarded packets: {foreign}"
        return timeouts, "auto: nobody else has rules for forwarded packets"

    def _set(self, programs: FastPrograms, timeouts: Timeouts | None, reason: str) -> None:
        if timeouts is not None:
            programs.open_shortcut(timeouts)
        else:
            programs.close_shortcut()
        is_open = timeouts is not None
        if (is_open, reason) != (self.is_open, self.reason):
            log.info("the shortcut past netfilter is %s: %s", "open" if is_open else "closed", reason)
        self.is_open, self.reason = is_open, reason


def shortcut_timeouts() -> Timeouts | None:
    """For how long conntrack keeps flows here; None when it is to see every packet."""
    if sysctl.read("net/netfilter/nf_conntrack_acct") == "1":
        return None
    found = Timeouts(*(_seconds(name) for name in _TIMEOUTS))
    if not (found.udp_unanswered and found.udp_answered):
        return None
    return (
        found if found.tcp_established and found.tcp_reset else found._replace(tcp_established=0, tcp_reset=0)
    )


def _seconds(name: str) -> int:
    """0: this kernel does not say so, or not in seconds."""
    value = sysctl.read(f"net/netfilter/nf_conntrack_{name}")
    return int(value) if value is not None and value.isdigit() else 0
