"""Flows of an application that go by a policy of their own: each kind of them is an application to everything below.

So moving them is one write like any other, and the rest of the application stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from upmt_nf.classify.rules import ApplicationRule
from upmt_nf.config.application_sections import ApplicationSection
from upmt_nf.daemon.matches import rule_of
from upmt_nf.model.flow import PROTOCOL_NUMBERS, FlowKey
from upmt_nf.model.identity import DEFAULT_APPLICATION_ID, ApplicationId, ApplicationName


class Part(NamedTuple):
    """Flows that `rule` matches, of one protocol or of any, belong to `rule.application`."""

    rule: ApplicationRule
    protocol: int | None

    def has(self, flow: FlowKey, dscp: int) -> bool:
        """Whether a flow of the application is one of these."""
        return self.protocol in (None, flow.protocol) and self.rule.matches_flow(flow, dscp)


class FlowPolicies:
    """Which part of an application a flow is of."""

    def __init__(self) -> None:
        self._parts: dict[ApplicationId, tuple[Part, ...]] = {}
        self._whole: dict[ApplicationId, ApplicationId] = {}
        """Also of parts that were: their flows go back to the whole."""

    def set(
        self,
        sections: Iterable[ApplicationSection],
        id_of: Callable[[ApplicationName], ApplicationId],
    ) -> None:
        """From now on these are the applications with parts."""
        self._parts = {}
        for section in sections:
            whole, parts = id_of(ApplicationName(section.name)), []
            for place, flow in enumerate(section.flow):
                part = id_of(ApplicationName(section.part_name(place)))
                protocol = PROTOCOL_NUMBERS[flow.protocol] if flow.protocol is not None else None
                parts.append(Part(rule_of(part, flow.conditions), protocol))
                self._whole[part] = whole
            if parts:
                self._parts[whole] = tuple(parts)

    @property
    def has_parts(self) -> bool:
        """Whether any application has parts."""
        return bool(self._parts)

    def part_of(self, application: ApplicationId, flow: FlowKey, dscp: int) -> ApplicationId:
        """The application that a flow of `application` goes by: the part that it fits, or the whole."""
        whole = self.whole_of(application)
        for part in self._parts.get(whole, ()):
            if part.has(flow, dscp):
                return part.rule.application
        return whole

    def whole_of(self, application: ApplicationId) -> ApplicationId:
        """The application that a part is of; itself when it is none."""
        return self._whole.get(application, application)


def check(sections: Iterable[ApplicationSection]) -> None:
    """Whether all conditions of flows can be understood. Raises UsageError that names the condition."""
    for section in sections:
        for flow in section.flow:
            rule_of(DEFAULT_APPLICATION_ID, flow.conditions)
