"""The stored text of a field: what stands in front of it, and how bytes are written.

    [1,2]                             the codec's text; JSON never begins with "$" or "@"
    $p$$100                           the same of a codec whose texts may begin so
    $z$eAGLNtQxigUAA9UBSA             compressed: zlib, in base64url
    $1$9f86d081$q83vEjRWeJCrze8S...   encrypted: the id of the key; nonce, ciphertext and tag in base64url
    $1z$9f86d081$q83vEjRWeJCrze8S...  compressed, then encrypted
    @1795464000000:[1,2]              in front of any of them: when the field ends, in epoch milliseconds

What a text begins with decides alone how it is read: nothing is tried a second way (CVE-2026-39324).
"""

import re
from binascii import a2b_base64, b2a_base64
from typing import NamedTuple

from vedsess_middleware.errors import SerializationError, StoreMisconfigured

__all__ = [
    "MARKS",
    "Parts",
    "base64_of",
    "bytes_of",
    "cut_key_id",
    "ends_at",
    "misconfigured",
    "name_shown",
    "take_apart",
    "unreadable",
    "until_text",
]

MARKS = "$@"
"""What a stored text begins with that is not just the codec's own."""

_FORMS = frozenset({"", "p", "z", "1", "1z"})
_HEAD = re.compile(r"(?:@([0-9]{1,15}):)?(?:\$([a-z]|[0-9]{1,4}[a-z]{0,4})\$)?")
_KEY_ID = re.compile(r"([0-9a-f]{8})\$")
_LATEST = 999_999_999_999.0  # epoch seconds, in the year 33658
_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_+/=", b"+/!!!")


class Parts(NamedTuple):
    """A stored text, taken apart.

    Attributes:
        head: all that stands in front of the body.
        until: when the field ends, in epoch seconds; None: with the session.
        form: how the body is read; empty: it is the codec's text.
        body: the rest.
    """

    head: str
    until: float | None
    form: str
    body: str


def take_apart(name: str, stored: str) -> Parts:
    """The parts of a stored text.

    Raises:
        SerializationError: it is damaged.
        StoreMisconfigured: another release wrote it.
    """
    match = _HEAD.match(stored)
    assert match is not None
    end, form = match.group(1), match.group(2) or ""
    body = stored[match.end() :]
    if form not in _FORMS:
        raise misconfigured(name, f"has the form {form!r}, which this release cannot read: install one that can")
    if not form and body[:1] in MARKS:
        raise unreadable(name)
    return Parts(match.group(), None if end is None else int(end) / 1000, form, body)


def cut_key_id(name: str, body: str) -> tuple[str, str]:
    """The id of the key, and what that key encrypted.  Raises `SerializationError`: there is no such id."""
    match = _KEY_ID.match(body)
    if match is None:
        raise unreadable(name)
    return match.group(1), body[match.end() :]


def ends_at(stored: str) -> float | None:
    """When a stored field ends, in epoch seconds, by what stands in front of it; None: with the session."""
    match = _HEAD.match(stored)
    end = match.group(1) if match else None
    return None if end is None else int(end) / 1000


def until_text(until: float | None) -> str:
    """What stands in front of a field with an end of its own, in epoch seconds."""
    return "" if until is None else f"@{round(min(max(until, 0.0), _LATEST) * 1000)}:"


def base64_of(raw: bytes) -> str:
    """Bytes in base64url (RFC 4648, 5), without padding."""
    return b2a_base64(raw, newline=False).translate(_TO_URL, b"=").decode()


def bytes_of(name: str, text: str) -> bytes:
    """The bytes of a text that `base64_of` wrote.  Raises `SerializationError` for any other text, similar or not."""
    try:
        raw = a2b_base64(text.encode("ascii").translate(_FROM_URL) + b"=" * (-len(text) % 4), strict_mode=True)
    except ValueError:
        raise unreadable(name) from None
    groups = len(raw) // 3
    if base64_of(raw[groups * 3 :]) != text[groups * 4 :]:  # bits that count for nothing are set
        raise unreadable(name)
    return raw


def unreadable(name: str, why: str = "is damaged") -> SerializationError:
    """The error for a field that cannot be read, ever."""
    return SerializationError(f"session field {name_shown(name)} {why}")


def misconfigured(name: str, why: str) -> StoreMisconfigured:
    """The error for a field that can be read once a person has mended something."""
    return StoreMisconfigured(f"session field {name_shown(name)} {why}", one_key=True)


def name_shown(name: str) -> str:
    """A field's name as an error shows it: printable, of at most 80 characters."""
    return ascii(name)[1:-1][:80]
