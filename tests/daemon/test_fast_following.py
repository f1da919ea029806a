"""What the fast plane is told after each event, and what it is spared."""

from types import SimpleNamespace
from typing import Any

from upmt_nf.daemon.fast_following import FastFollowing
from upmt_nf.mobility.host_status import ApplicationStatus
from upmt_nf.model.identity import ApplicationId, ApplicationName, NetworkName

VOICE = ApplicationStatus(ApplicationName("voice"), ApplicationId(2), ("wifi",), NetworkName("wifi"), False)
VIDEO = ApplicationStatus(ApplicationName("video"), ApplicationId(3), ("any",), None, False)


class Told:
    """A fast plane that only notes what it is told."""

    def __init__(self) -> None:
        self.attached: list[str] = []
        self.named: list[tuple[int, tuple[Any, ...]]] = []
        self.refreshed: list[list[object]] = []
        self.well: list[list[int | None]] = []
        plane = SimpleNamespace(
            attach=self.attached.append,
            name=lambda id, row: self.named.append((id, tuple(row))),
            refresh=lambda tunnels: self.refreshed.append(list(tunnels)),
            settle=self.well.append,
        )
        self.following = FastFollowing()
        self.applications = {each.name: each for each in (VOICE, VIDEO)}
        self.plane: Any = plane

    def follow(self, interfaces: dict[str, int], networks: tuple[Any, ...] = ()) -> None:
        self.following.follow(
            self.plane,
            interfaces,
            (),
            networks,
            lambda: self.applications,
            lambda name: name == VOICE.name,
        )


def test_interfaces_get_programs_when_one_comes_or_is_another_one() -> None:
    told = Told()
    told.follow({"eth0": 2})
    told.follow({"eth0": 2})
    assert told.attached == ["eth0"]
    told.follow({"eth0": 2, "wlan0": 3})
    assert told.attached == ["eth0", "eth0", "wlan0"]
    told.follow({"eth0": 7, "wlan0": 3})
    assert told.attached[3:] == ["eth0", "wlan0"]


def test_applications_are_named_once_and_again_after_a_change() -> None:
    told = Told()
    told.follow({})
    told.follow({})
    assert told.named == [(2, ("voice", ("wifi",), True, None)), (3, ("video", ("any",), False, None))]
    told.following.applications_changed()
    del told.applications[VIDEO.name]
    told.follow({})
    assert told.named[2:] == [(2, ("voice", ("wifi",), True, None))]


def test_tunnels_are_looked_at_each_time_and_those_that_are_up_are_well() -> None:
    told = Told()
    networks = tuple(
        SimpleNamespace(tunnel_id=id, state=state)
        for id, state in ((11, "up"), (12, "dead"), (13, "up"), (14, "suspect"))
    )
    told.follow({}, networks)
    told.follow({}, networks[:2])
    assert told.refreshed == [[], []]
    assert told.well == [[11, 13], [11]]
