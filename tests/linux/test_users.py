"""The anchor's users and a host's secret: files for their owner only."""

from pathlib import Path

import pytest

from upmt_nf.linux.users import UsersFile, read_secret, write_private
from upmt_nf.model.errors import ConfigError


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
