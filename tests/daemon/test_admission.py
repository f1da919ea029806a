"""What the kernel is taught of processes, and what PAFT hears of the flows that it lets in."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any

import pytest
from pretend_kernel import PretendLoop, PretendMap

from upmt_nf.classify.facts import ProcessFacts
from upmt_nf.classify.reasons import MARKED, Decider, Finder, Reason
from upmt_nf.config.application_sections import ApplicationSection
from upmt_nf.daemon.admission import Admission
from upmt_nf.daemon.applications import Applications, Source
from upmt_nf.daemon.flow_owners import Owner
from upmt_nf.datapath.admission_layout import ASKED, BEGUN, GATE, IDENTITY, VERDICT
from upmt_nf.datapath.fast_layout import FLOW, FLOW_KEY, NUMBER, FlowRow, flow_key
from upmt_nf.datapath.host_forwarder import Classified, HostForwarder
from upmt_nf.datapath.paft import Paft
from upmt_nf.model.flow import UDP, FlowKey
from upmt_nf.model.identity import ApplicationId, ApplicationName

OWN, ANCHOR, FAR = ip_address("1.2.3.4"), ip_address("45.0.0.1"), ip_address("86.0.0.1")
FLOW_A = FlowKey(UDP, OWN, 4000, FAR, 53)
FACTS = ProcessFacts(
    700, "talker", "/usr/bin/talker", ("talker",), 1000, 100, "/", (), started=71, other_cgroups=()
)
SOCKET = 1 << 40


class PretendQueue(PretendMap):
    def pop(self) -> bytes | None:
        return self.rows.pop(next(iter(self.rows))) if self.rows else None

    def push(self, row: bytes) -> None:
        self.rows[NUMBER.pack(len(self.rows))] = row


class World:
    def __init__(self) -> None:
        self.maps: dict[str, Any] = {
            "gate": PretendMap(4, GATE.size),
            "verdicts": PretendMap(IDENTITY.size, VERDICT.size),
            "asked": PretendMap(FLOW_KEY.size, ASKED.size),
            "begun": PretendQueue(0, BEGUN.size),
            "flows": PretendMap(FLOW_KEY.size, FLOW.size),
            "makers": SimpleNamespace(fileno=lambda: -1),
        }
        self.loop = PretendLoop()
        self.paft = Paft()
        self.applications = Applications(())
        program: Any = SimpleNamespace(maps=self.maps, close=lambda: None)
        loop: Any = self.loop
        self.admission = Admission(loop, program, self.paft, self.applications)
        self.forwarder = HostForwarder(
            self.paft, OWN, ANCHOR, lambda key, mark, dscp=0: Classified(ApplicationId(1), 0, "")
        )
        self.admission.use(self.forwarder)

    def assign(self, name: str, **match: Any) -> ApplicationId:
        application, _ = self.applications.assign(name, match)
        self.admission.fit_rules()
        return application.id

    @property
    def gate(self) -> tuple[int, ...]:
        return GATE.unpack(self.maps["gate"].rows[NUMBER.pack(0)])

    def ask(self, flow: FlowKey = FLOW_A, socket: int = SOCKET, **other: Any) -> bytes:
        """The kernel leaves a first packet to the agent."""
        said: dict[str, Any] = {"pid": 700, "uid": 1000, "gid": 100, "command": b"talker", **other}
        generation = said.get("generation", self.gate[0])
        who = IDENTITY.pack(
            715_000_000, 1, 5, generation, said["pid"], said["uid"], said["gid"], said["command"]
        )
        self.maps["asked"].rows[flow_key(flow.packed())] = ASKED.pack(who, socket)
        return who

    def find(self, facts: ProcessFacts | None = FACTS, finder: Finder = Finder.SOCKET_RECORD) -> None:
        """The agent looks whose it is."""
        self.applications.found(FLOW_A, Owner(facts, finder, cookie=SOCKET))
        self.loop.turn()

    @property
    def verdicts(self) -> dict[bytes, tuple[int, ...]]:
        return {who: VERDICT.unpack(row) for who, row in self.maps["verdicts"].rows.items()}

    def let_in(self, socket: int = SOCKET, flow: FlowKey = FLOW_A, **other: Any) -> None:
        """The kernel lets a flow in."""
        key = flow_key(flow.packed()) or b""
        said: dict[str, Any] = {"application": 1, "rule": 0, "mark": 0, "pid": 700, **other}
        row = FlowRow(said["application"], socket=socket, generation=self.gate[0])
        self.maps["flows"].rows[key] = row.packed()
        self.maps["begun"].push(
            BEGUN.pack(
                key, socket, self.gate[0], said["application"], said["rule"], said["mark"], said["pid"], 0, b"talker"
            )
        )  # fmt: skip


def test_a_process_is_known_by_its_first_flow() -> None:
    world = World()
    voice = world.assign("voice", command="talker")
    who = world.ask()
    world.find()
    assert world.verdicts == {who: (voice, 1)}


@pytest.mark.parametrize(
    "other",
    [{"pid": 701}, {"uid": 0}, {"gid": 0}, {"command": b"other"}, {"generation": 1}, {"socket": 5}],
    ids=str,
)
def test_nothing_is_told_of_a_process_that_was_another_when_it_sent(other: dict[str, Any]) -> None:
    world = World()
    world.assign("voice", command="talker")
    world.ask(**other)
    world.find()
    assert world.verdicts == {}


def test_nothing_is_told_of_whoever_began_later_or_was_guessed() -> None:
    world = World()
    world.assign("voice", command="talker")
    world.ask()
    world.find(replace(FACTS, started=72))
    world.find(FACTS, Finder.SEARCH)
    world.find(None, Finder.NOBODY)
    assert world.verdicts == {}


def test_what_depends_on_the_flow_or_is_left_alone_stays_the_agents() -> None:
    world = World()
    world.assign("far", command="talker", destination=str(ip_network("10.0.0.0/8")))
    world.ask()
    world.find()
    assert world.verdicts == {}
    native = world.assign("native", command="talker")
    world.applications.by_id[native].is_native = True
    world.admission.fit_rules()
    world.ask()
    world.find()
    assert world.verdicts == {}


def test_while_flows_have_policies_of_their_own_the_gate_stays_shut() -> None:
    world, flow = World(), {"port": 5004, "policy": "voice"}
    call = ApplicationSection.model_validate(
        {"name": "call", "match": [{"command": "talker"}], "flow": [flow]}
    )
    world.admission.fit_rules()
    assert world.gate[0] != 0
    world.applications.declare(Source.CONFIGURATION, (call,))
    world.admission.fit_rules()
    assert world.gate[0] == 0
    world.applications.declare(Source.CONFIGURATION, (call.model_copy(update={"flow": ()}),))
    world.admission.fit_rules()
    assert world.gate[0] != 0


def test_a_change_of_the_rules_shuts_the_gate_until_netfilter_has_them() -> None:
    world = World()
    world.assign("voice", command="talker")
    before = world.gate[0]
    world.applications.assign("video", {"command": "other"})
    assert world.gate[0] == 0
    world.ask()
    world.find()
    assert world.verdicts == {}
    world.admission.fit_rules()
    assert world.gate[0] not in (0, before)
    world.admission.fit_rules()
    after = world.gate[0]
    world.admission.fit_rules()
    assert world.gate[0] == after


def test_without_rules_about_processes_everybody_is_the_default() -> None:
    world = World()
    world.admission.fit_rules()
    assert world.gate[1:] == (1, 0, 0)
    world.assign("far", destination="10.0.0.0/8")
    assert world.gate[1:] == (1, 0, 0)
    world.assign("job", cgroup="jobs")
    assert world.gate[1:] == (0, 1, 0)
    world.assign("voice", command="talker")
    assert world.gate[1:] == (0, 1, 0)


def test_a_native_default_is_never_let_in() -> None:
    world = World()
    world.applications.by_name[ApplicationName("default")].is_native = True
    world.admission.fit_rules()
    assert world.gate[1] == 0


def test_paft_hears_of_what_was_let_in_and_why() -> None:
    world = World()
    voice = world.assign("voice", command="talker")
    world.let_in(application=voice, rule=1)
    world.loop.tick()
    entry = world.paft.flows[FLOW_A.packed()]
    assert (entry.application_id, entry.pid, entry.command, entry.socket) == (voice, 700, "talker", SOCKET)
    assert entry.why == Reason(Decider.KERNEL, world.applications.rules[0], Finder.SOCKET_RECORD)
    world.let_in(SOCKET + 1, application=voice, mark=voice, pid=0)
    world.admission.catch_up()
    entry = world.paft.flows[FLOW_A.packed()]
    assert (entry.socket, entry.mark, entry.pid, entry.why) == (SOCKET + 1, voice, 0, MARKED)


def test_a_flow_whose_ports_are_another_sockets_by_now_is_not_taken() -> None:
    world = World()
    voice = world.assign("voice", command="talker")
    world.let_in(application=voice, rule=1)
    world.paft.insert(FLOW_A.packed(), ApplicationId(1), 100.0).socket = SOCKET + 1
    world.maps["flows"].rows[flow_key(FLOW_A.packed())] = FlowRow(1).packed()
    world.admission.catch_up()
    assert world.paft.flows[FLOW_A.packed()].application_id == 1


def test_an_answer_does_not_come_before_its_question() -> None:
    world = World()
    voice = world.assign("voice", command="talker")
    world.let_in(application=voice, rule=1)
    assert world.forwarder._entry_of(FLOW_A.packed()) is not None


def test_what_the_queue_had_no_room_for_is_found_in_the_table() -> None:
    world = World()
    voice = world.assign("voice", command="talker")
    row = FlowRow(voice, socket=SOCKET, generation=world.gate[0])
    world.admission.find(FLOW_A.packed(), row)
    assert world.paft.flows == {}
    world.admission.find(FLOW_A.packed(), row)
    assert world.paft.flows[FLOW_A.packed()].application_id == voice


def test_the_gate_is_shut_while_nobody_judges_what_it_leaves_to_the_agent() -> None:
    """A daemon that starts anew has rules before it is associated: flows of the one before must not be sent to it."""
    world = World()
    world.assign("voice", command="talker")
    world.admission.use(None)
    assert world.gate[0] == 0
    world.assign("video", command="other")
    assert world.gate[0] == 0
    world.admission.use(world.forwarder)
    assert world.gate[0] != 0


def test_a_forwarder_opens_no_gate_before_netfilter_has_the_rules() -> None:
    world = World()
    world.assign("voice", command="talker")
    world.admission.use(None)
    world.admission.shut()
    world.admission.use(world.forwarder)
    assert world.gate[0] == 0
    world.admission.fit_rules()
    assert world.gate[0] != 0
