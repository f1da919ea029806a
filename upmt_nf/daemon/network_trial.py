"""What is known of a network's way to the anchor, check by check: `upmt networks test NAME`. Values in, values out.

It tells what the tunnel's set-up, probes, tests and binding trials have found.
"""

from __future__ import annotations

from typing import Any

from upmt_nf.mobility.filter_trial import FilterResult, Oddity, Passing
from upmt_nf.mobility.host_status import NetworkStatus
from upmt_nf.mobility.network_test import Mapping, TestResult
from upmt_nf.mobility.portal_checks import NOT_SAID, Finding, LeasePortal
from upmt_nf.signaling.captive_portal_uri import UNRESTRICTED

_USABLE = ("up", "suspect")


def network_trial(status: NetworkStatus, lease: LeasePortal = NOT_SAID) -> dict[str, Any]:
    """`{network, passed, checks [{check, state, detail}]}`; `state` is ok, failed or unknown.

    `lease`: what the network says of a captive portal by DHCP.
    """
    is_usable = status.state in _USABLE
    checks = [_link(status), _anchor(status, is_usable, lease)]
    if lease != NOT_SAID:
        checks.append(_lease(lease))
    if status.test is not None:
        checks.append(_ports(status.test))
    if is_usable:
        checks += [_nat(status), _binding(status), _mtu(status), _filters(status)]
        if status.filters is not None and Oddity.HAIRPIN in status.filters.found:
            checks.append(_hairpin(status.filters))
        checks += [_ipv6(status), _quality(status)]
    return {"network": status.name, "passed": is_usable, "checks": checks}


def trial_report(status: NetworkStatus, lease: LeasePortal = NOT_SAID) -> dict[str, Any]:
    """`trial` of one of `networks`: whether applications may be there, what failed first, and what NAT there is."""
    trial = network_trial(status, lease)
    failed = [check for check in trial["checks"] if check["state"] == "failed"]
    nat = None
    if status.reflexive is not None:
        nat = "none" if status.reflexive.address == status.care_of_address else "translated"
    mapping = _mapping(status)
    return {
        "passed": trial["passed"],
        "reason": f"{failed[0]['check']}: {failed[0]['detail']}" if failed else None,
        "nat": nat,
        "nat_mapping": mapping.value if mapping is not None else None,
        "portal": _portal(status),
        "lease_portal": {"uri": lease.uri, "source": lease.source, "reason": lease.reason},
        "filters": _filter_report(status),
        "ipv6": {
            "address": str(status.ipv6) if status.ipv6 is not None else None,
            "anchor": _to_anchor(status),
        },
        "open_ports": list(status.test.open_ports) if status.test is not None else None,
    }


def _check(name: str, state: str, detail: str) -> dict[str, Any]:
    return {"check": name, "state": state, "detail": detail}


def _link(status: NetworkStatus) -> dict[str, Any]:
    if status.care_of_address is None or status.state == "down":
        return _check("link", "failed", status.reason or "no interface, carrier or address")
    way = f" by {status.gateway}" if status.gateway else ""
    return _check("link", "ok", f"{status.care_of_address} on {status.interface}{way}")


def _anchor(status: NetworkStatus, is_usable: bool, lease: LeasePortal) -> dict[str, Any]:
    if is_usable:
        return _check("anchor", "ok", f"UDP passes both ways, tunnel {status.tunnel_id}")
    if status.portal is not None and status.portal.finding is Finding.PORTAL:
        named = lease.uri if lease.uri != UNRESTRICTED else None
        place = status.portal.location or named
        where = f": log in at {place}" if place else ""
        return _check("anchor", "failed", f"a captive portal is in the way{where}")
    return _check("anchor", "failed", status.reason or "the anchor has not answered yet")


def _lease(lease: LeasePortal) -> dict[str, Any]:
    if lease.uri is None:
        return _check("portal", "unknown", lease.reason or "")
    by = f"by DHCP, says {lease.source}"
    if lease.uri == UNRESTRICTED:
        return _check("portal", "ok", f"the network has none, {by}")
    return _check("portal", "ok", f"the network names {lease.uri} as its captive portal's, {by}")


def _mapping(status: NetworkStatus) -> Mapping | None:
    test = status.test or TestResult((), (), 0.0)
    return test.mapping(status.care_of_address, status.reflexive)


def _portal(status: NetworkStatus) -> dict[str, Any] | None:
    found = status.portal
    return {"finding": found.finding.value, "location": found.location} if found is not None else None


def _ports(test: TestResult) -> dict[str, Any]:
    if not test.seen:
        asked = ", ".join(str(port) for port in test.asked)
        return _check("ports", "failed", f"UDP to no port of the anchor passes, of {asked}")
    closed = [port for port in test.asked if port not in test.open_ports]
    detail = f"UDP passes to {', '.join(str(port) for port in test.open_ports)} of the anchor"
    return _check("ports", "ok", detail + (f", not to {', '.join(map(str, closed))}" if closed else ""))


