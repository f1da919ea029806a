"""New keys while packets flow: very often, by a setting that only a test would choose, and nothing is lost."""

import re
from collections.abc import Iterator

import pytest
from lab_driver import Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

LIMITS = {"time": "rekey_after = 0.5", "packets": "rekey_after_packets = 100"}


@pytest.fixture(scope="module", params=[("sealed", "time"), ("sealed", "packets"), ("cookie", "time")])
def rekeying_lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    protection, limit = request.param
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons", "--protection", protection)
        config = lab.directory / "mobile-host.toml"
        text = (lab.directory_of_state() / "mobile-host.toml").read_text()
        config.write_text(
            text.replace("keepalive_interval = 1.0", f"keepalive_interval = 0.5\n{LIMITS[limit]}")
        )
        lab.start_daemon("an")
        lab.start_daemon("mh", config)
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 40)
        lab.await_networks_up()
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def test_a_stream_loses_nothing_over_many_new_keys(rekeying_lab: Lab) -> None:
    lab = rekeying_lab
    lab.on("mh", "ping", "-c", "1", "-W", "2", "86.0.0.1")
    before = lab.ask("status")["counters"]["keys_renewed"]
    said = lab.on("mh", "ping", "-q", "-c", "1000", "-i", "0.01", "-W", "5", "86.0.0.1").stdout
    matched = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    assert matched is not None, said
    assert matched[1] == matched[2] == "1000", said
    assert lab.ask("status")["counters"]["keys_renewed"] - before >= 5
    for host in ("mh", "an"):
        assert lab.ask("status", host=host)["counters"].get("malformed_inner", 0) == 0
