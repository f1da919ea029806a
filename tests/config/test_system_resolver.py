"""Where look-ups go: an application's own name servers, and what the system's resolver belongs to."""

from __future__ import annotations

import pytest

from upmt_nf.config.application_sections import ApplicationSection
from upmt_nf.config.applications import (
    check_applications,
    differences,
    read_applications,
    with_assignment,
    written,
)
from upmt_nf.config.mobile_host import MobileHostConfig, read_mobile_host_config
from upmt_nf.config.system_resolver import PROGRAMS, declared_applications
from upmt_nf.daemon.applications import Applications
from upmt_nf.model.errors import ConfigError
from upmt_nf.model.identity import ApplicationName

BASE = """
[mobile_host]
identity = "me@example"
{more}
[anchor]
address = "45.0.0.1"
[[network]]
name = "wifi"
interface = "wlan0"
[[application]]
name = "lookups"
{section}
[[application.match]]
uid = 34
[[application]]
name = "other"
[[application.match]]
uid = 35
"""


def config(more: str = "", section: str = "") -> MobileHostConfig:
    return read_mobile_host_config(BASE.format(more=more, section=section), "host.toml")


def test_the_systems_resolver_is_the_default_applications_when_nothing_is_said() -> None:
    assert config().mobile_host.resolver == "default"
    assert declared_applications(config('resolver = "default"')) == config().application


def test_the_systems_resolver_can_belong_to_an_application() -> None:
    lookups, other = declared_applications(config('resolver = "lookups"'))
    assert [match.uid for match in lookups.match] == [34, *[None] * len(PROGRAMS)]
    assert [match.command for match in lookups.match][1:] == list(PROGRAMS)
    assert other == config().application[1]


def test_the_systems_resolver_can_be_left_alone() -> None:
    *_, added = declared_applications(config('resolver = "native"'))
    known = Applications(declared_applications(config('resolver = "native"')))
    assert known.by_name[ApplicationName("system-resolver")].is_native
    assert [match.command for match in added.match] == list(PROGRAMS)


@pytest.mark.parametrize(
    ("more", "section", "said"),
    [
        ('resolver = "nobody"', "", "host.toml:4: mobile_host.resolver: there is no application 'nobody'"),
        ('resolver = ""', "", "mobile_host.resolver"),
        ('resolver = "lookups"\ndefault = "native"', 'on_no_network = "hold"', "has a kill switch"),
        ("", 'resolver = "dns.example"', "application.0.resolver"),
        ("", "resolver = []", "application.0.resolver"),
        ("", 'resolver = ["1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"]', "application.0.resolver"),
    ],
)
def test_what_makes_no_sense_is_named(more: str, section: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(more, section)


def test_an_application_of_that_name_cannot_be_left_alone_by_accident() -> None:
    text = BASE.format(more='resolver = "native"', section="").replace('"lookups"', '"system-resolver"')
    with pytest.raises(ConfigError, match="system-resolver is an application of this file"):
        read_mobile_host_config(text, "host.toml")


def test_name_servers_of_an_application_are_read_written_and_compared() -> None:
    text = '[[application]]\nname = "call"\nresolver = ["9.9.9.9", "2620:fe::fe"]\n'
    sections = read_applications(text, "file")
    assert read_applications(written(sections), "kept") == sections
    bare = (ApplicationSection(name="call"),)
    system = (ApplicationSection(name="call", resolver="system"),)
    assert differences(bare, sections) == ["call: resolver none -> 9.9.9.9, 2620:fe::fe"]
    assert differences(sections, system) == ["call: resolver 9.9.9.9, 2620:fe::fe -> system"]
    assert differences((), sections)[1:] == ["call: resolver none -> 9.9.9.9, 2620:fe::fe"]
    (kept,) = with_assignment(sections, ApplicationSection(name="call", networks=("wifi",)))
    assert kept.resolver == sections[0].resolver


def test_what_is_declared_elsewhere_need_not_know_the_resolvers_application() -> None:
    check_applications(config('resolver = "lookups"'), ())


def test_what_is_declared_of_name_servers_comes_and_goes() -> None:
    sections = read_applications('[[application]]\nname = "call"\nresolver = ["9.9.9.9"]\n', "file")
    known = Applications(sections)
    assert known.by_name[ApplicationName("call")].resolver == ("9.9.9.9",)
    system = Applications([ApplicationSection(name="call", resolver="system")])
    assert system.by_name[ApplicationName("call")].resolver == ()
    assert Applications([ApplicationSection(name="call")]).by_name[ApplicationName("call")].resolver is None