def _nat(status: NetworkStatus) -> dict[str, Any]:
    if status.reflexive is None:
        return _check("nat", "unknown", "the anchor has not said how it sees us")
    if status.reflexive.address == status.care_of_address:
        return _check("nat", "ok", f"none on the way: the anchor sees {status.reflexive}")
    mapping = _mapping(status)
    kind = f", its mapping is {mapping.value}" if mapping is not None else ""
    return _check("nat", "ok", f"there is one: the anchor sees {status.reflexive}{kind}")


def _binding(status: NetworkStatus) -> dict[str, Any]:
    if status.binding_time is None:
        detail = f"not found out yet; kept alive every {status.keepalive:.0f} s while idle"
        return _check("binding_time", "unknown", detail)
    return _check("binding_time", "ok", f"mappings live for {status.binding_time:.0f} s of silence at least")


def _mtu(status: NetworkStatus) -> dict[str, Any]:
    state = "ok" if status.mtu >= 1280 else "failed"
    detail = f"inner packets of {status.mtu} bytes"
    if status.path_mtu is not None:
        detail += ", tried both ways"
    return _check("mtu", state, detail if state == "ok" else f"{detail}: IPv6 needs 1280")


_SAID = {
    Oddity.ZERO_CHECKSUM: "UDP without a checksum",
    Oddity.DSCP: "DSCP",
    Oddity.ECN: "ECN",
    Oddity.FRAGMENTS: "fragments",
}
_HEEDED = {
    Oddity.ZERO_CHECKSUM: "the tunnel's packets have them",
    Oddity.DSCP: "the tunnel's packets have none",
    Oddity.ECN: "the tunnel's packets have none",
    Oddity.FRAGMENTS: "tunnels send none",
}


_SIP = {True: "changed", False: "passes", None: None}


def _filter_report(status: NetworkStatus) -> dict[str, str | None]:
    """Of each kind of unusual packets what becomes of them; null: not known."""
    found = status.filters.found if status.filters is not None else {}
    kinds = (*_SAID, Oddity.HAIRPIN)
    kept = {kind.value.replace("-", "_"): found[kind].value if kind in found else None for kind in kinds}
    return kept | {"sip": _SIP[status.is_sip_changed]}


def _filters(status: NetworkStatus) -> dict[str, Any]:
    found = status.filters.found if status.filters is not None else {}
    said = [
        f"{what} {found[kind].value}" + (f" ({_HEEDED[kind]})" if found[kind] is Passing.DROPPED else "")
        for kind, what in _SAID.items()
        if kind in found
    ]
    if status.is_sip_changed is not None:
        said.append("SIP changed by a gateway (ALG)" if status.is_sip_changed else "SIP passes")
    return _check("filters", "ok" if said else "unknown", ", ".join(said) or "not tried yet")


def _hairpin(filters: FilterResult) -> dict[str, Any]:
    does = "sends" if filters.found[Oddity.HAIRPIN] is Passing.PASSES else "does not send"
    return _check("hairpin", "ok", f"the NAT {does} back what is sent to our outer address from behind it")


def _to_anchor(status: NetworkStatus) -> str | None:
    """What becomes of packets to the anchor over IPv6, where that is known."""
    if status.care_of_address is not None and status.care_of_address.version == 6:
        return Passing.PASSES.value if status.state in _USABLE else None
    found = status.filters.found if status.filters is not None else {}
    return found[Oddity.IPV6].value if Oddity.IPV6 in found else None


def _ipv6(status: NetworkStatus) -> dict[str, Any]:
    if status.ipv6 is None:
        return _check("ipv6", "unknown", "no global IPv6 address")
    match _to_anchor(status):
        case Passing.PASSES.value:
            return _check("ipv6", "ok", f"{status.ipv6} reaches the anchor")
        case Passing.DROPPED.value:
            return _check("ipv6", "ok", f"{status.ipv6} does not reach the anchor; the tunnel goes over IPv4")
    return _check("ipv6", "unknown", f"{status.ipv6}; whether it reaches the anchor was not tried")


def _quality(status: NetworkStatus) -> dict[str, Any]:
    if status.rtt_ms is None:
        return _check("quality", "unknown", "not measured yet")
    said = [f"round trip {status.rtt_ms:.1f} ms"]
    for way, loss in (("up", status.loss_up), ("down", status.loss_down)):
        if loss is not None:
            said.append(f"loss {way} {100 * loss:.1f} %")
    return _check("quality", "ok", ", ".join(said))
