"""What NetworkManager knows of interfaces, over D-Bus: whether somebody pays by the byte (its `Metered` property), and
what the DHCP lease says of a captive portal.

Told at once by its signals; where there is no bus or no NetworkManager, asked for again now and then. Changes nothing.
(org.freedesktop.NetworkManager.Device, NMMetered: unknown, yes, no, guessed yes, guessed no)
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

from jeepney import (
    DBusAddress,
    DBusErrorResponse,
    MatchRule,
    Message,
    Properties,
    message_bus,
    new_method_call,
)
from jeepney.io.asyncio import DBusRouter, Proxy, open_dbus_router
from jeepney.wrappers import unwrap_msg

log = logging.getLogger(__name__)

NAME = "org.freedesktop.NetworkManager"
_MANAGER = DBusAddress("/org/freedesktop/NetworkManager", NAME, NAME)
_DEVICE = f"{NAME}.Device"
_METERED: dict[Any, bool] = {1: True, 2: False, 3: True, 4: False}
_OPTION_114 = ("captive_portal", "default_url")
"""As it calls the option now, and did before."""
LOOK_AGAIN = 60.0
"""Seconds between two looks without a signal, and two attempts to reach the bus."""
QUIET = 0.3
"""Seconds that are waited for further signals: they come in swarms."""
_PATIENCE = 5.0

Heard = Callable[[str, bool | None], None]
"""Gets an interface and whether it is metered; None: nobody knows."""


async def watch_metered(interfaces: Iterable[str], heard: Heard) -> None:
    """Tell of these interfaces now and whenever it changes, until cancelled."""
    known: dict[str, bool | None] = dict.fromkeys(interfaces)
    while True:
        try:
            async with open_dbus_router(bus="SYSTEM") as router:
                await _follow(router, known, heard)
        except (OSError, KeyError, ValueError, EOFError, DBusErrorResponse, TimeoutError) as reason:
            log.debug("no word from NetworkManager: %r", reason)
            for interface, before in known.items():
                if before is not None:
                    known[interface] = None
                    heard(interface, None)
        await asyncio.sleep(LOOK_AGAIN)


async def captive_portal(interface: str) -> str | None:
    """What an interface's DHCP lease says in option 114, unchecked; None: nothing, or nobody can be asked."""
    try:
        async with open_dbus_router(bus="SYSTEM") as router:
            (path,) = await _answer(
                router, new_method_call(_MANAGER, "GetDeviceByIpIface", "s", (interface,))
            )
            device = Properties(DBusAddress(path, NAME, _DEVICE))
            ((_, lease),) = await _answer(router, device.get("Dhcp4Config"))
            config = Properties(DBusAddress(lease, NAME, f"{NAME}.DHCP4Config"))
            ((_, options),) = await _answer(router, config.get("Options"))
    except (OSError, KeyError, ValueError, EOFError, DBusErrorResponse, TimeoutError) as reason:
        log.debug("no lease of %s from NetworkManager: %r", interface, reason)
        return None
    if not isinstance(options, dict):
        return None
    for name in _OPTION_114:
        kind, value = options.get(name, (None, None))
        if kind == "s" and value:
            return str(value)
    return None


async def _follow(router: DBusRouter, known: dict[str, bool | None], heard: Heard) -> None:
    changes = MatchRule(
        type="signal", interface="org.freedesktop.DBus.Properties", member="PropertiesChanged"
    )
    changes.add_arg_condition(0, _DEVICE)
    devices = MatchRule(type="signal", interface=NAME, path="/org/freedesktop/NetworkManager")
    owners = MatchRule(type="signal", interface="org.freedesktop.DBus", member="NameOwnerChanged")
    owners.add_arg_condition(0, NAME)
    signals: asyncio.Queue[Message] = asyncio.Queue(maxsize=64)
    with (
        router.filter(changes, queue=signals),
        router.filter(devices, queue=signals),
        router.filter(owners, queue=signals),
    ):
        for rule in (changes, devices, owners):
            await asyncio.wait_for(Proxy(message_bus, router).AddMatch(rule), _PATIENCE)
        while True:
            await _look(router, known, heard)
            try:
                await asyncio.wait_for(signals.get(), LOOK_AGAIN)
            except TimeoutError:
                continue
            await asyncio.sleep(QUIET)
            while not signals.empty():
                signals.get_nowait()


async def _look(router: DBusRouter, known: dict[str, bool | None], heard: Heard) -> None:
    for interface, before in known.items():
        now = await _metered(router, interface)
        if now != before:
            known[interface] = now
            heard(interface, now)


async def _metered(router: DBusRouter, interface: str) -> bool | None:
    """Of one interface. Raises TimeoutError, OSError; what NetworkManager does not know is None."""
    try:
        (path,) = await _answer(router, new_method_call(_MANAGER, "GetDeviceByIpIface", "s", (interface,)))
        device = Properties(DBusAddress(path, NAME, _DEVICE))
        ((_, value),) = await _answer(router, device.get("Metered"))
    except DBusErrorResponse:
        return None
    return _METERED.get(value)


async def _answer(router: DBusRouter, question: Message) -> tuple[Any, ...]:
    reply = await asyncio.wait_for(router.send_and_get_reply(question), _PATIENCE)
    found: tuple[Any, ...] = unwrap_msg(reply)
    return found
