"""Who cannot be set up is left out of a run, with the reason, and the others are measured."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.places import Place
from benchmarks.tunnels import contenders as under_test
from benchmarks.tunnels import peers
from upmt_nf.lab import namespaces
from upmt_nf.model.errors import UpmtError


def test_a_failure_names_its_contender_and_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def place(
        name: str, datapath: str = "agent", protection: str = "plain", *, daemons: bool
    ) -> Iterator[Place]:
        if protection == "sealed":
            raise UpmtError("the lab did not come up within 30 s\nlast lines of a log")
        yield Place(name)

    def fails(lab: Place, directory: Path) -> peers.Way:
        raise subprocess.CalledProcessError(2, ("ip", "link", "add"), "", "RTNETLINK answers: no\n")

    def is_not_here(lab: Place, directory: Path) -> peers.Way:
        raise peers.NotHereError("vtund is not installed")

    monkeypatch.setattr(under_test, "place", place)
    monkeypatch.setattr(namespaces, "processes_in", lambda lab, host: [7])
    monkeypatch.setitem(peers.SET_UP, "vxlan", fails)
    monkeypatch.setitem(peers.SET_UP, "vtun", is_not_here)
    monkeypatch.setitem(
        peers.SET_UP, "direct", lambda lab, directory: peers.Way("192.0.2.1", "192.0.2.2", ())
    )
    asked = ("direct", "agent-plain", "agent-sealed", "vxlan", "vtun")
    with under_test.contenders("test", asked, lambda _: None) as (ready, missing):
        assert [each.name for each in ready] == ["direct", "agent-plain"]
        assert missing == {
            "vxlan": "`ip link add` failed: RTNETLINK answers: no",
            "vtun": "vtund is not installed",
            "agent-sealed": "the lab did not come up within 30 s",
        }
