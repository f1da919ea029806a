"""`upmt status|tunnels|apps|flows`: what the daemon of this namespace knows, as JSON or as tables."""

from __future__ import annotations

import time
from enum import Enum
from typing import Annotated, Any

import typer

from upmt_nf.cli.tables import carriers, console, data_rate, data_size, print_json, print_table
from upmt_nf.daemon.control_client import call
from upmt_nf.model.errors import NoDaemonError, UpmtError

_POLL = 0.1
"""Seconds between two looks of `status --wait`."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON with stable keys.")]


def register(app: typer.Typer) -> None:
    """Add the reading commands to `app`."""
    for command in (status, tunnels, apps, flows):
        app.command()(command)


class Awaited(Enum):
    """What `status --wait` waits for."""

    ASSOCIATED = "associated"
    ALL_UP = "all-up"


def status(
    json: Json = False,
    wait: Annotated[
        Awaited | None,
        typer.Option("--wait", help="First wait for the association, or for all networks as well."),
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0, help="Seconds to wait at most.")] = 10.0,
) -> None:
    """Association, networks and applications on one screen. Ends with 1 when it waited in vain."""
    value = call("status") if wait is None else _awaited(wait, timeout)
    if json:
        print_json(value)
    elif value["role"] == "anchor":
        _print_anchor(value)
    else:
        _print_host(value)


def _awaited(wait: Awaited, timeout: float) -> dict[str, Any]:
    """The status as soon as it is as wanted. Raises NoDaemonError or UpmtError when it is not within `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        try:
            value: dict[str, Any] = call("status", timeout=max(left, 0.1))
        except NoDaemonError:
            # It may be about to start.
            if left <= 0:
                raise
        else:
            if value["role"] == "anchor" or _is_as_wanted(wait, value):
                return value
            if left <= 0:
                raise UpmtError(f"not {wait.value} within {timeout:g} s: {_why_not(value)}")
        time.sleep(min(_POLL, max(left, 0.01)))


def _is_as_wanted(wait: Awaited, value: dict[str, Any]) -> bool:
    is_associated = bool(value["association"]["state"] == "associated")
    if wait is Awaited.ASSOCIATED:
        return is_associated
    return is_associated and all(network["state"] == "up" for network in value["networks"])


def _why_not(value: dict[str, Any]) -> str:
    association = value["association"]
    if association["state"] != "associated":
        failure = f" ({association['failure']})" if association["failure"] else ""
        return f"the association is {association['state']}{failure}"
    down = [f"{each['name']} is {each['state']}" for each in value["networks"] if each["state"] != "up"]
    return ", ".join(down)


def _print_host(value: dict[str, Any]) -> None:
    association = value["association"]
    out = console()
    out.print(f"mobile host, {value['datapath']} datapath, virtual interface {value['virtual_interface']}")
    out.print(_association_line(association))
    for anchor in association["anchors"] if len(association["anchors"]) > 1 else ():
        reason = f": {anchor['reason']}" if anchor["reason"] else ""
        out.print(f"  anchor {anchor['address']} {anchor['state']}{reason}{', in use' * anchor['in_use']}")
    out.print()
    print_networks(value["networks"])
    out.print()
    _print_apps(value["applications"])


def _association_line(association: dict[str, Any]) -> str:
    line = f"association: {association['state']}"
    if association["expires_in_s"] is not None:
        line += f", {association['virtual_address']} leased by {association['anchor']}"
        return line + f", expires in {association['expires_in_s']:.0f} s"
    if association["failure"]:
        line += f", anchor {association['anchor']}: {association['failure']}"
    return line


def _print_anchor(value: dict[str, Any]) -> None:
    out = console()
    out.print(f"anchor {value['address']}, pool {value['pool']}, {value['datapath']} datapath\n")
    columns = {
        "HOST": "identity",
        "VIRTUAL ADDRESS": "virtual_address",
        "TUNNELS": "tunnels",
        "FLOWS": "flows",
        "EXPIRES (s)": "expires_in_s",
    }
    print_table(None, columns, value["associations"])


def print_networks(rows: list[dict[str, Any]]) -> None:
    """A table of the rows of `networks`."""
    columns = {
        "NETWORK": "name",
        "INTERFACE": "interface",
        "CARE-OF ADDRESS": "care_of_address",
        "STATE": "state",
        "TUNNEL": "tunnel_id",
        "RTT (ms)": "rtt_ms",
        "LOSS": "loss",
        "SENDS": "sends",
        "RECEIVES": "receives",
        "TODAY": "today",
        "COST": "cost",
    }
    shown = []
    for row in rows:
        today = row["usage"]["day"]
        shown.append(
            {
                **row,
                "sends": data_rate(row["throughput"]["up"]),
                "receives": data_rate(row["throughput"]["down"]),
                "today": data_size(today["bytes_up"] + today["bytes_down"]),
            }
        )
    print_table(None, columns, shown)


def tunnels(json: Json = False) -> None:
    """The tunnels of this host or anchor, with their counters."""
    value = call("tunnels")
    if json:
        print_json(value)
        return
    columns = {
        "TUNNEL": "tunnel_id",
        "NETWORK": "network",
        "OWNER": "virtual_address",
        "LOCAL": "local",
        "REMOTE": "remote",
        "STATE": "state",
        "MTU": "mtu",
        "OUT": "out",
        "IN": "in",
    }
    rows = [{**row, "out": data_size(row["bytes_out"]), "in": data_size(row["bytes_in"])} for row in value]
    print_table(None, columns, rows)


def apps(json: Json = False) -> None:
    """The applications, their policies and where they are now."""
    value = call("apps")
    print_json(value) if json else _print_apps(value)


def _print_apps(rows: list[dict[str, Any]]) -> None:
    columns = {
        "APPLICATION": "name",
        "NETWORK": "network",
        "POLICY": "rule",
        "FLOWS": "flows",
        "MATCH": "match",
    }
    print_table(None, columns, [{**row, "network": carriers(row), "rule": _policy_of(row)} for row in rows])


def _policy_of(row: dict[str, Any]) -> str:
    policy = row["policy_name"] or ", ".join(row["policy"])
    return f"{policy} (locked to {row['locked']})" if row["locked"] else policy


def flows(json: Json = False) -> None:
    """Every flow: whose it is and by which tunnel it goes."""
    value = call("flows")
    if json:
        print_json(value)
        return
    columns = {
        "PROTO": "protocol",
        "SOURCE": "from",
        "DESTINATION": "to",
        "APPLICATION": "application",
        "PID": "pid",
        "COMMAND": "command",
        "TOLD BY": "mechanism",
        "NETWORK": "network",
        "TUNNEL": "tunnel_id",
        "PACKETS": "packets",
        "SIZE": "size",
    }
    rows = [
        {
            **row,
            "from": f"{row['source']}:{row['source_port']}",
            "to": f"{row['destination']}:{row['destination_port']}",
            "size": data_size(row["bytes"]),
        }
        for row in value
    ]
    print_table(None, columns, rows)
