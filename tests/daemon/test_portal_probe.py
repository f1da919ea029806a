"""Questions for captive portals, asked of servers that do as they like; and the anchor's own answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from ipaddress import ip_address, ip_interface

import pytest

from upmt_nf.config.http_url import HttpUrl
from upmt_nf.daemon import portal_probe
from upmt_nf.daemon.portal_answers import PortalAnswers
from upmt_nf.daemon.portal_probe import PortalProbes
from upmt_nf.mobility.host_events import PortalChecked
from upmt_nf.mobility.portal_checks import Finding, Portal
from upmt_nf.mobility.traffic import OwnTraffic
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import NetworkName
from upmt_nf.routing.plan import NetworkRouting
from upmt_nf.signaling.http_answer import LONGEST_HEAD

pytestmark = pytest.mark.kernel

WIFI = NetworkName("wifi")
HERE = ip_address("127.0.0.1")
Server = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def asked(server: Server) -> tuple[Portal, OwnTraffic]:
    """What a check of this server finds, and what it cost."""
    own = OwnTraffic(4)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await server(reader, writer)
        writer.close()

    async def run() -> Portal:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        found = await check(Endpoint(HERE, port), own)
        listening.close()
        return found

    return asyncio.run(run()), own


async def check(server: Endpoint, own: OwnTraffic) -> Portal:
    found: asyncio.Future[PortalChecked] = asyncio.get_running_loop().create_future()
    loopback = NetworkRouting(1, "lo", ip_interface("127.0.0.1/8"), None)
    probes = PortalProbes(HttpUrl(server, "/x"), lambda _: loopback, found.set_result, own)
    probes.check(WIFI)
    checked = await asyncio.wait_for(found, 20)
    assert checked.network == WIFI
    return checked.portal


def says(text: bytes) -> Server:
    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        await writer.drain()

    return server


@pytest.mark.parametrize(
    ("text", "portal"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", Portal(Finding.CLEAR)),
        (b"HTTP/1.1 200 OK\r\n\r\n<html>", Portal(Finding.PORTAL)),
        (b"HTTP/1.1 302 Found\r\nLocation: http://in/\r\n\r\n", Portal(Finding.PORTAL, "http://in/")),
        (b"\x16\x03\x01 not HTTP at all", Portal(Finding.PORTAL)),
        (b"", Portal(Finding.SILENT)),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1_000_000, Portal(Finding.PORTAL)),
    ],
)
def test_what_is_answered_tells_a_portal(text: bytes, portal: Portal) -> None:
    found, own = asked(says(text))
    assert found == portal
    assert own.up[WIFI] < 1000
    assert own.down[WIFI] <= LONGEST_HEAD + 1000, "no more is read than is looked at"


def test_the_question_names_us_as_little_as_can_be() -> None:
    heard: list[bytes] = []

    async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))

    asked(server)
    lines = heard[0].split(b"\r\n")
    assert lines[0] == b"GET /x HTTP/1.1"
    assert {line.partition(b":")[0] for line in lines[1:] if line} == {
        b"Host",
        b"User-Agent",
        b"Accept-Encoding",
        b"Connection",
    }


@pytest.mark.parametrize("sends", [b"", b"H"])
def test_who_never_ends_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, sends: bytes) -> None:
    monkeypatch.setattr(portal_probe, "PATIENCE", 0.3)

    async def server(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(sends)
            await writer.drain()
            await asyncio.sleep(0.01)

    assert asked(server)[0] == Portal(Finding.SILENT)


def test_where_nobody_listens_nobody_answers() -> None:
    assert asyncio.run(check(Endpoint(HERE, 9), OwnTraffic(4))) == Portal(Finding.SILENT)


def test_the_anchor_answers_204_and_only_so_many_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upmt_nf.daemon.portal_answers.MOST_CONNECTIONS", 2)

    async def run() -> None:
        answers, port = PortalAnswers(), 0
        for port in range(38380, 38480):
            with contextlib.suppress(UpmtError):
                await answers.serve(Endpoint(HERE, port))
                break
        here = Endpoint(HERE, port)
        assert await check(here, OwnTraffic(4)) == Portal(Finding.CLEAR)
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert await check(here, OwnTraffic(4)) == Portal(Finding.SILENT)
        assert answers.refused == 1
        for _, writer in idle:
            writer.close()
        await asyncio.sleep(0.05)
        assert await check(here, OwnTraffic(4)) == Portal(Finding.CLEAR)
        with pytest.raises(UpmtError, match="portal_check_port"):
            await PortalAnswers().serve(here)
        answers.close()

    asyncio.run(run())
