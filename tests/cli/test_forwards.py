"""`upmt anchor forward` without a daemon: what is asked of it, what is printed, how it ends."""

import json
import os
from typing import Any

import pytest
from typer.testing import CliRunner

from upmt_nf.cli import forwards
from upmt_nf.cli.main import app
from upmt_nf.model.errors import FacilityError, NoDaemonError, UpmtError, UsageError

ROW = {
    "protocol": "tcp",
    "external": "45.0.0.1",
    "ports": "8022",
    "host": "boat7@fleet.example",
    "host_ports": "22",
    "state": "waiting",
    "virtual_address": None,
    "origin": "command",
    "reason": "its host holds no lease",
}


class Daemon:
    """Answers as told and remembers what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, command: str, **arguments: Any) -> Any:
        self.asked.append((command, arguments))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    made = Daemon({"changed": True, "forward": ROW, "rules": []})
    monkeypatch.setattr(forwards, "call", made)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return made


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["anchor", "forward", *words])


def test_add_hands_its_words_on_and_says_what_is(daemon: Daemon) -> None:
    answer = run("add", "tcp", "8022", "boat7@fleet.example", "22", "--external", "45.0.0.9", "--dry-run")
    assert answer.exit_code == 0
    assert daemon.asked == [
        (
            "forward_add",
            {
                "protocol": "tcp",
                "ports": "8022",
                "host": "boat7@fleet.example",
                "host_port": "22",
                "external": "45.0.0.9",
                "dry_run": True,
            },
        )
    ]
    assert answer.stdout == "waiting: tcp 45.0.0.1 port 8022 to boat7@fleet.example port 22\n"


def test_a_dry_run_prints_the_rules(daemon: Daemon) -> None:
    daemon.answer["rules"] = ["iptables -t nat -A UPMT-INCOMING ..."]
    assert run("remove", "tcp", "8022", "--dry-run").stdout == "iptables -t nat -A UPMT-INCOMING ...\n"


def test_nothing_to_do_is_said_and_is_no_failure(daemon: Daemon) -> None:
    daemon.answer = {"changed": False, "forward": None, "rules": []}
    answer = run("remove", "tcp", "8022")
    assert (answer.exit_code, answer.stdout) == (0, "nothing to do\n")


def test_list_has_every_key(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    daemon.answer = [ROW]
    assert json.loads(run("list", "--json").stdout) == [ROW]
    assert "its host holds no lease" in run("list").stdout


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("add", "tcp", "0", "boat7@fleet.example"), UsageError("'0': ports are 1 to 65535")),
        (("add", "tcp", "80", "boat7@fleet.example"), UpmtError("leads to another already")),
        (("remove", "tcp", "80"), NoDaemonError("no UPMT daemon runs here")),
    ],
)
def test_what_the_daemon_refuses_keeps_its_exit_code(
    daemon: Daemon, words: tuple[str, ...], error: UpmtError
) -> None:
    daemon.answer = error
    assert run(*words).exception is error


@pytest.mark.parametrize("words", [("add", "tcp", "80", "boat7@fleet.example"), ("remove", "tcp", "80")])
def test_changing_needs_root(daemon: Daemon, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert isinstance(run(*words).exception, FacilityError)
    assert daemon.asked == []


@pytest.mark.parametrize(
    "words", [("add", "tcp", "80"), ("add",), ("remove", "tcp"), ("add", "tcp", "1", "a", "2", "3")]
)
def test_wrong_words_are_wrong_usage(daemon: Daemon, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2
    assert daemon.asked == []
