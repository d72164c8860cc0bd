"""What happened, as frozen values, and who is told.

An event hook is a plain callable.  It is called on the request path: it must be quick, must not block and must not
raise.  No event holds an id, a cookie, a secret or a session value; `session` is the first eight digits of the key.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import ClassVar

__all__ = [
    "CookieRejected",
    "CopyOwed",
    "CopyPickedUp",
    "Event",
    "EventCounts",
    "EventHook",
    "IdChanged",
    "RecordDrained",
    "RecordRejected",
    "SessionCreated",
    "SessionEnded",
    "SessionUnavailable",
    "StoreDegraded",
    "StoreRecovered",
    "StoreRefenced",
    "StoreRefused",
    "StoreRestarted",
    "UnknownSession",
    "WriteRefused",
    "WritesLost",
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
    """The process behind the connection does not know our scripts: it is new, was restarted, or is another one."""

    level: ClassVar[int] = logging.INFO
    store: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRefenced(Event):
    """This process has agreed with the others on a new epoch, for Redis was restarted and may hold old data.

    What it holds counts again, one by one, when it has been compared with SQL.
    """

    level: ClassVar[int] = logging.WARNING
    store: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordDrained(Event):
    """Redis was told what SQL took while it could not: the record is the same in both stores again."""

    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyPickedUp(Event):
    """SQL got a copy that another process owed it: that process died, or was kept waiting."""

    level: ClassVar[int] = logging.INFO
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WritesLost(Event):
    """A browser has seen writes that no store holds any more, nor any process as far as one can tell.

    It is served what there is, and `Session.stale` says so.
    """

    level: ClassVar[int] = logging.ERROR
    session: str


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


class EventCounts:
    """A hook that counts what it hands on.

    Args:
        on_event: the hook to hand on to.

    Attributes:
        counts: how many of each kind there were since this process began, by the name of the class.
    """

    def __init__(self, on_event: EventHook) -> None:
        self._on_event = on_event
        self.counts: Counter[str] = Counter()

    def __call__(self, event: Event) -> None:
        self.counts[type(event).__name__] += 1
        self._on_event(event)


_logger = logging.getLogger("vedsess_middleware")


def log_event(event: Event) -> None:
    """The default hook: one log record per event, on the logger `vedsess_middleware`."""
    if _logger.isEnabledFor(event.level):
        name = type(event).__name__
        facts = " ".join(f"{fact}={value!r}" for fact, value in asdict(event).items())
        _logger.log(event.level, "%s %s", name, facts, extra={"event": name})
