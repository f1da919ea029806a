"""Contacts: one an access network, each with its own time; told to the host that named them."""

import pytest
from mobility_terminal import NET0, NET1, Packet
from mobility_world import LONGEST_DATAGRAM, World, associated

from upmt_nf.mobility.contacts import Contacts
from upmt_nf.mobility.host_events import NetworkAppeared, NetworkVanished
from upmt_nf.signaling.sip.contacts import MAX_CONTACTS, NamedContact, read_contacts
from upmt_nf.signaling.sip.message import Request, Response
from upmt_nf.signaling.sip.parser import parse


def named(*values: str) -> tuple[NamedContact, ...]:
    headers = tuple(("Contact", value) for value in values)
    return read_contacts(Request(headers, method="REGISTER", uri="sip:anchor"))


def test_every_way_of_writing_several_contacts_is_read() -> None:
    assert named("<sip:a@1.2.3.4>, <sip:a@1.2.3.5>;expires=60", '"A, B" <sip:a@[2001:db8::1]:5070;x=1>') == (
        ("sip:a@1.2.3.4", None, "<sip:a@1.2.3.4>"),
        ("sip:a@1.2.3.5", 60, "<sip:a@1.2.3.5>"),
        ("sip:a@[2001:db8::1]:5070;x=1", None, '"A, B" <sip:a@[2001:db8::1]:5070;x=1>'),
    )
    assert named("*") == ()
    assert named("sip:a@1.2.3.4;expires=99999999999999999999") == (("sip:a@1.2.3.4", 2**31, "sip:a@1.2.3.4"),)


@pytest.mark.parametrize(
    "value", ["<sip:a@1.2.3.4", "", "<sip:a@1>;expires=soon", "<sip:a@1>;expires=-1", f"<sip:{'a' * 300}@1>"]
)
def test_a_malformed_contact_is_refused(value: str) -> None:
    with pytest.raises(ValueError):
        named(value)
    with pytest.raises(ValueError):
        named(*[f"<sip:a@10.0.0.{number}>" for number in range(MAX_CONTACTS + 1)])


def test_each_ends_at_its_own_time_and_none_after_the_association() -> None:
    contacts = Contacts()
    contacts.update(named("<sip:a@1>;expires=20", "<sip:a@2>", "<sip:a@3>;expires=900"), 100, 0.0)
    assert contacts.left(0.0) == [("sip:a@1", 20), ("sip:a@2", 100), ("sip:a@3", 100)]
    contacts.update(named("<sip:a@2>"), 100, 50.0)
    assert contacts.left(50.0) == [("sip:a@3", 50), ("sip:a@2", 100)]
    contacts.update(named("<sip:a@3>;expires=0"), 100, 60.0)
    assert contacts.headers(60.0) == (("Contact", "<sip:a@2>;expires=90"),)
    assert contacts.left(150.0) == []


def test_there_are_never_more_than_allowed() -> None:
    contacts = Contacts()
    for number in range(3 * MAX_CONTACTS):
        contacts.update(named(f"<sip:a@10.0.0.{number}>"), 100, float(number))
    assert len(contacts.left(50.0)) == MAX_CONTACTS
    assert contacts.left(50.0)[-1][0] == f"sip:a@10.0.0.{3 * MAX_CONTACTS - 1}"


# --- on the wire ---


def answer_to_register(world: World) -> Response:
    """The last one that the host got."""
    for packet in reversed(world.packets):
        if packet.kind == "sip" and not packet.is_up:
            message = parse(packet.payload)
            if isinstance(message, Response) and "REGISTER" in (message.header("cseq") or ""):
                return message
    raise AssertionError("no answer")


def contacts_of(world: World) -> set[str]:
    return {value.partition(";expires=")[0] for value in answer_to_register(world).all("contact")}


def test_the_anchor_knows_a_contact_for_each_network_and_says_when_it_ends() -> None:
    world = associated(World(networks=3, lifetime=600))
    assert contacts_of(world) == {f"<sip:mh@192.168.{number}.7:5060>" for number in range(3)}
    (association,) = world.anchor.associations
    assert dict(association.contacts) == {
        f"sip:mh@192.168.{number}.7:5060": pytest.approx(world.now + 592, abs=2) for number in range(3)
    }


def test_another_care_of_address_takes_the_place_of_the_old_one_at_once() -> None:
    world = associated(World())
    flow = world.host.open_flow()
    address = world.host.virtual_address
    link = world.host.links[NET0]
    link.care_of += 1
    world.host.take(NetworkAppeared(NET0, f"if-{NET0}", link.care_of, None, 1500))
    world.settle()
    assert contacts_of(world) == {"<sip:mh@192.168.0.8:5060>", "<sip:mh@192.168.1.7:5060>"}
    assert world.host.virtual_address == address
    assert len(world.granted) == 1
    world.host.send(flow)
    world.run(1)
    world.assert_agreement()


def test_a_network_that_is_gone_is_no_contact_any_more_from_the_next_refresh_on() -> None:
    world = associated(World(lifetime=60))
    world.host.take(NetworkVanished(NET1, "the cable was pulled"))
    world.host.links[NET1].is_up = False
    world.run(60)
    assert contacts_of(world) == {"<sip:mh@192.168.0.7:5060>"}


def test_a_new_network_that_leads_nowhere_does_not_hold_the_refresh_up() -> None:
    world = World(lifetime=600)
    world.host.appear(NET0)
    world.settle()
    world.host.links[NET1].is_black_hole = True
    world.host.appear(NET1)
    assert world.host.state == "refreshing"
    world.until(lambda: world.host.state == "associated", 6.0)
    world.run(2000)
    assert world.ended == []


def test_a_register_fits_a_datagram_however_many_addresses_have_come_and_gone() -> None:
    """Nothing of this is answered, so all of it is still to be told; and the proof has to fit, too."""
    world = associated(World(networks=6, is_guarded=True, lifetime=600))
    for link in world.host.links.values():
        link.is_black_hole = True
    for number in range(30):
        link = world.host.links[NET0]
        link.care_of += 1
        world.host.appear(NET0)
        world.run(0.1 * number)
    for link in world.host.links.values():
        link.is_black_hole = False
    world.settle()
    world.run(1300)
    registers = [packet.payload for packet in world.packets if packet.payload.startswith(b"REGISTER")]
    assert max(map(len, registers)) > 1100, "some have as many as there is room for"
    assert all(len(payload) <= LONGEST_DATAGRAM for payload in registers)
    assert contacts_of(world) == {f"<sip:mh@{link.care_of}:5060>" for link in world.host.links.values()}


def test_a_refresh_carries_the_virtual_address_and_the_association() -> None:
    world = associated(World(lifetime=60))
    address = world.host.virtual_address
    world.run(50)
    refresh = next(packet for packet in reversed(world.packets) if packet.payload.startswith(b"REGISTER"))
    message = parse(refresh.payload)
    assert message.header("vipaddr") == str(address)
    assert message.header("upmt-association")
    assert _is_answered_with(world, refresh, str(address))


def _is_answered_with(world: World, register: Packet, address: str) -> bool:
    cseq = parse(register.payload).header("cseq")
    return any(
        parse(packet.payload).header("vipaddr") == address
        for packet in world.packets
        if packet.kind == "sip" and not packet.is_up and parse(packet.payload).header("cseq") == cseq
    )
