"""The anchors' addresses by IP version: what is said of an anchor goes to its IPv6 address where there is no IPv4."""

from __future__ import annotations

from collections.abc import Iterable

from upmt_nf.config.mobile_host import AnchorAddress
from upmt_nf.model.errors import KernelError
from upmt_nf.model.flow import Endpoint, IPAddress


class AnchorAddresses:
    """An anchor is known by its first address everywhere but on the wire."""

    def __init__(self, anchors: Iterable[AnchorAddress]) -> None:
        self._at: dict[tuple[IPAddress, int], IPAddress] = {}
        for anchor in anchors:
            for address in (anchor.address, anchor.ipv6_address):
                if address is not None:
                    self._at[anchor.address, address.version] = address
        self._known_as = {address: known for (known, _), address in self._at.items()}

    @property
    def versions(self) -> list[int]:
        """The IP versions by which there is an anchor, the one that all are known by first."""
        return list(dict.fromkeys(version for _, version in self._at))

    def at(self, end: Endpoint, version: int) -> Endpoint:
        """Where an anchor's end is reached by this IP version. Raises KernelError."""
        if (address := self._at.get((end.address, version))) is None:
            raise KernelError(f"anchor {end.address} has no IPv{version} address")
        return Endpoint(address, end.port)

    def known_as(self, address: IPAddress) -> IPAddress | None:
        """Which anchor a packet comes from; None: from none of ours."""
        return self._known_as.get(address)

    def on_the_wire(self, anchor: IPAddress) -> list[IPAddress]:
        """Every address of one anchor."""
        return [address for (known, _), address in self._at.items() if known == anchor]
