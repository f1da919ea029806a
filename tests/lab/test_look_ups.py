"""Look-ups follow the application: `upmt run` has its programs ask name servers themselves, and the system's resolver
goes where the configuration says.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until
from talking import PATIENCE, TALKER, Program, flows_of

pytestmark = pytest.mark.lab

ASK = "import socket; print(socket.getaddrinfo('boat.example', 80, socket.AF_INET)[0][4][0])"
SERVER = "86.0.0.1"
MORE = f"""
[[application]]
name = "asker"
networks = ["net1"]
resolver = ["{SERVER}"]

[[application]]
name = "as-ever"
networks = ["net1"]
resolver = "system"

[[application]]
name = "lookups"
networks = ["net1"]
"""


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose mobile host has resolvers in its configuration, and a name server at the correspondent."""
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        text = (lab.directory_of_state() / "mobile-host.toml").read_text() + MORE
        config = lab.directory / "mobile-host.toml"
        config.write_text(text.replace("[mobile_host]\n", '[mobile_host]\nresolver = "lookups"\n'))
        lab.start_daemon("an")
        lab.start_daemon("mh", config)
        lab.start("ch", sys.executable, str(Path(__file__).parent / "name_server.py"), "53")
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers")
        lab.await_networks_up()
        lab.await_listener("ch", 53)
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def look_ups(lab: Lab, application: str) -> set[str]:
    """By which networks an application's look-ups went."""
    rows = [flow for flow in lab.ask("flows") if flow["destination_port"] == 53]
    return {flow["network"] for flow in rows if flow["application"] == application}


@pytest.mark.parametrize(
    ("application", "options"),
    [("asker", ()), ("given", ("--resolver", SERVER)), ("as-ever", ("--resolver", SERVER))],
)
def test_a_look_up_goes_by_the_applications_network(
    asking: Lab, application: str, options: tuple[str, ...]
) -> None:
    asking.ask("assign", "--app", application, "--to", "net1")
    run = (*UPMT, "run", "--app", application, *options, "--", "/usr/bin/python3", "-c", ASK)
    assert asking.on("mh", *run).stdout.strip() == "192.0.2.7"
    assert look_ups(asking, application) == {"net1"}


def test_the_systems_way_is_left_as_it_is(asking: Lab) -> None:
    read = ("cat", "/etc/resolv.conf")
    own = asking.on("mh", *read).stdout
    for words in (("--app", "as-ever"), ("--app", "asker", "--system-resolver")):
        assert asking.on("mh", *UPMT, "run", *words, "--", *read).stdout == own
    assert f"nameserver {SERVER}" in asking.on("mh", *UPMT, "run", "--app", "asker", "--", *read).stdout


@pytest.mark.parametrize("name", ["systemd-resolve", "dnsmasq", "nscd"])
def test_the_systems_resolver_belongs_to_the_application_that_is_named(asking: Lab, name: str) -> None:
    helper = Program(asking, "/usr/bin/python3", TALKER, "--name", name)
    try:
        key = helper.open("udp", SERVER, 53)
        wait_until(lambda: flows_of(asking, [key]), "it asks", PATIENCE)
        flow = flows_of(asking, [key])[key]
    finally:
        helper.end()
    assert (flow["application"], flow["network"], flow["is_guess"]) == ("lookups", "net1", False)


def test_the_policy_is_shown_and_changes_without_a_restart(asking: Lab) -> None:
    assert asking.ask("status")["resolver"] == "lookups"
    rows = {row["name"]: row["resolver"] for row in asking.ask("apps")}
    assert (rows["asker"], rows["as-ever"], rows["lookups"]) == ([SERVER], "system", None)
    config = asking.directory / "mobile-host.toml"
    text = config.read_text()
    config.write_text(
        text.replace('resolver = "lookups"', 'resolver = "native"').replace(f'["{SERVER}"]', '"system"')
    )
    done = asking.ask("mobile-host", "reload")
    assert done["needs_restart"] == []
    assert f"asker: resolver {SERVER} -> system" in done["changes"]
    assert asking.ask("status")["resolver"] == "native"
    assert {row["name"]: row["is_left_alone"] for row in asking.ask("apps")}["system-resolver"]
    config.write_text(text)
    asking.ask("mobile-host", "reload")


def test_doctor_says_who_asks(asking: Lab) -> None:
    (finding,) = [row for row in asking.ask("doctor")["findings"] if row["check"] == "dns"]
    assert finding["state"] in ("ok", "warning")


def test_a_resolver_is_an_address(asking: Lab) -> None:
    for words in (("--resolver", "dns.example"), ("--resolver", SERVER, "--system-resolver")):
        answer = asking.on("mh", *UPMT, "run", *words, "--", "true", check=False)
        assert answer.returncode == 2
        assert "Traceback" not in answer.stderr
