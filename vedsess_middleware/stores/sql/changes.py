"""What becomes of a row: decisions that ask nothing, and so may be taken again."""

from collections.abc import Callable
from functools import reduce
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from vedsess_middleware.stores.contract import Written
from vedsess_middleware.stores.record import Delta, Record, Version, merge
from vedsess_middleware.stores.record import mirrored as followed

__all__ = ["Change", "Step", "brought_together", "mirrored", "taken_over", "written"]

T = TypeVar("T")


class Step(NamedTuple, Generic[T]):
    """What becomes of a row.

    Attributes:
        answer: what the caller is told.
        record: what is to be stored; None: nothing.
        dirty: its mark.
    """

    answer: T
    record: Record | None = None
    dirty: bool = False


Change: TypeAlias = Callable[[Record | None], Step[T]]
"""Decides what becomes of a row that holds this.  It may be asked twice."""


def written(row: Record | None, *, delta: Delta) -> Step[Written | None]:
    """Write a delta to a live row."""
    if row is None or row.expires_at <= delta.at:
        return Step(None)
    if row.gone:
        return Step(Written(gone=True, version=row.version))
    return _write(row, delta, dirty=row.dirty)


def taken_over(row: Record | None, *, delta: Delta) -> Step[Written | None]:
    """Write a delta to the row merged with what the request had loaded, and mark it dirty."""
    known = [each for each in (row, delta.loaded) if each is not None]
    newest = reduce(merge, known) if known else None
    if newest is None or newest.expires_at <= delta.at:
        return Step(None)
    if newest.gone:
        return Step(Written(gone=True, version=newest.version))
    return _write(newest, delta, dirty=True)


def brought_together(row: Record | None, *, record: Record, dirty: bool = False) -> Step[Record]:
    """Merge the row and the record; a row that knows it all already is not written."""
    if row is None:
        return Step(record, record, dirty)
    both = merge(row, record)
    if both != row or dirty > row.dirty:
        return Step(both, both, dirty or row.dirty)
    return Step(both)


def mirrored(row: Record | None, *, record: Record) -> Step[Record]:
    """Merge what the primary holds into the row; a row that knows it all already is not written."""
    if row is None:
        return Step(record, record)
    both = followed(row, record)
    if both != row or both.dirty != row.dirty:
        return Step(both, both, both.dirty)
    return Step(both)


def _write(record: Record, delta: Delta, *, dirty: bool) -> Step[Written | None]:
    record = record.written(delta, Version(record.version.s + 1, record.version.r))
    return Step(Written(version=record.version, record=record), record, dirty)
