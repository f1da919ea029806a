"""The doctor's command line, without a kernel."""

import os

import pytest
from typer.testing import CliRunner

from upmt_nf.cli.main import app
from upmt_nf.daemon import doctor
from upmt_nf.daemon.diagnosis import Finding, State
from upmt_nf.model.errors import FacilityError

BAD = Finding("leftovers", State.ERROR, "a mess", "upmt cleanup", is_fixable=True)
GOOD = Finding("leftovers", State.OK, "tidy")


def test_it_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    answer = CliRunner().invoke(app, ["doctor"])
    assert isinstance(answer.exception, FacilityError)


def test_an_error_ends_with_one_and_its_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(doctor, "examine", lambda: [BAD])
    answer = CliRunner().invoke(app, ["doctor"])
    assert answer.exit_code == 1
    assert "-> upmt cleanup (upmt doctor --fix does it)" in answer.stdout


def test_fix_looks_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    looks = iter([[BAD], [GOOD]])
    monkeypatch.setattr(doctor, "examine", lambda: next(looks))
    monkeypatch.setattr(doctor, "fix", lambda findings: [f"mended {len(findings)}"])
    answer = CliRunner().invoke(app, ["doctor", "--fix"])
    assert answer.exit_code == 0
    assert "mended 1" in answer.stdout
