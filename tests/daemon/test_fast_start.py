"""When the anchor's shortcut past netfilter may be taken."""

from __future__ import annotations

import pytest

from upmt_nf.daemon.fast_start import shortcut_timeouts
from upmt_nf.linux import sysctl


@pytest.mark.parametrize(
    ("accounting", "unanswered", "answered", "expected"),
    [
        ("0", "30", "120", (30, 120)),
        (None, "10", "300", (10, 300)),
        # Whoever has conntrack count packets wants all of them counted.
        ("1", "30", "120", None),
        ("0", None, "120", None),
        ("0", "30", "0", None),
        ("0", "30", "unlimited", None),
    ],
)
def test_conntracks_own_times_are_kept(
    monkeypatch: pytest.MonkeyPatch,
    accounting: str | None,
    unanswered: str | None,
    answered: str | None,
    expected: tuple[int, int] | None,
) -> None:
    values = {
        "net/netfilter/nf_conntrack_acct": accounting,
        "net/netfilter/nf_conntrack_udp_timeout": unanswered,
        "net/netfilter/nf_conntrack_udp_timeout_stream": answered,
    }
    monkeypatch.setattr(sysctl, "read", values.__getitem__)
    assert shortcut_timeouts() == expected
