"""What happens to the stores, to what they hold, and between them."""

import logging
from dataclasses import dataclass
from typing import ClassVar

from vedsess_middleware.events.base import Event

__all__ = [
    "CopyOwed",
    "CopyPickedUp",
    "RecordDrained",
    "SessionUnavailable",
    "StoreDegraded",
    "StoreRecovered",
    "StoreRefenced",
    "StoreRefused",
    "StoreRestarted",
    "WritesLost",
]


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
    audit: ClassVar[str] = "sys_restart"
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
