"""Whose each flow of a PAFT is, and at the mobile host, which of them the anchor knows by their application.

Kept in step by PAFT itself, so that moving an application costs the same with one flow and with a hundred thousand.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from enum import IntEnum
from itertools import chain, islice
from typing import TYPE_CHECKING

from upmt_nf.model.flow import FlowBytes
from upmt_nf.model.identity import ApplicationId

if TYPE_CHECKING:
    from upmt_nf.datapath.flow_entry import FlowEntry

_MOST_GHOSTS = 8192
"""As many flows end and come back as another application's before the anchor has aged them."""


class Told(IntEnum):
    """Whether the anchor knows a flow by its application. MAYBE: it was asked to, or told otherwise since."""

    NO = 0
    MAYBE = 1
    YES = 2


class Membership:
    """Flows by application, oldest member first; those of number 0 are nobody's and not kept.

    `misnamed`: what the anchor may take for another application's. `emptied`: applications that lost their last flow,
    for who cares; they may have others by now.
    """

    def __init__(self) -> None:
        self.misnamed: dict[FlowBytes, FlowEntry] = {}
        self.emptied: set[int] = set()
        self._members: dict[int, dict[FlowBytes, FlowEntry]] = {}
        self._untold: dict[int, dict[FlowBytes, FlowEntry]] = {}
        self._ghosts: OrderedDict[FlowBytes, int] = OrderedDict()
        """Flows that ended after the anchor was told, or asked to be, whose they are; and whose that was."""

    # --- PAFT says ---

    def join(self, entry: FlowEntry) -> None:
        """A flow is new, or another application's from now on."""
        key, id = entry.key, entry.application_id
        ghost = self._ghosts.pop(key, None)
        if ghost is not None:
            entry.told = Told.MAYBE
            if ghost != id:
                self.misnamed[key] = entry
        self._enter(entry)

    def move(self, entry: FlowEntry, application_id: ApplicationId) -> None:
        """A flow of one application becomes another's."""
        self._leave(entry)
        if entry.told:
            entry.told = Told.MAYBE
            self.misnamed[entry.key] = entry
        entry.application_id = application_id
        self._enter(entry)

    def forget(self, entry: FlowEntry) -> None:
        """A flow ended."""
        self._leave(entry)
        self.misnamed.pop(entry.key, None)
        if entry.told:
            self._ghosts[entry.key] = entry.application_id
            if len(self._ghosts) > _MOST_GHOSTS:
                self._ghosts.popitem(last=False)

    def _enter(self, entry: FlowEntry) -> None:
        if (id := entry.application_id) != 0:
            self._members.setdefault(id, {})[entry.key] = entry
            self._untold.setdefault(id, {})[entry.key] = entry

    def _leave(self, entry: FlowEntry) -> None:
        for table in (self._members, self._untold):
            if (flows := table.get(entry.application_id)) is not None:
                flows.pop(entry.key, None)
                if not flows:
                    del table[entry.application_id]
        if entry.application_id and entry.application_id not in self._members:
            self.emptied.add(entry.application_id)

    # --- the signalling says ---

    def tell(self, entry: FlowEntry) -> None:
        """The anchor knows it by its application."""
        entry.told = Told.YES
        if (untold := self._untold.get(entry.application_id)) is not None:
            untold.pop(entry.key, None)
            if not untold:
                del self._untold[entry.application_id]

    def doubt(self, entry: FlowEntry) -> None:
        """The anchor may know it by its application, or not: it is named one by one until it is told again."""
        if entry.told is Told.YES:
            self._untold.setdefault(entry.application_id, {})[entry.key] = entry
        entry.told = Told.MAYBE

    def doubt_all(self, application_id: int) -> None:
        """See `doubt`: all flows of an application."""
        for entry in self._members.get(application_id, {}).values():
            if entry.told is Told.YES:
                self.doubt(entry)

    def start_over(self) -> None:
        """The anchor knows nothing."""
        self._ghosts.clear()
        self.misnamed.clear()
        for id, flows in self._members.items():
            self._untold[id] = dict(flows)
            for entry in flows.values():
                entry.told = Told.NO

    # --- looking ---

    def of(self, application_id: int) -> list[FlowEntry]:
        """All flows of an application."""
        return list(self._members.get(application_id, {}).values())

    def number_of(self, application_id: int) -> int:
        """How many they are."""
        return len(self._members.get(application_id, ()))

    def number_told(self, application_id: int) -> int:
        """How many of them the anchor knows by their application."""
        return self.number_of(application_id) - len(self._untold.get(application_id, ()))

    def untold(self, application_id: int) -> list[FlowEntry]:
        """The others: those that have to be named one by one."""
        return list(self._untold.get(application_id, {}).values())

    def next_untold(self, application_id: int, most: int) -> list[FlowEntry]:
        """The next of the others, in turn."""
        untold = self._untold.get(application_id, {})
        found = list(islice(untold.values(), most))
        for entry in found:
            untold[entry.key] = untold.pop(entry.key)
        return found

    @property
    def has_untold(self) -> bool:
        """Whether there is any."""
        return bool(self._untold)

    def some(self, application_id: int, most: int) -> Iterator[FlowEntry]:
        """The oldest and the newest flows of an application, `most` of either at most: constant work."""
        members = self._members.get(application_id, {})
        if len(members) <= 2 * most:
            return iter(list(members.values()))
        return chain(islice(members.values(), most), islice(reversed(members.values()), most))
