"""The Python twins of the maps' structs: the same offsets as the C compiler gives, and there and back again."""

import shutil
import struct
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest
from c_layout import SOURCES, offsets
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.datapath import fast_layout
from upmt_nf.datapath.checksum import checksum
from upmt_nf.datapath.fast_layout import (
    APPLICATION,
    CHANGE,
    COUNTS,
    END,
    EVENTS,
    FLOW,
    FLOW_COUNTS_AT,
    FLOW_KEY,
    FLOW_LAST_SEEN_AT,
    NAMED_BYTES,
    NUMBER,
    TUNNEL,
    FlowRow,
    NamedRow,
    Timeouts,
    counts_of,
    flow_bytes,
    flow_key,
    header_sum,
    tunnel_row,
)  # fmt: skip
from upmt_nf.datapath.paft import Tunnel
from upmt_nf.datapath.protected import Cookie, Sealed
from upmt_nf.model.flow import Endpoint, FlowKey
from upmt_nf.model.identity import TunnelId
from upmt_nf.model.names import MARK_MASK

FIELDS = {
    "flow_key": (FLOW_KEY, "source destination source_port destination_port protocol"),
    "flow": (
        FLOW,
        "application tunnel course watched left left_too left_until last_seen packets_out bytes_out packets_in "
        "bytes_in socket last_arrival gap first_arrival last_elsewhere late generation",
    ),
    "flow_change": (
        CHANGE,
        "key.source key.destination key.source_port key.destination_port key.protocol application tunnel course "
        "watched left left_too left_until last_arrival begins_watch keeps_way",
    ),
    "application": (APPLICATION, "left left_too left_until tunnel course"),
    "tunnel": (
        TUNNEL,
        "local remote local_port remote_port owner interface virtual_interface mark mtu slot sum format unheard id "
        "secrets next_hop sending receiving",
    ),
    "named": (struct.Struct(f"={NAMED_BYTES}s"), "said"),
    "end": (END, "remote owner remote_port local_port"),
    "counts": (COUNTS, "packets_out bytes_out packets_in bytes_in heard"),
}

MEMBERS = {"left_too": "left[1]"}


def test_a_flows_counts_are_where_they_are_read() -> None:
    _, fields = FIELDS["flow"]
    assert offsets(FLOW)[fields.split().index("packets_out")] == FLOW_COUNTS_AT
    assert offsets(FLOW)[fields.split().index("last_seen")] == FLOW_LAST_SEEN_AT
    assert FLOW_LAST_SEEN_AT % 8 == FLOW.size % 8 == 0


def test_structs_are_laid_out_as_the_compiler_does(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    lines = [
        f'printf("{name}.{field} %zu\\n", offsetof(struct {name}, {MEMBERS.get(field, field)}));'
        for name, (_, fields) in FIELDS.items()
        for field in fields.split()
    ] + [f'printf("{name} %zu\\n", sizeof(struct {name}));' for name in FIELDS]
    numbers = [
        "EVENTS",
        "MAX_SECRETS",
        "MOST_CHANGES",
        "MAX_APPLICATIONS",
        "MARK_MASK",
        "FORMAT_AGENT",
        "FORMAT_PLAIN",
        "FORMAT_COOKIE",
    ]
    lines += [f'printf("{name} %d\\n", {name});' for name in numbers]
    program = tmp_path / "offsets.c"
    program.write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "layout.h"\nint main(void) {\n'
        + "\n".join(lines)
        + "\nreturn 0; }\n"
    )
    subprocess.run([compiler, f"-I{SOURCES}", "-o", tmp_path / "offsets", program], check=True)
    said = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True).stdout
    found = {name: int(number) for name, number in (line.split() for line in said.splitlines())}
    expected = {name: layout.size for name, (layout, _) in FIELDS.items()}
    for name, (layout, fields) in FIELDS.items():
        places = offsets(layout)
        assert len(places) == len(fields.split()), name
        expected |= {f"{name}.{field}": at for field, at in zip(fields.split(), places, strict=True)}
    expected |= {
        "EVENTS": len(EVENTS),
        "MAX_SECRETS": fast_layout.MAX_SECRETS,
        "MOST_CHANGES": fast_layout.MOST_CHANGES,
        "MAX_APPLICATIONS": fast_layout.APPLICATIONS,
        "MARK_MASK": MARK_MASK,
        "FORMAT_AGENT": fast_layout.FORMAT_AGENT,
        "FORMAT_PLAIN": fast_layout.FORMAT_PLAIN,
        "FORMAT_COOKIE": fast_layout.FORMAT_COOKIE,
    }
    assert found == expected


@pytest.mark.parametrize(
    ("enum", "end", "names"), [("event", "EVENTS,", EVENTS), ("timeout", "TIMEOUTS }", Timeouts._fields)]
)
def test_what_is_counted_off_is_named_in_the_order_of_the_programs(
    enum: str, end: str, names: tuple[str, ...]
) -> None:
    text = (SOURCES / "layout.h").read_text()
    members = text.partition(f"enum {enum} {{")[2].partition(end)[0]
    assert tuple(word.strip().lower() for word in members.split(",") if word.strip()) == names


@given(st.lists(st.integers(0, 1 << 33), min_size=4, max_size=4))
def test_times_are_written_in_milliseconds_and_none_becomes_shorter_than_another_one(
    times: list[int],
) -> None:
    written = [NUMBER.unpack(each)[0] for each in Timeouts(*times).packed()]
    for seconds, milliseconds in zip(times, written, strict=True):
        assert milliseconds == (1000 * seconds if seconds < 4_294_968 else (1 << 32) - 1)


