"""Rule sets in and out of the kernel's iptables tables (python-iptables). Touches chains UPMT-* and jumps to them.

python-iptables replaces a table as a whole; when somebody else changed it meanwhile the kernel says EAGAIN and the
work is done again on the new state, so nobody's change is lost. Nor is a count, also of a built-in chain's policy.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import iptc
from iptc import easy

from upmt_nf.linux import policy_counters
from upmt_nf.linux.journal import Journal, RulesInstalled
from upmt_nf.model.errors import FacilityError, KernelError
from upmt_nf.model.names import CHAIN_PREFIX
from upmt_nf.routing.rule_changes import Line, commands
from upmt_nf.routing.rule_text import TABLES, NetfilterRule, RuleSet, quoted

log = logging.getLogger(__name__)

_ATTEMPTS = 20
_FIELDS = {
    "-i": "in-interface",
    "--in-interface": "in-interface",
    "-o": "out-interface",
    "--out-interface": "out-interface",
    "-s": "src",
    "--source": "src",
    "-d": "dst",
    "--destination": "dst",
    "-p": "protocol",
    "--protocol": "protocol",
}

Rule = dict[str, Any]
"""A rule as python-iptables' `easy` writes it, without counters."""


def install(ruleset: RuleSet, journal: Journal, version: int = 4) -> list[str]:
    """Put the rule set in place, one commit a table; gives what changed, in words. Twice is the same as once.

    `version` is that of the tables, 4 or 6. Raises FacilityError when the kernel lacks a match or target.
    """
    changed: list[str] = []
    for name in _tables_to_look_at(ruleset, version):
        wanted = _wanted(ruleset, name, version)
        if _present(_table(name, version)) != wanted:
            journal.note(RulesInstalled(version))
            log.debug("installing %d chains in IPv%d table %s", len(wanted), version, name)
            _change(name, version, lambda table, wanted=wanted: _put(table, wanted))  # type: ignore[misc]
            changed.append(f"table {name}: {', '.join(wanted) or 'our chains removed'}")
    return changed


def _tables_to_look_at(ruleset: RuleSet, version: int) -> tuple[str, ...]:
    """Of IPv6 only those that are used: looking at a table makes the kernel load it, and a host may lack them."""
    return TABLES if version == 4 else tuple(name for name in TABLES if name in ruleset.tables())


def tables_in_use(version: int) -> list[str]:
    """Those tables that the kernel has loaded: in no other one can rules of ours be."""
    loaded = loaded_tables(version)
    return [name for name in TABLES if name in loaded]


def loaded_tables(version: int) -> list[str]:
    """All tables that the kernel has loaded, those that we never use among them (security)."""
    try:
        names = Path(
            "/proc/net/ip_tables_names" if version == 4 else "/proc/net/ip6_tables_names"
        ).read_text()
    except OSError:
        return []
    return sorted(names.split())


def remove(version: int = 4) -> list[str]:
    """Take all our chains and the jumps to them away; gives the tables where there were any."""
    changed = []
    for name in tables_in_use(version):
        if _present(_table(name, version)):
            _change(name, version, lambda table: _put(table, {}))
            changed.append(name)
    return changed


def present(table: str, chain: str) -> list[Rule]:
    """The rules of one of our chains as they are in the kernel; none when there is no such."""
    # Looking at a table makes the kernel load it.
    return _present(_table(table, 4)).get(chain, []) if table in tables_in_use(4) else []


def verify(ruleset: RuleSet, version: int = 4) -> list[str]:
    """What differs between the rule set and the kernel, rule by rule; empty when nothing does."""
    drift: list[str] = []
    for name in TABLES:
        wanted = _wanted(ruleset, name, version)
        present = _present(_table(name, version)) if name in tables_in_use(version) else {}
        for chain in sorted({*wanted, *present}):
            expected, found = wanted.get(chain, []), present.get(chain, [])
            differs = [f"{name} {chain}: missing {_said(rule)}" for rule in expected if rule not in found]
            differs += [f"{name} {chain}: not ours {_said(rule)}" for rule in found if rule not in expected]
            drift += differs
            if not differs and expected != found:
                drift.append(f"{name} {chain}: the rules stand in another order")
    return drift


def changes(ruleset: RuleSet, version: int = 4) -> list[str]:
    """What `install` would do, as iptables commands in an order in which each of them works. Changes nothing."""
    tool = "iptables" if version == 4 else "ip6tables"
    said: list[str] = []
    for name in TABLES:
        wanted = _wanted(ruleset, name, version)
        present = _present(_table(name, version)) if name in tables_in_use(version) else {}
        texts = _texts(ruleset, name, version)
        said += commands(
            tool,
            name,
            {chain: [_line(rule, texts) for rule in rules] for chain, rules in wanted.items()},
            {chain: [_line(rule, texts) for rule in rules] for chain, rules in present.items()},
        )
    return said


