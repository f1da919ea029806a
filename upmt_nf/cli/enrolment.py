"""`upmt anchor user add|list|remove|rotate`, `upmt mobile-host enroll`: one line to paste, and both know a secret.

The secret is printed once and read from standard input, never from the arguments, which everybody can see.
"""

from __future__ import annotations

import base64
import json as json_library
import secrets
import sys
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from upmt_nf.cli.reading import Json
from upmt_nf.cli.tables import print_json
from upmt_nf.model.errors import UpmtError, UsageError
from upmt_nf.model.flow import Endpoint
from upmt_nf.model.names import CONFIG_DIRECTORY

if TYPE_CHECKING:
    from upmt_nf.config.mobile_host import MobileHostConfig

user_app = typer.Typer(help="Who may use this anchor.", no_args_is_help=True)

_PREFIX = "upmt1:"
AnchorFile = Annotated[Path, typer.Option("--config", help="The anchor's configuration.", metavar="FILE")]
_ANCHOR_FILE = Path(CONFIG_DIRECTORY) / "anchor.toml"
_HOST_FILE = Path(CONFIG_DIRECTORY) / "mobile-host.toml"
Identity = Annotated[str, typer.Argument(help="Such as boat7@fleet.example.")]


def register(app: typer.Typer) -> None:
    """Add `enroll` to the mobile host's commands."""
    app.command()(enroll)


@user_app.command()
def add(identity: Identity, config: AnchorFile = _ANCHOR_FILE) -> None:
    """Add a host; prints the line that `upmt mobile-host enroll` takes. It holds the secret: keep it to yourself."""
    users, section = _users(config)
    if identity in users.identities():
        raise UpmtError(f"{identity} is there already: `rotate` gives it a new secret")
    _give_secret(users, section, identity)


@user_app.command()
def rotate(identity: Identity, config: AnchorFile = _ANCHOR_FILE) -> None:
    """Give a host a new secret, from now on; prints the new line to enroll with."""
    users, section = _users(config)
    if identity not in users.identities():
        raise UsageError(f"there is no user {identity}")
    _give_secret(users, section, identity)


@user_app.command()
def remove(identity: Identity, config: AnchorFile = _ANCHOR_FILE) -> None:
    """Let a host in no more. What it holds ends with its lease."""
    users, _ = _users(config)
    if not users.remove(identity):
        raise UsageError(f"there is no user {identity}")


@user_app.command("list")
def list_users(config: AnchorFile = _ANCHOR_FILE, json: Json = False) -> None:
    """Who may use this anchor."""
    users, _ = _users(config)
    if json:
        print_json([{"identity": identity} for identity in users.identities()])
        return
    for identity in users.identities():
        typer.echo(identity)


def enroll(
    config: Annotated[
        Path, typer.Option("--config", help="Configuration to write or complete.", metavar="FILE")
    ] = _HOST_FILE,
    network: Annotated[
        list[str] | None,
        typer.Option("--network", help="NAME=INTERFACE, best first; those with a default route by default."),
    ] = None,
) -> None:
    """Read the line of `upmt anchor user add` from standard input; write secret and configuration."""
    from upmt_nf.cli.reading_config import mobile_host_config
    from upmt_nf.linux.users import write_private

    if sys.stdin.isatty():
        typer.echo("Paste the line of `upmt anchor user add`, then Enter:", err=True)
    given = _read_line(sys.stdin.readline())
    secret_file = config.parent / "secret"
    if config.exists():
        known = mobile_host_config(config)
        file = _secret_file_in(config, known, given, secret_file)
        write_private(file, given["secret"] + "\n")
        typer.echo(f"{file} has the new secret; restart the daemon to use it")
        return
    text = _configuration(given, secret_file, _networks(network or []))
    write_private(secret_file, given["secret"] + "\n")
    write_private(config, text)
    mobile_host_config(config)
    typer.echo(f"wrote {config} and {secret_file}; start with: upmt mobile-host run --config {config}")


def _secret_file_in(config: Path, known: MobileHostConfig, given: dict[str, Any], usual: Path) -> Path:
    """Where a configuration that is there already wants the secret of the given anchor. Raises UpmtError."""
    for anchor in known.anchors:
        if (known.identity_at(anchor), str(anchor.address)) == (given["identity"], given["anchor"]):
            if (file := known.secret_file_of(anchor)) is None:
                raise UpmtError(f'{config}: add secret_file = "{usual}" to [mobile_host], then enroll again')
            return Path(file)
    present = ", ".join(f"{known.identity_at(anchor)} at {anchor.address}" for anchor in known.anchors)
    raise UpmtError(
        f"{config} is for {present}; for {given['identity']} at {given['anchor']} add an entry to `anchors`, "
        "then enroll again"
    )