@given(
    st.integers(0, 255),
    st.ip_addresses(v=4),
    st.integers(0, 65535),
    st.ip_addresses(v=4),
    st.integers(0, 65535),
)
def test_a_flow_key_comes_back(
    protocol: int, source: object, port: int, other: object, other_port: int
) -> None:
    key = FlowKey(protocol, ip_address(str(source)), port, ip_address(str(other)), other_port).packed()
    packed = flow_key(key)
    assert packed is not None
    assert len(packed) == FLOW_KEY.size
    assert flow_bytes(packed) == key


def test_a_flow_of_ipv6_is_the_agents() -> None:
    assert flow_key(bytes(37)) is None


@given(st.tuples(*[st.integers(0, 2**32 - 1)] * 6, *[st.integers(0, 2**64 - 1)] * 8))
def test_a_flow_comes_back(fields: tuple[int, ...]) -> None:
    assert FlowRow.unpacked(FlowRow(*fields).packed()) == FlowRow(*fields)


@given(
    st.binary(min_size=4, max_size=4),
    st.binary(min_size=4, max_size=4),
    st.integers(0, 255),
    st.integers(28, 65535),
)
def test_the_constant_part_of_the_header_sum_fits_the_rest(
    local: bytes, remote: bytes, tos: int, length: int
) -> None:
    """As `write_outer` adds it up."""
    total = header_sum(local, remote)
    (size,) = struct.unpack("=H", length.to_bytes(2, "big"))
    (service,) = struct.unpack("=H", bytes((0, tos)))
    total += size + service
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    sum_ = struct.pack("=H", ~total & 0xFFFF)
    header = bytes((0x45, tos)) + length.to_bytes(2, "big") + b"\0\0\x40\0\x40\x11" + sum_ + local + remote
    assert checksum(header) == 0


def test_counts_are_added_up_over_the_processors() -> None:
    counts = counts_of(COUNTS.pack(1, 2, 3, 4, 50) + COUNTS.pack(10, 20, 30, 40, 5))
    assert counts == (11, 22, 33, 44, 50)


@pytest.mark.parametrize(
    ("format", "number"),
    [("plain", 1), ("cookie", 2), ("sealed", 0)],
)
def test_a_tunnel_says_its_format(format: str, number: int) -> None:
    tunnel = Tunnel(
        TunnelId(0xAABBCCDD), ip_address("10.9.0.1"), Endpoint(ip_address("192.0.2.7"), 1800), 1400
    )
    if format == "cookie":
        tunnel.format = Cookie(b"A" * 32, b"B" * 32)
    elif format == "sealed":
        tunnel.format = Sealed(b"A" * 32, b"B" * 32)
    row = tunnel_row(tunnel, Endpoint(ip_address("10.0.0.1"), 5000), 3, 4, 0x1001, 5)
    assert row is not None
    fields = TUNNEL.unpack(row.value)
    assert fields[:10] == (
        bytes((10, 0, 0, 1)), bytes((192, 0, 2, 7)), (5000).to_bytes(2, "big"), (1800).to_bytes(2, "big"),
        bytes((10, 9, 0, 1)), 3, 4, 0x1001, 1400, 5,
    )  # fmt: skip
    assert fields[11] == number
    if format == "cookie":
        assert fields[12:] == (0, b"\xcc\xdd", 1, bytes(4), b"A" * 8, b"B" * 8 + bytes(56))
    assert END.unpack(row.end) == (
        bytes((192, 0, 2, 7)), bytes((10, 9, 0, 1)), (1800).to_bytes(2, "big"), (5000).to_bytes(2, "big"),
    )  # fmt: skip


def test_a_tunnel_names_the_next_hop_of_its_outer_packets() -> None:
    tunnel = Tunnel(TunnelId(1), ip_address("10.9.0.1"), Endpoint(ip_address("192.0.2.7"), 1800), 1400)
    row = tunnel_row(
        tunnel, Endpoint(ip_address("10.0.0.1"), 5000), 3, 4, 0, 5, next_hop=ip_address("10.0.0.254")
    )
    assert row is not None
    assert TUNNEL.unpack(row.value)[-3] == bytes((10, 0, 0, 254))


def test_a_tunnel_over_ipv6_is_the_agents() -> None:
    tunnel = Tunnel(TunnelId(1), ip_address("10.9.0.1"), Endpoint(ip_address("2001:db8::1"), 1800), 1400)
    assert tunnel_row(tunnel, Endpoint(ip_address("2001:db8::2"), 5000), 3, 4, 0, 5) is None


@pytest.mark.parametrize(
    "row",
    [
        NamedRow("a"),
        NamedRow("Anrufe \u260e", ("net0", "any")),
        NamedRow("x" * 64, (), is_declared=True),
        NamedRow("a", ("any",), anchor="46.0.0.1"),
    ],
)
def test_a_name_comes_back(row: NamedRow) -> None:
    assert NamedRow.unpacked(row.packed()) == row


def test_a_name_without_room_for_its_networks_is_kept() -> None:
    row = NamedRow("\U0001f600" * 64, tuple(f"network{number}" for number in range(200)))
    assert NamedRow.unpacked(row.packed()) == NamedRow(row.name)


@pytest.mark.parametrize("packed", [b"", b"[1, [], true]", b'["a", [1], true]', b'["a"', b"\xff"])
def test_what_is_no_name_is_none(packed: bytes) -> None:
    assert NamedRow.unpacked(packed.ljust(NAMED_BYTES, b"\0")) is None
