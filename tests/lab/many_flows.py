"""Many TCP connections at once, and many short ones a second; every byte echoed and compared.

`serve PORT`, `hold ADDRESS PORT COUNT SECONDS`, `burst ADDRESS PORT RATE SECONDS` (UDP, prints a JSON report).
"""

import asyncio
import json
import select
import socket
import sys
import time


async def serve(port: int) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    class Datagrams(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
            self.transport.sendto(data, addr)  # type: ignore[attr-defined]

    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind(("", port))
    await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, sock=sock)
    server = await asyncio.start_server(echo, "", port, backlog=4096)
    await server.serve_forever()


async def hold(address: str, port: int, count: int, seconds: float) -> None:
    end = time.monotonic() + seconds

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection(address, port)
        line = 0
        while time.monotonic() < end:
            message = f"{number}:{line}\n".encode()
            writer.write(message)
            if await asyncio.wait_for(reader.readexactly(len(message)), 10) != message:
                sys.exit(f"connection {number} got something else back")
            line += 1
            await asyncio.sleep(0.2)
        writer.close()

    await asyncio.gather(*(one(number) for number in range(count)))


def burst(address: str, port: int, rate: int, seconds: float) -> None:
    """`rate` new UDP flows a second, each one packet and its echo."""
    total = int(rate * seconds)
    waiting: dict[int, socket.socket] = {}
    answered = failed = 0
    start = time.monotonic()
    poller = select.epoll()

    def collect() -> None:
        nonlocal answered
        for number, _ in poller.poll(0):
            sock = waiting.pop(number)
            try:
                sock.recv(100)
                answered += 1
            except OSError:
                pass
            poller.unregister(number)
            sock.close()

    for number in range(total):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.connect((address, port))
            sock.send(number.to_bytes(4, "big"))
        except OSError:
            failed += 1
            sock.close()
            continue
        waiting[sock.fileno()] = sock
        poller.register(sock.fileno(), 1)
        while (left := start + (number + 1) / rate - time.monotonic()) > 0:
            collect()
            time.sleep(max(0.0, min(left, 0.002)))
    deadline = time.monotonic() + 3
    while waiting and time.monotonic() < deadline:
        collect()
        time.sleep(0.005)
    took = time.monotonic() - start
    print(json.dumps({"flows": total, "answered": answered, "failed": failed, "seconds": took}))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            asyncio.run(serve(int(port)))
        case ["hold", address, port, count, seconds]:
            asyncio.run(hold(address, int(port), int(count), float(seconds)))
        case ["burst", address, port, rate, seconds]:
            burst(address, int(port), int(rate), float(seconds))
