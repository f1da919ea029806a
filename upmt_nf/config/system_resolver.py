"""`mobile_host.resolver`: where look-ups go that a process of the system makes in the place of programs."""

from __future__ import annotations

from upmt_nf.config.application_sections import NATIVE, ApplicationSection, MatchSection
from upmt_nf.config.mobile_host import SYSTEM_RESOLVER, MobileHostConfig

PROGRAMS = ("systemd-resolve*", "nscd", "unscd", "dnsmasq", "unbound", "named", "stubby", "dnscrypt-proxy")
"""Those that ask name servers for others."""


def declared_applications(config: MobileHostConfig) -> tuple[ApplicationSection, ...]:
    """The applications of a configuration, with the system's resolver in the one that it is to be in.

    As if its programs were written after the other matches of that application.
    """
    target = config.mobile_host.resolver
    programs = tuple(MatchSection(command=name) for name in PROGRAMS)
    if target == NATIVE:
        return (*config.application, ApplicationSection(name=SYSTEM_RESOLVER, policy=NATIVE, match=programs))
    return tuple(
        section.model_copy(update={"match": section.match + programs}) if section.name == target else section
        for section in config.application
    )
