"""The fast plane's programs in this network namespace: loaded, their maps pinned, put on interfaces. All journalled.

Maps are pinned below /sys/fs/bpf, or where there is no bpffs, in one of our own: `upmt-NAMESPACE/LAYOUT/MAP`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import textwrap
from pathlib import Path
from socket import if_nametoindex

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from upmt_nf.datapath import fast_layout
from upmt_nf.linux.journal import FilterAttached, HierarchyMounted, Journal, MapsPinned, QdiscMade
from upmt_nf.linux.libbpf import BpfMap, BpfObject, Hook, attach, detach, run
from upmt_nf.linux.netns import namespace_cookie
from upmt_nf.linux.off_loop import off_loop
from upmt_nf.model.errors import FacilityError

log = logging.getLogger(__name__)

PROGRAMS = Path(__file__).resolve().parents[1] / "bpf" / "upmt.bpf.o"
WITH_SHORTCUT = PROGRAMS.with_name("upmt-shortcut.bpf.o")
"""The same, and the anchor's shortcut past netfilter."""
_BPFFS = Path("/sys/fs/bpf")
_HANDLE, _PRIORITY = 0x75, 0x7500
"""Of our filters on clsact: behind those of others that look first, and found again."""
_ARPHRD_ETHER = 1
_REASON = 200
"""Characters of a reason for people; the log has all of it."""
_ETHERNET = 14
_SIZES = {
    "flows": fast_layout.FLOW_KEY.size + fast_layout.FLOW.size,
    "applications": fast_layout.NUMBER.size + fast_layout.APPLICATION.size,
    "names": fast_layout.NUMBER.size + fast_layout.NAMED_BYTES,
    "tunnels": fast_layout.NUMBER.size + fast_layout.TUNNEL.size,
    "ends": fast_layout.END.size + fast_layout.NUMBER.size,
}


class FastPrograms:
    """Loaded for `role`, `host` or `anchor`, with room for so many flows, tunnels and applications.

    What an earlier daemon pinned is taken over if it has our layout, else replaced; `took_over` tells which. Where
    there is no bpffs nothing is pinned. With `shortcut` the anchor's shortcut is among them, if the kernel has what it
    needs (`lacks_shortcut` says what not), and closed, or as an earlier daemon left it, until it is opened or closed.
    Raises FacilityError where the kernel, libbpf or the compiled programs are missing, with the reason.
    """

    def __init__(
        self,
        journal: Journal,
        role: str,
        *,
        flows: int,
        tunnels: int,
        applications: int = fast_layout.APPLICATIONS,
        shortcut: bool = False,
    ) -> None:
        check_compiled()
        self._journal = journal
        self._role = role
        self._attached: dict[tuple[str, Hook], int] = {}
        self._sizes = {"flows": flows, "tunnels": tunnels, "ends": tunnels, "tunnel_counts": tunnels}
        self._sizes["applications"] = applications
        self._wants_shortcut = shortcut
        self.lacks_shortcut = "" if shortcut else "it was not asked for"
        try:
            pins: Path | None = self._pins()
        except (FacilityError, OSError) as reason:
            log.warning("maps are not pinned, so a restart of the daemon interrupts flows: %s", reason)
            pins = None
        self.took_over = pins is not None and any(pins.iterdir())
        try:
            self._object = self._loaded(pins)
        except FacilityError as reason:
            if not self.took_over or pins is None:
                raise
            log.warning("what an earlier daemon left is replaced: %s", reason)
            remove_pins(str(pins))
            pins.mkdir(parents=True, exist_ok=True)
            self.took_over = False
            self._object = self._loaded(pins)
        self.maps: dict[str, BpfMap] = self._object.maps
        for name, size in _SIZES.items():
            found = self.maps[name].key_size + self.maps[name].value_size
            if found != size:
                raise FacilityError(
                    f"the programs are of another version: map {name} has {found} bytes, not {size}"
                )

    def open_shortcut(self, timeouts: fast_layout.Timeouts) -> bool:
        """Let known flows pass netfilter by; each packet keeps them in conntrack for so long. False: no shortcut."""
        table = self.maps.get("timeouts")
        if table is None:
            return False
        for which, value in enumerate(timeouts.packed()):
            table.update(fast_layout.NUMBER.pack(which), value)
        return True

    def close_shortcut(self) -> None:
        """Let netfilter see every packet again; also of what an earlier daemon opened."""
        self.open_shortcut(fast_layout.Timeouts())

    def _loaded(self, pins: Path | None) -> BpfObject:
        if self._wants_shortcut:
            try:
                return BpfObject(WITH_SHORTCUT, sizes=self._sizes, pins=pins)
            except FacilityError as reason:
                log.info("no shortcut past netfilter: %s", reason)
                # The verifier may have said pages.
                self.lacks_shortcut = textwrap.shorten(str(reason), _REASON, placeholder=" ...")
        return BpfObject(PROGRAMS, sizes=self._sizes, pins=pins)

    @off_loop
    def attach(self, interface: str, hook: Hook) -> None:
        """Put the role's program on an interface, unless it is there. Raises FacilityError."""
        try:
            index = if_nametoindex(interface)
        except OSError as reason:
            raise FacilityError(f"there is no interface {interface}") from reason
        if self._attached.get((interface, hook)) == index:
            return
        if hook is Hook.INGRESS and not _is_ethernet(index):
            raise FacilityError(f"{interface} has no Ethernet headers")
        with IPRoute() as route:
            if not any(qdisc.get_attr("TCA_KIND") == "clsact" for qdisc in route.get_qdiscs(index=index)):
                self._journal.note(QdiscMade(interface))
        self._journal.note(FilterAttached(interface, hook.name.lower()))
        log.debug("tc filter replace dev %s %s bpf direct-action", interface, hook.name.lower())
        name = f"{self._role}_{'in' if hook is Hook.INGRESS else 'out'}"
        attach(index, hook, self._object.program(name), handle=_HANDLE, priority=_PRIORITY)
        self._attached[interface, hook] = index

    def change_flows(self, changes: bytes) -> int:
        """Change flows in place, up to MOST_CHANGES of them (`FlowRow.as_change`, joined); gives how many are there.

        Raises KernelError.
        """
        return run(self._object.program("change_flows"), bytes(_ETHERNET) + changes)

    def close(self) -> None:
        """Let go of them; what is attached and pinned stays."""
        self._object.close()

    def _pins(self) -> Path:
        base = _BPFFS if is_bpffs(_BPFFS) else self._mount()
        pins = base / f"upmt-{namespace_cookie()}" / f"v{fast_layout.LAYOUT}"
        self._journal.note(MapsPinned(str(pins)))
        pins.mkdir(parents=True, exist_ok=True)
        for other in pins.parent.iterdir():
            if other != pins:
                log.warning("maps of another version's layout, %s, are replaced", other.name)
                remove_pins(str(other))
        return pins

    def _mount(self) -> Path:
        place = self._journal.directory / "bpf"
        self._journal.note(HierarchyMounted(str(place)))
        place.mkdir(parents=True, exist_ok=True)
        if not is_bpffs(place):
            log.debug("mount -t bpf upmt %s", place)
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.mount(b"upmt", str(place).encode(), b"bpf", 0, None) != 0:
                reason = os.strerror(ctypes.get_errno())
                raise FacilityError(f"no bpffs is mounted at {_BPFFS} and none can be: {reason}")
        return place


