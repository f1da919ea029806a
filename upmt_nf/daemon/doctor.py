"""`upmt doctor`: looks at the host and its daemon, has it judged, and puts right what can be put right safely."""

from __future__ import annotations

from typing import Any

from upmt_nf.daemon.control_client import call
from upmt_nf.daemon.diagnosis import DaemonFacts, Finding, diagnose
from upmt_nf.linux import netfilter, sysctl
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.host_facts import look
from upmt_nf.linux.journal import Journal
from upmt_nf.model.errors import NoDaemonError
from upmt_nf.model.names import VIRTUAL_INTERFACE
from upmt_nf.routing.rule_text import expand


def examine() -> list[Finding]:
    """All findings, now. Needs root. Raises FacilityError when nothing can be found out."""
    return diagnose(look(), _daemon_facts())


def fix(findings: list[Finding]) -> list[str]:
    """Do what the fixable findings ask for; gives what was done, in words. Raises UpmtError."""
    done: list[str] = []
    daemon = _daemon_facts()
    for finding in findings:
        if not finding.is_fixable:
            continue
        match finding.check:
            case "leftovers" if daemon is None:
                done += cleanup(Journal())
            case "rules" if daemon is not None:
                ruleset = expand(call("rules")["rules"], "the daemon's rules", {})
                done += netfilter.install(ruleset, Journal())
            case "reverse_path" if daemon is not None:
                sysctl.loosen_reverse_path([*daemon.interfaces, VIRTUAL_INTERFACE], Journal())
                done.append(f"rp_filter loosened on {', '.join(daemon.interfaces)}")
    return done


def _daemon_facts() -> DaemonFacts | None:
    try:
        status = call("status", timeout=10)
        ruleset = expand(call("rules", timeout=10)["rules"], "the daemon's rules", {})
    except NoDaemonError:
        return None
    association = status.get("association")
    if association is not None:
        failure = f": {association['failure']}" if association["failure"] else ""
        association = association["state"] + ("" if association["state"] == "associated" else failure)
    return DaemonFacts(
        role=status["role"],
        interfaces=tuple(row["interface"] for row in status.get("networks", ()))
        or tuple(filter(None, [status.get("interface")])),
        drift=tuple(netfilter.verify(ruleset)),
        association=association,
        resolver=status.get("resolver"),
        tunnel_mtus={row["name"]: row["mtu"] for row in status.get("networks", ()) if row["mtu"]},
        datapath=f"{status['datapath']} datapath ({status['datapath_reason']})"
        + _admission_of(status)
        + _shortcut_of(status),
    )


def _admission_of(status: dict[str, Any]) -> str:
    """Who lets first packets in, at a mobile host."""
    by, reason = status.get("admission"), status.get("admission_reason")
    return f", first packets by the {by} ({reason})" if by else ""


def _shortcut_of(status: dict[str, Any]) -> str:
    """Whether UDP flows go past netfilter, at an anchor."""
    shortcut = status.get("shortcut")
    if shortcut is None:
        return ""
    return f", shortcut past netfilter {'open' if shortcut['open'] else 'closed'} ({shortcut['reason']})"
