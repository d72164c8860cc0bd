"""The tables, and how a record looks as a row.

Column names are those of the seed application.  `session_id` is the key, never the id; instants are naive UTC; a row
that is not active is a tombstone.  `s` and `r` are the version; `fields` is a JSON object of `stamp:JSON` by name.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Boolean, Column, DateTime, Double, MetaData, String, Table, Text
from sqlalchemy.dialects import mysql

from vedsess_middleware.errors import CorruptRecord
from vedsess_middleware.stores.record import Field, Record, Version

__all__ = ["facts", "frame", "from_row", "instant", "metadata", "sessions", "to_row"]

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
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None)


def to_row(key: str, record: Record, *, dirty: bool) -> dict[str, Any]:
    """The column values of a record."""
    return {
        "session_id": key,
        "user_id": record.user_id,
        "session_fingerprint": record.session_fingerprint,
        "created_at": instant(record.created_at),
        "updated_at": instant(record.updated_at),
        "last_activity": instant(record.last_activity),
        "expires_at": instant(record.expires_at),
        "is_active": not record.gone,
        "user_agent": record.user_agent,
        "ip_address": record.ip_address,
        "idle_timeout": record.idle_timeout,
        "deadline_at": instant(record.deadline_at),
        "s": record.version.s,
        "r": record.version.r,
        "dirty": dirty,
        "fields": msgspec.json.encode({name: str(item) for name, item in record.fields.items()}).decode(),
    }


def from_row(row: Mapping[Any, Any]) -> Record:
    """Read a row.

    Raises:
        CorruptRecord: its fields are not ours.
    """
    record = frame(row)
    if record.gone:
        return record
    try:
        texts = msgspec.json.decode(row["fields"], type=dict[str, str])
        return record.replace(fields={name: Field.parse(text) for name, text in texts.items()})
    except ValueError as error:
        raise CorruptRecord("a row of the session table is not a session") from error


def frame(row: Mapping[Any, Any]) -> Record:
    """Read a row without its fields: that works whatever is in them."""
    version = Version(row["s"], row["r"])
    if not row["is_active"]:
        ended = Record.tombstone(version=version, at=_epoch(row["updated_at"]), until=_epoch(row["expires_at"]))
        return ended.replace(dirty=row["dirty"])
    return Record(
        version=version,
        created_at=_epoch(row["created_at"]),
        updated_at=_epoch(row["updated_at"]),
        last_activity=_epoch(row["last_activity"]),
        expires_at=_epoch(row["expires_at"]),
        idle_timeout=row["idle_timeout"],
        deadline_at=_epoch(row["deadline_at"]),
        user_id=row["user_id"],
        session_fingerprint=row["session_fingerprint"],
        user_agent=row["user_agent"],
        ip_address=row["ip_address"],
        dirty=row["dirty"],
    )


def _epoch(moment: datetime) -> float:
    return moment.replace(tzinfo=UTC).timestamp()
