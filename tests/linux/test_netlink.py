"""A question to the kernel and all of its answer, from datagrams as a kernel sends them."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.linux.netlink import DUMP, HEADER, REQUEST, asked, attribute, attributes, message, messages

ERROR, DONE, NEWS = 2, 3, 24
Kernel = tuple[socket.socket, socket.socket]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Our end, which is patient for a moment only, and the other one."""
    ours, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, other:
        ours.settimeout(0.05)
        yield ours, other


def refusal(code: int, sequence: int = 1) -> bytes:
    return message(ERROR, 0, struct.pack("=i", -code) + bytes(HEADER.size), sequence)


def test_a_dump_goes_on_until_the_kernel_is_done(kernel: Kernel) -> None:
    ours, other = kernel
    other.send(message(NEWS, 0, b"one.") + message(NEWS, 0, b"two."))
    other.send(message(NEWS, 0, b"odd"))
    other.send(message(DONE, 0, bytes(4)) + message(NEWS, 0, b"not ours"))
    bodies = [body for kind, body in asked(ours, 26, b"body", is_dump=True) if kind == NEWS]
    assert bodies == [b"one.", b"two.", b"odd"]
    assert other.recv(100) == message(26, REQUEST | DUMP, b"body")


def test_a_single_answer_is_not_waited_for_twice(kernel: Kernel) -> None:
    ours, other = kernel
    other.send(message(NEWS, 0, b"here"))
    assert list(asked(ours, 26, b"")) == [(NEWS, b"here")]


def test_late_answers_to_an_earlier_question_are_passed_over(kernel: Kernel) -> None:
    ours, other = kernel
    other.send(message(NEWS, 0, b"late", 6) + message(DONE, 0, bytes(4), 6))
    other.send(refusal(errno.ENOENT, 6))
    other.send(message(NEWS, 0, b"ours", 7))
    assert list(asked(ours, 26, b"", sequence=7)) == [(NEWS, b"ours")]


@pytest.mark.parametrize("is_dump", [False, True])
def test_a_refusal_and_silence_are_errors(kernel: Kernel, is_dump: bool) -> None:
    ours, other = kernel
    other.send(refusal(errno.EOPNOTSUPP))
    with pytest.raises(OSError, match="not supported") as refused:
        list(asked(ours, 26, b"", is_dump=is_dump))
    assert refused.value.errno == errno.EOPNOTSUPP
    with pytest.raises(TimeoutError):
        list(asked(ours, 26, b"", is_dump=is_dump))


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=9)), max_size=5))
def test_what_is_written_is_read(parts: list[tuple[int, bytes]]) -> None:
    assert list(attributes(b"".join(attribute(*part) for part in parts))) == parts
    assert list(messages(message(NEWS, 0, b"12345678"))) == [(NEWS, b"12345678")]


@given(st.binary(max_size=100))
def test_nothing_that_comes_raises(data: bytes) -> None:
    assert len(list(messages(data))) <= 7
    assert len(list(attributes(data))) <= 25
