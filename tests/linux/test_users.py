"""The anchor's users in their file, and who may be let in by which algorithm."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from upmt_nf.cli.enrolment import user_app
from upmt_nf.linux.users import MD5_DIGITS, UsersFile
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
