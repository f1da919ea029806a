"""The kernel lets in the flows of processes that it was told of, and of nobody who is, or has become, another."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from socket import if_nametoindex
from typing import Any

import pytest
from kernel_namespace import Namespace

from upmt_nf.datapath.admission_layout import ASKED, GATE, VERDICT, Begun, Identity
from upmt_nf.datapath.fast_layout import (
    ANY_SOCKET,
    FLOW_KEY,
    NUMBER,
    ApplicationRow,
    FlowRow,
    flow_key,
    tunnel_row,
)
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.linux import routes
from upmt_nf.linux.admission_program import AdmissionProgram
from upmt_nf.linux.cgroups import hierarchy
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.fast_programs import FastPrograms
from upmt_nf.linux.journal import Journal
from upmt_nf.linux.processes import Processes
from upmt_nf.linux.socket_record import SocketRecord
from upmt_nf.linux.virtual_interface import VirtualInterface
from upmt_nf.model.errors import FacilityError, UpmtError
from upmt_nf.model.flow import TCP, UDP, Endpoint, FlowKey, IPAddress
from upmt_nf.model.identity import TunnelId
from upmt_nf.model.names import MARK_ADMITTED, MARK_MASK, MARK_UNANSWERED
from upmt_nf.routing.plan import host_routing

pytestmark = pytest.mark.kernel

OWN, ANCHOR, FAR, PORT = ip_address("10.99.0.2"), ip_address("198.51.100.1"), ip_address("86.0.0.1"), 6010
DEFAULT, VOICE, TUNNEL_ID = 1, 4, 77

TALKER = """
import json, os, socket, sys
kept = None
def new(kind=socket.SOCK_DGRAM, to=("86.0.0.1", 6010), mark=0):
    global kept
    kept = socket.socket(type=kind)
    kept.setblocking(False)
    if mark:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    try:
        kept.connect(tuple(to))
    except BlockingIOError:
        pass
    if kind == socket.SOCK_DGRAM:
        kept.send(b"x")
    return kept.getsockname()[1]
print(os.getpid(), flush=True)
for line in sys.stdin:
    verb, *words = json.loads(line)
    said = 0
    if verb == "new":
        said = new(*words)
    elif verb == "tcp":
        said = new(socket.SOCK_STREAM)
    elif verb == "unconnected":
        kept = socket.socket(type=socket.SOCK_DGRAM)
        kept.sendto(b"x", ("86.0.0.1", 6010))
        said = kept.getsockname()[1]
    elif verb == "again":
        kept.send(b"x")
        said = kept.getsockname()[1]
    elif verb == "port":
        kept.close()
        kept = socket.socket(type=socket.SOCK_DGRAM)
        kept.bind(("", words[0]))
        kept.connect(("86.0.0.1", 6010))
        kept.send(b"x")
        said = words[0]
    elif verb == "prepare":
        kept = socket.socket(type=socket.SOCK_DGRAM)
        kept.connect(("86.0.0.1", 6010))
        said = kept.getsockname()[1]
    elif verb == "child sends":
        child = os.fork()
        if not child:
            kept.send(b"x")
            os._exit(0)
        os.waitpid(child, 0)
        said = kept.getsockname()[1]
    elif verb == "child":
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.write(writer, str(new()).encode())
            os._exit(0)
        os.waitpid(child, 0)
        said = int(os.read(reader, 100))
    elif verb == "rename":
        open("/proc/self/comm", "w").write(words[0])
    elif verb == "uid":
        os.seteuid(words[0])
    elif verb == "gid":
        os.setegid(words[0])
    elif verb == "exec":
        print(0, flush=True)
        os.execv(sys.executable, [sys.executable, "-c", words[0]])
    elif verb == "join":
        open(words[0] + "/cgroup.procs", "w").write("0")
    print(said, flush=True)
