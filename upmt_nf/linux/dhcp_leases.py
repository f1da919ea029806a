"""What DHCP clients of this host leave of option 114 (RFC 8910): systemd-networkd's and dhclient's files.

NetworkManager keeps it on the bus (`network_manager.captive_portal`). Changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from upmt_nf.model.errors import PeerError
from upmt_nf.signaling.captive_portal_uri import in_dhclient_leases, in_networkd_link

log = logging.getLogger(__name__)

NETWORKD_LINKS = Path("/run/systemd/netif/links")
DHCLIENT_LEASES = (Path("/var/lib/dhcp"), Path("/var/lib/dhclient"), Path("/run"))
_MOST = 1 << 20
"""Bytes of a file that are read, its last."""


def captive_portal(
    interface: str,
    index: int,
    links: Path = NETWORKD_LINKS,
    leases: tuple[Path, ...] = DHCLIENT_LEASES,
) -> tuple[str, str] | None:
    """What an interface's lease says of a captive portal, and which client kept it; None: nobody says anything.

    Raises PeerError, which names the file, when what it says is no URI.
    """
    found = _in_file(links / str(index), in_networkd_link)
    if found is not None:
        return found, "systemd-networkd"
    files = [
        file
        for directory in leases
        for pattern in (f"dhclient.{interface}.leases", f"dhclient-*{interface}.lease*", "dhclient.leases")
        for file in directory.glob(pattern)
    ]
    for file in sorted(files, key=_written_at, reverse=True):
        found = _in_file(file, lambda text: in_dhclient_leases(text, interface))
        if found is not None:
            return found, "dhclient"
    return None


def _written_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _in_file(file: Path, find: Callable[[str], str | None]) -> str | None:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - _MOST))
            text = opened.read(_MOST).decode("utf-8", "replace")
    except OSError as reason:
        log.debug("%s: %s", file, reason)
        return None
    try:
        return find(text)
    except PeerError as reason:
        raise PeerError(f"{file}: {reason}") from reason
