"""Flows whose socket was closed: the next one of the same ports may be another program's and is looked at anew."""

from __future__ import annotations

import logging
from collections import OrderedDict

from upmt_nf.datapath.host_forwarder import HostForwarder
from upmt_nf.datapath.paft import Paft
from upmt_nf.linux.conntrack_entries import Conntrack
from upmt_nf.linux.socket_ends import EndedSocket, SocketEnds
from upmt_nf.model.errors import FacilityError
from upmt_nf.model.flow import UDP, FlowBytes, FlowKey, IPAddress

_REMEMBERED = 16384

log = logging.getLogger(__name__)


class FlowEnds:
    """Reads the ends of sockets; tells the forwarder, and netfilter, which lets known flows pass by the agent."""

    def __init__(self, paft: Paft) -> None:
        self._paft = paft
        self._ends: SocketEnds | None = None
        self._conntrack: Conntrack | None = None
        self._waiting: list[EndedSocket] = []
        self._cookies: OrderedDict[tuple[int, int, bytes, int], int] = OrderedDict()

    def watch(self) -> SocketEnds | None:
        """Begin; gives what is to be read by `take` when it is readable. None where the kernel does not tell."""
        try:
            self._ends, self._conntrack = SocketEnds(), Conntrack()
        except (FacilityError, OSError) as reason:
            log.info("ports that are used again are taken for the same flow: %s", reason)
        return self._ends

    @property
    def lost(self) -> int:
        """Ends that the kernel could not tell us."""
        return self._ends.lost if self._ends is not None else 0

    def take(self, forwarder: HostForwarder | None, own: IPAddress | None) -> None:
        """Take notice of the sockets closed until now. `own` is the virtual address."""
        if self._ends is None or self._conntrack is None:
            return
        self._read()
        ended, self._waiting = self._waiting, []
        if forwarder is None or own is None:
            return
        packed, flows = own.packed, self._paft.flows
        keys = [
            key
            for one in ended
            if len(one.destination) == len(packed)
            and (key := _key_of(one, packed))
            and (entry := flows.get(key)) is not None
            and not (key[0] == UDP and HostForwarder.is_only_the_kernels(entry))
        ]
        keys += self._of_unconnected(ended)
        forwarder.end(keys)
        # A TCP connection that is opened anew gets a new entry by itself, and netfilter has no mark of flows on trial.
        self._conntrack.forget(
            key for key in keys if key[0] == UDP and not HostForwarder.is_on_trial(self._paft.flows[key])
        )

    def cookie_of(self, flow: FlowKey) -> int:
        """The cookie of the socket that a flow had a moment ago, or 0: its packets may come after its end."""
        self._read()
        place = (flow.protocol, flow.source_port)
        return (
            self._cookies.get((*place, flow.destination.packed, flow.destination_port))
            or self._cookies.get((*place, b"", 0))
            or 0
        )

    def _read(self) -> None:
        if self._ends is None:
            return
        cookies = self._cookies
        for one in self._ends.read():
            self._waiting.append(one)
            place = one[:4]
            cookies[place] = one.cookie
            cookies.move_to_end(place)
        while len(self._cookies) > _REMEMBERED:
            self._cookies.popitem(last=False)

    def _of_unconnected(self, ended: list[EndedSocket]) -> list[FlowBytes]:
        """The flows of sockets that were not connected: any of their port."""
        ports = {(one.protocol, one.source_port) for one in ended if not one.destination}
        if not ports:
            return []
        return [key for key in self._paft.flows if (key[0], key[-4] << 8 | key[-3]) in ports]

    def close(self) -> None:
        """Listen no more."""
        if self._ends is not None:
            self._ends.close()
        if self._conntrack is not None:
            self._conntrack.close()


def _key_of(ended: EndedSocket, own: bytes) -> FlowBytes:
    """See `FlowKey.packed`."""
    protocol, source_port, destination, destination_port, _ = ended
    return b"%c%b%b%b%b" % (
        protocol,
        own,
        destination,
        source_port.to_bytes(2, "big"),
        destination_port.to_bytes(2, "big"),
    )
