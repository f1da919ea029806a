"""How names are looked up here, and a program that looks them up itself."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.daemon.dns_finding import dns_finding
from upmt_nf.linux.resolver_view import ResolverFacts, look, resolver_text, servers_in, without_helpers


def host(root: Path, **files: str) -> ResolverFacts:
    places = {
        "resolv": "etc/resolv.conf",
        "nsswitch": "etc/nsswitch.conf",
        "upstream": "run/systemd/resolve/resolv.conf",
    }
    for name, text in files.items():
        path = root / places[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return look(root)


def test_a_host_whose_programs_ask_themselves(tmp_path: Path) -> None:
    facts = host(
        tmp_path, resolv="nameserver 10.0.0.53\nnameserver fe80::1%eth0\n", nsswitch="hosts: files dns\n"
    )
    assert facts.servers == (ip_address("10.0.0.53"), ip_address("fe80::1"))
    assert facts.helpers == []
    assert "follow the application" in dns_finding(facts).detail


def test_a_host_with_a_local_stub(tmp_path: Path) -> None:
    facts = host(
        tmp_path,
        resolv="nameserver 127.0.0.53\noptions edns0 trust-ad\n",
        nsswitch="passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files dns # here\n",
        upstream="nameserver 192.0.2.53\nnameserver 127.0.0.1\n",
    )
    assert facts.upstream == (ip_address("192.0.2.53"),)
    assert facts.modules == ("mymachines", "resolve", "files", "dns")
    assert len(facts.helpers) == 2
    finding = dns_finding(facts)
    assert finding.state.value == "ok"
    assert "192.0.2.53" in finding.detail


def test_a_stub_whose_servers_are_not_written_down(tmp_path: Path) -> None:
    finding = dns_finding(host(tmp_path, resolv="nameserver ::1\n"))
    assert finding.state.value == "warning"
    assert "--resolver" in str(finding.remedy)
    assert dns_finding(host(tmp_path / "empty")).state.value == "ok"


def test_only_the_servers_are_changed() -> None:
    old = "# by hand\nnameserver 127.0.0.53\nsearch a.example b.example\noptions edns0 trust-ad\n"
    assert resolver_text(old, [ip_address("192.0.2.1"), ip_address("2001:db8::1")]).splitlines()[1:] == [
        "nameserver 192.0.2.1",
        "nameserver 2001:db8::1",
        "search a.example b.example",
        "options edns0",
    ]
    changed = without_helpers("passwd: files\nhosts: files mdns4_minimal [NOTFOUND=return] resolve\n")
    assert changed == "passwd: files\nhosts: files dns\n"


@given(st.text())
def test_any_text_has_servers_or_none(text: str) -> None:
    servers = servers_in(text)
    assert servers_in(resolver_text(text, servers)) == servers
    without_helpers(text)


VIEW = """
import sys
from ipaddress import ip_address
from pathlib import Path
from upmt_nf.linux.resolver_view import own_view, look
own_view([ip_address("192.0.2.99")])
print(Path("/etc/resolv.conf").read_text())
"""


@pytest.mark.kernel
def test_the_view_is_the_programs_own() -> None:
    before = look()
    done = subprocess.run([sys.executable, "-c", VIEW], capture_output=True, text=True, check=False)
    if "mount" in done.stderr and "KernelError" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert "nameserver 192.0.2.99" in done.stdout, done.stderr
    assert look() == before
    assert not list(Path("/tmp").glob("upmt-resolver-*"))
