"""The fuzz targets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fuzz import digest_headers, iptables_matches, json_bodies, sip_datagrams, tunnel_packets

CORPUS = Path(__file__).parent / "corpus"


class Target(NamedTuple):
    """`check` raises when something does not hold; `seeds` are where the search begins; `longest` in bytes."""

    check: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    longest: int


TARGETS = {
    "tunnel": Target(tunnel_packets.check, tunnel_packets.seeds, 1500),
    "json": Target(json_bodies.check, json_bodies.seeds, 1200),
    "match": Target(iptables_matches.check, iptables_matches.seeds, 540),
    "digest": Target(digest_headers.check, digest_headers.seeds, 700),
    "sip": Target(sip_datagrams.check, sip_datagrams.seeds, 1500),
}
