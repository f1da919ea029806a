"""Programs that nobody here wrote run unmodified through the tunnels."""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from lab_driver import Lab, wait_until

pytestmark = pytest.mark.lab

CORRESPONDENT = "86.0.0.1"


def need(program: str) -> None:
    if shutil.which(program) is None and not Path("/usr/sbin", program).exists():
        pytest.skip(f"{program} is not installed")


def serve(lab: Lab, directory: Path, port: int) -> None:
    lab.start("ch", sys.executable, "-m", "http.server", str(port), "--directory", str(directory))
    lab.await_listener("ch", port)


def test_ping_reaches_the_correspondent_with_icmp(lab: Lab) -> None:
    answer = lab.on("mh", "ping", "-c", "3", "-i", "0.2", CORRESPONDENT).stdout
    assert "3 received" in answer


def test_ping_larger_than_the_tunnel_is_fragmented_and_reassembled(lab: Lab) -> None:
    assert "2 received" in lab.on("mh", "ping", "-c", "2", "-i", "0.2", "-s", "5000", CORRESPONDENT).stdout


def test_ping_that_must_not_be_fragmented_is_told_the_mtu(lab: Lab) -> None:
    answer = lab.on("mh", "ping", "-c", "1", "-M", "do", "-s", "1460", CORRESPONDENT, check=False)
    assert answer.returncode != 0
    assert "mtu" in (answer.stdout + answer.stderr).lower()


def test_time_to_live_ends_at_the_anchor_as_at_a_router(lab: Lab) -> None:
    answer = lab.on("mh", "ping", "-c", "1", "-t", "1", "-W", "2", CORRESPONDENT, check=False)
    assert "Time to live exceeded" in answer.stdout


def test_curl_downloads_and_uploads_unharmed(lab: Lab, tmp_path: Path) -> None:
    need("curl")
    served = tmp_path / "served"
    served.mkdir()
    data = os.urandom(8_000_000)
    (served / "data").write_bytes(data)
    serve(lab, served, 8081)
    fetched = tmp_path / "fetched"
    lab.on("mh", "curl", "-sSf", "-o", str(fetched), f"http://{CORRESPONDENT}:8081/data")
    assert hashlib.sha256(fetched.read_bytes()).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("options", [[], ["-R"], ["-u", "-b", "20M"], ["-u", "-b", "20M", "-R"]])
def test_iperf3_runs_both_ways_with_tcp_and_udp(lab: Lab, options: list[str]) -> None:
    need("iperf3")
    server = lab.start("ch", "iperf3", "-s", "-1", "-p", "5201")
    lab.await_listener("ch", 5201)
    answer = json.loads(
        lab.on("mh", "iperf3", "-c", CORRESPONDENT, "-p", "5201", "-t", "2", "-J", *options).stdout
    )
    assert "error" not in answer
    end = answer["end"]
    if "-u" in options:
        assert end["sum"]["bytes"] > 1_000_000
        assert end["sum"]["lost_percent"] < 1
    else:
        assert end["sum_received"]["bytes"] > 1_000_000
    assert server.wait(timeout=10) == 0


def test_scp_copies_a_file(lab: Lab, tmp_path: Path) -> None:
    need("sshd")
    tmp_path.chmod(0o755)
    host_key, user_key = tmp_path / "host_key", tmp_path / "user_key"
    for key in (host_key, user_key):
        lab.on("ch", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    authorized = tmp_path / "authorized_keys"
    authorized.write_text(user_key.with_suffix(".pub").read_text())
    Path("/run/sshd").mkdir(exist_ok=True)
    lab.start(
        "ch", "/usr/sbin/sshd", "-D", "-e", "-p", "2222", "-h", str(host_key), "-f", "/dev/null",
        "-o", f"AuthorizedKeysFile={authorized}", "-o", "StrictModes=no", "-o", "PidFile=none",
        "-o", "PermitRootLogin=yes", "-o", "Subsystem=sftp internal-sftp",
    )  # fmt: skip
    lab.await_listener("ch", 2222)
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(3_000_000))
    lab.on(
        "mh", "scp", "-q", "-P", "2222", "-i", str(user_key), "-o", "StrictHostKeyChecking=no",
        "-o", "UserKnownHostsFile=/dev/null", str(source), f"root@{CORRESPONDENT}:{copy}",
    )  # fmt: skip
    assert copy.read_bytes() == source.read_bytes()


def test_dig_asks_a_name_server_by_udp_and_tcp(lab: Lab) -> None:
    need("dig")
    lab.start("ch", sys.executable, str(Path(__file__).parent / "name_server.py"), "5353")
    lab.await_listener("ch", 5353)
    for transport in ("+notcp", "+tcp"):
        answer = lab.on(
            "mh",
            "dig",
            "+short",
            "+tries=1",
            transport,
            "-p",
            "5353",
            f"@{CORRESPONDENT}",
            "boat.example",
            "A",
        )
        assert answer.stdout.strip() == "192.0.2.7"


def test_the_correspondent_sees_the_anchor_and_never_a_care_of_address(lab: Lab) -> None:
    server = lab.start("ch", "socat", "-u", "TCP-LISTEN:7000,reuseaddr", "SYSTEM:echo $SOCAT_PEERADDR")
    lab.await_listener("ch", 7000)
    lab.on("mh", "socat", "-u", "/dev/null", f"TCP:{CORRESPONDENT}:7000")
    assert server.stdout is not None
    assert server.stdout.readline().strip() == "45.0.0.1"


def test_two_applications_use_two_networks_at_the_same_time(lab: Lab) -> None:
    lab.ask("assign", "--app", "left", "--to", "net0")
    lab.ask("assign", "--app", "right", "--to", "net1")
    for application, busy, idle in (("left", "if0", "if1"), ("right", "if1", "if0")):
        before = lab.counters()
        from_upmt = (sys.executable, "-m", "upmt_nf.cli.main", "run", "--app", application, "--")
        lab.on("mh", *from_upmt, "ping", "-q", "-c", "200", "-i", "0.002", CORRESPONDENT)
        after = lab.counters()
        assert after[busy] - before[busy] >= 400
        # Keepalives and signalling of the idle network go on.
        assert after[idle] - before[idle] < 100


@pytest.mark.parametrize(
    "match",
    [
        ["--command", "ping"],
        ["--uid", "0", "--destination", f"{CORRESPONDENT}/32"],
        ["--destination", "86.0.0.0/8"],
    ],
)
def test_an_assignment_steers_the_first_packet_of_new_flows(lab: Lab, match: list[str]) -> None:
    for network, interface in (("net1", "if1"), ("net0", "if0")):
        lab.ask("assign", *match, "--to", network)
        before = lab.counters()
        lab.on("mh", "ping", "-q", "-c", "100", "-i", "0.002", CORRESPONDENT)
        assert lab.counters()[interface] - before[interface] >= 200


def test_a_running_program_is_adopted_by_its_pid(lab: Lab) -> None:
    lab.ask("assign", "--destination", "86.0.0.0/8", "--to", "net0")
    ping = lab.start("mh", "ping", "-q", "-i", "0.01", CORRESPONDENT)
    wait_until(lambda: lab.counters()["if0"] > 50, "ping is running")
    receipt = lab.ask("assign", "--app", "adopted", "--pid", str(ping.pid), "--to", "net1")
    assert receipt["network"] == "net1"
    before = lab.counters()
    wait_until(lambda: lab.counters()["if1"] - before["if1"] > 100, "its packets leave by net1")
    assert ping.poll() is None
