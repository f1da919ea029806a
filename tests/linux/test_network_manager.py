"""What NetworkManager says of interfaces: a stand-in for it on a bus of the test's own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jeepney import (
    DBusAddress,
    HeaderFields,
    Message,
    MessageType,
    new_error,
    new_method_return,
    new_signal,
)
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import DBusConnection, open_dbus_connection

from upmt_nf.linux import network_manager
from upmt_nf.linux.network_manager import NAME, captive_portal, watch_metered

pytestmark = pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="dbus-daemon is not installed")
UNKNOWN, YES, NO, GUESS_YES, GUESS_NO = range(5)
CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>custom</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow send_type="signal"/>
<allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>
<allow own="*"/><allow user="*"/></policy>
</busconfig>"""


class StandIn:
    """Answers as NetworkManager does; `metered` by interface."""

    def __init__(self, address: str) -> None:
        self.metered: dict[str, Any] = {"wlan0": YES, "eth0": NO}
        self.lease: dict[str, tuple[str, Any]] = {"ip_address": ("s", "10.0.0.7")}
        self._connection: DBusConnection = open_dbus_connection(bus=address)
        self._connection.send_and_get_reply(message_bus.RequestName(NAME))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def change(self, interface: str, value: int) -> None:
        self.metered[interface] = value
        device = DBusAddress(f"/devices/{interface}", interface="org.freedesktop.DBus.Properties")
        body: tuple[Any, ...] = (f"{NAME}.Device", {"Metered": ("u", value)}, [])
        self._connection.send(new_signal(device, "PropertiesChanged", "sa{sv}as", body))

    def close(self) -> None:
        self._connection.close()

    def _serve(self) -> None:
        while True:
            try:
                asked = self._connection.receive()
            except (OSError, ValueError):
                return
            if asked.header.message_type is MessageType.method_call:
                self._connection.send(self._answer(asked))

    def _answer(self, asked: Message) -> Message:
        fields = asked.header.fields
        if fields[HeaderFields.member] == "GetDeviceByIpIface":
            (interface,) = asked.body
            if interface not in self.metered:
                return new_error(asked, f"{NAME}.UnknownDevice", "s", ("No device found",))
            return new_method_return(asked, "o", (f"/devices/{interface}",))
        if fields[HeaderFields.path].startswith("/leases/"):
            return new_method_return(asked, "v", (("a{sv}", self.lease),))
        if asked.body[-1] == "Dhcp4Config":
            return new_method_return(asked, "v", (("o", "/leases/1"),))
        value = self.metered[fields[HeaderFields.path].rpartition("/")[2]]
        if isinstance(value, int):
            return new_method_return(asked, "v", (("u", value),))
        return new_method_return(asked, "v", (("s", value),))


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    socket = tmp_path / "bus"
    config = tmp_path / "bus.conf"
    config.write_text(CONFIG.format(socket=socket))
    daemon = subprocess.Popen(
        ("dbus-daemon", "--nofork", "--print-address", f"--config-file={config}"),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert daemon.stdout is not None
    address = daemon.stdout.readline().strip()
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
    monkeypatch.setattr(network_manager, "LOOK_AGAIN", 0.2)
    monkeypatch.setattr(network_manager, "QUIET", 0.01)
    yield address
    daemon.terminate()
    daemon.wait()
    daemon.stdout.close()


class Watching:
    """`watch_metered` of some interfaces, as long as the block lasts."""

    def __init__(self, *interfaces: str) -> None:
        self.known: dict[str, bool | None] = {}
        self.told = 0
        self._interfaces = interfaces

    def _hear(self, interface: str, is_metered: bool | None) -> None:
        self.known[interface] = is_metered
        self.told += 1

    async def __aenter__(self) -> Watching:
        self._task = asyncio.create_task(watch_metered(self._interfaces, self._hear))
        return self

    async def __aexit__(self, *_: object) -> None:
        assert not self._task.done(), "it never ends by itself"
        self._task.cancel()

    async def until(self, wanted: dict[str, bool | None]) -> None:
        async with asyncio.timeout(10):
            while self.known != wanted:
                await asyncio.sleep(0.01)


def test_what_it_knows_is_told_and_told_again_when_it_changes(bus: str) -> None:
    async def run() -> None:
        manager = StandIn(bus)
        async with Watching("wlan0", "eth0", "wwan9") as watching:
            await watching.until({"wlan0": True, "eth0": False})
            manager.change("eth0", GUESS_YES)
            await watching.until({"wlan0": True, "eth0": True})
            manager.change("wlan0", GUESS_NO)
            await watching.until({"wlan0": False, "eth0": True})
            manager.change("wlan0", UNKNOWN)
            await watching.until({"wlan0": None, "eth0": True})
            told = watching.told
            await asyncio.sleep(0.5)
            assert watching.told == told, "only what changes is told"
        manager.close()

    asyncio.run(run())


def test_it_may_come_later_go_and_say_nonsense(bus: str) -> None:
    async def run() -> None:
        async with Watching("wlan0") as watching:
            await asyncio.sleep(0.3)
            assert watching.known == {}
            manager = StandIn(bus)
            await watching.until({"wlan0": True})
            manager.close()
            await watching.until({"wlan0": None})
            manager = StandIn(bus)
            await watching.until({"wlan0": True})
            for nonsense in (77, "yes"):
                manager.metered["wlan0"] = nonsense
                await watching.until({"wlan0": None})
                manager.metered["wlan0"] = YES
                await watching.until({"wlan0": True})
        manager.close()

    asyncio.run(run())


def test_without_a_bus_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/nowhere")
    monkeypatch.setattr(network_manager, "LOOK_AGAIN", 0.02)

    async def run() -> None:
        async with Watching("wlan0") as watching:
            await asyncio.sleep(0.2)
            assert watching.known == {}

    asyncio.run(run())


def test_what_the_lease_says_of_a_portal_is_asked_for(bus: str) -> None:
    assert asyncio.run(captive_portal("wlan0")) is None, "nobody is there"
    manager = StandIn(bus)
    try:
        assert asyncio.run(captive_portal("wlan0")) is None
        manager.lease["captive_portal"] = ("s", "https://portal.example/api")
        assert asyncio.run(captive_portal("wlan0")) == "https://portal.example/api"
        assert asyncio.run(captive_portal("usb0")) is None
        manager.lease = {"default_url": ("s", "https://older.example/")}
        assert asyncio.run(captive_portal("wlan0")) == "https://older.example/"
        manager.lease = {"captive_portal": ("u", 7)}
        assert asyncio.run(captive_portal("wlan0")) is None
    finally:
        manager.close()
