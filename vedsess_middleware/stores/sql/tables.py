"""The tables, and how a record looks as a row.

Column names are those of the seed application.  `session_id` is the key, never the id; instants are naive UTC; a row
that is not active is a tombstone.  `s` and `r` are the version; `fields` is a JSON object of `stamp:JSON` by name;
`lock_holder` and `commit_id` are no part of the record.  A table of an earlier release lacks the columns `LATER`.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from types import NoneType
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, DateTime, Dialect, Double, MetaData, String, Table, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator

from vedsess_middleware.errors import CorruptRecord
from vedsess_middleware.stores.record import Field, Origin, Record, Stamped, Version

__all__ = [
    "LATER",
    "beside",
    "changing",
    "epoch_seconds",
    "facts",
    "frame",
    "from_row",
    "instant",
    "metadata",
    "sessions",
    "to_row",
    "users",
]

_1970 = datetime(1970, 1, 1)

metadata = MetaData()
"""Our own: an app's migrations may merge it, and never meet it by accident."""

_LOST = datetime(1, 1, 1)


class _ReadableInstant(TypeDecorator[datetime]):
    """An instant; `_LOST` where SQLite, which takes anything into any column, holds something else."""

    impl = DateTime
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], datetime | None] | None:
        read = super().result_processor(dialect, coltype)
        return read and partial(_read_or_lost, read)


def _read_or_lost(read: Callable[[Any], datetime | None], stored: object) -> datetime | None:
    try:
        moment = read(stored)
    except (ValueError, TypeError):
        return _LOST
    return _LOST if moment is not None and moment.tzinfo else moment


_Instant = _ReadableInstant().with_variant(mysql.DATETIME(fsp=3), "mysql", "mariadb")
# By themselves these take ada for Ada.
_EXACT: dict[str, Any] = {
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
}
_LongText = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")

sessions = Table(
    "vedsess_sessions",
    metadata,
    Column("session_id", String(64), primary_key=True),
    Column("user_id", String(255), index=True),
    Column("session_fingerprint", String(255)),
    Column("created_at", _Instant, nullable=False),
    Column("updated_at", _Instant, nullable=False),
    Column("last_activity", _Instant, nullable=False),
    Column("expires_at", _Instant, nullable=False, index=True),
    Column("is_active", Boolean, nullable=False),
    Column("user_agent", String(64)),
    Column("ip_address", String(64)),
    Column("idle_timeout", Double, nullable=False),
    Column("deadline_at", _Instant, nullable=False),
    Column("s", BigInteger, nullable=False),
    Column("r", BigInteger, nullable=False),
    Column("dirty", Boolean, nullable=False, index=True),
    Column("fields", _LongText, nullable=False),
    Column("sid", String(64), index=True),
    Column("origin", String(128)),
    Column("successor", String(80)),
    Column("lock_holder", String(128)),
    Column("commit_id", String(64)),
    **_EXACT,
)

LATER = ("sid", "origin", "successor", "lock_holder", "commit_id")
"""Columns that the first releases had not."""

facts = Table(
    "vedsess_facts",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", String(255), nullable=False),
)
"""What is true of all sessions: the `epoch` that copies in Redis have to be of, and how many `cut_offs` there were."""

users = Table(
    "vedsess_users",
    metadata,
    Column("user_id", String(255), primary_key=True),
    Column("cut_off_at", _Instant),
    Column("cut_off_number", BigInteger, index=True),
    Column("reserved", Text),
    Column("expires_at", _Instant, nullable=False, index=True),
    **_EXACT,
)
"""What is true of a user: when all sessions were ended, and which places are `reserved`, as a JSON object of keys with
epoch milliseconds.  After `expires_at` a row says nothing any more."""


_FIELDS = sessions.c.keys().index("fields")
_MOST_WRITES = 10**15  # as many as a cookie can tell of
_LONGEST = 1e10  # seconds, three centuries
_OLDEST_COOKIE = 400 * 86400.0  # that any browser keeps (RFC 6265bis, 5.5)
_FAR = 250_000_000_000.0  # epoch seconds, in the year 9892
_UNREADABLE = (ValueError, TypeError, OverflowError)


def instant(at: float) -> datetime:
    """Epoch seconds as the table holds them."""
    return _1970 + timedelta(seconds=at)


