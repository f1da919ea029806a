"""The lab as data: the paper's fig. 6, with the paper's own addresses.

mh if0 192.168.100.25 -- lan gw0 wan 160.80.100.1 --+
                                                    inet -- 45.0.0.1 wan an
mh if1 10.10.10.25 ----- lan gw1 wan 65.0.0.1 ------+ | `- 86.0.0.1 eth0 ch
                                                      `--- 46.0.0.1 wan an2   (with two anchors)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

ANCHOR = "45.0.0.1"
SECOND_ANCHOR = "46.0.0.1"
CORRESPONDENT = "86.0.0.1"
POOL = "1.2.3.4-1.2.3.254"
"""The first address is the paper's VIPA."""
SECOND_POOL = "1.2.4.3-1.2.4.254"
TUNNEL_PORT = 1800
NAT_PORTS = "10000-65535"


@dataclass(frozen=True, slots=True)
class Port:
    """An interface of a host; `address` with its prefix length."""

    host: str
    interface: str
    address: str


@dataclass(frozen=True, slots=True)
class Cable:
    """Two ports that are connected."""

    one: Port
    other: Port


@dataclass(frozen=True, slots=True)
class Default:
    """A default route of a host."""

    host: str
    gateway: str
    interface: str
    metric: int = 0


@dataclass(frozen=True, slots=True)
class AccessNetwork:
    """A network of the mobile host, behind a gateway that translates its addresses.

    `nat_port` is the outer source port that the gateway gives to the tunnel from `tunnel_port`, as in fig. 6.
    """

    name: str
    interface: str
    gateway: str
    tunnel_port: int
    nat_port: int


HOSTS = ("mh", "an", "ch", "gw0", "gw1", "inet")
ALL_HOSTS = (*HOSTS, "an2")
"""With the second anchor, which a lab has only when it is asked for."""
ROUTERS = ("gw0", "gw1", "inet")

CABLES = (
    Cable(Port("mh", "if0", "192.168.100.25/24"), Port("gw0", "lan", "192.168.100.1/24")),
    Cable(Port("mh", "if1", "10.10.10.25/24"), Port("gw1", "lan", "10.10.10.1/24")),
    Cable(Port("gw0", "wan", "160.80.100.1/24"), Port("inet", "gw0", "160.80.100.254/24")),
    Cable(Port("gw1", "wan", "65.0.0.1/24"), Port("inet", "gw1", "65.0.0.254/24")),
    Cable(Port("an", "wan", f"{ANCHOR}/24"), Port("inet", "an", "45.0.0.254/24")),
    Cable(Port("ch", "eth0", f"{CORRESPONDENT}/24"), Port("inet", "ch", "86.0.0.254/24")),
    Cable(Port("an2", "wan", f"{SECOND_ANCHOR}/24"), Port("inet", "an2", "46.0.0.254/24")),
)

DEFAULTS = (
    Default("mh", "192.168.100.1", "if0", 100),
    Default("mh", "10.10.10.1", "if1", 200),
    Default("gw0", "160.80.100.254", "wan"),
    Default("gw1", "65.0.0.254", "wan"),
    Default("an", "45.0.0.254", "wan"),
    Default("ch", "86.0.0.254", "eth0"),
    Default("an2", "46.0.0.254", "wan"),
)

NETWORKS = {
    network.name: network
    for network in (
        AccessNetwork("net0", "if0", "gw0", 1500, 33000),
        AccessNetwork("net1", "if1", "gw1", 1600, 34000),
    )
}


def hosts_with(anchors: int) -> tuple[str, ...]:
    """The hosts of a lab with one or two anchors."""
    return HOSTS if anchors == 1 else ALL_HOSTS


class LinkAction(Enum):
    """What to do to a network."""

    UP = "up"
    DOWN = "down"
    BLACKHOLE = "blackhole"
    RESTORE = "restore"
