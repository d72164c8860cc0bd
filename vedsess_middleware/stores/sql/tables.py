"""The tables, and how a record looks as a row.

Column names are those of the seed application.  `session_id` is the key, never the id; instants are naive UTC; a row
that is not active is a tombstone.  `s` and `r` are the version; `fields` is a JSON object of `stamp:JSON` by name.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, DateTime, Double, MetaData, String, Table, Text
from sqlalchemy.dialects import mysql

from vedsess_middleware.errors import CorruptRecord
from vedsess_middleware.stores.record import Field, Record, Stamped, Version

__all__ = ["changing", "facts", "frame", "from_row", "instant", "metadata", "sessions", "to_row"]

_1970 = datetime(1970, 1, 1)

metadata = MetaData()
"""Our own: an app's migrations may merge it, and never meet it by accident."""

_Instant = DateTime().with_variant(mysql.DATETIME(fsp=3), "mysql", "mariadb")
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
    mysql_charset="utf8mb4",
    mariadb_charset="utf8mb4",
)


facts = Table(
    "vedsess_facts",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("value", String(255), nullable=False),
)
"""What is true of all sessions: the `epoch` that copies in Redis have to be of."""


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
        CorruptRecord: its fields are not ours.
    """
    try:
        return _record(row, lambda: Stamped(_decode(row[-1])))
    except ValueError as error:
        raise CorruptRecord("a row of the session table is not a session") from error


def frame(row: Sequence[Any]) -> Record:
    """Read a row without its fields: that works whatever is in them."""
    return _record(row, dict)


def _record(row: Sequence[Any], fields: Callable[[], Mapping[str, Field]]) -> Record:
    _, user, fingerprint, created, updated, used, expires, active, agent, address, idle, deadline, s, r, dirty, _ = row
    if not active:
        ended = Record.tombstone(version=Version(s, r), at=_epoch(updated), until=_epoch(expires))
        return ended.replace(dirty=dirty)
    return Record(
        version=Version(s, r),
        fields=fields(),
        created_at=_epoch(created),
        updated_at=_epoch(updated),
        last_activity=_epoch(used),
        expires_at=_epoch(expires),
        idle_timeout=idle,
        deadline_at=_epoch(deadline),
        user_id=user,
        session_fingerprint=fingerprint,
        user_agent=agent,
        ip_address=address,
        dirty=dirty,
    )


def _epoch(moment: datetime) -> float:
    return (moment - _1970).total_seconds()


def _text(fields: Mapping[str, Field]) -> str:
    """One text for the same fields, whatever order they come in: rows are compared by it."""
    return _encode(Stamped.of(fields).texts).decode()


_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, str]).decode
