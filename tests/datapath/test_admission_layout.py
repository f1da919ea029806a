"""The Python twins of the admission program's structs: the same offsets as the C compiler gives."""

from __future__ import annotations

import shutil
import subprocess
from ipaddress import ip_address
from pathlib import Path

import pytest
from c_layout import SOURCES, offsets

from upmt_nf.datapath.admission_layout import ASKED, BEGUN, GATE, IDENTITY, MAKER, VERDICT, Begun, Identity
from upmt_nf.datapath.fast_layout import flow_key
from upmt_nf.model.flow import UDP, FlowKey
from upmt_nf.model.names import MARK_ADMITTED, MARK_OUTER, MARK_UNANSWERED

FIELDS = {
    "gate": (GATE, "generation rest cgroups unused"),
    "maker": (MAKER, "pid uid made command deed"),
    "identity": (IDENTITY, "started programs cgroups generation pid uid gid command"),
    "verdict": (VERDICT, "application rule"),
    "asked": (ASKED, "who socket"),
    "begun": (BEGUN, "key socket generation application rule mark pid tos command"),
}


def test_structs_are_laid_out_as_the_compiler_does(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("there is no C compiler")
    lines = [
        f'printf("{name}.{field} %zu\\n", offsetof(struct {name}, {field}));'
        for name, (_, fields) in FIELDS.items()
        for field in fields.split()
    ] + [f'printf("{name} %zu\\n", sizeof(struct {name}));' for name in FIELDS]
    lines += [
        f'printf("{name} %d\\n", {name});' for name in ("MARK_ADMITTED", "MARK_UNANSWERED", "MARK_OUTER")
    ]
    program = tmp_path / "offsets.c"
    program.write_text(
        '#include <stddef.h>\n#include <stdio.h>\n#include "admission.h"\nint main(void) {\n'
        + "\n".join(lines)
        + "\nreturn 0; }\n"
    )
    subprocess.run([compiler, f"-I{SOURCES}", "-o", tmp_path / "offsets", program], check=True)
    said = subprocess.run([tmp_path / "offsets"], capture_output=True, text=True, check=True).stdout
    expected = {"MARK_ADMITTED": MARK_ADMITTED, "MARK_UNANSWERED": MARK_UNANSWERED, "MARK_OUTER": MARK_OUTER}
    for name, (layout, fields) in FIELDS.items():
        expected |= {f"{name}.{field}": at for field, at in zip(fields.split(), offsets(layout), strict=True)}
        expected[name] = layout.size
    assert {name: int(number) for name, number in (line.split() for line in said.splitlines())} == expected


def test_rows_are_read_as_the_program_writes_them() -> None:
    flow = FlowKey(UDP, ip_address("1.2.3.4"), 4000, ip_address("86.0.0.1"), 53).packed()
    key = flow_key(flow)
    assert key is not None
    row = BEGUN.pack(key, 1 << 40, 7, 4, 2, 0, 700, 46 << 2 | 1, "röhre".encode())
    assert Begun.unpacked(row) == (flow, 1 << 40, 7, 4, 2, 0, 700, 46, "röhre")
    unasked = BEGUN.pack(key, 1, 7, 1, 0, 0, 0, 0, b"whatever")
    assert Begun.unpacked(unasked).command == ""
    who = Identity.unpacked(IDENTITY.pack(1_239_999_999, 3, 9, 7, 700, 1000, 100, b"two words"))
    assert (who.ticks, who.programs, who.command) == (123, 3, "two words")
