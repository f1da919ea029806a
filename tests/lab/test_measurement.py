"""What the probes tell of a real path: round trip, delay variation and loss, each direction for itself."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until
from wire_schema import complaints

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def brisk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab whose host probes five times a second."""
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--protection", "sealed")
        config = lab.directory / "mobile-host.toml"
        text = (lab.directory_of_state() / "mobile-host.toml").read_text()
        config.write_text(text.replace("keepalive_interval = 1.0", "keepalive_interval = 0.2"))
        lab.start_daemon("an")
        lab.start_daemon("mh", Path(config))
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 40)
        lab.await_networks_up()
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def network(lab: Lab, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in lab.ask("networks") if row["name"] == name)
    return found


@pytest.mark.parametrize(
    ("name", "gateway", "side", "lossy"),
    [("net0", "gw0", "lan", "loss_up"), ("net1", "gw1", "wan", "loss_down")],
)
def test_loss_is_found_on_the_way_where_it_happens(
    brisk: Lab, name: str, gateway: str, side: str, lossy: str
) -> None:
    rule = f"FORWARD -i {side} -p udp -m statistic --mode nth --every 5 --packet 0 -j DROP".split()
    brisk.on(gateway, "iptables-legacy", "-w", "-I", *rule)
    try:
        # Of a few probes the share is a coarse one: a fifth shows when there were more.
        wait_until(lambda: 0.1 < (network(brisk, name)[lossy] or 0) < 0.35, f"{lossy} shows", 40)
        shown = network(brisk, name)
        clean = "loss_down" if lossy == "loss_up" else "loss_up"
        assert shown[clean] < 0.05
    finally:
        brisk.on(gateway, "iptables-legacy", "-w", "-D", *rule)


def test_networks_and_tunnels_say_the_same_and_the_anchor_says_nothing(brisk: Lab) -> None:
    def known() -> bool:
        return all(row["delay_variation_ms"]["up"] is not None for row in brisk.ask("networks"))

    wait_until(known, "both directions were measured")
    for row in brisk.ask("tunnels"):
        assert row["rtt_ms"] > 0
        assert set(row["delay_variation_ms"]) == {"up", "down"}
        assert 0 <= row["delay_variation_ms"]["up"] < 1000
        assert {"loss", "loss_up", "loss_down"} <= set(row)
    for row in brisk.ask("tunnels", host="an"):
        assert row["rtt_ms"] is None
        assert row["delay_variation_ms"] == {"up": None, "down": None}


def test_what_a_network_carries_is_counted_on_its_wire_and_kept(brisk: Lab) -> None:
    """An independent count, the kernel's of the interface, agrees; a restart forgets nothing."""

    def on_wire() -> dict[str, int]:
        (link,) = json.loads(brisk.on("mh", "ip", "-s", "-j", "link", "show", "dev", "if0").stdout)
        counts = {"up": link["stats64"]["tx"], "down": link["stats64"]["rx"]}
        return {way: each["bytes"] - 14 * each["packets"] for way, each in counts.items()}

    brisk.ask("assign", "--uid", "0", "--to", "net0", "--app", "all")
    before, counted = on_wire(), network(brisk, "net0")["carried"]
    brisk.on("mh", "ping", "-q", "-c", "300", "-i", "0.002", "-s", "1000", "86.0.0.1")

    def is_counted(way: str) -> bool:
        passed = on_wire()[way] - before[way]
        return (
            passed > 300_000
            and abs(network(brisk, "net0")["carried"][way] - counted[way] - passed) < 0.05 * passed
        )

    for way in ("up", "down"):
        wait_until(partial(is_counted, way), f"the bytes {way} are counted")
    row = network(brisk, "net0")
    for way in ("up", "down"):
        assert row["throughput"][way] > 0
        assert row["throughput"][f"offered_{way}"] >= row["throughput"][way]
    day = row["usage"]["day"]
    assert day["bytes_down"] >= 300_000
    assert row["usage"]["month"]["bytes_down"] >= day["bytes_down"]
    wait_until(lambda: brisk.ask("networks", "history", "net0"), "a first sample is kept", 20)
    samples = brisk.ask("networks", "history", "net0")
    assert complaints("networks-history", samples) == []
    sample = samples[-1]
    assert sample["up"] == 1
    assert sample["rtt_ms"] > 0
    picture = brisk.directory / "net0.svg"
    brisk.upmt(
        "lab",
        "exec",
        "--name",
        brisk.name,
        "mh",
        "--",
        *UPMT,
        "networks",
        "history",
        "net0",
        "--svg",
        str(picture),
    )
    assert "round trip" in picture.read_text()
    brisk.end_programs()
    brisk.start_daemon("an")
    brisk.start_daemon("mh", brisk.directory / "mobile-host.toml")
    wait_until(lambda: brisk.is_answering("mh"), "the daemon answers", 40)
    assert complaints("usage", brisk.ask("usage")) == []
    assert complaints("networks", brisk.ask("networks")) == []
    (kept,) = [each for each in brisk.ask("usage") if each["network"] == "net0"]
    assert kept["days"][-1]["bytes_down"] >= day["bytes_down"]
    assert kept["months"][-1]["bytes_down"] >= kept["days"][-1]["bytes_down"]
