"""Gives back what it gets, over TCP and UDP: `echo.py ADDRESS:PORT...`. UDP answers come from the address asked."""

import asyncio
import sys


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)  # type: ignore[attr-defined]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main() -> None:
    loop = asyncio.get_running_loop()
    for word in sys.argv[1:]:
        address, _, port = word.partition(":")
        await loop.create_datagram_endpoint(Datagrams, local_addr=(address, int(port)))
        await asyncio.start_server(echo, address, int(port), backlog=1024)
    await asyncio.Event().wait()


asyncio.run(main())
