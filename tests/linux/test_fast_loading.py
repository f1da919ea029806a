"""Loading, pinning and attaching the fast plane's programs; all of it put back, and nobody else's with it."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from socket import if_nametoindex
from typing import Any

import pytest
from kernel_namespace import Namespace

from upmt_nf.datapath import fast_layout
from upmt_nf.datapath.fast_layout import FLOW, NUMBER, Timeouts
from upmt_nf.linux import fast_programs
from upmt_nf.linux.cleanup import cleanup
from upmt_nf.linux.fast_programs import FastPrograms
from upmt_nf.linux.journal import Journal, MapsPinned
from upmt_nf.linux.libbpf import BpfObject, Hook, attach
from upmt_nf.model.errors import FacilityError

BUILD_HOOK = Path(__file__).parents[2] / "bpf" / "build_hook.py"

pytestmark = pytest.mark.kernel


@pytest.fixture
def host(namespace: Namespace, journal: Journal) -> Iterator[Namespace]:
    namespace.link("if0", "192.168.100.25/24")
    yield namespace
    cleanup(journal)


def loaded(journal: Journal, flows: int = 100) -> FastPrograms:
    try:
        return FastPrograms(journal, "host", flows=flows, tunnels=8)
    except FacilityError as reason:
        pytest.skip(f"no fast plane here: {reason}")


def state(host: Namespace) -> str:
    return "".join(
        host.run(command)
        for command in (
            "tc qdisc show", "tc filter show dev if0 ingress", "tc filter show dev if0 egress", "ip -o link",
        )
    ) + mounts()  # fmt: skip


def mounts() -> str:
    """All but the network namespaces of others, which come and go."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return "\n".join(line for line in lines if line.split()[2] != "nsfs")


def attach_foreign() -> None:
    """A program of somebody else's."""
    other = BpfObject(fast_programs.PROGRAMS)
    attach(if_nametoindex("if0"), Hook.INGRESS, other.program("anchor_in"), handle=9, priority=9)
    other.close()


def pins(journal: Journal) -> Path:
    return next(Path(record.path) for record in journal.records() if isinstance(record, MapsPinned))


def test_everything_is_put_back_from_the_journal(host: Namespace, journal: Journal) -> None:
    before = state(host)
    programs = loaded(journal)
    programs.attach("if0", Hook.INGRESS)
    programs.attach("if0", Hook.EGRESS)
    programs.attach("if0", Hook.EGRESS)
    assert "host_in" in state(host)
    assert (pins(journal) / "flows").exists()
    kept = pins(journal)
    # As after `kill -9`: the programs are let go of, and another process cleans up.
    programs.close()
    assert "host_out" in state(host)
    said = cleanup(Journal(journal.directory))
    assert "program at the ingress of if0 removed" in said
    assert state(host) == before
    assert not kept.exists()
    assert cleanup(Journal(journal.directory)) == []


def test_what_others_have_on_the_interface_stays(host: Namespace, journal: Journal) -> None:
    host.run("tc qdisc add dev if0 clsact")
    attach_foreign()
    before = state(host)
    programs = loaded(journal)
    programs.attach("if0", Hook.INGRESS)
    programs.close()
    cleanup(journal)
    assert state(host) == before


def test_a_clsact_of_ours_stays_while_others_use_it(host: Namespace, journal: Journal) -> None:
    programs = loaded(journal)
    programs.attach("if0", Hook.INGRESS)
    programs.close()
    attach_foreign()
    cleanup(journal)
    assert "clsact" in host.run("tc qdisc show dev if0")
    said = host.run("tc filter show dev if0 ingress")
    assert "anchor_in" in said
    assert "host_in" not in said


