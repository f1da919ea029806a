"""Applications that only the maps of an earlier daemon know: which of them are named again, and which are over."""

import pytest
from pretend_kernel import PretendMap

from upmt_nf.config.application_sections import ApplicationSection
from upmt_nf.daemon.applications import Applications
from upmt_nf.daemon.fast_start import names_before
from upmt_nf.datapath.fast_layout import FLOW, FLOW_KEY, NAMED_BYTES, NUMBER, FlowRow, NamedRow
from upmt_nf.model.identity import ApplicationName

NETWORKS = {"any", "net0", "net1"}
DEFAULT = ("any",)


def left(number: int, row: NamedRow, *flows_of: int) -> dict[str, PretendMap]:
    """The maps that an earlier daemon left, with an application and with flows of these numbers."""
    maps = {"names": PretendMap(4, NAMED_BYTES), "flows": PretendMap(FLOW_KEY.size, FLOW.size)}
    maps["names"].rows[NUMBER.pack(number)] = row.packed()
    for place, application in enumerate(flows_of):
        maps["flows"].rows[bytes([place]) * FLOW_KEY.size] = FlowRow(application).packed()
    return maps


def found(
    maps: dict[str, PretendMap], *declared: str
) -> tuple[dict[int, str], dict[ApplicationName, tuple[str, ...]]]:
    """The names that the numbers stand for now, and the lists that are remembered."""
    applications = Applications([ApplicationSection(name=name) for name in declared])
    numbers, lists = names_before(maps, applications, NETWORKS, DEFAULT)  # type: ignore[arg-type]
    return {number: applications.by_id[id].name for number, id in numbers.items()}, lists


def test_one_that_was_declared_and_taken_back_does_not_come_back_by_its_name() -> None:
    assert found(left(5, NamedRow("gone", DEFAULT), 6, 7)) == ({}, {})


def test_one_that_still_has_flows_does() -> None:
    assert found(left(5, NamedRow("call", DEFAULT), 6, 5)) == ({5: "call"}, {"call": DEFAULT})


@pytest.mark.parametrize("networks", [("net1", "any"), ("net1", "no more there", "any")])
def test_where_one_may_go_is_known_nowhere_else(networks: tuple[str, ...]) -> None:
    assert found(left(5, NamedRow("call", networks))) == ({5: "call"}, {"call": ("net1", "any")})


def test_what_is_declared_now_goes_by_what_it_says() -> None:
    row = NamedRow("call", ("net1", "any"), is_declared=True)
    assert found(left(5, row), "call") == ({5: "call"}, {})


def test_what_was_declared_and_is_no_more_is_nobodys() -> None:
    row = NamedRow("call", ("net1", "any"), is_declared=True)
    assert found(left(5, row, 5)) == ({}, {})


def test_one_keeps_its_anchor_unless_something_else_is_declared_now() -> None:
    row = NamedRow("call", DEFAULT, anchor="46.0.0.1")
    for declared, anchor in (((), "46.0.0.1"), (("call",), None)):
        applications = Applications([ApplicationSection(name=name) for name in declared])
        names_before(left(5, row), applications, NETWORKS, DEFAULT)  # type: ignore[arg-type]
        assert applications.by_name[ApplicationName("call")].anchor == anchor
