"""What the apps do: the same few lines for every session library, on the same values."""

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Action = Callable[[Any], str]
"""Does something with a session, and returns what to answer."""

_values = itertools.count(1)
_words = random.Random(7)


def _text(length: int) -> str:
    return "".join(_words.choices("abcdefghijklmnopqrstuvwxyz ", k=length))


def _fields(count: int, total: int) -> dict[str, Any]:
    """A session of so many fields and about so many bytes as JSON; the first is a small number."""
    length = (total - 8) // (count - 1) - 14
    return {"n": 0, **{f"field-{number:02}": _text(length) for number in range(1, count)}}


SMALL = {"n": 0, "user": "ada-lovelace", "name": "Ada Lovelace", "language": "en", "theme": "high-contrast"}
SIZES = {f"{kilobytes}k": kilobytes * 1024 for kilobytes in (1, 4, 16, 64, 256, 1024)}
SESSIONS: Mapping[str, dict[str, Any]] = {
    "small": SMALL,
    "big": _fields(50, 32 * 1024),
    "many": _fields(50, 50 * 40),
    **{name: _fields(20, size) for name, size in SIZES.items()},
}
"""The sessions that apps create, by name."""


def plain(session: Any) -> str:
    """Leave the session alone."""
    return "plain"


def read(session: Any) -> str:
    return str(session["n"])


def write(session: Any) -> str:
    """Set one field to a new value, without looking at the session."""
    session["n"] = value = next(_values)
    return str(value)


def add(session: Any) -> str:
    """Read one field, and change it."""
    session["n"] = value = session["n"] + 1
    return str(value)


def login(session: Any) -> str:
    """Log a new user in, as the package has it; its peers have no such thing."""
    session.login(f"user-{next(_values)}")
    session.update(SMALL)
    return "created"


def store(session: Any) -> str:
    """Which store served the session, where the library can tell."""
    return str(getattr(session, "store", "redis"))


def creating(name: str) -> Action:
    """An action that puts values into a new session."""
    values = SESSIONS[name]

    def create(session: Any) -> str:
        session.update(values)
        return "created"

    return create


_CREATIONS = {f"create-{name}": creating(name) for name in SESSIONS}
ACTIONS: Mapping[str, Action] = {
    "plain": plain,
    "read": read,
    "write": write,
    "add": add,
    "login": login,
    "store": store,
    **_CREATIONS,
}
"""What an app does at `/<name>`."""

WRITES = frozenset({"write", "add", "login", *_CREATIONS})
"""The actions after which a library that has to be told is told to save."""


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of request.

    Args:
        name: of the row in every table.
        action: what the app does.
        session: which session the browser has; None for a browser without a cookie.
        pause: seconds before each request in which nothing happens, so that it meets no work of the one before.
    """

    name: str
    action: str
    session: str | None
    pause: float = 0.0

    @property
    def fits_a_cookie(self) -> bool:
        """Whether a library that keeps the session in the cookie can take part."""
        return self.session in (None, "small")


ROWS = (
    Row("untouched", "plain", "small"),
    Row("anonymous", "plain", None),
    Row("read", "read", "small"),
    Row("write", "write", "small"),
    Row("write, paused", "write", "small", pause=0.004),
    Row("read+write", "add", "small"),
    Row("create", "create-small", None),
    Row("login", "login", None),
    Row("32 KB read", "read", "big"),
    Row("32 KB write", "write", "big"),
    Row("32 KB read+write", "add", "big"),
    Row("50 fields read", "read", "many"),
    Row("50 fields write", "write", "many"),
)

SIZE_ROWS = tuple(Row(f"{size} {action}", action, size) for size in SIZES for action in ("write", "add"))
"""The same two requests on sessions of all sizes."""
