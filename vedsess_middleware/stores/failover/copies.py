"""Records that the primary took and the secondary has yet to get."""

import threading
from collections.abc import Iterator
from typing import NamedTuple

from vedsess_middleware.stores.record import Record, merge

__all__ = ["Copies", "Copy"]

_MOST = 10_000


class Copy(NamedTuple):
    """A record to copy; `due` is what the primary lists it under, 0: nothing."""

    record: Record
    due: int


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

    def add(self, key: str, record: Record, due: int) -> Copy:
        """Owe a copy; merged with one that waits already.  Of too many, the oldest goes: the primary lists it."""
        with self._lock:
            known = self._waiting.pop(key, None)
            copy = Copy(merge(known.record, record), due or known.due) if known else Copy(record, due)
            self._waiting[key] = copy
            if len(self._waiting) > _MOST:
                del self._waiting[next(iter(self._waiting))]
        return copy

    def take(self, limit: int) -> Iterator[tuple[str, Copy]]:
        """Some, one by one, the newest first, and none that somebody is copying.  `leave` each."""
        for _ in range(min(len(self._waiting), limit)):
            with self._lock:
                waiting = reversed(self._waiting.items())
                found = next((item for item in waiting if self._under_way.get(item[0]) is not item[1]), None)
                if found is None:
                    return
                self._under_way[found[0]] = found[1]
            yield found

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
