"""One flow in PAFT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upmt_nf.datapath.arrivals import Arrivals
from upmt_nf.datapath.membership import Told
from upmt_nf.model.flow import ICMP, ICMPV6, TCP, UDP, FlowBytes, FlowKey, owner_of
from upmt_nf.model.identity import ApplicationId

if TYPE_CHECKING:
    from upmt_nf.datapath.paft import Tunnel

IDLE_SECONDS = {TCP: 7440.0, UDP: 180.0, ICMP: 30.0, ICMPV6: 30.0}
"""How long a silent flow is kept: TCP as RFC 5382 asks of a NAT, UDP and ICMP as conntrack does."""
IDLE_SECONDS_OTHERS = 600.0


class Copied:
    """What one tunnel brought of a redundant flow: when it last did (seconds), and how often another one did since."""

    __slots__ = ("heard", "missed")

    def __init__(self, heard: float) -> None:
        self.heard = heard
        self.missed = 0


class FlowEntry:
    """One flow. `pinned` overrides the application's tunnel.

    `left` holds the tunnels that it was explicitly moved from and until when late packets on them are expected;
    `previous` is the one that learnt data made it leave. `mark` and `dscp` are those of the packet that it was
    classified by, `why` what the classifier said of its reasons, `socket` the cookie of its socket if that was asked
    for, `introduced` how often a packet of it was looked at since. `is_permitted`: the anchor has judged its
    correspondent. `told`: see `Told`. At the anchor, `application_id` is 0 or one of `named_applications`, and `pinned`
    counts only while `course` is that of the application. `copies`: at the anchor, the tunnels by which the host sends
    each packet of it, if by more than one. `is_mirrored`: a mirror has it, whatever became of it there.
    Counters are the mobile host's view at both ends: `out` is towards the correspondent. `offloaded` is how much of
    them a mirror has told so far: packets and bytes out, packets and bytes in.
    """

    __slots__ = (
        "application_id",
        "arrivals",
        "bytes_in",
        "bytes_out",
        "command",
        "copies",
        "course",
        "created",
        "dscp",
        "introduced",
        "is_mirrored",
        "is_permitted",
        "key",
        "last_seen",
        "left",
        "mark",
        "offloaded",
        "packets_in",
        "packets_out",
        "pid",
        "pinned",
        "previous",
        "socket",
        "told",
        "why",
    )

    def __init__(
        self, key: FlowBytes, application_id: ApplicationId, now: float, pid: int, command: str
    ) -> None:
        self.key = key
        self.application_id = application_id
        self.pinned: Tunnel | None = None
        self.previous: Tunnel | None = None
        self.left: tuple[tuple[Tunnel, float], ...] = ()
        self.created = self.last_seen = now
        self.mark = self.dscp = 0
        self.socket = self.introduced = self.course = 0
        self.told = Told.NO
        self.is_permitted = self.is_mirrored = False
        self.pid = pid
        self.command = command
        self.why: object = None
        self.arrivals: Arrivals | None = None
        self.copies: dict[Tunnel, Copied] | None = None
        self.offloaded = (0, 0, 0, 0)
        self.packets_in = self.bytes_in = self.packets_out = self.bytes_out = 0

    @property
    def flow(self) -> FlowKey:
        """The flow as an object."""
        return FlowKey.unpacked(self.key)

    @property
    def owner(self) -> bytes:
        """The packed virtual address."""
        return owner_of(self.key)

    @property
    def idle_limit(self) -> float:
        """Seconds of silence after which the entry is forgotten."""
        return IDLE_SECONDS.get(self.key[0], IDLE_SECONDS_OTHERS)

    def is_idle(self, now: float, share: float = 1.0) -> bool:
        """Whether it was silent too long, or for this share of it."""
        return now - self.last_seen > share * self.idle_limit

    def has_left(self, tunnel: Tunnel, now: float) -> bool:
        """Whether it was explicitly moved away from `tunnel` so lately that packets may still be on that path."""
        return any(tunnel is left and now < until for left, until in self.left)
