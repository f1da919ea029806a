"""How it was found out whose a flow is: kept with the flow, so that `upmt why` can say it later."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from upmt_nf.classify.rules import ApplicationRule


class Decider(Enum):
    """Who looked."""

    NETFILTER = "netfilter"
    """A rule in mangle OUTPUT wrote the application's id into the mark, before the agent saw the packet."""
    KERNEL = "kernel"
    """An eBPF program let it in by what the agent had found out of the same process before."""
    AGENT = "agent"
    """The agent held the flow, and its process where needed, against the rules."""


class Mechanism(Enum):
    """By what a flow was told from others. The values are those of `upmt why --json`."""

    CGROUP = "cgroup"
    OWNER = "owner"
    DESTINATION = "destination"
    DSCP = "dscp"
    PROCESS = "process"
    MARK = "mark"
    """A mark that no rule of ours explains: the program's own SO_MARK, or somebody else's rule."""
    DEFAULT = "default"


class Finder(Enum):
    """By what the agent found the process behind a flow. The values are those of `upmt why --json`."""

    SOCKET_RECORD = "socket_record"
    """An eBPF program in the kernel wrote down who made the socket."""
    SEARCH = "search"
    """The socket's inode was looked for among the files that processes have open."""
    REMEMBERED = "remembered"
    """The process had ended; process events had told of it while it was there."""
    NOBODY = "nobody"
    """Nobody who has the socket could be found, or it is closed: a rule that asks for the process may be missed."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a flow is an application's. `rule` None: by the mark alone, or because nothing names it.

    `found_by` None: nobody looked for the process. `is_guess`: an earlier rule might have matched, had it been found.
    """

    decider: Decider
    rule: ApplicationRule | None = None
    found_by: Finder | None = None
    is_guess: bool = False


MARKED = Reason(Decider.NETFILTER)
UNNAMED = Reason(Decider.AGENT)
"""No rule matched: the default application."""


def mechanism_of(rule: ApplicationRule) -> Mechanism:
    """The strongest condition of a rule: what costs most to find out decides what it is called."""
    if rule.needs_process:
        return Mechanism.PROCESS
    if rule.cgroup is not None:
        return Mechanism.CGROUP
    if rule.uid is not None or rule.gid is not None:
        return Mechanism.OWNER
    if rule.dscp is not None:
        return Mechanism.DSCP
    return Mechanism.DESTINATION
