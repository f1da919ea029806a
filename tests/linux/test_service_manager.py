"""Words to systemd, as a socket of our own hears them."""

from __future__ import annotations

import os
import socket

import pytest

from upmt_nf.linux.service_manager import tell, watchdog_interval


@pytest.mark.parametrize("name", ["/notify", "@upmt-test"])
def test_it_is_told(name: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{tmp_path}{name}" if name.startswith("/") else f"{name}-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1))
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        assert tell("READY=1")
        assert manager.recv(100) == b"READY=1"


def test_without_a_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not tell("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    assert not tell("READY=1")


@pytest.mark.parametrize(
    ("patience", "interval"), [("30000000", 15.0), ("0", None), ("x", None), (None, None)]
)
def test_signs_of_life_come_twice_as_often_as_wanted(
    patience: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if patience is None:
        monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    else:
        monkeypatch.setenv("WATCHDOG_USEC", patience)
    assert watchdog_interval() == interval
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert watchdog_interval() is None