"""


@dataclass
class Site:
    """A namespace with the program on its route to upmt0, which leads into one tunnel, if at all."""

    namespace: Namespace
    program: AdmissionProgram
    plane: FastPrograms

    def know_tunnel(self, owner: str = str(OWN), remote: IPAddress = ANCHOR) -> None:
        here = Endpoint(ip_address("192.0.2.1"), 4000)
        tunnel = Tunnel(TunnelId(TUNNEL_ID), ip_address(owner), Endpoint(remote, 1800), 1472)
        index = if_nametoindex("upmt0")
        row = tunnel_row(tunnel, here, index, index, 0, 1)
        assert row is not None
        self.plane.maps["tunnels"].update(NUMBER.pack(TUNNEL_ID), row.value)

    def steer(self, application: int, id: int = TUNNEL_ID) -> None:
        self.plane.maps["applications"].update(NUMBER.pack(application), ApplicationRow(tunnel=id).packed())

    def open(self, generation: int = 7, rest: int = 0, *, cgroups: bool = False) -> None:
        self.program.maps["gate"].update(NUMBER.pack(0), GATE.pack(generation, rest, cgroups, 0))

    def begun(self) -> list[Begun]:
        found = []
        while (row := self.program.maps["begun"].pop()) is not None:
            found.append(Begun.unpacked(row))
        return found

    def asked(self, port: int) -> tuple[bytes, Identity] | None:
        """Who sent the first packet of a flow that was left to the agent."""
        row = self.program.maps["asked"].lookup(key_of(port))
        if row is None:
            return None
        who = ASKED.unpack(row)[0]
        return who, Identity.unpacked(who)

    def teach(self, port: int, application: int = VOICE) -> Identity:
        """As the agent does after a first flow."""
        found = self.asked(port)
        assert found is not None
        who, identity = found
        self.program.maps["verdicts"].update(who, VERDICT.pack(application, 1))
        return identity

    def is_let_in(self, port: int, protocol: int = UDP) -> bool:
        return self.plane.maps["flows"].lookup(key_of(port, protocol)) is not None

    def marked(self, mark: int) -> int:
        """Packets so far that had this mark after the route."""
        place = {MARK_UNANSWERED: 1, MARK_ADMITTED: 2}[mark]
        return self.namespace.packets_counted("mangle", "POSTROUTING", place)


def key_of(port: int, protocol: int = UDP) -> bytes:
    key = flow_key(FlowKey(protocol, OWN, port, FAR, PORT).packed())
    assert key is not None
    return key


def site_with(namespace: Namespace, journal: Journal, flows: int, *, records: bool = True) -> Iterator[Site]:
    interface = VirtualInterface(journal)
    try:
        interface.make(1472, ("tun",))
        interface.set_addresses((OWN,))
        plane = FastPrograms(journal, "host", flows=flows, tunnels=8)
        program = AdmissionProgram(plane)
        place = hierarchy()
        if place is None:
            pytest.skip("there is no cgroup v2")
        record = SocketRecord(place, table=program.maps["makers"].fileno()) if records else None
    except UpmtError as reason:
        pytest.skip(f"not here: {reason}")
    try:
        wanted = host_routing(OWN, (), ANCHOR, program=program.name)
        routes.apply(wanted, journal, programs={program.name: program.fileno()})
        assert routes.drift(wanted) == []
        for mark in (MARK_UNANSWERED, MARK_ADMITTED):
            namespace.iptables(f"-t mangle -A POSTROUTING -m mark --mark {mark:#x}/{MARK_MASK:#x}")
        site = Site(namespace, program, plane)
        site.know_tunnel()
        site.steer(DEFAULT)
        site.steer(VOICE)
        yield site
    finally:
        if record is not None:
            record.close()
        cleanup(journal)
        program.close()
        plane.close()


@pytest.fixture
def site(namespace: Namespace, journal: Journal) -> Iterator[Site]:
    yield from site_with(namespace, journal, 64)


class Talker:
    """A process that does as it is told."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", TALKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.pid = int(self._process.stdout.readline())

    def tell(self, *words: Any) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(words), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def execute(self) -> None:
        """The same program anew, in the same process."""
        self.tell("exec", TALKER)
        assert self._process.stdout is not None
        assert int(self._process.stdout.readline()) == self.pid

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def talker(site: Site) -> Iterator[Talker]:
    one = Talker()
    yield one
    one.end()


def test_the_first_flow_tells_who_it_is_and_the_next_are_let_in(site: Site, talker: Talker) -> None:
    site.open()
    first = talker.tell("new")
    assert not site.is_let_in(first)
    found = site.asked(first)
    assert found is not None
    facts = Processes().facts_of(talker.pid)
    assert facts is not None
    identity = found[1]
    assert (identity.pid, identity.ticks, identity.command) == (facts.pid, facts.started, facts.command)
    assert (identity.uid, identity.gid, identity.generation) == (facts.uid, facts.gid, 7)
    site.teach(first)
    ports = [talker.tell("new"), talker.tell("unconnected")]
    assert all(site.is_let_in(port) for port in ports)
    told = site.begun()
    assert [(each.key[9:11], each.application, each.rule, each.pid) for each in told] == [
        (port.to_bytes(2, "big"), VOICE, 1, talker.pid) for port in ports
    ]
    assert site.marked(MARK_UNANSWERED) == 2
    syn = talker.tell("tcp")
    assert site.is_let_in(syn, TCP)


