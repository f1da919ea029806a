"""A command starts at once: what takes long to import waits until a command needs it."""

import subprocess
import sys

SLOW = ("pydantic", "pyroute2", "iptc", "numpy", "cryptography", "rich")


def test_the_command_line_imports_nothing_slow() -> None:
    program = f"import sys, upmt_nf.cli.main; print(*[name for name in {SLOW} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
