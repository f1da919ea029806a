"""Finds and reads the rule files: the administrator's before the packaged ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from upmt_nf.model.errors import ConfigError
from upmt_nf.model.names import CONFIG_DIRECTORY
from upmt_nf.routing.rule_text import RuleSet, expand

_PACKAGE = Path(__file__).resolve().parents[1]
PACKAGED = (_PACKAGE / "rules", _PACKAGE.parent / "rules")
"""In an installed package, and in a source tree."""
ADMINISTERED = Path(CONFIG_DIRECTORY) / "rules"


def rule_file(role: str) -> Path:
    """The rule file of `mobile-host` or `anchor`. Raises ConfigError when there is none."""
    for directory in (ADMINISTERED, *PACKAGED):
        candidate = directory / f"{role}.rules"
        if candidate.is_file():
            return candidate
    raise ConfigError(f"there is no rule file {role}.rules in {ADMINISTERED} or {PACKAGED[0]}")


def read_rules(
    role: str,
    values: Mapping[str, str | Sequence[str]],
    networks: Iterable[Mapping[str, str]] = (),
    applications: Iterable[str] = (),
    blocks: Mapping[str, Iterable[str]] | None = None,
) -> RuleSet:
    """All rules of a role, filled in. Raises ConfigError with file, line and reason."""
    files = [rule_file(role), *sorted((ADMINISTERED / f"{role}.d").glob("*.rules"))]
    all_networks, all_applications = list(networks), list(applications)
    all_blocks = {name: list(lines) for name, lines in (blocks or {}).items()}
    rules = [
        rule
        for file in files
        for rule in expand(
            file.read_text(encoding="utf-8"), str(file), values, all_networks, all_applications, all_blocks
        ).rules
    ]
    return RuleSet(tuple(rules))
