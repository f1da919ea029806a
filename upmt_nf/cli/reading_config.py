"""Configuration files from disk, checked."""

from __future__ import annotations

from pathlib import Path

from upmt_nf.config.anchor import AnchorConfig, read_anchor_config
from upmt_nf.config.application_sections import ApplicationSection
from upmt_nf.config.applications import read_applications
from upmt_nf.config.mobile_host import MobileHostConfig, read_mobile_host_config
from upmt_nf.model.errors import ConfigError


def anchor_config(file: Path) -> AnchorConfig:
    """An anchor's configuration. Raises ConfigError."""
    return read_anchor_config(_text(file), str(file))


def mobile_host_config(file: Path) -> MobileHostConfig:
    """A mobile host's configuration. Raises ConfigError."""
    return read_mobile_host_config(_text(file), str(file))


def applications_in(file: Path) -> tuple[ApplicationSection, ...]:
    """The applications that a file declares. Raises ConfigError."""
    return read_applications(_text(file), str(file))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as reason:
        raise ConfigError(f"{file}: cannot be read: {reason.strerror}") from reason
    except UnicodeDecodeError as reason:
        raise ConfigError(f"{file}:1: is not UTF-8 text") from reason
