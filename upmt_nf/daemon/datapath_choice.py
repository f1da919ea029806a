"""Which datapath a daemon uses, and why: what the configuration wants against what there is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, NamedTuple

from upmt_nf.daemon.fast_plane import FastPlane
from upmt_nf.linux.fast_programs import discard
from upmt_nf.linux.journal import Journal
from upmt_nf.model.errors import FacilityError, UpmtError
from upmt_nf.model.flow import IPAddress

log = logging.getLogger(__name__)

Wanted = Literal["auto", "agent", "fast"]

AUTO_IS_FAST = True
"""Whether `auto` takes the fast plane where it can be had."""


class Choice(NamedTuple):
    """`fast` is None with the agent plane alone; `reason` is for people."""

    fast: FastPlane | None
    reason: str

    @property
    def name(self) -> str:
        """As `status` calls it."""
        return "agent" if self.fast is None else "fast"


def choose_with(
    journal: Journal, wanted: Wanted, kind: str, anchor: IPAddress, make: Callable[[], FastPlane]
) -> Choice:
    """As `choose`; with the agent alone, what an earlier daemon's fast plane left ends. Says what was chosen."""
    choice = choose(wanted, kind, anchor, make)
    log.info("%s datapath: %s", choice.name, choice.reason)
    if choice.fast is None:
        discard(journal)
    return choice


def choose(wanted: Wanted, kind: str, anchor: IPAddress, make: Callable[[], FastPlane]) -> Choice:
    """`kind` is that of the virtual interface. Raises FacilityError when the fast plane is wanted and cannot be had."""
    if wanted == "agent":
        return Choice(None, "the configuration says so")
    if wanted == "auto" and not AUTO_IS_FAST:
        return Choice(None, 'auto: the fast plane must be asked for (datapath = "fast")')
    try:
        if kind != "tun":
            raise FacilityError(f"it needs a tun as virtual interface, and this one is a {kind}")
        if anchor.version != 4:
            raise FacilityError("its tunnels are IPv4, and the anchor's address is not")
        fast = make()
    except (UpmtError, OSError) as reason:
        if wanted == "fast":
            raise FacilityError(f"the fast datapath cannot be used: {reason}") from reason
        return Choice(None, f"auto: no fast plane: {reason}")
    return Choice(
        fast, "the configuration says so" if wanted == "fast" else "auto: the kernel has all it needs"
    )
