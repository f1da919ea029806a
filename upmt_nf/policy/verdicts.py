"""Why an application is on a network, or is not, as the engine would say it. For people; decides nothing."""

from __future__ import annotations

from upmt_nf.model.identity import ApplicationName, NetworkName
from upmt_nf.policy.candidates import Candidate, merit_of
from upmt_nf.policy.engine import Engine
from upmt_nf.policy.policy import SCORED


def verdict(engine: Engine, name: ApplicationName, network: NetworkName, now: float) -> str:
    """Of a network that works, in the words of the application's policy, with the numbers."""
    bar = engine.bar(name, network, now)
    application = engine.applications[name]
    policy, path, standing = application.policy, engine.paths[network], application.standing(network)
    if application.lock is not None:
        said = f"it is locked to {application.lock}"
        return said if application.lock == network else f"not allowed: {said}"
    if bar is not None:
        return f"not allowed: {bar}"
    if standing.violation is not None:
        return f"bad: {standing.violation}" + (
            ", and so are the others" if application.network == network else ""
        )
    if application.network == network:
        return f"{policy.kind.value}: the best that is allowed and good"
    if path.is_doubtful:
        return f"in doubt: {path.reason}"
    if (violation := policy.enter.violated_by(path.quality)) is not None:
        return f"not good enough to go to: {violation}"
    if application.network is None:
        return "it is about to be gone to"
    here = Candidate(engine.paths[application.network], application.standing(application.network), None)
    there = Candidate(path, standing, None)
    mine, other = merit_of(policy, there), merit_of(policy, here)
    is_scored = policy.kind in SCORED
    if mine <= other + (policy.margin if is_scored else 0.0):
        if is_scored:
            return f"scores {mine:.2f}, {application.network} {other:.2f}: no {policy.margin:g} better"
        return f"no better than {application.network}"
    since = [standing.proven_at(policy, now, policy.good_for), application.settled_at]
    if standing.better_since is not None:
        since.append(standing.better_since + policy.good_for)
    return f"better, and to be gone to in {max(0.0, max(since) - now):.0f} s (good_for, hold, penalty)"