def _texts(ruleset: RuleSet, table: str, version: int) -> dict[str, str]:
    """How the rule set writes each of its rules."""
    return {
        _key(_normal(rule, version)): str(rule).partition(f"-A {rule.chain} ")[2]
        for rule in ruleset.rules
        if rule.table == table
    }


def _line(rule: Rule, texts: Mapping[str, str]) -> Line:
    key = _key(rule)
    return Line(key, texts.get(key) or as_words(rule))


def _key(rule: Rule) -> str:
    return json.dumps(rule, sort_keys=True)


_SHORT = {"protocol": "-p", "in-interface": "-i", "out-interface": "-o", "src": "-s", "dst": "-d"}


def as_words(rule: Rule) -> str:
    """A rule of the library's as iptables takes it."""
    words: list[str] = []
    for name, option in _SHORT.items():
        if (value := rule.get(name)) is not None:
            words += ["!"] * value.startswith("!") + [option, value.lstrip("!")]
    for name, said in rule.items():
        if isinstance(said, dict) and name != "target":
            words += ["-m", name, *_option_words(said)]
        elif isinstance(said, list):
            for each in said:
                words += ["-m", name, *_option_words(each)]
    match rule.get("target"):
        case {"goto": chain}:
            words += ["-g", chain]
        case dict() as target:
            for name, options in target.items():
                words += ["-j", name, *_option_words(options)]
        case str() as target:
            words += ["-j", target]
    return " ".join(quoted(word) for word in words)


