"""How much room the fields of a session take in the store, and how much they may."""

from collections.abc import Mapping

from vedsess_middleware.errors import SessionTooLarge
from vedsess_middleware.sealing.texts import name_shown

__all__ = ["check_sizes", "largest"]


def largest(fields: Mapping[str, str], most: int = 5) -> str:
    """The largest fields by name, the largest first, without a word of their values.

    >>> largest({"user": "7", "cart": "x" * 31000})
    'cart 30 KB, user 5 B'

    Args:
        fields: the stored texts by name.
        most: how many are named.  Default 5.
    """
    sizes = sorted(_sizes(fields).items(), key=lambda item: -item[1])
    return ", ".join(f"{name_shown(name)} {_shown(size)}" for name, size in sizes[:most])


def check_sizes(fields: Mapping[str, str], *, max_field_bytes: int | None, max_session_bytes: int | None) -> None:
    """Refuse a session that is larger than it may be.  A field's size is that of its name and its text in UTF-8.

    Args:
        fields: the stored texts by name, all that the session has.
        max_field_bytes: what each may take; None: no limit.
        max_session_bytes: what they may take together; None: no limit.

    Raises:
        SessionTooLarge: the message names the limit, the size and the largest fields.
    """
    sizes = _sizes(fields)
    name = max(sizes, key=sizes.__getitem__, default="")
    if max_field_bytes is not None and sizes.get(name, 0) > max_field_bytes:
        raise _too_large(f"session field {name_shown(name)}", sizes[name], "max_field_bytes", max_field_bytes, fields)
    total = sum(sizes.values())
    if max_session_bytes is not None and total > max_session_bytes:
        raise _too_large("the session", total, "max_session_bytes", max_session_bytes, fields)


def _too_large(what: str, size: int, setting: str, limit: int, fields: Mapping[str, str]) -> SessionTooLarge:
    return SessionTooLarge(
        f"{what} has {size} bytes, and {setting} is {limit}: keep less in it, or raise the limit.  "
        f"The largest: {largest(fields)}"
    )


def _sizes(fields: Mapping[str, str]) -> dict[str, int]:
    return {name: _bytes(name) + _bytes(text) for name, text in fields.items()}


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _shown(size: int) -> str:
    for unit in ("B", "KB"):
        if size < 1000:
            return f"{size} {unit}"
        size = round(size / 1024)
    return f"{size} MB"
