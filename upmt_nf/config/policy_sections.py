"""What may be written in `[[policy]]`: its keys and their values, before any of it is held against the networks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from upmt_nf.config.checked import Section
from upmt_nf.config.quantities import Rate, Share, SomeTime, Time, WrittenBudget, WrittenHours
from upmt_nf.config.values import Name
from upmt_nf.policy.quality import BEST_VOICE_SCORE, Thresholds

ANY = "any"
KindName = Literal[
    "PriorityList",
    "Static",
    "Any",
    "Block",
    "PerformancePriorityList",
    "VoipPerformance",
    "BestPerformance",
    "WiredBeforeWireless",
    "OnlyFree",
]
ProtectionName = Literal["plain", "cookie", "sealed"]


def listed(value: Any) -> Any:
    """One as a list of one."""
    return [value] if isinstance(value, str) else value


NetworkOrder = Annotated[tuple[Name, ...], BeforeValidator(listed), Field(min_length=1)]
"""Networks in order of preference; `any` stands for all others in the order of the file."""
Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


class ThresholdsSection(Section):
    """`leave = { delay = "250 ms" }`: limits, each with its unit."""

    delay: SomeTime | None = None
    """One way."""
    jitter: SomeTime | None = None
    loss: Share | None = None
    throughput: Rate | None = None
    voice_score: Annotated[float, Field(ge=1, le=BEST_VOICE_SCORE)] | None = None
    """1 to 4.42 (MOS)."""

    def value(self) -> Thresholds:
        """As the policy has it."""
        return Thresholds(self.delay, self.jitter, self.loss, self.throughput, self.voice_score)


class WeightsSection(Section):
    """`weights = { cost = 3, throughput = 1 }`: how much each criterion counts in the score."""

    cost: Weight = 0
    throughput: Weight = 0
    loss: Weight = 0
    delay: Weight = 0
    jitter: Weight = 0
    security: Weight = 0


class PolicyTerms(Section):
    """What a policy may say, always or at certain hours."""

    networks: NetworkOrder | None = None
    leave: ThresholdsSection = ThresholdsSection()
    enter: ThresholdsSection = ThresholdsSection()
    weights: WeightsSection | None = None
    margin: Annotated[float, Field(gt=0, le=3)] | None = None
    bad_for: Time | None = None
    good_for: SomeTime | None = None
    hold: Time | None = None
    penalty_longest: SomeTime | None = None
    forgive: SomeTime | None = None
    protection: ProtectionName | None = None
    protection_untrusted: ProtectionName | None = None
    cost_limit: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Of a gigabyte, in the unit of `network.cost`."""
    budgets: Annotated[tuple[WrittenBudget, ...], BeforeValidator(listed)] | None = None
    redundant: bool | None = None
    """Each packet by the two best networks at once."""
    reorder: SomeTime | None = None
    """How long an arriving packet may wait for those that were sent before it."""


class HoursSection(PolicyTerms):
    """`[[policy.when]]`: what else holds at certain hours."""

    hours: WrittenHours
    kind: KindName | None = None


class PolicySection(PolicyTerms):
    """`[[policy]]`: a policy of the administrator's own."""

    name: Name
    kind: KindName | None = None
    extends: Name | None = None
    when: tuple[HoursSection, ...] = ()
