"""New secret keys, and where they are put."""

import os
import re
import secrets
import stat
from pathlib import Path

from vedsess_middleware.errors import SessionError

__all__ = ["VARIABLE", "KeyExists", "add_key", "new_key"]

VARIABLE = "VEDSESS_SECRET_KEY"
_ASSIGNED = re.compile(rb"^[ \t]*(?:export[ \t]+)?(VEDSESS_SECRET_KEY(?:_FILE)?)[ \t]*[=:][ \t]*(\S?)", re.MULTILINE)


class KeyExists(SessionError):
    """The file gives a key already.  Nothing was written; the message says how keys are changed."""


def new_key() -> str:
    """384 random bits, URL-safe."""
    return secrets.token_urlsafe(48)


def add_key(path: Path) -> bool:
    """Append a new key to an env file; a missing file is made, for its owner only.  Other lines stay as they are.

    Returns:
        whether others than the owner may read the file.

    Raises:
        KeyExists: there is one already.
        OSError: the file cannot be read or written.
    """
    with open(os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+b") as file:  # noqa: PTH123
        content = file.read()
        _refuse_second(content, path)
        end = b"\r\n" if b"\r\n" in content else b"\n"
        gap = end if content and not content.endswith(b"\n") else b""
        file.write(gap + f"{VARIABLE}={new_key()}".encode() + end)
        return bool(stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077)


def _refuse_second(content: bytes, path: Path) -> None:
    found = _ASSIGNED.search(content)
    if found is None:
        return
    name = found.group(1).decode()
    if not found.group(2):
        raise KeyExists(f"{path} has an empty {name}: remove that line, then run this again")
    raise KeyExists(
        f"{path} gives {name} already, and it stays.  To rotate keys, make one with `vedsess keygen` and put it first: "
        f"{VARIABLE}=NEW,OLD.  It signs from then on, and cookies signed with the old one stay valid"
    )
