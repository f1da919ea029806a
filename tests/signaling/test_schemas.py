"""The published schemas: what we write fits them, and they say yes to what our reader says yes to."""

import json
from copy import deepcopy
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from message_strategies import JSON_VALUES, MESSAGES, ONE_OF_EACH, mutate
from wire_schema import complaints

from upmt_nf.cli.schema import bundled, schemas
from upmt_nf.model.errors import PeerError
from upmt_nf.signaling.message_reading import decode
from upmt_nf.signaling.message_writing import encode
from upmt_nf.signaling.messages import UpmtMessage


def is_read(document: Any) -> bool:
    try:
        decode(json.dumps(document).encode())
    except PeerError:
        return False
    return True


def has_whole_float(value: Any) -> bool:
    """The stated exception: 1.0 is an integer to a schema, and no number to our reader."""
    if isinstance(value, dict):
        return any(map(has_whole_float, value.values()))
    if isinstance(value, list):
        return any(map(has_whole_float, value))
    return isinstance(value, float) and value.is_integer()


@pytest.mark.parametrize("name", schemas())
def test_every_schema_is_one_and_stands_alone(name: str) -> None:
    known = schemas()
    assert known[name]["$id"] == f"urn:upmt:schema:{name}:1"
    assert known[name]["$schema"].endswith("/draft/2020-12/schema")
    Draft202012Validator.check_schema(bundled(known[name], known))
    complaints(name, {"mType": name})


def test_every_message_has_a_schema_that_knows_it() -> None:
    names = [kind.__name__ for kind in get_args(UpmtMessage)]
    assert set(names) | {"message", "parts", "authors"} <= set(schemas())
    listed = [item["$ref"].split(":")[3] for item in schemas()["message"]["oneOf"]]
    assert sorted(listed) == sorted(names)
    for message in ONE_OF_EACH:
        keys = set(json.loads(encode(message)))
        schema = schemas()[type(message).__name__]
        assert keys - {"pairs", "match", "tunnelID"} <= set(schema["properties"]), keys


@given(MESSAGES)
def test_what_is_written_fits(message: UpmtMessage) -> None:
    document = json.loads(encode(message))
    assert complaints(type(message).__name__, document) == []
    assert complaints("message", document) == []


@given(st.sampled_from(ONE_OF_EACH), st.data())
@settings(max_examples=400)
def test_schema_and_reader_agree_about_mutated_documents(message: UpmtMessage, data: st.DataObject) -> None:
    document = json.loads(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(document, data)
    if not has_whole_float(document):
        assert is_read(document) == (complaints("message", document) == []), document


@given(JSON_VALUES)
@example("any")
@example([])
@example({})
def test_schema_and_reader_agree_about_any_json(value: Any) -> None:
    if not has_whole_float(value):
        assert is_read(value) == (complaints("message", value) == [])


HANDOVER = {"mType": "HandoverRequest", "match": {"syntax": "flows", "match": []}}
PACKED: tuple[dict[str, Any], ...] = (
    {},
    {"source": "1.2.3.4", "match": ""},
    {"source": "1.2.3.4", "match": "EQUAAAEH0Au4"},
    {"source": "1.2.3.4", "match": "EQUAAAEH0Au4\n"},
    {"source": "1.2.3.4", "match": "EQUAAAEH0Au"},
    {"source": "1.2.3.4", "match": "EQUAAAEH0Au="},
    {"source": "1.2.3.4", "match": "EQUAAAEH0Au-"},
    {"source": "1.2.3.4", "match": 28 * "A"},
    {"source": "2001:db8::1", "match": 28 * "A"},
    {"source": "2001:db8::1", "match": 12 * "A"},
    {"source": "1.2.3", "match": ""},
    {"source": "1.2.3.4", "match": None},
    *(
        {"source": "1.2.3.4", "match": "", "applications": numbers}
        for numbers in ([], [0, 4095, 0], [4096], [-1], ["1"], [True], 5, None)
    ),
)
FLOW = ["udp", "1.2.3.4", 1, "5.6.7.8", 2]


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"tunnelID": text}
            for text in ("1", "0", "000", "0000000001", "00000000001", "4294967295", "4294967296")
        ),
        *({"tunnelID": text} for text in ("9999999999", "٥", "5\n", " 5", "", "4294967294", "3999999999")),
        *({"tunnelID": number} for number in (0, 1, 2**32 - 1, 2**32, -1, True)),
        *({"tunnelID": many} for many in (["any"] * 16, ["any"] * 17, [], [["any"]], None)),
        *({"match": match} for match in ("any", "all", None, {}, {"syntax": "any", "match": 5})),
        *({"match": {"syntax": "flows", "match": [FLOW[:4]]}}, {"match": {"syntax": "flows", "match": FLOW}}),
        *(
            {"match": {"syntax": "flows", "match": [[*FLOW[:place], wrong, *FLOW[place + 1 :]]]}}
            for place, wrongs in enumerate(
                (
                    ("udp", "UDP", 0, 255, 256, True),
                    ("1.2.3.4\n", "1.2.3", "01.2.3.4", "1.2.3.4/32", "::1", "::ffff:1.2.3.4", "256.1.1.1"),
                    (0, 65535, 65536),
                    ("::1", "::", "fe80::1%e", "1.2.3.4."),
                    (0, "0"),
                )
            )
            for wrong in wrongs
        ),
        *({"match": {"syntax": "packed", **packed}} for packed in PACKED),
        {"pairs": [{"match": "any"}], "match": "nonsense", "tunnelID": "nonsense"},
        {"pairs": "any"},
        {"pairs": []},
        {"version": 2},
        {"version": "1"},
        {"version": True},
        {"association": "x" * 1024},
        {"association": "x" * 1025},
    ],
    ids=repr,
)
def test_schema_and_reader_agree_at_the_edges(change: dict[str, Any]) -> None:
    document = deepcopy(HANDOVER) | change
    assert is_read(document) == (complaints("HandoverRequest", document) == [])


@pytest.mark.parametrize("key", ["key", "expires"])
@pytest.mark.parametrize("value", ["00" * 32, "00" * 32 + "\n", "0" * 63, "AB" * 32, 2**32 - 1, 2**32, None])
def test_schema_and_reader_agree_about_keys_and_times(key: str, value: Any) -> None:
    document = {"mType": "AssociationRequest", "expires": 5, key: value}
    assert is_read(document) == (complaints("AssociationRequest", document) == [])


def test_a_schema_alone_says_yes_where_only_the_reader_says_no() -> None:
    """The exceptions that docs/protocol.md states, so that it goes on being right about them."""
    whole = {"mType": "HandoverResponse", "results": [{"accepted": True, "flows": 5.0}]}
    assert complaints("HandoverResponse", whole) == []
    assert not is_read(whole)
    long = {"mType": "NoticeAnswer", "more": "x" * 8192}
    assert complaints("NoticeAnswer", long) == []
    assert not is_read(long)
