"""Manual pages, completions and units that are shipped: current, and read by the programs they are for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from upmt_nf.cli.manual import completions, pages

PACKAGING = Path(__file__).resolve().parents[2] / "packaging"


def kept(folder: str) -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in (PACKAGING / folder).iterdir()}


def test_the_manual_pages_are_current() -> None:
    assert pages() == kept("man"), "run `make manual`"


def test_the_completions_are_current() -> None:
    assert completions() == kept("completions"), "run `make manual`"


def test_every_noun_has_a_page_and_every_page_its_exit_codes() -> None:
    made = pages()
    assert {"upmt.1", "upmt-anchor.1", "upmt-mobile-host.1", "upmt-rules.1", "upmt-lab.1"} <= set(made)
    for text in made.values():
        assert ".SH EXIT STATUS" in text
    assert ".SS upmt assign [OPTIONS]" in made["upmt.1"]
    assert "\\-\\-on\\-no\\-network hold|reject|native" in made["upmt.1"]


@pytest.mark.parametrize("name", sorted(pages()))
def test_roff_takes_the_page_without_a_warning(name: str) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        ("groff", "-man", "-ww", "-z", "-Tutf8", "-Kutf8", str(PACKAGING / "man" / name)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("shell", "file"), [("bash", "upmt.bash"), ("zsh", "_upmt"), ("fish", "upmt.fish")])
def test_the_shell_takes_its_completion(shell: str, file: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run((shell, "-n", str(PACKAGING / "completions" / file)), check=True)


BASH = """
source {script}
COMP_WORDS=(upmt rules ver) COMP_CWORD=2
"$(complete -p upmt | sed 's/.*-F \\([^ ]*\\).*/\\1/')" upmt
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSH = """
compdef() {{ }}
_arguments() {{ print -r -- "$@"; }}
fpath=({directory} $fpath)
autoload -U _upmt
words=(upmt rules ver) CURRENT=3
_upmt
"""
FISH = "source {script}; complete --do-complete 'upmt rules ver'"


@pytest.mark.parametrize(
    ("shell", "file", "text"),
    [("bash", "upmt.bash", BASH), ("zsh", "_upmt", ZSH), ("fish", "upmt.fish", FISH)],
    ids=["bash", "zsh", "fish"],
)
def test_the_shell_completes_commands(shell: str, file: str, text: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    upmt = tmp_path / "upmt"
    upmt.write_text(f'#!/bin/sh\nexec {sys.executable} -m upmt_nf.cli.main "$@"\n')
    upmt.chmod(0o755)
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = (
        shell,
        "-c",
        text.format(directory=PACKAGING / "completions", script=PACKAGING / "completions" / file),
    )
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert "verify" in done.stdout, done.stderr
    assert "install" not in done.stdout.split()


@pytest.mark.parametrize("unit", sorted(file.name for file in (PACKAGING / "systemd").iterdir()))
def test_systemd_takes_the_unit(unit: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    # The program and its pages are not installed where this is tested.
    text = (PACKAGING / "systemd" / unit).read_text(encoding="utf-8")
    lines = (line for line in text.replace("/usr/bin/upmt", "/bin/true").splitlines() if "man:" not in line)
    (tmp_path / unit).write_text("\n".join(lines) + "\n")
    words = ("systemd-analyze", "verify", str(tmp_path / unit))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", sorted(file.name for file in (PACKAGING / "systemd").iterdir()))
def test_the_unit_is_hardened(unit: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    words = (
        "systemd-analyze",
        "security",
        "--offline=true",
        "--threshold=45",
        str(PACKAGING / "systemd" / unit),
    )
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:]
