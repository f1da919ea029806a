"""Applications as a document: read, written, compared, added to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upmt_nf.config.application_sections import ApplicationSection
from upmt_nf.config.applications import (
    check_applications,
    differences,
    read_applications,
    with_assignment,
    written,
)
from upmt_nf.config.mobile_host import read_mobile_host_config
from upmt_nf.model.errors import ConfigError, UsageError

CONFIG = """\
[mobile_host]
identity = "van7@fleet.example"
[anchor]
address = "45.0.0.1"
[[network]]
name = "wifi"
interface = "wlan0"
[[network]]
name = "lte"
interface = "wwan0"
"""


def section(name: str, *match: dict[str, object], **more: object) -> ApplicationSection:
    return ApplicationSection.model_validate({"name": name, "match": match, **more})


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
MATCHES = st.fixed_dictionaries(
    {}, optional={"command": TEXTS, "cgroup": TEXTS, "uid": st.integers(0, 2**32 - 1), "destination": TEXTS}
).filter(bool)
FLOWS = st.fixed_dictionaries(
    {"port": st.integers(1, 65535)},
    optional={"networks": st.just(("lte",)), "policy": st.just("voice"), "protocol": st.just("udp")},
)
SECTIONS = st.builds(
    lambda name, networks, policy, choice, match, flow: section(
        name,
        *match,
        networks=networks,
        policy=policy,
        on_no_network=choice if policy == "tunnel" else None,
        flow=flow if policy == "tunnel" else (),
    ),
    st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True),
    st.lists(st.sampled_from(["wifi", "lte", "any"]), min_size=1, max_size=3),
    st.sampled_from(["tunnel", "native"]),
    st.sampled_from([None, "hold", "reject", "native"]),
    st.lists(MATCHES, max_size=3),
    st.lists(FLOWS, max_size=2, unique_by=lambda flow: flow["port"]),
)


@given(st.lists(SECTIONS, max_size=4).map(tuple))
def test_what_is_written_reads_as_it_was(sections: tuple[ApplicationSection, ...]) -> None:
    assert read_applications(written(sections), "a.toml") == sections


@given(st.lists(SECTIONS, max_size=3, unique_by=lambda each: each.name).map(tuple), SECTIONS)
def test_the_same_document_again_is_no_difference_and_saving_twice_is_saving_once(
    sections: tuple[ApplicationSection, ...], assigned: ApplicationSection
) -> None:
    assert differences(sections, sections) == []
    once = with_assignment(sections, assigned)
    assert with_assignment(once, once[0]) == once


def test_a_whole_configuration_is_a_document_too() -> None:
    text = f'{CONFIG}\n[[application]]\nname = "voice"\n'
    assert [each.name for each in read_applications(text, "mh.toml")] == ["voice"]


def test_what_is_wrong_is_named_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"a.toml:2: application.0.nam: no such key"):
        read_applications('[[application]]\nnam = "voice"', "a.toml")


def test_what_does_not_fit_the_configuration_is_named() -> None:
    config = read_mobile_host_config(CONFIG, "mh.toml")
    with pytest.raises(UsageError, match=r"application.0.networks: there is no network 'umts'"):
        check_applications(config, (section("voice", networks=["umts"]),))
    check_applications(config, (section("voice", networks=["lte"]),))


def test_differences_are_said_one_by_one() -> None:
    old = (section("voice", {"uid": 1}, networks=["lte"]), section("gone"))
    new = (
        section("voice", {"uid": 1}, {"command": "sip"}, networks=["wifi"], on_no_network="hold"),
        section("new", {"uid": 2}, policy="native"),
    )
    assert differences(old, new) == [
        "voice: networks lte -> networks wifi",
        "voice: on_no_network none -> hold",
        "voice: match added: command=sip",
        "new: added, native",
        "new: match added: uid=2",
        "gone: removed",
    ]
    assert differences(new, tuple(reversed(new))) == ["order: new, voice"]


def test_another_anchor_is_a_difference_and_saving_without_one_keeps_it() -> None:
    home, none = section("voice", anchor="home"), section("voice")
    assert differences((none,), (home,)) == ["voice: anchor any -> home"]
    assert differences((home,), (section("voice", anchor="any"),)) == ["voice: anchor home -> any"]
    assert differences((none,), (section("voice", anchor="any"),)) == []
    assert with_assignment((home,), none)[0].anchor == "home"
    assert with_assignment((home,), section("voice", anchor="any"))[0].anchor == "any"
    assert with_assignment((home,), section("voice", policy="native"))[0].anchor is None
    assert read_applications(written((home,)), "a.toml") == (home,)
