"""The anchor's users and a host's secret: who is let in by which algorithm, and files for their owner only."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from upmt_nf.cli.enrolment import user_app
from upmt_nf.linux.users import MD5_DIGITS, UsersFile, read_secret, write_private
from upmt_nf.model.errors import ConfigError
from upmt_nf.signaling.digest import REALM

BOAT, VAN = "boat7@fleet.example", "van7@fleet.example"


@pytest.mark.parametrize("algorithms", [("SHA-256",), ("SHA-256", "MD5"), ("MD5",)])
def test_a_user_has_one_line_for_each_algorithm_that_the_anchor_takes(
    tmp_path: Path, algorithms: tuple[str, ...]
) -> None:
    config, file = tmp_path / "anchor.toml", tmp_path / "users"
    listed = ", ".join(f'"{name}"' for name in algorithms)
    config.write_text(
        f'[anchor]\naddress = "45.0.0.1"\ninterface = "wan"\npool = "10.9.0.0/24"\nusers = "{file}"\n'
        f"digest_algorithms = [{listed}]\n"
    )
    run = CliRunner().invoke
    for identity in (BOAT, VAN):
        assert run(user_app, ["add", identity, "--config", str(config)]).exit_code == 0
    assert run(user_app, ["list", "--config", str(config)]).output.split() == [BOAT, VAN]
    assert len(file.read_text().splitlines()) == 2 * len(algorithms)
    assert file.stat().st_mode & 0o777 == 0o600
    users = UsersFile(file)
    before = users.hash_of(BOAT, REALM), users.hash_of(BOAT, REALM, digits=MD5_DIGITS)
    assert [known is not None for known in before] == [name in algorithms for name in ("SHA-256", "MD5")]
    assert run(user_app, ["rotate", BOAT, "--config", str(config)]).exit_code == 0
    after = users.hash_of(BOAT, REALM), users.hash_of(BOAT, REALM, digits=MD5_DIGITS)
    assert all(old is None or old != new for old, new in zip(before, after, strict=True))
    assert run(user_app, ["remove", BOAT, "--config", str(config)]).exit_code == 0
    assert (users.hash_of(BOAT, REALM), users.hash_of(BOAT, REALM, digits=MD5_DIGITS)) == (None, None)
    assert users.identities() == [VAN]


def users(directory: Path) -> UsersFile:
    made = UsersFile(directory / "users")
    made.set("boat7@fleet.example", "upmt", "ab" * 32)
    return made


def test_what_is_written_is_for_its_owner_only(tmp_path: Path) -> None:
    made = users(tmp_path)
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert made.identities() == ["boat7@fleet.example"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
def test_users_that_others_may_read_or_write_are_refused(tmp_path: Path, mode: int) -> None:
    made = users(tmp_path)
    made.path.chmod(mode)
    for attempt in (
        made.identities,
        lambda: made.set("car@fleet.example", "upmt", "cd" * 32),
        lambda: made.remove("boat7@fleet.example"),
    ):
        with pytest.raises(ConfigError, match=f"chmod 600 {made.path}") as caught:
            attempt()
        assert "ab" * 32 not in str(caught.value)
    assert UsersFile(made.path).hash_of("boat7@fleet.example", "upmt") is None


def test_a_running_anchor_takes_nothing_from_a_file_that_was_opened_to_others(tmp_path: Path) -> None:
    made = users(tmp_path)
    assert made.hash_of("boat7@fleet.example", "upmt") == "ab" * 32
    made.path.write_text("boat7@fleet.example:upmt:" + "ee" * 32 + "\nthief@x:upmt:" + "ff" * 32 + "\n")
    made.path.chmod(0o666)
    assert made.hash_of("boat7@fleet.example", "upmt") == "ab" * 32
    assert made.hash_of("thief@x", "upmt") is None
    made.path.chmod(0o600)
    assert made.hash_of("thief@x", "upmt") == "ff" * 32


def test_a_secret_that_others_may_read_is_refused_without_repeating_it(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    write_private(file, "correct horse\n")
    assert read_secret(file) == "correct horse"
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600") as caught:
        read_secret(file)
    assert "horse" not in str(caught.value)
