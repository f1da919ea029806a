"""Manual pages and completions, made from the commands themselves: `python -m upmt_nf.cli.manual DIRECTORY`.

One page for `upmt` and one for each of its nouns; `tests/cli/test_manual.py` sees to it that what is kept is current.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer
from typer._completion_shared import get_completion_script

from upmt_nf.cli.main import app

_EXIT_CODES = (
    ("0", "Done."),
    ("1", "It failed; also: waited in vain, drift or an error was found."),
    ("2", "Wrong usage, or a wrong line in a configuration."),
    ("3", "No daemon runs in this network namespace."),
    ("4", "Root or a kernel facility is needed."),
)
_FILES = (
    ("/etc/upmt/mobile-host.toml, /etc/upmt/anchor.toml", "Configurations."),
    ("/etc/upmt/applications.toml", "What --save keeps."),
    ("/etc/upmt/rules/", "Netfilter rules of the administrator's."),
    ("/run/upmt/", "The journal of what is to be put back."),
)


_FIRST_TIME_IN_ZSH = """\
# Loaded by the first completion itself, as from a directory of $fpath: answer that one, too.
[[ $zsh_eval_context[-1] == loadautofunc ]] && _upmt_completion
"""


def pages() -> dict[str, str]:
    """File name -> manual page (roff, man macros)."""
    root: Any = typer.main.get_command(app)
    made = {"upmt.1": "\n".join(_page("upmt", root, deep=False)) + "\n"}
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            made[f"upmt-{name}.1"] = "\n".join(_page(f"upmt {name}", command, deep=True)) + "\n"
    return made


def completions() -> dict[str, str]:
    """File name -> completion script of a shell, as its packages name them."""
    names = {"bash": "upmt.bash", "zsh": "_upmt", "fish": "upmt.fish"}
    made = {
        file: get_completion_script(prog_name="upmt", complete_var="_UPMT_COMPLETE", shell=shell) + "\n"
        for shell, file in names.items()
    }
    made["_upmt"] += _FIRST_TIME_IN_ZSH
    return made


def _page(title: str, command: Any, *, deep: bool) -> Iterator[str]:
    yield f'.TH "{title.replace(" ", "-").upper()}" 1 "" "UPMT-NF" "UPMT-NF manual"'
    yield ".SH NAME"
    yield f"{title.replace(' ', '-')} \\- {_text(_first_sentence(command.help)).rstrip('.')}"
    yield ".SH SYNOPSIS"
    yield f".B {_text(title)}"
    yield "[OPTIONS] COMMAND [ARGS]..."
    if options := list(_options(command)):
        yield ".SH OPTIONS"
        yield from options
    yield ".SH COMMANDS"
    yield from _commands(title, command, deep=deep)
    yield ".SH EXIT STATUS"
    yield from _items(_EXIT_CODES)
    yield ".SH FILES"
    yield from _items(_FILES)
    yield ".SH SEE ALSO"
    yield "upmt(1), the pages of its nouns, and docs/ of the sources."


def _commands(title: str, group: Any, *, deep: bool) -> Iterator[str]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if not hasattr(command, "commands"):
            yield f".SS {_text(f'{title} {name}')} {_arguments(command)}".rstrip()
            yield from _paragraphs(command.help)
            yield from _options(command)
        elif deep:
            yield from _commands(f"{title} {name}", command, deep=True)
        else:
            yield f".SS {_text(f'{title} {name}')} ..."
            yield from _paragraphs(command.help)
            yield f"See upmt-{name}(1)."


def _arguments(command: Any) -> str:
    words = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            word = (parameter.metavar or parameter.name).upper()
            word += "..." if parameter.nargs == -1 else ""
            words.append(word if parameter.required else f"[{word}]")
    return _text(" ".join([*words, "[OPTIONS]"] if _has_options(command) else words))


def _has_options(command: Any) -> bool:
    return any(parameter.param_type_name == "option" for parameter in command.params)


def _options(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "argument":
            if parameter.help:
                yield from _items([((parameter.metavar or parameter.name).upper(), parameter.help)])
            continue
        names = ", ".join((*parameter.opts, *parameter.secondary_opts))
        if not parameter.is_flag:
            names += f" {parameter.metavar or _value_of(parameter)}"
        yield from _items([(names, parameter.help or "")])


_WORDS = {"int": "NUMBER", "float": "NUMBER", "Path": "FILE"}


def _value_of(parameter: Any) -> str:
    """What an option takes, in one word, or its choices."""
    kinds = [parameter.type_descriptor.annotation, *get_args(parameter.type_descriptor.annotation)]
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum):
            return "|".join(str(choice.value) for choice in kind)
    names = (kind.__name__ for kind in kinds if isinstance(kind, type))
    return next((_WORDS[name] for name in names if name in _WORDS), "TEXT")


def _items(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    for term, said in rows:
        yield ".TP"
        yield f".B {_text(term)}"
        yield _text(said)


def _paragraphs(said: str | None) -> Iterator[str]:
    for place, paragraph in enumerate(re.split(r"\n\s*\n", inspect.cleandoc(said or ""))):
        if place:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _first_sentence(said: str | None) -> str:
    return re.split(r"(?<=\.)\s", " ".join((said or "").split()), maxsplit=1)[0]


def _text(said: str) -> str:
    """Escaped for roff: backslashes, hyphens that are minus signs, dots and quotes that begin a line."""
    escaped = said.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def write(directory: Path) -> None:
    """Write everything below `directory`: man/ and completions/."""
    for folder, files in (("man", pages()), ("completions", completions())):
        (directory / folder).mkdir(parents=True, exist_ok=True)
        for old in (directory / folder).iterdir():
            old.unlink()
        for name, text in files.items():
            (directory / folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
