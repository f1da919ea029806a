"""What is written in a match, checked: DSCP, ports, names of hosts. All raise ValueError that says what is meant."""

from __future__ import annotations

import re
from typing import Any

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_\-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$)(?!.*\.\d+\.?$){_LABEL}(?:\.{_LABEL})*\.?")
_DSCP_NAMES = {
    "ef": 46, "va": 44, "le": 1, "be": 0, "df": 0,
    **{f"cs{number}": number * 8 for number in range(8)},
    **{f"af{group}{drop}": group * 8 + drop * 2 for group in range(1, 5) for drop in range(1, 4)},
}  # fmt: skip
"""RFC 2474, 2597, 3246, 5865, 8622."""


def read_dscp(value: Any) -> int:
    """`46`, `EF`, `AF41`, `CS5` -> 0 to 63."""
    text = str(value).lower()
    if text in _DSCP_NAMES:
        return _DSCP_NAMES[text]
    if text.isascii() and text.isdigit() and len(text) < 4 and int(text) < 64:
        return int(text)
    raise ValueError(f"{value!r} is no DSCP: 0 to 63, or a name such as EF, AF41, CS5")


def read_host_name(value: Any) -> str:
    """A name that a resolver can be asked for, in lower case, without the dot at its end."""
    if isinstance(value, str) and not value.isdigit() and _HOST_NAME.fullmatch(value):
        return value.rstrip(".").lower()
    raise ValueError(f"{value!r} is no name of a host; networks are given as a destination")


def read_ports(value: Any) -> tuple[int, int | None]:
    """`443` or `8000-8010` -> the first port and, of a range, the last."""
    first, dash, last = str(value).partition("-")
    numbers = [int(text) for text in (first, last if dash else first) if _is_number(text)]
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1] < 65536:
        raise ValueError(f"{value!r} is no port such as 443, nor a range such as 8000-8010")
    return numbers[0], numbers[1] if numbers[1] != numbers[0] else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6
