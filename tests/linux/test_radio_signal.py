"""Signals of Wi-Fi interfaces, from answers laid out as linux/nl80211.h says: test machines have no radio."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import nl80211

from upmt_nf.linux import netlink
from upmt_nf.linux import radio_signal as room
from upmt_nf.linux.netlink import attribute, messages
from upmt_nf.linux.radio_signal import RadioSignal, family_in, radio_signal, signal_in, signal_in_table

FAMILY = 0x1C
NEW_STATION, DONE = 19, 3
TABLE = """Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE
 face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22
 wlan0: 0000   54.  -56.  -256        0      0      0      0     12        0
 wlan1: 0000   70.  201.  161.        0      0      0      0      0        0
 wlan2: 0000   30.  junk
"""


def message(kind: int, body: bytes) -> bytes:
    return netlink.message(kind, 2, body)


def found(answer: bytes, family: int = FAMILY) -> RadioSignal | None:
    return signal_in(messages(answer), family)


def station(dbm: int, rate: bytes = b"", command: int = NEW_STATION) -> bytes:
    info = attribute(1, struct.pack("=I", 20)) + attribute(7, struct.pack("=b", dbm)) + rate
    address = attribute(6, bytes.fromhex("020000000001"))
    return message(FAMILY, struct.pack("=BBH", command, 1, 0) + address + attribute(21 | 0x8000, info))


def test_numbers_are_those_of_the_kernels_header_as_another_reader_has_them() -> None:
    names = [name for name, _ in nl80211.nl80211cmd.nla_map]
    infos = [name for name, _ in nl80211.nl80211cmd.STAInfo.nla_map]
    assert names.index("NL80211_ATTR_IFINDEX") == room._ATTR_IFINDEX
    assert names.index("NL80211_ATTR_STA_INFO") == room._ATTR_STA_INFO
    assert infos.index("NL80211_STA_INFO_SIGNAL") == room._INFO_SIGNAL
    assert infos.index("NL80211_STA_INFO_TX_BITRATE") == room._INFO_TX_BITRATE
    assert nl80211.NL80211_CMD_GET_STATION == room._GET_STATION
    assert nl80211.NL80211_CMD_NEW_STATION == room._NEW_STATION


def test_a_station_tells_signal_and_bitrate() -> None:
    rate = attribute(
        8 | 0x8000, attribute(1, struct.pack("=H", 1444)) + attribute(5, struct.pack("=I", 24020))
    )
    assert found(station(-61, rate) + message(DONE, bytes(4))) == RadioSignal(-61, 2_402_000_000)
    old = attribute(8, attribute(1, struct.pack("=H", 1444)))
    assert found(station(-61, old)) == RadioSignal(-61, 144_400_000)
    assert found(station(-90)) == RadioSignal(-90)


def test_what_is_no_station_of_ours_has_no_signal() -> None:
    assert found(message(DONE, bytes(4))) is None
    assert found(station(-61), FAMILY + 1) is None
    assert found(station(-61, command=20)) is None
    assert found(b"") is None


def test_the_family_is_named_by_the_controller() -> None:
    body = struct.pack("=BBH", 1, 2, 0) + attribute(2, b"nl80211\0") + attribute(1, struct.pack("=H", FAMILY))
    assert family_in(messages(message(0x10, body))) == FAMILY
    assert family_in(messages(message(2, struct.pack("=i", -2)))) is None, "ENOENT: there is none"


@given(st.binary(max_size=300))
def test_nothing_that_comes_raises(data: bytes) -> None:
    found(data)
    found(message(FAMILY, struct.pack("=BBH", NEW_STATION, 1, 0) + attribute(21, data)))
    family_in(messages(message(0x10, data)))
    signal_in_table(data.decode("latin-1"), "wlan0")


@pytest.mark.parametrize(
    ("interface", "signal"),
    [
        ("wlan0", RadioSignal(-56)),
        ("wlan1", RadioSignal(-55)),
        ("wlan2", None),
        ("eth0", None),
        ("wlan", None),
    ],
)
def test_the_old_table_is_read_where_there_is_no_nl80211(interface: str, signal: RadioSignal | None) -> None:
    assert signal_in_table(TABLE, interface) == signal


def test_an_interface_that_is_no_radio_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert radio_signal("lo") is None
    assert radio_signal("there-is-none") is None
    monkeypatch.setattr(room, "WIRELESS", tmp_path / "nothing")
    assert radio_signal("lo") is None
