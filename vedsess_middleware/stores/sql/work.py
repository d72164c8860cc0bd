"""What a transaction does, as functions over a blocking `Connection`: both colours of engine run them."""

from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, case, null, or_, select, union_all
from sqlalchemy import insert as insert_into
from sqlalchemy import update as update_rows

from vedsess_middleware.errors import CorruptRecord
from vedsess_middleware.stores.contract import News, Written
from vedsess_middleware.stores.record import Delta, Record, Version, mirrored
from vedsess_middleware.stores.record import merge as merged
from vedsess_middleware.stores.sql.tables import facts, frame, from_row, instant, sessions, to_row

__all__ = [
    "bury",
    "claim",
    "end",
    "find",
    "insert",
    "merge",
    "mirror",
    "note_uses",
    "pay",
    "poll",
    "records",
    "set_epoch",
    "take_over",
    "update",
]

_MOST_DIRTY = 1000

_c = sessions.c
_FIND = select(sessions).where(_c.session_id == bindparam("key"))
_LOCK = _FIND.with_for_update()
_EPOCH = facts.c.name == "epoch"
_DIRTY = select(_c.session_id).where(_c.dirty).limit(_MOST_DIRTY + 1).subquery()
_POLL = union_all(
    select(facts.c.name, facts.c.value).where(_EPOCH),
    select(_DIRTY.c.session_id, null()),
)
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


def mirror(connection: Connection, *, key: str, record: Record) -> Record:
    """Merge what the primary holds into the row; a row that knows it all already is not written."""
    row = find(connection, key=key, lock=True)
    if row is None:
        insert(connection, key=key, record=record)
        return record
    both = mirrored(row, record)
    if both != row or both.dirty != row.dirty:
        _store(connection, key, both, dirty=both.dirty)
    return both


def claim(connection: Connection, *, key: str, version: Version) -> Version | None:
    """Count one more write, if the row is still at this version and nothing of it is owed."""
    claimed = version._replace(s=version.s + 1)
    still = _c.session_id == key, _c.s == version.s, _c.r == version.r, _c.is_active, ~_c.dirty
    count = connection.execute(update_rows(sessions).where(*still).values(s=claimed.s)).rowcount
    return claimed if count else None


def pay(connection: Connection, *, key: str, version: Version, record: Record, epoch: str) -> None:
    """Store what the primary holds now, and clear the mark: in one statement, for neither may have moved."""
    values = to_row(key, record, dirty=False)
    del values["session_id"]
    for name in ("last_activity", "expires_at"):  # a use is no write, and moves no version
        values[name] = case((_c[name] > values[name], _c[name]), else_=values[name])
    still = _c.session_id == key, _c.s == version.s, _c.r == version.r, *([_is_epoch(epoch)] if epoch else [])
    connection.execute(update_rows(sessions).where(*still).values(**values))


def bury(connection: Connection, *, keys: Collection[str], epoch: str) -> None:
    """Clear the mark of tombstones: they never change again."""
    ended = _c.session_id.in_(keys), ~_c.is_active, _is_epoch(epoch)
    connection.execute(update_rows(sessions).where(*ended).values(dirty=False))


def poll(connection: Connection) -> News:
    """The epoch and the dirty keys."""
    rows = connection.execute(_POLL).all()
    dirty = frozenset(key for key, value in rows if value is None)
    epoch = next((value for _, value in rows if value is not None), "")
    return News(epoch=epoch, dirty=dirty, complete=len(dirty) <= _MOST_DIRTY)


def set_epoch(connection: Connection, *, epoch: str, missing: str) -> bool:
    """Replace the epoch, if nobody has.  A first one fails as a row that is there already."""
    if not missing:
        connection.execute(insert_into(facts), {"name": "epoch", "value": epoch})
        return True
    statement = update_rows(facts).where(and_(_EPOCH, facts.c.value == missing)).values(value=epoch)
    return bool(connection.execute(statement).rowcount)


def end(
    connection: Connection,
    *,
    keys: Sequence[str],
    user_id: str | None = None,
    keep: str | None = None,
    at: float,
    until: float,
    dirty: bool = False,
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
            _store(connection, key, tombstone, dirty=dirty or record.dirty)
    for key in keys:
        if key not in rows:
            tombstone = Record.tombstone(version=Version(1, 0), at=at, until=until)
            insert(connection, key=key, record=tombstone, dirty=dirty)
    return [*keys, *(key for key in rows if key not in keys)]


def note_uses(connection: Connection, *, used: Mapping[str, Record]) -> None:
    """Move the time of last use forward, in one statement."""
    rows = [
        {"key": key, "used_at": instant(record.last_activity), "ends_at": instant(record.expires_at)}
        for key, record in sorted(used.items())  # in one order, so that no two processes lock each other out
    ]
    connection.execute(_NOTE_USE, rows)


def _is_epoch(epoch: str) -> ColumnElement[bool]:
    return select(facts.c.value).where(_EPOCH, facts.c.value == epoch).exists()


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