def _option_words(options: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        if values and values[0] == "!":
            words.append("!")
            values = values[1:]
        words += [f"--{name}", *(each for each in values if each)]
    return words


def as_rule(rule: NetfilterRule) -> Rule:
    """The words of a rule as python-iptables takes them. Raises FacilityError naming a word that it does not know."""
    found: Rule = {}
    options: dict[str, Any] | None = None
    words = list(rule.words)
    place = 0
    negated = False
    while place < len(words):
        word = words[place]
        place += 1
        if word == "!":
            negated = True
            continue
        if word in ("-m", "--match", "-j", "--jump") and place == len(words):
            raise FacilityError(f"the rule {rule} ends with {word!r}")
        if word in ("-m", "--match"):
            options = found.setdefault(words[place], {})
            place += 1
            continue
        if word in ("-j", "--jump"):
            options = {}
            found["target"] = {words[place]: options}
            place += 1
            continue
        takes_value = place < len(words) and not words[place].startswith("-") and words[place] != "!"
        value = words[place] if takes_value else ""
        place += takes_value
        if _FIELDS.get(word) in found or (options is not None and word[2:] in options):
            raise FacilityError(f"the rule {rule} has {word!r} twice")
        if word in _FIELDS:
            found[_FIELDS[word]] = f"!{value}" if negated else value
        elif options is not None and word.startswith("--"):
            options[word[2:]] = ["!", value] if negated else value
        else:
            raise FacilityError(f"the rule {rule} has a word {word!r} in a wrong place")
        negated = False
    for name, target in found.get("target", {}).items():
        if not target:
            found["target"] = name
    return found


def _wanted(ruleset: RuleSet, table: str, version: int) -> dict[str, list[Rule]]:
    """Chain -> rules as the kernel would give them back; of built-in chains only our jumps."""
    chains: dict[str, list[Rule]] = {chain: [] for chain in ruleset.chains(table)}
    for rule in ruleset.rules:
        if rule.table == table:
            chains.setdefault(rule.chain, []).append(_normal(rule, version))
    return chains


def _normal(rule: NetfilterRule, version: int) -> Rule:
    """Through the library and back, so that 1 and 0x1, or 10.0.0.0/8 and its mask, compare equal.

    The library passes over words that it cannot take without a sound: whatever did not come back is an error here.
    """
    asked = as_rule(rule)
    jump = asked.get("target")
    is_jump = isinstance(jump, str) and jump.startswith(CHAIN_PREFIX)
    probe = {**asked, "target": "RETURN"} if is_jump else asked
    try:
        _try_options(probe, version)
        made = easy.encode_iptc_rule(dict(probe), ipv6=version == 6)
        found = _read(made)
    except (iptc.XTablesError, ValueError, AttributeError, IndexError) as reason:
        raise FacilityError(f"iptables cannot take the rule {rule}: {reason}") from reason
    lost = [key for key in probe if key not in found]
    if isinstance(jump, dict):
        lost += [name for name in jump if name not in found.get("target", {})]
    if lost:
        raise FacilityError(f"iptables or the kernel does not know {', '.join(lost)} of the rule: {rule}")
    return {**found, "target": jump} if is_jump else found


def _try_options(asked: Rule, version: int) -> None:
    """Have each option read. `easy` drops a match's options that it cannot take, and the rule would match too much."""
    rule = iptc.Rule() if version == 4 else iptc.Rule6()
    if "protocol" in asked:
        rule.protocol = asked["protocol"]
    for name, said in asked.items():
        if not isinstance(said, dict):
            continue
        for kind, options in said.items() if name == "target" else [(name, said)]:
            extension = rule.create_target(kind) if name == "target" else rule.create_match(kind)
            for option, value in options.items():
                if value in ("", ["!", ""]) and _takes_value(extension, option):
                    # The extension would read through a null pointer.
                    raise ValueError(f"--{option} has no value")
                extension.set_parameter(option, value)


def _takes_value(extension: Any, option: str) -> bool:
    """Whether a match's or target's option must have a value."""
    module = extension._module
    for table, field in ((module.x6_options, "type"), (module.extra_opts, "has_arg")):
        place = 0
        while table and table[place].name:
            if table[place].name == option.encode():
                return bool(getattr(table[place], field))
            place += 1
    return False


def _read(rule: Any) -> Rule:
    """A rule of the library's as a dictionary, without counters."""
    found = easy.decode_iptc_rule(rule, ipv6=isinstance(rule, iptc.Rule6))
    return {key: value for key, value in found.items() if key != "counters"}


def _present(table: Any) -> dict[str, list[Rule]]:
    chains: dict[str, list[Rule]] = {}
    for chain in table.chains:
        rules = [_read(rule) for rule in chain.rules]
        if not chain.name.startswith(CHAIN_PREFIX):
            rules = [rule for rule in rules if _is_our_jump(rule)]
            if not rules:
                continue
        chains[chain.name] = rules
    return chains


def _is_our_jump(rule: Rule) -> bool:
    target = rule.get("target")
    return isinstance(target, str) and target.startswith(CHAIN_PREFIX)


def _put(table: Any, wanted: dict[str, list[Rule]]) -> None:
    """Make our part of a table as wanted. Other people's rules and their counters stay as they are."""
    for chain in table.chains:
        if chain.name.startswith(CHAIN_PREFIX):
            chain.flush()
            continue
        for rule in chain.rules:
            if _is_our_jump(_read(rule)):
                chain.delete_rule(rule)
    for name in wanted:
        if name.startswith(CHAIN_PREFIX) and not table.is_chain(name):
            table.create_chain(name)
    for name, rules in wanted.items():
        chain = iptc.Chain(table, name)
        is_ipv6 = isinstance(table, iptc.Table6)
        if name.startswith(CHAIN_PREFIX):
            for rule in rules:
                chain.append_rule(easy.encode_iptc_rule(dict(rule), ipv6=is_ipv6))
        else:
            # First of all: a verdict of somebody else's rule before ours would take packets from us.
            for rule in reversed(rules):
                chain.insert_rule(easy.encode_iptc_rule(dict(rule), ipv6=is_ipv6))
    for chain in list(table.chains):
        if chain.name.startswith(CHAIN_PREFIX) and chain.name not in wanted:
            chain.delete()


def _change(name: str, version: int, work: Callable[[Any], None]) -> None:
    for attempt in range(_ATTEMPTS):
        table = _table(name, version)
        counted = {
            chain: table.get_policy(chain)[1]
            for chain in policy_counters.CHAINS
            if table.builtin_chain(chain)
        }
        try:
            work(table)
            table.commit()
        except iptc.IPTCError as reason:
            if "temporarily unavailable" not in str(reason).lower() or attempt == _ATTEMPTS - 1:
                raise KernelError(f"iptables table {name}: {reason}") from reason
            time.sleep(0.005 * (attempt + 1))
            continue
        finally:
            table.refresh()
        policy_counters.add(name, version, counted)
        return


def _table(name: str, version: int) -> Any:
    """The table as it is now: the library keeps one object a name for the life of the process.

    Never with autocommit: a refresh would then commit once more what was committed, or half of what failed.
    """
    try:
        table = iptc.Table(name, False) if version == 4 else iptc.Table6(name, False)
        table.refresh()
    except iptc.IPTCError as reason:
        raise FacilityError(
            f"the kernel has no {'ip' if version == 4 else 'ip6'}tables table {name} (iptables-legacy): {reason}"
        ) from reason
    return table


def _said(rule: Rule) -> str:
    return ", ".join(f"{key} {value}" for key, value in rule.items())
