"""Open forwards and static NATs -> lines for the anchor's rule file, each with its reason as comment.

    world ---- external:ports --DNAT--> virtual address:ports ---- tunnels ---- host
    world <--- external ------ <-SNAT-- virtual address (static NAT only; a forward's answers conntrack puts back)

The lines of `incoming` belong into nat PREROUTING's chain, those of `outgoing` into nat POSTROUTING's.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from upmt_nf.model.flow import PROTOCOL_NAMES, IPAddress
from upmt_nf.model.forward import Forward, Opening, StaticNat

IPNetwork = IPv4Network | IPv6Network

INCOMING = "UPMT-INCOMING"
OUTGOING = "UPMT-NAT"


def incoming_lines(openings: Iterable[Opening], blocks: Iterable[tuple[IPNetwork, IPNetwork]]) -> list[str]:
    """From outside in: forwards and single addresses as they come, then whole pools (inside, outside)."""
    lines = []
    for opening in openings:
        match opening.what:
            case Forward() as forward:
                name = PROTOCOL_NAMES[forward.protocol]
                ports = f"{forward.ports.first}"
                if len(forward.ports) > 1:
                    ports += f":{forward.ports.last}"
                lines.append(
                    f"-A {INCOMING} -d {forward.external} -p {name} -m {name} --dport {ports} "
                    f"{_reason(forward)} -j DNAT --to-destination {_destination(forward, opening.address)}"
                )
            case StaticNat() as static:
                lines.append(
                    f"-A {INCOMING} -d {static.external} {_reason(static)} "
                    f"-j DNAT --to-destination {opening.address}"
                )
    lines += [f"-A {INCOMING} -d {outside} -j NETMAP --to {inside}" for inside, outside in blocks]
    return lines


def outgoing_lines(openings: Iterable[Opening], blocks: Iterable[tuple[IPNetwork, IPNetwork]]) -> list[str]:
    """From inside out: what has an external address of its own leaves by that."""
    lines = [
        f"-A {OUTGOING} -s {opening.address} {_reason(opening.what)} "
        f"-j SNAT --to-source {opening.what.external}"
        for opening in openings
        if isinstance(opening.what, StaticNat)
    ]
    return lines + [f"-A {OUTGOING} -s {inside} -j NETMAP --to {outside}" for inside, outside in blocks]


def _destination(forward: Forward, address: IPAddress) -> str:
    if forward.host_ports == forward.ports:
        return str(address)
    text = f"[{address}]" if address.version == 6 else str(address)
    if len(forward.ports) == 1:
        return f"{text}:{forward.host_ports}"
    return f"{text}:{forward.host_ports}/{forward.ports.first}"


def _reason(what: Forward | StaticNat) -> str:
    return f"-m comment --comment {shlex.quote(str(what))}"
