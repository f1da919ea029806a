"""What a mobile host's daemon that was killed left in the kernel, as far as its fast plane goes on by it.

The maps tell flows, tunnels and ports (`fast_plane`); the virtual interface tells the virtual address, netfilter's
rules the mark of known flows. Reads only.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from pyroute2 import IPRoute

from upmt_nf.linux import netfilter
from upmt_nf.linux.journal import Journal, MapsPinned
from upmt_nf.linux.off_loop import off_loop
from upmt_nf.model.flow import IPAddress
from upmt_nf.model.names import JUDGED_GENERATIONS, MARK_MASK, VIRTUAL_INTERFACE, judged_mark


@dataclass(frozen=True, slots=True)
class LeftBehind:
    """The virtual address that flows still use, and the generation of rules that they are known by."""

    virtual_address: IPAddress
    generation: int


def left_behind(journal: Journal) -> LeftBehind | None:
    """None when the programs of an earlier daemon have nothing to go on with."""
    pinned = [Path(record.path) for record in journal.records() if isinstance(record, MapsPinned)]
    if not any((path / "flows").exists() for path in pinned):
        return None
    address, generation = _address(), _generation()
    return LeftBehind(address, generation) if address is not None and generation is not None else None


@off_loop
def _address() -> IPAddress | None:
    with IPRoute() as route:
        for index in route.link_lookup(ifname=VIRTUAL_INTERFACE):
            for message in route.get_addr(index=index):
                if message["scope"] == 0:
                    return ip_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
    return None


def _generation() -> int | None:
    marks = {judged_mark(generation): generation for generation in range(JUDGED_GENERATIONS)}
    for rule in netfilter.present("mangle", "UPMT-OUTBOUND"):
        said = str(rule.get("connmark", {}).get("mark", "")).partition("/")[0]
        if said and int(said, 0) & MARK_MASK in marks:
            return marks[int(said, 0) & MARK_MASK]
    return None
