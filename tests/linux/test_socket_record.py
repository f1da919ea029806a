"""The kernel writes down who makes which socket, without a compiler, and stops with the process that asked for it."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from kernel_namespace import Namespace, program

from upmt_nf.linux.bpf import Instruction
from upmt_nf.linux.cgroups import hierarchy
from upmt_nf.linux.socket_record import Deed, SocketRecord
from upmt_nf.model.errors import FacilityError

pytestmark = pytest.mark.kernel

MAKE = """
import os, socket, struct, sys
sys.stdin.readline()
made = socket.socket(*map(int, sys.argv[1:]))
print(struct.unpack("=Q", made.getsockopt(socket.SOL_SOCKET, 57, 8))[0], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def record(namespace: Namespace) -> Iterator[SocketRecord]:
    """A record of the test's namespace; skipped when the kernel cannot do it."""
    root = hierarchy()
    if root is None:
        pytest.skip("cgroup v2 is not mounted")
    try:
        made = SocketRecord(root)
    except FacilityError as reason:
        pytest.skip(str(reason))
    yield made
    made.close()


def cookie_of(made: socket.socket) -> int:
    cookie: int = struct.unpack("=Q", made.getsockopt(socket.SOL_SOCKET, 57, 8))[0]
    return cookie


@pytest.mark.parametrize(
    ("family", "kind", "protocol"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, 0),
        (socket.AF_INET6, socket.SOCK_DGRAM, 0),
        (socket.AF_INET, socket.SOCK_RAW, 1),
        (socket.AF_INET, socket.SOCK_RAW, 255),
    ],
)
def test_every_kind_of_socket_has_its_maker(
    record: SocketRecord, family: int, kind: int, protocol: int
) -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    with socket.socket(family, kind, protocol) as made:
        maker = record.maker_of(cookie_of(made))
    assert maker is not None
    assert (maker.pid, maker.uid) == (os.getpid(), os.geteuid())
    assert before <= maker.made <= time.clock_gettime(time.CLOCK_BOOTTIME)
    assert maker.command
    assert record.maker_of(1 << 60) is None


def test_the_maker_is_known_after_its_end(record: SocketRecord) -> None:
    done = subprocess.Popen(
        [sys.executable, "-c", MAKE, "2", "2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    said, _ = done.communicate("\n")
    maker = record.maker_of(int(said))
    assert maker is not None
    assert maker.pid == done.pid


def test_accepted_sockets_have_no_maker(record: SocketRecord) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()):
        accepted = listener.accept()[0]
        with accepted:
            assert record.maker_of(cookie_of(accepted)) is None


def test_other_namespaces_are_not_written_down(record: SocketRecord) -> None:
    with program(f"import ctypes; ctypes.CDLL(None).unshare(0x40000000)\n{MAKE}".replace(
        "*map(int, sys.argv[1:])", ""
    )) as other:  # fmt: skip
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdin.write("\n")
        other.stdin.flush()
        assert record.maker_of(int(other.stdout.readline())) is None


def test_two_records_stand_beside_each_other_and_go_alone(record: SocketRecord) -> None:
    root = hierarchy()
    assert root is not None
    second = SocketRecord(root)
    with socket.socket() as made:
        assert record.maker_of(cookie_of(made)) == second.maker_of(cookie_of(made))._replace(  # type: ignore[union-attr]
            made=record.maker_of(cookie_of(made)).made  # type: ignore[union-attr]
        )
    second.close()
    with socket.socket() as made:
        assert record.maker_of(cookie_of(made)) is not None


def test_the_oldest_sockets_are_forgotten_first(namespace: Namespace) -> None:
    root = hierarchy()
    if root is None:
        pytest.skip("cgroup v2 is not mounted")
    try:
        record = SocketRecord(root, entries=256)
    except FacilityError as reason:
        pytest.skip(str(reason))
    try:
        with socket.socket() as first:
            for _ in range(4096):
                socket.socket().close()
            with socket.socket() as last:
                assert record.maker_of(cookie_of(last)) is not None
            assert record.maker_of(cookie_of(first)) is None
    finally:
        record.close()


def test_an_instruction_is_eight_bytes() -> None:
    packed = Instruction(0xBF, 6, 1, -2, -1).packed()
    assert len(packed) == 8
    if sys.byteorder == "little":
        assert packed == bytes((0xBF, 0x16, 0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF))


SEND = """
import os, socket, struct, sys
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
how = sys.argv[1]
if not os.fork():
    if how == "connect":
        made.connect(("127.0.0.1", 9))
    else:
        made.sendto(b"x", ("127.0.0.1", 9))
    print(os.getpid(), *struct.unpack("=Q", made.getsockopt(socket.SOL_SOCKET, 57, 8)), flush=True)
    sys.stdin.read()
os.wait()
"""


@pytest.mark.parametrize(("how", "deed"), [("connect", Deed.CONNECTED), ("send", Deed.SENT)])
def test_who_says_where_to_comes_after_who_made_the_socket(
    record: SocketRecord, how: str, deed: Deed
) -> None:
    words = (sys.executable, "-c", SEND, how)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pid, cookie = map(int, child.stdout.readline().split())
        maker = record.maker_of(cookie)
        assert maker is not None
        assert (maker.pid, maker.deed) == (pid, deed)
        assert pid != child.pid
