"""What a visit to the database does, as functions over a blocking `Connection`: both colours of engine run them."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select

from vedsess_middleware.errors import CorruptRecord
from vedsess_middleware.stores.contract import News, Owner
from vedsess_middleware.stores.record import Record, Version
from vedsess_middleware.stores.sql import statements
from vedsess_middleware.stores.sql.changes import Change, Held, Step
from vedsess_middleware.stores.sql.tables import beside, changing, frame, from_row, instant, to_row

__all__ = [
    "bury",
    "change",
    "change_all",
    "claim",
    "end",
    "find",
    "forget",
    "insert",
    "note_uses",
    "owed",
    "pay",
    "poll",
    "records_of",
    "sample",
    "set_epoch",
    "try_change",
]

T = TypeVar("T")


# -- one row -----------------------------------------------------------------------------------------------------------


def find(connection: Connection, *, key: str) -> Record | None:
    """The record, or None."""
    return look(connection, key=key).record


def look(connection: Connection, *, key: str) -> Held:
    """What there is under a key."""
    row = connection.execute(statements.FIND, {"key": key}).one_or_none()
    return Held() if row is None else Held(from_row(row), *beside(row))


def hold(connection: Connection, *, key: str) -> Held:
    """The same, held until the transaction ends; an unreadable row is taken for empty."""
    row = connection.execute(statements.LOCK, {"key": key}).one_or_none()
    return Held() if row is None else _held(row)


def insert(connection: Connection, *, key: str, record: Record, dirty: bool = False, commit: str | None = None) -> bool:
    """A new row."""
    connection.execute(statements.INSERT, {**to_row(key, record, dirty=dirty), "commit_id": commit})
    return True


def try_change(connection: Connection, *, key: str, change: Change[T], guess: Record | None = None) -> Step[T] | None:
    """Carry out a change without a transaction, each statement by itself; None: somebody else was at that row.

    A row is replaced only where all of it that ever changes is still what the decision was made from, compared by the
    database in the statement that replaces it.  So it does not matter when that was read, nor whether it was merely
    guessed, and a repeat after a lost answer finds nothing to replace.
    """
    if guess is not None:
        step = change(Held(guess))
        if _swapped(connection, key, guess, step):
            return step
    held = look(connection, key=key)
    step = change(held)
    if step.record is None:
        return step
    if held.record is None:
        insert(connection, key=key, record=step.record, dirty=step.dirty, commit=step.commit)
        return step
    return step if _swapped(connection, key, held.record, step) else None


def change(connection: Connection, *, key: str, change: Change[T]) -> T:
    """Carry out a change of a row that is held meanwhile."""
    held = hold(connection, key=key)
    step = change(held)
    if step.record is not None:
        if held.record is None:
            insert(connection, key=key, record=step.record, dirty=step.dirty, commit=step.commit)
        else:
            _store(connection, key, step.record, dirty=step.dirty, commit=step.commit)
    return step.answer


def change_all(connection: Connection, *, changes: Mapping[str, Change[T]]) -> dict[str, T]:
    """Carry out a change of each of these rows, which are held meanwhile."""
    keys = sorted(changes)
    rows = {row[0]: _held(row) for row in connection.execute(statements.LOCK_ALL, {"keys": statements.padded(keys)})}
    steps = {key: changes[key](rows.get(key, Held())) for key in keys}
    stored = [(key, step.record, step.dirty) for key, step in steps.items() if step.record is not None]
    if updates := [_values(key, record, dirty=dirty) for key, record, dirty in stored if key in rows]:
        connection.execute(statements.STORE, updates)
    if inserts := [to_row(key, record, dirty=dirty) for key, record, dirty in stored if key not in rows]:
        connection.execute(statements.INSERT, inserts)
    return {key: step.answer for key, step in steps.items()}


def claim(connection: Connection, *, key: str, version: Version) -> Version | None:
    """Count one more write, if the row is still at this version and nothing of it is owed."""
    claimed = version._replace(s=version.s + 1)
    count = connection.execute(statements.CLAIM, {**_at(key, version), "new_s": claimed.s}).rowcount
    return claimed if count else None


def pay(connection: Connection, *, key: str, version: Version, record: Record, epoch: str) -> None:
    """Store what the primary holds now, and clear the mark: in one statement, for neither may have moved."""
    values = {**_values(key, record, dirty=False), **_at(key, version)}
    if epoch:
        connection.execute(statements.PAY_UNDER, {**values, "epoch": epoch})
    else:
        connection.execute(statements.PAY, values)


def forget(connection: Connection, *, key: str, version: Version) -> None:
    """Remove a row that is still at this version."""
    connection.execute(statements.FORGET, _at(key, version))


# -- many --------------------------------------------------------------------------------------------------------------


def owed(connection: Connection, *, keys: Collection[str]) -> dict[str, Record]:
    """The readable ones of these that are dirty."""
    return _records(connection, statements.OWED, {"keys": statements.padded(keys)})


def sample(connection: Connection, *, at: float) -> tuple[str, Record] | None:
    """One of the sessions that would end last, if there is one with values."""
    found = _records(connection, statements.SAMPLE, {"now": instant(at)})
    return next(((key, record) for key, record in found.items() if record.values), None)


def records_of(connection: Connection, *, owner: str, by: Owner, at: float) -> dict[str, Record]:
    """The readable live records of a user, or of a `sid`."""
    records = _records(connection, statements.OF[by], {"owner": owner, "now": instant(at)})
    owners = {key: record.user_id if by == "user" else record.sid for key, record in records.items()}
    return {key: record for key, record in records.items() if owners[key] == owner}  # some databases take Ada for ada


def bury(connection: Connection, *, keys: Collection[str], epoch: str) -> None:
    """Clear the mark of tombstones: they never change again."""
    connection.execute(statements.BURY, {"keys": statements.padded(keys), "epoch": epoch})


def poll(connection: Connection) -> News:
    """The epoch, the dirty keys, and how many cut-offs there were."""
    rows = connection.execute(statements.POLL).all()
    dirty = frozenset(key for key, value in rows if value is None)
    facts = {name: value for name, value in rows if value is not None}
    return News(
        epoch=facts.get("epoch", ""),
        dirty=dirty,
        complete=len(dirty) <= statements.MOST_DIRTY,
        cut_offs=int(facts.get("cut_offs", 0)),
    )


def set_epoch(connection: Connection, *, epoch: str, missing: str) -> bool:
    """Replace the epoch, if nobody has.  A first one fails as a row that is there already."""
    if not missing:
        connection.execute(statements.ADD_FACT, {"name": "epoch", "value": epoch})
        return True
    return bool(connection.execute(statements.SET_EPOCH, {"epoch": epoch, "missing": missing}).rowcount)


def end(
    connection: Connection,
    *,
    keys: Sequence[str],
    user_id: str | None = None,
    keep: str | None = None,
    at: float,
    until: float,
    dirty: bool = False,
    successor: str = "",
) -> list[str]:
    """Leave tombstones, each for as long as a copy of its session can be alive."""
    burying = partial(_bury_all, connection, at=at, until=until, dirty=dirty)
    ended, gone_on = burying(keys, user_id=user_id, keep=keep, successor=successor)
    while gone_on := [key for key in gone_on if key not in ended]:
        further, gone_on = burying(gone_on)
        ended += further
    return ended


def _bury_all(
    connection: Connection,
    keys: Sequence[str],
    *,
    user_id: str | None = None,
    keep: str | None = None,
    at: float,
    until: float,
    dirty: bool,
    successor: str = "",
) -> tuple[list[str], list[str]]:
    """End these, and return their keys, and those under which the ones that are named had gone on."""
    named: dict[str, Any] = {"keys": statements.padded(keys)}
    if user_id is None:
        found = connection.execute(statements.NAMED, named)
    else:
        found = connection.execute(statements.NAMED_OR_OF_USER, {**named, "user": user_id, "keep": keep or ""})
    framed = ((row[0], frame(row)) for row in found)
    rows = {key: record for key, record in framed if key in keys or record.user_id == user_id}
    for key, record in rows.items():
        if not record.gone:
            version = Version(record.version.s + 1, record.version.r)
            kept_until = max(until, record.expires_at, at + record.idle_timeout)
            tombstone = Record.tombstone(version=version, at=at, until=kept_until, successor=successor)
            _store(connection, key, tombstone, dirty=dirty or record.dirty)
    for key in keys:
        if key not in rows:
            tombstone = Record.tombstone(version=Version(1, 0), at=at, until=until, successor=successor)
            insert(connection, key=key, record=tombstone, dirty=dirty)
    gone_on = [rows[key].successor for key in keys if key in rows and rows[key].lets_in]
    return [*keys, *(key for key in rows if key not in keys)], gone_on


def note_uses(connection: Connection, *, used: Mapping[str, Record]) -> None:
    """Move the time of last use forward, in one statement."""
    rows = [
        {"key": key, "used_at": instant(record.last_activity), "ends_at": instant(record.expires_at)}
        for key, record in sorted(used.items())  # in one order, so that no two processes lock each other out
    ]
    connection.execute(statements.NOTE_USE, rows)


# -- parts -------------------------------------------------------------------------------------------------------------


def _held(row: Row[Any]) -> Held:
    return Held(_readable(row) or frame(row), *beside(row))


def _readable(row: Row[Any]) -> Record | None:
    try:
        return from_row(row)
    except CorruptRecord:
        return None


def _records(connection: Connection, query: Select[Any], values: dict[str, Any]) -> dict[str, Record]:
    found = ((row[0], _readable(row)) for row in connection.execute(query, values))
    return {key: record for key, record in found if record is not None}


def _at(key: str, version: Version) -> dict[str, Any]:
    return {"key": key, "at_s": version.s, "at_r": version.r}


def _values(key: str, record: Record, *, dirty: bool, commit: str | None = None) -> dict[str, Any]:
    values = {f"new_{name}": value for name, value in to_row(key, record, dirty=dirty).items()}
    values["key"] = values.pop("new_session_id")
    return {**values, "new_commit": commit}


def _store(connection: Connection, key: str, record: Record, *, dirty: bool, commit: str | None = None) -> None:
    connection.execute(statements.STORE, _values(key, record, dirty=dirty, commit=commit))


def _swapped(connection: Connection, key: str, row: Record, step: Step[Any]) -> bool:
    """Replace a row that is still this one; not where it ends, or where it says of its birth what the other did not."""
    record = step.record
    if record is None or row.gone or _birth(row) != _birth(record):
        return False
    values = {f"old_{name}": value for name, value in changing(row, dirty=row.dirty).items()}
    values |= {f"new_{name}": value for name, value in changing(record, dirty=step.dirty).items()}
    values |= {"key": key, "new_commit": step.commit}
    if step.lock is None:
        return bool(connection.execute(statements.SWAP, values).rowcount)
    return bool(connection.execute(statements.SWAP_LOCKED, {**values, "old_lock": step.lock}).rowcount)


def _birth(record: Record) -> tuple[object, ...]:
    """What a session has for as long as it lives."""
    labels = record.user_id, record.session_fingerprint, record.user_agent, record.ip_address, record.sid
    return record.gone, record.created_at, record.idle_timeout, record.deadline_at, record.origin, *labels
