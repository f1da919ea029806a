"""STAMP: the octets of RFC 8762, read back; the reflector copies what the sender wrote."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upmt_nf.model.errors import PeerError
from upmt_nf.signaling.stamp import (
    PACKET_SIZE,
    ReflectorPacket,
    SenderPacket,
    padded,
    parse_reflector,
    parse_sender,
    reflect,
    stamped,
)

NUMBERS = st.integers(0, 2**32 - 1)
SESSIONS = st.integers(0, 2**16 - 1)
TIMES = st.floats(0, 2**32 - 1)
EXACT_TIMES = st.integers(0, 2**42).map(lambda ticks: ticks / 1024)
"""Times that survive the NTP format without rounding."""


def test_the_senders_octets_are_those_of_the_rfc() -> None:
    data = bytes(SenderPacket(sequence=7, sent_at=3.25, session=0xABCD))
    assert data[:16] == struct.pack("!IIIHH", 7, 3, 2**30, 1, 0xABCD)
    assert data[16:] == bytes(28)
    assert len(data) == PACKET_SIZE == 44


def test_the_reflectors_octets_are_those_of_the_rfc() -> None:
    packet = ReflectorPacket(
        sequence=1,
        sent_at=2.5,
        session=3,
        received_at=4.5,
        sender_sequence=5,
        sender_sent_at=6.5,
        sender_ttl=64,
    )
    half = 2**31
    expected = struct.pack("!IIIHHIIIIIHHB3s", 1, 2, half, 1, 3, 4, half, 5, 6, half, 1, 0, 64, b"")
    assert bytes(packet) == expected


@given(NUMBERS, EXACT_TIMES, SESSIONS)
def test_a_senders_packet_is_read_as_it_was_written(sequence: int, sent_at: float, session: int) -> None:
    packet = SenderPacket(sequence, sent_at % 2**32, session)
    assert parse_sender(bytes(packet)) == packet


@given(NUMBERS, EXACT_TIMES, SESSIONS, EXACT_TIMES, NUMBERS, EXACT_TIMES, st.integers(0, 255))
def test_a_reflectors_packet_is_read_as_it_was_written(
    sequence: int, sent: float, session: int, received: float, theirs: int, theirs_sent: float, ttl: int
) -> None:
    wrap = 2.0**32
    packet = ReflectorPacket(sequence, sent % wrap, session, received % wrap, theirs, theirs_sent % wrap, ttl)
    assert parse_reflector(bytes(packet)) == packet


@given(TIMES)
def test_no_time_loses_more_than_a_tick_of_the_ntp_format(sent_at: float) -> None:
    read = parse_sender(bytes(SenderPacket(0, sent_at))).sent_at
    assert 0 <= sent_at - read < 2**-32


@given(EXACT_TIMES)
def test_times_wrap_around_at_two_to_the_32(sent_at: float) -> None:
    earlier, later = SenderPacket(1, sent_at), SenderPacket(1, sent_at + 2**32)
    assert bytes(earlier) == bytes(later)


def test_the_reflector_answers_with_its_own_times_beside_the_senders() -> None:
    sender = SenderPacket(sequence=42, sent_at=100.5, session=9)
    answer = parse_reflector(reflect(bytes(sender), received_at=7.25, sent_at=7.5, ttl=61))
    assert answer == ReflectorPacket(
        sequence=42,
        sent_at=7.5,
        session=9,
        received_at=7.25,
        sender_sequence=42,
        sender_sent_at=100.5,
        sender_ttl=61,
    )


@given(st.binary(min_size=PACKET_SIZE, max_size=PACKET_SIZE + 20), TIMES, TIMES)
def test_the_reflector_copies_sequence_time_and_error_estimate_exactly(
    data: bytes, received_at: float, sent_at: float
) -> None:
    answer = reflect(data, received_at=received_at, sent_at=sent_at)
    assert len(answer) == len(data), "extensions go back as they came"
    assert answer[PACKET_SIZE:] == data[PACKET_SIZE:]
    assert answer[24:38] == data[:14]
    assert answer[:4] == data[:4]
    assert answer[14:16] == data[14:16]
    assert parse_reflector(answer).sender_sent_at == parse_sender(data).sent_at


def test_a_stateful_reflector_numbers_its_answers_itself() -> None:
    sender = bytes(SenderPacket(sequence=42, sent_at=100.5))
    answer = parse_reflector(reflect(sender, received_at=7.25, sent_at=7.5, sequence=3))
    assert (answer.sequence, answer.sender_sequence) == (3, 42)


@given(st.binary(min_size=PACKET_SIZE, max_size=PACKET_SIZE + 20), EXACT_TIMES)
def test_the_time_of_sending_is_put_in_last_and_changes_nothing_else(data: bytes, sent_at: float) -> None:
    packet = stamped(data, sent_at)
    assert parse_sender(packet).sent_at == parse_reflector(packet).sent_at == sent_at % 2**32
    assert packet[:4] + packet[12:] == data[:4] + data[12:]


@given(st.binary(max_size=PACKET_SIZE - 1))
@example(bytes(PACKET_SIZE - 1))
def test_short_packets_are_refused(data: bytes) -> None:
    with pytest.raises(PeerError, match=f"44 octets, not {len(data)}"):
        parse_sender(data)
    with pytest.raises(PeerError, match="44 octets"):
        parse_reflector(data)
    with pytest.raises(PeerError, match="44 octets"):
        reflect(data, received_at=0.0, sent_at=0.0)


@given(st.binary(min_size=PACKET_SIZE, max_size=200), st.binary(max_size=40))
def test_extensions_behind_the_packet_are_ignored(data: bytes, extension: bytes) -> None:
    assert parse_sender(data + extension) == parse_sender(data)
    assert parse_reflector(data + extension) == parse_reflector(data)


def test_a_packet_is_padded_by_a_tlv_that_the_reflector_sends_back() -> None:
    packet = bytes(SenderPacket(sequence=42, sent_at=100.5))
    longer = padded(packet, 1400)
    assert len(longer) == 1400
    assert longer[44:48] == bytes((0x80, 1)) + (1400 - 48).to_bytes(2, "big")
    assert parse_sender(longer) == parse_sender(packet)
    assert len(reflect(longer, received_at=1.0, sent_at=2.0)) == 1400
    assert padded(packet, 47) == packet, "no room for a TLV"
    assert len(padded(packet, 48)) == 48
