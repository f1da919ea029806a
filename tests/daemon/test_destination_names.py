"""Names of destinations are asked for again; what they meant lately counts a while longer."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from upmt_nf.daemon.destination_names import KEEP, DestinationNames
from upmt_nf.model.errors import UpmtError
from upmt_nf.model.flow import IPAddress


class World:
    """A resolver whose answers change."""

    def __init__(self, *wanted: str) -> None:
        self.answers: dict[str, set[str]] = {}
        self.found: dict[str, list[str]] = {}
        self.now = 0.0
        self.wanted = set(wanted)
        self.names = DestinationNames(lambda: self.wanted, self.changed, lambda: self.now, self.ask)

    async def ask(self, name: str) -> set[IPAddress]:
        if name not in self.answers:
            raise UpmtError(f"{name} has no address now: unknown")
        return {ip_address(text) for text in self.answers[name]}

    def changed(self, name: str, addresses: tuple[IPAddress, ...]) -> None:
        self.found[name] = [str(address) for address in addresses]


def test_addresses_come_at_once_and_go_late() -> None:
    world = World("a.example")
    world.answers["a.example"] = {"10.0.0.2", "2001:db8::1", "10.0.0.1"}
    assert asyncio.run(world.names.refresh())
    assert world.found["a.example"] == ["10.0.0.1", "10.0.0.2", "2001:db8::1"]
    world.now, world.answers["a.example"] = KEEP / 2, {"10.0.0.3"}
    asyncio.run(world.names.refresh())
    assert world.found["a.example"] == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1"]
    world.now = KEEP + 1
    asyncio.run(world.names.refresh())
    assert world.found["a.example"] == ["10.0.0.3"]


def test_a_resolver_that_fails_takes_nothing_away() -> None:
    world = World("a.example")
    world.answers["a.example"] = {"10.0.0.1"}
    asyncio.run(world.names.refresh())
    world.answers.clear()
    assert not asyncio.run(world.names.refresh())
    assert world.found["a.example"] == ["10.0.0.1"]


def test_a_name_without_an_address_is_an_error_for_who_asks() -> None:
    world = World()
    with pytest.raises(UpmtError, match=r"a\.example has no address now"):
        asyncio.run(world.names.learn("a.example"))


def test_many_addresses_are_cut_to_the_newest() -> None:
    world = World("a.example")
    world.answers["a.example"] = {f"10.0.{n}.1" for n in range(200)}
    asyncio.run(world.names.refresh())
    assert len(world.found["a.example"]) == 64


def test_it_begins_when_there_is_something_to_ask_and_ends_when_told() -> None:
    async def live() -> World:
        world = World()
        world.answers["a.example"] = {"10.0.0.1"}
        world.names.keep_fresh()
        await asyncio.sleep(0)
        assert not world.found
        world.wanted.add("a.example")
        world.names.keep_fresh()
        for _ in range(5):
            await asyncio.sleep(0)
        world.names.close()
        return world

    assert asyncio.run(live()).found == {"a.example": ["10.0.0.1"]}
