"""A voice-like program: numbered UDP packets at a steady pace, and an echo that sends each one back.

Plain sockets only: it knows nothing of UPMT, like any application. Run as
`python -m upmt_nf.lab.voice_stream echo PORT LOG` and `... send ADDRESS PORT RATE SECONDS LOG [BYTES]`; `sink` is an
echo that says nothing.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from upmt_nf.lab.stream_report import Arrival

_HEADER = struct.Struct("!Q")
_RECORD = struct.Struct("!Qd")
_LINGER = 1.0
"""Seconds that the sender goes on listening for the last echoes."""


def send(address: str, port: int, rate: float, seconds: float, log: Path, size: int = 160) -> int:
    """Send `rate` packets a second for `seconds`, record every echo in `log`; gives the number sent."""
    count = int(rate * seconds)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out, log.open("wb", buffering=0) as record:
        out.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        out.connect((address, port))
        out.setblocking(False)
        padding = bytes(max(0, size - _HEADER.size))
        start = time.monotonic()
        for number in range(count):
            _record_echoes(out, record.write, until=start + number / rate)
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                out.send(_HEADER.pack(number) + padding)
        _record_echoes(out, record.write, until=time.monotonic() + _LINGER)
    return count


def echo(port: int, log: Path, *, answers: bool = True) -> None:
    """Send every packet back to where it came from and record it in `log`, until the process is ended."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back, log.open("wb", buffering=0) as record:
        back.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        back.bind(("", port))
        while True:
            packet, sender = back.recvfrom(65536)
            if len(packet) >= _HEADER.size:
                record.write(_RECORD.pack(_HEADER.unpack_from(packet)[0], time.monotonic()))
                if answers:
                    back.sendto(packet, sender)


def read_log(log: Path) -> list[Arrival]:
    """The arrivals that `send` or `echo` recorded, in their order."""
    data = log.read_bytes()
    whole = len(data) - len(data) % _RECORD.size
    return [Arrival(number, at) for number, at in _RECORD.iter_unpack(data[:whole])]


def _record_echoes(receiver: socket.socket, write: Callable[[bytes], object], *, until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        receiver.settimeout(left)
        try:
            packet = receiver.recv(65536)
        except (TimeoutError, BlockingIOError):
            break
        except ConnectionRefusedError:
            continue
        write(_RECORD.pack(_HEADER.unpack_from(packet)[0], time.monotonic()))
    receiver.setblocking(False)


def main(arguments: list[str]) -> None:
    """The command line of this program."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    match arguments:
        case ["echo", port, log]:
            echo(int(port), Path(log))
        case ["sink", port, log]:
            echo(int(port), Path(log), answers=False)
        case ["send", address, port, rate, seconds, log, *size]:
            print(send(address, int(port), float(rate), float(seconds), Path(log), *map(int, size)))
        case _:
            sys.exit("usage: voice_stream echo|sink PORT LOG | send ADDRESS PORT RATE SECONDS LOG [BYTES]")


if __name__ == "__main__":
    main(sys.argv[1:])
