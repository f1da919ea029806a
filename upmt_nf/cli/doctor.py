"""`upmt doctor`: what of this host helps UPMT, what stands in its way, and what to do about it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import print_json
from upmt_nf.model.errors import FacilityError

if TYPE_CHECKING:
    from upmt_nf.daemon.diagnosis import Finding


def register(app: typer.Typer) -> None:
    """Add `doctor` to `app`."""
    app.command()(doctor)


def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Put right what can be put right safely.")] = False,
    json: Json = False,
) -> None:
    """Look at kernel, rules, routes and daemon; ends with 1 when something is wrong. Works without a daemon, too."""
    if os.geteuid() != 0:
        raise FacilityError("doctor tries kernel facilities and reads netfilter: run it as root")
    from upmt_nf.daemon import doctor as the_doctor

    findings = the_doctor.examine()
    done: list[str] = []
    if fix and any(finding.is_fixable for finding in findings):
        done = the_doctor.fix(findings)
        findings = the_doctor.examine()
    if json:
        print_json({"findings": [finding.report() for finding in findings], "fixed": done})
    else:
        for line in done:
            typer.echo(f"fixed    {line}")
        for finding in findings:
            for line in _lines(finding):
                typer.echo(line)
    if any(finding.state.value == "error" for finding in findings):
        raise typer.Exit(1)


def _lines(finding: Finding) -> list[str]:
    lines = [f"{finding.state.value:<8} {finding.check:<28} {finding.detail}"]
    if finding.remedy is not None and finding.state.value != "ok":
        fixable = " (upmt doctor --fix does it)" if finding.is_fixable else ""
        lines.append(f"{'':<37} -> {finding.remedy}{fixable}")
    return lines