def discard(journal: Journal) -> None:
    """A daemon without the fast plane begins: what an earlier one left must not go on forwarding by itself."""
    for record in reversed(list(journal.records())):
        match record:
            case FilterAttached(interface, direction):
                remove_filter(interface, direction)
            case QdiscMade(interface):
                remove_qdisc(interface)
            case MapsPinned(path):
                remove_pins(path)


def check_compiled() -> None:
    """Raises FacilityError, with what to do, when the package was built without the programs."""
    if not PROGRAMS.is_file():
        raise FacilityError(
            "the programs were not compiled when the package was built "
            "(apt-get install clang libbpf-dev, and install it again)"
        )


def is_bpffs(place: Path) -> bool:
    """Whether a bpffs is mounted there."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[1] == str(place) and fields[2] == "bpf":
            return True
    return False


def _is_ethernet(index: int) -> bool:
    with IPRoute() as route:
        return bool(route.link("get", index=index)[0]["ifi_type"] == _ARPHRD_ETHER)


def remove_pins(path: str) -> bool:
    """Unpin the maps in a directory of ours; False when there is no such."""
    directory = Path(path)
    if not directory.is_dir():
        return False
    for pin in directory.iterdir():
        pin.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()
        directory.parent.rmdir()
    return True


@off_loop
def remove_filter(interface: str, direction: str) -> bool:
    """Take our program off an interface; False when it was not there."""
    try:
        index = if_nametoindex(interface)
    except OSError:
        return False
    return detach(index, Hook[direction.upper()], handle=_HANDLE, priority=_PRIORITY)


@off_loop
def remove_qdisc(interface: str) -> bool:
    """Remove a clsact that we made; False when there is none, or others have filters on it by now."""
    try:
        index = if_nametoindex(interface)
    except OSError:
        return False
    with IPRoute() as route:
        if not any(qdisc.get_attr("TCA_KIND") == "clsact" for qdisc in route.get_qdiscs(index=index)):
            return False
        for parent in (0xFFFFFFF2, 0xFFFFFFF3):
            if any(True for _ in route.get_filters(index=index, parent=parent)):
                return False
        with contextlib.suppress(NetlinkError):
            log.debug("tc qdisc del dev %s clsact", interface)
            route.tc("del", kind="clsact", index=index)
            return True
    return False