def _users(config: Path) -> tuple[Any, Any]:
    from upmt_nf.cli.reading_config import anchor_config
    from upmt_nf.linux.users import UsersFile

    section = anchor_config(config).anchor
    if section.users is None:
        raise UpmtError(f'{config}: add users = "{Path(CONFIG_DIRECTORY) / "users"}" to [anchor] first')
    return UsersFile(Path(section.users)), section


def _give_secret(users: Any, section: Any, identity: str) -> None:
    from upmt_nf.config.mobile_host import check_identity
    from upmt_nf.signaling.digest import REALM, secret_hash

    try:
        check_identity(identity)
    except ValueError as reason:
        raise UsageError(str(reason)) from reason
    secret = secrets.token_urlsafe(24)
    algorithms = section.digest_algorithms
    users.set(identity, REALM, *(secret_hash(identity, REALM, secret, name) for name in algorithms))
    line = {
        "identity": identity,
        "secret": secret,
        "anchor": str(section.address),
        "tunnel_port": section.tunnel_port,
        "signalling_port": section.signalling_port,
    }
    if section.ipv6_address is not None:
        line["ipv6_address"] = str(section.ipv6_address)
    if section.further_tunnel_ports:
        line["further_tunnel_ports"] = section.further_tunnel_ports
    if section.portal_check_port is not None:
        line["portal_check_port"] = section.portal_check_port
    encoded = base64.urlsafe_b64encode(json_library.dumps(line, separators=(",", ":")).encode()).decode()
    typer.echo(_PREFIX + encoded)


def _read_line(line: str) -> dict[str, Any]:
    """What a line to enroll with says. Raises UsageError, which does not repeat it."""
    text = line.strip()
    try:
        if not text.startswith(_PREFIX):
            raise ValueError
        given = json_library.loads(base64.urlsafe_b64decode(text.removeprefix(_PREFIX)))
        ports = [int(given["tunnel_port"]), int(given["signalling_port"])]
        ports += [int(port) for port in given.get("further_tunnel_ports", ())]
        ports += [int(given["portal_check_port"])] if "portal_check_port" in given else []
        ip_address(given["anchor"])
        if "ipv6_address" in given:
            IPv6Address(given["ipv6_address"])
        if not all(0 < port < 65536 for port in ports) or not (given["identity"] and given["secret"]):
            raise ValueError
    except (ValueError, KeyError, TypeError) as reason:
        raise UsageError("that is not a line of `upmt anchor user add`") from reason
    checked: dict[str, Any] = given
    return checked


def _networks(wanted: list[str]) -> list[tuple[str, str]]:
    if not wanted:
        from upmt_nf.linux.link_monitor import interfaces_with_default_route

        return [(interface, interface) for interface in interfaces_with_default_route()]
    pairs = [tuple(word.split("=", 1)) for word in wanted]
    if any(len(pair) != 2 for pair in pairs):
        raise UsageError("--network is written NAME=INTERFACE, such as lte=wwan0")
    return [(name, interface) for name, interface in pairs]


def _configuration(given: dict[str, Any], secret_file: Path, networks: list[tuple[str, str]]) -> str:
    if not networks:
        raise UpmtError("no interface has a default route: say --network NAME=INTERFACE")
    sections = "".join(
        f'\n[[network]]\nname = "{name}"\ninterface = "{interface}"\n' for name, interface in networks
    )
    ipv6 = f'ipv6_address = "{given["ipv6_address"]}"\n' if "ipv6_address" in given else ""
    further = [int(port) for port in given.get("further_tunnel_ports", ())]
    ports = f"further_tunnel_ports = {further}\n" if further else ""
    check = ""
    if "portal_check_port" in given:
        server = Endpoint(ip_address(given["anchor"]), int(given["portal_check_port"]))
        check = f'portal_check = "http://{server}/"\n'
    return (
        f"# Written by `upmt mobile-host enroll`; every key is explained in docs/configuration.md.\n"
        f'[mobile_host]\nidentity = "{given["identity"]}"\nsecret_file = "{secret_file}"\n{check}\n'
        f'[anchor]\naddress = "{given["anchor"]}"\n{ipv6}tunnel_port = {given["tunnel_port"]}\n'
        f"signalling_port = {given['signalling_port']}\n{ports}{sections}"
    )