def test_the_shortcut_is_closed_until_it_is_opened_and_not_there_for_who_does_not_want_it(
    host: Namespace, journal: Journal
) -> None:
    without = loaded(journal)
    assert not without.open_shortcut(Timeouts(30, 120))
    without.close()
    programs = FastPrograms(Journal(journal.directory), "anchor", flows=100, tunnels=8, shortcut=True)
    if "timeouts" not in programs.maps:
        pytest.skip("this kernel does not lend its conntrack to programs")
    assert programs.took_over
    rows = programs.maps["timeouts"]

    def written() -> list[int]:
        return [NUMBER.unpack(rows.lookup(NUMBER.pack(which)) or b"")[0] for which in range(4)]

    assert written() == [0, 0, 0, 0]
    assert programs.open_shortcut(Timeouts(30, 120, 432_000, 10))
    assert written() == [30_000, 120_000, 432_000_000, 10_000]
    assert programs.open_shortcut(Timeouts(30, 120, 1 << 31, 10))
    assert written()[2] == 0xFFFFFFFF, "as long as can be written"
    programs.close_shortcut()
    assert written() == [0, 0, 0, 0]
    programs.close()


def test_a_kernel_that_refuses_the_shortcut_has_the_rest(
    host: Namespace, journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded(journal).close()
    monkeypatch.setattr(fast_programs, "WITH_SHORTCUT", Path(__file__))
    with caplog.at_level("INFO"):
        programs = FastPrograms(Journal(journal.directory), "anchor", flows=100, tunnels=8, shortcut=True)
    assert "no shortcut past netfilter" in caplog.text
    assert programs.took_over
    assert str(Path(__file__)) in programs.lacks_shortcut
    assert not programs.open_shortcut(Timeouts(30, 120))
    programs.attach("if0", Hook.INGRESS)
    assert "anchor_in" in state(host)
    programs.close()


def test_the_next_daemon_takes_the_maps_over(host: Namespace, journal: Journal) -> None:
    first = loaded(journal)
    assert not first.took_over
    first.maps["flows"].update(bytes(16), bytes(FLOW.size))
    first.close()
    second = loaded(Journal(journal.directory))
    assert second.took_over
    assert second.maps["flows"].lookup(bytes(16)) == bytes(FLOW.size)
    second.close()


def test_maps_of_another_layout_are_replaced(
    host: Namespace, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    first = loaded(journal, flows=100)
    first.maps["flows"].update(bytes(16), bytes(FLOW.size))
    first.close()
    second = loaded(Journal(journal.directory), flows=200)
    assert not second.took_over
    assert second.maps["flows"].max_entries == 200
    assert second.maps["flows"].lookup(bytes(16)) is None
    assert "replaced" in caplog.text
    second.close()


def test_maps_of_another_version_are_not_looked_at_and_do_not_stay(
    host: Namespace, journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(fast_layout, "LAYOUT", fast_layout.LAYOUT - 1)
    first = loaded(journal)
    first.maps["flows"].update(bytes(16), bytes(FLOW.size))
    first.attach("if0", Hook.INGRESS)
    first.close()
    older, attached = pins(journal), state(host).count("host_in")
    monkeypatch.undo()
    second = loaded(Journal(journal.directory))
    assert not second.took_over
    assert second.maps["flows"].lookup(bytes(16)) is None
    assert not older.exists()
    assert f"{older.name}, are replaced" in caplog.text
    second.attach("if0", Hook.INGRESS)
    assert state(host).count("host_in") == attached, "in its place, not beside it"
    second.close()


def test_rubbish_where_maps_are_pinned_is_replaced(host: Namespace, journal: Journal) -> None:
    first = loaded(journal)
    first.close()
    (pins(journal) / "flows").unlink()
    (pins(journal) / "flows").symlink_to("nowhere")
    second = loaded(Journal(journal.directory))
    assert second.maps["flows"].update(bytes(16), bytes(FLOW.size))
    second.close()


def test_without_a_bpffs_nothing_is_pinned_and_the_rest_works(
    host: Namespace, journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(_: FastPrograms) -> Path:
        raise FacilityError("no bpffs is mounted at /sys/fs/bpf and none can be: Operation not permitted")

    monkeypatch.setattr(FastPrograms, "_pins", refuse)
    programs = loaded(journal)
    assert "not pinned" in caplog.text
    assert not programs.took_over
    programs.attach("if0", Hook.INGRESS)
    programs.close()
    assert "program at the ingress of if0 removed" in cleanup(journal)


@pytest.mark.parametrize(
    ("interface", "named"), [("if7", "there is no interface if7"), ("tun9", "no Ethernet")]
)
def test_an_interface_that_cannot_have_it_is_named(
    host: Namespace, journal: Journal, interface: str, named: str
) -> None:
    host.run("ip tuntap add dev tun9 mode tun", check=False)
    programs = loaded(journal)
    with pytest.raises(FacilityError, match=named):
        programs.attach(interface, Hook.INGRESS)
    programs.close()


def test_without_compiled_programs_the_reason_says_what_to_do(
    host: Namespace, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_programs, "PROGRAMS", tmp_path / "none")
    with pytest.raises(FacilityError, match="clang"):
        FastPrograms(journal, "host", flows=10, tunnels=8)
    (tmp_path / "none").write_bytes(b"\x7fELF rubbish")
    with pytest.raises(FacilityError, match="none"):
        FastPrograms(journal, "host", flows=10, tunnels=8)


def test_programs_that_the_verifier_refuses_are_refused_with_its_reason(
    host: Namespace, journal: Journal
) -> None:
    with pytest.raises(FacilityError, match="does not take"):
        # No map of four thousand million entries.
        FastPrograms(journal, "host", flows=2**32 - 1, tunnels=8)


def test_a_full_map_says_so_and_takes_what_it_knows(host: Namespace, journal: Journal) -> None:
    programs = loaded(journal, flows=2)
    flows = programs.maps["flows"]
    rows = [bytes([number]) * flows.key_size for number in range(3)]
    value = bytes(flows.value_size)
    assert [flows.update(row, value) for row in rows] == [True, True, False]
    assert flows.update(rows[0], value)
    assert flows.delete(rows[1])
    assert flows.update(rows[2], value)
    programs.close()


def test_what_is_inserted_is_there_and_what_was_there_stays(host: Namespace, journal: Journal) -> None:
    programs = loaded(journal, flows=3)
    flows = programs.maps["flows"]
    rows = [bytes([number]) * flows.key_size for number in range(4)]
    old, new = b"o" * flows.value_size, b"n" * flows.value_size
    assert flows.update(rows[1], old)
    assert [flows.insert(row, new) for row in rows] == [True, False, True, False]
    assert [flows.lookup(row) for row in rows] == [new, old, new, None]
    programs.close()


def test_an_array_is_read_from_any_place_as_far_as_it_goes(host: Namespace, journal: Journal) -> None:
    programs = loaded(journal)
    counts = programs.maps["tunnel_counts"]
    size, last = counts.value_size, counts.max_entries - 1
    rows = [bytes([number]) * size for number in range(counts.max_entries)]
    for number, row in enumerate(rows):
        assert counts.update(NUMBER.pack(number), row)
    assert counts.values(0, 3) == b"".join(rows[:3])
    assert counts.values(2, 2) == b"".join(rows[2:4])
    assert counts.values(0, len(rows)) == b"".join(rows)
    assert counts.values(last, 5) == rows[last]
    programs.close()


def build_hook() -> Any:
    spec = importlib.util.spec_from_file_location("build_hook", BUILD_HOOK)
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook


def test_without_clang_the_build_says_what_to_do(tmp_path: Path) -> None:
    hook = build_hook()
    with pytest.raises(hook.CannotCompile, match="apt-get install clang"):
        hook.compile_programs(tmp_path / "upmt.bpf.o", clang="no-such-compiler")
    assert not list(tmp_path.iterdir())


CARELESS = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
SEC("tc") int careless(struct __sk_buff *skb) { return *(int *)(long)skb->data; }
char LICENSE[] SEC("license") = "GPL";
"""


def test_the_verifiers_own_words_reach_whoever_asked(host: Namespace, tmp_path: Path) -> None:
    hook = build_hook()
    source, target = tmp_path / "careless.bpf.c", tmp_path / "careless.bpf.o"
    source.write_text(CARELESS)
    try:
        hook.compile_programs(target, source=source)
    except hook.CannotCompile as reason:
        pytest.skip(str(reason))
    with pytest.raises(FacilityError, match="invalid access to packet"):
        BpfObject(target)
