"""`upmt status` in words, from the JSON that a daemon gives."""

from typing import Any

import pytest
from typer.testing import CliRunner

from upmt_nf.cli import reading
from upmt_nf.cli.main import app

ASSOCIATED = {
    "state": "associated",
    "anchor": "45.0.0.1",
    "virtual_address": "1.2.3.4",
    "expires_in_s": 3599.6,
    "failure": None,
}
FULL = {
    "state": "lost",
    "anchor": "45.0.0.1",
    "virtual_address": "1.2.3.4",
    "expires_in_s": None,
    "failure": "503 no virtual address is free",
}


def said(monkeypatch: pytest.MonkeyPatch, association: dict[str, Any], *anchors: dict[str, Any]) -> str:
    value = {
        "role": "mobile-host",
        "datapath": "agent",
        "virtual_interface": "upmt0",
        "association": {**association, "anchors": anchors},
        "networks": [],
        "applications": [],
    }
    monkeypatch.setattr(reading, "call", lambda _: value)
    answer = CliRunner().invoke(app, ["status"])
    assert answer.exit_code == 0, answer.exception
    return answer.output


def anchor(address: str, state: str, reason: str | None = None, *, in_use: bool = False) -> dict[str, Any]:
    return {"address": address, "state": state, "reason": reason, "in_use": in_use}


def test_an_association_names_its_anchor_and_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    text = said(monkeypatch, ASSOCIATED, anchor("45.0.0.1", "associated", in_use=True))
    assert "association: associated, 1.2.3.4 leased by 45.0.0.1, expires in 3600 s" in text
    assert "in use" not in text, "there is only one"


def test_a_host_whose_association_is_lost_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    text = said(monkeypatch, FULL, anchor("45.0.0.1", "lost", in_use=True))
    assert "association: lost, anchor 45.0.0.1: 503 no virtual address is free" in text


def test_several_anchors_are_shown_with_state_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    anchors = (anchor("45.0.0.1", "idle", "503 it is full"), anchor("46.0.0.1", "associated", in_use=True))
    text = said(monkeypatch, {**ASSOCIATED, "anchor": "46.0.0.1"}, *anchors)
    assert "anchor 45.0.0.1 idle: 503 it is full\n" in text
    assert "anchor 46.0.0.1 associated, in use" in text
