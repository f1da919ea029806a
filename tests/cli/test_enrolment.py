"""Enrolling with further anchors: each line's secret goes where the configuration wants it."""

import base64
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from upmt_nf.cli.main import app
from upmt_nf.config.mobile_host import read_mobile_host_config
from upmt_nf.model.errors import UpmtError, UsageError


def line(anchor: str, secret: str, identity: str = "boat7@fleet.example", **more: object) -> str:
    given = {
        "identity": identity,
        "secret": secret,
        "anchor": anchor,
        "tunnel_port": 1800,
        "signalling_port": 5060,
        **more,
    }
    return "upmt1:" + base64.urlsafe_b64encode(json.dumps(given).encode()).decode() + "\n"


def enroll(config: Path, text: str) -> Result:
    words = ["mobile-host", "enroll", "--config", str(config), "--network", "lte=wwan0"]
    return CliRunner().invoke(app, words, input=text)


def two_anchors(directory: Path) -> Path:
    config = directory / "mobile-host.toml"
    config.write_text(
        '[mobile_host]\nidentity = "boat7@fleet.example"\n'
        f'secret_file = "{directory}/secret"\n'
        '[[anchors]]\naddress = "203.0.113.10"\n'
        f'[[anchors]]\naddress = "198.51.100.7"\nidentity = "b7@other.example"\nsecret_file = "{directory}/other"\n'
        '[[network]]\nname = "lte"\ninterface = "wwan0"\n'
    )
    return config


def test_each_anchors_line_fills_its_own_file(tmp_path: Path) -> None:
    config = two_anchors(tmp_path)
    assert enroll(config, line("203.0.113.10", "one")).exit_code == 0
    assert enroll(config, line("198.51.100.7", "two", "b7@other.example")).exit_code == 0
    assert (tmp_path / "secret").read_text() == "one\n"
    assert (tmp_path / "other").read_text() == "two\n"
    assert (tmp_path / "other").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("anchor", "identity"), [("192.0.2.1", "boat7@fleet.example"), ("198.51.100.7", "boat7@fleet.example")]
)
def test_a_line_of_an_anchor_that_is_not_there_says_what_to_add(
    tmp_path: Path, anchor: str, identity: str
) -> None:
    answer = enroll(two_anchors(tmp_path), line(anchor, "hidden", identity))
    assert isinstance(answer.exception, UpmtError)
    assert f"for {identity} at {anchor} add an entry to `anchors`" in str(answer.exception)
    assert "hidden" not in str(answer.exception)
    assert not (tmp_path / "secret").exists()


def test_a_first_line_makes_a_configuration_with_one_anchor(tmp_path: Path) -> None:
    config = tmp_path / "mobile-host.toml"
    assert enroll(config, line("203.0.113.10", "one")).exit_code == 0
    assert "[anchor]" in config.read_text()
    assert enroll(config, line("203.0.113.10", "rotated")).exit_code == 0
    assert (tmp_path / "secret").read_text() == "rotated\n"


def test_what_an_anchor_offers_beyond_the_usual_comes_with_its_line(tmp_path: Path) -> None:
    config = tmp_path / "mobile-host.toml"
    text = line("203.0.113.10", "one", further_tunnel_ports=[443, 53], portal_check_port=8080)
    assert enroll(config, text).exit_code == 0
    read = read_mobile_host_config(config.read_text(), "mh.toml")
    assert read.anchor.further_tunnel_ports == (443, 53)
    assert read.mobile_host.portal_check is not None
    assert str(read.mobile_host.portal_check.server) == "203.0.113.10:8080"


@pytest.mark.parametrize("ports", [[0], [70000], ["x"], 443, {"a": 1}])
def test_a_line_with_ports_that_are_none_is_refused(tmp_path: Path, ports: object) -> None:
    answer = enroll(tmp_path / "mobile-host.toml", line("203.0.113.10", "one", further_tunnel_ports=ports))
    assert isinstance(answer.exception, UsageError)
    assert not (tmp_path / "mobile-host.toml").exists()