def test_a_flow_that_the_agent_has_stays_the_agents(site: Site, talker: Talker) -> None:
    site.open()
    first = talker.tell("new")
    site.teach(first)
    assert talker.tell("again") == first
    assert not site.is_let_in(first)
    site.plane.maps["flows"].update(key_of(first), FlowRow(VOICE).packed())
    talker.tell("again")
    assert (site.marked(MARK_UNANSWERED), site.begun()) == (0, [])


@pytest.mark.parametrize(
    "change", [("rename", "somebody"), ("uid", 65534), ("gid", 65534)], ids=lambda change: change[0]
)
def test_whoever_has_changed_is_not_known(site: Site, talker: Talker, change: tuple[Any, ...]) -> None:
    site.open()
    site.teach(talker.tell("new"))
    before = talker.tell("prepare")
    talker.tell(*change)
    assert talker.tell("again") == before
    assert not site.is_let_in(before)
    after = talker.tell("new")
    assert not site.is_let_in(after)
    assert site.asked(after) is not None


def test_another_program_in_the_same_process_is_not_known(site: Site, talker: Talker) -> None:
    site.open()
    identity = site.teach(talker.tell("new"))
    talker.execute()
    after = talker.tell("new")
    assert not site.is_let_in(after)
    found = site.asked(after)
    assert found is not None
    assert (found[1].pid, found[1].started) == (identity.pid, identity.started)
    assert found[1].programs > identity.programs


def test_a_child_is_somebody_else_and_so_is_a_reused_number(site: Site, talker: Talker) -> None:
    site.open()
    site.teach(talker.tell("new"))
    port = talker.tell("child")
    found = site.asked(port)
    assert found is not None
    assert found[1].pid not in (0, talker.pid)
    site.teach(port)
    gone = found[1].pid
    for _ in range(50):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(gone - 1))
        after = talker.tell("child")
        found = site.asked(after)
        assert found is not None
        assert not site.is_let_in(after)
        if found[1].pid == gone:
            return
    pytest.skip("the pid could not be had again")


def test_what_one_made_and_another_sends_by_is_the_agents(site: Site, talker: Talker) -> None:
    site.open()
    site.teach(talker.tell("new"))
    talker.tell("prepare")
    port = talker.tell("child sends")
    assert not site.is_let_in(port)
    found = site.asked(port)
    assert found is not None
    assert found[1].pid == 0


def test_a_new_generation_of_rules_knows_nobody(site: Site, talker: Talker) -> None:
    site.open(7)
    site.teach(talker.tell("new"))
    port = talker.tell("new")
    assert site.is_let_in(port)
    site.open(0)
    talker.tell("again")
    assert site.marked(MARK_UNANSWERED) == 2
    assert not site.is_let_in(talker.tell("new"))
    talker.tell("port", port)
    site.open(8)
    talker.tell("again")
    assert site.marked(MARK_UNANSWERED) == 2
    assert not site.is_let_in(talker.tell("new"))


def test_a_port_that_another_socket_has_next_is_looked_at_anew(site: Site, talker: Talker) -> None:
    site.open()
    site.teach(talker.tell("new"))
    port = talker.tell("new")
    before = FlowRow.unpacked(site.plane.maps["flows"].lookup(key_of(port)) or b"")
    talker.tell("port", port)
    after = FlowRow.unpacked(site.plane.maps["flows"].lookup(key_of(port)) or b"")
    assert after.socket not in (0, before.socket)
    talker.tell("rename", "somebody")
    talker.tell("port", port)
    found = site.asked(port)
    assert found is not None
    assert found[1].command == "somebody"
    assert site.marked(MARK_UNANSWERED) == 2


