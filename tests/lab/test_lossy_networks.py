"""Signalling through networks that lose 10 % and 30 % each way: association, setup and every handover succeed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"
NETWORKS = ("net0", "net1")


@pytest.fixture(scope="module")
def lossy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--protection", "sealed")
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def are_up(lab: Lab) -> bool:
    if not lab.is_answering("mh"):
        return False
    status = lab.ask("status")
    return status["association"]["state"] == "associated" and all(
        network["state"] == "up" for network in status["networks"]
    )


@pytest.mark.parametrize("loss", [10, 30])
def test_everything_comes_up_and_five_handovers_succeed(lossy: Lab, loss: int) -> None:
    lab = lossy
    for network in NETWORKS:
        lab.upmt("lab", "shape", "--name", lab.name, network, "--loss", f"{loss}%")
    lab.start_daemon("an")
    lab.start_daemon("mh")
    wait_until(lambda: are_up(lab), "all tunnels are up", 60)
    ping = lab.start("mh", *UPMT, "run", "--app", "moved", "--", "ping", "-q", "-i", "0.05", CORRESPONDENT)
    wait_until(
        lambda: {app["name"]: app["flows"] for app in lab.ask("apps")}.get("moved"), "the flow is there"
    )
    for count in range(5):
        target = NETWORKS[count % 2 == 0]
        done: dict[str, str] = {}

        def moved(target: str = target, done: dict[str, str] = done) -> bool:
            # A tunnel may be found dead in such weather, and is up again a moment later.
            answer = lab.on("mh", *UPMT, "handover", "moved", "--to", target, "--json", check=False)
            if answer.returncode == 0:
                done.update(json.loads(answer.stdout))
            return answer.returncode == 0

        wait_until(moved, f"handover {count} to {target} is done", 40)
        assert done["to"] == target
        # The anchor sends the way back by the same network.
        tunnels = {tunnel["tunnel_id"]: tunnel["network"] for tunnel in lab.ask("tunnels", host="an")}
        assert target in tunnels.values()
    wait_until(
        lambda: sum(flow["packets"] for flow in lab.ask("flows") if flow["application"] == "moved") > 100,
        "packets go on",
    )
    ping.send_signal(2)
    assert ping.wait(timeout=10) == 0
    assert ping.stdout is not None
    received = int(ping.stdout.read().partition(" received")[0].rpartition(" ")[2])
    assert received > 20, "packets came through all the while"
    status = lab.ask("status", host="an")
    assert len(status["associations"]) == 1
    assert status["associations"][0]["tunnels"] == 2
    lab.end_programs()
