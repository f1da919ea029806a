"""Every recipe of docs/recipes.md runs, in the order of the page."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_driver import Lab, unique_lab_name, wait_until

pytestmark = pytest.mark.lab

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
RECIPES = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def van(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A mobile host whose networks are called wifi and lte, with `upmt` in its path."""
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        text = (lab.directory_of_state() / "mobile-host.toml").read_text()
        config = lab.directory / "mobile-host.toml"
        config.write_text(text.replace('"net0"', '"wifi"').replace('"net1"', '"lte"'))
        upmt = lab.directory / "upmt"
        upmt.write_text(f'#!/bin/sh\nexec {sys.executable} -m upmt_nf.cli.main "$@"\n')
        upmt.chmod(0o755)
        lab.start_daemon("an")
        lab.start_daemon("mh", config)
        wait_until(lambda: lab.is_answering("mh"), "the daemon answers", 30)
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def test_the_page_has_recipes() -> None:
    assert len(RECIPES) > 10


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_recipe(van: Lab, number: int) -> None:
    config = van.directory / "mobile-host.toml"
    environment = (f"PATH={van.directory}:{os.environ['PATH']}", f"UPMT_CONFIG={config}")
    script = f"cd {van.directory}\n{RECIPES[number]}"
    done = van.on("mh", "env", *environment, "sh", "-ec", script, check=False)
    assert done.returncode == 0, f"{RECIPES[number]}\n{done.stdout}{done.stderr}"


def test_what_was_kept_is_there_after_the_next_start(van: Lab) -> None:
    van.end_programs()
    kept = (van.directory / "applications.toml").read_text()
    assert 'name = "backup"' in kept
    assert "uid = 34" in kept
    van.start_daemon("an")
    van.start_daemon("mh", van.directory / "mobile-host.toml")
    wait_until(lambda: van.is_answering("mh"), "the daemon answers", 30)
    apps = {app["name"]: app for app in van.ask("apps")}
    assert apps["backup"]["policy"] == ["wifi", "lte"]
    assert apps["backup"]["match"] == ["uid=34"]
    assert "camera" in apps
    assert "voice" not in apps
