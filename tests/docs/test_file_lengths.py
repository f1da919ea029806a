"""No file of the product or its tests is longer than 600 lines: split it by what it decides or does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 600


def sources(root: Path) -> Iterator[Path]:
    for room in ("upmt_nf", "bpf", "benchmarks", "tests"):
        for kind in ("*.py", "*.c", "*.h"):
            yield from (root / room).rglob(kind)


def too_long(root: Path) -> list[str]:
    """Each with its number of lines."""
    lengths = {str(path.relative_to(root)): len(path.read_bytes().splitlines()) for path in sources(root)}
    return sorted(f"{name}: {length}" for name, length in lengths.items() if length > LIMIT)


def test_no_file_is_longer_than_the_house_allows() -> None:
    assert too_long(ROOT) == []


def test_every_room_is_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in sources(ROOT)} == {
        "upmt_nf",
        "bpf",
        "benchmarks",
        "tests",
    }


@pytest.mark.parametrize("name", ["upmt_nf/daemon/long.py", "bpf/long.h", "tests/lab/long.py"])
def test_one_line_too_many_is_told_with_the_name_of_its_file(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text("x = 1\n" * LIMIT)
    assert too_long(tmp_path) == []
    file.write_text("x = 1\n" * (LIMIT + 1))
    assert too_long(tmp_path) == [f"{name}: 601"]
