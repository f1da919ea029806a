"""Every name and number that UPMT takes from the host, in one place, drawn.

The fwmark field: 13 bits that Kubernetes (0x4000, 0x8000), Tailscale (0xff0000) and Calico (0xffff0000) leave
alone. We read and write these bits only, always with the mask.

     31                                  13 12 11                     0
    +--------------------------------------+--+------------------------+
    |            not ours                  |K |           N            |
    +--------------------------------------+--+------------------------+
      K = 0: N is an application's id (1..4095), 0 = not yet classified
      K = 1: N = 1..254: an outer packet of access network N: never to be tunnelled again
             N = 0x100, 0x101: to the virtual interface, and the kernel itself knows whose it is
             N = 0xf00..0xffd: in a conntrack mark: the agent knows this flow, as of this generation of rules
             N = 0xffe:  a socket of an application that goes by the tunnels: whose it is netfilter says later
             N = 0xfff:  left alone: goes out as if UPMT were not there

Routing tables and priorities: a band of our own with gaps, below Tailscale's 5210 and far below main's 32766.

     table 7000         virtual: one default, to the virtual interface, with the virtual address as source
     table 7000 + N     access network N: a default by its gateway, then unreachable: an outer packet never strays
"""

from typing import Final

MARK_MASK: Final = 0x1FFF
MARK_OUTER: Final = 0x1000
"""K: set on packets that must never be tunnelled."""
MARK_NATIVE: Final = 0x1FFF
"""Left alone."""
MARK_TUNNELLED: Final = 0x1FFE
"""On a socket from its creation: its source address is to be the virtual one."""
MARK_ADMITTED: Final = 0x1100
"""A packet that the kernel let in by itself (`bpf/admission.bpf.c`): it passes the agent's queue by."""
MARK_UNANSWERED: Final = 0x1101
"""The same, and nothing has come back yet: at the other end it is, perhaps, for the agent."""
MARKS_OF_KNOWN: Final = 0x1F00
"""`connmark 0x1f00/0x1f00`: any of the conntrack marks, whatever their generation."""
_MARK_JUDGED: Final = 0x1F00
JUDGED_GENERATIONS: Final = 0xFE
MAX_APPLICATION_ID: Final = 0x0FFF
MAX_NETWORKS: Final = 254

TABLE_VIRTUAL: Final = 7000

PRIORITY_OUTER: Final = 4600
"""`fwmark 0x1000+N/0x1fff lookup 7000+N`: outer packets, by the table of their own network."""
PRIORITY_NATIVE: Final = 4620
"""`fwmark 0x1fff/0x1fff lookup main`."""
PRIORITY_ANCHOR: Final = 4640
"""`to ANCHOR lookup main`: the anchor itself is never reached through a tunnel (no loops)."""
PRIORITY_GUARDED_LOCAL: Final = 4644
"""`fwmark APPLICATION lookup main suppress_prefixlength 0`: a guarded application reaches the LAN ..."""
PRIORITY_GUARDED: Final = 4648
"""`fwmark APPLICATION lookup 7000`: ... and nothing else outside of the tunnels, wherever its socket is bound to."""
PRIORITY_CARE_OF: Final = 4660
"""`from CARE-OF lookup 7000+N`: sockets bound to a care-of address leave by that network, untunnelled."""
PRIORITY_MULTICAST: Final = 4670
"""`to 224.0.0.0/4 goto 4710`: multicast and limited broadcast stay on the link."""
PRIORITY_LOCAL: Final = 4680
"""`lookup main suppress_prefixlength 0`: everything more specific than a default route stays native (the LAN)."""
PRIORITY_MARKED_SOCKETS: Final = 4681
"""`fwmark 0x1ffe lookup 7000`: sockets that were told apart when they were created."""
PRIORITY_STEPS: Final = 4682
"""`uidrange U-U goto 4710` and the like: what is known of an application when its source address is chosen ..."""
MAX_STEPS: Final = 17
"""... in the order of the application rules; each change between native and tunnelled takes the next number."""
PRIORITY_VIRTUAL: Final = 4700
"""`iif lo lookup 7000`: the rest of what this host sends goes to the virtual interface."""
PRIORITY_BEYOND: Final = 4710
"""`nop`: where `goto` leads what is left alone; what others have behind it applies as if UPMT were not there."""

ROUTE_PROTOCOL: Final = 117
"""`protocol` of our routes and rules (u = 0x75), so that others can tell them and we find them again."""

VIRTUAL_INTERFACE: Final = "upmt0"
CHAIN_PREFIX: Final = "UPMT-"
CGROUP_ROOT: Final = "upmt"
"""Our cgroups are CGROUP_ROOT/<netns cookie>/<application>, so that labs on one machine do not meet."""
CONTROL_SOCKET: Final = "\0upmt/control"
"""Abstract Unix socket: one per network namespace, which also makes it the lock against a second daemon."""
STATE_DIRECTORY: Final = "/run/upmt"
"""Holds one directory a network namespace, named by its cookie: the journal and the log of a lab's daemon."""
CONFIG_DIRECTORY: Final = "/etc/upmt"

QUEUE_OUTBOUND: Final = 7000
"""NFQUEUE number of packets that leave by the virtual interface."""
QUEUE_INBOUND: Final = 7001
"""NFQUEUE number of tunnel packets that arrive."""

QUEUE_FIRST: Final = 7002
"""NFQUEUE number of first packets that only a look at the process can tell to be left alone."""

TUNNEL_PORT: Final = 1800
SIGNALLING_PORT: Final = 5060
MEASUREMENT_PORT: Final = 862
"""STAMP, RFC 8762 section 4.1."""


def outer_mark(network_index: int) -> int:
    """The mark of access network N's outer packets; N from 1 to MAX_NETWORKS."""
    if not 1 <= network_index <= MAX_NETWORKS:
        raise ValueError(f"network index {network_index} is not within 1..{MAX_NETWORKS}")
    return MARK_OUTER | network_index


def judged_mark(generation: int) -> int:
    """The conntrack mark of flows that the agent knows. Generations follow each other in a circle."""
    return _MARK_JUDGED | generation % JUDGED_GENERATIONS


def network_table(network_index: int) -> int:
    """The routing table of access network N; N from 1 to MAX_NETWORKS."""
    if not 1 <= network_index <= MAX_NETWORKS:
        raise ValueError(f"network index {network_index} is not within 1..{MAX_NETWORKS}")
    return TABLE_VIRTUAL + network_index


def application_in(mark: int) -> int:
    """The application id that a packet's fwmark carries, or 0."""
    field = mark & MARK_MASK
    return 0 if field & MARK_OUTER else field
