"""A lab from the first namespace to the last: up, down, status. Safe to run twice and after a crash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from upmt_nf.lab import build, daemons, links, namespaces, shape
from upmt_nf.lab.topology import ALL_HOSTS, NETWORKS, hosts_with
from upmt_nf.model.errors import UpmtError


def up(
    lab: str,
    datapath: str,
    protection: str,
    *,
    with_daemons: bool,
    say: Callable[[str], None],
    anchors: int = 1,
) -> None:
    """Build the lab and return when everything is up; a broken one is built anew."""
    hosts = hosts_with(anchors)
    with namespaces.locked(lab):
        if _is_there(lab):
            if all(namespaces.exists(lab, host) for host in hosts) and (
                not with_daemons or daemons.is_ready(lab)
            ):
                say(f"lab {lab!r} is up already")
                return
            _take_down(lab)
        try:
            build.build(lab, hosts)
            daemons.write_configurations(lab, datapath, protection, anchors)
            if with_daemons:
                for host in _with_daemons(lab):
                    daemons.start(lab, host)
                daemons.await_ready(lab)
        except BaseException:
            _take_down(lab)
            raise


def down(lab: str, say: Callable[[str], None]) -> None:
    """Remove the lab and everything that runs in it; one that is not there is no error."""
    with namespaces.locked(lab):
        if not _is_there(lab):
            say(f"there is no lab {lab!r}")
            return
        _take_down(lab)


def change_shape(lab: str, network: str, wanted: shape.Shape) -> str:
    """Shape an access network; gives how it is done."""
    with namespaces.locked(lab):
        done = shape.apply_shape(lab, links.network_named(network), wanted, daemons.state_of(lab))
        known = _shapes(lab)
        known[network] = {"delay_s": wanted.delay, "loss": wanted.loss, "rate_bit_s": wanted.rate, "by": done}
        (daemons.state_of(lab) / "shapes.json").write_text(json.dumps(known))
        return done


def status(lab: str) -> dict[str, Any]:
    """What there is of the lab."""
    if not _is_there(lab):
        raise UpmtError(f"there is no lab {lab!r}: `upmt lab up --name {lab}` makes it")
    shapes = _shapes(lab)
    networks = []
    for network in NETWORKS.values():
        with namespaces.entered(lab, network.gateway):
            networks.append(
                {
                    "name": network.name,
                    "interface": network.interface,
                    "gateway": network.gateway,
                    "carrier": links.has_carrier(),
                    "blackhole": links.is_black_hole(),
                    "shape": shapes.get(network.name),
                }
            )
    return {
        "name": lab,
        "hosts": {
            host: namespaces.namespace(lab, host) for host in ALL_HOSTS if namespaces.exists(lab, host)
        },
        "networks": networks,
        "daemons": {host: daemons.is_running(lab, host) for host in _with_daemons(lab)},
        "directory": str(daemons.state_of(lab)),
    }


def _shapes(lab: str) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads((daemons.state_of(lab) / "shapes.json").read_text())
    except (OSError, ValueError):
        return {}
    return known


def _is_there(lab: str) -> bool:
    return daemons.state_of(lab).exists() or any(namespaces.exists(lab, host) for host in ALL_HOSTS)


def _with_daemons(lab: str) -> list[str]:
    return [host for host in daemons.ROLES if namespaces.exists(lab, host)]


def _take_down(lab: str) -> None:
    # The mobile host first: its goodbye needs the anchor.
    for host in ("mh", *(host for host in ALL_HOSTS if host != "mh")):
        if namespaces.exists(lab, host):
            daemons.end_everything(lab, host)
            daemons.put_back(lab, host)
    build.remove(lab)
    shutil.rmtree(daemons.state_of(lab), ignore_errors=True)
    _remove_if_empty(daemons.state_of(lab).parent)


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        return
