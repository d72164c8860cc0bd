"""The contract's reference: records in a dict of this process.  For tests and trials; nothing outlives the process."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Literal

from vedsess_middleware.errors import SessionExists
from vedsess_middleware.stores.contract import Stats, Written
from vedsess_middleware.stores.record import Delta, Record, Version, merge

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps the whole contract, also that of a secondary, without I/O.

    Args:
        counts: which number of a version this store counts: `r` as a primary, `s` as a secondary.
    """

    name = "memory"
    is_async = None
    pending = False

    def __init__(self, *, counts: Literal["r", "s"] = "r") -> None:
        self._counts = counts
        self._records: dict[str, Record] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._records)} records>"

    def load(self, key: str, *, at: float, refresh: float, token: Version = Version()) -> Record | None:
        with self._lock:
            record = self._records.get(key)
            if record is None or record.expires_at <= at:
                return None
            if not record.gone and record.last_activity + refresh < at:
                self._records[key] = record = record.used(at)
        return replace(record, served_by=self.name, stale=not record.gone and not record.version.covers(token))

    def create(self, key: str, record: Record) -> Version:
        with self._lock:
            if key in self._records:
                raise SessionExists("a record exists under this key")
            self._records[key] = record = record.born(self._next(Version()))
            return record.version

    def update(self, key: str, delta: Delta) -> Written | None:
        with self._lock:
            record = self._live(key, delta.at)
            if record is None:
                return None
            if record.gone:
                return Written(gone=True, version=record.version)
            if self._counts == "r" and not (record.version.covers(delta.base) and record.version.s == delta.base.s):
                return None
            return self._write(key, record, delta)

    def replace(
        self, old_key: str, new_key: str, record: Record, *, at: float, until: float, even_if_gone: bool = False
    ) -> Version | None:
        old = self._records.get(old_key)
        if old is not None and old.gone and not even_if_gone:
            return None
        version = self.create(new_key, record)
        self.end([old_key], at=at, until=until)
        return version

    def end(
        self, keys: Sequence[str], *, user_id: str | None = None, keep: str | None = None, at: float, until: float
    ) -> list[str]:
        with self._lock:
            ended = list(keys) + [key for key in self._of(user_id, at) if key != keep and key not in keys]
            for key in ended:
                old = self._records.get(key)
                if old is None or not old.gone:
                    version = self._next(old.version if old else Version())
                    kept_until = max(until, old.expires_at) if old else until
                    self._records[key] = Record.tombstone(version=version, at=at, until=kept_until)
            return ended

    def merge(self, key: str, record: Record) -> Record:
        with self._lock:
            old = self._records.get(key)
            merged = replace(record if old is None else merge(old, record), dirty=old is not None and old.dirty)
            self._records[key] = merged
            return merged

    def records_of(self, user_id: str, *, at: float) -> dict[str, Record]:
        with self._lock:
            return {key: self._records[key] for key in self._of(user_id, at)}

    def stats(self, *, at: float) -> Stats:
        with self._lock:
            live = [record for record in self._records.values() if not record.gone and record.expires_at > at]
            users = {record.user_id for record in live if record.user_id is not None}
            return Stats(store=self.name, active=len(live), users=len(users))

    def cleanup(self, *, at: float) -> int:
        with self._lock:
            over = [key for key, record in self._records.items() if record.expires_at <= at]
            for key in over:
                del self._records[key]
            return len(over)

    def after_response(self) -> None:
        return None

    def close(self) -> None:
        return None

    def probe(self) -> None:
        return None

    def take_over(self, key: str, delta: Delta) -> Written | None:
        with self._lock:
            known = [each for each in (self._records.get(key), delta.loaded) if each is not None]
            newest = reduce(merge, known) if known else None
            if newest is None or newest.expires_at <= delta.at:
                return None
            if newest.gone:
                return Written(gone=True, version=newest.version)
            written = self._write(key, newest, delta)
            self._records[key] = replace(self._records[key], dirty=True)
            return written

    def owe(self, records: Mapping[str, Record]) -> None:
        for key, record in records.items():
            merged = self.merge(key, record)
            with self._lock:
                self._records[key] = replace(merged, dirty=True)

    def owed(self, *, limit: int) -> dict[str, Record]:
        with self._lock:
            dirty = {key: record for key, record in self._records.items() if record.dirty}
            return dict(list(dirty.items())[:limit])

    def paid(self, key: str, version: Version, *, remove: bool = False) -> None:
        with self._lock:
            record = self._records.get(key)
            if record is None or record.version != version:
                return
            if remove:
                del self._records[key]
            else:
                self._records[key] = replace(record, dirty=False)

    def note_use(self, key: str, record: Record) -> None:
        with self._lock:
            old = self._records.get(key)
            if old is not None and not old.gone:
                self._records[key] = old.used(record.last_activity)

    def _live(self, key: str, at: float) -> Record | None:
        record = self._records.get(key)
        return None if record is None or record.expires_at <= at else record

    def _of(self, user_id: str | None, at: float) -> list[str]:
        if user_id is None:
            return []
        return [key for key, record in self._records.items() if record.user_id == user_id and self._live(key, at)]

    def _write(self, key: str, record: Record, delta: Delta) -> Written:
        record = record.written(delta, self._next(record.version))
        self._records[key] = record
        return Written(version=record.version, record=record)

    def _next(self, version: Version) -> Version:
        return Version(version.s + 1, version.r) if self._counts == "s" else Version(version.s, version.r + 1)
