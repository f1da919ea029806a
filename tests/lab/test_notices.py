"""`upmt anchor lease`, and the notices of the anchor on the wire."""

import json

import pytest
from lab_driver import UPMT, Lab, wait_until

pytestmark = pytest.mark.lab


def on_anchor(lab: Lab, *words: str, check: bool = True) -> str:
    return lab.on("an", *UPMT, "anchor", "lease", *words, check=check).stdout


def test_a_released_host_is_told_and_associates_again_with_its_address(lab: Lab) -> None:
    (row,) = json.loads(on_anchor(lab, "list", "--json"))
    assert set(row) == {"identity", "virtual_address", "state", "expires_in_s"}
    assert row["state"] == "associated"
    assert row["identity"] in on_anchor(lab, "list")
    answer = json.loads(on_anchor(lab, "release", row["identity"], "--json"))
    assert answer == {
        "identity": row["identity"],
        "virtual_address": row["virtual_address"],
        "ended": True,
    }
    log = lab.directory_of_state()
    wait_until(
        lambda: any("lease-ended" in file.read_text() for file in log.glob("*.log")), "the host is told"
    )
    lab.await_networks_up()
    (again,) = json.loads(on_anchor(lab, "list", "--json"))
    assert (again["virtual_address"], again["state"]) == (row["virtual_address"], "associated")
    assert lab.on("mh", "ping", "-c", "1", "-W", "5", "86.0.0.1").returncode == 0


def test_a_host_that_is_unknown_has_nothing_to_release(lab: Lab) -> None:
    wrong = lab.on("an", *UPMT, "anchor", "lease", "release", "nobody@upmt", check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.strip() == "upmt: nobody@upmt has no lease here"
    there_is_none = lab.on("mh", *UPMT, "anchor", "lease", "list", check=False)
    assert there_is_none.returncode == 2
    assert "no command 'leases'" in there_is_none.stderr
