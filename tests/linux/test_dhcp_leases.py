"""The files of DHCP clients, found by interface; what cannot be read is nothing, what is wrong names the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from upmt_nf.linux.dhcp_leases import captive_portal
from upmt_nf.model.errors import PeerError

LEASE = 'lease {\n  interface "wlan0";\n  option default-url "%s";\n}\n'


def test_networkd_comes_before_dhclient_and_nothing_is_nothing(tmp_path: Path) -> None:
    links, leases = tmp_path / "links", tmp_path / "dhcp"
    assert captive_portal("wlan0", 7, links, (leases,)) is None
    links.mkdir()
    leases.mkdir()
    (leases / "dhclient.wlan0.leases").write_text(LEASE % "https://a.example/")
    assert captive_portal("wlan0", 7, links, (leases,)) == ("https://a.example/", "dhclient")
    assert captive_portal("eth0", 8, links, (leases,)) is None
    (links / "7").write_text("CAPTIVE_PORTAL=https://b.example/\n")
    assert captive_portal("wlan0", 7, links, (leases,)) == ("https://b.example/", "systemd-networkd")


def test_of_several_files_the_newest_that_says_something_counts(tmp_path: Path) -> None:
    for age, name in enumerate(("dhclient.leases", "dhclient-1234-wlan0.lease", "dhclient.wlan0.leases")):
        file = tmp_path / name
        file.write_text(LEASE % f"https://{age}.example/")
        os.utime(file, (1000 - age, 1000 - age))
    assert captive_portal("wlan0", 7, tmp_path / "none", (tmp_path,)) == ("https://0.example/", "dhclient")


def test_octets_that_are_no_text_and_directories_in_the_place_of_files_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "dhclient.wlan0.leases").write_bytes(b"\xff\xfe\0lease {" + bytes(range(256)))
    assert captive_portal("wlan0", 7, tmp_path, (tmp_path,)) is None


def test_what_is_no_uri_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "7").write_text("CAPTIVE_PORTAL=/bin/sh\n")
    with pytest.raises(PeerError, match=rf"{tmp_path}/7: DHCP option 114 is no https:// URI: '/bin/sh'"):
        captive_portal("wlan0", 7, tmp_path, ())
