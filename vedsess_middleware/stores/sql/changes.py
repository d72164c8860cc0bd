"""What becomes of a row: decisions that ask nothing, and so may be taken again."""

from collections.abc import Callable
from functools import reduce
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from vedsess_middleware.stores.contract import Written
from vedsess_middleware.stores.record import Delta, Record, Version, merge
from vedsess_middleware.stores.record import mirrored as followed
from vedsess_middleware.stores.sql.locks import Lock

__all__ = ["Change", "Held", "Step", "brought_together", "mirrored", "taken_over", "written"]

T = TypeVar("T")


class Held(NamedTuple):
    """What the table holds under a key.

    Attributes:
        record: of the row; None: there is no row.
        lock: of the row, as text: it is no part of the record.
        commit: that wrote it last.
    """

    record: Record | None = None
    lock: str = ""
    commit: str = ""


class Step(NamedTuple, Generic[T]):
    """What becomes of a row.

    Attributes:
        answer: what the caller is told.
        record: what is to be stored; None: nothing.
        dirty: its mark.
        lock: what the lock has to be when it is stored; None: it does not matter.
        commit: whose change it is; None: of no request.
    """

    answer: T
    record: Record | None = None
    dirty: bool = False
    lock: str | None = None
    commit: str | None = None


Change: TypeAlias = Callable[[Held], Step[T]]
"""Decides what becomes of a row that holds this.  It may be asked twice."""


def written(held: Held, *, delta: Delta) -> Step[Written | None]:
    """Write a delta to a live row."""
    row = held.record
    if row is None or row.expires_at <= delta.at:
        return Step(None)
    if row.gone:
        return Step(Written(gone=True, version=row.version))
    return _write(row, held, delta, dirty=row.dirty)


def taken_over(held: Held, *, delta: Delta) -> Step[Written | None]:
    """Write a delta to the row merged with what the request had loaded, and mark it dirty."""
    known = [each for each in (held.record, delta.loaded) if each is not None]
    newest = reduce(merge, known) if known else None
    if newest is None or newest.expires_at <= delta.at:
        return Step(None)
    if newest.gone:
        return Step(Written(gone=True, version=newest.version))
    return _write(newest, held, delta, dirty=True)


def brought_together(held: Held, *, record: Record, dirty: bool = False) -> Step[Record]:
    """Merge the row and the record; a row that knows it all already is not written."""
    row = held.record
    if row is None:
        return Step(record, record, dirty)
    both = merge(row, record)
    if both != row or dirty > row.dirty:
        return Step(both, both, dirty or row.dirty)
    return Step(both)


def mirrored(held: Held, *, record: Record) -> Step[Record]:
    """Merge what the primary holds into the row; a row that knows it all already is not written."""
    row = held.record
    if row is None:
        return Step(record, record)
    both = followed(row, record)
    if both != row or both.dirty != row.dirty:
        return Step(both, both, both.dirty)
    return Step(both)


def _write(record: Record, held: Held, delta: Delta, *, dirty: bool) -> Step[Written | None]:
    if held.commit == delta.commit_id:
        return Step(Written(version=record.version, record=record))  # a repeat, after a lost answer
    refusal = _refusal(record, held, delta)
    if refusal is not None:
        return Step(refusal)
    record = record.written(delta, Version(record.version.s + 1, record.version.r))
    lock = None if delta.fence is None else held.lock
    return Step(Written(version=record.version, record=record), record, dirty, lock, delta.commit_id)


def _refusal(record: Record, held: Held, delta: Delta) -> Written | None:
    """What keeps a delta from being written, if anything does."""
    if delta.fence is not None and not Lock.parse(held.lock).admits(delta.fence, delta.at):
        return Written(unlocked=True, version=record.version)
    conflict = delta.conflicts(record)
    return Written(conflict=conflict, version=record.version) if conflict else None
