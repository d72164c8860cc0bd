"""Records that the primary took and the secondary has yet to get."""

import threading
from itertools import islice
from typing import NamedTuple

from vedsess_middleware.stores.record import Record, merge

__all__ = ["Copies", "Copy"]

_MOST = 10_000


class Copy(NamedTuple):
    """A record to copy.

    Attributes:
        record: what the primary holds.
        due: what the primary lists it under; 0: nothing.
        before: what the secondary holds, probably.
    """

    record: Record
    due: int
    before: Record | None = None


class Copies:
    """The copies that this process owes, one for each key.  One stays visible until the secondary has it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, Copy] = {}
        self._under_way: dict[str, Copy] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<Copies {len(self)} waiting>"

    def get(self, key: str) -> Record | None:
        """The record that waits, if there is one."""
        copy = self._waiting.get(key)
        return copy.record if copy else None

    def add(self, key: str, record: Record, due: int, before: Record | None = None) -> Copy:
        """Owe a copy; merged with one that waits already.  Of too many, the oldest goes: the primary lists it."""
        with self._lock:
            known = self._waiting.pop(key, None)
            copy = Copy(record, due, before)
            if known is not None:
                copy = Copy(merge(known.record, record), due or known.due, known.before)
            self._waiting[key] = copy
            if len(self._waiting) > _MOST:
                del self._waiting[next(iter(self._waiting))]
        return copy

    def take(self, limit: int) -> list[tuple[str, Copy]]:
        """Some, the newest first, and none that somebody is copying.  `leave` each."""
        with self._lock:
            free = (item for item in reversed(self._waiting.items()) if self._under_way.get(item[0]) is not item[1])
            taken = list(islice(free, limit))
            self._under_way.update(taken)
        return taken

    def leave(self, key: str, copy: Copy) -> None:
        """Nobody is copying this one any more."""
        with self._lock:
            if self._under_way.get(key) is copy:
                del self._under_way[key]

    def done(self, key: str, copy: Copy) -> None:
        """The secondary has it; a newer one waits on."""
        with self._lock:
            if self._waiting.get(key) is copy:
                del self._waiting[key]
