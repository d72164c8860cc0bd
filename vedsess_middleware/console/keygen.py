"""New keys, and where they are put."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from vedsess_middleware.console.env_file import assignments
from vedsess_middleware.errors import SessionError

__all__ = ["VARIABLES", "KeyExists", "Purpose", "add_key", "new_key"]

Purpose = Literal["secret", "encryption"]
"""What a key is for: signing cookies, or encrypting values."""

VARIABLES: Final[Mapping[Purpose, str]] = MappingProxyType(
    {"secret": "VEDSESS_SECRET_KEY", "encryption": "VEDSESS_ENCRYPTION_KEY"}
)
"""The variable that holds the keys for each purpose."""


class KeyExists(SessionError):
    """The file gives a key already.  Nothing was written; the message says how keys are changed."""


def new_key() -> str:
    """384 random bits, URL-safe."""
    return secrets.token_urlsafe(48)


def add_key(path: Path, purpose: Purpose = "secret") -> None:
    """Append a new key to an env file; a missing file is made, for its owner only.  Other lines stay as they are.

    Raises:
        KeyExists: there is one already.
        OSError: the file cannot be read or written.
    """
    with open(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+b") as file:  # noqa: PTH123
        content = file.read()
        _refuse_second(content, path, purpose)
        end = b"\r\n" if b"\r\n" in content else b"\n"
        gap = end if content and not content.endswith(b"\n") else b""
        file.write(gap + f"{VARIABLES[purpose]}={new_key()}".encode() + end)


def _refuse_second(content: bytes, path: Path, purpose: Purpose) -> None:
    for found in assignments(content, VARIABLES[purpose]):
        if not found.value:
            raise KeyExists(f"{path} has an empty {found.variable}: remove that line, then run this again")
        raise KeyExists(
            f"{path} gives {found.variable} already, and it stays.  `vedsess rotate-keys --for {purpose}` puts a new "
            f"key beside it: what was made with the old one stays valid"
        )
