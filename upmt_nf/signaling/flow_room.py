"""How many flows one request has room for, and how they stand in it: one by one in words, or packed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from upmt_nf.model.flow import FlowKey
from upmt_nf.signaling.message_writing import PACKED_APPLICATIONS, flows_in_groups, packed_size, pair_size
from upmt_nf.signaling.messages import HandoverPair


@dataclass(frozen=True, slots=True)
class FlowRoom:
    """`octets` for pairs in one request; `is_packed`: its reader takes packed flows."""

    octets: int
    is_packed: bool = False

    def pair(self, flows: Sequence[FlowKey], application: int = 0) -> HandoverPair:
        """Flows as they stand in a request."""
        is_packed = self.is_packed and len({flow.source for flow in flows}) == 1
        return HandoverPair(tuple(flows), application=application, is_packed=is_packed)

    def holds(self, flows: Sequence[FlowKey]) -> bool:
        """Whether one request has room for all of them."""
        return pair_size(self.pair(flows)) <= self.octets

    def groups(self, flows: Iterable[FlowKey]) -> list[tuple[FlowKey, ...]]:
        """All of them, in groups for a request each: that it holds, or one flow alone."""
        if not self.is_packed:
            return flows_in_groups(tuple(flows), self.octets)
        found: list[list[FlowKey]] = []
        used = 0
        for flow in flows:
            more = packed_size(flow)
            if found and found[-1][0].source == flow.source and used + more <= self.octets:
                found[-1].append(flow)
                used += more
            else:
                found.append([flow])
                used = pair_size(self.pair((flow,))) + PACKED_APPLICATIONS
        return [tuple(group) for group in found]

    def less(self, octets: int) -> FlowRoom:
        """The same with something else in the request."""
        return replace(self, octets=self.octets - octets)
