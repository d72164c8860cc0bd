"""Another content for a file that is in use, in one step."""

import os
import shutil
import tempfile
from pathlib import Path

from vedsess_middleware.errors import SessionError

__all__ = ["OwnerLost", "others_read", "replace_content"]


class OwnerLost(SessionError):
    """The file would belong to somebody else, who may be the only one to read it then.  It was left as it is."""


def replace_content(path: Path, content: bytes) -> None:
    """Put another content into a file: whoever reads it finds the old one or the new one, and never a half.

    Follows a symbolic link.  Owner, mode and extended attributes stay.

    Raises:
        OwnerLost: the owner cannot stay.
        OSError: the file, or the folder that it is in, cannot be written to.
    """
    target = path.resolve(strict=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    made = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            _take_after(target, made)
            os.fsync(handle)
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)
    _sync(target.parent)


def others_read(path: Path) -> bool:
    """Whether others than its owner may read the file, or write to it."""
    return bool(path.stat().st_mode & 0o077)


def _take_after(target: Path, made: Path) -> None:
    """Give the new file what the old one has beside its content."""
    wanted, found = target.stat(), made.stat()
    if (wanted.st_uid, wanted.st_gid) != (found.st_uid, found.st_gid):
        try:
            os.chown(made, wanted.st_uid, wanted.st_gid)
        except PermissionError:
            raise OwnerLost(f"{target} is not yours: run this as its owner, or as root") from None
    shutil.copystat(target, made)
    os.utime(made)


def _sync(folder: Path) -> None:
    """Let the new name last, where a folder can be opened for that."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
