"""Rule files -> netfilter rules: iptables-save syntax with `{placeholders}` and two kinds of expansion.

A line that mentions `{network_...}` is written once for each access network. A line `@NAME` is replaced by lines
that somebody else makes (`@applications`: `classify`; `@incoming`, `@outgoing`: `openings`). Everything after `#` at
the start of a line is the reason for what follows.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from upmt_nf.model.errors import ConfigError
from upmt_nf.model.names import CHAIN_PREFIX

TABLES = ("raw", "mangle", "nat", "filter")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class NetfilterRule:
    """One `-A` line: its table, chain and words (as a shell would split them)."""

    table: str
    chain: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(["-A", self.chain, *(quoted(word) for word in self.words)])


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All rules of one role, in order. Chains of our own are named UPMT-*; rules in built-in chains jump there."""

    rules: tuple[NetfilterRule, ...]

    def tables(self) -> tuple[str, ...]:
        """The tables that are used, in netfilter's order."""
        return tuple(table for table in TABLES if any(rule.table == table for rule in self.rules))

    def chains(self, table: str) -> tuple[str, ...]:
        """Our own chains in a table, in the order of their first mention; one that is only jumped to is empty."""
        mentioned = (
            chain
            for rule in self.rules
            if rule.table == table
            for chain in (rule.chain, rule.words[-1])
            if chain.startswith(CHAIN_PREFIX)
        )
        return tuple(dict.fromkeys(mentioned))

    def in_chain(self, table: str, chain: str) -> tuple[NetfilterRule, ...]:
        """The rules of one chain."""
        return tuple(rule for rule in self.rules if rule.table == table and rule.chain == chain)

    def __str__(self) -> str:
        """As iptables-save would print it, without what is not ours."""
        lines: list[str] = []
        for table in self.tables():
            lines.append(f"*{table}")
            lines += [f":{chain} - [0:0]" for chain in self.chains(table)]
            lines += [str(rule) for rule in self.rules if rule.table == table]
            lines.append("COMMIT")
        return "\n".join(lines) + "\n"


def expand(
    text: str,
    file: str,
    values: Mapping[str, str | Sequence[str]],
    networks: Iterable[Mapping[str, str]] = (),
    applications: Iterable[str] = (),
    blocks: Mapping[str, Iterable[str]] | None = None,
) -> RuleSet:
    """Read a rule file. Raises ConfigError with file, line and reason.

    `values` fills placeholders, each of `networks` those that begin with `network_`; `applications` are `-A` lines,
    and so are the `blocks` by name, of which one that is not given is empty.
    A line with a placeholder whose value is empty is left out; one whose value is a list is written once for each.
    """
    rules: list[NetfilterRule] = []
    table: str | None = None
    all_networks = list(networks)
    all_blocks = {"incoming": (), "outgoing": (), **(blocks or {}), "applications": applications}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith(("#", ":")):
            continue
        where = f"{file}:{number}"
        if line.startswith("*"):
            table = line[1:]
            if table not in TABLES:
                raise ConfigError(f"{where}: there is no table {table!r}; there are {', '.join(TABLES)}")
        elif line == "COMMIT":
            table = None
        elif table is None:
            raise ConfigError(f"{where}: a rule stands outside of a table")
        elif line.startswith("@"):
            if line[1:] not in all_blocks:
                known = ", ".join(f"@{name}" for name in sorted(all_blocks))
                raise ConfigError(f"{where}: there is no {line}; there are {known}")
            rules += [_rule(where, table, made) for made in all_blocks[line[1:]]]
        else:
            rules += [_rule(where, table, filled) for filled in _filled(where, line, values, all_networks)]
    return RuleSet(tuple(rules))


def _filled(
    where: str, line: str, values: Mapping[str, str | Sequence[str]], networks: list[Mapping[str, str]]
) -> Iterable[str]:
    names = dict.fromkeys(_PLACEHOLDER.findall(line))
    scopes: list[Mapping[str, str | Sequence[str]]] = (
        [{**values, **network} for network in networks]
        if any(n.startswith("network_") for n in names)
        else [values]
    )
    for scope in scopes:
        for name in names:
            if name not in scope:
                raise ConfigError(
                    f"{where}: there is no value {{{name}}}; there are {', '.join(sorted(scope))}"
                )
        lists = [each if not isinstance(each := scope[name], str) else [each] * bool(each) for name in names]
        for chosen in product(*lists):
            filled = dict(zip(names, chosen, strict=True))
            yield _PLACEHOLDER.sub(lambda found, filled=filled: filled[found[1]], line)  # type: ignore[misc]


def _rule(where: str, table: str, line: str) -> NetfilterRule:
    try:
        words = shlex.split(line)
    except ValueError as reason:
        raise ConfigError(f"{where}: {reason}") from reason
    if len(words) < 4 or words[0] != "-A":
        raise ConfigError(f"{where}: a rule is written -A CHAIN ... -j TARGET")
    if not words[1].startswith(CHAIN_PREFIX) and not (
        len(words) >= 4 and words[-2] == "-j" and words[-1].startswith(CHAIN_PREFIX)
    ):
        raise ConfigError(
            f"{where}: outside of our own chains ({CHAIN_PREFIX}*) only a jump into one of them is allowed"
        )
    return NetfilterRule(table, words[1], tuple(words[2:]))


def quoted(word: str) -> str:
    """As iptables-save quotes: only what has a space or a quote in it."""
    if word and not re.search(r"[\s\"'\\]", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
