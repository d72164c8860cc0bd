"""What happened, as frozen values, and who is told.

An event hook is a plain callable.  It is called on the request path: it must be quick, must not block and must not
raise.  No event holds an id, a cookie, a secret or a session value; `session` is the first eight digits of the key.
"""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar

__all__ = [
    "CookieRejected",
    "CopyOwed",
    "Event",
    "EventHook",
    "IdChanged",
    "RecordRejected",
    "SessionCreated",
    "SessionEnded",
    "SessionUnavailable",
    "StoreDegraded",
    "StoreRecovered",
    "StoreRefused",
    "StoreRestarted",
    "UnknownSession",
    "WriteRefused",
    "log_event",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        level: how loud the log is about it, as in `logging`.
    """

    level: ClassVar[int] = logging.DEBUG


EventHook = Callable[[Event], None]
"""Called with every event, in the thread or task that caused it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCreated(Event):
    """A session was stored for the first time."""

    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IdChanged(Event):
    """A session went on under a new id; `login` says whether someone logged in."""

    session: str
    previous: str
    login: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """A session was ended by its user (`logout`) or from outside (`revoked`)."""

    session: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieRejected(Event):
    """A cookie of ours was not one: forged, truncated, too long, or signed with a key that is not known."""

    level: ClassVar[int] = logging.INFO
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownSession(Event):
    """A cookie was genuine, but its session is not there: expired, or ended."""

    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordRejected(Event):
    """A stored record, or one field of it, could not be read.  The session was treated as ended."""

    level: ClassVar[int] = logging.ERROR
    session: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRefused(Event):
    """Changes were not written: the session was ended meanwhile, a cookie could not be set any more, or must not be."""

    level: ClassVar[int] = logging.INFO
    session: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreDegraded(Event):
    """A store stopped serving; the other one does.  Emitted on the change, not per request."""

    level: ClassVar[int] = logging.WARNING
    store: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRecovered(Event):
    """A store serves again."""

    level: ClassVar[int] = logging.WARNING
    store: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRefused(Event):
    """A store answered and refused: a setting is wrong.  At once, then at most once a minute for the same words."""

    level: ClassVar[int] = logging.ERROR
    store: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRestarted(Event):
    """The process behind the connection does not know our scripts: it is new, or it was restarted."""

    level: ClassVar[int] = logging.INFO
    store: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyOwed(Event):
    """The secondary did not take its copy of a record; it is tried again after later responses."""

    level: ClassVar[int] = logging.WARNING
    store: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionUnavailable(Event):
    """A request needed its session, and no store could give or take it: it is answered with 503."""

    level: ClassVar[int] = logging.WARNING
    reason: str


_logger = logging.getLogger("vedsess_middleware")


def log_event(event: Event) -> None:
    """The default hook: one log record per event, on the logger `vedsess_middleware`."""
    if _logger.isEnabledFor(event.level):
        name = type(event).__name__
        facts = " ".join(f"{fact}={value!r}" for fact, value in asdict(event).items())
        _logger.log(event.level, "%s %s", name, facts, extra={"event": name})
