"""Metrics, the live view and the network's trial: from the answers of the commands, without a daemon."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from rich.console import Console

from upmt_nf.cli.watch import screen
from upmt_nf.daemon.metrics import metrics_text
from upmt_nf.daemon.metrics_server import MetricsServer
from upmt_nf.daemon.network_trial import network_trial
from upmt_nf.mobility.host_status import NetworkStatus
from upmt_nf.mobility.portal_checks import Finding, LeasePortal, Portal
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.identity import NetworkName, TunnelId
from upmt_nf.signaling.captive_portal_uri import UNRESTRICTED

STATUS: dict[str, Any] = {
    "role": "mobile-host",
    "association": {"state": "associated", "anchor": "203.0.113.10", "virtual_address": "10.99.0.1"},
    "networks": [
        {
            "name": "wifi",
            "state": "up",
            "rtt_ms": 12.5,
            "loss_up": 0.01,
            "loss_down": None,
            "delay_variation_ms": {"up": 1.5, "down": None},
            "cost": 0.0,
            "throughput": {"up": 1000, "down": 2_000_000, "offered_up": None, "offered_down": 3_000_000},
            "carried": {"up": 5, "down": 6},
            "metered": True,
            "signal": {"dbm": -61, "bitrate": None},
            "usage": {
                "day": {"bytes_up": 5, "bytes_down": 6, "cost": 0.25},
                "month": {"bytes_up": 50, "bytes_down": 60, "cost": 2.5},
            },
        },
        {"name": "lte", "state": "dead", "rtt_ms": None, "loss_up": None, "loss_down": None, "cost": 4.0},
    ],
    "applications": [
        {
            "name": 'a"b',
            "network": "wifi",
            "policy": ["wifi"],
            "policy_name": "voice",
            "locked": "wifi",
            "flows": 2,
        },
        {"name": "idle", "network": None, "policy": ["lte"], "policy_name": None, "locked": None, "flows": 0},
    ],
    "counters": {"unknown_tunnel": 3},
}
TUNNELS = [{"network": "wifi", "bytes_out": 10, "bytes_in": 20}]
SAMPLE = re.compile(r'upmt_[a-z_]+(\{([a-z]+="(\\.|[^"\\])*",?)+\})? [0-9.e+-]+')


def test_every_line_is_a_comment_or_a_sample() -> None:
    text = metrics_text(STATUS, TUNNELS, {('a"b', "done"): 2})
    assert text.endswith("\n")
    for line in text.splitlines():
        assert line.startswith("# ") or SAMPLE.fullmatch(line), line
    assert 'upmt_network_rtt_seconds{network="wifi"} 0.0125' in text
    assert 'upmt_network_rtt_seconds{network="lte"}' not in text, "what is not known is left out"
    assert 'upmt_application_network{application="a\\"b",network="wifi"} 1' in text
    assert 'upmt_handovers_total{application="a\\"b",outcome="done"} 2' in text
    assert 'upmt_tunnel_bytes_total{network="wifi",way="down"} 20' in text
    assert 'upmt_network_throughput_bits_per_second{network="wifi",way="down"} 2000000' in text
    assert 'upmt_network_offered_bits_per_second{network="wifi",way="up"}' not in text
    assert 'upmt_network_metered{network="wifi"} 1' in text
    assert 'upmt_network_signal_dbm{network="wifi"} -61' in text
    assert 'upmt_network_bytes_total{network="wifi",way="up"} 5' in text
    assert 'upmt_network_used_bytes{network="wifi",period="month",way="down"} 60' in text
    assert 'upmt_network_cost{network="wifi",period="day"} 0.25' in text


def test_the_server_answers_what_prometheus_asks_and_nothing_else() -> None:
    async def text() -> str:
        return "upmt_associated 1\n"

    async def ask(port: int, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        return answer

    async def run() -> None:
        server, port = MetricsServer(text), 0
        for port in range(39377, 39477):
            try:
                await server.serve(Endpoint(ip_address("127.0.0.1"), port))
                break
            except UpmtError:
                continue
        good = await ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert good.startswith(b"HTTP/1.1 200 OK\r\n")
        assert good.endswith(b"\r\n\r\nupmt_associated 1\n")
        assert b"404" in await ask(port, b"POST /metrics HTTP/1.1\r\n\r\n")
        assert b"404" in await ask(port, b"GET /etc/passwd HTTP/1.1\r\n\r\n")
        assert await ask(port, b"x" * 20000) == b""
        assert await ask(port, b"GET") == b""
        with pytest.raises(UpmtError, match=r"metrics at 127\.0\.0\.1"):
            await MetricsServer(text).serve(Endpoint(ip_address("127.0.0.1"), port))
        server.close()

    asyncio.run(run())


def test_the_live_view_fits_eighty_columns() -> None:
    flow = {
        "protocol": "tcp",
        "source_port": 40000,
        "destination": "2001:db8:1234:5678:9abc:def0:1234:5678",
        "destination_port": 443,
        "application": "a-rather-long-application-name",
        "network": None,
        "bytes": 123456,
    }
    handover = {
        "time": "2026-11-25T10:00:00.000+00:00",
        "outcome": "done",
        "failure": None,
        "application": "call",
        "flow": None,
        "from": "wifi",
        "to": "lte",
        "cause": "delay 300 ms is above 250 ms",
    }
    console = Console(width=80, record=True, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(screen(STATUS, [flow] * 20, [handover]))
    lines = capture.get().splitlines()
    assert all(len(line) <= 80 for line in lines)
    text = "\n".join(lines)
    assert "voice (locked to wifi)" in text
    assert "8 of 20" in text
    assert "delay 300 ms" in text
    assert "2 Mb/s" in text
    assert "11 B" in text, "of today"
    assert "…" not in lines[1] + lines[2], "no column of the networks is cut"


def test_the_live_view_fits_the_terminal_however_many_applications_there_are() -> None:
    idle = {"network": "wifi", "policy": ["wifi"], "policy_name": None, "locked": None, "flows": 0}
    crowd = [{**idle, "name": f"a{number}"} for number in range(40)]
    status = {**STATUS, "applications": [*crowd, {**idle, "name": "busy", "flows": 3}]}
    flow = {"protocol": "udp", "source_port": 1, "destination": "192.0.2.1", "destination_port": 2}
    flows = [{**flow, "application": "busy", "network": "wifi", "bytes": number} for number in range(30)]
    move = {"time": "2026-11-25T08:00:00", "outcome": "done", "cause": "is better", "flow": None}
    moves = [{**move, "application": "busy", "from": "lte", "to": "wifi"}] * 5
    for height in (8, 24, 60):
        console = Console(width=80, height=height)
        with console.capture() as capture:
            console.print(screen(status, flows, moves, height))
        lines = capture.get().splitlines()
        assert len(lines) <= height
        assert "busy" in capture.get(), "what carries something comes first"
    assert "APPLICATION (40 of 41)" in capture.get()
    assert "is better" in capture.get()


def test_a_networks_trial_says_what_passed_and_why_not() -> None:
    up = NetworkStatus(
        name=NetworkName("wifi"),
        index=1,
        interface="wlan0",
        care_of_address=ip_address("192.168.1.7"),
        gateway=ip_address("192.168.1.1"),
        state="up",
        reason="",
        tunnel_id=TunnelId(7),
        reflexive=Endpoint(ip_address("203.0.113.99"), 40000),
        rtt_ms=12.0,
        loss=0.0,
        mtu=1440,
    )
    trial = network_trial(up)
    assert trial["passed"]
    assert [check["check"] for check in trial["checks"]] == [
        "link", "anchor", "nat", "binding_time", "mtu", "filters", "ipv6", "quality",
    ]  # fmt: skip
    assert "203.0.113.99:40000" in trial["checks"][2]["detail"]
    dead = network_trial(replace(up, state="dead", reason="no answer from the anchor"))
    assert not dead["passed"]
    assert dead["checks"][-1] == {"check": "anchor", "state": "failed", "detail": "no answer from the anchor"}
    captive = replace(up, state="dead", portal=Portal(Finding.PORTAL))
    lease = LeasePortal("https://portal.example/api", "dhclient")
    said = {check["check"]: check["detail"] for check in network_trial(captive, lease)["checks"]}
    assert said["anchor"] == "a captive portal is in the way: log in at https://portal.example/api"
    assert said["portal"].endswith(
        "https://portal.example/api as its captive portal's, by DHCP, says dhclient"
    )
    none = {check["check"]: check for check in network_trial(up, LeasePortal(UNRESTRICTED, "x"))["checks"]}
    assert none["portal"]["detail"].startswith("the network has none")
    wrong = {check["check"]: check for check in network_trial(up, LeasePortal(reason="is no URI"))["checks"]}
    assert wrong["portal"] == {"check": "portal", "state": "unknown", "detail": "is no URI"}
    down = network_trial(replace(up, state="down", care_of_address=None, reason="no carrier"))
    assert down["checks"][0]["detail"] == "no carrier"
