"""What people and programs are told of a handover that is over."""

from __future__ import annotations

from upmt_nf.mobility.commands import Announce, Level
from upmt_nf.mobility.handover import Handover, HandoverPhase
from upmt_nf.mobility.host_commands import HandoverFinished, HostCommand


def outcome_of(handover: Handover) -> list[HostCommand]:
    """A line for the log, and the receipt or the failure for who asked."""
    order = handover.order
    what = str(order.flow) if order.flow is not None else order.application
    way = f"{order.source or 'no network'} to {order.target}"
    if handover.phase is not HandoverPhase.DONE:
        failed = HandoverFinished(
            order.token, None, handover.failure, application=order.application, target=order.target
        )
        return [Announce(Level.WARNING, f"{what} from {way}: {handover.failure}"), failed]
    receipt = handover.receipt()
    number = handover.tally.number if handover.tally is not None else None
    text = f"{what} moved from {way}, {receipt.flows} flows, {receipt.mode.value}: {order.cause}"
    if order.source is None and not receipt.flows:
        text = f"{what} uses {order.target}"
    return [Announce(Level.INFO, text), HandoverFinished(order.token, receipt, None, number=number)]