def test_what_was_answered_needs_no_checksum_any_more(site: Site, talker: Talker) -> None:
    site.open(rest=DEFAULT)
    port = talker.tell("new")
    row = FlowRow.unpacked(site.plane.maps["flows"].lookup(key_of(port)) or b"")
    site.plane.maps["flows"].update(key_of(port), row._replace(packets_in=1).packed())
    talker.tell("again")
    assert (site.marked(MARK_UNANSWERED), site.marked(MARK_ADMITTED)) == (1, 1)


def test_where_no_rule_asks_everybody_is_let_in_but_by_a_tunnel_only(site: Site, talker: Talker) -> None:
    site.open(rest=DEFAULT)
    assert site.is_let_in(talker.tell("new"))
    told = site.begun()
    assert [(each.application, each.pid, each.command) for each in told] == [(DEFAULT, 0, "")]
    site.steer(DEFAULT, 0)
    assert not site.is_let_in(talker.tell("new"))
    site.steer(DEFAULT)
    site.know_tunnel("10.99.0.3")
    assert not site.is_let_in(talker.tell("new"))
    site.know_tunnel(remote=FAR)
    assert not site.is_let_in(talker.tell("new"))
    site.know_tunnel()
    assert site.is_let_in(talker.tell("new"))


def test_netfilters_mark_names_the_application(site: Site, talker: Talker) -> None:
    site.open()
    port = talker.tell("new", socket.SOCK_DGRAM, (str(FAR), PORT), 0x40000 | VOICE)
    assert site.is_let_in(port)
    (told,) = site.begun()
    assert (told.application, told.mark) == (VOICE, VOICE)
    assert not site.is_let_in(talker.tell("new", socket.SOCK_DGRAM, (str(FAR), PORT), 9))


def test_moving_between_control_groups_counts_where_a_rule_asks(site: Site, talker: Talker) -> None:
    place = hierarchy()
    assert place is not None
    group = place / f"upmt-test-{talker.pid}"
    group.mkdir()
    try:
        site.open(7)
        site.teach(talker.tell("new"))
        site.open(8, cgroups=True)
        identity = site.teach(talker.tell("new"))
        assert identity.cgroups != 0
        assert site.is_let_in(talker.tell("new"))
        talker.tell("join", str(group))
        assert not site.is_let_in(talker.tell("new"))
        talker.tell("join", str(place))
        assert site.is_let_in(talker.tell("new"))
    finally:
        talker.end()
        group.rmdir()


def test_a_full_table_leaves_new_flows_to_the_agent(namespace: Namespace, journal: Journal) -> None:
    for site in site_with(namespace, journal, 2):
        talker = Talker()
        try:
            site.open(rest=DEFAULT)
            assert [site.is_let_in(talker.tell("new")) for _ in range(4)] == [True, True, False, False]
            assert site.marked(MARK_UNANSWERED) == 2
        finally:
            talker.end()


def test_where_nobody_makes_cookies_a_flow_is_its_applications(
    namespace: Namespace, journal: Journal
) -> None:
    for site in site_with(namespace, journal, 8, records=False):
        talker = Talker()
        try:
            site.open(7, rest=DEFAULT)
            port = talker.tell("new")
            row = FlowRow.unpacked(site.plane.maps["flows"].lookup(key_of(port)) or b"")
            assert row.socket == ANY_SOCKET
            talker.tell("again")
            assert site.marked(MARK_UNANSWERED) == 2
            site.open(8, rest=DEFAULT)
            talker.tell("again")
            assert site.marked(MARK_UNANSWERED) == 2
            site.open(9)
            assert not site.is_let_in(talker.tell("new"))
        finally:
            talker.end()


def test_nothing_of_it_is_left(namespace: Namespace, journal: Journal) -> None:
    before = namespace.run("ip route show table all")
    for site in site_with(namespace, journal, 8):
        assert "encap bpf" in namespace.run("ip route show table 7000")
        assert FLOW_KEY.size == site.plane.maps["flows"].key_size
    assert namespace.run("ip route show table all") == before


def test_without_the_compiled_program_it_is_said(
    namespace: Namespace, journal: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    try:
        plane = FastPrograms(journal, "host", flows=8, tunnels=8)
    except FacilityError as reason:
        pytest.skip(f"no fast plane here: {reason}")
    monkeypatch.setattr("upmt_nf.linux.admission_program.OBJECT", tmp_path / "admission.bpf.o")
    with pytest.raises(FacilityError, match="not compiled"):
        AdmissionProgram(plane)
    plane.close()
    cleanup(journal)
