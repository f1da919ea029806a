"""Ready-made policies. Each number has its reason beside it; a `[[policy]]` that extends one may replace any.

Thresholds of delay are one way. Sources: ITU-T G.114 (150 ms is not noticed, 400 ms is the limit for talk), G.1010
(loss below 3 % for voice with concealment, 1 % for video; 200 ms for games and remote shells), Y.1541 (jitter 50 ms).
"""

from __future__ import annotations

from collections.abc import Mapping

from upmt_nf.policy.policy import Kind, Policy
from upmt_nf.policy.quality import Thresholds, Weights

_LIST = Kind.PERFORMANCE_PRIORITY_LIST

_PROFILES = (
    Policy(
        "voice",
        _LIST,
        leave=Thresholds(delay=0.250, jitter=0.050, loss=0.03),
        enter=Thresholds(delay=0.150, jitter=0.030, loss=0.01),
        bad_for=2,  # a word is lost, not a sentence
        good_for=30,
        hold=10,
    ),
    Policy(
        "video-call",
        _LIST,
        leave=Thresholds(delay=0.300, jitter=0.050, loss=0.02, throughput=0.8e6),
        enter=Thresholds(delay=0.150, jitter=0.030, loss=0.005, throughput=1.5e6),
        bad_for=2,
        good_for=30,
        hold=10,
    ),
    Policy(
        "interactive",
        _LIST,
        leave=Thresholds(delay=0.200, loss=0.05),
        enter=Thresholds(delay=0.100, loss=0.02),
        bad_for=3,
        good_for=30,
        hold=15,
    ),
    Policy(
        "bulk",
        Kind.BEST_PERFORMANCE,
        leave=Thresholds(loss=0.20),
        enter=Thresholds(loss=0.05),
        weights=Weights(cost=3, throughput=2, loss=1),
        margin=0.15,
        bad_for=30,  # a transfer survives a bad minute; each move costs it a slow start
        good_for=60,
        hold=120,
    ),
    Policy(
        "backup",
        Kind.ONLY_FREE,
        leave=Thresholds(loss=0.30),
        enter=Thresholds(loss=0.10),
        bad_for=60,
        good_for=60,
        hold=60,
    ),
    Policy(
        "streaming",
        _LIST,
        leave=Thresholds(loss=0.05, throughput=3e6),  # a buffer hides delay; HD needs some 5 Mbit/s
        enter=Thresholds(loss=0.02, throughput=6e6),
        bad_for=5,
        good_for=30,
        hold=30,
    ),
    Policy(
        "gaming",
        _LIST,
        leave=Thresholds(delay=0.080, jitter=0.025, loss=0.03),
        enter=Thresholds(delay=0.050, jitter=0.012, loss=0.01),
        bad_for=2,
        good_for=30,
        hold=15,
    ),
)

PROFILES: Mapping[str, Policy] = {policy.name: policy for policy in _PROFILES}
"""By name. Their networks are empty: all that are configured, in the order of the file."""

BARE_KINDS: Mapping[str, Policy] = {
    kind.value: Policy(kind.value, kind, margin=0.2 if kind is Kind.VOIP_PERFORMANCE else 0.1)
    for kind in Kind
    if kind is not Kind.STATIC
}
"""The authors' policies that need nothing more said, by their names."""
