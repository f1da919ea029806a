"""Hosts that mount cgroup v2 alone, v1 alone, both, or none: `upmt run` and rules by process work on each of them.

What a mount namespace can take away is taken away; what /proc says there is in tests/classify/test_cgroup_versions.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from lab_driver import UPMT, Lab, unique_lab_name, wait_until
from talking import ECHO, PATIENCE, TALKER, Program, answers, flows_of

pytestmark = pytest.mark.lab

FAR, PORT = "86.0.0.1", 6010
MORE = """
[[application]]
name = "by-user"
networks = ["net1"]
[[application.match]]
uid = 4711

[[application]]
name = "by-command"
networks = ["net1"]
[[application.match]]
command = "cmdtalker"
"""
VIEWS = {
    "v2 alone": "cgroup2",
    "v1 alone": "cgroup",
    "both": "cgroup cgroup2",
    "none": "",
}
MOUNT = """
umount -a -t cgroup
umount -a -t cgroup2
mkdir -p "$0/v1" "$0/v2"
for kind in $1; do
    case $kind in
        cgroup) mount -t cgroup -o none,name=systemd upmt-test "$0/v1" || exit 77 ;;
        cgroup2) mount -t cgroup2 upmt-test "$0/v2" || exit 77 ;;
    esac
done
shift
exec "$@"
"""


@pytest.fixture(scope="module")
def bare_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with an anchor alone, and something to talk to."""
    lab = Lab(unique_lab_name(), tmp_path_factory.mktemp("lab"))
    try:
        lab.upmt("lab", "up", "--name", lab.name, "--no-daemons")
        config = lab.directory / "mobile-host.toml"
        config.write_text((lab.directory_of_state() / "mobile-host.toml").read_text() + MORE)
        lab.start_daemon("an")
        lab.start("ch", sys.executable, ECHO, f"{FAR}:{PORT}")
        lab.await_listener("ch", PORT)
        yield lab
    finally:
        lab.end_programs()
        lab.upmt("lab", "down", "--name", lab.name)


def run_daemon(lab: Lab, view: str, *before: str) -> None:
    """A daemon that sees such mounts."""
    run = (*UPMT, "mobile-host", "run", "--config", str(lab.directory / "mobile-host.toml"))
    words = ("unshare", "-m", "sh", "-c", MOUNT, str(lab.directory), view, *before, *run)
    daemon = lab.start("mh", *words)
    wait_until(lambda: lab.is_answering("mh") or daemon.poll(), "the daemon answers", PATIENCE)
    if daemon.poll() == 77:
        pytest.skip(f"the kernel cannot mount {view}")
    lab.await_networks_up()


def stop_daemon(lab: Lab) -> None:
    lab.end_programs_on("mh")
    wait_until(lambda: not lab.is_answering("mh"), "the daemon has ended", PATIENCE)


def application_of(lab: Lab, *words: str) -> tuple[str, str, bool]:
    """Whose the flow of a program is, by which network it goes, and whether that is a guess."""
    program = Program(lab, *words)
    try:
        key = program.open("udp", FAR, PORT)
        wait_until(lambda: answers(program, [key]) > 0, "its flow is answered", PATIENCE)
        flow = flows_of(lab, [key])[key]
    finally:
        program.end()
    return flow["application"], flow["network"], flow["is_guess"]


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_host_with_such_mounts(bare_lab: Lab, view: str) -> None:
    lab = bare_lab
    run_daemon(lab, view)
    try:
        talk = ("/usr/bin/python3", TALKER)
        lab.ask("assign", "--app", "started", "--to", "net1")
        assert application_of(lab, *UPMT, "run", "--app", "started", "--", *talk) == (
            "started",
            "net1",
            False,
        )
        assert application_of(lab, *talk, "--uid", "4711") == ("by-user", "net1", False)
        assert application_of(lab, *talk, "--name", "cmdtalker") == ("by-command", "net1", False)
        assert application_of(lab, *talk)[:2] == ("default", "net0")
    finally:
        stop_daemon(lab)
    assert "nothing to put back" in lab.on("mh", *UPMT, "cleanup").stdout


def test_a_host_where_no_hierarchy_can_be_had_says_so_and_does_the_rest(bare_lab: Lab) -> None:
    lab = bare_lab
    # Without CAP_SYS_ADMIN, as in many a container, nothing can be mounted.
    run_daemon(lab, "", "setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    try:
        refused = lab.on("mh", *UPMT, "run", "--app", "started", "--", "true", check=False)
        assert refused.returncode == 4
        assert "no cgroup v2 hierarchy is mounted and none can be" in refused.stderr
        talk = ("/usr/bin/python3", TALKER)
        assert application_of(lab, *talk, "--uid", "4711") == ("by-user", "net1", False)
        assert application_of(lab, *talk, "--name", "cmdtalker") == ("by-command", "net1", False)
    finally:
        stop_daemon(lab)
