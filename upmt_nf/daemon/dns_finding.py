"""`upmt doctor` on look-ups: do a program's follow the program?"""

from __future__ import annotations

from upmt_nf.config.application_sections import NATIVE
from upmt_nf.daemon.findings import Finding, State
from upmt_nf.linux.resolver_view import ResolverFacts


def dns_finding(facts: ResolverFacts | None, resolver: str | None = None) -> Finding:
    """Which case holds: programs ask name servers themselves, or have another process ask for them.

    `resolver` is what the daemon's configuration says of that process; None without a daemon.
    """
    if facts is None or not (facts.servers or facts.helpers):
        return Finding("dns", State.OK, "no name server is set up")
    if not facts.helpers:
        listed = ", ".join(map(str, facts.servers))
        return Finding("dns", State.OK, f"programs ask {listed} themselves: look-ups follow the application")
    said = f"{' and '.join(facts.helpers)} ask in the programs' place: {_belonging(resolver)}"
    if facts.upstream:
        servers = ", ".join(map(str, facts.upstream))
        return Finding("dns", State.OK, f"{said}; `upmt run` has its programs ask {servers} themselves")
    return Finding(
        "dns",
        State.WARNING,
        f"{said}; which servers are behind is not written down",
        "resolver = [ADDRESS] in the [[application]], or upmt run --resolver ADDRESS; or resolver = APPLICATION in "
        "[mobile_host], to tie the system's resolver itself",
    )


def _belonging(resolver: str | None) -> str:
    if resolver is None:
        return "their look-ups are no application's but its own"
    if resolver == NATIVE:
        return 'their look-ups are left alone (resolver = "native")'
    return f"their look-ups go as the application {resolver} (resolver in [mobile_host])"
