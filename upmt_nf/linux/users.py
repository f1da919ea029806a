"""Secrets in files: the anchor's users (`identity:realm:HA1` a line, as htdigest has it) and a host's own secret.

A user has a line for each Digest algorithm, told apart by the length of HA1. Nothing of this is ever logged.
Both files are for their owner's eyes only (mode 0600).
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from upmt_nf.model.errors import ConfigError, UpmtError

SHA256_DIGITS, MD5_DIGITS = 64, 32


class UsersFile:
    """The anchor's users. Read again when it has changed, so that users come and go while the anchor runs.

    A file that others may read or write is refused with ConfigError: its hashes are as good as the secrets.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._hashes: dict[tuple[str, str, int], str] = {}

    def hash_of(self, identity: str, realm: str, *, digits: int = SHA256_DIGITS) -> str | None:
        """HA1 of an identity (hex, so many digits), or None. Keeps what it knew while it may not read the file."""
        with contextlib.suppress(OSError, UnicodeDecodeError, ConfigError):
            found = self.path.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen != self._seen:
                self._hashes = {(user, where, len(known)): known for user, where, known in self._lines()}
                self._seen = seen
        return self._hashes.get((identity, realm, digits))

    def identities(self) -> list[str]:
        """Who is in it, in the order of the file. Raises ConfigError when it cannot be read."""
        try:
            return list(dict.fromkeys(user for user, _, _ in self._lines()))
        except FileNotFoundError:
            return []
        except OSError as reason:
            raise ConfigError(f"{self.path}: cannot be read: {reason.strerror}") from reason

    def set(self, identity: str, realm: str, *known: str) -> None:
        """Add a user with its hashes, one an algorithm, or give one others."""
        lines = [line for line in self._present() if line[0] != identity]
        self._write([*lines, *((identity, realm, one) for one in known)])

    def remove(self, identity: str) -> bool:
        """Remove a user; False when there was none."""
        present = self._present()
        lines = [line for line in present if line[0] != identity]
        if len(lines) == len(present):
            return False
        self._write(lines)
        return True

    def _present(self) -> list[tuple[str, str, str]]:
        try:
            return self._lines()
        except FileNotFoundError:
            return []

    def _lines(self) -> list[tuple[str, str, str]]:
        if stat.S_IMODE(self.path.stat().st_mode) & 0o077:
            raise ConfigError(f"{self.path}: others may read the users' hashes: chmod 600 {self.path}")
        lines = [line.strip().split(":") for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [(fields[0], fields[1], fields[2].lower()) for fields in lines if len(fields) == 3]

    def _write(self, lines: list[tuple[str, str, str]]) -> None:
        write_private(self.path, "".join(":".join(line) + "\n" for line in lines))


def read_secret(path: Path) -> str:
    """A host's secret. Raises ConfigError when it is missing, empty or open to others."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as reason:
        raise ConfigError(
            f"{path}: the secret cannot be read: {getattr(reason, 'strerror', reason)}"
        ) from reason
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path}: others may read the secret: chmod 600 {path}")
    if not text:
        raise ConfigError(f"{path}: the secret is empty")
    return text


def write_private(path: Path, text: str) -> None:
    """Write a file for its owner only, in one step: whoever reads it meanwhile sees the old or the new one.

    Raises UpmtError naming the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as reason:
        raise UpmtError(f"{path}: cannot be written: {reason.strerror}") from reason
