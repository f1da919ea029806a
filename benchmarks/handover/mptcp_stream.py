"""Numbered messages over one MPTCP connection, there and back, logged as `meter` logs its packets.

Run as `python -m benchmarks.handover.mptcp_stream answer ADDRESS PORT LOG` and `... talk ADDRESS PORT RATE LOG`;
each ends when it is terminated.
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator

_MESSAGE = struct.Struct("<II")
_RECORD = struct.Struct("<QII")
_PROTOCOL = getattr(socket, "IPPROTO_MPTCP", 262)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    match sys.argv[1:]:
        case ["answer", address, port, log]:
            _answer(address, int(port), log)
        case ["talk", address, port, rate, log]:
            _talk(address, int(port), int(rate), log)


def _answer(address: str, port: int, log: str) -> None:
    with socket.socket(type=socket.SOCK_STREAM, proto=_PROTOCOL) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
        print("ready", flush=True)
        # The listener stays: the second subflow knocks at it.
        connection = listener.accept()[0]
        with connection, open(f"{log}.there", "wb") as there:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for count, (at, number) in enumerate(_messages(connection)):
                there.write(_RECORD.pack(at, number, 0))
                connection.sendall(_MESSAGE.pack(count, 0))


def _talk(address: str, port: int, rate: int, log: str) -> None:
    with socket.socket(type=socket.SOCK_STREAM, proto=_PROTOCOL) as connection:
        connection.connect((address, port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        print('{"known": 1}', flush=True)
        threading.Thread(target=_listen, args=(connection, f"{log}.back"), daemon=True).start()
        with open(f"{log}.sent", "wb") as sent:
            start, number = time.monotonic(), 0
            while True:
                time.sleep(max(0.0, start + number / rate - time.monotonic()))
                sent.write(_RECORD.pack(time.monotonic_ns(), number, 0))
                connection.sendall(_MESSAGE.pack(number, 0))
                number += 1


def _listen(connection: socket.socket, log: str) -> None:
    with open(log, "wb", buffering=0) as back:
        for at, number in _messages(connection):
            back.write(_RECORD.pack(at, number, 0))


def _messages(connection: socket.socket) -> Iterator[tuple[int, int]]:
    rest = b""
    while data := connection.recv(65536):
        at, data = time.monotonic_ns(), rest + data
        whole = len(data) // _MESSAGE.size * _MESSAGE.size
        for number, _ in _MESSAGE.iter_unpack(data[:whole]):
            yield at, number
        rest = data[whole:]


if __name__ == "__main__":
    main()
