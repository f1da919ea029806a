"""`upmt apply`, reloading, `--quiet`: nothing is cut, what is wrong changes nothing, exit codes are as documented."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

VOICE = """
[[application]]
name = "voice"
networks = ["net1"]
[[application.match]]
uid = 34
"""
TALK = (
    "import socket, time\n"
    "s = socket.create_connection(('86.0.0.1', 7009), timeout=30)\n"
    "print('begun', flush=True)\n"
    "for _ in range(400): s.sendall(b'x' * 100); s.recv(100); time.sleep(0.02)\n"
    "print('whole')"
)
ECHO = (
    "import socket\n"
    "c, _ = socket.create_server(('0.0.0.0', 7009)).accept()\n"
    "while data := c.recv(4096): c.sendall(data)"
)


@pytest.fixture(scope="module")
def own_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, int, socket.socket]]:
    """A lab whose mobile host tells a service manager of the test's."""
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(lab.directory / "notify"))
    manager.settimeout(30)
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        config = lab.directory / "mobile-host.toml"
        config.write_text((lab.directory_of_state() / "mobile-host.toml").read_text())
        lab.start_daemon("an")
        words = (*UPMT, "mobile-host", "run", "--config", str(config))
        told = (f"NOTIFY_SOCKET={lab.directory}/notify", "WATCHDOG_USEC=2000000")
        pid = lab.start("mh", "env", *told, *words).pid
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
        lab.await_networks_up()
        yield lab, pid, manager
    finally:
        manager.close()
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def test_the_service_manager_is_told_that_it_is_ready_and_alive(
    own_lab: tuple[Lab, int, socket.socket],
) -> None:
    manager = own_lab[2]
    assert manager.recv(100) == b"READY=1"
    assert manager.recv(100) == b"WATCHDOG=1"
    assert manager.recv(100) == b"WATCHDOG=1"


def test_applying_moves_running_flows_and_cuts_none(
    own_lab: tuple[Lab, int, socket.socket], tmp_path: Path
) -> None:
    lab = own_lab[0]
    file = tmp_path / "apps.toml"
    file.write_text(VOICE)
    lab.start("ch", sys.executable, "-c", ECHO)
    lab.await_listener("ch", 7009)
    talker = lab.start("mh", "setpriv", "--reuid=34", "--clear-groups", sys.executable, "-c", TALK)
    wait_until(lambda: any(flow["destination_port"] == 7009 for flow in lab.ask("flows")), "it talks", 30)

    def where() -> tuple[str, str]:
        flow = next(flow for flow in lab.ask("flows") if flow["destination_port"] == 7009)
        return flow["application"], flow["network"]

    assert where() == ("default", "net0")
    expected = ["voice: added, networks net1", "voice: match added: uid=34"]
    assert lab.ask("apply", str(file), "--dry-run") == {"changed": True, "changes": expected}
    assert where() == ("default", "net0")
    assert lab.ask("apply", str(file)) == {"changed": True, "changes": expected}
    wait_until(lambda: where() == ("voice", "net1"), "the flow is moved", 30)
    assert lab.ask("apply", str(file)) == {"changed": False, "changes": []}
    file.write_text(VOICE.replace("net1", "net0"))
    lab.on("mh", *UPMT, "apply", str(file))
    wait_until(lambda: where() == ("voice", "net0"), "the flow is moved back", 30)
    file.write_text("")
    assert lab.ask("apply", str(file))["changes"] == ["voice: removed"]
    wait_until(lambda: where()[0] == "default", "nobody claims it any more", 30)
    assert "whole" in talker.communicate(timeout=60)[0]


def test_a_wrong_file_changes_nothing_and_is_named(
    own_lab: tuple[Lab, int, socket.socket], tmp_path: Path
) -> None:
    lab = own_lab[0]
    before = lab.ask("apps")
    file = tmp_path / "apps.toml"
    for text, said in (
        ('[[application]]\nname = "a"\nnetwork = "x"\n', f"{file}:3: application.0.network: no such key"),
        (VOICE.replace("net1", "umts"), "there is no network 'umts'"),
        (VOICE + 'destination = "nowhere"\n', "is not a destination"),
    ):
        file.write_text(text)
        done = lab.on("mh", *UPMT, "apply", str(file), check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    assert lab.ask("apps") == before


def test_a_reload_takes_applications_at_once_and_says_what_takes_a_restart(
    own_lab: tuple[Lab, int, socket.socket],
) -> None:
    lab, pid, _ = own_lab
    config = lab.directory / "mobile-host.toml"
    text = config.read_text()
    config.write_text(text.replace("keepalive_interval = 1.0", "keepalive_interval = 2.0") + VOICE)
    answer = lab.ask("mobile-host", "reload")
    assert answer["needs_restart"] == ["mobile_host.keepalive_interval"]
    assert answer["changes"] == ["voice: added, networks net1", "voice: match added: uid=34"]
    config.write_text(text)
    os.kill(pid, signal.SIGHUP)
    wait_until(
        lambda: not next(app["match"] for app in lab.ask("apps") if app["name"] == "voice"), "it is gone", 30
    )
    config.write_text(text + "[[application]]\n")
    refused = lab.on("mh", *UPMT, "mobile-host", "reload", check=False)
    assert refused.returncode == 2
    assert "name: is missing" in refused.stderr
    config.write_text(text)
    assert lab.ask("mobile-host", "reload")["changed"] is False


def test_quiet_prints_nothing_and_the_exit_code_tells(own_lab: tuple[Lab, int, socket.socket]) -> None:
    lab = own_lab[0]
    done = lab.on("mh", *UPMT, "-q", "status", "--wait", "all-up", "--timeout", "20")
    assert (done.stdout, done.stderr) == ("", "")
    lab.link("net1", "down")
    wait_until(lambda: lab.ask("networks")[1]["state"] == "down", "a network is down", 30)
    done = lab.on("mh", *UPMT, "-q", "status", "--wait", "all-up", "--timeout", "0.5", check=False)
    assert done.returncode == 1
    assert "net1 is down" in done.stderr
    lab.link("net1", "up")
    assert (
        lab.on("ch", *UPMT, "status", "--wait", "associated", "--timeout", "0.3", check=False).returncode == 3
    )
    assert lab.on("mh", *UPMT, "-q", "run", "--app", "x", "--", "echo", "heard").stdout == "heard\n"
