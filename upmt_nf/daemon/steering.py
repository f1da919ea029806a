"""Application rules -> what of them routing can know before a packet is sent (`routing.plan.Steering`).

A rule that routing cannot express ends what may be left alone by routing: a packet that it claims must not be gone by
then. Netfilter and the agent catch the rest, with the virtual address translated where the flow is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from upmt_nf.classify.rules import ApplicationRule
from upmt_nf.daemon.applications import Application, Applications
from upmt_nf.model.identity import DEFAULT_APPLICATION
from upmt_nf.model.names import MARK_NATIVE, MARK_TUNNELLED
from upmt_nf.routing.plan import Steering, Step


def steering_of(applications: Applications) -> Steering:
    """What goes by the tunnels and what does not, as things are now."""
    rest = applications.by_name[DEFAULT_APPLICATION]
    named = [each for each in applications.by_name.values() if each is not rest]
    return Steering(
        is_default_native=rest.goes_native,
        guarded_marks=tuple(each.id for each in named if each.is_guarded),
        tunnelled_marks=tuple(
            each.id for each in named if rest.goes_native and not each.is_guarded and not each.goes_native
        ),
        steps=tuple(_steps(applications)),
        is_rest_guarded=rest.is_guarded or _is_found_too_late(applications),
        marks_sockets=applications.marks_sockets,
    )


def _steps(applications: Applications) -> Iterator[Step]:
    may_leave_alone = True
    for rule in applications.rules:
        application = applications.by_id[rule.application]
        if rule in applications.started and applications.marks_sockets:
            continue
        if _is_known_early(rule):
            if may_leave_alone or not application.goes_native:
                yield Step(
                    application.goes_native, rule.uid, rule.destination, rule.port, application.is_guarded
                )
        elif not application.goes_native:
            may_leave_alone = False


def _is_known_early(rule: ApplicationRule) -> bool:
    """Routing knows users and destinations, and single ports of these."""
    return not rule.needs_process and all(
        condition is None
        for condition in (rule.gid, rule.cgroup, rule.dscp, rule.destination_name, rule.last_port)
    )


def _is_found_too_late(applications: Applications) -> bool:
    """A guarded application that only a look at the process can tell: without tunnels nobody looks, so all is held."""
    return any(
        applications.by_id[rule.application].is_guarded for rule in applications.rules if rule.needs_process
    )


def socket_marks(applications: Applications) -> Mapping[str, int]:
    """Cgroup of `upmt run` -> the mark that its sockets get when they are created; 0: none is needed."""
    return {
        rule.cgroup: _socket_mark(applications.by_id[rule.application]) if applications.marks_sockets else 0
        for rule in applications.started
        if rule.cgroup is not None
    }


def _socket_mark(application: Application) -> int:
    return MARK_NATIVE if application.goes_native else MARK_TUNNELLED
