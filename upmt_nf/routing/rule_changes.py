"""Wanted chains against present chains, as the iptables commands that lead from one to the other. Reads no kernel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from upmt_nf.model.names import CHAIN_PREFIX


@dataclass(frozen=True, slots=True)
class Line:
    """One rule: `text` behind `-A CHAIN`, `key` what it is compared by."""

    key: str
    text: str


Chains = Mapping[str, Sequence[Line]]
"""Chain -> its rules; of a built-in chain only the jumps into ours."""


def commands(tool: str, table: str, wanted: Chains, present: Chains) -> list[str]:
    """What an administrator would type, in an order in which every command works. Empty when nothing differs."""
    ours = [chain for chain in wanted if chain.startswith(CHAIN_PREFIX)]
    gone = [chain for chain in present if chain.startswith(CHAIN_PREFIX) and chain not in wanted]
    builtin = [chain for chain in dict.fromkeys((*wanted, *present)) if not chain.startswith(CHAIN_PREFIX)]
    said: list[str] = [f"-N {chain}" for chain in ours if chain not in present]
    for chain in ours:
        said += _edits(chain, wanted[chain], present.get(chain, ()))
    for chain in builtin:
        said += _jumps(chain, wanted.get(chain, ()), present.get(chain, ()))
    said += [f"-F {chain}" for chain in gone]
    said += [f"-X {chain}" for chain in gone]
    return [f"{tool} -t {table} {words}" for words in said]


def _edits(chain: str, wanted: Sequence[Line], present: Sequence[Line]) -> Iterator[str]:
    """Insertions and deletions by number, from the end, so that earlier numbers stay true."""
    matcher = SequenceMatcher(
        None, [line.key for line in present], [line.key for line in wanted], autojunk=False
    )
    for kind, start, end, first, last in reversed(matcher.get_opcodes()):
        if kind == "equal":
            continue
        for number in range(end, start, -1):
            yield f"-D {chain} {number}"
        for line in reversed(wanted[first:last]):
            if start == len(present):
                continue
            yield f"-I {chain} {start + 1} {line.text}"
        if start == len(present):
            yield from (f"-A {chain} {line.text}" for line in wanted[first:last])


def _jumps(chain: str, wanted: Sequence[Line], present: Sequence[Line]) -> Iterator[str]:
    """Jumps from a chain that others use as well: ours stand first of all, in their order."""
    if [line.key for line in wanted] == [line.key for line in present]:
        return
    yield from (f"-D {chain} {line.text}" for line in present)
    yield from (f"-I {chain} {number} {line.text}" for number, line in enumerate(wanted, start=1))
