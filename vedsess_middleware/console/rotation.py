"""New keys into the list that a file gives, and old ones out of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vedsess_middleware import environment
from vedsess_middleware.console.env_file import Assignment, assignments
from vedsess_middleware.console.files import replace_content
from vedsess_middleware.console.keygen import VARIABLES, Purpose, new_key
from vedsess_middleware.errors import SessionError

__all__ = ["Move", "Rotation", "RotationRefused", "moved", "rotate_env_file", "rotate_key_file"]

Move = Literal["in front", "behind", "to front"]
"""What happens to a list of keys: a new one comes in front, a new one comes behind, or the last one goes in front."""


class RotationRefused(SessionError):
    """The file does not hold what can be rotated, and was left as it is.  The message says why, and shows no key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """What became of a list of keys.  Holds none of them.

    Attributes:
        count: how many there are now.
        dropped: how many went.
    """

    count: int
    dropped: int


def rotate_env_file(path: Path, purpose: Purpose, move: Move, *, keep: int) -> Rotation:
    """Rotate the keys in the line of an env file that gives them.  All else in it stays as it is.

    Args:
        path: of the file; a link leads to it.
        purpose: which keys.
        move: what happens to them.
        keep: how many old ones stay.

    Raises:
        RotationRefused: there is not one line that gives keys, or too few keys.
        OwnerLost: see `replace_content`.
        OSError: the same.
    """
    content = path.read_bytes()
    found = _only(assignments(content, VARIABLES[purpose]), path, purpose)
    if found.span is None:
        raise RotationRefused(f"{path} gives {found.variable} in a way that is not understood: write it on one line")
    start, end = found.span
    keys, rotation = _rotated(found.value, path, purpose, move, keep)
    replace_content(path, content[:start] + keys + content[end:])
    return rotation


def rotate_key_file(path: Path, purpose: Purpose, move: Move, *, keep: int) -> Rotation:
    """The same for a file that holds nothing but the keys, as `VEDSESS_SECRET_KEY_FILE` names it."""
    content = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    end = content[len(content.rstrip()) :]
    keys, rotation = _rotated(content, path, purpose, move, keep)
    replace_content(path, keys + end)
    return rotation


def moved(keys: Sequence[str], move: Move, *, new: str, keep: int) -> list[str]:
    """The list after that.

    Args:
        keys: before, the one in use first; at least one, and two where the last one is to go in front.
        move: what happens to them.
        new: the key that comes, if one does.
        keep: how many old ones stay.
    """
    if move == "behind":
        return [*keys[: keep + 1], new]
    first, old = (new, keys) if move == "in front" else (keys[-1], keys[:-1])
    return [first, *old[:keep]]


def _only(found: Sequence[Assignment], path: Path, purpose: Purpose) -> Assignment:
    variable = VARIABLES[purpose]
    if not found:
        raise RotationRefused(f"{path} gives no {variable} yet: make the first with `vedsess keygen --for {purpose}`")
    for each in found:
        if each.variable != variable:
            raise RotationRefused(f"{path} names a file in {each.variable}: rotate that one, with --key-file")
    if len(found) > 1:
        raise RotationRefused(f"{path} gives {variable} {len(found)} times: remove all lines but one")
    return found[0]


def _rotated(value: bytes, path: Path, purpose: Purpose, move: Move, keep: int) -> tuple[bytes, Rotation]:
    """The text of the list after that, and what became of it."""
    before = _keys(value, path, purpose)
    if move == "to front" and len(before) == 1:
        raise RotationRefused(f"{path} gives one key only: put another one behind it first, with --behind")
    after = moved(before, move, new=new_key(), keep=keep)
    added = move != "to front"
    return ",".join(after).encode(), Rotation(count=len(after), dropped=len(before) + added - len(after))


def _keys(value: bytes, path: Path, purpose: Purpose) -> tuple[str, ...]:
    """The keys in a text, parted as the settings part them."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    values, _ = environment.read({VARIABLES[purpose]: text})
    keys: tuple[str, ...] = values.get(f"{purpose}_key", ())
    if not keys:
        raise RotationRefused(f"{path} gives no key that can be read: make one with `vedsess keygen --for {purpose}`")
    return keys
