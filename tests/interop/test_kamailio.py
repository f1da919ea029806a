"""kamailio as a registrar that is no anchor: for our SIP core, and for the real mobile host."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from interop_peers import ANCHOR, HERE, HOST, SECRET, Interop, Running, needs, steps_of
from lab_driver import UPMT, wait_until

pytestmark = [pytest.mark.interop, needs("kamailio")]

IDENTITY = "boat7@fleet.example"


@contextlib.contextmanager
def kamailio(interop: Interop, directory: Path, *defines: str) -> Iterator[Running]:
    words = ["kamailio", "-f", str(HERE / "programs" / "kamailio.cfg"), "-l", f"udp:{ANCHOR}:5060"]
    words += [word for define in (f'SECRET="{SECRET}"', *defines) for word in ("-A", define)]
    words += ["-DD", "-E", "-Y", str(directory), "-m", "16", "-M", "4"]
    with interop.running("an", *words, ready="Listening on") as registrar:
        wait_until(lambda: f"{ANCHOR}:5060" in interop.lab.on("an", "ss", "-Hlnu").stdout, "kamailio listens")
        yield registrar


@contextlib.contextmanager
def mobile_host(interop: Interop, directory: Path, *, has_secret: bool) -> Iterator[Running]:
    """The real daemon with both networks of the lab."""
    secret, file = directory / "secret", directory / "mobile-host.toml"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    networks = "".join(f'[[network]]\nname = "net{n}"\ninterface = "if{n}"\n' for n in (0, 1))
    line = f'secret_file = "{secret}"\n' if has_secret else ""
    file.write_text(
        f'[mobile_host]\nidentity = "{IDENTITY}"\n{line}[anchor]\naddress = "{ANCHOR}"\n{networks}'
    )
    with interop.running("mh", *UPMT, "mobile-host", "run", "--config", str(file), ready="anchor") as daemon:
        yield daemon


def failure_of(interop: Interop) -> str:
    association: dict[str, Any] = interop.status("mh")["association"]
    assert association["virtual_address"] is None
    return str(association["failure"] or "")


def test_our_client_registers_refreshes_speaks_and_leaves(interop: Interop, tmp_path: Path) -> None:
    with kamailio(interop, tmp_path, 'QOP="1"') as registrar:
        program = str(HERE / "programs" / "sip_client.py")
        output = interop.run("mh", sys.executable, program, ANCHOR, IDENTITY, SECRET, HOST)
        said = registrar.said()
    steps = steps_of(output)
    told = {step: (asked["statuses"], asked["count"]) for step, asked in steps.items()}
    assert told == {
        "register": ([401, 200], "00000001"),
        "refresh": ([200], "00000002"),
        "message": ([200], "00000003"),
        "leave": ([200], "00000004"),
    }, output + said
    # kamailio's own proof, computed by another program than ours (RFC 7616 section 3.5).
    assert all(asked["is_proven"] for asked in steps.values()), output + said
    (contact,) = steps["refresh"]["contacts"]
    assert re.fullmatch(rf"<sip:boat7@{HOST}:5064>;expires=\d+", contact), output
    assert steps["leave"]["contacts"] == []
    assert "insane" not in said
    assert said.count("PEER proven REGISTER") == 3, said
    assert '"mType":"HandoverRequest"' in said
    assert '"tunnelID":["7","any"]' in said


def test_a_wrong_secret_is_said_to_be_one(interop: Interop, tmp_path: Path) -> None:
    """kamailio cannot check auth-int, so whatever a mobile host proves there is wrong."""
    with (
        kamailio(interop, tmp_path, 'QOP="2"') as registrar,
        mobile_host(interop, tmp_path, has_secret=True) as host,
    ):
        wait_until(lambda: failure_of(interop) == "401 the anchor does not accept our secret", "it is said")
        assert "Traceback" not in host.said()
    assert "insane" not in registrar.said(), registrar.said()
    assert "PEER got REGISTER" in registrar.said()


def test_a_registrar_that_offers_less_than_auth_int_is_no_anchor(interop: Interop, tmp_path: Path) -> None:
    with (
        kamailio(interop, tmp_path, 'QOP="1"') as registrar,
        mobile_host(interop, tmp_path, has_secret=True) as host,
    ):
        reason = "401 the anchor offers no Digest with SHA-256 and auth-int"
        wait_until(lambda: failure_of(interop) == reason, "it is said")
        assert "Traceback" not in host.said()
    assert "insane" not in registrar.said(), registrar.said()
    assert "Authorization" not in registrar.said()


@pytest.mark.parametrize("has_secret", [True, False])
def test_a_registrar_that_says_yes_to_everything_is_no_anchor(
    interop: Interop, tmp_path: Path, has_secret: bool
) -> None:
    reason = (
        "an answer came that does not prove that it is the anchor's: is that its address and secret?"
        if has_secret
        else "the anchor's answer lacks VIpAddr, Expires or the association's token"
    )
    with (
        kamailio(interop, tmp_path, "OPEN") as registrar,
        mobile_host(interop, tmp_path, has_secret=has_secret) as host,
    ):
        wait_until(lambda: failure_of(interop) == reason, "it is said")
        wait_until(lambda: reason in host.said(), "it is in the log")
        assert "Traceback" not in host.said()
        assert interop.status("mh")["association"]["state"] != "associated"
    assert "insane" not in registrar.said(), registrar.said()
