"""`upmt why`: why a flow goes where it goes, on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import print_json
from upmt_nf.daemon.control_client import call


def register(app: typer.Typer) -> None:
    """Add `why` to `app`."""
    app.command()(why)


def why(
    subject: Annotated[
        str,
        typer.Argument(help="An application, a flow as `upmt flows` prints it, or a process's number."),
    ],
    json: Json = False,
) -> None:
    """Why it goes where it goes: from the process to the wire, and what would change it."""
    value = call("why", subject=subject)
    if json:
        print_json(value)
        return
    for line in _lines(value):
        typer.echo(line)


def _lines(value: dict[str, Any]) -> list[str]:
    application, path = value["application"], value["path"]
    lines: list[str] = []
    if value["process"] is not None:
        lines += _process(value["process"])
    for flow in value["flows"]:
        lines += _flow(flow, with_process=value["process"] is None)
    if value["flow_count"] > len(value["flows"]):
        lines.append(f"({value['flow_count']} flows; the newest {len(value['flows'])} are shown)")
    if not value["flows"]:
        lines.append("flows           none in the tunnels now")
    if (new := value.get("new_flows")) is not None:
        lines.append(f"new flows       {new['application']}, {_classification(new)}")
    lines += [
        "",
        f"application     {application['name']}, id {application['id']}"
        + (", a handover is under way" if application["is_moving"] else ""),
        f"  policy        {_policy_of(application)}",
        *(f"  match         {condition}" for condition in application["match"]),
        "",
        *_networks(value["networks"]),
        "",
        *_path(path),
    ]
    if value["changes"]:
        lines += ["", "what would change it", *(f"  {line}" for line in value["changes"])]
    return lines + [f"note: {line}" for line in value["notes"]]


def _policy_of(application: Mapping[str, Any]) -> str:
    networks = ", ".join(application["policy"])
    named = f"{application['policy_name']} ({networks})" if application["policy_name"] else networks
    return f"{named}, locked to {application['locked']}" if application["locked"] else named


def _process(process: dict[str, Any]) -> list[str]:
    lines = [f"process         {process['pid']} {process['command'] or ''}".rstrip()]
    if process["uid"] is None:
        return [f"{lines[0]} (ended)"]
    lines.append(f"  executable    {process['executable'] or 'unknown'}")
    lines.append(f"  uid, gid      {process['uid']}, {process['gid']}")
    lines.append(f"  cgroup        {process['cgroup']}")
    return lines


def _flow(flow: dict[str, Any], with_process: bool) -> list[str]:
    lines = [f"flow            {flow['flow']}"]
    if with_process:
        known = _process(flow["process"]) if flow["process"] else ["process         unknown"]
        lines += [f"  {known[0].replace('process   ', 'process ')}", *known[1:]]
    socket = flow["socket"]
    lines.append(
        f"  socket        inode {socket['inode']}, uid {socket['uid']}"
        if socket
        else "  socket        closed, or not of this machine"
    )
    lines.append(f"  classified    {flow['application']}, {_classification(flow['classification'])}")
    where = f"{flow['network']}, tunnel {flow['tunnel_id']}" if flow["network"] else "no network: held"
    lines.append(f"  goes by       {where}" + (", moved alone" if flow["is_pinned"] else ""))
    return lines


_FOUND_BY = {
    "socket_record": "its process by the kernel's record of sockets",
    "search": "its process by a search in /proc",
    "remembered": "its process had ended and was remembered",
    "nobody": "its process was not found",
}


def _classification(found: dict[str, Any]) -> str:
    said = _decision(found)
    if found["found_by"] is not None:
        said += f"; {_FOUND_BY[found['found_by']]}"
    return said + ("; a guess: an earlier rule may have been meant" if found["is_guess"] else "")


def _decision(found: dict[str, Any]) -> str:
    if found["mechanism"] == "default":
        return f"as no rule of {found['of']} names it" if found["of"] else "as there are no rules"
    if found["rule"] is None:
        return f"by its mark {found['mark']}"
    place = f"rule {found['place']} of {found['of']}" if found["place"] else "a rule that is gone"
    said = f"by {found['mechanism']}: {found['rule']} ({place}, from {found['origin']}; {found['decided_by']}"
    return said + (f", mark {found['mark']})" if found["mark"] else ")")


def _networks(rows: list[dict[str, Any]]) -> list[str]:
    width = max((len(row["name"]) for row in rows), default=0)
    return [
        f"{'network' if number == 0 else '':<14}{'>' if row['is_chosen'] else ' '} "
        f"{row['name']:<{width}}  {row['state']:<8}{row['why']}"
        for number, row in enumerate(rows)
    ]


def _path(path: dict[str, Any]) -> list[str]:
    lines = ["way"]
    if path["is_left_alone"]:
        known = "known by its user, its destination, or its socket's cgroup, else the mark"
        return [*lines, "  as if UPMT were not there", f"  rule          {path['inner_rule']} ({known})"]
    if path["inner_rule"] is None:
        return [*lines, "  no virtual address: nothing is tunnelled"]
    lines.append(f"  mark          {path['application_mark']} once netfilter has named it")
    lines.append(f"  rule          {path['inner_rule']}")
    lines.append(f"  route         {path['inner_route']}")
    lines.append(f"  agent         {path['virtual_interface']}, NFQUEUE")
    if (tunnel := path["tunnel"]) is None:
        return [*lines, "  no network: the packets end here"]
    return [
        *lines,
        f"  tunnel        {tunnel['tunnel_id']} of {tunnel['network']}, MTU {tunnel['mtu']}",
        f"  outer mark    {tunnel['outer_mark']}",
        f"  outer rule    {tunnel['outer_rule']}",
        f"  outer route   {tunnel['outer_route']}",
        f"  wire          {tunnel['local']} on {tunnel['interface']}"
        f" (the anchor sees {tunnel['reflexive']}) -> {tunnel['remote']}",
    ]
