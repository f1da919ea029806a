"""What is declared of applications while the daemon runs: `upmt apply`, what `upmt assign --save` keeps, reloading.

Only what differs is changed, and running flows come along.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from upmt_nf.classify.rules import ApplicationRule
from upmt_nf.config.application_sections import ApplicationSection, MatchSection
from upmt_nf.config.applications import (
    ApplicationsFile,
    Sections,
    check_applications,
    differences,
    read_applications,
    with_assignment,
    without_assignment,
    written,
)
from upmt_nf.config.checked import Section
from upmt_nf.config.mobile_host import read_mobile_host_config
from upmt_nf.config.system_resolver import declared_applications
from upmt_nf.daemon.adoption import claimed, parted_again, released
from upmt_nf.daemon.applications import Application, Source
from upmt_nf.daemon.matches import rule_of
from upmt_nf.linux.users import write_private
from upmt_nf.mobility.host_events import (
    ApplicationAssigned,
    ApplicationDefined,
    FlowsAdopted,
    NetworksRedescribed,
)
from upmt_nf.model.errors import ConfigError, UsageError
from upmt_nf.model.identity import DEFAULT_APPLICATION, DEFAULT_APPLICATION_ID, ApplicationName
from upmt_nf.policy.policy import Policy

if TYPE_CHECKING:
    from upmt_nf.daemon.host_daemon import HostDaemon

log = logging.getLogger(__name__)

SAVED = "applications.toml"
"""Beside the configuration file."""
_HEADER = "# Kept by `upmt assign --save` and `upmt apply --save`; read before the configuration file.\n\n"


class Declarations:
    """`file` is the daemon's configuration file; without one nothing can be kept or read again."""

    def __init__(self, daemon: HostDaemon, file: Path | None) -> None:
        self._daemon = daemon
        self._file = file

    def start(self) -> None:
        """Take what was kept. Raises ConfigError."""
        sections = self._kept()
        check_applications(self._daemon.config, sections)
        self._daemon.applications.declare(Source.SAVED, sections)

    # --- commands ---

    async def apply(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """Declare these applications, and no others by this way; gives what changed, in words."""
        try:
            sections = ApplicationsFile.model_validate(
                {"application": arguments.get("applications")}
            ).application
        except ValidationError as reason:
            raise UsageError(f"apply takes applications as the configuration has them: {reason}") from reason
        source = Source.SAVED if arguments.get("save") else Source.APPLIED
        changes = self._declare(source, sections, is_trial=bool(arguments.get("dry_run")))
        if source is Source.SAVED and changes and not arguments.get("dry_run"):
            self._keep(sections)
        return {"changed": bool(changes), "changes": changes}

    async def reload(self, _: Mapping[str, Any], __: int) -> dict[str, Any]:
        """Read the configuration again: applications change at once, what else differs needs a restart."""
        if self._file is None:
            raise UsageError("this daemon was started without a file")
        config = read_mobile_host_config(_text_of(self._file), str(self._file))
        running = self._daemon.config
        differing = set(_differing(running.mobile_host, config.mobile_host)) - {"resolver"}
        needs_restart = [f"mobile_host.{key}" for key in sorted(differing)]
        needs_restart += ["anchor"] * (running.anchors != config.anchors)
        fixed = [[section.fixed for section in each.network] for each in (running, config)]
        needs_restart += ["network"] * (fixed[0] != fixed[1])
        needs_restart += ["signalling"] * (running.signalling != config.signalling)
        if "network" in needs_restart:
            # Its applications may name networks that are not there yet.
            check_applications(running, config.application)
        else:
            # The policies first: applications may name new ones.
            changed = self._daemon.policies.adopt(config)
            self._daemon.config = running.model_copy(
                update={"policy": config.policy, "network": config.network}
            )
            described = [
                f"network {new.name} is described otherwise"
                for old, new in zip(running.network, config.network, strict=True)
                if old != new
            ]
            if described:
                known = self._daemon.machine.networks
                facts = (replace(each, is_metered=known[each.name].is_metered) for each in config.facts())
                self._daemon.take(NetworksRedescribed(tuple(facts)))
                self._daemon.measurements.redescribe(config)
        kept = self._kept()
        adopted = {"resolver": config.mobile_host.resolver}
        self._daemon.config = self._daemon.config.model_copy(
            update={"mobile_host": running.mobile_host.model_copy(update=adopted)}
        )
        changes = self._declare(Source.CONFIGURATION, declared_applications(config))
        changes += self._declare(Source.SAVED, kept)
        if "network" not in needs_restart:
            changes += described + [f"policy {name}: {what}" for name, what in changed.items()]
            for name in list(self._daemon.applications.policies):
                section = self._daemon.applications.section_of(name)
                if section is not None and section.policy in changed:
                    self._tell(name, None)
        for what in needs_restart:
            log.warning("%s is another now, but that takes a restart", what)
        log.info("configuration read again: %s", "; ".join(changes) or "nothing changed")
        return {"changed": bool(changes), "changes": changes, "needs_restart": needs_restart}

    def save(
        self,
        application: Application,
        policy: Policy | tuple[str, ...] | None,
        on_no_network: str | None,
        rule: ApplicationRule | None,
        anchor: str | None = None,
    ) -> None:
        """Keep an assignment for the daemon's next start; `policy` None: native. Raises UsageError."""
        if rule is not None and rule.pid is not None:
            raise UsageError("a process's number means nothing later: it cannot be saved")
        match = (MatchSection.model_validate(_fields(rule)),) if rule is not None else ()
        section = ApplicationSection.model_validate(
            {
                "name": application.name,
                **_policy_fields(policy),
                "on_no_network": on_no_network,
                "anchor": anchor,
                "match": match,
            }
        )
        sections = with_assignment(self._kept(), section)
        check_applications(self._daemon.config, sections)
        self._keep(sections)

    async def take_back(self, arguments: Mapping[str, Any], _: int) -> dict[str, Any]:
        """End what `upmt assign` said, for its conditions or for an application; with `save` what is kept, too."""
        daemon, applications = self._daemon, self._daemon.applications
        name, match = arguments.get("application"), arguments.get("match", {})
        if not isinstance(match, dict) or not (name is None or isinstance(name, str)) or not (name or match):
            raise UsageError("say which assignment ends: its conditions, or the name of its application")
        gone = applications.take_back(name, match)
        removed = [f"{applications.by_id[rule.application].name}: {rule}" for rule in gone]
        touched = {applications.by_id[rule.application].name for rule in gone}
        touched |= {ApplicationName(name)} if name in applications.by_name else set()
        for one in touched:
            section = applications.section_of(one)
            self._tell(one, section.networks if section is not None else None)
        daemon.update_rules()
        for one, flows in released(applications, daemon.paft, gone).items():
            daemon.take(FlowsAdopted(one, tuple(flows)))
        if arguments.get("save"):
            fields = _fields(rule_of(DEFAULT_APPLICATION_ID, match)) if match else None
            sections = without_assignment(
                self._kept(), name, MatchSection.model_validate(fields) if fields else None
            )
            if changes := self._declare(Source.SAVED, sections):
                self._keep(sections)
                removed += changes
        return {"changed": bool(removed), "removed": removed}

    def check_guard(
        self,
        name: str,
        policy: Policy | tuple[str, ...] | None,
        on_no_network: str | None,
        rules: Iterable[ApplicationRule],
    ) -> None:
        """Refuse at run time what the file would be refused for: a kill switch that comes too late. UsageError."""
        if on_no_network not in ("hold", "reject"):
            return
        section = ApplicationSection.model_validate(
            {
                # Whether a name is a good one is asked where it is defined.
                "name": name if name == DEFAULT_APPLICATION else "assigned",
                **_policy_fields(policy),
                "on_no_network": on_no_network,
                "match": [MatchSection.model_validate(_fields(rule)) for rule in rules],
            }
        )
        check_applications(self._daemon.config, (section,))

    # --- doing it ---

    def _declare(self, source: Source, sections: Sections, *, is_trial: bool = False) -> list[str]:
        daemon, applications = self._daemon, self._daemon.applications
        check_applications(daemon.config, sections)
        changes = differences(applications.sections[source], sections)
        if is_trial or not changes:
            return changes
        before = applications.rules
        for name, policy in applications.declare(source, sections).items():
            self._tell(name, policy)
        daemon.update_rules()
        rules = applications.rules
        gone = [rule for rule in before if rule not in rules]
        for name, flows in released(applications, daemon.paft, gone).items():
            daemon.take(FlowsAdopted(name, tuple(flows)))
        for rule in rules:
            if rule not in before:
                moved = claimed(applications, daemon.paft, rule)
                name = applications.by_id[rule.application].name
                daemon.take(FlowsAdopted(name, tuple(moved)))
        if daemon.admission is not None:
            # What the kernel let in before the rules changed.
            daemon.admission.catch_up()
        for name, flows in parted_again(applications, daemon.paft.flows.values()).items():
            daemon.take(FlowsAdopted(name, tuple(flows)))
        return changes

    def _tell(self, name: ApplicationName, policy: tuple[str, ...] | None) -> None:
        daemon = self._daemon
        chosen = daemon.policy_of(name) or policy or daemon.config.default_networks
        known, application = daemon.machine.applications.get(name), daemon.applications.by_name[name]
        anchor = daemon.anchor_of(application)
        if known is None or known.anchor != anchor:
            daemon.take(ApplicationDefined(name, application.id, chosen, anchor))
        if known is not None:
            daemon.take(ApplicationAssigned(name, chosen))

    def _kept(self) -> Sections:
        if self._file is None or not (kept := self._file.with_name(SAVED)).exists():
            return ()
        return read_applications(_text_of(kept), str(kept))

    def _keep(self, sections: Sections) -> None:
        if self._file is None:
            raise UsageError("this daemon was started without a file, so there is no place to keep it")
        write_private(self._file.with_name(SAVED), _HEADER + written(sections))


def _differing(one: Section, other: Section) -> list[str]:
    return [name for name in type(one).model_fields if getattr(one, name) != getattr(other, name)]


def _policy_fields(policy: Policy | tuple[str, ...] | None) -> dict[str, Any]:
    if isinstance(policy, Policy):
        return {"policy": policy.name}
    return {"networks": policy or ("any",), "policy": "tunnel" if policy else "native"}


def _fields(rule: ApplicationRule) -> dict[str, Any]:
    names = ("command", "executable", "children", "uid", "gid", "cgroup", "unit", "container", "pid", "dscp")
    found = {
        name: value for name in (*names, "destination_name") if (value := getattr(rule, name)) is not None
    }
    if rule.destination is not None:
        network = str(rule.destination)
        if rule.destination.version == 6:
            network = f"[{rule.destination.network_address}]/{rule.destination.prefixlen}"
        found["destination"] = network
    if rule.port is not None:
        found["port"] = rule.port if rule.last_port is None else f"{rule.port}-{rule.last_port}"
    return found


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise ConfigError(f"{file}: cannot be read: {reason}") from reason
