"""`make fuzz`: search each target for a while, then keep the smallest corpus that covers as much.

    PYTHONPATH=.:tests python -m fuzz [TARGET...] --seconds 600

What breaks a target is left in the working directory that is printed; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from fuzz.targets import CORPUS, TARGETS

SHARE = 180_000
"""Bytes of corpus kept per target."""


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m fuzz", description="search for input that breaks a parser"
    )
    options.add_argument(
        "targets", nargs="*", default=list(TARGETS), metavar="TARGET", help=", ".join(TARGETS)
    )
    options.add_argument("--seconds", type=int, default=600, help="for each target")
    chosen = options.parse_args()
    if unknown := [name for name in chosen.targets if name not in TARGETS]:
        options.error(f"there is no target {unknown[0]!r}")
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed (pip install -e '.[fuzz]'): nothing was fuzzed")
        return 0
    return max(_fuzz(name, chosen.seconds) for name in chosen.targets)


def _fuzz(name: str, seconds: int) -> int:
    target = TARGETS[name]
    work = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    found, small, kept = work / "found", work / "small", CORPUS / name
    for directory in (found, small, kept):
        directory.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (found / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    said = _run(
        name,
        f"-max_total_time={seconds}",
        f"-max_len={target.longest}",
        "-timeout=10",
        "-rss_limit_mb=1024",
        "-reduce_inputs=1",
        "-print_final_stats=1",
        f"-artifact_prefix={work}/",
        str(found),
        str(kept),
    )
    broken = sorted(path.name for path in work.glob("*-*") if path.is_file())
    runs = re.search(r"number_of_executed_units: (\d+)", said)
    covered = re.findall(r"cov: (\d+) ft: (\d+)", said)
    _run(name, "-merge=1", f"-max_len={target.longest}", str(small), str(kept), str(found))
    files, size = _keep(small, kept)
    edges, features = covered[-1] if covered else ("?", "?")
    print(
        f"{name:7} {runs[1] if runs else '?':>9} executions, {edges} edges, {features} features, "
        f"corpus of {files} files and {size} bytes"
    )
    if broken:
        print(said[-4000:])
        print(f"{name} was broken by {', '.join(broken)} in {work}")
        return 1
    shutil.rmtree(work)
    return 0


def _run(name: str, *options: str) -> str:
    done = subprocess.run(
        (sys.executable, "-m", "fuzz.one", name, *options), capture_output=True, text=True, errors="replace"
    )
    return done.stdout + done.stderr


def _keep(small: Path, kept: Path) -> tuple[int, int]:
    """Put the merged corpus in place of the kept one, the smallest files first, as long as there is room."""
    total = files = 0
    merged = sorted((path.read_bytes() for path in small.iterdir()), key=len)
    if not merged:
        return len(list(kept.iterdir())), sum(path.stat().st_size for path in kept.iterdir())
    for path in kept.iterdir():
        path.unlink()
    for data in merged:
        if total + len(data) > SHARE:
            break
        (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        total, files = total + len(data), files + 1
    return files, total


if __name__ == "__main__":
    sys.exit(main())
