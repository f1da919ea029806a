"""The process behind a flow: by the kernel's record of sockets where there is one, else by a search."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from upmt_nf.classify.facts import ProcessFacts
from upmt_nf.classify.reasons import Finder
from upmt_nf.datapath.flow_entry import FlowEntry
from upmt_nf.linux.known_processes import KnownProcesses
from upmt_nf.linux.process_events import ProcessEvents
from upmt_nf.linux.processes import Processes
from upmt_nf.linux.sock_diag import SockDiag, SocketFacts
from upmt_nf.linux.socket_record import Deed, Maker, SocketRecord
from upmt_nf.model.errors import FacilityError
from upmt_nf.model.flow import TCP, FlowKey

log = logging.getLogger(__name__)

_NAMED_AT_ONCE = 100
_UNKNOWN = -1
_STILL_ALIVE = 10.0
"""Seconds of silence after which a flow's socket is not looked for any more."""


class Owner(NamedTuple):
    """Who a flow's packets are from. `found_by` None: nobody looked."""

    process: ProcessFacts | None
    found_by: Finder | None
    is_certain: bool = True
    has_socket: bool = True
    cookie: int = 0


UNASKED = Owner(None, None)


class FlowOwners:
    """Looks for the processes behind flows. `watch` makes it quicker, and right for programs that end at once."""

    def __init__(self) -> None:
        self._sockets = SockDiag()
        # The daemon's own raw sockets send no application's packets.
        self._own = os.getpid()
        self._processes = Processes(ignored=self._own)
        self._known = KnownProcesses(time.monotonic, self._processes.facts_of)
        self._record: SocketRecord | None = None
        self._unfound = 0
        self.makers: int | None = None
        """A map for the record of sockets, where another program in the kernel reads it."""
        self.cookie_of_ended: Callable[[FlowKey], int] = lambda _: 0
        """Tells of sockets that were closed a moment ago."""
        self.are_cgroups_asked = True
        """Whether any rule asks for control groups: they are read each time, as the kernel tells nothing of them."""

    def watch(self, hierarchy: Path | None) -> ProcessEvents | None:
        """Use what the kernel offers from now on; gives the events, to be read by `catch_up`.

        `hierarchy` is where cgroup v2 is mounted.
        """
        events = None
        try:
            events = ProcessEvents()
            self._known.listen(events)
        except FacilityError as reason:
            log.info("programs are looked at when they send something: %s", reason)
        try:
            if hierarchy is None:
                raise FacilityError("there is no cgroup v2")
            self._record = SocketRecord(hierarchy, table=self.makers)
        except FacilityError as reason:
            log.info("sockets are searched for in /proc: %s", reason)
        return events

    @property
    def means(self) -> dict[str, bool]:
        """What of the kernel is in use."""
        return {"process_events": self._known.is_told, "socket_record": self._record is not None}

    @property
    def counters(self) -> dict[str, int]:
        """What was not found out, by reason."""
        return {
            "processes_unsearched": self._processes.unsearched,
            "processes_not_found": self._unfound,
            "process_events_lost": self._known.lost,
        }

    def catch_up(self) -> None:
        """Take notice of what processes did."""
        self._known.catch_up()

    def close(self) -> None:
        """Take what is in the kernel out of it."""
        self._known.close()
        if self._record is not None:
            self._record.close()
            self._record = None
        self._sockets.close()

    def facts_of(self, pid: int) -> ProcessFacts | None:
        """What can be known of a process; None when there is none of that number."""
        return self._known.facts_of(pid)

    def behind(self, flow: FlowKey) -> Owner:
        """The process behind a flow, by the quickest way that is certain."""
        socket = self._sockets.find(flow)
        if socket is not None:
            return self._of_socket(socket, flow.protocol)._replace(cookie=socket.cookie)
        # Closed already, as by a program that says one thing and ends; or the kernel's own packet.
        return self._of_socket(SocketFacts(0, 0, self.cookie_of_ended(flow)), flow.protocol)._replace(
            has_socket=False
        )

    def _of_socket(self, socket: SocketFacts, protocol: int) -> Owner:
        maker = self._maker_of(socket)
        # Whose connect() or sendto() sends a packet is its sender. Who did less may have handed the socket on.
        has_sent = maker is not None and (
            maker.deed is Deed.SENT or (maker.deed is Deed.CONNECTED and protocol == TCP)
        )
        if (
            maker is not None
            and socket.inode
            and (has_sent or self._processes.has_open(maker.pid, socket.inode))
        ):
            facts, is_there = self._that_made(maker)
            if facts is not None and is_there:
                return Owner(facts, Finder.SOCKET_RECORD)
        if socket.inode:
            pid = self._processes.owner_of(socket.inode, socket.uid, time.monotonic())
            if pid is not None and (facts := self._known.facts_of(pid)) is not None:
                return Owner(facts, Finder.SEARCH, socket.is_certain)
        if maker is not None:
            # Closed, or its process has ended: whoever made it is the one.
            facts, is_there = self._that_made(maker)
            if facts is not None:
                return Owner(facts, Finder.SOCKET_RECORD if is_there else Finder.REMEMBERED)
            # It ended before anybody could look: of what it was called the kernel has kept the short name.
            return Owner(_as_recorded(maker), Finder.SOCKET_RECORD, is_certain=False)
        return self._nobody()

    def _that_made(self, maker: Maker) -> tuple[ProcessFacts | None, bool]:
        return self._known.that_made(maker.pid, maker.made, with_cgroup=self.are_cgroups_asked)

    def _nobody(self) -> Owner:
        self._unfound += 1
        return Owner(None, Finder.NOBODY, is_certain=False)

    def _maker_of(self, socket: SocketFacts) -> Maker | None:
        if self._record is None or not socket.cookie:
            return None
        maker = self._record.maker_of(socket.cookie)
        return maker if maker is not None and maker.pid != self._own else None

    # --- for people who ask ---

    def look(self, flow: FlowKey) -> tuple[SocketFacts | None, ProcessFacts | None]:
        """The socket and the process behind a flow as they are now, whatever it costs."""
        socket = self._sockets.find(flow)
        pid = self._processes.owners_of([socket.inode]).get(socket.inode) if socket is not None else None
        return socket, self.facts_of(pid) if pid else None

    def name_processes(self, entries: Iterable[FlowEntry], now: float) -> None:
        """Find the processes of flows that were not looked up when they began, as netfilter had decided alone.

        Of the busiest moments' flows only the newest: packets wait meanwhile.
        """
        unnamed = [entry for entry in entries if not entry.pid and now - entry.last_seen < _STILL_ALIVE]
        sockets = {
            entry.key: socket.inode
            for entry in unnamed[-_NAMED_AT_ONCE:]
            if (socket := self._sockets.find(entry.flow)) is not None
        }
        owners = self._processes.owners_of(set(sockets.values()))
        for entry in unnamed:
            entry.pid = owners.get(sockets.get(entry.key, 0), 0)
            entry.command = self._processes.command_of(entry.pid) if entry.pid else ""


def _as_recorded(maker: Maker) -> ProcessFacts:
    """As much of a process that is gone as stands in the record of sockets: no file, no arguments, no ancestors."""
    return ProcessFacts(maker.pid, maker.command, "", (), maker.uid, _UNKNOWN, "", ())
