"""What a transaction does, as functions over a blocking `Connection`: both colours of engine run them."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, or_, select
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_rows

from vedsess_middleware.errors import CorruptRecord
from vedsess_middleware.stores.contract import Written
from vedsess_middleware.stores.record import Delta, Record, Version
from vedsess_middleware.stores.record import merge as merged
from vedsess_middleware.stores.sql.tables import frame, from_row, instant, sessions, to_row

__all__ = ["end", "find", "insert", "merge", "note_uses", "records", "take_over", "update"]

_c = sessions.c
_FIND = select(sessions).where(_c.session_id == bindparam("key"))
_LOCK = _FIND.with_for_update()
_NOTE_USE = (
    update_rows(sessions)
    .where(_c.session_id == bindparam("key"), _c.is_active, _c.last_activity < bindparam("used_at"))
    .values(last_activity=bindparam("used_at"), expires_at=bindparam("ends_at"))
)


def find(connection: Connection, *, key: str, lock: bool = False) -> Record | None:
    """The record, or None.  `lock` holds the row until the transaction ends, and takes an unreadable one for empty."""
    row = connection.execute(_LOCK if lock else _FIND, {"key": key}).mappings().one_or_none()
    if row is None:
        return None
    return (_readable(row) or frame(row)) if lock else from_row(row)


def records(connection: Connection, *, query: Select[Any]) -> dict[str, Record]:
    """The readable records of a query by key."""
    found = ((row["session_id"], _readable(row)) for row in connection.execute(query).mappings())
    return {key: record for key, record in found if record is not None}


def insert(connection: Connection, *, key: str, record: Record, dirty: bool = False) -> bool:
    """A new row."""
    connection.execute(insert_into(sessions), to_row(key, record, dirty=dirty))
    return True


def update(connection: Connection, *, key: str, delta: Delta) -> Written | None:
    """Write a delta to a live row."""
    record = find(connection, key=key, lock=True)
    if record is None or record.expires_at <= delta.at:
        return None
    if record.gone:
        return Written(gone=True, version=record.version)
    return _write(connection, key, record, delta, dirty=record.dirty)


def take_over(connection: Connection, *, key: str, delta: Delta) -> Written | None:
    """Write a delta to the row merged with what the request had loaded, and mark it dirty."""
    record = find(connection, key=key, lock=True)
    known = [each for each in (record, delta.loaded) if each is not None]
    newest = reduce(merged, known) if known else None
    if newest is None or newest.expires_at <= delta.at:
        return None
    if newest.gone:
        return Written(gone=True, version=newest.version)
    return _write(connection, key, newest, delta, dirty=True, new=record is None)


def merge(connection: Connection, *, key: str, record: Record, dirty: bool = False) -> Record:
    """Bring the row and the record together; a row that knows it all already is not written."""
    row = find(connection, key=key, lock=True)
    if row is None:
        insert(connection, key=key, record=record, dirty=dirty)
        return record
    both = merged(row, record)
    if both != row or dirty > row.dirty:
        _store(connection, key, both, dirty=dirty or row.dirty)
    return both


def end(
    connection: Connection,
    *,
    keys: Sequence[str],
    user_id: str | None = None,
    keep: str | None = None,
    at: float,
    until: float,
) -> list[str]:
    """Leave tombstones."""
    named: ColumnElement[bool] = _c.session_id.in_(keys)
    if user_id is not None:
        named = or_(named, (_c.user_id == user_id) & _c.is_active & (_c.session_id != (keep or "")))
    query = select(sessions).where(named).with_for_update()
    rows = {row["session_id"]: frame(row) for row in connection.execute(query).mappings()}
    for key, record in rows.items():
        if not record.gone:
            version = Version(record.version.s + 1, record.version.r)
            tombstone = Record.tombstone(version=version, at=at, until=max(until, record.expires_at))
            _store(connection, key, tombstone, dirty=record.dirty)
    for key in keys:
        if key not in rows:
            insert(connection, key=key, record=Record.tombstone(version=Version(1, 0), at=at, until=until))
    return [*keys, *(key for key in rows if key not in keys)]


def note_uses(connection: Connection, *, used: Mapping[str, Record]) -> None:
    """Move the time of last use forward, in one statement."""
    rows = [
        {"key": key, "used_at": instant(record.last_activity), "ends_at": instant(record.expires_at)}
        for key, record in sorted(used.items())  # in one order, so that no two processes lock each other out
    ]
    connection.execute(_NOTE_USE, rows)


def _readable(row: Mapping[Any, Any]) -> Record | None:
    try:
        return from_row(row)
    except CorruptRecord:
        return None


def _write(
    connection: Connection, key: str, record: Record, delta: Delta, *, dirty: bool, new: bool = False
) -> Written:
    record = record.written(delta, Version(record.version.s + 1, record.version.r))
    if new:
        insert(connection, key=key, record=record, dirty=dirty)
    else:
        _store(connection, key, record, dirty=dirty)
    return Written(version=record.version, record=record)


def _store(connection: Connection, key: str, record: Record, *, dirty: bool) -> None:
    values = to_row(key, record, dirty=dirty)
    del values["session_id"]
    connection.execute(update_rows(sessions).where(_c.session_id == key).values(**values))