def to_row(key: str, record: Record, *, dirty: bool) -> dict[str, Any]:
    """The column values of a record."""
    return {
        "session_id": key,
        "user_id": record.user_id,
        "session_fingerprint": record.session_fingerprint,
        "created_at": instant(record.created_at),
        "is_active": not record.gone,
        "user_agent": record.user_agent,
        "ip_address": record.ip_address,
        "idle_timeout": record.idle_timeout,
        "deadline_at": instant(record.deadline_at),
        "sid": record.sid,
        "origin": record.origin or None,
        "successor": record.successor or None,
        **changing(record, dirty=dirty),
    }


def changing(record: Record, *, dirty: bool) -> dict[str, Any]:
    """The values of the columns that change while a session lives; the others it has from its birth."""
    return {
        "updated_at": instant(record.updated_at),
        "last_activity": instant(record.last_activity),
        "expires_at": instant(record.expires_at),
        "s": record.version.s,
        "r": record.version.r,
        "dirty": dirty,
        "fields": _text(record.fields),
    }


def from_row(row: Sequence[Any]) -> Record:
    """Read a row.

    Raises:
        CorruptRecord: it is not ours.
    """
    try:
        return _record(row, lambda: Stamped(_decode(row[_FIELDS])))
    except _UNREADABLE:
        pass  # raised below, so that no chained error carries what is stored
    raise CorruptRecord("a row of the session table is not a session")


def frame(row: Sequence[Any]) -> Record:
    """Read a row without its fields: that works whatever is in it.  One of which no more can be read is over."""
    try:
        return _record(row, dict)
    except _UNREADABLE:
        return _ruin(row)


def beside(row: Sequence[Any]) -> tuple[str, str]:
    """What a row holds beside the record: its lock and its last commit."""
    *_, lock, commit = row
    return lock or "", commit or ""


def _record(row: Sequence[Any], fields: Callable[[], Mapping[str, Field]]) -> Record:
    if _LOST in row or not all(map(isinstance, row, _KINDS)):
        raise TypeError("a column holds what it is not for")
    _, user, fingerprint, created, updated, used, expires, active, *rest = row
    agent, address, idle, deadline, s, r, dirty, _, sid, origin, successor, _, _ = rest
    if not (0 <= s < _MOST_WRITES and 0 <= r < _MOST_WRITES):
        raise ValueError("no cookie can tell of so many writes")
    if not active:
        moments = {"at": epoch_seconds(updated), "until": epoch_seconds(expires)}
        ended = Record.tombstone(version=Version(s, r), successor=successor or "", **moments)
        return ended.replace(dirty=dirty)
    if not 0 < idle < _LONGEST:
        raise ValueError("no session lives for so long")
    return Record(
        version=Version(s, r),
        fields=fields(),
        created_at=epoch_seconds(created),
        updated_at=epoch_seconds(updated),
        last_activity=epoch_seconds(used),
        expires_at=epoch_seconds(expires),
        idle_timeout=idle,
        deadline_at=epoch_seconds(deadline),
        user_id=user,
        session_fingerprint=fingerprint,
        user_agent=agent,
        ip_address=address,
        sid=sid,
        origin=str(Origin.parse(origin)) if origin else "",
        dirty=dirty,
    )


def _ruin(row: Sequence[Any]) -> Record:
    """What can be said of a row that is no session: whose it was, and which writes it had.

    It is over, and adds nothing to a copy that it is merged with.
    """
    found = dict(zip(sessions.c.keys(), row, strict=True))
    s, r = (found[name] if type(found[name]) is int and 0 <= found[name] < _MOST_WRITES else 0 for name in ("s", "r"))
    return Record(
        version=Version(s, r),
        created_at=_FAR,
        updated_at=0.0,
        last_activity=0.0,
        expires_at=0.0,
        idle_timeout=_OLDEST_COOKIE,
        deadline_at=_FAR,
        user_id=found["user_id"] if type(found["user_id"]) is str else None,
        dirty=bool(found["dirty"]),
    )


def epoch_seconds(moment: datetime) -> float:
    """What an instant of the table is."""
    return (moment - _1970).total_seconds()


def _text(fields: Mapping[str, Field]) -> str:
    """One text for the same fields, whatever order they come in: rows are compared by it."""
    return _encode(Stamped.of(fields).texts).decode()


def _kinds(column: Column[Any]) -> tuple[type, ...]:
    kind = float if isinstance(column.type, Double) else column.type.python_type
    return (kind, *((int,) if kind is float else ()), *((NoneType,) if column.nullable else ()))


_KINDS = [_kinds(column) for column in sessions.c]
_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, str]).decode
