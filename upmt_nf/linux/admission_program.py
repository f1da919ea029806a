"""The program that lets first packets in without the agent (`bpf/admission.bpf.c`), loaded beside the fast plane.

Not attached here: a route of ours names it (`linux/routes.py`). It goes with the last route and descriptor.
"""

from __future__ import annotations

import os

from upmt_nf.datapath import admission_layout as layout
from upmt_nf.datapath.fast_layout import FLOW_KEY, NUMBER
from upmt_nf.linux.fast_programs import PROGRAMS, FastPrograms
from upmt_nf.linux.libbpf import BpfMap, BpfObject
from upmt_nf.model.errors import FacilityError

OBJECT = PROGRAMS.with_name("admission.bpf.o")
_COOKIE_BYTES = 8
_SIZES = {
    "gate": NUMBER.size + layout.GATE.size,
    "makers": _COOKIE_BYTES + layout.MAKER.size,
    "verdicts": layout.IDENTITY.size + layout.VERDICT.size,
    "asked": FLOW_KEY.size + layout.ASKED.size,
    "begun": layout.BEGUN.size,
}


class AdmissionProgram:
    """Loaded, with the maps of `plane` in common. `name` is unlike that of any other daemon's.

    Raises FacilityError where the kernel cannot take it (before 5.12, without BTF or CAP_PERFMON), with the reason.
    """

    def __init__(self, plane: FastPrograms) -> None:
        check_compiled()
        self._object = BpfObject(OBJECT, shared=plane.maps)
        self.name = f"upmt-admit-{os.getpid()}"
        self.maps: dict[str, BpfMap] = self._object.maps
        for name, size in _SIZES.items():
            found = self.maps[name].key_size + self.maps[name].value_size
            if found != size:
                self.close()
                raise FacilityError(
                    f"the program is of another version: map {name} has {found} bytes, not {size}"
                )

    def fileno(self) -> int:
        """The program's descriptor."""
        return self._object.program("admit")

    def close(self) -> None:
        """Let go of it. As long as a route names it, it runs on."""
        self._object.close()


def check_compiled() -> None:
    """Raises FacilityError, with what to do, when the package was built without the program."""
    if not OBJECT.is_file():
        raise FacilityError(
            f"{OBJECT.name} was not compiled when the package was built "
            "(apt-get install clang libbpf-dev, and install it again)"
        )
