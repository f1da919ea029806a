"""Every command that answers as JSON has a schema that `upmt schema` prints."""

from __future__ import annotations

from wire_schema import commands_with_json

from upmt_nf.cli.schema import schemas


def test_every_answer_has_a_schema_that_names_its_command() -> None:
    known = schemas()
    commands = list(commands_with_json())
    assert len(commands) > 25
    for words in commands:
        assert f"`upmt {' '.join(words)} --json`" in known["-".join(words)]["title"]
