"""At the anchor: applications whose flows hosts have named, so that one order moves all of them.

A host counts its applications as it likes; here each has a number of our own, which PAFT and the fast plane go by. One
without flows costs nothing: it is there from its first flow to its last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from upmt_nf.datapath.paft import Paft, Tunnel
from upmt_nf.model.flow import FlowBytes, IPAddress
from upmt_nf.model.identity import ApplicationId

MOST = 1 << 16
"""Applications of all hosts together."""


@dataclass(slots=True)
class _Named:
    id: ApplicationId
    order: int
    """Of the newest request (by CSeq) that said where it goes."""


class Moved(NamedTuple):
    """What an order did: of how many flows, of which application here, and from which tunnel, if from any."""

    flows: int
    id: ApplicationId = ApplicationId(0)
    left: Tunnel | None = None


class NamedApplications:
    """The table beside PAFT, which it keeps up to date."""

    def __init__(self, paft: Paft, most: int = MOST) -> None:
        self._paft = paft
        self._most = most
        self._named: dict[IPAddress, dict[int, _Named]] = {}
        self._owners: dict[int, tuple[IPAddress, int]] = {}
        self._fresh = count(1)
        self._returned: deque[ApplicationId] = deque()

    def name(
        self, owner: IPAddress, number: int, keys: Sequence[FlowBytes], tunnel: Tunnel, order: int, now: float
    ) -> bool:
        """These flows are of a host's application, which goes by `tunnel` if no newer order said else.

        False: there is no room for another application.
        """
        self.retire()
        named = self._named.get(owner, {}).get(number)
        if named is None:
            if not keys:
                return True
            if len(self._owners) >= self._most:
                return False
            named = _Named(
                self._returned.popleft() if self._returned else ApplicationId(next(self._fresh)), order
            )
            self._named.setdefault(owner, {})[number] = named
            self._owners[named.id] = owner, number
        if order >= named.order:
            named.order = order
            if self._paft.applications.get(named.id) is not tunnel:
                self._paft.move_application(named.id, tunnel, now)
        for key in keys:
            self._paft.name(key, named.id, now)
        return True

    def move(self, owner: IPAddress, number: int, tunnel: Tunnel, order: int, now: float) -> Moved:
        """A host's application goes by `tunnel`, unless a newer order said else."""
        named = self._named.get(owner, {}).get(number)
        if named is None:
            return Moved(0)
        flows, left = self._paft.membership.number_of(named.id), None
        if order >= named.order:
            named.order = order
            left = self._paft.applications.get(named.id)
            self._paft.move_application(named.id, tunnel, now)
        return Moved(flows, named.id, left if left is not tunnel else None)

    def forget_names(self, owner: IPAddress) -> None:
        """The host has restarted and counts its applications anew: its flows go on as single ones."""
        for named in self._named.get(owner, {}).values():
            for entry in self._paft.flows_of(named.id):
                entry.pinned, entry.course = self._paft.tunnel_of(entry), 0
                self._paft.assign(entry, ApplicationId(0))
        self.retire()

    def retire(self) -> None:
        """Forget the applications that have no flow left."""
        emptied = self._paft.membership.emptied
        while emptied:
            id = ApplicationId(emptied.pop())
            if id in self._owners and not self._paft.membership.number_of(id):
                owner, number = self._owners.pop(id)
                del self._named[owner][number]
                if not self._named[owner]:
                    del self._named[owner]
                self._paft.forget_application(id)
                self._returned.append(id)
