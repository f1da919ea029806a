"""Whose a flow is when its process and its socket are gone before anybody could look."""

from __future__ import annotations

from ipaddress import ip_address
from types import SimpleNamespace
from typing import Any

from upmt_nf.classify.reasons import Finder
from upmt_nf.classify.rules import ApplicationRule, first_match, is_guess
from upmt_nf.daemon.flow_owners import FlowOwners
from upmt_nf.linux.socket_record import Deed, Maker
from upmt_nf.model.flow import UDP, FlowKey
from upmt_nf.model.identity import ApplicationId

FLOW = FlowKey(UDP, ip_address("1.2.3.4"), 4000, ip_address("86.0.0.1"), 53)
NOBODY = 0x3FFFFF
"""No process has this number."""


def owners_with(maker: Maker | None) -> FlowOwners:
    owners = FlowOwners()
    record: Any = SimpleNamespace(maker_of=lambda cookie: maker if cookie == 5 else None, close=lambda: None)
    sockets: Any = SimpleNamespace(find=lambda flow: None, close=lambda: None)
    owners._record, owners._sockets = record, sockets
    owners.cookie_of_ended = lambda flow: 5
    return owners


def test_the_name_that_the_kernel_wrote_down_is_a_good_guess() -> None:
    owners = owners_with(Maker(NOBODY, 1000, 3.0, "oneword", Deed.CONNECTED))
    owner = owners.behind(FLOW)
    assert owner.process is not None
    assert (owner.process.pid, owner.process.command, owner.process.uid) == (NOBODY, "oneword", 1000)
    assert (owner.found_by, owner.is_certain, owner.has_socket) == (Finder.SOCKET_RECORD, False, False)
    by_name = ApplicationRule(ApplicationId(2), command="oneword")
    by_file = ApplicationRule(ApplicationId(3), executable="/bin/oneword")
    assert first_match([by_file, by_name], FLOW, owner.process) is by_name
    assert is_guess([by_file, by_name], None, FLOW)
    assert owners.counters["processes_not_found"] == 0


def test_without_a_record_nobody_is_found_and_it_is_counted() -> None:
    owners = owners_with(None)
    assert owners.behind(FLOW).process is None
    assert owners.counters["processes_not_found"] == 1
