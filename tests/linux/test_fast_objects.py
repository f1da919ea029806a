"""What the compiled programs ask of a kernel: helpers of Linux 5.15; its conntrack for the shortcut only."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from upmt_nf.linux.fast_programs import PROGRAMS, WITH_SHORTCUT

LAST_OF_5_15 = 175
"""BPF_FUNC_task_pt_regs, the last of `enum bpf_func_id` in Linux 5.15 (include/uapi/linux/bpf.h)."""
CALL, EXECUTABLE = 0x85, 4
REDIRECT_NEIGH, CSUM_LEVEL, KTIME_GET_COARSE_NS = 152, 135, 160


def sections(file: Path) -> Iterator[tuple[int, bytes]]:
    """Flags and content of each section of an ELF file of 64 bits."""
    data = file.read_bytes()
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    for at in range(table, table + size * count, size):
        _, kind, flags, _, offset, length = struct.unpack_from("<IIQQQQ", data, at)
        yield flags, b"" if kind == 8 else data[offset : offset + length]


def helpers(file: Path) -> set[int]:
    """The numbers of the helpers that its programs call."""
    found = set()
    for flags, content in sections(file):
        if flags & EXECUTABLE:
            for code, registers, _, number in struct.iter_unpack("<BBhi", content):
                if code == CALL and registers >> 4 == 0:
                    found.add(number)
    return found


@pytest.mark.parametrize("file", [PROGRAMS, WITH_SHORTCUT], ids=lambda file: file.name)
def test_no_helper_is_newer_than_linux_5_15(file: Path) -> None:
    if not file.exists():
        pytest.skip("the fast plane is not compiled (python bpf/build_hook.py)")
    found = helpers(file)
    assert {REDIRECT_NEIGH, CSUM_LEVEL, KTIME_GET_COARSE_NS} <= found
    assert max(found) <= LAST_OF_5_15


def test_only_the_object_with_the_shortcut_needs_functions_of_the_kernel() -> None:
    if not (PROGRAMS.exists() and WITH_SHORTCUT.exists()):
        pytest.skip("the fast plane is not compiled (python bpf/build_hook.py)")
    assert b"bpf_skb_ct_lookup" not in PROGRAMS.read_bytes()
    assert b"bpf_skb_ct_lookup" in WITH_SHORTCUT.read_bytes()
